//! Indexes: rebuilding those that are bloated, and dropping what a rebuilding left behind.
//!
//! After many rows were deleted a b-tree keeps its size: 76 MiB were 33 MiB when it was rebuilt. `REINDEX INDEX CONCURRENTLY` keeps nobody from writing, but
//! waits for every transaction that is older than itself; so it is not begun while an old one is there. Where it is ended midway (by its
//! `statement_timeout`, its `lock_timeout`, somebody's cancel, a crash) an INVALID index is left, named `_ccnew` or `_ccold` behind the index's name. It is
//! dropped at once, and where that is not possible, by the next run.

use std::time::Duration;

use sqlx::{PgConnection, Row};

use super::{GRACE, LOOK_LIMIT, Statement, Table, alone};
use crate::engine::postgres::Database;
use crate::engine::postgres::errors::store_error;
use crate::engine::postgres::session::within as limited;
use crate::engine::postgres::stats::SIZES;
use crate::engine::schema::names::{quoted, shown};
use crate::store::{StoreError, Task, Tended, Tending, Wear};
use crate::task::Pending;

/// An index that is smaller is not worth it.
const LEAST_BYTES: f64 = (1 << 20) as f64;

/// A transaction of this age is in the way of a rebuilding: it may last as long again.
const OLD: &str = "5 minutes";

/// INVALID indexes on tables `$1` whose names a rebuilding gives, unless somebody is building one there just now. Another index that is INVALID is
/// somebody's CREATE INDEX CONCURRENTLY, and theirs to repeat.
const LEFTOVERS: &str = "\
    SELECT n.nspname::text, c.relname::text, t.relname::text \
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_class AS t ON t.oid = i.indrelid \
    WHERE NOT i.indisvalid AND i.indrelid::int8 = ANY ($1) AND c.relname ~ '_cc(new|old)[0-9]*$' AND pg_has_role(t.relowner, 'USAGE') \
        AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.datname = current_database() AND p.relid = i.indrelid) \
    ORDER BY 1, 2";

/// The oldest transaction's age in seconds, and whether it is an old one. Sessions of other roles show theirs to members of `pg_read_all_stats` only; for those that do not,
/// `lock_timeout` bounds the waiting.
const OLDEST: &str = "\
    SELECT extract(epoch FROM max(now() - xact_start))::float8, coalesce(max(now() - xact_start) > $1::text::interval, false) FROM pg_stat_activity \
    WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND datname = current_database()";

/// An INVALID index that a rebuilding left.
pub(super) struct Leftover {
    schema: String,
    name: String,
    table: String,
}

impl Leftover {
    pub(super) fn task(self, database: &Database) -> Task<'_> {
        Task {
            step: "drop_leftover",
            about: format!("{} on {}, INVALID", shown(&self.name), shown(&self.table)),
            work: Ok(Box::new(Statement { database, sql: Some(self.sql()) })),
        }
    }

    fn sql(&self) -> String {
        format!("DROP INDEX CONCURRENTLY IF EXISTS {}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// Those on `tables`.
pub(super) async fn leftovers(reader: &mut PgConnection, tables: &[Table]) -> Result<Vec<Leftover>, sqlx::Error> {
    leftovers_on(reader, &oids(tables)).await
}

async fn leftovers_on(reader: &mut PgConnection, tables: &[i64]) -> Result<Vec<Leftover>, sqlx::Error> {
    let rows = sqlx::query(LEFTOVERS).bind(tables).fetch_all(reader).await?;
    rows.iter()
        .map(|row| Ok(Leftover { schema: row.try_get(0)?, name: row.try_get(1)?, table: row.try_get(2)? }))
        .collect()
}

fn oids(tables: &[Table]) -> Vec<i64> {
    tables.iter().map(|table| table.oid).collect()
}

/// A bloated index.
pub(super) struct Bloated {
    schema: String,
    name: String,
    oid: i64,
    table: i64,
    bytes: f64,
    unused: f64,
}

/// Those on `tables` of which more than `wear` allows lies unused, the worst first.
pub(super) async fn bloated(
    reader: &mut PgConnection,
    tables: &[Table],
    wear: Wear,
) -> Result<Vec<Bloated>, sqlx::Error> {
    // The estimate names what it tells of as the metrics do; here it has to be found again.
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text, c.oid::int8, i.indrelid::int8, s.bytes, s.unused \
         FROM ({SIZES}) AS s(object, relation, kind, bytes, unused) \
         JOIN pg_class AS c ON c.relkind = 'i' JOIN pg_namespace AS n ON n.oid = c.relnamespace \
            AND s.object = CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname \
         JOIN pg_index AS i ON i.indexrelid = c.oid \
         WHERE s.kind = 'index' AND i.indisvalid AND i.indrelid::int8 = ANY ($1) AND s.bytes >= $2 AND s.unused * 100 > s.bytes * $3 ORDER BY s.unused DESC"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(oids(tables))
        .bind(LEAST_BYTES)
        .bind(wear.unused_percent as f64)
        .fetch_all(reader)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Bloated {
                schema: row.try_get(0)?,
                name: row.try_get(1)?,
                oid: row.try_get(2)?,
                table: row.try_get(3)?,
                bytes: row.try_get(4)?,
                unused: row.try_get(5)?,
            })
        })
        .collect()
}

