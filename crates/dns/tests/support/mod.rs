//! Objects to snapshots; messages written and read by another library than the one under test.
#![allow(dead_code, reason = "each test uses what it needs of these")]

pub(crate) mod alone;

use dns::Name;
use domain::base::iana::Rtype;
use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;
use model::{Event, Parsed, Snapshot, SnapshotWriter, Update};
use serde_json::Value;

/// A snapshot of the objects of a YAML stream.
pub(crate) fn snapshot(yaml: &str) -> Snapshot {
    let mut writer = SnapshotWriter::default();
    for event in [
        Event::Service(Update::Begin),
        Event::Slice(Update::Begin),
        Event::Pod(Update::Begin),
        Event::Namespace(Update::Begin),
    ] {
        writer.apply(event);
    }
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    for object in objects.into_iter().filter(Value::is_object) {
        writer.apply(event(object));
    }
    for event in [
        Event::Service(Update::End),
        Event::Slice(Update::End),
        Event::Pod(Update::End),
        Event::Namespace(Update::End),
    ] {
        writer.apply(event);
    }
    writer.snapshot().clone()
}

/// An object as the watch would tell it.
pub(crate) fn event(object: Value) -> Event {
    use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    let kind = object["kind"].as_str().unwrap().to_owned();
    match kind.as_str() {
        "Service" => {
            let object: Service = serde_json::from_value(object).unwrap();
            Event::Service(Update::Listed(Parsed::try_from(&object).unwrap().value))
        }
        "EndpointSlice" => {
            let object: EndpointSlice = serde_json::from_value(object).unwrap();
            Event::Slice(Update::Listed(Parsed::try_from(&object).unwrap().value))
        }
        "Pod" => {
            let object: Pod = serde_json::from_value(object).unwrap();
            Event::Pod(Update::Listed(Parsed::try_from(&object).unwrap().value))
        }
        "Namespace" => {
            let object: Namespace = serde_json::from_value(object).unwrap();
            Event::Namespace(Update::Listed(Parsed::try_from(&object).unwrap().value))
        }
        other => panic!("no {other} here"),
    }
}

/// A query; `payload` adds an OPT record.
pub(crate) fn query_bytes(name: &Name, kind: u16, payload: Option<u16>) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(payload.is_some())];
    out.extend_from_slice(name.wire());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    if let Some(payload) = payload {
        out.extend_from_slice(&[0, 0, 41]);
        out.extend_from_slice(&payload.to_be_bytes());
        out.extend_from_slice(&[0; 6]);
    }
    out
}

/// An answer as text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) code: String,
    pub(crate) truncated: bool,
    pub(crate) answers: Vec<String>,
    pub(crate) authority: Vec<String>,
    pub(crate) additional: Vec<String>,
}

/// Reads an answer with the library `domain`.
pub(crate) fn read_back(bytes: &[u8]) -> Seen {
    let message = Message::from_octets(bytes).unwrap();
    let section = |records: domain::base::message::RecordSection<'_, &[u8]>| {
        let mut lines = Vec::new();
        for record in records {
            let record = record.unwrap();
            if record.rtype() == Rtype::OPT {
                continue;
            }
            let record = record.to_any_record::<AllRecordData<&[u8], ParsedName<&[u8]>>>().unwrap();
            let data = record.data().to_string();
            lines.push(format!(
                "{} {} {} {data}",
                record.owner(),
                record.ttl().as_secs(),
                record.rtype()
            ));
        }
        lines
    };
    Seen {
        code: message.header().rcode().to_string(),
        truncated: message.header().tc(),
        answers: section(message.answer().unwrap()),
        authority: section(message.authority().unwrap()),
        additional: section(message.additional().unwrap()),
    }
}
