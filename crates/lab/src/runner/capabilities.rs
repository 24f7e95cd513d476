//! What a runtime tells plugins beside their configuration (CNI conventions, "dynamic plugin specific fields"): the host ports of
//! a pod's containers and the rates its annotations limit it to, in the words containerd uses. Pure.

use apiserver::validate::names::quantity;
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};
use serde_json::{Map, Value, json};

/// What the kubelet takes for a rate, bits per second.
const RATES: std::ops::RangeInclusive<f64> = 1e3..=1e15;
/// What containerd sends as burst where an annotation names only a rate: there is no annotation for it.
const ANY_BURST: u32 = u32::MAX;

/// The capability arguments of a pod, by capability.
///
/// # Errors
/// An annotation that is no rate: what it is, and what is right.
pub fn of(pod: &Pod) -> Result<Map<String, Value>, String> {
    let mut arguments = Map::new();
    let ports = port_mappings(pod);
    if !ports.is_empty() {
        arguments.insert("portMappings".to_owned(), ports.into());
    }
    let mut bandwidth = Map::new();
    for direction in ["ingress", "egress"] {
        if let Some(rate) = rate(pod, direction)? {
            bandwidth.insert(format!("{direction}Rate"), rate.into());
            bandwidth.insert(format!("{direction}Burst"), ANY_BURST.into());
        }
    }
    if !bandwidth.is_empty() {
        arguments.insert("bandwidth".to_owned(), bandwidth.into());
    }
    Ok(arguments)
}

/// Of the containers that run beside each other, restartable init containers included, as the kubelet.
fn port_mappings(pod: &Pod) -> Vec<Value> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let is_sidecar = |it: &&Container| it.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|it| it.ports.iter().flatten());
    let mapping = |port: &ContainerPort| {
        let host_port = port.host_port.filter(|port| *port > 0)?;
        Some(json!({
            "hostPort": host_port,
            "containerPort": port.container_port,
            "protocol": port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
            "hostIP": port.host_ip.as_deref().unwrap_or_default(),
        }))
    };
    ports.filter_map(mapping).collect()
}

/// Bits per second of `kubernetes.io/ingress-bandwidth` or `egress-bandwidth`.
fn rate(pod: &Pod, direction: &str) -> Result<Option<u64>, String> {
    let name = format!("kubernetes.io/{direction}-bandwidth");
    let annotations = pod.metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|all| all.get(&name)) else { return Ok(None) };
    match quantity(text) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within the range, which a u64 holds"
        )]
        Some(rate) if RATES.contains(&rate) => Ok(Some(rate.ceil() as u64)),
        _ => {
            Err(format!("annotation {name}: {text:?} is no rate between 1k and 1P (bits a second)"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn host_ports_and_rates_as_containerd_says_them() {
        let told = of(&pod(json!({
            "metadata": {"annotations": {"kubernetes.io/ingress-bandwidth": "10M"}},
            "spec": {
                "containers": [
                    {"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]},
                    {"name": "b", "ports": [{"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"}]},
                ],
                "initContainers": [
                    {"name": "once", "ports": [{"containerPort": 1, "hostPort": 1}]},
                    {"name": "beside", "restartPolicy": "Always", "ports": [{"containerPort": 2, "hostPort": 2}]},
                ],
            },
        })))
        .unwrap();
        assert_eq!(
            Value::from(told),
            json!({
                "portMappings": [
                    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
                    {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
                    {"hostPort": 2, "containerPort": 2, "protocol": "tcp", "hostIP": ""},
                ],
                "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u32},
            })
        );
        assert!(of(&pod(json!({"spec": {"containers": []}}))).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_rate_is_said() {
        for text in ["fast", "1", "2E", "-5M"] {
            let annotated =
                json!({"metadata": {"annotations": {"kubernetes.io/egress-bandwidth": text}}});
            let said = of(&pod(annotated)).unwrap_err();
            assert!(said.contains("egress-bandwidth") && said.contains(text), "{said}");
        }
    }
}
