//! The kubeconfig of an existing cluster, made whole: one cluster, one user, files read in, so that it means the same
//! wherever it is copied. An edge: reads files; the rest is values.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Map, Value, json};

use crate::layout::{API_PORT, SWITCH_V4};

/// What of a user is taken over as it is.
const CREDENTIALS: [&str; 9] = [
    "client-certificate-data",
    "client-key-data",
    "token",
    "username",
    "password",
    "as",
    "as-uid",
    "as-groups",
    "as-user-extra",
];

/// How an existing API server is reached, and as whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Access {
    url: http::Uri,
    host: String,
    port: u16,
    cluster: Map<String, Value>,
    user: Map<String, Value>,
}

impl Access {
    /// Reads a kubeconfig's current context.
    ///
    /// # Errors
    /// When it cannot be read, is not whole, or asks for what a namespace without the host's network cannot do (a
    /// credential plugin, a proxy).
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let unusable = || format!("cannot use the kubeconfig {}", path.display());
        let text = std::fs::read_to_string(path).with_context(unusable)?;
        let config: Value = serde_saphyr::from_str(&text).with_context(unusable)?;
        let dir = path.parent().unwrap_or(Path::new("."));
        Self::of(&config, dir).with_context(unusable)
    }

    fn of(config: &Value, dir: &Path) -> anyhow::Result<Self> {
        let current = text(&config["current-context"]);
        let context = named(config, "contexts", "context", current)
            .with_context(|| format!("it has no current context ({current:?})"))?;
        let of = |list, field: &str| {
            let name = text(&context[field]);
            named(config, list, field, name).with_context(|| format!("it has no {field} {name:?}"))
        };
        let (cluster, user) = (of("clusters", "cluster")?, of("users", "user")?);
        if !text(&cluster["proxy-url"]).is_empty() {
            bail!("it leads through a proxy, which the lab's nodes cannot");
        }
        if user["exec"].is_object() || user["auth-provider"].is_object() {
            bail!(
                "its user gets credentials from a program, which the lab's nodes cannot run: make a kubeconfig with a \
                 certificate or a token"
            );
        }
        let url: http::Uri = text(&cluster["server"]).parse().context("server is no URL")?;
        let host = url.host().context("server has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port =
            url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });

        let mut whole = Map::new();
        for field in ["insecure-skip-tls-verify", "tls-server-name"] {
            if let Some(value) = cluster.get(field) {
                whole.insert(field.into(), value.clone());
            }
        }
        take_in(cluster, "certificate-authority", dir, &mut whole)?;
        let mut credentials = Map::new();
        for field in CREDENTIALS {
            if let Some(value) = user.get(field) {
                credentials.insert(field.into(), value.clone());
            }
        }
        take_in(user, "client-certificate", dir, &mut credentials)?;
        take_in(user, "client-key", dir, &mut credentials)?;
        let token_file = text(&user["tokenFile"]);
        if !token_file.is_empty() {
            // It may be renewed, so the file stays what is read; the lab's nodes see the same files.
            let file = dir.join(token_file).display().to_string();
            credentials.insert("tokenFile".into(), file.into());
        }
        Ok(Self { url, host, port, cluster: whole, user: credentials })
    }

    /// Where the host reaches the API.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.to_string().trim_end_matches('/').to_owned()
    }

    /// Host and port the relay connects to.
    #[must_use]
    pub fn target(&self) -> (String, u16) {
        (self.host.clone(), self.port)
    }

    /// A kubeconfig for the host.
    ///
    /// # Errors
    /// When it cannot be written as text.
    pub fn outside(&self) -> anyhow::Result<String> {
        self.kubeconfig(&self.url(), self.cluster.clone())
    }

    /// A kubeconfig for nodes and pods: through the relay, with the name the certificate is for.
    ///
    /// # Errors
    /// When it cannot be written as text.
    pub fn inside(&self) -> anyhow::Result<String> {
        let mut cluster = self.cluster.clone();
        cluster.entry("tls-server-name").or_insert_with(|| self.host.clone().into());
        let scheme = self.url.scheme_str().unwrap_or("https");
        let path = self.url.path().trim_end_matches('/');
        self.kubeconfig(&format!("{scheme}://{SWITCH_V4}:{API_PORT}{path}"), cluster)
    }

    fn kubeconfig(&self, url: &str, mut cluster: Map<String, Value>) -> anyhow::Result<String> {
        cluster.insert("server".into(), url.into());
        let name = "existing";
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": self.user}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        });
        serde_saphyr::to_string(&config).context("cannot write a kubeconfig")
    }

    /// A client on the host; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When certificates or keys are damaged.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let config = Kubeconfig::from_yaml(&self.outside()?)?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The entry called `name` of a list, without its wrapping.
