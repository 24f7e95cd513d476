use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::kinds::{Kinds, Served};
use crate::schema::Schema;

/// What is wrong with an object after defaulting, one line a cause.
fn wrong(object: &Value, old: Option<&Value>) -> Vec<String> {
    let kinds = Kinds::builtin();
    let api_version = object["apiVersion"].as_str().expect("apiVersion");
    let kind = kinds.of(api_version, object["kind"].as_str().expect("kind")).expect("served");
    let served = kind.storage().expect("served").clone();
    let defaulted = |object: &Value| {
        let mut object = object.clone();
        crate::defaults::apply(&kind, &served, &mut object);
        object
    };
    let new = defaulted(object);
    let causes = match old {
        None => create(&kind, &new),
        Some(old) => update(&kind, &new, &defaulted(old)),
    };
    causes.0.iter().map(ToString::to_string).collect()
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

#[test]
fn services() {
    let cases: &[(Value, &[&str])] = &[
        (json!({"ports": [{"port": 80}]}), &[]),
        (json!({}), &["spec.ports: Required value"]),
        (json!({"clusterIP": "None"}), &[]),
        (
            json!({"ports": [{"port": 0}]}),
            &[
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            json!({"ports": [{"port": 80, "targetPort": "a_b"}]}),
            &["spec.ports[0].targetPort: Invalid value: \"a_b\": must contain only alpha-numeric \
               characters (a-z, 0-9), and hyphens (-)"],
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]}),
            &["spec.ports[0].name: Required value"],
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
            &["spec.ports[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
            &["spec.ports[1]: Duplicate value: {\"protocol\":\"TCP\",\"port\":80}"],
        ),
        (
            json!({"type": "NodePort", "ports": [
                {"port": 80, "name": "a", "nodePort": 30000},
                {"port": 81, "name": "b", "nodePort": 30000}]}),
            &["spec.ports[1].nodePort: Duplicate value: 30000"],
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "ICMP"}]}),
            &["spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \
               \"TCP\", \"UDP\""],
        ),
        (
            json!({"type": "Loadbalancer", "ports": [{"port": 80}]}),
            &["spec.type: Unsupported value: \"Loadbalancer\": supported values: \"ClusterIP\", \
               \"ExternalName\", \"LoadBalancer\", \"NodePort\""],
        ),
        (
            json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP",
                   "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            &["spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be \
               greater than 0 and less than 86400"],
        ),
        (
            json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.300"}),
            &["spec.clusterIPs[0]: Invalid value: \"10.96.0.300\": must be a valid IP address, \
               (e.g. 10.9.8.7 or 2001:db8::ffff)"],
        ),
        (
            json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.3",
                   "clusterIPs": ["10.96.0.3", "10.96.0.4"]}),
            &[
                "spec.clusterIPs: Invalid value: [\"10.96.0.3\",\"10.96.0.4\"]: may specify no more \
               than one IP for each IP family",
            ],
        ),
        (json!({"type": "ExternalName"}), &["spec.externalName: Required value"]),
        (
            json!({"type": "ExternalName", "externalName": "a.example", "clusterIP": "None"}),
            &["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
        ),
        (
            json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
            &["spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for \
               externally-accessible services"],
        ),
        (
            json!({"ports": [{"port": 80}], "externalIPs": ["127.0.0.1"]}),
            &[
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range \
               (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            &["spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is \
               'LoadBalancer'"],
        ),
        (
            json!({"ports": [{"port": 80}], "healthCheckNodePort": 31000}),
            &["spec.healthCheckNodePort: Invalid value: 31000: may only be set when `type` is \
               'LoadBalancer' and `externalTrafficPolicy` is 'Local'"],
        ),
        (
            json!({"ports": [{"port": 80}], "trafficDistribution": "Near"}),
            &["spec.trafficDistribution: Unsupported value: \"Near\": supported values: \
               \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\""],
        ),
        (
            json!({"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"],
                   "ports": [{"port": 80}]}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort \
               services",
            ],
        ),
    ];
    for (spec, wanted) in cases {
        assert_eq!(wrong(&service(spec.clone()), None), *wanted, "{spec}");
    }
}

