//! The socket on which a CNI plugin waits for its pod's policy. An edge; what it is asked goes to the services loop.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cni::{GATE_PATIENCE, GateRequest};
use model::{ObjectKey, Uid};
use policy::Claim;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Plugins at a time; more wait in the socket's queue.
const CONNECTIONS: usize = 256;
/// A question is one line, shorter than this.
const LINE: u64 = 4096;
/// The answer comes before the plugin gives up, and says why.
const MARGIN: Duration = Duration::from_secs(1);

/// A plugin that waits.
pub(crate) struct Ask {
    /// Whose addresses these are.
    pub(crate) claim: Claim,
    /// Since when it waits.
    pub(crate) since: Instant,
    /// Said when the kernel has the policy.
    pub(crate) answer: oneshot::Sender<()>,
}

/// Listens at `path`, in place of an agent before this one, and serves until dropped.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn serve(
    path: &Path,
    asks: mpsc::Sender<Ask>,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    Ok(accept(listener, asks))
}

async fn accept(listener: UnixListener, asks: mpsc::Sender<Ask>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                connections.spawn(one(stream, asks.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a plugin");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn one(mut stream: UnixStream, asks: mpsc::Sender<Ask>) {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let within = GATE_PATIENCE - MARGIN;
    let asked = async {
        BufReader::new(read.take(LINE)).read_line(&mut line).await.map_err(|it| it.to_string())?;
        let claim = claim(&line)?;
        let (answer, done) = oneshot::channel();
        let ask = Ask { claim, since: Instant::now(), answer };
        asks.send(ask).await.map_err(|_| "the agent stops".to_owned())?;
        done.await.map_err(|_| "the agent stops".to_owned())
    };
    let answer = match tokio::time::timeout(within, asked).await {
        Ok(Ok(())) => "ok\n".to_owned(),
        Ok(Err(why)) => format!("error {why}\n"),
        Err(_) => "error the agent does not know the pod yet, or the kernel did not take its policy; see the agent's log\n".to_owned(),
    };
    if let Err(error) = write.write_all(answer.as_bytes()).await {
        tracing::debug!(%error, "a plugin did not wait");
    }
}

fn claim(line: &str) -> Result<Claim, String> {
    let request: GateRequest =
        serde_json::from_str(line).map_err(|error| format!("that is no request: {error}"))?;
    claim_of(request)
}

/// What a plugin says, checked.
pub(super) fn claim_of(request: GateRequest) -> Result<Claim, String> {
    if request.namespace.contains('/') || request.name.contains('/') {
        return Err(format!("{}/{} is no pod's name", request.namespace, request.name));
    }
    Ok(Claim {
        pod: ObjectKey::new(&request.namespace, &request.name),
        uid: request.uid.as_deref().and_then(Uid::parse),
        addresses: request.addresses.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_anything_else_is_refused_with_a_reason() {
        let uid = "0b5f3e0a-7d1c-4d5e-9f00-00c0ffee1234";
        let line = format!(
            r#"{{"namespace":"shop","name":"db","uid":"{uid}","addresses":["10.244.1.5","fd00::5"]}}"#
        );
        let read = claim(&line).expect("a request");
        assert_eq!(read.pod, ObjectKey::new("shop", "db"));
        assert_eq!(read.uid.map(|uid| uid.to_string()).as_deref(), Some(uid));
        assert_eq!(read.addresses.iter().count(), 2);
        for bad in ["", "x", "{}", r#"{"namespace":"a/b","name":"c","addresses":[]}"#] {
            assert!(claim(bad).is_err(), "{bad}");
        }
    }
}
