//! A lab's life with the real binary: nothing stays behind whatever dies, several live side by side, objects survive a
//! reboot, and what cannot be done is said in one line.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod support;

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{FAIRWAY, Lab, eventually, host_network, output, ready};

const DEPLOY: &str = "kubectl apply -f examples/hostnames.yaml && \
                      kubectl rollout status deployment/hostnames --timeout=30s";

fn status(lab: &Lab) -> serde_json::Value {
    let (out, err, _) = lab.fairway(&["lab", "status", "-o", "json"]);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}

fn pid(value: &serde_json::Value) -> u32 {
    u32::try_from(value["pid"].as_u64().unwrap_or_else(|| panic!("no pid: {value}"))).unwrap()
}

fn kill(pid: u32) {
    assert!(output(Command::new("kill").args(["-9", &pid.to_string()])).2);
}

#[test]
fn up_and_down_leaves_nothing_and_the_host_alone() {
    if !ready(&["ip", "kubectl", "bash"]) {
        return;
    }
    let lab = Lab::named("life");
    let before = host_network();
    let began = Instant::now();
    lab.bring_up(&["--nodes", "2"]);
    println!("up after {:?}", began.elapsed());
    lab.sh(DEPLOY);
    assert_eq!(before, host_network(), "the host's network with a lab beside it");

    let now = status(&lab);
    assert_eq!(now["state"], "Up", "{now}");
    assert_eq!(now["nodes"].as_array().unwrap().len(), 2);
    let agent = now["nodes"][0]["agent"]["residentBytes"].as_u64().unwrap();
    println!("agent: {} KiB resident", agent / 1024);
    let (table, _, good) = lab.fairway(&["lab", "status"]);
    assert!(good && table.contains("node-2   Ready"), "{table}");
    assert!(lab.fairway(&["lab", "list"]).0.contains(&lab.name));

    let alive = lab.traces();
    assert!(alive.namespaces.len() >= 2 + 2 + 3, "{alive:?}");
    assert!(alive.processes.len() >= 1 + 2 * 2 + 3, "{alive:?}");
    let (_, err, good) = lab.fairway(&["lab", "down"]);
    assert!(good, "{err}");
    lab.traces().assert_none("by lab down");
    assert_eq!(alive.still_running().len(), 0, "processes outlived their namespaces' names");
    assert_eq!(before, host_network());
    let (_, err, good) = lab.fairway(&["lab", "down"]);
    assert!(good && err.contains("there is no lab"), "down again is no error: {err}");
}

#[test]
fn whatever_dies_down_leaves_nothing() {
    if !ready(&["ip", "kubectl", "bash"]) {
        return;
    }
    let lab = Lab::up("crash", &["--nodes", "2"]);
    lab.sh(DEPLOY);
    let alive = lab.traces();
    let now = status(&lab);
    // The control process first, so that nobody repairs what dies next.
    kill(pid(&now["control"]));
    for node in now["nodes"].as_array().unwrap() {
        kill(pid(&node["runner"]));
    }
    kill(pid(&now["nodes"][0]["agent"]));
    eventually("status notices", Duration::from_secs(5), || {
        let now = status(&lab);
        if now["state"] == "Broken" { Ok(()) } else { Err(now.to_string()) }
    });
    let (out, _, good) = lab.fairway(&["lab", "status"]);
    assert!(!good && out.contains("fairway lab up --name"), "{out}");

    // `lab up` clears the wreck and finds the objects; `lab down` then removes all.
    lab.bring_up(&[]);
    assert_eq!(status(&lab)["nodes"].as_array().unwrap().len(), 2, "as many nodes as before");
    lab.sh("kubectl rollout status deployment/hostnames --timeout=30s");
    assert_eq!(alive.still_running().len(), 0, "a process of the wreck is left");

    let alive = lab.traces();
    kill(pid(&status(&lab)["control"]));
    let (_, err, good) = lab.fairway(&["lab", "down"]);
    assert!(good, "{err}");
    lab.traces().assert_none("after the control process was killed");
    assert_eq!(alive.still_running().len(), 0);
}