fn named<'a>(config: &'a Value, list: &str, field: &str, name: &str) -> Option<&'a Value> {
    let entries = config[list].as_array().into_iter().flatten();
    let mut entries = entries.filter(|entry| text(&entry["name"]) == name);
    entries.next().map(|entry| &entry[field]).filter(|value| value.is_object())
}

/// `<field>-data` as it is, or what is in the file that `<field>` names.
fn take_in(
    from: &Value,
    field: &str,
    dir: &Path,
    into: &mut Map<String, Value>,
) -> anyhow::Result<()> {
    let data = format!("{field}-data");
    let inline = text(&from[&data]);
    let file = text(&from[field]);
    let value = if !inline.is_empty() {
        inline.to_owned()
    } else if !file.is_empty() {
        let path: PathBuf = dir.join(file);
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        BASE64.encode(bytes)
    } else {
        return Ok(());
    };
    into.insert(data, value.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(server: &str, user: Value) -> Value {
        json!({
            "current-context": "b",
            "contexts": [
                {"name": "a", "context": {"cluster": "other", "user": "other"}},
                {"name": "b", "context": {"cluster": "c", "user": "u"}},
            ],
            "clusters": [{"name": "c", "cluster":
                {"server": server, "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": user}],
        })
    }

    #[test]
    fn files_are_read_in_and_the_certificates_name_is_kept() {
        let dir = std::env::temp_dir().join(format!("fairway-access-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("ca.crt"), "CA").unwrap();
        std::fs::write(dir.join("me.key"), "KEY").unwrap();
        let user = json!({"client-certificate-data": "Q0VSVA==", "client-key": "me.key"});
        let access = Access::of(&config("https://api.example:7443/prefix", user), &dir).unwrap();
        assert_eq!(access.target(), ("api.example".to_owned(), 7443));
        let inside: Value = serde_saphyr::from_str(&access.inside().unwrap()).unwrap();
        let cluster = &inside["clusters"][0]["cluster"];
        assert_eq!(cluster["server"], "https://172.30.0.1:6443/prefix");
        assert_eq!(cluster["tls-server-name"], "api.example");
        assert_eq!(cluster["certificate-authority-data"], "Q0E=");
        assert_eq!(inside["users"][0]["user"]["client-key-data"], "S0VZ");
        let outside: Value = serde_saphyr::from_str(&access.outside().unwrap()).unwrap();
        assert_eq!(outside["clusters"][0]["cluster"]["server"], "https://api.example:7443/prefix");
        assert!(outside["clusters"][0]["cluster"]["tls-server-name"].is_null());
        // What was written is whole: it reads back as the same access.
        assert_eq!(Access::of(&outside, Path::new("/")).unwrap(), access);
        let six = Access::of(&config("https://[::1]:6443", json!({"token": "t"})), &dir).unwrap();
        assert_eq!(six.target(), ("::1".to_owned(), 6443));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let dir = Path::new("/nonexistent");
        let error = |config: &Value| format!("{:#}", Access::of(config, dir).unwrap_err());
        let good = json!({"token": "t"});
        assert!(error(&json!({})).contains("no current context"));
        assert!(error(&config("https://a", good.clone())).contains("/nonexistent/ca.crt"));
        let plugin = json!({"exec": {"command": "cloud-login"}});
        assert!(error(&config("https://a", plugin)).contains("certificate or a token"));
        let mut proxied = config("https://a", good);
        proxied["clusters"][0]["cluster"]["proxy-url"] = "http://proxy".into();
        assert!(error(&proxied).contains("proxy"));
    }
}
