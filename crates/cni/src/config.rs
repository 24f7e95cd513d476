//! The network configuration on standard input: what every plugin has in common. What belongs to one
//! plugin is read by that plugin, from [`NetworkConfig::read`].

use std::net::IpAddr;
use std::path::PathBuf;

use link::MacAddr;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::environment::is_name;
use crate::ipam::{Ipam, RangeConfig};
use crate::{AddResult, CniError, Environment, Identity, SpecVersion};

/// A checked configuration of one plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkConfig {
    /// The version results are told in.
    pub version: SpecVersion,
    /// The network's name.
    pub name: String,
    /// The plugin's type.
    pub plugin: String,
    /// MTU of the pod's interface; the kernel's default (1500) when none.
    pub mtu: Option<u32>,
    /// Where the agent says that a new pod's policy is in the kernel; `None` where policies are not enforced.
    pub policy_socket: Option<PathBuf>,
    /// Where run-time files are (`runDir`); `/run/fairway` when none.
    pub run_dir: Option<PathBuf>,
    /// Where addresses come from; none for an interface without.
    pub ipam: Option<Ipam>,
    /// Resolver settings: the runtime's (`runtimeConfig.dns`), else the configuration's.
    pub dns: Option<Value>,
    /// Addresses the runtime asks for (`runtimeConfig.ips`, `args.cni.ips`).
    pub wanted_ips: Vec<IpAddr>,
    /// Ethernet address the runtime asks for (`runtimeConfig.mac`, `args.cni.mac`).
    pub wanted_mac: Option<MacAddr>,
    /// The result of ADD, for CHECK and DEL; the result of the plugin before, for a chained ADD.
    pub previous: Option<AddResult>,
    /// For GC: the attachments that still exist.
    pub valid_attachments: Option<Vec<Identity>>,
    /// All of it, as given.
    pub whole: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    plugin: String,
    mtu: Option<u32>,
    policy_socket: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    #[serde(default)]
    dns: Option<Value>,
    #[serde(default)]
    runtime_config: Option<RawRuntime>,
    #[serde(default)]
    args: Option<RawArgs>,
    #[serde(default)]
    prev_result: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct RawRuntime {
    #[serde(default)]
    ips: Option<Vec<String>>,
    #[serde(default)]
    mac: Option<String>,
    #[serde(default)]
    ip_ranges: Option<Vec<Vec<RangeConfig>>>,
    #[serde(default)]
    dns: Option<RawDns>,
}

/// The `dns` capability has words of its own (CNI CONVENTIONS).
#[derive(Deserialize, Default)]
struct RawDns {
    #[serde(default)]
    servers: Option<Vec<String>>,
    #[serde(default)]
    searches: Option<Vec<String>>,
    #[serde(default)]
    options: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
struct RawArgs {
    #[serde(default)]
    cni: Option<RawRuntime>,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

impl NetworkConfig {
    /// Reads and checks a configuration. `version` is set as soon as it is known.
    ///
    /// # Errors
    /// [`CniError::Decode`], [`CniError::Version`] or [`CniError::Config`].
    pub fn parse(text: &[u8], version: &mut SpecVersion) -> Result<Self, CniError> {
        let decode = |source| CniError::Decode { source };
        let whole: Value = serde_json::from_slice(text).map_err(decode)?;
        // Absent means 0.1.0, the specification of the time before there were versions.
        let told = match whole.get("cniVersion") {
            None | Some(Value::Null) => "0.1.0",
            Some(Value::String(told)) if told.is_empty() => "0.1.0",
            Some(Value::String(told)) => told,
            Some(other) => return Err(CniError::Version { version: other.to_string() }),
        };
        *version = SpecVersion::parse(told)?;
        let raw = Raw::deserialize(&whole).map_err(decode)?;
        if !is_name(&raw.name) {
            let why = format!(
                "`{}` must begin with a letter or digit, then those, `_`, `.`, `-`",
                raw.name
            );
            return Err(CniError::Config { field: "name", why });
        }
        if let Some(mtu) = raw.mtu.filter(|mtu| *mtu != 0 && !(68..=65_535).contains(mtu)) {
            let why = format!("{mtu} is not between 68 and 65535");
            return Err(CniError::Config { field: "mtu", why });
        }
        let runtime = raw.runtime_config.unwrap_or_default();
        let by_args = raw.args.and_then(|args| args.cni).unwrap_or_default();
        let mut ipam = Ipam::parse(whole.get("ipam"), runtime.ip_ranges, *version)?;
        if let Some(Ipam::Fairway(source)) = &mut ipam {
            source.look(&raw.name);
        }
        let mut wanted_ips = Vec::new();
        for text in runtime.ips.into_iter().chain(by_args.ips).flatten() {
            wanted_ips.push(parse_ip(&text)?);
        }
        let given = |mac: &String| !mac.is_empty();
        let mac = runtime.mac.filter(given).or(by_args.mac.filter(given));
        let wanted_mac = mac.map(|mac| parse_mac("runtimeConfig.mac", &mac)).transpose()?;
        let previous = match raw.prev_result {
            None | Some(Value::Null) => None,
            Some(json) => Some(AddResult::from_json(&json)?),
        };
        let attachments = raw.valid_attachments.map(|all| {
            let identity = |raw: RawAttachment| Identity {
                container_id: raw.container_id,
                ifname: raw.ifname,
            };
            all.into_iter().map(identity).collect()
        });
        let dns = runtime.dns.and_then(RawDns::told);
        Ok(Self {
            version: *version,
            name: raw.name,
            plugin: raw.plugin,
            mtu: raw.mtu.filter(|mtu| *mtu != 0),
            ipam,
            dns: dns.or(raw.dns.filter(|dns| !is_nothing(dns))),
            policy_socket: raw.policy_socket,
            run_dir: raw.run_dir.filter(|path| path.is_absolute()),
            wanted_ips,
            wanted_mac,
            previous,
            valid_attachments: attachments,
            whole,
        })
    }

