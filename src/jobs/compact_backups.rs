//! `backup-compact`: puts live segments together and lets go of what is covered (see [`crate::backup::fold`] for what becomes of them).

use std::sync::Arc;

use super::back_up::failure;
use crate::backup::follow::Follower;
use crate::schedule::{Job, JobContext, JobError, Outcome};
use crate::task::Pending;

/// The job's name.
pub const COMPACT: &str = "backup-compact";

/// Compacts what a follower has shipped.
pub struct BackupCompaction {
    follower: Arc<Follower>,
}

impl BackupCompaction {
    /// Of what `follower` ships.
    pub fn new(follower: Arc<Follower>) -> Self {
        Self { follower }
    }

    async fn compact(&self, cx: &JobContext) -> Result<Outcome, JobError> {
        if cx.dry_run() {
            return Ok(Outcome::done(0, self.follower.preview().await.map_err(failure)?));
        }
        let report = self.follower.compact(cx).await.map_err(failure)?;
        Ok(Outcome::done(report.count, report.words).bytes(report.bytes))
    }
}

impl Job for BackupCompaction {
    fn name(&self) -> &'static str {
        COMPACT
    }

    fn run<'a>(&'a self, cx: &'a JobContext) -> Pending<'a, Result<Outcome, JobError>> {
        Box::pin(self.compact(cx))
    }
}
