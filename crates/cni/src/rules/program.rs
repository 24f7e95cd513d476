//! The table as values: pure. A few chains that never change, one chain per pod *subnet*, and the pods
//! as elements.
//!
//! ```text
//! map masquerade4   { ip saddr : jump leaving-<subnet> }          leaves its subnet? then with the node's address
//! map hostport4     { ip daddr . proto . port : pod . port }      a host port on one address
//! map hostport-any4 { proto . port : pod . port }                 … on all of the node's
//! map hairpin4      { ip daddr : jump hairpin-<subnet> }          a host port dialled from the pod's own subnet or from loopback
//! map guarded4      { ip daddr : jump same-bridge-<bridge> }    new connections from that bridge only, and by host ports
//!                   { ip daddr : jump isolated }                … by host ports only
//! set source6       { iifname . ip6 saddr }, set source-links     what may come out of a link
//! ```
//! and the same for IPv6 where it says 4.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use nft::{
    Chain, Data, Element, ElementError, Family, Hook, HookKind, HookPoint, IpFamily, Match,
    MatchOp, Name, NatFlags, Op, Packed, Right, Selector, Set, SetData, SetSpec, Statement, Table,
    Transaction, Verdict,
};
use serde::{Deserialize, Serialize};

use super::{Owner, owner_of};

/// The table's family.
pub const FAMILY: Family = Family::Inet;
/// The table's name.
pub const TABLE: &str = "fairway-cni";
/// Priority `dstnat`.
const DSTNAT: i32 = -100;
/// Priority `srcnat`.
const SRCNAT: i32 = 100;
/// Priority `raw`.
const RAW: i32 = -300;
/// Priority `filter`.
const FILTER: i32 = 0;
/// `established,related`.
const STATE_KNOWN: u32 = 0b110;
/// RTN_LOCAL, as `fib daddr type` tells it.
const TYPE_LOCAL: u32 = 2;
/// IPS_DST_NAT.
const STATUS_DNAT: u32 = 1 << 5;

/// A transport protocol of a host port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the protocols")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Its IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A port of the node that is a pod's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// On this address of the node only; on all of them when none.
    pub host_address: Option<IpAddr>,
    /// Protocol.
    pub protocol: Protocol,
    /// The node's port.
    pub host_port: u16,
    /// The pod.
    pub pod_address: IpAddr,
    /// The pod's port.
    pub pod_port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_address {
            Some(address) => write!(f, "{address}/")?,
            None => f.write_str("*/")?,
        }
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{protocol}/{}", self.host_port)
    }
}

/// The rules one plugin wants for one attachment; also the record on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Path of the pod's namespace: tells whether the pod is still there.
    pub netns: String,
    /// Addresses, with their subnets, that leave the subnet with the node's address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masquerade: Vec<IpNet>,
    /// Host ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// Pod addresses, with their subnets, whose host ports also answer to the subnet and to loopback.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hairpin: Vec<IpNet>,
    /// IPv6 source addresses that may come out of a link; others are dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<(String, Ipv6Addr)>,
    /// Addresses new connections reach from this bridge only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub same_bridge: Vec<(IpAddr, String)>,
    /// Addresses no new connection reaches but those to a host port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub isolated: Vec<IpAddr>,
}

impl Wanted {
    /// Whether there is nothing to put into the kernel.
    pub(crate) fn is_empty(&self) -> bool {
        self.masquerade.is_empty()
            && self.host_ports.is_empty()
            && self.hairpin.is_empty()
            && self.sources.is_empty()
            && self.same_bridge.is_empty()
            && self.isolated.is_empty()
    }

    /// A host port both want.
    pub(crate) fn clash<'a>(&self, other: &'a Self) -> Option<&'a HostPort> {
        let same = |one: &HostPort, two: &HostPort| {
            one.protocol == two.protocol
                && one.host_port == two.host_port
                && one.host_address == two.host_address
                && one.pod_address.is_ipv4() == two.pod_address.is_ipv4()
        };
        other.host_ports.iter().find(|two| self.host_ports.iter().any(|one| same(one, two)))
    }

    /// Whether the pod's namespace is still there.
    pub(crate) fn is_alive(&self) -> bool {
        !self.netns.is_empty() && Path::new(&self.netns).exists()
    }
}

/// A name of this module's own.
pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("invariant: the names of this module are names for nft")
}

/// What differs between the families.
#[derive(Clone, Copy)]
struct Half {
    v4: bool,
    digit: char,
}

