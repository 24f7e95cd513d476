//! Edge: a pod's volumes as directories on this node: emptyDir, hostPath, configMap, secret, downwardAPI, projected
//! (service account tokens too). Anything else is refused by name.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, Volume, VolumeProjection,
};

use super::env::{Facts, downward};
use super::lookup::Lookup;
use super::state::RunDir;

/// Where every pod finds its token unless it declines.
pub const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The volume that is added when the API did not.
pub const TOKEN_VOLUME: &str = "kube-api-access";

/// A volume cannot be had; tried again later.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
pub struct VolumeError {
    /// Its name.
    pub volume: String,
    /// Why.
    pub why: String,
}

type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// Makes every volume; volume name → path on the node.
///
/// # Errors
/// The first volume that cannot be had.
pub async fn prepare(
    run: &RunDir,
    facts: &Facts<'_>,
    lookup: &Lookup,
) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let mut paths = BTreeMap::new();
    let uid = &facts.record.uid;
    let spec = facts.pod.spec.as_ref();
    for volume in spec.and_then(|s| s.volumes.as_deref()).unwrap_or_default() {
        let fail = |why: String| VolumeError { volume: volume.name.clone(), why };
        let dir = run.volume(uid, &volume.name);
        let path = match (&volume.host_path, &volume.empty_dir) {
            (Some(host), _) => {
                host_path(host).map_err(|e| fail(format!("hostPath {}: {e}", host.path)))?
            }
            (_, Some(_)) => {
                make_dir(&dir, 0o777).map_err(|e| fail(e.to_string()))?;
                dir
            }
            _ => {
                let files = contents(volume, facts, lookup).await.map_err(fail)?;
                write_files(&dir, &files).map_err(|e| fail(e.to_string()))?;
                dir
            }
        };
        paths.insert(volume.name.clone(), path);
    }
    if wants_token(facts.pod) {
        let dir = run.volume(uid, TOKEN_VOLUME);
        // a cluster without tokens still runs pods: most never look
        match service_account(facts, lookup, None).await {
            Ok(files) => {
                let fail =
                    |e: io::Error| VolumeError { volume: TOKEN_VOLUME.into(), why: e.to_string() };
                write_files(&dir, &files).map_err(fail)?;
                paths.insert(TOKEN_VOLUME.into(), dir);
            }
            Err(why) => tracing::info!(pod = facts.record.name, why, "no service account token"),
        }
    }
    Ok(paths)
}

/// Whether a token is to be mounted that the API did not already put among the volumes.
pub fn wants_token(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let mounted = |path: &str| path.trim_end_matches('/') == TOKEN_DIR;
    spec.automount_service_account_token != Some(false)
        && !spec
            .containers
            .iter()
            .flat_map(|c| c.volume_mounts.iter().flatten())
            .any(|m| mounted(&m.mount_path))
}

fn host_path(host: &HostPathVolumeSource) -> io::Result<PathBuf> {
    let path = PathBuf::from(&host.path);
    let wrong = |what: &str| Err(io::Error::other(format!("hostPath type check failed: {what}")));
    match host.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => fs::create_dir_all(&path)?,
        "FileOrCreate" if !path.exists() => drop(fs::File::create(&path)?),
        "Directory" if !path.is_dir() => return wrong("is not a directory"),
        "File" | "FileOrCreate" if !path.is_file() => return wrong("is not a file"),
        _ => {}
    }
    if !path.exists() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such file or directory"));
    }
    Ok(path)
}

async fn contents(volume: &Volume, facts: &Facts<'_>, lookup: &Lookup) -> Result<Files, String> {
    let namespace = &facts.record.namespace;
    if let Some(source) = &volume.config_map {
        let data = lookup.config_map(namespace, &source.name).await?;
        return pick(
            "configmap",
            &source.name,
            data,
            source.items.as_deref(),
            source.optional,
            source.default_mode,
        );
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        let data = lookup.secret(namespace, &name).await?;
        return pick(
            "secret",
            &name,
            data,
            source.items.as_deref(),
            source.optional,
            source.default_mode,
        );
    }
    if let Some(source) = &volume.downward_api {
        return fields(source.items.as_deref(), facts, source.default_mode);
    }
    if let Some(source) = &volume.projected {
        let mut all = Files::new();
        for part in source.sources.iter().flatten() {
            all.extend(projection(part, facts, lookup, source.default_mode).await?);
        }
        return Ok(all);
    }
    Err("this kind of volume does not exist in the lab (there are emptyDir, hostPath, configMap, secret, downwardAPI and projected)".into())
}

