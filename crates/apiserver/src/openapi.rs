//! OpenAPI documents, generated from the table of kinds and their schemas.
//!
//! `kubectl` reads them for `explain`, for the schema of patches, and to learn whether a kind
//! takes `fieldValidation` and `dryRun`. A document names what is served and nothing else.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, Served};

mod definitions;
mod paths;

use definitions::{Definitions, Dialect};

/// `api/v1` or `apis/apps/v1`.
fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Every group/version served, sorted, each once.
fn group_versions(kinds: &[Arc<Kind>]) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = kinds
        .iter()
        .flat_map(|kind| &kind.served)
        .map(|served| (served.group.clone(), served.version.clone()))
        .collect();
    all.sort();
    all.dedup();
    all
}

/// The index at `/openapi/v3`. The hash in an address changes with what is served, so a client
/// may cache a document for ever.
pub fn v3_index(kinds: &[Arc<Kind>]) -> Value {
    let paths: Map<String, Value> = group_versions(kinds)
        .into_iter()
        .map(|(group, version)| {
            let path = group_path(&group, &version);
            let hash = fingerprint(kinds, &group, &version);
            let url = format!("/openapi/v3/{path}?hash={hash:016X}");
            (path, json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

/// A number that changes with the kinds of a group/version (FNV-1a; no secret in it).
fn fingerprint(kinds: &[Arc<Kind>], group: &str, version: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |text: &str| {
        for byte in text.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    eat(env!("CARGO_PKG_VERSION"));
    for (kind, served) in served_in(kinds, group, version) {
        eat(&kind.plural);
        eat(&kind.kind);
        if let Some(raw) = served.structural.as_ref().and_then(|schema| schema.raw().cloned()) {
            eat(&raw.to_string());
        }
    }
    hash
}

fn served_in<'a>(
    kinds: &'a [Arc<Kind>],
    group: &str,
    version: &str,
) -> Vec<(&'a Kind, &'a Served)> {
    kinds
        .iter()
        .filter_map(|kind| kind.served_as(group, version).map(|served| (&**kind, served)))
        .collect()
}

/// The document at `/openapi/v3/{path}`, where path is `api/v1` or `apis/apps/v1`; `None` if
/// nothing is served there.
pub fn v3(kinds: &[Arc<Kind>], path: &str) -> Option<Value> {
    let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => (String::new(), (*version).to_owned()),
        ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
        _ => return None,
    };
    let served = served_in(kinds, &group, &version);
    if served.is_empty() {
        return None;
    }
    let mut definitions = Definitions::new(Dialect::V3);
    let mut paths = Map::new();
    for (kind, served) in served {
        let names = definitions.kind(kind, served);
        paths::add(&mut paths, kind, served, &names, Dialect::V3);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "v1.36.0" },
        "paths": paths,
        "components": { "schemas": definitions.finish() },
    }))
}

/// The document at `/openapi/v2`.
pub fn v2(kinds: &[Arc<Kind>]) -> Value {
    let mut definitions = Definitions::new(Dialect::V2);
    let mut paths = Map::new();
    for (group, version) in group_versions(kinds) {
        for (kind, served) in served_in(kinds, &group, &version) {
            let names = definitions.kind(kind, served);
            paths::add(&mut paths, kind, served, &names, Dialect::V2);
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": "v1.36.0" },
        "paths": paths,
        "definitions": definitions.finish(),
    })
}

#[cfg(test)]
mod tests;
