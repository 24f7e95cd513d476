//! Policies that are large, wrong in parts, at odds with each other or about nobody, over real packets: what is wrong allows
//! nothing and is said, and everything else is unharmed.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod scene;
mod world;

use std::time::Instant;

use scene::Scene;
use serde_json::{Value, json};
use world::{World, address};

/// Pods xa, ya, za and zb by number.
const PARTIES: [usize; 4] = [0, 3, 6, 7];
/// Everybody reaches everybody but xa.
const OTHERS: &str = "xa>ya xa>za xa>zb ya>za ya>zb za>ya za>zb zb>ya zb>za";

/// Of the others, these and nobody else reach xa; everything else is as if there were no policy.
fn only_into_xa(scene: &Scene<'_>, expected: &str) {
    let expected = format!("{OTHERS} {expected}");
    let mut expected: Vec<&str> = expected.split_whitespace().collect();
    expected.sort_unstable();
    let expected = expected.join(" ");
    assert_eq!(scene.reach_expecting(&PARTIES, &expected), expected);
}

fn spec(rules: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "xa"}}, "ingress": rules})
}

#[test]
fn ten_thousand_peers_are_enforced_and_nobody_else_notices() {
    let Some(world) = World::or_skip() else { return };
    let mut scene = Scene::new(&world);
    let single = |at: usize, v6: bool| {
        let length = if v6 { 128 } else { 32 };
        json!({"ipBlock": {"cidr": format!("{}/{length}", address(at, v6))}})
    };
    // Every other address, so that no two are one range; some are ranges with holes.
    let mut peers: Vec<Value> = (0..9_994_u32)
        .map(|n| match n % 10 {
            0 => json!({"ipBlock": {"cidr": format!("11.{}.{}.0/28", n / 250, n % 250),
                "except": [format!("11.{}.{}.4/30", n / 250, n % 250)]}}),
            1 => json!({"ipBlock": {"cidr": format!("2001:db8:{n:x}::/64")}}),
            _ => json!({"ipBlock": {"cidr": format!("12.{}.{}.7/32", n / 250, n % 250)}}),
        })
        .collect();
    peers.extend([single(3, false), single(3, true), single(6, false), single(6, true)]);
    peers.extend([
        json!({"podSelector": {"matchLabels": {"app": "none"}}}),
        json!({"podSelector": {"matchLabels": {"app": "nor"}}}),
    ]);
    assert_eq!(peers.len(), 10_000);
    let began = Instant::now();
    assert_eq!(scene.policy("large", "x", spec(json!([{"from": peers}]))), [""; 0]);
    println!("10,000 peers: planned, committed, listed and compared in {:?}", began.elapsed());
    only_into_xa(&scene, "ya>xa za>xa");
    // One peer less.
    peers.retain(|peer| *peer != single(6, false) && *peer != single(6, true));
    scene.policy("large", "x", spec(json!([{"from": peers}])));
    only_into_xa(&scene, "ya>xa");
    // And one that has nothing to do with it.
    let other = json!({"podSelector": {"matchLabels": {"app": "xa"}}, "ingress":
        [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "zb"}}}]}]});
    scene.policy("other", "x", other);
    only_into_xa(&scene, "ya>xa zb>xa");
}

#[test]
fn what_is_wrong_is_said_and_allows_nothing_while_the_rest_of_the_policy_holds() {
    let Some(world) = World::or_skip() else { return };
    let mut scene = Scene::new(&world);
    let from =
        |app: &str| json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}});
    let block = |cidr: &str| json!({"ipBlock": {"cidr": cidr}});
    let good =
        json!({"from": [from("zb")], "ports": [{"port": 80}, {"port": 80, "protocol": "UDP"}]});
    for (reason, bad) in [
        ("BadCIDR", json!({"from": [block("10.244.1.0/99")]})),
        ("BadCIDR", json!({"from": [block("everybody")]})),
        (
            "BadCIDR",
            json!({"from": [{"ipBlock": {"cidr": "10.244.0.0/16", "except": ["fd00::/8"]}}]}),
        ),
        ("BadPeer", json!({"from": [{}]})),
        ("BadPeer", json!({"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]})),
        (
            "BadSelector",
            json!({"from": [{"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}]}),
        ),
        ("UnknownPortName", json!({"from": [from("ya")], "ports": [{"port": "nothing"}]})),
        ("BadEndPort", json!({"from": [from("ya")], "ports": [{"port": 80, "endPort": 79}]})),
        (
            "UnknownProtocol",
            json!({"from": [from("ya")], "ports": [{"port": 80, "protocol": "QUIC"}]}),
        ),
        ("PortOutOfRange", json!({"ports": [{"port": 70_000}]})),
    ] {
        let said = scene.policy("odd", "x", spec(json!([bad, good])));
        assert_eq!(said, [reason], "{bad}");
        only_into_xa(&scene, "zb>xa");
    }
}

#[test]
fn policies_at_odds_add_up_and_those_about_nobody_change_nothing() {
    let Some(world) = World::or_skip() else { return };
    let mut scene = Scene::new(&world);
    let nobody = json!({"podSelector": {"matchLabels": {"app": "nobody"}}, "policyTypes": ["Ingress", "Egress"]});
    assert_eq!(scene.policy("nobody", "x", nobody), [""; 0]);
    only_into_xa(&scene, "ya>xa za>xa zb>xa");
    // One denies everything, another allows everybody, a third one pod of nobody: what any allows passes.
    assert_eq!(scene.policy("deny", "x", spec(json!([]))), [""; 0]);
    only_into_xa(&scene, "");
    scene.policy("allow", "x", spec(json!([{}])));
    only_into_xa(&scene, "ya>xa za>xa zb>xa");
    let none = json!([{"from": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]}]);
    scene.policy("allow", "x", spec(none));
    only_into_xa(&scene, "");
    // The administrator's two, at odds: the lower number goes first, of one number the name.
    let subject =
        json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "xa"}}}});
    let rule = |action: &str| json!([{"action": action, "from": [{"namespaces": {"matchLabels": {"name": "z"}}}]}]);
    let admin = |priority: u32, action: &str| json!({"tier": "Admin", "priority": priority, "subject": subject, "ingress": rule(action)});
    scene.cluster("b", admin(7, "Deny"));
    scene.cluster("c", admin(8, "Accept"));
    only_into_xa(&scene, "");
    scene.cluster("a", admin(7, "Accept"));
    only_into_xa(&scene, "za>xa zb>xa");
}
