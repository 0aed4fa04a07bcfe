//! Mirroring rows in buckets: which buckets are to be made anew, and making them.
//!
//! What came into the table since the last run has a rowid above the last one seen, whatever its time: its five minutes are made anew from all rows in
//! them. Rowids begin again when the table was emptied, and `VACUUM` deals them anew; what is missed then is counted when it is deleted at the latest,
//! so a run that finds the last rowid gone looks at the last [`LATE`] by time and goes on from there.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use sqlx::SqliteConnection;

use super::rows;
use super::spans::{OFFSETS_MOST, offset, spans};
use super::{Buckets, Held, LOOK, SCAN, failed, tables};
use crate::clock::Timestamp;
use crate::engine::roll_up::counters::Counters;
use crate::engine::roll_up::pace::Pace;
use crate::engine::roll_up::settle::Mode;
use crate::engine::roll_up::{State, apply};
use crate::engine::sqlite::times::millis;
use crate::store::{Chore, Done, StoreError, Width};
use crate::task::Pending;

/// How far back rows are looked at by their time where rowids do not tell.
pub const LATE: Duration = Duration::from_secs(2 * 3600);

/// Rows whose times are looked at in one go.
const ROWS: i64 = 50_000;

/// The most slices that are made anew in one transaction: a day of them.
const SLICES_MOST: usize = 288;

/// How often rows are read again because another sidecar wrote buckets meanwhile.
const TRIES: usize = 5;

const SLICE: i64 = Width::FiveMinutes.millis();

/// See [`RollUps::roll_up`](crate::store::RollUps::roll_up).
pub struct Mirror<'a> {
    buckets: &'a Buckets,
    since: i64,
    now: Timestamp,
    pace: Pace,
    /// Slices in one transaction.
    width: usize,
    begun: Option<Begun>,
    over: bool,
}

struct Begun {
    counters: Counters,
    offsets: BTreeSet<i64>,
    /// The last rowid of those whose slices are in `dirty`.
    upto: Option<i64>,
    seen: i64,
    dirty: VecDeque<i64>,
}

impl<'a> Mirror<'a> {
    pub fn new(buckets: &'a Buckets, since: Timestamp, now: Timestamp) -> Self {
        let since = Width::Hour.floor(since).millis();
        Self { buckets, since, now, pace: Pace::default(), width: 1, begun: None, over: false }
    }

    async fn step(&mut self) -> Result<Option<Done>, sqlx::Error> {
        if self.over {
            return Ok(None);
        }
        let mut begun = match self.begun.take() {
            Some(begun) => begun,
            None => self.begin().await?,
        };
        let done = self.step_on(&mut begun).await;
        self.begun = Some(begun);
        done
    }

    async fn step_on(&mut self, begun: &mut Begun) -> Result<Option<Done>, sqlx::Error> {
        loop {
            let range = self.range(&begun.dirty);
            if let Some((slices, from, to)) = range {
                let done = self.mirror(begun, from, to).await?;
                begun.dirty.drain(..slices);
                return Ok(Some(done));
            }
            if let Some(upto) = begun.upto {
                self.advance(upto, &begun.offsets).await?;
                begun.seen = upto;
                begun.upto = None;
            }
            if !self.look(begun).await? {
                self.finish().await?;
                self.over = true;
                return Ok(None);
            }
        }
    }

    async fn begin(&self) -> Result<Begun, sqlx::Error> {
        let (counters, state) = self.buckets.begin().await?;
        let mut begun =
            Begun { counters, offsets: state.offsets, upto: None, seen: state.seen, dirty: VecDeque::new() };
        let mut reader = self.buckets.database.read(LOOK).await?;
        let last: Option<i64> =
            sqlx::query_scalar("SELECT max(rowid) FROM system_metrics").fetch_one(&mut *reader).await?;
        let last = last.unwrap_or(0);
        if last < begun.seen {
            let (from, to) = (Width::FiveMinutes.floor(self.now.before(LATE)).millis(), self.now.millis());
            begun.dirty = (0..).map(|n| from + n * SLICE).take_while(|start| *start <= to).collect();
            begun.upto = Some(last);
        }
        Ok(begun)
    }

    /// The next slices, neighbours: how many, and their span.
    fn range(&self, dirty: &VecDeque<i64>) -> Option<(usize, i64, i64)> {
        let from = *dirty.front()?;
        let slices = dirty.iter().zip(0..).take_while(|(start, n)| **start == from + n * SLICE).count();
        let slices = slices.min(self.width);
        Some((slices, from, from + slices as i64 * SLICE))
    }

