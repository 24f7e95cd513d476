//! `fairway agent`: its options to one call in the crate `agent`.

use std::process::ExitCode;

use agent::AgentConfig;

use crate::arguments::AgentOptions;
use crate::small_runtime;

pub(crate) fn run(options: AgentOptions) -> anyhow::Result<ExitCode> {
    let config = AgentConfig {
        node_name: options.node_name,
        kubeconfig: options.kubeconfig,
        run_dir: options.run_dir,
        state_dir: options.state_dir,
        cni_conf_dir: options.cni_conf_dir,
        health_addr: options.health_addr,
    };
    small_runtime()?.block_on(agent::run(config))?;
    Ok(ExitCode::SUCCESS)
}
