//! What a server is told: server blocks, each with what happens to the questions of its zones. [`crate::corefile`] reads it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;

use crate::hosts::Hosts;
use crate::name::Name;
use crate::query::QName;
use crate::rewrite::Rewrite;
use crate::template::Template;
use crate::zone::Kubernetes;

/// A whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The server blocks, in the order of the file.
    pub blocks: Vec<Block>,
}

/// One server block.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Its zones, lower case.
    pub zones: Vec<Name>,
    /// Its port.
    pub port: u16,
    /// `kubernetes`.
    pub kubernetes: Option<Kubernetes>,
    /// `hosts`.
    pub hosts: Option<HostsBlock>,
    /// `rewrite`, in order.
    pub rewrites: Vec<Rewrite>,
    /// `template`, in order.
    pub templates: Vec<Template>,
    /// `autopath @kubernetes`: the search lists of the asking pods are gone through here.
    pub autopath: bool,
    /// `forward`.
    pub forwards: Vec<Forward>,
    /// `cache`.
    pub cache: Option<CacheSettings>,
    /// `log`: which queries are logged.
    pub log: Option<Log>,
    /// `errors`: failures are logged.
    pub errors: Option<Errors>,
    /// `loadbalance`: whether addresses are turned round.
    pub loadbalance: bool,
    /// `loop`: whether a forwarding loop is looked for at start.
    pub detect_loop: bool,
    /// `health`.
    pub health: Option<HealthPage>,
    /// `ready`: where it is told whether the server knows the cluster.
    pub ready: Option<SocketAddr>,
    /// `prometheus`: where the metrics are.
    pub prometheus: Option<SocketAddr>,
    /// `reload`: how often the file is looked at; none never.
    pub reload: Option<Duration>,
    /// `bufsize`: octets sent over UDP at most.
    pub buffer: Option<u16>,
}

/// `errors`.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    /// Which are not logged one by one. The first that matches counts.
    pub consolidate: Vec<Consolidate>,
}

/// `consolidate DURATION REGEXP [LEVEL]`: failures that read so are one line for all of that time.
#[derive(Clone, Debug)]
pub struct Consolidate {
    /// For how long they are counted.
    pub period: Duration,
    /// What their text is like.
    pub pattern: Regex,
    /// How loud the line is.
    pub level: tracing::Level,
}

/// `health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPage {
    /// Where.
    pub address: SocketAddr,
    /// `lameduck`: for so long before the end it says that the server is not well, while questions are still answered.
    pub lameduck: Duration,
}

/// `hosts`.
#[derive(Clone, Debug, Default)]
pub struct HostsBlock {
    /// What it knows.
    pub hosts: Hosts,
    /// Its file, if it has one.
    pub file: Option<PathBuf>,
    /// How often it is looked at again; none never.
    pub reload: Option<Duration>,
    /// The lines of the configuration itself, which go beside the file's.
    pub inline: String,
    /// Its zones; none is the block's.
    pub zones: Vec<Name>,
    /// As [`Kubernetes::fallthrough`].
    pub fallthrough: Option<Vec<Name>>,
    /// Seconds records may be remembered.
    pub ttl: u32,
    /// Whether addresses lead back to names.
    pub reverse: bool,
}

/// How an upstream is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP, and TCP when an answer does not fit.
    Plain,
    /// TLS (RFC 7858); the server's certificate is for this name.
    Tls,
}

/// An upstream server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Where.
    pub address: SocketAddr,
    /// How.
    pub transport: Transport,
}

/// In which order upstreams are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// At random.
    #[default]
    Random,
    /// One after the other.
    RoundRobin,
    /// Always the first that works.
    Sequential,
}

/// `forward FROM TO…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The zone it is for.
    pub from: Name,
    /// Zones below it that it is not for.
    pub except: Vec<Name>,
    /// The servers. Empty when a resolver file named none: then every question fails.
    pub upstreams: Vec<Upstream>,
    /// The order.
    pub policy: Policy,
    /// Only TCP is used.
    pub force_tcp: bool,
    /// UDP is tried first even for questions that came over TCP, which otherwise go on over TCP.
    pub prefer_udp: bool,
    /// So many failures in a row take an upstream for dead; 0 never does.
    pub max_fails: u32,
    /// How often a dead one is asked whether it lives.
    pub health_check: Duration,
    /// How long a connection is kept when nothing is asked.
    pub expire: Duration,
    /// So many questions may wait for answers; more are refused. 0 is no limit.
    pub max_concurrent: usize,
    /// The name in the upstreams' certificates.
    pub tls_name: Option<String>,
    /// Who vouches for them; the system's authorities unless given.
    pub tls_ca: Option<PathBuf>,
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            from: Name::root(),
            except: Vec::new(),
            upstreams: Vec::new(),
            policy: Policy::default(),
            force_tcp: false,
            prefer_udp: false,
            max_fails: 2,
            health_check: Duration::from_millis(500),
            expire: Duration::from_secs(10),
            max_concurrent: 0,
            tls_name: None,
            tls_ca: None,
        }
    }
}