#[test]
fn a_service_keeps_its_address() {
    let old = service(json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
        "ipFamilies": ["IPv4"], "ports": [{"port": 80}]}));
    let mut new = old.clone();
    new["spec"]["clusterIP"] = json!("10.96.0.6");
    new["spec"]["clusterIPs"] = json!(["10.96.0.6"]);
    assert_eq!(
        wrong(&new, Some(&old)),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.6\"]: may not change once set"]
    );
    new["spec"]["type"] = json!("ExternalName");
    new["spec"]["externalName"] = json!("a.example");
    for field in ["clusterIP", "clusterIPs", "ipFamilies"] {
        new["spec"].as_object_mut().expect("a map").shift_remove(field);
    }
    assert!(!wrong(&new, Some(&old)).iter().any(|line| line.contains("once set")));
}

#[test]
fn names_and_metadata() {
    let mut object = service(json!({"ports": [{"port": 80}]}));
    object["metadata"]["name"] = json!("Web_1");
    assert_eq!(
        wrong(&object, None),
        ["metadata.name: Invalid value: \"Web_1\": a DNS-1035 label must consist of lower case \
          alphanumeric characters or '-', start with an alphabetic character, and end with an \
          alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
          '[a-z]([-a-z0-9]*[a-z0-9])?')"]
    );
    object["metadata"] = json!({"namespace": "default"});
    assert_eq!(
        wrong(&object, None),
        ["metadata.name: Required value: name or generateName is required"]
    );
    object["metadata"] = json!({"name": "web", "labels": {"a/b/c": "x", "ok": "-no"}});
    let lines = wrong(&object, None);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("metadata.labels: Invalid value: \"a/b/c\": a qualified name must")
    );
    assert!(lines[1].starts_with("metadata.labels: Invalid value: \"-no\": a valid label must"));
    object["metadata"] = json!({"name": "web", "finalizers": ["mine"]});
    assert_eq!(
        wrong(&object, None),
        [
            "metadata.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name \
          nor is it fully qualified"
        ]
    );
}

