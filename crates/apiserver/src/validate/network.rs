//! NetworkPolicies, Ingresses, IngressClasses, ServiceCIDRs and IPAddresses.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::metadata::selector;
use super::path::{items, number, text};
use super::{Check, Path, names};

/// A NetworkPolicy.
pub(super) fn policy(new: &Value, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    let spec = &new["spec"];
    selector(&spec["podSelector"], &path.child("podSelector"), check);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let list = path.child(direction);
        for (index, rule) in items(spec, direction).iter().enumerate() {
            let path = list.index(index);
            let ports = path.child("ports");
            for (at, port) in items(rule, "ports").iter().enumerate() {
                policy_port(port, &ports.index(at), check);
            }
            let list = path.child(peers);
            for (at, peer) in items(rule, peers).iter().enumerate() {
                policy_peer(peer, &list.index(at), check);
            }
        }
    }
    let types = items(spec, "policyTypes");
    let at = path.child("policyTypes");
    if types.len() > 2 {
        check.invalid(
            &at,
            spec["policyTypes"].clone(),
            "may not specify more than two policyTypes",
        );
    } else {
        for (index, kind) in types.iter().enumerate() {
            let kind = kind.as_str().unwrap_or_default();
            if !["Ingress", "Egress"].contains(&kind) {
                check.not_supported(&at.index(index), kind, &["Ingress", "Egress"]);
            }
        }
    }
}

fn policy_port(port: &Value, path: &Path<'_>, check: &mut Check) {
    let end = port.get("endPort").filter(|end| !end.is_null());
    match &port["port"] {
        Value::Null => {
            if end.is_some() {
                check.invalid(
                    &path.child("endPort"),
                    number(port, "endPort"),
                    "may not be specified when `port` is not specified",
                );
            }
        }
        Value::String(name) => {
            check.invalid_all(&path.child("port"), name, &names::port_name(name));
            if end.is_some() {
                check.invalid(
                    &path.child("endPort"),
                    number(port, "endPort"),
                    "may not be specified when `port` is non-numeric",
                );
            }
        }
        value => {
            let first = value.as_i64().unwrap_or(0);
            if let Some(message) = names::port_number(first) {
                check.invalid(&path.child("port"), first, message);
            }
            if end.is_some() {
                let last = number(port, "endPort");
                if last < first {
                    check.invalid(
                        &path.child("endPort"),
                        last,
                        "must be greater than or equal to `port`",
                    );
                }
                if let Some(message) = names::port_number(last) {
                    check.invalid(&path.child("endPort"), last, message);
                }
            }
        }
    }
}

fn policy_peer(peer: &Value, path: &Path<'_>, check: &mut Check) {
    let has = |field: &str| peer.get(field).is_some_and(|value| !value.is_null());
    for field in ["podSelector", "namespaceSelector"] {
        if has(field) {
            selector(&peer[field], &path.child(field), check);
        }
    }
    let selects = has("podSelector") || has("namespaceSelector");
    if has("ipBlock") {
        if selects {
            check.forbidden(path, "may not specify both ipBlock and another peer");
        }
        ip_block(&peer["ipBlock"], &path.child("ipBlock"), check);
    } else if !selects {
        check.required(path, "must specify a peer");
    }
}

fn ip_block(block: &Value, path: &Path<'_>, check: &mut Check) {
    let cidr = text(block, "cidr");
    let at = path.child("cidr");
    if cidr.is_empty() {
        check.required(&at, "");
        return;
    }
    let Ok(net) = cidr.parse::<IpNet>() else {
        check.invalid(&at, cidr, names::CIDR_MESSAGE);
        return;
    };
    let list = path.child("except");
    for (index, except) in items(block, "except").iter().enumerate() {
        let except = except.as_str().unwrap_or_default();
        match except.parse::<IpNet>() {
            Err(_) => check.invalid(&list.index(index), except, names::CIDR_MESSAGE),
            Ok(inner) => {
                if !net.contains(&inner) || net.prefix_len() >= inner.prefix_len() {
                    check.invalid(&list.index(index), except, "must be a strict subset of `cidr`");
                }
            }
        }
    }
}

/// An Ingress.
pub(super) fn ingress(new: &Value, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    let spec = &new["spec"];
    let default = spec.get("defaultBackend").filter(|backend| !backend.is_null());
    let rules = items(spec, "rules");
    if default.is_none() && rules.is_empty() {
        check.invalid(&path, spec.clone(), "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(backend) = default {
        ingress_backend(backend, &path.child("defaultBackend"), check);
    }
    let list = path.child("rules");
    for (index, rule) in rules.iter().enumerate() {
        let path = list.index(index);
        host(text(rule, "host"), &path.child("host"), check);
        let Some(http) = rule.get("http").filter(|http| !http.is_null()) else { continue };
        let at = path.child("http");
        let at = at.child("paths");
        let paths = items(http, "paths");
        if paths.is_empty() {
            check.required(&at, "");
        }
        for (index, one) in paths.iter().enumerate() {
            ingress_path(one, &at.index(index), check);
        }
    }
    let list = path.child("tls");
    for (index, tls) in items(spec, "tls").iter().enumerate() {
        let hosts = list.index(index);
        let hosts = hosts.child("hosts");
        for (at, name) in items(tls, "hosts").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let found = if name.contains('*') {
                names::wildcard_subdomain(name)
            } else {
                names::dns_subdomain(name)
            };
            check.invalid_all(&hosts.index(at), name, &found);
        }
    }
    let class = text(spec, "ingressClassName");
    if !class.is_empty() {
        check.invalid_all(&path.child("ingressClassName"), class, &names::dns_subdomain(class));
    }
}

