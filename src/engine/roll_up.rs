//! Roll-ups, as far as they are the same on every engine: the arithmetic, and what is decided inside a transaction.
//!
//! # What keeps a row from being lost, or counted twice
//!
//! The rows that leave `system_metrics` are the rows that are counted, in the same transaction ([`settle`]): on PostgreSQL those that
//! `DELETE … RETURNING` yields; on SQLite, where nobody else writes between `BEGIN IMMEDIATE` and the commit, those that were read in it, deleted by
//! their rowids, and the transaction is rolled back unless it is exactly as many. So a foreign row that is committed late, that carries a time of last year or shares its id with another
//! is counted when it goes, whatever was seen of the table before. Watermarks, rowids and times of last runs are progress: they
//! decide what is looked at next, never what is counted.
//!
//! A crash leaves either the transaction or nothing. Between two transactions of one bucket (a slice that is too large for one) the
//! bucket is sealed already and the rest of its rows is still in the table; the next transaction merges them.
//!
//! # Rows that stay
//!
//! A row whose time, value, name or tags cannot be read is in no bucket, and therefore never deleted: `atlas_sidecar_retention_kept_rows` counts
//! those past their age by reason, and whoever put them there can tell what they are worth.

pub mod bucket;
pub mod counters;
pub mod intake;
pub mod pace;
pub mod settle;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;

use serde::{Deserialize, Serialize};

use self::bucket::Bucket;
use self::counters::Counters;
use self::intake::{Intake, Series};
use self::settle::{Held, Key, Level, Mode, five_minutes, hours, hours_of, numbered};
use crate::store::Width;

/// The key of [`State`] in `sidecar_state`.
pub const STATE_KEY: &str = "roll_up";

/// What is remembered between runs, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Counts transactions, so that one who has read rows outside of one knows whether somebody was faster.
    pub generation: u64,
    /// SQLite: the last rowid whose bucket was mirrored.
    pub seen: i64,
    /// [`Progress::watermark`](crate::store::Progress::watermark), in milliseconds.
    pub watermark: Option<i64>,
    /// SQLite: offsets from UTC, in minutes, that times were seen to be written with.
    pub offsets: BTreeSet<i64>,
}

impl State {
    /// Sets the watermark, which moves back only from a place that a wrong clock had set it to.
    pub fn reach(&mut self, reached: i64) {
        const DAY: i64 = 86_400_000;
        self.watermark = Some(match self.watermark {
            Some(before) if before <= reached + DAY => before.max(reached),
            Some(_) | None => reached,
        });
    }
}

/// The tables of the roll-ups inside one transaction.
pub trait Tables {
    /// The numbers of `series`, in their order; new ones are made.
    fn ids(&mut self, series: &[Series]) -> impl Future<Output = Result<Vec<i64>, sqlx::Error>> + Send;

    /// The buckets of `step` with `from <= start < to`, by time.
    fn held(
        &mut self,
        width: Width,
        from: i64,
        to: i64,
    ) -> impl Future<Output = Result<Vec<(Key, Held)>, sqlx::Error>> + Send;

    /// Whether one of the hours with `from <= start < to` is sealed.
    fn sealed_hours(&mut self, from: i64, to: i64) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Writes what was decided, and then the growth between these buckets and their neighbours: their own `increase`, and that of the next one.
    fn write(&mut self, width: Width, level: &Level) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// What [`apply`] came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Applied {
    /// Buckets written.
    pub buckets: u64,
    /// Rows merged into sealed ones.
    pub late_rows: u64,
}

/// Brings the rows of `intake`, all rows of their span, into the buckets.
pub async fn apply(
    tables: &mut impl Tables,
    intake: &mut Intake,
    counters: &Counters,
    mode: Mode,
) -> Result<Applied, sqlx::Error> {
    let fresh = intake.fold(counters);
    let ids = tables.ids(intake.series()).await?;
    let fresh: Vec<(Key, Bucket)> = numbered(&fresh, &ids);
    let Some((from, to)) = span_of(&fresh) else { return Ok(Applied::default()) };
    let held: HashMap<Key, Held> = tables.held(Width::FiveMinutes, from, to).await?.into_iter().collect();
    let level = five_minutes(&fresh, &held, mode);
    tables.write(Width::FiveMinutes, &level).await?;
    let by_hour = by_the_hour(tables, &fresh, &level, mode).await?;
    Ok(Applied { buckets: (level.writes.len() + by_hour) as u64, late_rows: level.late_rows })
}

fn span_of(fresh: &[(Key, Bucket)]) -> Option<(i64, i64)> {
    let first = fresh.iter().map(|(key, _)| key.start).min()?;
    let last = fresh.iter().map(|(key, _)| key.start).max()?;
    Some((first, last + Width::FiveMinutes.millis()))
}

async fn by_the_hour(
    tables: &mut impl Tables,
    fresh: &[(Key, Bucket)],
    level: &Level,
    mode: Mode,
) -> Result<usize, sqlx::Error> {
    let Some((from, to)) = hours_of(fresh) else { return Ok(0) };
    // The usual end of a row: its bucket is there and counts it.
    if level.writes.is_empty() && !tables.sealed_hours(from, to).await? {
        return Ok(0);
    }
    let held: HashMap<Key, Held> = tables.held(Width::Hour, from, to).await?.into_iter().collect();
    let parts = tables.held(Width::FiveMinutes, from, to).await?;
    let level = hours(fresh, &level.writes, &parts, &held, mode);
    tables.write(Width::Hour, &level).await?;
    Ok(level.writes.len())
}
