//! Services, endpoints, Ingresses, policies, and the Service address ranges.

use jiff::Timestamp;
use serde_json::Value;

use super::text::{NONE, first_three, items, labels, number, or, selector, text};
use super::{Column, age};

pub(super) const SERVICE: &[Column] = &[
    ("Name", "string", false),
    ("Type", "string", false),
    ("Cluster-IP", "string", false),
    ("External-IP", "string", false),
    ("Port(s)", "string", false),
    ("Age", "string", false),
    ("Selector", "string", true),
];

fn texts(object: &Value, name: &str) -> Vec<String> {
    items(object, name).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Addresses and host names of a load balancer's status, sorted.
fn load_balancer(object: &Value) -> String {
    let mut found: Vec<&str> = items(&object["status"]["loadBalancer"], "ingress")
        .iter()
        .map(|one| or(text(one, "ip"), text(one, "hostname")))
        .filter(|one| !one.is_empty())
        .collect();
    found.sort_unstable();
    found.dedup();
    found.join(",")
}

fn external_ip(object: &Value) -> String {
    let spec = &object["spec"];
    let own = texts(spec, "externalIPs").join(",");
    match text(spec, "type") {
        "ClusterIP" | "NodePort" => or(&own, NONE).to_owned(),
        "LoadBalancer" => {
            let given = load_balancer(object);
            match (given.is_empty(), own.is_empty()) {
                (false, false) => format!("{given},{own}"),
                (true, true) => "<pending>".to_owned(),
                _ => given + &own,
            }
        }
        "ExternalName" => text(spec, "externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn service_ports(spec: &Value) -> String {
    let ports: Vec<String> = items(spec, "ports")
        .iter()
        .map(|port| {
            let (number, node) = (number(port, "port"), number(port, "nodePort"));
            let protocol = text(port, "protocol");
            if node > 0 {
                format!("{number}:{node}/{protocol}")
            } else {
                format!("{number}/{protocol}")
            }
        })
        .collect();
    or(&ports.join(","), NONE).to_owned()
}

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let ip = spec["clusterIPs"][0].as_str().unwrap_or(text(spec, "clusterIP"));
    vec![
        text(&object["metadata"], "name").into(),
        text(spec, "type").into(),
        or(ip, NONE).into(),
        external_ip(object).into(),
        service_ports(spec).into(),
        age::of(object, now),
        labels(&spec["selector"]).into(),
    ]
}

pub(super) const ENDPOINTS: &[Column] =
    &[("Name", "string", false), ("Endpoints", "string", false), ("Age", "string", false)];

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut list = Vec::new();
    for subset in items(object, "subsets") {
        let addresses = items(subset, "addresses").iter().map(|one| text(one, "ip"));
        let ports = items(subset, "ports");
        if ports.is_empty() {
            list.extend(addresses.map(str::to_owned));
            continue;
        }
        for port in ports {
            list.extend(addresses.clone().map(|ip| host_port(ip, number(port, "port"))));
        }
    }
    vec![
        text(&object["metadata"], "name").into(),
        or(&first_three(&list), NONE).into(),
        age::of(object, now),
    ]
}

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    ("Name", "string", false),
    ("AddressType", "string", false),
    ("Ports", "string", false),
    ("Endpoints", "string", false),
    ("Age", "string", false),
];

pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = items(object, "ports")
        .iter()
        .map(|port| match port.get("port").and_then(Value::as_i64) {
            Some(number) => number.to_string(),
            None => or(text(port, "name"), "*").to_owned(),
        })
        .collect();
    let addresses: Vec<String> =
        items(object, "endpoints").iter().flat_map(|one| texts(one, "addresses")).collect();
    vec![
        text(&object["metadata"], "name").into(),
        text(object, "addressType").into(),
        or(&first_three(&ports), "<unset>").into(),
        or(&first_three(&addresses), "<unset>").into(),
        age::of(object, now),
    ]
}

pub(super) const INGRESS: &[Column] = &[
    ("Name", "string", false),
    ("Class", "string", false),
    ("Hosts", "string", false),
    ("Address", "string", false),
    ("Ports", "string", false),
    ("Age", "string", false),
];

pub(super) fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let hosts: Vec<String> = items(spec, "rules")
        .iter()
        .map(|rule| text(rule, "host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let ports = if items(spec, "tls").is_empty() { "80" } else { "80, 443" };
    vec![
        text(&object["metadata"], "name").into(),
        or(text(spec, "ingressClassName"), NONE).into(),
        or(&first_three(&hosts), "*").into(),
        load_balancer(object).into(),
        ports.into(),
        age::of(object, now),
    ]
}

pub(super) const INGRESS_CLASS: &[Column] = &[
    ("Name", "string", false),
    ("Controller", "string", false),
    ("Parameters", "string", false),
    ("Age", "string", false),
];

pub(super) fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let parameters = &spec["parameters"];
    let shown = if parameters.is_null() {
        NONE.to_owned()
    } else {
        let mut shown = text(parameters, "kind").to_owned();
        let group = text(parameters, "apiGroup");
        if !group.is_empty() {
            shown = format!("{shown}.{group}");
        }
        format!("{shown}/{}", text(parameters, "name"))
    };
    vec![
        text(&object["metadata"], "name").into(),
        text(spec, "controller").into(),
        shown.into(),
        age::of(object, now),
    ]
}

pub(super) const POLICY: &[Column] =
    &[("Name", "string", false), ("Pod-Selector", "string", false), ("Age", "string", false)];

pub(super) fn policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        text(&object["metadata"], "name").into(),
        or(&selector(&object["spec"]["podSelector"]), NONE).into(),
        age::of(object, now),
    ]
}

pub(super) const SERVICE_CIDR: &[Column] =
    &[("Name", "string", false), ("CIDRs", "string", false), ("Age", "string", false)];

pub(super) fn service_cidr(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        text(&object["metadata"], "name").into(),
        texts(&object["spec"], "cidrs").join(",").into(),
        age::of(object, now),
    ]
}

pub(super) const IP_ADDRESS: &[Column] =
    &[("Name", "string", false), ("ParentRef", "string", false), ("Age", "string", false)];

pub(super) fn ip_address(object: &Value, now: Timestamp) -> Vec<Value> {
    let parent = &object["spec"]["parentRef"];
    let shown = if parent.is_null() {
        NONE.to_owned()
    } else {
        let mut resource = text(parent, "resource").to_lowercase();
        if !text(parent, "group").is_empty() {
            resource = format!("{resource}.{}", text(parent, "group"));
        }
        [&resource, text(parent, "namespace"), text(parent, "name")]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("/")
    };
    vec![text(&object["metadata"], "name").into(), shown.into(), age::of(object, now)]
}
