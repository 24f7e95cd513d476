//! A lab for a test: brought up with the real binary, asked through the real `kubectl`, gone at the end.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The binary under test.
pub const FAIRWAY: &str = env!("CARGO_BIN_EXE_fairway");

/// What a test needs from the machine; a missing thing is said, and a failure where nothing may be skipped.
pub fn ready(tools: &[&str]) -> bool {
    let mut missing: Vec<String> =
        tools.iter().filter(|t| which(t).is_none()).map(|t| (*t).to_owned()).collect();
    if !output(Command::new("id").arg("-u")).0.trim().eq("0") {
        missing.push("root".to_owned());
    }
    if missing.is_empty() {
        return true;
    }
    let said = format!("needs {}", missing.join(", "));
    let strict = ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!strict, "{said}");
    println!("SKIP: {said}");
    false
}

fn which(tool: &str) -> Option<PathBuf> {
    if tool == "kubectl"
        && let Some(named) = std::env::var_os("FAIRWAY_KUBECTL")
    {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(tool))
        .find(|file| file.is_file())
}

/// Runs a command; standard output, standard error, whether it went well.
pub fn output(command: &mut Command) -> (String, String, bool) {
    let Output { status, stdout, stderr } = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(stdout), text(stderr), status.success())
}

/// Waits until `probe` gives a value.
pub fn eventually<T>(
    what: &str,
    patience: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> T {
    let began = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if began.elapsed() > patience => {
                panic!("{what}: not within {patience:?}: {last}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A lab with a name of its own; taken down, state and all, when dropped.
pub struct Lab {
    /// Its name.
    pub name: String,
}

impl Lab {
    /// A name nobody else uses; nothing is started.
    pub fn named(tag: &str) -> Self {
        Self { name: format!("{tag}-{}", std::process::id()) }
    }

    /// A lab that is up.
    pub fn up(tag: &str, arguments: &[&str]) -> Self {
        let lab = Self::named(tag);
        lab.bring_up(arguments);
        lab
    }

    /// `fairway lab up --detach`, which must work.
    pub fn bring_up(&self, arguments: &[&str]) {
        let mut words = vec!["lab", "up", "--detach", "--name", &self.name];
        words.extend(arguments);
        let (out, err, good) = output(Command::new(FAIRWAY).args(&words));
        assert!(good, "lab up: {out}{err}\n{}", self.logs());
    }

    /// The last lines of the control process's, the agents' and the runners' logs.
    pub fn logs(&self) -> String {
        let dir = self.run_dir();
        let mut files = vec![dir.join("control.log")];
        for node in fs::read_dir(dir.join("nodes")).into_iter().flatten().flatten() {
            files.extend(["agent.log", "runner.log"].map(|log| node.path().join(log)));
        }
        let tail = |file: &PathBuf| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            format!(
                "== {}\n{}\n",
                file.display(),
                lines.into_iter().rev().collect::<Vec<_>>().join("\n")
            )
        };
        files.iter().map(tail).collect()
    }

    /// Where the test's own links to `fairway` and `kubectl` are.
    fn tools(&self) -> PathBuf {
        std::env::temp_dir().join(format!("fairway-test-{}", self.name))
    }

    /// `/run/fairway/labs/<lab>`.
    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run/fairway/labs").join(&self.name)
    }

    /// `/var/lib/fairway/labs/<lab>`.
    pub fn state_dir(&self) -> PathBuf {
        Path::new("/var/lib/fairway/labs").join(&self.name)
    }

    /// A namespace of the lab: `client`, `node-1`, …
    pub fn netns(&self, place: &str) -> PathBuf {
        Path::new("/run/netns").join(format!("fairway-{}-{place}", self.name))
    }

    /// `fairway lab <words> --name LAB`, words before the name.
    pub fn fairway(&self, words: &[&str]) -> (String, String, bool) {
        output(Command::new(FAIRWAY).args(words).env("FAIRWAY_LAB_NAME", &self.name))
    }

    /// A shell script with the lab's kubeconfig; fails the test when it fails.
    pub fn sh(&self, script: &str) -> String {
        let (out, err, good) = output(&mut self.shell(script));
        assert!(good, "{script}\n{out}{err}\n{}", self.logs());
        out
    }

    /// A shell with `fairway` and `kubectl` on the path, the lab's kubeconfig, in the repository's root.
    pub fn shell(&self, script: &str) -> Command {
        let tools = self.tools();
        fs::create_dir_all(&tools).unwrap();
        let link = |name: &str, target: &Path| {
            let file = tools.join(name);
            if !file.exists() {
                std::os::unix::fs::symlink(target, file).unwrap();
            }
        };
        link("fairway", Path::new(FAIRWAY));
        if let Some(kubectl) = which("kubectl") {
            link("kubectl", &kubectl);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-c", script])
            .current_dir(root())
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", tools.display()))
            .env("KUBECONFIG", self.run_dir().join("kubeconfig"))
            .env("FAIRWAY_LAB_NAME", &self.name)
            .env("NO_COLOR", "1");
        command
    }

    /// A Service's ClusterIP.
    pub fn cluster_ip(&self, service: &str, port: u16) -> SocketAddr {
        let address =
            self.sh(&format!("kubectl get svc {service} -o jsonpath={{.spec.clusterIP}}"));
        SocketAddr::new(address.parse().unwrap(), port)
    }

    /// Pods with a label: name → (address, node, network namespace).
    pub fn pods(&self, label: &str) -> BTreeMap<String, (String, String, PathBuf)> {
        let columns = "{range .items[*]}{.metadata.name} {.status.podIP} {.spec.nodeName} {.metadata.uid}{\"\\n\"}{end}";
        let text = self.sh(&format!("kubectl get pods -l {label} -o jsonpath='{columns}'"));
        text.lines()
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let netns = self.netns(&format!("pod-{}", &words[3].replace('-', "")[..12]));
                (words[0].to_owned(), (words[1].to_owned(), words[2].to_owned(), netns))
            })
            .collect()
    }

    /// Everything of this lab on the machine.
    pub fn traces(&self) -> Traces {
        Traces::of(&self.name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        drop(output(Command::new(FAIRWAY).args(["lab", "down", "--purge", "--name", &self.name])));
        drop(fs::remove_dir_all(self.tools()));
    }
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// What a lab has on the machine, found without its own code.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traces {
    /// Names under `/run/netns`.
    pub namespaces: BTreeSet<String>,
    /// Network namespaces behind them.
    pub inodes: BTreeSet<u64>,
    /// Processes in them, or with the lab's name among their arguments or in their environment: pid → start time and arguments.
    pub processes: BTreeMap<u32, String>,
    /// Lines of the mount table.
    pub mounts: BTreeSet<String>,
    /// Directories.
    pub files: BTreeSet<PathBuf>,
}

impl Traces {
    fn of(lab: &str) -> Self {
        let mut traces = Self::default();
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("fairway-{lab}-")) {
                traces.inodes.extend(fs::metadata(entry.path()).map(|meta| meta.ino()));
                traces.namespaces.insert(name);
            }
        }
        traces.processes = processes(lab, &traces.inodes);
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        traces.mounts = table.lines().filter(|l| l.contains(lab)).map(str::to_owned).collect();
        let dirs =
            ["/run/fairway/labs", "/var/lib/fairway/labs"].map(|root| Path::new(root).join(lab));
        traces.files = dirs.into_iter().filter(|dir| dir.exists()).collect();
        traces
    }

    /// Those of its processes that still run: by pid and start time, as pids (and the numbers of namespaces) are
    /// used again.
    pub fn still_running(&self) -> BTreeMap<u32, String> {
        let same =
            |pid: &u32, seen: &String| started(*pid).is_some_and(|now| seen.starts_with(&now));
        self.processes
            .iter()
            .filter(|(pid, seen)| same(pid, seen))
            .map(|(p, s)| (*p, s.clone()))
            .collect()
    }

    /// Fails unless there is nothing.
    pub fn assert_none(&self, when: &str) {
        assert_eq!(*self, Self::default(), "left behind {when}");
    }
}

