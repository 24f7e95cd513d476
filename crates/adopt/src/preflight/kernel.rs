//! What the kernel must be able to do, tried in a network namespace of its own. An edge.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use link::{Change, LinkEnd, Namespace, Veth};
use nft::conntrack::Conntrack;
use nft::kernel::Netlink;
use nft::{
    Chain, Errno, Family, Hook, HookKind, HookPoint, IpFamily, Kernel as _, Match, MatchOp, Name,
    NatFlags, Packed, RejectWith, Right, Selector, Set, SetData, SetFlags, SetSpec, Statement,
    Table, UpdateOp,
};

use super::Check;

/// A rule to try: what it is for people, the kernel options it needs, its chain's hook, the rule.
struct Feature {
    name: &'static str,
    options: &'static str,
    hook: Hook,
    rule: Vec<Statement>,
}

pub(super) fn checks() -> Vec<Check> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("fwpre-{}-{number}", std::process::id());
    let namespace = match Namespace::create(&name) {
        Ok(namespace) => namespace,
        Err(error) => {
            let advice = "run it as root, on a kernel with CONFIG_NET_NS";
            return vec![Check::fail("network namespaces", error.to_string(), advice)];
        }
    };
    let outcome = namespace.run(tried);
    let removed = Namespace::delete(&name);
    let mut checks = vec![Check::pass("network namespaces", "made one")];
    match outcome {
        Ok(tried) => checks.extend(tried),
        Err(error) => checks.push(Check::fail("kernel", error.to_string(), "run it as root")),
    }
    if let Err(error) = removed {
        checks.push(Check::warn("clean up", error.to_string(), format!("ip netns del {name}")));
    }
    checks
}

fn tried() -> Vec<Check> {
    let mut checks: Vec<Check> = features().iter().map(feature).collect();
    checks.push(match Conntrack::open().and_then(|mut conntrack| conntrack.list()) {
        Ok(_) => Check::pass("conntrack netlink", "connections can be listed"),
        Err(error) => Check::fail(
            "conntrack netlink",
            error.to_string(),
            "load it with `modprobe nf_conntrack_netlink` (CONFIG_NF_CT_NETLINK)",
        ),
    });
    let pair = Veth::new(LinkEnd::named("fwpre0"), LinkEnd::named("fwpre1"));
    let made = link::kernel::Netlink::open().and_then(|mut it| it.apply(&[Change::AddVeth(pair)]));
    checks.push(match made {
        Ok(()) => Check::pass("veth", "made a pair"),
        Err(error) => Check::fail(
            "veth",
            error.to_string(),
            "load it with `modprobe veth` (CONFIG_VETH); pods are joined with it",
        ),
    });
    checks
}

fn name(text: &str) -> Name {
    Name::new(text).expect("invariant: names of the probes are letters, digits and dashes")
}

fn feature(feature: &Feature) -> Check {
    match try_rule(feature) {
        Ok(()) => Check::pass(feature.name, "the kernel took it"),
        Err(why) => Check::fail(
            feature.name,
            why,
            format!("use a kernel with {} (5.13 or newer), or load its modules", feature.options),
        ),
    }
}

