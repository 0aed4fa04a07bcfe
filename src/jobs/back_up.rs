//! `backup-full` and `backup-incremental`: ship a backup of the database.
//!
//! Both use one follower: while it follows the database's commits, a full is read beside that and an increment is merged of what was shipped; otherwise it ships the
//! one or the other. Neither reads while upkeep rewrites the database: what is
//! rewritten would all be shipped, and the work of both would take twice as long. So they take [`Turn`]s: a backup waits for upkeep to end,
//! upkeep does not begin while a backup runs.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::backup::Want;
use crate::backup::follow::Follower;
use crate::backup::ship::ShipError;
use crate::schedule::{Job, JobContext, JobError, Outcome};
use crate::task::Pending;

/// The job that ships the whole database.
pub const FULL: &str = "backup-full";

/// The job that ships what has changed.
pub const INCREMENTAL: &str = "backup-incremental";

/// Whose turn it is at the database: one for all jobs of a process.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<Mutex<()>>);

impl Turn {
    /// Waits for it.
    pub async fn take(&self, cx: &JobContext) -> Result<OwnedMutexGuard<()>, JobError> {
        let mut waiting = std::pin::pin!(Arc::clone(&self.0).lock_owned());
        loop {
            tokio::select! {
                turn = &mut waiting => return Ok(turn),
                stopped = cx.rest(cx.time_left()) => stopped?,
            }
        }
    }

    /// Takes it if nobody has it.
    pub fn try_take(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.0).try_lock_owned().ok()
    }
}

/// Ships backups of one kind.
pub struct BackUp {
    name: &'static str,
    want: Want,
    follower: Arc<Follower>,
    turn: Turn,
}

impl BackUp {
    /// `backup-full`
    pub fn full(follower: Arc<Follower>, turn: Turn) -> Self {
        Self { name: FULL, want: Want::Full, follower, turn }
    }

    /// `backup-incremental`
    pub fn incremental(follower: Arc<Follower>, turn: Turn) -> Self {
        Self { name: INCREMENTAL, want: Want::Changes, follower, turn }
    }

    async fn back_up(&self, cx: &JobContext) -> Result<Outcome, JobError> {
        if cx.dry_run() {
            let words = self.follower.preview_of(self.want).await.map_err(failure)?;
            return Ok(Outcome::done(0, words));
        }
        let _turn = self.turn.take(cx).await?;
        let report = match self.want {
            Want::Full => self.follower.full(cx).await,
            Want::Changes => self.follower.incremental(cx).await,
        };
        let report = report.map_err(failure)?;
        Ok(Outcome::done(report.count, report.words).bytes(report.bytes))
    }
}

/// On one line, the hint included: of more, the run log keeps only the first.
pub(super) fn failure(e: ShipError) -> JobError {
    match e {
        ShipError::Stopped => JobError::Stopped,
        e => JobError::Failed(e.to_string().replace('\n', "; ")),
    }
}

impl Job for BackUp {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run<'a>(&'a self, cx: &'a JobContext) -> Pending<'a, Result<Outcome, JobError>> {
        Box::pin(self.back_up(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::clock::{Clock, Timestamp};

    #[tokio::test]
    async fn a_backup_waits_for_its_turn_until_it_is_stopped() {
        let (turn, stop) = (Turn::default(), CancellationToken::new());
        let cx = JobContext::alone(Clock::by_hand(Timestamp::from_millis(0)), stop.clone(), Duration::from_secs(60));
        let taken = turn.take(&cx).await.unwrap();
        assert!(turn.try_take().is_none());
        let (second, ()) = tokio::join!(turn.take(&cx), async { drop(taken) });
        let second = second.unwrap();
        let (third, ()) = tokio::join!(turn.take(&cx), async { stop.cancel() });
        assert!(matches!(third, Err(JobError::Stopped)));
        drop(second);
        assert!(turn.try_take().is_some());
    }
}
