//! Edge: the objects a pod refers to, asked from the API when they are needed. Without a client (tests of the engine)
//! nothing exists.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service, ServiceAccount};
use kube::api::{Api, ListParams, PostParams};

use super::env::{self, SourceKind, Sources};

type Data = BTreeMap<String, Vec<u8>>;

/// Asks the API.
#[derive(Clone, Default)]
pub struct Lookup {
    client: Option<kube::Client>,
    ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup").field("client", &self.client.is_some()).finish_non_exhaustive()
    }
}

fn found<T>(result: kube::Result<Option<T>>) -> Result<Option<T>, String> {
    result.map_err(|e| e.to_string())
}

impl Lookup {
    /// Through this client; `ca` is the certificate authority's PEM.
    pub fn new(client: kube::Client, ca: Option<Vec<u8>>) -> Lookup {
        Lookup { client: Some(client), ca }
    }

    /// The authority this runner trusts, PEM.
    pub fn cluster_ca(&self) -> Option<&[u8]> {
        self.ca.as_deref()
    }

    /// A ConfigMap's entries; `None` when it is not there.
    ///
    /// # Errors
    /// The API's words.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Data>, String> {
        let Some(client) = &self.client else { return Ok(None) };
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        Ok(found(api.get_opt(name).await)?.map(|map| {
            let text = map.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes()));
            text.chain(map.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0))).collect()
        }))
    }

    /// A Secret's entries; `None` when it is not there.
    ///
    /// # Errors
    /// The API's words.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Data>, String> {
        let Some(client) = &self.client else { return Ok(None) };
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        Ok(found(api.get_opt(name).await)?
            .map(|s| s.data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect()))
    }

    /// Everything a container's environment refers to.
    ///
    /// # Errors
    /// The API's words; a missing object is no error here.
    pub async fn sources(&self, namespace: &str, container: &Container) -> Result<Sources, String> {
        let mut sources = Sources::new();
        for (kind, name) in env::wanted(container) {
            let data = match kind {
                SourceKind::ConfigMap => self.config_map(namespace, &name).await?,
                SourceKind::Secret => self.secret(namespace, &name).await?,
            };
            sources.insert((kind, name), data);
        }
        Ok(sources)
    }

    /// The Services whose variables a pod gets: `kubernetes`, and its namespace's unless it declines.
    ///
    /// # Errors
    /// The API's words.
    pub async fn services(&self, namespace: &str, links: bool) -> Result<Vec<Service>, String> {
        let Some(client) = &self.client else { return Ok(Vec::new()) };
        let api: Api<Service> = Api::namespaced(client.clone(), "default");
        let mut list: Vec<Service> = found(api.get_opt("kubernetes").await)?.into_iter().collect();
        if links {
            let api: Api<Service> = Api::namespaced(client.clone(), namespace);
            let all = api.list(&ListParams::default()).await.map_err(|e| e.to_string())?;
            list.extend(all.items.into_iter().filter(|s| {
                namespace != "default" || s.metadata.name.as_deref() != Some("kubernetes")
            }));
        }
        Ok(list)
    }

    /// A token for the pod's service account.
    ///
    /// # Errors
    /// The API's words, or that there is no API.
    pub async fn token(
        &self,
        pod: &Pod,
        audience: Option<String>,
        seconds: Option<i64>,
    ) -> Result<String, String> {
        let Some(client) = &self.client else { return Err("there is no API".into()) };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref());
        let account = account.filter(|a| !a.is_empty()).unwrap_or("default");
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audience.into_iter().collect()),
                expiration_seconds: seconds,
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let made = api.create_token_request(account, &PostParams::default(), &request).await;
        let status = made.map_err(|e| e.to_string())?.status;
        status.and_then(|s| s.token).ok_or_else(|| "the API gave no token".into())
    }
}
