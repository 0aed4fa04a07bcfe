//! Deletes what retention condemned ([`super::retain`]), in two phases.
//!
//! First a *tombstone* is written: an object that names what may go. A later run deletes what a tombstone of at least the grace's age names, if the plan
//! still says so then: manifests first and the newest of them before the others, so that what a crash leaves is an object that nobody names and the beginning of
//! a chain, and never a manifest without what it needs. A mistake, of ours or of a
//! clock, can be noticed in between, and a restore that has begun reads on.
//!
//! The age of a tombstone is the store's to tell: before anything is planned, an object is written and listed, and its time is the store's now. Where that
//! is far from ours, one of the two clocks is wrong and nothing is condemned (T-5).
//!
//! Some stores answer that they deleted, and keep the object; so what is gone is what a listing no longer has. Credentials without the right to delete are no
//! failure of backups: retention says it and fails, until a life cycle rule of the bucket does its work and the job is switched off.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::catalog::Catalog;
use super::layout::{FORMAT, folded, live_place, manifest_place};
use super::manifest::rfc3339;
use super::retain::{self, Plan, Policy};
use crate::clock::Timestamp;
use crate::object::{Listed, ObjectError, ObjectKey, ObjectStore, get_small, list_all};

/// What the keys of tombstones begin with.
const TOMBSTONES: &str = "tombstones/";

/// Written to learn the store's time.
const NOW: &str = "tombstones/now";

/// How far our clock and the store's may be apart. S3 itself refuses requests that are a quarter of an hour off.
const MOST_APART: Duration = Duration::from_secs(15 * 60);

/// The longest tombstone that is read: some 100,000 keys.
const MOST_BYTES: u64 = 16 << 20;

/// The most keys of one tombstone; what is beyond waits for the next run.
const MOST_KEYS: usize = 50_000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tombstone {
    format: u32,
    #[serde(with = "rfc3339")]
    condemned: Timestamp,
    keys: BTreeSet<String>,
}

/// What a run did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What may go.
    pub plan: Plan,
    /// How many objects were condemned now: they go after the grace.
    pub condemned: usize,
    /// Objects that were deleted (in a dry run: would be).
    pub deleted: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that the store kept though it said that it deleted them.
    pub kept_by_store: Vec<ObjectKey>,
    /// Why nothing more could be deleted, where the store says so.
    pub refused: Option<String>,
}

impl Pruned {
    /// Whether the store did what it was asked.
    pub fn is_done(&self) -> bool {
        self.kept_by_store.is_empty() && self.refused.is_none()
    }
}

