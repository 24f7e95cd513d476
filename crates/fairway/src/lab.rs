//! `fairway lab …`: each command to its call in the crate `lab`.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use lab::enter::Place;
use lab::layout::{LabName, Layout};
use lab::node::Which;
use lab::runner::RunnerConfig;
use lab::say::{Mark, Voice};
use lab::status;
use lab::teardown::Down;
use lab::{client, control, demo, enter, exec, node, preflight, runner, teardown, up};
use print::Format;

use crate::arguments::{
    LabCommand, NodeCommand, NodeOptions, Output, OutputFormat, PodRunnerOptions,
};
use crate::small_runtime;

pub(crate) fn run(command: LabCommand) -> anyhow::Result<ExitCode> {
    match command {
        LabCommand::Up(options) => {
            let options = up::UpOptions {
                name: options.name.lab,
                nodes: options.nodes,
                detach: options.detach,
                api_port: options.api_port,
                persist: options.persist,
                zones: options.zones,
                kubeconfig: options.kubeconfig,
                bind_pods: options.bind_pods,
                talk: if options.quiet { up::Talk::Quiet } else { up::Talk::Full },
            };
            small_runtime()?.block_on(up::up(options))?;
        }
        LabCommand::Down { name, all, purge } => return down(&name.lab, all, purge),
        LabCommand::Status { name, output } => {
            let status = status::of(&name.lab)?;
            Voice::new().verbatim(&status::print(&status, format(&output))?)?;
            // A script learns from the exit code whether the lab works.
            let well = matches!(status.state, status::LabState::Up | status::LabState::Down);
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        LabCommand::List { output } => {
            let (labs, failures) = status::all();
            Voice::new().verbatim(&status::print_list(&labs, format(&output))?)?;
            failures.iter().for_each(crate::complain);
            return Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        LabCommand::Kubeconfig { name, path } => return kubeconfig(&name.lab, path),
        LabCommand::Exec { name, target, command } => {
            preflight::root()?;
            let place = exec::place(&Layout::new(name.lab), &target)?;
            return Ok(become_program(&place, &command));
        }
        LabCommand::Node { command: NodeCommand::Kill(options) } => {
            let (layout, which) = which(&options);
            node::kill(&layout, &options.node, which)?;
        }
        LabCommand::Node { command: NodeCommand::Restart(options) } => {
            let (layout, which) = which(&options);
            node::restart(&layout, &options.node, which)?;
        }
        LabCommand::Demo { name } => {
            let good = small_runtime()?.block_on(demo::run(name))?;
            return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        LabCommand::Control { name, api_port } => control::main(name, api_port)?,
        LabCommand::PodRunner(options) => {
            small_runtime()?.block_on(runner::main(runner_config(options)?))?;
        }
        LabCommand::Enter { net, hostname, hosts, resolv, command } => {
            return Ok(become_program(&Place { net, hostname, hosts, resolv }, &command));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn down(name: &LabName, all: bool, purge: bool) -> anyhow::Result<ExitCode> {
    preflight::root()?;
    let names = if all { status::names() } else { vec![name.clone()] };
    let voice = Voice::new();
    let mut failed = false;
    if names.is_empty() {
        voice.step(Mark::Note, "there is no lab on this machine", None);
    }
    for name in names {
        let began = std::time::Instant::now();
        match teardown::down(&Layout::new(name.clone()), purge) {
            Ok(Down::Nothing) => voice.step(Mark::Note, &format!("there is no lab {name}"), None),
            Ok(Down::Gone) => {
                voice.step(Mark::Good, &format!("lab {name} is gone"), Some(began.elapsed()));
            }
            Ok(Down::StateKept) => {
                let text =
                    format!("lab {name} is down; its objects are kept (--purge removes them)");
                voice.step(Mark::Good, &text, Some(began.elapsed()));
            }
            // The other labs are taken down all the same.
            Err(error) => {
                failed = true;
                crate::complain(&error);
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn kubeconfig(name: &LabName, path: bool) -> anyhow::Result<ExitCode> {
    let layout = Layout::new(name.clone());
    let text = client::kubeconfig(&layout)?;
    let mut out = std::io::stdout().lock();
    if path {
        writeln!(out, "{}", layout.kubeconfig().display())?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn become_program(place: &Place, command: &[OsString]) -> ExitCode {
    let (code, error) = if command.is_empty() { enter::exec(command) } else { place.exec(command) };
    crate::complain(&error);
    ExitCode::from(code)
}

fn which(options: &NodeOptions) -> (Layout, Which) {
    let which = if options.agent_only { Which::AgentOnly } else { Which::Both };
    (Layout::new(options.name.lab.clone()), which)
}

pub(crate) fn format(output: &Output) -> Format {
    match output.output {
        None => Format::Table,
        Some(OutputFormat::Wide) => Format::Wide,
        Some(OutputFormat::Json) => Format::Json,
        Some(OutputFormat::Yaml) => Format::Yaml,
    }
}

fn runner_config(options: PodRunnerOptions) -> anyhow::Result<RunnerConfig> {
    Ok(RunnerConfig {
        lab: options.lab.to_string(),
        node: options.node_name,
        kubeconfig: options.kubeconfig,
        run_dir: options.run_dir,
        node_ips: options.node_ip,
        kubelet: options.kubelet,
        labels: options.label,
        cni_conf_dir: options.cni_conf_dir,
        // The binary is the plugin: CNI_COMMAND in the environment makes it one.
        cni_bin: std::env::current_exe().context("cannot find this program's file")?,
        socket: options.socket,
        cluster_dns: options.cluster_dns,
        cluster_domain: options.cluster_domain,
    })
}
