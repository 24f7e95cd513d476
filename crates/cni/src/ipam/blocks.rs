//! `ipam.type: fairway`: addresses from the blocks of pools this node holds.
//!
//! The agent lays down which blocks those are, in `<dataDir>/<network>/blocks.json`; the plugin takes addresses from them with
//! the agent and the API down as long as there is room. When there is none it says so by a file, `hungry`, and waits a
//! little: the agent takes another block. Reservations are host-local's files beside it. Who changes the list holds the
//! directory's lock, as who takes an address does: a block is not given back while an address of it is being taken.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Ask, HostLocal, IpamError, RangeSet, Store};
use crate::result::{AddResult, ResultIp};
use crate::{CniError, Identity};

/// Name of the list.
const FILE: &str = "blocks.json";
/// The plugin found no address.
const HUNGRY: &str = "hungry";
/// How long the plugin waits for the agent to take another block.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);

/// The blocks of a node, and what its pods ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// The blocks, in the order addresses are taken from them.
    pub blocks: Vec<HeldBlock>,
    /// By `namespace/name` of a pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub wishes: BTreeMap<String, Wish>,
}

/// A block of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldBlock {
    /// Its range.
    pub cidr: IpNet,
    /// Name of its pool.
    pub pool: String,
    /// Parts no pod of this node gets: reserved, or lent to another node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<IpNet>,
    /// Only for pods that name its pool or an address of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_request: bool,
    /// No new address is taken from it: its pool is disabled, or it is about to be given back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
}

/// What a pod asks for, by annotation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// These addresses (`fairway.dev/addresses`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// An address of one of these pools (`fairway.dev/pools`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
}

impl Blocks {
    /// Reads the list of a network; `None` when there is none.
    ///
    /// # Errors
    /// [`IpamError::File`], also for a file that is not such a list.
    pub fn read(data_dir: &Path, network: &str) -> Result<Option<Self>, IpamError> {
        let path = data_dir.join(network).join(FILE);
        let failed = |source| IpamError::File { operation: "read", path: path.clone(), source };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes the list: whole or not at all. The lock says that nobody takes an address meanwhile.
    ///
    /// # Errors
    /// [`IpamError::File`].
    pub fn write(&self, store: &Store) -> Result<(), IpamError> {
        let path = store.directory().join(FILE);
        let draft = store.directory().join(".blocks.json.new");
        let failed = |source| IpamError::File { operation: "write", path: path.clone(), source };
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        fs::write(&draft, text).map_err(failed)?;
        // After a power cut an empty list would look like a node without blocks.
        fs::File::open(&draft).and_then(|file| file.sync_all()).map_err(failed)?;
        fs::rename(&draft, &path).map_err(failed)
    }

    /// What a pod can get: a set per family, from the pools it asks for, else from those that need not be asked for.
    #[must_use]
    pub fn ranges(&self, wish: Option<&Wish>) -> Vec<RangeSet> {
        let suits = |block: &&HeldBlock| match wish {
            _ if block.closed => false,
            Some(wish) if !wish.pools.is_empty() => wish.pools.contains(&block.pool),
            Some(wish) if wish.addresses.iter().any(|ip| block.cidr.contains(ip)) => true,
            _ => !block.on_request,
        };
        let of_family = |v4: bool| {
            let blocks = self.blocks.iter().filter(suits);
            let blocks = blocks.filter(|block| block.cidr.addr().is_ipv4() == v4);
            RangeSet::of_blocks(blocks.map(|block| (block.cidr, block.except.as_slice())))
        };
        [true, false].into_iter().filter_map(of_family).collect()
    }

    /// Everything of the node's blocks, whether it is given out or not: what DEL, CHECK and GC look at.
    #[must_use]
    pub fn all_ranges(&self) -> Vec<RangeSet> {
        let of_family = |v4: bool| {
            let blocks = self.blocks.iter().filter(|block| block.cidr.addr().is_ipv4() == v4);
            RangeSet::of_blocks(blocks.map(|block| (block.cidr, [].as_slice())))
        };
        [true, false].into_iter().filter_map(of_family).collect()
    }
}

/// The source.
#[derive(Debug, Clone, PartialEq)]
pub struct FromBlocks {
    /// Directory below which each network has one of its own.
    pub data_dir: PathBuf,
    /// Everything of the node's blocks.
    pub ranges: Vec<RangeSet>,
}

impl FromBlocks {
    pub(super) fn parse(ipam: &Value) -> Result<Self, CniError> {
        match ipam.get("dataDir").and_then(Value::as_str).filter(|path| !path.is_empty()) {
            Some(path) => Ok(Self { data_dir: path.into(), ranges: Vec::new() }),
            None => {
                let why = "is missing; it is where the agent lists this node's blocks".to_owned();
                Err(CniError::Config { field: "ipam.dataDir", why })
            }
        }
    }

