//! Answers of UDP flows that were cut. To the kernel the next answer would be the first packet of a flow of its own, in the other
//! direction, which may well be open, and everything the denied side sends would be an answer to that. So the answers'
//! addresses and ports are remembered, and such packets dropped, until the flow may be again or nobody sends any more.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use model::Family;
use nft::{
    Chain, Element, Field, Name, Op, Packed, Selector, SetFlags, SetSpec, Statement, Transaction,
    UpdateOp,
};

use super::sets::{SetId, addresses, daddr, packed, saddr};
use super::{UDP, table_name};
use crate::judge::Traffic;

/// After the last packet; a little longer than conntrack keeps a stream (`nf_conntrack_udp_timeout_stream`).
const REMEMBERED: Duration = Duration::from_secs(180);
/// How many at a time; what is beyond that is cut all the same.
const MOST: u32 = 65_535;

/// The answers of a UDP flow that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Severed {
    /// Who answers.
    pub source: IpAddr,
    /// From which port.
    pub source_port: u16,
    /// Who began.
    pub destination: IpAddr,
    /// From which port.
    pub destination_port: u16,
}

impl Severed {
    /// The first packet of the flow that was cut.
    #[must_use]
    pub fn flow(&self) -> Traffic {
        Traffic {
            source: self.destination,
            destination: self.source,
            protocol: UDP,
            port: self.source_port,
        }
    }

    /// An answer, taken for the first packet of a flow.
    #[must_use]
    pub fn answer(&self) -> Traffic {
        Traffic {
            source: self.source,
            destination: self.destination,
            protocol: UDP,
            port: self.destination_port,
        }
    }

    fn element(&self) -> (Family, Element) {
        let addresses = packed(self.source).then(&packed(self.destination));
        let key = addresses.port(self.source_port).port(self.destination_port);
        (Family::of(self.source), Element::key(key))
    }
}

pub(super) fn spec(name: Name, family: Family) -> SetSpec {
    let address = saddr(family).field();
    let key = [address, address, Field::InetService, Field::InetService];
    let flags = SetFlags { dynamic: true, timeout: true, ..SetFlags::default() };
    let mut spec = SetSpec::new(name, key).with_flags(flags).with_size(MOST);
    spec.timeout = Some(REMEMBERED);
    spec
}

/// The rules that drop such packets, and remember them anew.
pub(super) fn drops(mut chain: Chain) -> Chain {
    for family in Family::BOTH {
        let key = vec![saddr(family), daddr(family), Selector::ThSport, Selector::ThDport];
        let set = SetId::Severed(family).name();
        chain = chain.rule([
            Statement::equals(Selector::MetaL4proto, Packed::new().proto(UDP)),
            Statement::in_set(key.clone(), set.clone()),
            Statement::Update { op: UpdateOp::Update, set, key, timeout: None },
            Statement::Counter,
            Statement::drop(),
        ]);
    }
    chain
}

/// The dynamic sets that remember them.
#[must_use]
pub fn severed_sets() -> Vec<Name> {
    Family::BOTH.into_iter().map(|family| SetId::Severed(family).name()).collect()
}

/// What a key of one of [`severed_sets`] stands for.
#[must_use]
pub fn severed_of_key(key: &Packed) -> Option<Severed> {
    let (source, destination, rest) = addresses(key.as_bytes(), 8)?;
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    Some(Severed { source, source_port: port(0)?, destination, destination_port: port(4)? })
}

/// What makes the kernel remember these.
#[must_use]
pub fn sever(answers: &[Severed]) -> Transaction {
    transaction(answers, |set, elements| Op::AddElements { set, elements })
}

/// What makes the kernel forget these, all of which it remembers.
#[must_use]
pub fn mend(answers: &[Severed]) -> Transaction {
    transaction(answers, |set, elements| Op::DeleteElements { set, elements })
}

fn transaction(answers: &[Severed], op: impl Fn(Arc<SetSpec>, Vec<Element>) -> Op) -> Transaction {
    let mut transaction = Transaction::new(nft::Family::Inet, table_name());
    for family in Family::BOTH {
        let of_family = answers.iter().map(Severed::element).filter(|(of, _)| *of == family);
        let elements: Vec<Element> = of_family.map(|(_, element)| element).collect();
        if !elements.is_empty() {
            transaction.push(op(SetId::Severed(family).spec().into(), elements));
        }
    }
    transaction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let severed = Severed {
                source: source.parse().expect("an address"),
                source_port: 53,
                destination: destination.parse().expect("an address"),
                destination_port: 40_000,
            };
            assert_eq!(severed_of_key(&severed.element().1.key), Some(severed));
            assert_eq!((severed.flow().port, severed.answer().port), (53, 40_000));
        }
        assert_eq!(severed_of_key(&Packed::new().port(1)), None);
    }
}
