//! Traffic control in the kernel's form (linux/pkt_sched.h, linux/pkt_cls.h): queueing disciplines and
//! the one filter used here.

use netlink_packet_core::{DefaultNla, Nla as _, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use crate::{LinkIndex, Redirect, TokenBucket};

/// TCA_OPTIONS.
const OPTIONS: u16 = 2;
/// TCA_TBF_*.
const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;
/// TC_LINKLAYER_ETHERNET: packets count as long as they are.
const LINKLAYER_ETHERNET: u8 = 1;
/// TCA_U32_SEL, TCA_U32_ACT.
const U32_SEL: u16 = 5;
const U32_ACT: u16 = 7;
/// TC_U32_TERMINAL: a packet that matches is decided on.
const U32_TERMINAL: u8 = 1;
/// TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_MIRRED_PARMS.
const ACT_KIND: u16 = 1;
const ACT_OPTIONS: u16 = 2;
const MIRRED_PARMS: u16 = 2;
/// TC_ACT_STOLEN, TCA_EGRESS_REDIR.
const ACT_STOLEN: i32 = 4;
const EGRESS_REDIRECT: i32 = 1;
/// ETH_P_ALL, and the priority `tc` gives a first filter.
const ETH_P_ALL: u16 = 3;
const PRIORITY: u32 = 1;

/// `1:`.
const FIRST: TcHandle = TcHandle { major: 1, minor: 0 };
/// `ffff:`.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };

fn nla(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn message(device: LinkIndex, kind: &str, options: Vec<u8>) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(device).unwrap_or_default();
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    if !options.is_empty() {
        message.attributes.push(TcAttribute::Other(DefaultNla::new(OPTIONS, options)));
    }
    message
}

pub(super) fn token_bucket(bucket: &TokenBucket) -> Message {
    // struct tc_tbf_qopt: rate, peak rate (each a tc_ratespec), limit, buffer, mtu.
    let mut parms = Vec::with_capacity(36);
    parms.extend([0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0]);
    parms.extend(u32::try_from(bucket.rate).unwrap_or(u32::MAX).to_ne_bytes());
    parms.extend([0; 12]);
    parms.extend(bucket.limit().to_ne_bytes());
    parms.extend([0; 8]);
    let mut options = Vec::new();
    nla(&mut options, TBF_PARMS, &parms);
    if u32::try_from(bucket.rate).is_err() {
        nla(&mut options, TBF_RATE64, &bucket.rate.to_ne_bytes());
    }
    nla(&mut options, TBF_BURST, &bucket.burst.to_ne_bytes());
    let mut message = message(bucket.device, "tbf", options);
    message.header.parent = TcHandle::ROOT;
    message.header.handle = FIRST;
    Message::NewQueueDiscipline(message)
}

/// The place a filter on what a link receives hangs at.
pub(super) fn ingress(device: LinkIndex) -> Message {
    let mut message = message(device, "ingress", Vec::new());
    message.header.parent = TcHandle::INGRESS;
    message.header.handle = INGRESS;
    Message::NewQueueDiscipline(message)
}

pub(super) fn redirect(redirect: &Redirect) -> Message {
    // struct tc_u32_sel with one key that matches anything.
    let mut select = vec![U32_TERMINAL, 0, 1, 0];
    select.resize(16 + 16, 0);
    // struct tc_mirred: index, capabilities, action, two counts, what to do, where to.
    let mut mirred = vec![0; 8];
    mirred.extend(ACT_STOLEN.to_ne_bytes());
    mirred.extend([0; 8]);
    mirred.extend(EGRESS_REDIRECT.to_ne_bytes());
    mirred.extend(redirect.to.to_ne_bytes());
    let (mut parms, mut action, mut actions, mut options) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    nla(&mut parms, MIRRED_PARMS, &mirred);
    nla(&mut action, ACT_KIND, b"mirred\0");
    nla(&mut action, ACT_OPTIONS, &parms);
    nla(&mut actions, 1, &action);
    nla(&mut options, U32_SEL, &select);
    nla(&mut options, U32_ACT, &actions);
    let mut message = message(redirect.from, "u32", options);
    message.header.parent = INGRESS;
    message.header.info = (PRIORITY << 16) | u32::from(ETH_P_ALL.to_be());
    Message::NewTrafficFilter(message)
}

pub(super) fn list(device: LinkIndex) -> Message {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(device).unwrap_or_default();
    Message::GetQueueDiscipline(message)
}

/// A token bucket, when the message is about one.
pub(super) fn read_token_bucket(message: &TcMessage) -> Option<TokenBucket> {
    let is_tbf = |it: &TcAttribute| matches!(it, TcAttribute::Kind(kind) if kind == "tbf");
    if !message.attributes.iter().any(is_tbf) {
        return None;
    }
    let options = message.attributes.iter().find_map(|it| match it {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    // The decoder leaves the options of kinds it does not know in one piece.
    let mut bytes = Vec::new();
    if let Some(TcOption::Other(nla)) = options.first() {
        bytes.resize(nla.value_len(), 0);
        nla.emit_value(&mut bytes);
    }
    let value = |wanted: u16| {
        let mut attributes = NlasIterator::new(bytes.as_slice()).flatten();
        attributes.find(|nla| nla.kind() == wanted).map(|nla| nla.value().to_vec())
    };
    let parms = value(TBF_PARMS)?;
    let number =
        |at: usize| parms.get(at..at + 4).and_then(|it| it.try_into().ok()).map(u32::from_ne_bytes);
    let rate64 = value(TBF_RATE64).and_then(|it| it.try_into().ok()).map(u64::from_ne_bytes);
    let rate = rate64.unwrap_or(u64::from(number(8)?));
    // The kernel keeps the burst as the time it takes, in ticks of 64 ns.
    let buffer = u128::from(number(28)?) * 64;
    let burst = (buffer * u128::from(rate) + 500_000_000) / 1_000_000_000;
    let device = LinkIndex::try_from(message.header.index).ok()?;
    Some(TokenBucket { device, rate, burst: u32::try_from(burst).unwrap_or(u32::MAX) })
}
