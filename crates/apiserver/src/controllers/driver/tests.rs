//! The controllers over the real store and registry.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::*;
use crate::controllers::fixtures::with;
use crate::controllers::object::{condition_status, int_at, list_at, name, str_at};
use crate::controllers::write::{
    CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, LEASES, NAMESPACES, NODES, PODS,
    REPLICA_SETS, SERVICE_ACCOUNTS, SERVICES,
};
use crate::kinds::Kinds;
use crate::store::Store;

mod services;

struct Cluster {
    driver: Driver,
    registry: Registry,
}

impl Cluster {
    fn new() -> Self {
        let cidrs = vec!["10.96.0.0/16".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()];
        let registry = Registry::new(Store::new(), Kinds::builtin(), cidrs);
        let config = Config { root_ca: "PEM".into(), ..Config::default() };
        let mut cluster = Self { driver: Driver::new(registry.clone(), config), registry };
        for namespace in ["default", "kube-node-lease"] {
            cluster.create(
                &NAMESPACES,
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }),
            );
        }
        cluster.settle();
        cluster
    }

    fn with_nodes(count: usize) -> Self {
        let mut cluster = Self::new();
        for n in 1..=count {
            cluster.node(&format!("node-{n}"));
        }
        cluster.settle();
        cluster
    }

    fn node(&mut self, node: &str) {
        self.create(
            &NODES,
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": { "name": node },
            }),
        );
        self.status(
            &NODES,
            "",
            node,
            json!({
                "allocatable": { "pods": "110" },
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                    "lastHeartbeatTime": super::super::object::time(self.registry.now()),
                    "lastTransitionTime": super::super::object::time(self.registry.now()),
                }],
            }),
        );
    }

    fn place(&self, resource: &Resource, namespace: &str, name: &str) -> Place {
        self.registry.place(resource.group(), resource.plural(), namespace, name).unwrap()
    }

    fn create(&mut self, resource: &Resource, object: Value) -> Arc<Value> {
        let place = self.place(resource, str_at(&object, &["metadata", "namespace"]), "");
        self.registry.create(&place, object, &WriteOptions::default()).unwrap().object
    }

    fn patch(&mut self, resource: &Resource, namespace: &str, name: &str, patch: Value) {
        self.patch_part(resource, namespace, name, Part::Main, patch);
    }

    fn status(&mut self, resource: &Resource, namespace: &str, name: &str, status: Value) {
        self.patch_part(resource, namespace, name, Part::Status, json!({ "status": status }));
    }

    fn patch_part(
        &mut self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        part: Part,
        patch: Value,
    ) {
        let place = self.place(resource, namespace, name);
        self.registry
            .change(&place, part, &WriteOptions::default(), |old| {
                Ok(with(Value::clone(old), patch.clone()))
            })
            .unwrap();
    }

    fn delete(&mut self, resource: &Resource, namespace: &str, name: &str, options: DeleteOptions) {
        let place = self.place(resource, namespace, name);
        self.registry.delete(&place, &options).unwrap();
    }

    fn list(&self, resource: &Resource, namespace: &str) -> Vec<Arc<Value>> {
        let namespace = Some(namespace).filter(|n| !n.is_empty());
        self.registry.store().list(&stored(resource), namespace).items
    }

    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.registry.store().get(&stored(resource), namespace, name)
    }

    /// Works until nothing is due; returns the number of steps.
    fn settle(&mut self) -> usize {
        self.settle_at(self.registry.now())
    }

    fn settle_at(&mut self, now: Timestamp) -> usize {
        let mut steps = 0;
        while self.driver.step(now) {
            steps += 1;
            assert!(steps < 5_000, "does not settle");
        }
        steps
    }

    /// The revision after looking at everything once more: unchanged when settled.
    fn second_pass_writes_nothing(&mut self) {
        let before = self.registry.store().revision();
        let now = self.registry.now();
        let mut fresh = Driver::new(
            self.registry.clone(),
            Config { root_ca: "PEM".into(), ..Config::default() },
        );
        while fresh.step(now) {}
        assert_eq!(self.registry.store().revision(), before, "a second pass wrote something");
    }

    /// Plays the node daemons: pods that have a node run and are ready; deleted ones end.
    fn run_pods(&mut self, ready: bool) {
        for pod in self.list(&PODS, "") {
            let namespace = str_at(&pod, &["metadata", "namespace"]).to_owned();
            if super::super::object::is_deleting(&pod) {
                let options =
                    DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                self.delete(&PODS, &namespace, name(&pod), options);
            } else if !str_at(&pod, &["spec", "nodeName"]).is_empty() {
                let last = self.address_of(name(&pod));
                let mut conditions = list_at(&pod, &["status", "conditions"]).to_vec();
                conditions.retain(|c| c["type"] != "Ready");
                conditions.push(json!({
                    "type": "Ready", "status": if ready { "True" } else { "False" },
                    "lastTransitionTime": super::super::object::time(self.registry.now()),
                }));
                self.status(
                    &PODS,
                    &namespace,
                    name(&pod),
                    json!({
                        "phase": "Running", "podIP": last, "podIPs": [{ "ip": last }],
                        "conditions": conditions,
                    }),
                );
            }
        }
        self.settle();
    }

    fn address_of(&self, pod: &str) -> String {
        let hash = super::super::object::hash_parts(&[pod]);
        format!("10.244.{}.{}", hash % 250, hash / 256 % 250 + 1)
    }

    fn rollout(&mut self) {
        for _ in 0..20 {
            self.settle();
            self.run_pods(true);
        }
    }

    fn pods(&self) -> Vec<Arc<Value>> {
        self.list(&PODS, "default")
    }

    fn endpoints(&self) -> usize {
        self.list(&ENDPOINT_SLICES, "default")
            .iter()
            .flat_map(|slice| list_at(slice, &["endpoints"]))
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .count()
    }
}

