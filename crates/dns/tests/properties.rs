//! What holds for any input: facts and messages, honest and hostile.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dns::Name;
use dns::cache::{Cache, Key};
use dns::config::{CacheLimits, CacheSettings, Policy, Prefetch};
use dns::facts::{Facts, Keep, Patch};
use dns::query::{self, QName, Received, code, kind};
use dns::reply::{Data, Form, Owner, Record, Reply, ReplyEdns, write};
use dns::upstream::{BadAnswer, Health, Question, Said, read};
use dns::zone::{Answer, Kubernetes, PodRecords};
use model::{
    AddressType, Conditions, EndpointSlice, Event, ObjectKey, SliceEndpoint, SlicePort,
    SnapshotWriter, Update,
};
use proptest::prelude::*;
use serde_json::json;
use support::{query_bytes, read_back};

/// A change of the cluster.
#[derive(Clone, Debug)]
enum Step {
    Service(u8, Option<Kind>),
    Slice(u8, Vec<(u8, bool, bool)>),
    Pod(u8, Option<u8>),
    Namespace(u8, bool),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Cluster(u8),
    Headless,
    External,
}

fn step() -> impl Strategy<Value = Step> {
    let kind =
        prop_oneof![(0..6u8).prop_map(Kind::Cluster), Just(Kind::Headless), Just(Kind::External)];
    prop_oneof![
        3 => (0..4u8, prop::option::of(kind)).prop_map(|(at, kind)| Step::Service(at, kind)),
        3 => (0..4u8, prop::collection::vec((0..5u8, any::<bool>(), any::<bool>()), 0..4))
            .prop_map(|(at, endpoints)| Step::Slice(at, endpoints)),
        1 => (0..3u8, prop::option::of(0..4u8)).prop_map(|(at, ip)| Step::Pod(at, ip)),
        1 => (0..3u8, any::<bool>()).prop_map(|(at, there)| Step::Namespace(at, there)),
    ]
}

