//! Pods: their parts, and that a running one keeps its spec.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::metadata::labels;
use super::path::{entries, items, number, text};
use super::{Check, Path, names, service};

/// A Pod, new or changed.
pub(super) fn pod(new: &Value, old: Option<&Value>, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    match old {
        None => spec(&new["spec"], &path, check),
        Some(old) => {
            for field in ["containers", "initContainers"] {
                let list = path.child(field);
                for (index, container) in items(&new["spec"], field).iter().enumerate() {
                    if text(container, "image").is_empty() {
                        check.required(&list.index(index).child("image"), "");
                    }
                }
            }
            if pinned(&new["spec"], &old["spec"]) != pinned(&old["spec"], &old["spec"]) {
                check.forbidden(
                    &path,
                    "pod updates may not change fields other than `spec.containers[*].image`,\
                     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                     `spec.tolerations` (only additions to existing tolerations),\
                     `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                     previously negative)",
                );
            }
        }
    }
}

/// The spec without what may change, for comparing.
fn pinned(spec: &Value, old: &Value) -> Value {
    let mut spec = spec.clone();
    let Some(map) = spec.as_object_mut() else { return spec };
    map.shift_remove("activeDeadlineSeconds");
    map.shift_remove("ephemeralContainers");
    // A pod that is not scheduled yet may lose gates and get its node (by binding).
    map.shift_remove("schedulingGates");
    if text(old, "nodeName").is_empty() {
        map.shift_remove("nodeName");
    }
    let added = |now: &[Value]| items(old, "tolerations").iter().all(|one| now.contains(one));
    if added(map.get("tolerations").and_then(Value::as_array).map_or(&[], Vec::as_slice)) {
        map.shift_remove("tolerations");
    }
    if number(old, "terminationGracePeriodSeconds") < 0
        && map.get("terminationGracePeriodSeconds") == Some(&json!(1))
    {
        map.shift_remove("terminationGracePeriodSeconds");
        map.insert(
            "terminationGracePeriodSeconds".into(),
            old["terminationGracePeriodSeconds"].clone(),
        );
    }
    for field in ["containers", "initContainers"] {
        for container in map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.shift_remove("image");
            }
        }
    }
    spec.sort_all_objects();
    spec
}

/// Addresses in a Pod's status.
pub(super) fn status(new: &Value, check: &mut Check) {
    let path = Path::ROOT.child("status");
    for field in ["podIPs", "hostIPs"] {
        let list = path.child(field);
        for (index, ip) in items(&new["status"], field).iter().enumerate() {
            let ip = text(ip, "ip");
            if ip.parse::<IpAddr>().is_err() {
                check.invalid(&list.index(index), ip, names::IP_MESSAGE);
            }
        }
    }
}