fn deployment(replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": image,
                    "ports": [{ "name": "http", "containerPort": 80 }] }] },
            },
        },
    })
}

fn web_service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] },
    })
}

#[test]
fn a_deployment_becomes_pods_on_nodes_and_endpoints() {
    let mut cluster = Cluster::with_nodes(3);
    cluster.create(&DEPLOYMENTS, deployment(3, "nginx:1"));
    cluster.create(&SERVICES, web_service());
    cluster.settle();

    let pods = cluster.pods();
    assert_eq!(pods.len(), 3);
    let mut nodes: Vec<&str> = pods.iter().map(|pod| str_at(pod, &["spec", "nodeName"])).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["node-1", "node-2", "node-3"], "spread over the nodes");
    assert_eq!(cluster.endpoints(), 0);

    cluster.run_pods(true);
    assert_eq!(cluster.endpoints(), 3);
    assert_eq!(cluster.list(&ENDPOINT_SLICES, "default").len(), 1, "one slice is enough");
    let endpoints = cluster.get(&ENDPOINTS, "default", "web").unwrap();
    assert_eq!(list_at(&endpoints, &["subsets"])[0]["addresses"].as_array().unwrap().len(), 3);
    let deployment = cluster.get(&DEPLOYMENTS, "default", "web").unwrap();
    assert_eq!(int_at(&deployment, &["status", "availableReplicas"]), Some(3));
    assert_eq!(condition_status(&deployment, "Available"), "True");
    let progressing = super::super::object::condition(&deployment, "Progressing").unwrap();
    assert_eq!(str_at(progressing, &["reason"]), "NewReplicaSetAvailable");
    assert_eq!(
        int_at(&deployment, &["status", "observedGeneration"]),
        int_at(&deployment, &["metadata", "generation"])
    );
    cluster.second_pass_writes_nothing();
}

