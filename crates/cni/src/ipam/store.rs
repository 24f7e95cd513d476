//! host-local's directory: `<dataDir>/<network>/<address>` holds the container's id and interface,
//! `last_reserved_ip.<set>` the address given last, `lock` is locked around every use.
//!
//! Safe against being killed anywhere: a reservation appears by rename, whole or not at all; what a
//! dead process left half written carries another name and is removed by the next holder of the
//! lock. An empty reservation can only come from a crashed reference plugin and counts as free.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::{IpamError, RangeSet};
use crate::Identity;

/// The name a reservation is written under before it counts.
const UNFINISHED: &str = ".unfinished";

/// One reserved address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The address.
    pub address: IpAddr,
    /// Whose it is; an empty interface name is an entry of an old reference plugin.
    pub owner: Identity,
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

    /// Everything reserved, in no order.
    ///
    /// # Errors
    /// [`IpamError::File`].
    pub fn reservations(&self) -> Result<Vec<Reservation>, IpamError> {
        let mut all = Vec::new();
        for address in self.addresses()? {
            let path = self.directory.join(address.to_string());
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
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
    /// # Errors
    /// [`IpamError::Exhausted`], [`IpamError::Unavailable`] or [`IpamError::File`].
    pub fn reserve(
        &mut self,
        sets: &[RangeSet],
        owner: &Identity,
        wanted: &[IpAddr],
    ) -> Result<Vec<IpAddr>, IpamError> {
        let reserved = self.reservations()?;
        let homeless = wanted.iter().find(|ip| !sets.iter().any(|set| set.gives(**ip)));
        if let Some(address) = homeless {
            let why = "no range of the network gives it".to_owned();
            return Err(IpamError::Unavailable { address: *address, why });
        }
        let mut taken: HashSet<IpAddr> = reserved.iter().map(|entry| entry.address).collect();
        let mut given = Vec::new();
        let mut fresh = Vec::new();
        for (number, set) in sets.iter().enumerate() {
            let asked = wanted.iter().copied().find(|ip| set.gives(*ip) && !given.contains(ip));
            let held = reserved.iter().find(|entry| {
                entry.owner == *owner
                    && set.gives(entry.address)
                    && asked.is_none_or(|asked| asked == entry.address)
            });
            let address = if let Some(held) = held {
                held.address
            } else if let Some(address) = asked {
                if let Some(other) = reserved.iter().find(|entry| entry.address == address) {
                    let why = format!("container {} has it", other.owner.container_id);
                    return Err(IpamError::Unavailable { address, why });
                }
                fresh.push((number, address));
                address
            } else {
                let free = set.candidates(self.last(number)).find(|ip| !taken.contains(ip));
                let Some(address) = free else {
                    let taken = taken.iter().filter(|ip| set.gives(**ip)).count();
                    return Err(IpamError::Exhausted { ranges: set.to_string(), taken });
                };
                fresh.push((number, address));
                address
            };
            taken.insert(address);
            given.push(address);
        }
        for (at, (number, address)) in fresh.iter().enumerate() {
            if let Err(error) = self.write(*number, *address, owner) {
                for (_, address) in &fresh[..at] {
                    self.remove(*address)?;
                }
                return Err(error);
            }
        }
        Ok(given)
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
        let unfinished = self.directory.join(UNFINISHED);
        let path = self.directory.join(address.to_string());
        // Line ends as the reference plugin writes them.
        let text = format!("{}\r\n{}", owner.container_id, owner.ifname);
        fs::write(&unfinished, text).map_err(failed("write", &unfinished))?;
        fs::rename(&unfinished, &path).map_err(failed("create", &path))?;
        let last = self.directory.join(format!("last_reserved_ip.{set}"));
        fs::write(&last, address.to_string()).map_err(failed("write", &last))
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

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IpamError {
    let path = path.to_owned();
    move |source| IpamError::File { operation, path, source }
}
