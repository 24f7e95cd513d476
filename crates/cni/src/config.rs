//! The network configuration on standard input.

use std::net::IpAddr;
use std::path::PathBuf;

use link::MacAddr;
use serde::Deserialize;

use crate::environment::is_name;
use crate::ipam::{RangeConfig, RangeSet};
use crate::{AddResult, CniError, Environment, Identity, SpecVersion};

/// Where host-local keeps its files when the configuration does not say.
const DATA_DIR: &str = "/var/lib/cni/networks";

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
    /// One address is taken from each set.
    pub ranges: Vec<RangeSet>,
    /// Directory below which each network has one of its own.
    pub data_dir: PathBuf,
    /// Where the agent says that a new pod's policy is in the kernel; `None` where policies are not enforced.
    pub policy_socket: Option<PathBuf>,
    /// Resolver settings, passed on as they are.
    pub dns: Option<serde_json::Value>,
    /// Addresses the runtime asks for (`runtimeConfig.ips`, `args.cni.ips`).
    pub wanted_ips: Vec<IpAddr>,
    /// Ethernet address the runtime asks for (`runtimeConfig.mac`).
    pub wanted_mac: Option<MacAddr>,
    /// The result of ADD, for CHECK.
    pub previous: Option<AddResult>,
    /// For GC: the attachments that still exist.
    pub valid_attachments: Option<Vec<Identity>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    plugin: String,
    mtu: Option<u32>,
    ipam: Option<RawIpam>,
    policy_socket: Option<PathBuf>,
    #[serde(default)]
    dns: Option<serde_json::Value>,
    #[serde(default)]
    runtime_config: Option<RawRuntime>,
    #[serde(default)]
    args: Option<RawArgs>,
    #[serde(default)]
    prev_result: Option<serde_json::Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIpam {
    #[serde(default, rename = "type")]
    kind: String,
    data_dir: Option<PathBuf>,
    #[serde(default)]
    ranges: Option<Vec<Vec<RangeConfig>>>,
    /// The single range of old configurations, beside `ranges`.
    #[serde(flatten)]
    single: Option<RangeConfig>,
}

#[derive(Deserialize, Default)]
struct RawRuntime {
    #[serde(default)]
    ips: Option<Vec<String>>,
    #[serde(default)]
    mac: Option<String>,
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
        let raw: Raw =
            serde_json::from_slice(text).map_err(|source| CniError::Decode { source })?;
        // Absent means 0.1.0 (the specification of that time), which is not spoken here.
        *version = SpecVersion::parse(raw.cni_version.as_deref().unwrap_or("0.1.0"))?;
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
        let ipam = raw.ipam.ok_or_else(|| CniError::Config {
            field: "ipam",
            why: "is missing; give {\"type\":\"host-local\",\"ranges\":[[{\"subnet\":…}]]}"
                .to_owned(),
        })?;
        if ipam.kind != "host-local" {
            let why = format!("`{}` is not supported here; use `host-local`", ipam.kind);
            return Err(CniError::Config { field: "ipam.type", why });
        }
        let mut sets: Vec<Vec<RangeConfig>> =
            ipam.single.into_iter().map(|one| vec![one]).collect();
        sets.extend(ipam.ranges.unwrap_or_default());
        let ranges = RangeSet::check(sets)
            .map_err(|why| CniError::Config { field: "ipam.ranges", why: why.to_string() })?;
        let runtime = raw.runtime_config.unwrap_or_default();
        let by_args = raw.args.and_then(|args| args.cni).unwrap_or_default();
        let mut wanted_ips = Vec::new();
        for text in runtime.ips.into_iter().chain(by_args.ips).flatten() {
            wanted_ips.push(parse_ip(&text)?);
        }
        let mac = runtime.mac.filter(|mac| !mac.is_empty()).map(|mac| mac.parse::<MacAddr>());
        let wanted_mac = mac.transpose().map_err(|error| CniError::Config {
            field: "runtimeConfig.mac",
            why: error.to_string(),
        })?;
        if wanted_mac.is_some_and(|mac| mac.is_multicast()) {
            let why = "a multicast address cannot be an interface's own".to_owned();
            return Err(CniError::Config { field: "runtimeConfig.mac", why });
        }
        let previous = match raw.prev_result {
            None | Some(serde_json::Value::Null) => None,
            Some(json) => Some(AddResult::from_json(&json)?),
        };
        let attachments = raw.valid_attachments.map(|all| {
            let identity = |raw: RawAttachment| Identity {
                container_id: raw.container_id,
                ifname: raw.ifname,
            };
            all.into_iter().map(identity).collect()
        });
        Ok(Self {
            version: *version,
            name: raw.name,
            plugin: raw.plugin,
            mtu: raw.mtu.filter(|mtu| *mtu != 0),
            ranges,
            data_dir: ipam.data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR)),
            policy_socket: raw.policy_socket,
            dns: raw.dns.filter(|dns| !dns.is_null()),
            wanted_ips,
            wanted_mac,
            previous,
            valid_attachments: attachments,
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
}

/// An address, with or without a prefix length, which is not used.
fn parse_ip(text: &str) -> Result<IpAddr, CniError> {
    let address = text.split_once('/').map_or(text, |(address, _)| address).trim();
    address.parse().map_err(|_| CniError::Config {
        field: "ips",
        why: format!("`{text}` is not an IP address"),
    })
}
