//! Changes of labels and policies to draw, none of which may change what becomes of the probed packets. Pure.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::objects::{APPS, OWN, name_of, namespace_of, one_policy, policy, policy_name};
use crate::churn::Dice;

/// Policies that come and go beside the ones that decide.
const EXTRAS: u32 = 8;

/// One change, as a request to the API.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// A pod's labels, by namespace and name.
    Labels(String, String, Value),
    /// A policy is made, or made another.
    Put(Box<NetworkPolicy>),
    /// A policy goes, by namespace and name.
    Remove(String, String),
}

/// The policy that lets `steady` reach `kept`, and nobody else; said in as many ways as there are numbers.
pub(super) fn keep(way: u32) -> anyhow::Result<NetworkPolicy> {
    let pods = match way % 3 {
        0 => json!({"matchLabels": {"app": "steady"}}),
        1 => {
            let values = ["steady".to_owned(), format!("nobody-{way}")];
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": values}]})
        }
        _ => {
            let label = format!("nobody-{way}");
            json!({"matchLabels": {"app": "steady"}, "matchExpressions":
                [{"key": label, "operator": "DoesNotExist"}]})
        }
    };
    let selector = json!({"matchLabels": {"app": "kept"}});
    policy(
        OWN,
        "keep",
        &json!({"podSelector": selector, "ingress": [{"from": [{"podSelector": pods}]}]}),
    )
}

/// Draws a change of a cluster with so many of the many pods and policies.
pub(super) fn draw(dice: &mut Dice, pods: u32, policies: u32) -> anyhow::Result<Change> {
    let many =
        |number: u32, labels: Value| Change::Labels(namespace_of(number), name_of(number), labels);
    Ok(match dice.below(10) {
        // Pods everywhere, and those of the node, which change their rules with their labels.
        0..=2 => many(dice.below(pods), json!({"app": format!("app-{}", dice.below(APPS))})),
        3 | 4 => {
            let here = dice.below(super::objects::PER_NODE.min(pods));
            many(here, json!({"app": format!("app-{}", dice.below(APPS))}))
        }
        5 if policies > 0 => {
            let port = 80 + dice.below(4) as u16;
            Change::Put(one_policy(dice.below(policies), port)?.into())
        }
        6 if policies > 0 => {
            let number = dice.below(policies);
            Change::Remove(namespace_of(number), policy_name(number))
        }
        // The ends of what is probed change labels nobody asks for, and so their rules are looked at again.
        7 => {
            let name = ["steady", "other", "kept", "sealed", "free"][dice.below(5) as usize];
            let round = dice.below(1000).to_string();
            Change::Labels(OWN.into(), name.into(), json!({"round": round}))
        }
        8 => Change::Put(keep(dice.below(30))?.into()),
        _ => {
            // Policies that isolate the same pods and let others in: the rules of `kept` and `sealed` are replaced whole.
            let name = format!("extra-{}", dice.below(EXTRAS));
            if dice.below(3) == 0 {
                return Ok(Change::Remove(OWN.into(), name));
            }
            let values = json!({"key": "app", "operator": "In", "values": ["kept", "sealed"]});
            let from =
                json!({"namespaceSelector": {"matchLabels": {"team": dice.below(10).to_string()}}});
            let ports = json!([{"port": 1 + dice.below(60_000), "protocol": "TCP"}]);
            let spec = json!({"podSelector": {"matchExpressions": [values]},
                "ingress": [{"from": [from], "ports": ports}]});
            Change::Put(policy(OWN, &name, &spec)?.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_comes_and_the_same_seed_draws_the_same() {
        let story = |seed| {
            let mut dice = Dice::new(seed);
            (0..400).map(|_| draw(&mut dice, 500, 50).unwrap()).collect::<Vec<_>>()
        };
        let drawn = story(1);
        assert_eq!(drawn, story(1));
        assert_ne!(drawn, story(2));
        let of = |what: fn(&Change) -> bool| drawn.iter().filter(|it| what(it)).count();
        assert!(of(|it| matches!(it, Change::Labels(..))) > 100);
        assert!(of(|it| matches!(it, Change::Put(_))) > 50);
        assert!(of(|it| matches!(it, Change::Remove(..))) > 10);
    }
}
