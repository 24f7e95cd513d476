//! What a listing leaves out: when elements expire, what their counters count, and whose tables there are.
//!
//! A [`crate::Table`] is compared with what is wanted, so it has nothing in it that changes by itself; these are the
//! questions of somebody who looks at a running node.

use super::Netlink;
use super::list::Stop;
use crate::wire::attr::{Attributes, Writer, text, u64_be};
use crate::wire::number::{self, NLM_F_DUMP};
use crate::wire::{decode, expr_codec};
use crate::{Errno, Family, Hook, ListError, Name, Packed};

const FAMILIES: [Family; 5] =
    [Family::Inet, Family::Ip, Family::Ip6, Family::Bridge, Family::Netdev];
const ATTEMPTS: u32 = 5;

/// An element as it is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveElement {
    /// The key.
    pub key: Packed,
    /// Milliseconds until it is forgotten; `None` when it stays.
    pub expires_ms: Option<u64>,
    /// What its counter counted; `None` without one.
    pub counter: Option<Count>,
}

/// What a counter counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A rule as it is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveRule {
    /// The chain it is in.
    pub chain: Name,
    /// Its comment.
    pub comment: Option<String>,
    /// What its first counter counted; `None` without one.
    pub counter: Option<Count>,
}

/// A base chain of anybody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// The table's family.
    pub family: Family,
    /// The table's name.
    pub table: Name,
    /// The chain's name.
    pub name: Name,
    /// Where it hangs; `None` for chains only others go to.
    pub hook: Option<Hook>,
}

impl Netlink {
    /// The elements of one set as they are at the moment; none when there is no such set.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn live_elements(
        &mut self,
        family: Family,
        table: &Name,
        set: &Name,
    ) -> Result<Vec<LiveElement>, ListError> {
        let what = "elements";
        self.again(table.as_str(), |kernel, found| {
            let request = |w: &mut Writer| {
                w.string(1, table.as_str());
                w.string(2, set.as_str());
            };
            kernel.ask(what, number::GETSETELEM, NLM_F_DUMP, family, request, |message| {
                for (_, list) in message.attributes().filter(|(kind, _)| *kind == 3) {
                    found.extend(Attributes(list).filter_map(|(_, element)| live(element)));
                }
            })
        })
    }

    /// The rules of a table with what they counted, in the order of each chain; none when there is no such table.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn live_rules(&mut self, family: Family, table: &Name) -> Result<Vec<LiveRule>, ListError> {
        self.rules_of(family, table, None)
    }

    /// The same of one chain.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn live_chain(
        &mut self,
        family: Family,
        table: &Name,
        chain: &Name,
    ) -> Result<Vec<LiveRule>, ListError> {
        self.rules_of(family, table, Some(chain))
    }

    fn rules_of(
        &mut self,
        family: Family,
        table: &Name,
        chain: Option<&Name>,
    ) -> Result<Vec<LiveRule>, ListError> {
        self.again(table.as_str(), |kernel, found| {
            let request = |w: &mut Writer| {
                w.string(1, table.as_str());
                if let Some(chain) = chain {
                    w.string(2, chain.as_str());
                }
            };
            kernel.ask("rules", number::GETRULE, NLM_F_DUMP, family, request, |message| {
                let rule = decode::rule(message.attributes()).filter(|rule| rule.table == *table);
                found.extend(rule.map(|rule| LiveRule {
                    counter: Attributes(&rule.raw).find_map(|(_, expr)| count(expr)),
                    chain: rule.chain,
                    comment: rule.comment,
                }));
            })
        })
    }

    /// Every table of this network namespace, whoever made it.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn tables(&mut self) -> Result<Vec<(Family, Name)>, ListError> {
        self.again("*", |kernel, found| {
            for family in FAMILIES {
                kernel.ask(
                    "tables",
                    number::GETTABLE,
                    NLM_F_DUMP,
                    family,
                    |_| {},
                    |message| {
                        found.extend(
                            decode::table(message.attributes()).map(|it| (family, it.name)),
                        );
                    },
                )?;
            }
            Ok(())
        })
    }

    /// Every chain of this network namespace, whoever made it.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn every_chain(&mut self) -> Result<Vec<BaseChain>, ListError> {
        self.again("*", |kernel, found| {
            for family in FAMILIES {
                kernel.ask(
                    "chains",
                    number::GETCHAIN,
                    NLM_F_DUMP,
                    family,
                    |_| {},
                    |message| {
                        found.extend(decode::chain(message.attributes()).map(|it| BaseChain {
                            family,
                            table: it.table,
                            name: it.name,
                            hook: it.hook,
                        }));
                    },
                )?;
            }
            Ok(())
        })
    }

    /// Asks until no other change of the tables came between.
    fn again<T>(
        &mut self,
        table: &str,
        mut ask: impl FnMut(&mut Self, &mut Vec<T>) -> Result<(), Stop>,
    ) -> Result<Vec<T>, ListError> {
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            match ask(self, &mut found) {
                Ok(()) => return Ok(found),
                Err(Stop::Interrupted) => {}
                Err(Stop::Errno(_, libc::ENOENT)) => return Ok(Vec::new()),
                Err(Stop::Errno(what, errno)) => {
                    return Err(ListError::Refused {
                        table: table.to_owned(),
                        what,
                        errno: Errno(errno),
                    });
                }
            }
        }
        Err(ListError::Unstable { table: table.to_owned(), attempts: ATTEMPTS })
    }
}

fn live(element: &[u8]) -> Option<LiveElement> {
    let (mut key, mut expires_ms, mut counter) = (None, None, None);
    for (kind, payload) in Attributes(element) {
        match kind {
            1 => key = expr_codec::data_value(payload),
            5 => expires_ms = u64_be(payload),
            7 => counter = counter.or_else(|| count(payload)),
            11 => {
                let mut exprs = Attributes(payload).map(|(_, expr)| expr);
                counter = counter.or_else(|| exprs.find_map(count));
            }
            _ => {}
        }
    }
    let key = Packed::from_bytes(&padded(key?))?;
    Some(LiveElement { key, expires_ms, counter })
}

/// Single components come without their padding.
fn padded(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    key.resize(key.len().next_multiple_of(4), 0);
    key
}

/// An expression, when it is a counter.
fn count(expr: &[u8]) -> Option<Count> {
    let (mut is_counter, mut count) = (false, Count::default());
    for (kind, payload) in Attributes(expr) {
        match kind {
            1 => is_counter = text(payload) == Some("counter"),
            2 => {
                for (kind, value) in Attributes(payload) {
                    match kind {
                        1 => count.bytes = u64_be(value)?,
                        2 => count.packets = u64_be(value)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    is_counter.then_some(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_an_element_or_none(bytes: Vec<u8>) {
            live(&bytes);
            count(&bytes);
        }
    }
}
