//! The reference plugins as oracle: the same configurations through theirs and ours, each on a node of
//! its own, and what the kernel and the results say compared field by field.
//!
//! What may differ is named in one place each: [`normal`] (names and Ethernet addresses nobody chose)
//! and a case's `differs`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]
#![allow(missing_docs, unreachable_pub, dead_code, reason = "a test")]

mod world;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use cni::Environment;
use link::Namespace;
use link::namespace::CommandInNamespace as _;
use serde_json::{Map, Value, json};
use world::{World, inside};

/// Where Debian's `containernetworking-plugins` puts them.
const REFERENCE: &str = "/usr/lib/cni";
const POD: &str = "eth0";

fn ready() -> bool {
    if !world::ready() {
        return false;
    }
    if Path::new(REFERENCE).join("bridge").exists() {
        return true;
    }
    let required = std::env::var_os("CI").or(std::env::var_os("FAIRWAY_REQUIRE_ALL"));
    assert!(required.is_none(), "the reference plugins are missing: tools/install test");
    println!("SKIP: the reference plugins are not in {REFERENCE}");
    false
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Reference,
    Ours,
}

/// One node, one pod, one implementation.
struct Bench {
    side: Side,
    node: Namespace,
    pod: Namespace,
    env: Environment,
    data_dir: std::path::PathBuf,
}

impl Bench {
    /// Replaces `DATA` in a configuration by a directory of this bench.
    fn conf(&self, plugin: &Value) -> Value {
        let text = plugin.to_string().replace("DATA", self.data_dir.to_str().unwrap());
        serde_json::from_str(&text).unwrap()
    }

    /// One call of one plugin: result, or (code, message).
    fn call(&self, command: &str, plugin: &Value) -> Result<Value, (u64, String)> {
        let kind = plugin["type"].as_str().unwrap();
        let env = Environment { command: command.to_owned(), ..self.env.clone() };
        let (success, text) = match self.side {
            Side::Ours => {
                let env = Environment { program: kind.to_owned(), ..env };
                let stdin = plugin.to_string();
                let (code, text) = self
                    .node
                    .run(|| {
                        let mut out = Vec::new();
                        let code = cni::main(&env, &mut stdin.as_bytes(), &mut out);
                        (code, String::from_utf8(out).unwrap())
                    })
                    .unwrap();
                (code == 0, text)
            }
            Side::Reference => {
                let mut process = Command::new(Path::new(REFERENCE).join(kind));
                process
                    .env("CNI_COMMAND", &env.command)
                    .env("CNI_CONTAINERID", &env.container_id)
                    .env("CNI_NETNS", &env.netns)
                    .env("CNI_IFNAME", &env.ifname)
                    .env("CNI_ARGS", &env.args)
                    .env("CNI_PATH", REFERENCE)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null());
                let mut child = process.in_namespace(&self.node).unwrap().spawn().unwrap();
                child.stdin.take().unwrap().write_all(plugin.to_string().as_bytes()).unwrap();
                let output = child.wait_with_output().unwrap();
                (output.status.success(), String::from_utf8(output.stdout).unwrap())
            }
        };
        let json = if text.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{:?}: {text}", self.side))
        };
        if success {
            Ok(json)
        } else {
            Err((json["code"].as_u64().unwrap_or(0), json["msg"].as_str().unwrap_or("").to_owned()))
        }
    }

    /// What a runtime does with a list: name and version into each plugin, results on.
    fn list(
        &self,
        command: &str,
        version: &str,
        plugins: &[Value],
        last: Option<&Value>,
    ) -> Result<Option<Value>, (u64, String)> {
        let mut result: Option<Value> = last.cloned();
        let order: Vec<&Value> = if command == "DEL" {
            plugins.iter().rev().collect()
        } else {
            plugins.iter().collect()
        };
        for plugin in order {
            let mut conf = self.conf(plugin);
            conf["name"] = json!("oracle");
            conf["cniVersion"] = json!(version);
            if let Some(previous) = &result {
                conf["prevResult"] = previous.clone();
            }
            let said = self.call(command, &conf)?;
            if command == "ADD" {
                result = Some(said);
            }
        }
        Ok(result)
    }

    fn state(&self) -> Value {
        json!({ "node": shown(&self.node), "pod": shown(&self.pod) })
    }
}

