//! On the route thread: pods that run follow a change of the MTU. Else one made under a larger MTU would be told packet by packet that
//! its packets are too long, and one made under a smaller one would go on sending small ones.
//!
//! Both ends of a pair change or none: an end drops what is longer than its own MTU without a word. The pod's end is reached by its
//! namespace under `/run/netns`, where runtimes keep them; a pod without a name there keeps its MTU.

use std::collections::BTreeMap;

use cni::attachment::{ALIAS_PREFIX, NODE_LINK_PREFIX};
use link::kernel::{Netlink, NetlinkError};
use link::{Change, Link, LinkIndex, LinkSettings, Namespace};

/// The node's ends of pods whose MTU is another one.
pub(super) fn misfits(links: &[Link], mtu: u32) -> Vec<Link> {
    let is_pod = |link: &&Link| {
        link.kind.as_deref() == Some("veth")
            && link.name.starts_with(NODE_LINK_PREFIX)
            && link.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS_PREFIX))
    };
    links.iter().filter(is_pod).filter(|link| link.mtu != mtu).cloned().collect()
}

/// Gives pods this MTU; those that keep theirs.
pub(super) fn fit(
    kernel: &mut Netlink,
    pods: &[Link],
    mtu: u32,
) -> Result<Vec<LinkIndex>, NetlinkError> {
    let mut places: BTreeMap<i32, Namespace> = BTreeMap::new();
    for name in Namespace::list("").unwrap_or_default() {
        // One that is being made or has just gone is no pod's of ours.
        let Ok(namespace) = Namespace::open(&name) else { continue };
        if let Some(id) = kernel.namespace_id(&namespace)? {
            places.insert(id, namespace);
        }
    }
    let mut kept = Vec::new();
    for link in pods {
        let place = link.peer_namespace.and_then(|id| places.get(&id));
        let (Some(place), Some(end)) = (place, link.peer) else {
            kept.push(link.index);
            continue;
        };
        if let Err(error) = one(kernel, link, place, end, mtu) {
            tracing::debug!(%error, link = link.name, "a pod keeps its MTU");
            kept.push(link.index);
        }
    }
    Ok(kept)
}

fn one(
    kernel: &mut Netlink,
    link: &Link,
    place: &Namespace,
    end: LinkIndex,
    mtu: u32,
) -> Result<(), NetlinkError> {
    let set = |device: LinkIndex| {
        let settings = LinkSettings { mtu: Some(mtu), ..LinkSettings::default() };
        [Change::SetLink(device.into(), settings)]
    };
    let mut pod = Netlink::in_namespace(place)?;
    // A smaller one than it was given is the pod's own wish.
    if pod.link(end)?.is_some_and(|inner| inner.mtu == link.mtu || inner.mtu > mtu) {
        pod.apply(&set(end))?;
    }
    kernel.apply(&set(link.index))
}
