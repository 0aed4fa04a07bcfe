//! Stored history, read back series by series.
//!
//! The table knows names, times and raw `tags`; a series is a name and labels. So for each name that is asked for, its distinct raw tags
//! are brought to labels first, and SQLite then sorts the name's rows by the position of their labels and their time. What is
//! held here is one name's labels; the rows are sorted in SQLite's own temporary file and handed over one by one.
//! Each statement reads by itself: a snapshot held over a whole export would keep the WAL from being checkpointed.

use std::io;
use std::time::Duration;

use serde_json::Value;
use sqlx::{Row as _, SqliteConnection};

use super::Database;
use super::errors::store_error;
use super::times::millis;
use crate::clock::Timestamp;
use crate::engine::history::{LIMIT, Series, Span, Taker};
use crate::sample::globs::Globs;
use crate::store::{History, StoreError, Stored};

/// How far a text's time may lie from what its first characters say: offsets of up to 14:59 hours, and whole days to cut at.
const SLACK: Duration = Duration::from_secs(2 * 24 * 3600);

/// `$select` over the rows of name `?1` from `?2` to before `?3` (milliseconds), whose texts the index bounds by `?4` and `?5`, and once more
/// over those whose time is a number, which sorts before any text. UNION ALL, because OR would make SQLite remember every rowid.
macro_rules! both_forms {
    ($select:expr) => {
        concat!(
            both_forms!($select, "recorded_at >= ?4 AND recorded_at < ?5"),
            " UNION ALL ",
            both_forms!($select, "recorded_at < ''")
        )
    };
    ($select:expr, $range:literal) => {
        concat!(
            $select,
            " WHERE metric_name = ?1 AND ",
            $range,
            " AND ",
            millis!("recorded_at"),
            " >= ?2 AND ",
            millis!("recorded_at"),
            " < ?3"
        )
    };
}

/// One name's raw tags; what is no text, or too long to be copied, is NULL.
const RAW_TAGS: &str = concat!(
    "SELECT raw, count(*) FROM (",
    both_forms!(
        "SELECT CASE WHEN tags IS NULL THEN '{}' \
         WHEN typeof(tags) = 'text' AND octet_length(tags) <= 65536 THEN tags END AS raw FROM system_metrics"
    ),
    ") GROUP BY raw"
);

/// One name's rows, by series (`?6`: raw tags with the position of their labels) and time; the later of equal times last (T-7).
const ROWS: &str = concat!(
    "WITH raw (tags, series) AS MATERIALIZED (SELECT value ->> 0, value ->> 1 FROM json_each(?6)) ",
    both_forms!(concat!(
        "SELECT raw.series AS series, CASE WHEN typeof(metric_value) IN ('integer', 'real') THEN CAST(metric_value AS REAL) END, ",
        millis!("recorded_at"),
        " AS at, system_metrics.rowid AS place FROM system_metrics CROSS JOIN raw ON raw.tags = coalesce(system_metrics.tags, '{}')"
    )),
    " ORDER BY series, at, place"
);

const BAD_TIMES: &str = concat!("SELECT count(*) FROM system_metrics WHERE ", millis!("recorded_at"), " IS NULL");

/// See [`SampleStore::history`](crate::store::SampleStore::history).
pub(super) async fn read(
    database: &Database,
    from: Timestamp,
    to: Timestamp,
    names: &Globs,
    each: &mut (dyn FnMut(Stored) -> io::Result<()> + Send),
) -> Result<History, StoreError> {
    let mut taker = Taker::new(each);
    let read = read_all(database, Span { from, to }, names, &mut taker).await;
    taker.end(read, store_error)
}

async fn read_all(database: &Database, span: Span, names: &Globs, taker: &mut Taker<'_>) -> Result<(), sqlx::Error> {
    let mut reader = database.read(LIMIT).await?;
    taker.bad_times(sqlx::query_scalar(BAD_TIMES).fetch_one(&mut *reader).await?);
    let mut next = first_name(&mut reader).await?;
    while let Some(name) = next {
        drop(reader);
        reader = database.read(LIMIT).await?;
        if names.matches(&name) {
            let series = series_of(&mut reader, &name, span, taker).await?;
            rows_of(&mut reader, &name, span, series, taker).await?;
        }
        next = name_after(&mut reader, &name).await?;
    }
    Ok(())
}

