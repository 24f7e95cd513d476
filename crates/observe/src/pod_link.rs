//! `fairway link show`: how one pod is joined to this node, both ends side by side. Read from the kernel; the pod's end by
//! entering its namespace.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, bail};
use link::kernel::Netlink;
use link::{Link, LinkIndex, Namespace};
use print::{Format, data, key_values, table};
use serde::Serialize;

/// What the aliases of pods' links begin with.
const ALIAS: &str = "fairway:";

/// One end.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// File of the namespace it is in; the node's is said as `node`.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Index in its namespace.
    pub index: LinkIndex,
    /// Ethernet address.
    pub mac: String,
    /// Bytes a packet may have.
    pub mtu: u32,
    /// `up`, `down`, or `no carrier`.
    pub state: &'static str,
    /// Addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// Routes by this link.
    pub routes: Vec<String>,
    /// Neighbours set by hand.
    pub neighbours: Vec<String>,
    /// Bytes per second it may send; none when it is not held to a rate.
    pub limit: Option<u64>,
    /// Counters.
    pub received: Traffic,
    /// Counters.
    pub sent: Traffic,
}

/// Counters of one direction.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Packets lost for want of room.
    pub dropped: u64,
    /// Packets that were broken or could not be sent.
    pub errors: u64,
}

/// Both ends.
#[derive(Debug, Clone, Serialize)]
pub struct PodLink {
    /// What the link's alias says: `namespace/pod`, with `@network` where it is not the cluster's.
    pub pod: String,
    /// The node's end.
    pub node: End,
    /// The pod's; none when its namespace is not found.
    pub inside: Option<End>,
}

/// Looks for the links of `pod/NAMESPACE/NAME`, or for one by its name on the node. Reads the calling thread's namespace.
///
/// # Errors
/// There is none, or the kernel cannot be asked.
pub fn find(target: &str) -> anyhow::Result<Vec<PodLink>> {
    let mut node = Netlink::open()?;
    let is_it = |link: &Link| match target.strip_prefix("pod/") {
        Some(pod) => {
            let alias = link.alias.as_deref().and_then(|alias| alias.strip_prefix(ALIAS));
            alias.is_some_and(|alias| {
                alias == pod || alias.rsplit_once('@').is_some_and(|it| it.0 == pod)
            })
        }
        None => link.name == target,
    };
    let links = node.links()?;
    let found: Vec<&Link> =
        links.iter().filter(|link| link.kind.as_deref() == Some("veth") && is_it(link)).collect();
    if found.is_empty() {
        bail!(
            "no link of {target} is on this node; name it pod/NAMESPACE/NAME or by the link's name, on the pod's own node"
        );
    }
    found.into_iter().map(|link| both(&mut node, link)).collect()
}

fn both(node: &mut Netlink, link: &Link) -> anyhow::Result<PodLink> {
    let inside = match (link.peer, link.peer_namespace) {
        (Some(peer), Some(id)) => match namespace(node, id)? {
            Some(namespace) => {
                let mut pod = Netlink::in_namespace(&namespace)?;
                let link = pod.link(peer)?;
                let file = namespace.path().display().to_string();
                link.map(|link| end(&mut pod, &link, file)).transpose()?
            }
            None => None,
        },
        _ => None,
    };
    let alias = link.alias.as_deref().unwrap_or_default();
    Ok(PodLink {
        pod: alias.strip_prefix(ALIAS).unwrap_or(alias).to_owned(),
        node: end(node, link, "node".to_owned())?,
        inside,
    })
}

/// The namespace this one knows by that number, among those with a name and those of processes.
fn namespace(node: &mut Netlink, id: i32) -> anyhow::Result<Option<Namespace>> {
    let named = Namespace::list("")?.into_iter().filter_map(|name| Namespace::open(&name).ok());
    let processes = std::fs::read_dir("/proc").context("cannot read /proc")?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of_processes = pids.filter_map(|pid| Namespace::of_pid(pid).ok());
    let mut seen = BTreeSet::new();
    for namespace in named.chain(of_processes) {
        if seen.insert(namespace.id()?) && node.namespace_id(&namespace)? == Some(id) {
            return Ok(Some(namespace));
        }
    }
    Ok(None)
}

