//! Chores that make room: how long they pause after a batch follows from how the server and its standbys are doing.
//!
//! Each batch is a transaction of its own, and whoever drives a chore rests for as long as the batch took. That gives room to those who wait for us, and
//! none to those who merely have too much to do: a standby that replays our deletes more slowly than we make them, or sessions that
//! queue for the disk. So after a batch that wrote something the server is asked, and as long as
//!
//! - a standby (or whoever else reads the write-ahead log) has more than 16 MiB (`MOST_BEHIND`) of it before it, or
//! - four sessions (`MANY_WAIT`) of the database or more wait for a lock, for the disk or for each other,
//!
//! the chore pauses, but never for longer than two seconds (`LONGEST`): a standby that was switched off and never forgotten must not stop retention, or the disk of
//! the primary is what fills. At the bound a chore still moves some thousand rows a second.
//!
//! The server shows both to members of `pg_monitor` (or `pg_read_all_stats`) only; to others it shows what sessions of their own role do, and standbys
//! without their places. What is not shown keeps nothing waiting.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, Registry};

use super::Database;
use super::session::within;
use crate::clock::Timestamp;
use crate::engine::expiry::{Failure, Steps};
use crate::sample::{Desc, Kind};
use crate::store::{Chore, Done, Expired, Kept, Progress, RollUps, Rule, Step, StoreError, Width};
use crate::task::Pending;
use crate::telemetry;

/// Bytes of write-ahead log: a segment of the default size. A standby that keeps up has a fraction of it in flight.
const MOST_BEHIND: f64 = (16 << 20) as f64;

/// Fewer wait for a moment on any server that is used.
const MANY_WAIT: i64 = 4;

/// The longest pause after one batch.
const LONGEST: Duration = Duration::from_secs(2);

/// How often is looked while it lasts; and, where all is well, how old a look may be.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a look may take. Where it takes longer, nobody knows.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

const PAUSED: Desc = Desc {
    name: "atlas_sidecar_database_pauses_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Batches of jobs after which they paused, for two seconds at most, for the server's sake: `standby` (one is more than 16 MiB of write-ahead log behind), `waiting` (four sessions or more wait). Where it grows all day, see what keeps the standby, or who waits for whom.",
};

/// What this module measures.
pub const METRICS: &[&Desc] = &[&PAUSED];

/// Whoever reads the log and applies nothing (a backup) is as far as it has stored. A standby that is only being made has no place yet.
const PRESSURE: &str = "\
    SELECT coalesce((SELECT max(CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn() - coalesce(replay_lsn, flush_lsn) END) FROM pg_stat_replication), 0)::float8, \
        (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
            AND backend_type = 'client backend' AND wait_event_type IN ('Lock', 'LWLock', 'IO', 'BufferPin'))";

/// Whether there is a reason to pause.
#[derive(Clone)]
pub struct Pressure {
    database: Database,
    paused: IntCounterVec,
    /// When all was well.
    well: Arc<Mutex<Option<Instant>>>,
}

impl Pressure {
    /// That on the server of `database`.
    pub fn new(database: Database, own: &Own) -> Self {
        Self { database, paused: own.0.clone(), well: Arc::default() }
    }

    /// Pauses as long as there is a reason to, and no longer than `LONGEST`.
    pub async fn ease(&self) {
        let begin = Instant::now();
        let Some(reason) = self.look().await else { return };
        self.paused.with_label_values(&[reason]).inc();
        while begin.elapsed() < LONGEST {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.look().await.is_none() {
                return;
            }
        }
    }

    async fn look(&self) -> Option<&'static str> {
        let last = *self.well.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return None;
        }
        let asked = within(LOOK_LIMIT, async {
            let mut reader = self.database.read(LOOK_LIMIT).await?;
            sqlx::query_as::<_, (f64, i64)>(PRESSURE).fetch_one(&mut *reader).await
        });
        let (behind, waiting) = asked.await.flatten().unwrap_or_default();
        let reason = reason(behind, waiting);
        *self.well.lock().unwrap_or_else(PoisonError::into_inner) = reason.is_none().then(Instant::now);
        reason
    }
}

fn reason(behind: f64, waiting: i64) -> Option<&'static str> {
    match () {
        () if behind > MOST_BEHIND => Some("standby"),
        () if waiting >= MANY_WAIT => Some("waiting"),
        () => None,
    }
}

/// `chores` of which each pauses after a batch for as long as the server has enough to do.
pub struct Considerate<C> {
    chores: C,
    pressure: Pressure,
}

impl<C> Considerate<C> {
    /// `chores`, with a look at `pressure` between batches.
    pub fn new(chores: C, pressure: Pressure) -> Self {
        Self { chores, pressure }
    }
}

impl<C: Steps> Steps for Considerate<C> {
    fn step<'a>(&'a self, rule: &'a Rule, now: Timestamp, step: Step) -> Pending<'a, Result<Expired, Failure>> {
        Box::pin(async move {
            let expired = self.chores.step(rule, now, step).await?;
            if !expired.held.is_zero() {
                self.pressure.ease().await;
            }
            Ok(expired)
        })
    }
}

impl<C: RollUps> RollUps for Considerate<C> {
    fn progress(&self, now: Timestamp) -> Pending<'_, Result<Option<Progress>, StoreError>> {
        self.chores.progress(now)
    }

    fn roll_up(&self, since: Timestamp, now: Timestamp) -> Box<dyn Chore + '_> {
        self.eased(self.chores.roll_up(since, now))
    }

    fn prune(&self, before: Timestamp) -> Box<dyn Chore + '_> {
        self.eased(self.chores.prune(before))
    }

    fn expire(&self, width: Width, before: Timestamp) -> Box<dyn Chore + '_> {
        self.eased(self.chores.expire(width, before))
    }

    fn due(&self, before: Timestamp) -> Pending<'_, Result<u64, StoreError>> {
        self.chores.due(before)
    }

    fn kept(&self, before: Timestamp) -> Pending<'_, Result<Kept, StoreError>> {
        self.chores.kept(before)
    }
}

impl<C> Considerate<C> {
    fn eased<'a>(&'a self, chore: Box<dyn Chore + 'a>) -> Box<dyn Chore + 'a> {
        Box::new(Eased { chore, pressure: &self.pressure })
    }
}

/// A chore with its pauses.
struct Eased<'a> {
    chore: Box<dyn Chore + 'a>,
    pressure: &'a Pressure,
}

impl Chore for Eased<'_> {
    fn next(&mut self) -> Pending<'_, Result<Option<Done>, StoreError>> {
        Box::pin(async move {
            let done = self.chore.next().await?;
            if done.is_some_and(|done| done.rows > 0 && !done.held.is_zero()) {
                self.pressure.ease().await;
            }
            Ok(done)
        })
    }
}

/// This module's own metrics.
#[derive(Clone)]
pub struct Own(IntCounterVec);

impl Own {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self(telemetry::counters(registry, &PAUSED, &["reason"]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_lag_and_a_few_who_wait_are_no_reason() {
        assert_eq!(reason(0.0, 0), None);
        assert_eq!(reason(MOST_BEHIND, MANY_WAIT - 1), None);
        assert_eq!(reason(MOST_BEHIND + 1.0, 0), Some("standby"));
        assert_eq!(reason(0.0, MANY_WAIT), Some("waiting"));
    }
}
