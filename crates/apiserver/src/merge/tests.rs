use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn schema(name: &str) -> Schema {
    Schema::builtin(name).expect("in the table")
}

fn patched(name: &str, current: &Value, patch: &Value) -> Value {
    strategic(&schema(name), current, patch).expect("a good patch")
}

fn deployment(containers: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": containers}}}})
}

#[test]
fn containers_merge_by_name() {
    let current = deployment(json!([
        {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]},
        {"name": "b", "image": "b:1"}]));
    let patch = deployment(json!([
        {"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1"},
        {"name": "a", "env": [{"name": "Y", "value": "2"}]}]));
    let next = patched("apps.v1.Deployment", &current, &patch);
    let containers = &next["spec"]["template"]["spec"]["containers"];
    // The patch's order holds for what it names, as upstream's normalizeElementOrder does it.
    assert_eq!(
        *containers,
        json!([
            {"name": "b", "image": "b:2"},
            {"name": "c", "image": "c:1"},
            {"name": "a", "image": "a:1",
             "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}])
    );
}

#[test]
fn kubectl_apply_removes_an_item_and_keeps_the_order() {
    // What kubectl sends after a port was taken out of a file.
    let current = json!({"spec": {"ports": [
        {"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53},
        {"name": "tls", "port": 443}]}});
    let patch = json!({"spec": {
        "$setElementOrder/ports": [{"port": 443}, {"port": 80}],
        "ports": [{"$patch": "delete", "port": 53}, {"port": 443, "targetPort": 8443}]}});
    let next = patched("core.v1.Service", &current, &patch);
    assert_eq!(
        next["spec"]["ports"],
        json!([{"name": "tls", "port": 443, "targetPort": 8443},
               {"name": "http", "port": 80, "nodePort": 30080}])
    );
}

#[test]
fn element_order_leaves_the_servers_own_items_in_place() {
    let current = json!({"spec": {"tolerations": [], "containers": [
        {"name": "a"}, {"name": "injected"}, {"name": "b"}]}});
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        "containers": [{"name": "a", "image": "x"}]}});
    let next = patched("core.v1.Pod", &current, &patch);
    let names: Vec<&Value> =
        next["spec"]["containers"].as_array().expect("a list").iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["injected", "b", "a"]);
}

#[test]
fn primitive_lists_add_remove_and_reorder() {
    let current = json!({"metadata": {"finalizers": ["a/x", "b/x", "c/x"]}});
    let patch = json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["b/x"],
        "$setElementOrder/finalizers": ["d/x", "a/x", "c/x"],
        "finalizers": ["d/x"]}});
    let next = patched("core.v1.Pod", &current, &patch);
    assert_eq!(next["metadata"]["finalizers"], json!(["d/x", "a/x", "c/x"]));
}

