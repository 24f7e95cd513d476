//! What NetworkPolicy means, straight from the API objects and the API's documentation: slow, plain, and without a line of
//! the code it judges.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The objects of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) policies: Vec<NetworkPolicy>,
}

/// A packet that opens a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: &'a str,
    pub(crate) port: u16,
}

impl Cluster {
    /// Whether the packet may pass: its sender may send it and its receiver may receive it.
    pub(crate) fn allows(&self, packet: Packet<'_>) -> bool {
        if packet.from == packet.to {
            return true;
        }
        let (sender, receiver) = (self.pod_at(packet.from), self.pod_at(packet.to));
        let may_leave = sender.is_none_or(|pod| self.may_leave(pod, packet, receiver));
        let may_enter = receiver.is_none_or(|pod| self.may_enter(pod, packet, sender));
        may_leave && may_enter
    }

    fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.iter().find(|pod| addresses(pod).contains(&address))
    }

    fn selecting<'a>(
        &'a self,
        pod: &'a Pod,
        kind: &'a str,
    ) -> impl Iterator<Item = &'a NetworkPolicy> {
        self.policies.iter().filter(move |policy| {
            let spec = policy.spec.as_ref().unwrap();
            let types = spec.policy_types.clone().unwrap_or_default();
            let about = if types.is_empty() {
                kind == "Ingress" || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())
            } else {
                types.iter().any(|one| one == kind)
            };
            let selector = spec.pod_selector.clone().unwrap_or_default();
            about
                && policy.metadata.namespace == pod.metadata.namespace
                && selects(&selector, pod.metadata.labels.as_ref())
        })
    }

    fn may_enter(&self, pod: &Pod, packet: Packet<'_>, other: Option<&Pod>) -> bool {
        let mut policies = self.selecting(pod, "Ingress").peekable();
        policies.peek().is_none()
            || policies.any(|policy| {
                let rules = policy.spec.as_ref().unwrap().ingress.iter().flatten();
                rules.into_iter().any(|rule: &NetworkPolicyIngressRule| {
                    self.is_peer(policy, rule.from.as_deref(), packet.from, other)
                        && is_port(rule.ports.as_deref(), packet, Some(pod))
                })
            })
    }

    fn may_leave(&self, pod: &Pod, packet: Packet<'_>, other: Option<&Pod>) -> bool {
        let mut policies = self.selecting(pod, "Egress").peekable();
        policies.peek().is_none()
            || policies.any(|policy| {
                let rules = policy.spec.as_ref().unwrap().egress.iter().flatten();
                rules.into_iter().any(|rule: &NetworkPolicyEgressRule| {
                    // A name is one of a pod the rule means by its labels; for addresses names mean nothing.
                    let by_labels = rule.to.as_ref().is_none_or(|to| {
                        to.is_empty()
                            || to.iter().any(|peer| {
                                peer.ip_block.is_none()
                                    && self.is_peer(
                                        policy,
                                        Some(std::slice::from_ref(peer)),
                                        packet.to,
                                        other,
                                    )
                            })
                    });
                    let named = other.filter(|_| by_labels);
                    let numbers: Vec<NetworkPolicyPort> =
                        rule.ports.iter().flatten().cloned().collect();
                    self.is_peer(policy, rule.to.as_deref(), packet.to, other)
                        && is_port(Some(&numbers), packet, None)
                        || named.is_some() && is_named_port(&numbers, packet, named)
                })
            })
    }

    fn is_peer(
        &self,
        policy: &NetworkPolicy,
        peers: Option<&[NetworkPolicyPeer]>,
        address: IpAddr,
        pod: Option<&Pod>,
    ) -> bool {
        let peers = peers.unwrap_or_default();
        peers.is_empty()
            || peers.iter().any(|peer| {
                if let Some(block) = &peer.ip_block {
                    let within =
                        |text: &str| text.parse::<ipnet::IpNet>().unwrap().contains(&address);
                    return within(&block.cidr)
                        && !block.except.iter().flatten().any(|except| within(except));
                }
                let Some(pod) = pod else { return false };
                let in_namespace = match &peer.namespace_selector {
                    None => pod.metadata.namespace == policy.metadata.namespace,
                    Some(selector) => {
                        let name = pod.metadata.namespace.as_ref();
                        let namespace =
                            self.namespaces.iter().find(|it| it.metadata.name.as_ref() == name);
                        selects(selector, namespace.and_then(|it| it.metadata.labels.as_ref()))
                    }
                };
                let selector = peer.pod_selector.clone().unwrap_or_default();
                in_namespace && selects(&selector, pod.metadata.labels.as_ref())
            })
    }
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let listed = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    listed.map(|entry| entry.ip.parse().unwrap()).collect()
}

fn is_port(ports: Option<&[NetworkPolicyPort]>, packet: Packet<'_>, pod: Option<&Pod>) -> bool {
    let ports = ports.unwrap_or_default();
    ports.is_empty()
        || ports.iter().any(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            protocol == packet.protocol
                && match &port.port {
                    None => true,
                    Some(IntOrString::Int(first)) => {
                        let last = port.end_port.unwrap_or(*first);
                        (*first..=last).contains(&i32::from(packet.port))
                    }
                    Some(IntOrString::String(_)) => {
                        is_named_port(std::slice::from_ref(port), packet, pod)
                    }
                }
        })
}

fn is_named_port(ports: &[NetworkPolicyPort], packet: Packet<'_>, pod: Option<&Pod>) -> bool {
    let containers = pod.and_then(|pod| pod.spec.as_ref()).map(|spec| &spec.containers);
    ports.iter().any(|port| {
        let Some(IntOrString::String(name)) = &port.port else { return false };
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let listed = containers.into_iter().flatten().flat_map(|it| it.ports.iter().flatten());
        let same = |it: &&k8s_openapi::api::core::v1::ContainerPort| {
            it.name.as_ref() == Some(name) && it.protocol.as_deref().unwrap_or("TCP") == protocol
        };
        protocol == packet.protocol
            && listed.filter(same).any(|it| it.container_port == i32::from(packet.port))
    })
}

fn selects(
    selector: &LabelSelector,
    labels: Option<&std::collections::BTreeMap<String, String>>,
) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal =
        selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    let fulfilled = selector.match_expressions.iter().flatten().all(|expression| {
        let has = |value: &String| expression.values.iter().flatten().any(|one| one == value);
        match expression.operator.as_str() {
            "In" => value(&expression.key).is_some_and(has),
            "NotIn" => !value(&expression.key).is_some_and(has),
            "Exists" => value(&expression.key).is_some(),
            "DoesNotExist" => value(&expression.key).is_none(),
            other => panic!("operator {other}"),
        }
    });
    equal && fulfilled
}
