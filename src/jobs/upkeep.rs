//! `upkeep`: looks after the database itself, when nobody is there.
//!
//! What there is to do is the engine's to know ([`Upkeep::plan`]); when it may be done is decided here: inside the configured window, and
//! only if the database and its host are quiet at that moment. Neither is asked of a run by hand; that no backup
//! runs is. Each task is done in pieces; between them the run
//! stops at its deadline, which is the window's end or, somewhat before it, the timeout, whichever comes first. What was not done is said, and the next
//! run finds it again: nothing is remembered.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, Registry};
use tokio::time::Instant;
use tracing::warn;

use super::back_up::Turn;
use crate::sample::{Desc, Kind};
use crate::schedule::window::Window;
use crate::schedule::{Job, JobContext, JobError, Outcome};
use crate::store::{Load, StoreError, Task, Tended, Tending, Upkeep, Wear};
use crate::task::Pending;
use crate::telemetry;

/// The job's name.
pub const UPKEEP: &str = "upkeep";

/// How long is looked whether others are at work.
const SAMPLE: Duration = Duration::from_secs(10);

/// How often a piece is tried while somebody else holds the database.
const TRIES: u32 = 5;

/// The least rest between two pieces.
const REST: Duration = Duration::from_millis(10);

/// A tenth of the timeout is kept for ending well, and no more than this.
const MOST_MARGIN: Duration = Duration::from_secs(30);

const STEPS: Desc = Desc {
    name: "atlas_sidecar_upkeep_steps_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Steps of upkeep by what became of them: `done`, `stopped` (at the deadline), `failed`. One that only ever fails: see the run's words in `jobs list`.",
};
const FREED: Desc = Desc {
    name: "atlas_sidecar_upkeep_freed_bytes_total",
    kind: Kind::Counter,
    unit: "bytes",
    help: "Bytes that upkeep gave back: the file's pages on SQLite, what rebuilt indexes are smaller by on PostgreSQL.",
};
const NOT_QUIET: Desc = Desc {
    name: "atlas_sidecar_upkeep_put_off_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Runs of upkeep that did nothing because it was not the time (`window`), others were at work (`load`) or a backup was running (`backup`). Where it never runs, choose another window.",
};

/// What this module measures of itself.
pub const METRICS: &[&Desc] = &[&STEPS, &FREED, &NOT_QUIET];

/// The numbers of this job, made once: a job is made anew with each configuration.
pub struct Metrics {
    steps: IntCounterVec,
    freed: IntCounter,
    put_off: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            steps: telemetry::counters(registry, &STEPS, &["step", "result"]),
            freed: telemetry::counter(registry, &FREED),
            put_off: telemetry::counters(registry, &NOT_QUIET, &["reason"]),
        }
    }
}

/// `[upkeep]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// When it may run, in the clock of the job's zone.
    pub window: Window,
    /// How many transactions in a second are quiet.
    pub quiet_transactions: u64,
    /// How much of the host's processors may be asked for.
    pub quiet_host_percent: u64,
    /// What makes work.
    pub wear: Wear,
}

/// Looks after databases.
pub struct DatabaseUpkeep {
    databases: Vec<Arc<dyn Upkeep>>,
    settings: Settings,
    zone: &'static str,
    turn: Turn,
    metrics: Arc<Metrics>,
}

/// What a run comes to.
#[derive(Default)]
struct Tally {
    done: Vec<String>,
    not_done: Vec<String>,
    failed: Vec<String>,
    rows: u64,
    freed: u64,
}

/// How a task ended that did not fail.
enum Ended {
    Done,
    /// At the deadline.
    Stopped,
}

impl DatabaseUpkeep {
    /// Looks after `databases` as `settings` say, in the clock of `zone`, when it is its `turn`.
    pub fn new(
        databases: Vec<Arc<dyn Upkeep>>,
        settings: Settings,
        zone: &'static str,
        turn: Turn,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { databases, settings, zone, turn, metrics }
    }

    async fn look_after(&self, cx: &JobContext) -> Result<Outcome, JobError> {
        let timeout = cx.time_left();
        let mut left = timeout.saturating_sub(MOST_MARGIN.min(timeout / 10));
        if !cx.manual() {
            let Some(window) = self.settings.window.left(cx.now(), self.zone) else {
                self.metrics.put_off.with_label_values(&["window"]).inc();
                return Ok(Outcome::skipped(format!("it is outside of `upkeep.window`, {}", self.settings.window)));
            };
            left = left.min(window);
        }
        let Some(_turn) = self.turn.try_take() else {
            self.metrics.put_off.with_label_values(&["backup"]).inc();
            return Ok(Outcome::skipped("a backup is running"));
        };
        let deadline = Instant::now() + left;
        if !cx.manual()
            && let Some(others) = self.others(cx).await?
        {
            self.metrics.put_off.with_label_values(&["load"]).inc();
            return Ok(Outcome::skipped(others));
        }
        let mut tally = Tally::default();
        for database in &self.databases {
            self.tend(database.as_ref(), cx, deadline, &mut tally).await?;
        }
        tally.outcome(cx.dry_run())
    }

    /// Who else is at work.
    async fn others(&self, cx: &JobContext) -> Result<Option<String>, JobError> {
        for database in &self.databases {
            cx.check()?;
            let load = database.load(SAMPLE).await?;
            if let Some(words) = self.settings.disturbance(load) {
                return Ok(Some(format!("{}: {words}", database.database())));
            }
        }
        Ok(None)
    }