#[test]
fn scaling_up_and_down_keeps_the_counts() {
    let mut cluster = Cluster::with_nodes(2);
    cluster.create(&DEPLOYMENTS, deployment(2, "nginx:1"));
    cluster.rollout();
    for replicas in [7, 3, 0, 4] {
        cluster.patch(&DEPLOYMENTS, "default", "web", json!({ "spec": { "replicas": replicas } }));
        cluster.rollout();
        assert_eq!(cluster.pods().len(), replicas);
        cluster.second_pass_writes_nothing();
    }
    let messages: Vec<String> = cluster
        .list(&EVENTS, "default")
        .iter()
        .filter(|event| event["reason"] == "ScalingReplicaSet")
        .map(|event| str_at(event, &["message"]).to_owned())
        .collect();
    let set = cluster.list(&REPLICA_SETS, "default");
    let set = name(&set[0]);
    for message in [
        format!("Scaled up replica set {set} from 0 to 2"),
        format!("Scaled up replica set {set} from 2 to 7"),
        format!("Scaled down replica set {set} from 7 to 3"),
    ] {
        assert!(messages.contains(&message), "{message} in {messages:?}");
    }
}

#[test]
fn a_rolling_update_never_goes_below_and_a_rollback_reuses_the_old_set() {
    let mut cluster = Cluster::with_nodes(2);
    cluster.create(&DEPLOYMENTS, deployment(4, "nginx:1"));
    cluster.rollout();
    let image = |image: &str| {
        json!({ "spec": { "template": { "spec": { "containers": [
            { "name": "c", "image": image, "ports": [{ "name": "http", "containerPort": 80 }] }
        ] } } } })
    };
    cluster.patch(&DEPLOYMENTS, "default", "web", image("nginx:2"));
    for _ in 0..20 {
        cluster.settle();
        let available =
            cluster.pods().iter().filter(|pod| condition_status(pod, "Ready") == "True").count();
        assert!(available >= 3, "25% of 4 may be missing, not more");
        let active =
            cluster.pods().iter().filter(|pod| !super::super::object::is_deleting(pod)).count();
        assert!(active <= 5, "25% of 4 may be added, not more");
        cluster.run_pods(true);
    }
    let sets = cluster.list(&REPLICA_SETS, "default");
    assert_eq!(sets.len(), 2);
    assert!(cluster.pods().iter().all(|p| p["spec"]["containers"][0]["image"] == "nginx:2"));
    let revision = |cluster: &Cluster| {
        let d = cluster.get(&DEPLOYMENTS, "default", "web").unwrap();
        d["metadata"]["annotations"]["deployment.kubernetes.io/revision"].clone()
    };
    assert_eq!(revision(&cluster), "2");

    cluster.patch(&DEPLOYMENTS, "default", "web", image("nginx:1"));
    cluster.rollout();
    assert_eq!(cluster.list(&REPLICA_SETS, "default").len(), 2, "the old set is used again");
    assert_eq!(revision(&cluster), "3");
    assert!(cluster.pods().iter().all(|p| p["spec"]["containers"][0]["image"] == "nginx:1"));
    cluster.second_pass_writes_nothing();
}

#[test]
fn old_sets_beyond_the_history_limit_go() {
    let mut cluster = Cluster::with_nodes(1);
    let limited = with(deployment(1, "nginx:0"), json!({ "spec": { "revisionHistoryLimit": 2 } }));
    cluster.create(&DEPLOYMENTS, limited);
    cluster.rollout();
    for version in 1..6 {
        cluster.patch(
            &DEPLOYMENTS,
            "default",
            "web",
            json!({ "spec": { "template": {
            "metadata": { "annotations": { "v": version.to_string() } } } } }),
        );
        cluster.rollout();
    }
    assert_eq!(cluster.list(&REPLICA_SETS, "default").len(), 3, "the current one and two");
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let mut cluster = Cluster::with_nodes(1);
    let recreate =
        with(deployment(2, "nginx:1"), json!({ "spec": { "strategy": { "type": "Recreate" } } }));
    cluster.create(&DEPLOYMENTS, recreate);
    cluster.rollout();
    cluster.patch(
        &DEPLOYMENTS,
        "default",
        "web",
        json!({ "spec": { "template": {
        "metadata": { "annotations": { "v": "2" } } } } }),
    );
    cluster.settle();
    let pods = cluster.pods();
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().all(|pod| super::super::object::is_deleting(pod)), "old ones are going");
    cluster.run_pods(true);
    assert_eq!(cluster.pods().len(), 2);
    assert!(cluster.pods().iter().all(|pod| pod["metadata"]["annotations"]["v"] == "2"));
}

