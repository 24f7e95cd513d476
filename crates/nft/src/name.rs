//! Names of tables, chains and sets: what `nft` can read back without quoting.

use std::fmt;
use std::sync::Arc;

/// The longest name the kernel takes (`NFT_NAME_MAXLEN` less the terminating NUL), in bytes.
const NAME_MAX: usize = 255;

/// The name of a table, chain or set; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a string cannot name an nf_tables object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The empty string.
    #[error("an nf_tables name cannot be empty")]
    Empty,
    /// Longer than the kernel takes.
    #[error("nf_tables name {name:?} has {length} bytes, the kernel takes {NAME_MAX}")]
    TooLong {
        /// The refused name.
        name: String,
        /// Its length in bytes.
        length: usize,
    },
    /// A character the `nft` grammar does not take at this place.
    #[error(
        "nf_tables name {name:?} has {character:?} at byte {at}: nft reads a letter, `_` or `.` first, then also digits, `-` and `/`"
    )]
    Character {
        /// The refused name.
        name: String,
        /// The first offending character.
        character: char,
        /// Its byte offset.
        at: usize,
    },
    /// A word of the `nft` grammar: the kernel would take it, and no `nft` could read the listing back.
    #[error("nf_tables name {name:?} is a keyword of nft; choose another")]
    Keyword {
        /// The refused name.
        name: String,
    },
}

impl Name {
    /// Checks and makes a name.
    ///
    /// # Errors
    /// [`NameError`] when the kernel or the `nft` grammar cannot take it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > NAME_MAX {
            return Err(NameError::TooLong { name: name.to_owned(), length: name.len() });
        }
        for (at, character) in name.char_indices() {
            let first = character.is_ascii_alphabetic() || matches!(character, '_' | '.');
            let later = first || character.is_ascii_digit() || matches!(character, '-' | '/');
            if (at == 0 && !first) || !later {
                return Err(NameError::Character { name: name.to_owned(), character, at });
            }
        }
        if KEYWORDS.binary_search(&name).is_ok() {
            return Err(NameError::Keyword { name: name.to_owned() });
        }
        Ok(Self(name.into()))
    }

    /// A name the kernel gave us: whatever it is, it exists.
    pub(crate) fn listed(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Words `nft` 1.0–1.1 reads as keywords wherever a name may stand; sorted.
const KEYWORDS: [&str; 96] = [
    "accept",
    "add",
    "ah",
    "and",
    "arp",
    "auto-merge",
    "bridge",
    "bytes",
    "chain",
    "chains",
    "comment",
    "comp",
    "constant",
    "continue",
    "counter",
    "create",
    "ct",
    "day",
    "dccp",
    "delete",
    "describe",
    "destroy",
    "devgroup",
    "dnat",
    "drop",
    "dst",
    "dup",
    "dynamic",
    "element",
    "elements",
    "esp",
    "eth",
    "ether",
    "exthdr",
    "fib",
    "flags",
    "flow",
    "flush",
    "fwd",
    "get",
    "goto",
    "hash",
    "hour",
    "icmp",
    "icmpv6",
    "igmp",
    "import",
    "inet",
    "insert",
    "interval",
    "ip",
    "ip6",
    "ipsec",
    "jhash",
    "jump",
    "last",
    "limit",
    "list",
    "log",
    "map",
    "maps",
    "mark",
    "masquerade",
    "meta",
    "meter",
    "mh",
    "monitor",
    "netdev",
    "notrack",
    "numgen",
    "object",
    "or",
    "osf",
    "policy",
    "queue",
    "quota",
    "redirect",
    "reject",
    "rename",
    "replace",
    "reset",
    "return",
    "rt",
    "rule",
    "rules",
    "sctp",
    "set",
    "sets",
    "snat",
    "socket",
    "symhash",
    "synproxy",
    "table",
    "tables",
    "tcp",
    "xor",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_sorted_and_refused() {
        assert!(KEYWORDS.is_sorted());
        assert_eq!(Name::new("accept"), Err(NameError::Keyword { name: "accept".into() }));
        assert!(Name::new("accept-all").is_ok());
    }

    #[test]
    fn what_nft_cannot_read_is_refused() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert!(matches!(Name::new("4a"), Err(NameError::Character { at: 0, character: '4', .. })));
        assert!(matches!(Name::new("a b"), Err(NameError::Character { at: 1, .. })));
        assert!(matches!(Name::new(&"a".repeat(256)), Err(NameError::TooLong { length: 256, .. })));
        assert_eq!(Name::new("affine4-slot-0").unwrap().to_string(), "affine4-slot-0");
    }
}
