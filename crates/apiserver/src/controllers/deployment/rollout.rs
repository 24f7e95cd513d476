//! The arithmetic of a rollout: how many replicas each ReplicaSet shall have now.
//!
//! Upstream's `rolling.go`, `recreate.go` and `sync.go` over working copies of the ReplicaSets;
//! [`Rollout::finish`] turns what changed into writes.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::revision::{self, DESIRED_REPLICAS, MAX_REPLICAS, REVISION};
use super::{is_recreate, note, replicas, status};
use crate::controllers::object::{
    annotation, at, created, int_at, is_deleting, is_true, member_at, name, namespace, uid,
};
use crate::controllers::pod::is_terminal;
use crate::controllers::replicaset::is_observed;
use crate::controllers::view::View;
use crate::controllers::write::{
    DEPLOYMENTS, ObjectRef, Op, Outcome, PODS, Propagation, REPLICA_SETS, Write,
};

/// A ReplicaSet with the changes made to it in this reconcile.
#[derive(Debug, Clone)]
pub(super) struct Set {
    before: Arc<Value>,
    pub(super) object: Value,
}

impl Set {
    pub(super) fn new(before: Arc<Value>) -> Self {
        Self { object: Value::clone(&before), before }
    }

    fn replicas(&self) -> i64 {
        int_at(&self.object, &["spec", "replicas"]).unwrap_or(1)
    }

    fn status(&self, field: &str) -> i64 {
        int_at(&self.object, &["status", field]).unwrap_or(0)
    }

    fn scale(&mut self, replicas: i64, deployment: &Value) {
        if self.replicas() != replicas {
            member_at(&mut self.object, &["spec"]).insert("replicas".into(), replicas.into());
        }
        let desired = super::replicas(deployment);
        revision::set_counts(&mut self.object, desired, desired + max_surge(deployment));
    }

    fn order(&self) -> (Option<Timestamp>, &str) {
        (created(&self.object), name(&self.object))
    }
}

/// A Deployment's ReplicaSets, sorted into old and new, and what shall become of them.
#[derive(Debug)]
pub(super) struct Rollout<'a> {
    view: &'a View,
    pub(super) deployment: &'a Arc<Value>,
    /// Oldest first.
    pub(super) old: Vec<Set>,
    pub(super) new: Option<Set>,
    create: Option<Value>,
    pub(super) collisions: i64,
    /// The name of the ReplicaSet this reconcile creates.
    pub(super) created: Option<String>,
    delete: Vec<Arc<Value>>,
}

/// `maxSurge` and `maxUnavailable` in pods; never both 0.
fn fenceposts(deployment: &Value) -> (i64, i64) {
    if is_recreate(deployment) {
        return (0, 0);
    }
    let total = replicas(deployment);
    let resolve = |field: &str, round_up: bool| {
        let value = at(deployment, &["spec", "strategy", "rollingUpdate", field]);
        match value {
            Some(Value::Number(number)) => number.as_i64().unwrap_or(0),
            Some(Value::String(text)) => percent(text, total, round_up),
            _ => percent("25%", total, round_up),
        }
    };
    let (surge, mut unavailable) = (resolve("maxSurge", true), resolve("maxUnavailable", false));
    if surge == 0 && unavailable == 0 {
        // Rounding may have made both 0; then nothing could ever move.
        unavailable = 1;
    }
    (surge, unavailable)
}

fn percent(text: &str, total: i64, round_up: bool) -> i64 {
    let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
    let product = percent.saturating_mul(total);
    if round_up { product.saturating_add(99) / 100 } else { product / 100 }
}

fn max_surge(deployment: &Value) -> i64 {
    fenceposts(deployment).0
}

/// How many pods may be missing during a rollout.
pub(super) fn max_unavailable(deployment: &Value) -> i64 {
    if is_recreate(deployment) || replicas(deployment) == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(replicas(deployment))
}