/// The spec of a Pod or of a template.
pub(super) fn spec(spec: &Value, path: &Path<'_>, check: &mut Check) {
    let volumes = volumes(spec, path, check);
    let containers = items(spec, "containers");
    if containers.is_empty() {
        check.required(&path.child("containers"), "");
    }
    let mut seen: Vec<&str> = Vec::new();
    let host_network = spec["hostNetwork"] == true;
    for field in ["initContainers", "containers"] {
        let list = path.child(field);
        for (index, one) in items(spec, field).iter().enumerate() {
            let path = list.index(index);
            let name = text(one, "name");
            if name.is_empty() {
                check.required(&path.child("name"), "");
            } else {
                check.invalid_all(&path.child("name"), name, &names::dns_label(name));
                if seen.contains(&name) {
                    check.duplicate(&path.child("name"), name);
                }
                seen.push(name);
            }
            container(one, field == "initContainers", host_network, &volumes, &path, check);
        }
    }
    for field in ["restartPolicy", "dnsPolicy"] {
        if text(spec, field).is_empty() {
            check.required(&path.child(field), "");
        }
    }
    check.not_negative(
        &path.child("terminationGracePeriodSeconds"),
        &spec["terminationGracePeriodSeconds"],
    );
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        check.invalid(
            &path.child("activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    labels(spec, "nodeSelector", path, check);
    for (field, rules) in [
        ("hostname", names::dns_label as fn(&str) -> Vec<String>),
        ("subdomain", names::dns_label),
        ("nodeName", names::dns_subdomain),
        ("serviceAccountName", names::dns_subdomain),
    ] {
        let value = text(spec, field);
        if !value.is_empty() {
            check.invalid_all(&path.child(field), value, &rules(value));
        }
    }
    let aliases = path.child("hostAliases");
    for (index, alias) in items(spec, "hostAliases").iter().enumerate() {
        let path = aliases.index(index);
        let ip = text(alias, "ip");
        if ip.parse::<IpAddr>().is_err() {
            check.invalid(&path.child("ip"), ip, names::IP_MESSAGE);
        }
        let hosts = path.child("hostnames");
        for (at, host) in items(alias, "hostnames").iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            check.invalid_all(&hosts.index(at), host, &names::dns_subdomain(host));
        }
    }
    tolerations(spec, path, check);
    if text(spec, "dnsPolicy") == "None" && items(&spec["dnsConfig"], "nameservers").is_empty() {
        let config = path.child("dnsConfig");
        check.required(
            &config.child("nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
}

fn volumes<'a>(spec: &'a Value, path: &Path<'_>, check: &mut Check) -> Vec<&'a str> {
    let list = path.child("volumes");
    let mut seen = Vec::new();
    for (index, volume) in items(spec, "volumes").iter().enumerate() {
        let path = list.index(index);
        let name = text(volume, "name");
        if name.is_empty() {
            check.required(&path.child("name"), "");
        } else {
            check.invalid_all(&path.child("name"), name, &names::dns_label(name));
        }
        if seen.contains(&name) {
            check.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        let sources = volume
            .as_object()
            .map_or(0, |map| map.iter().filter(|(key, v)| *key != "name" && !v.is_null()).count());
        if sources == 0 {
            check.required(&path, "must specify a volume type");
        } else if sources > 1 {
            check.forbidden(&path, "may not specify more than 1 volume type");
        }
        if !volume["hostPath"].is_null() && text(&volume["hostPath"], "path").is_empty() {
            let at = path.child("hostPath");
            check.required(&at.child("path"), "");
        }
        if !volume["secret"].is_null() && text(&volume["secret"], "secretName").is_empty() {
            let at = path.child("secret");
            check.required(&at.child("secretName"), "");
        }
        if !volume["configMap"].is_null() && text(&volume["configMap"], "name").is_empty() {
            let at = path.child("configMap");
            check.required(&at.child("name"), "");
        }
    }
    seen
}

fn container(
    one: &Value,
    init: bool,
    host_network: bool,
    volumes: &[&str],
    path: &Path<'_>,
    check: &mut Check,
) {
    let image = text(one, "image");
    if image.is_empty() {
        check.required(&path.child("image"), "");
    } else if image.trim() != image {
        check.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    if text(one, "imagePullPolicy").is_empty() {
        check.required(&path.child("imagePullPolicy"), "");
    }
    container_ports(one, host_network, path, check);
    let list = path.child("env");
    for (index, variable) in items(one, "env").iter().enumerate() {
        let path = list.index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            check.required(&path.child("name"), "");
        } else {
            check.invalid_all(&path.child("name"), name, &names::env_name(name));
        }
        if !text(variable, "value").is_empty() && !variable["valueFrom"].is_null() {
            check.invalid(
                &path.child("valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            );
        }
    }
    let list = path.child("volumeMounts");
    let mut seen: Vec<&str> = Vec::new();
    for (index, mount) in items(one, "volumeMounts").iter().enumerate() {
        let path = list.index(index);
        let (name, at) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            check.required(&path.child("name"), "");
        } else if !volumes.contains(&name) {
            check.not_found(&path.child("name"), name);
        }
        if at.is_empty() {
            check.required(&path.child("mountPath"), "");
        } else if seen.contains(&at) {
            check.invalid(&path.child("mountPath"), at, "must be unique");
        }
        seen.push(at);
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe_value = &one[field];
        if probe_value.is_null() {
            continue;
        }
        let path = path.child(field);
        if init && text(one, "restartPolicy") != "Always" {
            check.forbidden(
                &path,
                "may not be set for init containers without restartPolicy=Always",
            );
        }
        probe(probe_value, field, &path, check);
    }
    let hooks = path.child("lifecycle");
    for field in ["postStart", "preStop"] {
        let hook = &one["lifecycle"][field];
        if !hook.is_null() {
            handler(hook, &["exec", "httpGet", "tcpSocket", "sleep"], &hooks.child(field), check);
        }
    }
    resources(&one["resources"], &path.child("resources"), check);
}

fn container_ports(one: &Value, host_network: bool, path: &Path<'_>, check: &mut Check) {
    let list = path.child("ports");
    let mut seen: Vec<&str> = Vec::new();
    for (index, port) in items(one, "ports").iter().enumerate() {
        let path = list.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            check.invalid_all(&path.child("name"), name, &names::port_name(name));
            if seen.contains(&name) {
                check.duplicate(&path.child("name"), name);
            }
            seen.push(name);
        }
        let inner = number(port, "containerPort");
        if inner == 0 {
            check.required(&path.child("containerPort"), "");
        } else if let Some(message) = names::port_number(inner) {
            check.invalid(&path.child("containerPort"), inner, message);
        }
        let host = number(port, "hostPort");
        if host != 0 {
            if let Some(message) = names::port_number(host) {
                check.invalid(&path.child("hostPort"), host, message);
            }
            if host_network && host != inner {
                check.invalid(
                    &path.child("containerPort"),
                    inner,
                    "must match `hostPort` when `hostNetwork` is true",
                );
            }
        }
        if text(port, "protocol").is_empty() {
            check.required(&path.child("protocol"), "");
        }
    }
}

fn handler(handler: &Value, known: &[&str], path: &Path<'_>, check: &mut Check) {
    let mut count = 0;
    for name in known {
        let one = &handler[*name];
        if one.is_null() {
            continue;
        }
        if count > 0 {
            check.forbidden(&path.child(name), "may not specify more than 1 handler type");
            continue;
        }
        count += 1;
        let path = path.child(name);
        match *name {
            "exec" if items(one, "command").is_empty() => {
                check.required(&path.child("command"), "");
            }
            "httpGet" | "tcpSocket" => {
                if *name == "httpGet" && text(one, "path").is_empty() {
                    check.required(&path.child("path"), "");
                }
                service::port_or_name(&one["port"], &path.child("port"), check);
            }
            "grpc" => {
                let port = number(one, "port");
                if let Some(message) = names::port_number(port) {
                    check.invalid(&path.child("port"), port, message);
                }
            }
            _ => {}
        }
    }
    if count == 0 {
        check.required(path, "must specify a handler type");
    }
}

fn probe(probe: &Value, field: &str, path: &Path<'_>, check: &mut Check) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, check);
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        check.not_negative(&path.child(name), &probe[name]);
    }
    if field != "readinessProbe"
        && let Some(threshold) = probe["successThreshold"].as_i64()
        && threshold != 1
    {
        check.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

fn resources(resources: &Value, path: &Path<'_>, check: &mut Check) {
    for (name, wanted) in entries(resources, "requests") {
        let Some(limit) = resources["limits"].get(name) else { continue };
        let (Some(wanted), Some(limit)) = (wanted.as_str(), limit.as_str()) else { continue };
        if let (Some(a), Some(b)) = (names::quantity(wanted), names::quantity(limit))
            && a > b
        {
            let at = path.child("requests");
            check.invalid(
                &at,
                wanted,
                &format!("must be less than or equal to {name} limit of {limit}"),
            );
        }
    }
}

fn tolerations(spec: &Value, path: &Path<'_>, check: &mut Check) {
    let list = path.child("tolerations");
    for (index, one) in items(spec, "tolerations").iter().enumerate() {
        let path = list.index(index);
        let (key, operator) = (text(one, "key"), text(one, "operator"));
        if !key.is_empty() {
            check.invalid_all(&path.child("key"), key, &names::qualified_name(key));
        } else if operator != "Exists" {
            check.invalid(
                &path.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and \
                 all keys\"",
            );
        }
        if operator == "Exists" && !text(one, "value").is_empty() {
            check.invalid(
                &path.child("operator"),
                one.clone(),
                "value must be empty when `operator` is 'Exists'",
            );
        }
        if !one["tolerationSeconds"].is_null() && text(one, "effect") != "NoExecute" {
            check.invalid(
                &path.child("effect"),
                text(one, "effect"),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
    }
}
