//! The restore by the program and by the function under it, from destinations that stock programs made, and from damaged ones.

mod command;
mod cut_short;
pub mod damaged;
mod followed;
pub mod history;

use std::path::Path;
use std::sync::Arc;

use atlas_sidecar::backup::catalog::Claim;
use atlas_sidecar::backup::codec::Identity;
use atlas_sidecar::backup::layout::{FORMAT, claim_key};
use atlas_sidecar::backup::plan::Moment;
use atlas_sidecar::backup::restore::{Order, OrderError, Reached, carry_out};
use atlas_sidecar::backup::{Base, Timeline};
use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::engine;
use atlas_sidecar::object::ObjectStore;
use atlas_sidecar::object::dir::Dir;

use super::rebuild::made::{Destination, images};

/// What a small database goes through.
const LIFE: [&str; 6] = [
    "CREATE TABLE t(a INTEGER PRIMARY KEY, b)",
    "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO t SELECT i, hex(randomblob(200)) FROM n",
    "UPDATE t SET b = 'x' WHERE a % 7 = 0",
    "DELETE FROM t WHERE a > 100; VACUUM",
    "INSERT INTO t VALUES(1000, 'y')",
    "SELECT 1",
];

/// Two fulls: one at the first mark and one at the fourth. The last increment has no object, because nothing changed.
pub fn small(folder: &Path) -> Destination {
    let mut made = Destination::new(folder.join("backups"));
    for (at, image) in images(folder, 1024, 0, &LIFE).into_iter().enumerate() {
        if at % 3 == 0 { made.full(image) } else { made.increment(image) }
    }
    claim(&made, 1, None);
    made
}

/// Writes the claim of a timeline.
pub fn claim(made: &Destination, timeline: u32, parent: Option<Base>) {
    let claim = Claim {
        format: FORMAT,
        timeline: Timeline(timeline),
        parent,
        host: "old-host".to_owned(),
        instance: "0d7c".to_owned(),
        identity: "1:2".to_owned(),
        reason: "the first backup".to_owned(),
        claimed: Timestamp::from_rfc3339("2025-11-23T02:00:00Z").unwrap(),
    };
    made.put(claim_key(claim.timeline).as_str(), &serde_json::to_vec(&claim).unwrap());
}

/// The folder as a store.
pub fn store(made: &Destination) -> Arc<dyn ObjectStore> {
    Arc::new(Dir::open(made.folder.clone(), Clock::system()))
}

/// Restores by the function that the command and drills call.
pub async fn restore(
    store: &Arc<dyn ObjectStore>,
    at: Moment,
    to: &Path,
    identity: Option<&Identity>,
) -> Result<Reached, OrderError> {
    let order = Order {
        store,
        timeline: None,
        at,
        rebuild: engine::rebuild,
        identity,
        to,
        planned: &|_| (),
        progress: &|_| (),
    };
    carry_out(&order).await
}

/// What is in a folder beside `backups`.
pub fn left_in(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "backups").collect();
    names.sort();
    names
}
