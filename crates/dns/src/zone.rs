//! The cluster's zones: question × facts → answer, as the Kubernetes DNS specification 1.1.0 has it. Pure.
//!
//! What the specification leaves open is done as CoreDNS does it: a headless endpoint without a hostname is called by its
//! address with dashes, SRV records of endpoints carry the port the endpoint listens on, `ns.dns.ZONE` names the server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use model::{Family, Protocol};

use crate::facts::{Entry, Facts, Host, Hosts, Port};
use crate::name::{Name, address_of_reverse};
use crate::query::{QName, code, kind};
use crate::reply::{Data, Record, Reply, Soa};

/// The version of the schema.
pub const SCHEMA: &str = "1.1.0";

/// Records of pods, `1-2-3-4.NAMESPACE.pod.ZONE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodRecords {
    /// None.
    #[default]
    Disabled,
    /// For any address, asked or not.
    Insecure,
    /// Where a pod of that namespace has the address.
    Verified,
}

/// What a cluster's names are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// The cluster's domains, and the reverse zones it answers for; lower case.
    pub zones: Vec<Name>,
    /// Seconds records may be remembered; absences too.
    pub ttl: u32,
    /// Records of pods.
    pub pods: PodRecords,
    /// Zones in which what is not known is left to others; `Some` of an empty list is all.
    pub fallthrough: Option<Vec<Name>>,
    /// The addresses of `ns.dns.ZONE`: where this server is reached.
    pub own: Vec<IpAddr>,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            zones: Vec::new(),
            ttl: 5,
            pods: PodRecords::default(),
            fallthrough: None,
            own: Vec::new(),
        }
    }
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This.
    Reply(Reply),
    /// It stands for a name that is not ours: `reply` says so, and what that name has is to be added.
    Elsewhere {
        /// The answer so far: the CNAME record.
        reply: Reply,
        /// The other name.
        target: Name,
    },
}

/// What one name has: all its records, whatever the type.
enum Found {
    /// The name is not there.
    Nothing,
    /// It is there; these are its records, and those a client will ask for next.
    Records(Vec<Record>, Vec<Record>),
    Alias(Name),
}

impl Kubernetes {
    /// The longest of its zones that holds a name, and how many labels of the name are above it.
    fn zone_of(&self, name: &QName) -> Option<(&Name, usize)> {
        let within = self.zones.iter().filter_map(|zone| Some((zone, name.above(zone.wire())?)));
        within.min_by_key(|(_, above)| *above)
    }

    /// The answer; `None` when the name is not ours to answer, or is left to others.
    #[must_use]
    pub fn answer(&self, facts: &Facts, name: &QName, asked: u16) -> Option<Answer> {
        let (zone, above) = self.zone_of(name)?;
        let found = if is_reverse(zone) {
            self.reverse(facts, name)
        } else {
            self.forward(facts, zone, name, above)
        };
        let reply = Reply { authoritative: true, ..Reply::default() };
        match found {
            Found::Nothing if self.falls_through(name) => None,
            Found::Nothing => Some(Answer::Reply(Reply {
                code: code::NXDOMAIN,
                authority: vec![self.soa(zone, facts)],
                ..reply
            })),
            Found::Alias(target) => {
                let answers = vec![Record::own(self.ttl, Data::Cname(target.clone()))];
                let reply = Reply { answers, ..reply };
                Some(if asked == kind::CNAME || asked == kind::ANY {
                    Answer::Reply(reply)
                } else {
                    Answer::Elsewhere { reply, target }
                })
            }
            Found::Records(records, additional) => {
                let fits = |record: &Record| asked == kind::ANY || record.data.kind() == asked;
                let answers: Vec<Record> = records.into_iter().filter(fits).collect();
                Some(Answer::Reply(if answers.is_empty() {
                    Reply { authority: vec![self.soa(zone, facts)], ..reply }
                } else {
                    let is_srv = answers[0].data.kind() == kind::SRV;
                    let additional = if is_srv { additional } else { Vec::new() };
                    Reply { answers, additional, ..reply }
                }))
            }
        }
    }

    fn falls_through(&self, name: &QName) -> bool {
        let Some(zones) = &self.fallthrough else { return false };
        zones.is_empty() || zones.iter().any(|zone| name.above(zone.wire()).is_some())
    }

    fn soa(&self, zone: &Name, facts: &Facts) -> Record {
        Record::of(zone.clone(), self.ttl, self.soa_data(zone, facts))
    }

    fn soa_data(&self, zone: &Name, facts: &Facts) -> Data {
        let below = |labels: &[&[u8]]| zone.below(labels).unwrap_or_else(Name::root);
        Data::Soa(Arc::new(Soa {
            server: below(&[b"ns", b"dns"]),
            mailbox: below(&[b"hostmaster"]),
            serial: facts.serial(),
            refresh: 7200,
            retry: 1800,
            expire: 86400,
            minimum: self.ttl,
        }))
    }

    fn own(&self, data: Data) -> Record {
        Record::own(self.ttl, data)
    }