impl<'a> Rollout<'a> {
    pub(super) fn new(view: &'a View, deployment: &'a Arc<Value>, mut sets: Vec<Set>) -> Self {
        sets.sort_by(|a, b| a.order().cmp(&b.order()));
        // Of several with the template (a hash that changed between versions) the oldest is it,
        // so that the choice does not move.
        let new = sets
            .iter()
            .position(|set| revision::same_template(&set.object, deployment))
            .map(|index| sets.remove(index));
        let collisions = int_at(deployment, &["status", "collisionCount"]).unwrap_or(0);
        Self {
            view,
            deployment,
            old: sets,
            new,
            create: None,
            collisions,
            created: None,
            delete: Vec::new(),
        }
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    fn newest_revision(&self) -> i64 {
        self.old.iter().map(|set| revision::revision(&set.object)).max().unwrap_or(0) + 1
    }

    /// Brings the annotations of the current ReplicaSet up to date.
    pub(super) fn sync_revision(&mut self) {
        let newest = self.newest_revision();
        if let Some(new) = &mut self.new {
            revision::follow(&mut new.object, self.deployment, newest);
        }
    }

    /// Whether `spec.replicas` changed since the active ReplicaSets were last scaled.
    pub(super) fn is_scaling(&self) -> bool {
        let desired = replicas(self.deployment);
        self.sets().filter(|set| set.replicas() > 0).any(|set| {
            revision::count(&set.object, DESIRED_REPLICAS).is_some_and(|old| old != desired)
        })
    }

    /// Spreads a changed `spec.replicas` over the ReplicaSets without moving the rollout.
    pub(super) fn scale(&mut self) {
        let deployment = self.deployment;
        let desired = replicas(deployment);
        let active = self.sets().filter(|set| set.replicas() > 0).count();
        if active <= 1 {
            let chosen = if active == 1 {
                self.old.iter_mut().chain(&mut self.new).find(|set| set.replicas() > 0)
            } else if self.new.is_some() {
                self.new.as_mut()
            } else {
                self.old.last_mut()
            };
            if let Some(set) = chosen {
                set.scale(desired, deployment);
            }
            return;
        }
        let saturated = self.new.as_ref().is_some_and(|new| {
            new.replicas() == desired
                && revision::count(&new.object, DESIRED_REPLICAS) == Some(desired)
                && new.status("availableReplicas") == desired
        });
        if saturated {
            for set in &mut self.old {
                if set.replicas() > 0 {
                    set.scale(0, deployment);
                }
            }
        } else if !is_recreate(deployment) {
            self.scale_in_proportion();
        }
    }

    fn scale_in_proportion(&mut self) {
        let deployment = self.deployment;
        let desired = replicas(deployment);
        let allowed = if desired > 0 { desired + max_surge(deployment) } else { 0 };
        let mut active: Vec<&mut Set> =
            self.old.iter_mut().chain(&mut self.new).filter(|set| set.replicas() > 0).collect();
        let to_add = allowed - active.iter().map(|set| set.replicas()).sum::<i64>();
        // The largest takes what rounding leaves; of equals the newer grows, the older shrinks.
        active.sort_by(|a, b| {
            let age = a.order().cmp(&b.order());
            Reverse(a.replicas()).cmp(&Reverse(b.replicas())).then(if to_add > 0 {
                age.reverse()
            } else {
                age
            })
        });
        let mut sizes: Vec<i64> = active.iter().map(|set| set.replicas()).collect();
        let mut added = 0;
        for (size, set) in sizes.iter_mut().zip(&active) {
            let share = share(set, deployment, to_add, added);
            *size += share;
            added += share;
        }
        if to_add != 0
            && let Some(first) = sizes.first_mut()
        {
            *first = (*first + to_add - added).max(0);
        }
        for (size, set) in sizes.into_iter().zip(active) {
            set.scale(size, deployment);
        }
    }

    /// One step of a rolling update.
    pub(super) fn roll(&mut self) {
        if self.new.is_none() {
            self.create_new(self.new_size(0));
        } else if !self.roll_new() && !self.roll_old() && self.is_complete() {
            self.clean_up();
        }
    }

    /// What the new ReplicaSet may grow to, having `current` replicas.
    fn new_size(&self, current: i64) -> i64 {
        let desired = replicas(self.deployment);
        if is_recreate(self.deployment) {
            return desired;
        }
        let pods: i64 = self.sets().map(Set::replicas).sum();
        let room = desired + max_surge(self.deployment) - pods;
        if room <= 0 { current } else { current + room.min(desired - current) }
    }

    fn roll_new(&mut self) -> bool {
        let desired = replicas(self.deployment);
        let Some(current) = self.new.as_ref().map(Set::replicas) else { return false };
        if current == desired {
            return false;
        }
        let size = if current > desired { desired } else { self.new_size(current) };
        let deployment = self.deployment;
        if let Some(new) = &mut self.new {
            new.scale(size, deployment);
        }
        size != current
    }

    fn roll_old(&mut self) -> bool {
        let old_pods: i64 = self.old.iter().map(Set::replicas).sum();
        if old_pods == 0 {
            return false;
        }
        let deployment = self.deployment;
        let all_pods: i64 = self.sets().map(Set::replicas).sum();
        let available: i64 = self.sets().map(|set| set.status("availableReplicas")).sum();
        let floor = replicas(deployment) - max_unavailable(deployment);
        let new_unavailable =
            self.new.as_ref().map_or(0, |new| new.replicas() - new.status("availableReplicas"));
        // Pods that are not available yet do not make room for taking available ones away.
        let mut unhealthy = all_pods - floor - new_unavailable;
        if unhealthy <= 0 {
            return false;
        }
        let mut moved = false;
        for set in &mut self.old {
            let sick = (set.replicas() - set.status("availableReplicas")).max(0);
            let down = sick.min(unhealthy);
            if set.replicas() > 0 && down > 0 {
                set.scale(set.replicas() - down, deployment);
                unhealthy -= down;
                moved = true;
            }
        }
        let mut healthy = available - floor;
        for set in &mut self.old {
            let down = set.replicas().min(healthy);
            if down > 0 {
                set.scale(set.replicas() - down, deployment);
                healthy -= down;
                moved = true;
            }
        }
        moved
    }

    /// One step of a Recreate update: everything old goes before anything new comes.
    pub(super) fn recreate(&mut self) {
        let deployment = self.deployment;
        let mut waiting = false;
        for set in &mut self.old {
            if set.replicas() > 0 {
                set.scale(0, deployment);
                waiting = true;
            }
        }
        waiting = waiting
            || self.old.iter().any(|set| {
                self.view.controlled(uid(&set.object), &PODS).any(|pod| !is_terminal(pod))
            });
        if waiting {
            return;
        }
        let desired = replicas(deployment);
        let complete = self.is_complete();
        match &mut self.new {
            None => self.create_new(desired),
            Some(new) if new.replicas() != desired => new.scale(desired, deployment),
            Some(_) if complete => self.clean_up(),
            Some(_) => {}
        }
    }

    fn create_new(&mut self, size: i64) {
        let hash = revision::template_hash(self.deployment, self.collisions);
        let mut set = Set::new(Arc::new(revision::new_set(
            self.deployment,
            &hash,
            self.newest_revision(),
            size,
        )));
        set.scale(size, self.deployment);
        self.create = Some(set.object);
    }

    fn is_complete(&self) -> bool {
        status::is_complete(self.deployment, &status::Counts::of(self))
    }

    /// Deletes old, empty ReplicaSets beyond `revisionHistoryLimit`.
    pub(super) fn clean_up(&mut self) {
        let limit = int_at(self.deployment, &["spec", "revisionHistoryLimit"]).unwrap_or(10);
        let mut old: Vec<&Set> = self.old.iter().filter(|set| !is_deleting(&set.object)).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|set| revision::revision(&set.object));
        for set in old.into_iter().take(surplus) {
            if set.replicas() == 0 && set.status("replicas") == 0 && is_observed(&set.before) {
                self.delete.push(Arc::clone(&set.before));
            }
        }
    }

