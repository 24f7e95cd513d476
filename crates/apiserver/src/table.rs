//! Server-side printing: objects → `meta.k8s.io/v1` Table, with upstream's columns.
//!
//! A kind's columns and cells stand side by side in one of the modules below. The age of things
//! is relative to the `now` passed in. Kinds without columns of their own get upstream's default,
//! name and creation time.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::{Kind, Served};

mod age;
mod config;
mod custom;
pub mod jsonpath;
mod network;
mod node;
mod pod;
mod text;
mod workload;

/// The `includeObject` parameter: what a row carries beside its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// A PartialObjectMetadata; the default.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// One column of a built-in kind: heading, type, and whether it is shown with `-o wide` only.
type Column = (&'static str, &'static str, bool);

/// Cells of one object.
type Cells = fn(&Value, Timestamp) -> Vec<Value>;

fn printer(kind: &Kind) -> (&'static [Column], Cells) {
    match kind.kind.as_str() {
        "Pod" => (pod::COLUMNS, pod::cells),
        "Deployment" => (workload::DEPLOYMENT, workload::deployment),
        "ReplicaSet" => (workload::REPLICA_SET, workload::replica_set),
        "Service" => (network::SERVICE, network::service),
        "Endpoints" => (network::ENDPOINTS, network::endpoints),
        "EndpointSlice" => (network::ENDPOINT_SLICE, network::endpoint_slice),
        "Ingress" => (network::INGRESS, network::ingress),
        "IngressClass" => (network::INGRESS_CLASS, network::ingress_class),
        "NetworkPolicy" => (network::POLICY, network::policy),
        "ServiceCIDR" => (network::SERVICE_CIDR, network::service_cidr),
        "IPAddress" => (network::IP_ADDRESS, network::ip_address),
        "Node" => (node::COLUMNS, node::cells),
        "Namespace" => (config::NAMESPACE, config::namespace),
        "ConfigMap" => (config::CONFIG_MAP, config::config_map),
        "Secret" => (config::SECRET, config::secret),
        "ServiceAccount" => (config::SERVICE_ACCOUNT, config::service_account),
        "Lease" => (config::LEASE, config::lease),
        "Event" => (config::EVENT, config::event),
        _ => (config::OTHER, config::other),
    }
}

/// `columnDefinitions` of a kind.
pub fn columns(kind: &Kind, served: &Served) -> Value {
    if kind.crd.is_some() {
        return custom::columns(served);
    }
    printer(kind)
        .0
        .iter()
        .map(|&(name, kind, wide)| {
            json!({
                "name": name,
                "type": kind,
                "format": if name == "Name" { "name" } else { "" },
                "description": "",
                "priority": i32::from(wide),
            })
        })
        .collect()
}

/// The row of one object (in the storage version for built-in kinds): cells, and the object as
/// asked, in the version it is served in.
pub fn row(
    kind: &Kind,
    served: &Served,
    object: &Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let cells = if kind.crd.is_some() {
        custom::cells(served, object, now)
    } else {
        (printer(kind).1)(object, now)
    };
    let mut row = json!({ "cells": cells });
    match include {
        IncludeObject::None => row["object"] = Value::Null,
        IncludeObject::Metadata => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
            });
        }
        IncludeObject::Object => {
            let mut object = object.clone();
            // Versions of one kind convert; if they did not, the stored form is still the truth.
            if crate::convert::convert(&mut object, &served.api_version()).is_ok() {
                row["object"] = object;
            }
        }
    }
    row
}

/// A whole Table. `list_meta` is the list's `metadata` (resourceVersion, continue …).
pub fn table<'a>(
    kind: &Kind,
    served: &Served,
    objects: impl IntoIterator<Item = &'a Value>,
    list_meta: Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> =
        objects.into_iter().map(|object| row(kind, served, object, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": columns(kind, served),
        "rows": rows,
    })
}

#[cfg(test)]
mod tests;
