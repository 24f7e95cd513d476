//! Services: ports, addresses and families, policies, and what an update may change.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::metadata::labels;
use super::path::{items, number, text};
use super::{Check, Path, names};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// One day, upstream's longest session.
const AFFINITY_MAX: i64 = 86_400;
const KUBELET_PORT: i64 = 10_250;

pub(super) fn service(new: &Value, old: Option<&Value>, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    let spec = &new["spec"];
    if let Some(old) = old {
        update(spec, &old["spec"], &path, check);
    }
    let kind = text(spec, "type");
    by_type(spec, kind, &path, check);
    ports(spec, kind, &path, check);
    labels(spec, "selector", &path, check);
    affinity(spec, &path, check);
    addresses(spec, kind, &path, check);
    for (index, ip) in items(spec, "externalIPs").iter().enumerate() {
        let list = path.child("externalIPs");
        address(ip.as_str().unwrap_or_default(), &list.index(index), check);
    }
    if kind.is_empty() {
        check.required(&path.child("type"), "");
    }
    load_balancer(spec, kind, &path, check);
    policies(spec, kind, &path, check);
}

/// An address that other nodes may be asked to answer for.
fn address(ip: &str, path: &Path<'_>, check: &mut Check) {
    match ip.parse::<IpAddr>() {
        Err(_) => check.invalid(path, ip, names::IP_MESSAGE),
        Ok(parsed) => {
            if let Some(message) = names::special_address(parsed) {
                check.invalid(path, ip, message);
            }
        }
    }
}

fn is_headless(spec: &Value) -> bool {
    spec["clusterIPs"][0] == "None" || text(spec, "clusterIP") == "None"
}

fn by_type(spec: &Value, kind: &str, path: &Path<'_>, check: &mut Check) {
    let headless = is_headless(spec);
    if items(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        check.required(&path.child("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" => {
            if kind == "LoadBalancer" {
                for (index, port) in items(spec, "ports").iter().enumerate() {
                    if number(port, "port") == KUBELET_PORT {
                        check.invalid(
                            &path.child("ports").index(index),
                            KUBELET_PORT,
                            "may not expose port 10250 externally since it is used by kubelet",
                        );
                    }
                }
            }
            if headless {
                check.invalid(
                    &path.child("clusterIPs").index(0),
                    "None",
                    &format!("may not be set to 'None' for {kind} services"),
                );
            }
        }
        "ExternalName" => external_name(spec, path, check),
        _ => {}
    }
}

fn external_name(spec: &Value, path: &Path<'_>, check: &mut Check) {
    let set = |name: &str| !items(spec, name).is_empty();
    if set("clusterIPs") || !text(spec, "clusterIP").is_empty() {
        check.forbidden(&path.child("clusterIPs"), "may not be set for ExternalName services");
    }
    if set("ipFamilies") {
        check.forbidden(&path.child("ipFamilies"), "may not be set for ExternalName services");
    }
    if !text(spec, "ipFamilyPolicy").is_empty() {
        check.forbidden(&path.child("ipFamilyPolicy"), "may not be set for ExternalName services");
    }
    let name = text(spec, "externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        check.required(&path.child("externalName"), "");
    } else {
        check.invalid_all(&path.child("externalName"), name, &names::dns_subdomain(name));
    }
}

fn ports(spec: &Value, kind: &str, path: &Path<'_>, check: &mut Check) {
    let path = path.child("ports");
    let ports = items(spec, "ports");
    let mut seen_names: Vec<&str> = Vec::new();
    let mut seen_ports: Vec<(&str, i64)> = Vec::new();
    let mut seen_node_ports: Vec<(&str, i64)> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                check.required(&path.child("name"), "");
            }
        } else {
            check.invalid_all(&path.child("name"), name, &names::dns_label(name));
            if seen_names.contains(&name) {
                check.duplicate(&path.child("name"), name);
            }
            seen_names.push(name);
        }
        let value = number(port, "port");
        if let Some(message) = names::port_number(value) {
            check.invalid(&path.child("port"), value, message);
        }
        let protocol = text(port, "protocol");
        if protocol.is_empty() {
            check.required(&path.child("protocol"), "");
        }
        port_or_name(&port["targetPort"], &path.child("targetPort"), check);
        let app = text(port, "appProtocol");
        if !app.is_empty() {
            check.invalid_all(&path.child("appProtocol"), app, &names::qualified_name(app));
        }
        let node_port = number(port, "nodePort");
        if node_port != 0 {
            if kind == "ClusterIP" {
                check.forbidden(
                    &path.child("nodePort"),
                    "may not be used when `type` is 'ClusterIP'",
                );
            }
            if seen_node_ports.contains(&(protocol, node_port)) {
                check.duplicate(&path.child("nodePort"), node_port);
            }
            seen_node_ports.push((protocol, node_port));
        }
        if seen_ports.contains(&(protocol, value)) {
            check.duplicate(&path, json!({"protocol": protocol, "port": value}));
        }
        seen_ports.push((protocol, value));
    }
}

