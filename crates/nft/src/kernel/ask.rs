//! Elements by their keys. A dump of a set starts its walk anew for every message, so it costs the square of the set;
//! asking costs one lookup per key, misses nothing while the kernel grows the set's hash table, and tells nothing about
//! elements nobody asks for: who needs to know compares counts.

use std::io;

use super::Netlink;
use super::list::{Stop, socket_error};
use crate::wire::attr::{Messages, Writer, refusal};
use crate::wire::decode::ElementReader;
use crate::wire::encode::{ELEMENTS_CHUNK, encode_key, wire_key_len};
use crate::wire::message_type;
use crate::wire::number::{self, NLM_F_ACK, NLM_F_REQUEST};
use crate::{Elements, Family, Name, Packed, SetSpec};

/// Most keys of one question: their answers, one datagram each, must fit into the receive buffer together.
const MOST: usize = 2048;
/// What one answer takes of the receive buffer: the kernel counts its own structures too.
const ANSWER: usize = 2048;
/// Fewest keys of one question. A key that is not there ends the question, and what follows it is asked anew.
const FEWEST: usize = 16;

/// How one question ended.
enum Ended {
    /// Every key was answered.
    Whole,
    /// After so many answers came a key that is not there.
    Missing(usize),
    /// After so many answers the receive buffer was full.
    Full(usize),
}

/// The elements of a set that have one of `keys`. The set must be one of plain keys, without ranges.
pub(super) fn ask(
    kernel: &mut Netlink,
    family: Family,
    table: &Name,
    spec: &SetSpec,
    keys: &[Packed],
) -> Result<Elements, Stop> {
    let mut reader = ElementReader::new(spec);
    reader.reserve(keys.len());
    let most = (kernel.socket.receive_buffer() / ANSWER).clamp(1, MOST);
    let (mut at, mut size) = (0, most);
    while at < keys.len() {
        let end = keys.len().min(at + size);
        match question(kernel, family, table, spec, &keys[at..end], &mut reader)? {
            (Ended::Whole, asked) => {
                at += asked;
                size = (size * 2).min(most);
            }
            (Ended::Missing(answers), _) => {
                at += answers + 1;
                size = (size / 2).max(FEWEST.min(most));
            }
            (Ended::Full(0), _) if size == 1 => {
                return Err(Stop::Errno("elements", libc::ENOBUFS));
            }
            (Ended::Full(answers), _) => {
                at += answers;
                size = (size / 2).max(1);
            }
        }
    }
    Ok(reader.finish())
}

/// Asks for as many of `keys` as one message holds; says how it ended, and how many keys it asked for.
fn question(
    kernel: &mut Netlink,
    family: Family,
    table: &Name,
    spec: &SetSpec,
    keys: &[Packed],
    reader: &mut ElementReader,
) -> Result<(Ended, usize), Stop> {
    let sequence = kernel.next_sequence(0);
    let mut w = Writer::default();
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    let open = w.message(message_type(number::GETSETELEM), flags, sequence, family.number(), 0);
    w.string(1, table.as_str());
    w.string(2, spec.name.as_str());
    let before_keys = w.bytes.len() as u32;
    let list = w.nest(3);
    let key_len = wire_key_len(spec);
    let mut asked = 0;
    while asked < keys.len() && w.length_since(list) < ELEMENTS_CHUNK {
        encode_key(&mut w, &keys[asked], key_len);
        asked += 1;
    }
    w.end_nest(list);
    w.end_message(open);
    let failed = socket_error("elements");
    kernel.socket.send(&w.bytes).map_err(&failed)?;
    // All answers are there when the question was taken. The last one says how it went; it is missing if it found no room.
    let mut answers = 0;
    let (mut ended, mut place) = (None, None);
    loop {
        let received = kernel.socket.receive_many(|datagram| {
            for message in Messages(datagram).filter(|message| message.sequence == sequence) {
                if message.kind == number::NLMSG_ERROR {
                    let refusal = refusal(&message);
                    place = refusal.as_ref().and_then(|it| it.offset);
                    ended = Some(refusal.map_or(libc::EBADMSG, |it| it.errno));
                } else {
                    answers += 1;
                    reader.read(message.attributes());
                }
            }
        });
        match received {
            Ok(0) => break,
            Ok(_) => {}
            // The kernel's way to say that something found no room.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => ended = None,
            Err(error) => return Err(failed(error)),
        }
    }
    match ended {
        Some(0) if answers == asked => Ok((Ended::Whole, asked)),
        // Not the table or the set: those stand before the keys.
        Some(libc::ENOENT) if answers < asked && place.is_none_or(|at| at >= before_keys) => {
            Ok((Ended::Missing(answers), asked))
        }
        None | Some(libc::ENOBUFS) if answers <= asked => Ok((Ended::Full(answers), asked)),
        Some(errno) if errno != 0 => Err(Stop::Errno("elements", errno)),
        _ => Err(failed(io::Error::from_raw_os_error(libc::EBADMSG))),
    }
}
