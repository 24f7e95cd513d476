//! The commands the demo shows: run with `kubectl` where it is installed, done through the API where it is not.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use http::Request;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Client, discovery};
use serde_json::Value;

use print::columns::table;

/// One who types commands.
#[derive(Debug)]
pub struct Kubectl {
    program: Option<PathBuf>,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Looks for `kubectl` in `$FAIRWAY_KUBECTL` and on the PATH.
    #[must_use]
    pub fn find(kubeconfig: PathBuf) -> Self {
        let named = std::env::var_os("FAIRWAY_KUBECTL").map(PathBuf::from);
        let on_path = || {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|file| file.is_file())
        };
        Self { program: named.filter(|file| file.is_file()).or_else(on_path), kubeconfig }
    }

    /// Whether commands are run with the real thing.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.program.is_some()
    }

    /// `kubectl apply -f FILE`, with the file's text given.
    ///
    /// # Errors
    /// What the API refused.
    pub async fn apply(&self, client: &Client, yaml: &str) -> anyhow::Result<String> {
        if let Some(program) = &self.program {
            return self.run(program, &["apply", "-f", "-"], Some(yaml));
        }
        let mut said = String::new();
        for document in yaml.split("\n---") {
            let object: DynamicObject = serde_saphyr::from_str(document)?;
            let (kind, name) = patch(client, "default", object).await?;
            said.push_str(&format!("{kind}/{name} serverside-applied\n"));
        }
        Ok(said)
    }

    /// `kubectl scale deployment NAME --replicas=N`.
    ///
    /// # Errors
    /// What the API refused.
    pub async fn scale(
        &self,
        client: &Client,
        name: &str,
        replicas: u16,
    ) -> anyhow::Result<String> {
        if let Some(program) = &self.program {
            let replicas = format!("--replicas={replicas}");
            return self.run(program, &["scale", &format!("deployment/{name}"), &replicas], None);
        }
        let deployments: Api<k8s_openapi::api::apps::v1::Deployment> =
            Api::namespaced(client.clone(), "default");
        let body = serde_json::json!({"spec": {"replicas": replicas}});
        deployments.patch_scale(name, &PatchParams::default(), &Patch::Merge(body)).await?;
        Ok(format!("deployment.apps/{name} scaled\n"))
    }

    /// `kubectl patch service NAME -p PATCH`.
    ///
    /// # Errors
    /// What the API refused.
    pub async fn patch_service(
        &self,
        client: &Client,
        name: &str,
        patch: &str,
    ) -> anyhow::Result<String> {
        if let Some(program) = &self.program {
            return self.run(program, &["patch", "service", name, "-p", patch], None);
        }
        let services: Api<k8s_openapi::api::core::v1::Service> =
            Api::namespaced(client.clone(), "default");
        let body: Value = serde_json::from_str(patch)?;
        services.patch(name, &PatchParams::default(), &Patch::Merge(body)).await?;
        Ok(format!("service/{name} patched\n"))
    }

    /// `kubectl get RESOURCE -o wide`, for resources of the core group.
    ///
    /// # Errors
    /// What the API refused.
    pub async fn get(&self, client: &Client, resource: &str) -> anyhow::Result<String> {
        if let Some(program) = &self.program {
            return self.run(program, &["get", resource, "-o", "wide"], None);
        }
        let path = match resource {
            "nodes" => "/api/v1/nodes".to_owned(),
            other => format!("/api/v1/namespaces/default/{other}"),
        };
        let request = Request::get(path)
            .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())?;
        let answer: Value = client.request(request).await?;
        Ok(printed(&answer))
    }

    fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        input: Option<&str>,
    ) -> anyhow::Result<String> {
        let mut child = Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).context("kubectl did not take its input")?;
        }
        let output = child.wait_with_output().context("kubectl cannot be waited for")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), complaint.trim());
        }
        Ok(complaint + &said)
    }
}

/// Server-side apply of one object; returns its kind and name.
async fn patch(
    client: &Client,
    namespace: &str,
    object: DynamicObject,
) -> anyhow::Result<(String, String)> {
    let types = object.types.clone().context("an object without apiVersion and kind")?;
    let name = object.metadata.name.clone().context("an object without a name")?;
    let kind = GroupVersionKind::try_from(&types)?;
    let (resource, _) = discovery::oneshot::pinned_kind(client, &kind).await?;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let parameters = PatchParams::apply("fairway-demo").force();
    api.patch(&name, &parameters, &Patch::Apply(&object)).await?;
    Ok((types.kind.to_lowercase(), name))
}

/// A `Table` answer as text, all columns.
fn printed(answer: &Value) -> String {
    let empty = Vec::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let header: Vec<String> = answer["columnDefinitions"]
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(|column| column["name"].as_str().unwrap_or_default().to_uppercase())
        .collect();
    let rows: Vec<Vec<String>> = list(&answer["rows"])
        .iter()
        .map(|row| {
            let cells = list(&row["cells"]);
            cells
                .iter()
                .map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned))
                .collect()
        })
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    table(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_prints_its_cells() {
        let answer = serde_json::json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "Restarts"}],
            "rows": [{"cells": ["web", 2]}, {"cells": ["x", "0 (5s ago)"]}],
        });
        assert_eq!(printed(&answer), "NAME   RESTARTS\nweb    2\nx      0 (5s ago)\n");
        assert_eq!(printed(&serde_json::json!({})), "\n");
    }
}
