//! Roll-ups on SQLite: [`RollUps`] as `store.rs` documents it; what is decided, and why no row is lost, is in [`crate::engine::roll_up`].
//!
//! Rows are read by readers and buckets written by the one writer, some tens of milliseconds at a time. Who read rows outside of a transaction has
//! looked at a generation first, which every transaction counts up: if another was faster, the rows are read again. Deleting reads in the
//! transaction itself.

mod expire;
mod mirror;
mod prune;
mod rows;
mod spans;
mod tables;

use std::time::{Duration, Instant};

use sqlx::{Sqlite, SqliteConnection, Transaction};

use self::rows::sound;
use self::spans::{OFFSET_MOST, minute};
use super::errors::store_error;
use super::times::millis;
use super::{Database, samples};
use crate::clock::Timestamp;
use crate::engine::roll_up::State;
use crate::engine::roll_up::counters::Counters;
use crate::store::{Chore, Kept, Progress, RollUps, StoreError, Width};
use crate::task::Pending;

/// What a look at a few rows may take; longer is a disk that hangs.
const LOOK: Duration = Duration::from_secs(30);

/// What looking through all rows that are past their age may take.
const SCAN: Duration = Duration::from_secs(600);

/// The texts of times in some order of time: all of them are made of digits at the start.
const FIRST_TEXT: &str = "0";

/// Roll-ups of the `system_metrics` of one database, in the same file: deleting a row and counting it is one transaction.
#[derive(Clone, Debug)]
pub struct Buckets {
    database: Database,
}

impl Buckets {
    /// The roll-ups in `database`.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Kinds that sources declared, and what is remembered; refuses a table whose spans of time no index finds.
    async fn begin(&self) -> Result<(Counters, State), sqlx::Error> {
        let mut reader = self.database.read(LOOK).await?;
        let indexes: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pragma_index_list('system_metrics') l, pragma_index_info(l.name) i \
             WHERE i.seqno = 0 AND i.name = 'recorded_at' AND l.partial = 0",
        )
        .fetch_one(&mut *reader)
        .await?;
        if indexes == 0 {
            // Each slice would read the whole table.
            return Err(sqlx::Error::Configuration(
                "`system_metrics` has no index on `recorded_at`; `atlas-sidecar migrate` makes it".into(),
            ));
        }
        let state = tables::state(&mut reader).await?;
        drop(reader);
        Ok((Counters::new(samples::metas(&self.database).await?), state))
    }

    async fn change(&self, change: impl FnOnce(&mut State)) -> Result<(), sqlx::Error> {
        let mut held = Held::begin(&self.database).await?;
        let mut state = tables::state(&mut held.tx).await?;
        change(&mut state);
        tables::remember(&mut held.tx, &state).await?;
        held.commit().await.map(drop)
    }
}

impl RollUps for Buckets {
    fn progress(&self, now: Timestamp) -> Pending<'_, Result<Option<Progress>, StoreError>> {
        Box::pin(async move { progress(&self.database, now).await.map_err(failed) })
    }

    fn roll_up(&self, since: Timestamp, now: Timestamp) -> Box<dyn Chore + '_> {
        Box::new(mirror::Mirror::new(self, since, now))
    }

    fn prune(&self, before: Timestamp) -> Box<dyn Chore + '_> {
        Box::new(prune::Prune::new(self, before))
    }

    fn expire(&self, width: Width, before: Timestamp) -> Box<dyn Chore + '_> {
        Box::new(expire::Expire::new(self, width, before))
    }

    fn due(&self, before: Timestamp) -> Pending<'_, Result<u64, StoreError>> {
        Box::pin(async move { due(&self.database, before).await.map_err(failed) })
    }

    fn kept(&self, before: Timestamp) -> Pending<'_, Result<Kept, StoreError>> {
        Box::pin(async move { kept(&self.database, before).await.map_err(failed) })
    }
}

fn failed(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Configuration(why) => StoreError::Broken(why.to_string()),
        other => store_error(other),
    }
}

/// The write lock, and since when.
struct Held {
    tx: Transaction<'static, Sqlite>,
    since: Instant,
}

impl Held {
    async fn begin(database: &Database) -> Result<Self, sqlx::Error> {
        let tx = database.write().await?;
        Ok(Self { tx, since: Instant::now() })
    }

