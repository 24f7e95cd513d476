//! A container's environment: `$(VAR)` expansion, downward API fields, Service variables. Pure; what comes from
//! ConfigMaps and Secrets is looked up through [`Sources`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, Service};

use super::state::PodRecord;

/// ConfigMap and Secret data that was fetched beforehand: (kind, name) → entries; `None` when the object is missing.
pub type Sources = BTreeMap<(SourceKind, String), Option<BTreeMap<String, Vec<u8>>>>;

/// Which kind of object a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl SourceKind {
    /// As messages name it.
    pub fn name(self) -> &'static str {
        match self {
            SourceKind::ConfigMap => "configmap",
            SourceKind::Secret => "secret",
        }
    }
}

/// A value that cannot be had; the container waits with `CreateContainerConfigError`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// The object is not there.
    #[error("{kind} {name:?} not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field reference nobody knows.
    #[error("fieldRef {path:?} is not supported")]
    Field {
        /// The path.
        path: String,
    },
}

/// What the downward API knows about the pod beyond its object.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its record.
    pub record: &'a PodRecord,
    /// The node's addresses.
    pub node_ips: &'a [IpAddr],
}

/// Names of the objects a container's environment needs.
pub fn wanted(container: &Container) -> Vec<(SourceKind, String)> {
    let from = container.env_from.iter().flatten().flat_map(|f| {
        let map = f.config_map_ref.as_ref().map(|r| (SourceKind::ConfigMap, r.name.clone()));
        map.into_iter().chain(f.secret_ref.as_ref().map(|r| (SourceKind::Secret, r.name.clone())))
    });
    let single =
        container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()).flat_map(|v| {
            let map =
                v.config_map_key_ref.as_ref().map(|r| (SourceKind::ConfigMap, r.name.clone()));
            map.into_iter()
                .chain(v.secret_key_ref.as_ref().map(|r| (SourceKind::Secret, r.name.clone())))
        });
    from.chain(single).collect()
}

/// The whole environment, later entries winning.
///
/// # Errors
/// A reference that is not optional leads nowhere.
pub fn build(
    container: &Container,
    facts: &Facts<'_>,
    base: &[(String, String)],
    services: &[Service],
    sources: &Sources,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = facts.record.namespace.clone();
    let mut env: Vec<(String, String)> = base.to_vec();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in service_variables(services) {
        known.insert(name.clone(), value.clone());
        env.push((name, value));
    }
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let refs = [
            from.config_map_ref.as_ref().map(|r| (SourceKind::ConfigMap, &r.name, r.optional)),
            from.secret_ref.as_ref().map(|r| (SourceKind::Secret, &r.name, r.optional)),
        ];
        for (kind, name, optional) in refs.into_iter().flatten() {
            match sources.get(&(kind, name.clone())).and_then(Option::as_ref) {
                Some(data) => {
                    for (key, value) in data {
                        let value = String::from_utf8_lossy(value).into_owned();
                        known.insert(format!("{prefix}{key}"), value.clone());
                        env.push((format!("{prefix}{key}"), value));
                    }
                }
                None if optional == Some(true) => {}
                None => return Err(EnvError::Missing { kind: kind.name(), name: name.clone() }),
            }
        }
    }
    for entry in container.env.iter().flatten() {
        let value = match (&entry.value, &entry.value_from) {
            (Some(value), _) => Some(expand(value, &known)),
            (None, None) => Some(String::new()),
            (None, Some(from)) => {
                let keys = [
                    from.config_map_key_ref
                        .as_ref()
                        .map(|r| (SourceKind::ConfigMap, "ConfigMap", &r.name, &r.key, r.optional)),
                    from.secret_key_ref
                        .as_ref()
                        .map(|r| (SourceKind::Secret, "Secret", &r.name, &r.key, r.optional)),
                ];
                if let Some((kind, title, name, key, optional)) = keys.into_iter().flatten().next()
                {
                    let data = sources.get(&(kind, name.clone())).and_then(Option::as_ref);
                    match (data, data.and_then(|d| d.get(key))) {
                        (_, Some(value)) => Some(String::from_utf8_lossy(value).into_owned()),
                        _ if optional == Some(true) => None,
                        (None, _) => {
                            return Err(EnvError::Missing {
                                kind: kind.name(),
                                name: name.clone(),
                            });
                        }
                        (Some(_), None) => {
                            return Err(EnvError::NoKey {
                                kind: title,
                                namespace,
                                name: name.clone(),
                                key: key.clone(),
                            });
                        }
                    }
                } else if let Some(field) = &from.field_ref {
                    Some(downward(&field.field_path, facts)?)
                } else if let Some(resource) = &from.resource_field_ref {
                    Some(resource_field(container, &resource.resource))
                } else {
                    Some(String::new())
                }
            }
        };
        if let Some(value) = value {
            known.insert(entry.name.clone(), value.clone());
            env.push((entry.name.clone(), value));
        }
    }
    // the last of a name counts, in the place of the first
    let mut order: Vec<(String, String)> = Vec::with_capacity(env.len());
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (name, value) in env {
        if let Some(index) = seen.get(&name) {
            order[*index].1 = value;
        } else {
            seen.insert(name.clone(), order.len());
            order.push((name, value));
        }
    }
    Ok(order)
}

