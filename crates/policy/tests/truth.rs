//! The truth table: three namespaces × three pods × two ports × three protocols × both families, every packet real, over every
//! policy set of the scheme; then generated ones. What arrives is what an evaluator written from the API's documentation says.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod generate;
mod reference;
mod sets;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use generate::NAMESPACES;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use model::{Event, NodeName, Parsed, SnapshotWriter, Update};
use policy::Planner;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use reference::{Cluster, Packet};
use serde_json::{Value, json};
use world::{CLIENT, PORTS, PROTOCOLS, Probe, World, address};

/// The objects of the scheme, and how they are told to a planner and a kernel.
struct Scene<'a> {
    world: &'a World,
    cluster: Cluster,
    writer: SnapshotWriter,
    planner: Planner,
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(number: usize, node: &str) -> core::Pod {
    let (namespace, name) = (NAMESPACES[number / 3], ["a", "b", "c"][number % 3]);
    // Port names differ by pod: what one calls "serve" is 80, another's is 81.
    let serve = PORTS[number % 2];
    let tier = if number.is_multiple_of(3) { json!({"tier": "front"}) } else { json!({}) };
    let mut labels = json!({"pod": name});
    labels.as_object_mut().unwrap().extend(tier.as_object().unwrap().clone());
    read(json!({
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [
            {"name": "serve", "containerPort": serve},
            {"name": "serve-udp", "containerPort": 81, "protocol": "UDP"}]}]},
        "status": {"phase": "Running", "podIPs": [
            {"ip": address(number, false).to_string()}, {"ip": address(number, true).to_string()}]}
    }))
}

impl<'a> Scene<'a> {
    fn new(world: &'a World) -> Self {
        let team = ["red", "blue", "blue"];
        let namespaces = (0..3).map(|number| {
            let name = NAMESPACES[number];
            read(json!({"metadata": {"name": name, "labels":
                {"kubernetes.io/metadata.name": name, "team": team[number]}}}))
        });
        let cluster = Cluster {
            namespaces: namespaces.collect(),
            pods: (0..9).map(|number| pod(number, "node-1")).collect(),
            policies: Vec::new(),
        };
        let mut planner = Planner::new(NodeName::new("node-1"));
        let mut writer = SnapshotWriter::default();
        let table = planner.full(writer.snapshot()).table;
        world.commit(&nft::diff(&table, None));
        for object in &cluster.namespaces {
            let value = Parsed::<model::Namespace>::try_from(object).unwrap().value;
            writer.apply(Event::Namespace(Update::Applied(value)));
        }
        for object in &cluster.pods {
            let value = Parsed::<model::Pod>::try_from(object).unwrap().value;
            writer.apply(Event::Pod(Update::Applied(value)));
        }
        let mut scene = Self { world, cluster, writer, planner };
        scene.follow();
        scene
    }

    fn follow(&mut self) {
        let change = self.writer.take_change();
        let delta = self.planner.update(self.writer.snapshot(), &change);
        let listed = self.world.commit(&delta.transaction);
        // What rules note is the kernel's own; everything else is as a planner that knows nothing before has it.
        let whole = Planner::new(NodeName::new("node-1")).full(self.writer.snapshot()).table;
        let rest = nft::diff(&whole, Some(&listed));
        assert!(rest.is_empty(), "the kernel lacks:\n{rest}");
    }

    /// These policies and no others.
    fn policies(&mut self, policies: Vec<networking::NetworkPolicy>) {
        self.writer.apply(Event::NetworkPolicy(Update::Begin));
        for object in &policies {
            let value = Parsed::<model::NetworkPolicy>::try_from(object).unwrap().value;
            self.writer.apply(Event::NetworkPolicy(Update::Listed(value)));
        }
        self.writer.apply(Event::NetworkPolicy(Update::End));
        self.cluster.policies = policies;
        self.follow();
    }

    /// Sends every packet, and complains of those that went another way than they should.
    fn check(&self, what: &str, parties: &[usize]) -> usize {
        let mut probes = BTreeSet::new();
        for &from in parties {
            for &to in parties {
                for protocol in PROTOCOLS {
                    for port in PORTS {
                        for v6 in [false, true] {
                            probes.insert(Probe { from, to, protocol, port, v6 });
                        }
                    }
                }
            }
        }
        let allowed = |probe: &&Probe| {
            let (from, to) = (address(probe.from, probe.v6), address(probe.to, probe.v6));
            self.cluster.allows(Packet { from, to, protocol: probe.protocol, port: probe.port })
        };
        let expected: BTreeSet<Probe> = probes.iter().filter(allowed).copied().collect();
        self.world.forget();
        let arrived = self.world.send(&probes, &expected, Duration::from_secs(5));
        let lost: Vec<_> = expected.difference(&arrived).collect();
        let slipped: Vec<_> = arrived.difference(&expected).collect();
        assert!(
            lost.is_empty() && slipped.is_empty(),
            "{what}: {} of {} packets allowed; lost {lost:?}; passed all the same {slipped:?}",
            expected.len(),
            probes.len()
        );
        probes.len() - expected.len()
    }
}

fn named(number: usize, namespace: &str, spec: &str) -> networking::NetworkPolicy {
    let spec: Value = serde_saphyr::from_str(spec).unwrap();
    let metadata = json!({"namespace": namespace, "name": format!("p{number}")});
    read(json!({"metadata": metadata, "spec": spec}))
}

#[test]
fn every_packet_of_the_truth_table_goes_the_way_the_api_says() {
    let Some(world) = World::or_skip() else { return };
    let mut scene = Scene::new(&world);
    let pods: Vec<usize> = (0..9).collect();
    const { assert!(sets::SETS.len() >= 40) };
    let mut denied = 0;
    for (name, policies) in sets::SETS {
        let policies = policies.iter().enumerate();
        scene
            .policies(policies.map(|(at, (namespace, spec))| named(at, namespace, spec)).collect());
        denied += scene.check(name, &pods);
    }
    println!("{} policy sets, {denied} packets denied", sets::SETS.len());
}

#[test]
fn generated_policies_treat_real_packets_as_the_reference_says() {
    let Some(world) = World::or_skip() else { return };
    let mut scene = Scene::new(&world);
    let everybody: Vec<usize> = (0..=CLIENT).collect();
    let mut runner = TestRunner::deterministic();
    let several = proptest::collection::vec(generate::policy(), 1..6);
    for round in 0..30 {
        let policies = several.new_tree(&mut runner).unwrap().current();
        let policies = policies.into_iter().enumerate().map(|(at, policy)| {
            let mut policy: networking::NetworkPolicy = read(policy);
            policy.metadata.name = Some(format!("p{at}"));
            policy
        });
        scene.policies(policies.collect());
        let said = serde_json::to_string(&scene.cluster.policies).unwrap();
        scene.check(&format!("round {round}: {said}"), &everybody);
    }
}