#[test]
fn retain_keys_drops_the_other_strategy() {
    let current = json!({"spec": {"strategy": {"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let next = patched("apps.v1.Deployment", &current, &patch);
    assert_eq!(next["spec"]["strategy"], json!({"type": "Recreate"}));
    let bad = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
    assert!(strategic(&schema("apps.v1.Deployment"), &current, &bad).is_err());
}

#[test]
fn replace_and_delete_directives() {
    let current = json!({"metadata": {"labels": {"a": "1", "b": "2"}},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "y"}}});
    let next = patched(
        "core.v1.Pod",
        &current,
        &json!({
        "metadata": {"labels": {"$patch": "replace", "c": "3"}},
        "spec": {"containers": [{"name": "z"}, {"$patch": "replace"}],
                 "nodeSelector": {"$patch": "delete"}}}),
    );
    assert_eq!(next["metadata"]["labels"], json!({"c": "3"}));
    assert_eq!(next["spec"]["containers"], json!([{"name": "z"}]));
    assert_eq!(next["spec"]["nodeSelector"], json!({}));
    let unknown = json!({"metadata": {"labels": {"$patch": "swap"}}});
    assert!(strategic(&schema("core.v1.Pod"), &current, &unknown).is_err());
    let keyless = json!({"spec": {"containers": [{"image": "x"}]}});
    assert_eq!(
        strategic(&schema("core.v1.Pod"), &current, &keyless).expect_err("no key").to_string(),
        "map: {\"image\":\"x\"} does not contain declared merge key: name"
    );
}

#[test]
fn a_new_field_carries_no_directives() {
    let next = patched(
        "core.v1.Pod",
        &json!({}),
        &json!({"spec": {
        "$setElementOrder/containers": [{"name": "a"}],
        "containers": [{"name": "a", "args": null}, {"name": "gone", "$patch": "delete"}]}}),
    );
    assert_eq!(next, json!({"spec": {"containers": [{"name": "a"}]}}));
}

fn manager(name: &str, now: &str) -> Manager {
    Manager {
        name: name.into(),
        api_version: "apps/v1".into(),
        subresource: String::new(),
        now: now.into(),
    }
}

fn web(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

fn applied(current: Option<&Value>, spec: Value, who: &str) -> Value {
    apply(&schema("apps.v1.Deployment"), current, &web(spec), &manager(who, "t")).expect("fits")
}

#[test]
fn what_is_no_longer_applied_goes() {
    let one = applied(
        None,
        json!({"replicas": 3, "paused": true, "selector": {"matchLabels": {"a": "b"}},
               "template": {"spec": {"containers": [{"name": "a", "image": "x",
                   "ports": [{"containerPort": 80}, {"containerPort": 81}]}]}}}),
        "me",
    );
    let fields = &one["metadata"]["managedFields"][0]["fieldsV1"];
    let container = &fields["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"];
    assert_eq!(container["."], json!({}));
    assert_eq!(
        container["f:ports"]["k:{\"containerPort\":80,\"protocol\":\"TCP\"}"],
        json!({".": {}, "f:containerPort": {}})
    );
    assert_eq!(fields["f:spec"]["f:selector"], json!({}), "a selector is owned as a whole");
    let two = applied(
        Some(&one),
        json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
               "template": {"spec": {"containers": [{"name": "a", "image": "x",
                   "ports": [{"containerPort": 81}]}]}}}),
        "me",
    );
    assert!(two["spec"].get("paused").is_none());
    assert_eq!(
        two["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 81}])
    );
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let spec = json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "a"}]}}});
    let one = applied(None, spec.clone(), "me");
    let again =
        apply(&schema("apps.v1.Deployment"), Some(&one), &web(spec), &manager("me", "later"))
            .expect("fits");
    assert_eq!(one, again);
}

#[test]
fn a_field_another_manager_also_applies_stays() {
    let one = applied(None, json!({"replicas": 3, "paused": true}), "me");
    let two = applied(Some(&one), json!({"paused": true}), "you");
    let three = applied(Some(&two), json!({"replicas": 3}), "me");
    assert_eq!(three["spec"]["paused"], true, "you still ask for it");
    let four = applied(Some(&three), json!({}), "you");
    assert!(four["spec"].get("paused").is_none());
    assert_eq!(four["spec"]["replicas"], 3);
    let managers = four["metadata"]["managedFields"].as_array().expect("a list");
    let yours = managers.iter().find(|m| m["manager"] == "you").expect("you");
    assert_eq!(yours["fieldsV1"], json!({"f:spec": {}}), "only the empty spec was asked for");
}

