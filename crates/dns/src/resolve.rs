//! A question's way through a server block: rewritten, completed from the asking pod's search list, answered by templates,
//! hosts and the cluster's facts, or left to an upstream. Pure; what needs the network comes back as an [`Ask`].

use std::net::IpAddr;

use crate::cache::Key;
use crate::config::{Block, Config};
use crate::facts::Facts;
use crate::name::Name;
use crate::query::{CLASS_IN, QName, Query, code, kind};
use crate::reply::{Data, Owner, Record, Reply, failure};
use crate::rewrite::rewrite;
use crate::zone::{Answer, is_reverse};

/// CNAMEs followed for one question.
const CHAIN: usize = 8;

/// What comes of a question.
#[derive(Clone, Debug)]
pub enum Step {
    /// This is the answer.
    Reply(Reply),
    /// An upstream must say.
    Ask(Box<Ask>),
}

/// What an upstream is to be asked, and what its answer is part of.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Which block.
    pub block: usize,
    /// Which of its `forward`s.
    pub forward: usize,
    /// The name to ask for, lower case.
    pub name: QName,
    /// The type.
    pub kind: u16,
    /// Under what the answer is remembered.
    pub key: Key,
    /// Records that go before the answer.
    before: Vec<Record>,
    /// The answer when this name is not there.
    instead: Option<Box<Reply>>,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Its address.
    pub address: IpAddr,
    /// The server's port it asked at.
    pub port: u16,
}

/// The block that has to answer, and what it says. `None` for a block means that nobody is in charge.
#[must_use]
pub fn resolve(
    config: &Config,
    facts: &Facts,
    query: &Query,
    asker: Asker,
) -> (Option<usize>, Step) {
    let Some(at) = config.block_of(&query.name, asker.port) else {
        return (None, Step::Reply(Reply::of_code(code::REFUSED)));
    };
    let block = &config.blocks[at];
    let refused = |code| (Some(at), Step::Reply(Reply::of_code(code)));
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return refused(code::BADVERS);
    }
    if query.class != CLASS_IN {
        return refused(code::REFUSED);
    }
    match query.kind {
        kind::AXFR | kind::IXFR => return refused(code::REFUSED),
        // RFC 8482: the answer to "everything" is small.
        kind::ANY => {
            let hinfo: Vec<u8> = [b"\x07RFC8482".as_slice(), b"\x00"].concat();
            let record = Record::own(3600, Data::Other(kind::HINFO, hinfo.into()));
            let reply = Reply { answers: vec![record], ..Reply::default() };
            return (Some(at), Step::Reply(reply));
        }
        kind::OPT => return refused(code::FORMERR),
        _ => {}
    }
    let rewritten = rewrite(&block.rewrites, &query.name, query.kind);
    let (name, kind) = match &rewritten {
        Some((name, kind)) => (name, *kind),
        None => (&query.name, query.kind),
    };
    let way = Way { block, at, facts, query };
    let step = way
        .completed(name, kind, asker.address)
        .unwrap_or_else(|| way.follow(*name, kind, Vec::new()));
    (Some(at), step)
}

struct Way<'a> {
    block: &'a Block,
    at: usize,
    facts: &'a Facts,
    query: &'a Query,
}

