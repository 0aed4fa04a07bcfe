//! What runs when, and who runs it: [`Job`]s, and everything around them that a job must not have to know.
//!
//! ```text
//!   metronome (tokio-cron-scheduler, UTC) ──┐
//!   watchdog (a monotonic timer) ───────────┼─▶ Runner::tick ─▶ due_slots ─▶ claim ─▶ Job::run ─▶ finish
//!   what a tick wants to be woken for ──────┘                    (cron)      (RunLog)              (RunLog, metrics, one log line)
//!   a request (command line, control socket) ─▶ Runner::run_now ─────────────▶┘
//! ```
//!
//! A trigger only says that time has passed; which slots have come up is computed anew from the clock and from what the run log knows
//! ([`cron::due_slots`]). So it does not matter whether a trigger comes late, twice, or not at all, whether the sidecar was down, and whether the
//! clock stepped: a slot is run because nobody has settled it (S-6, S-7, S-11, T-5).
//!
//! # What is promised
//!
//! - **A slot is run once**, over restarts and over sidecars: it is claimed in the run log under a unique key before anything is done.
//! - **A job runs once at a time**, in this process and in all others (S-5); a request while it runs is refused and says who runs it.
//! - **What is a sidecar's own** ([`Job::is_own`]: files on its host) has slots of its own beside the others'; all the rest holds for it as well.
//! - **A dead owner blocks nobody for long.** Whoever runs a job moves its lease on every 15 s. A run whose lease has not moved for 45 s, by the
//!   monotonic clock of whoever looks, is taken over; nobody has to believe another machine's wall clock, or that nobody set it. Whoever cannot move
//!   its lease for that long stops by itself before. What this installation itself left behind is taken over at once: the state directory's lock tells
//!   that its owner is gone. A slot that was begun three times and never ended is given up: a job that kills its process must not do so for ever.
//! - **A job ends.** At its timeout, at the end of the sidecar and when the lease is lost it is asked to stop ([`JobContext::check`]); five seconds
//!   later it is dropped. Dropping stops no query (E-5), so a job hands what is left of its time ([`JobContext::time_left`]) to each.
//! - **A panic is that run's failure** (S-8), and ends neither the runner nor the next slot.
//! - **A shutdown waits** for running jobs, by a tracker of its own (S-9); the slot of a run that it cancelled is taken up at the next start.
//!
//! # What is not here
//!
//! A job that must not run before another one (pruning before rolling up) asks the data, not the scheduler: how far the other has come is in the
//! database, and says more than that it ran. Where the run log cannot be reached, jobs wait: all of them work on that database. A job that does not
//! (backups) needs a way to run without a claim and to be recorded later, and brings it along.

pub mod cron;
pub mod runner;
pub mod trigger;
pub mod watch;
pub mod window;

use std::fmt;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::store::{End, Reason, StoreError};
use crate::task::Pending;

/// Something that is done now and then. It has no input and may be done again: the next slot is the retry.
pub trait Job: Send + Sync {
    /// Its name: lower-case words with `-`.
    fn name(&self) -> &'static str;

    /// Whether each sidecar does it for itself, at its own slots: what it is about lies on that sidecar's host and not in the database.
    fn is_own(&self) -> bool {
        false
    }

    /// Does it once, in bounded pieces, with [`JobContext::check`] between them.
    fn run<'a>(&'a self, cx: &'a JobContext) -> Pending<'a, Result<Outcome, JobError>>;
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rows it dealt with.
    pub rows: u64,
    /// Bytes it dealt with.
    pub bytes: u64,
    /// What it did, in a few words; of a skipped run, why.
    pub words: String,
    /// Whether there was nothing for it to do here: no table, no place, no clock to trust.
    pub skipped: bool,
}

impl Outcome {
    /// It did `words`, to that many rows.
    pub fn done(rows: u64, words: impl Into<String>) -> Self {
        Self { rows, words: words.into(), ..Self::default() }
    }

    /// It did nothing, because `reason`.
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self { words: reason.into(), skipped: true, ..Self::default() }
    }

    /// The same with bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }
}

/// Why a run did not end well.
#[derive(Debug)]
pub enum JobError {
    /// It was asked to stop and did; whoever asked knows why.
    Stopped,
    /// It failed.
    Failed(String),
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for JobError {}

impl From<StoreError> for JobError {
    fn from(e: StoreError) -> Self {
        Self::Failed(e.to_string())
    }
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What was dealt with.
    pub done: u64,
    /// How much there is, where that is known.
    pub total: Option<u64>,
    /// What is counted (`rows`).
    pub unit: &'static str,
}

/// What whoever follows a run sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It goes on.
    Running(Progress),
    /// It is over.
    Over(End),
}

/// What a run knows about itself.
pub struct JobContext {
    clock: Clock,
    stop: CancellationToken,
    deadline: Instant,
    reason: Reason,
    slot: Timestamp,
    vouched: bool,
    doubt: Option<String>,
    flow: channel::Sender<Flow>,
}

impl JobContext {
    /// Of a run that somebody asked for and no run log knows: it ends when `stop` is cancelled or after `limit`.
    pub fn alone(clock: Clock, stop: CancellationToken, limit: Duration) -> Self {
        let (slot, deadline) = (clock.now(), Instant::now() + limit);
        let (flow, _) = channel::channel(Flow::Running(Progress::default()));
        Self { clock, stop, deadline, reason: Reason::Manual, slot, vouched: false, doubt: None, flow }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What the run is for.
    pub fn slot(&self) -> Timestamp {
        self.slot
    }

    /// Whether nothing may be changed: it is asked what would be.
    pub fn dry_run(&self) -> bool {
        self.reason == Reason::DryRun
    }

    /// Whether somebody is waiting for it.
    pub fn manual(&self) -> bool {
        matches!(self.reason, Reason::Manual | Reason::DryRun)
    }

    /// Why the clock should not be believed, where it should not: a job that deletes by age deletes nothing then (T-5), and ends with
    /// [`refuse`](Self::refuse).
    pub fn clock_doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// Whether the clock is not to be doubted, for whatever reason else a job may find: somebody has said for this run that it is right, or
    /// nothing is changed by it.
    pub fn trusts_clock(&self) -> bool {
        self.vouched
    }

    /// The end of a run that did nothing because of `doubt`: who asked for it did not get what was asked for.
    pub fn refuse(&self, doubt: &str) -> Result<Outcome, JobError> {
        match self.manual() {
            true => Err(JobError::Failed(doubt.to_owned())),
            false => Ok(Outcome::skipped(doubt)),
        }
    }

    /// What is left until the timeout: the limit of every query.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether to go on; to be asked between the pieces of the work.
    pub fn check(&self) -> Result<(), JobError> {
        if self.stop.is_cancelled() { Err(JobError::Stopped) } else { Ok(()) }
    }

    /// Does nothing for a while, so that others get their turn.
    pub async fn rest(&self, span: Duration) -> Result<(), JobError> {
        match tokio::time::timeout(span, self.stop.cancelled()).await {
            Ok(()) => Err(JobError::Stopped),
            Err(_) => Ok(()),
        }
    }

    /// Says how far it is.
    pub fn progress(&self, done: u64, total: Option<u64>, unit: &'static str) {
        self.flow.send_replace(Flow::Running(Progress { done, total, unit }));
    }
}