#[test]
fn up_killed_half_way_leaves_nothing() {
    if !ready(&["ip"]) {
        return;
    }
    for (at, wait) in [30, 120, 300, 600].into_iter().enumerate() {
        let lab = Lab::named(&format!("half{at}"));
        let mut up = Command::new(FAIRWAY)
            .args(["lab", "up", "--nodes", "2", "--name", &lab.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        up.kill().unwrap();
        up.wait().unwrap();
        // The control process notices by itself; `lab down` is right at any moment of that.
        if at % 2 == 0 {
            let (_, err, good) = lab.fairway(&["lab", "down"]);
            assert!(good, "{err}");
            lab.traces().assert_none("by lab down");
        } else {
            eventually("the orphaned lab goes by itself", Duration::from_secs(15), || {
                let traces = lab.traces();
                let gone = traces.processes.is_empty() && traces.namespaces.is_empty();
                if gone { Ok(()) } else { Err(format!("{traces:?}")) }
            });
        }
    }
}

#[test]
fn ctrl_c_takes_a_foreground_lab_down() {
    if !ready(&["ip"]) {
        return;
    }
    let lab = Lab::named("front");
    let up = Command::new(FAIRWAY)
        .args(["lab", "up", "--nodes", "1", "--name", &lab.name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the lab is up", Duration::from_secs(30), || {
        if !lab.run_dir().join("lab.json").exists() {
            return Err("no record".to_owned());
        }
        let now = status(&lab);
        if now["state"] == "Up" { Ok(()) } else { Err(now.to_string()) }
    });
    assert!(output(Command::new("kill").args(["-INT", &up.id().to_string()])).2);
    let said = up.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("1 node Ready in") && text.contains("Ctrl-C takes it down"), "{text}");
    assert!(!text.contains('\x1b'), "no colour without a terminal");
    lab.traces().assert_none("by Ctrl-C");
}

#[test]
fn two_labs_side_by_side() {
    if !ready(&["ip", "kubectl", "curl", "bash"]) {
        return;
    }
    let first = Lab::up("two-a", &["--nodes", "1"]);
    let second = Lab::up("two-b", &["--nodes", "1"]);
    for lab in [&first, &second] {
        lab.sh("kubectl apply -f examples/httpd.yaml -f examples/httpd-svc.yaml && \
                kubectl rollout status deployment/httpd --timeout=30s");
    }
    let urls = [&first, &second].map(|lab| status(lab)["apiUrl"].as_str().unwrap().to_owned());
    assert_ne!(urls[0], urls[1], "the second took the next free port");
    let (_, err, good) = first.fairway(&["lab", "down"]);
    assert!(good, "{err}");
    first.traces().assert_none("by lab down");
    assert_eq!(status(&second)["state"], "Up", "the other lab is untouched");
    let service = second.cluster_ip("httpd-svc", 8080);
    let answer = second.sh(&format!("fairway lab exec node-1 -- curl -s --max-time 3 {service}"));
    assert_eq!(answer.trim(), "<html><body><h1>It works!</h1></body></html>");
}

#[test]
fn a_reboot_finds_the_objects_again() {
    if !ready(&["ip", "kubectl", "curl", "bash"]) {
        return;
    }
    let lab = Lab::up("reboot", &["--nodes", "2", "--persist"]);
    lab.sh(DEPLOY);
    let uid = lab.sh("kubectl get deployment hostnames -o jsonpath={.metadata.uid}");
    let before = lab.cluster_ip("hostnames", 80);
    // The file on disk follows the answers by a moment.
    std::thread::sleep(Duration::from_millis(500));
    // A reboot: no process, no namespace, no /run.
    let traces = lab.traces();
    kill(pid(&status(&lab)["control"]));
    traces
        .processes
        .keys()
        .for_each(|pid| drop(output(Command::new("kill").args(["-9", &pid.to_string()]))));
    for name in &traces.namespaces {
        output(Command::new("ip").args(["netns", "del", name]));
    }
    fs::remove_dir_all(lab.run_dir()).unwrap();

    assert!(lab.fairway(&["lab", "list"]).0.contains("Down"), "its state is listed");
    lab.bring_up(&[]);
    assert_eq!(lab.sh("kubectl get deployment hostnames -o jsonpath={.metadata.uid}"), uid);
    assert_eq!(lab.cluster_ip("hostnames", 80), before, "the Service keeps its address");
    lab.sh("kubectl rollout status deployment/hostnames --timeout=40s");
    let answer = eventually("the Service answers again", Duration::from_secs(20), || {
        let (out, err, good) =
            output(&mut lab.shell(&format!(
                "fairway lab exec node-1 -- curl -s --max-time 1 {before}/hostname"
            )));
        if good && out.starts_with("hostnames-") { Ok(out) } else { Err(out + &err) }
    });
    println!("{answer} answers after the reboot");

    let (_, err, good) = lab.fairway(&["lab", "down"]);
    assert!(good && err.contains("kept"), "{err}");
    assert!(lab.state_dir().exists(), "--persist keeps the objects");
    let (_, err, good) = lab.fairway(&["lab", "down", "--purge"]);
    assert!(good, "{err}");
    lab.traces().assert_none("by lab down --purge");
}

#[test]
fn a_killed_node_stays_down_until_it_is_restarted() {
    if !ready(&["ip", "bash"]) {
        return;
    }
    let lab = Lab::up("node", &["--nodes", "1"]);
    let agent = |lab: &Lab| status(lab)["nodes"][0]["agent"].clone();
    // One that dies by itself comes back.
    let first = pid(&agent(&lab));
    kill(first);
    eventually("the agent is started again", Duration::from_secs(5), || {
        let now = agent(&lab);
        if now["restarts"] == 1 && now["pid"] != first { Ok(()) } else { Err(now.to_string()) }
    });
    // One that was killed on request does not.
    assert!(lab.fairway(&["lab", "node", "kill", "node-1"]).2);
    std::thread::sleep(Duration::from_millis(500));
    let now = status(&lab);
    assert_eq!(now["nodes"][0]["agent"]["killed"], true, "{now}");
    assert!(now["nodes"][0]["runner"]["pid"].is_null(), "{now}");
    assert!(lab.fairway(&["lab", "node", "restart", "node-1"]).2);
    assert!(agent(&lab)["pid"].is_u64());
    let (_, err, good) = lab.fairway(&["lab", "node", "kill", "node-7"]);
    assert!(!good && err.contains("has no node \"node-7\": it has node-1"), "{err}");
}

#[test]
fn what_cannot_be_done_is_one_line() {
    if !ready(&["ip", "setpriv", "bash"]) {
        return;
    }
    let one_line = |words: &[&str], expected: &str| {
        let (_, err, good) = output(Command::new(FAIRWAY).args(words));
        assert!(!good && err.lines().count() == 1 && err.contains(expected), "{words:?}: {err:?}");
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let lab = Lab::named("bad");
    one_line(
        &["lab", "up", "-d", "--name", &lab.name, "--api-port", &port],
        "is taken: choose another with --api-port",
    );
    lab.traces().assert_none("after a taken port");
    one_line(&["lab", "up", "-d", "--name", &lab.name, "--nodes", "251"], "0 to 250 nodes");
    lab.traces().assert_none("after a bad number of nodes");
    one_line(&["lab", "status", "--name", &lab.name], "there is no lab");
    one_line(&["lab", "kubeconfig", "--name", &lab.name], "there is no lab");
    one_line(&["lab", "exec", "--name", &lab.name, "node-1", "--", "true"], "there is no lab");
    one_line(&["lab", "node", "kill", "--name", &lab.name, "node-1"], "there is no lab");

    let up = Lab::up("bad2", &["--nodes", "1"]);
    one_line(&["lab", "up", "-d", "--name", &up.name], "is up already (1 node");
    assert_eq!(status(&up)["state"], "Up", "refusing left it alone");
    one_line(
        &["lab", "exec", "--name", &up.name, "node-9", "--", "true"],
        "has no node-9: it has node-1",
    );
    one_line(
        &["lab", "exec", "--name", &up.name, "pod/default/none", "--", "true"],
        "has no pod default/none",
    );
    let code = |words: &[&str]| Command::new(FAIRWAY).args(words).output().unwrap().status.code();
    assert_eq!(
        code(&["lab", "exec", "--name", &up.name, "node-1", "--", "sh", "-c", "exit 42"]),
        Some(42)
    );
    assert_eq!(
        code(&["lab", "exec", "--name", &up.name, "node-1", "--", "no-such-program"]),
        Some(127)
    );
    assert_eq!(code(&["lab", "up", "--nodes", "many"]), Some(2));

    // Not root. The binary is copied to where an ordinary user may read it.
    let copy = std::env::temp_dir().join(format!("fairway-{}", std::process::id()));
    fs::copy(FAIRWAY, &copy).unwrap();
    let (_, err, good) = output(
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .args(["lab", "up"]),
    );
    fs::remove_file(&copy).unwrap();
    assert!(!good && err.lines().count() == 1 && err.contains("not root"), "{err:?}");
}

#[test]
fn a_full_disk_is_said_before_anything_is_made() {
    if !ready(&["ip", "unshare", "bash"]) {
        return;
    }
    let lab = Lab::named("full");
    // A small /var/lib/fairway of its own, in a mount namespace of its own.
    let script = format!(
        "mkdir -p /var/lib/fairway && mount -t tmpfs -o size=1m tmpfs /var/lib/fairway && \
         exec {FAIRWAY} lab up -d --name {}",
        lab.name
    );
    let (_, err, good) = output(Command::new("unshare").args(["-m", "bash", "-c", &script]));
    assert!(!good && err.lines().count() == 1 && err.contains("free some space"), "{err:?}");
    lab.traces().assert_none("after a full disk");
}

/// A pod that answers at its node's port 8088, its download held to 10 Mbit/s; and one with a rate nobody understands.
const PORTED: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: ported
  annotations: {kubernetes.io/ingress-bandwidth: 10M}
spec:
  containers:
  - name: netexec
    image: registry.k8s.io/e2e-test-images/agnhost:2.47
    args: ["netexec", "--http-port=8080"]
    ports: [{containerPort: 8080, hostPort: 8088}]
---
apiVersion: v1
kind: Pod
metadata:
  name: fast
  annotations: {kubernetes.io/egress-bandwidth: fast}
spec:
  containers: [{name: netexec, image: registry.k8s.io/e2e-test-images/agnhost:2.47}]
"#;

#[test]
fn a_pod_answers_on_its_nodes_port_and_is_held_to_its_rate() {
    if !ready(&["ip", "kubectl", "curl", "tc", "bash"]) {
        return;
    }
    let lab = Lab::up("hostport", &["--nodes", "1"]);
    lab.sh(&format!("kubectl apply -f - <<'EOF'\n{PORTED}EOF\nkubectl wait --for=condition=Ready pod/ported --timeout=30s"));
    let get = |from: &str, to: &str| {
        let ask =
            format!("fairway lab exec {from} -- curl -s --max-time 2 http://{to}:8088/hostname");
        output(&mut lab.shell(&ask)).0
    };
    // From outside, and from the node itself.
    assert_eq!(get("client", "172.30.1.1"), "ported");
    assert_eq!(get("node-1", "127.0.0.1"), "ported");
    let held = lab.sh("fairway lab exec node-1 -- tc qdisc show");
    assert!(held.contains("tbf") && held.contains("rate 10Mbit"), "{held}");

    // What cannot be understood is said, and the other pod is none of its business.
    let why = eventually("an event", Duration::from_secs(10), || {
        let all = lab.sh("kubectl get events --field-selector involvedObject.name=fast -o jsonpath='{.items[*].message}'");
        if all.contains("egress-bandwidth") { Ok(all) } else { Err(all) }
    });
    assert!(why.contains("\"fast\" is no rate between 1k and 1P"), "{why}");

    // The port goes with the pod.
    lab.sh("kubectl delete pod ported --timeout=30s");
    eventually("nobody answers", Duration::from_secs(5), || {
        let said = get("client", "172.30.1.1");
        if said.is_empty() { Ok(()) } else { Err(said) }
    });
}
