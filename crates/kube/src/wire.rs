//! API objects as they come over the wire, read straight into what the conversions look at. Much of an object's text
//! is `managedFields`, and most of a Node's or Pod's is of no interest here: it is skipped, never built.
//!
//! An object that has not the shape of its kind is read a second time, as far as it says which object it is.

mod shapes;

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde_json::Value;

/// A kind whose objects can be read.
pub(crate) trait Wire: Resource<DynamicType = ()> + Send + 'static {
    /// What is read of one.
    type Read: DeserializeOwned;

    /// The object, without what was not read.
    fn from_read(read: Self::Read) -> Object<Self>
    where
        Self: Sized;
}

/// An object.
#[derive(Clone, Debug)]
pub(crate) struct Object<K> {
    /// As far as it was read.
    pub(crate) object: K,
    /// When somebody wrote to it last, as its field managers say.
    pub(crate) written: Option<Timestamp>,
}

/// An object, or as much of it as can be read.
#[derive(Clone, Debug)]
pub(crate) enum Received<K> {
    /// As it should be.
    Good(Object<K>),
    /// Something in it is of another type.
    Misshapen {
        /// Which object it is.
        meta: Box<ObjectMeta>,
        /// What is wrong with it.
        error: String,
    },
}

impl<K: Wire> Received<K> {
    /// Its metadata.
    pub(crate) fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Good(read) => read.object.meta(),
            Self::Misshapen { meta, .. } => meta,
        }
    }
}

/// One line of a watch.
#[derive(Debug)]
pub(crate) enum Line<K> {
    /// An object came or changed.
    Applied(Received<K>),
    /// An object went; this is how it was.
    Deleted(Box<ObjectMeta>),
    /// Nothing changed up to a revision.
    Bookmark {
        /// Which.
        revision: Option<String>,
        /// Whether the objects there were have all been told.
        list_ends: bool,
    },
    /// The server gives up this watch.
    Error(Box<Status>),
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page<K> {
    /// The objects.
    pub(crate) items: Vec<Received<K>>,
    /// What the list is true at.
    pub(crate) revision: Option<String>,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<String>,
}

#[derive(Deserialize)]
struct ReadLine<R> {
    r#type: Change,
    object: R,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum Change {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

#[derive(Deserialize)]
struct OnlyMeta {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Deserialize)]
struct ReadPage<R> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default = "none")]
    items: Option<Vec<R>>,
}

fn none<T>() -> Option<T> {
    None
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

const LIST_ENDS: &str = "k8s.io/initial-events-end";

/// Reads a line of a watch.
///
/// # Errors
/// When it is no line of a watch of this kind at all.
pub(crate) fn line<K: Wire>(text: &[u8]) -> Result<Line<K>, serde_json::Error> {
    let misread = match serde_json::from_slice::<ReadLine<K::Read>>(text) {
        // A Status may have the shape of the kind too.
        Ok(ReadLine { r#type: Change::Error, .. }) => None,
        Ok(ReadLine { r#type, object }) => {
            let read = K::from_read(object);
            return Ok(match r#type {
                Change::Added | Change::Modified => Line::Applied(Received::Good(read)),
                Change::Deleted => Line::Deleted(Box::new(read.object.meta().clone())),
                Change::Bookmark | Change::Error => bookmark(read.object.meta()),
            });
        }
        Err(error) => Some(error),
    };
    let ReadLine { r#type, object } = serde_json::from_slice::<ReadLine<Value>>(text)?;
    if r#type == Change::Error {
        return Ok(Line::Error(serde_json::from_value(object)?));
    }
    let meta = Box::new(OnlyMeta::deserialize(object)?.metadata.into());
    Ok(match (r#type, misread) {
        (Change::Deleted, _) => Line::Deleted(meta),
        (Change::Bookmark, _) => bookmark(&meta),
        (_, misread) => {
            let error = misread.map_or_else(String::new, |error| error.to_string());
            Line::Applied(Received::Misshapen { meta, error })
        }
    })
}

fn bookmark<K>(meta: &ObjectMeta) -> Line<K> {
    let annotations = meta.annotations.as_ref();
    Line::Bookmark {
        revision: meta.resource_version.clone(),
        list_ends: annotations.is_some_and(|all| all.get(LIST_ENDS).is_some_and(|is| is == "true")),
    }
}

/// Reads a page of a list.
///
/// # Errors
/// When it is no list at all.
pub(crate) fn page<K: Wire>(text: &[u8]) -> Result<Page<K>, serde_json::Error> {
    let (metadata, items) = match serde_json::from_slice::<ReadPage<K::Read>>(text) {
        Ok(page) => {
            let items = page.items.unwrap_or_default().into_iter();
            (page.metadata, items.map(|read| Received::Good(K::from_read(read))).collect())
        }
        // One object has another shape: each by itself.
        Err(_) => {
            let page: ReadPage<Value> = serde_json::from_slice(text)?;
            let items = page.items.unwrap_or_default().into_iter().map(one);
            (page.metadata, items.collect::<Result<_, _>>()?)
        }
    };
    let next = metadata.r#continue.filter(|next| !next.is_empty());
    Ok(Page { items, revision: metadata.resource_version, next })
}

fn one<K: Wire>(object: Value) -> Result<Received<K>, serde_json::Error> {
    match K::Read::deserialize(&object) {
        Ok(read) => Ok(Received::Good(K::from_read(read))),
        Err(error) => {
            let meta = Box::new(OnlyMeta::deserialize(object)?.metadata.into());
            Ok(Received::Misshapen { meta, error: error.to_string() })
        }
    }
}

/// `ObjectMeta` without what nobody here reads.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    labels: Option<std::collections::BTreeMap<String, String>>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    #[serde(rename = "managedFields")]
    written: Newest,
}

impl Meta {
    /// With when somebody wrote to the object last.
    pub(crate) fn split(self) -> (ObjectMeta, Option<Timestamp>) {
        let written = self.written.0;
        (self.into(), written)
    }
}

impl From<Meta> for ObjectMeta {
    fn from(meta: Meta) -> Self {
        Self {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
            resource_version: meta.resource_version,
            generation: meta.generation,
            labels: meta.labels,
            annotations: meta.annotations,
            creation_timestamp: meta.creation_timestamp,
            deletion_timestamp: meta.deletion_timestamp,
            ..Self::default()
        }
    }
}

/// The newest time of `managedFields`.
#[derive(Clone, Copy, Debug, Default)]
struct Newest(Option<Timestamp>);

impl<'de> Deserialize<'de> for Newest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Entry {
            time: Option<Time>,
        }
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Newest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("managedFields")
            }

            fn visit_unit<E>(self) -> Result<Newest, E> {
                Ok(Newest::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Newest, A::Error> {
                let mut newest = None;
                while let Some(entry) = entries.next_element::<Entry>()? {
                    newest = newest.max(entry.time.map(|time| time.0));
                }
                Ok(Newest(newest))
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

#[cfg(test)]
mod tests;