    /// Finds the slices of the next rows; false where there are no more rows.
    async fn look(&self, begun: &mut Begun) -> Result<bool, sqlx::Error> {
        let mut reader = self.buckets.database.read(SCAN).await?;
        let upto: Option<i64> = sqlx::query_scalar(
            "SELECT max(rowid) FROM (SELECT rowid FROM system_metrics WHERE rowid > ? ORDER BY rowid LIMIT ?)",
        )
        .bind(begun.seen)
        .bind(ROWS)
        .fetch_one(&mut *reader)
        .await?;
        let Some(upto) = upto else { return Ok(false) };
        begun.offsets.extend(offsets(&mut reader, begun.seen, upto).await?);
        while begun.offsets.len() > OFFSETS_MOST {
            begun.offsets.pop_last();
        }
        let slices = slices(&mut reader, begun.seen, upto).await?;
        begun.dirty = slices.range(self.since..).copied().collect();
        begun.upto = Some(upto);
        Ok(true)
    }

    async fn mirror(&mut self, begun: &Begun, from: i64, to: i64) -> Result<Done, sqlx::Error> {
        let spans = spans(from, to, &begun.offsets);
        for _ in 0..TRIES {
            let mut reader = self.buckets.database.read(SCAN).await?;
            let before = tables::state(&mut reader).await?.generation;
            let mut rows = rows::read(&mut reader, &spans, (from, to), &rows::Names::default(), None).await?;
            drop(reader);
            let mut held = Held::begin(&self.buckets.database).await?;
            let mut state = tables::state(&mut held.tx).await?;
            if state.generation != before {
                held.tx.rollback().await?;
                continue;
            }
            let mut tables = tables::Buckets(&mut held.tx);
            let applied = apply(&mut tables, &mut rows.intake, &begun.counters, Mode::Mirror).await?;
            state.generation += 1;
            tables::remember(&mut held.tx, &state).await?;
            let held = held.commit().await?;
            let done = Done {
                rows: rows.intake.rows(),
                bad_rows: rows.bad.len() as u64,
                buckets: applied.buckets,
                late_rows: 0,
                held,
            };
            self.learn(done);
            return Ok(done);
        }
        // SQLITE_BUSY by another name: whoever asks may ask again.
        Err(sqlx::Error::PoolTimedOut)
    }

    fn learn(&mut self, done: Done) {
        self.pace.learn(done.rows, done.held);
        if done.rows > self.pace.rows() {
            self.width = (self.width / 2).max(1);
        } else if done.rows * 2 < self.pace.rows() {
            self.width = (self.width * 2).min(SLICES_MOST);
        }
    }

    async fn advance(&self, upto: i64, offsets: &BTreeSet<i64>) -> Result<(), sqlx::Error> {
        self.buckets
            .change(|state: &mut State| {
                state.seen = upto;
                state.offsets.extend(offsets);
            })
            .await
    }

    async fn finish(&self) -> Result<(), sqlx::Error> {
        let reached = Width::FiveMinutes.floor(self.now).millis();
        self.buckets.change(|state| state.reach(reached)).await
    }
}

impl Chore for Mirror<'_> {
    fn next(&mut self) -> Pending<'_, Result<Option<Done>, StoreError>> {
        Box::pin(async move { self.step().await.map_err(failed) })
    }
}

/// The slices of the rows with `after < rowid <= upto`, in milliseconds.
async fn slices(reader: &mut SqliteConnection, after: i64, upto: i64) -> Result<BTreeSet<i64>, sqlx::Error> {
    const SLICES: &str = concat!(
        "SELECT DISTINCT at - ((at % 300000) + 300000) % 300000 FROM (SELECT ",
        millis!("recorded_at"),
        " AS at FROM system_metrics WHERE rowid > ? AND rowid <= ?) WHERE at IS NOT NULL"
    );
    let slices: Vec<i64> = sqlx::query_scalar(SLICES).bind(after).bind(upto).fetch_all(reader).await?;
    Ok(slices.into_iter().collect())
}

/// The offsets from UTC that those rows' times are written with.
pub async fn offsets(reader: &mut SqliteConnection, after: i64, upto: i64) -> Result<BTreeSet<i64>, sqlx::Error> {
    let ends: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT substr(rtrim(recorded_at), -6) FROM system_metrics \
         WHERE rowid > ? AND rowid <= ? AND typeof(recorded_at) = 'text' \
         AND recorded_at GLOB '*[-+][0-9][0-9]:[0-9][0-9]*' LIMIT 1000",
    )
    .bind(after)
    .bind(upto)
    .fetch_all(reader)
    .await?;
    Ok(ends.iter().filter_map(|end| offset(end)).collect())
}
