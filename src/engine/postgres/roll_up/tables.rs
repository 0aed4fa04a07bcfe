//! The tables of the roll-ups, inside one transaction.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use crate::engine::roll_up::bucket::Bucket;
use crate::engine::roll_up::intake::Series;
use crate::engine::roll_up::settle::{Held, Key, Level};
use crate::engine::roll_up::{STATE_KEY, State, Tables};
use crate::store::Width;

/// Before any time that a table holds: PostgreSQL's first is in 4714 BC, ours is the first of January of the year 0.
pub const NEVER: i64 = -62_167_219_200_000;

/// A connection in a transaction.
pub struct Buckets<'c>(pub &'c mut PgConnection);

const KNOWN: &str = "
    SELECT place, id FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (name, tags, place)
    JOIN sidecar_metrics_series s ON s.name = wanted.name AND md5(s.tags) = md5(wanted.tags) AND s.tags = wanted.tags ORDER BY place";

const MAKE: &str = "
    INSERT INTO sidecar_metrics_series (name, tags)
    SELECT name, tags FROM unnest($1::text[], $2::text[]) AS wanted (name, tags)
    ON CONFLICT (name, md5(tags)) DO NOTHING";

const HELD: &str = "
    SELECT start_ms, series, sealed, count, sum, min, max, first, first_ms, last, last_ms, inside
    FROM sidecar_metrics_rollup WHERE step_secs = $1 AND start_ms >= $2 AND start_ms < $3 ORDER BY start_ms";

const SEALED_HOURS: &str = "
    SELECT EXISTS (SELECT FROM sidecar_metrics_rollup
        WHERE step_secs = 3600 AND start_ms >= $1 AND start_ms < $2 AND sealed)";

const WRITE: &str = "
    INSERT INTO sidecar_metrics_rollup
        (step_secs, start_ms, series, sealed, count, sum, min, max, first, first_ms, last, last_ms, inside)
    SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::boolean[], $5::bigint[], $6::float8[], $7::float8[], $8::float8[],
        $9::float8[], $10::bigint[], $11::float8[], $12::bigint[], $13::float8[])
    ON CONFLICT (step_secs, start_ms, series) DO UPDATE SET sealed = excluded.sealed, count = excluded.count,
        sum = excluded.sum, min = excluded.min, max = excluded.max, first = excluded.first, first_ms = excluded.first_ms,
        last = excluded.last, last_ms = excluded.last_ms, inside = excluded.inside";

const SEAL: &str = "
    UPDATE sidecar_metrics_rollup b SET sealed = true FROM unnest($2::bigint[], $3::bigint[]) AS these (start_ms, series)
    WHERE b.step_secs = $1 AND b.start_ms = these.start_ms AND b.series = these.series";

/// The growth between buckets and those before them: of the buckets that were written, and of the next one of each series, which grew from
/// another value than before.
const BORDERS: &str = "
    WITH written AS MATERIALIZED (SELECT * FROM unnest($2::bigint[], $3::bigint[]) AS w (start_ms, series)),
    touched AS MATERIALIZED (
        SELECT start_ms, series FROM written
        UNION
        SELECT (SELECT n.start_ms FROM sidecar_metrics_rollup n
            WHERE n.series = w.series AND n.step_secs = $1 AND n.start_ms > w.start_ms ORDER BY n.start_ms LIMIT 1), series
        FROM written w
    )
    UPDATE sidecar_metrics_rollup b SET increase = inside + coalesce((
        SELECT CASE WHEN b.first < p.last THEN b.first WHEN b.first / 2 - p.last / 2 > 8.9e307 THEN 1.7976931348623157e308
            ELSE b.first - p.last END
        FROM sidecar_metrics_rollup p
        WHERE p.series = b.series AND p.step_secs = $1 AND p.start_ms < b.start_ms ORDER BY p.start_ms DESC LIMIT 1
    ), 0)
    FROM touched WHERE b.step_secs = $1 AND b.start_ms = touched.start_ms AND b.series = touched.series";

