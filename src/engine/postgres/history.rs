//! Stored history, read back series by series.
//!
//! The table knows names, times and raw `tags`; a series is a name and labels. So for each name that is asked for, its distinct raw tags
//! are brought to labels first, and PostgreSQL then sorts the name's rows by the position of their labels and their time, in its own temporary
//! files where they are many. A cursor hands them over some thousand at a time: what is held here is that, and one name's labels; whoever
//! stops taking rows ends it at once; and the limit of a statement counts for each such part and not for as long as a pipe takes.
//! Each name is read in a transaction of its own: one snapshot over a whole export would hold back VACUUM.

use std::io;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::Database;
use super::errors::store_error;
use crate::clock::Timestamp;
use crate::engine::history::{LIMIT, Series, Span, Taker};
use crate::sample::globs::Globs;
use crate::store::{History, StoreError, Stored};

/// Rows of one FETCH.
const PART: usize = 5000;

/// All names, by steps along the index. In an order that depends on the database's collation, so they are sorted here.
const NAMES: &str = "WITH RECURSIVE step (name) AS ( \
     (SELECT metric_name::text FROM system_metrics WHERE metric_name IS NOT NULL ORDER BY metric_name::text LIMIT 1) UNION ALL \
     SELECT (SELECT metric_name::text FROM system_metrics WHERE metric_name::text > name ORDER BY metric_name::text LIMIT 1) \
     FROM step WHERE name IS NOT NULL) \
     SELECT name FROM step WHERE name IS NOT NULL";

/// One name's raw tags; what is too long to be copied is NULL. As texts: `json` cannot be compared, and `jsonb` holds no `\u0000` (V-11).
const RAW_TAGS: &str = "SELECT raw, count(*) FROM ( \
     SELECT CASE WHEN tags IS NULL THEN '{}' WHEN octet_length(tags::text) <= 65536 THEN tags::text END AS raw \
     FROM system_metrics WHERE metric_name::text = $1 AND recorded_at >= $2::timestamp AND recorded_at < $3::timestamp) AS rows \
     GROUP BY raw";

/// One name's rows, by series ($4, $5: raw tags with the position of their labels) and time; the later of equal times last (T-7). A NUMERIC holds NaN
/// and infinity (V-3), which are no values, and numbers that are too large for a double, or so small that PostgreSQL's cast would
/// fail instead of giving zero: half of the least double is where it does.
const ROWS: &str = "DECLARE history NO SCROLL CURSOR FOR \
     SELECT raw.series, CASE WHEN metric_value NOT BETWEEN -1.7976931348623158e308 AND 1.7976931348623158e308 THEN NULL \
     WHEN abs(metric_value) < 2.4703282292062328e-324 THEN 0 ELSE metric_value::float8 END, \
     (extract(epoch FROM recorded_at) * 1000000)::int8 \
     FROM system_metrics JOIN unnest($4::text[], $5::int8[]) AS raw (tags, series) ON raw.tags = coalesce(system_metrics.tags::text, '{}') \
     WHERE metric_name::text = $1 AND recorded_at >= $2::timestamp AND recorded_at < $3::timestamp \
     ORDER BY raw.series, recorded_at, system_metrics.ctid";

/// T-4: NULL, and PostgreSQL's infinite times.
const BAD_TIMES: &str =
    "SELECT count(*) FROM system_metrics WHERE recorded_at IS NULL OR recorded_at IN ('infinity', '-infinity')";

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
    let mut all: Vec<String> = sqlx::query_scalar(NAMES).fetch_all(&mut *reader).await?;
    drop(reader);
    all.retain(|name| names.matches(name));
    all.sort_unstable();
    for name in all {
        let mut reader = database.read(LIMIT).await?;
        let series = series_of(&mut reader, &name, span, taker).await?;
        rows_of(&mut reader, &name, span, series, taker).await?;
    }
    Ok(())
}

/// The first microsecond that reads as `at` or later, as a text. Both engines round to the millisecond, but never up to the next second.
fn edge(at: Timestamp) -> String {
    if at.millis().rem_euclid(1000) == 0 {
        at.to_sql()
    } else {
        at.before(std::time::Duration::from_millis(1)).to_sql() + "500"
    }
}

/// The millisecond as which `micros` reads.
fn read_time(micros: i64) -> Timestamp {
    let millis = ((micros.rem_euclid(1_000_000) + 500) / 1000).min(999);
    Timestamp::from_millis(micros.div_euclid(1_000_000) * 1000 + millis)
}

/// The name's series in the span.
async fn series_of(
    reader: &mut PgConnection,
    name: &str,
    span: Span,
    taker: &mut Taker<'_>,
) -> Result<Series, sqlx::Error> {
    let mut series = Series::default();
    sqlx::query(RAW_TAGS)
        .bind(name)
        .bind(edge(span.from))
        .bind(edge(span.to))
        .try_map(|row: PgRow| {
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
    reader: &mut PgConnection,
    name: &str,
    span: Span,
    series: Series,
    taker: &mut Taker<'_>,
) -> Result<(), sqlx::Error> {
    let (labels, positions) = series.into_positions();
    if labels.is_empty() {
        return Ok(());
    }
    let (raws, places): (Vec<String>, Vec<i64>) =
        positions.into_iter().map(|(raw, at)| (raw, i64::try_from(at).unwrap_or(i64::MAX))).unzip();
    // All rows are wanted, not the first few; and whoever takes them may be slow.
    let wait = LIMIT.as_millis();
    let settings =
        format!("SET LOCAL cursor_tuple_fraction = 1; SET LOCAL idle_in_transaction_session_timeout = {wait}");
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut *reader).await?;
    sqlx::query(ROWS)
        .bind(name)
        .bind(edge(span.from))
        .bind(edge(span.to))
        .bind(raws)
        .bind(places)
        .execute(&mut *reader)
        .await?;
    loop {
        let part = sqlx::query(AssertSqlSafe(format!("FETCH {PART} FROM history"))).fetch_all(&mut *reader).await?;
        for row in &part {
            let position = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX);
            let labels = labels.get(position).expect("PostgreSQL gives back the positions that it got");
            taker.take(name, labels, row.try_get(1)?, read_time(row.try_get(2)?))?;
        }
        if part.len() < PART {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_where_reading_changes() {
        for (text, edge_text) in [
            ("2026-11-22T10:00:00.250Z", "2026-11-22 10:00:00.249500"),
            ("2026-11-22T10:00:00Z", "2026-11-22 10:00:00.000"),
        ] {
            assert_eq!(edge(Timestamp::from_rfc3339(text).unwrap()), edge_text);
        }
        for (micros, millis) in
            [(1_000_000, 1000), (1_249_499, 1249), (1_249_500, 1250), (1_999_900, 1999), (-1, -1), (-500_001, -500)]
        {
            assert_eq!(read_time(micros).millis(), millis, "{micros}");
        }
    }
}
