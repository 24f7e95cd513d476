//! The protocol without a kernel: results per version, errors, and input of any kind.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]
#![allow(missing_docs, reason = "a test")]

use cni::{AddResult, Environment, ResultInterface, ResultIp, ResultRoute, SpecVersion};
use proptest::prelude::*;
use serde_json::Value;

fn call(env: &Environment, stdin: &[u8]) -> (i32, String) {
    let mut out = Vec::new();
    let code = cni::main(env, &mut &stdin[..], &mut out);
    (code, String::from_utf8(out).unwrap())
}

fn env(command: &str) -> Environment {
    Environment {
        command: command.to_owned(),
        container_id: "c1".to_owned(),
        netns: "/run/netns/fwtest-no-such".to_owned(),
        ifname: "eth0".to_owned(),
        ..Environment::default()
    }
}

fn config(version: &str) -> String {
    format!(
        r#"{{"cniVersion":"{version}","name":"fairway","type":"fairway",
        "ipam":{{"type":"host-local","dataDir":"/nonexistent/fwtest",
        "ranges":[[{{"subnet":"10.244.1.0/24"}}],[{{"subnet":"fd00:10:244:1::/64"}}]]}}}}"#
    )
}

fn error(env: &Environment, stdin: &str) -> (u64, String) {
    let (code, text) = call(env, stdin.as_bytes());
    assert_eq!(code, 1, "{text}");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert!(json["cniVersion"].is_string());
    (json["code"].as_u64().unwrap(), json["msg"].as_str().unwrap().to_owned())
}

fn result() -> AddResult {
    AddResult {
        interfaces: vec![
            ResultInterface {
                name: "fw0123456789abc".to_owned(),
                mac: "ee:ee:ee:ee:ee:ee".to_owned(),
                mtu: Some(1450),
                sandbox: String::new(),
            },
            ResultInterface {
                name: "eth0".to_owned(),
                mac: "02:00:00:00:00:01".to_owned(),
                mtu: Some(1450),
                sandbox: "/run/netns/pod".to_owned(),
            },
        ],
        ips: vec![
            ResultIp {
                interface: Some(1),
                address: "10.244.1.2/32".parse().unwrap(),
                gateway: Some("169.254.1.1".parse().unwrap()),
            },
            ResultIp {
                interface: Some(1),
                address: "fd00::2/128".parse().unwrap(),
                gateway: Some("fe80::1".parse().unwrap()),
            },
        ],
        routes: vec![ResultRoute {
            dst: "0.0.0.0/0".parse().unwrap(),
            gw: Some("169.254.1.1".parse().unwrap()),
        }],
        dns: None,
    }
}

