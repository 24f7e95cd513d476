//! host-local's directory: `<dataDir>/<network>/<address>` holds the container's id and interface,
//! `last_reserved_ip.<set>` the address given last, `lock` is locked around every use.
//!
//! Safe against being killed anywhere: a reservation appears by rename, whole or not at all; what a
//! dead process left half written carries another name and is removed by the next holder of the
//! lock. An empty reservation can only come from a crashed reference plugin and counts as free.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{IpamError, RangeSet};
use crate::Identity;

/// The name a reservation is written under before it counts.
const UNFINISHED: &str = ".unfinished";

/// The address given last, by the name it had up to the plugins' version 0.5.
const LAST_OLD_NAME: &str = "last_reserved_ip";

/// One reserved address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The address.
    pub address: IpAddr,
    /// Whose it is; an empty interface name is an entry of an old reference plugin.
    pub owner: Identity,
}

/// An address chosen for one set.
struct Chosen {
    /// The set's number.
    set: usize,
    /// The address.
    address: IpAddr,
    /// Whether it must still be written.
    fresh: bool,
}

/// The open directory of one network, locked as long as this value lives.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    // Dropping the file releases the lock; so does the death of the process.
    _lock: File,
}

impl Store {
    /// Opens and locks the directory of a network, making it if needed. Waits for the lock.
    ///
    /// # Errors
    /// [`IpamError::File`].
    pub fn open(data_dir: &Path, network: &str) -> Result<Self, IpamError> {
        let directory = data_dir.join(network);
        fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
        Self::lock(directory)
    }

    /// Like [`Self::open`], but `None` when the network has no directory.
    ///
    /// # Errors
    /// [`IpamError::File`].
    pub fn open_existing(data_dir: &Path, network: &str) -> Result<Option<Self>, IpamError> {
        let directory = data_dir.join(network);
        if directory.is_dir() { Self::lock(directory).map(Some) } else { Ok(None) }
    }

