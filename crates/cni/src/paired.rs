//! What `bridge` and `ptp` do alike around their veth pair: which rules it comes with, how it is taken
//! down, and how what vanished pods left is found.

use link::kernel::Netlink;

use crate::environment::Environment;
use crate::ipam::Ask;
use crate::rules::{self, Owner, Wanted};
use crate::steps::{all, kernel};
use crate::{AddResult, CniError, NetworkConfig, pair};

/// The rules of an attachment with these addresses.
pub(crate) fn wanted(masquerade: bool, env: &Environment, result: &AddResult) -> Wanted {
    if !masquerade {
        return Wanted::default();
    }
    let masquerade = result.ips.iter().map(|ip| ip.address).collect();
    Wanted { netns: env.netns.clone(), masquerade, ..Wanted::default() }
}

/// Removes the pair, then the rules, then gives the addresses back: an address must not be another
/// pod's while anything here still knows it as this one's. What is gone already is fine.
pub(crate) fn take_down(
    owner: Owner<'_>,
    env: &Environment,
    config: &NetworkConfig,
    masquerade: bool,
) -> Result<(), CniError> {
    let identity = owner.identity;
    let mut errors = Vec::new();
    let removed = Netlink::open()
        .map_err(kernel("reach the node's network"))
        .and_then(|mut node| pair::take_down(env, identity, &mut node));
    errors.extend(removed.err());
    if masquerade {
        errors.extend(rules::withdraw(owner).err());
    }
    if let Some(ipam) = config.ipam.as_ref().filter(|_| errors.is_empty()) {
        errors.extend(ipam.del(Ask { env, config, identity }).err());
    }
    all(errors)
}

/// Removes what belongs to no attachment the runtime still knows.
pub(crate) fn gc(plugin: &str, env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let valid = config.valid_attachments()?;
    let mut errors = Vec::new();
    errors.extend(pair::gc(&config.name, valid).err());
    errors.extend(rules::gc(plugin, config, valid).err());
    // With a link left over its address stays reserved; the next GC tries again.
    if let Some(ipam) = config.ipam.as_ref().filter(|_| errors.is_empty()) {
        errors.extend(ipam.gc(env, config, valid).err());
    }
    all(errors)
}
