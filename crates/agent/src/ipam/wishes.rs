//! What pods of this node ask for, by annotation. Pure.
//!
//! | annotation of a pod | meaning |
//! |---|---|
//! | `fairway.dev/addresses: 10.1.0.7,fd00::7` | these addresses, or none |
//! | `fairway.dev/pools: rack-a,rack-b` | an address of one of these pools |

use std::collections::BTreeMap;

use cni::ipam::blocks::Wish;
use model::{NodeName, ObjectKey, Pod, PodPhase, Snapshot};

const ADDRESSES: &str = "fairway.dev/addresses";
const POOLS: &str = "fairway.dev/pools";

/// The wishes of the pods of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// By `namespace/name`.
    pub(crate) all: BTreeMap<String, Wish>,
}

impl Wishes {
    /// Looks at these pods again; whether anything changed.
    pub(crate) fn update<'a>(
        &mut self,
        node: &NodeName,
        snapshot: &Snapshot,
        changed: impl IntoIterator<Item = &'a ObjectKey>,
    ) -> bool {
        let mut any = false;
        for key in changed {
            let name = key.to_string();
            let wish =
                snapshot.pod(key).filter(|pod| pod.node.as_ref() == Some(node)).and_then(wish);
            let before = match &wish {
                Some(wish) => self.all.insert(name, wish.clone()),
                None => self.all.remove(&name),
            };
            any |= before != wish;
        }
        any
    }
}

fn wish(pod: &Pod) -> Option<Wish> {
    if pod.host_network || pod.phase == PodPhase::Finished {
        return None;
    }
    let parts = |name| {
        let text = pod.annotation(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|part| !part.is_empty())
    };
    // What is no address is left out here and refused by nobody: the API has no place to say so but the pod's events.
    let addresses = parts(ADDRESSES).filter_map(|part| part.parse().ok()).collect();
    let wish = Wish { addresses, pools: parts(POOLS).map(str::to_owned).collect() };
    (wish != Wish::default()).then_some(wish)
}
