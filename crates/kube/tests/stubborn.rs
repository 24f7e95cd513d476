//! Watches against API servers that hang, forget, refuse, move and ask for new tokens: a server of a few lines that does what
//! the test says, and records what it was asked.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::{Access, Client, Message, connect_to, watch};
use model::{Event, ObjectKey, SnapshotWriter, Update};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// What was asked.
#[derive(Clone, Debug)]
struct Asked {
    target: String,
    authorization: String,
}

impl Asked {
    fn has(&self, text: &str) -> bool {
        self.target.contains(text)
    }
}

/// What is answered; a held answer never ends.
struct Answer {
    status: u16,
    body: String,
    held: bool,
}

fn ok(body: impl Into<String>) -> Answer {
    Answer { status: 200, body: body.into(), held: false }
}

fn held(body: impl Into<String>) -> Answer {
    Answer { held: true, ..ok(body) }
}

fn refusal(status: u16) -> Answer {
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"No","code":{status}}}"#
    );
    Answer { status, body, held: false }
}

type Asks = Arc<Mutex<Vec<Asked>>>;

/// Answers Services with `script` (called with the request and how many Service requests came before); other kinds are empty.
async fn serve(
    script: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static,
) -> (SocketAddr, Asks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (script, asks) = (Arc::new(script), Asks::default());
    let record = asks.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(one(stream, script.clone(), record.clone()));
        }
    });
    (address, asks)
}

async fn one(
    mut stream: TcpStream,
    script: Arc<impl Fn(&Asked, usize) -> Answer>,
    record: Asks,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let authorization = head.lines().find_map(|line| line.strip_prefix("authorization: "));
    let asked = Asked { target, authorization: authorization.unwrap_or_default().to_owned() };
    let answer = if asked.has("/services?") {
        let mut asks = record.lock().unwrap();
        asks.push(asked.clone());
        script(&asked, asks.len() - 1)
    } else {
        held(listed("5"))
    };
    let head = format!(
        "HTTP/1.1 {} x\r\ncontent-type: application/json\r\nconnection: close\r\n",
        answer.status
    );
    let length = if answer.held {
        String::new()
    } else {
        format!("content-length: {}\r\n", answer.body.len())
    };
    stream.write_all(format!("{head}{length}\r\n{}", answer.body).as_bytes()).await.ok()?;
    if answer.held {
        std::future::pending::<()>().await;
    }
    Some(())
}

/// The end of a streamed list.
fn listed(version: &str) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"kind":"Service","apiVersion":"v1","metadata":{{"resourceVersion":"{version}","annotations":{{"k8s.io/initial-events-end":"true"}}}}}}}}"#
    ) + "\n"
}

fn object(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"namespace":"d","name":"{name}","resourceVersion":"7"}},"spec":{{"clusterIP":"10.96.0.9","ports":[{{"port":80}}]}}}}"#
    )
}

fn added(name: &str) -> String {
    format!(r#"{{"type":"ADDED","object":{}}}"#, object(name)) + "\n"
}

fn forgotten() -> String {
    r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}}"#
        .to_owned() + "\n"
}

