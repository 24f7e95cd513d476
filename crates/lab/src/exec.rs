//! `fairway lab exec`: a program of the host inside a node, the client, the switch or a pod's network.
//!
//! The calling process becomes that program, so the terminal, the signals and the exit code are its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};

use crate::client;
use crate::enter::Place;
use crate::layout::{Layout, NETNS_ROOT};
use crate::status::no_such_lab;

/// Where to run a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A node, by name.
    Node(String),
    /// The client outside the cluster.
    Client,
    /// The switch between them.
    Switch,
    /// A pod's network, by namespace and name.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Why a text names no target.
#[derive(Debug, thiserror::Error)]
#[error(
    "{given:?} is no place in a lab: use node-1, client, switch, pod/NAME or pod/NAMESPACE/NAME"
)]
pub struct BadTarget {
    given: String,
}

impl FromStr for Target {
    type Err = BadTarget;
    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(BadTarget { given: text.to_owned() });
        }
        match parts[..] {
            ["client"] => Ok(Self::Client),
            ["switch"] => Ok(Self::Switch),
            [name] if name.strip_prefix("node-").is_some_and(|n| n.parse::<u16>().is_ok()) => {
                Ok(Self::Node(name.to_owned()))
            }
            ["pod" | "pods" | "po", name] => {
                Ok(Self::Pod { namespace: "default".to_owned(), name: name.to_owned() })
            }
            ["pod" | "pods" | "po", namespace, name] => {
                Ok(Self::Pod { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(BadTarget { given: text.to_owned() }),
        }
    }
}

/// Where `target` is; for a pod the API is asked.
///
/// # Errors
/// When the lab, the node or the pod does not exist, or the pod has no network of its own yet.
pub fn place(layout: &Layout, target: &Target) -> anyhow::Result<Place> {
    if !layout.run_dir().exists() {
        bail!("{}", no_such_lab(layout.name()));
    }
    let (namespace, hostname, resolv) = match target {
        Target::Client => (layout.client_namespace(), "client".to_owned(), layout.resolv_file()),
        Target::Switch => (layout.switch_namespace(), "switch".to_owned(), layout.resolv_file()),
        Target::Node(name) => (layout.node_namespace(name), name.clone(), layout.resolv_file()),
        Target::Pod { namespace, name } => return pod_place(layout, namespace, name),
    };
    let net = netns(&namespace);
    if !net.exists() {
        bail!("{}", no_such_place(layout, &hostname));
    }
    Ok(Place {
        net,
        hostname: Some(hostname),
        hosts: Some(layout.hosts_file()),
        resolv: Some(resolv),
    })
}

fn pod_place(layout: &Layout, namespace: &str, name: &str) -> anyhow::Result<Place> {
    let pod = client::pod(layout, namespace, name)?;
    let hostname = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let node = pod.spec.and_then(|spec| spec.node_name);
    let net = match (&node, host_network) {
        (Some(node), true) => netns(&layout.node_namespace(node)),
        _ => {
            let uid = pod.metadata.uid.context("the API gave the pod no uid")?;
            netns(&layout.pod_namespace(&uid))
        }
    };
    if !net.exists() {
        bail!(
            "pod {namespace}/{name} has no network yet: see `kubectl describe pod -n {namespace} {name}`"
        );
    }
    Ok(Place {
        net,
        hostname: Some(hostname.unwrap_or_else(|| name.to_owned())),
        hosts: Some(layout.hosts_file()),
        resolv: Some(layout.resolv_file()),
    })
}

fn netns(name: &str) -> PathBuf {
    Path::new(NETNS_ROOT).join(name)
}

fn no_such_place(layout: &Layout, name: &str) -> String {
    let mut nodes: Vec<String> = fs::read_dir(layout.run_dir().join("nodes"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    nodes.sort();
    format!("lab {} has no {name}: it has {}, client and switch", layout.name(), nodes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!("node-1".parse::<Target>().unwrap(), Target::Node("node-1".into()));
        assert_eq!("client".parse::<Target>().unwrap(), Target::Client);
        let pod = Target::Pod { namespace: "kube-system".into(), name: "dns".into() };
        assert_eq!("pod/kube-system/dns".parse::<Target>().unwrap(), pod);
        let pod = Target::Pod { namespace: "default".into(), name: "web".into() };
        assert_eq!("pod/web".parse::<Target>().unwrap(), pod);
        for bad in ["", "node", "node-", "node-x", "pod", "pod/", "pod//x", "a/b/c/d", "svc/x"] {
            let error = bad.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains("pod/NAMESPACE/NAME"), "{error}");
        }
    }
}
