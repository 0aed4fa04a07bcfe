//! `backup-verify`: looks whether what is at the destination is what was put there (see [`crate::backup::verify`]).

use std::sync::Arc;

use prometheus::{Gauge, IntGauge, Registry};

use crate::backup::Catalog;
use crate::backup::restore::Progress;
use crate::backup::verify::{Depth, Report, verify};
use crate::object::{ObjectError, ObjectStore};
use crate::sample::{Desc, Kind};
use crate::schedule::{Job, JobContext, JobError, Outcome};
use crate::task::Pending;
use crate::telemetry;

/// The job's name.
pub const VERIFY_BACKUPS: &str = "backup-verify";

const PROBLEMS: Desc = Desc {
    name: "atlas_sidecar_backup_problems",
    kind: Kind::Gauge,
    unit: "1",
    help: "What the last look at the destination found wrong: lost or changed objects, broken chains. Above 0 something cannot be restored, or soon: `backup verify --deep`.",
};
const SUCCESS: Desc = Desc {
    name: "atlas_sidecar_backup_last_verify_success_timestamp_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "When this process last looked at the destination and found everything as it should be, 0 for never.",
};

/// What this module measures of itself.
pub const METRICS: &[&Desc] = &[&PROBLEMS, &SUCCESS];

/// The numbers of this job, made once: a job is made anew with each configuration.
pub struct Metrics {
    problems: IntGauge,
    success: Gauge,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self { problems: telemetry::int_gauge(registry, &PROBLEMS), success: telemetry::gauge(registry, &SUCCESS) }
    }
}

/// Looks at a destination.
pub struct BackupVerify {
    store: Arc<dyn ObjectStore>,
    metrics: Arc<Metrics>,
}

impl BackupVerify {
    /// Looks at `store`.
    pub fn new(store: Arc<dyn ObjectStore>, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics }
    }

    async fn verify(&self, cx: &JobContext) -> Result<Outcome, JobError> {
        let report = tokio::select! {
            report = self.look(cx) => report.map_err(|e| JobError::Failed(e.to_string()))?,
            stopped = cx.rest(cx.time_left()) => {
                stopped?;
                return Err(JobError::Stopped);
            }
        };
        if !cx.dry_run() {
            self.metrics.problems.set(i64::try_from(report.problems.len()).unwrap_or(i64::MAX));
            if report.proven() {
                self.metrics.success.set(cx.now().seconds());
            }
        }
        let words = words(&report);
        match report.proven() {
            true => Ok(Outcome::done(report.checked_objects as u64, words).bytes(report.checked_bytes)),
            false => Err(JobError::Failed(words)),
        }
    }

    /// The identity is somewhere else, where it should be: what is encrypted is compared as it is stored.
    async fn look(&self, cx: &JobContext) -> Result<Report, ObjectError> {
        let catalog = Catalog::load(self.store.as_ref()).await?;
        let progress = |progress: Progress| cx.progress(progress.done, Some(progress.total), "bytes");
        verify(&self.store, &catalog, Depth::Plain, cx.now(), None, &progress).await
    }
}

fn words(report: &Report) -> String {
    let looked = format!(
        "{} marks, {} objects, {} of them compared to the byte",
        report.segments, report.objects, report.checked_objects
    );
    match report.problems.first().or(report.unchecked.first()) {
        None => looked,
        Some(first) => format!(
            "{} problems and {} unchecked in {looked}; the first: {first}",
            report.problems.len(),
            report.unchecked.len()
        ),
    }
}

impl Job for BackupVerify {
    fn name(&self) -> &'static str {
        VERIFY_BACKUPS
    }

    fn run<'a>(&'a self, cx: &'a JobContext) -> Pending<'a, Result<Outcome, JobError>> {
        Box::pin(self.verify(cx))
    }
}
