//! Generated policies and changes: after every one, the transaction alone leads to the table a planner makes from nothing, and
//! that table, the planner's own judgement and an evaluator written from the API's documentation agree about every packet.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod generate;
mod reference;

use std::collections::BTreeMap;
use std::net::IpAddr;

use generate::{PODS, Step, address, namespace, pod, step};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use model::{Event, NodeName, Parsed, SnapshotWriter, Update};
use nft::{Double, Family, Fate, HookPoint, Kernel as _, Name, Table};
use policy::{Planner, TABLE, Traffic};
use proptest::prelude::*;
use reference::{Cluster, Packet};
use serde_json::Value;

/// Two nodes with a planner and a kernel each, and the objects.
struct World {
    writer: SnapshotWriter,
    nodes: Vec<(Planner, Double)>,
    namespaces: BTreeMap<u8, &'static str>,
    pods: BTreeMap<u8, (&'static str, u16)>,
    policies: BTreeMap<u8, Value>,
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn facts<'a, K, T>(object: &'a K) -> T
where
    Parsed<T>: TryFrom<&'a K, Error = model::Report>,
{
    Parsed::<T>::try_from(object).unwrap().value
}

impl World {
    fn new() -> Self {
        let node = |number: u8| {
            let mut planner = Planner::new(NodeName::new(&format!("node-{number}")));
            let mut double = Double::new();
            let table = planner.full(&Default::default()).table;
            double.commit(&nft::diff(&table, None)).unwrap();
            (planner, double)
        };
        let mut world = Self {
            writer: SnapshotWriter::default(),
            nodes: vec![node(1), node(2)],
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            policies: BTreeMap::new(),
        };
        for number in 0..3 {
            world.take(&Step::LabelNamespace(number, "red"));
        }
        for number in 0..PODS {
            world.take(&Step::Pod(number, 80));
        }
        world.follow();
        world
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Policy(number, policy) => drop(self.policies.insert(*number, *policy.clone())),
            Step::NoPolicy(number) => drop(self.policies.remove(number)),
            Step::Label(number, tier) => {
                if let Some(pod) = self.pods.get_mut(number) {
                    pod.0 = tier;
                }
            }
            Step::LabelNamespace(number, team) => drop(self.namespaces.insert(*number, team)),
            Step::Pod(number, port) => {
                self.pods.entry(*number).or_insert(("red", *port)).1 = *port;
            }
            Step::NoPod(number) => drop(self.pods.remove(number)),
        }
    }

    fn policy(number: u8, policy: &Value) -> networking::NetworkPolicy {
        let mut policy: networking::NetworkPolicy = read(policy.clone());
        policy.metadata.name = Some(format!("p{number}"));
        policy
    }

    fn cluster(&self) -> Cluster {
        Cluster {
            namespaces: self.namespaces.iter().map(|(n, team)| read(namespace(*n, team))).collect(),
            pods: self.pods.iter().map(|(n, (tier, port))| read(pod(*n, tier, *port))).collect(),
            policies: self.policies.iter().map(|(n, policy)| Self::policy(*n, policy)).collect(),
        }
    }

    /// Lists everything anew and gives each node what changed; the tables agree with those made from nothing.
    fn follow(&mut self) {
        let cluster = self.cluster();
        let writer = &mut self.writer;
        writer.apply(Event::Namespace(Update::Begin));
        writer.apply(Event::Pod(Update::Begin));
        writer.apply(Event::NetworkPolicy(Update::Begin));
        for object in &cluster.namespaces {
            writer.apply(Event::Namespace(Update::Listed(facts::<core::Namespace, _>(object))));
        }
        for object in &cluster.pods {
            writer.apply(Event::Pod(Update::Listed(facts::<core::Pod, _>(object))));
        }
        for object in &cluster.policies {
            let policy = facts::<networking::NetworkPolicy, _>(object);
            writer.apply(Event::NetworkPolicy(Update::Listed(policy)));
        }
        writer.apply(Event::Namespace(Update::End));
        writer.apply(Event::Pod(Update::End));
        writer.apply(Event::NetworkPolicy(Update::End));
        let change = writer.take_change();
        for (at, (planner, double)) in self.nodes.iter_mut().enumerate() {
            let delta = planner.update(writer.snapshot(), &change);
            if !delta.transaction.is_empty() {
                double
                    .commit(&delta.transaction)
                    .unwrap_or_else(|error| panic!("{error}\n{}", delta.transaction));
            }
            let node = NodeName::new(&format!("node-{}", at + 1));
            let whole = Planner::new(node).full(writer.snapshot()).table;
            let rest = nft::diff(&whole, Some(&table(double)));
            assert!(rest.is_empty(), "incremental is not full:\n{rest}");
        }
    }