fn ip_json(namespace: &Namespace, args: &[&str]) -> Value {
    let mut command = vec!["ip", "-j"];
    command.extend(args);
    let output = inside(namespace, &command);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| json!([]))
}

/// The kernel's state as `ip` tells it, only what does not depend on the moment.
fn shown(namespace: &Namespace) -> Value {
    let keep = |value: &Value, keys: &[&str]| {
        let mut map = Map::new();
        for key in keys {
            if let Some(value) = value.get(*key) {
                map.insert((*key).to_owned(), value.clone());
            }
        }
        Value::Object(map)
    };
    let list = |value: Value| value.as_array().cloned().unwrap_or_default();
    let mut links = Vec::new();
    for link in list(ip_json(namespace, &["-d", "addr", "show"])) {
        let mut shown = keep(&link, &["ifname", "mtu", "master", "address"]);
        let flags = list(link["flags"].clone());
        let flag = |name: &str| flags.iter().any(|flag| flag == name);
        shown["up"] = json!(flag("UP"));
        shown["promisc"] = json!(flag("PROMISC"));
        shown["kind"] = link["linkinfo"]["info_kind"].clone();
        if shown["kind"] == "bridge" {
            // The reference's depends on its ports.
            shown["address"] = Value::Null;
        }
        if link["linkinfo"]["info_slave_kind"] == "bridge" {
            let port = &link["linkinfo"]["info_slave_data"];
            shown["port"] = keep(port, &["state", "hairpin", "learning", "flood", "isolated"]);
        }
        let addresses = list(link["addr_info"].clone()).into_iter();
        let global = addresses.filter(|address| address["scope"] != "link");
        let keys = ["family", "local", "prefixlen", "broadcast", "scope", "noprefixroute"];
        shown["addresses"] = global.map(|address| keep(&address, &keys)).collect();
        links.push(shown);
    }
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        for route in list(ip_json(namespace, &[family, "route", "show", "table", "all"])) {
            let dst = route["dst"].as_str().unwrap_or_default();
            // What the kernel makes of addresses by itself, some of it later than at once.
            if dst.starts_with("fe80") || route["table"] == "local" || route["type"] == "multicast"
            {
                continue;
            }
            let keys = [
                "dst", "gateway", "dev", "prefsrc", "scope", "type", "metric", "table", "protocol",
            ];
            routes.push(keep(&route, &keys));
        }
    }
    routes.sort_by_key(ToString::to_string);
    let mut sysctls = BTreeMap::new();
    let mut names =
        vec!["net/ipv4/ip_forward".to_owned(), "net/ipv6/conf/all/forwarding".to_owned()];
    for link in &links {
        let name = link["ifname"].as_str().unwrap();
        for key in ["arp_notify", "proxy_arp", "rp_filter", "route_localnet", "forwarding"] {
            names.push(link::sysctl::interface("ipv4", name, key));
        }
        for key in ["disable_ipv6", "accept_dad", "accept_ra", "proxy_ndp"] {
            names.push(link::sysctl::interface("ipv6", name, key));
        }
    }
    for name in names {
        let value = namespace.run(|| link::sysctl::read(&name).unwrap_or_default()).unwrap();
        sysctls.insert(name, value);
    }
    let mut shapes = Vec::new();
    let qdiscs = inside(namespace, &["tc", "-j", "qdisc", "show"]);
    for qdisc in list(serde_json::from_slice(&qdiscs.stdout).unwrap_or_default()) {
        let kind = qdisc["kind"].as_str().unwrap_or_default();
        if kind == "tbf" || kind == "ingress" {
            let mut shape = keep(&qdisc, &["kind", "dev", "root"]);
            shape["rate"] = qdisc["options"]["rate"].clone();
            shape["burst"] = qdisc["options"]["burst"].clone();
            shapes.push(shape);
        }
    }
    shapes.sort_by_key(ToString::to_string);
    json!({ "links": links, "routes": routes, "sysctls": sysctls, "shapes": shapes })
}

