//! What an agent asks of the API is exactly what deploy/manifests lets it ask: no request is refused, no right is unused. The
//! server is a few lines that answer anything and write down what was asked.
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
/// A Service that cannot be read: an Event will say so.
const BAD: &str = r#"{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"default","name":"bad","resourceVersion":"3"},"spec":{"ports":"eighty"}}"#;
const OWN: &str = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"node-1","resourceVersion":"3","uid":"12345678-1234-1234-1234-123456789012"}}"#;

/// `group/resource verb`, in a namespace or not.
type Rights = BTreeSet<String>;
type Asked = Rc<std::cell::RefCell<Rights>>;

fn right(namespaced: bool, group: &str, resource: &str, verb: &str) -> String {
    let scope = if namespaced { "in kube-system" } else { "anywhere" };
    format!("{verb} {resource}.{group} {scope}")
}

/// What the manifests allow.
fn allowed() -> Rights {
    let objects: Vec<Value> = serde_saphyr::from_multiple(MANIFESTS).expect("YAML");
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
                BAD
            } else if target.contains("/nodes?") {
                OWN
            } else {
                ""
            };
            format!(
                r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"5"}},"items":[{items}]}}"#
            )
        }
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

async fn story(dir: &Path) {
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
    // The parts the manifests leave to others ask for pools (deploy/manifests/pools.yaml).
    let without = agent::Without { cni: true, fabric: true, policy: false };
    let agent = start(agent::AgentConfig { without, ..config(dir, &path) });
    let allowed = allowed();
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
    in_namespace("fwrights", story);
}