async fn projection(
    part: &VolumeProjection,
    facts: &Facts<'_>,
    lookup: &Lookup,
    mode: Option<i32>,
) -> Result<Files, String> {
    let namespace = &facts.record.namespace;
    if let Some(source) = &part.config_map {
        let data = lookup.config_map(namespace, &source.name).await?;
        let data = match data {
            // the root certificate is what this runner itself trusts, when nobody published it
            None if source.name == "kube-root-ca.crt" => {
                lookup.cluster_ca().map(|ca| BTreeMap::from([("ca.crt".to_owned(), ca.to_vec())]))
            }
            data => data,
        };
        return pick(
            "configmap",
            &source.name,
            data,
            source.items.as_deref(),
            source.optional,
            mode,
        );
    }
    if let Some(source) = &part.secret {
        let data = lookup.secret(namespace, &source.name).await?;
        return pick("secret", &source.name, data, source.items.as_deref(), source.optional, mode);
    }
    if let Some(source) = &part.downward_api {
        return fields(source.items.as_deref(), facts, mode);
    }
    if let Some(source) = &part.service_account_token {
        let audience = source.audience.clone();
        let token = lookup
            .token(facts.pod, audience, source.expiration_seconds)
            .await
            .map_err(|e| format!("failed to fetch token: {e}"))?;
        return Ok([(source.path.clone(), (token.into_bytes(), mode_of(mode)))].into());
    }
    Err("this kind of projection does not exist in the lab".into())
}

async fn service_account(
    facts: &Facts<'_>,
    lookup: &Lookup,
    mode: Option<i32>,
) -> Result<Files, String> {
    let token = lookup.token(facts.pod, None, Some(3607)).await?;
    let mut files = Files::from([
        ("token".to_owned(), (token.into_bytes(), mode_of(mode))),
        ("namespace".to_owned(), (facts.record.namespace.clone().into_bytes(), mode_of(mode))),
    ]);
    if let Some(ca) = lookup.cluster_ca() {
        files.insert("ca.crt".into(), (ca.to_vec(), mode_of(mode)));
    }
    Ok(files)
}

fn mode_of(mode: Option<i32>) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644) & 0o777
}

fn pick(
    kind: &str,
    name: &str,
    data: Option<BTreeMap<String, Vec<u8>>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: Option<i32>,
) -> Result<Files, String> {
    let Some(data) = data else {
        return match optional {
            Some(true) => Ok(Files::new()),
            _ => Err(format!("{kind} {name:?} not found")),
        };
    };
    let Some(items) = items else {
        return Ok(data.into_iter().map(|(k, v)| (k, (v, mode_of(mode)))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                files.insert(item.path.clone(), (value.clone(), mode_of(item.mode.or(mode))));
            }
            None if optional == Some(true) => {}
            None => return Err(format!("references non-existent {kind} key: {}", item.key)),
        }
    }
    Ok(files)
}

fn fields(
    items: Option<&[DownwardAPIVolumeFile]>,
    facts: &Facts<'_>,
    mode: Option<i32>,
) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items.unwrap_or_default() {
        let field = item.field_ref.as_ref().map(|f| downward(&f.field_path, facts));
        let value = field.unwrap_or_else(|| Ok("0".into())).map_err(|e| e.to_string())?;
        files.insert(item.path.clone(), (value.into_bytes(), mode_of(item.mode.or(mode))));
    }
    Ok(files)
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn write_files(dir: &Path, files: &Files) -> io::Result<()> {
    make_dir(dir, 0o755)?;
    for (name, (bytes, mode)) in files {
        let path = inside(dir, name)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
    }
    Ok(())
}

/// A relative path below a directory; `..` and absolute paths are refused.
///
/// # Errors
/// It would lead out of the directory.
pub fn inside(dir: &Path, relative: &str) -> io::Result<PathBuf> {
    let path = Path::new(relative);
    if path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        Ok(dir.join(path))
    } else {
        Err(io::Error::other(format!("path {relative:?} leads out of the volume")))
    }
}
