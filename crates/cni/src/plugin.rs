//! Which plugin this call is for, and the commands each of them answers.

use crate::environment::{Command, Environment};
use crate::{
    AddResult, CniError, NetworkConfig, bandwidth, bridge, fairway, firewall, ipam_plugin,
    loopback, portmap, ptp, tuning,
};

/// A plugin of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the plugins")]
pub enum Plugin {
    Bandwidth,
    Bridge,
    Fairway,
    Firewall,
    HostLocal,
    Loopback,
    Portmap,
    Ptp,
    Static,
    Tuning,
}

/// What a plugin answers ADD with.
type Add = fn(&Environment, &NetworkConfig) -> Result<AddResult, CniError>;
/// What a plugin does for a command without a result.
type Do = fn(&Environment, &NetworkConfig) -> Result<(), CniError>;

/// The commands of one plugin.
struct Commands {
    add: Add,
    del: Do,
    check: Do,
    gc: Do,
    status: Do,
}

impl Plugin {
    /// All of them, by name.
    pub const ALL: [Self; 10] = [
        Self::Bandwidth,
        Self::Bridge,
        Self::Fairway,
        Self::Firewall,
        Self::HostLocal,
        Self::Loopback,
        Self::Portmap,
        Self::Ptp,
        Self::Static,
        Self::Tuning,
    ];

    /// The name: `type` in a configuration, and the file the runtime executes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bandwidth => "bandwidth",
            Self::Bridge => "bridge",
            Self::Fairway => "fairway",
            Self::Firewall => "firewall",
            Self::HostLocal => "host-local",
            Self::Loopback => "loopback",
            Self::Portmap => "portmap",
            Self::Ptp => "ptp",
            Self::Static => "static",
            Self::Tuning => "tuning",
        }
    }

    /// The plugin of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plugin| plugin.name() == name)
    }

    /// All names, for messages.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The plugin for a call: by the name the program was called by, as with the reference plugins,
    /// which are a program each; called as `fairway`, or by a name that is no plugin's, by `type`.
    /// An address plugin needs the former: `type` names the plugin that calls it.
    pub(crate) fn choose(program: &str, kind: &str) -> Result<Self, CniError> {
        match Self::named(program) {
            Some(plugin) if plugin != Self::Fairway => Ok(plugin),
            _ => {
                Self::named(kind).ok_or_else(|| CniError::UnknownPlugin { plugin: kind.to_owned() })
            }
        }
    }

    /// Runs a command; the text is for standard output.
    pub(crate) fn run(
        self,
        command: Command,
        env: &Environment,
        config: &NetworkConfig,
    ) -> Result<String, CniError> {
        let commands = self.commands();
        let quiet = match command {
            Command::Add => return (commands.add)(env, config)?.to_json(config.version),
            Command::Version => return Ok(crate::version::supported_json()),
            Command::Del => commands.del,
            Command::Check => commands.check,
            Command::Gc => commands.gc,
            Command::Status => commands.status,
        };
        quiet(env, config).map(|()| String::new())
    }

    fn commands(self) -> Commands {
        macro_rules! commands {
            ($module:ident) => {
                Commands {
                    add: $module::add,
                    del: $module::del,
                    check: $module::check,
                    gc: $module::gc,
                    status: $module::status,
                }
            };
        }
        match self {
            Self::Bandwidth => commands!(bandwidth),
            Self::Bridge => commands!(bridge),
            Self::Fairway => commands!(fairway),
            Self::Firewall => commands!(firewall),
            Self::HostLocal | Self::Static => commands!(ipam_plugin),
            Self::Loopback => commands!(loopback),
            Self::Portmap => commands!(portmap),
            Self::Ptp => commands!(ptp),
            Self::Tuning => commands!(tuning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_name_chooses_and_else_the_type() {
        let choose = |program, kind| Plugin::choose(program, kind).ok();
        assert_eq!(choose("host-local", "bridge"), Some(Plugin::HostLocal));
        assert_eq!(choose("fairway", "bridge"), Some(Plugin::Bridge));
        assert_eq!(choose("fairway-1.2", "ptp"), Some(Plugin::Ptp));
        assert_eq!(choose("fairway", "fairway"), Some(Plugin::Fairway));
        assert_eq!(choose("", "macvlan"), None);
        for plugin in Plugin::ALL {
            assert_eq!(Plugin::named(plugin.name()), Some(plugin));
        }
    }
}
