//! A server in this process and stock clients outside it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use apiserver::auth::{ClientCertificate, User};
use apiserver::registry::Registry;
use apiserver::registry::identity::uid;
use apiserver::server::{Config, Server};

/// Tried where they are installed.
pub const KUBECTLS: &[&str] = &["kubectl", "kubectl.1.27", "kubectl.1.33"];

pub const TOKEN: &str = "test-token";

/// A running server on a thread of its own, stopped on drop.
pub struct TestServer {
    pub address: SocketAddr,
    pub registry: Registry,
    pub authority_pem: String,
    pub client: ClientCertificate,
    pub kubeconfig: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut config = Config::in_memory().expect("keys");
        config.listeners.push(listener);
        config.tokens.insert(TOKEN.into(), User::new("token-user", &["testers"]));
        change(&mut config);
        let authority_pem = config.authority.certificate_pem().to_owned();
        let client = config.authority.client("kubernetes-admin", "system:masters").expect("keys");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (started, start) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let handle = Server::start(config).expect("starts");
                started.send(handle.registry().clone()).expect("the test waits");
                let _told_or_gone = stopped.await;
                handle.stop().await;
            });
        });
        let registry = start.recv().expect("the server starts");
        let kubeconfig = std::env::temp_dir().join(format!("fairway-apiserver-{}", uid()));
        let data = |pem: &str| base64_of(pem.as_bytes());
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters: [{{name: test, cluster: {{server: 'https://{address}', certificate-authority-data: {}}}}}]\nusers: [{{name: test, user: {{client-certificate-data: {}, client-key-data: {}}}}}]\ncontexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
            data(&authority_pem),
            data(&client.certificate_pem),
            data(&client.key_pem)
        );
        std::fs::write(&kubeconfig, text).expect("a kubeconfig");
        Self {
            address,
            registry,
            authority_pem,
            client,
            kubeconfig,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn kubectl(&self, program: &'static str) -> Kubectl {
        Kubectl { program, kubeconfig: self.kubeconfig.clone() }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _gone = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server panicked");
        }
        let _gone = std::fs::remove_file(&self.kubeconfig);
        let _gone = std::fs::remove_dir_all(self.kubeconfig.with_extension("cache"));
    }
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub struct Kubectl {
    program: &'static str,
    kubeconfig: PathBuf,
}

/// What a command printed, both streams.
pub struct Printed {
    command: String,
    text: String,
}

impl Printed {
    #[track_caller]
    pub fn has(self, wanted: &str) -> Self {
        assert!(
            self.text.contains(wanted),
            "{}\nlacks {wanted:?} in:\n{}",
            self.command,
            self.text
        );
        self
    }

    #[track_caller]
    pub fn is(self, wanted: &str) -> Self {
        assert_eq!(self.text, wanted, "{}", self.command);
        self
    }
}

/// A command that runs meanwhile.
pub struct Running {
    child: Child,
    command: String,
}

impl Running {
    /// Waits for its end.
    pub fn ends(&mut self) -> Printed {
        let status = self.child.wait().expect("it was started");
        let printed = self.printed();
        assert!(status.success(), "{} failed:\n{}", printed.command, printed.text);
        printed
    }

    /// Ends it.
    pub fn kill(&mut self) -> Printed {
        std::thread::sleep(std::time::Duration::from_millis(300));
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was started");
        self.printed()
    }

    fn printed(&mut self) -> Printed {
        let mut text = String::new();
        if let Some(out) = &mut self.child.stdout {
            out.read_to_string(&mut text).expect("text");
        }
        if let Some(out) = &mut self.child.stderr {
            out.read_to_string(&mut text).expect("text");
        }
        Printed { command: self.command.clone(), text }
    }
}

impl Kubectl {
    fn command(&self, args: &[&str]) -> Command {
        let named = std::env::var_os("FAIRWAY_KUBECTL").filter(|_| self.program == "kubectl");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = named
            .map(PathBuf::from)
            .into_iter()
            .chain(std::env::split_paths(&path).map(|dir| dir.join(self.program)))
            .find(|file| file.exists())
            .unwrap_or_else(|| self.program.into());
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.kubeconfig.with_extension("cache"))
            .env("KUBECONFIG", &self.kubeconfig)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn output(&self, input: Option<&str>, args: &[&str]) -> (bool, Printed) {
        let mut command = self.command(args);
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().expect("kubectl runs");
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).expect("kubectl reads");
        }
        let Output { status, stdout, stderr } = child.wait_with_output().expect("kubectl ends");
        let text =
            String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        (
            status.success(),
            Printed { command: format!("{} {}", self.program, args.join(" ")), text },
        )
    }

    /// `None`, with a word, if this kubectl is not installed; CI must have it.
    pub fn try_run(&self, args: &[&str]) -> Option<String> {
        if self.command(args).spawn().is_err() {
            println!("SKIP: {} is not installed", self.program);
            let required =
                ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|v| std::env::var_os(v).is_some());
            assert!(!required || self.program != "kubectl", "kubectl is required");
            return None;
        }
        Some(self.run(args).text)
    }

    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Printed {
        let (fine, printed) = self.output(None, args);
        assert!(fine, "{} failed:\n{}", printed.command, printed.text);
        printed
    }

    #[track_caller]
    pub fn fail(&self, args: &[&str]) -> Printed {
        let (fine, printed) = self.output(None, args);
        assert!(!fine, "{} did not fail:\n{}", printed.command, printed.text);
        printed
    }

    #[track_caller]
    pub fn input(&self, input: &str, args: &[&str]) -> Printed {
        let (fine, printed) = self.output(Some(input), args);
        assert!(fine, "{} failed:\n{}", printed.command, printed.text);
        printed
    }

    #[track_caller]
    pub fn fail_input(&self, input: &str, args: &[&str]) -> Printed {
        let (fine, printed) = self.output(Some(input), args);
        assert!(!fine, "{} did not fail:\n{}", printed.command, printed.text);
        printed
    }

    pub fn spawn(&self, args: &[&str]) -> Running {
        let child = self.command(args).spawn().expect("kubectl runs");
        Running { child, command: format!("{} {}", self.program, args.join(" ")) }
    }
}