fn host(name: &str, path: &Path<'_>, check: &mut Check) {
    if name.is_empty() {
        return;
    }
    if name.parse::<IpAddr>().is_ok() {
        check.invalid(path, name, "must be a DNS name, not an IP address");
    }
    let found = if name.contains('*') {
        names::wildcard_subdomain(name)
    } else {
        names::dns_subdomain(name)
    };
    check.invalid_all(path, name, &found);
}

fn ingress_path(one: &Value, path: &Path<'_>, check: &mut Check) {
    let value = text(one, "path");
    match text(one, "pathType") {
        "" => check.required(&path.child("pathType"), "pathType must be specified"),
        kind @ ("Exact" | "Prefix" | "ImplementationSpecific") => {
            let free = kind == "ImplementationSpecific" && value.is_empty();
            if !free && !value.starts_with('/') {
                check.invalid(&path.child("path"), value, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if kind != "ImplementationSpecific" && value.contains(bad) {
                    check.invalid(&path.child("path"), value, &format!("must not contain '{bad}'"));
                }
            }
        }
        _ => {}
    }
    ingress_backend(&one["backend"], &path.child("backend"), check);
}

fn ingress_backend(backend: &Value, path: &Path<'_>, check: &mut Check) {
    let service = backend.get("service").filter(|value| !value.is_null());
    let resource = backend.get("resource").filter(|value| !value.is_null());
    match (service, resource) {
        (Some(_), Some(_)) => {
            check.invalid(path, "", "cannot set both resource and service backends");
        }
        (None, None) => check.required(path, "resource or service backend is required"),
        (None, Some(resource)) => {
            for field in ["kind", "name"] {
                if text(resource, field).is_empty() {
                    let at = path.child("resource");
                    check.required(&at.child(field), "");
                }
            }
        }
        (Some(service), None) => {
            let at = path.child("service");
            let name = text(service, "name");
            if name.is_empty() {
                check.required(&at.child("name"), "");
            } else {
                check.invalid_all(&at.child("name"), name, &names::dns_1035_label(name));
            }
            let port = &service["port"];
            let (name, number) = (text(port, "name"), number(port, "number"));
            match (name.is_empty(), number == 0) {
                (true, true) => check.required(path, "port name or number is required"),
                (false, false) => {
                    check.invalid(path, "", "cannot set both port name & port number")
                }
                (false, true) => {
                    let at = at.child("port");
                    check.invalid_all(&at.child("name"), name, &names::port_name(name));
                }
                (true, false) => {
                    if let Some(message) = names::port_number(number) {
                        let at = at.child("port");
                        check.invalid(&at.child("number"), number, message);
                    }
                }
            }
        }
    }
}

/// An IngressClass.
pub(super) fn ingress_class(new: &Value, old: Option<&Value>, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    let at = path.child("controller");
    let controller = text(&new["spec"], "controller");
    if let Some(old) = old.map(|old| text(&old["spec"], "controller"))
        && old != controller
    {
        check.invalid(&at, controller, "field is immutable");
    }
    if controller.is_empty() {
        check.required(&at, "");
    } else if let Some((prefix, rest)) = controller.split_once('/') {
        check.invalid_all(&at, controller, &names::dns_subdomain(prefix));
        if rest.is_empty() {
            check.invalid(
                &at,
                controller,
                "must be a domain-prefixed path (such as \"acme.io/foo\")",
            );
        }
    } else {
        check.invalid(&at, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
}

/// A ServiceCIDR: one or two families, given once.
pub(super) fn service_cidr(new: &Value, old: Option<&Value>, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    let at = path.child("cidrs");
    let cidrs = items(&new["spec"], "cidrs");
    if let Some(old) = old.map(|old| items(&old["spec"], "cidrs"))
        && old != cidrs
        && !(old.len() == 1 && cidrs.first() == old.first())
    {
        check.invalid(&at, new["spec"]["cidrs"].clone(), "field is immutable");
    }
    if cidrs.is_empty() {
        check.required(&at, "at least one CIDR required");
    } else if cidrs.len() > 2 {
        check.invalid(&at, new["spec"]["cidrs"].clone(), "may only hold up to 2 values");
    }
    let mut families = Vec::new();
    for (index, cidr) in cidrs.iter().enumerate() {
        let cidr = cidr.as_str().unwrap_or_default();
        match cidr.parse::<IpNet>() {
            Err(_) => check.invalid(&at.index(index), cidr, names::CIDR_MESSAGE),
            Ok(net) => families.push(net.addr().is_ipv6()),
        }
    }
    if families.len() == 2 && families[0] == families[1] {
        check.invalid(
            &at,
            new["spec"]["cidrs"].clone(),
            "may specify no more than one IP for each IP family",
        );
    }
}

/// An IPAddress: the object it belongs to.
pub(super) fn ip_address(new: &Value, old: Option<&Value>, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    let at = path.child("parentRef");
    let parent = &new["spec"]["parentRef"];
    if parent.is_null() {
        check.required(&at, "");
        return;
    }
    for field in ["resource", "name"] {
        if text(parent, field).is_empty() {
            check.required(&at.child(field), "");
        }
    }
    if old.is_some_and(|old| old["spec"]["parentRef"] != *parent) {
        check.invalid(&at, parent.clone(), "field is immutable");
    }
}
