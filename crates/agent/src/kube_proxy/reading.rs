//! The configuration's fields one by one: what each means here, and its verdict.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde_json::Value;
use service::{LocalTraffic, NodePortAddresses};

use super::field::{self, duration, endpoint, flag, integer, list, optional, text};
use super::{Conntrack, Field, Settings, Verdict};

/// What kube-proxy does where the file is silent.
const HEALTHZ: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10256);
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
const MASQUERADE_BIT: u8 = 14;

/// The settings while they are read.
pub(super) struct Reading {
    settings: Settings,
    /// `nftables` or `iptables`: whose options count.
    section: &'static str,
    detect: String,
    cluster_cidrs: Vec<IpNet>,
    bridge: String,
    prefix: String,
}

/// What a field of the other mode's section gets.
pub(super) const OTHER_SECTION: Verdict =
    Verdict::NotApplied("it is an option of a mode that `mode` does not choose");

pub(super) type Read = Result<Option<Verdict>, String>;

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
    pub(super) fn new(mode: &str) -> Self {
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
    pub(super) fn read(&mut self, path: &str, value: &Value) -> Read {
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
    pub(super) fn finish(self, fields: &mut [Field]) -> Settings {
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
