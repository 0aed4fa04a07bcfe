//! The tables of the roll-ups, inside one transaction.

use std::collections::HashMap;

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Row as _, SqliteConnection};

use crate::engine::roll_up::bucket::Bucket;
use crate::engine::roll_up::intake::Series;
use crate::engine::roll_up::settle::{Held, Key, Level};
use crate::engine::roll_up::{STATE_KEY, State, Tables};
use crate::store::Width;

/// Rows of one statement: 13 values each, of SQLite's 32,766 variables.
const CHUNK: usize = 200;

/// A connection in a transaction.
pub struct Buckets<'c>(pub &'c mut SqliteConnection);

/// The growth between buckets and those before them. `?2` names the buckets that were written as `[[start, series], …]`; the next one
/// of each series grew from another value than before.
const BORDERS: &str = "
    WITH written (start_ms, series) AS MATERIALIZED (SELECT value ->> 0, value ->> 1 FROM json_each(?2)),
    touched (start_ms, series) AS MATERIALIZED (
        SELECT start_ms, series FROM written
        UNION
        SELECT (SELECT min(n.start_ms) FROM sidecar_metrics_rollup n INDEXED BY sidecar_metrics_rollup_series
            WHERE n.series = w.series AND n.step_secs = ?1 AND n.start_ms > w.start_ms), series
        FROM written w
    )
    UPDATE sidecar_metrics_rollup AS b SET increase = inside + coalesce((
        SELECT CASE WHEN b.first >= p.last THEN min(b.first - p.last, 1.7976931348623157e308) ELSE b.first END
        FROM sidecar_metrics_rollup p INDEXED BY sidecar_metrics_rollup_series
        WHERE p.series = b.series AND p.step_secs = ?1 AND p.start_ms < b.start_ms ORDER BY p.start_ms DESC LIMIT 1
    ), 0)
    WHERE (step_secs, start_ms, series) IN (SELECT ?1, start_ms, series FROM touched)";

const SEAL: &str = "
    UPDATE sidecar_metrics_rollup SET sealed = 1
    WHERE (step_secs, start_ms, series) IN (SELECT ?1, value ->> 0, value ->> 1 FROM json_each(?2))";

const HELD: &str = "
    SELECT start_ms, series, sealed, count, sum, min, max, first, first_ms, last, last_ms, inside
    FROM sidecar_metrics_rollup WHERE step_secs = ? AND start_ms >= ? AND start_ms < ? ORDER BY start_ms";

const SEALED_HOURS: &str = "
    SELECT EXISTS (SELECT 1 FROM sidecar_metrics_rollup
        WHERE step_secs = 3600 AND start_ms >= ?1 AND start_ms < ?2 AND sealed = 1)";

impl Tables for Buckets<'_> {
    async fn ids(&mut self, series: &[Series]) -> Result<Vec<i64>, sqlx::Error> {
        let mut known = known(self.0, series).await?;
        let missing: Vec<&Series> =
            series.iter().enumerate().filter(|(at, _)| !known.contains_key(at)).map(|(_, s)| s).collect();
        if !missing.is_empty() {
            for series in missing {
                sqlx::query("INSERT INTO sidecar_metrics_series (name, tags) VALUES (?, ?)")
                    .bind(series.name.as_str())
                    .bind(series.tags.as_str())
                    .execute(&mut *self.0)
                    .await?;
            }
            known = self::known(self.0, series).await?;
        }
        (0..series.len()).map(|at| known.get(&at).copied().ok_or(sqlx::Error::RowNotFound)).collect()
    }

    async fn held(&mut self, width: Width, from: i64, to: i64) -> Result<Vec<(Key, Held)>, sqlx::Error> {
        sqlx::query(HELD)
            .bind(width.seconds())
            .bind(from)
            .bind(to)
            .try_map(|row: SqliteRow| held_of(&row))
            .fetch_all(&mut *self.0)
            .await
    }

    async fn sealed_hours(&mut self, from: i64, to: i64) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(SEALED_HOURS).bind(from).bind(to).fetch_one(&mut *self.0).await
    }

    async fn write(&mut self, width: Width, level: &Level) -> Result<(), sqlx::Error> {
        for chunk in level.writes.chunks(CHUNK) {
            let arguments = arguments_of(width, chunk).map_err(sqlx::Error::Encode)?;
            sqlx::query_with(AssertSqlSafe(upsert_of(chunk.len())), arguments)
                .persistent(chunk.len() == CHUNK)
                .execute(&mut *self.0)
                .await?;
        }
        let keys = |keys: Vec<(i64, i64)>| serde_json::json!(keys).to_string();
        if !level.seals.is_empty() {
            let these = keys(level.seals.iter().map(|key| (key.start, key.series)).collect());
            sqlx::query(SEAL).bind(width.seconds()).bind(these).execute(&mut *self.0).await?;
        }
        if !level.writes.is_empty() {
            let these = keys(level.writes.iter().map(|(key, _)| (key.start, key.series)).collect());
            sqlx::query(BORDERS).bind(width.seconds()).bind(these).execute(&mut *self.0).await?;
        }
        Ok(())
    }
}

