//! The CNI plugins: pods joined to their node (CNI specification 0.1.0 to 1.1.0).
//!
//! [`main`] is the whole protocol: environment and configuration in, JSON result or JSON error and
//! an exit code out. It blocks, starts no runtime, executes nothing (but an address plugin that is a
//! program of its own) and keeps no state but the files of [`ipam`], the records beside the rules
//! ([`rules`]) and what the kernel holds, so DEL works with everything else down. One file per plugin
//! type; the decision what a pod gets in `fairway` mode is the pure [`attachment`].
//!
//! It must not know the Kubernetes API; of Kubernetes it knows the names in `CNI_ARGS`.

pub mod attachment;
mod bandwidth;
mod bridge;
mod config;
mod conflist;
mod environment;
mod error;
pub mod fairway;
mod firewall;
mod gate;
mod install;
pub mod ipam;
mod ipam_plugin;
mod loopback;
mod pair;
mod paired;
mod plugin;
mod portmap;
mod ptp;
mod result;
mod ruled;
pub mod rules;
mod steps;
mod tuning;
mod version;

use std::io::{Read, Write};

pub use config::NetworkConfig;
pub use conflist::{Conflist, bridge_conflist, conflist};
pub use environment::{Command, Environment, Identity};
pub use error::CniError;
pub use gate::{GATE_PATIENCE, GATE_SOCKET, GateRequest};
pub use install::{InstallError, Installed, install};
pub use plugin::Plugin;
pub use result::{AddResult, ResultInterface, ResultIp, ResultRoute};
pub use version::SpecVersion;

/// Standard input is a configuration, not a stream: more than this is refused.
const CONFIG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Runs one CNI command. Results and errors are JSON on `stdout`, as the specification has it; the
/// returned exit code is 0, or 1 after an error.
pub fn main(env: &Environment, stdin: &mut dyn Read, stdout: &mut dyn Write) -> i32 {
    let mut text = Vec::new();
    let mut version = SpecVersion::V1_1_0;
    let answer = match stdin.take(CONFIG_BYTES_MAX).read_to_end(&mut text) {
        Ok(_) => answer(env, &text, &mut version),
        Err(source) => Err(CniError::Io { operation: "read standard input", source }),
    };
    let (text, code) = match answer {
        Ok(text) => (text, 0),
        Err(error) => (error.to_json(version), 1),
    };
    // Nobody is left to tell when standard output is closed; the exit code says it.
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok() { code } else { 1 }
}

/// The text for standard output. `version` becomes the configuration's as soon as it is known: errors
/// are told in it too.
fn answer(env: &Environment, stdin: &[u8], version: &mut SpecVersion) -> Result<String, CniError> {
    let command = env.command()?;
    if command == Command::Version {
        return Ok(version::supported_json());
    }
    let config = NetworkConfig::parse(stdin, version)?;
    let since = match command {
        Command::Check => SpecVersion::V0_4_0,
        Command::Gc | Command::Status => SpecVersion::V1_1_0,
        _ => SpecVersion::V0_1_0,
    };
    if *version < since {
        return Err(CniError::CommandTooNew { command: command.name(), version: *version, since });
    }
    let plugin = Plugin::choose(&env.program, &config.plugin)?;
    plugin.run(command, env, &config)
}