#[test]
fn deleting_a_deployment_takes_everything_with_it() {
    for propagation in [registry::Propagation::Background, registry::Propagation::Foreground] {
        let mut cluster = Cluster::with_nodes(2);
        cluster.create(&DEPLOYMENTS, deployment(2, "nginx:1"));
        cluster.create(&SERVICES, web_service());
        cluster.rollout();
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        cluster.delete(&DEPLOYMENTS, "default", "web", options);
        cluster.settle();
        if propagation == registry::Propagation::Foreground {
            assert!(cluster.get(&DEPLOYMENTS, "default", "web").is_some(), "waits for the pods");
        }
        cluster.rollout();
        assert!(cluster.get(&DEPLOYMENTS, "default", "web").is_none(), "{propagation:?}");
        assert_eq!(cluster.list(&REPLICA_SETS, "default").len(), 0);
        assert_eq!(cluster.pods().len(), 0);
        assert_eq!(cluster.endpoints(), 0);
        cluster.delete(&SERVICES, "default", "web", DeleteOptions::default());
        cluster.settle();
        assert_eq!(cluster.list(&ENDPOINT_SLICES, "default").len(), 0);
        assert!(cluster.get(&ENDPOINTS, "default", "web").is_none());
    }
}

#[test]
fn orphaned_dependents_stay_and_are_adopted_again() {
    let mut cluster = Cluster::with_nodes(1);
    cluster.create(&DEPLOYMENTS, deployment(2, "nginx:1"));
    cluster.rollout();
    let pods = cluster.pods();
    let options = DeleteOptions {
        propagation: Some(registry::Propagation::Orphan),
        ..DeleteOptions::default()
    };
    cluster.delete(&DEPLOYMENTS, "default", "web", options);
    cluster.rollout();
    assert!(cluster.get(&DEPLOYMENTS, "default", "web").is_none());
    let sets = cluster.list(&REPLICA_SETS, "default");
    assert_eq!(sets.len(), 1);
    assert!(sets[0]["metadata"].get("ownerReferences").is_none(), "let go");
    cluster.create(&DEPLOYMENTS, deployment(2, "nginx:1"));
    cluster.rollout();
    assert_eq!(cluster.list(&REPLICA_SETS, "default").len(), 1, "adopted, not made anew");
    let names = |pods: &[Arc<Value>]| pods.iter().map(|p| name(p).to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&cluster.pods()), names(&pods), "the pods never moved");
}

#[test]
fn namespaces_are_furnished_and_end_with_all_they_hold() {
    let mut cluster = Cluster::with_nodes(1);
    cluster.create(
        &NAMESPACES,
        json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }),
    );
    cluster.settle();
    assert!(cluster.get(&SERVICE_ACCOUNTS, "shop", "default").is_some());
    let ca = cluster.get(&CONFIG_MAPS, "shop", "kube-root-ca.crt").unwrap();
    assert_eq!(ca["data"]["ca.crt"], "PEM");
    let shop = json!({ "metadata": { "namespace": "shop" } });
    cluster.create(&DEPLOYMENTS, with(deployment(2, "nginx:1"), shop.clone()));
    cluster.create(&SERVICES, with(web_service(), shop));
    cluster.rollout();
    assert_eq!(cluster.list(&PODS, "shop").len(), 2);

    cluster.delete(&NAMESPACES, "", "shop", DeleteOptions::default());
    cluster.settle();
    let shop = cluster.get(&NAMESPACES, "", "shop").expect("waits for the pods");
    assert_eq!(str_at(&shop, &["status", "phase"]), "Terminating");
    let remaining = super::super::object::condition(&shop, "NamespaceContentRemaining").unwrap();
    assert_eq!(
        str_at(remaining, &["message"]),
        "Some resources are remaining: pods. has 2 resource instances"
    );
    cluster.rollout();
    assert!(cluster.get(&NAMESPACES, "", "shop").is_none());
    for kind in cluster.registry.kinds().all() {
        let resource = Resource::new(&kind.group, &kind.plural);
        let left = cluster.list(&resource, "shop");
        assert!(left.is_empty(), "{} left in the namespace", kind.plural);
    }
}

