//! Edge: one attempt of one container: its specification out of the pod, its files, its shim.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Service};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

use super::env::{self, Facts, Sources};
use super::state::RunDir;
use super::volumes::{self, TOKEN_DIR, TOKEN_VOLUME};
use crate::container::spec::{ContainerSpec, Mount, Started, State, User, file, write_json};
use crate::container::sys::DEFAULT_PATH;
use crate::images::Image;

/// How long a shim may take to say that its container runs.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Everything a container's specification is made from.
#[derive(Debug)]
pub struct Ingredients<'a> {
    /// The runner's files.
    pub run: &'a RunDir,
    /// The pod and what is known of it.
    pub facts: Facts<'a>,
    /// The container.
    pub container: &'a Container,
    /// Which attempt this is.
    pub attempt: u32,
    /// Its id.
    pub id: &'a str,
    /// Its image.
    pub image: &'a Image,
    /// Services for variables.
    pub services: &'a [Service],
    /// ConfigMaps and Secrets for variables.
    pub sources: &'a Sources,
    /// The pod's volumes by name.
    pub volumes: &'a BTreeMap<String, PathBuf>,
}

/// The host name of a pod.
pub fn hostname(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let asked = pod.spec.as_ref().and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty());
    asked
        .unwrap_or(name)
        .chars()
        .take(63)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned()
}

/// Makes the specification. What is wrong with the configuration comes back as `CreateContainerConfigError`'s message.
///
/// # Errors
/// A reference that leads nowhere.
pub fn specify(from: &Ingredients<'_>) -> Result<ContainerSpec, String> {
    let Ingredients { facts, container, image, .. } = from;
    let pod = facts.pod;
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let record = facts.record;
    let mut base = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
    let host_network = spec.host_network == Some(true);
    base.push(("HOSTNAME".into(), if host_network { node_name(pod) } else { hostname(pod) }));
    let env = env::build(container, facts, &base, from.services, from.sources)
        .map_err(|e| e.to_string())?;
    let mut env = env;
    if container.tty == Some(true) && !env.iter().any(|(k, _)| k == "TERM") {
        env.push(("TERM".into(), "xterm".into()));
    }
    if !env.iter().any(|(k, _)| k == "HOME") {
        env.push(("HOME".into(), "/root".into()));
    }
    let known: BTreeMap<String, String> = env.iter().cloned().collect();
    let expand = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|l| !l.is_empty())?;
        Some(list.iter().map(|a| env::expand(a, &known)).collect())
    };
    let (argv, program) = image.command(expand(&container.command), expand(&container.args));
    let uid = &record.uid;
    let user = user(pod, container);
    let read_only = container.security_context.as_ref().and_then(|s| s.read_only_root_filesystem);
    Ok(ContainerSpec {
        id: from.id.to_owned(),
        display: format!("{}/{}/{}", record.namespace, record.name, container.name),
        argv,
        program,
        env,
        cwd: container.working_dir.clone().filter(|d| !d.is_empty()).unwrap_or_else(|| "/".into()),
        hostname: (!host_network).then(|| hostname(pod)),
        netns: record.netns.clone(),
        user,
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        log: from.run.log(uid, &container.name, from.attempt),
        mounts: mounts(from)?,
        read_only_root: read_only == Some(true),
        files: image.files(),
        links: image.links(),
    })
}

fn node_name(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default()
}

fn user(pod: &Pod, container: &Container) -> User {
    let whole = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = container.security_context.as_ref();
    let id = |v: Option<i64>| v.and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
    let mut groups: Vec<u32> = whole
        .and_then(|w| w.supplemental_groups.clone())
        .into_iter()
        .flatten()
        .map(|g| id(Some(g)))
        .collect();
    groups.extend(whole.and_then(|w| w.fs_group).map(|g| id(Some(g))));
    User {
        uid: id(own.and_then(|o| o.run_as_user).or(whole.and_then(|w| w.run_as_user))),
        gid: id(own.and_then(|o| o.run_as_group).or(whole.and_then(|w| w.run_as_group))),
        groups,
    }
}

