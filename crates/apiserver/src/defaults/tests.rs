use serde_json::{Value, json};

use super::*;
use crate::kinds::Kinds;

fn defaulted(mut object: Value) -> Value {
    let kinds = Kinds::builtin();
    let api_version = object["apiVersion"].as_str().expect("apiVersion").to_owned();
    let kind = kinds.of(&api_version, object["kind"].as_str().expect("kind")).expect("served");
    let (group, version) = crate::kinds::split_api_version(&api_version);
    let served = kind.served_as(group, version).expect("served").clone();
    apply(&kind, &served, &mut object);
    let once = object.clone();
    apply(&kind, &served, &mut object);
    assert_eq!(once, object, "defaulting twice changes nothing");
    object
}

#[test]
fn service_gets_upstreams_defaults() {
    let object = defaulted(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "NodePort", "sessionAffinity": "ClientIP",
                 "ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]},
    }));
    assert_eq!(
        object["spec"],
        json!({
            "type": "NodePort", "sessionAffinity": "ClientIP",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
                      {"port": 53, "protocol": "UDP", "targetPort": "dns"}],
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
            "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
        })
    );
}

#[test]
fn pod_gets_upstreams_defaults() {
    let object = defaulted(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "httpd",
            "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}},
            "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v"}, {"name": "m", "configMap": {"name": "m"}}]},
    }));
    let spec = &object["spec"];
    assert_eq!(spec["restartPolicy"], "Always");
    assert_eq!(spec["dnsPolicy"], "ClusterFirst");
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    assert_eq!(spec["enableServiceLinks"], true);
    let container = &spec["containers"][0];
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["ports"], json!([{"containerPort": 80, "protocol": "TCP"}]));
    assert_eq!(
        container["readinessProbe"],
        json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
               "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(container["resources"], json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}));
    assert_eq!(spec["volumes"][0], json!({"name": "v", "emptyDir": {}}));
    assert_eq!(spec["volumes"][1]["configMap"]["defaultMode"], 420);
}

#[test]
fn old_deployments_take_the_selector_from_the_template() {
    let object = defaulted(json!({
        "apiVersion": "apps/v1beta1", "kind": "Deployment", "metadata": {"name": "httpd"},
        "spec": {"template": {"metadata": {"labels": {"app": "httpd"}},
            "spec": {"containers": [{"name": "c", "image": "httpd:2.4"}]}}},
    }));
    assert_eq!(object["spec"]["selector"], json!({"matchLabels": {"app": "httpd"}}));
    assert_eq!(object["metadata"]["labels"], json!({"app": "httpd"}));
    assert_eq!(object["spec"]["revisionHistoryLimit"], 2);
    assert_eq!(object["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    let container = &object["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
}

#[test]
fn a_put_without_addresses_keeps_them() {
    let kinds = Kinds::builtin();
    let kind = kinds.stored("", "services").expect("served");
    let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.9",
        "clusterIPs": ["10.96.0.9"],
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}});
    let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
    for_update(&kind, &mut new, &old);
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
    let mut new = old.clone();
    new["spec"]["type"] = json!("ClusterIP");
    for_update(&kind, &mut new, &old);
    assert!(new["spec"]["ports"][0].get("nodePort").is_none());
}

#[test]
fn secrets_take_texts_into_data() {
    let kinds = Kinds::builtin();
    let kind = kinds.stored("", "secrets").expect("served");
    let mut object = json!({"stringData": {"a": "x"}, "data": {"b": "eQ=="}});
    for_create(&kind, &mut object);
    assert_eq!(object, json!({"data": {"b": "eQ==", "a": "eA=="}}));
}