    /// The writes: ReplicaSets first, then the Deployment's revision or, once that is right, its
    /// status. (Both at once would make the second a conflict; the first wakes this again.)
    pub(super) fn finish(mut self, now: Timestamp, out: &mut Outcome) {
        let deployment = self.deployment;
        if let Some(set) = self.create.take() {
            self.finish_create(set, out);
        }
        for set in self.sets() {
            if set.object != *set.before {
                out.writes.push(scale_write(deployment, set));
            }
        }
        for set in &self.delete {
            out.push(Op::Delete {
                target: ObjectRef::of(REPLICA_SETS, set),
                uid: uid(set).to_owned(),
                grace_seconds: None,
                propagation: Propagation::Background,
            });
        }
        let number = self.new.as_ref().and_then(|new| annotation(&new.object, REVISION));
        match number {
            Some(number)
                if !is_deleting(deployment) && annotation(deployment, REVISION) != Some(number) =>
            {
                let number = number.parse().unwrap_or(0);
                out.push(Op::Update {
                    resource: DEPLOYMENTS,
                    object: revision::with_revision(deployment, number),
                });
            }
            _ => status::write(&self, now, out),
        }
    }

    fn finish_create(&mut self, set: Value, out: &mut Outcome) {
        let deployment = self.deployment;
        let size = int_at(&set, &["spec", "replicas"]).unwrap_or(0);
        if self.view.find(&REPLICA_SETS, namespace(deployment), name(&set)).is_some() {
            // Another template has this hash, or a stranger this name: the status remembers that
            // and the next reconcile tries another name.
            self.collisions += 1;
            return;
        }
        self.created = Some(name(&set).to_owned());
        let write = Write::quiet(Op::Create { resource: REPLICA_SETS, object: set });
        let message = format!("Scaled up replica set {{name}} from 0 to {size}");
        out.writes.push(write.then(note(deployment, false, "ScalingReplicaSet", message)).or_else(
            note(
                deployment,
                true,
                "ReplicaSetCreateError",
                "Failed to create new replica set: {error}".to_owned(),
            ),
        ));
    }
}

