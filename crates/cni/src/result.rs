//! The result of ADD, in the shape of each version of the specification.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::{CniError, SpecVersion};

/// What ADD tells the runtime.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AddResult {
    /// Interfaces made, the node's end first.
    pub interfaces: Vec<ResultInterface>,
    /// Addresses given.
    pub ips: Vec<ResultIp>,
    /// Routes in the pod.
    pub routes: Vec<ResultRoute>,
    /// Resolver settings, passed on.
    pub dns: Option<Value>,
}

/// An interface ADD made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultInterface {
    /// Name.
    pub name: String,
    /// Ethernet address, as text.
    pub mac: String,
    /// MTU; told from 1.1.0 on.
    pub mtu: Option<u32>,
    /// Path of the namespace it is in; empty for the node's.
    pub sandbox: String,
}

/// An address ADD gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultIp {
    /// Place of its interface in the list.
    pub interface: Option<usize>,
    /// Address and prefix length.
    pub address: IpNet,
    /// Gateway.
    pub gateway: Option<IpAddr>,
}

/// A route ADD made in the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRoute {
    /// Destination.
    pub dst: IpNet,
    /// Gateway.
    pub gw: Option<IpAddr>,
}

impl AddResult {
    /// The result as that version prints it.
    ///
    /// # Errors
    /// [`CniError::Shape`] when that version cannot tell it.
    pub fn to_json(&self, version: SpecVersion) -> Result<String, CniError> {
        let interface = |interface: &ResultInterface| {
            let mut map = Map::new();
            map.insert("name".to_owned(), json!(interface.name));
            map.insert("mac".to_owned(), json!(interface.mac));
            if let Some(mtu) = interface.mtu.filter(|_| version >= SpecVersion::V1_1_0) {
                map.insert("mtu".to_owned(), json!(mtu));
            }
            if !interface.sandbox.is_empty() {
                map.insert("sandbox".to_owned(), json!(interface.sandbox));
            }
            Value::Object(map)
        };
        let ip = |ip: &ResultIp| {
            let mut map = Map::new();
            // Before 1.0.0 an address tells its family.
            if version < SpecVersion::V1_0_0 {
                let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
                map.insert("version".to_owned(), json!(family));
            }
            if let Some(interface) = ip.interface {
                map.insert("interface".to_owned(), json!(interface));
            }
            map.insert("address".to_owned(), json!(ip.address.to_string()));
            if let Some(gateway) = ip.gateway {
                map.insert("gateway".to_owned(), json!(gateway.to_string()));
            }
            Value::Object(map)
        };
        let route = |route: &ResultRoute| {
            let mut map = Map::new();
            map.insert("dst".to_owned(), json!(route.dst.to_string()));
            if let Some(gw) = route.gw {
                map.insert("gw".to_owned(), json!(gw.to_string()));
            }
            Value::Object(map)
        };
        let mut map = Map::new();
        map.insert("cniVersion".to_owned(), json!(version.as_str()));
        let mut list = |name: &str, values: Vec<Value>| {
            if !values.is_empty() {
                map.insert(name.to_owned(), Value::Array(values));
            }
        };
        if version < SpecVersion::V0_3_0 {
            for (name, is_ipv4) in [("ip4", true), ("ip6", false)] {
                if let Some(one) = self.of_family(is_ipv4, route) {
                    map.insert(name.to_owned(), one);
                }
            }
            // The shape of these versions has no place for an interface without an address.
            if map.len() == 1 {
                return Err(CniError::Shape { version });
            }
        } else {
            list("interfaces", self.interfaces.iter().map(interface).collect());
            list("ips", self.ips.iter().map(ip).collect());
            list("routes", self.routes.iter().map(route).collect());
        }
        map.insert("dns".to_owned(), self.dns.clone().unwrap_or_else(|| json!({})));
        Ok(pretty(&Value::Object(map)))
    }

