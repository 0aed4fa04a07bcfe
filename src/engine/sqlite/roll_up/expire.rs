//! Deleting buckets that are past their own age.
//!
//! An hour is made from its five minutes as long as they are there; so it is sealed before the first of them goes. One whose five minutes still mirror
//! rows of the table waits: those rows would be counted in the sealed hour now and merged into it again when they are deleted.

use super::spans::spans;
use super::{Buckets, Held, LOOK, failed, rows, tables};
use crate::clock::Timestamp;
use crate::engine::roll_up::State;
use crate::engine::roll_up::pace::Pace;
use crate::store::{Chore, Done, StoreError, Width};
use crate::task::Pending;

const HOUR: i64 = Width::Hour.millis();

/// Numbers of series that one transaction looks at.
const SERIES: i64 = 1_000;

/// See [`RollUps::expire`](crate::store::RollUps::expire).
pub struct Expire<'a> {
    buckets: &'a Buckets,
    width: Width,
    before: i64,
    /// Hours before it are through, or wait.
    from: i64,
    pace: Pace,
    /// The last series that was looked at for buckets.
    series: i64,
    state: Option<State>,
}

const DELETE: &str = "
    DELETE FROM sidecar_metrics_rollup WHERE (step_secs, start_ms, series) IN (
        SELECT step_secs, start_ms, series FROM sidecar_metrics_rollup
        WHERE step_secs = ?1 AND start_ms >= ?2 AND start_ms < ?3 ORDER BY start_ms LIMIT ?4)";

/// Series between two numbers without any bucket.
const FORGET: &str = "
    DELETE FROM sidecar_metrics_series WHERE id > ?1 AND id <= ?2
    AND NOT EXISTS (SELECT 1 FROM sidecar_metrics_rollup WHERE series = id)";

impl<'a> Expire<'a> {
    pub fn new(buckets: &'a Buckets, width: Width, before: Timestamp) -> Self {
        let before = Width::Hour.floor(before).millis();
        Self { buckets, width, before, from: i64::MIN, pace: Pace::default(), series: 0, state: None }
    }

    async fn step(&mut self) -> Result<Option<Done>, sqlx::Error> {
        if self.state.is_none() {
            self.state = Some(tables::state(&mut *self.buckets.database.read(LOOK).await?).await?);
        }
        loop {
            let Some(hour) = self.oldest().await? else { return self.forget().await };
            let mut held = Held::begin(&self.buckets.database).await?;
            if self.width == Width::FiveMinutes && !self.sealed(&mut held, hour).await? {
                held.tx.rollback().await?;
                self.from = hour + HOUR;
                continue;
            }
            let to = if self.width == Width::Hour { self.before } else { hour + HOUR };
            let deleted = sqlx::query(DELETE)
                .bind(self.width.seconds())
                .bind(hour)
                .bind(to)
                .bind(i64::try_from(self.pace.rows()).unwrap_or(i64::MAX))
                .execute(&mut *held.tx)
                .await?
                .rows_affected();
            let mut state = tables::state(&mut held.tx).await?;
            state.generation += 1;
            tables::remember(&mut held.tx, &state).await?;
            let held = held.commit().await?;
            self.pace.learn(deleted, held);
            return Ok(Some(Done { rows: deleted, held, ..Done::default() }));
        }
    }

    /// The hour of the oldest bucket that is to go.
    async fn oldest(&self) -> Result<Option<i64>, sqlx::Error> {
        let mut reader = self.buckets.database.read(LOOK).await?;
        let oldest: Option<i64> = sqlx::query_scalar(
            "SELECT min(start_ms) FROM sidecar_metrics_rollup WHERE step_secs = ? AND start_ms >= ? AND start_ms < ?",
        )
        .bind(self.width.seconds())
        .bind(self.from)
        .bind(self.before)
        .fetch_one(&mut *reader)
        .await?;
        Ok(oldest.map(|at| Width::Hour.floor(Timestamp::from_millis(at)).millis()))
    }

    /// Seals the hour, if its five minutes are all that there is of it.
    async fn sealed(&self, held: &mut Held, hour: i64) -> Result<bool, sqlx::Error> {
        let mirrors: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM sidecar_metrics_rollup WHERE step_secs = 300 AND start_ms >= ? AND start_ms < ? AND sealed = 0",
        )
        .bind(hour)
        .bind(hour + HOUR)
        .fetch_one(&mut *held.tx)
        .await?;
        if mirrors > 0 {
            let span = (hour, hour + HOUR);
            let offsets = self.state.as_ref().map(|state| state.offsets.clone()).unwrap_or_default();
            if rows::count(&mut held.tx, &spans(span.0, span.1, &offsets), span, 1).await? > 0 {
                return Ok(false);
            }
        }
        sqlx::query(
            "UPDATE sidecar_metrics_rollup SET sealed = 1 WHERE step_secs = 3600 AND start_ms = ? AND sealed = 0",
        )
        .bind(hour)
        .execute(&mut *held.tx)
        .await?;
        Ok(true)
    }

    /// Forgets series that have no bucket any more. Only the hours' expiry does: they are the last to go.
    async fn forget(&mut self) -> Result<Option<Done>, sqlx::Error> {
        if self.width != Width::Hour {
            return Ok(None);
        }
        let mut reader = self.buckets.database.read(LOOK).await?;
        let upto: Option<i64> = sqlx::query_scalar(
            "SELECT max(id) FROM (SELECT id FROM sidecar_metrics_series WHERE id > ? ORDER BY id LIMIT ?)",
        )
        .bind(self.series)
        .bind(SERIES)
        .fetch_one(&mut *reader)
        .await?;
        drop(reader);
        let Some(upto) = upto else { return Ok(None) };
        let mut held = Held::begin(&self.buckets.database).await?;
        sqlx::query(FORGET).bind(self.series).bind(upto).execute(&mut *held.tx).await?;
        let held = held.commit().await?;
        self.series = upto;
        Ok(Some(Done { held, ..Done::default() }))
    }
}

impl Chore for Expire<'_> {
    fn next(&mut self) -> Pending<'_, Result<Option<Done>, StoreError>> {
        Box::pin(async move { self.step().await.map_err(failed) })
    }
}
