//! The edge: one blocking NETLINK_ROUTE socket, bound to the namespace it was opened in.
//!
//! Changes are sent several to a `send` and answered one by one; the kernel carries out each on its
//! own, so a refused change does not undo or stop its neighbours. Requests are checked strictly
//! (NETLINK_GET_STRICT_CHK), refusals carry the kernel's own sentence (NETLINK_EXT_ACK).

mod decode;
mod detached;
mod encode;
mod socket;
mod tc;
mod watch;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;

use netlink_packet_route::RouteNetlinkMessage as Message;

use crate::namespace::NamespaceError;
use std::net::IpAddr;

use crate::{
    Address, Change, Forwarding, Link, LinkIndex, LinkRef, Namespace, Neighbour, Reach, Route,
    TokenBucket,
};
pub use detached::close_later;
use socket::Socket;
pub use watch::{Watch, WatchGroups, Watched};

/// Why the kernel could not be asked, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("cannot {operation} netlink: {source}")]
    Socket {
        /// `open`, `send to`, `receive from`.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The namespace could not be entered to open the socket.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// An answer that does not parse: a kernel newer than this program knows.
    #[error("the kernel's netlink answer does not parse: {detail}")]
    Decode {
        /// What the decoder said.
        detail: String,
    },
    /// An answer to a question that was not asked.
    #[error("netlink answer {got} to requests {first}..{end}")]
    Sequence {
        /// Sequence number of the answer.
        got: u32,
        /// First sequence number of the batch.
        first: u32,
        /// One past its last.
        end: u32,
    },
    /// The table changed during every attempt to list it.
    #[error("the kernel's table kept changing while it was listed")]
    Interrupted,
    /// Something does not fit the message: a name too long, mixed address families.
    #[error("cannot ask the kernel for `{change}`: {why}")]
    Invalid {
        /// The change, as an `ip` command.
        change: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The kernel refused. Never empty.
    #[error("{}", Refusals(.0))]
    Refused(Vec<Refusal>),
}

impl NetlinkError {
    /// Whether every refusal has this errno; false for other errors.
    pub fn is_only(&self, errno: i32) -> bool {
        matches!(self, Self::Refused(refusals) if refusals.iter().all(|r| r.errno == errno))
    }

    /// The refusals, if that is what it is.
    pub fn refusals(&self) -> &[Refusal] {
        match self {
            Self::Refused(refusals) => refusals,
            _ => &[],
        }
    }
}

/// One change the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its place in the list given to [`Netlink::apply`].
    pub at: usize,
    /// The change, as an `ip` command.
    pub change: String,
    /// The kernel's errno, positive.
    pub errno: i32,
    /// The kernel's sentence, when it has one.
    pub text: Option<String>,
}

impl Refusal {
    /// The thing, or something it refers to, is not there (or no longer).
    pub fn is_missing(&self) -> bool {
        [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL, libc::ENXIO]
            .contains(&self.errno)
    }

    /// The thing is there already.
    pub fn is_taken(&self) -> bool {
        self.errno == libc::EEXIST
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.change, io::Error::from_raw_os_error(self.errno))?;
        match &self.text {
            Some(text) => write!(f, " ({text})"),
            None => Ok(()),
        }
    }
}

struct Refusals<'a>(&'a [Refusal]);

impl fmt::Display for Refusals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the kernel refused ")?;
        for (at, refusal) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            refusal.fmt(f)?;
        }
        Ok(())
    }
}