const HALVES: [Half; 2] = [Half { v4: true, digit: '4' }, Half { v4: false, digit: '6' }];

impl Half {
    fn of(ip: IpAddr) -> Self {
        HALVES[usize::from(ip.is_ipv6())]
    }

    fn name(self, stem: &str) -> Name {
        name(&format!("{stem}{}", self.digit))
    }

    fn saddr(self) -> Selector {
        if self.v4 { Selector::IpSaddr } else { Selector::Ip6Saddr }
    }

    fn daddr(self) -> Selector {
        if self.v4 { Selector::IpDaddr } else { Selector::Ip6Daddr }
    }

    fn family(self) -> IpFamily {
        if self.v4 { IpFamily::V4 } else { IpFamily::V6 }
    }

    fn endpoint(self) -> SetData {
        SetData::value([self.daddr(), Selector::ThDport])
    }

    fn masquerade(self) -> SetSpec {
        SetSpec::new(self.name("masquerade"), [self.saddr()]).with_data(SetData::Verdict)
    }

    fn hairpin(self) -> SetSpec {
        SetSpec::new(self.name("hairpin"), [self.daddr()]).with_data(SetData::Verdict)
    }

    fn host_port(self) -> SetSpec {
        let key = [self.daddr(), Selector::MetaL4proto, Selector::ThDport];
        SetSpec::new(self.name("hostport"), key).with_data(self.endpoint())
    }

    fn host_port_any(self) -> SetSpec {
        let key = [Selector::MetaL4proto, Selector::ThDport];
        SetSpec::new(self.name("hostport-any"), key).with_data(self.endpoint())
    }

    fn guarded(self) -> SetSpec {
        SetSpec::new(self.name("guarded"), [self.daddr()]).with_data(SetData::Verdict)
    }

    fn specs(self) -> [SetSpec; 5] {
        [self.masquerade(), self.hairpin(), self.host_port(), self.host_port_any(), self.guarded()]
    }
}

fn source_links() -> SetSpec {
    SetSpec::new(name("source-links"), [Selector::MetaIifname])
}

fn source6() -> SetSpec {
    SetSpec::new(name("source6"), [Selector::MetaIifname, Selector::Ip6Saddr])
}

fn packed(ip: IpAddr) -> Packed {
    match ip {
        IpAddr::V4(ip) => Packed::new().ipv4(ip),
        IpAddr::V6(ip) => Packed::new().ipv6(ip),
    }
}

/// `leaving-10.0.10.0/24`: a subnet as a chain's name.
fn subnet_chain(stem: &str, address: IpNet) -> Name {
    name(&format!("{stem}-{}", address.trunc().to_string().replace(':', "_")))
}

fn in_prefix(left: Selector, network: IpNet) -> Statement {
    let right = if network.prefix_len() == network.max_prefix_len() {
        Right::Value(packed(network.addr()))
    } else {
        Right::Prefix { address: packed(network.network()), length: network.prefix_len() }
    };
    Statement::Match(Match { left: vec![left], op: MatchOp::Eq, right })
}

/// Packets of a pod of this subnet: masqueraded unless they stay in it or go to many.
fn leaving(address: IpNet) -> Chain {
    let half = Half::of(address.addr());
    let many: IpNet = if half.v4 { "224.0.0.0/4" } else { "ff00::/8" }
        .parse()
        .expect("invariant: a network written here");
    Chain::new(subnet_chain("leaving", address))
        .rule([in_prefix(half.daddr(), address.trunc()), Statement::return_()])
        .rule([in_prefix(half.daddr(), many), Statement::return_()])
        .rule([Statement::Masquerade(NatFlags::default())])
}

/// Packets through a host port to a pod of this subnet: the answer must come back through the node,
/// and the pod would answer its own subnet directly and loopback not at all.
fn hairpin(address: IpNet) -> Chain {
    let half = Half::of(address.addr());
    let mut chain = Chain::new(subnet_chain("hairpin", address));
    let masquerade = || Statement::Masquerade(NatFlags::default());
    chain = chain.rule([in_prefix(half.saddr(), address.trunc()), masquerade()]);
    if half.v4 {
        let loopback = "127.0.0.0/8".parse().expect("invariant: a network written here");
        chain = chain.rule([in_prefix(half.saddr(), loopback), masquerade()]);
    }
    chain
}