impl Way<'_> {
    /// What this server knows of a name by itself.
    fn local(&self, name: &QName, kind: u16) -> Option<Answer> {
        let block = self.block;
        if let Some(reply) = block.templates.iter().find_map(|it| it.answer(name, kind)) {
            return Some(Answer::Reply(reply));
        }
        if let Some(hosts) = &block.hosts {
            let zones = if hosts.zones.is_empty() { &block.zones } else { &hosts.zones };
            if zones.iter().any(|zone| name.above(zone.wire()).is_some()) {
                if let Some(answers) = hosts.hosts.records(name, kind, hosts.ttl, hosts.reverse) {
                    let reply = Reply { authoritative: true, answers, ..Reply::default() };
                    return Some(Answer::Reply(reply));
                }
                let falls = hosts.fallthrough.as_ref().is_some_and(|zones| {
                    zones.is_empty() || zones.iter().any(|zone| name.above(zone.wire()).is_some())
                });
                if !falls {
                    let reply = Reply::of_code(code::NXDOMAIN);
                    return Some(Answer::Reply(Reply { authoritative: true, ..reply }));
                }
            }
        }
        let kubernetes = block.kubernetes.as_ref()?;
        if !self.facts.is_ready() {
            // An absence proves nothing yet.
            let is_ours = kubernetes
                .zones
                .iter()
                .any(|zone| !is_reverse(zone) && name.above(zone.wire()).is_some());
            return is_ours.then(|| Answer::Reply(failure()));
        }
        kubernetes.answer(self.facts, name, kind)
    }

    /// The answer to a name, its CNAMEs followed.
    fn follow(&self, name: QName, kind: u16, before: Vec<Record>) -> Step {
        let (mut name, mut before) = (name, before);
        for _ in 0..CHAIN {
            match self.local(&name, kind) {
                Some(Answer::Reply(reply)) => return Step::Reply(joined(before, reply, &name)),
                Some(Answer::Elsewhere { reply, target }) => {
                    before = joined(before, reply, &name).answers;
                    let target = target.lower();
                    let Some(next) = QName::of_wire(target.wire()) else {
                        return Step::Reply(failure());
                    };
                    name = next;
                }
                None => return self.ask(&name, kind, before, None),
            }
        }
        Step::Reply(failure())
    }

    /// A question for an upstream, where there is one for the name.
    fn ask(
        &self,
        name: &QName,
        kind: u16,
        before: Vec<Record>,
        instead: Option<Box<Reply>>,
    ) -> Step {
        let forwards = self.block.forwards.iter().enumerate();
        let fitting = forwards.filter_map(|(at, forward)| {
            let above = name.above(forward.from.wire())?;
            let is_excepted = forward.except.iter().any(|zone| name.above(zone.wire()).is_some());
            (!is_excepted).then_some((at, above))
        });
        match fitting.min_by_key(|(_, above)| *above) {
            Some((forward, _)) => Step::Ask(Box::new(Ask {
                block: self.at,
                forward,
                key: Key::of(self.query, name.lower(), kind),
                name: *name,
                kind,
                before,
                instead,
            })),
            // A chain that leads where nobody answers is still an answer.
            None if !before.is_empty() => {
                Step::Reply(Reply { authoritative: true, answers: before, ..Reply::default() })
            }
            None => Step::Reply(instead.map_or_else(|| Reply::of_code(code::REFUSED), |it| *it)),
        }
    }

    /// The search list of the asking pod, gone through at once: where the first of its names is not there, the next ones
    /// are tried, and a CNAME leads to the one that is. `None` when this is no such question.
    fn completed(&self, name: &QName, kind: u16, asker: IpAddr) -> Option<Step> {
        if !self.block.autopath || !matches!(kind, kind::A | kind::AAAA) {
            return None;
        }
        let kubernetes = self.block.kubernetes.as_ref()?;
        let pod = self.facts.pod_at(asker)?;
        let zone = kubernetes.zones.iter().find(|zone| !is_reverse(zone))?;
        let first = zone.below(&[pod.namespace().as_bytes(), b"svc"])?;
        let above = name.above(first.wire()).filter(|above| *above > 0)?;
        let Answer::Reply(not_there) = self.local(name, kind)? else { return None };
        if not_there.code != code::NXDOMAIN {
            return Some(Step::Reply(joined(Vec::new(), not_there, name)));
        }
        let labels: Vec<&[u8]> = (0..above).map(|at| name.label(at)).collect();
        for search in [zone.below(&[b"svc"])?, zone.clone()] {
            let Some(candidate) = search.below(&labels) else { continue };
            let Some(qname) = QName::of_wire(candidate.wire()) else { continue };
            let found = self.local(&qname, kind);
            let exists = match &found {
                Some(Answer::Reply(reply)) => reply.code == code::NOERROR,
                Some(Answer::Elsewhere { .. }) => true,
                None => false,
            };
            if exists {
                let alias = Record::own(kubernetes.ttl, Data::Cname(candidate));
                return Some(self.follow(qname, kind, vec![alias]));
            }
        }
        let bare = Name::of_labels(labels)?;
        let qname = QName::of_wire(bare.wire())?;
        let alias = vec![Record::own(kubernetes.ttl, Data::Cname(bare))];
        match self.local(&qname, kind) {
            Some(Answer::Reply(reply)) if reply.code == code::NOERROR => {
                Some(Step::Reply(joined(alias, reply, &qname)))
            }
            Some(Answer::Elsewhere { .. }) => Some(self.follow(qname, kind, alias)),
            Some(Answer::Reply(_)) => Some(Step::Reply(not_there)),
            None => Some(self.ask(&qname, kind, alias, Some(Box::new(not_there)))),
        }
    }
}

/// An answer about `name` behind records that led to it.
fn joined(mut before: Vec<Record>, mut reply: Reply, name: &QName) -> Reply {
    if before.is_empty() {
        return reply;
    }
    let Some(owner) = Name::of_wire(name.lower()) else { return failure() };
    let renamed = |record: &mut Record| {
        if record.owner == Owner::Question {
            record.owner = Owner::Name(owner.clone());
        }
    };
    let sections = [&mut reply.answers, &mut reply.authority, &mut reply.additional];
    sections.into_iter().flatten().for_each(renamed);
    before.append(&mut reply.answers);
    reply.answers = before;
    reply
}

impl Ask {
    /// The whole answer, given what the upstream said of the name; times to live are `age` seconds too high.
    #[must_use]
    pub fn finish(&self, said: &Reply, age: u32) -> Reply {
        if let Some(instead) = &self.instead {
            // The name may be meant otherwise: the client goes on with its search list.
            if said.code == code::NXDOMAIN || said.code == code::NOERROR && said.answers.is_empty()
            {
                return (**instead).clone();
            }
        }
        let mut reply = said.clone();
        reply.authoritative = false;
        let sections = [&mut reply.answers, &mut reply.authority, &mut reply.additional];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(age);
        }
        joined(self.before.clone(), reply, &self.name)
    }
}
