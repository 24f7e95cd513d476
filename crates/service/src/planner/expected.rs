//! Which keys a kernel probably has, so that nobody has to walk its big sets to compare them with a plan.

use model::Family;
use nft::{Name, Packed, SetData, SetSpec, Table};

use super::Plan;
use crate::program::{CountChain, SetId};

#[cfg(test)]
mod tests;

/// Smaller sets are walked. Asking takes about 2.5 µs per key, a walk about 20 ns per pair of an element and a message of
/// 400; measured, the two are equal between 50,000 and 100,000 elements.
const ASKED_FROM: usize = 60_000;
/// No count chain has more slots than this; a name that says so is none of ours.
const MOST_SLOTS: u32 = 1 << 16;

impl nft::kernel::Expected for Plan {
    /// The keys of the plan, and the slots that its frontends have if a verdict map or a set of frontends says otherwise
    /// than the plan: a frontend that led to `…-5` has slots 0 to 4, wherever they are, also when it is to have three or to
    /// go.
    fn keys(&self, set: &SetSpec, so_far: &Table) -> Option<Vec<Packed>> {
        let wanted = self.table.sets.get(&set.name)?.elements.len();
        (wanted >= ASKED_FROM).then(|| self.probable(set, so_far))
    }
}

impl Plan {
    fn probable(&self, set: &SetSpec, so_far: &Table) -> Vec<Packed> {
        let wanted = self.table.sets.get(&set.name);
        let mut keys: Vec<Packed> =
            wanted.into_iter().flat_map(|wanted| wanted.elements.keys()).collect();
        let slots_of = set.key_len().checked_sub(4).filter(|_| set.data != SetData::Verdict);
        for (name, dispatch) in &so_far.sets {
            let key_len = dispatch.spec.key_len();
            let numbered = slots_of == Some(key_len);
            let of_count = common_count(name);
            let dispatches = dispatch.spec.data == SetData::Verdict || of_count.is_some();
            if !dispatches || !(numbered || key_len == set.key_len()) {
                continue;
            }
            let wanted = self.table.sets.get(name).map(|set| &set.elements);
            for element in dispatch.elements.iter() {
                if wanted.is_some_and(|wanted| wanted.get(&element.key).as_ref() == Some(&element))
                {
                    continue;
                }
                if !numbered {
                    keys.push(element.key);
                    continue;
                }
                let slots = match &element.data {
                    nft::Data::Verdict(verdict) => {
                        verdict.chain().and_then(|chain| slots(chain.as_str()))
                    }
                    _ => of_count,
                };
                keys.extend((0..slots.unwrap_or(0)).map(|slot| element.key.index(slot)));
            }
        }
        keys
    }
}

/// How many slots the frontends in a set of this name have, if it is a set of frontends.
fn common_count(set: &Name) -> Option<u32> {
    let of = |family| CountChain::common().map(move |chain| (family, chain.count));
    let mut all = Family::BOTH.into_iter().flat_map(of);
    all.find(|(family, count)| SetId::Common(*family, *count).name() == *set)
        .map(|(_, count)| count)
}

/// How many slots a count chain of this name picks from.
fn slots(chain: &str) -> Option<u32> {
    let count: u32 = chain.rsplit_once('-')?.1.parse().ok()?;
    (count <= MOST_SLOTS).then_some(count)
}