    /// Ends it and says how long others had to wait.
    async fn commit(self) -> Result<Duration, sqlx::Error> {
        self.tx.commit().await?;
        Ok(self.since.elapsed())
    }
}

/// Rows of the table before `?2`, whichever way their time is written, by the index: numbers, and texts up to `?1`.
macro_rules! before {
    () => {
        concat!(
            "FROM (SELECT metric_name, metric_value, tags, recorded_at, ",
            millis!("recorded_at"),
            " AS at FROM system_metrics WHERE recorded_at < ?1)"
        )
    };
}

/// A text that sorts behind all times before `at`, whatever their offset.
fn text_behind(at: i64) -> String {
    const DAY: i64 = 86_400_000;
    minute(at + OFFSET_MOST + DAY, ' ').chars().take(10).collect()
}

async fn progress(database: &Database, now: Timestamp) -> Result<Option<Progress>, sqlx::Error> {
    let mut reader = database.read(LOOK).await?;
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' \
         AND name IN ('system_metrics', 'sidecar_state', 'sidecar_metrics_series', 'sidecar_metrics_rollup')",
    )
    .fetch_one(&mut *reader)
    .await?;
    if tables < 4 {
        return Ok(None);
    }
    let state = tables::state(&mut reader).await?;
    let time = |millis: Option<i64>| millis.map(Timestamp::from_millis);
    let newest = newest(&mut reader, now).await?;
    Ok(Some(Progress { watermark: time(state.watermark), newest: time(newest) }))
}

/// The newest time that is not after `now`: of texts, of seconds and of milliseconds.
async fn newest(reader: &mut SqliteConnection, now: Timestamp) -> Result<Option<i64>, sqlx::Error> {
    const TEXT: &str = concat!(
        "SELECT ",
        millis!("recorded_at"),
        " AS at FROM system_metrics WHERE recorded_at >= '0' AND recorded_at < ?1 AND at <= ?2 \
         ORDER BY recorded_at DESC LIMIT 1"
    );
    const NUMBER: &str = concat!(
        "SELECT ",
        millis!("recorded_at"),
        " AS at FROM system_metrics WHERE recorded_at > ?3 AND recorded_at <= ?1 AND at <= ?2 \
         ORDER BY recorded_at DESC LIMIT 1"
    );
    let now = now.millis();
    let text: Option<i64> =
        sqlx::query_scalar(TEXT).bind(text_behind(now)).bind(now).fetch_optional(&mut *reader).await?;
    let mut newest = text;
    for (most, least) in [(now as f64 / 1000.0, 1e8), (now as f64, 1e11)] {
        let number: Option<i64> =
            sqlx::query_scalar(NUMBER).bind(most).bind(now).bind(least).fetch_optional(&mut *reader).await?;
        newest = newest.max(number);
    }
    Ok(newest)
}

async fn due(database: &Database, before: Timestamp) -> Result<u64, sqlx::Error> {
    let mut reader = database.read(SCAN).await?;
    let count: i64 = sqlx::query_scalar(concat!("SELECT count(*) ", before!(), " WHERE at < ?2 AND ", sound!()))
        .bind(text_behind(before.millis()))
        .bind(before.millis())
        .fetch_one(&mut *reader)
        .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

async fn kept(database: &Database, before: Timestamp) -> Result<Kept, sqlx::Error> {
    // NULL, blobs and texts that begin with no digit are no times at all; of other texts those that sort before the time that is asked for.
    const NO_TIMES: &str = concat!(
        "SELECT count(*) FROM system_metrics WHERE recorded_at IS NULL OR recorded_at >= ':' OR (recorded_at < ?1 AND ",
        millis!("recorded_at"),
        " IS NULL)"
    );
    const BAD: &str = concat!(
        "SELECT count(*) FILTER (WHERE NOT ",
        sound!(value),
        "), count(*) FILTER (WHERE ",
        sound!(value),
        " AND NOT ",
        sound!(labels),
        ") ",
        before!(),
        " WHERE at < ?2"
    );
    let mut reader = database.read(SCAN).await?;
    let times: i64 = sqlx::query_scalar(NO_TIMES).bind(minute(before.millis(), ' ')).fetch_one(&mut *reader).await?;
    let (values, labels): (i64, i64) =
        sqlx::query_as(BAD).bind(text_behind(before.millis())).bind(before.millis()).fetch_one(&mut *reader).await?;
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(Kept { times: count(times), values: count(values), labels: count(labels) })
}
