//! Reading a table back: five kinds of dumps, parsed as they stream in, tried again when the table changed meanwhile. Big
//! sets whose keys somebody knows are asked for by key instead.

use std::collections::HashMap;
use std::io;

use super::ask::ask;
use super::{Expected, Netlink};
use crate::elements::Elements;
use crate::expr::{AnonymousSet, Expr, SetRef};
use crate::raise::raise;
use crate::wire::attr::{Message, Messages, Writer, refusal, u32_be};
use crate::wire::decode::{self, ElementReader, SetMessage};
use crate::wire::number::{self, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use crate::wire::{message_type, userdata};
use crate::{Chain, Data, Errno, Family, ListError, Name, Packed, Set, SetSpec, Table};

const ATTEMPTS: u32 = 20;

/// What stopped a reading.
pub(super) enum Stop {
    /// The tables changed while it ran.
    Interrupted,
    Errno(&'static str, i32),
}

pub(super) fn socket_error(what: &'static str) -> impl Fn(io::Error) -> Stop {
    move |error| Stop::Errno(what, error.raw_os_error().unwrap_or(libc::EIO))
}

/// Reads a table; `expected` knows keys of big sets.
pub(super) fn list(
    kernel: &mut Netlink,
    family: Family,
    name: &Name,
    expected: Option<&dyn Expected>,
) -> Result<Option<Table>, ListError> {
    undisturbed(kernel, name, |kernel| read(kernel, family, name, expected))
}

/// Asks for the generation; what fails is how to tell that there is no nf_tables.
pub(super) fn probe(kernel: &mut Netlink) -> Result<(), ListError> {
    let refused = |what, errno| ListError::Refused {
        table: "(none yet)".to_owned(),
        what,
        errno: Errno(errno),
    };
    match generation(kernel) {
        Err(Stop::Errno(what, errno)) => Err(refused(what, errno)),
        _ => Ok(()),
    }
}

/// Whether any set of the table has an element, without reading one; where the kernel does not count, a set is enough.
pub(super) fn is_filled(
    kernel: &mut Netlink,
    family: Family,
    name: &Name,
) -> Result<bool, ListError> {
    undisturbed(kernel, name, |kernel| {
        let mut filled = false;
        let asked = kernel.ask(
            "sets",
            number::GETSET,
            NLM_F_DUMP,
            family,
            |w| w.string(1, name.as_str()),
            |message| {
                let set = decode::set(message.attributes()).filter(|set| set.table == *name);
                filled |= set.is_some_and(|set| set.count.is_none_or(|count| count > 0));
            },
        );
        match asked {
            Err(Stop::Errno(_, libc::ENOENT)) => Ok(false),
            other => other.map(|()| filled),
        }
    })
}

/// The elements of one set that have one of these keys.
pub(super) fn get(
    kernel: &mut Netlink,
    family: Family,
    table: &Name,
    set: &SetSpec,
    keys: &[Packed],
) -> Result<Elements, ListError> {
    undisturbed(kernel, table, |kernel| ask(kernel, family, table, set, keys))
}

/// Reads until the tables did not change meanwhile.
fn undisturbed<T>(
    kernel: &mut Netlink,
    table: &Name,
    mut read: impl FnMut(&mut Netlink) -> Result<T, Stop>,
) -> Result<T, ListError> {
    for _ in 0..ATTEMPTS {
        match attempt(kernel, &mut read) {
            Ok(found) => return Ok(found),
            Err(Stop::Interrupted) => {}
            Err(Stop::Errno(what, errno)) => {
                return Err(ListError::Refused {
                    table: table.to_string(),
                    what,
                    errno: Errno(errno),
                });
            }
        }
    }
    Err(ListError::Unstable { table: table.to_string(), attempts: ATTEMPTS })
}

fn attempt<T>(
    kernel: &mut Netlink,
    read: &mut impl FnMut(&mut Netlink) -> Result<T, Stop>,
) -> Result<T, Stop> {
    let before = generation(kernel)?;
    let listed = read(kernel);
    match listed {
        // Gone between two questions: that too is a change.
        Err(Stop::Errno(_, libc::ENOENT)) if generation(kernel)? != before => {
            Err(Stop::Interrupted)
        }
        other if generation(kernel)? != before => other.and(Err(Stop::Interrupted)),
        other => other,
    }
}

fn read(
    kernel: &mut Netlink,
    family: Family,
    name: &Name,
    expected: Option<&dyn Expected>,
) -> Result<Option<Table>, Stop> {
    let mut table = Table::new(family, name.clone());
    let mut found = false;
    let asked = kernel.ask(
        "the table",
        number::GETTABLE,
        NLM_F_ACK,
        family,
        |w| w.string(1, name.as_str()),
        |message| {
            if let Some(answer) = decode::table(message.attributes())
                && answer.name == *name
            {
                found = true;
                table.dormant = answer.dormant;
                table.comment = answer.comment;
            }
        },
    );
    match asked {
        Err(Stop::Errno(_, libc::ENOENT)) => return Ok(None),
        other => other?,
    }
    if !found {
        return Ok(None);
    }

    let mut sets: Vec<SetMessage> = Vec::new();
    kernel.ask(
        "sets",
        number::GETSET,
        NLM_F_DUMP,
        family,
        |w| w.string(1, name.as_str()),
        |message| {
            sets.extend(decode::set(message.attributes()).filter(|set| set.table == *name));
        },
    )?;
    // What verdict maps and plain sets say may tell which keys to expect in the others.
    sets.sort_by_key(|set| match set.spec.data {
        crate::SetData::Verdict => 0,
        crate::SetData::None => 1,
        crate::SetData::Value(_) => 2,
    });
    let mut anonymous = HashMap::new();
    let mut key_lens = HashMap::new();
    for set in sets {
        let keys = expected
            .filter(|_| can_be_asked(&set))
            .and_then(|expected| expected.keys(&set.spec, &table));
        let elements = if set.foreign {
            Elements::new(&set.spec)
        } else {
            read_elements(kernel, family, name, &set, keys)?
        };
        if set.anonymous {
            anonymous.insert(set.spec.name.clone(), anonymous_set(&set, &elements));
        } else {
            key_lens.insert(set.spec.name.clone(), set.spec.key_len());
            table.insert_set(Set { spec: set.spec.into(), elements });
        }
    }

    kernel.ask(
        "chains",
        number::GETCHAIN,
        NLM_F_DUMP,
        family,
        |_| {},
        |message| {
            if let Some(answer) =
                decode::chain(message.attributes()).filter(|answer| answer.table == *name)
            {
                let (name, hook, comment) = (answer.name, answer.hook, answer.comment);
                table.insert_chain(Chain { name, hook, rules: Vec::new(), comment });
            }
        },
    )?;
    kernel.ask(
        "rules",
        number::GETRULE,
        NLM_F_DUMP,
        family,
        |w| w.string(1, name.as_str()),
        |message| {
            let Some(mut answer) =
                decode::rule(message.attributes()).filter(|answer| answer.table == *name)
            else {
                return;
            };
            for expr in &mut answer.exprs {
                if let Expr::Lookup { set, .. } = expr
                    && let SetRef::Named(name) = set
                    && let Some(Some(contents)) = anonymous.get(name)
                {
                    *set = SetRef::Anonymous(contents.clone());
                }
            }
            let rule = raise(family, &answer.exprs, answer.comment, &answer.raw, |name| {
                key_lens.get(name).copied()
            });
            if let Some(chain) = table.chains.get_mut(&answer.chain) {
                chain.rules.push(rule);
            }
        },
    )?;
    Ok(Some(table))
}

/// Whether elements can be asked for by key, and their number says whether there are others.
fn can_be_asked(set: &SetMessage) -> bool {
    let flags = &set.spec.flags;
    let plain = !flags.interval && !flags.dynamic && !flags.timeout && !set.foreign;
    plain && !set.anonymous && set.count.is_some()
}

/// All elements of a set, `keys` being those it probably has.
///
/// The kernel grows the hash table of a set in the background, after the commit that filled it, and a dump that meets it
/// misses elements without a word and without a new generation. So they are counted, and collected again until all are
/// there; a kernel that does not tell the number is asked until nothing new comes.
fn read_elements(
    kernel: &mut Netlink,
    family: Family,
    table: &Name,
    set: &SetMessage,
    keys: Option<Vec<Packed>>,
) -> Result<Elements, Stop> {
    // A key that is not there costs a question of its own, and a set with few of them is small.
    let mostly_there = |keys: &Vec<Packed>, count: u32| count as usize >= keys.len() / 2;
    if let (Some(mut keys), Some(count)) = (keys, set.count)
        && mostly_there(&keys, count)
    {
        // One key twice would count twice, and one of another length is refused.
        let key_len = set.spec.key_len();
        keys.retain(|key| key.len() == key_len);
        keys.sort_unstable();
        keys.dedup();
        let elements = ask(kernel, family, table, &set.spec, &keys)?;
        if elements.len() == count as usize {
            return Ok(elements);
        }
        tracing::debug!(set = %set.spec.name, found = elements.len(), count, "elements nobody expects, reading all");
    }
    let mut reader = ElementReader::new(&set.spec);
    let flags = &set.spec.flags;
    let may_grow = !flags.interval && !flags.dynamic && !flags.timeout;
    for _ in 0..ATTEMPTS {
        let before = reader.len();
        let request = |w: &mut Writer| {
            w.string(1, table.as_str());
            w.string(2, set.spec.name.as_str());
        };
        let mut messages = 0;
        kernel.ask("elements", number::GETSETELEM, NLM_F_DUMP, family, request, |message| {
            messages += 1;
            reader.read(message.attributes());
        })?;
        let complete = match set.count {
            _ if !may_grow => true,
            Some(count) => reader.len() == count as usize,
            None => messages < 2 || reader.len() == before,
        };
        if complete {
            return Ok(reader.finish());
        }
        tracing::debug!(set = %set.spec.name, listed = reader.len(), count = set.count, "collecting elements again");
    }
    Err(Stop::Interrupted)
}

/// The contents of an anonymous set; `None` for what this crate would not write (ranges, maps to values).
fn anonymous_set(set: &SetMessage, elements: &Elements) -> Option<AnonymousSet> {
    if set.foreign || set.spec.flags.interval {
        return None;
    }
    let mut contents = Vec::with_capacity(elements.len());
    for element in elements.sorted() {
        contents.push(match element.data {
            Data::None => (element.key, None),
            Data::Verdict(verdict) => (element.key, Some(verdict)),
            Data::Value(_) => return None,
        });
    }
    let fields = userdata::fields_of_type(set.key_type, set.key_len);
    Some(AnonymousSet {
        key_type: set.key_type,
        key_len: set.key_len,
        host_order: matches!(fields.as_slice(), [one] if one.is_host_order()),
        is_vmap: set.spec.data == crate::SetData::Verdict,
        elements: contents,
    })
}

pub(super) fn generation(kernel: &mut Netlink) -> Result<u32, Stop> {
    let mut generation = 0;
    kernel.ask(
        "the generation",
        number::GETGEN,
        NLM_F_ACK,
        Family::Inet,
        |_| {},
        |message| {
            let id = message.attributes().find(|(kind, _)| *kind == 1);
            generation = id.and_then(|(_, id)| u32_be(id)).unwrap_or(0);
        },
    )?;
    Ok(generation)
}

impl Netlink {
    /// Sends one request and hands every answering message to `take`.
    pub(super) fn ask(
        &mut self,
        what: &'static str,
        message: u16,
        flags: u16,
        family: Family,
        request: impl FnOnce(&mut Writer),
        mut take: impl FnMut(&Message<'_>),
    ) -> Result<(), Stop> {
        let sequence = self.next_sequence(0);
        let mut w = Writer::default();
        let open =
            w.message(message_type(message), NLM_F_REQUEST | flags, sequence, family.number(), 0);
        request(&mut w);
        w.end_message(open);
        self.socket.send(&w.bytes).map_err(socket_error(what))?;
        let mut interrupted = false;
        loop {
            let received = self.socket.receive(true).map_err(socket_error(what))?;
            for message in
                Messages(received.unwrap_or(&[])).filter(|message| message.sequence == sequence)
            {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    number::NLMSG_DONE | number::NLMSG_ERROR => {
                        // A dump that failed half way says so in its last message.
                        let errno = match message.kind {
                            number::NLMSG_ERROR => {
                                refusal(&message).map_or(libc::EBADMSG, |it| it.errno)
                            }
                            _ => message.payload.get(..4).map_or(0, |code| {
                                i32::from_ne_bytes([code[0], code[1], code[2], code[3]])
                                    .saturating_neg()
                            }),
                        };
                        return match errno {
                            _ if interrupted => Err(Stop::Interrupted),
                            0 => Ok(()),
                            libc::EINTR | libc::EAGAIN => Err(Stop::Interrupted),
                            errno => Err(Stop::Errno(what, errno)),
                        };
                    }
                    _ => take(&message),
                }
            }
        }
    }
}
