//! A `KubeProxyConfiguration` (`kubeproxy.config.k8s.io/v1alpha1`), read as it is: what applies becomes [`Settings`], and every
//! field that says something gets a [`Verdict`], so that nobody has to guess what became of it. Pure: text in, values out.
//!
//! Unset fields mean what they mean to kube-proxy, with one exception: where kube-proxy without a cluster CIDR knows no local
//! traffic at all, the pod CIDRs of the nodes are used.

mod field;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use service::{LocalTraffic, NodePortAddresses};

use field::{duration, endpoint, flag, integer, leaves, list, optional, text};

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";
/// The key of kubeadm's ConfigMap.
const MAP_KEY: &str = "config.conf";

/// What kube-proxy does where the file is silent.
const HEALTHZ: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10256);
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
const MAX_PER_CORE: u32 = 32 * 1024;
const MIN_MAX: u32 = 128 * 1024;
const ESTABLISHED: Duration = Duration::from_secs(24 * 3600);
const CLOSE_WAIT: Duration = Duration::from_secs(3600);
const MASQUERADE_BIT: u8 = 14;

/// The kernel's connection tracking; `None` leaves a setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries per core; 0 leaves the table's size alone.
    pub max_per_core: u32,
    /// Entries at least.
    pub min: u32,
    /// `nf_conntrack_tcp_timeout_established`.
    pub tcp_established: Option<Duration>,
    /// `nf_conntrack_tcp_timeout_close_wait`.
    pub tcp_close_wait: Option<Duration>,
    /// `nf_conntrack_tcp_be_liberal`.
    pub tcp_be_liberal: bool,
    /// `nf_conntrack_udp_timeout`.
    pub udp: Option<Duration>,
    /// `nf_conntrack_udp_timeout_stream`.
    pub udp_stream: Option<Duration>,
}

impl Conntrack {
    /// What kube-proxy sets when its configuration says nothing.
    #[must_use]
    pub fn kube_proxy_defaults() -> Self {
        Self {
            max_per_core: MAX_PER_CORE,
            min: MIN_MAX,
            tcp_established: Some(ESTABLISHED),
            tcp_close_wait: Some(CLOSE_WAIT),
            ..Self::default()
        }
    }

    /// Entries wanted on a machine with so many cores; `None` leaves the table's size alone.
    #[must_use]
    pub fn max(&self, cores: u32) -> Option<u32> {
        (self.max_per_core > 0).then(|| self.max_per_core.saturating_mul(cores).max(self.min))
    }
}

/// What of the file applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `clientConnection.kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `hostnameOverride`.
    pub node_name: Option<String>,
    /// `healthzBindAddress`.
    pub health: SocketAddr,
    /// `metricsBindAddress`.
    pub metrics: SocketAddr,
    /// `bindAddress`, unless unspecified: the node's primary address.
    pub primary: Option<IpAddr>,
    /// `detectLocalMode`, `clusterCIDR` and `detectLocal`.
    pub local: LocalTraffic,
    /// `clusterCIDR`, when that is how local traffic is told: ranges of pods besides the nodes' pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// `nodePortAddresses`.
    pub node_ports: NodePortAddresses,
    /// Whether node ports answer on loopback addresses too.
    pub localhost_node_ports: bool,
    /// `masqueradeAll` of the mode's section.
    pub masquerade_all: bool,
    /// `masqueradeBit` of the mode's section: which bit of the packet mark, from 0.
    pub masquerade_bit: u8,
    /// `syncPeriod` of the mode's section: how often everything is compared.
    pub sync_period: Option<Duration>,
    /// `minSyncPeriod` of the mode's section: the least time between two commits.
    pub min_sync_period: Option<Duration>,
    /// `conntrack`.
    pub conntrack: Conntrack,
}

/// What becomes of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done as it says.
    Honoured,
    /// It has no effect, and why.
    NotApplied(&'static str),
    /// No version of kube-proxy knows this field.
    Unknown,
    /// Its value makes no sense, and why; the default is used.
    Bad(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Honoured => f.write_str("honoured"),
            Self::NotApplied(why) => write!(f, "not applied: {why}"),
            Self::Unknown => f.write_str("unknown field: ignored"),
            Self::Bad(why) => write!(f, "bad value: {why}; the default is used"),
        }
    }
}

/// A field that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its path, as in `conntrack.maxPerCore`.
    pub path: String,
    /// Its value, as JSON.
    pub value: String,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// A file, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeProxyConfiguration {
    /// What applies.
    pub settings: Settings,
    /// Every field that is set, in the file's order.
    pub fields: Vec<Field>,
}

