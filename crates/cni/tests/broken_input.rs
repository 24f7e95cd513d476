//! Whatever stands on standard input or lies on disk: the plugins answer with a result or with an error in the specification's
//! form, and never panic; what one file is worth is no other pod's loss. The inputs are what is usually there, broken in the ways
//! that are easy to think of. `PROPTEST_CASES` for longer runs than a test has time for.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use cni::ipam::blocks::Blocks;
use cni::ipam::{IpamError, RangeConfig, RangeSet, Store};
use cni::{Environment, Identity, NetworkConfig, SpecVersion};
use link::Namespace;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A directory of its own, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("fwtest-broken-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// What stands on standard input on a good day: the program's name and its configuration.
fn usual() -> Vec<(&'static str, Value)> {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.5", "gateway": "10.1.0.1"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "1.1.1.1/32", "gw": "10.1.0.1"}]});
    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "cni0", "mac": "02:00:00:00:00:01"},
        {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/x"}],
        "ips": [{"interface": 1, "address": "10.1.0.5/24", "gateway": "10.1.0.1"}], "routes": [{"dst": "0.0.0.0/0"}]});
    let runtime = json!({"portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "127.0.0.1"}],
        "bandwidth": {"ingressRate": 1000, "ingressBurst": 1000, "egressRate": 1, "egressBurst": 2},
        "ips": ["10.1.0.7/24"], "mac": "02:00:00:00:00:03", "ipRanges": [[{"subnet": "10.2.0.0/24"}]]});
    let plugin = |name: &'static str, extra: Value| {
        let mut conf = json!({"cniVersion": "1.0.0", "name": "net", "type": name, "mtu": 1400,
            "prevResult": previous, "runtimeConfig": runtime, "args": {"cni": {"ips": ["10.1.0.9"]}},
            "dns": {"nameservers": ["10.0.0.1"]}, "ipam": ipam});
        for (key, value) in extra.as_object().unwrap() {
            conf[key] = value.clone();
        }
        (name, conf)
    };
    vec![
        plugin(
            "bridge",
            json!({"bridge": "br7", "isGateway": true, "ipMasq": true, "hairpinMode": true}),
        ),
        plugin("ptp", json!({"ipMasq": true})),
        plugin("fairway", json!({"ipam": {"type": "fairway"}, "policySocket": "/nonexistent"})),
        plugin(
            "fairway",
            json!({"ipam": {"type": "static", "addresses": [{"address": "10.1.0.5/24"}]}}),
        ),
        plugin("portmap", json!({"snat": true, "conditionsV4": ["a"]})),
        plugin("firewall", json!({"ingressPolicy": "same-bridge"})),
        plugin("bandwidth", json!({"ingressRate": 1, "ingressBurst": 1})),
        plugin(
            "tuning",
            json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mac": "02:00:00:00:00:04"}),
        ),
        plugin("loopback", json!({})),
    ]
}

/// Something else in a value's place.
fn replacement() -> impl Strategy<Value = Value> {
    let texts = [
        "",
        " ",
        "é",
        "\u{0}",
        "0",
        "-1",
        "0.0.0.0/0",
        "::/0",
        "10.1.0.0/33",
        "10.1.0.5/0",
        "10.1.0.255",
        "255.255.255.255",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
        "fd00::/64",
        "::ffff:10.1.0.1",
        "0.1.0",
        "0.2.0",
        "9.9.9",
        "sctp",
        "host-local",
        "static",
        "fairway",
        "ff:ff:ff:ff:ff:ff",
        "isolated",
        "abcdefghijklmnopqrstuvwxyz",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![any::<i64>(), -1..70_000_i64, Just(i64::MIN), Just(i64::MAX)]
            .prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        proptest::sample::select(texts.to_vec()).prop_map(Value::from),
        "[a-z]{0,400}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(
            json!([[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.255", "rangeEnd": "10.1.0.255"}]])
        ),
    ]
}

/// Puts `new` in the place of the `nth` value, counted from the inside.
fn replace(value: &mut Value, nth: &mut usize, new: &Value) -> bool {
    let done = match value {
        Value::Array(all) => all.iter_mut().any(|inner| replace(inner, nth, new)),
        Value::Object(all) => all.values_mut().any(|inner| replace(inner, nth, new)),
        _ => false,
    };
    if done {
        return true;
    }
    if *nth == 0 {
        *value = new.clone();
        return true;
    }
    *nth -= 1;
    false
}

/// Standard input that is not quite right.
fn broken() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let changes = proptest::collection::vec((0..60_usize, replacement()), 0..4);
    let bytes = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..3);
    let cut = proptest::option::weighted(0.1, any::<proptest::sample::Index>());
    (0..usual().len(), changes, bytes, cut).prop_map(|(which, changes, bytes, cut)| {
        let (program, mut conf) = usual().swap_remove(which);
        for (mut nth, new) in changes {
            replace(&mut conf, &mut nth, &new);
        }
        let mut text = conf.to_string().into_bytes();
        for (at, byte) in bytes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        if let Some(cut) = cut {
            text.truncate(cut.index(text.len()));
        }
        (program, text)
    })
}

