//! What an operator types about network policy, in a lab: `policy try` before, `list` and `show` after, of policies that enforce,
//! only audit, or are wrong.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod support;

use std::fs;
use std::time::Duration;

use support::{Lab, eventually, output, ready};

/// A script's exit code and both outputs.
fn code(lab: &Lab, script: &str) -> (i32, String) {
    let (out, err, _) = output(&mut lab.shell(&format!("{script}; echo \"@ $?\"")));
    let (out, code) = out.rsplit_once("@ ").unwrap();
    (code.trim().parse().unwrap(), format!("{out}{err}"))
}

/// A pod of an application, with how to ask `db` from it.
const CURL: &str = "kubectl exec deploy/frontend -- curl -s -o /dev/null --max-time 2 $DB";

fn asks(lab: &Lab) -> bool {
    let script = format!(
        "DB=$(kubectl get svc db -o jsonpath='{{.spec.clusterIP}}'); {CURL} >/dev/null 2>&1"
    );
    code(lab, &script).0 == 0
}

/// The row of a policy in `policy list`, as words.
fn row(lab: &Lab, name: &str) -> Vec<String> {
    let text = lab.sh("fairway policy list");
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.unwrap_or_else(|| panic!("{text}")).split_whitespace().map(str::to_owned).collect()
}

fn denied(lab: &Lab, name: &str) -> u64 {
    let script = format!("fairway policy show {name} --node node-1 -o json | jq .deniedPackets");
    lab.sh(&script).trim().parse().unwrap()
}

#[test]
fn a_policy_is_tried_audited_enforced_and_its_faults_are_said() {
    if !ready(&["kubectl", "bash", "jq", "curl"]) {
        return;
    }
    let lab = Lab::up("policy", &["--nodes", "1"]);
    lab.sh("kubectl apply -f examples/three-tiers.yaml; for it in frontend backend db; do kubectl rollout status deployment/$it; done");
    eventually("an answer", Duration::from_secs(10), || {
        if asks(&lab) { Ok(()) } else { Err(lab.logs()) }
    });

    // Agents look for this kind every 20 s.
    lab.sh("kubectl apply -f deploy/manifests/cluster-network-policy.yaml; kubectl wait --for=condition=Established crd/clusternetworkpolicies.policy.networking.k8s.io");

    // Tried: of the flows seen, the one from the frontend would be denied; nothing is applied.
    let (exit, text) =
        code(&lab, "fairway policy try -f examples/allow-db-access.yaml --node node-1");
    assert_eq!(exit, 1, "{text}");
    let line = text.lines().find(|line| line.contains("default/frontend-")).unwrap();
    for word in ["default/db-", "TCP/80", "allowed", "denied", "default/allow-db-access"] {
        assert!(line.contains(word), "{word}: {text}");
    }
    let lines = text.lines().filter(|line| line.contains("default/allow-db-access")).count();
    assert_eq!(lines, 1, "nobody else would notice: {text}");
    assert_eq!(lab.sh("kubectl get netpol -o name"), "");
    assert!(asks(&lab));
    let (exit, text) = code(
        &lab,
        "sed 's/app: db/app: nobody/' examples/allow-db-access.yaml | fairway policy try -f - --node node-1",
    );
    assert_eq!(exit, 0, "{text}");
    assert!(text.contains("would change"), "{text}");

    // Audited: it passes, is counted, and said with its name.
    lab.sh("kubectl apply -f examples/allow-db-access.yaml; kubectl annotate netpol allow-db-access fairway.dev/policy-mode=audit");
    eventually("audited", Duration::from_secs(10), || {
        assert!(asks(&lab), "{}", lab.logs());
        if denied(&lab, "allow-db-access") > 0 { Ok(()) } else { Err(lab.logs()) }
    });
    assert_eq!(
        row(&lab, "allow-db-access"),
        ["allow-db-access", "1", "ingress", "1", "audit", "0"]
    );
    let log =
        || fs::read_to_string(lab.run_dir().join("nodes/node-1/agent.log")).unwrap_or_default();
    eventually("said", Duration::from_secs(10), || {
        let text = log();
        let said = |line: &&str| line.contains("a policy would deny this flow");
        match text.lines().find(said) {
            Some(line)
                if line.contains("default/frontend-") && line.contains("allow-db-access") =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    });
    let metrics = "fairway lab exec node-1 -- curl -s http://127.0.0.1:10256/metrics | grep '^fairway_policy_denied_flows_total'";
    let (_, text) = code(&lab, metrics);
    assert!(text.contains("mode=\"audit\"") && !text.contains("mode=\"deny\""), "{text}");

    // Enforced: it does not pass, and the count goes on under the same name.
    lab.sh("kubectl annotate --overwrite netpol allow-db-access fairway.dev/policy-mode=enforce");
    eventually("denied", Duration::from_secs(10), || {
        if asks(&lab) { Err(lab.logs()) } else { Ok(()) }
    });
    assert_eq!(row(&lab, "allow-db-access")[4], "enforce");
    assert!(denied(&lab, "allow-db-access") > 0);

    // Wrong in parts: said on the object, those parts allow nothing, the rest is in effect.
    let faulty = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "faulty"}, "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "frontend"}}}], "ports": [{"port": "nothing"}]},
            {"from": [{"podSelector": {"matchLabels": {"app": "frontend"}}}], "ports": [{"port": 80}]}]}}"#;
    let lonely = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "lonely"}, "spec": {"podSelector": {"matchLabels": {"app": "nobody"}}}}"#;
    lab.sh(&format!("echo '{faulty}' | kubectl apply -f -; echo '{lonely}' | kubectl apply -f -"));
    eventually("allowed by its other rule", Duration::from_secs(10), || {
        if asks(&lab) { Ok(()) } else { Err(lab.logs()) }
    });
    eventually("an event", Duration::from_secs(10), || {
        let text = lab.sh("kubectl get events --field-selector involvedObject.name=faulty -o json | jq -r '.items[] | .reason'");
        if text.contains("UnknownPortName") { Ok(()) } else { Err(text) }
    });
    let lonely = row(&lab, "lonely");
    assert_eq!((&*lonely[1], &*lonely[5]), ("0", "1"), "it selects nothing, and that is said");
    let (exit, text) = code(&lab, "fairway policy show lonely --node node-1");
    assert!(exit == 0 && text.contains("SelectsNothing"), "{text}");

    // The administrator's, in no namespace.
    let admin = r#"{"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "shut"},
        "spec": {"tier": "Admin", "priority": 10, "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}},
            "ingress": [{"action": "Deny", "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "frontend"}}}}],
                "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]}]}}"#;
    let (exit, text) =
        code(&lab, &format!("echo '{admin}' | fairway policy try -f - --node node-1"));
    assert!(exit == 1 && text.contains("shut ingress[0] of the administrator"), "{text}");
    lab.sh(&format!("echo '{admin}' | kubectl apply -f -"));
    eventually("denied by the administrator", Duration::from_secs(40), || {
        if asks(&lab) { Err(lab.logs()) } else { Ok(()) }
    });
    let text = lab.sh("fairway policy list -A");
    let line =
        text.lines().find(|line| line.contains(" shut ")).unwrap_or_else(|| panic!("{text}"));
    for word in ["<none>", "1", "ingress", "Admin 10"] {
        assert!(line.contains(word), "{word}: {text}");
    }
    eventually("counted", Duration::from_secs(5), || {
        if denied(&lab, "shut") > 0 {
            Ok(())
        } else {
            Err(lab.sh("fairway policy show shut --node node-1"))
        }
    });
    assert!(lab.sh("fairway policy show shut --node node-1").contains("deny"));
}