/// `cache`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Zones that are cached; none is the block's.
    pub zones: Vec<Name>,
    /// Answers kept at most, and how long at most and at least, in seconds.
    pub success: CacheLimits,
    /// The same for absences.
    pub denial: CacheLimits,
    /// Zones of which no answers are kept.
    pub not_success: Vec<Name>,
    /// Zones of which no absences are kept.
    pub not_denial: Vec<Name>,
    /// Seconds a failure is remembered (RFC 9520).
    pub servfail: u32,
    /// Answers asked for so often are asked for again before they expire.
    pub prefetch: Option<Prefetch>,
    /// How long an answer is still used after it expired, when nothing newer is to be had.
    pub stale: Option<Duration>,
    /// The newer answer is waited for before a stale one is used.
    pub stale_verify: bool,
}

/// Bounds of one half of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// How many.
    pub capacity: usize,
    /// The longest time in seconds.
    pub most: u32,
    /// The shortest.
    pub least: u32,
}

/// `prefetch AMOUNT DURATION PERCENTAGE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// So many questions …
    pub amount: u32,
    /// … with no pause between them longer than this …
    pub pause: Duration,
    /// … have an answer renewed when less than this share of its time is left.
    pub percentage: u8,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            zones: Vec::new(),
            success: CacheLimits { capacity: 9984, most: 3600, least: 5 },
            denial: CacheLimits { capacity: 9984, most: 1800, least: 5 },
            not_success: Vec::new(),
            not_denial: Vec::new(),
            servfail: 5,
            prefetch: None,
            stale: None,
            stale_verify: false,
        }
    }
}

/// `log`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// For names in these zones; none is all.
    pub zones: Vec<Name>,
    /// Only answers of these classes; none is all.
    pub classes: Vec<LogClass>,
}

/// A class of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogClass {
    /// Records came.
    Success,
    /// The name or type is not there.
    Denial,
    /// A failure.
    Error,
}

impl Config {
    /// The block with the longest zone that holds this name, on this port.
    #[must_use]
    pub fn block_of(&self, name: &QName, port: u16) -> Option<usize> {
        let zones = self.blocks.iter().enumerate().filter(|(_, block)| block.port == port);
        let zones = zones.flat_map(|(at, block)| block.zones.iter().map(move |zone| (at, zone)));
        let within = zones.filter_map(|(at, zone)| Some((at, name.above(zone.wire())?)));
        within.min_by_key(|(_, above)| *above).map(|(at, _)| at)
    }

    /// The ports of all blocks, each once.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.blocks.iter().map(|block| block.port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// What a cluster has when nobody says otherwise: kubeadm's, for these domains, forwarding to `upstreams`.
    #[must_use]
    pub fn usual(domains: &[Name], upstreams: Vec<Upstream>) -> Self {
        let reverse = ["in-addr.arpa", "ip6.arpa"]
            .map(|zone| Name::parse(zone).expect("invariant: these are names"));
        let kubernetes = Kubernetes {
            zones: domains.iter().map(Name::lower).chain(reverse.clone()).collect(),
            ttl: 30,
            pods: crate::zone::PodRecords::Insecure,
            fallthrough: Some(reverse.to_vec()),
            ..Kubernetes::default()
        };
        let cache = CacheSettings {
            success: CacheLimits { most: 30, ..CacheSettings::default().success },
            denial: CacheLimits { most: 30, ..CacheSettings::default().denial },
            ..CacheSettings::default()
        };
        // Nobody asked for a line per failure; that there are some is worth one.
        let all = Consolidate {
            period: Duration::from_secs(60),
            pattern: Regex::new("").expect("invariant: this is a pattern"),
            level: tracing::Level::WARN,
        };
        let block = Block {
            zones: vec![Name::root()],
            port: 53,
            kubernetes: Some(kubernetes),
            forwards: vec![Forward { upstreams, max_concurrent: 1000, ..Forward::default() }],
            cache: Some(cache),
            errors: Some(Errors { consolidate: vec![all] }),
            loadbalance: true,
            detect_loop: true,
            ..Block::default()
        };
        Self { blocks: vec![block] }
    }

    /// Tells every block where this server is reached.
    pub fn set_own(&mut self, own: &[IpAddr]) {
        for kubernetes in self.blocks.iter_mut().filter_map(|block| block.kubernetes.as_mut()) {
            kubernetes.own = own.to_vec();
        }
    }

    /// Which pods must be known for it.
    #[must_use]
    pub fn wants_all_pods(&self) -> bool {
        let mut all = self.blocks.iter().filter_map(|block| block.kubernetes.as_ref());
        all.any(|kubernetes| kubernetes.pods == crate::zone::PodRecords::Verified)
    }
}

/// The servers of a resolv.conf's text, on port 53.
#[must_use]
pub fn resolvers(text: &str) -> Vec<Upstream> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok());
    addresses
        .map(|address| Upstream {
            address: SocketAddr::new(address, 53),
            transport: Transport::Plain,
        })
        .collect()
}
