//! The collector `table`: what the application itself writes to `system_metrics` is shown like any other source.
//!
//! A question per scrape ("the last row of each series") would read the table over and over, so the latest row per foreign series is
//! held in memory (`held`) and the table is followed by rowid: new rows have higher ones, whatever their time and in
//! whatever form it is written, so late rows are seen too. Each time
//!
//! 1. the rows that are held are read again by rowid: a changed value is shown changed, a deleted row is shown no more (E-13);
//! 2. rows behind the last rowid are read;
//! 3. where that cannot be trusted, everything is built anew from the last 200,000 rows: when the row at the last rowid
//!    is gone or another one (rowids are given again after deletes, and VACUUM renumbers them), when a series lost its row and an
//!    older one may count again, when more rows came than a rebuild reads, when another sidecar has registered, and every 15 minutes
//!    for the changes of rows that are not held.
//!
//! Own rows are known by their ids and left out in SQL, before they cost anything. Rows without id, with values that are no
//! numbers, with tags that are no object, and with times that cannot be read are counted by reason and never shown (V-7, V-8, V-11, T-2, T-4).

mod held;

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{GaugeVec, IntCounter, IntGauge, Registry};
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Row as _, SqliteConnection};

use self::held::{Found, Held, Most};
use super::atlas::Needs;
use super::times::millis;
use super::{Database, samples};
use crate::clock::Timestamp;
use crate::engine::ids::Registered;
use crate::engine::sqlite::errors::collect_error;
use crate::sample::{Batch, Desc, Family, Kind, Origin, Sample, Suffix, tags};
use crate::scrape::{CollectError, Collector};
use crate::store::Meta;
use crate::task::Pending;
use crate::telemetry;

/// Rowids that a rebuild reads at most: an hour of 55 rows a second, read in 0.7 s (release build, two busy cores).
const WINDOW: i64 = 200_000;

/// What is held at most: 50,000 series, and 32 MiB of names and labels, for one tag may have 64 KiB.
const MOST: Most = Most { series: 50_000, bytes: 32 << 20 };

/// Age at which a row is no longer what is the case.
const OLD: Duration = Duration::from_secs(3600);

/// How far ahead a row's clock may be (T-3).
const AHEAD: Duration = Duration::from_secs(300);

/// Time after which everything is built anew.
const REBUILD: Duration = Duration::from_secs(900);

/// What it reads.
pub const NEEDS: Needs = Needs {
    table: "system_metrics",
    columns: &["id", "metric_name", "metric_value", "tags", "recorded_at"],
    times: &["recorded_at"],
    numbers: &["metric_value"],
    rowid: true,
};

/// The families of this module.
pub const METRICS: &[&Desc] = &[&BAD_ROWS, &FUTURE_ROWS, &HELD_SERIES, &OVER_LIMIT, &REBUILDS];

const BAD_ROWS: Desc = Desc {
    name: "atlas_sidecar_table_bad_rows",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows of the application in system_metrics that cannot be shown, by reason, seen since the last rebuild (every 15 minutes) among \
           the last 200,000; anything above 0 is a writer to be corrected",
};
const FUTURE_ROWS: Desc = Desc {
    name: "atlas_sidecar_table_future_rows",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows in system_metrics dated more than 5 minutes ahead, seen since the last rebuild and not shown; a writer's clock or time zone is wrong",
};
const HELD_SERIES: Desc = Desc {
    name: "atlas_sidecar_table_series",
    kind: Kind::Gauge,
    unit: "series",
    help: "Series that the application writes to system_metrics and that are shown; at most 50,000",
};
const OVER_LIMIT: Desc = Desc {
    name: "atlas_sidecar_table_rows_over_limit",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows in system_metrics of series beyond what is held (50,000 series, 32 MiB of labels), seen since the last rebuild; look for a tag that never repeats",
};
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

