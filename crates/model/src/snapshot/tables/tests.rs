//! Pods and namespaces: any order of steps ends where the last word about each object says, and what a pod costs.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::{Event, SnapshotWriter};
use super::*;
use crate::{PodAddresses, PodPhase, Protocol};

fn pod(name: &str, labels: Labels, address: u8) -> Pod {
    Pod {
        key: ObjectKey::new("shop", name),
        uid: None,
        node: Some(NodeName::new("node-1")),
        addresses: [[10, 244, 1, address].into()].into_iter().collect::<PodAddresses>(),
        labels,
        ports: [NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }].into(),
        host_network: false,
        phase: PodPhase::Running,
        terminating: false,
        details: None,
    }
}

fn labels(tier: &str) -> Labels {
    [("app", "shop"), ("tier", tier)].into_iter().collect()
}

#[derive(Clone, Debug)]
enum Step {
    Apply(u8, u8),
    Delete(u8),
    /// A list of these; of those named twice the last counts.
    List(Vec<(u8, u8)>),
    Unreadable(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = (0..6u8, 0..4u8);
    let step = prop_oneof![
        one.clone().prop_map(|(name, tier)| Step::Apply(name, tier)),
        (0..6u8).prop_map(Step::Delete),
        prop::collection::vec(one, 0..5).prop_map(Step::List),
        (0..6u8).prop_map(Step::Unreadable),
    ];
    prop::collection::vec(step, 0..30)
}

fn of(name: u8, tier: u8) -> Pod {
    pod(&format!("pod-{name}"), labels(&tier.to_string()), name)
}

proptest! {
    #[test]
    fn the_last_word_about_each_pod_counts_and_every_difference_is_named(steps in steps()) {
        let mut writer = SnapshotWriter::default();
        let mut model: BTreeMap<u8, u8> = BTreeMap::new();
        for step in steps {
            let before: Vec<(ObjectKey, Pod)> =
                writer.snapshot().pods().map(|pod| (pod.key.clone(), pod.clone())).collect();
            let updates = match step {
                Step::Apply(name, tier) => {
                    model.insert(name, tier);
                    vec![Update::Applied(of(name, tier))]
                }
                Step::Delete(name) => {
                    model.remove(&name);
                    vec![Update::Deleted(of(name, 0).key)]
                }
                Step::List(listed) => {
                    model = listed.iter().copied().collect();
                    let listed = listed.iter().map(|(name, tier)| Update::Listed(of(*name, *tier)));
                    [Update::Begin].into_iter().chain(listed).chain([Update::End]).collect()
                }
                Step::Unreadable(name) => vec![Update::Unreadable(of(name, 0).key)],
            };
            let revision = writer.snapshot().revision();
            for update in updates {
                writer.apply(Event::Pod(update));
            }
            let now = writer.snapshot();
            let known: BTreeMap<ObjectKey, Pod> =
                now.pods().map(|pod| (pod.key.clone(), pod.clone())).collect();
            let wanted: BTreeMap<ObjectKey, Pod> =
                model.iter().map(|(name, tier)| (of(*name, 0).key, of(*name, *tier))).collect();
            prop_assert_eq!(&known, &wanted);
            let before: BTreeMap<ObjectKey, Pod> = before.into_iter().collect();
            let differs = before != known;
            prop_assert!(!differs || now.revision() > revision);
            let change = writer.take_change();
            for key in before.keys().chain(known.keys()) {
                prop_assert!(before.get(key) == known.get(key) || change.pods.contains(key));
            }
        }
    }
}

#[test]
fn pods_of_one_replica_set_share_what_they_have_in_common() {
    let mut writer = SnapshotWriter::default();
    for name in ["a", "b"] {
        writer.apply(Event::Pod(Update::Applied(pod(name, labels("db"), 1))));
    }
    let [a, b] = ["a", "b"]
        .map(|name| writer.snapshot().pod(&ObjectKey::new("shop", name)).expect("the pod").clone());
    assert!(Arc::ptr_eq(&a.ports, &b.ports));
    let texts = |pod: &Pod| pod.labels.iter().map(|(key, _)| key.as_ptr()).collect::<Vec<_>>();
    assert_eq!(texts(&a), texts(&b));
}

#[test]
fn labels_nobody_has_any_more_are_let_go() {
    let mut shared = Shared::default();
    for number in 0..10_000 {
        let mut pod = pod("a", labels(&number.to_string()), 1);
        shared.share(&mut pod, &mut HashSet::new());
    }
    assert!(shared.labels.len() < 200, "{}", shared.labels.len());
}

#[test]
fn a_pod_costs_some_two_hundred_bytes_beside_its_name() {
    // In the map at 8/7 load with a control byte; labels, ports and the node's name are shared.
    let bytes = size_of::<(ObjectKey, Pod)>() * 8 / 7 + 1;
    assert!(bytes <= 200, "{bytes} bytes");
}

#[test]
fn services_do_not_wait_for_pods() {
    let mut writer = SnapshotWriter::default();
    for event in [
        Event::Service(Update::End),
        Event::Slice(Update::End),
        Event::Node(Update::End),
        Event::Pod(Update::End),
    ] {
        writer.apply(event);
    }
    assert!(writer.is_complete() && !writer.knows_pods());
    writer.apply(Event::Namespace(Update::Begin));
    let namespace = Namespace { key: ObjectKey::new("", "shop"), uid: None, labels: labels("x") };
    assert!(writer.apply(Event::Namespace(Update::Listed(namespace))));
    writer.apply(Event::Namespace(Update::End));
    assert!(writer.knows_pods());
    let key = ObjectKey::new("", "shop");
    assert!(writer.take_change().namespaces.iter().eq([&key]));
    assert_eq!(writer.snapshot().namespace(&key).map(Namespace::name), Some("shop"));
}
