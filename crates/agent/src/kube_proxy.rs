//! A `KubeProxyConfiguration` (`kubeproxy.config.k8s.io/v1alpha1`), read as it is: what applies becomes [`Settings`], and every
//! field that says something gets a [`Verdict`], so that nobody has to guess what became of it. Pure: text in, values out.
//!
//! Unset fields mean what they mean to kube-proxy, with one exception: where kube-proxy without a cluster CIDR knows no local
//! traffic at all, the pod CIDRs of the nodes are used.

mod field;
mod reading;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use service::{LocalTraffic, NodePortAddresses};

use field::leaves;
use reading::Reading;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";
/// The key of kubeadm's ConfigMap.
const MAP_KEY: &str = "config.conf";

/// What kube-proxy does where the file is silent.
const MAX_PER_CORE: u32 = 32 * 1024;
const MIN_MAX: u32 = 128 * 1024;
const ESTABLISHED: Duration = Duration::from_secs(24 * 3600);
const CLOSE_WAIT: Duration = Duration::from_secs(3600);

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