/// Why a file is no KubeProxyConfiguration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not YAML.
    #[error("it is not YAML: {0}")]
    Yaml(String),
    /// It is something else.
    #[error(
        "it is {found}, not {API_VERSION} {KIND}; give the file kube-proxy reads, or its ConfigMap"
    )]
    Kind {
        /// What it says it is.
        found: String,
    },
}

/// Reads the file kube-proxy reads, or kubeadm's ConfigMap with that file in it.
///
/// # Errors
/// [`ConfigError`] when it is no such file. A bad or unknown field is no error but a [`Verdict`].
pub fn parse(yaml: &str) -> Result<KubeProxyConfiguration, ConfigError> {
    let value: Value =
        serde_saphyr::from_str(yaml).map_err(|error| ConfigError::Yaml(error.to_string()))?;
    if value["kind"] == "ConfigMap"
        && let Some(inner) = value["data"][MAP_KEY].as_str()
    {
        return parse(inner);
    }
    if value["kind"] != KIND || value["apiVersion"] != API_VERSION {
        let said = |field: &str| value[field].as_str().unwrap_or("nothing").to_owned();
        return Err(ConfigError::Kind {
            found: format!("{} {}", said("apiVersion"), said("kind")),
        });
    }
    let mode = value["mode"].as_str().unwrap_or_default().to_owned();
    let mut reading = Reading::new(&mode);
    let mut fields = Vec::new();
    for (path, value) in leaves(&value) {
        if value.is_null() {
            continue;
        }
        let verdict = match reading.read(&path, value) {
            Ok(Some(verdict)) => verdict,
            Ok(None) => continue,
            Err(why) => Verdict::Bad(why),
        };
        fields.push(Field { path, value: value.to_string(), verdict });
    }
    Ok(KubeProxyConfiguration { settings: reading.finish(&mut fields), fields })
}

/// The settings while they are read.
struct Reading {
    settings: Settings,
    /// `nftables` or `iptables`: whose options count.
    section: &'static str,
    detect: String,
    cluster_cidrs: Vec<IpNet>,
    bridge: String,
    prefix: String,
}

/// What a field of the other mode's section gets.
const OTHER_SECTION: Verdict =
    Verdict::NotApplied("it is an option of a mode that `mode` does not choose");

type Read = Result<Option<Verdict>, String>;

/// Something that is set is honoured; the empty value says nothing.
fn honoured(set: bool) -> Read {
    Ok(set.then_some(Verdict::Honoured))
}

/// A field that says something, and has no effect.
fn not_applied(value: &Value, why: &'static str) -> Read {
    let silent = match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0" || text == "0s",
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    Ok((!silent).then_some(Verdict::NotApplied(why)))
}

impl Reading {
    fn new(mode: &str) -> Self {
        let nftables = mode == "nftables";
        let settings = Settings {
            kubeconfig: None,
            node_name: None,
            health: HEALTHZ,
            metrics: METRICS,
            primary: None,
            local: LocalTraffic::ClusterCidrs,
            pod_cidrs: Vec::new(),
            node_ports: if nftables { NodePortAddresses::Primary } else { NodePortAddresses::All },
            localhost_node_ports: !nftables,
            masquerade_all: false,
            masquerade_bit: MASQUERADE_BIT,
            sync_period: None,
            min_sync_period: None,
            conntrack: Conntrack::kube_proxy_defaults(),
        };
        Self {
            settings,
            section: if nftables { "nftables" } else { "iptables" },
            detect: String::new(),
            cluster_cidrs: Vec::new(),
            bridge: String::new(),
            prefix: String::new(),
        }
    }