/// Commits a table with the rule, and the sets it may name, in the probing namespace.
fn try_rule(feature: &Feature) -> Result<(), String> {
    let mut table = Table::new(Family::Inet, name("probe"));
    let key = || [Selector::IpDaddr, Selector::MetaL4proto, Selector::ThDport];
    let slots = SetSpec::new(name("slots"), key().into_iter().chain([random()]))
        .with_data(SetData::value([Selector::IpDaddr, Selector::ThDport]));
    let verdicts = SetSpec::new(name("verdicts"), key()).with_data(SetData::Verdict);
    let ranges = SetFlags { interval: true, ..SetFlags::default() };
    let ranges = SetSpec::new(name("ranges"), [Selector::IpSaddr.field()]).with_flags(ranges);
    let dynamic = SetFlags { dynamic: true, timeout: true, ..SetFlags::default() };
    let clients = SetSpec::new(name("clients"), [Selector::IpSaddr, Selector::IpDaddr])
        .with_flags(dynamic)
        .with_size(1024);
    for spec in [slots, verdicts, ranges, clients] {
        table.insert_set(Set::new(spec));
    }
    table.insert_chain(Chain::base(name("probe"), feature.hook).rule(feature.rule.clone()));
    let mut kernel = Netlink::open().map_err(|error| error.to_string())?;
    let committed = kernel.commit(&nft::diff(&table, None));
    let undone = nft::diff(&Table::new(Family::Inet, name("probe")), Some(&table));
    match committed {
        Ok(_) => {
            // What the next probe finds must not depend on this one.
            drop(kernel.commit(&undone));
            Ok(())
        }
        Err(error) => {
            let errno = error.errno().map_or(String::new(), |errno| format!(" ({})", Errno(errno)));
            Err(format!("refused{errno}"))
        }
    }
}

fn random() -> Selector {
    Selector::NumgenRandom { modulus: 2, offset: 0 }
}

fn features() -> Vec<Feature> {
    let nat = |point, priority| Hook::new(HookKind::Nat, point, priority);
    let prerouting = nat(HookPoint::Prerouting, -100);
    let forward = Hook::new(HookKind::Filter, HookPoint::Forward, 0);
    let dialled = || [Selector::IpDaddr, Selector::MetaL4proto, Selector::ThDport];
    let to_slot = |slot: Selector| {
        let key = dialled().into_iter().chain([slot]);
        vec![Statement::any_transport(), Statement::dnat(IpFamily::V4, key, name("slots"))]
    };
    let hash = Selector::Jhash { over: vec![Selector::IpSaddr], modulus: 2, seed: 1, offset: 0 };
    let feature = |name, options, hook, rule| Feature { name, options, hook, rule };
    vec![
        feature(
            "nf_tables, family inet",
            "CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
            forward,
            vec![Statement::Counter],
        ),
        feature(
            "maps of concatenations, numgen, dnat",
            "CONFIG_NFT_NUMGEN and CONFIG_NFT_NAT",
            prerouting,
            to_slot(random()),
        ),
        feature("jhash", "CONFIG_NFT_HASH", prerouting, to_slot(hash)),
        feature(
            "verdict maps",
            "CONFIG_NF_TABLES",
            prerouting,
            vec![Statement::vmap(dialled(), name("verdicts"))],
        ),
        feature(
            "fib",
            "CONFIG_NFT_FIB_INET",
            prerouting,
            vec![Statement::equals(Selector::FibDaddrType, Packed::new().index(2))],
        ),
        feature(
            "sets of ranges",
            "CONFIG_NF_TABLES",
            forward,
            vec![Statement::in_set([Selector::IpSaddr], name("ranges"))],
        ),
        feature(
            "sets filled by rules",
            "CONFIG_NF_TABLES",
            prerouting,
            vec![Statement::Update {
                op: UpdateOp::Update,
                set: name("clients"),
                key: vec![Selector::IpSaddr, Selector::IpDaddr],
                timeout: Some(Duration::from_secs(10)),
            }],
        ),
        feature(
            "ct state, reject",
            "CONFIG_NFT_CT and CONFIG_NFT_REJECT_INET",
            forward,
            vec![
                Statement::Match(Match {
                    left: vec![Selector::CtState],
                    op: MatchOp::Eq,
                    right: Right::AnyBit(8),
                }),
                Statement::Reject(RejectWith::PortUnreachable),
            ],
        ),
        feature(
            "masquerade",
            "CONFIG_NFT_MASQ",
            nat(HookPoint::Postrouting, 100),
            vec![Statement::Masquerade(NatFlags { fully_random: true, ..NatFlags::default() })],
        ),
    ]
}
