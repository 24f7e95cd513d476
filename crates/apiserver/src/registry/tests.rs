use std::collections::BTreeSet;

use serde_json::json;

use super::*;

fn registry() -> Registry {
    let cidrs = vec!["10.96.0.0/16".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()];
    let registry = Registry::new(Store::new(), Kinds::builtin(), cidrs);
    let place = registry.place("", "namespaces", "", "").unwrap();
    let namespace = json!({"metadata": {"name": "default"}});
    registry.create(&place, namespace, &WriteOptions::default()).unwrap();
    registry
}

fn place(registry: &Registry, plural: &str, name: &str) -> Place {
    registry.place("", plural, "default", name).unwrap()
}

#[test]
fn writers_that_meet_lose_nothing() {
    let registry = registry();
    let map = json!({"metadata": {"name": "m"}, "data": {"n": "0"}});
    registry.create(&place(&registry, "configmaps", ""), map, &WriteOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let at = place(&registry, "configmaps", "m");
                    // 409 after many attempts is an honest answer; a client would try again.
                    while registry
                        .change(&at, Part::Main, &WriteOptions::default(), |old| {
                            let n: u32 = old["data"]["n"].as_str().unwrap().parse().unwrap();
                            let mut new = Value::clone(old);
                            new["data"]["n"] = (n + 1).to_string().into();
                            new["metadata"]["resourceVersion"] = "".into();
                            Ok(new)
                        })
                        .is_err()
                    {}
                }
            });
        }
    });
    assert_eq!(registry.get(&place(&registry, "configmaps", "m")).unwrap()["data"]["n"], "200");
}

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}})
}

#[test]
fn addresses_and_ports_are_given_once_and_come_back() {
    let registry = registry();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let registry = &registry;
            scope.spawn(move || {
                for n in 0..40 {
                    let at = place(registry, "services", "");
                    let name = format!("s{thread}-{n}");
                    registry.create(&at, service(&name), &WriteOptions::default()).unwrap();
                }
            });
        }
    });
    let all = registry.store().list(&Resource::new("", "services"), None).items;
    let distinct = |pointer: &str| -> BTreeSet<String> {
        all.iter().map(|service| service.pointer(pointer).unwrap().to_string()).collect()
    };
    assert_eq!((all.len(), distinct("/spec/clusterIP").len()), (160, 160));
    assert_eq!(distinct("/spec/ports/0/nodePort").len(), 160);

    // A refused create gives back what it took: the name is taken, the address it chose is not.
    let mut taken = service("s0-0");
    taken["spec"]["clusterIP"] = "10.96.7.7".into();
    taken["spec"]["ports"][0]["nodePort"] = 31999.into();
    let at = place(&registry, "services", "");
    let refused = registry.create(&at, taken.clone(), &WriteOptions::default()).unwrap_err();
    assert_eq!(refused.reason, "AlreadyExists");
    taken["metadata"]["name"] = "fresh".into();
    let dry = WriteOptions { dry_run: true };
    registry.create(&at, taken.clone(), &dry).unwrap();
    registry.create(&at, taken.clone(), &WriteOptions::default()).unwrap();
    taken["metadata"]["name"] = "other".into();
    let refused = registry.create(&at, taken.clone(), &WriteOptions::default()).unwrap_err();
    assert_eq!((refused.code, refused.reason), (422, "Invalid"));
    registry.delete(&place(&registry, "services", "fresh"), &DeleteOptions::default()).unwrap();
    registry.create(&at, taken, &WriteOptions::default()).unwrap();
}

#[test]
fn a_pod_is_let_go_by_its_runner() {
    let registry = registry();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n",
        "terminationGracePeriodSeconds": 7, "containers": [{"name": "c", "image": "i"}]}});
    let made =
        registry.create(&place(&registry, "pods", ""), pod, &WriteOptions::default()).unwrap();
    assert_eq!(made.object["status"]["phase"], "Pending");
    let at = place(&registry, "pods", "p");
    let marked = registry.delete(&at, &DeleteOptions::default()).unwrap();
    assert!(!marked.gone);
    assert_eq!(marked.object["metadata"]["deletionGracePeriodSeconds"], 7);
    // Asking again changes nothing; a shorter time does; none ends it.
    let again = registry.delete(&at, &DeleteOptions::default()).unwrap();
    assert_eq!(again.object["metadata"], marked.object["metadata"]);
    let grace =
        |seconds| DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() };
    let shorter = registry.delete(&at, &grace(2)).unwrap();
    assert_eq!(shorter.object["metadata"]["deletionGracePeriodSeconds"], 2);
    assert!(registry.delete(&at, &grace(0)).unwrap().gone);
    assert_eq!(registry.get(&at).unwrap_err().code, 404);
}

#[test]
fn a_generation_counts_changes_of_what_is_asked_for() {
    let registry = registry();
    let at = registry.place("networking.k8s.io", "networkpolicies", "default", "").unwrap();
    let policy = json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}}});
    registry.create(&at, policy, &WriteOptions::default()).unwrap();
    let at = registry.place("networking.k8s.io", "networkpolicies", "default", "p").unwrap();
    let bump = |pointer: &str, value: Value| {
        let written = registry.change(&at, Part::Main, &WriteOptions::default(), |old| {
            let mut new = Value::clone(old);
            match pointer {
                "labels" => new["metadata"]["labels"] = value.clone(),
                _ => new["spec"]["podSelector"]["matchLabels"] = value.clone(),
            }
            Ok(new)
        });
        written.unwrap().object["metadata"]["generation"].as_u64().unwrap()
    };
    assert_eq!(bump("labels", json!({"a": "b"})), 1);
    assert_eq!(bump("selector", json!({"a": "b"})), 2);
    assert_eq!(bump("selector", json!({"a": "b"})), 2);
}
