use super::*;

#[test]
fn old_ingress_goes_to_v1_and_back() {
    let old = json!({
        "apiVersion": "extensions/v1beta1", "kind": "Ingress",
        "metadata": {"name": "web"},
        "spec": {
            "backend": {"serviceName": "rest", "servicePort": "http"},
            "rules": [{"host": "a.example", "http": {"paths": [
                {"path": "/", "pathType": "Prefix",
                 "backend": {"serviceName": "web", "servicePort": 80}}]}}],
        },
    });
    let mut object = old.clone();
    convert(&mut object, "networking.k8s.io/v1").expect("known");
    assert_eq!(
        object["spec"]["defaultBackend"],
        json!({"service": {"name": "rest", "port": {"name": "http"}}})
    );
    assert_eq!(
        object["spec"]["rules"][0]["http"]["paths"][0]["backend"],
        json!({"service": {"name": "web", "port": {"number": 80}}})
    );
    convert(&mut object, "extensions/v1beta1").expect("known");
    assert_eq!(object, old);
}

#[test]
fn rollback_of_an_old_deployment_survives() {
    let old = json!({
        "apiVersion": "apps/v1beta1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"rollbackTo": {"revision": 3}},
    });
    let mut object = old.clone();
    convert(&mut object, "apps/v1").expect("known");
    assert_eq!(object["metadata"]["annotations"][ROLLBACK], "3");
    assert!(object["spec"].get("rollbackTo").is_none());
    convert(&mut object, "apps/v1beta1").expect("known");
    assert_eq!(object, old);
}

#[test]
fn events_have_two_names_for_the_same_things() {
    let core = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p"}, "message": "Started", "count": 2,
    });
    let mut object = core.clone();
    convert(&mut object, "events.k8s.io/v1").expect("known");
    assert_eq!(object["regarding"]["name"], "p");
    assert_eq!(object["note"], "Started");
    assert_eq!(object["deprecatedCount"], 2);
    convert(&mut object, "v1").expect("known");
    assert_eq!(object, core);
}

#[test]
fn versions_of_different_kinds_do_not_meet() {
    let mut object = json!({"apiVersion": "v1", "kind": "Pod"});
    let error = convert(&mut object, "apps/v1").expect_err("unknown");
    assert_eq!(error.to_string(), "Pod cannot be converted from v1 to apps/v1");
}