    fn lock(directory: PathBuf) -> Result<Self, IpamError> {
        let path = directory.join("lock");
        let mut options = File::options();
        options.create(true).truncate(false).write(true).read(true);
        let lock = options.open(&path).map_err(failed("open", &path))?;
        lock.lock().map_err(failed("lock", &path))?;
        Ok(Self { directory, _lock: lock })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Everything reserved with its age, in no order; a clock that was set back makes it young.
    ///
    /// # Errors
    /// [`IpamError::File`].
    pub fn ages(&self) -> Result<Vec<(Reservation, Duration)>, IpamError> {
        let age = |entry: &Reservation| {
            let meta = fs::metadata(self.directory.join(entry.address.to_string())).ok()?;
            meta.modified().ok()?.elapsed().ok()
        };
        let all = self.reservations()?.into_iter();
        Ok(all.map(|entry| (entry.clone(), age(&entry).unwrap_or_default())).collect())
    }

    /// Reserves one address that was found in use.
    ///
    /// # Errors
    /// [`IpamError::File`].
    pub fn insert(&mut self, address: IpAddr, owner: &Identity) -> Result<(), IpamError> {
        self.put(address, owner)
    }

    /// Everything reserved, in no order.
    ///
    /// # Errors
    /// [`IpamError::File`].
    pub fn reservations(&self) -> Result<Vec<Reservation>, IpamError> {
        let mut all = Vec::new();
        for address in self.addresses()? {
            let path = self.directory.join(address.to_string());
            // A disk that wrote nonsense is one reservation's misfortune: nobody's until it is proven leaked.
            let text = match fs::read(&path) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("read", &path)(error)),
            };
            let mut lines = text.lines().map(str::trim);
            let container_id = lines.next().unwrap_or_default().to_owned();
            let ifname = lines.next().unwrap_or_default().to_owned();
            if !container_id.is_empty() {
                all.push(Reservation { address, owner: Identity { container_id, ifname } });
            }
        }
        Ok(all)
    }

    /// One address from each set: what `owner` holds already, else what is asked for, else the next
    /// free one. Reserves all or nothing.
    ///
    /// `first` says that nothing is left of an earlier try of this owner. Then, unless addresses are
    /// asked for, the files' names are enough and their contents are not read: on a full node that
    /// is most of the time. Being wrong costs an address until DEL or GC gives back all of the owner's.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`], [`IpamError::Unavailable`] or [`IpamError::File`].
    pub fn reserve(
        &mut self,
        sets: &[RangeSet],
        owner: &Identity,
        wanted: &[IpAddr],
        first: bool,
    ) -> Result<Vec<IpAddr>, IpamError> {
        if first && wanted.is_empty() {
            let taken = self.addresses()?.into_iter().collect();
            if let Ok(fresh) = self.choose(sets, owner, wanted, &[], taken) {
                return self.write_all(fresh, owner);
            }
            // Full by names: files without an owner may still be free.
        }
        let reserved = self.reservations()?;
        let taken = reserved.iter().map(|entry| entry.address).collect();
        let chosen = self.choose(sets, owner, wanted, &reserved, taken)?;
        self.write_all(chosen, owner)
    }

    fn choose(
        &self,
        sets: &[RangeSet],
        owner: &Identity,
        wanted: &[IpAddr],
        reserved: &[Reservation],
        mut taken: HashSet<IpAddr>,
    ) -> Result<Vec<Chosen>, IpamError> {
        let homeless = wanted.iter().find(|ip| !sets.iter().any(|set| set.gives(**ip)));
        if let Some(address) = homeless {
            let why = "no range of the network gives it".to_owned();
            return Err(IpamError::Unavailable { address: *address, why });
        }
        let mut chosen: Vec<Chosen> = Vec::new();
        for (number, set) in sets.iter().enumerate() {
            let asked = wanted.iter().copied().find(|ip| set.gives(*ip));
            let held = reserved.iter().find(|entry| {
                entry.owner == *owner
                    && set.gives(entry.address)
                    && asked.is_none_or(|asked| asked == entry.address)
            });
            let (address, fresh) = if let Some(held) = held {
                (held.address, false)
            } else if let Some(address) = asked {
                if let Some(other) = reserved.iter().find(|entry| entry.address == address) {
                    let why = format!("container {} has it", other.owner.container_id);
                    return Err(IpamError::Unavailable { address, why });
                }
                (address, true)
            } else {
                let free = set.candidates(self.last(number)).find(|ip| !taken.contains(ip));
                let Some(address) = free else {
                    let taken = taken.iter().filter(|ip| set.gives(**ip)).count();
                    return Err(IpamError::Exhausted { ranges: set.to_string(), taken });
                };
                (address, true)
            };
            taken.insert(address);
            chosen.push(Chosen { set: number, address, fresh });
        }
        Ok(chosen)
    }

    fn write_all(&self, chosen: Vec<Chosen>, owner: &Identity) -> Result<Vec<IpAddr>, IpamError> {
        for (at, one) in chosen.iter().enumerate().filter(|(_, one)| one.fresh) {
            if let Err(error) = self.write(one.set, one.address, owner) {
                for before in chosen[..at].iter().filter(|one| one.fresh) {
                    self.remove(before.address)?;
                }
                return Err(error);
            }
        }
        Ok(chosen.into_iter().map(|one| one.address).collect())
    }

    /// Gives back everything `owner` holds; returns it. Nothing held is no error.
    ///
    /// # Errors
    /// [`IpamError::File`].
    pub fn release(&mut self, owner: &Identity) -> Result<Vec<IpAddr>, IpamError> {
        self.release_where(|entry| {
            entry.owner.container_id == owner.container_id
                && (entry.owner.ifname == owner.ifname || entry.owner.ifname.is_empty())
        })
    }

    /// Gives back every reservation that `is_leaked`; returns the addresses.
    ///
    /// # Errors
    /// [`IpamError::File`].
    pub fn release_where(
        &mut self,
        is_leaked: impl Fn(&Reservation) -> bool,
    ) -> Result<Vec<IpAddr>, IpamError> {
        let mut released = Vec::new();
        for entry in self.reservations()? {
            if is_leaked(&entry) {
                self.remove(entry.address)?;
                released.push(entry.address);
            }
        }
        Ok(released)
    }

    fn addresses(&self) -> Result<Vec<IpAddr>, IpamError> {
        let entries = fs::read_dir(&self.directory).map_err(failed("read", &self.directory))?;
        let mut addresses = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("read", &self.directory))?;
            let name = entry.file_name();
            // The reference plugin writes `_` for `:` on systems that need it; read both.
            let text = name.to_str().map(|name| name.replace('_', ":"));
            addresses.extend(text.and_then(|text| text.parse::<IpAddr>().ok()));
        }
        Ok(addresses)
    }

    /// The address given last from a set. Unreadable counts as unknown: it only decides the order.
    fn last(&self, set: usize) -> Option<IpAddr> {
        let path = self.directory.join(format!("last_reserved_ip.{set}"));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    fn write(&self, set: usize, address: IpAddr, owner: &Identity) -> Result<(), IpamError> {
        self.put(address, owner)?;
        let last = self.directory.join(format!("last_reserved_ip.{set}"));
        if set == 0 && !last.exists() {
            // The name it had before there were sets, which people still look at.
            let old_name = self.directory.join(LAST_OLD_NAME);
            drop(std::os::unix::fs::symlink("last_reserved_ip.0", old_name));
        }
        overwrite(&last, &address.to_string()).map_err(failed("write", &last))
    }

    fn put(&self, address: IpAddr, owner: &Identity) -> Result<(), IpamError> {
        let unfinished = self.directory.join(UNFINISHED);
        let path = self.directory.join(address.to_string());
        // Line ends as the reference plugin writes them.
        let text = format!("{}\r\n{}", owner.container_id, owner.ifname);
        fs::write(&unfinished, text).map_err(failed("write", &unfinished))?;
        fs::rename(&unfinished, &path).map_err(failed("create", &path))
    }

    fn remove(&self, address: IpAddr) -> Result<(), IpamError> {
        let path = self.directory.join(address.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Without truncating first: ext4 takes a truncated and rewritten file for a document being saved and
/// flushes it to the disk on close, which costs more than all the rest of an ADD. A crash half-way
/// leaves a wrong hint of where to search next, no more.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IpamError {
    let path = path.to_owned();
    move |source| IpamError::File { operation, path, source }
}
