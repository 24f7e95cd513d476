//! Who else programs this node's network. An edge: reads nf_tables, links, `/proc` and the CNI directory.

use std::fs;
use std::path::Path;

use nft::kernel::{BaseChain, Netlink};
use nft::{Family, HookKind, Kernel as _, MarkPlace, MarkValue, Name, Policy, Right, Statement};

use super::Check;
use crate::kube_proxy;
use crate::processes;

/// The mark bit of packets to masquerade, Fairway's and kube-proxy's.
const MARK: u32 = 1 << 14;
/// Links of other networks, by how their names begin.
const LINKS: [(&str, &str); 9] = [
    ("cali", "Calico"),
    ("vxlan.calico", "Calico"),
    ("cilium_", "Cilium"),
    ("lxc", "Cilium or LXC"),
    ("flannel", "flannel"),
    ("kube-bridge", "kube-router"),
    ("weave", "Weave Net"),
    ("antrea-", "Antrea"),
    ("ovn-k8s", "OVN-Kubernetes"),
];

pub(super) fn checks(cni_conf_dir: &Path) -> Vec<Check> {
    let mut checks = vec![kube_proxy_check(), ipvs(), networks(cni_conf_dir)];
    match Netlink::open().map_err(|error| error.to_string()).and_then(|mut kernel| {
        let chains = kernel.every_chain().map_err(|error| error.to_string())?;
        let marks = marks(&mut kernel)?;
        Ok((chains, marks))
    }) {
        Ok((chains, marks)) => {
            checks.push(firewalls(&chains));
            checks.push(marks);
        }
        Err(error) => checks.push(Check::fail("other tables", error, "run it as root")),
    }
    checks
}

fn kube_proxy_check() -> Check {
    const NAME: &str = "kube-proxy";
    let running = processes::kube_proxies();
    let rules = kube_proxy::Rules::find();
    let advice = "`fairway adopt kube-proxy` takes over without breaking a connection";
    match (running.first(), rules) {
        (_, Err(error)) => Check::warn(NAME, format!("{error:#}"), advice),
        (Some(process), Ok(rules)) => {
            Check::warn(NAME, format!("runs: {}; {}", process.words(), rules.words()), advice)
        }
        (None, Ok(rules)) if !rules.is_empty() => {
            Check::warn(NAME, format!("is not running and left {}", rules.words()), advice)
        }
        (None, Ok(_)) => Check::pass(NAME, "is not here"),
    }
}

fn ipvs() -> Check {
    let servers = kube_proxy::ipvs_servers();
    if servers == 0 {
        return Check::pass("IPVS", "no virtual servers");
    }
    Check::warn(
        "IPVS",
        format!("{servers} virtual servers"),
        "kube-proxy in IPVS mode cannot be adopted: switch it to nftables or iptables mode first",
    )
}

fn networks(cni_conf_dir: &Path) -> Check {
    const NAME: &str = "other pod networks";
    let links = link::kernel::Netlink::open().and_then(|mut kernel| kernel.links());
    let mut found: Vec<String> = Vec::new();
    let mut links = links.unwrap_or_default();
    links.sort_by(|a, b| a.name.cmp(&b.name));
    for link in links {
        if let Some((_, who)) = LINKS.iter().find(|(prefix, _)| link.name.starts_with(prefix))
            && !found.iter().any(|earlier| earlier.starts_with(who))
        {
            found.push(format!("{who} (link {})", link.name));
        }
    }
    let is_config = |name: &str| {
        [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end))
            && name != "10-fairway.conflist"
    };
    let entries = fs::read_dir(cni_conf_dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    found.extend(names.filter(|name| is_config(name)).map(|name| format!("CNI file {name}")));
    found.sort();
    if found.is_empty() {
        return Check::pass(NAME, "none");
    }
    Check::warn(
        NAME,
        found.join(", "),
        "pods have one network: drain the node and remove the other one's files and links before Fairway's is used",
    )
}

/// Firewalls whose last word is drop.
fn firewalls(chains: &[BaseChain]) -> Check {
    const NAME: &str = "firewalls";
    let drops = |chain: &&BaseChain| {
        chain
            .hook
            .as_ref()
            .is_some_and(|hook| hook.policy == Policy::Drop && hook.kind == HookKind::Filter)
    };
    let dropping: Vec<String> = chains
        .iter()
        .filter(drops)
        .map(|chain| format!("{} {} {}", chain.family, chain.table, chain.name))
        .collect();
    let has = |table: &str| chains.iter().any(|chain| chain.table.as_str() == table);
    let ufw = chains.iter().any(|chain| chain.name.as_str().starts_with("ufw-"));
    let who = [(has("firewalld"), "firewalld"), (ufw, "ufw")];
    let who: Vec<&str> = who.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect();
    if dropping.is_empty() && who.is_empty() {
        return Check::pass(NAME, "no chain of others drops by policy");
    }
    let mut found = who.join(", ");
    if !dropping.is_empty() {
        if !found.is_empty() {
            found.push_str("; ");
        }
        found.push_str(&format!("policy drop in {}", dropping.join(", ")));
    }
    Check::warn(
        NAME,
        found,
        "let packets from and to the pod CIDRs through, and new connections to node ports in: a drop elsewhere wins over our accept",
    )
}

/// Tables of others whose rules use the mark bit.
fn marks(kernel: &mut Netlink) -> Result<Check, String> {
    const NAME: &str = "mark bit 0x4000";
    let mut users = Vec::new();
    for (family, table) in kernel.tables().map_err(|error| error.to_string())? {
        let ours = family == Family::Inet && table.as_str() == service::TABLE;
        if ours || matches!(family, Family::Bridge | Family::Netdev) {
            continue;
        }
        let listed = kernel.list(family, &table).map_err(|error| error.to_string())?;
        let rules = listed.iter().flat_map(|table| table.chains.values()).flat_map(|it| &it.rules);
        let is_user = rules.flat_map(|rule| &rule.statements).any(uses_mark);
        // kube-proxy means the same by it.
        if is_user && table.as_str() != kube_proxy::TABLE {
            users.push(user(family, &table));
        }
    }
    if users.is_empty() {
        return Ok(Check::pass(NAME, "nobody else uses it"));
    }
    Ok(Check::warn(
        NAME,
        format!("used by {}", users.join(", ")),
        "packets with this mark are masqueraded; check that those rules mean the same",
    ))
}

fn user(family: Family, table: &Name) -> String {
    format!("{family} {table}")
}

fn uses_mark(statement: &Statement) -> bool {
    match statement {
        Statement::SetMark { place: MarkPlace::Packet, value } => match value {
            MarkValue::Fixed(bits) | MarkValue::Or(bits) | MarkValue::Xor(bits) => bits & MARK != 0,
            MarkValue::And(_) | MarkValue::Copy => false,
        },
        Statement::Match(matching) => {
            matching.left.contains(&nft::Selector::MetaMark)
                && matches!(matching.right, Right::Masked { mask, .. } if mask & MARK != 0)
        }
        _ => false,
    }
}