/// A socket to the routing tables of one namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open()? })
    }

    /// Opens a socket in `namespace`; it stays there, whichever thread uses it.
    ///
    /// # Errors
    /// [`NetlinkError::Namespace`] or [`NetlinkError::Socket`].
    pub fn in_namespace(namespace: &Namespace) -> Result<Self, NetlinkError> {
        namespace.run(Self::open)?
    }

    /// Makes all changes, in order. Those after a refused one are still tried.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] with every refusal; [`NetlinkError::Invalid`] before anything is
    /// sent.
    pub fn apply(&mut self, changes: &[Change<'_>]) -> Result<(), NetlinkError> {
        let requests = changes.iter().map(encode::change).collect::<Result<Vec<_>, _>>()?;
        let refused = self.socket.request(requests)?;
        if refused.is_empty() {
            return Ok(());
        }
        let named = refused.into_iter().map(|(at, errno, text)| Refusal {
            at,
            change: changes[at].to_string(),
            errno,
            text,
        });
        Err(NetlinkError::Refused(named.collect()))
    }

    /// Removes a link of the calling thread's namespace, both ends for a veth, and returns as soon as
    /// nobody sees it any more. The kernel's housekeeping goes on after that, so this takes a tenth of
    /// the time of [`Change::DeleteLink`]. For short-lived programs: each call leaves some 32 KiB.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when there is no such link or the kernel does not remove it.
    pub fn remove_link(&mut self, link: &Link) -> Result<(), NetlinkError> {
        match detached::remove(link.index)? {
            None => Ok(()),
            Some(errno) => {
                let change = format!("ip link del {}", link.name);
                Err(NetlinkError::Refused(vec![Refusal { at: 0, change, errno, text: None }]))
            }
        }
    }

    /// The link, or `None` when there is none of that name or index.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel cannot be asked.
    pub fn link(&mut self, link: impl Into<LinkRef>) -> Result<Option<Link>, NetlinkError> {
        let link = link.into();
        if let LinkRef::Name(name) = &link
            && encode::check_name(name).is_err()
        {
            return Ok(None);
        }
        match self.socket.get(encode::get_link(&link))? {
            Ok(Message::NewLink(message)) => Ok(Some(decode::link(message))),
            Ok(other) => Err(NetlinkError::Decode { detail: format!("{other:?} for a link") }),
            Err((libc::ENODEV, _)) => Ok(None),
            Err((errno, text)) => {
                let change = format!("ip link show {link}");
                Err(NetlinkError::Refused(vec![Refusal { at: 0, change, errno, text }]))
            }
        }
    }

    /// All links, with counters.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel cannot be asked.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let messages = self.socket.dump("ip link show", &encode::list_links())?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                Message::NewLink(message) => Some(decode::link(message)),
                _ => None,
            })
            .collect())
    }

    /// All addresses, or those of one link.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel cannot be asked.
    pub fn addresses(&mut self, device: Option<LinkIndex>) -> Result<Vec<Address>, NetlinkError> {
        let messages = self.socket.dump("ip addr show", &encode::list_addresses(device))?;
        let addresses = messages.into_iter().filter_map(|message| match message {
            Message::NewAddress(message) => decode::address(message),
            _ => None,
        });
        Ok(addresses.filter(|have| device.is_none_or(|wanted| have.device == wanted)).collect())
    }

    /// The routes of one protocol number in all tables, IPv4 then IPv6.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel cannot be asked.
    pub fn routes(&mut self, protocol: u8) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = self.all_routes(protocol)?;
        routes.retain(|route| route.protocol == protocol);
        Ok(routes)
    }

    /// All routes of all tables, whoever made them.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel cannot be asked.
    pub fn every_route(&mut self) -> Result<Vec<Route>, NetlinkError> {
        self.all_routes(0)
    }

    fn all_routes(&mut self, protocol: u8) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for request in encode::list_routes(protocol) {
            for message in self.socket.dump("ip route show table all", &request)? {
                if let Message::NewRoute(message) = message {
                    routes.extend(decode::route(&message));
                }
            }
        }
        Ok(routes)
    }

    /// How a packet to this address would leave; `None` when there is no way.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel cannot be asked.
    pub fn reach(&mut self, to: IpAddr) -> Result<Option<Reach>, NetlinkError> {
        match self.socket.get(encode::get_route(to))? {
            Ok(Message::NewRoute(message)) => Ok(decode::reach(&message)),
            // No route, or one that refuses.
            _ => Ok(None),
        }
    }

    /// The entries of a VXLAN link's own forwarding table.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel cannot be asked.
    pub fn forwarding(&mut self, device: LinkIndex) -> Result<Vec<Forwarding>, NetlinkError> {
        let messages = self.socket.dump("bridge fdb show", &encode::list_forwarding(device))?;
        let entries = messages.into_iter().filter_map(|message| match message {
            Message::NewNeighbour(message) => decode::forwarding(&message),
            _ => None,
        });
        Ok(entries.filter(|entry| entry.device == device).collect())
    }

    /// The number this socket's namespace knows another one by ([`Link::peer_namespace`]); `None` when
    /// it knows none: no link leads there.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel cannot be asked.
    pub fn namespace_id(&mut self, other: &Namespace) -> Result<Option<i32>, NetlinkError> {
        match self.socket.get(encode::get_namespace_id(other))? {
            Ok(Message::NewNsId(message)) => Ok(decode::namespace_id(&message)),
            _ => Ok(None),
        }
    }

    /// The token bucket at the root of a link, if that is what it has.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel cannot be asked.
    pub fn token_bucket(&mut self, device: LinkIndex) -> Result<Option<TokenBucket>, NetlinkError> {
        let messages = self.socket.dump("tc qdisc show", &tc::list(device))?;
        Ok(messages.into_iter().find_map(|message| match message {
            Message::NewQueueDiscipline(message) => {
                tc::read_token_bucket(&message).filter(|bucket| bucket.device == device)
            }
            _ => None,
        }))
    }

    /// The neighbours, of all links or of one.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel cannot be asked.
    pub fn neighbours(
        &mut self,
        device: Option<LinkIndex>,
    ) -> Result<Vec<Neighbour>, NetlinkError> {
        let messages = self.socket.dump("ip neigh show", &encode::list_neighbours(device))?;
        let neighbours = messages.into_iter().filter_map(|message| match message {
            Message::NewNeighbour(message) => decode::neighbour(&message),
            _ => None,
        });
        Ok(neighbours.filter(|have| device.is_none_or(|wanted| have.device == wanted)).collect())
    }
}
