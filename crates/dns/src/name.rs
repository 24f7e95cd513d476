//! Domain names in wire form (RFC 1035 §3.1): length-prefixed labels, at most 255 octets with the root. The case of a name
//! is kept; comparison ignores it where a method says so (RFC 4343).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name, with its root label.
pub const MAX_NAME: usize = 255;
/// The longest label.
pub const MAX_LABEL: usize = 63;

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A label of no octets.
    #[error("a label of {0:?} is empty")]
    EmptyLabel(String),
    /// A label longer than 63 octets.
    #[error("a label of {0:?} is longer than 63 octets")]
    LongLabel(String),
    /// More than 255 octets.
    #[error("{0:?} is longer than 255 octets")]
    LongName(String),
    /// A backslash that begins no escape.
    #[error("{0:?} has a backslash that escapes nothing")]
    BadEscape(String),
}

/// A whole name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The root.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// A name of its text; a dot at the end changes nothing. `\.` is a dot inside a label, `\065` an octet.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let said = || text.chars().take(80).collect::<String>();
        if text == "." || text.is_empty() {
            return Ok(Self::root());
        }
        let mut wire = Vec::with_capacity(text.len() + 2);
        let mut label = Vec::new();
        let mut bytes = text.bytes();
        loop {
            let byte = bytes.next();
            match byte {
                None | Some(b'.') => {
                    if label.is_empty() {
                        return Err(NameError::EmptyLabel(said()));
                    }
                    let length = u8::try_from(label.len()).unwrap_or(u8::MAX);
                    if usize::from(length) > MAX_LABEL {
                        return Err(NameError::LongLabel(said()));
                    }
                    wire.push(length);
                    wire.append(&mut label);
                    if byte.is_none() || bytes.len() == 0 {
                        break;
                    }
                }
                Some(b'\\') => {
                    let bad = || NameError::BadEscape(said());
                    let first = bytes.next().ok_or_else(bad)?;
                    if first.is_ascii_digit() {
                        let rest = [bytes.next(), bytes.next()];
                        let [Some(second), Some(third)] = rest else { return Err(bad()) };
                        let digits = [first, second, third];
                        let number = std::str::from_utf8(&digits).ok();
                        label.push(number.and_then(|n| n.parse().ok()).ok_or_else(bad)?);
                    } else {
                        label.push(first);
                    }
                }
                Some(byte) => label.push(byte),
            }
        }
        wire.push(0);
        if wire.len() > MAX_NAME {
            return Err(NameError::LongName(said()));
        }
        Ok(Self(wire.into()))
    }

    /// A name of labels, or `None` when they are too long or empty.
    #[must_use]
    pub fn of_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            wire.push(u8::try_from(label.len()).ok()?);
            wire.extend_from_slice(label);
        }
        wire.push(0);
        (wire.len() <= MAX_NAME).then(|| Self(wire.into()))
    }

    /// A name of its wire form, without pointers; `None` when it is none.
    #[must_use]
    pub fn of_wire(wire: &[u8]) -> Option<Self> {
        let mut at = 0;
        loop {
            let length = usize::from(*wire.get(at)?);
            at += 1 + length;
            match length {
                0 => break,
                1..=MAX_LABEL => {}
                _ => return None,
            }
        }
        (at == wire.len() && at <= MAX_NAME).then(|| Self(wire.into()))
    }

    /// The labels of `below`, then this name; `None` when that is too long.
    #[must_use]
    pub fn below(&self, below: &[&[u8]]) -> Option<Self> {
        Self::of_labels(below.iter().copied().chain(self.labels()))
    }

    /// The wire form, root label last.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels, the root left out.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> + Clone {
        labels(&self.0)
    }

    /// In lower case.
    #[must_use]
    pub fn lower(&self) -> Self {
        Self(self.0.to_ascii_lowercase().into())
    }

    /// Whether this name is `zone` or below it, whatever the case.
    #[must_use]
    pub fn is_within(&self, zone: &Self) -> bool {
        is_within(&self.0, &zone.0)
    }

    /// Whether both are the same, whatever the case.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }

    /// The name under which an address has its PTR records (RFC 1035 §3.5, RFC 3596 §2.5).
    #[must_use]
    pub fn reverse(address: IpAddr) -> Self {
        let text = match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(v6) => {
                let nibbles = v6.octets().into_iter().rev();
                let mut text: String =
                    nibbles.map(|octet| format!("{:x}.{:x}.", octet & 15, octet >> 4)).collect();
                text.push_str("ip6.arpa");
                text
            }
        };
        Self::parse(&text).expect("invariant: reverse names are names")
    }
}

