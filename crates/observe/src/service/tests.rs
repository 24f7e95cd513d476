use nft::conntrack::Tuple;

use super::*;
use crate::facts::Facts;

fn facts(endpoints: &[&str]) -> Facts {
    let object = |value| serde_json::from_value(value).unwrap();
    let mut facts = Facts::default();
    facts.service(&object(serde_json::json!({
        "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "12"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                 "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
    })));
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|address| {
            serde_json::json!({"addresses": [address], "nodeName": "node-2",
            "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("pod-{address}")}})
        })
        .collect();
    let slice = serde_json::json!({
        "metadata": {"name": "web-1", "namespace": "shop", "resourceVersion": "15",
                     "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    });
    facts.slice(&serde_json::from_value(slice).unwrap());
    facts
}

fn table(facts: &Facts) -> nft::Table {
    let node = model::NodeName::new("node-1");
    service::Planner::new(node, service::Config::default()).full(facts.snapshot(), None).table
}

fn flow(dialled: &str, endpoint: &str, is_closed: bool) -> Flow {
    let (dialled, endpoint): (SocketAddr, SocketAddr) =
        (dialled.parse().unwrap(), endpoint.parse().unwrap());
    let client: SocketAddr = "10.244.0.9:40000".parse().unwrap();
    let tuple = |from: SocketAddr, to: SocketAddr| Tuple {
        source: from.ip(),
        destination: to.ip(),
        protocol: 6,
        source_port: from.port(),
        destination_port: to.port(),
        icmp: None,
    };
    Flow {
        original: tuple(client, dialled),
        reply: tuple(endpoint, client),
        status: 32,
        mark: 0,
        zone: 0,
        is_closed,
        timeout: 10,
    }
}

#[test]
fn a_service_with_names_and_connections() {
    let facts = facts(&["10.244.0.2", "10.244.1.2"]);
    let desired = table(&facts);
    let flows = vec![
        flow("10.96.0.7:80", "10.244.1.2:8080", false),
        flow("10.96.0.7:80", "10.244.1.2:8080", true),
        flow("172.30.1.1:30080", "10.244.0.2:8080", false),
    ];
    let actual = Actual { table: Some(desired.clone()), flows, ..Actual::default() };
    let services = views(&actual, Some(&facts), Some(&desired));
    let text = list(&services, print::Format::Table, true).unwrap();
    let lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[1],
        ["shop", "web", "NodePort", "10.96.0.7:80/TCP,:30080/TCP", "random", "2", "2", "Serving"]
    );
    assert_eq!(lines.len(), 2, "{text}");
    let text =
        show(&services[0], Some("programmed on 3 of 3 nodes, revision 15"), print::Format::Table);
    let text = text.unwrap();
    assert!(text.contains("Programmed:    on 3 of 3 nodes, revision 15\n"), "{text}");
    assert!(text.contains("ClusterIP 10.96.0.7:80/TCP http\n  for everyone: random, 2 slots; masquerade from outside the cluster; chain "), "{text}");
    assert!(
        text.contains("10.244.1.2:8080   shop/pod-10.244.1.2   node-2   1       50.0%   1\n"),
        "{text}"
    );
    assert!(text.contains("NodePort IPv4 :30080/TCP http\n"), "{text}");
}

#[test]
fn without_the_api_frontends_stand_for_themselves() {
    let facts = facts(&["10.244.0.2"]);
    let actual = Actual { table: Some(table(&facts)), ..Actual::default() };
    let services = views(&actual, None, None);
    assert_eq!(services.len(), 2);
    assert_eq!((&services[0].name, services[0].state), (&None, State::Serving));
    assert_eq!(services[0].frontends[0].kind, "Address");
}

#[test]
fn kernel_and_api_that_differ_are_told_apart() {
    let before = facts(&["10.244.0.2", "10.244.1.2"]);
    let after = facts(&["10.244.0.3", "10.244.1.2"]);
    let actual = Actual { table: Some(table(&before)), ..Actual::default() };
    let services = views(&actual, Some(&after), Some(&table(&after)));
    assert_eq!(services[0].state, State::Differs);
    let said = services[0].frontends[0].differs.as_deref();
    assert_eq!(
        said,
        Some("the kernel lacks 10.244.0.3:8080; the kernel still has 10.244.0.2:8080")
    );

    let services = views(&Actual::default(), Some(&after), Some(&table(&after)));
    let said = services[0].frontends[0].differs.as_deref();
    assert_eq!(said, Some("the kernel lacks this frontend"));

    let gone = Facts::default();
    let services = views(&actual, Some(&gone), Some(&table(&gone)));
    let said = services[0].frontends[0].differs.as_deref();
    assert_eq!((services[0].state, said), (State::Differs, Some("the API wants no such frontend")));
}

#[test]
fn clients_with_affinity_are_listed_with_what_is_left() {
    let mut facts = facts(&["10.244.0.2", "10.244.1.2"]);
    let service = serde_json::json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "sessionAffinity": "ClientIP",
                 "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
                 "ports": [{"name": "http", "port": 80}]},
    });
    facts.service(&serde_json::from_value(service).unwrap());
    let table = table(&facts);
    let set = table
        .sets
        .values()
        .find(|set| set.spec.flags.dynamic && set.spec.key.len() == 4 && set.spec.key_len() == 16)
        .unwrap();
    let element = |dialled: [u8; 4]| nft::kernel::LiveElement {
        key: nft::Packed::new().ipv4([10, 244, 0, 9].into()).ipv4(dialled.into()).proto(6).port(80),
        expires_ms: Some(599_300),
        counter: None,
    };
    let live = vec![element([10, 96, 0, 7]), element([10, 96, 0, 8])];
    let live = HashMap::from([(set.spec.name.clone(), live)]);
    let actual = Actual { table: Some(table.clone()), live, ..Actual::default() };
    let services = views(&actual, Some(&facts), None);
    let text = show(&services[0], None, print::Format::Table).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(" stays with ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(
        lines[0].contains("client 10.244.0.9 stays with 10.244.")
            && lines[0].ends_with("for 599s more")
    );
}

#[test]
fn no_endpoints_is_said() {
    let facts = facts(&[]);
    let actual = Actual { table: Some(table(&facts)), ..Actual::default() };
    let services = views(&actual, Some(&facts), None);
    assert_eq!(services[0].state, State::NoEndpoints);
    let text = show(&services[0], None, print::Format::Table).unwrap();
    assert!(text.contains("no endpoints: clients are refused"), "{text}");
    assert!(
        list(&services, print::Format::Json, false).unwrap().contains("\"unserved\": \"Refused\"")
    );
}
