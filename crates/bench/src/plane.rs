//! The data planes that can be measured: how each is started and where it says what it did.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use crate::arguments::PeerMode;
use crate::numbers::Numbers;
use crate::objects::NODE_NAME;
use crate::process::{Process, get};
use crate::world::{PODS, World};

/// What programs Services.
#[derive(Debug, Clone)]
pub(crate) enum Plane {
    /// `fairway agent`.
    Fairway {
        /// The `fairway` binary.
        binary: PathBuf,
    },
    /// kube-proxy.
    KubeProxy {
        /// Its binary.
        binary: PathBuf,
        /// Its proxy mode.
        mode: PeerMode,
    },
}

impl Plane {
    /// As the head of a column.
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Fairway { .. } => "fairway".to_owned(),
            Self::KubeProxy { mode, .. } => format!("kube-proxy {}", mode.as_str()),
        }
    }

    /// Whether it is ours, which has promises and is measured with more samples.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Fairway { .. })
    }

    /// Starts it in `world`, its files below `dir`.
    pub(crate) fn start(
        &self,
        world: &World,
        kubeconfig: &Path,
        dir: &Path,
    ) -> anyhow::Result<Process> {
        fs::create_dir_all(dir)?;
        let command = match self {
            Self::Fairway { binary } => {
                let mut command = Command::new(binary);
                command.args(["agent", "--node-name", NODE_NAME, "--kubeconfig"]).arg(kubeconfig);
                command.arg("--run-dir").arg(dir.join("run"));
                command.arg("--state-dir").arg(dir.join("state"));
                command.arg("--cni-conf-dir").arg(dir.join("cni"));
                command.args(["--health-addr", &self.metrics_address().to_string()]);
                command
            }
            Self::KubeProxy { binary, mode } => {
                let config = dir.join("config.json");
                fs::write(&config, self.kube_proxy_config(*mode, kubeconfig).to_string())?;
                let mut command = Command::new(binary);
                command.arg("--config").arg(config);
                command
            }
        };
        Process::start(command, &world.node, &dir.join("log"))
    }

    /// As a cluster's installer writes it; the kernel's own connection tracking limits stay, they are the machine's.
    fn kube_proxy_config(&self, mode: PeerMode, kubeconfig: &Path) -> serde_json::Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode.as_str(),
            "hostnameOverride": NODE_NAME,
            "clusterCIDR": PODS,
            "clientConnection": {"kubeconfig": kubeconfig},
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": self.metrics_address().to_string(),
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        })
    }

    fn metrics_address(&self) -> SocketAddr {
        let port = match self {
            Self::Fairway { .. } => 10256,
            Self::KubeProxy { .. } => 10249,
        };
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// What it counts.
    pub(crate) fn numbers(&self, world: &World) -> anyhow::Result<Numbers> {
        Ok(Numbers::parse(&get(&world.node, self.metrics_address(), "/metrics")?))
    }

    /// Whether the first sync is done, by its own word.
    pub(crate) fn is_synced(&self, numbers: &Numbers) -> bool {
        let name = match self {
            Self::Fairway { .. } => "fairway_last_success_timestamp_seconds",
            Self::KubeProxy { .. } => "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        };
        numbers.sum(name).is_some_and(|at| at > 0.0)
    }

    /// Whether the kernel has everything it knows of; a peer does not say.
    pub(crate) fn is_up_to_date(&self, numbers: &Numbers) -> bool {
        let revision = |which: &str| numbers.sum(&format!("fairway_revision_{which}"));
        !self.is_ours() || revision("wanted") == revision("applied")
    }

    /// Seconds spent so far on working out the whole and bringing the kernel to it, lists from the API not counted.
    pub(crate) fn whole_syncs(&self, numbers: &Numbers) -> Option<f64> {
        numbers.sum(match self {
            Self::Fairway { .. } => "fairway_full_sync_seconds_sum",
            Self::KubeProxy { .. } => "kubeproxy_sync_full_proxy_rules_duration_seconds_sum",
        })
    }

    /// Operations sent to the kernel so far, where it says so.
    pub(crate) fn operations(&self, numbers: &Numbers) -> Option<f64> {
        self.is_ours().then(|| numbers.sum("fairway_transaction_operations_sum").unwrap_or(0.0))
    }
}

/// Waits until a data plane says that it is synced, and gives what it has counted by then.
pub(crate) fn wait_for_sync(
    plane: &Plane,
    world: &World,
    process: &mut Process,
    patience: Duration,
) -> anyhow::Result<Numbers> {
    loop {
        process.check()?;
        if let Ok(numbers) = plane.numbers(world)
            && plane.is_synced(&numbers)
        {
            return Ok(numbers);
        }
        let waited = process.started.elapsed();
        if waited > patience {
            bail!("not synced within {patience:?}: {}", process.last_words());
        }
        // Often at first, so that little is added to what is measured.
        let soon = waited < Duration::from_secs(2);
        sleep(if soon { Duration::from_millis(4) } else { Duration::from_millis(100) });
    }
}