/// The days that `span` is in, less or plus the slack, as texts that sort with all forms.
fn bounds(span: Span) -> (String, String) {
    let day = |at: Timestamp| at.to_sql().chars().take(10).collect::<String>();
    (day(span.from.before(SLACK)), day(span.to.after(SLACK)))
}

async fn first_name(reader: &mut SqliteConnection) -> Result<Option<String>, sqlx::Error> {
    // Blobs sort behind every text, so this bound leaves them out.
    sqlx::query_scalar("SELECT metric_name FROM system_metrics WHERE metric_name < x'' ORDER BY metric_name LIMIT 1")
        .fetch_optional(reader)
        .await
}

async fn name_after(reader: &mut SqliteConnection, name: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT metric_name FROM system_metrics WHERE metric_name > ? AND metric_name < x'' ORDER BY metric_name LIMIT 1",
    )
    .bind(name)
    .fetch_optional(reader)
    .await
}

/// The name's series in the span.
async fn series_of(
    reader: &mut SqliteConnection,
    name: &str,
    span: Span,
    taker: &mut Taker<'_>,
) -> Result<Series, sqlx::Error> {
    let (low, high) = bounds(span);
    let mut series = Series::default();
    sqlx::query(RAW_TAGS)
        .bind(name)
        .bind(span.from.millis())
        .bind(span.to.millis())
        .bind(low)
        .bind(high)
        .try_map(|row: sqlx::sqlite::SqliteRow| {
            if !series.take(row.try_get(0)?) {
                taker.bad_rows(row.try_get(1)?);
            }
            Ok(())
        })
        .fetch_all(reader)
        .await?;
    Ok(series)
}

async fn rows_of(
    reader: &mut SqliteConnection,
    name: &str,
    span: Span,
    series: Series,
    taker: &mut Taker<'_>,
) -> Result<(), sqlx::Error> {
    let (labels, positions) = series.into_positions();
    if labels.is_empty() {
        return Ok(());
    }
    let positions: Value =
        positions.into_iter().map(|(raw, at)| Value::from(vec![Value::from(raw), at.into()])).collect();
    let (low, high) = bounds(span);
    // A `Vec<()>` takes no memory: the rows are handed over as they come.
    sqlx::query(ROWS)
        .bind(name)
        .bind(span.from.millis())
        .bind(span.to.millis())
        .bind(low)
        .bind(high)
        .bind(positions.to_string())
        .try_map(|row: sqlx::sqlite::SqliteRow| {
            let position = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX);
            let labels = labels.get(position).expect("SQLite gives back the positions that it got");
            taker.take(name, labels, row.try_get(1)?, Timestamp::from_millis(row.try_get(2)?))
        })
        .fetch_all(reader)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::*;

    /// A full scan, or a look through all series per row, would make an export of a month a matter of hours.
    #[tokio::test]
    async fn each_step_is_served_by_an_index() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::raw_sql(
            "CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL,
            metric_value DECIMAL(15,4) NOT NULL, tags JSON, recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
            CREATE INDEX by_name ON system_metrics(metric_name, recorded_at); CREATE INDEX by_time ON system_metrics(recorded_at)",
        )
        .execute(&mut connection)
        .await
        .unwrap();
        for (sql, wanted) in [
            (
                RAW_TAGS,
                vec![
                    "by_name (metric_name=? AND recorded_at>? AND recorded_at<?)",
                    "by_name (metric_name=? AND recorded_at<?)",
                ],
            ),
            (
                ROWS,
                vec![
                    "by_name (metric_name=? AND recorded_at>? AND recorded_at<?)",
                    "raw USING AUTOMATIC COVERING INDEX (tags=?)",
                ],
            ),
        ] {
            let plan = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
            let plan = plan.fetch_all(&mut connection).await.unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.get(3)).collect();
            let plan = plan.join("\n");
            assert!(wanted.iter().all(|w| plan.contains(w)), "{plan}");
            assert!(!plan.contains("SCAN system_metrics") && !plan.contains("SCAN raw"), "{plan}");
        }
    }
}
