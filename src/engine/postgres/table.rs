//! `table` on PostgreSQL.
//!
//! A row has no number here that only grows: a place in the table (`ctid`) is given again, a new version of a row lies elsewhere, and transactions end
//! in another order than they began. So nothing is followed: each time the rows of the last hour are read anew by their time, and whatever was
//! added late, changed or deleted is seen (E-13).
//!
//! - The server reduces them: of each name and tags, and each fate, one row comes over, the latest, with how many there are. That is one pass and a hash
//!   table, no sort. Own rows are left out first.
//! - Of two rows of one time the one further behind in the table counts (T-7): the later one, unless rows that were deleted left room in front.
//! - The hour is found by an index on `recorded_at`, which `migrate` makes. A big table without one would be read as a whole every minute, and a
//!   guest does not do that: the collector fails and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::atlas::fit;
use super::errors::collect_error;
use super::numbers::number;
use super::times::millis;
use super::{Database, samples};
use crate::clock::Timestamp;
use crate::engine::ids::Registered;
use crate::engine::table::held::Held;
use crate::engine::table::{self, AHEAD, BAD_ROWS, FUTURE_ROWS, HELD_SERIES, MOST, OLD, OVER_LIMIT, Raw, Seen};
pub use crate::engine::table::{NEEDS, Own};
use crate::sample::{Batch, Desc};
use crate::scrape::{CollectError, Collector};
use crate::store::Meta;
use crate::task::Pending;

/// The size up to which a table is read as a whole: some 500,000 rows, read in a fraction of a second.
const SMALL: i64 = 64 << 20;

/// The families of this module.
pub const METRICS: &[&Desc] = &[&BAD_ROWS, &FUTURE_ROWS, &HELD_SERIES, &OVER_LIMIT];

/// Foreign rows that are young enough, or whose age nobody knows. What cannot be shown, or is too long to be copied, becomes NULL; a NULL in `tags`
/// is `{}`. A `ctid` has no numbers but in its text, `(block,row)`, which is also how a point is written.
const ROWS: &str = concat!(
    "WITH found AS (SELECT id IS NULL AS no_id,",
    " CASE WHEN octet_length(metric_name::text) BETWEEN 1 AND 1024 THEN metric_name::text COLLATE \"C\" END AS name, ",
    number!("metric_value"),
    " AS value,",
    " CASE WHEN tags IS NULL THEN '{}' WHEN octet_length(tags::text) <= 65536 THEN tags::text COLLATE \"C\" END AS tags, ",
    millis!("recorded_at"),
    " AS at, ctid::text::point AS place",
    " FROM system_metrics WHERE (recorded_at >= to_timestamp($2) OR recorded_at IS NULL)",
    " AND (id IS NULL OR length(id::text) <> 36 OR right(id::text, 12) <> ALL(ARRAY(SELECT json_array_elements_text($1::json)))))",
    " SELECT no_id, name, tags, count(*), max(ARRAY[at, place[0] * 65536 + place[1], value])",
    " FROM found GROUP BY no_id, name, tags, value IS NULL, at > $3"
);

/// The size of the table in bytes, its partitions together, and whether an index begins with its time.
const SHAPE: &str = "SELECT coalesce((SELECT sum(pg_relation_size(relid))::int8 FROM pg_partition_tree(a.attrelid)), pg_relation_size(a.attrelid)), \
     EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = a.attrelid AND i.indkey[0] = a.attnum AND i.indisvalid AND i.indpred IS NULL) \
     FROM pg_catalog.pg_attribute a WHERE a.attrelid = to_regclass('system_metrics') AND a.attname = 'recorded_at'";

/// The collector.
pub struct Table {
    app: Database,
    metrics: Database,
    limit: Duration,
    own: Own,
    /// What was shown last: where there is too much, it comes first (E-12).
    held: Held,
}

impl Table {
    /// Reads `system_metrics` of `app`, where also the application writes; own instances and kinds are known from both databases.
    pub fn new(app: Database, metrics: Database, limit: Duration, own: Own) -> Self {
        Self { app, metrics, limit, own, held: Held::expecting(BTreeSet::new(), MOST) }
    }

    async fn look(&mut self, now: Timestamp) -> Result<BTreeMap<String, Meta>, sqlx::Error> {
        // Each time: a sidecar that has come since registers before it writes, and its rows are not the application's.
        let registered = samples::registered(&self.metrics).await?.and(samples::registered(&self.app).await?);
        let metas = samples::metas(&self.metrics).await?;
        let mut reader = self.app.read(self.limit).await?;
        fit(&mut reader, &NEEDS).await?;
        bearable(&mut reader).await?;
        self.held.lift();
        let seen = read_into(&mut self.held, &mut reader, &registered, now).await?;
        self.held.settle();
        self.own.show(&seen, &self.held);
        Ok(metas.into_iter().map(|meta| (meta.name.clone(), meta)).collect())
    }
}

impl Collector for Table {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            let metas = self.look(batch.at).await.map_err(collect_error)?;
            table::show(&self.held, |name| metas.get(name), batch);
            Ok(())
        })
    }
}

/// Whether the last hour can be read without reading everything.
async fn bearable(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let shape: Option<(i64, bool)> = sqlx::query_as(SHAPE).fetch_optional(connection).await?;
    let why = match shape {
        Some((bytes, false)) if bytes > SMALL => format!(
            "`system_metrics` has {} MiB and no index on `recorded_at` by which to find the last hour; `atlas-sidecar migrate` makes one",
            bytes >> 20
        ),
        // Where there is no such table, the reading itself says so.
        _ => return Ok(()),
    };
    Err(sqlx::Error::Decode(Box::new(CollectError::TooLarge(why))))
}

async fn read_into(
    held: &mut Held,
    connection: &mut PgConnection,
    registered: &Registered,
    now: Timestamp,
) -> Result<Seen, sqlx::Error> {
    let mut seen = Seen::default();
    sqlx::query(ROWS)
        .bind(registered.to_json())
        .bind(now.before(OLD).seconds())
        .bind(now.after(AHEAD).millis())
        // Planned with these times: what is planned for any time would take a third of the table for the last hour.
        .persistent(false)
        .try_map(|row| {
            seen.take_in(raw(&row)?, held, now);
            Ok(())
        })
        .fetch_all(connection)
        .await?;
    Ok(seen)
}

fn raw(row: &PgRow) -> Result<Raw<'_>, sqlx::Error> {
    let rows: i64 = row.try_get(3)?;
    let latest: [Option<f64>; 3] = row.try_get(4)?;
    let [at, place, value] = latest;
    Ok(Raw {
        place: place.unwrap_or(0.0) as i64,
        no_id: row.try_get(0)?,
        name: row.try_get(1)?,
        value,
        tags: row.try_get(2)?,
        at: at.map(|at| at as i64),
        rows: rows.unsigned_abs(),
    })
}