#[test]
fn forcing_takes_the_field_from_its_owner() {
    let one = applied(None, json!({"replicas": 3, "paused": true}), "me");
    let two = applied(Some(&one), json!({"replicas": 5}), "you");
    assert_eq!(two["spec"]["replicas"], 5);
    let managers = two["metadata"]["managedFields"].as_array().expect("a list");
    let mine = managers.iter().find(|m| m["manager"] == "me").expect("me");
    assert_eq!(mine["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
}

#[test]
fn an_update_owns_what_it_changed() {
    let schema = schema("apps.v1.Deployment");
    let one = applied(None, json!({"replicas": 3, "paused": true}), "me");
    let mut scaled = one.clone();
    scaled["spec"]["replicas"] = json!(7);
    scaled["spec"].as_object_mut().expect("a map").shift_remove("paused");
    track_update(&schema, Some(&one), &mut scaled, &manager("kubectl", "t2"));
    let managers = scaled["metadata"]["managedFields"].as_array().expect("a list");
    assert_eq!(managers.len(), 1, "{managers:?}");
    assert_eq!(managers[0]["manager"], "kubectl");
    assert_eq!(managers[0]["operation"], "Update");
    assert_eq!(managers[0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    let mut same = scaled.clone();
    track_update(&schema, Some(&scaled), &mut same, &manager("other", "t3"));
    assert_eq!(same, scaled);
}

#[test]
fn an_apply_that_does_not_fit_is_told_where() {
    let error = apply(
        &schema("apps.v1.Deployment"),
        None,
        &web(json!({"replica": 3})),
        &manager("me", "t"),
    );
    assert_eq!(
        error.expect_err("unknown").to_string(),
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): \
         .spec.replica: field not declared in schema"
    );
    let twice = web(json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}));
    let error = apply(&schema("apps.v1.Deployment"), None, &twice, &manager("me", "t"));
    assert!(error.expect_err("twice").to_string().contains("duplicate entries for key"));
}

fn containers() -> impl Strategy<Value = Vec<(u8, Option<u8>)>> {
    prop::collection::btree_map(0u8..5, prop::option::of(0u8..3), 0..5)
        .prop_map(|map| map.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

fn pod(list: &[(u8, Option<u8>)]) -> Value {
    let list: Vec<Value> = list
        .iter()
        .map(|(name, image)| {
            let mut one = json!({"name": name.to_string()});
            if let Some(image) = image {
                one["image"] = json!(image.to_string());
            }
            one
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": list}})
}

fn arbitrary_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z$/:]{0,8}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("containers"),
        Just("name"),
        Just("$patch"),
        Just("$retainKeys"),
        Just("$setElementOrder/containers"),
        Just("labels"),
        Just("ports"),
        Just("$deleteFromPrimitiveList/finalizers"),
        Just("finalizers"),
        Just("managedFields"),
        Just("template"),
        Just("fieldsV1"),
        Just("f:spec"),
        Just("operation"),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..5).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

proptest! {
    /// A patch without directives is idempotent, and an empty one is the identity.
    #[test]
    fn merging_twice_is_merging_once(a in containers(), b in containers()) {
        let schema = schema("core.v1.Pod");
        let (a, b) = (pod(&a), pod(&b));
        let once = strategic(&schema, &a, &b).expect("keys are there");
        prop_assert_eq!(&strategic(&schema, &once, &b).expect("keys are there"), &once);
        prop_assert_eq!(&strategic(&schema, &a, &json!({})).expect("empty"), &a);
        // Every item of either is there, with the patch's image where it has one.
        for item in b["spec"]["containers"].as_array().expect("a list") {
            let found = once["spec"]["containers"].as_array().expect("a list").iter()
                .find(|one| one["name"] == item["name"]).expect("merged");
            if !item["image"].is_null() {
                prop_assert_eq!(&found["image"], &item["image"]);
            }
        }
    }

    /// Applying a, then b, as one manager leaves b; what another manager wants as well stays.
    #[test]
    fn the_last_apply_is_what_is_left(a in containers(), b in containers(), c in containers()) {
        let schema = schema("core.v1.Pod");
        let me = manager("me", "t");
        let one = apply(&schema, None, &pod(&a), &me).expect("fits");
        let two = apply(&schema, Some(&one), &pod(&b), &me).expect("fits");
        let mut plain = two.clone();
        plain["metadata"].as_object_mut().expect("a map").shift_remove("managedFields");
        let fresh = pod(&b);
        let list = |v: &Value| v["spec"]["containers"].as_array().cloned().unwrap_or_default();
        // The same items in another order are no change, as upstream compares them.
        let by_name = |v: &Value| {
            let mut items = list(v);
            items.sort_by_key(|item| item["name"].to_string());
            items
        };
        prop_assert_eq!(by_name(&plain), by_name(&fresh));
        let three = apply(&schema, Some(&two), &pod(&c), &manager("you", "t")).expect("fits");
        let four = apply(&schema, Some(&three), &pod(&[]), &me).expect("fits");
        let names = |v: &Value| {
            let mut names: Vec<String> =
                list(v).iter().map(|one| one["name"].to_string()).collect();
            names.sort();
            names
        };
        prop_assert_eq!(names(&four), names(&pod(&c)));
    }

    /// No JSON whatever makes an engine panic.
    #[test]
    fn nothing_panics(a in arbitrary_json(), b in arbitrary_json()) {
        for name in ["core.v1.Pod", "apps.v1.Deployment", "core.v1.Service"] {
            let schema = schema(name);
            drop(strategic(&schema, &a, &b));
            drop(apply(&schema, Some(&a), &b, &manager("me", "t")));
            let mut next = b.clone();
            track_update(&schema, Some(&a), &mut next, &manager("me", "t"));
        }
    }
}
