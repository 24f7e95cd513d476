//! What an agent asks of the API is exactly what deploy/manifests lets it ask: no request is refused, no right is unused; with pools
//! and without. The server is a few lines that answer anything and write down what was asked. The chart's objects are the
//! manifests'.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod world;

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use world::{NODE, config, in_namespace, start};

const MANIFESTS: &str = include_str!("../../../deploy/manifests/fairway.yaml");
const POOLS: &str = include_str!("../../../deploy/manifests/pools.yaml");
/// The chart's.
const CHART: [&str; 2] = [
    include_str!("../../../deploy/helm/fairway/templates/rbac.yaml"),
    include_str!("../../../deploy/helm/fairway/templates/pools.yaml"),
];
const CHART_KINDS: &str = include_str!("../../../deploy/helm/fairway/crds/pools.yaml");
/// A Service that cannot be read: an Event will say so.
const BAD: &str = r#"{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"default","name":"bad","resourceVersion":"3"},"spec":{"ports":"eighty"}}"#;
const OWN: &str = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"node-1","resourceVersion":"3","uid":"12345678-1234-1234-1234-123456789012"}}"#;

/// A pool nobody has a block of, so that one is taken, …
const EMPTY: &str = r#"{"apiVersion":"crd.projectcalico.org/v1","kind":"IPPool","metadata":{"name":"six","resourceVersion":"3"},"spec":{"cidr":"fd00:10:50::/64"}}"#;
/// … and another, …
const HELD: &str = r#"{"apiVersion":"crd.projectcalico.org/v1","kind":"IPPool","metadata":{"name":"four","resourceVersion":"3"},"spec":{"cidr":"10.50.0.0/16"}}"#;

/// … whose blocks this node has more of than it needs; somebody asks for a part of one.
fn block(range: &str, asking: &str) -> String {
    let name = range.replace(['.', '/'], "-");
    format!(
        r#"{{"apiVersion":"fairway.dev/v1","kind":"AddressBlock","metadata":{{"name":"{name}","resourceVersion":"3"}},"spec":{{"cidr":"{range}","node":"node-1","asking":[{asking}]}}}}"#
    )
}

/// `group/resource verb`, in a namespace or not.
type Rights = BTreeSet<String>;
type Asked = Rc<std::cell::RefCell<Rights>>;

fn right(namespaced: bool, group: &str, resource: &str, verb: &str) -> String {
    let scope = if namespaced { "in kube-system" } else { "anywhere" };
    format!("{verb} {resource}.{group} {scope}")
}

/// What manifests allow.
fn allowed(manifests: &str) -> Rights {
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifests).expect("YAML");
    let mut allowed = Rights::new();
    for object in &objects {
        let namespaced = object["kind"] == "Role";
        if !namespaced && object["kind"] != "ClusterRole" {
            continue;
        }
        for rule in object["rules"].as_array().expect("rules") {
            let list = |field: &str| {
                let values = rule[field].as_array().expect("a list").iter();
                values.map(|value| value.as_str().expect("a string").to_owned())
            };
            for group in list("apiGroups") {
                for resource in list("resources") {
                    allowed.extend(
                        list("verbs").map(|verb| right(namespaced, &group, &resource, &verb)),
                    );
                }
            }
        }
    }
    allowed
}

/// What a request needs.
fn needed(method: &str, target: &str, head: &str) -> Vec<String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", "v1", rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        other => panic!("asked for {other:?}"),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let verbs: &[&str] = match (method, rest.len()) {
        ("GET", 1) if query.contains("watch=true") => &["watch"],
        ("GET", 1) => &["list"],
        ("GET", _) => &["get"],
        ("POST", _) => &["create"],
        // Applying needs the right to create, too.
        ("PATCH", _) if head.contains("apply-patch") => &["patch", "create"],
        ("PATCH", _) => &["patch"],
        ("PUT", _) => &["update"],
        ("DELETE", _) => &["delete"],
        other => panic!("asked with {other:?}"),
    };
    // Events are written beside the object, wherever that is.
    let in_system = namespace == Some("kube-system");
    verbs.iter().map(|verb| right(in_system, group, rest[0], verb)).collect()
}

