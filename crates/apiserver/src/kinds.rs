//! The table of kinds: which resources are served, in which versions, under which names.
//!
//! Everything in this crate is generic over [`Kind`]; a kind of Kubernetes is a row here, and a
//! CustomResourceDefinition builds the same row at run time. This file knows no HTTP and no
//! storage; it must not grow behaviour per kind.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use crate::schema::Schema;

/// One resource as stored, with every group/version it is served in.
#[derive(Debug, Clone)]
pub struct Kind {
    /// API group it is stored under; empty for the core group.
    pub group: String,
    /// `Deployment`.
    pub kind: String,
    /// `DeploymentList`.
    pub list_kind: String,
    /// `deployments`: the resource name in URLs.
    pub plural: String,
    /// `deployment`.
    pub singular: String,
    /// `deploy`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// The version objects are kept in; one of `served` with the same group (or, for a
    /// CustomResourceDefinition, perhaps a version that is not served).
    pub storage_version: String,
    /// Group/versions it is served in, the preferred one of a group first.
    pub served: Vec<Served>,
    /// What may be done with it.
    pub verbs: Verbs,
    /// Set for kinds that a CustomResourceDefinition brought: its name.
    pub crd: Option<String>,
}

/// A group/version a [`Kind`] is served in.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// API group in the URL (`extensions` for the old Ingress, whose storage group is
    /// `networking.k8s.io`).
    pub group: String,
    /// `v1`.
    pub version: String,
    /// Type name in the schema table (`io.k8s.api.apps.v1.Deployment`'s row); empty for custom resources.
    pub schema: String,
    /// The compiled `openAPIV3Schema` of a custom resource's version
    /// ([`Schema::structural`]); its text is [`Schema::raw`].
    pub structural: Option<Schema>,
    /// The warning a client gets for using this version, if it is deprecated.
    pub deprecated: Option<String>,
    /// Whether `/status` is a subresource.
    pub status: bool,
    /// Where `/scale` finds its numbers, if there is one.
    pub scale: Option<ScalePaths>,
    /// `additionalPrinterColumns` of a custom resource's version.
    pub columns: Vec<Column>,
}

/// The JSONPaths of the scale subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// `.spec.replicas`.
    pub spec: String,
    /// `.status.replicas`.
    pub status: String,
    /// `.status.selector` of a custom resource: a label selector in text form. Empty for
    /// built-in kinds, whose `spec.selector` is printed as text.
    pub selector: String,
}

/// An additional printer column of a custom resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean`, `date`.
    pub type_: String,
    /// OpenAPI format.
    pub format: String,
    /// For `kubectl explain`-like tools.
    pub description: String,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    /// Where the cell is taken from.
    pub json_path: String,
}

/// What may be done with a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbs {
    /// create, delete, deletecollection, get, list, patch, update, watch.
    All,
    /// Only create: reviews, which are questions and are never stored.
    CreateOnly,
}

impl Verbs {
    /// The verb names for discovery, sorted as upstream prints them.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Verbs::All => {
                &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            }
            Verbs::CreateOnly => &["create"],
        }
    }
}

impl Kind {
    /// The served entry of a group/version.
    pub fn served_as(&self, group: &str, version: &str) -> Option<&Served> {
        self.served.iter().find(|s| s.group == group && s.version == version)
    }

    /// The served entry objects are stored as, if it is served.
    pub fn storage(&self) -> Option<&Served> {
        self.served_as(&self.group, &self.storage_version)
    }

    /// `apps/v1`, `v1`: the apiVersion objects are stored with.
    pub fn storage_api_version(&self) -> String {
        api_version(&self.group, &self.storage_version)
    }

