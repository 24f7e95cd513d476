//! Another `ipam.type`: the program of that name in `CNI_PATH` is executed as the specification's
//! section 4 has it, with our own environment and configuration.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use serde_json::Value;

use super::Ask;
use crate::CniError;
use crate::environment::Command;
use crate::result::AddResult;

/// The program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegate {
    plugin: String,
}

impl Delegate {
    pub(super) fn parse(kind: &str) -> Result<Self, CniError> {
        if kind.contains('/') || kind == "." || kind == ".." {
            let why = format!("`{kind}` is not the name of a plugin");
            return Err(CniError::Config { field: "ipam.type", why });
        }
        Ok(Self { plugin: kind.to_owned() })
    }

    pub(super) fn add(&self, ask: Ask<'_>) -> Result<AddResult, CniError> {
        AddResult::from_json(&self.call(Command::Add, ask)?)
    }

    /// Runs it; its answer, or nothing.
    pub(super) fn call(&self, command: Command, ask: Ask<'_>) -> Result<Value, CniError> {
        let program = self.find(&ask.env.path)?;
        let failed = |source| CniError::Io { operation: "run the address plugin", source };
        let mut child = Process::new(program)
            .env("CNI_COMMAND", command.name())
            .env("CNI_CONTAINERID", &ask.env.container_id)
            .env("CNI_NETNS", &ask.env.netns)
            .env("CNI_IFNAME", &ask.env.ifname)
            .env("CNI_ARGS", &ask.env.args)
            .env("CNI_PATH", &ask.env.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read its configuration says why in its answer.
            drop(stdin.write_all(ask.config.whole.to_string().as_bytes()));
        }
        let output = child.wait_with_output().map_err(failed)?;
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() {
            return Ok(said);
        }
        let code = said["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or(999);
        let message = said["msg"].as_str().map_or_else(|| output.status.to_string(), str::to_owned);
        Err(CniError::Delegate { plugin: self.plugin.clone(), code, message })
    }

    fn find(&self, path: &str) -> Result<PathBuf, CniError> {
        let dirs = path.split(':').filter(|dir| !dir.is_empty());
        let mut programs = dirs.map(|dir| Path::new(dir).join(&self.plugin));
        programs.find(|program| program.is_file()).ok_or_else(|| CniError::Config {
            field: "ipam.type",
            why: format!(
                "`{}` is none of host-local and static, and no program of that name is in CNI_PATH (`{path}`)",
                self.plugin
            ),
        })
    }
}