    /// What a zone has at its own name.
    fn apex(&self, facts: &Facts, zone: &Name) -> Found {
        let Some(server) = zone.below(&[b"ns", b"dns"]) else { return Found::Nothing };
        let glue =
            self.own.iter().map(|own| Record::of(server.clone(), self.ttl, Data::address(*own)));
        let glue = glue.collect();
        Found::Records(vec![self.own(self.soa_data(zone, facts)), self.own(Data::Ns(server))], glue)
    }

    fn forward(&self, facts: &Facts, zone: &Name, name: &QName, above: usize) -> Found {
        let there = || Found::Records(Vec::new(), Vec::new());
        let Some(last) = above.checked_sub(1) else { return self.apex(facts, zone) };
        match name.label(last) {
            b"dns-version" if above == 1 => {
                let text: Box<[u8]> = SCHEMA.as_bytes().into();
                Found::Records(vec![self.own(Data::Txt(Arc::new([text])))], Vec::new())
            }
            b"dns" if above == 1 => there(),
            b"dns" if above == 2 && name.label(0) == b"ns" => {
                let own = self.own.iter().map(|own| self.own(Data::address(*own)));
                Found::Records(own.collect(), Vec::new())
            }
            b"svc" if above == 1 => there(),
            b"pod" if above == 1 && self.pods != PodRecords::Disabled => there(),
            b"pod" => self.pod(facts, name, last),
            b"svc" => {
                let namespace = name.text(last - 1);
                if above == 2 {
                    return if facts.has_namespace(namespace) { there() } else { Found::Nothing };
                }
                let at = last - 2;
                let Some(entry) = facts.service(namespace, name.text(at)) else {
                    return Found::Nothing;
                };
                self.service(zone, name, at, entry)
            }
            _ => Found::Nothing,
        }
    }

    /// What a Service, whose name is label `at`, has at the labels before it.
    fn service(&self, zone: &Name, name: &QName, at: usize, entry: &Entry) -> Found {
        // The Service's own name in lower case, as it is in the cluster.
        let service = || Name::of_wire(name.from(at));
        match entry {
            Entry::External(target) if at == 0 => {
                if let Ok(address) = target.parse::<IpAddr>() {
                    return Found::Records(vec![self.own(Data::address(address))], Vec::new());
                }
                Name::parse(target).map_or(Found::Nothing, Found::Alias)
            }
            Entry::External(_) => Found::Nothing,
            Entry::Cluster { ips, ports } => {
                let addresses = || Family::BOTH.into_iter().filter_map(|family| ips.of(family));
                match at {
                    0 => {
                        let own = addresses().map(|address| self.own(Data::address(address)));
                        Found::Records(own.collect(), Vec::new())
                    }
                    1 | 2 => {
                        let Some(asked) = Ports::asked(name, at) else { return Found::Nothing };
                        let Some(target) = service() else { return Found::Nothing };
                        let matching: Vec<&Port> =
                            ports.iter().filter(|port| asked.are(port)).collect();
                        if matching.is_empty() {
                            return Found::Nothing;
                        }
                        if at == 1 {
                            return Found::Records(Vec::new(), Vec::new());
                        }
                        let srv =
                            matching.iter().map(|port| self.srv(port.port, 1, target.clone()));
                        let glue = addresses().map(|address| {
                            Record::of(target.clone(), self.ttl, Data::address(address))
                        });
                        Found::Records(srv.collect(), glue.collect())
                    }
                    _ => Found::Nothing,
                }
            }
            Entry::Headless(groups) => self.headless(zone, name, at, groups),
        }
    }

    /// Ready endpoints of a headless Service. With none of them, not even its own name is there (§2.4.1).
    fn headless(&self, _zone: &Name, name: &QName, at: usize, groups: &[Hosts]) -> Found {
        let all = || groups.iter().flat_map(|group| &group.hosts);
        let records = |hosts: &mut dyn Iterator<Item = &Host>| {
            // An endpoint may be in two slices for a moment.
            let mut addresses: Vec<IpAddr> = hosts.map(|host| host.address).collect();
            addresses.sort_unstable();
            addresses.dedup();
            let own = addresses.into_iter().map(|address| self.own(Data::address(address)));
            own.collect::<Vec<_>>()
        };
        let found = |records: Vec<Record>| {
            if records.is_empty() { Found::Nothing } else { Found::Records(records, Vec::new()) }
        };
        if at == 0 {
            return found(records(&mut all()));
        }
        if at == 1 {
            let label = name.label(0);
            if label.first() != Some(&b'_') {
                return found(records(&mut all().filter(|host| is_called(host, label))));
            }
        }
        let Some(asked) = Ports::asked(name, at) else { return Found::Nothing };
        let Some(service) = Name::of_wire(name.from(at)) else { return Found::Nothing };
        let (mut srv, mut glue) = (Vec::new(), Vec::new());
        let count = all().count().max(1);
        let weight = u16::try_from(100 / count).unwrap_or(1).max(1);
        for group in groups {
            for port in group.ports.iter().filter(|port| asked.are(port)) {
                for host in &group.hosts {
                    let label = called(host);
                    let Some(target) = service.below(&[label.as_bytes()]) else { continue };
                    let record = self.srv(port.port, weight, target.clone());
                    if !srv.contains(&record) {
                        srv.push(record);
                    }
                    let record = Record::of(target, self.ttl, Data::address(host.address));
                    if !glue.contains(&record) {
                        glue.push(record);
                    }
                }
            }
        }
        match (srv.is_empty(), at) {
            (true, _) => Found::Nothing,
            (false, 1) => Found::Records(Vec::new(), Vec::new()),
            (false, _) => Found::Records(srv, glue),
        }
    }

