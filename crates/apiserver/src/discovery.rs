//! Discovery: what is served, in the legacy documents and the aggregated one (KEP-3352).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::crd::priority;
use crate::kinds::{Kind, Kinds, Served, api_version};

/// Groups in the order kubectl should prefer them; others follow, `extensions` is last.
const ORDER: &[&str] = &[
    "",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "networking.k8s.io",
    "apiextensions.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
];

struct Version {
    name: String,
    kinds: Vec<(Arc<Kind>, Served)>,
}

/// Version names with what is served in them.
type Versions = BTreeMap<String, Vec<(Arc<Kind>, Served)>>;

/// Groups with their versions, best first.
fn groups(kinds: &Kinds) -> Vec<(String, Vec<Version>)> {
    let mut found: BTreeMap<String, Versions> = BTreeMap::new();
    for kind in kinds.all() {
        for served in &kind.served {
            found
                .entry(served.group.clone())
                .or_default()
                .entry(served.version.clone())
                .or_default()
                .push((kind.clone(), served.clone()));
        }
    }
    let mut groups: Vec<_> = found
        .into_iter()
        .map(|(group, versions)| {
            let mut versions: Vec<_> =
                versions.into_iter().map(|(name, kinds)| Version { name, kinds }).collect();
            versions.sort_by_cached_key(|version| std::cmp::Reverse(priority(&version.name)));
            (group, versions)
        })
        .collect();
    groups.sort_by_key(|(group, _)| {
        let at = ORDER.iter().position(|known| known == group).unwrap_or(ORDER.len());
        if group == "extensions" { ORDER.len() + 1 } else { at }
    });
    groups
}