/// Runs a command; exit code and answer.
fn call(program: &str, command: &str, text: &[u8]) -> (i32, Value) {
    let env = Environment {
        command: command.to_owned(),
        container_id: "c1".to_owned(),
        netns: "/nonexistent/netns".to_owned(),
        ifname: "eth0".to_owned(),
        program: program.to_owned(),
        ..Environment::default()
    };
    let mut answer = Vec::new();
    let code = cni::main(&env, &mut &text[..], &mut answer);
    (code, serde_json::from_slice(&answer).unwrap_or(Value::Null))
}

#[test]
fn every_configuration_is_answered() {
    if !rustix::process::geteuid().is_root() {
        let strict = ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|it| std::env::var_os(it).is_some());
        assert!(!strict, "network namespaces need root");
        println!("SKIP: network namespaces need root");
        return;
    }
    // What takes effect in spite of everything does so in a network of its own, and below a directory of its own.
    let name = format!("fwtest-broken-{}", std::process::id());
    let namespace = Namespace::create(&name).unwrap();
    Namespace::delete(&name).unwrap();
    let scratch = Scratch::new();
    let (mut asked, mut good) = (0_u32, 0_u32);
    let outcome = namespace.run(|| {
        let mut runner = proptest::test_runner::TestRunner::default();
        runner.run(&broken(), |(program, text)| {
            let Some(text) = confined(&text, &scratch.0) else { return Ok(()) };
            for command in ["ADD", "CHECK"] {
                let (code, answer) = call(program, command, &text);
                let shown = String::from_utf8_lossy(&text).into_owned();
                if code == 0 {
                    continue;
                }
                prop_assert!(
                    answer["code"].as_u64().is_some_and(|code| code > 0),
                    "{shown}: {answer}"
                );
                prop_assert!(
                    answer["msg"].as_str().is_some_and(|msg| !msg.is_empty()),
                    "{shown}: {answer}"
                );
            }
            let mut version = SpecVersion::V1_1_0;
            drop(NetworkConfig::parse(&text, &mut version));
            Ok(())
        })
    });
    outcome.unwrap().unwrap();
    // The inputs are not broken through and through: as they are they get as far as the namespace.
    for (program, conf) in usual() {
        let text = confined(conf.to_string().as_bytes(), &scratch.0).unwrap();
        let (code, answer) = namespace.run(|| call(program, "ADD", &text)).unwrap();
        asked += 1;
        good += u32::from(code == 0 || answer["code"] == 3 || answer["code"] == 101);
    }
    assert_eq!(good, asked);
}

/// The same, its directories below `dir`. Text that is no JSON goes as it is; JSON that names no directory gets one, or the usual
/// ones of the machine would be used.
fn confined(text: &[u8], dir: &Path) -> Option<Vec<u8>> {
    let Ok(mut conf) = serde_json::from_slice::<Value>(text) else { return Some(text.to_vec()) };
    if let Some(all) = conf.as_object_mut() {
        all.insert("runDir".to_owned(), json!(dir.join("run")));
        if let Some(ipam) = all.get_mut("ipam").and_then(Value::as_object_mut) {
            ipam.insert("dataDir".to_owned(), json!(dir.join("ipam")));
        }
    }
    // A network's name is part of a path.
    let name = conf.get("name").and_then(Value::as_str).unwrap_or_default();
    (!name.contains('/')).then(|| conf.to_string().into_bytes())
}

