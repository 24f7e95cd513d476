//! Every example goes through the engines the server uses, and no JSON makes one of them panic.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

use std::path::Path;

use apiserver::kinds::{Kinds, split_api_version};
use apiserver::schema::body;
use apiserver::schema::decode::FieldValidation;
use apiserver::table::{self, IncludeObject};
use apiserver::{allocate, convert, defaults, merge, openapi, validate};
use proptest::prelude::*;
use serde_json::{Value, json};

fn documents(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in text.lines() {
        if line.trim_end() == "---" {
            all.push(String::new());
        } else if let Some(last) = all.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    all.retain(|text| text.lines().any(|l| !l.trim().is_empty() && !l.trim().starts_with('#')));
    all
}

#[test]
fn every_example_is_accepted() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let kinds = Kinds::builtin();
    let mut seen = 0;
    for entry in std::fs::read_dir(&directory).expect("the examples") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("text");
        for document in documents(&text) {
            let at = path.display();
            let read = body::yaml(document.as_bytes()).unwrap_or_else(|e| panic!("{at}: {e}"));
            let api_version = read.value["apiVersion"].as_str().expect("apiVersion").to_owned();
            let name = read.value["kind"].as_str().expect("kind").to_owned();
            let Some(kind) = kinds.of(&api_version, &name) else { continue };
            let (group, version) = split_api_version(&api_version);
            let served = kind.served_as(group, version).expect("served");
            let schema = served.schema().expect("a schema");
            let (mut object, _) = schema
                .decode(read, FieldValidation::Strict)
                .unwrap_or_else(|error| panic!("{at}: {error}"));
            defaults::apply(&kind, served, &mut object);
            convert::convert(&mut object, &kind.storage_api_version()).expect("one kind");
            defaults::apply(&kind, kind.storage().expect("served"), &mut object);
            defaults::for_create(&kind, &mut object);
            let causes = validate::create(&kind, &object);
            assert!(causes.is_empty(), "{at}: {causes}");
            seen += 1;
        }
    }
    assert!(seen > 0, "there are examples");
}

#[test]
fn every_kind_has_a_schema() {
    for kind in Kinds::builtin().all() {
        for served in &kind.served {
            assert!(served.schema().is_some(), "{} {}", served.api_version(), kind.kind);
        }
    }
}

/// JSON that looks like an object often enough to get past the first check.
fn json_like() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-5i32..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "ClusterIP",
            "NodePort",
            "LoadBalancer",
            "ExternalName",
            "None",
            "ClientIP",
            "Local",
            "10.96.0.1",
            "fd00:10:96::1",
            "IPv4",
            "IPv6",
            "RequireDualStack",
            "PreferDualStack",
            "TCP",
            "25%",
            "",
            "é",
            "*.a",
            "2026-01-01T00:00:00Z",
            "1e999",
            "RollingUpdate",
        ])
        .prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    let keys = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "name",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "type",
        "ports",
        "port",
        "protocol",
        "nodePort",
        "targetPort",
        "clusterIP",
        "clusterIPs",
        "ipFamilies",
        "ipFamilyPolicy",
        "selector",
        "sessionAffinity",
        "template",
        "sessionAffinityConfig",
        "clientIP",
        "containers",
        "initContainers",
        "env",
        "volumes",
        "volumeMounts",
        "readinessProbe",
        "httpGet",
        "resources",
        "limits",
        "requests",
        "cpu",
        "strategy",
        "rollingUpdate",
        "maxSurge",
        "matchLabels",
        "matchExpressions",
        "rules",
        "http",
        "paths",
        "backend",
        "service",
        "subsets",
        "addresses",
        "endpoints",
        "ingress",
        "egress",
        "from",
        "ipBlock",
        "cidr",
        "podCIDRs",
        "taints",
        "versions",
        "names",
        "schema",
        "openAPIV3Schema",
        "properties",
        "items",
        "containerStatuses",
        "state",
        "waiting",
        "terminated",
        "initContainerStatuses",
        "conditions",
        "data",
        "stringData",
        "healthCheckNodePort",
        "externalTrafficPolicy",
        "tolerations",
        "downwardAPI",
        "projected",
        "sources",
        "involvedObject",
        "loadBalancer",
        "parameters",
        "rollbackTo",
        "managedFields",
    ]);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::vec((keys.clone(), inner), 0..8).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

fn object(kind: &str, api_version: &str, spec: Value, rest: Value) -> Value {
    let mut object = if rest.is_object() { rest } else { json!({}) };
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    object["spec"] = spec;
    object
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Nothing panics: decoding, defaulting, converting, validating, allocating, printing.
    #[test]
    fn nothing_panics(spec in json_like(), rest in json_like(), other in json_like()) {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let mut state = allocate::State::new(vec![
            "10.96.0.0/24".parse().expect("a CIDR"), "fd00:10:96::/120".parse().expect("a CIDR"),
        ]);
        for kind in Kinds::builtin().all() {
            for served in &kind.served {
                let new = object(&kind.kind, &served.api_version(), spec.clone(), rest.clone());
                let mut old = object(&kind.kind, &kind.storage_api_version(), other.clone(), rest.clone());
                let schema = served.schema().expect("a schema");
                let mut pruned = new.clone();
                let fits = schema.prune(&mut pruned).is_ok();
                // Engines run on what fits the schema, but must survive what does not.
                for mut new in [new, pruned].into_iter().take(if fits { 2 } else { 1 }) {
                    defaults::apply(&kind, served, &mut new);
                    drop(convert::convert(&mut new, &kind.storage_api_version()));
                    defaults::for_create(&kind, &mut new);
                    defaults::for_update(&kind, &mut new, &old);
                    drop(validate::create(&kind, &new).to_string());
                    drop(validate::update(&kind, &new, &old).to_string());
                    drop(validate::status(&kind, &new, &old).to_status());
                    drop(table::row(&kind, served, &new, IncludeObject::Object, now));
                    if kind.kind == "Service" {
                        drop(allocate::service(&mut state, &mut new, None, false));
                        drop(allocate::service(&mut state, &mut old, Some(&new), false));
                        allocate::release(&mut state, &new);
                    }
                    drop(convert::convert(&mut new, &served.api_version()));
                }
            }
        }
        let schema = apiserver::schema::Schema::structural(std::sync::Arc::new(spec.clone()));
        let mut value = rest.clone();
        drop(schema.prune(&mut value));
        drop(merge::strategic(&schema, &rest, &other));
        drop(table::jsonpath::find(&spec.to_string(), &rest));
    }

    /// Any text is read or refused.
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,64}") {
        drop(body::yaml(text.as_bytes()));
        drop(body::json(text.as_bytes()));
        drop(table::jsonpath::find(&text, &json!({"a": [1, {"b": 2}]})));
        drop(openapi::v3(&Kinds::builtin().all(), &text));
    }
}