/// Version → what is told per interface (mtu) and per address (family).
#[test]
fn each_version_gets_its_own_shape() {
    for version in SpecVersion::ALL {
        let told = version.as_str();
        let mtu = if version >= SpecVersion::V1_1_0 { r#""mtu":1450,"# } else { "" };
        let mtu_last = if mtu.is_empty() { "" } else { r#","mtu":1450"# };
        let (four, six) = if version < SpecVersion::V1_0_0 {
            (r#""version":"4","#, r#""version":"6","#)
        } else {
            ("", "")
        };
        let golden = format!(
            concat!(
                r#"{{"cniVersion":"{told}","#,
                r#""interfaces":[{{"name":"fw0123456789abc","mac":"ee:ee:ee:ee:ee:ee"{mtu_last}}},"#,
                r#"{{"name":"eth0","mac":"02:00:00:00:00:01",{mtu}"sandbox":"/run/netns/pod"}}],"#,
                r#""ips":[{{{four}"interface":1,"address":"10.244.1.2/32","gateway":"169.254.1.1"}},"#,
                r#"{{{six}"interface":1,"address":"fd00::2/128","gateway":"fe80::1"}}],"#,
                r#""routes":[{{"dst":"0.0.0.0/0","gw":"169.254.1.1"}}],"dns":{{}}}}"#
            ),
            told = told,
            mtu = mtu,
            mtu_last = mtu_last,
            four = four,
            six = six,
        );
        let golden = if version < SpecVersion::V0_3_0 {
            format!(
                concat!(
                    r#"{{"cniVersion":"{told}","#,
                    r#""ip4":{{"ip":"10.244.1.2/32","gateway":"169.254.1.1","#,
                    r#""routes":[{{"dst":"0.0.0.0/0","gw":"169.254.1.1"}}]}},"#,
                    r#""ip6":{{"ip":"fd00::2/128","gateway":"fe80::1"}},"dns":{{}}}}"#
                ),
                told = told,
            )
        } else {
            golden
        };
        let json: Value = serde_json::from_str(&result().to_json(version).unwrap()).unwrap();
        assert_eq!(json.to_string(), golden);
        // And is read back, but for what older versions do not tell.
        let read = AddResult::from_json(&json).unwrap();
        let addresses = |result: &AddResult| {
            result.ips.iter().map(|ip| (ip.address, ip.gateway)).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&read), addresses(&result()));
        assert_eq!(read.routes, result().routes);
        if version >= SpecVersion::V0_3_0 {
            assert_eq!(read.ips, result().ips);
            assert_eq!(read.interfaces[1].mac, result().interfaces[1].mac);
        }
    }
}

#[test]
fn version_needs_nothing_else() {
    let (code, text) = call(&Environment { command: "VERSION".to_owned(), ..env("") }, b"");
    assert_eq!(code, 0);
    assert_eq!(
        text,
        r#"{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#
    );
}

#[test]
fn errors_have_the_codes_of_the_specification() {
    let ok = config("1.0.0");
    assert_eq!(error(&env("ADD"), &config("0.5.0")).0, 1);
    assert_eq!(error(&env("ADD"), &config("1.2.0")).0, 1);
    assert_eq!(error(&env("CHECK"), &config("0.3.1")).0, 1);
    assert_eq!(error(&env("GC"), &ok).0, 1);
    assert_eq!(error(&env("STATUS"), &ok).0, 1);
    assert_eq!(error(&env("ADD"), &ok).0, 3);
    for command in ["", "add", "NOPE"] {
        assert_eq!(error(&env(command), &ok).0, 4);
    }
    assert_eq!(error(&Environment { container_id: String::new(), ..env("DEL") }, &ok).0, 4);
    assert_eq!(error(&Environment { container_id: "../x".to_owned(), ..env("ADD") }, &ok).0, 4);
    for bad in ["", "..", "a/b", "a b", "a:b", "sixteen-bytes-xx"] {
        let env = Environment { ifname: bad.to_owned(), ..env("ADD") };
        assert_eq!(error(&env, &ok).0, 4, "{bad:?}");
    }
    assert_eq!(error(&env("ADD"), "").0, 6);
    assert_eq!(error(&env("ADD"), "{").0, 6);
    assert_eq!(error(&env("ADD"), "[]").0, 6);
    assert_eq!(error(&env("GC"), &config("1.1.0")).0, 7);
    for (good, bad) in [
        (r#""type":"fairway""#, r#""type":"macvlan""#),
        (r#""name":"fairway""#, r#""name":"../x""#),
        (r#""name":"fairway""#, r#""name":"fairway","mtu":7"#),
        (r#""type":"host-local""#, r#""type":"../dhcp""#),
        ("10.244.1.0/24", "10.244.1.7/24"),
        ("10.244.1.0/24", "10.244.1.0/31"),
        ("fd00:10:244:1::/64", "10.244.1.0/25"),
    ] {
        let (code, message) = error(&env("ADD"), &ok.replacen(good, bad, 1));
        assert_eq!(code, 7, "{bad}: {message}");
    }
    let wrong = ok.replacen("10.244.1.0/24", "10.244.1.7/24", 1);
    let (_, message) = error(&env("ADD"), &wrong);
    assert_eq!(
        message,
        "network configuration: ipam.ranges: subnet 10.244.1.7/24 has host bits set; \
         the network is 10.244.1.0/24"
    );
}

#[test]
fn errors_are_told_in_the_configurations_version() {
    let (_, text) = call(&env("ADD"), config("0.4.0").as_bytes());
    assert!(text.starts_with(r#"{"cniVersion":"0.4.0","code":3,"msg":""#), "{text}");
}

/// JSON of any shape, with the words of a configuration in it.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof![
            Just("1.0.0"),
            Just("fairway"),
            Just("host-local"),
            Just("10.0.0.0/24"),
            Just("::/0"),
            Just("10.0.0.9"),
            Just("ff:ff:ff:ff:ff:ff"),
            Just("0.0.0.0/0"),
            Just("é\0"),
        ]
        .prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("cniVersion"),
        Just("name"),
        Just("type"),
        Just("ipam"),
        Just("ranges"),
        Just("subnet"),
        Just("rangeStart"),
        Just("rangeEnd"),
        Just("gateway"),
        Just("mtu"),
        Just("prevResult"),
        Just("ips"),
        Just("address"),
        Just("interfaces"),
        Just("routes"),
        Just("runtimeConfig"),
        Just("mac"),
        Just("cni.dev/valid-attachments"),
        Just("args"),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

proptest! {
    // CHECK and ADD stop at the namespace that does not exist, so nothing is touched.
    #[test]
    fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (code, text) = call(&env("ADD"), &bytes);
        prop_assert_eq!(code, 1);
        prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
    }

    #[test]
    fn any_configuration_gets_an_answer(
        json in json(),
        over in json(),
        field in prop_oneof![Just("ipam"), Just("runtimeConfig"), Just("prevResult"), Just("args"), Just("x")],
        command in prop_oneof![Just("ADD"), Just("CHECK")],
    ) {
        let mut whole: Value = serde_json::from_str(&config("1.1.0")).unwrap();
        whole[field] = over;
        for value in [json, whole] {
            let (code, text) = call(&env(command), value.to_string().as_bytes());
            prop_assert_eq!(code, 1);
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
        }
    }

    #[test]
    fn any_range_configuration_gets_an_answer(ranges in json()) {
        let mut whole: Value = serde_json::from_str(&config("1.1.0")).unwrap();
        whole["ipam"]["ranges"] = ranges;
        let (code, _) = call(&env("ADD"), whole.to_string().as_bytes());
        prop_assert_eq!(code, 1);
    }

    #[test]
    fn any_environment_gets_an_answer(
        container_id in ".{0,20}", ifname in ".{0,20}", args in ".{0,40}",
    ) {
        let env = Environment { container_id, ifname, args, ..env("ADD") };
        let (code, text) = call(&env, config("1.1.0").as_bytes());
        prop_assert_eq!(code, 1);
        prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
    }
}