/// Files as they may lie in host-local's directory after a crash, a full disk, another program.
fn files() -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    let names = [
        "10.1.0.2",
        "10.1.0.3",
        "10.1.0.9",
        "fd00::5",
        "fd00__5",
        "last_reserved_ip.0",
        "last_reserved_ip.1",
        "last_reserved_ip",
        "blocks.json",
        "hungry",
        ".unfinished",
        "10.1.0",
        "lock",
    ];
    let blocks = json!({"blocks": [{"cidr": "10.1.0.0/26", "pool": "p", "except": ["10.1.0.8/29"]}, {"cidr": "fd00::/122", "pool": "q",
        "onRequest": true}], "wishes": {"a/b": {"addresses": ["10.1.0.9"], "pools": ["q"]}}});
    let content = prop_oneof![
        Just(b"c7\r\neth0".to_vec()),
        Just(b"c1\neth0".to_vec()),
        Just(Vec::new()),
        Just(b"10.1.0.3".to_vec()),
        Just(b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".to_vec()),
        Just(vec![0xff; 40]),
        proptest::collection::vec(any::<u8>(), 0..60),
        proptest::collection::vec((0..20_usize, replacement()), 0..3).prop_map(move |changes| {
            let mut blocks = blocks.clone();
            for (mut nth, new) in changes {
                replace(&mut blocks, &mut nth, &new);
            }
            blocks.to_string().into_bytes()
        }),
    ];
    proptest::collection::vec((proptest::sample::select(names.to_vec()), content), 0..8)
}

proptest! {
    #[test]
    fn whatever_lies_on_disk_a_pod_gets_an_address_nobody_has(files in files()) {
        let scratch = Scratch::new();
        let dir = scratch.0.join("net");
        fs::create_dir_all(&dir).unwrap();
        for (name, content) in &files {
            fs::write(dir.join(name), content).unwrap();
        }
        let range = |subnet: &str| RangeConfig { subnet: subnet.parse().unwrap(), range_start: None, range_end: None, gateway: None };
        let sets = RangeSet::check(vec![vec![range("10.1.0.0/28")], vec![range("fd00::/124")]]).unwrap();
        let owner = Identity { container_id: "c1".to_owned(), ifname: "eth0".to_owned() };
        let mut store = Store::open(&scratch.0, "net").unwrap();
        let before = store.reservations().unwrap();
        let others: HashSet<_> = before.iter().filter(|it| it.owner != owner).map(|it| it.address).collect();
        for first in [true, false] {
            let given = store.reserve(&sets, &owner, &[], first).unwrap();
            prop_assert_eq!(given.len(), 2);
            for ip in &given {
                prop_assert!(!others.contains(ip), "{} is another's", ip);
            }
        }
        store.release(&owner).unwrap();
        let left: HashSet<_> = store.reservations().unwrap().into_iter().map(|it| it.address).collect();
        prop_assert_eq!(left, others);
        drop(store);

        // The list of blocks is read or refused; what was read gives what it says.
        match Blocks::read(&scratch.0, "net") {
            Ok(Some(blocks)) => {
                for set in blocks.ranges(None).iter().chain(&blocks.all_ranges()) {
                    prop_assert!(set.capacity() > 0);
                    let some: Vec<_> = set.candidates(None).take(300).collect();
                    prop_assert!(some.iter().all(|ip| set.gives(*ip)), "{}", set);
                    if let Some(after) = some.last() {
                        prop_assert!(set.candidates(Some(*after)).take(300).all(|ip| set.gives(ip)), "{}", set);
                    }
                }
            }
            Ok(None) => {}
            Err(error) => prop_assert!(matches!(error, IpamError::File { .. }), "{}", error),
        }
    }

    #[test]
    fn ranges_are_checked_before_they_are_used(
        subnet in prop_oneof![(any::<u32>(), 0..33_u8).prop_map(|(ip, len)| format!("{}/{len}", std::net::Ipv4Addr::from(ip & 0xff03))),
            (any::<u128>(), 0..129_u8).prop_map(|(ip, len)| format!("{}/{len}", std::net::Ipv6Addr::from(ip)))],
        ends in proptest::array::uniform3(proptest::option::of(0..300_u32)),
    ) {
        let subnet: ipnet::IpNet = subnet.parse().unwrap();
        let subnet = subnet.trunc();
        let at = |offset: Option<u32>| {
            offset.map(|offset| match subnet.network() {
                std::net::IpAddr::V4(ip) => std::net::Ipv4Addr::from(u32::from(ip).wrapping_add(offset)).into(),
                std::net::IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip).wrapping_add(offset.into())).into(),
            })
        };
        let config = RangeConfig { subnet, range_start: at(ends[0]), range_end: at(ends[1]), gateway: at(ends[2]) };
        if let Ok(sets) = RangeSet::check(vec![vec![config]]) {
            for set in &sets {
                let some: Vec<_> = set.candidates(None).take(400).collect();
                let distinct: HashSet<_> = some.iter().collect();
                prop_assert_eq!(distinct.len() as u64, set.capacity().min(400), "{}", set);
                prop_assert!(some.iter().all(|ip| set.gives(*ip) && subnet.contains(ip)), "{}", set);
            }
        }
    }
}
