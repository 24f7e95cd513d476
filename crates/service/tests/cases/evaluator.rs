//! A packet's way through the node, by the in-memory kernel's evaluator: in, routed, out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use model::{NodeName, SnapshotWriter};
use nft::{Fate, HookPoint, Packet, Table, evaluate};
use service::Planner;

use super::case::{Case, Expect, Probe, Source, is_of_node};
use super::objects;

const LOCAL: u32 = 2;
/// Enough draws to meet every slot of the cases, whose lists are short.
const DRAWS: u32 = 12;

/// The compiled table of a case.
pub(crate) struct Planned(Table);

impl Planned {
    pub(crate) fn of(case: &Case) -> Self {
        let mut writer = SnapshotWriter::default();
        let reports = objects::apply(&mut writer, &case.objects);
        assert!(reports.is_empty(), "{}: {reports:?}", case.name);
        let mut planner = Planner::new(NodeName::new("node-1"), case.config.clone());
        Self(planner.full(writer.snapshot(), None).table)
    }

    /// As `nft` would write it.
    pub(crate) fn text(&self) -> String {
        self.0.to_string()
    }

    /// Sends the probe as often as there may be slots.
    pub(crate) fn check(&self, probe: &Probe) -> Result<(), String> {
        let mut answers = BTreeMap::new();
        let mut others = Vec::new();
        for number in 0..DRAWS {
            match self.send(probe, number) {
                Expect::Answer(one) => answers.extend(one),
                other => others.push(other),
            }
        }
        let found = match others.pop() {
            None => Expect::Answer(answers),
            Some(other) if answers.is_empty() => other,
            Some(other) => return Err(format!("{answers:?}, and sometimes {other:?}")),
        };
        if found == probe.expect { Ok(()) } else { Err(format!("found {found:?}")) }
    }

    fn send(&self, probe: &Probe, number: u32) -> Expect {
        let mut numbers = |_: &nft::Selector| number;
        let source = probe.from.address(probe.to.ip());
        let kind = |address: IpAddr| if is_of_node(address) { LOCAL } else { 1 };
        let mut packet =
            Packet::new(probe.protocol, (source, 40_000), (probe.to.ip(), probe.to.port()));
        packet.input = probe.from.link();
        packet.source_type = kind(source);
        packet.destination_type = kind(probe.to.ip());
        let mut pass = |hook, packet: &Packet| {
            evaluate(&self.0, hook, packet, &mut numbers).expect("the program has no unknown parts")
        };
        let stopped = |fate| match fate {
            Fate::Accepted => None,
            Fate::Dropped => Some(Expect::Dropped),
            Fate::Rejected(_) => Some(Expect::Refused),
        };
        let first =
            if probe.from == Source::Node { HookPoint::Output } else { HookPoint::Prerouting };
        let entered = pass(first, &packet);
        if let Some(end) = stopped(entered.fate) {
            return end;
        }
        packet.mark = entered.mark;
        if let Some(translation) = &entered.translation {
            packet.destination = translation.address;
            packet.destination_port = translation.port.expect("slots have ports");
            packet.conntrack.status |= 32;
        }
        packet.destination_type = kind(packet.destination);
        if probe.from != Source::Node {
            let here = packet.destination_type == LOCAL;
            let next = if here { HookPoint::Input } else { HookPoint::Forward };
            if let Some(end) = stopped(pass(next, &packet).fate) {
                return end;
            }
        }
        let left = pass(HookPoint::Postrouting, &packet);
        if entered.translation.is_none() {
            return Expect::Untouched;
        }
        let endpoint = SocketAddr::new(packet.destination, packet.destination_port);
        Expect::Answer(BTreeMap::from([(endpoint, left.masquerade.is_some())]))
    }
}
