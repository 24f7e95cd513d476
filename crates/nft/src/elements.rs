//! The elements of one set, packed: a record is the key's and the datum's bytes, beside a table of 4-byte indices.
//!
//! A map from a 12-byte key to an 8-byte datum costs about 28 bytes per element, where a `HashMap` of values would
//! cost five times that; a cluster's elements are held twice (wanted and listed), so it counts.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::{Data, Element, ElementExtra, Packed, SetData, SetSpec, Verdict};

/// Why an element cannot be in a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElementError {
    /// The key (or range end) has another length than the set's.
    #[error("a key of {found} bytes in a set whose keys have {expected}")]
    KeyLength {
        /// Bytes of the set's keys.
        expected: usize,
        /// Bytes of this one.
        found: usize,
    },
    /// The datum has another length than the set's, or the set has none.
    #[error("a datum of {found} bytes in a set whose data have {expected}")]
    DataLength {
        /// Bytes of the set's data; 0 for plain sets and verdict maps.
        expected: usize,
        /// Bytes of this one.
        found: usize,
    },
    /// A verdict in a set that is no verdict map, or none in one that is.
    #[error("an element {}a verdict in a set that is {}a verdict map", if *verdict { "with " } else { "without " }, if *verdict { "not " } else { "" })]
    Verdict {
        /// Whether the element has a verdict.
        verdict: bool,
    },
    /// A range in a set without the interval flag, or one that ends before it begins.
    #[error("a range that {}", if *backwards { "ends before it begins" } else { "is in a set without intervals" })]
    Range {
        /// Whether the set could hold a range.
        backwards: bool,
    },
}

/// The elements of one set, by key.
#[derive(Clone)]
pub struct Elements {
    key_len: usize,
    data_len: usize,
    is_vmap: bool,
    is_interval: bool,
    records: Vec<u8>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    verdicts: Vec<Option<(Verdict, u32)>>,
    verdict_ids: HashMap<Verdict, u32>,
    extras: HashMap<u32, Box<ElementExtra>>,
}

/// The datum of a record, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Datum<'a> {
    None,
    Value(&'a [u8]),
    Verdict(&'a Verdict),
}

/// One element, borrowed from its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) datum: Datum<'a>,
    pub(crate) extra: Option<&'a ElementExtra>,
}

impl Record<'_> {
    pub(crate) fn to_element(self) -> Element {
        let packed =
            |bytes| Packed::from_bytes(bytes).expect("invariant: a record holds packed values");
        let data = match self.datum {
            Datum::None => Data::None,
            Datum::Value(bytes) => Data::Value(packed(bytes)),
            Datum::Verdict(verdict) => Data::Verdict(verdict.clone()),
        };
        Element {
            key: packed(self.key),
            data,
            extra: self.extra.map(|extra| Box::new(extra.clone())),
        }
    }
}

impl Elements {
    /// No elements yet, of the shape `spec` declares.
    #[must_use]
    pub fn new(spec: &SetSpec) -> Self {
        Self {
            key_len: spec.key_len(),
            data_len: spec.data_len(),
            is_vmap: spec.data == SetData::Verdict,
            is_interval: spec.flags.interval,
            records: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            verdicts: Vec::new(),
            verdict_ids: HashMap::new(),
            extras: HashMap::new(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Makes room for this many more.
    pub fn reserve(&mut self, additional: usize) {
        self.records.reserve(additional * self.stride());
        let (records, stride, key_len, hasher) =
            (&self.records, self.stride(), self.key_len, &self.hasher);
        self.index.reserve(additional, |at| {
            let start = *at as usize * stride;
            hasher.hash_one(&records[start..start + key_len])
        });
    }

    /// Adds an element, or replaces the one with the same key and gives that back.
    ///
    /// # Errors
    /// [`ElementError`] when its shape is not the set's.
    pub fn insert(&mut self, element: &Element) -> Result<Option<Element>, ElementError> {
        self.check(element)?;
        let old = self.remove(&element.key);
        let at = u32::try_from(self.len()).expect("invariant: a set has fewer than 2^32 elements");
        self.records.extend_from_slice(element.key.as_bytes());
        match &element.data {
            Data::None => {}
            Data::Value(datum) => self.records.extend_from_slice(datum.as_bytes()),
            Data::Verdict(verdict) => {
                let id = self.intern(verdict);
                self.records.extend_from_slice(&id.to_ne_bytes());
            }
        }
        if let Some(extra) = &element.extra
            && **extra != ElementExtra::default()
        {
            self.extras.insert(at, extra.clone());
        }
        let hash = self.hasher.hash_one(element.key.as_bytes());
        let (records, stride, key_len, hasher) =
            (&self.records, self.stride(), self.key_len, &self.hasher);
        self.index.insert_unique(hash, at, |at| {
            let start = *at as usize * stride;
            hasher.hash_one(&records[start..start + key_len])
        });
        Ok(old)
    }

    /// Removes the element with this key and gives it back.
    pub fn remove(&mut self, key: &Packed) -> Option<Element> {
        let at = self.find(key.as_bytes())?;
        let element = self.record(at).to_element();
        let last = self.len() as u32 - 1;
        let hash = self.hasher.hash_one(key.as_bytes());
        if let Ok(entry) = self.index.find_entry(hash, |found| *found == at) {
            entry.remove();
        }
        self.extras.remove(&at);
        if let Data::Verdict(verdict) = &element.data {
            self.release(verdict);
        }
        let stride = self.stride();
        if at != last {
            let from = last as usize * stride;
            let moved = self.hasher.hash_one(&self.records[from..from + self.key_len]);
            if let Some(found) = self.index.find_mut(moved, |found| *found == last) {
                *found = at;
            }
            self.records.copy_within(from..from + stride, at as usize * stride);
            if let Some(extra) = self.extras.remove(&last) {
                self.extras.insert(at, extra);
            }
        }
        self.records.truncate(last as usize * stride);
        Some(element)
    }

    /// The element with this key.
    #[must_use]
    pub fn get(&self, key: &Packed) -> Option<Element> {
        self.lookup(key.as_bytes()).map(Record::to_element)
    }

    /// Whether there is an element with this key.
    #[must_use]
    pub fn contains(&self, key: &Packed) -> bool {
        self.find(key.as_bytes()).is_some()
    }

    /// All elements, in no particular order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Element> + '_ {
        (0..self.len() as u32).map(|at| self.record(at).to_element())
    }

    /// The keys of all elements, in no particular order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = Packed> + '_ {
        (0..self.len() as u32).map(|at| {
            Packed::from_bytes(self.record(at).key)
                .expect("invariant: a record holds packed values")
        })
    }

    /// All elements, ordered by the bytes of their keys.
    #[must_use]
    pub fn sorted(&self) -> Vec<Element> {
        self.sorted_records().into_iter().map(Record::to_element).collect()
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.records.clear();
        self.index.clear();
        self.verdicts.clear();
        self.verdict_ids.clear();
        self.extras.clear();
    }

    pub(crate) fn sorted_records(&self) -> Vec<Record<'_>> {
        let mut records: Vec<_> = self.records().collect();
        records.sort_unstable_by_key(|record| record.key);
        records
    }

