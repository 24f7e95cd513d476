//! `fairway cni`: laying the plugins for a container runtime.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::arguments::CniCommand;
use crate::service::say;

pub(crate) fn run(command: &CniCommand) -> anyhow::Result<ExitCode> {
    let CniCommand::Install(options) = command;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("cannot tell where this program is")?,
    };
    let laid = cni::install(&options.dir, &program, options.replace)?;
    for link in &laid.made {
        say(&format!("{} -> {}\n", link.display(), program.display()))?;
    }
    if laid.made.is_empty() {
        say(&format!(
            "All {} plugins are in {} already.\n",
            laid.kept.len(),
            options.dir.display()
        ))?;
    }
    if let Some(path) = &options.conflist {
        let list = cni::bridge_conflist(&options.bridge, &options.subnets);
        if write_unless_same(path, &list)? {
            say(&format!("{} written\n", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_unless_same(path: &std::path::Path, text: &str) -> anyhow::Result<bool> {
    if std::fs::read_to_string(path).is_ok_and(|current| current == text) {
        return Ok(false);
    }
    let cannot = || format!("cannot write {}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(cannot)?;
    }
    // A runtime reads the directory at any time: it finds the old file or the new one.
    let draft = path.with_extension("new");
    std::fs::write(&draft, text).with_context(cannot)?;
    std::fs::rename(&draft, path).with_context(cannot)?;
    Ok(true)
}
