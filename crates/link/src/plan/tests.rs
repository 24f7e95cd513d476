//! Laws of the route diff, against a table that does what the kernel does.

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::RouteKind;

/// A routing table with the kernel's replace and delete.
fn apply(table: &mut Vec<Route>, changes: &[Change<'_>]) {
    for change in changes {
        match change {
            Change::ReplaceRoute(route) => {
                match table.iter_mut().find(|have| have.key() == route.key()) {
                    Some(have) => *have = route.clone(),
                    None => table.push(route.clone()),
                }
            }
            Change::DeleteRoute(route) => {
                let at = table.iter().position(|have| have == route);
                table.remove(at.expect("the diff deletes only what is there"));
            }
            other => panic!("a route diff has no {other}"),
        }
    }
}

fn route() -> impl Strategy<Value = Route> {
    let destination = prop_oneof![
        (0u8..4, 24u8..=32).prop_map(|(n, len)| {
            IpNet::new(std::net::Ipv4Addr::new(10, 244, n, 1).into(), len).unwrap()
        }),
        (0u16..4, 64u8..=128).prop_map(|(n, len)| {
            IpNet::new(std::net::Ipv6Addr::new(0xfd00, 0, 0, n, 0, 0, 0, 1).into(), len).unwrap()
        }),
    ];
    let protocol = prop_oneof![4 => Just(250u8), 1 => Just(2u8)];
    (destination, 1u32..3, any::<bool>(), proptest::option::of(0u32..3), protocol).prop_map(
        |(destination, device, blackhole, metric, protocol)| {
            let mut route = Route::to(destination).on(device).protocol(protocol);
            if blackhole {
                route.kind = RouteKind::Blackhole;
                route.device = None;
            }
            route.metric = metric;
            route
        },
    )
}

proptest! {
    #[test]
    fn one_pass_reaches_the_plan_and_the_second_is_empty(
        desired in proptest::collection::vec(route(), 0..12),
        mut table in proptest::collection::vec(route(), 0..12),
    ) {
        let mut plan = RoutePlan::new(250);
        for route in desired {
            plan.insert(route);
        }
        // A key of ours held by somebody else is theirs to keep: not this law's subject.
        table.retain(|have| have.protocol == 250 || plan.get(&have.key()).is_none());
        let foreign: Vec<Route> = table.iter().filter(|r| r.protocol != 250).cloned().collect();
        let changes = diff_routes(&plan, &table);
        apply(&mut table, &changes);
        prop_assert_eq!(diff_routes(&plan, &table).len(), 0);
        for wanted in plan.routes() {
            prop_assert_eq!(table.iter().filter(|have| wanted.is_served_by(have)).count(), 1);
        }
        let ours = table.iter().filter(|have| have.protocol == 250).count();
        prop_assert_eq!(ours, plan.len());
        for route in &foreign {
            prop_assert!(table.contains(route));
        }
    }
}

#[test]
fn a_changed_gateway_is_replaced_in_place() {
    let to: IpNet = "10.244.2.0/24".parse().unwrap();
    let plan = RoutePlan::new(250).with(Route::to(to).via("172.30.1.3".parse().unwrap()));
    let listed = [Route::to(to).via("172.30.1.2".parse().unwrap()).on(2).protocol(250)];
    let text: Vec<String> =
        diff_routes(&plan, &listed).iter().map(std::string::ToString::to_string).collect();
    assert_eq!(text, ["ip route replace 10.244.2.0/24 via 172.30.1.3 proto 250"]);
}

#[test]
fn the_first_route_of_a_key_stays() {
    let to: IpNet = "10.244.2.0/24".parse().unwrap();
    let mut plan = RoutePlan::new(250);
    assert!(plan.insert(Route::to(to).on(1)));
    assert!(!plan.insert(Route::to(to).on(2)));
    assert_eq!(plan.routes().next().unwrap().device, Some(1));
}