    /// `ip4` and `ip6` of the versions before 0.3.0: the first address of a family with its routes.
    fn of_family(&self, is_ipv4: bool, route: impl Fn(&ResultRoute) -> Value) -> Option<Value> {
        let ip = self.ips.iter().find(|ip| ip.address.addr().is_ipv4() == is_ipv4)?;
        let mut map = Map::new();
        map.insert("ip".to_owned(), json!(ip.address.to_string()));
        if let Some(gateway) = ip.gateway {
            map.insert("gateway".to_owned(), json!(gateway.to_string()));
        }
        let routes = self.routes.iter().filter(|it| it.dst.addr().is_ipv4() == is_ipv4);
        let routes: Vec<Value> = routes.map(route).collect();
        if !routes.is_empty() {
            map.insert("routes".to_owned(), Value::Array(routes));
        }
        Some(Value::Object(map))
    }

    /// Reads a `prevResult`, in any version's shape.
    ///
    /// # Errors
    /// [`CniError::Config`] when it is not one.
    pub fn from_json(json: &Value) -> Result<Self, CniError> {
        let list = |key: &str| match json.get(key) {
            None | Some(Value::Null) => Ok(&[][..]),
            Some(Value::Array(items)) => Ok(items.as_slice()),
            Some(_) => Err(wrong(format!("{key} is not a list"))),
        };
        if !json.is_object() {
            return Err(wrong("is not an object".to_owned()));
        }
        let text = |item: &Value, key: &str| {
            item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let address = |item: &Value, key: &str| match item.get(key).and_then(Value::as_str) {
            None | Some("") => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| wrong(format!("`{text}` is no address")))
            }
        };
        let network = |item: &Value, key: &str| {
            let text = text(item, key);
            text.parse().map_err(|_| wrong(format!("`{text}` is no address with prefix length")))
        };
        let mut result = Self::default();
        for item in list("interfaces")? {
            result.interfaces.push(ResultInterface {
                name: text(item, "name"),
                mac: text(item, "mac"),
                mtu: item.get("mtu").and_then(Value::as_u64).and_then(|mtu| mtu.try_into().ok()),
                sandbox: text(item, "sandbox"),
            });
        }
        for item in list("ips")? {
            let interface = item.get("interface").and_then(Value::as_u64);
            result.ips.push(ResultIp {
                interface: interface.and_then(|at| at.try_into().ok()),
                address: network(item, "address")?,
                gateway: address(item, "gateway")?,
            });
        }
        result.routes = ResultRoute::list(json.get("routes"), "prevResult")?;
        // Before 0.3.0: one address per family, its routes inside.
        for one in ["ip4", "ip6"].into_iter().filter_map(|key| json.get(key)) {
            if one.is_null() {
                continue;
            }
            result.ips.push(ResultIp {
                interface: None,
                address: network(one, "ip")?,
                gateway: address(one, "gateway")?,
            });
            result.routes.extend(ResultRoute::list(one.get("routes"), "prevResult")?);
        }
        result.dns = json.get("dns").filter(|dns| !dns.is_null()).cloned();
        Ok(result)
    }
}

impl ResultRoute {
    /// Reads a list of routes, as in results and in `ipam.routes`.
    ///
    /// # Errors
    /// [`CniError::Config`] about `field`.
    pub(crate) fn list(json: Option<&Value>, field: &'static str) -> Result<Vec<Self>, CniError> {
        let wrong = |why: String| CniError::Config { field, why };
        let items = match json {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(wrong("routes is not a list".to_owned())),
        };
        let route = |item: &Value| {
            let dst = item.get("dst").and_then(Value::as_str).unwrap_or_default();
            let dst: IpNet = dst
                .parse()
                .map_err(|_| wrong(format!("`{dst}` is no address with prefix length")))?;
            let gw = item.get("gw").and_then(Value::as_str).filter(|gw| !gw.is_empty());
            let parse = |gw: &str| gw.parse().map_err(|_| wrong(format!("`{gw}` is no address")));
            Ok(Self { dst: dst.trunc(), gw: gw.map(parse).transpose()? })
        };
        items.iter().map(route).collect()
    }
}

/// Indented by four, as the reference plugins print.
fn pretty(json: &Value) -> String {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    // Writing JSON into memory does not fail.
    drop(serde::Serialize::serialize(json, &mut serializer));
    text.push(b'\n');
    String::from_utf8_lossy(&text).into_owned()
}

fn wrong(why: String) -> CniError {
    CniError::Config { field: "prevResult", why }
}
