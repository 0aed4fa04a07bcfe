//! `backup-retention`: lets go of backups that no instant of the window needs (see [`crate::backup::retain`] for what that is, and
//! [`crate::backup::prune`] for how they go).

use std::sync::Arc;

use prometheus::{IntCounter, IntGauge, Registry};

use crate::backup::prune::{Pruned, prune};
use crate::backup::retain::Policy;
use crate::object::ObjectStore;
use crate::sample::{Desc, Kind};
use crate::schedule::{Job, JobContext, JobError, Outcome};
use crate::task::Pending;
use crate::telemetry;

/// The job's name.
pub const PRUNE_BACKUPS: &str = "backup-retention";

const DELETED: Desc = Desc {
    name: "atlas_sidecar_backup_deleted_objects_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Objects that retention deleted from the destination.",
};
const DELETED_BYTES: Desc = Desc {
    name: "atlas_sidecar_backup_deleted_bytes_total",
    kind: Kind::Counter,
    unit: "bytes",
    help: "Bytes that retention deleted from the destination.",
};
const UNDELETED: Desc = Desc {
    name: "atlas_sidecar_backup_undeleted_objects",
    kind: Kind::Gauge,
    unit: "1",
    help: "Objects that the last run of retention could not delete. Above 0 the destination only grows: give the credentials the right to delete, or the bucket a life cycle rule.",
};

/// What this module measures of itself.
pub const METRICS: &[&Desc] = &[&DELETED, &DELETED_BYTES, &UNDELETED];

/// The numbers of this job, made once: a job is made anew with each configuration.
pub struct Metrics {
    deleted: IntCounter,
    bytes: IntCounter,
    undeleted: IntGauge,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            deleted: telemetry::counter(registry, &DELETED),
            bytes: telemetry::counter(registry, &DELETED_BYTES),
            undeleted: telemetry::int_gauge(registry, &UNDELETED),
        }
    }
}

/// Prunes a destination.
pub struct BackupRetention {
    store: Arc<dyn ObjectStore>,
    policy: Policy,
    metrics: Arc<Metrics>,
}

impl BackupRetention {
    /// Keeps in `store` what `policy` says.
    pub fn new(store: Arc<dyn ObjectStore>, policy: Policy, metrics: Arc<Metrics>) -> Self {
        Self { store, policy, metrics }
    }

    async fn prune(&self, cx: &JobContext) -> Result<Outcome, JobError> {
        if let Some(doubt) = cx.clock_doubt() {
            return cx.refuse(doubt);
        }
        let go_on = || cx.check().is_ok() && !cx.time_left().is_zero();
        let pruned = prune(self.store.as_ref(), &self.policy, cx.now(), cx.dry_run(), &go_on)
            .await
            .map_err(|e| JobError::Failed(e.to_string()))?;
        cx.check()?;
        if !cx.dry_run() {
            self.metrics.deleted.inc_by(pruned.deleted);
            self.metrics.bytes.inc_by(pruned.bytes);
            let undeleted = pruned.kept_by_store.len() + usize::from(pruned.refused.is_some());
            self.metrics.undeleted.set(i64::try_from(undeleted).unwrap_or(i64::MAX));
        }
        let words = words(&pruned, cx.dry_run());
        match pruned.is_done() {
            true => Ok(Outcome::done(pruned.deleted, words).bytes(pruned.bytes)),
            false => Err(JobError::Failed(words)),
        }
    }
}

/// One line about a run.
pub fn words(pruned: &Pruned, dry_run: bool) -> String {
    let Pruned { plan, condemned, deleted, kept_by_store, refused, .. } = pruned;
    if let Some(why) = &plan.halted {
        return format!("nothing may go: {why}");
    }
    let would = if dry_run { "would be " } else { "" };
    let mut words =
        format!("{deleted} objects {would}deleted, {condemned} {would}condemned, {} segments stay", plan.kept);
    if let Some(first) = kept_by_store.first() {
        words.push_str(&format!(
            "; the store kept {} that it said it deleted, `{first}` among them",
            kept_by_store.len()
        ));
    }
    if let Some(why) = refused {
        words.push_str(&format!("; not allowed to delete: {why}"));
    }
    words
}

impl Job for BackupRetention {
    fn name(&self) -> &'static str {
        PRUNE_BACKUPS
    }

    fn run<'a>(&'a self, cx: &'a JobContext) -> Pending<'a, Result<Outcome, JobError>> {
        Box::pin(self.prune(cx))
    }
}
