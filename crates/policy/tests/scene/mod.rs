//! The world's node with its nine pods, and policies for them as objects.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeSet;
use std::time::Duration;

use model::convert::ClusterNetworkPolicy;
use model::{Event, NodeName, Parsed, SnapshotWriter, Update};
use policy::Planner;
use serde_json::{Value, json};

use crate::world::{CLIENT, Probe, World, address};

const NAMES: [&str; 9] = ["xa", "xb", "xc", "ya", "yb", "yc", "za", "zb", "zc"];

/// A node whose pods are called as above, in the namespace of their first letter.
pub(crate) struct Scene<'a> {
    world: &'a World,
    pub(crate) writer: SnapshotWriter,
    pub(crate) planner: Planner,
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A pod of the node by number, with the addresses of one of the world's.
pub(crate) fn pod(number: usize, at: Option<usize>) -> model::Pod {
    let name = NAMES[number];
    let ips: Vec<Value> = at
        .into_iter()
        .flat_map(|at| [false, true].map(|v6| json!({"ip": address(at, v6).to_string()})))
        .collect();
    let object: k8s_openapi::api::core::v1::Pod = read(json!({
        "metadata": {"namespace": &name[..1], "name": name, "labels": {"app": name}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c",
            "ports": [{"name": "serve", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIPs": ips}
    }));
    Parsed::<model::Pod>::try_from(&object).unwrap().value
}

impl<'a> Scene<'a> {
    /// All nine pods, and no policy.
    pub(crate) fn new(world: &'a World) -> Self {
        let mut scene = Self {
            world,
            writer: SnapshotWriter::default(),
            planner: Planner::new(NodeName::new("node-1")),
        };
        let table = scene.planner.full(scene.writer.snapshot()).table;
        world.commit(&nft::diff(&table, None));
        for namespace in ["x", "y", "z"] {
            let object: k8s_openapi::api::core::v1::Namespace =
                read(json!({"metadata": {"name": namespace, "labels": {"name": namespace}}}));
            let value = Parsed::<model::Namespace>::try_from(&object).unwrap().value;
            scene.writer.apply(Event::Namespace(Update::Applied(value)));
        }
        for number in 0..9 {
            scene.writer.apply(Event::Pod(Update::Applied(pod(number, Some(number)))));
        }
        scene.follow();
        scene
    }

    /// Commits what changed, which must lead to the whole: the reasons of what is wrong.
    pub(crate) fn follow(&mut self) -> Vec<&'static str> {
        let change = self.writer.take_change();
        let delta = self.planner.update(self.writer.snapshot(), &change);
        let listed = self.world.commit(&delta.transaction);
        let whole = Planner::new(NodeName::new("node-1")).full(self.writer.snapshot()).table;
        let rest = nft::diff(&whole, Some(&listed));
        assert!(rest.is_empty(), "the kernel lacks:\n{rest}");
        self.world.forget();
        delta.reports.iter().map(|report| report.reason).collect()
    }

    /// Puts a policy: the reasons of what is wrong with it.
    pub(crate) fn policy(&mut self, name: &str, namespace: &str, spec: Value) -> Vec<&'static str> {
        let object: k8s_openapi::api::networking::v1::NetworkPolicy =
            read(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}));
        let parsed = Parsed::<model::NetworkPolicy>::try_from(&object).unwrap();
        self.writer.apply(Event::NetworkPolicy(Update::Applied(parsed.value)));
        let mut reasons: Vec<&str> = parsed.reports.iter().map(|report| report.reason).collect();
        reasons.extend(self.follow());
        reasons
    }

    /// Puts a policy of the administrator: the reasons of what is wrong with it.
    pub(crate) fn cluster(&mut self, name: &str, spec: Value) -> Vec<&'static str> {
        let object: ClusterNetworkPolicy = read(json!({"metadata": {"name": name}, "spec": spec}));
        let parsed = Parsed::<model::ClusterPolicy>::try_from(&object).unwrap();
        self.writer.apply(Event::ClusterPolicy(Update::Applied(parsed.value)));
        self.follow();
        parsed.reports.iter().map(|report| report.reason).collect()
    }

    /// Of these, who reaches whom by TCP and UDP on port 80, as `xa>yb`; both families must agree.
    pub(crate) fn reach(&self, parties: &[usize]) -> String {
        let probes = probes(parties);
        self.arrived(&probes, &probes, Duration::from_secs(1))
    }

    /// The same where one knows who should: it does not wait for the others.
    pub(crate) fn reach_expecting(&self, parties: &[usize], expected: &str) -> String {
        let probes = probes(parties);
        let said: BTreeSet<&str> = expected.split(' ').collect();
        let wanted = probes.iter().filter(|probe| said.contains(&*said_of(probe)));
        self.arrived(&probes, &wanted.copied().collect(), Duration::from_secs(5))
    }

    fn arrived(
        &self,
        probes: &BTreeSet<Probe>,
        expected: &BTreeSet<Probe>,
        patience: Duration,
    ) -> String {
        self.world.forget();
        let arrived = self.world.send(probes, expected, patience);
        let mut said = BTreeSet::new();
        for probe in probes {
            let same = probes.iter().filter(|it| (it.from, it.to) == (probe.from, probe.to));
            let count = same.filter(|it| arrived.contains(it)).count();
            assert!(count == 0 || count == 4, "{probe:?}: {count} of 4 arrived");
            if count == 4 {
                said.insert(said_of(probe));
            }
        }
        said.into_iter().collect::<Vec<_>>().join(" ")
    }
}

fn said_of(probe: &Probe) -> String {
    let name = |who: usize| if who == CLIENT { "client" } else { NAMES[who] };
    format!("{}>{}", name(probe.from), name(probe.to))
}

fn probes(parties: &[usize]) -> BTreeSet<Probe> {
    let mut probes = BTreeSet::new();
    for &from in parties {
        for &to in parties.iter().filter(|to| **to != from) {
            for protocol in ["TCP", "UDP"] {
                for v6 in [false, true] {
                    probes.insert(Probe { from, to, protocol, port: 80, v6 });
                }
            }
        }
    }
    probes
}
