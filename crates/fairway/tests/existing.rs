//! `lab up --kubeconfig`: nodes join a cluster that was there before, its own controllers do the work, and when the lab
//! goes the cluster is what it was. The cluster here is the API server and the controllers of another lab, which has no
//! nodes of its own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use lab::demo::request;
use support::{Lab, eventually, output, ready};

const NODES: &str = "kubectl get nodes --no-headers -o custom-columns=\
                     N:.metadata.name,Z:.metadata.labels.topology\\\\.kubernetes\\\\.io/zone,C:.spec.podCIDRs[*]";

/// The cluster's authority, in PEM.
const AUTHORITY: &str = "kubectl config view --raw -o jsonpath={.clusters[0].cluster.certificate-authority-data} | base64 -d";

fn join(cluster: &Lab, lab: &Lab, arguments: &[&str]) -> (String, bool) {
    let kubeconfig = cluster.run_dir().join("kubeconfig");
    let mut words = vec!["lab", "up", "--detach", "--name", &lab.name, "--kubeconfig"];
    let file = kubeconfig.display().to_string();
    words.push(&file);
    words.extend(arguments);
    let (_, err, good) = output(Command::new(support::FAIRWAY).args(&words));
    (err, good)
}

#[test]
fn nodes_join_a_cluster_and_leave_it_as_it_was() {
    if !ready(&["ip", "kubectl", "bash", "curl", "base64"]) {
        return;
    }
    let cluster = Lab::up("api", &["--nodes", "0"]);
    cluster.sh("kubectl apply -f examples/hostnames.yaml");
    // A real API server publishes whom a kubelet trusts; here somebody has to say it.
    cluster.sh(&format!(
        "D=$(mktemp -d) && trap 'rm -r $D' EXIT && {AUTHORITY} >$D/ca && kubectl create configmap -n kube-system \
         extension-apiserver-authentication --from-file=client-ca-file=$D/ca"
    ));
    let before = cluster.sh("kubectl get svc,deploy,servicecidr,namespaces -A -o name");

    let lab = Lab::named("join");
    let (err, good) = join(&cluster, &lab, &["--nodes", "2", "--zones", "a,b"]);
    assert!(good, "{err}{}", lab.logs());
    // The pods that waited for a node get one; the kubeconfig of the joined lab is that of the cluster.
    lab.sh("kubectl rollout status deployment/hostnames --timeout=30s");
    let nodes = cluster.sh(NODES);
    let zones: Vec<Vec<&str>> =
        nodes.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(zones, [["node-1", "a"], ["node-2", "b"]], "{nodes}");
    for cidr in ["10.244.0.0/24,fd00:10:244::/64", "10.244.1.0/24,fd00:10:244:1::/64"] {
        assert!(nodes.contains(cidr), "{cidr}: {nodes}");
    }
    let service: SocketAddr = lab.cluster_ip("hostnames", 80);
    let names = lab.pods("app=hostnames");
    eventually("a Service of the cluster answers on a node", Duration::from_secs(10), || {
        let answer = request::get(&lab.netns("node-2"), service, "/hostname").unwrap();
        let name = answer.map_err(|error| error.to_string())?;
        if names.contains_key(&name) { Ok(()) } else { Err(format!("{name} of {names:?}")) }
    });
    // Pods reach the API where the `kubernetes` Service leads: through the relay.
    let api = "curl -sk --max-time 5 https://10.96.0.1/version";
    let version =
        lab.sh(&format!("fairway lab exec $(kubectl get pods -o name | head -1) -- {api}"));
    assert!(version.contains("gitVersion"), "{version}");
    let (table, _, good) = lab.fairway(&["lab", "status"]);
    assert!(
        good && table.contains("node-2   Ready") && table.contains("Services:     3"),
        "{table}"
    );

    // The kubelet's door, as the API server would use it: with a certificate of the cluster, and not without.
    let pod = lab.pods("app=hostnames").into_iter().next().unwrap();
    let (name, (_, node, _)) = pod;
    let url = format!(
        "https://127.0.0.1:$(kubectl get node {node} -o jsonpath={{.status.daemonEndpoints.kubeletEndpoint.Port}})"
    );
    let curl = |what: &str| {
        format!(
            "D=$(mktemp -d) && trap 'rm -r $D' EXIT && \
             kubectl config view --raw -o jsonpath={{.users[0].user.client-certificate-data}} | base64 -d >$D/c && \
             kubectl config view --raw -o jsonpath={{.users[0].user.client-key-data}} | base64 -d >$D/k && \
             curl -sk --max-time 5 {what}"
        )
    };
    let logs = format!("{url}/containerLogs/default/{name}/netexec");
    let said = lab.sh(&curl(&format!("--cert $D/c --key $D/k {logs}")));
    assert!(said.contains("Started HTTP server on port 8080"), "{said}");
    let said = lab.sh(&curl(&format!("--cert $D/c --key $D/k {url}/exec/default/{name}/netexec")));
    assert!(said.contains("serves only logs"), "{said}");
    let said = lab.sh(&format!("{} || echo refused", curl(&logs)));
    assert_eq!(said.trim(), "refused", "without a certificate");

    // Another lab cannot take the nodes.
    let other = Lab::named("second");
    let (err, good) = join(&cluster, &other, &["--nodes", "1"]);
    assert!(!good && err.contains("has a node node-1 that is not of lab second"), "{err}");
    assert!(cluster.sh("kubectl get nodes -o name").contains("node/node-1"));

    // It leaves whatever died before.
    let pid = lab.sh("fairway lab status -o json | grep -A1 '\"control\"' | grep -o '[0-9]*'");
    assert!(output(Command::new("kill").args(["-9", pid.trim()])).2, "{pid}");
    let (_, err, good) = lab.fairway(&["lab", "down"]);
    assert!(good, "{err}");
    lab.traces().assert_none("by lab down");
    assert_eq!(cluster.sh("kubectl get nodes,leases -A -o name"), "");
    assert_eq!(cluster.sh("kubectl get svc,deploy,servicecidr,namespaces -A -o name"), before);
}

#[test]
fn without_scheduler_and_pod_cidrs_the_lab_gives_both() {
    if !ready(&["ip", "kubectl", "bash"]) {
        return;
    }
    // The embedded controllers allocate and bind by themselves, so the pod here is of a scheduler that does not exist, …
    let cluster = Lab::up("bare", &["--nodes", "0"]);
    let lab = Lab::named("binds");
    let (err, good) = join(&cluster, &lab, &["--nodes", "1", "--bind-pods"]);
    assert!(good, "{err}{}", lab.logs());
    lab.sh(
        "kubectl run one --image=nginx && kubectl wait --for=condition=Ready pod/one --timeout=30s",
    );
    // … and a cluster that cannot be asked any more is said, not waited for.
    let (_, err, good) = cluster.fairway(&["lab", "down"]);
    assert!(good, "{err}");
    let (_, err, good) = lab.fairway(&["lab", "down"]);
    assert!(!good && err.contains("its nodes are still in the cluster"), "{err}");
    let (_, err, good) = lab.fairway(&["lab", "down", "--purge"]);
    assert!(good, "{err}");
    lab.traces().assert_none("by lab down --purge");
}
