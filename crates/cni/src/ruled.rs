//! What `firewall` and `portmap` answer alike: of a pod they make nothing but rules.

use crate::environment::Environment;
use crate::rules::{self, Owner, Wanted};
use crate::steps::agree;
use crate::{CniError, NetworkConfig};

/// DEL: the rules go.
pub(crate) fn del(plugin: &str, env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    rules::withdraw(Owner::new(plugin, config, &env.identity()?))
}

/// CHECK: the rules are there.
pub(crate) fn check(
    plugin: &str,
    env: &Environment,
    config: &NetworkConfig,
    wanted: &Wanted,
) -> Result<(), CniError> {
    agree(rules::check(Owner::new(plugin, config, &env.identity()?), wanted)?)
}