impl Tables for Buckets<'_> {
    async fn ids(&mut self, series: &[Series]) -> Result<Vec<i64>, sqlx::Error> {
        let names: Vec<&str> = series.iter().map(|s| s.name.as_str()).collect();
        let tags: Vec<&str> = series.iter().map(|s| s.tags.as_str()).collect();
        let known: Vec<(i64, i64)> = sqlx::query_as(KNOWN).bind(&names).bind(&tags).fetch_all(&mut *self.0).await?;
        let known = if known.len() == series.len() {
            known
        } else {
            sqlx::query(MAKE).bind(&names).bind(&tags).execute(&mut *self.0).await?;
            sqlx::query_as(KNOWN).bind(&names).bind(&tags).fetch_all(&mut *self.0).await?
        };
        match known.len() == series.len() {
            true => Ok(known.into_iter().map(|(_, id)| id).collect()),
            // Two tags with one digest: nobody's accident.
            false => Err(sqlx::Error::Configuration("two series have tags with the same MD5".into())),
        }
    }

    async fn held(&mut self, width: Width, from: i64, to: i64) -> Result<Vec<(Key, Held)>, sqlx::Error> {
        sqlx::query(HELD)
            .bind(seconds(width))
            .bind(from)
            .bind(to)
            .try_map(|row: PgRow| held_of(&row))
            .fetch_all(&mut *self.0)
            .await
    }

    async fn sealed_hours(&mut self, from: i64, to: i64) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(SEALED_HOURS).bind(from).bind(to).fetch_one(&mut *self.0).await
    }

    async fn write(&mut self, width: Width, level: &Level) -> Result<(), sqlx::Error> {
        if !level.writes.is_empty() {
            self.upsert(width, &level.writes).await?;
        }
        if !level.seals.is_empty() {
            let starts: Vec<i64> = level.seals.iter().map(|key| key.start).collect();
            let series: Vec<i64> = level.seals.iter().map(|key| key.series).collect();
            sqlx::query(SEAL).bind(seconds(width)).bind(starts).bind(series).execute(&mut *self.0).await?;
        }
        if !level.writes.is_empty() {
            let starts: Vec<i64> = level.writes.iter().map(|(key, _)| key.start).collect();
            let series: Vec<i64> = level.writes.iter().map(|(key, _)| key.series).collect();
            sqlx::query(BORDERS).bind(seconds(width)).bind(starts).bind(series).execute(&mut *self.0).await?;
        }
        Ok(())
    }
}

impl Buckets<'_> {
    async fn upsert(&mut self, width: Width, rows: &[(Key, Held)]) -> Result<(), sqlx::Error> {
        let whole = |of: fn(&(Key, Held)) -> i64| rows.iter().map(of).collect::<Vec<i64>>();
        let number = |of: fn(&Bucket) -> f64| rows.iter().map(|(_, held)| of(&held.bucket)).collect::<Vec<f64>>();
        sqlx::query(WRITE)
            .bind(seconds(width))
            .bind(whole(|(key, _)| key.start))
            .bind(whole(|(key, _)| key.series))
            .bind(rows.iter().map(|(_, held)| held.sealed).collect::<Vec<bool>>())
            .bind(whole(|(_, held)| held.bucket.count))
            .bind(number(|b| b.sum))
            .bind(number(|b| b.min))
            .bind(number(|b| b.max))
            .bind(number(|b| b.first))
            .bind(whole(|(_, held)| held.bucket.first_at))
            .bind(number(|b| b.last))
            .bind(whole(|(_, held)| held.bucket.last_at))
            .bind(rows.iter().map(|(_, held)| held.bucket.inside).collect::<Vec<Option<f64>>>())
            .execute(&mut *self.0)
            .await
            .map(drop)
    }
}

/// The column is an INTEGER.
pub fn seconds(width: Width) -> i32 {
    match width {
        Width::FiveMinutes => 300,
        Width::Hour => 3600,
    }
}

fn held_of(row: &PgRow) -> Result<(Key, Held), sqlx::Error> {
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
    Ok((Key { start: row.try_get(0)?, series: row.try_get(1)? }, Held { bucket, sealed: row.try_get(2)? }))
}

/// What is remembered; what cannot be read is as good as forgotten, since nothing counts by it.
pub async fn state(connection: &mut PgConnection) -> Result<State, sqlx::Error> {
    let text: Option<String> = sqlx::query_scalar("SELECT value FROM sidecar_state WHERE key = $1")
        .bind(STATE_KEY)
        .fetch_optional(connection)
        .await?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// Remembers `state`.
pub async fn remember(connection: &mut PgConnection, state: &State) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO sidecar_state (key, value) VALUES ($1, $2) \
         ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = DEFAULT",
    )
    .bind(STATE_KEY)
    .bind(serde_json::json!(state).to_string())
    .execute(connection)
    .await
    .map(drop)
}