#[test]
fn every_node_gets_its_own_pod_cidrs_and_gives_them_back() {
    let mut cluster = Cluster::with_nodes(3);
    let cidrs = |cluster: &Cluster| -> Vec<String> {
        let nodes = cluster.list(&NODES, "");
        nodes.iter().map(|n| n["spec"]["podCIDRs"].to_string()).collect()
    };
    assert_eq!(
        cidrs(&cluster),
        [
            r#"["10.244.0.0/24","fd00:10:244::/64"]"#,
            r#"["10.244.1.0/24","fd00:10:244:1::/64"]"#,
            r#"["10.244.2.0/24","fd00:10:244:2::/64"]"#,
        ]
    );
    cluster.delete(&NODES, "", "node-2", DeleteOptions::default());
    cluster.node("node-4");
    cluster.settle();
    assert_eq!(cidrs(&cluster)[2], r#"["10.244.1.0/24","fd00:10:244:1::/64"]"#);
}

#[test]
fn a_silent_node_is_unreachable_its_pods_not_ready_then_evicted() {
    let mut cluster = Cluster::with_nodes(2);
    cluster.create(&DEPLOYMENTS, deployment(2, "nginx:1"));
    cluster.create(&SERVICES, web_service());
    cluster.rollout();
    assert_eq!(cluster.endpoints(), 2);
    let later = |s: i64| Timestamp::now().checked_add(SignedDuration::from_secs(s)).unwrap();
    let renew = |cluster: &mut Cluster, at: Timestamp, first: bool| {
        let spec = json!({ "holderIdentity": "node-1", "leaseDurationSeconds": 40,
            "renewTime": at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string() });
        if first {
            cluster.create(
                &LEASES,
                json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": "node-1", "namespace": "kube-node-lease" }, "spec": spec }),
            );
        } else {
            cluster.patch(&LEASES, "kube-node-lease", "node-1", json!({ "spec": spec }));
        }
    };
    renew(&mut cluster, later(30), true);
    cluster.settle_at(later(45));
    let silent = cluster.get(&NODES, "", "node-2").unwrap();
    assert_eq!(condition_status(&silent, "Ready"), "Unknown");
    assert_eq!(
        list_at(&silent, &["spec", "taints"])
            .iter()
            .map(|t| format!("{}:{}", str_at(t, &["key"]), str_at(t, &["effect"])))
            .collect::<Vec<_>>(),
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    );
    let heard = cluster.get(&NODES, "", "node-1").unwrap();
    assert_eq!(condition_status(&heard, "Ready"), "True", "its Lease is fresh");
    assert_eq!(cluster.endpoints(), 1, "nothing is sent to a node nobody hears of");
    assert_eq!(cluster.pods().len(), 2, "not evicted yet");

    renew(&mut cluster, later(400), false);
    cluster.settle_at(later(400));
    let gone: Vec<_> =
        cluster.pods().into_iter().filter(|p| super::super::object::is_deleting(p)).collect();
    assert_eq!(gone.len(), 1);
    assert_eq!(str_at(&gone[0], &["spec", "nodeName"]), "node-2");
    assert_eq!(cluster.pods().len(), 3, "replaced on the node that is there");

    cluster.delete(&NODES, "", "node-2", DeleteOptions::default());
    cluster.settle_at(later(401));
    renew(&mut cluster, later(450), false);
    cluster.settle_at(later(450));
    assert_eq!(cluster.pods().len(), 2, "pods of a node that is gone go too");
}

#[test]
fn a_pod_waits_with_a_reason_until_a_node_takes_it() {
    let mut cluster = Cluster::new();
    cluster.create(&DEPLOYMENTS, deployment(1, "nginx:1"));
    cluster.settle();
    let message = |cluster: &Cluster| {
        let pods = cluster.pods();
        let scheduled = super::super::object::condition(&pods[0], "PodScheduled").unwrap();
        (scheduled["status"].clone(), str_at(scheduled, &["message"]).to_owned())
    };
    assert_eq!(message(&cluster), ("False".into(), "no nodes available to schedule pods".into()));
    cluster.node("node-1");
    cluster.patch(&NODES, "", "node-1", json!({ "spec": { "unschedulable": true } }));
    cluster.settle();
    assert_eq!(message(&cluster).1, "0/1 nodes are available: 1 node(s) were unschedulable.");
    cluster.patch(&NODES, "", "node-1", json!({ "spec": { "unschedulable": false } }));
    cluster.settle();
    assert_eq!(str_at(&cluster.pods()[0], &["spec", "nodeName"]), "node-1");
    assert_eq!(message(&cluster).0, "True");
}

#[test]
fn repeated_events_are_counted() {
    let mut cluster = Cluster::with_nodes(1);
    cluster.create(&DEPLOYMENTS, deployment(1, "nginx:1"));
    cluster.rollout();
    for replicas in [2, 1, 2, 1, 2] {
        cluster.patch(&DEPLOYMENTS, "default", "web", json!({ "spec": { "replicas": replicas } }));
        cluster.rollout();
    }
    let events = cluster.list(&EVENTS, "default");
    let up = events
        .iter()
        .find(|e| str_at(e, &["message"]).ends_with("from 1 to 2"))
        .expect("an Event for scaling up");
    assert_eq!(int_at(up, &["count"]), Some(3));
    assert_eq!(str_at(up, &["involvedObject", "kind"]), "Deployment");
}

#[test]
fn events_go_after_an_hour() {
    let mut cluster = Cluster::with_nodes(1);
    cluster.create(&DEPLOYMENTS, deployment(1, "nginx:1"));
    cluster.rollout();
    assert!(!cluster.list(&EVENTS, "default").is_empty());
    let events = cluster.list(&EVENTS, "default").len();
    cluster.settle_at(Timestamp::now().checked_add(SignedDuration::from_mins(59)).unwrap());
    assert!(cluster.list(&EVENTS, "default").len() >= events, "not before");
    cluster.settle_at(Timestamp::now().checked_add(SignedDuration::from_mins(61)).unwrap());
    assert!(cluster.list(&EVENTS, "default").len() < events);
}

#[test]
fn the_thread_reacts_within_milliseconds_and_stops() {
    let cidrs = vec!["10.96.0.0/16".parse().unwrap()];
    let registry = Registry::new(Store::new(), Kinds::builtin(), cidrs);
    let handle = start(registry.clone(), Config::default()).unwrap();
    let namespaces = registry.place("", "namespaces", "", "").unwrap();
    let default =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "default" } });
    registry.create(&namespaces, default, &WriteOptions::default()).unwrap();
    let mut times = Vec::new();
    for n in 0..50 {
        let service = with(web_service(), json!({ "metadata": { "name": format!("web-{n}") } }));
        let place = registry.place("", "services", "default", "").unwrap();
        let begin = std::time::Instant::now();
        registry.create(&place, service, &WriteOptions::default()).unwrap();
        let slices = stored(&ENDPOINT_SLICES);
        while registry.store().list(&slices, Some("default")).items.len() <= n {
            std::thread::yield_now();
            assert!(begin.elapsed() < Duration::from_secs(10), "no slice");
        }
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    println!("Service to slice: median {:?}, worst {:?}", times[25], times[49]);
    assert!(times[25] < Duration::from_millis(20), "median {:?}", times[25]);
    drop(handle);
}
