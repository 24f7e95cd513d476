//! Random operations on a cluster without a registry; when it has settled, the promises hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::config::Config;
use super::engine::Engine;
use super::fixtures::{Simple, after, node, service, view, with};
use super::object::{controller_uid, int_at, label, list_at, name, str_at, uid};
use super::pod::{is_active, is_ready, is_terminal, node_name};
use super::view::Change;
use super::write::{
    DEPLOYMENTS, ENDPOINT_SLICES, NODES, ObjectRef, PODS, REPLICA_SETS, Resource, SERVICES,
};

#[derive(Debug, Clone)]
enum Act {
    Deploy { app: u8, replicas: u8, image: u8 },
    Undeploy { app: u8 },
    Node { node: u8, ready: bool, cordoned: bool },
    RemoveNode { node: u8 },
    Serve { app: u8 },
    Unserve { app: u8 },
    Ready { every: u8 },
    Fail { nth: u8 },
    RemovePod { nth: u8 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..2_u8, 0..6_u8, 0..3_u8).prop_map(|(app, replicas, image)| Act::Deploy {
            app,
            replicas,
            image
        }),
        (0..2_u8).prop_map(|app| Act::Undeploy { app }),
        (0..3_u8, any::<bool>(), any::<bool>()).prop_map(|(node, ready, cordoned)| Act::Node {
            node,
            ready,
            cordoned
        }),
        (0..3_u8).prop_map(|node| Act::RemoveNode { node }),
        (0..2_u8).prop_map(|app| Act::Serve { app }),
        (0..2_u8).prop_map(|app| Act::Unserve { app }),
        (1..4_u8).prop_map(|every| Act::Ready { every }),
        (0..9_u8).prop_map(|nth| Act::Fail { nth }),
        (0..9_u8).prop_map(|nth| Act::RemovePod { nth }),
    ]
}

struct World {
    engine: Engine,
    api: Simple,
    serial: u32,
}

impl World {
    fn new() -> Self {
        let mut engine = Engine::new(Config::default());
        for (group, kind) in
            [("", "Pod"), ("", "Service"), ("apps", "ReplicaSet"), ("apps", "Deployment")]
        {
            engine.serve(group, kind);
        }
        Self { engine, api: Simple::default(), serial: 0 }
    }

    fn put(&mut self, resource: Resource, mut object: Value, now: Timestamp) {
        let target = ObjectRef::of(resource, &object);
        let old = self.engine.view().get(&target).cloned();
        self.serial += 1;
        let generation = old.as_ref().and_then(|old| int_at(old, &["metadata", "generation"]));
        object["metadata"]["generation"] = (generation.unwrap_or(0) + 1).into();
        object["metadata"]["uid"] = match &old {
            Some(old) => uid(old).into(),
            None => format!("world-{}", self.serial).into(),
        };
        if let Some(status) = old.as_ref().and_then(|old| old.get("status"))
            && object.get("status").is_none()
        {
            object["status"] = status.clone();
        }
        self.engine.observe(&Change { target, old, new: Some(Arc::new(object)) }, now);
    }

    fn remove(&mut self, resource: Resource, namespace: &str, name: &str, now: Timestamp) {
        let target = ObjectRef::new(resource, namespace, name);
        if let Some(old) = self.engine.view().get(&target).cloned() {
            self.engine.observe(&Change { target, old: Some(old), new: None }, now);
        }
    }

    fn pod(&self, nth: u8) -> Option<Value> {
        let pods: Vec<_> = self.engine.view().all(&PODS).collect();
        pods.get(usize::from(nth) % pods.len().max(1)).map(|pod| Value::clone(pod))
    }

    fn act(&mut self, act: &Act, now: Timestamp) {
        match act {
            Act::Deploy { app, replicas, image } => {
                let app = format!("app{app}");
                let deployment = json!({
                    "apiVersion": "apps/v1", "kind": "Deployment",
                    "metadata": { "name": app, "namespace": "default" },
                    "spec": {
                        "replicas": replicas, "selector": { "matchLabels": { "app": app } },
                        "progressDeadlineSeconds": 600,
                        "template": { "metadata": { "labels": { "app": app } }, "spec":
                            { "containers": [{ "name": "c", "image": format!("i{image}") }] } },
                    },
                });
                self.put(DEPLOYMENTS, deployment, now);
            }
            Act::Undeploy { app } => self.remove(DEPLOYMENTS, "default", &format!("app{app}"), now),
            Act::Node { node: n, ready, cordoned } => {
                let node_name = format!("n{n}");
                let mut object = self
                    .engine
                    .view()
                    .find(&NODES, "", &node_name)
                    .map_or_else(|| node(&node_name), |old| Value::clone(old));
                object["spec"]["unschedulable"] = (*cordoned).into();
                let ready = if *ready { "True" } else { "False" };
                object["status"]["conditions"][0]["status"] = ready.into();
                object["status"]["conditions"][0]["lastHeartbeatTime"] =
                    super::object::time(now).into();
                self.put(NODES, object, now);
            }
            Act::RemoveNode { node } => self.remove(NODES, "", &format!("n{node}"), now),
            Act::Serve { app } => {
                let app = format!("app{app}");
                let object = with(
                    service(&app),
                    json!({ "spec": { "selector": { "app": app }, "ports": [{ "port": 80 }] } }),
                );
                self.put(SERVICES, object, now);
            }
            Act::Unserve { app } => self.remove(SERVICES, "default", &format!("app{app}"), now),
            Act::Ready { every } => {
                let pods: Vec<Value> =
                    self.engine.view().all(&PODS).map(|pod| Value::clone(pod)).collect();
                for (n, mut pod) in pods.into_iter().enumerate() {
                    if node_name(&pod).is_empty() || is_terminal(&pod) {
                        continue;
                    }
                    let ready = if n % usize::from(*every) == 0 { "True" } else { "False" };
                    pod["status"] = json!({
                        "phase": "Running", "podIP": format!("10.9.{}.{}", n / 250, n % 250 + 1),
                        "conditions": [{ "type": "Ready", "status": ready,
                            "lastTransitionTime": super::object::time(now) }],
                    });
                    self.put(PODS, pod, now);
                }
            }
            Act::Fail { nth } => {
                if let Some(mut pod) = self.pod(*nth) {
                    pod["status"]["phase"] = "Failed".into();
                    self.put(PODS, pod, now);
                }
            }
            Act::RemovePod { nth } => {
                if let Some(pod) = self.pod(*nth) {
                    self.remove(PODS, "default", name(&pod), now);
                }
            }
        }
    }

