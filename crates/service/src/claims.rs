//! Who owns an address that two Services want: the older one, and by name where they are of one age.

use std::collections::HashMap;

use model::{ServiceKey, Snapshot};

use crate::Frontend;

/// Who claims what. Nearly every frontend has one claimant.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    claimants: HashMap<Frontend, Claimants>,
}

#[derive(Debug)]
enum Claimants {
    One(ServiceKey),
    Several(Vec<ServiceKey>),
}

impl Claims {
    /// Adds a claim.
    pub(crate) fn add(&mut self, frontend: Frontend, service: &ServiceKey) {
        match self.claimants.get_mut(&frontend) {
            None => drop(self.claimants.insert(frontend, Claimants::One(service.clone()))),
            Some(Claimants::Several(several)) => {
                if !several.contains(service) {
                    several.push(service.clone());
                }
            }
            Some(one) => {
                let Claimants::One(first) = &*one else { return };
                if first != service {
                    *one = Claimants::Several(vec![first.clone(), service.clone()]);
                }
            }
        }
    }

    /// Takes a claim back.
    pub(crate) fn remove(&mut self, frontend: &Frontend, service: &ServiceKey) {
        match self.claimants.get_mut(frontend) {
            Some(Claimants::One(one)) if one == service => drop(self.claimants.remove(frontend)),
            Some(Claimants::Several(several)) => {
                several.retain(|other| other != service);
                if let [last] = several.as_slice() {
                    let last = last.clone();
                    self.claimants.insert(*frontend, Claimants::One(last));
                }
            }
            _ => {}
        }
    }

    /// Who claims it.
    pub(crate) fn of(&self, frontend: &Frontend) -> &[ServiceKey] {
        match self.claimants.get(frontend) {
            None => &[],
            Some(Claimants::One(one)) => std::slice::from_ref(one),
            Some(Claimants::Several(several)) => several,
        }
    }

    /// Who owns it.
    pub(crate) fn owner(&self, frontend: &Frontend, snapshot: &Snapshot) -> Option<&ServiceKey> {
        let age =
            |key: &ServiceKey| snapshot.service(key).map_or(i64::MAX, |service| service.created);
        self.of(frontend).iter().min_by_key(|key| (age(key), *key))
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.claimants.clear();
    }
}
