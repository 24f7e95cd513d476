//! Where a data plane is measured: three network namespaces that nothing else uses. An edge: makes namespaces and links.
//!
//! ```text
//!   client 10.244.0.2 ═ 10.244.0.1  node 172.31.0.1  172.31.1.1 ═ 172.31.1.2 backend
//! ```
//! The node is the data plane's. The client is a pod of it. The backend answers on *every* address of [`ENDPOINTS`], so each
//! endpoint of each Service is a real one. The namespaces have no names and end with this process, however it ends.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use ipnet::IpNet;
use link::kernel::Netlink;
use link::{Address, Change, LinkEnd, LinkSettings, Namespace, Route, RouteKind, Veth, sysctl};

/// The node's own address.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
/// All pods: the client and every endpoint.
pub(crate) const PODS: &str = "10.128.0.0/9";
/// The endpoints, all of them the backend's.
pub(crate) const ENDPOINTS: &str = "10.128.0.0/10";
/// The client.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
/// Where the client's side of the node is, and the client.
const CLIENT_LINK: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 244, 0, 1), CLIENT);
/// Where the backend's side of the node is, and the backend.
const BACKEND: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(172, 31, 1, 1), Ipv4Addr::new(172, 31, 1, 2));
/// RTPROT_STATIC.
const STATIC: u8 = 4;

/// The namespaces of one data plane.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) node: Namespace,
    pub(crate) client: Namespace,
    pub(crate) backend: Namespace,
}

impl World {
    /// Makes and wires them.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::with_links("client", "backend")
    }

    /// The same, with these names of the node's ends of the links.
    pub(crate) fn with_links(client: &str, backend: &str) -> anyhow::Result<Self> {
        let world = Self {
            node: unnamed("node")?,
            client: unnamed("client")?,
            backend: unnamed("backend")?,
        };
        world.node.run(|| {
            sysctl::ensure("net/ipv4/ip_forward", "1")?;
            // Every refusal is said at once, not one a second.
            sysctl::ensure("net/ipv4/icmp_ratelimit", "0")
        })??;
        let mut node = Netlink::in_namespace(&world.node)?;
        node.apply(&[Change::SetLink("lo".into(), LinkSettings::up())])?;
        let lo = index(&mut node, "lo")?;
        node.apply(&[Change::AddAddress(Address::new(lo, IpNet::new(NODE.into(), 32)?))])?;
        plug(&mut node, &world.client, client, CLIENT_LINK)?;
        plug(&mut node, &world.backend, backend, BACKEND)?;
        let to_backend = index(&mut node, backend)?;
        let endpoints: IpNet = ENDPOINTS.parse()?;
        let route = Route::to(endpoints).via(BACKEND.1.into()).on(to_backend).protocol(STATIC);
        node.apply(&[Change::AddRoute(route)])?;

        let mut inside = Netlink::in_namespace(&world.backend)?;
        let lo = index(&mut inside, "lo")?;
        let every = Route { kind: RouteKind::Local, ..Route::to(endpoints) };
        inside.apply(&[Change::AddRoute(every.on(lo).protocol(STATIC))])?;
        Ok(world)
    }

    /// More addresses of the client, of its own network.
    pub(crate) fn add_client_addresses(&self, addresses: &[Ipv4Addr]) -> anyhow::Result<()> {
        let mut inside = Netlink::in_namespace(&self.client)?;
        let device = index(&mut inside, "eth0")?;
        for address in addresses {
            let network = IpNet::new((*address).into(), 24)?;
            inside.apply(&[Change::AddAddress(Address::new(device, network))])?;
        }
        Ok(())
    }
}

/// A namespace without a name.
pub(crate) fn unnamed(part: &str) -> anyhow::Result<Namespace> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "fairway-bench-{}-{}-{part}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let namespace = Namespace::create(&name)
        .context("cannot make a network namespace; this needs root (CAP_SYS_ADMIN)")?;
    Namespace::delete(&name)?;
    Ok(namespace)
}

/// Joins `place` to the node with a veth pair and gives it a default route.
fn plug(
    node: &mut Netlink,
    place: &Namespace,
    name: &str,
    (near, far): (Ipv4Addr, Ipv4Addr),
) -> anyhow::Result<()> {
    let veth = Veth::new(LinkEnd::named(name), LinkEnd::named("eth0")).peer_in(place.as_fd());
    node.apply(&[Change::AddVeth(veth), Change::SetLink(name.into(), LinkSettings::up())])?;
    let device = index(node, name)?;
    node.apply(&[Change::AddAddress(Address::new(device, IpNet::new(near.into(), 24)?))])?;
    settle_in(place, far, near)
}

/// Brings up loopback and `eth0` of a place, with an address of a /24 and a default route.
pub(crate) fn settle_in(
    place: &Namespace,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
) -> anyhow::Result<()> {
    let mut inside = Netlink::in_namespace(place)?;
    inside.apply(&[
        Change::SetLink("lo".into(), LinkSettings::up()),
        Change::SetLink("eth0".into(), LinkSettings::up()),
    ])?;
    let device = index(&mut inside, "eth0")?;
    inside.apply(&[Change::AddAddress(Address::new(device, IpNet::new(address.into(), 24)?))])?;
    let everywhere = Route::to(IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0)?);
    let gateway = IpAddr::from(gateway);
    inside.apply(&[Change::AddRoute(everywhere.via(gateway).on(device).protocol(STATIC))])?;
    Ok(())
}

pub(crate) fn index(wire: &mut Netlink, name: &str) -> anyhow::Result<u32> {
    Ok(wire.link(name)?.with_context(|| format!("there is no link {name}"))?.index)
}
