//! Which addresses pods of this node were given, on disk: the API may know of them only later, and an agent that starts again
//! must not close a pod that runs. The run-time directory is the place: after a reboot pods are given other addresses. An edge.

use std::io;
use std::path::PathBuf;

use cni::GateRequest;
use policy::Claim;

use super::gate;

/// The file.
const FILE: &str = "policy-claims.json";

/// Remembers claims.
#[derive(Debug)]
pub(crate) struct Claims {
    path: PathBuf,
    remembered: Vec<Claim>,
}

impl Claims {
    /// Reads what an agent before this one wrote; what cannot be read is said, and counts as nothing.
    pub(crate) fn open(run_dir: &std::path::Path) -> Self {
        let path = run_dir.join(FILE);
        let remembered = match std::fs::read(&path) {
            Ok(text) => read(&text).unwrap_or_else(|why| {
                let path = path.display();
                tracing::warn!(%path, why, "it is of no use; pods the API has no addresses of wait for it");
                Vec::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot be read");
                Vec::new()
            }
        };
        Self { path, remembered }
    }

    /// What was read, once.
    pub(super) fn remembered(&mut self) -> Vec<Claim> {
        std::mem::take(&mut self.remembered)
    }

    /// Writes all of them: a line for each pod of this node.
    pub(super) fn write<'a>(&self, claims: impl Iterator<Item = &'a Claim>) -> io::Result<()> {
        let requests: Vec<GateRequest> = claims
            .map(|claim| GateRequest {
                namespace: claim.pod.namespace().to_owned(),
                name: claim.pod.name().to_owned(),
                uid: claim.uid.map(|uid| uid.to_string()),
                addresses: claim.addresses.iter().collect(),
            })
            .collect();
        let draft = self.path.with_extension("new");
        std::fs::write(&draft, serde_json::to_vec(&requests)?)?;
        std::fs::rename(draft, &self.path)
    }
}

fn read(text: &[u8]) -> Result<Vec<Claim>, String> {
    let requests: Vec<GateRequest> =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    requests.into_iter().map(gate::claim_of).collect()
}

#[cfg(test)]
mod tests {
    use model::ObjectKey;

    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_nothing() {
        let dir = std::env::temp_dir().join(format!("fairway-claims-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let mut claims = Claims::open(&dir);
        assert_eq!(claims.remembered(), []);
        let addresses = ["10.244.1.5", "fd00::5"].iter().map(|it| it.parse().expect("an address"));
        let one = Claim {
            pod: ObjectKey::new("shop", "db"),
            uid: model::Uid::parse("0b5f3e0a-7d1c-4d5e-9f00-00c0ffee1234"),
            addresses: addresses.collect(),
        };
        claims.write([&one].into_iter()).expect("written");
        assert_eq!(Claims::open(&dir).remembered(), [one]);
        std::fs::write(dir.join(FILE), "[{").expect("written");
        assert_eq!(Claims::open(&dir).remembered(), []);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
