//! Two pods of the node as the CNI plugin leaves them, and what their plugin and their kubelet say.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use link::Namespace;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::{NODE, read};

/// Two pods on links of this node, as the CNI plugin leaves them; gone with the value.
pub struct Pods(pub Vec<(String, Namespace)>);

impl Pods {
    pub fn wire() -> Self {
        let mut pods = Vec::new();
        for number in [5, 6] {
            let name = format!("fwpolpod-{}-{number}", std::process::id());
            let pod = Namespace::create(&name).unwrap();
            let script = format!(
                "ip link add fwpod{number} type veth peer name eth0 netns {name}
                ip link set fwpod{number} up; ip route add 10.244.1.{number} dev fwpod{number}
                ip -n {name} link set lo up; ip -n {name} link set eth0 up
                ip -n {name} addr add 10.244.1.{number}/32 dev eth0
                ip -n {name} route add {NODE} dev eth0; ip -n {name} route add default via {NODE}"
            );
            assert!(Command::new("sh").args(["-ec", &script]).status().unwrap().success());
            pods.push((name, pod));
        }
        link::sysctl::ensure("net/ipv4/ip_forward", "1").unwrap();
        Self(pods)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for (name, _) in &self.0 {
            if let Err(error) = Namespace::delete(name) {
                eprintln!("{error}");
            }
        }
    }
}

/// What a CNI plugin asks for a pod; none when no answer comes in this time.
pub async fn gate(dir: &Path, name: &str, address: &str, within: Duration) -> Option<String> {
    let stream = UnixStream::connect(dir.join("run/policy.sock")).await.expect("the gate");
    let (read, mut write) = stream.into_split();
    let request = json!({"namespace": "default", "name": name, "addresses": [address]});
    write.write_all(format!("{request}\n").as_bytes()).await.expect("asked");
    let mut line = String::new();
    let answer = tokio::time::timeout(within, BufReader::new(read).read_line(&mut line)).await;
    answer.ok().map(|_| line.trim_end().to_owned())
}

/// Makes a pod of this node, with an address where the API has it already.
pub async fn pod(pods: &Api<Pod>, name: &str, address: Option<&str>) {
    let object = json!({"metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "x"}]}});
    pods.create(&PostParams::default(), &read(object)).await.expect("a pod");
    if let Some(address) = address {
        let status =
            json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .expect("a status");
    }
}