/// A ReplicaSet's share of `to_add` replicas, of which `added` are given out.
fn share(set: &Set, deployment: &Value, to_add: i64, added: i64) -> i64 {
    let size = set.replicas();
    if size == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let desired = replicas(deployment);
    let wanted = if desired == 0 {
        -size
    } else {
        let before = revision::count(&set.object, MAX_REPLICAS)
            .filter(|max| *max > 0)
            .unwrap_or_else(|| int_at(deployment, &["status", "replicas"]).unwrap_or(0))
            .max(1);
        let target = size * (desired + max_surge(deployment));
        // Rounded half up.
        (2 * target + before) / (2 * before) - size
    };
    let left = to_add - added;
    if to_add > 0 { wanted.min(left) } else { wanted.max(left) }
}

fn scale_write(deployment: &Value, set: &Set) -> Write {
    let write = Write::quiet(Op::Update { resource: REPLICA_SETS, object: set.object.clone() });
    let before = int_at(&set.before, &["spec", "replicas"]).unwrap_or(1);
    let after = set.replicas();
    if before == after {
        return write;
    }
    let direction = if after > before { "up" } else { "down" };
    let message =
        format!("Scaled {direction} replica set {} from {before} to {after}", name(&set.object));
    write.then(note(deployment, false, "ScalingReplicaSet", message))
}

/// Whether the Deployment is paused.
pub(super) fn is_paused(deployment: &Value) -> bool {
    is_true(deployment, &["spec", "paused"])
}
