//! Who is asking: client certificates, static tokens, service account tokens.
//!
//! Every authenticated user may do everything: this server serves a laboratory and says so when
//! asked (`SelfSubjectAccessReview`). Anonymous requests get 401 outside the health and version
//! paths.

pub mod authority;
mod subject;
pub mod token;

use std::collections::HashMap;

use serde_json::{Value, json};

pub use authority::{Authority, AuthorityError, ClientCertificate};

use crate::registry::Registry;
use crate::store::Resource;

/// A user as authenticators see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// `kubernetes-admin`, `system:node:node-1`, `system:serviceaccount:default:default`.
    pub name: String,
    /// Uid, if the authenticator knows one.
    pub uid: String,
    /// Groups; `system:authenticated` is added on authentication.
    pub groups: Vec<String>,
}

impl User {
    /// A user in some groups.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self {
            name: name.into(),
            uid: String::new(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
        }
    }

    /// The user a verified client certificate names: CN, and O as groups.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (name, groups) = subject::read(der)?;
        (!name.is_empty()).then(|| Self { name, uid: String::new(), groups }.authenticated())
    }

    fn authenticated(mut self) -> Self {
        const GROUP: &str = "system:authenticated";
        if !self.groups.iter().any(|group| group == GROUP) {
            self.groups.push(GROUP.into());
        }
        self
    }

    /// `authentication.k8s.io` UserInfo.
    pub fn to_json(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        info
    }
}

/// Checks what a request brings.
#[derive(Debug)]
pub struct Authenticator {
    authority: Authority,
    tokens: HashMap<String, User>,
}

impl Authenticator {
    /// Accepts the authority's certificates and service account tokens, and these tokens.
    pub fn new(authority: Authority, tokens: HashMap<String, User>) -> Self {
        Self { authority, tokens }
    }

    /// The certificate authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The user of a verified client certificate.
    pub fn certificate(&self, der: &[u8]) -> Option<User> {
        User::of_certificate(der)
    }

    /// The user of a bearer token: `None` if nobody has it, or its account is gone.
    pub fn token(&self, registry: &Registry, token: &str) -> Option<User> {
        if let Some(user) = self.tokens.get(token) {
            return Some(user.clone().authenticated());
        }
        let claims = token::verify(&self.authority, token, registry.now())?;
        let account = registry.store().get(
            &Resource::new("", "serviceaccounts"),
            &claims.namespace,
            &claims.name,
        )?;
        if account.pointer("/metadata/uid").and_then(Value::as_str) != Some(&claims.uid) {
            return None;
        }
        Some(
            User {
                name: format!("system:serviceaccount:{}:{}", claims.namespace, claims.name),
                uid: claims.uid,
                groups: vec![
                    "system:serviceaccounts".into(),
                    format!("system:serviceaccounts:{}", claims.namespace),
                ],
            }
            .authenticated(),
        )
    }

    /// The user of an `Authorization` header.
    pub fn header(&self, registry: &Registry, header: &str) -> Option<User> {
        let (scheme, token) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        self.token(registry, token.trim())
    }
}
