//! fairway-bench: what Fairway promises, measured beside its peers.
//!
//! Exit codes: 0 measured (soak: and nothing wrong); 1 it failed (one line on standard error says why); 2 wrong usage.

mod api;
mod arguments;
mod ask;
mod backend;
mod churn;
mod cni;
mod fabric;
mod names;
mod numbers;
mod objects;
mod plane;
mod policies;
mod process;
mod report;
mod samples;
mod say;
mod services;
mod site;
mod soak;
mod stream;
mod world;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser as _;

use crate::arguments::{Arguments, Command, Common, Format};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    match with_directory(|dir| run(&arguments, dir)) {
        Ok(code) => code,
        Err(error) => {
            say::line(&format!("error: {}", format!("{error:#}").replace('\n', " ")));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, dir: &Path) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        Command::Services(options) => {
            let report = services::run(options, dir)?;
            print(&match options.common.output {
                Some(Format::Json) => format!("{:#}\n", report.json()),
                None => report.table(),
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Cni(options) => {
            let outcome = cni::run(options, dir)?;
            print(&match options.output {
                Some(Format::Json) => format!("{:#}\n", outcome.json()),
                None => outcome.table(),
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Fabric(options) => {
            let outcome = fabric::run(options, dir)?;
            print(&match options.output {
                Some(Format::Json) => format!("{:#}\n", outcome.json()),
                None => outcome.table(),
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Policy(options) => {
            let outcome = policies::run(options, dir)?;
            print(&match options.output {
                Some(Format::Json) => format!("{:#}\n", outcome.json()),
                None => outcome.table(),
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Dns(options) => {
            let outcome = names::run(options, dir)?;
            print(&match options.output {
                Some(Format::Json) => format!("{:#}\n", outcome.json()),
                None => outcome.table(),
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Soak(options) => {
            let outcome = soak::run(options, dir)?;
            print(&match options.common.output {
                Some(Format::Json) => format!("{:#}\n", outcome.json()),
                None => outcome.text(),
            })?;
            Ok(if outcome.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

/// A directory for logs and configurations that is gone afterwards.
fn with_directory<T>(work: impl FnOnce(&Path) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let dir = std::env::temp_dir().join(format!("fairway-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let outcome = work(&dir);
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    outcome
}

/// The binary that is measured.
fn fairway_binary(common: &Common) -> anyhow::Result<PathBuf> {
    binary(common.fairway.as_deref())
}

/// The same, named or beside this program.
fn binary(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let beside = || Ok(std::env::current_exe()?.with_file_name("fairway"));
    let binary = named.map(Path::to_owned).map_or_else(beside, anyhow::Ok)?;
    if !binary.exists() {
        bail!("there is no {}; build it or name it with --fairway", binary.display());
    }
    Ok(binary)
}

/// For the API and its client; measuring happens on threads of its own.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Logs go to standard error; `FAIRWAY_LOG` says how much (`warn` unless set).
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FAIRWAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