    /// The fields of one plugin.
    ///
    /// # Errors
    /// [`CniError::Config`] when one of them is of the wrong kind.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, CniError> {
        T::deserialize(&self.whole).map_err(|error| CniError::Config {
            field: "plugin configuration",
            why: error.to_string(),
        })
    }

    /// The address source of a plugin that cannot do without.
    pub(crate) fn ipam(&self) -> Result<&Ipam, CniError> {
        self.ipam.as_ref().ok_or_else(|| CniError::Config {
            field: "ipam",
            why: "is missing; give {\"type\":\"host-local\",\"ranges\":[[{\"subnet\":…}]]}"
                .to_owned(),
        })
    }

    /// The result of the plugin before, for one that only works in a chain.
    pub(crate) fn previous(&self) -> Result<&AddResult, CniError> {
        self.previous.as_ref().ok_or_else(|| CniError::Config {
            field: "prevResult",
            why: format!(
                "is missing; {} is called after the plugin that makes the interface",
                self.plugin
            ),
        })
    }

    /// The attachments to keep, for GC.
    pub(crate) fn valid_attachments(&self) -> Result<&[Identity], CniError> {
        // Taking "not said" for "none" would cut off every pod of the node.
        self.valid_attachments.as_deref().ok_or_else(|| CniError::Config {
            field: "cni.dev/valid-attachments",
            why: "is missing; the runtime lists the attachments to keep".to_owned(),
        })
    }

    /// The addresses asked for, those of `CNI_ARGS` (`IP=…`) included.
    pub(crate) fn wanted_ips(&self, env: &Environment) -> Result<Vec<IpAddr>, CniError> {
        let mut wanted = self.wanted_ips.clone();
        for text in env.arg("IP").into_iter().flat_map(|all| all.split(',')) {
            wanted.push(parse_ip(text)?);
        }
        Ok(wanted)
    }

    /// The Ethernet address asked for, that of `CNI_ARGS` (`MAC=…`) last.
    pub(crate) fn wanted_mac(&self, env: &Environment) -> Result<Option<MacAddr>, CniError> {
        match (self.wanted_mac, env.arg("MAC")) {
            (Some(mac), _) => Ok(Some(mac)),
            (None, Some(text)) => parse_mac("CNI_ARGS MAC", text).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl RawDns {
    fn told(self) -> Option<Value> {
        let lists =
            [("nameservers", self.servers), ("search", self.searches), ("options", self.options)];
        let mut map = serde_json::Map::new();
        for (name, list) in lists {
            if let Some(list) = list.filter(|list| !list.is_empty()) {
                map.insert(name.to_owned(), json!(list));
            }
        }
        (!map.is_empty()).then_some(Value::Object(map))
    }
}

/// Null, or an object that says nothing.
fn is_nothing(dns: &Value) -> bool {
    dns.is_null() || dns.as_object().is_some_and(serde_json::Map::is_empty)
}

fn parse_mac(field: &'static str, text: &str) -> Result<MacAddr, CniError> {
    let mac: MacAddr = text
        .parse()
        .map_err(|error: link::MacError| CniError::Config { field, why: error.to_string() })?;
    if mac.is_multicast() {
        let why = "a multicast address cannot be an interface's own".to_owned();
        return Err(CniError::Config { field, why });
    }
    Ok(mac)
}

/// An address, with or without a prefix length, which is not used.
fn parse_ip(text: &str) -> Result<IpAddr, CniError> {
    let address = text.split_once('/').map_or(text, |(address, _)| address).trim();
    address.parse().map_err(|_| CniError::Config {
        field: "ips",
        why: format!("`{text}` is not an IP address"),
    })
}
