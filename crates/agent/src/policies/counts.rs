//! Packets per policy and rule, summed over the chains that come and go.

use std::collections::HashMap;

use nft::Name;
use nft::kernel::LiveRule;

/// Packets of a rule: its comment names policy, direction and place, or, where nothing matched, the policies; and its direction.
pub(crate) type Counted = (String, &'static str, u64);

/// What was read last.
#[derive(Debug, Default)]
pub(crate) struct Counts(HashMap<(Name, usize), u64>);

impl Counts {
    /// Takes what rules of the kernel counted, whole chains of them and perhaps `all` there are, and gives what is new.
    pub(crate) fn take(&mut self, rules: &[LiveRule], all: bool) -> Vec<Counted> {
        let mut places: HashMap<&Name, usize> = HashMap::new();
        let mut last = HashMap::new();
        let mut counted = Vec::new();
        for rule in rules.iter().filter(|rule| policy::is_ours(&rule.chain)) {
            let place = places.entry(&rule.chain).or_default();
            let at = (rule.chain.clone(), *place);
            *place += 1;
            let (Some(counter), Some(comment)) = (rule.counter, &rule.comment) else { continue };
            let before = self.0.get(&at).copied().unwrap_or(0);
            // A chain that was removed and made again counts from 0.
            let more = counter.packets.checked_sub(before).unwrap_or(counter.packets);
            let egress = rule.chain.as_str().starts_with("policy-egress");
            let direction = if egress { "egress" } else { "ingress" };
            if more > 0 {
                counted.push((comment.clone(), direction, more));
            }
            last.insert(at, counter.packets);
        }
        if all {
            self.0 = last;
        } else {
            self.0.extend(last);
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use nft::kernel::Count;

    use super::*;

    #[test]
    fn a_chain_made_anew_counts_on() {
        let rule = |chain: &str, packets| LiveRule {
            chain: Name::new(chain).expect("a name"),
            comment: Some("shop/db ingress[0]".into()),
            counter: Some(Count { packets, bytes: 0 }),
        };
        let mut counts = Counts::default();
        let mut some = |rules: &[LiveRule], all| -> u64 {
            counts.take(rules, all).iter().map(|(_, _, packets)| packets).sum()
        };
        assert_eq!(some(&[rule("policy-ingress-0", 3)], false), 3, "it goes");
        assert_eq!(some(&[rule("policy-ingress-0", 4)], true), 1, "it did not");
        let mut more = |rules: &[LiveRule]| some(rules, true);
        assert_eq!(more(&[rule("policy-ingress-1", 5), rule("policy-ingress-2", 1)]), 6);
        assert_eq!(more(&[rule("policy-ingress-1", 7), rule("policy-ingress-2", 1)]), 2);
        assert_eq!(more(&[rule("policy-ingress-3", 2), rule("random-5", 100)]), 2);
        assert_eq!(more(&[rule("policy-ingress-3", 1)]), 1);
    }
}
