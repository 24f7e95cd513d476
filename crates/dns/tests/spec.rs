//! `cases/*.yaml`: objects, and questions with the answers the Kubernetes DNS specification 1.1.0 wants. Every answer goes
//! through the wire: written, and read back by the library `domain`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod support;

use dns::facts::{Facts, Keep, Patch};
use dns::query::{self, QName};
use dns::reply::{Form, ReplyEdns, write};
use dns::text::{code_name, kind_of};
use dns::zone::{Answer, Kubernetes, PodRecords};
use dns::{Name, reply::Reply};
use serde_json::Value;
use support::{query_bytes, read_back, snapshot};

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|it| it.as_str().unwrap().to_owned()).collect()
}

/// Libraries differ in whether a name in text ends with a dot.
fn undotted(lines: &[String]) -> Vec<String> {
    let word = |word: &str| word.strip_suffix('.').unwrap_or(word).to_owned();
    lines.iter().map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" ")).collect()
}

fn run(file: &std::path::Path) -> usize {
    let text = std::fs::read_to_string(file).unwrap();
    let case: Value = serde_saphyr::from_str(&text).unwrap();
    let kubernetes = Kubernetes {
        zones: strings(&case["zones"]).iter().map(|zone| Name::parse(zone).unwrap()).collect(),
        ttl: u32::try_from(case["ttl"].as_u64().unwrap()).unwrap(),
        pods: match case["pods"].as_str() {
            Some("verified") => PodRecords::Verified,
            Some("insecure") => PodRecords::Insecure,
            _ => PodRecords::Disabled,
        },
        ..Kubernetes::default()
    };
    let snapshot = snapshot(case["objects"].as_str().unwrap());
    let mut facts = Facts::default();
    facts.publish(Patch::whole(&snapshot, &Keep { pods: true, of_node: None }));
    let questions = case["questions"].as_array().unwrap();
    for question in questions {
        let ask = question["ask"].as_str().unwrap();
        let said = format!("{}: {} ({ask})", file.display(), question["section"]);
        let (name, kind) = ask.split_once(' ').unwrap();
        let name = Name::parse(name).unwrap();
        let kind = kind_of(kind).unwrap();
        let qname = QName::of_wire(name.wire()).unwrap();
        let answer = kubernetes.answer(&facts, &qname, kind);
        if question["ours"] == false {
            assert_eq!(answer, None, "{said}");
            continue;
        }
        let reply: Reply = match answer.unwrap_or_else(|| panic!("{said}: not answered")) {
            Answer::Reply(reply) => {
                assert_eq!(question["elsewhere"], Value::Null, "{said}");
                reply
            }
            Answer::Elsewhere { reply, target } => {
                assert_eq!(question["elsewhere"].as_str().unwrap(), target.to_string(), "{said}");
                reply
            }
        };
        assert!(reply.authoritative, "{said}");
        let query::Received::Query(query) = query::read(&query_bytes(&name, kind, None)) else {
            panic!("{said}: the query is not read")
        };
        let mut out = Vec::new();
        let form =
            Form { limit: 65535, edns: ReplyEdns { payload: 1232, cookie: None }, age: 0, turn: 0 };
        assert!(!write(&mut out, &query, &reply, &form), "{said}");
        let seen = read_back(&out);
        assert_eq!(seen.code, question["code"].as_str().unwrap_or("NOERROR"), "{said}");
        assert_eq!(code_name(reply.code), seen.code);
        assert_eq!(undotted(&seen.answers), undotted(&strings(&question["answer"])), "{said}");
        assert_eq!(
            undotted(&seen.additional),
            undotted(&strings(&question["additional"])),
            "{said}"
        );
        match question["soa"].as_str() {
            Some(zone) => {
                let ttl = kubernetes.ttl;
                let soa = format!(
                    "{zone} {ttl} SOA ns.dns.{zone}. hostmaster.{zone}. 1 7200 1800 86400 {ttl}"
                );
                assert_eq!(undotted(&seen.authority), undotted(&[soa]), "{said}");
            }
            None => assert!(seen.authority.is_empty(), "{said}: {:?}", seen.authority),
        }
    }
    questions.len()
}

#[test]
fn the_specification_section_by_section() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let counts: Vec<usize> = files.map(|file| run(&file)).collect();
    assert!(counts.iter().sum::<usize>() >= 60, "{counts:?}");
}
