//! The shapes of API objects: one arena of nodes per source, and a cursor to walk it.
//!
//! The built-in types are read once from the text table under `schema/` (facts taken from
//! Kubernetes' published OpenAPI, v1.36, and from the Go types of the versions that have gone);
//! a CustomResourceDefinition's structural schema becomes an arena of the same form, so that
//! decoding, pruning, defaulting, merging and publishing know only one kind of schema.
//! Nothing here does I/O or keeps state beyond the parsed table.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use regex::Regex;
use serde_json::Value;

pub mod body;
pub mod decode;
pub mod structural;
mod text;

/// Index of a [`Node`] in its [`Arena`].
pub(crate) type Id = u32;

/// One shape.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// A single value.
    Scalar(Scalar),
    /// Any JSON value (`x-kubernetes-preserve-unknown-fields` without a type, or `JSON`).
    Any,
    /// A JSON object with any content.
    AnyObject,
    /// A list and how it merges under apply.
    List { item: Id, merge: ListMerge },
    /// A map from names to one shape.
    Map { value: Id, atomic: bool },
    /// Named fields.
    Struct(Struct),
    /// A type of the built-in table, seen from a custom resource.
    Builtin(Id),
}

/// Shapes without parts, named as in the text table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    /// base64 text.
    Bytes,
    /// RFC 3339.
    Time,
    MicroTime,
    Quantity,
    IntOrString,
}

/// How a list merges under apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListMerge {
    /// Replaced as a whole.
    Atomic,
    /// Of scalars, each at most once.
    Set,
    /// Of structs, told apart by these keys.
    Map(Vec<Box<str>>),
}

/// A struct's fields, sorted by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Struct {
    /// `core.v1.ServiceSpec`; empty in custom resources.
    pub name: Box<str>,
    pub fields: Vec<Field>,
    /// Replaced as a whole under apply.
    pub atomic: bool,
    /// Fields that are not named are kept (custom resources only).
    pub preserve_unknown: bool,
}

/// A field of a struct.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub name: Box<str>,
    pub node: Id,
    pub required: bool,
    /// Null is a value here, not an absence (custom resources only).
    pub nullable: bool,
    pub patch_merge: bool,
    pub patch_retain_keys: bool,
    pub merge_key: Option<Box<str>>,
    pub one_of: Vec<Box<str>>,
    pub default: Option<Value>,
}

impl Field {
    pub(crate) fn new(name: &str, node: Id) -> Self {
        Self {
            name: name.into(),
            node,
            required: false,
            nullable: false,
            patch_merge: false,
            patch_retain_keys: false,
            merge_key: None,
            one_of: Vec::new(),
            default: None,
        }
    }
}

impl Struct {
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok().map(|i| &self.fields[i])
    }
}

/// Nodes that refer to each other.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    nodes: Vec<Node>,
    types: HashMap<Box<str>, Id>,
    /// The `openAPIV3Schema` this came from, for a custom resource.
    raw: Option<Arc<Value>>,
    /// Compiled patterns of `raw`, by their text.
    patterns: HashMap<String, Regex>,
}

impl Arena {
    pub(crate) fn push(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        Id::try_from(self.nodes.len() - 1).expect("invariant: a schema has under 2^32 nodes")
    }
}

/// The shape of one kind in one version. Cheap to clone.
#[derive(Clone)]
pub struct Schema {
    arena: Arc<Arena>,
    root: Id,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Schema({})", self.cursor().type_name())
    }
}

/// The built-in table, parsed at first use.
pub(crate) fn table() -> &'static Arc<Arena> {
    static TABLE: OnceLock<Arc<Arena>> = OnceLock::new();
    TABLE.get_or_init(|| Arc::new(text::parse_all()))
}

/// Names of all types in the built-in table, sorted: `apps.v1.Deployment`.
pub fn type_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = table().types.keys().map(|name| &**name).collect();
    names.sort_unstable();
    names
}

impl Schema {
    /// The built-in type with this name: `core.v1.Pod`, or upstream's OpenAPI name
    /// `io.k8s.api.core.v1.Pod`.
    pub fn builtin(name: &str) -> Option<Self> {
        let arena = table();
        let root = *arena.types.get(&*short_name(name))?;
        Some(Self { arena: Arc::clone(arena), root })
    }

