//! Reads the text table of built-in types.
//!
//! A file of the table is one package, named by its file (`core.v1`). A line `type Name [atomic]`
//! opens a type; the indented lines under it are fields: a name (`!` if required), a type, and
//! words. A type is a scalar's name, `[]T`, `{}T` (map), `.Name` (same package) or `pkg.v1.Name`.
//! The words are `list=set|map`, `keys=a,b`, `atomic`, `patch=merge,retainKeys`, `mergeKey=k`,
//! `enum=A|B` and `default=value`. The table is part of the program, so a mistake in it is a bug
//! that the tests of this crate catch; the reader panics on it with the line.

use serde_json::Value;

use super::{Arena, Field, Id, ListMerge, Node, Scalar, Struct};

/// Package name and text, sorted by name.
const FILES: &[(&str, &str)] = &[
    ("apiextensions.v1", include_str!("../../schema/apiextensions.v1.txt")),
    ("apps.v1", include_str!("../../schema/apps.v1.txt")),
    ("apps.v1beta1", include_str!("../../schema/apps.v1beta1.txt")),
    ("apps.v1beta2", include_str!("../../schema/apps.v1beta2.txt")),
    ("authentication.v1", include_str!("../../schema/authentication.v1.txt")),
    ("authorization.v1", include_str!("../../schema/authorization.v1.txt")),
    ("autoscaling.v1", include_str!("../../schema/autoscaling.v1.txt")),
    ("coordination.v1", include_str!("../../schema/coordination.v1.txt")),
    ("core.v1", include_str!("../../schema/core.v1.txt")),
    ("discovery.v1", include_str!("../../schema/discovery.v1.txt")),
    ("events.v1", include_str!("../../schema/events.v1.txt")),
    ("extensions.v1beta1", include_str!("../../schema/extensions.v1beta1.txt")),
    ("meta.v1", include_str!("../../schema/meta.v1.txt")),
    ("networking.v1", include_str!("../../schema/networking.v1.txt")),
    ("networking.v1beta1", include_str!("../../schema/networking.v1beta1.txt")),
    ("policy.v1", include_str!("../../schema/policy.v1.txt")),
];

/// The whole built-in table.
pub(super) fn parse_all() -> Arena {
    let mut reader = Reader { arena: Arena::default(), scalars: Vec::new() };
    for (package, text) in FILES {
        reader.declare(package, text);
    }
    for (package, text) in FILES {
        reader.read(package, text);
    }
    reader.arena
}

struct Reader {
    arena: Arena,
    scalars: Vec<(String, Id)>,
}

impl Reader {
    /// Gives every type its place, so that types may refer to each other.
    fn declare(&mut self, package: &str, text: &str) {
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("type ") else { continue };
            let mut words = rest.split_whitespace();
            let name = format!("{package}.{}", words.next().unwrap_or_default());
            let shape = Struct {
                name: name.as_str().into(),
                atomic: words.next() == Some("atomic"),
                ..Struct::default()
            };
            let id = self.arena.push(Node::Struct(shape));
            self.arena.types.insert(name.into(), id);
        }
    }

    fn read(&mut self, package: &str, text: &str) {
        let mut current: Option<Id> = None;
        let mut fields: Vec<Field> = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("type ") {
                self.finish(current, &mut fields);
                let name = rest.split_whitespace().next().unwrap_or_default();
                current = self.arena.types.get(&*format!("{package}.{name}")).copied();
            } else if !line.trim().is_empty() {
                fields.push(self.field(package, line));
            }
        }
        self.finish(current, &mut fields);
    }

    fn finish(&mut self, current: Option<Id>, fields: &mut Vec<Field>) {
        let Some(id) = current else { return };
        if let Node::Struct(shape) = &mut self.arena.nodes[id as usize] {
            shape.fields = std::mem::take(fields);
            shape.fields.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }

    fn field(&mut self, package: &str, line: &str) -> Field {
        let mut words = line.split_whitespace();
        let (Some(name), Some(kind)) = (words.next(), words.next()) else {
            panic!("schema table {package}: a field needs a name and a type: {line:?}");
        };
        let mut merge = ListMerge::Atomic;
        let mut keys = Vec::new();
        let mut atomic = false;
        let mut field = Field::new(name.trim_end_matches('!'), 0);
        field.required = name.ends_with('!');
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "list" if value == "set" => merge = ListMerge::Set,
                "list" => merge = ListMerge::Map(Vec::new()),
                "keys" => keys = value.split(',').map(Into::into).collect(),
                "atomic" => atomic = true,
                "patch" => {
                    field.patch_merge = value.contains("merge");
                    field.patch_retain_keys = value.contains("retainKeys");
                }
                "mergeKey" => field.merge_key = Some(value.into()),
                "enum" => field.one_of = value.split('|').map(Into::into).collect(),
                "default" => field.default = Some(Value::String(value.to_owned())),
                _ => panic!("schema table {package}: unknown word {word:?} in {line:?}"),
            }
        }
        if matches!(merge, ListMerge::Map(_)) {
            merge = ListMerge::Map(keys);
        }
        field.node = self.shape(package, kind, merge, atomic);
        field
    }

    fn shape(&mut self, package: &str, text: &str, merge: ListMerge, atomic: bool) -> Id {
        if let Some(item) = text.strip_prefix("[]") {
            let item = self.shape(package, item, ListMerge::Atomic, false);
            return self.arena.push(Node::List { item, merge });
        }
        if let Some(value) = text.strip_prefix("{}") {
            let value = self.shape(package, value, ListMerge::Atomic, false);
            return self.arena.push(Node::Map { value, atomic });
        }
        let full = match text.strip_prefix('.') {
            Some(name) => format!("{package}.{name}"),
            None => text.to_owned(),
        };
        if let Some(&id) = self.arena.types.get(&*full) {
            if !atomic {
                return id;
            }
            // A field may be atomic although its type is not: it gets its own copy of the node.
            let mut node = self.arena.nodes[id as usize].clone();
            if let Node::Struct(shape) = &mut node {
                shape.atomic = true;
            }
            return self.arena.push(node);
        }
        if let Some((_, id)) = self.scalars.iter().find(|(name, _)| *name == full) {
            return *id;
        }
        let node = match full.as_str() {
            "string" => Node::Scalar(Scalar::String),
            "bool" => Node::Scalar(Scalar::Bool),
            "int32" => Node::Scalar(Scalar::Int32),
            "int64" => Node::Scalar(Scalar::Int64),
            "double" => Node::Scalar(Scalar::Double),
            "bytes" => Node::Scalar(Scalar::Bytes),
            "time" => Node::Scalar(Scalar::Time),
            "microtime" => Node::Scalar(Scalar::MicroTime),
            "quantity" => Node::Scalar(Scalar::Quantity),
            "int-or-string" => Node::Scalar(Scalar::IntOrString),
            "any" | "schema-or-list" | "schema-or-bool" | "schema-or-strings" => Node::Any,
            "any-object" => Node::AnyObject,
            _ => panic!("schema table {package}: unknown type {text:?}"),
        };
        let id = self.arena.push(node);
        self.scalars.push((full, id));
        id
    }
}
