//! Mirroring rows in buckets, from [`LATE`] before the watermark on.

use super::{Buckets, Held, LATE, SCAN, failed, rows, tables};
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

/// See [`RollUps::roll_up`](crate::store::RollUps::roll_up).
pub struct Mirror<'a> {
    buckets: &'a Buckets,
    since: i64,
    /// All rows before it, which is ahead of the clock by less than a slice: the last bucket is one that still grows.
    to: i64,
    pace: Pace,
    width: i64,
    begun: Option<(Counters, i64)>,
}

impl<'a> Mirror<'a> {
    pub fn new(buckets: &'a Buckets, since: Timestamp, now: Timestamp) -> Self {
        let since = Width::Hour.floor(since).millis();
        let to = Width::FiveMinutes.floor(now).millis() + SLICE;
        Self { buckets, since, to, pace: Pace::default(), width: SLICE, begun: None }
    }

    async fn step(&mut self) -> Result<Option<Done>, sqlx::Error> {
        let (counters, from) = match self.begun.take() {
            Some(begun) => begun,
            None => self.begin().await?,
        };
        let done = self.step_from(&counters, from).await;
        let next = match &done {
            Ok(Some((_, next))) => *next,
            Ok(None) | Err(_) => from,
        };
        self.begun = Some((counters, next));
        Ok(done?.map(|(done, _)| done))
    }

    async fn begin(&self) -> Result<(Counters, i64), sqlx::Error> {
        let (counters, state) = self.buckets.begin().await?;
        let from = state.watermark.map_or(tables::NEVER, |at| Timestamp::from_millis(at).before(LATE).millis());
        Ok((counters, Width::FiveMinutes.floor(Timestamp::from_millis(from.max(self.since))).millis()))
    }

    async fn step_from(&mut self, counters: &Counters, from: i64) -> Result<Option<(Done, i64)>, sqlx::Error> {
        if from >= self.to {
            return Ok(None);
        }
        let mut reader = self.buckets.database.read(SCAN).await?;
        let first = rows::first(&mut reader, (from, self.to)).await?;
        drop(reader);
        let Some(first) = first else {
            // Nothing more: the watermark goes on all the same.
            let held = self.reach(self.to).await?;
            return Ok(Some((Done { held, ..Done::default() }, self.to)));
        };
        let from = Width::FiveMinutes.floor(Timestamp::from_millis(first)).millis();
        let to = (from - from.rem_euclid(self.width) + self.width).min(self.to);
        let mut held = Held::begin(&self.buckets.database).await?;
        let mut rows = rows::read(&mut held.tx, (from, to)).await?;
        let mut tables = tables::Buckets(&mut held.tx);
        let applied = apply(&mut tables, &mut rows.intake, counters, Mode::Mirror).await?;
        self.note(&mut held, to).await?;
        let held = held.commit().await?;
        let done = Done {
            rows: rows.intake.rows(),
            bad_rows: rows.bad.len() as u64,
            buckets: applied.buckets,
            late_rows: 0,
            held,
        };
        self.learn(done);
        Ok(Some((done, to)))
    }

    fn learn(&mut self, done: Done) {
        self.pace.learn(done.rows, done.held);
        if done.rows > self.pace.rows() {
            self.width = (self.width / 2 / SLICE).max(1) * SLICE;
        } else if done.rows * 2 < self.pace.rows() {
            self.width = (self.width * 2).min(WIDEST);
        }
    }

    async fn reach(&self, to: i64) -> Result<std::time::Duration, sqlx::Error> {
        let mut held = Held::begin(&self.buckets.database).await?;
        self.note(&mut held, to).await?;
        held.commit().await
    }

    /// The slice that still grows is not counted among those that are through.
    async fn note(&self, held: &mut Held, to: i64) -> Result<(), sqlx::Error> {
        let mut state = tables::state(&mut held.tx).await?;
        state.reach(to.min(self.to - SLICE));
        tables::remember(&mut held.tx, &state).await
    }
}

impl Chore for Mirror<'_> {
    fn next(&mut self) -> Pending<'_, Result<Option<Done>, StoreError>> {
        Box::pin(async move { self.step().await.map_err(failed) })
    }
}
