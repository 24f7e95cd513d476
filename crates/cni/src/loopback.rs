//! Plugin type `loopback`: the pod's `lo` is up. Whatever `CNI_IFNAME` says, this is about `lo`.

use link::kernel::Netlink;
use link::{Change, LinkSettings};

use crate::environment::Environment;
use crate::result::{AddResult, ResultInterface, ResultIp};
use crate::steps::{gone, kernel, missing_is_fine};
use crate::{CniError, NetworkConfig};

const LO: &str = "lo";

pub(crate) fn add(env: &Environment, config: &NetworkConfig) -> Result<AddResult, CniError> {
    env.identity()?;
    let namespace = env.namespace()?;
    let addresses = namespace.visit(|| {
        let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
        let up = Change::SetLink(LO.into(), LinkSettings::up());
        pod.apply(&[up]).map_err(kernel("bring up the pod's loopback"))?;
        let lo = pod.link(LO).map_err(kernel("find the pod's loopback"))?;
        let lo = lo.ok_or_else(|| gone(LO))?;
        pod.addresses(Some(lo.index)).map_err(kernel("list the pod's loopback addresses"))
    })??;
    // In a chain the result before goes on as it is.
    if let Some(previous) = &config.previous {
        return Ok(previous.clone());
    }
    let mut ips: Vec<ResultIp> = Vec::new();
    for is_ipv4 in [true, false] {
        let first = addresses.iter().find(|address| address.ip().is_ipv4() == is_ipv4);
        ips.extend(first.map(|address| ResultIp {
            interface: Some(0),
            address: address.network,
            gateway: None,
        }));
    }
    let interface = ResultInterface {
        name: LO.to_owned(),
        mac: "00:00:00:00:00:00".to_owned(),
        mtu: None,
        sandbox: env.netns.clone(),
    };
    Ok(AddResult { interfaces: vec![interface], ips, routes: Vec::new(), dns: None })
}

/// Brings it down; no namespace, nothing to do.
pub(crate) fn del(env: &Environment, _: &NetworkConfig) -> Result<(), CniError> {
    env.identity()?;
    let namespace = match env.namespace() {
        Ok(namespace) => namespace,
        Err(CniError::NoNamespace { .. }) => return Ok(()),
        Err(_) if env.netns.is_empty() => return Ok(()),
        Err(error) => return Err(error),
    };
    namespace.visit(|| {
        let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
        let down = Change::SetLink(LO.into(), LinkSettings::down());
        missing_is_fine(pod.apply(&[down])).map_err(kernel("bring down the pod's loopback"))
    })?
}

pub(crate) fn check(env: &Environment, _: &NetworkConfig) -> Result<(), CniError> {
    env.identity()?;
    let namespace = env.namespace()?;
    let lo = namespace.visit(|| {
        let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
        pod.link(LO).map_err(kernel("find the pod's loopback"))
    })??;
    if lo.is_some_and(|lo| lo.up) {
        return Ok(());
    }
    Err(CniError::Check { differences: vec!["the pod's loopback is down".to_owned()] })
}

/// Nothing outlives the pod's namespace.
pub(crate) fn gc(_: &Environment, _: &NetworkConfig) -> Result<(), CniError> {
    Ok(())
}

pub(crate) fn status(_: &Environment, _: &NetworkConfig) -> Result<(), CniError> {
    Ok(())
}