    pub(crate) fn records(&self) -> impl ExactSizeIterator<Item = Record<'_>> + '_ {
        (0..self.len() as u32).map(|at| self.record(at))
    }

    pub(crate) fn lookup(&self, key: &[u8]) -> Option<Record<'_>> {
        self.find(key).map(|at| self.record(at))
    }

    pub(crate) fn check(&self, element: &Element) -> Result<(), ElementError> {
        for key in [Some(&element.key), element.end()].into_iter().flatten() {
            if key.len() != self.key_len {
                return Err(ElementError::KeyLength { expected: self.key_len, found: key.len() });
            }
        }
        if let Some(end) = element.end() {
            let backwards = *end < element.key;
            if backwards || !self.is_interval {
                return Err(ElementError::Range { backwards });
            }
        }
        match &element.data {
            Data::Verdict(_) if self.is_vmap => Ok(()),
            Data::Verdict(_) => Err(ElementError::Verdict { verdict: true }),
            _ if self.is_vmap => Err(ElementError::Verdict { verdict: false }),
            Data::None if self.data_len == 0 => Ok(()),
            Data::Value(datum) if self.data_len != 0 && datum.len() == self.data_len => Ok(()),
            Data::None => Err(ElementError::DataLength { expected: self.data_len, found: 0 }),
            Data::Value(datum) => {
                Err(ElementError::DataLength { expected: self.data_len, found: datum.len() })
            }
        }
    }

    fn stride(&self) -> usize {
        self.key_len + if self.is_vmap { 4 } else { self.data_len }
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        let stride = self.stride();
        let hash = self.hasher.hash_one(key);
        self.index
            .find(hash, |at| {
                let start = *at as usize * stride;
                &self.records[start..start + self.key_len] == key
            })
            .copied()
    }

    fn record(&self, at: u32) -> Record<'_> {
        let start = at as usize * self.stride();
        let (key, datum) = self.records[start..start + self.stride()].split_at(self.key_len);
        let datum = if self.is_vmap {
            let id = u32::from_ne_bytes(
                datum.try_into().expect("invariant: a verdict id has four bytes"),
            );
            let slot = self.verdicts[id as usize].as_ref();
            Datum::Verdict(&slot.expect("invariant: a used verdict is kept").0)
        } else if datum.is_empty() {
            Datum::None
        } else {
            Datum::Value(datum)
        };
        Record { key, datum, extra: self.extras.get(&at).map(|extra| &**extra) }
    }

    fn intern(&mut self, verdict: &Verdict) -> u32 {
        if let Some(id) = self.verdict_ids.get(verdict) {
            if let Some((_, uses)) = &mut self.verdicts[*id as usize] {
                *uses += 1;
            }
            return *id;
        }
        let free = self.verdicts.iter().position(Option::is_none).unwrap_or(self.verdicts.len());
        if free == self.verdicts.len() {
            self.verdicts.push(None);
        }
        self.verdicts[free] = Some((verdict.clone(), 1));
        self.verdict_ids.insert(verdict.clone(), free as u32);
        free as u32
    }

    fn release(&mut self, verdict: &Verdict) {
        let Some(id) = self.verdict_ids.get(verdict).copied() else { return };
        if let Some((_, uses)) = &mut self.verdicts[id as usize] {
            *uses -= 1;
            if *uses == 0 {
                self.verdicts[id as usize] = None;
                self.verdict_ids.remove(verdict);
            }
        }
    }
}

impl PartialEq for Elements {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.records().all(|record| other.lookup(record.key) == Some(record))
    }
}

impl Eq for Elements {}

impl fmt::Debug for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sorted_records()).finish()
    }
}
