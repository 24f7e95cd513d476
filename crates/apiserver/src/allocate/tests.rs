use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn dual() -> State {
    let cidrs = ["10.96.0.0/16", "fd00:10:96::/112"];
    State::new(cidrs.iter().map(|cidr| cidr.parse().expect("a CIDR")).collect())
}

fn svc(spec: Value) -> Value {
    json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec})
}

#[test]
fn a_cluster_ip_comes_from_the_dynamic_band() {
    let mut state = dual();
    let mut web = svc(json!({"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}]}));
    service(&mut state, &mut web, None, false).expect("room");
    assert_eq!(web["spec"]["clusterIP"], "10.96.1.0");
    assert_eq!(web["spec"]["clusterIPs"], json!(["10.96.1.0"]));
    assert_eq!(web["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(web["spec"]["ipFamilyPolicy"], "SingleStack");
    assert_eq!(state.len(), (1, 0));
    release(&mut state, &web);
    assert!(state.is_empty());
}

#[test]
fn a_taken_address_is_refused_in_upstreams_words() {
    let mut state = dual();
    let asked = svc(json!({"type": "ClusterIP", "clusterIP": "10.96.0.10"}));
    service(&mut state, &mut asked.clone(), None, false).expect("free");
    let error = service(&mut state, &mut asked.clone(), None, false).expect_err("taken");
    assert_eq!(
        error.to_string(),
        "spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: \
         provided IP is already allocated"
    );
    let mut outside = svc(json!({"type": "ClusterIP", "clusterIP": "10.97.0.10"}));
    let error = service(&mut state, &mut outside, None, false).expect_err("outside");
    assert_eq!(
        error.to_string(),
        "spec.clusterIPs: Invalid value: [\"10.97.0.10\"]: failed to allocate IP 10.97.0.10: the \
         provided IP (10.97.0.10) is not in the valid range. The range of valid IPs is 10.96.0.0/16"
    );
}

#[test]
fn node_ports_are_unique_and_in_range() {
    let mut state = dual();
    let asked = svc(json!({"type": "NodePort",
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}));
    service(&mut state, &mut asked.clone(), None, false).expect("free");
    let error = service(&mut state, &mut asked.clone(), None, false).expect_err("taken");
    assert_eq!(
        error.to_string(),
        "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
    );
    assert_eq!(state.len(), (1, 1), "a refused Service holds nothing");
    for (port, wrong) in [(80, true), (70_000, true), (32_767, false)] {
        let mut asked = svc(json!({"type": "NodePort",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": port}]}));
        let result = service(&mut state, &mut asked, None, true);
        assert_eq!(result.is_err(), wrong, "{port}");
        if let Err(error) = result {
            assert_eq!(
                error.to_string(),
                format!(
                    "spec.ports[0].nodePort: Invalid value: {port}: provided port is not in the \
                     valid range. The range of valid ports is 30000-32767"
                )
            );
        }
    }
}

#[test]
fn tcp_and_udp_of_one_port_share_a_node_port() {
    let mut state = dual();
    let mut dns = svc(json!({"type": "NodePort", "ports": [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "metrics", "port": 9153, "protocol": "TCP"}]}));
    service(&mut state, &mut dns, None, false).expect("room");
    let ports = &dns["spec"]["ports"];
    assert_eq!(ports[0]["nodePort"], ports[1]["nodePort"]);
    assert_ne!(ports[0]["nodePort"], ports[2]["nodePort"]);
    release(&mut state, &dns);
    assert!(state.is_empty());
}

#[test]
fn dual_stack_is_added_and_taken_back() {
    let mut state = dual();
    let mut one = svc(json!({"type": "ClusterIP"}));
    service(&mut state, &mut one, None, false).expect("room");
    let mut two = one.clone();
    two["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    service(&mut state, &mut two, Some(&one), false).expect("room");
    assert_eq!(two["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(two["spec"]["clusterIPs"][0], one["spec"]["clusterIP"]);
    assert_eq!(two["spec"]["clusterIPs"][1], "fd00:10:96::100");
    let mut back = two.clone();
    back["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    service(&mut state, &mut back, Some(&two), false).expect("fits");
    assert_eq!(back["spec"]["clusterIPs"], one["spec"]["clusterIPs"]);
    assert_eq!(state.len(), (1, 0));
}

#[test]
fn headless_and_external_names_hold_no_address() {
    let mut state = dual();
    let mut headless =
        svc(json!({"type": "ClusterIP", "clusterIP": "None", "selector": {"a": "b"}}));
    service(&mut state, &mut headless, None, false).expect("fits");
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let mut name = svc(json!({"type": "ExternalName", "externalName": "a.example"}));
    service(&mut state, &mut name, None, false).expect("fits");
    assert!(name["spec"].get("clusterIP").is_none());
    assert!(state.is_empty());
}

#[test]
fn a_single_stack_cluster_says_so() {
    let mut state = State::new(vec!["10.96.0.0/16".parse().expect("a CIDR")]);
    let mut both = svc(json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"}));
    let error = service(&mut state, &mut both, None, false).expect_err("one family");
    assert_eq!(
        error.to_string(),
        "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured \
         for dual-stack services"
    );
    let mut six = svc(json!({"type": "ClusterIP", "ipFamilies": ["IPv6"]}));
    let error = service(&mut state, &mut six, None, false).expect_err("one family");
    assert_eq!(
        error.to_string(),
        "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"
    );
}

#[test]
fn a_local_load_balancer_gets_a_health_port() {
    let mut state = dual();
    let mut web = svc(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
        "allocateLoadBalancerNodePorts": true, "ports": [{"port": 80, "protocol": "TCP"}]}));
    service(&mut state, &mut web, None, false).expect("room");
    assert!(web["spec"]["healthCheckNodePort"].as_u64().expect("a port") >= 30_000);
    assert_eq!(state.len(), (1, 2));
    let mut plain = web.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    for name in ["healthCheckNodePort", "externalTrafficPolicy"] {
        plain["spec"].as_object_mut().expect("a map").shift_remove(name);
    }
    plain["spec"]["ports"] = json!([{"port": 80, "protocol": "TCP"}]);
    service(&mut state, &mut plain, Some(&web), false).expect("fits");
    assert_eq!(state.len(), (1, 0));
}

#[test]
fn a_small_range_runs_out_and_says_so() {
    let mut state = State::new(vec!["10.0.0.0/29".parse().expect("a CIDR")]);
    for _ in 0..6 {
        service(&mut state, &mut svc(json!({"type": "ClusterIP"})), None, false).expect("room");
    }
    let error = service(&mut state, &mut svc(json!({"type": "ClusterIP"})), None, false);
    assert!(error.expect_err("full").to_string().contains("range is full"));
}

#[test]
fn a_restart_finds_the_claims_and_the_conflicts() {
    let a = svc(json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}));
    let cidrs = vec!["10.96.0.0/16".parse().expect("a CIDR")];
    let mut state = State::new(cidrs);
    let conflicts = state.rebuild([&a, &a]);
    assert!(state.has_address("10.96.0.9".parse().expect("an address")));
    assert!(state.has_port(30001));
    assert_eq!(conflicts.len(), 2);
    assert_eq!(conflicts[0].what, "clusterIP 10.96.0.9");
}

#[test]
fn ranges_come_and_go_and_may_overlap() {
    let mut state = State::new(vec!["10.0.0.0/29".parse().expect("a CIDR")]);
    let give = |state: &mut State| {
        let mut web = svc(json!({"type": "ClusterIP"}));
        service(state, &mut web, None, false).map(|()| web["spec"]["clusterIP"].clone())
    };
    for _ in 0..6 {
        give(&mut state).expect("room");
    }
    give(&mut state).expect_err("full");
    // The second holds the first: what is given from one is taken in the other.
    let ranges = |texts: &[&str]| -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a CIDR")).collect()
    };
    state.set_ranges(ranges(&["10.0.0.0/29", "10.0.0.0/28", "fd00::/112"]));
    let given: BTreeSet<String> =
        (0..8).map(|_| give(&mut state).expect("room").to_string()).collect();
    assert_eq!(given.len(), 8);
    assert!(given.contains("\"10.0.0.14\"") && !given.contains("\"10.0.0.3\""), "{given:?}");
    give(&mut state).expect_err("full again");
    let mut six = svc(json!({"type": "ClusterIP", "ipFamilies": ["IPv6"]}));
    service(&mut state, &mut six, None, false).expect_err("a range does not add a family");
    // A range that went gives nothing any more and its claims stay.
    state.set_ranges(ranges(&["10.9.0.0/24"]));
    assert!(state.has_address("10.0.0.14".parse().expect("an address")));
    assert_eq!(give(&mut state).expect("room"), "10.9.0.16");
    let mut old = svc(json!({"type": "ClusterIP", "clusterIP": "10.0.0.14"}));
    let why = service(&mut state, &mut old, None, false).expect_err("held").to_string();
    assert!(why.contains("already allocated"), "{why}");
}

proptest! {
    /// Any order of creates, changes and deletes: nothing is given twice, and a rebuild from the
    /// Services that are left finds the same claims.
    #[test]
    fn nothing_is_given_twice(steps in prop::collection::vec((0usize..6, 0u8..4, 0u16..4), 1..60)) {
        let cidrs: Vec<IpNet> =
            vec!["10.0.0.0/28".parse().expect("a CIDR"), "fd00::/124".parse().expect("a CIDR")];
        let mut state = State::new(cidrs.clone());
        let mut live: Vec<Option<Value>> = vec![None; 6];
        for (slot, action, detail) in steps {
            let spec = match action {
                0 => json!({"type": "ClusterIP"}),
                1 => json!({"type": "NodePort", "ports": [
                    {"port": 80 + detail, "protocol": "TCP", "nodePort": 30000 + detail}]}),
                2 => json!({"type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack",
                    "externalTrafficPolicy": "Local", "ports": [{"port": 80, "protocol": "UDP"}]}),
                _ => {
                    if let Some(old) = live[slot].take() {
                        release(&mut state, &old);
                    }
                    continue;
                }
            };
            let mut new = svc(spec);
            if let Some(old) = &live[slot]
                && let Some(ips) = old["spec"].get("clusterIPs")
            {
                new["spec"]["clusterIPs"] = ips.clone();
                if ips.as_array().is_some_and(|ips| ips.len() == 2) && action != 2 {
                    new["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
                }
            }
            if service(&mut state, &mut new, live[slot].as_ref(), false).is_ok() {
                live[slot] = Some(new);
            }
            let mut ips = BTreeSet::new();
            let mut ports = BTreeSet::new();
            for object in live.iter().flatten() {
                let held = service::held(object);
                for ip in held.addresses {
                    prop_assert!(ips.insert(ip), "{ip} given twice");
                }
                for port in held.ports {
                    prop_assert!(ports.insert(port), "{port} given twice");
                }
            }
            prop_assert_eq!(state.len(), (ips.len(), ports.len()));
        }
        let mut again = State::new(cidrs);
        let conflicts = again.rebuild(live.iter().flatten());
        prop_assert!(conflicts.is_empty());
        prop_assert_eq!(again.len(), state.len());
    }
}
