//! `table` on SQLite.
//!
//! A question per scrape ("the last row of each series") would read the table over and over, so the table is followed by rowid: new rows have higher
//! ones, whatever their time and in whatever form it is written, so late rows are seen too. Each time
//!
//! 1. the rows that are held are read again by rowid: a changed value is shown changed, a deleted row is shown no more (E-13);
//! 2. rows behind the last rowid are read;
//! 3. where that cannot be trusted, everything is built anew from the last 200,000 rows: when the row at the last rowid
//!    is gone or another one (rowids are given again after deletes, and VACUUM renumbers them), when a series lost its row and an
//!    older one may count again, when more rows came than a rebuild reads, when another sidecar has registered, and every 15 minutes
//!    for the changes of rows that are not held.

mod lifted;

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{IntCounter, Registry};
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Row as _, SqliteConnection};

use self::lifted::Lifted;
use super::times::millis;
use super::{Database, samples};
use crate::clock::Timestamp;
use crate::engine::ids::Registered;
use crate::engine::sqlite::errors::collect_error;
pub use crate::engine::table::NEEDS;
use crate::engine::table::held::Held;
use crate::engine::table::{self, BAD_ROWS, FUTURE_ROWS, HELD_SERIES, MOST, OLD, OVER_LIMIT, Raw, Seen};
use crate::sample::{Batch, Desc, Kind};
use crate::scrape::{CollectError, Collector};
use crate::store::Meta;
use crate::task::Pending;
use crate::telemetry;

/// Rowids that a rebuild reads at most: an hour of 55 rows a second, read in 0.7 s (release build, two busy cores).
const WINDOW: i64 = 200_000;

/// Time after which everything is built anew.
const REBUILD: Duration = Duration::from_secs(900);

/// The families of this module.
pub const METRICS: &[&Desc] = &[&BAD_ROWS, &FUTURE_ROWS, &HELD_SERIES, &OVER_LIMIT, &REBUILDS];

const REBUILDS: Desc = Desc {
    name: "atlas_sidecar_table_rebuilds_total",
    kind: Kind::Counter,
    unit: "rebuilds",
    help: "Times the held rows of system_metrics were built anew; four an hour is normal, once per scrape means that rows are deleted all the time",
};

/// What is selected of a row. What cannot be shown, or is too long to be copied, becomes NULL; a NULL in `tags` is `{}`.
macro_rules! columns {
    () => {
        concat!(
            "SELECT rowid, id IS NULL,",
            " CASE WHEN typeof(metric_name) = 'text' AND octet_length(metric_name) BETWEEN 1 AND 1024 THEN metric_name END,",
            " CASE WHEN typeof(metric_value) IN ('integer', 'real') THEN CAST(metric_value AS REAL) END,",
            " CASE WHEN tags IS NULL THEN '{}' WHEN typeof(tags) = 'text' AND octet_length(tags) <= 65536 THEN tags END, ",
            millis!("recorded_at"),
            " AS at FROM system_metrics WHERE",
            " (id IS NULL OR length(id) <> 36 OR substr(id, 25) NOT IN (SELECT value FROM json_each(?1)))",
            " AND "
        )
    };
}

/// Foreign rows behind a rowid that are young enough, or whose age nobody knows.
const ROWS_BEHIND: &str = concat!(columns!(), "rowid > ?2 AND coalesce(at >= ?3, 1) ORDER BY rowid");

/// The rows that are held.
const ROWS_AT: &str = concat!(columns!(), "rowid IN (SELECT value FROM json_each(?2)) ORDER BY rowid");

/// By what the row at a rowid is known again: its id, or what else it has.
macro_rules! mark {
    () => {
        "CAST(CASE WHEN id IS NULL THEN quote(metric_name) || quote(recorded_at) ELSE id END AS TEXT) FROM system_metrics "
    };
}
const LAST: &str = concat!("SELECT rowid, ", mark!(), "ORDER BY rowid DESC LIMIT 1");
const MARK_AT: &str = concat!("SELECT ", mark!(), "WHERE rowid = ?");

/// The collector.
pub struct Table {
    app: Database,
    metrics: Database,
    limit: Duration,
    own: Own,
    followed: Option<Followed>,
}

/// Everything known about the table, as of the last collection.
struct Followed {
    held: Held,
    registered: Registered,
    metas: BTreeMap<String, Meta>,
    last: Option<Last>,
    rebuilt: Timestamp,
    seen: Seen,
}

/// The row with the highest rowid.
#[derive(Clone, PartialEq)]
struct Last {
    rowid: i64,
    mark: Option<String>,
}

impl Table {
    /// Follows `system_metrics` of `app`, where also the application writes; own instances and kinds are known from both databases.
    pub fn new(app: Database, metrics: Database, limit: Duration, own: Own) -> Self {
        Self { app, metrics, limit, own, followed: None }
    }

    async fn look(&mut self, now: Timestamp) -> Result<(), sqlx::Error> {
        // Taken out: a collection that fails or is dropped half-way leaves nothing half-followed behind.
        let before = self.followed.take();
        let known = before.as_ref().map(|f| f.held.keys()).unwrap_or_default();
        // Each time: a sidecar that has come since registers before it writes, and its rows are not the application's.
        let registered = samples::registered(&self.metrics).await?.and(samples::registered(&self.app).await?);
        let followed = match before {
            Some(followed) if followed.fresh(now) && followed.registered == registered => {
                self.follow(followed, now).await?
            }
            _ => None,
        };
        let followed = match followed {
            Some(followed) => followed,
            None => self.rebuild(Held::expecting(known, MOST), registered, now).await?,
        };
        self.own.shared.show(&followed.seen, &followed.held);
        self.followed = Some(followed);
        Ok(())
    }

