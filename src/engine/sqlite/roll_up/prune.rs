//! Moving rows into sealed buckets: the oldest row's five minutes are taken whole, over all series and all forms of time, with as many
//! neighbours as a transaction may hold, or in parts one after another where even they are too many.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::rows::{self, sound};
use super::spans::spans;
use super::{Buckets, FIRST_TEXT, Held, SCAN, failed, mirror, tables, text_behind};
use crate::clock::Timestamp;
use crate::engine::roll_up::apply;
use crate::engine::roll_up::counters::Counters;
use crate::engine::roll_up::pace::Pace;
use crate::engine::roll_up::settle::Mode;
use crate::engine::sqlite::times::millis;
use crate::store::{Chore, Done, StoreError, Width};
use crate::task::Pending;

const SLICE: i64 = Width::FiveMinutes.millis();

/// The most time of one transaction: a day.
const WIDEST: i64 = 288 * SLICE;

/// The narrowest part of a slice: what comes within less is taken at once.
const NARROWEST: i64 = 50;

/// Before any time that can be read, the first of January of the year 0.
const NEVER: i64 = -62_167_219_200_000;

/// Rows that SQL took for sound and Rust cannot read (JSON that is nested too deep, text that is no UTF-8), which a run steps over before it gives up.
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
    offsets: BTreeSet<i64>,
    limit: i64,
    walk: Walk,
    /// What is left of a slice that was too large for one transaction.
    rest: Option<Rest>,
    bad: Vec<i64>,
}

#[derive(Clone, Copy)]
struct Rest {
    from: i64,
    to: i64,
    found: Found,
}