fn apply(writer: &mut SnapshotWriter, step: &Step) {
    let event = match step {
        Step::Service(at, None) => Event::Service(Update::Deleted(key(*at))),
        Step::Service(at, Some(kind)) => {
            let spec = match kind {
                Kind::Cluster(ip) => {
                    json!({"clusterIP": format!("10.96.0.{ip}"), "ports": [{"name": "http", "port": 80}]})
                }
                Kind::Headless => json!({"clusterIP": "None"}),
                Kind::External => json!({"type": "ExternalName", "externalName": "example.com"}),
            };
            let key = key(*at);
            let object = json!({"kind": "Service", "metadata": {"namespace": key.namespace(), "name": key.name()}, "spec": spec});
            match support::event(object) {
                Event::Service(Update::Listed(service)) => Event::Service(Update::Applied(service)),
                _ => unreachable!("a Service"),
            }
        }
        Step::Slice(at, endpoints) => {
            let service = key(*at);
            let endpoint = |(ip, ready, named): &(u8, bool, bool)| SliceEndpoint {
                address: Ipv4Addr::new(10, 244, 0, *ip).into(),
                conditions: Conditions { ready: *ready, serving: *ready, terminating: false },
                node: None,
                zone: None,
                hints: None,
                hostname: named.then(|| format!("h{ip}").into()),
            };
            let port = SlicePort { name: "http".into(), protocol: model::Protocol::Tcp, port: 80 };
            Event::Slice(Update::Applied(EndpointSlice {
                key: service.clone(),
                uid: None,
                service,
                address_type: AddressType::V4,
                ports: Box::new([port]),
                endpoints: endpoints.iter().map(endpoint).collect(),
            }))
        }
        Step::Pod(at, None) => Event::Pod(Update::Deleted(key(*at))),
        Step::Pod(at, Some(ip)) => {
            let key = key(*at);
            let ip = format!("10.244.1.{ip}");
            let object = json!({"kind": "Pod", "metadata": {"namespace": key.namespace(), "name": key.name()},
                "spec": {"nodeName": "node-1", "containers": []},
                "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
            match support::event(object) {
                Event::Pod(Update::Listed(pod)) => Event::Pod(Update::Applied(pod)),
                _ => unreachable!("a Pod"),
            }
        }
        Step::Namespace(at, there) => {
            let name = format!("ns{at}");
            if *there {
                match support::event(json!({"kind": "Namespace", "metadata": {"name": name}})) {
                    Event::Namespace(Update::Listed(it)) => Event::Namespace(Update::Applied(it)),
                    _ => unreachable!("a Namespace"),
                }
            } else {
                Event::Namespace(Update::Deleted(ObjectKey::new("", &name)))
            }
        }
    };
    writer.apply(event);
}

fn key(at: u8) -> ObjectKey {
    ObjectKey::new(&format!("ns{}", at % 2), &format!("s{at}"))
}

fn keep() -> Keep {
    Keep { pods: true, of_node: None }
}

fn kubernetes() -> Kubernetes {
    let zones = ["cluster.local", "in-addr.arpa"].map(|zone| Name::parse(zone).unwrap());
    Kubernetes { zones: zones.to_vec(), pods: PodRecords::Verified, ..Kubernetes::default() }
}

/// Every name and address one may be told.
fn told(facts: &Facts) -> Vec<(String, String)> {
    let kubernetes = kubernetes();
    let mut all = Vec::new();
    let names = (0..4u8).flat_map(|at| {
        let key = key(at);
        let service = format!("{}.{}.svc.cluster.local", key.name(), key.namespace());
        let hosts = (0..5u8).map({
            let service = service.clone();
            move |ip| format!("h{ip}.{service}")
        });
        std::iter::once(service.clone()).chain(hosts).collect::<Vec<_>>()
    });
    let reverse = (0..6u8).map(|ip| format!("{ip}.0.96.10.in-addr.arpa"));
    let pods = (0..4u8).map(|ip| format!("10-244-1-{ip}.ns0.pod.cluster.local"));
    for name in names.chain(reverse).chain(pods) {
        let wire = Name::parse(&name).unwrap();
        let qname = QName::of_wire(wire.wire()).unwrap();
        for asked in [kind::A, kind::PTR] {
            let answers = match kubernetes.answer(facts, &qname, asked) {
                Some(Answer::Reply(reply) | Answer::Elsewhere { reply, .. }) => reply.answers,
                None => Vec::new(),
            };
            all.extend(answers.iter().map(|record| (name.clone(), record.data.to_string())));
        }
    }
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Change by change equals all at once; and between a change's two halves nothing is told that is not so both before
    /// and after it.
    #[test]
    fn incremental_equals_whole_and_is_never_ahead(steps in prop::collection::vec(step(), 1..30)) {
        let mut writer = SnapshotWriter::default();
        let mut facts = Facts::default();
        facts.publish(Patch::whole(writer.snapshot(), &keep()));
        for step in &steps {
            let before = told(&facts);
            apply(&mut writer, step);
            let change = writer.take_change();
            let patch = Patch::of(writer.snapshot(), &change, &keep());
            facts.retract(&patch);
            let between = told(&facts);
            facts.publish(patch);
            let after = told(&facts);
            for line in &between {
                prop_assert!(before.contains(line), "{line:?} is new before its commit ({step:?})");
                prop_assert!(after.contains(line), "{line:?} is still told before a commit that ends it ({step:?})");
            }
            let mut whole = Facts::from_serial(facts.serial().wrapping_sub(1));
            whole.publish(Patch::whole(writer.snapshot(), &keep()));
            prop_assert_eq!(&facts, &whole);
        }
    }

    /// Nothing that comes from outside makes the readers panic, and what the fast reader takes the library takes, too.
    #[test]
    fn messages_from_outside_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(query::read(&bytes));
        let name = QName::of_wire(b"\x01a\x00").unwrap();
        let question = Question::new(7, &name, kind::A, || false);
        drop(read(&question, &bytes));
    }

    /// A good query with some octets changed: read, refused or passed over, and a name read is the library's name.
    #[test]
    fn queries_bent_out_of_shape(at in 0..60usize, to in any::<u8>(), cut in 0..60usize, edns in any::<bool>()) {
        let name = Name::parse("www.example.com").unwrap();
        let mut bytes = query_bytes(&name, kind::A, edns.then_some(4096));
        if let Some(byte) = bytes.get_mut(at) {
            *byte = to;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        if let Received::Query(query) = query::read(&bytes) {
            let message = domain::base::Message::from_octets(bytes.as_slice()).unwrap();
            let theirs = message.sole_question().unwrap();
            prop_assert_eq!(query.kind, theirs.qtype().to_int());
            prop_assert_eq!(query.id, message.header().id());
        }
    }

    /// An answer bent out of shape is refused or holds only what was asked for.
    #[test]
    fn answers_bent_out_of_shape(changes in prop::collection::vec((12..120usize, any::<u8>()), 0..6), cut in 0..40usize) {
        let name = QName::of_wire(Name::parse("www.example.com").unwrap().wire()).unwrap();
        let question = Question::new(0x1234, &name, kind::A, || false);
        let mut bytes = answer_to(&question);
        for (at, to) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        if let Ok(Said::Reply(reply)) = read(&question, &bytes) {
            for record in &reply.answers {
                let is_chain = matches!(&record.owner, Owner::Question) || reply.answers.iter().any(|it| match &it.data {
                    Data::Cname(target) => matches!(&record.owner, Owner::Name(owner) if owner.is(target)),
                    _ => false,
                });
                prop_assert!(is_chain, "{record:?}");
            }
            prop_assert!(reply.additional.is_empty());
        }
    }

    /// Any answer we can think of is written, and read back by the library as what it was; a smaller limit truncates it and
    /// says so, and never grows it.
    #[test]
    fn answers_survive_the_wire(
        addresses in prop::collection::vec(any::<u32>(), 0..60),
        target in "[a-z]{1,20}(\\.[a-z]{1,20}){0,5}",
        limit in 100..2000usize,
        turn in any::<usize>(),
    ) {
        let name = Name::parse("Svc.default.svc.cluster.local").unwrap();
        let Received::Query(query) = query::read(&query_bytes(&name, kind::A, Some(1232))) else { panic!("no query") };
        let mut reply = Reply { authoritative: true, ..Reply::default() };
        let target = Name::parse(&target).unwrap();
        reply.answers.push(Record::own(5, Data::Cname(target.clone())));
        reply.answers.extend(addresses.iter().map(|ip| Record::of(target.clone(), 5, Data::A((*ip).into()))));
        let form = Form { limit, edns: ReplyEdns { payload: 1232, cookie: None }, age: 0, turn };
        let mut out = Vec::new();
        let truncated = write(&mut out, &query, &reply, &form);
        prop_assert!(out.len() <= limit.max(12 + name.wire().len() + 4 + 11));
        let seen = read_back(&out);
        prop_assert_eq!(seen.truncated, truncated);
        prop_assert_eq!(seen.answers.len() < reply.answers.len(), truncated);
        let mut wanted: Vec<String> = addresses.iter().map(|ip| format!("{target} 5 A {}", Ipv4Addr::from(*ip))).collect();
        let mut got: Vec<String> = seen.answers.iter().skip(1).cloned().collect();
        wanted.sort();
        got.sort();
        if !truncated {
            prop_assert_eq!(wanted, got);
        }
    }
}

/// An honest answer: a CNAME, an address, and things nobody asked for.
fn answer_to(question: &Question) -> Vec<u8> {
    let mut out = question.id.to_be_bytes().to_vec();
    out.extend_from_slice(&[0x81, 0x80, 0, 1, 0, 4, 0, 0, 0, 1]);
    out.extend_from_slice(&question.name);
    out.extend_from_slice(&question.kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    let record = |out: &mut Vec<u8>, owner: &[u8], kind: u16, data: &[u8]| {
        out.extend_from_slice(owner);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        out.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        out.extend_from_slice(data);
    };
    record(&mut out, &[0xc0, 12], kind::CNAME, b"\x01b\xc0\x10");
    record(&mut out, b"\x01b\xc0\x10", kind::A, &[192, 0, 2, 1]);
    // Poison: another name's address, in the answer and in the additional section.
    record(&mut out, b"\x04bank\x03com\x00", kind::A, &[6, 6, 6, 6]);
    record(&mut out, b"\x02ns\xc0\x10", kind::A, &[6, 6, 6, 6]);
    record(&mut out, b"\x04bank\x03com\x00", kind::A, &[6, 6, 6, 6]);
    out
}

#[test]
fn an_answer_holds_nothing_nobody_asked_for() {
    let name = QName::of_wire(Name::parse("www.example.com").unwrap().wire()).unwrap();
    let mut coins = [true, false, true].into_iter().cycle();
    let question = Question::new(0x1234, &name, kind::A, || coins.next().unwrap());
    assert_ne!(question.name, name.lower(), "the case is drawn by lot");
    let bytes = answer_to(&question);
    let Ok(Said::Reply(reply)) = read(&question, &bytes) else { panic!("not read") };
    let data: Vec<String> = reply.answers.iter().map(|it| it.data.to_string()).collect();
    assert_eq!(data, ["b.example.com.", "192.0.2.1"]);
    // Wrong number, wrong case, a query, another question: not an answer to this one.
    let wrong = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        read(&question, &bytes)
    };
    assert_eq!(wrong(&|bytes| bytes[0] ^= 1), Err(BadAnswer::Unasked));
    assert_eq!(wrong(&|bytes| bytes[13] ^= 0x20), Err(BadAnswer::Unasked));
    assert_eq!(wrong(&|bytes| bytes[2] &= 0x7f), Err(BadAnswer::Unasked));
    assert_eq!(wrong(&|bytes| bytes[30] ^= 1), Err(BadAnswer::Unasked));
}

#[test]
fn pointers_that_go_in_circles_end() {
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1];
    assert!(matches!(query::read(&query), Received::Refused { code: code::FORMERR, .. }));
    query[12..14].copy_from_slice(&[0xc0, 14]);
    assert!(matches!(query::read(&query), Received::Refused { code: code::FORMERR, .. }));
    let name = QName::of_wire(b"\x01a\x00").unwrap();
    let question = Question::new(1, &name, kind::A, || false);
    let mut answer = question.id.to_be_bytes().to_vec();
    answer.extend_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend_from_slice(&question.name);
    answer.extend_from_slice(&[0, 1, 0, 1]);
    let at = u8::try_from(answer.len()).unwrap();
    answer.extend_from_slice(&[0xc0, at, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]);
    assert_eq!(read(&question, &answer), Err(BadAnswer::Malformed));
}

#[test]
fn names_of_any_length_are_bounded() {
    // 127 labels of one octet are a name; 128 are none.
    let label = b"\x01a";
    let longest = [label.repeat(127), vec![0]].concat();
    assert_eq!(longest.len(), 255);
    assert_eq!(QName::of_wire(&longest).unwrap().count(), 127);
    let longer = [label.repeat(128), vec![0]].concat();
    assert!(QName::of_wire(&longer).is_none());
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(&longer);
    query.extend_from_slice(&[0, 1, 0, 1]);
    assert!(matches!(query::read(&query), Received::Refused { code: code::FORMERR, .. }));
}

fn positive(ttl: u32) -> Arc<Reply> {
    let record = Record::own(ttl, Data::A(Ipv4Addr::new(192, 0, 2, 1)));
    Arc::new(Reply { answers: vec![record], ..Reply::default() })
}

fn cached(name: &str) -> Key {
    let name = Name::parse(name).unwrap();
    Key { name: name.wire().into(), kind: kind::A, dnssec_ok: false, checking_disabled: false }
}

#[test]
fn a_hundred_thousand_random_names_push_out_nothing_but_each_other() {
    let mut cache = Cache::new(CacheSettings::default());
    let now = Instant::now();
    cache.put(cached("good.example"), positive(300), now);
    for at in 0..100_000u32 {
        let key = cached(&format!("x{at}.random.example"));
        assert!(cache.get(&key, now).is_none());
        cache.put(key, Arc::new(Reply::of_code(code::NXDOMAIN)), now);
    }
    let (success, denial) = cache.counts();
    assert_eq!((success, denial), (1, 9984));
    assert!(cache.get(&cached("good.example"), now).is_some(), "absences are kept apart");
    // Those asked for again and again outlive a flood of answers, too.
    for at in 0..100_000u32 {
        if at % 512 == 0 {
            assert!(cache.get(&cached("good.example"), now).is_some(), "after {at}");
        }
        cache.put(cached(&format!("y{at}.random.example")), positive(300), now);
    }
    assert_eq!(cache.counts().0, 9984);
}

#[test]
fn time_in_the_cache() {
    let settings = CacheSettings {
        success: CacheLimits { capacity: 10, most: 60, least: 5 },
        prefetch: Some(Prefetch { amount: 3, pause: Duration::from_secs(60), percentage: 20 }),
        stale: Some(Duration::from_secs(100)),
        ..CacheSettings::default()
    };
    let mut cache = Cache::new(settings);
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let key = cached("a.example");
    cache.put(key.clone(), positive(3600), start);
    let hit = cache.get(&key, after(10)).unwrap();
    assert_eq!((hit.age, hit.stale, hit.renew), (10, false, false));
    assert!(!cache.get(&key, after(30)).unwrap().renew);
    assert!(cache.get(&key, after(55)).unwrap().renew, "asked for often, and nearly over");
    assert!(!cache.get(&key, after(56)).unwrap().renew, "one asks, not all");
    let hit = cache.get(&key, after(61)).unwrap();
    assert!(hit.stale, "60 s is the longest");
    // A failure does not take its place; a new answer does.
    cache.put(key.clone(), Arc::new(Reply::of_code(code::SERVFAIL)), after(62));
    assert!(cache.get(&key, after(63)).unwrap().stale);
    assert!(cache.get(&key, after(161)).is_none());
    cache.put(key.clone(), positive(1), after(70));
    assert!(!cache.get(&key, after(74)).unwrap().stale, "5 s is the shortest");
    // An absence takes the place of an answer.
    let denial = Reply { code: code::NXDOMAIN, ..Reply::default() };
    cache.put(key.clone(), Arc::new(denial), after(75));
    assert_eq!(cache.get(&key, after(76)).unwrap().reply.code, code::NXDOMAIN);
}

#[test]
fn upstreams_take_turns_and_dead_ones_are_passed_over() {
    let mut health = Health::new(3, 2, Policy::RoundRobin);
    let first = |health: &mut Health| health.order(|_| 0)[0];
    assert_eq!([first(&mut health), first(&mut health), first(&mut health)], [1, 2, 0]);
    assert!(health.failed(1), "asked from now on whether it lives");
    assert!(!health.failed(1));
    assert!(health.is_dead(1));
    assert!((0..6).all(|_| !health.order(|_| 0).contains(&1)));
    health.failed(0);
    health.failed(0);
    health.failed(2);
    health.failed(2);
    assert!(health.all_dead());
    assert_eq!(health.order(|_| 0).len(), 3, "all dead: all are tried");
    health.answered(2);
    assert_eq!(health.order(|_| 0), [2]);
    let mut sequential = Health::new(2, 0, Policy::Sequential);
    sequential.failed(0);
    assert_eq!(sequential.order(|_| 1), [0, 1], "max_fails 0 never gives up on one");
    let mut random = Health::new(2, 2, Policy::Random);
    assert_eq!(random.order(|_| 1), [1, 0]);
}

#[test]
fn an_address_two_pods_claim_is_nobodys() {
    let mut writer = SnapshotWriter::default();
    let mut facts = Facts::default();
    let address: IpAddr = "10.244.1.2".parse().unwrap();
    for step in [Step::Pod(0, Some(2)), Step::Pod(1, Some(2))] {
        apply(&mut writer, &step);
    }
    facts.publish(Patch::whole(writer.snapshot(), &keep()));
    assert_eq!(facts.pod_at(address), None);
    apply(&mut writer, &Step::Pod(0, None));
    let change = writer.take_change();
    facts.publish(Patch::of(writer.snapshot(), &change, &keep()));
    assert_eq!(facts.pod_at(address), Some(&key(1)));
}