/// Prunes `store`, or in a dry run only says what would be done. `go_on` is asked between two objects.
pub async fn prune(
    store: &dyn ObjectStore,
    policy: &Policy,
    now: Timestamp,
    dry_run: bool,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<Pruned, ObjectError> {
    let now = match dry_run {
        true => now,
        false => store_time(store, now).await?,
    };
    let catalog = Catalog::load(store).await?;
    let plan = retain::plan(&catalog, policy, now);
    let may_go: BTreeSet<&str> = plan.condemned.iter().map(|c| c.key.as_str()).collect();
    let tombstones = tombstones(store).await?;
    let old = now.before(policy.grace);
    let ripe: BTreeSet<&str> = tombstones
        .iter()
        .filter(|(listed, _)| listed.modified <= old)
        .flat_map(|(_, tombstone)| tombstone.keys.iter().map(String::as_str))
        .filter(|key| may_go.contains(key))
        .collect();
    let waiting: BTreeSet<&str> =
        tombstones.iter().flat_map(|(_, tombstone)| tombstone.keys.iter().map(String::as_str)).collect();
    let fresh: BTreeSet<String> =
        may_go.iter().filter(|key| !waiting.contains(*key)).take(MOST_KEYS).map(|key| (*key).to_owned()).collect();
    let mut pruned = Pruned { condemned: fresh.len(), ..Pruned::default() };
    let doomed: Vec<&retain::Condemned> = plan.condemned.iter().filter(|c| ripe.contains(c.key.as_str())).collect();
    if dry_run {
        pruned.deleted = doomed.len() as u64;
        pruned.bytes = doomed.iter().map(|c| c.bytes).sum();
        pruned.plan = plan;
        return Ok(pruned);
    }
    if !fresh.is_empty() {
        condemn(store, fresh, now).await?;
    }
    // The newest manifests first: where a run ends early, what is left of a chain is its beginning, which can be restored.
    let mut tried: Vec<&retain::Condemned> = Vec::new();
    let (manifests, objects): (Vec<_>, Vec<_>) = doomed.into_iter().partition(|condemned| is_commit(&condemned.key));
    for condemned in manifests.into_iter().rev().chain(objects) {
        if !go_on() {
            break;
        }
        match store.delete(&condemned.key).await {
            Ok(()) | Err(ObjectError::Missing(_)) => tried.push(condemned),
            Err(ObjectError::Denied(why)) => {
                pruned.refused = Some(why);
                break;
            }
            Err(e) => return Err(e),
        }
    }
    let there: BTreeSet<ObjectKey> = list_all(store, "").await?.into_iter().map(|object| object.key).collect();
    for condemned in tried {
        if there.contains(&condemned.key) {
            pruned.kept_by_store.push(condemned.key.clone());
        } else {
            pruned.deleted += 1;
            pruned.bytes += condemned.bytes;
        }
    }
    bury(store, &tombstones, &may_go, &there).await?;
    pruned.plan = plan;
    Ok(pruned)
}

/// Whether the segment that it belongs to exists because of it: a manifest, or a live segment, which is its own.
fn is_commit(key: &ObjectKey) -> bool {
    manifest_place(key).is_some() || folded(key).is_some() || live_place(key).is_some()
}

/// What time it is at the store. An error where that is far from `now`.
async fn store_time(store: &dyn ObjectStore, now: Timestamp) -> Result<Timestamp, ObjectError> {
    let key = ObjectKey::ours(NOW);
    store.put(&key, now.to_rfc3339().into()).await?;
    let listed = list_all(store, NOW).await?;
    let Some(there) = listed.iter().find(|object| object.key == key).map(|object| object.modified) else {
        return Err(ObjectError::Corrupt(format!("`{key}` was stored and is not in the listing of {}", store.place())));
    };
    if now.since(there).max(there.since(now)) > MOST_APART {
        return Err(ObjectError::Denied(format!(
            "it is {now} here and {there} at {}: nothing is deleted by age until both clocks agree",
            store.place()
        )));
    }
    Ok(there)
}

async fn tombstones(store: &dyn ObjectStore) -> Result<Vec<(Listed, Tombstone)>, ObjectError> {
    let mut found = Vec::new();
    for listed in list_all(store, TOMBSTONES).await?.into_iter().filter(|object| object.key.as_str() != NOW) {
        let bytes = match get_small(store, &listed.key, MOST_BYTES).await {
            Ok(bytes) => bytes,
            // Another run buried it.
            Err(ObjectError::Missing(_)) => continue,
            Err(e) => return Err(e),
        };
        match serde_json::from_slice::<Tombstone>(&bytes) {
            Ok(tombstone) if tombstone.format == FORMAT => found.push((listed, tombstone)),
            // What it condemned is condemned anew.
            _ => warn!(key = %listed.key, "a tombstone that cannot be read is left alone"),
        }
    }
    Ok(found)
}

async fn condemn(store: &dyn ObjectStore, keys: BTreeSet<String>, now: Timestamp) -> Result<(), ObjectError> {
    // Milliseconds: two runs of one millisecond would have planned the same.
    let key = ObjectKey::ours(format!("{TOMBSTONES}{:015}.json", now.millis()));
    let tombstone = Tombstone { format: FORMAT, condemned: now, keys };
    let bytes = serde_json::to_vec_pretty(&tombstone).expect("a tombstone is JSON");
    match store.create(&key, bytes.into()).await {
        // An answer that was lost, or another run at the same moment.
        Err(ObjectError::Exists(_)) => Ok(()),
        other => other,
    }
}

/// Removes tombstones that name nothing more to delete, and those that name something that is needed again: its grace begins anew if it is ever condemned again.
async fn bury(
    store: &dyn ObjectStore,
    tombstones: &[(Listed, Tombstone)],
    may_go: &BTreeSet<&str>,
    there: &BTreeSet<ObjectKey>,
) -> Result<(), ObjectError> {
    for (listed, tombstone) in tombstones {
        let mut left =
            tombstone.keys.iter().filter(|key| ObjectKey::parse(key).is_some_and(|key| there.contains(&key)));
        let needed_again = |key: &String| !may_go.contains(key.as_str());
        let over = match left.next() {
            None => true,
            Some(first) => needed_again(first) || left.any(needed_again),
        };
        if over {
            match store.delete(&listed.key).await {
                Ok(()) | Err(ObjectError::Missing(_) | ObjectError::Denied(_)) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}
