//! Endpoints and EndpointSlices.

use std::net::IpAddr;

use serde_json::Value;

use super::path::{items, number, text};
use super::{Check, Path, names};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

/// Classic Endpoints.
pub(super) fn endpoints(new: &Value, check: &mut Check) {
    let list = Path::ROOT.child("subsets");
    for (index, subset) in items(new, "subsets").iter().enumerate() {
        let path = list.index(index);
        let ports = items(subset, "ports");
        if items(subset, "addresses").is_empty() && items(subset, "notReadyAddresses").is_empty() {
            check.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            let list = path.child(field);
            for (at, address) in items(subset, field).iter().enumerate() {
                let path = list.index(at);
                let host = text(address, "hostname");
                if !host.is_empty() {
                    check.invalid_all(&path.child("hostname"), host, &names::dns_label(host));
                }
                let ip = text(address, "ip");
                match ip.parse::<IpAddr>() {
                    Err(_) => check.invalid(&path.child("ip"), ip, names::IP_MESSAGE),
                    Ok(parsed) => {
                        if let Some(message) = names::special_address(parsed) {
                            check.invalid(&path.child("ip"), ip, message);
                        }
                    }
                }
            }
        }
        let list = path.child("ports");
        for (at, port) in ports.iter().enumerate() {
            let path = list.index(at);
            let name = text(port, "name");
            if name.is_empty() {
                if ports.len() > 1 {
                    check.required(&path.child("name"), "");
                }
            } else {
                check.invalid_all(&path.child("name"), name, &names::dns_label(name));
            }
            port_rules(port, &path, true, check);
        }
    }
}

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

fn port_rules(port: &Value, path: &Path<'_>, wants_number: bool, check: &mut Check) {
    if wants_number || port.get("port").is_some_and(|port| !port.is_null()) {
        let value = number(port, "port");
        if let Some(message) = names::port_number(value) {
            check.invalid(&path.child("port"), value, message);
        }
    }
    match text(port, "protocol") {
        "" => check.required(&path.child("protocol"), ""),
        protocol if !PROTOCOLS.contains(&protocol) => {
            check.not_supported(&path.child("protocol"), protocol, PROTOCOLS);
        }
        _ => {}
    }
    let app = text(port, "appProtocol");
    if !app.is_empty() {
        check.invalid_all(&path.child("appProtocol"), app, &names::qualified_name(app));
    }
}

/// An EndpointSlice.
pub(super) fn slice(new: &Value, old: Option<&Value>, check: &mut Check) {
    let path = Path::ROOT.child("addressType");
    let family = text(new, "addressType");
    const FAMILIES: &[&str] = &["FQDN", "IPv4", "IPv6"];
    if family.is_empty() {
        check.required(&path, "");
    } else if !FAMILIES.contains(&family) {
        check.not_supported(&path, family, FAMILIES);
    }
    if let Some(old) = old
        && text(old, "addressType") != family
    {
        check.invalid(&path, family, "field is immutable");
    }
    let path = Path::ROOT.child("endpoints");
    let list = items(new, "endpoints");
    if list.len() > MAX_ENDPOINTS {
        check.too_many(&path, list.len(), MAX_ENDPOINTS);
    }
    for (index, endpoint) in list.iter().take(MAX_ENDPOINTS).enumerate() {
        one(endpoint, family, &path.index(index), check);
    }
    let path = Path::ROOT.child("ports");
    let ports = items(new, "ports");
    if ports.len() > MAX_PORTS {
        check.too_many(&path, ports.len(), MAX_PORTS);
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, port) in ports.iter().take(MAX_PORTS).enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            check.invalid_all(&path.child("name"), name, &names::dns_label(name));
        }
        if seen.contains(&name) {
            check.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        port_rules(port, &path, false, check);
    }
}

fn one(endpoint: &Value, family: &str, path: &Path<'_>, check: &mut Check) {
    let list = path.child("addresses");
    let addresses = items(endpoint, "addresses");
    if addresses.is_empty() {
        check.required(&list, "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        check.too_many(&list, addresses.len(), MAX_ADDRESSES);
    }
    for (index, address) in addresses.iter().take(MAX_ADDRESSES).enumerate() {
        let path = list.index(index);
        let address = address.as_str().unwrap_or_default();
        let parsed = address.parse::<IpAddr>().ok();
        match family {
            "IPv4" if !parsed.is_some_and(|ip| ip.is_ipv4()) => {
                check.invalid(&path, address, "must be a valid IPv4 address");
            }
            "IPv6" if !parsed.is_some_and(|ip| ip.is_ipv6()) => {
                check.invalid(&path, address, "must be a valid IPv6 address");
            }
            "FQDN" => check.invalid_all(&path, address, &names::dns_subdomain(address)),
            _ => {
                if let Some(message) = parsed.and_then(names::special_address) {
                    check.invalid(&path, address, message);
                }
            }
        }
    }
    for field in ["nodeName", "hostname"] {
        let value = text(endpoint, field);
        if value.is_empty() {
            continue;
        }
        let found =
            if field == "hostname" { names::dns_label(value) } else { names::dns_subdomain(value) };
        check.invalid_all(&path.child(field), value, &found);
    }
    let topology = path.child("deprecatedTopology");
    if endpoint["deprecatedTopology"].get("kubernetes.io/hostname").is_some() {
        check.forbidden(
            &topology.key("kubernetes.io/hostname"),
            "may not be set unless `nodeName` is set",
        );
    }
}