#[test]
fn endpoint_slices() {
    let slice = |body: Value| {
        let mut object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "namespace": "default"}, "addressType": "IPv4"});
        for (key, value) in body.as_object().expect("a map") {
            object[key] = value.clone();
        }
        object
    };
    let cases: &[(Value, &[&str])] = &[
        (json!({"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}), &[]),
        (
            json!({"endpoints": [{"addresses": ["10.0.0.300"]}]}),
            &["endpoints[0].addresses[0]: Invalid value: \"10.0.0.300\": must be a valid IPv4 \
               address"],
        ),
        (
            json!({"endpoints": [{"addresses": []}]}),
            &["endpoints[0].addresses: Required value: must contain at least 1 address"],
        ),
        (
            json!({"endpoints": [{"addresses": ["127.0.0.1"]}]}),
            &[
                "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback \
               range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            json!({"addressType": "IPv5", "endpoints": []}),
            &["addressType: Unsupported value: \"IPv5\": supported values: \"FQDN\", \"IPv4\", \
               \"IPv6\""],
        ),
        (
            json!({"endpoints": [], "ports": [{"port": 80}, {"port": 81}]}),
            &["ports[1].name: Duplicate value: \"\""],
        ),
        (
            json!({"endpoints": [], "ports": [{"port": 70000}]}),
            &["ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
    ];
    for (body, wanted) in cases {
        assert_eq!(wrong(&slice(body.clone()), None), *wanted, "{body}");
    }
    let (old, mut new) = (slice(json!({"endpoints": []})), slice(json!({"endpoints": []})));
    new["addressType"] = json!("IPv6");
    assert_eq!(
        wrong(&new, Some(&old)),
        ["addressType: Invalid value: \"IPv6\": field is immutable"]
    );
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

fn template(labels: Value) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x"}]}})
}

#[test]
fn deployments() {
    let good =
        json!({"selector": {"matchLabels": {"a": "b"}}, "template": template(json!({"a": "b"}))});
    assert_eq!(wrong(&deployment(good.clone()), None), [""; 0]);
    let with = |field: &str, value: Value| {
        let mut spec = good.clone();
        spec[field] = value;
        deployment(spec)
    };
    let cases = [
        (
            with("selector", json!({"matchLabels": {"a": "c"}})),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not \
             match template `labels`",
        ),
        (
            with("selector", json!({})),
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        ),
        (
            with("replicas", json!(-1)),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            with("strategy", json!({"type": "Recreate", "rollingUpdate": {}})),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is \
             'Recreate'",
        ),
        (
            with("strategy", json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}})),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when \
             `maxSurge` is 0",
        ),
        (
            with("template", json!({"metadata": {"labels": {"a": "b"}}, "spec": {}})),
            "spec.template.spec.containers: Required value",
        ),
    ];
    for (object, wanted) in cases {
        assert_eq!(wrong(&object, None), [wanted]);
    }
    let changed = deployment(json!({"selector": {"matchLabels": {"a": "c"}},
        "template": template(json!({"a": "c"}))}));
    assert_eq!(
        wrong(&changed, Some(&deployment(good))),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable"]
    );
}

#[test]
fn pods() {
    let pod = |spec: Value| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default"}, "spec": spec})
    };
    let one = |container: Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "x"}]});
        for (key, value) in container.as_object().expect("a map") {
            spec["containers"][0][key] = value.clone();
        }
        pod(spec)
    };
    let cases: &[(Value, &[&str])] = &[
        (one(json!({})), &[]),
        (pod(json!({})), &["spec.containers: Required value"]),
        (one(json!({"image": ""})), &["spec.containers[0].image: Required value"]),
        (
            one(json!({"ports": [{"containerPort": 0}]})),
            &["spec.containers[0].ports[0].containerPort: Required value"],
        ),
        (
            one(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
            &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
        ),
        (
            one(json!({"readinessProbe": {}})),
            &["spec.containers[0].readinessProbe: Required value: must specify a handler type"],
        ),
        (
            one(json!({"livenessProbe": {"tcpSocket": {"port": 80}, "successThreshold": 2}})),
            &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            one(json!({"imagePullPolicy": "Sometimes"})),
            &["spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported \
               values: \"Always\", \"IfNotPresent\", \"Never\""],
        ),
        (
            one(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "500m"}}})),
            &["spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or \
               equal to cpu limit of 500m"],
        ),
        (
            pod(json!({"containers": [{"name": "c", "image": "x"}, {"name": "c", "image": "x"}]})),
            &["spec.containers[1].name: Duplicate value: \"c\""],
        ),
    ];
    for (object, wanted) in cases {
        assert_eq!(wrong(object, None), *wanted, "{object}");
    }
    let mut new = one(json!({}));
    new["spec"]["containers"][0]["image"] = json!("y");
    assert_eq!(wrong(&new, Some(&one(json!({})))), [""; 0], "an image may change");
    new["spec"]["containers"][0]["args"] = json!(["z"]);
    let lines = wrong(&new, Some(&one(json!({}))));
    assert!(lines[0].starts_with("spec: Forbidden: pod updates may not change fields other than"));
}

#[test]
fn others() {
    let cases = [
        (
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "metadata": {"name": "i"}, "spec": {"rules": [{"http": {"paths": [
                    {"path": "a", "pathType": "Prefix",
                     "backend": {"service": {"name": "s", "port": {}}}}]}}]}}),
            vec![
                "spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path",
                "spec.rules[0].http.paths[0].backend: Required value: port name or number is required",
            ],
        ),
        (
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": "n"}, "spec": {"podSelector": {}, "ingress": [
                    {"from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}}),
            vec![
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must \
                 be a strict subset of `cidr`",
            ],
        ),
        (
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}}),
            vec![
                "metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label must consist of \
                 lower case alphanumeric characters or '-', and must start and end with an \
                 alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation \
                 is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        ),
        (
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
                "spec": {"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}}),
            vec![
                "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no \
                 more than one CIDR for each IP family",
            ],
        ),
        (
            json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e"},
                "subsets": [{"addresses": [{"ip": "no"}], "ports": [{"port": 80}]}]}),
            vec![
                "subsets[0].addresses[0].ip: Invalid value: \"no\": must be a valid IP address, \
                 (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 0}}),
            vec!["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
        ),
        (
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
                "type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
            vec!["data[tls.key]: Required value"],
        ),
        (
            json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": "x"}, "spec": {"group": "a.example", "scope": "Namespaced",
                    "names": {"plural": "foos", "kind": "Foo"},
                    "versions": [{"name": "v1", "served": true, "storage": true}]}}),
            vec![
                "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group",
                "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
            ],
        ),
    ];
    for (object, wanted) in cases {
        assert_eq!(wrong(&object, None), wanted);
    }
}

