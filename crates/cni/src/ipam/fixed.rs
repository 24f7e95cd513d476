//! `static`: addresses that are written down: by the runtime (`runtimeConfig.ips`), in
//! `args.cni.ips`, in `CNI_ARGS` (`IP`, `GATEWAY`) or in the configuration, the first of these that
//! says any. Nothing is reserved.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::Ask;
use crate::CniError;
use crate::result::{AddResult, ResultIp, ResultRoute};

/// A checked `static` configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Static {
    addresses: Vec<ResultIp>,
    routes: Vec<ResultRoute>,
    dns: Option<Value>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    addresses: Option<Vec<RawAddress>>,
    #[serde(default)]
    routes: Option<Value>,
    #[serde(default)]
    dns: Option<Value>,
}

#[derive(Deserialize)]
struct RawAddress {
    address: String,
    #[serde(default)]
    gateway: Option<String>,
}

impl Static {
    pub(super) fn parse(ipam: &Value) -> Result<Self, CniError> {
        let raw = Raw::deserialize(ipam).map_err(|error| wrong("ipam", error.to_string()))?;
        let address = |raw: RawAddress| {
            let gateway = raw.gateway.filter(|gateway| !gateway.is_empty());
            Ok(ResultIp {
                interface: None,
                address: network("ipam.addresses", &raw.address)?,
                gateway: gateway.map(|text| ip("ipam.addresses", &text)).transpose()?,
            })
        };
        let addresses = raw.addresses.into_iter().flatten().map(address);
        Ok(Self {
            addresses: addresses.collect::<Result<_, CniError>>()?,
            routes: ResultRoute::list(raw.routes.as_ref(), "ipam.routes")?,
            dns: raw.dns.filter(|dns| dns.as_object().is_some_and(|dns| !dns.is_empty())),
        })
    }

    pub(super) fn add(&self, ask: Ask<'_>, _: &[IpAddr]) -> Result<AddResult, CniError> {
        let ips = self.chosen(ask)?;
        Ok(AddResult {
            interfaces: Vec::new(),
            ips,
            routes: self.routes.clone(),
            dns: self.dns.clone(),
        })
    }

    /// The texts are needed here, not the addresses alone: they carry the prefix length.
    fn chosen(&self, ask: Ask<'_>) -> Result<Vec<ResultIp>, CniError> {
        let list = |at: &str| {
            let texts = ask.config.whole.pointer(at).and_then(Value::as_array);
            let texts: Vec<&str> = texts.into_iter().flatten().filter_map(Value::as_str).collect();
            (!texts.is_empty()).then_some(texts)
        };
        let by_args = || ask.env.arg("IP").map(|all| all.split(',').collect());
        let told = list("/runtimeConfig/ips").or_else(|| list("/args/cni/ips")).or_else(by_args);
        let Some(told) = told else { return Ok(self.addresses.clone()) };
        let gateways: Vec<IpAddr> = match ask.env.arg("GATEWAY") {
            Some(all) => {
                all.split(',').map(|text| ip("CNI_ARGS GATEWAY", text)).collect::<Result<_, _>>()?
            }
            None => Vec::new(),
        };
        let described = |text: &&str| {
            let address = network("ips", text)?;
            let fits = |gateway: &&IpAddr| address.trunc().contains(*gateway);
            // The configuration may know the gateway of that very address.
            let known = self.addresses.iter().find(|it| it.address.addr() == address.addr());
            let gateway = gateways.iter().find(fits).copied();
            let gateway = gateway.or_else(|| known.and_then(|it| it.gateway));
            Ok(ResultIp { interface: None, address, gateway })
        };
        told.iter().map(described).collect()
    }

    pub(super) fn check(
        &self,
        ask: Ask<'_>,
        addresses: &[IpAddr],
    ) -> Result<Vec<String>, CniError> {
        let chosen = self.chosen(ask)?;
        let missing = chosen.iter().filter(|it| !addresses.contains(&it.address.addr()));
        Ok(missing.map(|it| format!("address {} is not in prevResult", it.address)).collect())
    }

    pub(super) fn gives(&self, ip: IpAddr) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|it| it.address.addr() == ip)
    }
}

fn network(field: &'static str, text: &str) -> Result<IpNet, CniError> {
    text.trim().parse().map_err(|_| {
        wrong(field, format!("`{text}` is no address with prefix length, as 10.0.0.5/24"))
    })
}

fn ip(field: &'static str, text: &str) -> Result<IpAddr, CniError> {
    text.trim().parse().map_err(|_| wrong(field, format!("`{text}` is no address")))
}

fn wrong(field: &'static str, why: String) -> CniError {
    CniError::Config { field, why }
}
