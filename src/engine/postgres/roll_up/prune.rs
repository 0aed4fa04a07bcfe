//! Moving rows into sealed buckets, from the oldest on: spans of time one after another, each as long as a transaction may hold.

use super::{Buckets, Held, SCAN, failed, rows, tables};
use crate::clock::Timestamp;
use crate::engine::roll_up::apply;
use crate::engine::roll_up::counters::Counters;
use crate::engine::roll_up::pace::Pace;
use crate::engine::roll_up::settle::Mode;
use crate::store::{Chore, Done, StoreError, Width};
use crate::task::Pending;

const SLICE: i64 = Width::FiveMinutes.millis();

/// The most time of one transaction: a day.
const WIDEST: i64 = 288 * SLICE;

/// The narrowest part of a slice: what comes within less is taken at once.
const NARROWEST: i64 = 50;

/// The most rows of one transaction: a slice with fewer is never cut, so that each bucket is written once. Nobody waits for us here as SQLite's
/// writers do.
const SLICE_MOST: u64 = 20_000;

/// Rows whose tags cannot be read that a run steps over before it gives up.
const BAD_MOST: usize = 10_000;

/// See [`RollUps::prune`](crate::store::RollUps::prune).
pub struct Prune<'a> {
    buckets: &'a Buckets,
    before: i64,
    pace: Pace,
    width: i64,
    begun: Option<Begun>,
}

struct Begun {
    counters: Counters,
    from: i64,
    limit: i64,
    bad: Vec<String>,
}

impl<'a> Prune<'a> {
    pub fn new(buckets: &'a Buckets, before: Timestamp) -> Self {
        // Hours are the coarsest buckets.
        let before = Width::Hour.floor(before).millis();
        Self { buckets, before, pace: Pace::default(), width: 12 * SLICE, begun: None }
    }

    async fn step(&mut self) -> Result<Option<Done>, sqlx::Error> {
        let mut begun = match self.begun.take() {
            Some(begun) => begun,
            None => self.begin().await?,
        };
        let done = self.step_on(&mut begun).await;
        self.begun = Some(begun);
        done
    }

    async fn begin(&self) -> Result<Begun, sqlx::Error> {
        let (counters, state) = self.buckets.begin().await?;
        // What has not been rolled up is not pruned.
        let limit = state.watermark.map_or(tables::NEVER, |watermark| self.before.min(watermark));
        let limit = Width::Hour.floor(Timestamp::from_millis(limit)).millis();
        Ok(Begun { counters, from: tables::NEVER, limit, bad: Vec::new() })
    }

    async fn step_on(&mut self, begun: &mut Begun) -> Result<Option<Done>, sqlx::Error> {
        let mut reader = self.buckets.database.read(SCAN).await?;
        let Some(first) = rows::first(&mut reader, (begun.from, begun.limit)).await? else { return Ok(None) };
        drop(reader);
        // Within a slice that is taken in parts, where the last part ended.
        let from = Width::FiveMinutes.floor(Timestamp::from_millis(first)).millis().max(begun.from);
        let part = from.rem_euclid(SLICE) != 0;
        let end = match part {
            true => from - from.rem_euclid(SLICE) + SLICE,
            false => (from - from.rem_euclid(self.width) + self.width).min(begun.limit),
        };
        let to = self.fitting(from, end).await?;
        let done = self.take(begun, (from, to), part).await?;
        begun.from = to;
        Ok(Some(done))
    }

    /// Until when, at most `to`, there are no more rows than a transaction may take.
    async fn fitting(&mut self, from: i64, mut to: i64) -> Result<i64, sqlx::Error> {
        let most = self.pace.rows();
        loop {
            let mut reader = self.buckets.database.read(SCAN).await?;
            let count = rows::count(&mut reader, (from, to), SLICE_MOST + 1).await?;
            let width = to - from;
            if count > most && width > SLICE {
                self.width = (self.width / 2 / SLICE).max(1) * SLICE;
                to = from + (width / 2 / SLICE).max(1) * SLICE;
            } else if count > SLICE_MOST && width > NARROWEST {
                to = from + width / 2;
            } else {
                if count * 2 < most {
                    self.width = (self.width * 2).min(WIDEST);
                }
                return Ok(to);
            }
        }
    }

    /// Moves the rows of the span in one transaction.
    async fn take(&mut self, begun: &mut Begun, span: (i64, i64), part: bool) -> Result<Done, sqlx::Error> {
        let mut bad_rows = 0;
        loop {
            let mut held = Held::begin(&self.buckets.database).await?;
            let mut rows = rows::take(&mut held.tx, span, &begun.bad).await?;
            if !rows.bad.is_empty() {
                held.tx.rollback().await?;
                bad_rows += rows.bad.len() as u64;
                begun.bad.append(&mut rows.bad);
                if begun.bad.len() > BAD_MOST {
                    return Err(sqlx::Error::Configuration(
                        "too many rows of `system_metrics` have tags that cannot be read".into(),
                    ));
                }
                continue;
            }
            let mut tables = tables::Buckets(&mut held.tx);
            let applied = apply(&mut tables, &mut rows.intake, &begun.counters, Mode::Seal).await?;
            let held = held.commit().await?;
            self.pace.learn(rows.intake.rows(), held);
            // The later parts of a slice are merged into what the first has just sealed: not late.
            let late_rows = if part { 0 } else { applied.late_rows };
            return Ok(Done { rows: rows.intake.rows(), late_rows, bad_rows, buckets: applied.buckets, held });
        }
    }
}

impl Chore for Prune<'_> {
    fn next(&mut self) -> Pending<'_, Result<Option<Done>, StoreError>> {
        Box::pin(async move { self.step().await.map_err(failed) })
    }
}
