//! fairway: arguments to one call.
//!
//! Exit codes: 0 done; 1 it failed (one line on standard error says why); 2 the arguments make no sense;
//! `fairway lab exec` exits as the program it ran; commands that answer a question (`diff`, `service status`, `policy explain`, `preflight`)
//! say 2 when they could not tell.

mod agent;
mod arguments;
mod dns;
mod lab;
mod network;
mod node;
mod plugins;
mod pod_link;
mod policy;
mod service;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{Arguments, Command};

fn main() -> ExitCode {
    // Before anything else: the parts this binary plays inside containers, and the CNI plugin a runtime calls.
    if let Some(code) = ::lab::container::early() {
        return exit_code(code);
    }
    if std::env::var_os("CNI_COMMAND").is_some() {
        let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
        return exit_code(cni::main(&cni::Environment::from_process(), &mut input, &mut output));
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are printed by the same path and are no error.
            drop(error.print());
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    log_to_stderr();
    let outcome = match arguments.command {
        Command::Agent(options) => agent::run(*options),
        Command::Service { command } => service::run(command),
        Command::Policy { command } => policy::run(command),
        Command::Ipam { command } => network::ipam(command),
        Command::Node { command } => network::node(command),
        Command::Diff(options) => service::diff(&options),
        Command::Dns { command } => dns::run(command),
        Command::Preflight(options) => node::preflight(&options),
        Command::Adopt { command } => node::adopt(command),
        Command::Cleanup(options) => node::cleanup(&options),
        Command::Lab { command } => lab::run(command),
        Command::Link { command } => pod_link::run(&command),
        Command::Cni { command } => plugins::run(&command),
        Command::Version => version(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// One line: what went wrong, and below it why, joined by colons.
fn complain(error: &anyhow::Error) {
    let text = format!("{error:#}").replace('\n', " ");
    drop(writeln!(std::io::stderr().lock(), "error: {text}"));
}

fn version() -> anyhow::Result<ExitCode> {
    writeln!(std::io::stdout().lock(), "fairway {}", env!("CARGO_PKG_VERSION"))?;
    Ok(ExitCode::SUCCESS)
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Logs go to standard error, `FAIRWAY_LOG` says how much (`info` unless set; `debug`, `agent=debug,warn`, …).
fn log_to_stderr() {
    use std::io::IsTerminal as _;
    let filter = tracing_subscriber::EnvFilter::try_from_env("FAIRWAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .init();
}

/// A runtime with one thread: what an agent, a runner and the short commands need.
fn small_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