/// A subresource for discovery: name, group, version, kind of what it speaks, verbs.
struct Sub(&'static str, String, String, String, &'static [&'static str]);

fn subresources(kind: &Kind, served: &Served) -> Vec<Sub> {
    let own = |name, verbs| {
        Sub(name, served.group.clone(), served.version.clone(), kind.kind.clone(), verbs)
    };
    let other = |name, group: &str, version: &str, kind: &str, verbs| {
        Sub(name, group.into(), version.into(), kind.into(), verbs)
    };
    let mut subs = Vec::new();
    if served.group.is_empty() {
        match kind.kind.as_str() {
            "Namespace" => subs.push(own("finalize", &["update"][..])),
            "Pod" => {
                subs.push(other("attach", "", "v1", "PodAttachOptions", &["create", "get"]));
                subs.push(other("binding", "", "v1", "Binding", &["create"]));
                subs.push(other("eviction", "policy", "v1", "Eviction", &["create"]));
                subs.push(other("exec", "", "v1", "PodExecOptions", &["create", "get"]));
                subs.push(own("log", &["get"]));
            }
            "ServiceAccount" => {
                let group = "authentication.k8s.io";
                subs.push(other("token", group, "v1", "TokenRequest", &["create"]));
            }
            _ => {}
        }
    }
    if served.scale.is_some() {
        subs.push(other("scale", "autoscaling", "v1", "Scale", &["get", "patch", "update"]));
    }
    if served.status {
        subs.push(own("status", &["get", "patch", "update"]));
    }
    subs
}

/// Short names and categories belong to the storage form alone: kubectl expands `all` over every
/// version that names it and would list old forms twice.
fn is_primary(kind: &Kind, served: &Served) -> bool {
    served.group == kind.group && (kind.crd.is_some() || served.version == kind.storage_version)
}

/// `/api`.
pub(crate) fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

fn group_json(group: &str, versions: &[Version]) -> Value {
    let entry = |version: &Version| json!({"groupVersion": api_version(group, &version.name), "version": version.name});
    json!({
        "name": group,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(entry),
    })
}

/// `/apis`.
pub(crate) fn group_list(kinds: &Kinds) -> Value {
    let groups: Vec<Value> = groups(kinds)
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_json(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`.
pub(crate) fn group(kinds: &Kinds, name: &str) -> Option<Value> {
    let (group, versions) =
        groups(kinds).into_iter().find(|(group, _)| group == name && !group.is_empty())?;
    let mut out = group_json(&group, &versions);
    let map = out.as_object_mut()?;
    map.insert("kind".into(), "APIGroup".into());
    map.insert("apiVersion".into(), "v1".into());
    Some(out)
}

/// `/api/v1` and `/apis/{group}/{version}`.
pub(crate) fn resource_list(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let (_, versions) = groups(kinds).into_iter().find(|(name, _)| name == group)?;
    let version = versions.into_iter().find(|known| known.name == version)?;
    let mut resources = Vec::new();
    for (kind, served) in &version.kinds {
        let mut one = Map::new();
        one.insert("name".into(), kind.plural.as_str().into());
        one.insert("singularName".into(), kind.singular.as_str().into());
        one.insert("namespaced".into(), kind.namespaced.into());
        one.insert("kind".into(), kind.kind.as_str().into());
        one.insert("verbs".into(), json!(kind.verbs.names()));
        if is_primary(kind, served) {
            if !kind.short_names.is_empty() {
                one.insert("shortNames".into(), json!(kind.short_names));
            }
            if !kind.categories.is_empty() {
                one.insert("categories".into(), json!(kind.categories));
            }
        }
        resources.push(Value::Object(one));
        for Sub(name, sub_group, sub_version, sub_kind, verbs) in subresources(kind, served) {
            let mut one = Map::new();
            one.insert("name".into(), format!("{}/{name}", kind.plural).into());
            one.insert("singularName".into(), "".into());
            one.insert("namespaced".into(), kind.namespaced.into());
            if (sub_group.as_str(), sub_version.as_str()) != (group, version.name.as_str()) {
                one.insert("group".into(), sub_group.into());
                one.insert("version".into(), sub_version.into());
            }
            one.insert("kind".into(), sub_kind.into());
            one.insert("verbs".into(), json!(verbs));
            resources.push(Value::Object(one));
        }
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, &version.name),
        "resources": resources,
    }))
}

/// The aggregated document: the core group at `/api`, the named groups at `/apis`.
pub(crate) fn aggregated(kinds: &Kinds, core: bool, form: &str) -> Value {
    let items: Vec<Value> = groups(kinds)
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions.iter().map(aggregated_version).collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{form}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_version(version: &Version) -> Value {
    let response = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let resources: Vec<Value> = version
        .kinds
        .iter()
        .map(|(kind, served)| {
            let mut one = json!({
                "resource": kind.plural,
                "responseKind": response(&served.group, &served.version, &kind.kind),
                "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": kind.singular,
                "verbs": kind.verbs.names(),
            });
            if is_primary(kind, served) {
                if !kind.short_names.is_empty() {
                    one["shortNames"] = json!(kind.short_names);
                }
                if !kind.categories.is_empty() {
                    one["categories"] = json!(kind.categories);
                }
            }
            let subs: Vec<Value> = subresources(kind, served)
                .into_iter()
                .map(|Sub(name, group, version, kind, verbs)| {
                    json!({
                        "subresource": name,
                        "responseKind": response(&group, &version, &kind),
                        "verbs": verbs,
                    })
                })
                .collect();
            if !subs.is_empty() {
                one["subresources"] = subs.into();
            }
            one
        })
        .collect();
    json!({"version": version.name, "freshness": "Current", "resources": resources})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_forms_are_found_but_not_expanded() {
        let kinds = Kinds::builtin();
        let list = resource_list(&kinds, "extensions", "v1beta1").expect("served");
        let ingress = list["resources"]
            .as_array()
            .and_then(|r| r.iter().find(|r| r["name"] == "ingresses"))
            .expect("listed");
        assert!(ingress.get("shortNames").is_none());
        let groups = group_list(&kinds);
        let names: Vec<_> = groups["groups"]
            .as_array()
            .expect("list")
            .iter()
            .map(|group| group["name"].as_str().unwrap_or_default())
            .collect();
        assert_eq!((names.first(), names.last()), (Some(&"apps"), Some(&"extensions")));
        assert_eq!(group(&kinds, "apps").expect("served")["preferredVersion"]["version"], "v1");
        assert!(resource_list(&kinds, "apps", "v2").is_none());
        assert_eq!(aggregated(&kinds, true, "v2")["items"].as_array().map(Vec::len), Some(1));
    }
}