/// The row that a walk has come to.
#[derive(Clone, Copy)]
struct Found {
    rowid: i64,
    at: i64,
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
        let mut offsets = state.offsets;
        let mut reader = self.buckets.database.read(SCAN).await?;
        offsets.extend(mirror::offsets(&mut reader, state.seen, i64::MAX).await?);
        drop(reader);
        // What has not been rolled up is not pruned.
        let limit = state.watermark.map_or(NEVER, |watermark| self.before.min(watermark));
        let limit = Width::Hour.floor(Timestamp::from_millis(limit)).millis();
        Ok(Begun { counters, offsets, limit, walk: Walk::new(limit), rest: None, bad: Vec::new() })
    }

    async fn step_on(&mut self, begun: &mut Begun) -> Result<Option<Done>, sqlx::Error> {
        let (from, to, found, part) = match begun.rest {
            Some(rest) => (rest.from, rest.to, rest.found, true),
            None => {
                let mut reader = self.buckets.database.read(SCAN).await?;
                let Some(found) = begun.walk.next(&mut reader, begun.limit, &begun.bad).await? else {
                    return Ok(None);
                };
                let from = Width::FiveMinutes.floor(Timestamp::from_millis(found.at)).millis();
                // Up to the next multiple of the width, so that transactions end with the hour where they can.
                let to = (from - from.rem_euclid(self.width) + self.width).min(begun.limit);
                (from, to, found, false)
            }
        };
        let (to, whole) = self.fitting(begun, from, to).await?;
        let part = part || !whole;
        let done = self.take(begun, (from, to), found, part).await?;
        begun.rest = match begun.rest {
            Some(rest) if to < rest.to => Some(Rest { from: to, ..rest }),
            None if !whole => Some(Rest { from: to, to: from + SLICE, found }),
            Some(_) | None => None,
        };
        // Behind the span that is through; rows of it that stayed are not come back to.
        if begun.rest.is_none() {
            begun.walk.done = (Width::FiveMinutes.floor(Timestamp::from_millis(from)).millis(), to);
        }
        Ok(Some(done))
    }

    /// A span from `from` to at most `to` with no more rows than a transaction may take; false if it is less than a slice.
    async fn fitting(&mut self, begun: &Begun, from: i64, mut to: i64) -> Result<(i64, bool), sqlx::Error> {
        let most = self.pace.rows();
        loop {
            let spans = spans(from, to, &begun.offsets);
            let mut reader = self.buckets.database.read(SCAN).await?;
            let count = rows::count(&mut reader, &spans, (from, to), most + 1).await?;
            let width = to - from;
            if count > most && width > SLICE {
                self.width = (self.width / 2 / SLICE).max(1) * SLICE;
                to = from + (width / 2 / SLICE).max(1) * SLICE;
            } else if count > most && width > NARROWEST {
                to = from + width / 2;
            } else {
                if count * 2 < most {
                    self.width = (self.width * 2).min(WIDEST);
                }
                return Ok((to, width >= SLICE));
            }
        }
    }

    /// Moves the rows of the span in one transaction.
    async fn take(
        &mut self,
        begun: &mut Begun,
        (from, to): (i64, i64),
        found: Found,
        part: bool,
    ) -> Result<Done, sqlx::Error> {
        let spans = spans(from, to, &begun.offsets);
        // Its form may be one that the spans do not find.
        let and = (from..to).contains(&found.at).then_some(found.rowid);
        let mut bad_rows = 0;
        loop {
            let mut held = Held::begin(&self.buckets.database).await?;
            let mut rows = rows::take(&mut held.tx, &spans, (from, to), and, &begun.bad).await?;
            if !rows.bad.is_empty() {
                held.tx.rollback().await?;
                bad_rows += rows.bad.len() as u64;
                begun.bad.append(&mut rows.bad);
                if begun.bad.len() > BAD_MOST {
                    return Err(sqlx::Error::Configuration(
                        "too many rows of `system_metrics` have tags or names that cannot be read".into(),
                    ));
                }
                continue;
            }
            let mut tables = tables::Buckets(&mut held.tx);
            let applied = apply(&mut tables, &mut rows.intake, &begun.counters, Mode::Seal).await?;
            let mut state = tables::state(&mut held.tx).await?;
            state.generation += 1;
            tables::remember(&mut held.tx, &state).await?;
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

/// Goes through the index, so that it comes by every row that is left, whatever its form.
struct Walk {
    /// What is left of each sort of times: seconds, milliseconds, texts.
    lanes: Vec<(Place, Place)>,
    /// The span that was last worked on.
    done: (i64, i64),
}

/// A place in the index.
#[derive(Clone, Debug)]
enum Place {
    Number(f64),
    Text(String),
}

/// The first row in `?1 <= recorded_at < ?2` before `?3` that is not in the span from `?4` to `?5` and none of `?6`.
const NEXT: &str = concat!(
    "SELECT rowid, ",
    millis!("recorded_at"),
    " AS at, recorded_at FROM system_metrics WHERE recorded_at >= ?1 AND recorded_at < ?2 AND at < ?3 \
     AND NOT (at >= ?4 AND at < ?5) AND ",
    sound!(),
    " AND rowid NOT IN (SELECT value FROM json_each(?6)) ORDER BY recorded_at LIMIT 1"
);

impl Walk {
    fn new(limit: i64) -> Self {
        let text = (Place::Text(FIRST_TEXT.to_owned()), Place::Text(text_behind(limit)));
        let number = |from: f64, to: f64| (Place::Number(from), Place::Number(to));
        // The ranges of `times.rs`; the last is worked on first.
        Self { lanes: vec![text, number(1e11, limit as f64), number(1e8, limit as f64 / 1000.0)], done: (0, 0) }
    }

    async fn next(
        &mut self,
        reader: &mut SqliteConnection,
        limit: i64,
        bad: &[i64],
    ) -> Result<Option<Found>, sqlx::Error> {
        while let Some((from, to)) = self.lanes.last_mut() {
            let query = match &*from {
                Place::Number(from) => sqlx::query(NEXT).bind(*from),
                Place::Text(from) => sqlx::query(NEXT).bind(from.clone()),
            };
            let query = match &*to {
                Place::Number(to) => query.bind(*to),
                Place::Text(to) => query.bind(to.clone()),
            };
            let row: Option<SqliteRow> = query
                .bind(limit)
                .bind(self.done.0)
                .bind(self.done.1)
                .bind(Value::from(bad).to_string())
                .fetch_optional(&mut *reader)
                .await?;
            let Some(row) = row else {
                self.lanes.pop();
                continue;
            };
            *from = match &*from {
                Place::Number(_) => Place::Number(row.try_get_unchecked(2)?),
                Place::Text(_) => Place::Text(row.try_get_unchecked(2)?),
            };
            return Ok(Some(Found { rowid: row.try_get(0)?, at: row.try_get(1)? }));
        }
        Ok(None)
    }
}
