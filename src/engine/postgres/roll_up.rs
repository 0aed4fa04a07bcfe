//! Roll-ups on PostgreSQL: [`RollUps`] as `store.rs` documents it; what is decided, and why no row is lost, is in [`crate::engine::roll_up`].
//!
//! Writers do not wait for each other here, so rows are read in the transaction that writes their buckets. Sidecars take turns by an advisory lock
//! of the transaction: it ends with it, whatever becomes of the process, and works behind a pooler. There are no rowids to tell what is new, so the last
//! [`LATE`] before the watermark are mirrored again by each run; what comes later than that is counted when it is deleted.

mod expire;
mod mirror;
mod prune;
mod rows;
mod tables;

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Row as _};

use self::rows::{sound, time};
use super::Database;
use super::Writer;
use super::errors::store_error;
use crate::clock::Timestamp;
use crate::engine::roll_up::State;
use crate::engine::roll_up::counters::Counters;
use crate::sample::Kind;
use crate::store::{Chore, Kept, Meta, Progress, RollUps, StoreError, Width};
use crate::task::Pending;

/// How far back rows are mirrored again, for those that came late.
pub const LATE: Duration = Duration::from_secs(2 * 3600);

/// What a look at a few rows may take.
const LOOK: Duration = Duration::from_secs(30);

/// What looking through all rows that are past their age may take.
const SCAN: Duration = Duration::from_secs(600);

/// The advisory lock of the roll-ups: `atlas_ru` in ASCII.
const LOCK: i64 = 0x6174_6c61_735f_7275;

/// Roll-ups of the `system_metrics` of one database, beside it: deleting a row and counting it is one transaction.
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
        let indexed: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
             WHERE i.indrelid = 'system_metrics'::regclass AND a.attname = 'recorded_at' AND i.indisvalid AND i.indpred IS NULL)",
        )
        .fetch_one(&mut *reader)
        .await?;
        if !indexed {
            // Each slice would read the whole table.
            return Err(sqlx::Error::Configuration(
                "`system_metrics` has no index on `recorded_at`; `atlas-sidecar migrate` makes it".into(),
            ));
        }
        let state = tables::state(&mut reader).await?;
        let kinds: Vec<(String, String)> =
            sqlx::query_as("SELECT name, kind FROM sidecar_metric_meta").fetch_all(&mut *reader).await?;
        let metas = kinds.into_iter().map(|(name, word)| Meta { name, kind: kind_of(&word), help: String::new() });
        Ok((Counters::new(metas.collect()), state))
    }
}

fn kind_of(word: &str) -> Kind {
    [Kind::Counter, Kind::Gauge, Kind::Histogram, Kind::Summary]
        .into_iter()
        .find(|kind| kind.word() == word)
        .unwrap_or(Kind::Unknown)
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
        Box::pin(async move { kept(&self.database, before).await.map(|kept| kept.labels).map_err(failed) })
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

/// A transaction with the lock, and since when.
struct Held {
    tx: Writer,
    since: Instant,
}

impl Held {
    async fn begin(database: &Database) -> Result<Self, sqlx::Error> {
        let mut tx = database.write().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
        Ok(Self { tx, since: Instant::now() })
    }

    async fn commit(self) -> Result<Duration, sqlx::Error> {
        self.tx.commit().await?;
        Ok(self.since.elapsed())
    }
}

async fn progress(database: &Database, now: Timestamp) -> Result<Option<Progress>, sqlx::Error> {
    let mut reader = database.read(LOOK).await?;
    let there: bool = sqlx::query_scalar(
        "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest(ARRAY['system_metrics', 'sidecar_state', \
         'sidecar_metric_meta', 'sidecar_metrics_series', 'sidecar_metrics_rollup']) AS name",
    )
    .fetch_one(&mut *reader)
    .await?;
    if !there {
        return Ok(None);
    }
    let state = tables::state(&mut reader).await?;
    // A BRIN index finds no greatest value: the last two days first, and everything only where they are empty.
    let sql = concat!(
        "SELECT ",
        rows::millis!(),
        " FROM (SELECT max(recorded_at) AS recorded_at FROM system_metrics WHERE recorded_at >= ",
        time!("$1"),
        " AND recorded_at <= ",
        time!("$2"),
        ") AS newest"
    );
    let mut newest: Option<i64> = None;
    for since in [now.before(Duration::from_secs(2 * 86_400)).millis(), tables::NEVER] {
        newest = sqlx::query_scalar(sql).bind(since).bind(now.millis()).fetch_one(&mut *reader).await?;
        if newest.is_some() {
            break;
        }
    }
    let time = |millis: Option<i64>| millis.map(Timestamp::from_millis);
    Ok(Some(Progress { watermark: time(state.watermark), newest: time(newest) }))
}

/// `labels` counts all rows before `before` that are sound by what SQL can tell: after a prune, those whose tags are no object, or that somebody
/// had locked.
async fn kept(database: &Database, before: Timestamp) -> Result<Kept, sqlx::Error> {
    let mut reader = database.read(SCAN).await?;
    let sql = concat!(
        "SELECT count(*) FILTER (WHERE NOT ",
        sound!(),
        "), count(*) FILTER (WHERE ",
        sound!(),
        "), (SELECT count(*) FROM system_metrics WHERE recorded_at IS NULL OR NOT isfinite(recorded_at)) \
         FROM system_metrics WHERE isfinite(recorded_at) AND recorded_at < ",
        time!("$1")
    );
    let row = sqlx::query(AssertSqlSafe(sql)).bind(before.millis()).fetch_one(&mut *reader).await?;
    let count = |at: usize| Ok::<u64, sqlx::Error>(u64::try_from(row.try_get::<i64, _>(at)?).unwrap_or(0));
    Ok(Kept { times: count(2)?, values: count(0)?, labels: count(1)? })
}
