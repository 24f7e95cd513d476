//! Services over the real store and registry: ranges that come and go, load balancers, hints.

use super::*;
use crate::controllers::write::SERVICE_CIDRS;

fn plain(service: &str, spec: Value) -> Value {
    let base = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": service, "namespace": "default" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
    });
    with(base, json!({ "spec": spec }))
}

fn range(cidr: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": "more" }, "spec": { "cidrs": [cidr] },
    })
}

impl Cluster {
    fn refused(&self, resource: &Resource, object: Value) -> String {
        let place = self.place(resource, "default", "");
        self.registry.create(&place, object, &WriteOptions::default()).unwrap_err().message
    }

    fn spec(&self, service: &str) -> Value {
        self.get(&SERVICES, "default", service).unwrap()["spec"].clone()
    }
}

#[test]
fn a_service_cidr_gives_addresses_and_stays_while_they_are_held() {
    let mut cluster = Cluster::new();
    let asked = |ip: &str| plain("there", json!({ "clusterIP": ip }));
    let refused = cluster.refused(&SERVICES, asked("10.99.0.7"));
    assert!(refused.contains("is not in the valid range"), "{refused}");

    cluster.create(&SERVICE_CIDRS, range("10.99.0.0/24"));
    cluster.settle();
    let more = cluster.get(&SERVICE_CIDRS, "", "more").unwrap();
    assert_eq!(condition_status(&more, "Ready"), "True");
    cluster.create(&SERVICES, asked("10.99.0.7"));

    // A server that comes back finds range and claim in what is stored.
    let cidrs = cluster.registry.service_cidrs().to_vec();
    let again = Registry::new(cluster.registry.store().clone(), Kinds::builtin(), cidrs);
    let place = again.place("", "services", "default", "").unwrap();
    let other = plain("other", json!({ "clusterIP": "10.99.0.7" }));
    let refused = again.create(&place, other, &WriteOptions::default()).unwrap_err().message;
    assert!(refused.contains("provided IP is already allocated"), "{refused}");

    cluster.delete(&SERVICE_CIDRS, "", "more", DeleteOptions::default());
    cluster.settle();
    let more = cluster.get(&SERVICE_CIDRS, "", "more").expect("held by the Service");
    assert_eq!(condition_status(&more, "Ready"), "False");
    let refused = cluster.refused(&SERVICES, plain("late", json!({ "clusterIP": "10.99.0.8" })));
    assert!(refused.contains("is not in the valid range"), "{refused}");

    cluster.delete(&SERVICES, "default", "there", DeleteOptions::default());
    let later = cluster.registry.now().checked_add(SignedDuration::from_secs(2)).unwrap();
    cluster.settle_at(later);
    assert!(cluster.get(&SERVICE_CIDRS, "", "more").is_none());
}