    fn srv(&self, port: u16, weight: u16, target: Name) -> Record {
        let weight = if weight == 1 { 100 } else { weight };
        self.own(Data::Srv { priority: 0, weight, port, target })
    }

    fn pod(&self, facts: &Facts, name: &QName, last: usize) -> Found {
        if self.pods == PodRecords::Disabled || last == 0 {
            return Found::Nothing;
        }
        let namespace = name.text(last - 1);
        if last == 1 && facts.has_namespace(namespace) {
            return Found::Records(Vec::new(), Vec::new());
        }
        let address = (last == 2).then(|| dashed(name.text(0))).flatten();
        let known = |address| match self.pods {
            PodRecords::Insecure => facts.has_namespace(namespace),
            _ => facts.has_pod(namespace, address),
        };
        match address.filter(|address| known(*address)) {
            Some(address) => Found::Records(vec![self.own(Data::address(address))], Vec::new()),
            None => Found::Nothing,
        }
    }

    fn reverse(&self, facts: &Facts, name: &QName) -> Found {
        let Some(address) = address_of_reverse(name.lower()) else { return Found::Nothing };
        // The first zone that is no reverse zone is what the cluster is called.
        let Some(zone) = self.zones.iter().find(|zone| !is_reverse(zone)) else {
            return Found::Nothing;
        };
        let mut names = Vec::new();
        for (key, entry) in facts.services_at(address) {
            let service = |host: Option<&str>| {
                let labels = [key.name(), key.namespace(), "svc"];
                let labels = host.into_iter().chain(labels).map(str::as_bytes);
                Name::of_labels(labels.chain(zone.labels()))
            };
            match entry {
                Entry::Cluster { .. } => names.extend(service(None)),
                Entry::Headless(groups) => {
                    let hosts = groups.iter().flat_map(|group| &group.hosts);
                    for host in hosts.filter(|host| host.address == address) {
                        names.extend(service(Some(&called(host))));
                    }
                }
                Entry::External(_) => {}
            }
        }
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Found::Nothing;
        }
        Found::Records(
            names.into_iter().map(|name| self.own(Data::Ptr(name))).collect(),
            Vec::new(),
        )
    }
}

/// Which ports `_port._proto`, the labels before label `at`, are about; with one label, `_proto` alone.
struct Ports<'a> {
    name: Option<&'a [u8]>,
    protocol: Protocol,
}

impl<'a> Ports<'a> {
    fn asked(name: &'a QName, at: usize) -> Option<Self> {
        let protocol = match name.label(at - 1) {
            b"_tcp" => Protocol::Tcp,
            b"_udp" => Protocol::Udp,
            b"_sctp" => Protocol::Sctp,
            _ => return None,
        };
        let name = match at {
            1 => None,
            2 => Some(name.label(0).strip_prefix(b"_")?),
            _ => return None,
        };
        Some(Self { name, protocol })
    }

    fn are(&self, port: &Port) -> bool {
        self.protocol == port.protocol
            && self.name.is_none_or(|name| port.name.as_bytes().eq_ignore_ascii_case(name))
    }
}

/// What an endpoint is called: its hostname, else its address with dashes.
fn called(host: &Host) -> Box<str> {
    match &host.name {
        Some(name) => name.to_ascii_lowercase().into(),
        None => address_label(host.address),
    }
}

/// An address as one label: `10-0-0-1`, `2001-db8--1`.
#[must_use]
pub fn address_label(address: IpAddr) -> Box<str> {
    address.to_string().replace(['.', ':'], "-").into()
}

fn is_called(host: &Host, label: &[u8]) -> bool {
    match &host.name {
        Some(name) => name.as_bytes().eq_ignore_ascii_case(label),
        None => dashed(std::str::from_utf8(label).unwrap_or_default()) == Some(host.address),
    }
}

/// The address a label with dashes stands for.
fn dashed(label: &str) -> Option<IpAddr> {
    let v4 = || label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    v4().or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

/// Whether a zone is one of addresses.
pub(crate) fn is_reverse(zone: &Name) -> bool {
    let mut tail = [&[][..]; 2];
    for label in zone.labels() {
        tail = [tail[1], label];
    }
    tail == [&b"in-addr"[..], b"arpa"] || tail == [&b"ip6"[..], b"arpa"]
}