    async fn follow(&self, followed: Followed, now: Timestamp) -> Result<Option<Followed>, sqlx::Error> {
        let mut reader = self.app.read(self.limit).await?;
        // One snapshot: what is re-read, what is new and which row is last belong together.
        let mut snapshot = reader.begin().await?;
        followed.follow(&mut snapshot, now).await
    }

    async fn rebuild(&self, held: Held, registered: Registered, now: Timestamp) -> Result<Followed, sqlx::Error> {
        self.own.rebuilds.inc();
        let metas = samples::metas(&self.metrics).await?;
        let mut reader = self.app.read(self.limit).await?;
        let mut snapshot = reader.begin().await?;
        Followed::build(&mut snapshot, now, held, registered, metas).await
    }
}

impl Collector for Table {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            self.look(batch.at).await.map_err(collect_error)?;
            if let Some(followed) = &self.followed {
                table::show(&followed.held, |name| followed.metas.get(name), batch);
            }
            Ok(())
        })
    }
}

impl Followed {
    /// Reads the table's end anew.
    async fn build(
        connection: &mut SqliteConnection,
        now: Timestamp,
        held: Held,
        registered: Registered,
        metas: Vec<Meta>,
    ) -> Result<Self, sqlx::Error> {
        let metas = metas.into_iter().map(|meta| (meta.name.clone(), meta)).collect();
        let last = last_row(connection).await?;
        let from = last.as_ref().map_or(0, |last| last.rowid.saturating_sub(WINDOW));
        let mut followed = Self { held, registered, metas, last, rebuilt: now, seen: Seen::default() };
        followed.read_behind(connection, from, now).await?;
        followed.held.settle();
        Ok(followed)
    }

    /// Whether the last rebuild is near, on either side: a clock that was set back must not keep it from coming.
    fn fresh(&self, now: Timestamp) -> bool {
        now.since(self.rebuilt) < REBUILD && self.rebuilt.since(now) < REBUILD
    }

    /// Goes on from the last look; `None` where only a rebuild can tell.
    async fn follow(mut self, connection: &mut SqliteConnection, now: Timestamp) -> Result<Option<Self>, sqlx::Error> {
        let last = last_row(connection).await?;
        if let Some(seen) = &self.last {
            let mark: Option<Option<String>> =
                sqlx::query_scalar(MARK_AT).bind(seen.rowid).fetch_optional(&mut *connection).await?;
            if mark.as_ref() != Some(&seen.mark) {
                return Ok(None);
            }
        }
        let (from, to) = (self.last.as_ref().map_or(0, |l| l.rowid), last.as_ref().map_or(0, |l| l.rowid));
        if to - from > WINDOW {
            return Ok(None);
        }
        self.last = last;
        self.held.forget_before(now.before(OLD));
        let lifted = Lifted::off(&mut self.held);
        self.read_again(connection, &lifted, now).await?;
        self.read_behind(connection, from, now).await?;
        self.held.settle();
        Ok((!lifted.is_lost(&self.held)).then_some(self))
    }

    async fn read_behind(
        &mut self,
        connection: &mut SqliteConnection,
        rowid: i64,
        now: Timestamp,
    ) -> Result<(), sqlx::Error> {
        let Self { held, registered, seen, .. } = self;
        sqlx::query(ROWS_BEHIND)
            .bind(registered.to_json())
            .bind(rowid)
            .bind(now.before(OLD).millis())
            .try_map(|row| {
                seen.take_in(raw(&row)?, held, now);
                Ok(())
            })
            .fetch_all(connection)
            .await
            .map(drop)
    }

    async fn read_again(
        &mut self,
        connection: &mut SqliteConnection,
        lifted: &Lifted,
        now: Timestamp,
    ) -> Result<(), sqlx::Error> {
        let Self { held, registered, .. } = self;
        let rowids = lifted.rowids();
        if rowids.is_empty() {
            return Ok(());
        }
        // Counted when they were read first, so what has become bad since is only taken out here.
        let mut seen = Seen::default();
        sqlx::query(ROWS_AT)
            .bind(registered.to_json())
            .bind(serde_json::Value::from(rowids).to_string())
            .try_map(|row| {
                if let Some(found) = seen.sort_out(raw(&row)?, now) {
                    lifted.put_back(held, found);
                }
                Ok(())
            })
            .fetch_all(connection)
            .await
            .map(drop)
    }
}

async fn last_row(connection: &mut SqliteConnection) -> Result<Option<Last>, sqlx::Error> {
    let row = sqlx::query(LAST).fetch_optional(connection).await?;
    row.map(|row| Ok(Last { rowid: row.try_get(0)?, mark: row.try_get(1)? })).transpose()
}

fn raw(row: &SqliteRow) -> Result<Raw<'_>, sqlx::Error> {
    Ok(Raw {
        place: row.try_get(0)?,
        no_id: row.try_get(1)?,
        name: row.try_get(2)?,
        value: row.try_get(3)?,
        tags: row.try_get(4)?,
        at: row.try_get(5)?,
        rows: 1,
    })
}

/// The collector's own metrics.
#[derive(Clone)]
pub struct Own {
    shared: table::Own,
    rebuilds: IntCounter,
}

impl Own {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self { shared: table::Own::new(registry), rebuilds: telemetry::counter(registry, &REBUILDS) }
    }
}
