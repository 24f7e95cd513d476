//! What is written is read; what is damaged is named; writing costs what changed.

use std::time::Duration;

use model::{Change, ObjectKey, SnapshotWriter};
use serde_json::json;

use super::*;

fn service(name: &str) -> Event {
    let object = serde_json::from_value(json!({
        "metadata": {"namespace": "d", "name": name},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}
    }));
    let object: k8s_openapi::api::core::v1::Service = object.expect("a Service");
    let parsed = model::Parsed::<Service>::try_from(&object).expect("facts");
    Event::Service(Update::Applied(parsed.value))
}

fn slice(service: &str, address: &str) -> Event {
    let object = serde_json::from_value(json!({
        "metadata": {"namespace": "d", "name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}],
        "endpoints": [{"addresses": [address], "nodeName": "node-1"}]
    }));
    let object: k8s_openapi::api::discovery::v1::EndpointSlice = object.expect("a slice");
    let parsed = model::Parsed::<EndpointSlice>::try_from(&object).expect("facts");
    Event::Slice(Update::Applied(parsed.value))
}

fn node(name: &str) -> Event {
    let object = serde_json::from_value(json!({"metadata": {"name": name}}));
    let object: k8s_openapi::api::core::v1::Node = object.expect("a Node");
    let parsed = model::Parsed::<NodeFacts>::try_from(&object).expect("facts");
    Event::Node(Update::Applied(parsed.value))
}

fn facts(events: impl IntoIterator<Item = Event>) -> SnapshotWriter {
    let mut writer = SnapshotWriter::default();
    for event in events {
        writer.apply(event);
    }
    writer
}

/// Everything a snapshot says, comparable.
fn said(snapshot: &Snapshot) -> Vec<String> {
    let mut said: Vec<_> = snapshot.services().map(|service| format!("{service:?}")).collect();
    said.extend(snapshot.keys().map(|key| format!("{key} {:?}", snapshot.slices(key))));
    said.extend(snapshot.nodes().map(|node| format!("{node:?}")));
    said.sort();
    said
}

fn restored(bytes: &[u8]) -> (SnapshotWriter, Option<usize>) {
    let (read, cut) = read(bytes).expect("a readable file");
    (facts(read.events()), cut)
}

fn whole(writer: &SnapshotWriter) -> Vec<u8> {
    let mut bytes = HEADER.as_bytes().to_vec();
    for key in writer.snapshot().keys() {
        put_service(&mut bytes, writer.snapshot(), key);
    }
    for node in writer.snapshot().nodes() {
        put_node(&mut bytes, writer.snapshot(), &node.name);
    }
    encode(&mut bytes, &Line::Whole);
    bytes
}

#[test]
fn what_is_written_is_read_and_later_lines_replace_earlier_ones() {
    let mut writer = facts([
        service("a"),
        service("b"),
        slice("a", "10.0.0.1"),
        slice("lone", "10.0.0.9"),
        node("node-1"),
        node("node-2"),
    ]);
    let mut bytes = whole(&writer);
    let (read, cut) = restored(&bytes);
    assert_eq!((said(read.snapshot()), cut), (said(writer.snapshot()), None));
    assert!(read.is_complete());

    writer.apply(slice("a", "10.0.0.2"));
    writer.apply(Event::Service(Update::Deleted(ObjectKey::new("d", "b"))));
    writer.apply(Event::Node(Update::Deleted(ObjectKey::new("", "node-2"))));
    for name in ["a", "b"] {
        put_service(&mut bytes, writer.snapshot(), &ObjectKey::new("d", name));
    }
    put_node(&mut bytes, writer.snapshot(), &NodeName::new("node-2"));
    assert_eq!(said(restored(&bytes).0.snapshot()), said(writer.snapshot()));
}

#[test]
fn damage_is_found_and_named() {
    let mut writer = facts([service("a"), service("b")]);
    let bytes = whole(&writer);
    for at in HEADER.len()..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(matches!(read(&*damaged), Err(StateError::Damaged(_))), "byte {at}");
    }
    assert!(matches!(read(&bytes[..bytes.len() - 1]), Err(StateError::Damaged(_))));
    assert!(matches!(read(&b"something else"[..]), Err(StateError::Foreign(_))));
    assert!(matches!(read(&b""[..]), Err(StateError::Foreign(_))));

    // In the appended part, what came before is still good.
    let mut longer = bytes.clone();
    writer.apply(service("c"));
    put_service(&mut longer, writer.snapshot(), &ObjectKey::new("d", "c"));
    longer.truncate(longer.len() - 3);
    let (read, cut) = restored(&longer);
    assert_eq!((read.snapshot().services().len(), cut.is_some()), (2, true));
}

#[test]
fn the_checksum_is_the_usual_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

#[tokio::test]
async fn a_store_writes_everything_once_and_then_what_changed() {
    let dir = std::env::temp_dir().join(format!("fairway-facts-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let names: Vec<String> = (0..400).map(|n| format!("s{n}")).collect();
    let mut writer = facts(names.iter().map(|name| service(name)));
    let mut store = Store::start(&dir).expect("a thread");
    let patience = Duration::from_secs(20);
    store.finish(writer.snapshot(), patience).await;
    let size = || std::fs::metadata(dir.join(FILE)).expect("the file").len();
    let first = size();
    writer.take_change();

    writer.apply(slice("s7", "10.0.0.7"));
    let change: Change = writer.take_change();
    store.note(&change);
    assert!(store.due().is_some());
    store.finish(writer.snapshot(), patience).await;
    assert!(store.due().is_none());
    let appended = size() - first;
    assert!(appended > 100 && appended < 2000, "{appended} bytes for one change");
    let bytes = std::fs::read(dir.join(FILE)).expect("the file");
    assert_eq!(said(restored(&bytes).0.snapshot()), said(writer.snapshot()));

    // Changes without end do not make a file without end.
    for _ in 0..12 {
        let services = writer.snapshot().keys().cloned().collect();
        store.note(&Change { services, ..Change::default() });
        store.finish(writer.snapshot(), patience).await;
    }
    assert!(12 * first > SPARE_AND_A_BIT, "{first} bytes are too few to tell");
    assert!(size() < first + SPARE_AND_A_BIT, "{} bytes", size());
    let bytes = std::fs::read(dir.join(FILE)).expect("the file");
    assert_eq!(said(restored(&bytes).0.snapshot()), said(writer.snapshot()));
    std::fs::remove_dir_all(dir).expect("removed");
}

/// A mebibyte may be appended before everything is written again.
const SPARE_AND_A_BIT: u64 = (1 << 20) + (1 << 17);