/// What was not shown since the last rebuild.
#[derive(Default)]
struct Seen {
    bad: BTreeMap<&'static str, u64>,
    future: u64,
    over_limit: u64,
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
        self.own.show(&followed);
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
            batch.origin = Origin::Table;
            if let Some(followed) = &self.followed {
                followed.show(batch);
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
        self.read_held_again(connection, now).await?;
        self.read_behind(connection, from, now).await?;
        Ok(self.held.settle().then_some(self))
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
                if let Some(found) = seen.sort_out(&row, now)?
                    && !held.offer(found)
                {
                    seen.over_limit += 1;
                }
                Ok(())
            })
            .fetch_all(connection)
            .await
            .map(drop)
    }

    async fn read_held_again(&mut self, connection: &mut SqliteConnection, now: Timestamp) -> Result<(), sqlx::Error> {
        let Self { held, registered, .. } = self;
        let rowids = held.lift();
        if rowids.is_empty() {
            return Ok(());
        }
        // Counted when they were read first, so what has become bad since is only taken out here.
        let mut seen = Seen::default();
        sqlx::query(ROWS_AT)
            .bind(registered.to_json())
            .bind(serde_json::Value::from(rowids).to_string())
            .try_map(|row| {
                if let Some(found) = seen.sort_out(&row, now)? {
                    held.put_back(found);
                }
                Ok(())
            })
            .fetch_all(connection)
            .await
            .map(drop)
    }

    fn show(&self, batch: &mut Batch) {
        for (name, labels, value, at) in self.held.rows() {
            let meta = self.metas.get(name);
            let help = meta.map(|meta| meta.help.clone()).filter(|help| !help.is_empty());
            let help = help.unwrap_or_else(|| "Written to system_metrics by others than the sidecar.".to_owned());
            let sample = Sample { suffix: Suffix::None, labels: labels.clone(), value, at: Some(at) };
            // Rows come by name: a new name is a new family, and need not be looked for among tens of thousands.
            match batch.families.last_mut().filter(|family| family.name == name) {
                Some(family) => family.samples.push(sample),
                None => batch.families.push(Family {
                    name: name.to_owned().into(),
                    kind: kind_of(name, meta),
                    help: help.into(),
                    samples: vec![sample],
                }),
            }
        }
    }
}

/// what somebody said about the name, else what its ending says. A row is one series, so never a histogram or summary.
fn kind_of(name: &str, meta: Option<&Meta>) -> Kind {
    match meta.map(|meta| meta.kind) {
        Some(kind @ (Kind::Counter | Kind::Gauge)) => kind,
        _ if ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)) => Kind::Counter,
        _ => Kind::Gauge,
    }
}

async fn last_row(connection: &mut SqliteConnection) -> Result<Option<Last>, sqlx::Error> {
    let row = sqlx::query(LAST).fetch_optional(connection).await?;
    row.map(|row| Ok(Last { rowid: row.try_get(0)?, mark: row.try_get(1)? })).transpose()
}

impl Seen {
    /// The row, if it can be shown now; otherwise it is counted.
    fn sort_out(&mut self, row: &SqliteRow, now: Timestamp) -> Result<Option<Found>, sqlx::Error> {
        let reason = match parts(row)? {
            Ok(found) if found.at > now.after(AHEAD) => {
                self.future += 1;
                return Ok(None);
            }
            Ok(found) if found.at < now.before(OLD) => return Ok(None),
            Ok(found) => return Ok(Some(found)),
            Err(reason) => reason,
        };
        *self.bad.entry(reason).or_default() += 1;
        Ok(None)
    }
}

/// The row's parts, or why they cannot be shown.
fn parts(row: &SqliteRow) -> Result<Result<Found, &'static str>, sqlx::Error> {
    if row.try_get(1)? {
        return Ok(Err("null_id"));
    }
    let Some(name) = row.try_get::<Option<String>, _>(2)? else { return Ok(Err("name")) };
    let Some(value) = row.try_get::<Option<f64>, _>(3)? else { return Ok(Err("value")) };
    let Some(Ok(labels)) = row.try_get::<Option<&str>, _>(4)?.map(|json| tags::from_json(Some(json))) else {
        return Ok(Err("tags"));
    };
    let Some(at) = row.try_get::<Option<i64>, _>(5)? else { return Ok(Err("time")) };
    Ok(Ok(Found { rowid: row.try_get(0)?, name, labels, value, at: Timestamp::from_millis(at) }))
}

/// The collector's own metrics.
#[derive(Clone)]
pub struct Own {
    bad: GaugeVec,
    future: IntGauge,
    series: IntGauge,
    over_limit: IntGauge,
    rebuilds: IntCounter,
}

impl Own {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let bad = telemetry::gauges(registry, &BAD_ROWS, &["reason"]);
        for reason in ["null_id", "name", "value", "tags", "time"] {
            bad.with_label_values(&[reason]).set(0.0);
        }
        Self {
            bad,
            future: telemetry::int_gauge(registry, &FUTURE_ROWS),
            series: telemetry::int_gauge(registry, &HELD_SERIES),
            over_limit: telemetry::int_gauge(registry, &OVER_LIMIT),
            rebuilds: telemetry::counter(registry, &REBUILDS),
        }
    }

    fn show(&self, followed: &Followed) {
        for reason in ["null_id", "name", "value", "tags", "time"] {
            let count = followed.seen.bad.get(reason).copied().unwrap_or(0);
            self.bad.with_label_values(&[reason]).set(count as f64);
        }
        self.future.set(followed.seen.future as i64);
        self.series.set(followed.held.len() as i64);
        self.over_limit.set(followed.seen.over_limit as i64);
    }
}
