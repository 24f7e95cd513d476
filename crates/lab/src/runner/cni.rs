//! Edge: the runtime's side of the CNI protocol (spec 1.1): finds the configuration list, executes its plugins with the
//! configuration on stdin, and reads result or error. It links against no plugin.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::child;

/// How long one plugin may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A network: the first configuration list of the directory.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    /// Where it was read.
    pub path: PathBuf,
    name: String,
    version: String,
    plugins: Vec<Value>,
}

/// Why there is no network, or a plugin did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// No configuration yet.
    #[error("no networks found in {}", dir.display())]
    NoConfig {
        /// The directory.
        dir: PathBuf,
    },
    /// The configuration is not one.
    #[error("{}: {what}", path.display())]
    BadConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The plugin could not be executed.
    #[error("plugin type={plugin:?} ({}): {error}", path.display())]
    Exec {
        /// Its type.
        plugin: String,
        /// The program.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The plugin said no.
    #[error("plugin type={plugin:?} failed ({command}): {message}")]
    Plugin {
        /// Its type.
        plugin: String,
        /// `add`, `del`.
        command: String,
        /// CNI error code; 0 when it gave none.
        code: u64,
        /// Its words.
        message: String,
    },
}

/// Who is attached to what.
#[derive(Debug, Clone)]
pub struct Attachment<'a> {
    /// `CNI_CONTAINERID`.
    pub container_id: &'a str,
    /// `CNI_NETNS`.
    pub netns: &'a Path,
    /// Namespace, name and uid of the pod, for `CNI_ARGS`.
    pub pod: (&'a str, &'a str, &'a str),
    /// What plugins that have a capability are told of it (`runtimeConfig`).
    pub capabilities: &'a Map<String, Value>,
}

/// The network's configuration: first `.conflist` (then `.conf`, `.json`) by name.
///
/// # Errors
/// There is none yet, or it cannot be used.
pub fn load(dir: &Path) -> Result<NetworkList, CniError> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json"))
        .collect();
    files.sort();
    let path =
        files.into_iter().next().ok_or_else(|| CniError::NoConfig { dir: dir.to_owned() })?;
    let bad = |what: String| CniError::BadConfig { path: path.clone(), what };
    let text = std::fs::read(&path).map_err(|e| bad(e.to_string()))?;
    let value: Value = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    let name = value["name"].as_str().ok_or_else(|| bad("has no name".into()))?.to_owned();
    let version = value["cniVersion"].as_str().unwrap_or("0.2.0").to_owned();
    let plugins = match value.get("plugins") {
        Some(Value::Array(list)) if !list.is_empty() => list.clone(),
        Some(_) => return Err(bad("plugins is not a list of plugins".into())),
        None => vec![value],
    };
    if plugins.iter().any(|p| p["type"].as_str().is_none()) {
        return Err(bad("a plugin has no type".into()));
    }
    Ok(NetworkList { path, name, version, plugins })
}

/// Attaches a pod: every plugin's ADD in order. The result of the last one.
///
/// # Errors
/// The first plugin that fails; the caller calls [`del`] before it tries again.
pub async fn add(
    network: &NetworkList,
    bin: &Path,
    to: &Attachment<'_>,
) -> Result<Value, CniError> {
    let mut result = None;
    for plugin in &network.plugins {
        let said = call("ADD", network, plugin, bin, to, result.as_ref()).await?;
        result = Some(said);
    }
    Ok(result.unwrap_or(Value::Null))
}

/// Detaches a pod: every plugin's DEL, last first. Goes on after a failure and returns the first one.
///
/// # Errors
/// A plugin failed.
pub async fn del(
    network: &NetworkList,
    bin: &Path,
    from: &Attachment<'_>,
    previous: Option<&Value>,
) -> Result<(), CniError> {
    let mut first = Ok(());
    for plugin in network.plugins.iter().rev() {
        let said = call("DEL", network, plugin, bin, from, previous).await.map(drop);
        first = first.and(said);
    }
    first
}