/// Names drawn at random or hashed become what they are, Ethernet addresses a word, unless asked for.
fn normal(value: &Value, side: &Bench, macs: &[&str]) -> Value {
    let mut text = serde_json::to_string(value).unwrap();
    let replaced = |text: &str, pattern: &str, by: &str| {
        regex::Regex::new(pattern).unwrap().replace_all(text, by).into_owned()
    };
    text = text.replace(&side.env.netns, "NETNS").replace(side.data_dir.to_str().unwrap(), "DATA");
    text = text.replace(&side.env.container_id, "CONTAINER");
    text = replaced(&text, r"\bveth[0-9a-f]{8,11}\b", "VETH");
    text = replaced(&text, r"\bbwp[0-9a-f]{10,12}\b", "IFB");
    let mac = regex::Regex::new(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b").unwrap();
    let text = mac.replace_all(&text, |found: &regex::Captures<'_>| {
        let told = &found[0];
        if told == "00:00:00:00:00:00" || macs.contains(&told) {
            told.to_owned()
        } else {
            "MAC".to_owned()
        }
    });
    serde_json::from_str(&text).unwrap()
}

/// Both values as paths, those that differ.
fn difference(path: &str, reference: &Value, ours: &Value, into: &mut Vec<String>) {
    match (reference, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let (a, b) =
                    (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                difference(&format!("{path}/{key}"), a, b, into);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                difference(&format!("{path}/{at}"), a, b, into);
            }
        }
        (a, b) if a == b => {}
        (a, b) => into.push(format!("{path}: reference {a}, ours {b}")),
    }
}

struct Case {
    name: &'static str,
    version: &'static str,
    plugins: Vec<Value>,
    /// Runtime's words for `CNI_ARGS`.
    args: &'static str,
    /// Ethernet addresses that were asked for.
    macs: Vec<&'static str>,
    /// Paths (by how they begin) that may differ, and why.
    differs: &'static [(&'static str, &'static str)],
}

impl Case {
    fn new(name: &'static str, version: &'static str, plugins: Vec<Value>) -> Self {
        Self { name, version, plugins, args: "IgnoreUnknown=1", macs: Vec::new(), differs: &[] }
    }
}