    fn packet(packet: Packet<'_>) -> nft::Packet {
        let protocol = match packet.protocol {
            "TCP" => 6,
            "UDP" => 17,
            _ => 132,
        };
        nft::Packet::new(protocol, (packet.from, 40_000), (packet.to, packet.port))
    }

    /// Whether every node on the way lets the packet through; the kernel's program and the planner's word.
    fn passes(&self, tables: &[Table], packet: Packet<'_>) -> (bool, bool) {
        let at_node = |address: IpAddr| match address {
            IpAddr::V4(it) if it.octets()[..2] == [10, 244] => {
                Some(usize::from(it.octets()[2]) - 1)
            }
            IpAddr::V6(it) if it.segments()[0] == 0xfd00 => Some(usize::from(it.segments()[3]) - 1),
            _ => None,
        };
        let mut on_the_way: Vec<usize> =
            [packet.from, packet.to].into_iter().filter_map(at_node).collect();
        on_the_way.dedup();
        let sent = Self::packet(packet);
        let traffic = Traffic {
            source: packet.from,
            destination: packet.to,
            protocol: sent.protocol,
            port: packet.port,
        };
        let (mut kernel, mut word) = (true, true);
        for node in on_the_way {
            let outcome = nft::evaluate(&tables[node], HookPoint::Forward, &sent, &mut |_| 0);
            kernel &= outcome.unwrap().fate == Fate::Accepted;
            word &= self.nodes[node].0.judge(&traffic).allows();
        }
        (kernel, word)
    }

    fn agree(&self) {
        let cluster = self.cluster();
        let tables: Vec<Table> = self.nodes.iter().map(|(_, double)| table(double)).collect();
        let mut addresses: Vec<IpAddr> = Vec::new();
        for number in self.pods.keys() {
            addresses
                .extend([false, true].map(|v6| address(*number, v6).parse::<IpAddr>().unwrap()));
        }
        addresses.extend(["192.0.2.7", "192.0.2.8"].map(|it| it.parse::<IpAddr>().unwrap()));
        for &from in &addresses {
            for &to in addresses.iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
                for (protocol, port) in
                    [("TCP", 80), ("TCP", 81), ("UDP", 81), ("UDP", 82), ("SCTP", 80), ("SCTP", 82)]
                {
                    let packet = Packet { from, to, protocol, port };
                    let wanted = cluster.allows(packet);
                    let (kernel, word) = self.passes(&tables, packet);
                    assert_eq!(kernel, wanted, "the kernel's program: {packet:?}");
                    assert_eq!(word, wanted, "the planner's word: {packet:?}");
                }
            }
        }
    }
}

fn table(double: &Double) -> Table {
    let mut double = double.clone();
    double.list(Family::Inet, &Name::new(TABLE).unwrap()).unwrap().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn program_planner_and_reference_agree(steps in prop::collection::vec(step(), 1..12)) {
        let mut world = World::new();
        let last = steps.len() - 1;
        for (at, step) in steps.iter().enumerate() {
            world.take(step);
            world.follow();
            // The table was compared; all packets are sent now and then.
            if at == last || at % 4 == 3 {
                world.agree();
            }
        }
    }
}
