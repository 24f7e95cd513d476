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
    pub fn to_json(&self, version: SpecVersion) -> String {
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
        json!({
            "cniVersion": version.as_str(),
            "interfaces": self.interfaces.iter().map(interface).collect::<Vec<_>>(),
            "ips": self.ips.iter().map(ip).collect::<Vec<_>>(),
            "routes": self.routes.iter().map(route).collect::<Vec<_>>(),
            "dns": self.dns.clone().unwrap_or_else(|| json!({})),
        })
        .to_string()
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
        for item in list("routes")? {
            result
                .routes
                .push(ResultRoute { dst: network(item, "dst")?, gw: address(item, "gw")? });
        }
        result.dns = json.get("dns").filter(|dns| !dns.is_null()).cloned();
        Ok(result)
    }
}

fn wrong(why: String) -> CniError {
    CniError::Config { field: "prevResult", why }
}