    /// One field: `None` when it says nothing.
    fn read(&mut self, path: &str, value: &Value) -> Read {
        if let Some((section @ ("iptables" | "nftables"), option)) = path.split_once('.') {
            return self.section(section, option, value);
        }
        if let Some(option) = path.strip_prefix("conntrack.") {
            return self.conntrack(option, value);
        }
        let set = &mut self.settings;
        match path {
            "apiVersion" | "kind" => Ok(None),
            "mode" => match text(value)?.as_str() {
                "" => Ok(None),
                "iptables" | "nftables" => Ok(Some(Verdict::NotApplied(
                    "Fairway has a data plane of its own; the mode says whose options count",
                ))),
                "ipvs" => Ok(Some(Verdict::NotApplied(
                    "Fairway has a data plane of its own; schedulers are chosen per Service, by the annotation fairway.dev/balance",
                ))),
                other => Err(format!("{other:?} is no mode of kube-proxy on Linux")),
            },
            "clientConnection.kubeconfig" => {
                let file = text(value)?;
                set.kubeconfig = (!file.is_empty()).then(|| file.into());
                honoured(set.kubeconfig.is_some())
            }
            "clientConnection.qps" | "clientConnection.burst" => not_applied(
                value,
                "an agent keeps a few watches open and paces what little it writes by itself",
            ),
            "clientConnection.acceptContentTypes" | "clientConnection.contentType" => {
                not_applied(value, "the API is spoken to in JSON")
            }
            "hostnameOverride" => {
                let name = text(value)?;
                set.node_name = (!name.is_empty()).then_some(name);
                honoured(set.node_name.is_some())
            }
            "clusterCIDR" => {
                let ranges = text(value)?;
                let parts = ranges.split(',').map(str::trim).filter(|part| !part.is_empty());
                self.cluster_cidrs = parts.map(field::range).collect::<Result<_, _>>()?;
                honoured(!self.cluster_cidrs.is_empty())
            }
            "detectLocalMode" => {
                let mode = text(value)?;
                if !["", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]
                    .contains(&mode.as_str())
                {
                    return Err(format!("{mode:?} is no way to detect local traffic"));
                }
                self.detect = mode;
                honoured(!self.detect.is_empty())
            }
            "detectLocal.bridgeInterface" => {
                self.bridge = field::link(value)?;
                honoured(!self.bridge.is_empty())
            }
            "detectLocal.interfaceNamePrefix" => {
                self.prefix = field::link(value)?;
                honoured(!self.prefix.is_empty())
            }
            "nodePortAddresses" => self.node_ports(&list(value)?),
            "bindAddress" => {
                let address = text(value)?;
                let parsed =
                    if address.is_empty() { None } else { Some(field::address(&address)?) };
                set.primary = parsed.filter(|address| !address.is_unspecified());
                honoured(set.primary.is_some())
            }
            "healthzBindAddress" => {
                let address = endpoint(value, HEALTHZ.port())?;
                set.health = address.unwrap_or(HEALTHZ);
                honoured(address.is_some())
            }
            "metricsBindAddress" => {
                let address = endpoint(value, METRICS.port())?;
                set.metrics = address.unwrap_or(METRICS);
                honoured(address.is_some())
            }
            "bindAddressHardFail" => {
                not_applied(value, "an address that is taken always ends the agent")
            }
            "enableProfiling" => not_applied(value, "there is no profiling handler"),
            "showHiddenMetricsForVersion" => {
                not_applied(value, "Fairway's metrics are its own, none is hidden")
            }
            "oomScoreAdj" => not_applied(
                value,
                "the container runtime sets it from the pod's priority class and QoS",
            ),
            "configSyncPeriod" => not_applied(
                value,
                "watches lose nothing, so objects are not fetched again on a timer",
            ),
            "portRange" => not_applied(value, "kube-proxy ignores it since 1.20, too"),
            "windowsRunAsService" => not_applied(value, "it is for Windows"),
            _ if path.starts_with("winkernel.") => not_applied(value, "it is for Windows"),
            _ if path.starts_with("ipvs.") => not_applied(
                value,
                "there is no IPVS here; schedulers are chosen per Service, by the annotation fairway.dev/balance",
            ),
            _ if path.starts_with("logging.") => {
                not_applied(value, "FAIRWAY_LOG says how much is logged")
            }
            _ if path.starts_with("featureGates.") => {
                not_applied(value, "gates of kube-proxy name features Fairway has or does not need")
            }
            _ => Ok(Some(Verdict::Unknown)),
        }
    }

    fn section(&mut self, section: &str, option: &str, value: &Value) -> Read {
        let counts = section == self.section;
        let set = &mut self.settings;
        let said = match option {
            "masqueradeAll" => {
                let on = flag(value)?;
                if counts {
                    set.masquerade_all = on;
                }
                on
            }
            "masqueradeBit" => {
                let bit = integer(value, 0, 31)?;
                if counts {
                    set.masquerade_bit = u8::try_from(bit).unwrap_or(MASQUERADE_BIT);
                }
                true
            }
            "localhostNodePorts" if section == "iptables" => {
                let on = flag(value)?;
                if counts {
                    set.localhost_node_ports = on;
                }
                true
            }
            "syncPeriod" => {
                let period = optional(duration(value)?);
                if counts {
                    set.sync_period = period;
                }
                period.is_some()
            }
            "minSyncPeriod" => {
                let period = optional(duration(value)?);
                if counts {
                    set.min_sync_period = period;
                }
                period.is_some()
            }
            _ => return Ok(Some(Verdict::Unknown)),
        };
        Ok(said.then_some(if counts { Verdict::Honoured } else { OTHER_SECTION }))
    }