    /// A cursor at the root.
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        Cursor::at(&self.arena, self.root)
    }

    /// The `openAPIV3Schema` this was made from, if it is a custom resource's.
    pub fn raw(&self) -> Option<&Arc<Value>> {
        self.arena.raw.as_ref()
    }

    pub(crate) fn pattern(&self, text: &str) -> Option<&Regex> {
        self.arena.patterns.get(text)
    }

    pub(crate) fn from_arena(arena: Arena, root: Id) -> Self {
        Self { arena: Arc::new(arena), root }
    }
}

/// A place in a schema.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    arena: &'a Arena,
    id: Id,
}

impl<'a> Cursor<'a> {
    fn at(arena: &'a Arena, id: Id) -> Self {
        match arena.nodes[id as usize] {
            Node::Builtin(id) => Cursor { arena: table(), id },
            _ => Cursor { arena, id },
        }
    }

    pub(crate) fn node(self) -> &'a Node {
        &self.arena.nodes[self.id as usize]
    }

    /// The struct here, if it is one.
    pub(crate) fn as_struct(self) -> Option<&'a Struct> {
        match self.node() {
            Node::Struct(shape) => Some(shape),
            _ => None,
        }
    }

    /// Goes to another node of the same arena.
    pub(crate) fn to(self, id: Id) -> Cursor<'a> {
        Cursor::at(self.arena, id)
    }

    /// The field of a struct, or any key of a map.
    pub(crate) fn child(self, name: &str) -> Option<Cursor<'a>> {
        match self.node() {
            Node::Struct(shape) => shape.field(name).map(|field| self.to(field.node)),
            Node::Map { value, .. } => Some(self.to(*value)),
            _ => None,
        }
    }

    /// The item of a list.
    pub(crate) fn item(self) -> Option<Cursor<'a>> {
        match self.node() {
            Node::List { item, .. } => Some(self.to(*item)),
            _ => None,
        }
    }

    pub(crate) fn type_name(self) -> &'a str {
        self.as_struct().map_or("", |shape| &shape.name)
    }

    /// The type as Go's decoder names it: `v1.ServiceSpec`, `[]v1.ServicePort`, `int32`.
    pub(crate) fn go_type(self) -> String {
        match self.node() {
            Node::Scalar(scalar) => scalar.go_type().to_owned(),
            Node::Any | Node::AnyObject | Node::Builtin(_) => "runtime.RawExtension".to_owned(),
            Node::List { item, .. } => format!("[]{}", self.to(*item).go_type()),
            Node::Map { value, .. } => format!("map[string]{}", self.to(*value).go_type()),
            Node::Struct(shape) => {
                let mut parts = shape.name.rsplitn(3, '.');
                match (parts.next(), parts.next()) {
                    (Some(name), Some(version)) => format!("{version}.{name}"),
                    _ => "map[string]interface {}".to_owned(),
                }
            }
        }
    }
}

impl Scalar {
    fn go_type(self) -> &'static str {
        match self {
            Scalar::String => "string",
            Scalar::Bool => "bool",
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Double => "float64",
            Scalar::Bytes => "[]uint8",
            Scalar::Time => "v1.Time",
            Scalar::MicroTime => "v1.MicroTime",
            Scalar::Quantity => "resource.Quantity",
            Scalar::IntOrString => "intstr.IntOrString",
        }
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.";
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.";
const API: &str = "io.k8s.api.";

/// `io.k8s.api.core.v1.Pod` → `core.v1.Pod`; a short name stays.
pub fn short_name(full: &str) -> String {
    if let Some(rest) = full.strip_prefix(META) {
        format!("meta.{rest}")
    } else if let Some(rest) = full.strip_prefix(APIEXTENSIONS) {
        format!("apiextensions.{rest}")
    } else {
        full.strip_prefix(API).unwrap_or(full).to_owned()
    }
}

/// `core.v1.Pod` → `io.k8s.api.core.v1.Pod`, the name in OpenAPI documents.
pub fn full_name(short: &str) -> String {
    if let Some(rest) = short.strip_prefix("meta.") {
        format!("{META}{rest}")
    } else if let Some(rest) = short.strip_prefix("apiextensions.") {
        format!("{APIEXTENSIONS}{rest}")
    } else {
        format!("{API}{short}")
    }
}

#[cfg(test)]
mod tests;
