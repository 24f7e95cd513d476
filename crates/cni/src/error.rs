//! What can go wrong, with the specification's error codes.

use std::io;
use std::path::PathBuf;

use link::kernel::NetlinkError;
use link::namespace::NamespaceError;
use link::sysctl::SysctlError;

use crate::SpecVersion;
use crate::ipam::IpamError;

/// Why a CNI command failed.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// A version of the specification that is not spoken here (code 1).
    #[error(
        "CNI version `{version}` is not supported; supported are 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0"
    )]
    Version {
        /// The configuration's `cniVersion`.
        version: String,
    },
    /// The command is younger than the configuration's version (code 1).
    #[error("{command} needs CNI version {since} or later; the configuration says {version}")]
    CommandTooNew {
        /// The command.
        command: &'static str,
        /// The configuration's version.
        version: SpecVersion,
        /// The first version with that command.
        since: SpecVersion,
    },
    /// The network namespace is not there, so there is nothing to clean up (code 3).
    #[error("the container has no network namespace: {source}")]
    NoNamespace {
        /// What was looked for.
        source: NamespaceError,
    },
    /// A CNI_ variable is missing or malformed (code 4).
    #[error("{variable} {why}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A file or stream failed (code 5).
    #[error("cannot {operation}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Standard input is not a network configuration in JSON (code 6).
    #[error("the network configuration on standard input does not parse: {source}")]
    Decode {
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field of the configuration is wrong (code 7).
    #[error("network configuration: {field}: {why}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong and what is right.
        why: String,
    },
    /// No plugin of that type here (code 7).
    #[error("this program has no CNI plugin `{plugin}`; it has {}", crate::Plugin::names())]
    UnknownPlugin {
        /// The configuration's `type`.
        plugin: String,
    },
    /// No address could be had (code 5, or 11 when all are taken: try again later).
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// A result that the version asked for cannot tell (code 1).
    #[error("a result of CNI version {version} needs an address, and there is none")]
    Shape {
        /// The configuration's version.
        version: SpecVersion,
    },
    /// The interface name is taken inside the pod by something that is not ours (code 100).
    #[error("the pod has an interface `{interface}` that this network did not make")]
    InterfaceTaken {
        /// The name.
        interface: String,
    },
    /// The kernel refused a step (code 101).
    #[error("cannot {step}: {source}")]
    Kernel {
        /// The step.
        step: &'static str,
        /// The kernel's answer.
        source: NetlinkError,
    },
    /// A kernel setting could not be made (code 101).
    #[error("cannot prepare {interface}: {source}")]
    Sysctl {
        /// For which interface.
        interface: String,
        /// Which setting, and why.
        source: SysctlError,
    },
    /// The pod's namespace could not be entered (code 101).
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// nf_tables could not be asked or did not take a change (code 103).
    #[error("cannot {step}: {why}")]
    Rules {
        /// The step.
        step: &'static str,
        /// What the kernel said.
        why: String,
    },
    /// A host port is another pod's (code 104).
    #[error("host port {port} is taken by container {owner}")]
    HostPortTaken {
        /// `address/protocol/port`.
        port: String,
        /// Whose it is.
        owner: String,
    },
    /// A file of this plugin's own state failed (code 5).
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An address plugin that is a program of its own failed (its own code).
    #[error("the address plugin {plugin} says: {message}")]
    Delegate {
        /// Its type.
        plugin: String,
        /// Its code.
        code: u32,
        /// Its words.
        message: String,
    },
    /// CHECK found a difference (code 102).
    #[error("the attachment is not what ADD made: {}", differences.join("; "))]
    Check {
        /// What is missing or different.
        differences: Vec<String>,
    },
    /// Several things failed while taking down (the code of the first).
    #[error("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several {
        /// All of them.
        errors: Vec<CniError>,
    },
    /// The agent has not said that the pod's network policy is in the kernel (code 11: try again later).
    #[error("the network policy of pod {pod} is not in effect yet: {why}")]
    PolicyNotReady {
        /// The pod.
        pod: String,
        /// What is missing.
        why: String,
    },
    /// STATUS: an ADD would fail (code 50).
    #[error("not ready: {source}")]
    NotReady {
        /// Why.
        source: Box<CniError>,
    },
    /// STATUS: the state directory cannot be written (code 50).
    #[error("cannot write to {}: {source}", path.display())]
    StateDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl CniError {
    /// The code of the specification (1–99) or of this plugin (100 and above).
    pub fn code(&self) -> u32 {
        match self {
            Self::Version { .. } | Self::CommandTooNew { .. } | Self::Shape { .. } => 1,
            Self::NoNamespace { .. } => 3,
            Self::Environment { .. } => 4,
            Self::Io { .. } | Self::File { .. } => 5,
            Self::Delegate { code, .. } => *code,
            Self::Decode { .. } => 6,
            Self::Config { .. } | Self::UnknownPlugin { .. } => 7,
            Self::Ipam(IpamError::Exhausted { .. }) | Self::PolicyNotReady { .. } => 11,
            Self::Ipam(IpamError::Unavailable { .. }) => 7,
            Self::Ipam(_) => 5,
            Self::InterfaceTaken { .. } => 100,
            Self::Kernel { .. } | Self::Sysctl { .. } | Self::Namespace(_) => 101,
            Self::Check { .. } => 102,
            Self::Rules { .. } => 103,
            Self::HostPortTaken { .. } => 104,
            Self::Several { errors } => errors.first().map_or(101, Self::code),
            Self::NotReady { .. } | Self::StateDirectory { .. } => 50,
        }
    }

    /// The error as the specification prints it.
    pub(crate) fn to_json(&self, version: SpecVersion) -> String {
        serde_json::json!({
            "cniVersion": version.as_str(),
            "code": self.code(),
            "msg": self.to_string(),
        })
        .to_string()
    }
}
