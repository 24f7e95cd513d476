//! What load balancers are told about this node: `healthCheckNodePort` and the ready endpoints here.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod objects;

use model::{NodeName, SnapshotWriter};
use service::{Config, HealthCheck, Planner};

const NODES: &str = "
kind: Node
metadata: {name: node-1}
---
kind: Node
metadata: {name: node-2}
";

fn service(name: &str, policy: &str, kind: &str) -> String {
    format!(
        "---\nkind: Service\nmetadata: {{namespace: default, name: {name}}}\nspec: {{type: {kind}, clusterIPs: \
         [10.96.0.10, 'fd00:10:96::a'], externalTrafficPolicy: {policy}, healthCheckNodePort: 30900, ports: \
         [{{name: a, port: 80}}, {{name: b, port: 81}}]}}\n"
    )
}

/// A slice of both ports; endpoints as (last part of the address, node, conditions).
fn slice(service: &str, kind: &str, endpoints: &[(&str, u8, &str)]) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|(address, node, conditions)| {
            format!(
                "{{addresses: ['{address}'], nodeName: node-{node}, conditions: {{{conditions}}}}}"
            )
        })
        .collect();
    format!(
        "---\nkind: EndpointSlice\nmetadata: {{namespace: default, name: {service}-{kind}, labels: \
         {{kubernetes.io/service-name: {service}}}}}\naddressType: {kind}\nports: [{{name: a, port: 8080}}, \
         {{name: b, port: 8081}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

#[test]
fn ready_endpoints_of_this_node_are_counted_once() {
    let mut writer = SnapshotWriter::default();
    let mut planner = Planner::new(NodeName::new("node-1"), Config::default());
    planner.full(writer.snapshot(), None);
    let mut told = |yaml: &str| -> Vec<(String, HealthCheck)> {
        assert_eq!(objects::apply(&mut writer, yaml), []);
        let change = writer.take_change();
        planner.update(writer.snapshot(), &change);
        planner.health_checks().map(|(key, check)| (key.to_string(), check)).collect()
    };
    let web = |local_endpoints| {
        vec![("default/web".to_owned(), HealthCheck { port: 30_900, local_endpoints })]
    };
    assert_eq!(told(&format!("{NODES}{}", service("web", "Local", "LoadBalancer"))), web(0));
    // Two ports and two families are one endpoint; terminating and remote ones do not count.
    let four = slice(
        "web",
        "IPv4",
        &[
            ("10.244.1.5", 1, ""),
            ("10.244.1.6", 1, "ready: false, serving: true, terminating: true"),
            ("10.244.2.5", 2, ""),
        ],
    );
    let six = slice("web", "IPv6", &[("fd00:10:244:1::5", 1, ""), ("fd00:10:244:1::7", 1, "")]);
    assert_eq!(told(four.trim_start_matches("---\n")), web(1));
    assert_eq!(told(six.trim_start_matches("---\n")), web(2));
    let emptied = slice("web", "IPv6", &[]);
    assert_eq!(told(emptied.trim_start_matches("---\n")), web(1));
    // Without the policy or the type there is nothing to check.
    for (policy, kind) in [("Cluster", "LoadBalancer"), ("Local", "NodePort")] {
        let service = service("web", policy, kind);
        assert_eq!(told(service.trim_start_matches("---\n")), [], "{policy} {kind}");
    }
}
