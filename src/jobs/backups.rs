//! The jobs around a destination of backups: what they share, opened once in a process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;

use super::back_up::{BackUp, FULL, INCREMENTAL, Turn};
use super::compact_backups::{BackupCompaction, COMPACT};
use super::prune_backups::{self, BackupRetention, PRUNE_BACKUPS};
use super::verify_backups::{self, BackupVerify, VERIFY_BACKUPS};
use crate::backup::claim::{self, Writer};
use crate::backup::fold::Weave;
use crate::backup::follow::{self, Follower};
use crate::backup::retain::Policy;
use crate::backup::ship::{self, ShipError, Shipper};
use crate::backup::{Kind, Settings, Source};
use crate::clock::Clock;
use crate::object::{self, ObjectStore};
use crate::sample::Desc;
use crate::schedule::Job;

/// The jobs that there are only where there is a destination.
pub const NAMES: &[&str] = &[FULL, INCREMENTAL, COMPACT, VERIFY_BACKUPS, PRUNE_BACKUPS];

/// What the jobs measure, described.
pub fn metrics() -> impl Iterator<Item = &'static Desc> {
    [ship::METRICS, follow::METRICS, prune_backups::METRICS, verify_backups::METRICS, object::METRICS]
        .into_iter()
        .flatten()
        .copied()
}

/// A destination, with who ships there.
pub struct Backups {
    store: Arc<dyn ObjectStore>,
    shipper: Arc<Shipper>,
    follower: Arc<Follower>,
    policy: Policy,
    pruning: Arc<prune_backups::Metrics>,
    verifying: Arc<verify_backups::Metrics>,
}

impl Backups {
    /// The destination of `settings`, if there is one and a `source` for it; nothing is asked of it yet. Once per `registry`.
    pub fn open(
        settings: &Settings,
        source: Option<(Arc<dyn Source>, Option<&'static dyn Weave>)>,
        state_directory: &Path,
        writer: Writer,
        clock: &Clock,
        registry: &Registry,
    ) -> Result<Option<Self>, String> {
        let (Some(destination), Some((source, weave))) = (settings.destination.clone(), source) else {
            return Ok(None);
        };
        let store = object::open(&settings.object(destination), registry)?;
        let state_directory = state_directory.to_owned();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let shipper = Arc::new(Shipper::new(ship::Parts {
            source,
            store: Arc::clone(&store),
            settings: ship::Settings { state_directory, form: settings.form.clone(), threads, claim_wait: claim::WAIT },
            writer,
            clock: clock.clone(),
            metrics: ship::Metrics::new(registry).into(),
        }));
        let follower = Follower::new(follow::Parts {
            shipper: Arc::clone(&shipper),
            settings: settings.sqlite,
            pace: follow::Pace::default(),
            weave,
            identity_file: settings.identity_file.clone(),
            metrics: follow::Metrics::new(registry).into(),
        });
        Ok(Some(Self {
            store,
            shipper,
            follower: Arc::new(follower),
            policy: settings.policy,
            pruning: prune_backups::Metrics::new(registry).into(),
            verifying: verify_backups::Metrics::new(registry).into(),
        }))
    }

    /// The jobs.
    pub fn jobs(&self, turn: &Turn) -> Vec<Arc<dyn Job>> {
        vec![
            Arc::new(BackUp::full(Arc::clone(&self.follower), turn.clone())),
            Arc::new(BackUp::incremental(Arc::clone(&self.follower), turn.clone())),
            Arc::new(BackupCompaction::new(Arc::clone(&self.follower))),
            Arc::new(BackupVerify::new(Arc::clone(&self.store), Arc::clone(&self.verifying))),
            Arc::new(BackupRetention::new(Arc::clone(&self.store), self.policy, Arc::clone(&self.pruning))),
        ]
    }

    /// What follows the database's commits, where that is wanted and possible.
    pub fn follower(&self) -> Option<&Arc<Follower>> {
        Some(&self.follower).filter(|follower| follower.follows())
    }

    /// Takes what is measured from the destination, and tells whether it has no full yet: nobody should wait for Sunday with that. `limit` is for a store that
    /// does not answer.
    pub async fn has_none(&self, limit: Duration) -> Result<bool, ShipError> {
        let catalog = match tokio::time::timeout(limit, self.shipper.measure()).await {
            Ok(catalog) => catalog?,
            Err(_) => return Err(ShipError::Failed(format!("no answer from {} within {limit:?}", self.store.place()))),
        };
        Ok(!catalog.entries.values().any(|entry| entry.manifest.kind == Kind::Full))
    }
}
