//! Records as zone files and `dig` write them.

use std::fmt;

use crate::query::{code, kind};
use crate::reply::Data;

/// The mnemonic of a type; `TYPE1234` without one (RFC 3597).
#[must_use]
pub fn kind_name(kind: u16) -> String {
    match KINDS.iter().find(|(_, number)| *number == kind) {
        Some((name, _)) => (*name).into(),
        None => format!("TYPE{kind}"),
    }
}

/// The type of a mnemonic, whatever its case.
#[must_use]
pub fn kind_of(name: &str) -> Option<u16> {
    let known = KINDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    known.map(|(_, number)| *number).or_else(|| {
        let (prefix, number) = name.split_at_checked(4)?;
        prefix.eq_ignore_ascii_case("TYPE").then(|| number.parse().ok()).flatten()
    })
}

/// The mnemonic of a response code.
#[must_use]
pub fn code_name(code: u16) -> String {
    match CODES.iter().find(|(_, number)| *number == code) {
        Some((name, _)) => (*name).into(),
        None => format!("RCODE{code}"),
    }
}

/// The response code of a mnemonic, whatever its case.
#[must_use]
pub fn code_of(name: &str) -> Option<u16> {
    CODES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, number)| *number)
}

const KINDS: [(&str, u16); 24] = [
    ("A", kind::A),
    ("NS", kind::NS),
    ("CNAME", kind::CNAME),
    ("SOA", kind::SOA),
    ("PTR", kind::PTR),
    ("HINFO", kind::HINFO),
    ("MX", kind::MX),
    ("TXT", kind::TXT),
    ("AAAA", kind::AAAA),
    ("SRV", kind::SRV),
    ("NAPTR", 35),
    ("DNAME", 39),
    ("OPT", kind::OPT),
    ("DS", 43),
    ("RRSIG", 46),
    ("NSEC", 47),
    ("DNSKEY", 48),
    ("NSEC3", 50),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("IXFR", kind::IXFR),
    ("AXFR", kind::AXFR),
    ("ANY", kind::ANY),
    ("CAA", 257),
];

const CODES: [(&str, u16); 8] = [
    ("NOERROR", code::NOERROR),
    ("FORMERR", code::FORMERR),
    ("SERVFAIL", code::SERVFAIL),
    ("NXDOMAIN", code::NXDOMAIN),
    ("NOTIMP", code::NOTIMP),
    ("REFUSED", code::REFUSED),
    ("BADVERS", code::BADVERS),
    ("BADCOOKIE", code::BADCOOKIE),
];

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A(address) => address.fmt(f),
            Self::Aaaa(address) => address.fmt(f),
            Self::Cname(name) | Self::Ns(name) | Self::Ptr(name) => write!(f, "{name}."),
            Self::Srv { priority, weight, port, target } => {
                write!(f, "{priority} {weight} {port} {target}.")
            }
            Self::Txt(strings) => {
                for (at, string) in strings.iter().enumerate() {
                    let space = if at > 0 { " " } else { "" };
                    write!(f, "{space}\"")?;
                    for &byte in string.iter() {
                        match byte {
                            b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                            b' '..=b'~' => write!(f, "{}", char::from(byte))?,
                            _ => write!(f, "\\{byte:03}")?,
                        }
                    }
                    f.write_str("\"")?;
                }
                Ok(())
            }
            Self::Soa(soa) => write!(
                f,
                "{}. {}. {} {} {} {} {}",
                soa.server,
                soa.mailbox,
                soa.serial,
                soa.refresh,
                soa.retry,
                soa.expire,
                soa.minimum
            ),
            Self::Other(_, bytes) => {
                write!(f, "\\# {}", bytes.len())?;
                for (at, byte) in bytes.iter().enumerate() {
                    write!(f, "{}{byte:02X}", if at == 0 { " " } else { "" })?;
                }
                Ok(())
            }
        }
    }
}