fn run(case: &Case) -> Vec<String> {
    let mut world = World::new(0);
    let mut benches = Vec::new();
    for side in [Side::Reference, Side::Ours] {
        let node = world.namespace(&format!("{side:?}-node").to_lowercase());
        let pod = world.namespace(&format!("{side:?}-pod").to_lowercase());
        inside(&node, &["ip", "link", "set", "lo", "up"]);
        let data_dir = std::env::temp_dir().join(pod.path().file_name().unwrap());
        let env = Environment {
            container_id: format!("{side:?}-0123456789abcdef").to_lowercase(),
            netns: pod.path().display().to_string(),
            ifname: POD.to_owned(),
            args: case.args.to_owned(),
            ..Environment::default()
        };
        benches.push(Bench { side, node, pod, env, data_dir });
    }
    let mut differences = Vec::new();
    let mut compare = |stage: &str, values: [Value; 2]| {
        let mut found = Vec::new();
        difference(stage, &values[0], &values[1], &mut found);
        found.retain(|it| !case.differs.iter().any(|(path, _)| it.starts_with(path)));
        differences.extend(found);
    };
    let both = |work: &dyn Fn(&Bench) -> Value| {
        [&benches[0], &benches[1]].map(|bench| normal(&work(bench), bench, &case.macs))
    };
    let results: Vec<Result<Option<Value>, (u64, String)>> =
        benches.iter().map(|bench| bench.list("ADD", case.version, &case.plugins, None)).collect();
    compare(
        "add",
        [0, 1].map(|at| match &results[at] {
            Ok(result) => normal(result.as_ref().unwrap(), &benches[at], &case.macs),
            // Only that it failed: codes beyond the specification's are everyone's own.
            Err(_) => json!("failed"),
        }),
    );
    for (bench, result) in benches.iter().zip(&results) {
        if let Err((code, message)) = result {
            println!("{}: {:?} ADD failed with {code}: {message}", case.name, bench.side);
        }
    }
    if results.iter().all(Result::is_err) {
        // The reference leaves bridges, links and reservations behind; ours must not.
        let left = benches[1].state().to_string();
        assert!(!left.contains("veth") && !left.contains(POD), "{}: {left}", case.name);
        let held = files(&benches[1].data_dir);
        let held = held.as_object().into_iter().flatten();
        let held: Vec<_> = held.filter(|(_, text)| text.as_str().unwrap().contains(POD)).collect();
        assert!(held.is_empty(), "{}: {held:?}", case.name);
        return differences;
    }
    compare("state", both(&|bench| bench.state()));
    compare("files", both(&|bench| files(&bench.data_dir)));
    let last =
        |bench: &Bench| results[usize::from(bench.side == Side::Ours)].clone().ok().flatten();
    if case.version >= "0.4.0" && results.iter().all(Result::is_ok) {
        compare(
            "check",
            both(&|bench| match bench.list(
                "CHECK",
                case.version,
                &case.plugins,
                last(bench).as_ref(),
            ) {
                Ok(_) => json!("fine"),
                Err((code, message)) => {
                    println!("{}: {:?} CHECK failed with {code}: {message}", case.name, bench.side);
                    json!("failed")
                }
            }),
        );
    }
    for round in ["del", "del again"] {
        compare(
            round,
            both(&|bench| {
                let last = last(bench);
                match bench.list("DEL", case.version, &case.plugins, last.as_ref()) {
                    Ok(_) => bench.state(),
                    Err((code, message)) => json!({ "failed": format!("{code} {message}") }),
                }
            }),
        );
        compare(round, both(&|bench| files(&bench.data_dir)));
    }
    let table = inside(&benches[1].node, &["nft", "list", "ruleset"]);
    let left = String::from_utf8_lossy(&table.stdout).into_owned();
    if left.contains("elements") {
        differences.push(format!("ours leaves elements: {left}"));
    }
    for bench in &benches {
        drop(std::fs::remove_dir_all(&bench.data_dir));
    }
    differences
}

/// Names and contents below a directory.
fn files(dir: &Path) -> Value {
    let mut all = Map::new();
    let Ok(networks) = std::fs::read_dir(dir) else { return Value::Null };
    for network in networks.flatten() {
        for file in std::fs::read_dir(network.path()).into_iter().flatten().flatten() {
            let name = format!("{}/{}", network.file_name().display(), file.file_name().display());
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            // A link of ours, by the name of the plugins of old.
            if file.file_name() == "last_reserved_ip" {
                continue;
            }
            all.insert(name, json!(text));
        }
    }
    Value::Object(all)
}

fn host_local(more: Value) -> Value {
    let mut ipam = json!({ "type": "host-local", "dataDir": "DATA" });
    for (key, value) in more.as_object().unwrap() {
        ipam[key] = value.clone();
    }
    ipam
}

/// Both families, routes of both kinds.
fn dual() -> Value {
    host_local(json!({
        "ranges": [[{ "subnet": "10.88.0.0/24" }], [{ "subnet": "fd00:88::/64" }]],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }, { "dst": "192.0.2.0/24", "gw": "10.88.0.77" }],
    }))
}

fn single() -> Value {
    host_local(json!({ "subnet": "10.88.0.0/24", "routes": [{ "dst": "0.0.0.0/0" }] }))
}

