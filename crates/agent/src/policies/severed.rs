//! Answers of UDP flows that were cut: which to drop from now on, and which may pass again.

use nft::conntrack::Flow;
use nft::kernel::Netlink;
use nft::{ListError, Name};
use policy::{Planner, Severed};

const UDP: u8 = 17;

/// The answers of these flows, which are to be cut, as far as they would bring them back.
pub(super) fn answers(cut: &[Flow], planner: &Planner) -> Vec<Severed> {
    // Answers to a flow whose source was translated come to the node, not to the pod.
    let plain = |flow: &&Flow| {
        flow.original.protocol == UDP && flow.reply.destination == flow.original.source
    };
    let answer = |flow: &Flow| Severed {
        source: flow.reply.source,
        source_port: flow.reply.source_port,
        destination: flow.reply.destination,
        destination_port: flow.reply.destination_port,
    };
    cut.iter().filter(plain).map(answer).filter(|it| planner.revives(it)).collect()
}

/// Reads what the kernel remembers.
pub(crate) fn remembered(kernel: &mut Netlink, table: &Name) -> Result<Vec<Severed>, ListError> {
    let mut all = Vec::new();
    for set in policy::severed_sets() {
        let live = kernel.live_elements(nft::Family::Inet, table, &set)?;
        all.extend(live.iter().filter_map(|element| policy::severed_of_key(&element.key)));
    }
    Ok(all)
}
