//! The rows of `system_metrics` that a span of time holds: read, or deleted.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use crate::engine::roll_up::intake::Intake;

/// Whether a row's value is a finite number (V-3, V-4). The bounds are exact enough for either type of column; a number beyond them fits no bucket.
macro_rules! sound {
    () => {
        "(metric_value BETWEEN -1.7e308 AND 1.7e308)"
    };
}
pub(super) use sound;

/// The time of a parameter in milliseconds. Sessions live in UTC, so it compares with either type of column (T-3).
macro_rules! time {
    ($parameter:literal) => {
        concat!("('epoch'::timestamp + ", $parameter, " * interval '1 millisecond')")
    };
}
pub(super) use time;

/// A row's time in milliseconds; finer is cut off.
macro_rules! millis {
    () => {
        "floor(round(extract(epoch FROM recorded_at)::numeric * 1000000) / 1000)::bigint"
    };
}
pub(super) use millis;

macro_rules! in_span {
    () => {
        concat!("recorded_at >= ", time!("$1"), " AND recorded_at < ", time!("$2"))
    };
}

/// Of equal times, the row with the greater id counts as the later: our own ids grow (T-7), and places in the file are used again.
const READ: &str = concat!(
    "SELECT metric_name::text, tags::text, CASE WHEN ",
    sound!(),
    " THEN metric_value::float8 END, ",
    millis!(),
    ", ctid::text FROM system_metrics WHERE ",
    in_span!(),
    " ORDER BY recorded_at, id::text COLLATE \"C\""
);

/// What somebody has locked is left to the next run: a guest waits for nobody, and nobody for it.
const TAKE: &str = concat!(
    "WITH these AS MATERIALIZED (SELECT ctid FROM system_metrics WHERE ",
    in_span!(),
    " AND ",
    sound!(),
    " AND ctid <> ALL ($3::text[]::tid[]) FOR UPDATE SKIP LOCKED), \
     taken AS (DELETE FROM system_metrics WHERE ctid = ANY (ARRAY(SELECT ctid FROM these)) \
     RETURNING metric_name, tags, metric_value, recorded_at, id, ctid AS place) \
     SELECT metric_name::text, tags::text, metric_value::float8, ",
    millis!(),
    ", place::text FROM taken ORDER BY recorded_at, id::text COLLATE \"C\""
);

const COUNT: &str =
    concat!("SELECT count(*) FROM (SELECT FROM system_metrics WHERE ", in_span!(), " LIMIT $3) AS some_of_them");

const FIRST: &str = concat!(
    "SELECT ",
    millis!(),
    " FROM (SELECT min(recorded_at) AS recorded_at FROM system_metrics WHERE ",
    in_span!(),
    " AND ",
    sound!(),
    ") AS first"
);

/// How many rows of the span there are, up to `most`.
pub async fn count(connection: &mut PgConnection, (from, to): (i64, i64), most: u64) -> Result<u64, sqlx::Error> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let count: i64 = sqlx::query_scalar(COUNT).bind(from).bind(to).bind(most).fetch_one(connection).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// The time of the first row of the span.
pub async fn first(connection: &mut PgConnection, (from, to): (i64, i64)) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(FIRST).bind(from).bind(to).fetch_one(connection).await
}

/// Rows, and which of them are in no bucket.
#[derive(Debug, Default)]
pub struct Rows {
    /// Those that count.
    pub intake: Intake,
    /// The places of the others.
    pub bad: Vec<String>,
}

impl Rows {
    fn of(rows: &[PgRow]) -> Result<Self, sqlx::Error> {
        let mut all = Self::default();
        for (row, order) in rows.iter().zip(0..) {
            let (name, tags): (&str, Option<&str>) = (row.try_get(0)?, row.try_get(1)?);
            let value: Option<f64> = row.try_get(2)?;
            let taken = value.map(|value| {
                all.intake.push(name, tags, row.try_get(3)?, order, value).map_err(|_| sqlx::Error::RowNotFound)
            });
            match taken {
                Some(Ok(())) => {}
                Some(Err(sqlx::Error::RowNotFound)) | None => all.bad.push(row.try_get(4)?),
                Some(Err(e)) => return Err(e),
            }
        }
        Ok(all)
    }
}

/// Reads the rows of a span.
pub async fn read(connection: &mut PgConnection, (from, to): (i64, i64)) -> Result<Rows, sqlx::Error> {
    Rows::of(&sqlx::query(READ).bind(from).bind(to).fetch_all(connection).await?)
}

/// Deletes the rows of a span and gives what was deleted. Where [`Rows::bad`] names some, the transaction must not be committed: they are gone
/// and cannot be counted. Name them in `without` and try again.
pub async fn take(
    connection: &mut PgConnection,
    (from, to): (i64, i64),
    without: &[String],
) -> Result<Rows, sqlx::Error> {
    Rows::of(&sqlx::query(TAKE).bind(from).bind(to).bind(without).fetch_all(connection).await?)
}
