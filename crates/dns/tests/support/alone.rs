//! A server in a network namespace of its own, and upstreams made of functions.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use dns::client::ask;
use dns::facts::{Keep, Patch};
use dns::query::kind;
use dns::{Name, Server, Settings};
use link::kernel::Netlink;
use link::{Change, LinkSettings, Namespace};

use super::snapshot;

static NEXT: AtomicU32 = AtomicU32::new(0);
pub(crate) const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
pub(crate) const WAIT: Duration = Duration::from_secs(8);

/// Does it in a network namespace that has a loopback link and nothing else.
pub(crate) fn alone(test: impl FnOnce() + Send) {
    let name = format!("fwdns-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let namespace = match Namespace::create(&name) {
        Ok(namespace) => namespace,
        Err(error) => return skip(&format!("namespaces (root is needed): {error}")),
    };
    let outcome = namespace.run(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.apply(&[Change::SetLink("lo".into(), LinkSettings::up())]).unwrap();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(test))
    });
    Namespace::delete(&name).unwrap();
    if let Err(panic) = outcome.unwrap() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn skip(reason: &str) {
    let strict = ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!strict, "{reason}");
    println!("SKIP: {reason}");
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A server with this Corefile and no cluster.
pub(crate) fn serve(corefile: &str) -> Server {
    start(corefile, &Settings { threads: 2, ..Settings::default() })
}

pub(crate) fn start(corefile: &str, settings: &Settings) -> Server {
    let config = dns::corefile::parse("Corefile".as_ref(), corefile, &dns::corefile::Machine);
    let server = Server::start(config.unwrap(), settings).unwrap();
    server.publish(Patch::whole(&snapshot("[]"), &Keep::default()));
    server.listen(&[SERVER]).unwrap();
    server
}

/// An upstream made of a function: what it says to each message, in order.
pub(crate) struct Fake {
    pub(crate) asked: Arc<AtomicUsize>,
    pub(crate) deaf: Arc<AtomicBool>,
}

pub(crate) fn fake(address: &str, say: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Fake {
    let socket = UdpSocket::bind(address).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let deaf = Arc::new(AtomicBool::new(false));
    let fake = Fake { asked: asked.clone(), deaf: deaf.clone() };
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            asked.fetch_add(1, Ordering::SeqCst);
            if deaf.load(Ordering::SeqCst) {
                continue;
            }
            for message in say(&buffer[..length]) {
                socket.send_to(&message, client).unwrap();
            }
        }
    });
    fake
}

/// An answer to a query: flags, and one address of this time to live.
pub(crate) fn address(query: &[u8], ip: [u8; 4], ttl: u32) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut out = query[..end].to_vec();
    out[2..4].copy_from_slice(&[0x81, 0x80]);
    out[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&[0, 4]);
    out.extend_from_slice(&ip);
    out
}

pub(crate) fn data(name_: &str) -> (u16, Vec<String>) {
    let answered = ask(SERVER, &name(name_), kind::A, false, WAIT).unwrap();
    let data = answered.reply.answers.iter().map(|it| it.data.to_string()).collect();
    (answered.reply.code, data)
}
