//! Content negotiation: what the client can read, in its order of preference.

use crate::status::Status;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// The object as it is.
    #[default]
    Object,
    /// `as=Table`.
    Table,
    /// `as=PartialObjectMetadata` or its list.
    Metadata,
}

/// The discovery forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// APIGroupList, APIResourceList …
    Legacy,
    /// `apidiscovery.k8s.io` in this version.
    Aggregated(&'static str),
}

struct Media<'a> {
    kind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Media<'_> {
    fn get(&self, key: &str) -> &str {
        self.parameters.iter().find(|(k, _)| *k == key).map_or("", |(_, value)| value)
    }

    fn is_json(&self) -> bool {
        matches!(self.kind, "application/json" | "*/*" | "application/*")
    }
}

/// The media types of an Accept header, best first.
fn media(header: &str) -> Vec<Media<'_>> {
    let mut all: Vec<(f32, Media<'_>)> = header
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let mut pieces = part.split(';').map(str::trim);
            let kind = pieces.next().unwrap_or_default();
            let parameters: Vec<_> = pieces.filter_map(|piece| piece.split_once('=')).collect();
            let media = Media { kind, parameters };
            (media.get("q").parse().unwrap_or(1.0), media)
        })
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().map(|(_, media)| media).collect()
}

const ACCEPTED: &[&str] = &["application/json", "application/yaml"];

/// Whether the answer should be YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Syntax {
    /// JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
}

/// The form an object or list is wanted in.
///
/// # Errors
/// 406 if nothing in the header can be had (protobuf or CBOR alone).
pub fn form(header: &str) -> Result<(Form, Syntax), Status> {
    if header.trim().is_empty() {
        return Ok(Default::default());
    }
    for media in media(header) {
        let syntax = match media.kind {
            _ if media.is_json() => Syntax::Json,
            "application/yaml" => Syntax::Yaml,
            _ => continue,
        };
        match (media.get("as"), media.get("g"), media.get("v")) {
            ("", ..) => return Ok((Form::Object, syntax)),
            ("Table", "meta.k8s.io", "v1") => return Ok((Form::Table, syntax)),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                return Ok((Form::Metadata, syntax));
            }
            _ => {}
        }
    }
    Err(Status::not_acceptable(ACCEPTED))
}

/// The discovery document wanted at `/api` and `/apis`.
pub fn discovery(header: &str) -> Discovery {
    for media in media(header) {
        if !media.is_json() {
            continue;
        }
        match (media.get("as"), media.get("g"), media.get("v")) {
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => {
                return Discovery::Aggregated("v2");
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
                return Discovery::Aggregated("v2beta1");
            }
            ("", ..) => return Discovery::Legacy,
            _ => {}
        }
    }
    Discovery::Legacy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_can_be_had_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(table), Ok((Form::Table, Syntax::Json)));
        assert_eq!(
            form("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"),
            Ok((Form::Object, Syntax::Json))
        );
        assert_eq!(
            form("application/vnd.kubernetes.protobuf,application/json"),
            Ok((Form::Object, Syntax::Json))
        );
        assert_eq!(form("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
        assert_eq!(form("*/*"), Ok((Form::Object, Syntax::Json)));
        let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery(aggregated), Discovery::Aggregated("v2"));
        assert_eq!(discovery("application/json, */*"), Discovery::Legacy);
    }
}
