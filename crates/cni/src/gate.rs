//! The wait for the new pod's network policy: ADD answers only when the kernel has it.
//!
//! The agent listens on a Unix socket of which the configuration tells the path. One line says whose addresses these are, one line
//! is the answer: `ok`, or `error` and why. Without an agent nothing is answered, and no pod starts unprotected.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{CniError, Environment};

/// The agent's file for this, below its run-time directory.
pub const GATE_SOCKET: &str = "policy.sock";
/// The longest wait. The kubelet gives a sandbox two minutes (KEP-1769) and tries again.
pub const GATE_PATIENCE: Duration = Duration::from_secs(20);

/// What the plugin says: these addresses are this pod's from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, where the runtime says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Waits until the kernel has the policy of the pod these addresses were given to. What is no pod of Kubernetes has none.
pub(crate) fn wait(
    socket: Option<&Path>,
    env: &Environment,
    addresses: &[IpAddr],
) -> Result<(), CniError> {
    let pod = env.arg("K8S_POD_NAMESPACE").zip(env.arg("K8S_POD_NAME"));
    let Some((path, (namespace, name))) = socket.zip(pod) else { return Ok(()) };
    let request = GateRequest {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: env.arg("K8S_POD_UID").map(str::to_owned),
        addresses: addresses.to_vec(),
    };
    let pod = || format!("{namespace}/{name}");
    match ask(path, &request) {
        Ok(answer) if answer == "ok" => Ok(()),
        Ok(answer) => {
            let why = answer.strip_prefix("error ").unwrap_or(&answer).to_owned();
            Err(CniError::PolicyNotReady { pod: pod(), why })
        }
        Err(error) => {
            let why = match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    format!("the agent did not say so within {} s", GATE_PATIENCE.as_secs())
                }
                _ => format!("no agent answers on {} ({error}); is it running?", path.display()),
            };
            Err(CniError::PolicyNotReady { pod: pod(), why })
        }
    }
}

fn ask(path: &Path, request: &GateRequest) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(GATE_PATIENCE))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn env(args: &str) -> Environment {
        Environment { args: args.into(), ..Environment::default() }
    }

    #[test]
    fn no_answer_is_a_refusal_that_asks_to_try_again() {
        let env = env("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db");
        let none = Path::new("/nonexistent/policy.sock");
        let error = wait(Some(none), &env, &[]).expect_err("nobody listens");
        assert_eq!(error.code(), 11);
        assert!(error.to_string().contains("shop/db"), "{error}");
        assert!(wait(None, &env, &[]).is_ok(), "policy is not enforced here");
        assert!(wait(Some(none), &self::env(""), &[]).is_ok(), "no pod of Kubernetes");
    }

    #[test]
    fn the_agents_word_decides() {
        let path = std::env::temp_dir().join(format!("fairway-gate-{}.sock", std::process::id()));
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path).expect("a socket");
        let agent = std::thread::spawn(move || {
            ["ok\n", "error the kernel refused\n", ""].map(|answer| {
                let (stream, _) = listener.accept().expect("a connection");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a line");
                (&stream).write_all(answer.as_bytes()).expect("written");
                serde_json::from_str::<GateRequest>(&line).expect("a request")
            })
        });
        let env = env("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db;K8S_POD_UID=u");
        let addresses: [IpAddr; 2] = ["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert!(wait(Some(&path), &env, &addresses).is_ok());
        let error = wait(Some(&path), &env, &addresses).expect_err("refused");
        assert!(error.to_string().contains("the kernel refused"), "{error}");
        assert_eq!(wait(Some(&path), &env, &addresses).expect_err("no word").code(), 11);
        let asked = agent.join().expect("the agent's part");
        assert_eq!(asked[0].uid.as_deref(), Some("u"));
        assert_eq!(asked[0].addresses, addresses);
        std::fs::remove_file(&path).expect("removed");
    }
}
