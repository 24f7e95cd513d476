//! Plugin type `tuning`: settings of the pod's interface and of its namespace, after the plugin that
//! made it. The interface goes with the pod, so DEL has nothing to take back.

use std::collections::BTreeMap;

use link::kernel::Netlink;
use link::{Change, Link, LinkSettings, MacAddr, sysctl};
use serde::Deserialize;
use serde_json::Value;

use crate::environment::Environment;
use crate::steps::{agree, gone, kernel};
use crate::{AddResult, CniError, NetworkConfig};

#[derive(Deserialize)]
struct Conf {
    /// Below `net`, with dots or slashes; `IFNAME` stands for the interface.
    #[serde(default)]
    sysctl: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    mac: Option<String>,
    #[serde(default)]
    promisc: Option<bool>,
    #[serde(default)]
    allmulti: Option<bool>,
    #[serde(default, rename = "txQLen")]
    tx_queue_len: Option<u32>,
}

/// What is asked for, checked.
struct Wanted {
    sysctls: Vec<(String, String)>,
    mac: Option<MacAddr>,
    mtu: Option<u32>,
    promiscuous: Option<bool>,
    all_multicast: Option<bool>,
    tx_queue_len: Option<u32>,
}

impl Wanted {
    fn read(env: &Environment, config: &NetworkConfig) -> Result<Self, CniError> {
        let conf: Conf = config.read()?;
        let ifname = &env.identity()?.ifname;
        let mut sysctls = Vec::new();
        for (name, value) in conf.sysctl.into_iter().flatten() {
            let wrong = |why: String| CniError::Config { field: "sysctl", why };
            let value = match value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                other => return Err(wrong(format!("{name} is {other}, not a text"))),
            };
            let slashed = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
            if !slashed.starts_with("net/") {
                return Err(wrong(format!("{name} is not below net.; others are the machine's")));
            }
            let parts = slashed.split('/');
            let named = parts.map(|part| if part == "IFNAME" { ifname } else { part });
            sysctls.push((named.collect::<Vec<_>>().join("/"), value));
        }
        // The runtime's word, then the configuration's.
        let mac = match config.wanted_mac(env)? {
            Some(mac) => Some(mac),
            None => match conf.mac.filter(|mac| !mac.is_empty()) {
                Some(text) => Some(text.parse().map_err(|error: link::MacError| {
                    CniError::Config { field: "mac", why: error.to_string() }
                })?),
                None => None,
            },
        };
        Ok(Self {
            sysctls,
            mac,
            mtu: config.mtu,
            // The reference plugin only ever switches these on.
            promiscuous: conf.promisc.filter(|on| *on),
            all_multicast: conf.allmulti,
            tx_queue_len: conf.tx_queue_len,
        })
    }

    fn settings(&self) -> Option<LinkSettings<'static>> {
        let settings = LinkSettings {
            mac: self.mac,
            mtu: self.mtu,
            promiscuous: self.promiscuous,
            all_multicast: self.all_multicast,
            tx_queue_len: self.tx_queue_len,
            ..LinkSettings::default()
        };
        let any = self.mac.is_some()
            || self.mtu.is_some()
            || self.promiscuous.is_some()
            || self.all_multicast.is_some()
            || self.tx_queue_len.is_some();
        any.then_some(settings)
    }
}

pub(crate) fn add(env: &Environment, config: &NetworkConfig) -> Result<AddResult, CniError> {
    let wanted = Wanted::read(env, config)?;
    let ifname = env.identity()?.ifname;
    let mut result = config.previous()?.clone();
    env.namespace()?.visit(|| {
        for (name, value) in &wanted.sysctls {
            sysctl::ensure(name, value)
                .map_err(|source| CniError::Sysctl { interface: ifname.clone(), source })?;
        }
        let Some(settings) = wanted.settings() else { return Ok(()) };
        let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
        let link = find(&mut pod, &ifname)?;
        pod.apply(&[Change::SetLink(link.index.into(), settings)])
            .map_err(kernel("tune the pod's interface"))
    })??;
    for interface in &mut result.interfaces {
        if interface.name == ifname && !interface.sandbox.is_empty() {
            if let Some(mac) = wanted.mac {
                interface.mac = mac.to_string();
            }
            interface.mtu = wanted.mtu.or(interface.mtu);
        }
    }
    Ok(result)
}

fn find(pod: &mut Netlink, ifname: &str) -> Result<Link, CniError> {
    let link = pod.link(ifname).map_err(kernel("find the pod's interface"))?;
    link.ok_or_else(|| gone(ifname))
}

pub(crate) fn del(env: &Environment, _: &NetworkConfig) -> Result<(), CniError> {
    env.identity().map(drop)
}

pub(crate) fn check(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let wanted = Wanted::read(env, config)?;
    config.previous()?;
    let ifname = env.identity()?.ifname;
    let differences = env.namespace()?.visit(|| {
        let mut differences = Vec::new();
        for (name, value) in &wanted.sysctls {
            match sysctl::read(name) {
                Ok(have) if have == *value => {}
                Ok(have) => differences.push(format!("{name} is {have}, not {value}")),
                Err(error) => differences.push(error.to_string()),
            }
        }
        let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
        let link = find(&mut pod, &ifname)?;
        let mut compare = |what: &str, same: bool| {
            if !same {
                differences.push(format!("{what} of {ifname} is not as configured"));
            }
        };
        compare("the Ethernet address", wanted.mac.is_none_or(|mac| link.mac == Some(mac)));
        compare("the MTU", wanted.mtu.is_none_or(|mtu| link.mtu == mtu));
        compare("promisc", wanted.promiscuous.is_none_or(|on| link.promiscuous == on));
        compare("allmulti", wanted.all_multicast.is_none_or(|on| link.all_multicast == on));
        let queue = wanted.tx_queue_len.is_none_or(|packets| link.tx_queue_len == packets);
        compare("txQLen", queue);
        Ok::<_, CniError>(differences)
    })??;
    agree(differences)
}

/// Nothing outlives the pod's namespace.
pub(crate) fn gc(_: &Environment, _: &NetworkConfig) -> Result<(), CniError> {
    Ok(())
}

pub(crate) fn status(_: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    config.read::<Conf>().map(drop)
}