    /// Reads which blocks there are. An unreadable list must not keep DEL from working.
    pub(crate) fn look(&mut self, network: &str) {
        let blocks = Blocks::read(&self.data_dir, network).ok().flatten();
        self.ranges = blocks.unwrap_or_default().all_ranges();
    }

    /// The files are host-local's.
    pub(super) fn as_host_local(&self) -> HostLocal {
        HostLocal {
            ranges: self.ranges.clone(),
            data_dir: self.data_dir.clone(),
            routes: Vec::new(),
            resolv_conf: None,
        }
    }

    pub(super) fn add(
        &self,
        ask: Ask<'_>,
        wanted: &[IpAddr],
        first: bool,
    ) -> Result<AddResult, CniError> {
        let pod = ask.env.arg("K8S_POD_NAMESPACE").zip(ask.env.arg("K8S_POD_NAME"));
        let pod = pod.map(|(namespace, name)| format!("{namespace}/{name}"));
        let network = &ask.config.name;
        let given = reserve(&self.data_dir, network, ask.identity, pod.as_deref(), wanted, first)?;
        // An address stands alone: what else is in its block is reached as everything is, by the gateway of the plugin.
        let ips = given.into_iter().map(|ip| ResultIp {
            interface: None,
            address: IpNet::from(ip),
            gateway: None,
        });
        Ok(AddResult { ips: ips.collect(), ..AddResult::default() })
    }

    pub(super) fn status(&self, network: &str) -> Result<(), CniError> {
        let blocks = Blocks::read(&self.data_dir, network)?.unwrap_or_default();
        if blocks.ranges(None).is_empty() {
            return Err(IpamError::NoBlock { list: list_path(&self.data_dir, network) }.into());
        }
        Ok(())
    }
}

/// Takes addresses for `owner` of pod `pod` (`namespace/name`) from the blocks as they are now, waiting for another block
/// when there is no room.
///
/// # Errors
/// [`IpamError`].
pub fn reserve(
    data_dir: &Path,
    network: &str,
    owner: &Identity,
    pod: Option<&str>,
    wanted: &[IpAddr],
    first: bool,
) -> Result<Vec<IpAddr>, IpamError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let error = match try_reserve(data_dir, network, owner, pod, wanted, first) {
            Err(error @ (IpamError::Exhausted { .. } | IpamError::NoBlock { .. })) => error,
            other => return other,
        };
        if Instant::now() >= until {
            return Err(error);
        }
        let hungry = data_dir.join(network).join(HUNGRY);
        // Nobody to tell is no reason not to wait.
        drop(fs::write(&hungry, ""));
        std::thread::sleep(LOOK);
    }
}

fn try_reserve(
    data_dir: &Path,
    network: &str,
    owner: &Identity,
    pod: Option<&str>,
    wanted: &[IpAddr],
    first: bool,
) -> Result<Vec<IpAddr>, IpamError> {
    let mut store = Store::open(data_dir, network)?;
    let blocks = Blocks::read(data_dir, network)?.unwrap_or_default();
    let wish = pod.and_then(|pod| blocks.wishes.get(pod));
    let mut wanted = wanted.to_vec();
    wanted.extend(wish.into_iter().flat_map(|wish| &wish.addresses));
    let asked = Wish { addresses: wanted.clone(), ..wish.cloned().unwrap_or_default() };
    let sets = blocks.ranges(Some(&asked));
    if sets.is_empty() {
        return Err(IpamError::NoBlock { list: data_dir.join(network).join(FILE) });
    }
    store.reserve(&sets, owner, &wanted, first)
}

/// Whether the plugin waits for a block; asking ends the wait of this notice, not the plugin's.
#[must_use]
pub fn take_hunger(data_dir: &Path, network: &str) -> bool {
    fs::remove_file(data_dir.join(network).join(HUNGRY)).is_ok()
}