fn end(netlink: &mut Netlink, link: &Link, namespace: String) -> anyhow::Result<End> {
    let of_link = |device: Option<LinkIndex>| device == Some(link.index);
    // The link is named once; in the lines below it would be a number.
    let here = format!(" dev if{}", link.index);
    let without = |text: String| text.replace(&here, "");
    let addresses = netlink.addresses(Some(link.index))?;
    let routes = netlink.every_route()?;
    let is_made =
        |route: &&link::Route| of_link(route.device) && route.table == link::ROUTE_TABLE_MAIN;
    let neighbours = netlink.neighbours(Some(link.index))?;
    let permanent = neighbours.iter().filter(|it| it.state == link::NeighbourState::Permanent);
    let stats = link.stats;
    Ok(End {
        namespace,
        name: link.name.clone(),
        index: link.index,
        mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: link.mtu,
        state: match (link.up, link.carrier) {
            (false, _) => "down",
            (true, false) => "no carrier",
            (true, true) => "up",
        },
        addresses: addresses.iter().map(|address| address.network.to_string()).collect(),
        routes: routes.iter().filter(is_made).map(|it| without(it.to_string())).collect(),
        neighbours: permanent.map(|it| without(it.to_string())).collect(),
        limit: netlink.token_bucket(link.index)?.map(|bucket| bucket.rate),
        received: Traffic {
            packets: stats.rx_packets,
            bytes: stats.rx_bytes,
            dropped: stats.rx_dropped,
            errors: stats.rx_errors,
        },
        sent: Traffic {
            packets: stats.tx_packets,
            bytes: stats.tx_bytes,
            dropped: stats.tx_dropped,
            errors: stats.tx_errors,
        },
    })
}

/// The answer as text.
///
/// # Errors
/// [`print::PrintError`].
pub fn text(links: &[PodLink], format: Format) -> anyhow::Result<String> {
    if let Some(text) = data(&links, format)? {
        return Ok(text);
    }
    let mut text = String::new();
    for (at, link) in links.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        text.push_str(&key_values(&[("Pod", link.pod.clone())]));
        let ends: Vec<(&str, &End)> = [("node", Some(&link.node)), ("pod", link.inside.as_ref())]
            .into_iter()
            .filter_map(|(side, end)| Some((side, end?)))
            .collect();
        let rows: Vec<Vec<String>> = ends.iter().map(|(side, end)| row(side, end)).collect();
        text.push('\n');
        let header = [
            "END",
            "LINK",
            "STATE",
            "MTU",
            "MAC",
            "RX PACKETS",
            "RX BYTES",
            "TX PACKETS",
            "TX BYTES",
            "DROPPED",
        ];
        text.push_str(&table(&header, &rows));
        if link.inside.is_none() {
            text.push_str("The pod's namespace was not found: the pod is gone, or this has no right to look.\n");
        }
        for (side, end) in ends {
            let mut lines = Vec::new();
            lines.extend(end.addresses.iter().map(|it| ("address", it.clone())));
            lines.extend(end.routes.iter().map(|it| ("route", it.clone())));
            lines.extend(end.neighbours.iter().map(|it| ("neighbour", it.clone())));
            lines.extend(
                end.limit.map(|rate| ("limit", format!("{} kbit/s sent", rate * 8 / 1000))),
            );
            writeln!(text, "\nOn the {side}'s end:").context("writing to a String")?;
            for (what, line) in lines {
                writeln!(text, "  {what:<10}{line}").context("writing to a String")?;
            }
        }
    }
    Ok(text)
}

fn row(side: &str, end: &End) -> Vec<String> {
    let number = |number: u64| number.to_string();
    vec![
        side.to_owned(),
        end.name.clone(),
        end.state.to_owned(),
        end.mtu.to_string(),
        end.mac.clone(),
        number(end.received.packets),
        number(end.received.bytes),
        number(end.sent.packets),
        number(end.sent.bytes),
        number(end.received.dropped + end.sent.dropped),
    ]
}