async fn call(
    command: &str,
    network: &NetworkList,
    plugin: &Value,
    bin: &Path,
    attachment: &Attachment<'_>,
    previous: Option<&Value>,
) -> Result<Value, CniError> {
    let kind = plugin["type"].as_str().unwrap_or_default().to_owned();
    let (path, dir) = if bin.is_dir() {
        (bin.join(&kind), bin.to_owned())
    } else {
        (bin.to_owned(), bin.parent().unwrap_or(Path::new("/")).to_owned())
    };
    let mut config = plugin.as_object().cloned().unwrap_or_default();
    config.insert("name".into(), json!(network.name));
    config.insert("cniVersion".into(), json!(network.version));
    if let Some(Value::Object(has)) = config.remove("capabilities") {
        let mut told = attachment.capabilities.clone();
        told.retain(|name, _| has.get(name) == Some(&Value::Bool(true)));
        if !told.is_empty() {
            config.insert("runtimeConfig".into(), told.into());
        }
    }
    if let Some(previous) = previous {
        config.insert("prevResult".into(), previous.clone());
    }
    let program = path.clone();
    let run = exec(command, program, dir, config, attachment);
    let output = run.await.map_err(|error| CniError::Exec { plugin: kind.clone(), path, error })?;
    let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    if output.status.success() {
        return Ok(said.unwrap_or(Value::Null));
    }
    let (code, message) = match &said {
        Some(error) if error["msg"].is_string() => {
            let details = error["details"].as_str().filter(|d| !d.is_empty());
            let message = error["msg"].as_str().unwrap_or_default();
            let message = details.map_or(message.to_owned(), |d| format!("{message}; {d}"));
            (error["code"].as_u64().unwrap_or_default(), message)
        }
        _ => {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            (0, format!("{} and no CNI error on stdout: {words:?}", output.status))
        }
    };
    Err(CniError::Plugin { plugin: kind, command: command.to_lowercase(), code, message })
}

async fn exec(
    command: &str,
    program: PathBuf,
    dir: PathBuf,
    config: Map<String, Value>,
    attachment: &Attachment<'_>,
) -> io::Result<child::Output> {
    let (namespace, name, uid) = attachment.pod;
    let mut args = OsString::from("IgnoreUnknown=1;K8S_POD_NAMESPACE=");
    args.push(format!(
        "{namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={uid}",
        attachment.container_id
    ));
    let mut process = Command::new(program);
    process
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", attachment.container_id)
        .env("CNI_NETNS", attachment.netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", dir)
        .env("CNI_ARGS", args);
    child::output(process, &serde_json::to_vec(&Value::Object(config))?, LIMIT).await
}

/// The addresses in an ADD result, IPv4 first.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut list: Vec<IpAddr> = ips
        .iter()
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect();
    list.sort_by_key(IpAddr::is_ipv6);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_ipv4_first() {
        let result = json!({"ips": [{"address": "fd00::5/64"}, {"address": "10.244.1.5/24"}]});
        let want: [IpAddr; 2] = ["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(addresses(&result), want);
        assert!(addresses(&json!({"ips": [{"address": "nonsense"}]})).is_empty());
    }

    #[test]
    fn a_missing_or_broken_configuration_says_what_is_wrong() {
        let dir = std::env::temp_dir().join(format!("fairway-cni-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert!(load(&dir).unwrap_err().to_string().starts_with("no networks found in"));
        std::fs::write(dir.join("10-x.conflist"), r#"{"name":"n","plugins":[{}]}"#).unwrap();
        assert!(load(&dir).unwrap_err().to_string().contains("has no type"));
        std::fs::write(dir.join("10-x.conflist"), r#"{"name":"n","plugins":[{"type":"t"}]}"#)
            .unwrap();
        assert_eq!(load(&dir).unwrap().plugins.len(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
