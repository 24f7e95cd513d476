//! `host-local`: addresses from the configuration's ranges, reserved in files (see [`Store`]).

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::resolv_conf;
use super::{Ask, IpamError, RangeConfig, RangeSet, Store};
use crate::environment::Identity;
use crate::result::{AddResult, ResultIp, ResultRoute};
use crate::{CniError, SpecVersion};

/// Where the files are when the configuration does not say.
const DATA_DIR: &str = "/var/lib/cni/networks";

/// A checked `host-local` configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct HostLocal {
    /// One address is taken from each set.
    pub ranges: Vec<RangeSet>,
    /// Directory below which each network has one of its own.
    pub data_dir: PathBuf,
    /// Routes passed on to the plugin that makes the interface.
    pub routes: Vec<ResultRoute>,
    /// Resolver settings are read from this file.
    pub resolv_conf: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    data_dir: Option<PathBuf>,
    #[serde(default)]
    ranges: Option<Vec<Vec<RangeConfig>>>,
    #[serde(default)]
    routes: Option<Value>,
    #[serde(default)]
    resolv_conf: Option<PathBuf>,
    /// The single range of old configurations, beside `ranges`.
    #[serde(flatten)]
    single: Option<RangeConfig>,
}

impl HostLocal {
    pub(super) fn parse(
        ipam: &Value,
        runtime: Option<Vec<Vec<RangeConfig>>>,
        version: SpecVersion,
    ) -> Result<Self, CniError> {
        let raw = Raw::deserialize(ipam)
            .map_err(|error| CniError::Config { field: "ipam", why: error.to_string() })?;
        // The order of the reference plugin: the runtime's, the single one, the list.
        let mut sets = runtime.unwrap_or_default();
        sets.extend(raw.single.into_iter().map(|one| vec![one]));
        sets.extend(raw.ranges.unwrap_or_default());
        let wrong = |why: String| CniError::Config { field: "ipam.ranges", why };
        let ranges = RangeSet::check(sets).map_err(|why| wrong(why.to_string()))?;
        let four = ranges.iter().filter(|set| set.is_ipv4()).count();
        if version < SpecVersion::V0_3_0 && (four > 1 || ranges.len() - four > 1) {
            let why = format!("a result of CNI version {version} has one address per family");
            return Err(wrong(why));
        }
        Ok(Self {
            ranges,
            data_dir: raw
                .data_dir
                .filter(|path| !path.as_os_str().is_empty())
                .unwrap_or_else(|| DATA_DIR.into()),
            routes: ResultRoute::list(raw.routes.as_ref(), "ipam.routes")?,
            resolv_conf: raw.resolv_conf.filter(|path| !path.as_os_str().is_empty()),
        })
    }

    pub(super) fn add(
        &self,
        ask: Ask<'_>,
        wanted: &[IpAddr],
        first: bool,
    ) -> Result<AddResult, CniError> {
        let dns = self.resolv_conf.as_deref().map(resolv_conf::read).transpose()?;
        // The lock is held for the reservation only: links of many pods are made at once.
        let mut store = Store::open(&self.data_dir, &ask.config.name)?;
        let addresses = store.reserve(&self.ranges, ask.identity, wanted, first)?;
        drop(store);
        let described = |ip: &IpAddr| self.ranges.iter().find_map(|set| set.describe(*ip));
        let ips = addresses.iter().filter_map(described).map(|(address, gateway)| ResultIp {
            interface: None,
            address,
            gateway: Some(gateway),
        });
        Ok(AddResult {
            interfaces: Vec::new(),
            ips: ips.collect(),
            routes: self.routes.clone(),
            dns,
        })
    }

    pub(super) fn del(&self, network: &str, identity: &Identity) -> Result<(), CniError> {
        if let Some(mut store) = Store::open_existing(&self.data_dir, network)? {
            store.release(identity)?;
        }
        Ok(())
    }

    pub(super) fn check(
        &self,
        network: &str,
        identity: &Identity,
        addresses: &[IpAddr],
    ) -> Result<Vec<String>, CniError> {
        let reserved = match Store::open_existing(&self.data_dir, network)? {
            Some(store) => store.reservations()?,
            None => Vec::new(),
        };
        let is_held = |address: &IpAddr| {
            reserved.iter().any(|entry| entry.address == *address && entry.owner == *identity)
        };
        let missing = addresses.iter().filter(|address| !is_held(address));
        let mut differences: Vec<String> = missing
            .map(|address| format!("address {address} is not reserved for this container"))
            .collect();
        let held = reserved.iter().filter(|entry| entry.owner == *identity);
        differences.extend(
            held.filter(|entry| !addresses.contains(&entry.address)).map(|entry| {
                format!("address {} is reserved but not in prevResult", entry.address)
            }),
        );
        Ok(differences)
    }

    pub(super) fn gc(&self, network: &str, valid: &[Identity]) -> Result<(), CniError> {
        if let Some(mut store) = Store::open_existing(&self.data_dir, network)? {
            store.release_where(|entry| !valid.contains(&entry.owner))?;
        }
        Ok(())
    }

    pub(super) fn status(&self, network: &str) -> Result<(), CniError> {
        let reserved = Store::open(&self.data_dir, network)?.reservations()?;
        for set in &self.ranges {
            let taken = reserved.iter().filter(|entry| set.gives(entry.address)).count();
            if taken as u64 >= set.capacity() {
                let ranges = set.to_string();
                return Err(IpamError::Exhausted { ranges, taken }.into());
            }
        }
        Ok(())
    }
}