/// `$(NAME)` is replaced when known, `$$` is a dollar sign, the rest stays as it is.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|r| r.split_once(')'))
        {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[..name.len() + 3]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// A field of the pod, for `fieldRef` in variables and volumes.
///
/// # Errors
/// There is no such field.
pub fn downward(path: &str, facts: &Facts<'_>) -> Result<String, EnvError> {
    let meta = &facts.pod.metadata;
    let spec = facts.pod.spec.as_ref();
    let ips = |host: bool| -> Vec<String> {
        let pod = &facts.record.ips;
        let list = if host || pod.is_empty() { facts.node_ips } else { pod };
        list.iter().map(ToString::to_string).collect()
    };
    let quoted = |map: Option<&BTreeMap<String, String>>| {
        let lines = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let one = |map: Option<&BTreeMap<String, String>>, key: &str| {
        map.and_then(|m| m.get(key)).cloned().unwrap_or_default()
    };
    Ok(match path {
        "metadata.name" => facts.record.name.clone(),
        "metadata.namespace" => facts.record.namespace.clone(),
        "metadata.uid" => facts.record.uid.clone(),
        "metadata.labels" => quoted(meta.labels.as_ref()),
        "metadata.annotations" => quoted(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => {
            spec.and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into())
        }
        "status.hostIP" => ips(true).into_iter().next().unwrap_or_default(),
        "status.hostIPs" => ips(true).join(","),
        "status.podIP" => ips(false).into_iter().next().unwrap_or_default(),
        "status.podIPs" => ips(false).join(","),
        _ => {
            let key = |kind: &str| path.strip_prefix(kind)?.strip_prefix("['")?.strip_suffix("']");
            match (key("metadata.labels"), key("metadata.annotations")) {
                (Some(key), _) => one(meta.labels.as_ref(), key),
                (_, Some(key)) => one(meta.annotations.as_ref(), key),
                _ => return Err(EnvError::Field { path: path.to_owned() }),
            }
        }
    })
}

fn resource_field(container: &Container, resource: &str) -> String {
    let (kind, name) = resource.split_once('.').unwrap_or(("limits", resource));
    let resources = container.resources.as_ref();
    let map = match kind {
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => resources.and_then(|r| r.limits.as_ref()),
    };
    map.and_then(|m| m.get(name)).map_or_else(|| "0".into(), |q| q.0.clone())
}

/// The variables of Services, as the kubelet makes them (`FOO_SERVICE_HOST`, docker-link forms and all).
pub fn service_variables(services: &[Service]) -> Vec<(String, String)> {
    let mut env = Vec::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        let ports = spec.ports.as_deref().unwrap_or_default();
        let (Ok(ip), Some(first)) = (ip.parse::<IpAddr>(), ports.first()) else { continue };
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let upper = name.to_uppercase().replace('-', "_");
        env.push((format!("{upper}_SERVICE_HOST"), ip.to_string()));
        env.push((format!("{upper}_SERVICE_PORT"), first.port.to_string()));
        for port in ports {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let port_name = port_name.to_uppercase().replace('-', "_");
                env.push((format!("{upper}_SERVICE_PORT_{port_name}"), port.port.to_string()));
            }
        }
        let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{host}:{}", port.port);
            if index == 0 {
                env.push((format!("{upper}_PORT"), url.clone()));
            }
            let prefix = format!("{upper}_PORT_{}_{protocol}", port.port);
            env.push((prefix.clone(), url));
            env.push((format!("{prefix}_PROTO"), lower));
            env.push((format!("{prefix}_PORT"), port.port.to_string()));
            env.push((format!("{prefix}_ADDR"), ip.to_string()));
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn known() -> BTreeMap<String, String> {
        [("A".to_owned(), "1".to_owned())].into()
    }

    #[test]
    fn expansion_follows_the_api_text() {
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("é$(A)", "é1"),
        ] {
            assert_eq!(expand(text, &known()), want, "{text}");
        }
    }

    #[test]
    fn environment_in_order_with_references() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"labels": {"app": "x"}}, "spec": {
            "nodeName": "node-1", "containers": []}}))
            .unwrap();
        let record = PodRecord::new("u", "ns", "p", jiff::Timestamp::UNIX_EPOCH);
        let node_ips = ["172.30.1.1".parse().unwrap()];
        let facts = Facts { pod: &pod, record: &record, node_ips: &node_ips };
        let container: Container = serde_json::from_value(json!({"name": "c",
            "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "m"}}],
            "env": [
                {"name": "A", "value": "a"},
                {"name": "B", "value": "$(A)-$(CM_k)-$(KUBERNETES_SERVICE_HOST)"},
                {"name": "A", "value": "again"},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": true}}}]})).unwrap();
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "kubernetes"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}))
        .unwrap();
        let sources: Sources =
            [((SourceKind::ConfigMap, "m".into()), Some([("k".into(), b"v".to_vec())].into()))]
                .into();
        let env = build(&container, &facts, &[], std::slice::from_ref(&service), &sources).unwrap();
        let get = |n: &str| env.iter().find(|(k, _)| k == n).map(|(_, v)| v.as_str());
        assert_eq!(get("B"), Some("a-v-10.96.0.1"));
        assert_eq!(get("A"), Some("again"));
        assert_eq!(get("NODE"), Some("node-1"));
        assert_eq!(get("APP"), Some("x"));
        assert_eq!(get("S"), None);
        assert_eq!(get("KUBERNETES_PORT_443_TCP_ADDR"), Some("10.96.0.1"));
        assert_eq!(get("KUBERNETES_SERVICE_PORT_HTTPS"), Some("443"));
        let missing = build(&container, &facts, &[], &[service], &Sources::new()).unwrap_err();
        assert_eq!(missing.to_string(), "configmap \"m\" not found");
    }
}
