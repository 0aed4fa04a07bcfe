//! The rows of `system_metrics` that a span of time holds: read, or deleted.

use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, TypeInfo as _, ValueRef as _};

use crate::clock::Timestamp;
use crate::engine::roll_up::intake::Intake;
use crate::engine::sqlite::times::{self, Raw, millis};

/// Whether a row has a finite value, a name that is text, and tags that are an object (V-3, V-4, V-7, V-11). One that has not is in no bucket.
macro_rules! sound {
    () => {
        concat!("(", sound!(value), " AND ", sound!(labels), ")")
    };
    (value) => {
        "(typeof(metric_value) IN ('integer', 'real') \
          AND metric_value BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308)"
    };
    (labels) => {
        "(typeof(metric_name) = 'text' AND CASE typeof(tags) WHEN 'null' THEN 1 \
          WHEN 'text' THEN CASE WHEN octet_length(tags) <= 65536 AND json_valid(tags) THEN ltrim(tags, char(9, 10, 13, 32)) GLOB '{*' ELSE 0 END \
          ELSE 0 END)"
    };
}
pub(super) use sound;

/// The rowids of all rows with `?2 <= time < ?3`, found by `?1` (see `spans.rs`).
macro_rules! in_span {
    // Some more: what lies in the spans of the index, without reading a time.
    (about) => {
        "SELECT m.rowid FROM (SELECT value ->> 0 AS low, value ->> 1 AS high FROM json_each(?1)) span \
         CROSS JOIN system_metrics m WHERE m.recorded_at >= span.low AND m.recorded_at < span.high"
    };
    () => {
        concat!(in_span!(about), " AND ", millis!("m.recorded_at"), " BETWEEN ?2 AND ?3 - 1")
    };
}

macro_rules! columns {
    () => {
        "SELECT m.rowid, m.metric_name, m.tags, m.metric_value, m.recorded_at "
    };
}

macro_rules! named {
    () => {
        " AND (?2 IS NULL OR m.metric_name >= ?2) AND (?3 IS NULL OR m.metric_name < ?3)"
    };
}

/// What lies in the spans `?1` of the index, and the row `?4`, with names from `?2` to before `?3`. As they are stored: what a time is and whether a
/// row is sound, Rust tells in a fraction of the time.
const READ: &str = concat!(
    columns!(),
    "FROM (SELECT value ->> 0 AS low, value ->> 1 AS high FROM json_each(?1)) span \
     CROSS JOIN system_metrics m WHERE m.recorded_at >= span.low AND m.recorded_at < span.high",
    named!(),
    " UNION ALL ",
    columns!(),
    "FROM system_metrics m WHERE m.rowid = ?4",
    named!()
);

/// Those of the rows `?1` that SQL takes for sound.
const SOUND: &str =
    concat!("SELECT rowid FROM system_metrics WHERE rowid IN (SELECT value FROM json_each(?1)) AND ", sound!());

/// Neighbours go faster than the same rows by a list (2.3 against 2.7 µs each).
const DELETE_RUN: &str = "DELETE FROM system_metrics WHERE rowid BETWEEN ?1 AND ?2";

const DELETE_LIST: &str = "DELETE FROM system_metrics WHERE rowid IN (SELECT value FROM json_each(?1))";

/// More runs than this are deleted by a list.
const RUNS_MOST: usize = 64;

/// How long rows gather before they are looked at again (see [`each`]).
const GATHER: Duration = Duration::from_millis(1);

const COUNT: &str = concat!("SELECT count(*) FROM (", in_span!(), " LIMIT ?4)");

/// At most as many as ?2.
const ABOUT: &str = concat!("SELECT count(*) FROM (", in_span!(about), " LIMIT ?2)");

/// How many rows each name has in a span, or some more.
const NAMES: &str = concat!(
    "SELECT metric_name, count(*) FROM system_metrics WHERE rowid IN (",
    in_span!(about),
    ") AND typeof(metric_name) = 'text' GROUP BY metric_name ORDER BY metric_name"
);

/// Names from one to before another, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    from: Option<String>,
    to: Option<String>,
}

/// All names, in ranges with at most `most` rows of the span each where they can be told apart.
pub async fn names(
    connection: &mut SqliteConnection,
    spans: &str,
    most: u64,
) -> Result<Vec<(Names, u64)>, sqlx::Error> {
    let mut ranges = vec![(Names::default(), 0)];
    let add = |row: SqliteRow| {
        let count = u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0);
        let (last, rows) = ranges.last_mut().expect("there is one from the start");
        // A name that is no UTF-8 cannot be a border.
        match std::str::from_utf8(row.try_get_unchecked(0)?) {
            Ok(name) if *rows > 0 && *rows + count > most => {
                last.to = Some(name.to_owned());
                ranges.push((Names { from: Some(name.to_owned()), to: None }, count));
            }
            _ => *rows += count,
        }
        Ok(())
    };
    sqlx::query(NAMES).bind(spans).try_map(add).fetch_all(connection).await?;
    Ok(ranges)
}

