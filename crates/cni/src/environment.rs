//! The CNI_ variables: read once, checked before use.

use link::Namespace;
use link::namespace::NamespaceError;

use crate::CniError;

/// The CNI_ variables, as given. Empty is the same as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`: path of the pod's network namespace.
    pub netns: String,
    /// `CNI_IFNAME`: name of the interface in the pod.
    pub ifname: String,
    /// `CNI_ARGS`: `KEY=value` pairs between semicolons.
    pub args: String,
    /// `CNI_PATH`: where other plugins are, directories between colons.
    pub path: String,
    /// The name this program was called by, without its directory.
    pub program: String,
}

/// A CNI command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the commands")]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    /// As written in `CNI_COMMAND`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// Which attachment: a container and one interface of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The runtime's id of the container.
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
}

impl Environment {
    /// The variables of this process.
    pub fn from_process() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self {
            command: variable("CNI_COMMAND"),
            container_id: variable("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS"),
            ifname: variable("CNI_IFNAME"),
            args: variable("CNI_ARGS"),
            path: variable("CNI_PATH"),
            program: std::env::args_os().next().map(file_name).unwrap_or_default(),
        }
    }

    /// The command.
    ///
    /// # Errors
    /// [`CniError::Environment`] when there is none or it is unknown.
    pub fn command(&self) -> Result<Command, CniError> {
        match self.command.as_str() {
            "ADD" => Ok(Command::Add),
            "DEL" => Ok(Command::Del),
            "CHECK" => Ok(Command::Check),
            "GC" => Ok(Command::Gc),
            "STATUS" => Ok(Command::Status),
            "VERSION" => Ok(Command::Version),
            "" => Err(wrong("CNI_COMMAND", "is not set; a container runtime sets it")),
            other => {
                let known = "ADD, DEL, CHECK, GC, STATUS or VERSION";
                Err(wrong("CNI_COMMAND", format!("is `{other}`; it must be {known}")))
            }
        }
    }

    /// Container and interface.
    ///
    /// # Errors
    /// [`CniError::Environment`] when one is missing or not in the specification's form.
    pub fn identity(&self) -> Result<Identity, CniError> {
        if self.container_id.is_empty() {
            return Err(wrong("CNI_CONTAINERID", "is not set"));
        }
        if !is_name(&self.container_id) {
            let rule = "must begin with a letter or digit and go on with those, `_`, `.` or `-`";
            return Err(wrong("CNI_CONTAINERID", format!("is `{}`; it {rule}", self.container_id)));
        }
        let ifname = &self.ifname;
        let forbidden = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
        let why = match ifname.as_str() {
            "" => "is not set".to_owned(),
            "." | ".." => "must not be `.` or `..`".to_owned(),
            name if name.len() > 15 => format!("is `{name}`; a link name has at most 15 bytes"),
            name if name.contains(forbidden) => {
                format!("is `{name}`; a link name has no `/`, `:` or white space")
            }
            _ => {
                let (container_id, ifname) = (self.container_id.clone(), ifname.clone());
                return Ok(Identity { container_id, ifname });
            }
        };
        Err(wrong("CNI_IFNAME", why))
    }

    /// The pod's namespace, opened.
    ///
    /// # Errors
    /// [`CniError::Environment`] when not given, [`CniError::NoNamespace`] when it is not there.
    pub fn namespace(&self) -> Result<Namespace, CniError> {
        if self.netns.is_empty() {
            return Err(wrong("CNI_NETNS", "is not set"));
        }
        match Namespace::open_path(self.netns.as_ref()) {
            Ok(namespace) => Ok(namespace),
            Err(
                source @ (NamespaceError::NotFound { .. } | NamespaceError::NotANamespace { .. }),
            ) => Err(CniError::NoNamespace { source }),
            Err(source) => Err(CniError::Namespace(source)),
        }
    }

    /// The value of a key in `CNI_ARGS`.
    pub fn arg(&self, key: &str) -> Option<&str> {
        let mut pairs = self.args.split(';').filter_map(|pair| pair.split_once('='));
        pairs.find_map(|(name, value)| (name == key && !value.is_empty()).then_some(value))
    }
}

fn file_name(path: std::ffi::OsString) -> String {
    let name = std::path::Path::new(&path).file_name();
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The specification's form of container ids and network names.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn wrong(variable: &'static str, why: impl Into<String>) -> CniError {
    CniError::Environment { variable, why: why.into() }
}
