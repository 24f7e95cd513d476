//! Cluster DNS on this node: the server of the crate `dns`, told what the kernel does, never before it does it.
//!
//! A change of the facts takes names away before its commit and adds them after it. So an answer names no cluster address
//! this node has not programmed, even while Services come and go.

mod local;
mod pages;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dns::facts::{Keep, Patch};
use dns::{Config, Name, Server, Settings};
use model::{Change, Family, NodeName, ServiceKey, Snapshot};

/// Where the servers of a node without a Corefile are named.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long questions on their way are waited for when the agent stops.
const LAST: Duration = Duration::from_millis(50);
/// How long upstreams are waited for then.
const LONGEST: Duration = Duration::from_secs(2);

/// How a node answers DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// The Service whose cluster addresses pods ask at.
    pub service: ServiceKey,
    /// Where else it is answered: other nodes' agents come here while theirs is away.
    pub listen: Vec<SocketAddr>,
    /// The configuration, as CoreDNS reads it; without one, kubeadm's.
    pub corefile: Option<PathBuf>,
    /// The cluster's domains, where there is no Corefile.
    pub domains: Vec<String>,
    /// Answers a client address gets per second over UDP.
    pub per_client: Option<u32>,
}

/// The server and what it was told.
pub(crate) struct Names {
    server: Arc<Server>,
    settings: DnsSettings,
    keep: Keep,
    config: Config,
    /// What waits for its commit.
    pending: Option<Patch>,
    /// Where it answers.
    addresses: Vec<SocketAddr>,
    local: local::Local,
    pages: pages::Pages,
    files: Vec<File>,
}

/// A file the configuration is made of.
#[derive(Debug)]
struct File {
    path: PathBuf,
    /// How often it is looked at.
    every: Duration,
    /// When next.
    at: tokio::time::Instant,
    /// What it was: changed when, and how long.
    was: Option<(std::time::SystemTime, u64)>,
}

impl File {
    fn new(path: PathBuf, every: Duration) -> Self {
        let was = Self::is(&path);
        Self { path, every, at: tokio::time::Instant::now() + every, was }
    }

    fn is(path: &std::path::Path) -> Option<(std::time::SystemTime, u64)> {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }

    /// Whether it is time to look, and it changed.
    fn changed(&mut self, now: tokio::time::Instant) -> bool {
        if now < self.at {
            return false;
        }
        self.at = now + self.every;
        let was = std::mem::replace(&mut self.was, Self::is(&self.path));
        was != self.was
    }
}

impl Names {
    /// Starts the server; it answers nowhere but at `listen` before it knows the cluster.
    pub(crate) fn start(settings: DnsSettings, node: &NodeName) -> anyhow::Result<Self> {
        let config = configuration(&settings)?;
        let limits = Settings { per_client: settings.per_client, ..Settings::default() };
        let server =
            Server::start(config.clone(), &limits).context("cannot start the DNS server")?;
        let keep = keep(&config, node);
        let mut names = Self {
            server: Arc::new(server),
            settings,
            keep,
            config,
            pending: None,
            addresses: Vec::new(),
            local: local::Local::default(),
            pages: pages::Pages::default(),
            files: Vec::new(),
        };
        names.pages.serve(&names.config, &names.server);
        names.files = names.files();
        Ok(names)
    }

    /// The server, for those who show what it does.
    pub(crate) fn server(&self) -> Arc<Server> {
        self.server.clone()
    }

    /// The facts will be these: what will not be so is not said from now on.
    pub(crate) fn changing(&mut self, snapshot: &Snapshot, change: Option<&Change>) {
        let patch = match change {
            // A change that was not committed is in no patch that is: all of it is told again.
            Some(change) if self.pending.is_none() => Patch::of(snapshot, change, &self.keep),
            _ => Patch::whole(snapshot, &self.keep),
        };
        self.server.retract(&patch);
        self.pending = Some(patch);
    }

    /// The kernel does what was announced.
    pub(crate) fn committed(&mut self, snapshot: &Snapshot) {
        let Some(patch) = self.pending.take() else { return };
        if !patch.is_empty() {
            self.server.publish(patch);
        }
        self.listen(snapshot);
    }

