//! The lab's wiring: one switch, the nodes and the client plugged into it. An edge: makes namespaces and links.
//!
//! ```text
//!   fairway-<lab>-switch          bridge `switch` 172.30.0.1/16, the API server's inner address; refuses the rest
//!     ├─ port node-1 ═ eth0  fairway-<lab>-node-1   172.30.1.1, default via the switch
//!     ├─ port node-2 ═ eth0  fairway-<lab>-node-2   172.30.1.2
//!     └─ port client ═ eth0  fairway-<lab>-client   172.30.0.2: outside the cluster
//! ```
//! Everybody's default route leads to the switch, and the switch refuses what it does not know: a node
//! needs a route for a ClusterIP before its rules can translate it, and a client that dials a ClusterIP or a pod learns
//! at once that those are not for the outside.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, bail};
use ipnet::IpNet;
use link::kernel::Netlink;
use link::{
    Address, Bridge, Change, LinkEnd, LinkSettings, Namespace, Route, RouteKind, Veth, sysctl,
};

use crate::layout::{
    CLIENT_V4, CLIENT_V6, Layout, NODE_PREFIX_V4, NODE_PREFIX_V6, NodePlan, SWITCH_V4, SWITCH_V6,
};

/// Name of the bridge in the switch's namespace.
const BRIDGE: &str = "switch";
/// Name of a node's and the client's link to the switch.
const UPLINK: &str = "eth0";

/// The wired lab.
#[derive(Debug)]
pub struct Network {
    switch: Namespace,
}

impl Network {
    /// Makes the namespaces of `layout` and wires them.
    ///
    /// # Errors
    /// When the kernel refuses a namespace, a link, an address or a route.
    pub fn build(layout: &Layout, nodes: &[NodePlan]) -> anyhow::Result<Self> {
        let with_v6 = Path::new("/proc/sys/net/ipv6").exists();
        let switch = Namespace::create(&layout.switch_namespace())?;
        prepare(&switch, with_v6)?;
        switch.run(|| forward(with_v6))??;
        let mut wire = Netlink::in_namespace(&switch)?;
        let bridge =
            Bridge { name: BRIDGE.to_owned(), mac: None, mtu: None, multicast_snooping: false };
        wire.apply(&[
            Change::AddBridge(bridge),
            Change::SetLink(BRIDGE.into(), LinkSettings::up()),
            Change::SetLink("lo".into(), LinkSettings::up()),
        ])?;
        let bridge = wire.link(BRIDGE)?.context("the kernel made no bridge")?.index;
        let mut changes = addresses(bridge, SWITCH_V4, SWITCH_V6, with_v6)?;
        changes.extend(everywhere(with_v6).into_iter().map(|net| {
            let route = Route { kind: RouteKind::Unreachable, ..Route::to(net) };
            Change::AddRoute(route.protocol(STATIC))
        }));
        wire.apply(&changes)?;

        let client = (layout.client_namespace(), "client", CLIENT_V4, CLIENT_V6);
        let places = nodes
            .iter()
            .map(|node| (layout.node_namespace(&node.name), node.name.as_str(), node.v4, node.v6))
            .chain([client]);
        for (namespace, port, v4, v6) in places {
            let place = Namespace::create(&namespace)?;
            prepare(&place, with_v6)?;
            plug_in(&mut wire, bridge, &place, port, (v4, v6), with_v6)
                .with_context(|| format!("cannot plug {port} into the switch"))?;
        }
        Ok(Self { switch })
    }

    /// Listens on an address of the switch, where nodes and pods reach the API server.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub fn listen(&self, ip: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
        let address = SocketAddr::new(ip, port);
        let listener: io::Result<TcpListener> = self.switch.run(|| TcpListener::bind(address))?;
        listener.with_context(|| format!("cannot listen on {address} inside the lab"))
    }

    /// Makes the switch answer for an address outside the lab, and listens there: everybody's default route leads here.
    ///
    /// # Errors
    /// When the address is one of the lab's own networks', or the kernel refuses.
    pub fn answer_for(&self, address: SocketAddr) -> anyhow::Result<TcpListener> {
        let ip = address.ip();
        let own = [
            IpNet::new(SWITCH_V4.into(), NODE_PREFIX_V4)?,
            IpNet::new(SWITCH_V6.into(), NODE_PREFIX_V6)?,
        ];
        if own.iter().any(|net| net.contains(&ip)) {
            bail!("{ip} is in the lab's own network");
        }
        let mut wire = Netlink::in_namespace(&self.switch)?;
        let loopback = wire.link("lo")?.context("the switch has no loopback")?.index;
        wire.apply(&[Change::AddAddress(Address::new(loopback, IpNet::from(ip)))])?;
        self.listen(ip, address.port())
    }
}