fn bridge(more: Value) -> Value {
    let mut conf =
        json!({ "type": "bridge", "bridge": "br-oracle", "isGateway": true, "ipam": dual() });
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

const PTP: &[(&str, &str)] = &[
    ("state/node/routes/0/scope", "a pod on the link is of scope link, not of scope host"),
    ("state/pod/sysctls/net/ipv6/conf/eth0/accept_dad", "the address is usable at once"),
    ("state/pod/sysctls/net/ipv4/conf/eth0/arp_notify", "as the bridge plugin has it"),
];
/// The reference tells the result in the shape of 1.0.0.
const LOOPBACK_OLD: &[(&str, &str)] = &[("add/", "the shape is that of the version asked for")];
const LOOPBACK: &[(&str, &str)] = &[
    ("add/ips/0/version", "required before 1.0.0"),
    ("add/ips/1/version", "required before 1.0.0"),
];
/// CHECK of the reference fails where nothing is wrong.
const CHECK: &[(&str, &str)] = &[("check", "the reference's CHECK fails without a reason")];

const VERSIONS: [&str; 6] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for version in VERSIONS {
        cases.push(Case::new(
            "bridge, both families",
            version,
            vec![bridge(json!({ "ipMasq": true }))],
        ));
        cases.push(Case {
            differs: PTP,
            ..Case::new(
                "ptp, both families",
                version,
                vec![json!({ "type": "ptp", "ipMasq": true, "mtu": 1400, "ipam": dual() })],
            )
        });
        cases.push(Case::new(
            "the seed",
            version,
            vec![json!({
                "type": "bridge", "bridge": "cni_net0", "isGateway": true, "ipMasq": true,
                "ipam": host_local(json!({ "subnet": "10.0.10.0/24", "routes": [
                    { "dst": "0.0.0.0/0" }, { "dst": "1.1.1.1/32", "gw": "10.0.10.1" },
                ]})),
            })],
        ));
        cases.push(Case {
            differs: if version < "0.3.0" {
                LOOPBACK_OLD
            } else if version < "1.0.0" {
                LOOPBACK
            } else {
                &[]
            },
            ..Case::new("loopback", version, vec![json!({ "type": "loopback" })])
        });
        cases.push(Case::new(
            "host-local alone",
            version,
            vec![json!({ "type": "host-local", "ipam": dual() })],
        ));
    }
    let last = "1.0.0";
    let mut add = |name, plugins| cases.push(Case::new(name, last, plugins));
    add("bridge, no gateway", vec![bridge(json!({ "isGateway": false, "ipam": single() }))]);
    add(
        "bridge, default gateway",
        vec![bridge(
            json!({ "isDefaultGateway": true, "ipam": host_local(json!({ "subnet": "10.88.0.0/24" })) }),
        )],
    );
    add("bridge, hairpin, MTU", vec![bridge(json!({ "hairpinMode": true, "mtu": 1350 }))]);
    add("bridge, promiscuous", vec![bridge(json!({ "promiscMode": true, "ipam": single() }))]);
    add("bridge, no addresses", vec![json!({ "type": "bridge", "bridge": "br-oracle" })]);
    add(
        "bridge, two IPv4 ranges",
        vec![bridge(json!({ "ipam": host_local(json!({
        "ranges": [[{ "subnet": "10.88.0.0/24", "rangeStart": "10.88.0.10", "rangeEnd": "10.88.0.20", "gateway": "10.88.0.254" }]],
    })) }))],
    );
    add(
        "bridge, resolver settings",
        vec![bridge(json!({ "ipam": single(), "dns": {
        "nameservers": ["10.96.0.10"], "domain": "d.example", "search": ["a.example"], "options": ["ndots:5"],
    } }))],
    );
    add(
        "bridge, runtime address",
        vec![bridge(json!({ "ipam": single(), "runtimeConfig": { "ips": ["10.88.0.77"] } }))],
    );
    add(
        "bridge, runtime ranges",
        vec![bridge(json!({
            "ipam": host_local(json!({ "routes": [{ "dst": "0.0.0.0/0" }] })),
            "runtimeConfig": { "ipRanges": [[{ "subnet": "10.99.0.0/24" }], [{ "subnet": "fd00:99::/64" }]] },
        }))],
    );
    add(
        "bridge, an address outside",
        vec![bridge(json!({ "ipam": single(), "runtimeConfig": { "ips": ["10.77.0.1"] } }))],
    );
    add(
        "bridge, static",
        vec![bridge(json!({ "ipam": { "type": "static",
        "addresses": [{ "address": "10.10.0.5/24", "gateway": "10.10.0.254" }, { "address": "fd00:10::5/64" }],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "192.0.2.0/24", "gw": "10.10.0.254" }],
    } }))],
    );
    add(
        "static alone",
        vec![json!({ "type": "static", "ipam": { "type": "static",
        "addresses": [{ "address": "10.10.0.5/24", "gateway": "10.10.0.254" }], "dns": { "nameservers": ["10.1.1.1"] },
        "routes": [{ "dst": "0.0.0.0/0" }],
    } })],
    );
    add(
        "static by the runtime",
        vec![
            json!({ "type": "static", "ipam": { "type": "static" }, "runtimeConfig": { "ips": ["10.10.0.7/24"] } }),
        ],
    );
    add("ptp, IPv4", vec![json!({ "type": "ptp", "ipam": single() })]);
    add(
        "portmap",
        vec![
            bridge(json!({ "ipam": single() })),
            json!({ "type": "portmap", "snat": true,
        "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] } }),
        ],
    );
    add(
        "portmap, nothing mapped",
        vec![bridge(json!({ "ipam": single() })), json!({ "type": "portmap" })],
    );
    add(
        "bandwidth",
        vec![
            bridge(json!({ "ipam": single() })),
            json!({ "type": "bandwidth",
        "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 4_000_000, "egressBurst": 400_000 }),
        ],
    );
    add(
        "bandwidth by the runtime",
        vec![
            bridge(json!({ "ipam": single() })),
            json!({ "type": "bandwidth",
        "runtimeConfig": { "bandwidth": { "ingressRate": 8_000_000, "ingressBurst": 800_000 } } }),
        ],
    );
    add(
        "bandwidth, none",
        vec![bridge(json!({ "ipam": single() })), json!({ "type": "bandwidth" })],
    );
    add(
        "tuning",
        vec![
            bridge(json!({ "ipam": single() })),
            json!({ "type": "tuning",
        "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "500" }, "mtu": 1300, "allmulti": true }),
        ],
    );
    add(
        "loopback in a chain",
        vec![bridge(json!({ "ipam": single() })), json!({ "type": "loopback" })],
    );
    add("firewall", vec![bridge(json!({ "ipam": single() })), json!({ "type": "firewall" })]);
    add(
        "a subnet too small",
        vec![bridge(json!({ "ipam": host_local(json!({ "subnet": "10.88.0.0/31" })) }))],
    );
    add(
        "a subnet with host bits",
        vec![bridge(json!({ "ipam": host_local(json!({ "subnet": "10.88.0.7/24" })) }))],
    );
    add(
        "hairpin and promiscuous",
        vec![bridge(json!({ "ipam": single(), "hairpinMode": true, "promiscMode": true }))],
    );
    add("ptp without addresses", vec![json!({ "type": "ptp" })]);
    for case in &mut cases {
        match case.name {
            "ptp, IPv4" => case.differs = PTP,
            "bridge, no addresses" | "bandwidth, none" | "portmap" | "tuning" => {
                case.differs = CHECK
            }
            _ => {}
        }
    }
    let mac = "02:11:22:33:44:55";
    cases.push(Case {
        macs: vec![mac],
        ..Case::new(
            "bridge, Ethernet address",
            last,
            vec![bridge(json!({ "ipam": single(), "runtimeConfig": { "mac": mac } }))],
        )
    });
    cases.push(Case {
        macs: vec![mac],
        args: "IgnoreUnknown=1;MAC=02:11:22:33:44:55;IP=10.88.0.9",
        ..Case::new("bridge, words in CNI_ARGS", last, vec![bridge(json!({ "ipam": single() }))])
    });
    cases
}

#[test]
fn ours_does_what_the_reference_does() {
    if !ready() {
        return;
    }
    let only = std::env::var("ORACLE_CASE").unwrap_or_default();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for case in cases().iter().filter(|case| case.name.contains(&only)) {
        count += 1;
        let differences = run(case);
        println!(
            "{:8} {:32} {}",
            case.version,
            case.name,
            if differences.is_empty() { "same" } else { "DIFFERENT" }
        );
        for it in &differences {
            println!("    {it}");
        }
        wrong.extend(differences.iter().map(|it| format!("{} {}: {it}", case.version, case.name)));
    }
    println!("{count} cases");
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}