    /// `deployments.apps`, `pods`: the name used in messages.
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

impl Served {
    /// `apps/v1`, `v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The schema of this version's objects.
    pub fn schema(&self) -> Option<Schema> {
        self.structural.clone().or_else(|| Schema::builtin(&self.schema))
    }
}

/// `group/version`, or just `version` in the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Splits an apiVersion into group and version.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// All kinds served at a moment: the built-in ones and those of CustomResourceDefinitions.
/// Cheap to clone; clones see the same table.
#[derive(Debug, Clone)]
pub struct Kinds {
    table: Arc<RwLock<Arc<Table>>>,
}

#[derive(Debug, Default, Clone)]
struct Table {
    /// By storage (group, plural).
    kinds: BTreeMap<(String, String), Arc<Kind>>,
    /// Served (group, version, plural) to storage (group, plural).
    served: BTreeMap<(String, String, String), (String, String)>,
    /// Grows with every change.
    generation: u64,
}

impl Table {
    fn insert(&mut self, kind: Kind) {
        let key = (kind.group.clone(), kind.plural.clone());
        self.served.retain(|_, at| *at != key);
        for served in &kind.served {
            self.served.insert(
                (served.group.clone(), served.version.clone(), kind.plural.clone()),
                key.clone(),
            );
        }
        self.kinds.insert(key, Arc::new(kind));
        self.generation += 1;
    }
}

impl Default for Kinds {
    fn default() -> Self {
        Self::builtin()
    }
}

impl Kinds {
    /// The kinds that are always there.
    pub fn builtin() -> Self {
        let mut table = Table::default();
        for kind in builtin() {
            table.insert(kind);
        }
        Self { table: Arc::new(RwLock::new(Arc::new(table))) }
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        let mut guard = self.table.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut table = Table::clone(&guard);
        change(&mut table);
        *guard = Arc::new(table);
    }

    /// Adds or replaces a kind (a CustomResourceDefinition's).
    pub fn insert(&self, kind: Kind) {
        self.change(|table| table.insert(kind));
    }

    /// Removes a kind by its storage group and plural.
    pub fn remove(&self, group: &str, plural: &str) {
        self.change(|table| {
            let key = (group.to_owned(), plural.to_owned());
            table.kinds.remove(&key);
            table.served.retain(|_, at| *at != key);
            table.generation += 1;
        });
    }

    /// The kind served at a URL's group, version and plural.
    pub fn served(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let table = self.table();
        let key = table.served.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))?;
        table.kinds.get(key).cloned()
    }

    /// The kind stored under a group and plural.
    pub fn stored(&self, group: &str, plural: &str) -> Option<Arc<Kind>> {
        self.table().kinds.get(&(group.to_owned(), plural.to_owned())).cloned()
    }

    /// The kind an object's apiVersion and kind name.
    pub fn of(&self, api_version: &str, kind: &str) -> Option<Arc<Kind>> {
        let (group, version) = split_api_version(api_version);
        let table = self.table();
        table
            .kinds
            .values()
            .find(|k| k.kind == kind && k.served_as(group, version).is_some())
            .cloned()
    }

    /// Every kind, ordered by storage group and plural.
    pub fn all(&self) -> Vec<Arc<Kind>> {
        self.table().kinds.values().cloned().collect()
    }

    /// Grows with every change; a cache of something made from the table compares it.
    pub fn generation(&self) -> u64 {
        self.table().generation
    }
}

/// A row of the built-in table: kind, plural, short names, the apiVersion it is stored in,
/// other apiVersions it is served in, flags.
struct Row(&'static str, &'static str, &'static str, &'static str, &'static str, &'static [Flag]);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flag {
    Cluster,
    Status,
    Scale,
    CreateOnly,
    All,
    ApiExtensions,
}

use Flag::{All, ApiExtensions, Cluster, CreateOnly, Scale, Status};