fn mounts(from: &Ingredients<'_>) -> Result<Vec<Mount>, String> {
    let uid = &from.facts.record.uid;
    let etc = from.run.etc(uid);
    let own = |name: &str, target: &str| Mount {
        source: etc.join(name),
        target: PathBuf::from(target),
        read_only: false,
    };
    let mut list = vec![
        own("resolv.conf", "/etc/resolv.conf"),
        own("hosts", "/etc/hosts"),
        own("hostname", "/etc/hostname"),
    ];
    let dir = from.run.container(uid, &from.container.name, from.attempt);
    let last_words = from.container.termination_message_path.as_deref();
    list.push(Mount {
        source: dir.join(file::TERMINATION),
        target: PathBuf::from(
            last_words.filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log"),
        ),
        read_only: false,
    });
    for mount in from.container.volume_mounts.iter().flatten() {
        let source = from
            .volumes
            .get(&mount.name)
            .ok_or_else(|| format!("volume mount {:?} names no volume", mount.name))?;
        let sub = mount.sub_path.as_deref().filter(|s| !s.is_empty());
        let source = match sub {
            None => source.clone(),
            Some(sub) => {
                let path = volumes::inside(source, sub).map_err(|e| e.to_string())?;
                if !path.exists() {
                    std::fs::create_dir_all(&path).map_err(|e| format!("subPath {sub}: {e}"))?;
                }
                path
            }
        };
        let target = PathBuf::from(&mount.mount_path);
        let target = if target.is_absolute() { target } else { Path::new("/").join(target) };
        list.push(Mount { source, target, read_only: mount.read_only == Some(true) });
    }
    if let Some(source) = from.volumes.get(TOKEN_VOLUME) {
        let target = PathBuf::from(TOKEN_DIR);
        list.push(Mount { source: source.clone(), target, read_only: true });
    }
    // outer mounts first, whatever order they were written in
    list.sort_by_key(|m| m.target.components().count());
    Ok(list)
}

/// Writes the files every container of the pod shares.
///
/// # Errors
/// The disk is full.
pub fn write_etc(
    run: &RunDir,
    facts: &Facts<'_>,
    cluster_dns: &[IpAddr],
    domain: &str,
) -> io::Result<()> {
    use super::dns;
    let Some(spec) = &facts.pod.spec else { return Ok(()) };
    let record = facts.record;
    let etc = run.etc(&record.uid);
    std::fs::create_dir_all(&etc)?;
    let node =
        dns::Resolver::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let resolver = dns::resolver(spec, &record.namespace, cluster_dns, domain, &node);
    std::fs::write(etc.join("resolv.conf"), resolver.text())?;
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    let name = hostname(facts.pod);
    if spec.host_network == Some(true) {
        let mut hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        hosts.push_str(&dns::host_aliases(aliases));
        std::fs::write(etc.join("hosts"), hosts)?;
        std::fs::write(etc.join("hostname"), format!("{}\n", node_name(facts.pod)))
    } else {
        let fqdn = spec.subdomain.as_deref().filter(|s| !s.is_empty());
        let fqdn = fqdn.map(|s| format!("{name}.{s}.{}.svc.{domain}", record.namespace));
        let hosts = dns::hosts(&name, fqdn.as_deref(), &record.ips, aliases);
        std::fs::write(etc.join("hosts"), hosts)?;
        std::fs::write(etc.join("hostname"), format!("{name}\n"))
    }
}

/// Starts the shim and waits for its word.
///
/// # Errors
/// Why the container does not run.
pub async fn launch(exe: &Path, dir: &Path, spec: &ContainerSpec) -> Result<State, String> {
    let files = || -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        if let Some(parent) = spec.log.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(dir.join(file::TERMINATION), "")?;
        write_json(&dir.join(file::SPEC), spec)
    };
    files().map_err(|e| format!("write the container's files: {e}"))?;
    let mut command = Command::new(exe);
    command.args(["lab", "container-shim"]).arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("start the container's shim: {e}"))?;
    let stdout = child.stdout.take().ok_or("the shim has no stdout")?;
    let said = async {
        let pipe = pipe::Receiver::from_owned_fd(stdout.into())?;
        let mut line = String::new();
        BufReader::new(pipe).read_line(&mut line).await?;
        Ok::<_, io::Error>(line)
    };
    let line = tokio::time::timeout(START_LIMIT, said).await;
    let started = match &line {
        Ok(Ok(line)) => {
            serde_json::from_str(line).map_err(|_| "the container's shim died".to_owned())
        }
        Ok(Err(error)) => Err(format!("read from the container's shim: {error}")),
        Err(_) => Err(format!("the container did not start within {START_LIMIT:?}")),
    };
    match started {
        Ok(Started::Running(state)) => Ok(state),
        Ok(Started::Failed(message)) => {
            reap(child);
            Err(message)
        }
        Err(message) => {
            if let Err(error) = child.kill() {
                tracing::warn!(%error, "cannot kill a shim that does not answer");
            }
            reap(child);
            Err(message)
        }
    }
}

fn reap(mut child: std::process::Child) {
    // it is ending; waiting for it is a matter of microseconds
    if let Err(error) = child.wait() {
        tracing::warn!(%error, "cannot wait for a shim");
    }
}