/// A port as a number or a name; nothing is no port.
pub(super) fn port_or_name(value: &Value, path: &Path<'_>, check: &mut Check) {
    match value {
        Value::String(name) => check.invalid_all(path, name, &names::port_name(name)),
        value => {
            let number = value.as_i64().unwrap_or(0);
            if let Some(message) = names::port_number(number) {
                check.invalid(path, number, message);
            }
        }
    }
}

fn affinity(spec: &Value, path: &Path<'_>, check: &mut Check) {
    let config = spec.get("sessionAffinityConfig").filter(|config| !config.is_null());
    let path_config = path.child("sessionAffinityConfig");
    match text(spec, "sessionAffinity") {
        "" => check.required(&path.child("sessionAffinity"), ""),
        "ClientIP" => {
            let client = path_config.child("clientIP");
            let detail = "when session affinity type is ClientIP";
            match config.map(|config| &config["clientIP"]) {
                None => check.required(&path_config, detail),
                Some(Value::Null) => check.required(&client, detail),
                Some(inner) => match inner["timeoutSeconds"].as_i64() {
                    None => check.required(&client.child("timeoutSeconds"), detail),
                    Some(seconds) if !(1..=AFFINITY_MAX).contains(&seconds) => check.invalid(
                        &client.child("timeoutSeconds"),
                        seconds,
                        &format!("must be greater than 0 and less than {AFFINITY_MAX}"),
                    ),
                    Some(_) => {}
                },
            }
        }
        "None" if config.is_some() => {
            check.forbidden(&path_config, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn addresses(spec: &Value, kind: &str, path: &Path<'_>, check: &mut Check) {
    if kind == "ExternalName" {
        return;
    }
    let list = path.child("clusterIPs");
    let families_path = path.child("ipFamilies");
    let families = items(spec, "ipFamilies");
    for (index, family) in families.iter().enumerate() {
        if families[..index].contains(family) {
            check.duplicate(&families_path.index(index), family.clone());
        }
    }
    let ip = text(spec, "clusterIP");
    let ips: Vec<&str> =
        items(spec, "clusterIPs").iter().map(|ip| ip.as_str().unwrap_or_default()).collect();
    if ips.is_empty() {
        // The allocator fills the list from the plain field; judge that one here.
        if !ip.is_empty() && ip != "None" && ip.parse::<IpAddr>().is_err() {
            check.invalid(&path.child("clusterIPs").index(0), ip, names::IP_MESSAGE);
        }
        return;
    }
    let all = spec["clusterIPs"].clone();
    if ip.is_empty() {
        check.invalid(&list, all.clone(), "must be empty when `clusterIP` is not specified");
    } else if ips[0] != ip {
        check.invalid(&list, all.clone(), "first value must match `clusterIP`");
    }
    if ips.len() > 2 {
        check.invalid(&list, all.clone(), "may only hold up to 2 values");
    }
    let mut parsed: Vec<IpAddr> = Vec::new();
    for (index, ip) in ips.iter().enumerate() {
        let at = list.index(index);
        if *ip == "None" {
            if ips.len() > 1 {
                check.invalid(&list, all.clone(), "'None' must be the first and only value");
            }
            continue;
        }
        match ip.parse::<IpAddr>() {
            Err(_) => check.invalid(&at, *ip, names::IP_MESSAGE),
            Ok(address) => {
                let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
                if let Some(wanted) = families.get(index).and_then(Value::as_str)
                    && wanted != family
                {
                    check.invalid(
                        &at,
                        *ip,
                        &format!(
                            "expected an {wanted} value as indicated by `ipFamilies[{index}]`"
                        ),
                    );
                }
                parsed.push(address);
            }
        }
    }
    if parsed.len() == 2 && parsed[0].is_ipv6() == parsed[1].is_ipv6() {
        check.invalid(&list, all, "may specify no more than one IP for each IP family");
    }
    if ips.len() > 1 && text(spec, "ipFamilyPolicy") == "SingleStack" {
        check.invalid(
            &path.child("ipFamilyPolicy"),
            "SingleStack",
            "must be RequireDualStack or PreferDualStack when multiple cluster IPs are specified",
        );
    }
}

fn load_balancer(spec: &Value, kind: &str, path: &Path<'_>, check: &mut Check) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let is = kind == "LoadBalancer";
    let ranges = path.child("loadBalancerSourceRanges");
    let list = items(spec, "loadBalancerSourceRanges");
    if !list.is_empty() && !is {
        check.forbidden(&ranges, ONLY);
    }
    for (index, range) in list.iter().enumerate() {
        let range = range.as_str().unwrap_or_default();
        if range.trim().parse::<ipnet::IpNet>().is_err() {
            check.invalid(&ranges.index(index), range, names::CIDR_MESSAGE);
        }
    }
    let allocate = path.child("allocateLoadBalancerNodePorts");
    match (is, spec.get("allocateLoadBalancerNodePorts")) {
        (true, None | Some(Value::Null)) => check.required(&allocate, ""),
        (false, Some(Value::Bool(_))) => check.forbidden(&allocate, ONLY),
        _ => {}
    }
    let class = text(spec, "loadBalancerClass");
    if !class.is_empty() {
        let path = path.child("loadBalancerClass");
        if is {
            check.invalid_all(&path, class, &names::qualified_name(class));
        } else {
            check.forbidden(&path, ONLY);
        }
    }
}

fn policies(spec: &Value, kind: &str, path: &Path<'_>, check: &mut Check) {
    let external = matches!(kind, "LoadBalancer" | "NodePort")
        || (kind == "ClusterIP" && !items(spec, "externalIPs").is_empty());
    let policy = text(spec, "externalTrafficPolicy");
    let at = path.child("externalTrafficPolicy");
    if !external && !policy.is_empty() {
        check.invalid(&at, policy, "may only be set for externally-accessible services");
    } else if external && policy.is_empty() {
        check.required(&at, "");
    }
    let health = number(spec, "healthCheckNodePort");
    let at = path.child("healthCheckNodePort");
    if kind == "LoadBalancer" && policy == "Local" {
        // Zero is filled in by the allocator, after this.
        if health != 0
            && let Some(message) = names::port_number(health)
        {
            check.invalid(&at, health, message);
        }
    } else if health != 0 {
        check.invalid(
            &at,
            health,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    if TYPES.contains(&kind)
        && kind != "ExternalName"
        && text(spec, "internalTrafficPolicy").is_empty()
    {
        check.required(&path.child("internalTrafficPolicy"), "");
    }
    let distribution = text(spec, "trafficDistribution");
    let known = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    if !distribution.is_empty() && !known.contains(&distribution) {
        check.not_supported(&path.child("trafficDistribution"), distribution, &known);
    }
}

/// Addresses and families are given once; a second family may come and go.
fn update(spec: &Value, old: &Value, path: &Path<'_>, check: &mut Check) {
    let by_name = |spec: &Value| text(spec, "type") == "ExternalName";
    if by_name(old) || by_name(spec) {
        return;
    }
    const SET_ONCE: &str = "may not change once set";
    for field in ["clusterIPs", "ipFamilies"] {
        let (was, is) = (items(old, field), items(spec, field));
        let path = path.child(field);
        if was.is_empty() {
            continue;
        }
        let all = spec.get(field).cloned().unwrap_or(json!([]));
        if field == "clusterIPs" && is.is_empty() {
            check.invalid(&path.index(0), all, "primary clusterIP can not be unset");
            continue;
        }
        for index in 0..2 {
            let (Some(was), Some(is)) = (was.get(index), is.get(index)) else { break };
            if was != is && *was != "" && *is != "" {
                check.invalid(&path.index(index), all.clone(), SET_ONCE);
            }
        }
    }
    let local = |spec: &Value| {
        text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
    };
    let (was, is) = (number(old, "healthCheckNodePort"), number(spec, "healthCheckNodePort"));
    if local(old) && local(spec) && was != 0 && was != is {
        check.invalid(&path.child("healthCheckNodePort"), is, "field is immutable");
    }
    let (was, is) = (text(old, "loadBalancerClass"), text(spec, "loadBalancerClass"));
    if text(old, "type") == "LoadBalancer" && text(spec, "type") == "LoadBalancer" && was != is {
        check.invalid(&path.child("loadBalancerClass"), is, SET_ONCE);
    }
}

/// Only a load balancer has addresses of one.
pub(super) fn ingress_belongs(new: &Value, check: &mut Check) {
    let balancer = &new["status"]["loadBalancer"];
    if text(&new["spec"], "type") != "LoadBalancer" && !items(balancer, "ingress").is_empty() {
        let status = Path::ROOT.child("status");
        let path = status.child("loadBalancer");
        check.forbidden(
            &path.child("ingress"),
            "may only be used when `spec.type` is 'LoadBalancer'",
        );
    }
}

/// `status.loadBalancer.ingress` of Services (`with_mode`) and Ingresses.
pub(super) fn load_balancer_status(new: &Value, with_mode: bool, check: &mut Check) {
    let status = Path::ROOT.child("status");
    let balancer = status.child("loadBalancer");
    let path = balancer.child("ingress");
    for (index, ingress) in items(&new["status"]["loadBalancer"], "ingress").iter().enumerate() {
        let path = path.index(index);
        let (ip, host) = (text(ingress, "ip"), text(ingress, "hostname"));
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            check.invalid(&path.child("ip"), ip, names::IP_MESSAGE);
        }
        if with_mode {
            let at = path.child("ipMode");
            match (ip.is_empty(), text(ingress, "ipMode")) {
                (true, "") | (false, "VIP" | "Proxy") => {}
                (true, _) => check.forbidden(&at, "may not be specified when `ip` is not set"),
                (false, "") => check.required(&at, "must be specified when `ip` is set"),
                (false, other) => check.not_supported(&at, other, &["Proxy", "VIP"]),
            }
        }
        if !host.is_empty() {
            check.invalid_all(&path.child("hostname"), host, &names::dns_subdomain(host));
            if host.parse::<IpAddr>().is_ok() {
                check.invalid(
                    &path.child("hostname"),
                    host,
                    "must be a DNS name, not an IP address",
                );
            }
        }
    }
}