const ROWS: &[Row] = &[
    Row("Namespace", "namespaces", "ns", "v1", "", &[Cluster, Status]),
    Row("Node", "nodes", "no", "v1", "", &[Cluster, Status]),
    Row("Pod", "pods", "po", "v1", "", &[Status, All]),
    Row("Service", "services", "svc", "v1", "", &[Status, All]),
    Row("Endpoints", "endpoints", "ep", "v1", "", &[]),
    Row("ConfigMap", "configmaps", "cm", "v1", "", &[]),
    Row("Secret", "secrets", "", "v1", "", &[]),
    Row("ServiceAccount", "serviceaccounts", "sa", "v1", "", &[]),
    Row("Event", "events", "ev", "v1", "events.k8s.io/v1", &[]),
    Row("EndpointSlice", "endpointslices", "", "discovery.k8s.io/v1", "", &[]),
    Row("Lease", "leases", "", "coordination.k8s.io/v1", "", &[]),
    Row(
        "Deployment",
        "deployments",
        "deploy",
        "apps/v1",
        "apps/v1beta2 apps/v1beta1 extensions/v1beta1",
        &[Status, Scale, All],
    ),
    Row("ReplicaSet", "replicasets", "rs", "apps/v1", "", &[Status, Scale, All]),
    Row("NetworkPolicy", "networkpolicies", "netpol", "networking.k8s.io/v1", "", &[]),
    Row(
        "Ingress",
        "ingresses",
        "ing",
        "networking.k8s.io/v1",
        "networking.k8s.io/v1beta1 extensions/v1beta1",
        &[Status],
    ),
    Row("IngressClass", "ingressclasses", "", "networking.k8s.io/v1", "", &[Cluster]),
    Row("ServiceCIDR", "servicecidrs", "", "networking.k8s.io/v1", "", &[Cluster, Status]),
    Row("IPAddress", "ipaddresses", "ip", "networking.k8s.io/v1", "", &[Cluster]),
    Row(
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "crd crds",
        "apiextensions.k8s.io/v1",
        "",
        &[Cluster, Status, ApiExtensions],
    ),
    Row(
        "SelfSubjectReview",
        "selfsubjectreviews",
        "",
        "authentication.k8s.io/v1",
        "",
        &[Cluster, CreateOnly],
    ),
    Row("TokenReview", "tokenreviews", "", "authentication.k8s.io/v1", "", &[Cluster, CreateOnly]),
    Row(
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "",
        "authorization.k8s.io/v1",
        "",
        &[Cluster, CreateOnly],
    ),
    Row(
        "SubjectAccessReview",
        "subjectaccessreviews",
        "",
        "authorization.k8s.io/v1",
        "",
        &[Cluster, CreateOnly],
    ),
    Row(
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "",
        "authorization.k8s.io/v1",
        "",
        &[Cluster, CreateOnly],
    ),
];

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn builtin() -> impl Iterator<Item = Kind> {
    ROWS.iter().map(|&Row(kind, plural, short, storage, others, flags)| {
        let has = |flag| flags.contains(&flag);
        let (group, version) = split_api_version(storage);
        let served = std::iter::once(storage)
            .chain(others.split_whitespace())
            .map(|api_version| {
                let (group, version) = split_api_version(api_version);
                Served {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    schema: schema_name(group, version, kind),
                    structural: None,
                    deprecated: deprecation(api_version, kind),
                    status: has(Status),
                    scale: has(Scale).then(|| ScalePaths {
                        spec: ".spec.replicas".into(),
                        status: ".status.replicas".into(),
                        selector: String::new(),
                    }),
                    columns: Vec::new(),
                }
            })
            .collect();
        Kind {
            group: group.to_owned(),
            kind: kind.to_owned(),
            list_kind: format!("{kind}List"),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            short_names: words(short),
            categories: match () {
                () if has(All) => vec!["all".into()],
                () if has(ApiExtensions) => vec!["api-extensions".into()],
                () => Vec::new(),
            },
            namespaced: !has(Cluster),
            storage_version: version.to_owned(),
            served,
            verbs: if has(CreateOnly) { Verbs::CreateOnly } else { Verbs::All },
            crd: None,
        }
    })
}

/// The type name upstream's OpenAPI document uses.
fn schema_name(group: &str, version: &str, kind: &str) -> String {
    if group == "apiextensions.k8s.io" {
        return format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}");
    }
    let short = match group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    };
    format!("io.k8s.api.{short}.{version}.{kind}")
}

/// Upstream's wording for versions that have gone.
fn deprecation(api_version: &str, kind: &str) -> Option<String> {
    let (since, gone, instead) = match (api_version, kind) {
        ("apps/v1beta1" | "apps/v1beta2", _) => ("v1.9+", "v1.16+", "apps/v1"),
        ("extensions/v1beta1", "Deployment") => ("v1.9+", "v1.16+", "apps/v1"),
        ("extensions/v1beta1", "Ingress") => ("v1.14+", "v1.22+", "networking.k8s.io/v1"),
        ("networking.k8s.io/v1beta1", "Ingress") => ("v1.19+", "v1.22+", "networking.k8s.io/v1"),
        _ => return None,
    };
    Some(format!(
        "{api_version} {kind} is deprecated in {since}, unavailable in {gone}; use {instead} {kind}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_forms_lead_to_the_same_kind() {
        let kinds = Kinds::builtin();
        let old = kinds.served("extensions", "v1beta1", "ingresses").expect("served");
        assert_eq!(old.group, "networking.k8s.io");
        assert_eq!(kinds.of("apps/v1beta1", "Deployment").expect("served").group, "apps");
        assert_eq!(kinds.of("events.k8s.io/v1", "Event").expect("served").group, "");
        assert!(kinds.served("apps", "v1", "daemonsets").is_none());
    }
}
