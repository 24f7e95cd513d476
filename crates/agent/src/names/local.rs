//! The cluster address of DNS answered on this node, as long as this process lives.
//!
//! Two things make it so. A route in the kernel's local table has the address delivered here; it stays. A table of nf_tables
//! that this process owns (`flags owner`) takes packets to and from the address out of connection tracking, so that no
//! Service rule sees them; it goes the moment the process does, killed or not, and from then on the Service's rules send
//! the same packets to other nodes. Without connection tracking two questions from one port cannot race for an entry, of
//! which one is lost (the five-second wait). docs/decisions/0601-dns-on-every-node.md has the reasons.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use fabric::ROUTE_PROTOCOL;
use link::kernel::Netlink as Links;
use link::{Change, LinkIndex, Route, RouteKind};
use nft::kernel::Netlink;
use nft::{
    Chain, Element, Family, Field, Hook, HookKind, HookPoint, Kernel as _, Name, Packed, Selector,
    Set, SetSpec, Statement, Table,
};

/// RT_TABLE_LOCAL: what it names is delivered here.
const LOCAL: u32 = 255;
/// Before connection tracking.
const RAW: i32 = -300;
/// The link everything delivered here passes when it also comes from here.
const LOOPBACK: LinkIndex = 1;

/// What was done; dropping it lets other nodes answer.
#[derive(Debug, Default)]
pub(super) struct Local {
    owner: Option<Netlink>,
    addresses: Vec<SocketAddr>,
}

impl Local {
    /// Has these addresses answered here, by the sockets that are bound to them already.
    pub(super) fn answer(&mut self, addresses: &[SocketAddr]) -> anyhow::Result<()> {
        if addresses == self.addresses && self.owner.is_some() {
            return Ok(());
        }
        deliver(addresses)?;
        let next = if addresses.is_empty() { None } else { Some(untracked(addresses, Way::Both)?) };
        // The new table was there before the old one goes.
        self.owner = next;
        self.addresses = addresses.to_vec();
        Ok(())
    }

    /// Lets other nodes answer. Answers to what came before still leave untracked: a tracked one would make a connection
    /// of which the client's next question were the reply, so that it came here again.
    pub(super) fn leave(&mut self) {
        if self.owner.is_some() {
            self.owner = untracked(&self.addresses, Way::Answers)
                .inspect_err(|error| tracing::warn!(error = format!("{error:#}"), "DNS"))
                .ok();
        }
    }
}

/// The routes that deliver these addresses here, and no others.
fn deliver(addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let mut links = Links::open().context("cannot open rtnetlink")?;
    let ips: std::collections::BTreeSet<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
    let route = |ip: IpAddr| {
        let mut route = Route::to(ip.into()).on(LOOPBACK).protocol(ROUTE_PROTOCOL);
        route.kind = RouteKind::Local;
        route.table = LOCAL;
        route
    };
    let listed = links.routes(ROUTE_PROTOCOL)?;
    let ours = listed.into_iter().filter(|it| it.kind == RouteKind::Local && it.table == LOCAL);
    let (stay, go): (Vec<Route>, Vec<Route>) =
        ours.partition(|it| ips.contains(&it.destination.addr()));
    let missing = ips.iter().filter(|ip| !stay.iter().any(|it| it.destination.addr() == **ip));
    let changes: Vec<Change<'_>> = missing
        .map(|ip| Change::AddRoute(route(*ip)))
        .chain(go.into_iter().map(Change::DeleteRoute))
        .collect();
    if !changes.is_empty() {
        links.apply(&changes).context("the route of the cluster's DNS address")?;
    }
    Ok(())
}

/// Which packets are not tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Questions and answers.
    Both,
    /// Answers only.
    Answers,
}

/// A table, owned by the socket that is returned, that takes packets to and from these addresses out of tracking.
fn untracked(addresses: &[SocketAddr], way: Way) -> anyhow::Result<Netlink> {
    let mut owner = Netlink::owning().context("cannot open nf_tables")?;
    // Its own name: the table of an agent that is about to go may still be there.
    let name = format!("fairway-dns-{}", owner.port());
    let table = table(&name, addresses, way)?;
    let transaction = nft::diff(&table, None);
    owner.commit(&transaction).context(
        "the table that keeps DNS on this node (needs Linux 5.12 for `flags owner`); other nodes answer",
    )?;
    Ok(owner)
}

fn table(name: &str, addresses: &[SocketAddr], way: Way) -> anyhow::Result<Table> {
    let mut table = Table::new(Family::Inet, Name::new(name)?);
    let hook = |point| Hook::new(HookKind::Filter, point, RAW);
    let mut arriving = Chain::base(Name::new("arriving")?, hook(HookPoint::Prerouting));
    let mut leaving = Chain::base(Name::new("leaving")?, hook(HookPoint::Output));
    for (v4, field, saddr, daddr, set) in [
        (true, Field::Ipv4Addr, Selector::IpSaddr, Selector::IpDaddr, "dns4"),
        (false, Field::Ipv6Addr, Selector::Ip6Saddr, Selector::Ip6Daddr, "dns6"),
    ] {
        let set = Name::new(set)?;
        let fields = [field, Field::InetProto, Field::InetService];
        let mut elements = Set::new(SetSpec::new(set.clone(), fields));
        for address in addresses.iter().filter(|address| address.is_ipv4() == v4) {
            for protocol in [6, 17] {
                let ip = match address.ip() {
                    IpAddr::V4(ip) => Packed::new().ipv4(ip),
                    IpAddr::V6(ip) => Packed::new().ipv6(ip),
                };
                let key = ip.proto(protocol).port(address.port());
                elements.elements.insert(&Element::key(key))?;
            }
        }
        table.insert_set(elements);
        let to = || {
            let key = [daddr.clone(), Selector::MetaL4proto, Selector::ThDport];
            [Statement::in_set(key, set.clone()), Statement::Notrack]
        };
        let from = [saddr, Selector::MetaL4proto, Selector::ThSport];
        if way == Way::Both {
            arriving = arriving.rule(to());
            leaving = leaving.rule(to());
        }
        leaving = leaving.rule([Statement::in_set(from, set), Statement::Notrack]);
    }
    table.insert_chain(arriving);
    table.insert_chain(leaving);
    Ok(table)
}