/// `same-bridge-cni0`; what the grammar does not take in a bridge's name is told apart by a number.
fn bridge_chain(bridge: &str) -> Name {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let shown: String = bridge.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    if shown == bridge {
        return name(&format!("same-bridge-{shown}"));
    }
    let sum = bridge
        .bytes()
        .fold(0_u64, |sum, byte| sum.wrapping_mul(0x0000_0100_0000_01b3) ^ u64::from(byte));
    name(&format!("same-bridge-{shown}-{sum:x}"))
}

/// New connections come in by the bridge, or not at all.
fn same_bridge(bridge: &str) -> Chain {
    let here = Statement::equals(Selector::MetaIifname, Packed::new().ifname(bridge));
    let chain = Chain::new(bridge_chain(bridge)).rule(published()).rule(known());
    chain.rule([here, Statement::return_()]).rule([Statement::drop()])
}

/// New connections do not come in.
fn isolated() -> Chain {
    Chain::new(isolated_chain()).rule(published()).rule(known()).rule([Statement::drop()])
}

fn isolated_chain() -> Name {
    name("isolated")
}

/// What a host port led here is meant to come in: a port is published by whoever started the pod.
fn published() -> [Statement; 2] {
    let right = Right::AnyBit(STATUS_DNAT);
    let translated = Match { left: vec![Selector::CtStatus], op: MatchOp::Eq, right };
    [Statement::Match(translated), Statement::return_()]
}

fn known() -> [Statement; 2] {
    let right = Right::AnyBit(STATE_KNOWN);
    let known = Match { left: vec![Selector::CtState], op: MatchOp::Eq, right };
    [Statement::Match(known), Statement::return_()]
}

/// The chains that never change.
fn constant() -> [Chain; 6] {
    let hostports = name("hostports");
    let dialled_here = || {
        [
            Statement::equals(Selector::FibDaddrType, Packed::new().index(TYPE_LOCAL)),
            Statement::jump(hostports.clone()),
        ]
    };
    let nat = |at: &str, point, priority| {
        Chain::base(name(at), Hook::new(HookKind::Nat, point, priority))
    };
    let prerouting = nat("prerouting", HookPoint::Prerouting, DSTNAT).rule(dialled_here());
    let output = nat("outgoing", HookPoint::Output, DSTNAT).rule(dialled_here());
    let mut translate = Chain::new(hostports.clone());
    let mut postrouting = nat("postrouting", HookPoint::Postrouting, SRCNAT);
    for half in HALVES {
        let spec = half.host_port();
        let key = [half.daddr(), Selector::MetaL4proto, Selector::ThDport];
        translate = translate
            .rule([Statement::any_transport(), Statement::dnat(half.family(), key, spec.name)]);
    }
    for half in HALVES {
        let key = [Selector::MetaL4proto, Selector::ThDport];
        let map = half.host_port_any().name;
        let mut rule = vec![Statement::any_transport(), Statement::dnat(half.family(), key, map)];
        // A packet from ::1 cannot leave the loopback, so there is nothing to translate it for.
        if half.v4 {
            rule.insert(0, nfproto(2));
        } else {
            let not_loopback = Match {
                left: vec![half.daddr()],
                op: MatchOp::Ne,
                right: Right::Value(packed(Ipv6Addr::LOCALHOST.into())),
            };
            rule.insert(0, Statement::Match(not_loopback));
        }
        translate = translate.rule(rule);
    }
    for half in HALVES {
        let translated = Match {
            left: vec![Selector::CtStatus],
            op: MatchOp::Eq,
            right: Right::AnyBit(STATUS_DNAT),
        };
        postrouting = postrouting.rule([
            Statement::Match(translated),
            Statement::vmap([half.daddr()], half.hairpin().name),
        ]);
    }
    for half in HALVES {
        postrouting = postrouting.rule([Statement::vmap([half.saddr()], half.masquerade().name)]);
    }
    let raw = Hook::new(HookKind::Filter, HookPoint::Prerouting, RAW);
    let links = Statement::in_set([Selector::MetaIifname], source_links().name);
    // Link-local addresses stay on the link; the unspecified one asks whether an address is free.
    let local = "fe80::/10".parse().expect("invariant: a network written here");
    let none = Statement::equals(Selector::Ip6Saddr, packed(Ipv6Addr::UNSPECIFIED.into()));
    let known = Statement::not_in_set([Selector::MetaIifname, Selector::Ip6Saddr], source6().name);
    let sources = Chain::base(name("sources"), raw)
        .rule([in_prefix(Selector::Ip6Saddr, local), Statement::accept()])
        .rule([none, Statement::accept()])
        .rule([links, nfproto(10), known, Statement::drop()]);
    let mut forward =
        Chain::base(name("forward"), Hook::new(HookKind::Filter, HookPoint::Forward, FILTER));
    for half in HALVES {
        forward = forward.rule([Statement::vmap([half.daddr()], half.guarded().name)]);
    }
    [prerouting, output, translate, postrouting, sources, forward]
}

