//! What one Service needs: families, addresses, node ports, the health-check port.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Causes, Check, Path, State};

/// What a Service holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<u16>,
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn texts(object: &Value, name: &str) -> Vec<String> {
    let list = object.get(name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn port_of(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

/// The addresses and ports written in a Service.
pub(super) fn held(object: &Value) -> Held {
    let spec = &object["spec"];
    let mut held = Held::default();
    if text(spec, "type") == "ExternalName" {
        return held;
    }
    let mut ips = texts(spec, "clusterIPs");
    if ips.is_empty() {
        ips.push(text(spec, "clusterIP").to_owned());
    }
    held.addresses = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let ports = spec["ports"].as_array().into_iter().flatten();
    for port in ports.filter_map(|port| port_of(&port["nodePort"])) {
        if !held.ports.contains(&port) {
            held.ports.push(port);
        }
    }
    if let Some(port) = port_of(&spec["healthCheckNodePort"])
        && !held.ports.contains(&port)
    {
        held.ports.push(port);
    }
    held
}

/// Frees everything a deleted Service held.
pub fn release(state: &mut State, service: &Value) {
    let held = held(service);
    for ip in held.addresses {
        state.free_address(ip);
    }
    for port in held.ports {
        state.ports.free(port);
    }
}

/// Allocates what a new or changed Service needs and writes it into `new` (clusterIP(s),
/// ipFamilies, ipFamilyPolicy, nodePorts, healthCheckNodePort); frees what a change gives up.
/// On error nothing is claimed. With `dry_run` nothing changes in the state either way.
///
/// # Errors
/// The causes, in upstream's words (`provided IP is already allocated` …).
pub fn service(
    state: &mut State,
    new: &mut Value,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<(), Causes> {
    let mut claims = Claims {
        before: old.map(held).unwrap_or_default(),
        made: Held::default(),
        check: Check::default(),
        state,
    };
    if !new["spec"].is_object() {
        return Ok(());
    }
    let mut draft = new.clone();
    claims.families(&mut draft["spec"], old.map(|old| &old["spec"]));
    if claims.check.causes.is_empty() {
        claims.addresses(&mut draft["spec"]);
        claims.node_ports(&mut draft["spec"]);
        claims.health_port(&mut draft["spec"]);
    }
    let Claims { before, made, check, state } = claims;
    let failed = !check.causes.is_empty();
    if failed || dry_run {
        for ip in made.addresses {
            state.free_address(ip);
        }
        for port in made.ports {
            state.ports.free(port);
        }
    }
    if failed {
        return Err(Causes(check.causes));
    }
    if !dry_run {
        let kept = held(&draft);
        for ip in before.addresses.iter().filter(|ip| !kept.addresses.contains(ip)) {
            state.free_address(*ip);
        }
        for port in before.ports.iter().filter(|port| !kept.ports.contains(port)) {
            state.ports.free(*port);
        }
    }
    *new = draft;
    Ok(())
}

struct Claims<'a> {
    state: &'a mut State,
    /// What the Service held before, and may keep.
    before: Held,
    /// What was claimed now, to be undone on error.
    made: Held,
    check: Check,
}

fn remove(spec: &mut Value, names: &[&str]) {
    if let Some(map) = spec.as_object_mut() {
        for name in names {
            map.shift_remove(*name);
        }
    }
}

fn family_name(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

impl Claims<'_> {
    /// Settles ipFamilyPolicy and ipFamilies (KEP-563), and evens clusterIP and clusterIPs.
    fn families(&mut self, spec: &mut Value, old: Option<&Value>) {
        if text(spec, "type") == "ExternalName" {
            return;
        }
        if texts(spec, "clusterIPs").is_empty() && !text(spec, "clusterIP").is_empty() {
            spec["clusterIPs"] = json!([text(spec, "clusterIP")]);
        }
        let asked = text(spec, "ipFamilyPolicy").to_owned();
        if asked == "SingleStack"
            && let Some(old) = old
        {
            // Going back to one stack drops the second, if the client left the lists alone.
            for name in ["clusterIPs", "ipFamilies"] {
                let mut list = texts(spec, name);
                if list.len() == 2 && list == texts(old, name) {
                    list.truncate(1);
                    spec[name] = json!(list);
                }
            }
        }
        let ips = texts(spec, "clusterIPs");
        let headless = ips.first().is_some_and(|ip| ip == "None");
        let selects = spec["selector"].as_object().is_some_and(|map| !map.is_empty());
        let mut families = texts(spec, "ipFamilies");
        for (index, ip) in ips.iter().enumerate() {
            if let Ok(ip) = ip.parse::<IpAddr>()
                && families.len() == index
            {
                families.push(family_name(ip.is_ipv6()).to_owned());
            }
        }
        let free_form = headless && !selects;
        let policy = match (asked.as_str(), families.len()) {
            ("", _) if free_form => "RequireDualStack",
            ("", 2) => "RequireDualStack",
            ("", _) => "SingleStack",
            (asked, _) => asked,
        }
        .to_owned();
        let path = Path::ROOT.child("spec");
        let dual = self.state.has_family(false) && self.state.has_family(true);
        if !free_form {
            if policy == "RequireDualStack" && !dual {
                self.check.invalid(
                    &path.child("ipFamilyPolicy"),
                    policy.as_str(),
                    "this cluster is not configured for dual-stack services",
                );
            }
            let list = path.child("ipFamilies");
            for (index, family) in families.iter().enumerate() {
                if !self.state.has_family(family == "IPv6") {
                    self.check.invalid(
                        &list.index(index),
                        family.as_str(),
                        "not configured on this cluster",
                    );
                }
            }
            if policy == "SingleStack" && families.len() == 2 {
                self.check.invalid(
                    &path.child("ipFamilyPolicy"),
                    policy.as_str(),
                    "must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are \
                     specified",
                );
            }
        }
        if families.is_empty() {
            families.push(family_name(self.state.primary_is_v6()).to_owned());
        }
        if families.len() == 1 && policy != "SingleStack" && (dual || free_form) {
            families.push(family_name(families[0] == "IPv4").to_owned());
        }
        spec["ipFamilies"] = json!(families);
        spec["ipFamilyPolicy"] = json!(policy);
    }

    fn addresses(&mut self, spec: &mut Value) {
        if text(spec, "type") == "ExternalName" {
            // Nothing is held; validation says what may not be written.
            return;
        }
        let mut ips = texts(spec, "clusterIPs");
        if ips.first().is_some_and(|ip| ip == "None") {
            spec["clusterIP"] = json!("None");
            return;
        }
        let path = Path::ROOT.child("spec");
        let path = path.child("clusterIPs");
        for (index, family) in texts(spec, "ipFamilies").iter().enumerate().take(2) {
            let Some(asked) = ips.get(index).filter(|ip| !ip.is_empty()).cloned() else {
                match self.state.next_address(family == "IPv6") {
                    Some(ip) => {
                        self.made.addresses.push(ip);
                        ips.truncate(index);
                        ips.push(ip.to_string());
                    }
                    None => self.check.invalid(
                        &path,
                        json!(ips),
                        "failed to allocate a serviceIP: range is full",
                    ),
                }
                continue;
            };
            // What is no address is validation's to tell.
            let Ok(ip) = asked.parse::<IpAddr>() else { continue };
            if self.before.addresses.contains(&ip) {
                continue;
            }
            match self.state.claim_address(ip) {
                Ok(()) => self.made.addresses.push(ip),
                Err(why) => {
                    let why = format!("failed to allocate IP {ip}: {why}");
                    self.check.invalid(&path, json!(ips), &why);
                }
            }
        }
        if let Some(first) = ips.first() {
            spec["clusterIP"] = json!(first);
            spec["clusterIPs"] = json!(ips);
        }
    }

    fn node_ports(&mut self, spec: &mut Value) {
        let kind = text(spec, "type").to_owned();
        let wants = match kind.as_str() {
            "NodePort" => true,
            "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
            _ => {
                return;
            }
        };
        let path = Path::ROOT.child("spec");
        let path = path.child("ports");
        // A node port belongs to a Service; its TCP and UDP ports of one number share it.
        let mut mine: Vec<u16> = Vec::new();
        let mut by_port: Vec<(u64, String, u16)> = Vec::new();
        let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return };
        // Explicit ones first, so that an allocated one never takes what is asked for below.
        let explicit: Vec<bool> =
            ports.iter().map(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).collect();
        for (index, port) in ports.iter().enumerate().filter(|(index, _)| explicit[*index]) {
            let here = path.index(index);
            let asked = port["nodePort"].as_i64().unwrap_or(0);
            let Ok(number) = u16::try_from(asked) else {
                let why = self.state.ports.out_of_range();
                self.check.invalid(&here.child("nodePort"), asked, &why);
                continue;
            };
            if mine.contains(&number) {
                // The same protocol twice is validation's to tell.
            } else if !self.before.ports.contains(&number) {
                match self.state.ports.claim(number) {
                    Ok(()) => self.made.ports.push(number),
                    Err(why) => self.check.invalid(&here.child("nodePort"), number, &why),
                }
            }
            mine.push(number);
            by_port.push((
                port["port"].as_u64().unwrap_or(0),
                text(port, "protocol").to_owned(),
                number,
            ));
        }
        for (index, port) in ports.iter_mut().enumerate().filter(|(index, _)| !explicit[*index]) {
            if !wants || !port.is_object() {
                continue;
            }
            let number = port["port"].as_u64().unwrap_or(0);
            let protocol = text(port, "protocol").to_owned();
            let shared = by_port.iter().find(|(other, known, node)| {
                *other == number
                    && *known != protocol
                    && !by_port.iter().any(|(_, p, n)| n == node && *p == protocol)
            });
            let node_port = match shared.map(|(_, _, node)| *node) {
                Some(node) => node,
                None => match self.state.ports.next() {
                    Some(node) => {
                        self.made.ports.push(node);
                        node
                    }
                    None => {
                        self.check.invalid(
                            &path.index(index).child("nodePort"),
                            0,
                            "failed to allocate a nodePort: range is full",
                        );
                        continue;
                    }
                },
            };
            port["nodePort"] = json!(node_port);
            by_port.push((number, protocol, node_port));
        }
    }

    fn health_port(&mut self, spec: &mut Value) {
        let needs =
            text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local";
        let asked = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
        if !needs {
            if asked == 0 {
                remove(spec, &["healthCheckNodePort"]);
            }
            return;
        }
        let path = Path::ROOT.child("spec");
        let path = path.child("healthCheckNodePort");
        if asked == 0 {
            match self.state.ports.next() {
                Some(port) => {
                    self.made.ports.push(port);
                    spec["healthCheckNodePort"] = json!(port);
                }
                None => {
                    self.check.invalid(&path, 0, "failed to allocate a nodePort: range is full")
                }
            }
            return;
        }
        let Ok(number) = u16::try_from(asked) else {
            let why = self.state.ports.out_of_range();
            self.check.invalid(&path, asked, &why);
            return;
        };
        if self.before.ports.contains(&number) {
            return;
        }
        match self.state.ports.claim(number) {
            Ok(()) => self.made.ports.push(number),
            Err(why) => {
                let why =
                    format!("failed to allocate requested HealthCheck NodePort {number}: {why}");
                self.check.invalid(&path, asked, &why);
            }
        }
    }
}
