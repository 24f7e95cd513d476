//! What an operator types, in a lab: `service list`, `show`, `status`, `diff`, on nodes that are right and on one that
//! somebody changed.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod support;

use std::time::Duration;

use support::{Lab, eventually, output, ready};

/// A script's exit code and both outputs.
fn code(lab: &Lab, script: &str) -> (i32, String) {
    let (out, err, _) = output(&mut lab.shell(&format!("{script}; echo \"@ $?\"")));
    let (out, code) = out.rsplit_once("@ ").unwrap();
    (code.trim().parse().unwrap(), format!("{out}{err}"))
}

#[test]
fn an_operator_sees_what_the_kernel_does() {
    if !ready(&["kubectl", "nft", "bash", "jq", "curl"]) {
        return;
    }
    let lab = Lab::up("operate", &["--nodes", "2"]);
    lab.sh("kubectl apply -f examples/myhttpd.yaml 2>/dev/null; kubectl rollout status deployment/myhttpd");
    let (exit, text) = code(&lab, "fairway service status myhttpd-svc --wait");
    assert_eq!(exit, 0, "{text}");
    assert!(text.contains("default/myhttpd-svc: programmed on 2 of 2 nodes, revision "), "{text}");

    let (exit, text) = code(&lab, "fairway service list --node node-1");
    assert_eq!(exit, 0, "{text}");
    let line = text.lines().find(|line| line.starts_with("myhttpd-svc")).unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        (cells[1], cells[3], cells[4], cells[6]),
        ("NodePort", "random", "3", "Serving"),
        "{text}"
    );
    assert!(cells[2].ends_with(":8080/TCP,:30000/TCP"), "{text}");
    let json = lab.sh("fairway service show myhttpd-svc --node node-1 -o json | jq -r '.frontends[] | .kind, .views[0].endpoints[].pod'");
    assert_eq!(
        json.lines().filter(|line| line.starts_with("default/myhttpd-")).count(),
        6,
        "{json}"
    );
    assert!(json.contains("ClusterIP\n") && json.contains("NodePort\n"), "{json}");

    // On the node itself the lab's API on this machine's loopback is not there: by address then.
    let (exit, text) = code(&lab, "fairway lab exec node-1 -- fairway service list");
    assert_eq!(exit, 0, "{text}");
    assert!(
        text.contains("shown by address, without names") && text.contains(":30000/TCP"),
        "{text}"
    );

    // An open connection is counted where it goes.
    let address = lab.cluster_ip("myhttpd-svc", 8080);
    let hold = format!(
        "fairway lab exec node-1 -- bash -c 'exec 3<>/dev/tcp/{}/{}; sleep 30'",
        address.ip(),
        address.port()
    );
    let mut held = lab.shell(&format!("exec {hold}")).spawn().unwrap();
    eventually("a connection", Duration::from_secs(10), || {
        let count =
            lab.sh("fairway service show myhttpd-svc --node node-1 -o json | jq .connections");
        if count.trim() == "1" { Ok(()) } else { Err(count) }
    });
    held.kill().unwrap();
    held.wait().unwrap();

    // Equal on both nodes; then one kernel is changed while nobody repairs it.
    eventually("equal", Duration::from_secs(5), || {
        let (exit, text) = code(&lab, "fairway diff --node node-1 && fairway diff --node node-2");
        if exit == 0 { Ok(()) } else { Err(text) }
    });
    lab.sh("fairway lab node kill node-1 --agent-only");
    lab.sh("fairway lab exec node-1 -- nft flush map inet fairway node-slot4");
    let (exit, text) = code(&lab, "fairway diff --node node-1");
    assert_eq!(exit, 1, "{text}");
    // Nobody says any more that this node's agent answered DNS itself, so its endpoint counts again.
    let of_dns = |line: &&str| line.contains(" . 53") || line.contains(" hairpin");
    let lines: Vec<&str> = text.lines().filter(|line| !of_dns(line)).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines.iter().all(|line| line.starts_with("+ add element inet fairway node-slot4 ")),
        "{text}"
    );
    let text = lab.sh("fairway service list --node node-1 -o wide");
    let line = text.lines().find(|line| line.starts_with("myhttpd-svc")).unwrap();
    assert!(line.contains("Differs") && line.contains("the kernel lacks 10.244."), "{text}");

    // A change this node does not hear of.
    lab.sh("kubectl patch svc myhttpd-svc --type merge -p '{\"spec\":{\"sessionAffinity\":\"ClientIP\"}}'");
    let (exit, text) = code(&lab, "fairway service status myhttpd-svc --wait --timeout 3");
    assert_eq!(exit, 1, "{text}");
    assert!(
        text.contains("programmed on 1 of 2 nodes") && text.contains("node-1   False"),
        "{text}"
    );
    lab.sh("fairway lab node restart node-1 --agent-only");
    let (exit, text) = code(&lab, "fairway service status myhttpd-svc --wait");
    assert_eq!(exit, 0, "{text}");
    lab.sh("fairway diff --node node-1");

    // Manifests stand for the API.
    let (exit, text) = code(
        &lab,
        "kubectl get services,endpointslices,nodes,servicecidrs -A -o yaml | fairway diff --node node-1 --from -",
    );
    assert_eq!(exit, 0, "{text}");

    let (exit, text) = code(&lab, "fairway service status nothing");
    assert_eq!(exit, 2, "{text}");
    let (exit, text) = code(&lab, "fairway diff --node node-9");
    assert_eq!(exit, 2, "{text}");
    assert!(text.contains("lab lab has no node") || text.contains("has no node node-9"), "{text}");
}