/// The numbers of those `series` that have one, by their position.
async fn known(connection: &mut SqliteConnection, series: &[Series]) -> Result<HashMap<usize, i64>, sqlx::Error> {
    let mut known = HashMap::with_capacity(series.len());
    for (chunk_at, chunk) in series.chunks(CHUNK).enumerate() {
        // Bound as they are: JSON would end a name at a zero character.
        let values = vec!["(?,?,?)"; chunk.len()].join(",");
        let sql = format!(
            "WITH wanted (place, name, tags) AS (VALUES {values}) \
             SELECT place, id FROM wanted CROSS JOIN sidecar_metrics_series s ON s.name = wanted.name AND s.tags = wanted.tags"
        );
        let mut query = sqlx::query_as::<_, (i64, i64)>(AssertSqlSafe(sql)).persistent(chunk.len() == CHUNK);
        for (at, series) in chunk.iter().enumerate() {
            query = query.bind((chunk_at * CHUNK + at) as i64).bind(series.name.as_str()).bind(series.tags.as_str());
        }
        let found = query.fetch_all(&mut *connection).await?;
        known.extend(found.into_iter().filter_map(|(place, id)| Some((usize::try_from(place).ok()?, id))));
    }
    Ok(known)
}

fn held_of(row: &SqliteRow) -> Result<(Key, Held), sqlx::Error> {
    let bucket = Bucket {
        count: row.try_get(3)?,
        sum: row.try_get(4)?,
        min: row.try_get(5)?,
        max: row.try_get(6)?,
        first: row.try_get(7)?,
        first_at: row.try_get(8)?,
        last: row.try_get(9)?,
        last_at: row.try_get(10)?,
        inside: row.try_get(11)?,
    };
    let key = Key { start: row.try_get(0)?, series: row.try_get(1)? };
    Ok((key, Held { bucket, sealed: row.try_get::<i64, _>(2)? != 0 }))
}

fn upsert_of(rows: usize) -> String {
    let values = vec!["(?,?,?,?,?,?,?,?,?,?,?,?,?)"; rows].join(",");
    format!(
        "INSERT INTO sidecar_metrics_rollup \
         (step_secs, start_ms, series, sealed, count, sum, min, max, first, first_ms, last, last_ms, inside) VALUES {values} \
         ON CONFLICT (step_secs, start_ms, series) DO UPDATE SET sealed = excluded.sealed, count = excluded.count, \
         sum = excluded.sum, min = excluded.min, max = excluded.max, first = excluded.first, first_ms = excluded.first_ms, \
         last = excluded.last, last_ms = excluded.last_ms, inside = excluded.inside"
    )
}

fn arguments_of(width: Width, rows: &[(Key, Held)]) -> Result<SqliteArguments, sqlx::error::BoxDynError> {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(rows.len() * 13, 0);
    for (key, Held { bucket, sealed }) in rows {
        arguments.add(width.seconds())?;
        arguments.add(key.start)?;
        arguments.add(key.series)?;
        arguments.add(i64::from(*sealed))?;
        arguments.add(bucket.count)?;
        for number in [bucket.sum, bucket.min, bucket.max, bucket.first] {
            arguments.add(number)?;
        }
        arguments.add(bucket.first_at)?;
        arguments.add(bucket.last)?;
        arguments.add(bucket.last_at)?;
        arguments.add(bucket.inside)?;
    }
    Ok(arguments)
}

/// What is remembered; what cannot be read is as good as forgotten, since nothing counts by it.
pub async fn state(connection: &mut SqliteConnection) -> Result<State, sqlx::Error> {
    let text: Option<String> = sqlx::query_scalar("SELECT CAST(value AS TEXT) FROM sidecar_state WHERE key = ?")
        .bind(STATE_KEY)
        .fetch_optional(connection)
        .await?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// Remembers `state`.
pub async fn remember(connection: &mut SqliteConnection, state: &State) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO sidecar_state (key, value, updated_at) VALUES (?, ?, strftime('%Y-%m-%d %H:%M:%f', 'now')) \
         ON CONFLICT(key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
    )
    .bind(STATE_KEY)
    .bind(serde_json::json!(state).to_string())
    .execute(connection)
    .await
    .map(drop)
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::*;

    /// A month has millions of buckets: no statement may walk through them.
    #[tokio::test]
    async fn each_step_is_served_by_an_index() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::raw_sql(include_str!("../../../../migrations/sqlite/0004_rollup.sql"))
            .execute(&mut connection)
            .await
            .unwrap();
        let whole = "(step_secs=? AND start_ms=? AND series=?)";
        for (sql, wanted) in [
            (SEAL, vec![whole]),
            (
                BORDERS,
                vec![
                    whole,
                    "p USING INDEX sidecar_metrics_rollup_series (series=? AND step_secs=? AND start_ms<?)",
                    "n USING COVERING INDEX sidecar_metrics_rollup_series (series=? AND step_secs=? AND start_ms>?)",
                ],
            ),
            (HELD, vec!["(step_secs=? AND start_ms>? AND start_ms<?)"]),
            (SEALED_HOURS, vec!["(step_secs=? AND start_ms>? AND start_ms<?)"]),
        ] {
            let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
            let plan: Vec<String> =
                plan.fetch_all(&mut connection).await.unwrap().iter().map(|row| row.get(3)).collect();
            let plan = plan.join("\n");
            assert!(wanted.iter().all(|w| plan.contains(w)), "{plan}");
            assert!(!plan.contains("SCAN sidecar") && !plan.contains("(step_secs=?)"), "{plan}");
        }
    }
}
