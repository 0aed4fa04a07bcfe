//! Moving rows into sealed buckets: the oldest row's five minutes are taken whole, over all series and all forms of time, with as many
//! neighbours as a transaction may hold, or some names at a time where even they are too many.

use std::collections::{BTreeSet, VecDeque};

use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::rows::{self, Names, sound};
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
    /// What is left of a span that was too large for one transaction.
    parts: VecDeque<Part>,
    bad: BTreeSet<i64>,
}

/// What one transaction takes, if it is not too much.
#[derive(Clone, Debug)]
struct Part {
    from: i64,
    to: i64,
    names: Names,
    /// How many rows it has, where that is known.
    rows: Option<u64>,
    /// The row that led here, whose form may be one that no span finds.
    found: Found,
}

/// The row that a walk has come to.
#[derive(Clone, Copy, Debug)]
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
        let (walk, parts) = (Walk::new(limit), VecDeque::new());
        Ok(Begun { counters, offsets, limit, walk, parts, bad: BTreeSet::new() })
    }

    async fn step_on(&mut self, begun: &mut Begun) -> Result<Option<Done>, sqlx::Error> {
        loop {
            let mut reader = self.buckets.database.read(SCAN).await?;
            if begun.parts.is_empty() {
                let Some(found) = begun.walk.next(&mut reader, begun.limit, &begun.bad).await? else {
                    return Ok(None);
                };
                let from = Width::FiveMinutes.floor(Timestamp::from_millis(found.at)).millis();
                let to = self.end_of(from).min(begun.limit);
                begun.parts.push_back(Part { from, to, names: Names::default(), rows: None, found });
            }
            let Some(part) = begun.parts.front().cloned() else { continue };
            let rows = match part.rows {
                Some(rows) => rows,
                None => {
                    let spans = spans(part.from, part.to, &begun.offsets);
                    rows::about(&mut reader, &spans, self.pace.rows() + 1).await?
                }
            };
            if rows > self.pace.rows() {
                let smaller = self.smaller(&mut reader, &part, &begun.offsets).await?;
                if !smaller.is_empty() {
                    begun.parts.pop_front();
                    smaller.into_iter().rev().for_each(|part| begun.parts.push_front(part));
                    continue;
                }
            } else if part.to - part.from >= self.width {
                self.widen(rows);
            }
            drop(reader);
            let done = self.take(begun, &part).await?;
            begun.parts.pop_front();
            // Rows of it that stayed are not come back to.
            let slice = Width::FiveMinutes.floor(Timestamp::from_millis(part.from)).millis();
            begun.walk.done = (slice, part.to.max(slice + SLICE));
            return Ok(Some(done));
        }
    }

    /// Where a span from `from` on ends: with the hour where it can, so that an hour is in few transactions.
    fn end_of(&self, from: i64) -> i64 {
        let (hour, to) = (Width::Hour.millis(), from + self.width);
        let end = to - to.rem_euclid(hour);
        if end > from { end } else { to }
    }

    /// As wide as the pace allows after a span that had so many rows, but twice as wide at most.
    fn widen(&mut self, rows: u64) {
        let times = (self.pace.rows() as f64 / rows.max(1) as f64).clamp(1.0, 2.0);
        self.width = ((self.width as f64 * times) as i64 / SLICE * SLICE).min(WIDEST);
    }

    /// `part` in smaller ones: fewer slices (what is cut off is come back to), then some names each, so that every bucket is written once; only a
    /// name that is too much by itself is cut by time. Nothing where it cannot be smaller.
    async fn smaller(
        &mut self,
        reader: &mut SqliteConnection,
        part: &Part,
        offsets: &BTreeSet<i64>,
    ) -> Result<Vec<Part>, sqlx::Error> {
        let width = part.to - part.from;
        if width > SLICE {
            self.width = (width / 2 / SLICE).max(1) * SLICE;
            return Ok(vec![Part { to: part.from + (width / 2 / SLICE).max(1) * SLICE, ..part.clone() }]);
        }
        if part.rows.is_none() {
            let spans = spans(part.from, part.to, offsets);
            let names = rows::names(reader, &spans, self.pace.rows()).await?;
            let of = |(names, rows)| Part { names, rows: Some(rows), ..part.clone() };
            return Ok(names.into_iter().map(of).collect());
        }
        if width <= NARROWEST {
            return Ok(Vec::new());
        }
        let (middle, rows) = (part.from + width / 2, part.rows.map(|rows| rows / 2));
        Ok(vec![Part { to: middle, rows, ..part.clone() }, Part { from: middle, rows, ..part.clone() }])
    }

    /// Moves the rows of a part in one transaction.
    async fn take(&mut self, begun: &mut Begun, part: &Part) -> Result<Done, sqlx::Error> {
        let span = (part.from, part.to);
        let spans = spans(part.from, part.to, &begun.offsets);
        let and = (part.from..part.to).contains(&part.found.at).then_some(part.found.rowid);
        let mut held = Held::begin(&self.buckets.database).await?;
        // Nobody writes until the commit: what is read here is what is deleted.
        let mut rows = rows::read(&mut held.tx, &spans, span, &part.names, and).await?;
        let known = begun.bad.len();
        begun.bad.extend(rows::sound_in_sql(&mut held.tx, &rows.bad).await?);
        if begun.bad.len() > BAD_MOST {
            return Err(sqlx::Error::Configuration(
                "too many rows of `system_metrics` have tags or names that cannot be read".into(),
            ));
        }
        rows::delete(&mut held.tx, &mut rows.rowids).await?;
        let mut tables = tables::Buckets(&mut held.tx);
        let applied = apply(&mut tables, &mut rows.intake, &begun.counters, Mode::Seal).await?;
        let mut state = tables::state(&mut held.tx).await?;
        state.generation += 1;
        tables::remember(&mut held.tx, &state).await?;
        let held = held.commit().await?;
        self.pace.learn(rows.intake.rows(), held);
        // Of a name that is cut by time, the later parts are merged into what the first has just sealed: not late.
        let late_rows = if part.to - part.from < SLICE { 0 } else { applied.late_rows };
        let bad_rows = (begun.bad.len() - known) as u64;
        Ok(Done { rows: rows.intake.rows(), late_rows, bad_rows, buckets: applied.buckets, held })
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
        bad: &BTreeSet<i64>,
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
                .bind(Value::from_iter(bad.iter().copied()).to_string())
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