async fn one(mut stream: TcpStream, asked: Asked) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    asked.borrow_mut().extend(needed(method, target, &head));
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |text| text.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    let answer = match method {
        "GET" if target.contains("sendInitialEvents") => {
            // Streamed lists are refused, so that both ways of listing are asked for.
            let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"Invalid","code":422}"#;
            return reply(&mut stream, "422 x", status).await;
        }
        "GET" if target.contains("watch=true") => {
            stream
                .write_all(b"HTTP/1.1 200 x\r\ncontent-type: application/json\r\n\r\n")
                .await
                .ok()?;
            return std::future::pending().await;
        }
        "GET" => {
            let items = if target.contains("/services?") {
                BAD.to_owned()
            } else if target.contains("/nodes?") {
                OWN.to_owned()
            } else if target.contains("/ippools?") {
                format!("{EMPTY},{HELD}")
            } else if target.contains("/addressblocks?") {
                let blocks = [block("10.50.0.0/26", ""), block("10.50.0.64/26", r#""node-2""#)];
                blocks.join(",")
            } else {
                String::new()
            };
            format!(
                r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"5"}},"items":[{items}]}}"#
            )
        }
        "DELETE" => r#"{"kind":"Status","apiVersion":"v1","status":"Success"}"#.to_owned(),
        _ => String::from_utf8(body).unwrap(),
    };
    reply(&mut stream, "200 x", &answer).await
}

async fn reply(stream: &mut TcpStream, status: &str, body: &str) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body.as_bytes()).await.ok()
}

async fn story(dir: &Path, change: impl FnOnce(&mut agent::AgentConfig), allowed: Rights) {
    let listener = TcpListener::bind((NODE, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Asked::default();
    let record = asked.clone();
    let _server = tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(tokio::task::spawn_local(one(stream, record.clone())));
        }
    });
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "t",
        "clusters": [{"name": "t", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "t", "user": {}}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
    });
    let path = dir.join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    let mut config = config(dir, &path);
    change(&mut config);
    let agent = start(config);
    assert!(!allowed.is_empty());
    let all_used = async {
        while !asked.borrow().is_superset(&allowed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Running out of time is told by the comparison.
    let _in_time = tokio::time::timeout(Duration::from_secs(20), all_used).await;
    let unused: Vec<_> = allowed.difference(&asked.borrow()).cloned().collect();
    assert_eq!(unused, Vec::<String>::new(), "rights nobody needs; asked was {:?}", asked.borrow());
    let refused: Vec<_> = asked.borrow().difference(&allowed).cloned().collect();
    assert_eq!(refused, Vec::<String>::new(), "asked for without the right");
    agent.abort();
}

#[test]
fn the_rights_are_exactly_those_used() {
    // As the manifest starts it: the parts it leaves to others ask for pools.
    let as_deployed = |config: &mut agent::AgentConfig| {
        config.without = agent::Without { cni: true, fabric: true, policy: false };
    };
    in_namespace("fwrights", async |dir| story(dir, as_deployed, allowed(MANIFESTS)).await);
}

#[test]
fn the_rights_with_pools_are_exactly_those_used() {
    let with_pools = |config: &mut agent::AgentConfig| config.ipam = agent::Ipam::Pools;
    let rights = allowed(MANIFESTS).into_iter().chain(allowed(POOLS)).collect();
    in_namespace("fwrightsp", async |dir| story(dir, with_pools, rights).await);
}

/// What of an object matters here, of those that are no kinds.
fn essence(yaml: &str) -> BTreeSet<String> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("YAML");
    let of_rights = objects.iter().filter(|object| {
        object["apiVersion"] == "rbac.authorization.k8s.io/v1" || object["kind"] == "ServiceAccount"
    });
    let text = |object: &Value| {
        let meta = &object["metadata"];
        let parts = ["kind", "rules", "roleRef", "subjects"].map(|part| object[part].clone());
        json!([meta["name"], meta["namespace"], parts]).to_string()
    };
    of_rights.map(text).collect()
}

#[test]
fn the_chart_says_what_the_manifests_say() {
    // These templates have values, and whole lines of the template language; no loops, no conditions within.
    let rendered = CHART.map(|template| {
        let lines = template.lines().filter(|line| !line.trim_start().starts_with("{{-"));
        let text: Vec<&str> = lines.collect();
        let text = text.join("\n").replace("{{ .Release.Name }}", "fairway");
        text.replace("{{ .Release.Namespace }}", "kube-system")
    });
    assert!(rendered.iter().all(|text| !text.contains("{{")), "{rendered:?}");
    assert_eq!(essence(&rendered[0]), essence(MANIFESTS));
    assert_eq!(essence(&rendered[1]), essence(POOLS));
    assert!(!essence(POOLS).is_empty());
    let kinds = |yaml: &str| -> Vec<Value> {
        let all: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("YAML");
        all.into_iter().filter(|it| it["kind"] == "CustomResourceDefinition").collect()
    };
    assert_eq!(kinds(CHART_KINDS), kinds(POOLS));
}