/// The labels of a wire form.
pub(crate) fn labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let (&length, after) = rest.split_first()?;
        let (label, after) = after.split_at_checked(usize::from(length))?;
        rest = after;
        (length > 0).then_some(label)
    })
}

/// Whether the name `wire` is `zone` or below it, both in wire form.
pub(crate) fn is_within(wire: &[u8], zone: &[u8]) -> bool {
    let Some(above) = wire.len().checked_sub(zone.len()) else { return false };
    if !wire[above..].eq_ignore_ascii_case(zone) {
        return false;
    }
    // The tail must begin where a label does.
    let mut at = 0;
    while at < above {
        at += 1 + usize::from(wire[at]);
    }
    at == above
}

/// The address a reverse name stands for; `None` for other names, and for those of whole networks.
pub(crate) fn address_of_reverse(wire: &[u8]) -> Option<IpAddr> {
    let mut parts = [&[][..]; 34];
    let mut count = 0;
    for label in labels(wire) {
        *parts.get_mut(count)? = label;
        count += 1;
    }
    let (last, rest) = parts[..count].split_last()?;
    let (kind, digits) = rest.split_last()?;
    if !last.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    if kind.eq_ignore_ascii_case(b"in-addr") && digits.len() == 4 {
        let mut octets = [0; 4];
        for (octet, label) in octets.iter_mut().rev().zip(digits) {
            // As the name must have been written: no sign, no leading zero.
            let text = std::str::from_utf8(label).ok()?;
            *octet = text.parse().ok()?;
            if octet.to_string() != text {
                return None;
            }
        }
        return Some(Ipv4Addr::from(octets).into());
    }
    if kind.eq_ignore_ascii_case(b"ip6") && digits.len() == 32 {
        let mut value = 0u128;
        for label in digits.iter().rev() {
            let [digit] = label else { return None };
            value = value << 4 | u128::from(char::from(*digit).to_digit(16)?);
        }
        return Some(Ipv6Addr::from(value).into());
    }
    None
}

/// Writes the text of a wire form, without a final dot unless it is the root.
pub(crate) fn write_text(wire: &[u8], f: &mut impl fmt::Write) -> fmt::Result {
    let mut first = true;
    for label in labels(wire) {
        if !first {
            f.write_char('.')?;
        }
        first = false;
        for &byte in label {
            match byte {
                b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                0x21..=0x7e => f.write_char(char::from(byte))?,
                _ => write!(f, "\\{byte:03}")?,
            }
        }
    }
    if first { f.write_char('.') } else { Ok(()) }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(&self.0, f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(&self.0, f)
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    #[test]
    fn text_and_wire() {
        assert_eq!(name("a.Bc.").wire(), b"\x01a\x02Bc\x00");
        assert_eq!(name("a.Bc").to_string(), "a.Bc");
        assert_eq!(name(".").to_string(), ".");
        assert_eq!(name(r"a\.b.c\000").to_string(), r"a\.b.c\000");
        assert!(matches!(Name::parse("a..b"), Err(NameError::EmptyLabel(_))));
        assert!(matches!(Name::parse(&"a".repeat(64)), Err(NameError::LongLabel(_))));
        assert!(matches!(Name::parse(&"abc.".repeat(64)), Err(NameError::LongName(_))));
        assert!(matches!(Name::parse(r"a\25"), Err(NameError::BadEscape(_))));
        assert_eq!(Name::of_wire(b"\x01a\x00x"), None);
        assert_eq!(Name::of_wire(b"\xc0\x0c"), None);
    }

    #[test]
    fn being_within_a_zone_goes_by_labels() {
        let zone = name("cluster.local");
        assert!(name("a.Cluster.LOCAL").is_within(&zone) && zone.is_within(&zone));
        assert!(!name("xcluster.local").is_within(&zone) && !name("local").is_within(&zone));
        // A label that looks like the zone's wire form.
        assert!(!name(r"a\007cluster.local").is_within(&zone));
        assert!(name("a").is_within(&Name::root()));
    }

    #[test]
    fn reverse_names_go_both_ways() {
        for text in ["10.3.0.1", "2001:db8::1", "::"] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(address_of_reverse(Name::reverse(address).wire()), Some(address));
        }
        assert_eq!(address_of_reverse(name("01.0.3.10.in-addr.arpa").wire()), None);
        assert_eq!(address_of_reverse(name("3.10.in-addr.arpa").wire()), None);
    }
}