/// Where the list of a network is.
#[must_use]
pub fn list_path(data_dir: &Path, network: &str) -> PathBuf {
    data_dir.join(network).join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(cidr: &str, pool: &str) -> HeldBlock {
        let cidr = cidr.parse().unwrap();
        HeldBlock { cidr, pool: pool.into(), except: Vec::new(), on_request: false, closed: false }
    }

    fn identity(n: usize) -> Identity {
        Identity { container_id: format!("c{n}"), ifname: "eth0".into() }
    }

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("fwblocks-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn every_address_of_a_block_but_its_first_and_the_exceptions_is_given_once() {
        let dir = Dir::new("all");
        let mut small = block("10.1.0.64/28", "p");
        small.except = vec!["10.1.0.72/30".parse().unwrap(), "10.1.0.65/32".parse().unwrap()];
        let six = block("fd00::40/124", "six");
        let blocks = Blocks { blocks: vec![small, six], ..Blocks::default() };
        blocks.write(&Store::open(&dir.0, "n").unwrap()).unwrap();
        assert_eq!(Blocks::read(&dir.0, "n").unwrap(), Some(blocks));
        let mut given = std::collections::BTreeSet::new();
        for n in 0..10 {
            let got = try_reserve(&dir.0, "n", &identity(n), None, &[], true).unwrap();
            assert_eq!(got.len(), 2);
            assert!(got.iter().all(|ip| given.insert(*ip)), "{got:?}");
        }
        let outside: Vec<IpAddr> = ["10.1.0.64", "10.1.0.65", "10.1.0.72", "10.1.0.75", "fd00::40"]
            .map(|ip| ip.parse().unwrap())
            .into();
        assert!(outside.iter().all(|ip| !given.contains(ip)), "{given:?}");
        assert!(given.contains(&"10.1.0.79".parse().unwrap()));
        let full = try_reserve(&dir.0, "n", &identity(99), None, &[], true).unwrap_err();
        assert!(matches!(full, IpamError::Exhausted { .. }), "{full}");
    }

    #[test]
    fn wishes_are_met_or_refused_by_name() {
        let dir = Dir::new("wishes");
        let asked = HeldBlock { on_request: true, ..block("10.2.0.0/28", "special") };
        let mut blocks =
            Blocks { blocks: vec![block("10.1.0.0/28", "p"), asked], ..Blocks::default() };
        let wish = |addresses: &[&str], pools: &[&str]| Wish {
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            pools: pools.iter().map(|&pool| pool.into()).collect(),
        };
        blocks.wishes.insert("d/fixed".into(), wish(&["10.1.0.7"], &[]));
        blocks.wishes.insert("d/special".into(), wish(&[], &["special"]));
        blocks.wishes.insert("d/nowhere".into(), wish(&["10.9.0.7"], &[]));
        blocks.write(&Store::open(&dir.0, "n").unwrap()).unwrap();
        let get = |n, pod| try_reserve(&dir.0, "n", &identity(n), Some(pod), &[], true);
        let ip = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        assert_eq!(get(1, "d/fixed").unwrap(), ip("10.1.0.7"));
        assert_eq!(get(2, "d/special").unwrap(), ip("10.2.0.1"));
        assert_eq!(get(3, "d/other").unwrap(), ip("10.1.0.1"));
        assert!(matches!(get(4, "d/nowhere"), Err(IpamError::Unavailable { .. })));
        assert!(matches!(get(5, "d/fixed"), Err(IpamError::Unavailable { .. })), "taken");
        blocks.blocks[0].closed = true;
        blocks.write(&Store::open(&dir.0, "n").unwrap()).unwrap();
        assert!(matches!(get(6, "d/other"), Err(IpamError::NoBlock { .. })));
    }

    #[test]
    fn a_plugin_without_room_waits_for_the_next_block() {
        let dir = Dir::new("hungry");
        let mut blocks = Blocks { blocks: vec![block("10.1.0.0/30", "p")], ..Blocks::default() };
        blocks.write(&Store::open(&dir.0, "n").unwrap()).unwrap();
        let threads: Vec<_> = (0..10)
            .map(|n| {
                let dir = dir.0.clone();
                std::thread::spawn(move || {
                    reserve(&dir, "n", &identity(n), None, &[], true).unwrap()
                })
            })
            .collect();
        while !take_hunger(&dir.0, "n") {
            std::thread::sleep(Duration::from_millis(5));
        }
        blocks.blocks.push(block("10.1.0.16/28", "p"));
        blocks.write(&Store::open(&dir.0, "n").unwrap()).unwrap();
        let mut given: Vec<_> =
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 10);
    }
}