fn kubeconfig(name: &str, address: SocketAddr, user: &str) -> std::path::PathBuf {
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"Config","current-context":"t","clusters":[{{"name":"t","cluster":{{"server":"http://{address}"}}}}],
        "users":[{{"name":"t","user":{user}}}],"contexts":[{{"name":"t","context":{{"cluster":"t","user":"t"}}}}]}}"#
    );
    let path = std::env::temp_dir().join(format!("fairway-kube-{name}-{}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

async fn client(name: &str, address: SocketAddr, change: impl FnOnce(&mut Access)) -> Client {
    let path = kubeconfig(name, address, "{}");
    let mut access = Access { kubeconfig: Some(path.clone()), ..Access::default() };
    change(&mut access);
    let (client, _) = connect_to(&access).await.unwrap();
    std::fs::remove_file(path).unwrap();
    client
}

/// The next thing said about Services, failures left out.
async fn next(inbox: &mut mpsc::Receiver<Message>) -> Update<model::Service> {
    let next = async {
        loop {
            match inbox.recv().await.unwrap() {
                Message::Event { event: Event::Service(update), .. } => return update,
                Message::Failed { kind, error } => println!("{kind:?}: {error}"),
                Message::Event { .. } => {}
            }
        }
    };
    timeout(PATIENCE, next).await.expect("a message in time")
}

fn name(update: &Update<model::Service>) -> String {
    match update {
        Update::Begin => "begin".into(),
        Update::End => "end".into(),
        Update::Listed(service) => format!("listed {}", service.key),
        Update::Applied(service) => format!("applied {}", service.key),
        Update::Deleted(key) => format!("deleted {key}"),
        Update::Unreadable(key) => format!("unreadable {key}"),
    }
}

async fn names(inbox: &mut mpsc::Receiver<Message>, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(name(&next(inbox).await));
    }
    names
}

#[tokio::test]
async fn a_server_that_hangs_is_left_and_nothing_is_listed_again() {
    let (address, asks) = serve(|asked, _| match asked.has("resourceVersion=5") {
        false => held(added("a") + &listed("5")),
        true => held(added("b")),
    })
    .await;
    let client =
        client("hang", address, |access| access.silence = Duration::from_millis(300)).await;
    let (sink, mut inbox) = mpsc::channel(64);
    let _watches = watch(&client, &sink);
    assert_eq!(names(&mut inbox, 4).await, ["begin", "listed d/a", "end", "applied d/b"]);
    let asks = asks.lock().unwrap().clone();
    assert!(asks[0].has("sendInitialEvents=true") && !asks[1].has("sendInitialEvents"), "{asks:?}");
}

#[tokio::test]
async fn a_server_that_forgot_is_listed_again_and_what_went_meanwhile_is_dropped() {
    let (address, _) = serve(|_, count| match count {
        0 => held(added("a") + &listed("5") + &forgotten()),
        _ => held(added("b") + &listed("9")),
    })
    .await;
    let client = client("forgot", address, |_| {}).await;
    let (sink, mut inbox) = mpsc::channel(64);
    let _watches = watch(&client, &sink);
    let mut facts = SnapshotWriter::default();
    let mut told = Vec::new();
    for _ in 0..6 {
        let update = next(&mut inbox).await;
        told.push(name(&update));
        facts.apply(Event::Service(update));
    }
    assert_eq!(told, ["begin", "listed d/a", "end", "begin", "listed d/b", "end"]);
    let known: Vec<_> = facts.snapshot().services().map(|service| service.key.name()).collect();
    assert_eq!(known, ["b"]);
}

#[tokio::test]
async fn a_server_that_cannot_stream_lists_is_paged() {
    let page = |name: &str, next: &str| {
        ok(format!(
            r#"{{"kind":"ServiceList","apiVersion":"v1","metadata":{{"resourceVersion":"6","continue":"{next}"}},"items":[{}]}}"#,
            object(name)
        ))
    };
    let (address, asks) = serve(move |asked, _| {
        if asked.has("sendInitialEvents=true") {
            refusal(422)
        } else if asked.has("watch=true") {
            held(added("c"))
        } else if asked.has("continue=more") {
            page("b", "")
        } else {
            page("a", "more")
        }
    })
    .await;
    let client = client("pages", address, |_| {}).await;
    let (sink, mut inbox) = mpsc::channel(64);
    let _watches = watch(&client, &sink);
    let told = names(&mut inbox, 5).await;
    assert_eq!(told, ["begin", "listed d/a", "listed d/b", "end", "applied d/c"]);
    assert!(asks.lock().unwrap().iter().any(|asked| asked.has("limit=200")));
}

#[tokio::test]
async fn the_next_server_is_asked_when_the_first_is_gone() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (address, _) = serve(|_, _| held(added("a") + &listed("5"))).await;
    // Given by hand …
    let by_hand = client("hand", gone, |access| {
        access.servers = vec![format!("http://{gone}"), format!("http://{address}")];
    })
    .await;
    let (sink, mut inbox) = mpsc::channel(64);
    let watches = watch(&by_hand, &sink);
    assert_eq!(names(&mut inbox, 3).await, ["begin", "listed d/a", "end"]);
    drop(watches);
    // … or remembered from an earlier life.
    let remembered = client("remembered", gone, |access| access.remembered = vec![address]).await;
    let (sink, mut inbox) = mpsc::channel(64);
    let _watches = watch(&remembered, &sink);
    assert_eq!(names(&mut inbox, 3).await, ["begin", "listed d/a", "end"]);
}

#[tokio::test]
async fn a_failing_server_is_asked_again_and_named() {
    let (address, _) = serve(|_, count| match count {
        0 | 1 => refusal(503),
        _ => held(added("a") + &listed("5")),
    })
    .await;
    let client = client("failing", address, |_| {}).await;
    let (sink, mut inbox) = mpsc::channel(64);
    let _watches = watch(&client, &sink);
    let mut failures = 0;
    loop {
        match timeout(PATIENCE, inbox.recv()).await.unwrap().unwrap() {
            Message::Failed { kind: model::Kind::Service, .. } => failures += 1,
            Message::Event { event: Event::Service(Update::Listed(service)), .. } => {
                assert_eq!(service.key, ObjectKey::new("d", "a"));
                break;
            }
            _ => {}
        }
    }
    assert_eq!(failures, 2);
}

#[tokio::test]
async fn a_new_token_is_used_at_once() {
    let (address, asks) = serve(|_, count| match count {
        0 => held(added("a") + &listed("5")),
        _ => held(added("b")),
    })
    .await;
    let token = std::env::temp_dir().join(format!("fairway-kube-secret-{}", std::process::id()));
    std::fs::write(&token, "first\n").unwrap();
    let user = format!(r#"{{"tokenFile":"{}"}}"#, token.display());
    let path = kubeconfig("token", address, &user);
    let silence = Duration::from_secs(1);
    let access = Access { kubeconfig: Some(path.clone()), silence, ..Access::default() };
    let (client, _) = connect_to(&access).await.unwrap();
    std::fs::remove_file(path).unwrap();
    let (sink, mut inbox) = mpsc::channel(64);
    let _watches = watch(&client, &sink);
    assert_eq!(names(&mut inbox, 2).await, ["begin", "listed d/a"]);
    std::fs::write(&token, "second\n").unwrap();
    assert_eq!(names(&mut inbox, 2).await, ["end", "applied d/b"]);
    std::fs::remove_file(token).unwrap();
    let asks = asks.lock().unwrap();
    let last = &asks[asks.len() - 1].authorization;
    assert_eq!((asks[0].authorization.as_str(), last.as_str()), ("Bearer first", "Bearer second"));
}