    fn check(&self, now: Timestamp) {
        let view = self.engine.view();
        for set in view.all(&REPLICA_SETS) {
            let wanted = int_at(set, &["spec", "replicas"]).unwrap();
            let active =
                view.controlled(uid(set), &PODS).filter(|pod| is_active(pod)).count() as i64;
            assert_eq!(active, wanted, "pods of {}", name(set));
            assert_eq!(int_at(set, &["status", "replicas"]), Some(wanted));
            assert!(view.by_uid(controller_uid(set)).is_some(), "its Deployment is there");
        }
        for pod in view.all(&PODS) {
            assert!(view.by_uid(controller_uid(pod)).is_some(), "{} has its owner", name(pod));
        }
        let mut cidrs = BTreeMap::new();
        for node in view.all(&NODES) {
            assert_eq!(list_at(node, &["spec", "podCIDRs"]).len(), 2);
            for cidr in list_at(node, &["spec", "podCIDRs"]) {
                let other = cidrs.insert(cidr.to_string(), name(node));
                assert_eq!(other, None, "{cidr} is given twice");
            }
        }
        for service in view.all(&SERVICES) {
            let app = name(service);
            let mut wanted: Vec<(String, bool)> = view
                .all(&PODS)
                .filter(|pod| label(pod, "app") == Some(app) && !is_terminal(pod))
                .filter(|pod| view.find(&NODES, "", node_name(pod)).is_some())
                .filter(|pod| !str_at(pod, &["status", "podIP"]).is_empty())
                .map(|pod| (name(pod).to_owned(), is_ready(pod)))
                .collect();
            let mut found: Vec<(String, bool)> = view
                .all(&ENDPOINT_SLICES)
                .filter(|slice| label(slice, "kubernetes.io/service-name") == Some(app))
                .flat_map(|slice| list_at(slice, &["endpoints"]))
                .map(|endpoint| {
                    let ready = endpoint["conditions"]["ready"] == true;
                    (str_at(endpoint, &["targetRef", "name"]).to_owned(), ready)
                })
                .collect();
            wanted.sort();
            found.sort();
            assert_eq!(found, wanted, "slices of {app}");
        }
        for slice in view.all(&ENDPOINT_SLICES) {
            assert!(view.by_uid(controller_uid(slice)).is_some(), "its Service is there");
        }
        for key in self.engine.every_key(now) {
            let outcome = self.engine.reconcile(&key, now);
            let lines = super::fixtures::lines(&outcome);
            assert!(outcome.writes.is_empty(), "{key:?} is not settled: {lines:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_settles_and_the_promises_hold(
        acts in proptest::collection::vec((act(), any::<bool>()), 1..40)
    ) {
        let mut world = World::new();
        let mut seconds = 0;
        for (act, settle) in &acts {
            seconds += 1;
            world.act(act, after(seconds));
            if *settle {
                let World { engine, api, .. } = &mut world;
                api.settle(engine, after(seconds));
            }
        }
        // Later than the quarantine, sooner than any heartbeat's end can matter twice.
        for _ in 0..3 {
            seconds += 60;
            let World { engine, api, .. } = &mut world;
            api.settle(engine, after(seconds));
        }
        world.check(after(seconds));
    }
}

#[test]
fn the_indices_follow_every_change() {
    let mut view = view(&[]);
    let pod = |node: &str, app: &str| {
        with(
            super::fixtures::pod("p"),
            json!({ "metadata": { "labels": { "app": app } }, "spec": { "nodeName": node } }),
        )
    };
    super::fixtures::put(&mut view, SERVICES, service("web"));
    super::fixtures::put(&mut view, PODS, pod("n1", "web"));
    assert_eq!(view.pods_on("n1").count(), 1);
    assert_eq!(view.selecting(&SERVICES, &pod("n1", "web")).len(), 1);
    super::fixtures::put(&mut view, PODS, pod("n2", "db"));
    assert_eq!((view.pods_on("n1").count(), view.pods_on("n2").count()), (0, 1));
    assert_eq!(view.labelled(&PODS, "default", "app", "web").count(), 0);
    assert_eq!(view.selecting(&SERVICES, &pod("n2", "db")).len(), 0);
    let target = ObjectRef::new(PODS, "default", "p");
    let old = view.get(&target).cloned();
    view.apply(&Change { target, old, new: None });
    assert_eq!(view.pods_on("n2").count(), 0);
    assert!(view.by_uid("uid-p").is_none());
    assert_eq!(view.in_namespace("default").count(), 1, "the Service");
}
