//! `hosts`: names and addresses as `/etc/hosts` writes them.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::name::{Name, address_of_reverse};
use crate::query::{QName, kind};
use crate::reply::{Data, Record};

/// The names of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// By name in lower case, wire form.
    addresses: HashMap<Box<[u8]>, Vec<IpAddr>>,
    names: HashMap<IpAddr, Vec<Name>>,
}

impl Hosts {
    /// Reads a file's text; what is no address or no name is left out, as resolvers do.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut hosts = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
                continue;
            };
            for name in words.filter_map(|word| Name::parse(word).ok()) {
                let all = hosts.addresses.entry(name.lower().wire().into()).or_default();
                if !all.contains(&address) {
                    all.push(address);
                }
                let all = hosts.names.entry(address).or_default();
                if !all.contains(&name) {
                    all.push(name);
                }
            }
        }
        hosts
    }

    /// The records of a name; `None` when it is not known, empty when it has none of this type.
    #[must_use]
    pub fn records(
        &self,
        name: &QName,
        asked: u16,
        ttl: u32,
        reverse: bool,
    ) -> Option<Vec<Record>> {
        if let Some(addresses) = self.addresses.get(name.lower()) {
            let all = addresses.iter().map(|address| Record::own(ttl, Data::address(*address)));
            let fits = |record: &Record| asked == kind::ANY || record.data.kind() == asked;
            return Some(all.filter(fits).collect());
        }
        let address = address_of_reverse(name.lower()).filter(|_| reverse)?;
        let names = self.names.get(&address)?;
        let all = names.iter().map(|name| Record::own(ttl, Data::Ptr(name.clone())));
        Some(if matches!(asked, kind::PTR | kind::ANY) { all.collect() } else { Vec::new() })
    }

    /// How many lines it has, addresses and names counted once each.
    #[must_use]
    pub fn len(&self) -> usize {
        self.addresses.values().map(Vec::len).sum()
    }

    /// Whether it knows nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }
}