/// RTPROT_STATIC: the wiring is the machine's administrator's, not the agent's.
const STATIC: u8 = 4;

fn plug_in(
    wire: &mut Netlink,
    bridge: u32,
    place: &Namespace,
    port: &str,
    (v4, v6): (Ipv4Addr, Ipv6Addr),
    with_v6: bool,
) -> anyhow::Result<()> {
    use std::os::fd::AsFd as _;
    let veth = Veth::new(LinkEnd::named(port), LinkEnd::named(UPLINK))
        .peer_in(place.as_fd())
        .master(bridge);
    wire.apply(&[Change::AddVeth(veth), Change::SetLink(port.into(), LinkSettings::up())])?;
    let mut inside = Netlink::in_namespace(place)?;
    inside.apply(&[
        Change::SetLink("lo".into(), LinkSettings::up()),
        Change::SetLink(UPLINK.into(), LinkSettings::up()),
    ])?;
    let uplink = inside.link(UPLINK)?.context("the kernel made no link")?.index;
    let mut changes = addresses(uplink, v4, v6, with_v6)?;
    changes.extend(everywhere(with_v6).into_iter().map(|net| {
        let gateway = if net.addr().is_ipv4() { SWITCH_V4.into() } else { SWITCH_V6.into() };
        Change::AddRoute(Route::to(net).via(gateway).on(uplink).protocol(STATIC))
    }));
    inside.apply(&changes)?;
    Ok(())
}

/// Settings that must be there before the first link: no pause for duplicate address detection.
fn prepare(namespace: &Namespace, with_v6: bool) -> anyhow::Result<()> {
    if !with_v6 {
        return Ok(());
    }
    namespace.run(|| {
        for scope in ["all", "default"] {
            sysctl::ensure(&sysctl::interface("ipv6", scope, "accept_dad"), "0")?;
            sysctl::ensure(&sysctl::interface("ipv6", scope, "accept_ra"), "0")?;
        }
        anyhow::Ok(())
    })?
}

/// The switch forwards nothing, but only a router answers "unreachable".
fn forward(with_v6: bool) -> anyhow::Result<()> {
    sysctl::ensure("net/ipv4/ip_forward", "1")?;
    // Nodes talk through the bridge; a redirect would tell them what they know.
    sysctl::ensure("net/ipv4/conf/all/send_redirects", "0")?;
    sysctl::ensure("net/ipv4/conf/default/send_redirects", "0")?;
    // Every "unreachable" is said, not one a second: a client that tries again must not wait.
    sysctl::ensure("net/ipv4/icmp_ratelimit", "0")?;
    if with_v6 {
        sysctl::ensure("net/ipv6/conf/all/forwarding", "1")?;
        sysctl::ensure("net/ipv6/icmp/ratelimit", "0")?;
    }
    Ok(())
}

fn addresses(
    device: u32,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    with_v6: bool,
) -> anyhow::Result<Vec<Change<'static>>> {
    let mut changes =
        vec![Change::AddAddress(Address::new(device, IpNet::new(v4.into(), NODE_PREFIX_V4)?))];
    if with_v6 {
        changes
            .push(Change::AddAddress(Address::new(device, IpNet::new(v6.into(), NODE_PREFIX_V6)?)));
    }
    Ok(changes)
}

fn everywhere(with_v6: bool) -> BTreeSet<IpNet> {
    let mut nets = BTreeSet::new();
    nets.insert(IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0));
    if with_v6 {
        nets.insert(IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0));
    }
    nets
}
