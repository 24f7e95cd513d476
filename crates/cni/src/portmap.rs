//! Plugin type `portmap`: ports of the node that are a pod's (`hostPort`), by nf_tables.
//!
//! Works in a chain: the addresses are those of the result before. Overlapping protocols and host
//! addresses are different elements, so TCP 53 and UDP 53, or one port on two addresses, live side by
//! side; the same one twice is refused, unless its old pod is gone. After a foreign flush the rules
//! come back by the next ADD, or by the agent at once.

use std::net::IpAddr;

use ipnet::IpNet;
use link::kernel::Netlink;
use link::sysctl;
use serde::Deserialize;

use crate::environment::Environment;
use crate::rules::{self, HostPort, Owner, Protocol, Wanted, is_loopback};
use crate::steps::{ensure_where_known, kernel};
use crate::{AddResult, CniError, NetworkConfig, ruled};

const PLUGIN: &str = "portmap";

/// The mappings a configuration asks for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Conf {
    /// Whether the pod's own subnet and loopback may dial the port too.
    snat: Option<bool>,
    #[serde(default)]
    runtime_config: Option<Runtime>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    #[serde(default)]
    port_mappings: Option<Vec<Mapping>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_port: i64,
    container_port: i64,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default, rename = "hostIP")]
    host_ip: Option<String>,
}

impl Mapping {
    /// The mapping for one address of the pod; `None` when it is about the other family.
    fn to(&self, pod: IpAddr) -> Result<Option<HostPort>, CniError> {
        let protocol = match self.protocol.as_deref().unwrap_or("tcp").to_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(wrong(format!("protocol `{other}` is none of tcp, udp, sctp"))),
        };
        let port = |what: &str, number: i64| {
            u16::try_from(number)
                .ok()
                .filter(|number| *number != 0)
                .ok_or_else(|| wrong(format!("{what} {number} is not between 1 and 65535")))
        };
        let host_address: Option<IpAddr> = match self.host_ip.as_deref() {
            None | Some("") => None,
            Some(text) => {
                Some(text.parse().map_err(|_| wrong(format!("hostIP `{text}` is no address")))?)
            }
        };
        // "Any address" of a family is no address of the node.
        let family = host_address.map(|address| address.is_ipv4());
        if family.is_some_and(|is_ipv4| is_ipv4 != pod.is_ipv4()) {
            return Ok(None);
        }
        Ok(Some(HostPort {
            host_address: host_address.filter(|address| !address.is_unspecified()),
            protocol,
            host_port: port("hostPort", self.host_port)?,
            pod_address: pod,
            pod_port: port("containerPort", self.container_port)?,
        }))
    }
}

fn wrong(why: String) -> CniError {
    CniError::Config { field: "runtimeConfig.portMappings", why }
}

/// What the configuration asks for, for the addresses of the result before: the first of each family,
/// as an interface may have more.
pub(crate) fn wanted(
    env: &Environment,
    conf: &Conf,
    previous: &AddResult,
) -> Result<Wanted, CniError> {
    let mut wanted = Wanted { netns: env.netns.clone(), ..Wanted::default() };
    let mappings = conf.runtime_config.iter().filter_map(|it| it.port_mappings.as_ref()).flatten();
    let in_sandbox = |ip: &&crate::ResultIp| {
        let interface = ip.interface.and_then(|at| previous.interfaces.get(at));
        interface.is_none_or(|interface| !interface.sandbox.is_empty())
    };
    let addresses = [true, false].into_iter().filter_map(|is_ipv4| {
        let mut of_pod = previous.ips.iter().filter(in_sandbox);
        of_pod.find(|ip| ip.address.addr().is_ipv4() == is_ipv4).map(|ip| ip.address)
    });
    let addresses: Vec<IpNet> = addresses.collect();
    for mapping in mappings {
        // A mapping told of the family the pod does not have is nothing to do, as in the reference plugin.
        for address in &addresses {
            let Some(port) = mapping.to(address.addr())? else { continue };
            if !conf.snat.unwrap_or(true) && is_loopback(port.host_address) {
                return Err(wrong(format!("{port} needs `snat`, or loopback cannot be answered")));
            }
            if !wanted.hairpin.contains(address) && conf.snat.unwrap_or(true) {
                wanted.hairpin.push(*address);
            }
            wanted.host_ports.push(port);
        }
    }
    Ok(wanted)
}

pub(crate) fn add(env: &Environment, config: &NetworkConfig) -> Result<AddResult, CniError> {
    let conf: Conf = config.read()?;
    let identity = env.identity()?;
    let previous = config.previous()?;
    let wanted = wanted(env, &conf, previous)?;
    prepare(&wanted)?;
    rules::apply(Owner::new(PLUGIN, config, &identity), &wanted)?;
    Ok(previous.clone())
}

/// The settings host ports need; none without host ports.
pub(crate) fn prepare(wanted: &Wanted) -> Result<(), CniError> {
    if wanted.host_ports.is_empty() {
        return Ok(());
    }
    allow_loopback(wanted)?;
    crate::pair::forward(wanted.host_ports.iter().map(|port| &port.pod_address))
}

/// Lets packets from 127.0.0.1 leave by the link that leads to the pod, where they are given the
/// node's address.
fn allow_loopback(wanted: &Wanted) -> Result<(), CniError> {
    let four = wanted.hairpin.iter().map(IpNet::addr).filter(IpAddr::is_ipv4);
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    for address in four {
        let reach = node.reach(address).map_err(kernel("ask for the way to the pod"))?;
        let Some(reach) = reach else { continue };
        if let Some(link) = node.link(reach.device).map_err(kernel("ask for the way to the pod"))? {
            let setting = sysctl::interface("ipv4", &link.name, "route_localnet");
            ensure_where_known(&link.name, &[(setting, "1")])?;
        }
    }
    Ok(())
}

pub(crate) fn del(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    ruled::del(PLUGIN, env, config)
}

pub(crate) fn check(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let wanted = wanted(env, &config.read()?, config.previous()?)?;
    ruled::check(PLUGIN, env, config, &wanted)
}

pub(crate) fn gc(_: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    rules::gc(PLUGIN, config, config.valid_attachments()?)
}

pub(crate) fn status(_: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    config.read::<Conf>().map(drop)
}