impl Bloated {
    pub(super) fn task(self, database: &Database) -> Task<'_> {
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let about = format!("{} with {:.1} of {:.1} MiB unused", shown(&self.name), mib(self.unused), mib(self.bytes));
        Task { step: "reindex", about, work: Ok(Box::new(Rebuilding { database, index: Some(self) })) }
    }
}

/// Rebuilds one index.
struct Rebuilding<'a> {
    database: &'a Database,
    index: Option<Bloated>,
}

impl Rebuilding<'_> {
    async fn rebuild(&self, index: &Bloated, limit: Duration) -> Result<Tended, StoreError> {
        self.require_no_old_transaction().await?;
        let sql = format!("REINDEX INDEX CONCURRENTLY {}.{}", quoted(&index.schema), quoted(&index.name));
        if let Err(e) = alone(self.database, &sql, limit).await {
            self.clear(index.table).await;
            // Not `Busy`, after which the same would be tried again at once: what was in the way may last, and each try is a whole index.
            return Err(match store_error(e) {
                StoreError::Busy(why) => StoreError::Broken(why),
                other => other,
            });
        }
        let after = self.size(index).await.map_err(store_error)?;
        Ok(Tended { freed: (index.bytes - after).max(0.0) as u64, ..Tended::default() })
    }

    async fn require_no_old_transaction(&self) -> Result<(), StoreError> {
        let row = limited(LOOK_LIMIT + GRACE, async {
            let mut reader = self.database.read(LOOK_LIMIT).await?;
            sqlx::query_as(OLDEST).bind(OLD).fetch_one(&mut *reader).await
        });
        let (age, is_old): (Option<f64>, bool) = row.await.flatten().map_err(store_error)?;
        match is_old {
            true => Err(StoreError::Broken(format!(
                "a transaction has been open for {:.0} s, and rebuilding would wait for it",
                age.unwrap_or_default()
            ))),
            false => Ok(()),
        }
    }

    /// Drops what an ended rebuilding left on `table`. What does not work now is the next run's.
    async fn clear(&self, table: i64) {
        let left = limited(LOOK_LIMIT + GRACE, async {
            let mut reader = self.database.read(LOOK_LIMIT).await?;
            leftovers_on(&mut reader, &[table]).await
        });
        for left in left.await.flatten().unwrap_or_default() {
            let _ = alone(self.database, &left.sql(), LOOK_LIMIT).await;
        }
    }

    async fn size(&self, index: &Bloated) -> Result<f64, sqlx::Error> {
        limited(LOOK_LIMIT + GRACE, async {
            let mut reader = self.database.read(LOOK_LIMIT).await?;
            sqlx::query_scalar("SELECT coalesce(pg_relation_size($1::int8::oid), 0)::float8")
                .bind(index.oid)
                .fetch_one(&mut *reader)
                .await
        })
        .await
        .flatten()
    }
}

impl Tending for Rebuilding<'_> {
    fn next(&mut self, within: Duration) -> Pending<'_, Result<Option<Tended>, StoreError>> {
        Box::pin(async move {
            let Some(index) = &self.index else { return Ok(None) };
            let tended = self.rebuild(index, within).await?;
            self.index = None;
            Ok(Some(tended))
        })
    }
}