    fn conntrack(&mut self, option: &str, value: &Value) -> Read {
        let set = &mut self.settings.conntrack;
        let number =
            || integer(value, 0, i32::MAX.into()).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        match option {
            "maxPerCore" => set.max_per_core = number()?,
            "min" => set.min = number()?,
            "tcpEstablishedTimeout" => set.tcp_established = optional(duration(value)?),
            "tcpCloseWaitTimeout" => set.tcp_close_wait = optional(duration(value)?),
            "tcpBeLiberal" => {
                set.tcp_be_liberal = flag(value)?;
                return honoured(set.tcp_be_liberal);
            }
            "udpTimeout" => {
                set.udp = optional(duration(value)?);
                return honoured(set.udp.is_some());
            }
            "udpStreamTimeout" => {
                set.udp_stream = optional(duration(value)?);
                return honoured(set.udp_stream.is_some());
            }
            _ => return Ok(Some(Verdict::Unknown)),
        }
        Ok(Some(Verdict::Honoured))
    }

    fn node_ports(&mut self, entries: &[String]) -> Read {
        let set = &mut self.settings;
        let mut ranges = Vec::new();
        let mut words = Vec::new();
        for entry in entries {
            match entry.as_str() {
                word @ ("primary" | "all" | "localhost") => words.push(word),
                range => ranges.push(field::range(range)?),
            }
        }
        let wants = |word: &str| words.contains(&word);
        if (wants("primary") || wants("all")) && !ranges.is_empty() {
            return Err("`primary` and `all` stand alone, without ranges".into());
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let loopback = ranges.iter().any(|range| range.addr().is_loopback());
        set.localhost_node_ports |= wants("localhost") || loopback;
        set.node_ports = if wants("primary") {
            NodePortAddresses::Primary
        } else if wants("all") {
            NodePortAddresses::All
        } else {
            NodePortAddresses::Ranges(ranges)
        };
        Ok(Some(Verdict::Honoured))
    }

    /// What follows from several fields together.
    fn finish(self, fields: &mut [Field]) -> Settings {
        let mut settings = self.settings;
        let mut judge = |path: &str, verdict: Verdict| {
            for field in fields.iter_mut().filter(|field| field.path == path) {
                field.verdict = verdict.clone();
            }
        };
        let missing = |what: &str| {
            Verdict::Bad(format!(
                "the mode needs {what}, which is empty; the nodes' pod CIDRs are looked at"
            ))
        };
        let by_cluster = matches!(self.detect.as_str(), "" | "ClusterCIDR");
        settings.local = match self.detect.as_str() {
            "NodeCIDR" => LocalTraffic::NodeCidrs,
            "BridgeInterface" if !self.bridge.is_empty() => LocalTraffic::Bridge(self.bridge),
            "InterfaceNamePrefix" if !self.prefix.is_empty() => {
                LocalTraffic::InterfacePrefix(self.prefix)
            }
            "BridgeInterface" => {
                judge("detectLocalMode", missing("detectLocal.bridgeInterface"));
                LocalTraffic::ClusterCidrs
            }
            "InterfaceNamePrefix" => {
                judge("detectLocalMode", missing("detectLocal.interfaceNamePrefix"));
                LocalTraffic::ClusterCidrs
            }
            "ClusterCIDR" if self.cluster_cidrs.is_empty() => {
                judge("detectLocalMode", missing("clusterCIDR"));
                LocalTraffic::ClusterCidrs
            }
            _ => {
                settings.pod_cidrs = self.cluster_cidrs;
                LocalTraffic::ClusterCidrs
            }
        };
        let unused = Verdict::NotApplied("`detectLocalMode` chooses another way");
        if !by_cluster {
            judge("clusterCIDR", unused.clone());
        }
        if self.detect != "BridgeInterface" {
            judge("detectLocal.bridgeInterface", unused.clone());
        }
        if self.detect != "InterfaceNamePrefix" {
            judge("detectLocal.interfaceNamePrefix", unused);
        }
        settings
    }
}
