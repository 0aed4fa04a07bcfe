//! The rows of `system_metrics` that a span of time holds: read, or deleted.

use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use crate::engine::roll_up::intake::Intake;
use crate::engine::sqlite::times::millis;

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

const READ: &str = concat!(
    "SELECT metric_name, tags, CAST(metric_value AS REAL), ",
    millis!("recorded_at"),
    ", rowid, ",
    sound!(),
    " FROM system_metrics WHERE rowid IN (",
    in_span!(),
    ")"
);

/// Deletes the sound rows of a span whose names are from `?6` to before `?7`, and the row `?5` whose time is in it, without those of `?4`.
const TAKE: &str = concat!(
    "DELETE FROM system_metrics WHERE rowid IN (",
    in_span!(),
    " UNION ALL SELECT ?5) AND metric_name >= ?6 AND (?7 IS NULL OR metric_name < ?7) AND ",
    sound!(),
    " AND rowid NOT IN (SELECT value FROM json_each(?4)) RETURNING metric_name, tags, CAST(metric_value AS REAL), ",
    millis!("recorded_at"),
    ", rowid, 1"
);

const COUNT: &str = concat!("SELECT count(*) FROM (", in_span!(), " LIMIT ?4)");

/// At most as many as ?2.
const ABOUT: &str = concat!("SELECT count(*) FROM (", in_span!(about), " LIMIT ?2)");

/// How many rows each name has in a span, or some more.
const NAMES: &str = concat!(
    "SELECT metric_name, count(*) FROM system_metrics WHERE rowid IN (",
    in_span!(about),
    ") AND typeof(metric_name) = 'text' GROUP BY metric_name ORDER BY metric_name"
);

/// Names from one to before another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    from: String,
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
                ranges.push((Names { from: name.to_owned(), to: None }, count));
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

/// Rows, and how many (or which) of them are in no bucket.
#[derive(Debug, Default)]
pub struct Rows {
    /// Those that count.
    pub intake: Intake,
    /// The rowids of the others.
    pub bad: Vec<i64>,
}

impl Rows {
    fn push(&mut self, row: &SqliteRow) -> Result<(), sqlx::Error> {
        let rowid = row.try_get(4)?;
        if row.try_get::<i64, _>(5)? == 0 || !self.take(row, rowid)? {
            self.bad.push(rowid);
        }
        Ok(())
    }

    fn take(&mut self, row: &SqliteRow, rowid: i64) -> Result<bool, sqlx::Error> {
        // As bytes, because SQLite holds nobody to UTF-8.
        let name = std::str::from_utf8(row.try_get_unchecked(0)?);
        let tags = row.try_get_unchecked::<Option<&[u8]>, _>(1)?.map(std::str::from_utf8).transpose();
        let (Ok(name), Ok(tags)) = (name, tags) else { return Ok(false) };
        Ok(self.intake.push(name, tags, row.try_get(3)?, rowid, row.try_get(2)?).is_ok())
    }
}

/// Reads the rows of a span.
pub async fn read(connection: &mut SqliteConnection, spans: &str, (from, to): (i64, i64)) -> Result<Rows, sqlx::Error> {
    let mut rows = Rows::default();
    sqlx::query(READ)
        .bind(spans)
        .bind(from)
        .bind(to)
        .try_map(|row: SqliteRow| rows.push(&row))
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

/// Deletes the rows of a span and gives what was deleted. Where [`Rows::bad`] names some, the transaction must not be committed: they are gone
/// and cannot be counted. Name them in `without` and try again.
pub async fn take(
    connection: &mut SqliteConnection,
    spans: &str,
    (from, to): (i64, i64),
    names: &Names,
    and: Option<i64>,
    without: &[i64],
) -> Result<Rows, sqlx::Error> {
    let mut rows = Rows::default();
    sqlx::query(TAKE)
        .bind(spans)
        .bind(from)
        .bind(to)
        .bind(Value::from(without).to_string())
        .bind(and)
        .bind(names.from.as_str())
        .bind(names.to.as_deref())
        .try_map(|row: SqliteRow| rows.push(&row))
        .fetch_all(connection)
        .await?;
    Ok(rows)
}