    fn listen(&mut self, snapshot: &Snapshot) {
        let own = self.own_addresses(snapshot);
        let ports = self.config.ports();
        let of_service = own.iter().flat_map(|ip| ports.iter().map(|port| (*ip, *port).into()));
        let of_service: Vec<SocketAddr> = of_service.collect();
        let wanted: BTreeSet<SocketAddr> =
            of_service.iter().chain(&self.settings.listen).copied().collect();
        let wanted: Vec<SocketAddr> = wanted.into_iter().collect();
        if wanted == self.addresses || !self.server.is_ready() {
            return;
        }
        self.config.set_own(&own);
        self.server.reconfigure(self.config.clone());
        // The sockets are there before a packet comes to them.
        let is_here = match self.server.listen(&wanted) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "DNS");
                !of_service.contains(&error.address)
            }
        };
        match self.local.answer(if is_here { &of_service } else { &[] }) {
            Ok(()) => tracing::info!(addresses = ?wanted, "answering DNS"),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "DNS"),
        }
        self.addresses = wanted;
    }

    /// Other nodes answer from now on; what was asked here already is answered still.
    pub(crate) async fn finish(&mut self) {
        let lameduck = self.pages.leave();
        tokio::time::sleep(lameduck).await;
        self.local.leave();
        // Questions that passed the rules before they went are in the sockets by then.
        tokio::time::sleep(LAST).await;
        let until = tokio::time::Instant::now() + LONGEST;
        while self.server.waiting() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(LAST).await;
        }
    }

    /// The cluster addresses of the DNS Service.
    pub(crate) fn own_addresses(&self, snapshot: &Snapshot) -> Vec<IpAddr> {
        let service = snapshot.service(&self.settings.service);
        let ips = service.map(|service| service.cluster_ips).unwrap_or_default();
        Family::BOTH.into_iter().filter_map(|family| ips.of(family)).collect()
    }

    /// When the configuration is to be looked at.
    pub(crate) fn due(&self) -> Option<tokio::time::Instant> {
        self.files.iter().map(|file| file.at).min()
    }

    /// The files that are looked at again: the Corefile where it says `reload`, and lists of hosts.
    fn files(&self) -> Vec<File> {
        let Some(corefile) = &self.settings.corefile else { return Vec::new() };
        let blocks = &self.config.blocks;
        let every = blocks.iter().filter_map(|block| block.reload).min();
        let corefile = every.map(|every| File::new(corefile.clone(), every));
        let hosts = blocks.iter().filter_map(|block| {
            let hosts = block.hosts.as_ref()?;
            Some(File::new(hosts.file.clone()?, hosts.reload?))
        });
        corefile.into_iter().chain(hosts).collect()
    }

    /// Looks whether the configuration changed, where it says so. A bad one changes nothing.
    pub(crate) fn step(&mut self, snapshot: &Snapshot, node: &NodeName) {
        let now = tokio::time::Instant::now();
        // One is enough: all of them are read then.
        if !self.files.iter_mut().any(|file| file.changed(now)) {
            return;
        }
        match configuration(&self.settings) {
            Ok(config) => {
                self.keep = keep(&config, node);
                self.config = config;
                self.config.set_own(&self.own_addresses(snapshot));
                self.server.reconfigure(self.config.clone());
                self.server.publish(Patch::whole(snapshot, &self.keep));
                self.addresses.clear();
                self.listen(snapshot);
                self.pages.serve(&self.config, &self.server);
                self.files = self.files();
                tracing::info!("the DNS configuration was read again");
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the DNS configuration stays as it was"
                );
            }
        }
    }
}

/// Which pods the server needs: this node's, or all where records of pods are verified.
fn keep(config: &Config, node: &NodeName) -> Keep {
    Keep { pods: true, of_node: (!config.wants_all_pods()).then(|| node.clone()) }
}

fn configuration(settings: &DnsSettings) -> anyhow::Result<Config> {
    let resolvers =
        || dns::config::resolvers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    if let Some(file) = &settings.corefile {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {} (--corefile)", file.display()))?;
        return Ok(dns::corefile::parse(file, &text, &dns::corefile::Machine)?);
    }
    let domains = settings.domains.iter().map(|domain| Name::parse(domain));
    let domains = domains
        .collect::<Result<Vec<_>, _>>()
        .context("the cluster's domain (--cluster-domain)")?;
    Ok(Config::usual(&domains, resolvers()))
}