/// How many rows the span has, or some more, up to `most`.
pub async fn about(connection: &mut SqliteConnection, spans: &str, most: u64) -> Result<u64, sqlx::Error> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let count: i64 = sqlx::query_scalar(ABOUT).bind(spans).bind(most).fetch_one(connection).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// How many rows of the span there are, up to `most`.
pub async fn count(
    connection: &mut SqliteConnection,
    spans: &str,
    (from, to): (i64, i64),
    most: u64,
) -> Result<u64, sqlx::Error> {
    let count: i64 = sqlx::query_scalar(COUNT)
        .bind(spans)
        .bind(from)
        .bind(to)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_one(connection)
        .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Rows of a span.
#[derive(Debug, Default)]
pub struct Rows {
    /// Those that count.
    pub intake: Intake,
    /// Their rowids.
    pub rowids: Vec<i64>,
    /// The rowids of those that are in no bucket.
    pub bad: Vec<i64>,
}

impl Rows {
    fn push(&mut self, row: &SqliteRow, (from, to): (i64, i64)) -> Result<(), sqlx::Error> {
        let Some(at) = time_of(row)?.filter(|at| (from..to).contains(at)) else { return Ok(()) };
        let rowid = row.try_get_unchecked(0)?;
        let list = if self.take(row, at, rowid)? { &mut self.rowids } else { &mut self.bad };
        list.push(rowid);
        Ok(())
    }

    fn take(&mut self, row: &SqliteRow, at: i64, rowid: i64) -> Result<bool, sqlx::Error> {
        let (Some(Some(name)), Some(tags), Some(value)) = (text_of(row, 1)?, text_of(row, 2)?, number_of(row)?) else {
            return Ok(false);
        };
        Ok(self.intake.push(name, tags, at, rowid, value).is_ok())
    }
}

/// A text, or NULL; nothing for what is neither. SQLite holds nobody to UTF-8.
fn text_of(row: &SqliteRow, column: usize) -> Result<Option<Option<&str>>, sqlx::Error> {
    let stored = row.try_get_raw(column)?;
    if stored.is_null() {
        return Ok(Some(None));
    }
    if stored.type_info().name() != "TEXT" {
        return Ok(None);
    }
    Ok(std::str::from_utf8(row.try_get_unchecked(column)?).ok().map(Some))
}

fn number_of(row: &SqliteRow) -> Result<Option<f64>, sqlx::Error> {
    let stored = row.try_get_raw(3)?;
    let number = match stored.type_info().name() {
        _ if stored.is_null() => None,
        "INTEGER" => Some(row.try_get_unchecked::<i64, _>(3)? as f64),
        "REAL" => Some(row.try_get_unchecked::<f64, _>(3)?),
        _ => None,
    };
    Ok(number.filter(|number| number.is_finite()))
}

fn time_of(row: &SqliteRow) -> Result<Option<i64>, sqlx::Error> {
    let stored = row.try_get_raw(4)?;
    let raw = match stored.type_info().name() {
        _ if stored.is_null() => Raw::None,
        "INTEGER" => Raw::Integer(row.try_get_unchecked(4)?),
        "REAL" => Raw::Real(row.try_get_unchecked(4)?),
        "TEXT" => std::str::from_utf8(row.try_get_unchecked(4)?).map_or(Raw::None, Raw::Text),
        _ => Raw::None,
    };
    Ok(times::read(raw).map(Timestamp::millis))
}

/// Reads the rows of a span that the spans of the index and `and` lead to, as far as they have one of `names`.
pub async fn read(
    connection: &mut SqliteConnection,
    spans: &str,
    span: (i64, i64),
    names: &Names,
    and: Option<i64>,
) -> Result<Rows, sqlx::Error> {
    let mut rows = Rows::default();
    let mut and_seen = false;
    let query =
        sqlx::query(READ).bind(spans).bind(names.from.as_deref()).bind(names.to.as_deref()).bind(and).fetch(connection);
    each(query, |row| {
        // It may be in the spans as well.
        if and.is_some() && and == Some(row.try_get_unchecked(0)?) && std::mem::replace(&mut and_seen, true) {
            return Ok(());
        }
        rows.push(&row, span)
    })
    .await?;
    Ok(rows)
}

/// Gives each row to `take`. They come from SQLite's own thread, one by one: to wake somebody up for each of them takes that thread longer than
/// reading it, and the write lock is held meanwhile. So whoever takes them looks every now and then.
async fn each(
    mut rows: impl Stream<Item = Result<SqliteRow, sqlx::Error>> + Unpin,
    mut take: impl FnMut(SqliteRow) -> Result<(), sqlx::Error>,
) -> Result<(), sqlx::Error> {
    loop {
        match rows.next().now_or_never() {
            Some(Some(row)) => take(row?)?,
            Some(None) => return Ok(()),
            None => tokio::time::sleep(GATHER).await,
        }
    }
}

/// Deletes these rows, each of them and no other: where one stays, the transaction must not be committed, and that is the error.
pub async fn delete(connection: &mut SqliteConnection, rowids: &mut [i64]) -> Result<(), sqlx::Error> {
    rowids.sort_unstable();
    let runs = rowids.chunk_by(|one, next| *next == one + 1);
    let mut gone = 0;
    if runs.clone().nth(RUNS_MOST).is_some() {
        let list = Value::from(&*rowids).to_string();
        gone += sqlx::query(DELETE_LIST).bind(list).execute(&mut *connection).await?.rows_affected();
    } else {
        for run in runs {
            let (first, last) = (run[0], run[run.len() - 1]);
            let done = sqlx::query(DELETE_RUN).bind(first).bind(last).execute(&mut *connection).await?;
            gone += done.rows_affected();
        }
    }
    if gone == rowids.len() as u64 {
        return Ok(());
    }
    Err(sqlx::Error::Configuration(
        format!("{} rows of `system_metrics` were to be deleted and {gone} were: a trigger keeps them?", rowids.len())
            .into(),
    ))
}

/// Those of the rows `bad` that SQL takes for sound.
pub async fn sound_in_sql(connection: &mut SqliteConnection, bad: &[i64]) -> Result<Vec<i64>, sqlx::Error> {
    match bad {
        [] => Ok(Vec::new()),
        _ => sqlx::query_scalar(SOUND).bind(Value::from(bad).to_string()).fetch_all(connection).await,
    }
}
