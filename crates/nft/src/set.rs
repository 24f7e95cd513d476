//! Sets, maps and verdict maps: what they are declared as, and one element of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{Elements, Field, Name, Packed, Selector, SetField};

/// What a rule or an element decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// `accept`: done in this base chain, later hooks go on.
    Accept,
    /// `drop`.
    Drop,
    /// `return` to the calling chain, or to the policy.
    Return,
    /// `continue` with the next rule.
    Continue,
    /// `jump`: go on after this rule when that chain returns.
    Jump(Name),
    /// `goto`: go on where the calling chain would.
    Goto(Name),
}

impl Verdict {
    /// The chain this goes to.
    #[must_use]
    pub fn chain(&self) -> Option<&Name> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            Self::Accept | Self::Drop | Self::Return | Self::Continue => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Continue => f.write_str("continue"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// What a set maps its keys to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum SetData {
    /// Nothing: a plain set.
    #[default]
    None,
    /// Values: a map.
    Value(Vec<SetField>),
    /// Verdicts: a verdict map.
    Verdict,
}

impl SetData {
    /// Data that are values of these components.
    pub fn value<F: Into<SetField>>(fields: impl IntoIterator<Item = F>) -> Self {
        Self::Value(fields.into_iter().map(Into::into).collect())
    }
}

/// The flags of a set declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SetFlags {
    /// `interval`: keys are ranges.
    pub interval: bool,
    /// `dynamic`: rules add elements. Those are the kernel's: they are listed but never diffed.
    pub dynamic: bool,
    /// `timeout`: elements can expire.
    pub timeout: bool,
    /// `constant`: elements never change after the set is bound to a rule.
    pub constant: bool,
}

/// The declaration of a named set, map or verdict map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetSpec {
    /// The name.
    pub name: Name,
    /// The components of a key.
    pub key: Vec<SetField>,
    /// What keys map to.
    pub data: SetData,
    /// Flags.
    pub flags: SetFlags,
    /// How long an element lives when it does not say itself; millisecond resolution. Needs [`SetFlags::timeout`].
    pub timeout: Option<Duration>,
    /// The most elements the kernel will hold.
    pub size: Option<u32>,
    /// A comment `nft list` shows.
    pub comment: Option<String>,
}

impl SetSpec {
    /// A plain set with these key components.
    pub fn new<F: Into<SetField>>(name: Name, key: impl IntoIterator<Item = F>) -> Self {
        Self {
            name,
            key: key.into_iter().map(Into::into).collect(),
            data: SetData::None,
            flags: SetFlags::default(),
            timeout: None,
            size: None,
            comment: None,
        }
    }

    /// With data: a map or verdict map.
    #[must_use]
    pub fn with_data(mut self, data: SetData) -> Self {
        self.data = data;
        self
    }

    /// With flags.
    #[must_use]
    pub fn with_flags(mut self, flags: SetFlags) -> Self {
        self.flags = flags;
        self
    }

    /// With a size limit, in elements.
    #[must_use]
    pub fn with_size(mut self, size: u32) -> Self {
        self.size = Some(size);
        self
    }

    /// With a comment.
    #[must_use]
    pub fn with_comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    /// Types of the key's components.
    pub fn key_fields(&self) -> impl Iterator<Item = Field> + '_ {
        self.key.iter().map(SetField::field)
    }

    /// Types of the datum's components; none for sets and verdict maps.
    pub fn data_fields(&self) -> impl Iterator<Item = Field> + '_ {
        let fields: &[SetField] = match &self.data {
            SetData::Value(fields) => fields,
            SetData::None | SetData::Verdict => &[],
        };
        fields.iter().map(SetField::field)
    }

    /// Length of a key in bytes: every component padded to 4.
    #[must_use]
    pub fn key_len(&self) -> usize {
        self.key_fields().map(Field::padded_len).sum()
    }

    /// Length of a datum in bytes; 0 for sets and verdict maps.
    #[must_use]
    pub fn data_len(&self) -> usize {
        self.data_fields().map(Field::padded_len).sum()
    }

    /// Whether keys have more than one component.
    #[must_use]
    pub fn is_concatenation(&self) -> bool {
        self.key.len() > 1
    }

    /// Whether every component was given by example, so that the set prints as `typeof`. A jhash counts as given by
    /// type: `nft` 1.0.6 crashes when it lists a `typeof jhash`; say `numgen` for the slot number instead.
    #[must_use]
    pub fn is_typeof(&self) -> bool {
        let example = |field: &SetField| matches!(field, SetField::Typeof(it) if !matches!(it, Selector::Jhash { .. }));
        let data: &[SetField] = if let SetData::Value(fields) = &self.data { fields } else { &[] };
        self.key.iter().chain(data).all(example)
    }
}

/// What an element's key maps to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Data {
    /// Nothing: an element of a plain set.
    #[default]
    None,
    /// A value.
    Value(Packed),
    /// A verdict.
    Verdict(Verdict),
}

/// What few elements have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ElementExtra {
    /// The last key of a closed range, in sets with the interval flag; `None` means the key alone.
    pub end: Option<Packed>,
    /// How long the element lives after it was added or updated; millisecond resolution.
    pub timeout: Option<Duration>,
    /// A comment `nft list` shows; at most 127 bytes, or the kernel's user data would not hold it.
    pub comment: Option<Box<str>>,
}

/// One element of a set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// The key, or the first key of a range.
    pub key: Packed,
    /// What it maps to.
    pub data: Data,
    /// Range end, timeout, comment; most elements have none and pay one pointer.
    pub extra: Option<Box<ElementExtra>>,
}

impl Element {
    /// An element of a map.
    #[must_use]
    pub fn new(key: Packed, data: Data) -> Self {
        Self { key, data, extra: None }
    }

    /// An element of a plain set.
    #[must_use]
    pub fn key(key: Packed) -> Self {
        Self::new(key, Data::None)
    }

    /// An element of a verdict map.
    #[must_use]
    pub fn verdict(key: Packed, verdict: Verdict) -> Self {
        Self::new(key, Data::Verdict(verdict))
    }

    /// The same with a range end (closed).
    #[must_use]
    pub fn to(mut self, end: Packed) -> Self {
        if end != self.key {
            self.extra.get_or_insert_default().end = Some(end);
        }
        self
    }

    /// The same with a timeout.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.extra.get_or_insert_default().timeout = Some(timeout);
        self
    }

    /// The same with a comment.
    #[must_use]
    pub fn with_comment(mut self, comment: &str) -> Self {
        self.extra.get_or_insert_default().comment = Some(comment.into());
        self
    }

    /// The end of the range, when it has one.
    #[must_use]
    pub fn end(&self) -> Option<&Packed> {
        self.extra.as_ref()?.end.as_ref()
    }

    /// The timeout, when it has one of its own.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.extra.as_ref()?.timeout
    }

    /// The comment.
    #[must_use]
    pub fn comment(&self) -> Option<&str> {
        self.extra.as_ref()?.comment.as_deref()
    }
}

/// A set with its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The declaration; shared with the operations that name this set.
    pub spec: Arc<SetSpec>,
    /// The elements.
    pub elements: Elements,
}

impl Set {
    /// An empty set.
    #[must_use]
    pub fn new(spec: impl Into<Arc<SetSpec>>) -> Self {
        let spec = spec.into();
        Self { elements: Elements::new(&spec), spec }
    }
}