fn nfproto(number: u8) -> Statement {
    Statement::equals(Selector::MetaNfproto, Packed::new().proto(number))
}

/// The elements of one attachment, with their set's declaration.
fn elements(wanted: &Wanted, comment: &str) -> Vec<(SetSpec, Element)> {
    let mut all = Vec::new();
    for address in &wanted.masquerade {
        let half = Half::of(address.addr());
        let verdict = Verdict::Jump(subnet_chain("leaving", *address));
        all.push((half.masquerade(), Element::verdict(packed(address.addr()), verdict)));
    }
    for address in &wanted.hairpin {
        let half = Half::of(address.addr());
        let verdict = Verdict::Jump(subnet_chain("hairpin", *address));
        all.push((half.hairpin(), Element::verdict(packed(address.addr()), verdict)));
    }
    for port in &wanted.host_ports {
        let half = Half::of(port.pod_address);
        let to = Data::Value(packed(port.pod_address).port(port.pod_port));
        let number = port.protocol.number();
        match port.host_address {
            Some(address) => {
                let key = packed(address).proto(number).port(port.host_port);
                all.push((half.host_port(), Element::new(key, to)));
            }
            None => {
                let key = Packed::new().proto(number).port(port.host_port);
                all.push((half.host_port_any(), Element::new(key, to)));
            }
        }
    }
    for (link, address) in &wanted.sources {
        let key = Packed::new().ifname(link);
        all.push((source_links(), Element::key(key)));
        all.push((source6(), Element::key(key.ipv6(*address))));
    }
    for (address, bridge) in &wanted.same_bridge {
        let half = Half::of(*address);
        let verdict = Verdict::Jump(bridge_chain(bridge));
        all.push((half.guarded(), Element::verdict(packed(*address), verdict)));
    }
    for address in &wanted.isolated {
        let verdict = Verdict::Jump(isolated_chain());
        all.push((Half::of(*address).guarded(), Element::verdict(packed(*address), verdict)));
    }
    // The kernel's user data hold 127 bytes.
    let fits = (0..=120.min(comment.len())).rev().find(|at| comment.is_char_boundary(*at));
    let comment = &comment[..fits.unwrap_or(0)];
    all.into_iter().map(|(spec, element)| (spec, element.with_comment(comment))).collect()
}

/// The table that holds these attachments (comment, rules) and nothing else.
///
/// # Errors
/// [`ElementError`] when an element is not one of its set: a defect of this module.
pub(crate) fn table(all: &[(String, Wanted)]) -> Result<Table, ElementError> {
    let mut table = Table::new(FAMILY, name(TABLE));
    for spec in HALVES.into_iter().flat_map(Half::specs).chain([source_links(), source6()]) {
        table.insert_set(Set::new(spec));
    }
    for chain in constant() {
        table.insert_chain(chain);
    }
    for (comment, wanted) in all {
        for address in &wanted.masquerade {
            table.insert_chain(leaving(*address));
        }
        for address in &wanted.hairpin {
            table.insert_chain(hairpin(*address));
        }
        for (_, bridge) in &wanted.same_bridge {
            table.insert_chain(same_bridge(bridge));
        }
        if !wanted.isolated.is_empty() {
            table.insert_chain(isolated());
        }
        for (spec, element) in elements(wanted, comment) {
            if let Some(set) = table.sets.get_mut(&spec.name) {
                set.elements.insert(&element)?;
            }
        }
    }
    Ok(table)
}

/// Adds an attachment's elements to a table that is there.
pub(crate) fn insertion(owner: Owner<'_>, wanted: &Wanted) -> Transaction {
    let mut transaction = Transaction::new(FAMILY, name(TABLE));
    for (spec, element) in elements(wanted, &owner_of(owner)) {
        transaction.push(Op::AddElements { set: spec.into(), elements: vec![element] });
    }
    transaction
}

/// Removes an attachment's elements from a table that has them.
pub(crate) fn removal(wanted: &Wanted) -> Transaction {
    let mut transaction = Transaction::new(FAMILY, name(TABLE));
    for (spec, element) in elements(wanted, "") {
        transaction.push(Op::DeleteElements { set: spec.into(), elements: vec![element] });
    }
    transaction
}