#[test]
fn a_load_balancer_has_what_its_type_wants_and_no_more() {
    let mut cluster = Cluster::new();
    let sources = json!(["10.0.0.0/8"]);
    cluster.create(
        &SERVICES,
        plain(
            "lb",
            json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local",
                    "loadBalancerSourceRanges": sources }),
        ),
    );
    let spec = cluster.spec("lb");
    assert_eq!(spec["allocateLoadBalancerNodePorts"], true);
    let (node, health) =
        (spec["ports"][0]["nodePort"].clone(), spec["healthCheckNodePort"].clone());
    assert!(node.is_u64() && health.is_u64() && node != health, "{spec}");

    // The status says how packets arrive; only a load balancer has one.
    let ingress = |ingress: Value| json!({ "loadBalancer": { "ingress": [ingress] } });
    cluster.status(&SERVICES, "default", "lb", ingress(json!({ "ip": "192.0.2.1" })));
    let lb = cluster.get(&SERVICES, "default", "lb").unwrap();
    assert_eq!(lb["status"], ingress(json!({ "ip": "192.0.2.1", "ipMode": "VIP" })));
    for (bad, why) in [
        (json!({ "ip": "192.0.2.1", "ipMode": "Both" }), "Unsupported value"),
        (json!({ "hostname": "a.example", "ipMode": "VIP" }), "when `ip` is not set"),
        (json!({ "ip": "nowhere" }), "status.loadBalancer.ingress[0].ip"),
    ] {
        let place = cluster.place(&SERVICES, "default", "lb");
        let patch = json!({ "status": ingress(bad) });
        let written =
            cluster.registry.change(&place, Part::Status, &WriteOptions::default(), |old| {
                Ok(with(Value::clone(old), patch.clone()))
            });
        let refused = written.unwrap_err().message;
        assert!(refused.contains(why), "{refused}");
    }

    // Cluster again: the health port goes and is free; Local once more: there is one.
    let policy = |policy: &str| json!({ "spec": { "externalTrafficPolicy": policy } });
    cluster.patch(&SERVICES, "default", "lb", policy("Cluster"));
    assert!(cluster.spec("lb")["healthCheckNodePort"].is_null());
    let taken = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": health }] });
    cluster.create(&SERVICES, plain("took", taken));
    cluster.patch(&SERVICES, "default", "lb", policy("Local"));
    assert!(cluster.spec("lb")["healthCheckNodePort"].is_u64());
    assert_eq!(cluster.spec("lb")["ports"][0]["nodePort"], node, "node ports stay");

    // Inside only: node ports and all that is a load balancer's go, the address stays.
    cluster.patch(&SERVICES, "default", "lb", json!({ "spec": { "type": "ClusterIP" } }));
    let inside = cluster.spec("lb");
    assert_eq!(inside["clusterIP"], spec["clusterIP"]);
    for gone in [
        "externalTrafficPolicy",
        "healthCheckNodePort",
        "allocateLoadBalancerNodePorts",
        "loadBalancerSourceRanges",
    ] {
        assert!(inside[gone].is_null(), "{gone}: {inside}");
    }
    assert!(inside["ports"][0]["nodePort"].is_null(), "{inside}");

    // Without node ports from the start.
    let none = json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false });
    cluster.create(&SERVICES, plain("bare", none));
    assert!(cluster.spec("bare")["ports"][0]["nodePort"].is_null());
}

#[test]
fn external_addresses_keep_their_policy_only_while_they_are_there() {
    let mut cluster = Cluster::new();
    cluster.create(&SERVICES, plain("out", json!({ "externalIPs": ["192.0.2.7"] })));
    assert_eq!(cluster.spec("out")["externalTrafficPolicy"], "Cluster");
    cluster.patch(&SERVICES, "default", "out", json!({ "spec": { "externalIPs": null } }));
    assert!(cluster.spec("out")["externalTrafficPolicy"].is_null());
    for bad in ["127.0.0.1", "169.254.1.1", "::", "host"] {
        let refused = cluster.refused(&SERVICES, plain("bad", json!({ "externalIPs": [bad] })));
        assert!(refused.contains("spec.externalIPs[0]"), "{refused}");
    }
}

#[test]
fn hints_follow_the_service_and_the_nodes_zone() {
    let mut cluster = Cluster::with_nodes(1);
    cluster.create(&SERVICES, plain("web", json!({ "trafficDistribution": "PreferSameZone" })));
    cluster.create(&DEPLOYMENTS, deployment(1, "nginx:1"));
    cluster.rollout();
    let hints = |cluster: &Cluster| {
        let slices = cluster.list(&ENDPOINT_SLICES, "default");
        assert_eq!(slices.len(), 1);
        slices[0]["endpoints"][0]["hints"].clone()
    };
    assert_eq!(hints(&cluster), Value::Null, "the node has no zone");
    let zone =
        |zone: &str| json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": zone } } });
    cluster.patch(&NODES, "", "node-1", zone("a"));
    cluster.settle();
    assert_eq!(hints(&cluster), json!({ "forZones": [{ "name": "a" }] }));
    cluster.patch(&NODES, "", "node-1", zone("b"));
    let distribution = json!({ "spec": { "trafficDistribution": "PreferSameNode" } });
    cluster.patch(&SERVICES, "default", "web", distribution);
    cluster.settle();
    let both = json!({ "forZones": [{ "name": "b" }], "forNodes": [{ "name": "node-1" }] });
    assert_eq!(hints(&cluster), both);
    cluster.second_pass_writes_nothing();
    cluster.patch(&SERVICES, "default", "web", json!({ "spec": { "trafficDistribution": null } }));
    cluster.settle();
    assert_eq!(hints(&cluster), Value::Null);
}