fn processes(lab: &str, inodes: &BTreeSet<u64>) -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        if arguments.is_empty() {
            continue; // a kernel thread or a zombie
        }
        let marked = read("environ")
            .split(|b| *b == 0)
            .any(|v| v == format!("FAIRWAY_LAB={lab}").as_bytes());
        let inside =
            fs::metadata(entry.path().join("ns/net")).is_ok_and(|m| inodes.contains(&m.ino()));
        let ours = arguments.contains("fairway") && arguments.contains(lab);
        if marked || inside || ours {
            let Some(started) = started(pid) else { continue };
            found.insert(pid, format!("{started} {arguments}"));
        }
    }
    found
}

/// When a process that is no zombie started, in ticks since boot, and a blank.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    (fields[0] != "Z").then(|| format!("{} ", fields[19]))
}

/// The host's own network, which a lab must not touch.
pub fn host_network() -> String {
    let script = "ip -o link show | sed -E 's/^[0-9]+: ([^:]+):.*/\\1/' | sort; ip rule; ip -6 rule; \
                  ip route show table all; cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding \
                  /proc/sys/net/ipv4/conf/all/rp_filter";
    let (out, err, good) = output(
        Command::new("bash").args(["-c", script]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    );
    assert!(good, "{err}");
    out
}