    async fn tend(
        &self,
        database: &dyn Upkeep,
        cx: &JobContext,
        deadline: Instant,
        tally: &mut Tally,
    ) -> Result<(), JobError> {
        for task in database.plan(self.settings.wear).await? {
            cx.check()?;
            let Task { step, about, work } = task;
            let about = match self.databases.len() {
                1 => format!("{step} {about}"),
                _ => format!("{step} {about} in {}", database.database()),
            };
            match work {
                Err(why) => tally.not_done.push(format!("{about}: {why}")),
                Ok(_) if cx.dry_run() => tally.done.push(about),
                Ok(mut work) => {
                    let ended = self.work(work.as_mut(), cx, deadline, tally).await;
                    self.settle(step, about, ended, tally)?;
                }
            }
        }
        Ok(())
    }

    /// One task that fails does not keep the others from being done, but for a full disk: whatever comes next needs space as well.
    fn settle(
        &self,
        step: &str,
        about: String,
        ended: Result<Ended, WorkError>,
        tally: &mut Tally,
    ) -> Result<(), JobError> {
        let count = |result| self.metrics.steps.with_label_values(&[step, result]).inc();
        match ended {
            Ok(Ended::Done) => {
                count("done");
                tally.done.push(about);
            }
            Ok(Ended::Stopped) => {
                count("stopped");
                tally.not_done.push(format!("{about}: no time was left"));
            }
            Err(WorkError::Job(e)) => return Err(e),
            Err(WorkError::Store(e)) => {
                count("failed");
                warn!(step, error = %e, "a step of upkeep failed");
                let failure = format!("{about}: {e}");
                if matches!(e, StoreError::Full(_)) {
                    return Err(JobError::Failed(failure));
                }
                tally.failed.push(failure);
            }
        }
        Ok(())
    }

    async fn work(
        &self,
        work: &mut (dyn Tending + '_),
        cx: &JobContext,
        deadline: Instant,
        tally: &mut Tally,
    ) -> Result<Ended, WorkError> {
        let mut failures = 0;
        loop {
            cx.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Ended::Stopped);
            }
            match work.next(left).await {
                Ok(Some(Tended { rows, freed, held })) => {
                    failures = 0;
                    tally.rows += rows;
                    tally.freed += freed;
                    self.metrics.freed.inc_by(freed);
                    cx.progress(tally.done.len() as u64, None, "steps");
                    // As long as they waited: the application comes first.
                    cx.rest(REST.max(held)).await?;
                }
                Ok(None) => return Ok(Ended::Done),
                Err(StoreError::Busy(_)) if failures + 1 < TRIES => {
                    failures += 1;
                    cx.rest(Duration::from_millis(200) * failures).await?;
                }
                Err(e) => return Err(WorkError::Store(e)),
            }
        }
    }
}

/// Why a task did not end.
enum WorkError {
    Job(JobError),
    Store(StoreError),
}

impl From<JobError> for WorkError {
    fn from(e: JobError) -> Self {
        Self::Job(e)
    }
}

impl Settings {
    /// What of `load` is too much.
    fn disturbance(&self, load: Load) -> Option<String> {
        let Load { transactions, host_percent } = load;
        if transactions > self.quiet_transactions as f64 {
            return Some(format!(
                "others are at work, with {transactions:.1} transactions a second; `upkeep.quiet_transactions` is {}",
                self.quiet_transactions
            ));
        }
        let host_percent = host_percent.filter(|percent| *percent > self.quiet_host_percent as f64)?;
        Some(format!(
            "the host is at work, with a load of {host_percent:.0} %; `upkeep.quiet_host_percent` is {}",
            self.quiet_host_percent
        ))
    }
}

impl Tally {
    fn outcome(self, dry_run: bool) -> Result<Outcome, JobError> {
        let mut words = Vec::new();
        if !self.failed.is_empty() {
            words.push(format!("failed: {}", self.failed.join("; ")));
        }
        let done = if dry_run { "would be done" } else { "done" };
        match self.done.as_slice() {
            [] => words.push(format!("nothing {done}")),
            list => words.push(format!("{done}: {}", list.join(", "))),
        }
        if !self.not_done.is_empty() {
            words.push(format!("not: {}", self.not_done.join("; ")));
        }
        let words = words.join(". ");
        match self.failed.is_empty() {
            true => Ok(Outcome::done(self.rows, words).bytes(self.freed)),
            false => Err(JobError::Failed(words)),
        }
    }
}

impl Job for DatabaseUpkeep {
    fn name(&self) -> &'static str {
        UPKEEP
    }

    fn run<'a>(&'a self, cx: &'a JobContext) -> Pending<'a, Result<Outcome, JobError>> {
        Box::pin(self.look_after(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_is_what_is_below_both_limits() {
        let settings = Settings {
            window: Window::parse("02:00-05:00").expect("valid"),
            quiet_transactions: 5,
            quiet_host_percent: 70,
            wear: Wear { unused_percent: 30 },
        };
        let load = |transactions, host_percent| settings.disturbance(Load { transactions, host_percent });
        assert_eq!(load(5.0, Some(70.0)), None);
        assert_eq!(load(0.0, None), None);
        assert!(load(5.1, None).is_some_and(|words| words.contains("5.1 transactions")));
        assert!(load(0.0, Some(150.0)).is_some_and(|words| words.contains("150 %")));
    }
}