#[test]
fn custom_resources() {
    let raw = json!({"type": "object", "required": ["spec"], "properties": {"spec": {
        "type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 5},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 4},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "list": {"type": "array", "maxItems": 1, "items": {"type": "string", "format": "ipv4"}},
            "one": {"type": "object", "oneOf": [{"required": ["x"]}, {"required": ["y"]}],
                    "properties": {"x": {"type": "string"}, "y": {"type": "string"}}}}}}});
    let schema = Schema::structural(Arc::new(raw));
    let served = Served {
        group: "a.example".into(),
        version: "v1".into(),
        structural: Some(schema),
        ..Served::default()
    };
    let base = Kinds::builtin().stored("", "configmaps").expect("served");
    let kind = Kind {
        group: "a.example".into(),
        kind: "Foo".into(),
        storage_version: "v1".into(),
        served: vec![served],
        crd: Some("foos.a.example".into()),
        ..Kind::clone(&base)
    };
    let cases = [
        (json!({"spec": {"size": 3}}), vec![]),
        (json!({}), vec!["spec: Required value"]),
        (
            json!({"spec": {"size": 0}}),
            vec![
                "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
            ],
        ),
        (
            json!({"spec": {"size": "big"}}),
            vec![
                "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \
                  \"string\"",
            ],
        ),
        (
            json!({"spec": {"size": 1, "name": "A"}}),
            vec!["spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'"],
        ),
        (
            json!({"spec": {"size": 1, "name": "abcde"}}),
            vec!["spec.name: Too long: may not be more than 4 bytes"],
        ),
        (
            json!({"spec": {"size": 1, "mode": "c"}}),
            vec!["spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\""],
        ),
        (
            json!({"spec": {"size": 1, "list": ["x", "1.2.3.4"]}}),
            vec![
                "spec.list: Too many: 2: must have at most 1 items",
                "spec.list[0]: Invalid value: \"x\": spec.list[0] in body must be of type ipv4: \"x\"",
            ],
        ),
        (
            json!({"spec": {"size": 1, "one": {}}}),
            vec![
                "spec.one: Invalid value: \"\": \"spec.one\" must validate one and only one schema \
                  (oneOf). Found none valid",
            ],
        ),
    ];
    for (body, wanted) in cases {
        let mut object =
            json!({"apiVersion": "a.example/v1", "kind": "Foo", "metadata": {"name": "f"}});
        for (key, value) in body.as_object().expect("a map") {
            object[key] = value.clone();
        }
        let lines: Vec<String> = create(&kind, &object).0.iter().map(ToString::to_string).collect();
        assert_eq!(lines, wanted, "{body}");
    }
}

#[test]
fn several_causes_are_joined_as_upstream_joins_them() {
    let mut check = Check::default();
    let path = Path::ROOT.child("spec");
    check.required(&path.child("a"), "");
    assert_eq!(Causes(check.causes.clone()).to_string(), "spec.a: Required value");
    check.forbidden(&path.child("b"), "no");
    let causes = Causes(check.causes);
    assert_eq!(causes.to_string(), "[spec.a: Required value, spec.b: Forbidden: no]");
    assert_eq!(
        causes.to_status()[1],
        json!({"reason": "FieldValueForbidden", "message": "Forbidden: no", "field": "spec.b"})
    );
}
