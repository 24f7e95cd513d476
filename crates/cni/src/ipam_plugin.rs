//! `host-local` and `static` called as plugins of their own: by another program's bridge, or by hand.

use crate::environment::Environment;
use crate::ipam::Ask;
use crate::steps::agree;
use crate::{AddResult, CniError, NetworkConfig};

pub(crate) fn add(env: &Environment, config: &NetworkConfig) -> Result<AddResult, CniError> {
    let identity = env.identity()?;
    let wanted = config.wanted_ips(env)?;
    config.ipam()?.add(Ask { env, config, identity: &identity }, &wanted, false)
}

pub(crate) fn del(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let identity = env.identity()?;
    config.ipam()?.del(Ask { env, config, identity: &identity })
}

/// The addresses are those of `prevResult`; without one it is enough that the attachment holds some.
pub(crate) fn check(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let identity = env.identity()?;
    let previous = config.previous()?;
    let addresses: Vec<_> = previous.ips.iter().map(|ip| ip.address.addr()).collect();
    let differences = config.ipam()?.check(Ask { env, config, identity: &identity }, &addresses)?;
    agree(differences)
}

pub(crate) fn gc(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let valid = config.valid_attachments()?;
    config.ipam()?.gc(env, config, valid)
}

pub(crate) fn status(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let not_ready = |error: CniError| CniError::NotReady { source: Box::new(error) };
    config.ipam()?.status(env, config).map_err(not_ready)
}
