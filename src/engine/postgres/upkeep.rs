//! Upkeep of a PostgreSQL database: [`Upkeep`] as `store.rs` documents it.
//!
//! Only the sidecar's tables and those of the specification, and of these only where the role may: the owner's rights, or MAINTAIN from version 17 on.
//! What is missing of it is said, and is no failure: somebody else vacuums there.
//!
//! - **INVALID leftovers** of a REINDEX CONCURRENTLY that was cancelled are dropped first: they cost each write, and nobody reads them.
//! - **VACUUM (ANALYZE)** of tables with many dead or changed rows, at the pace of autovacuum.
//! - **REINDEX INDEX CONCURRENTLY** of b-trees that are bloated beyond the threshold (`rebuild`).
//!
//! GIN indexes keep themselves: VACUUM brings in their pending entries.
//!
//! These statements refuse to be in a transaction and may take long, so they have a session of their own beside the writer's, and it is closed after each:
//! its settings go with it. The server ends a statement at its `statement_timeout`, which is what the run has left, also where nobody
//! waits for it any more.

mod rebuild;

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Row};

use super::Database;
use super::errors::store_error;
use super::session::within;
use crate::engine::schema::names::{quoted, shown};
use crate::engine::schema::seed::TABLES;
use crate::store::{Load, StoreError, Task, Tended, Tending, Upkeep, Wear};
use crate::task::Pending;

/// What a look at the catalog may take.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// How long a statement waits for somebody's lock. None of these keeps anybody waiting behind it, but a transaction that lasts should not keep us.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// What a lost server is given beyond a statement's limit.
const GRACE: Duration = Duration::from_secs(10);

/// Dead or changed rows, at least, and their share of the live ones in percent: half of what makes autovacuum begin, so that it begins at night.
const LEAST_ROWS: i64 = 1000;
const LEAST_PERCENT: i64 = 10;

/// Looks after one database.
#[derive(Clone, Debug)]
pub struct Keeper {
    database: Database,
}

/// A table that is looked after.
struct Table {
    oid: i64,
    schema: String,
    name: String,
    dead: i64,
    changed: i64,
    live: i64,
    /// Whether the role may vacuum it and rebuild its indexes.
    allowed: bool,
}

impl Table {
    fn is_worn(&self) -> bool {
        let many = |rows| rows >= LEAST_ROWS && rows * 100 >= self.live * LEAST_PERCENT;
        many(self.dead) || many(self.changed)
    }
}

/// `$1`: names of the specification. Tables of others with such a name in front on the search path are not ours, so only visible ones count.
const OURS: &str = "\
    SELECT c.oid::int8, n.nspname::text, c.relname::text, coalesce(s.n_dead_tup, 0), coalesce(s.n_mod_since_analyze, 0), coalesce(s.n_live_tup, 0), \
        pg_has_role(c.relowner, 'USAGE') \
            OR CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END \
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid \
    WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND pg_table_is_visible(c.oid) AND (c.relname = ANY ($1) OR c.relname LIKE 'sidecar\\_%') \
    ORDER BY c.relname";

impl Keeper {
    /// Looks after `database`.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    async fn planned(&self, wear: Wear) -> Result<Vec<Task<'_>>, sqlx::Error> {
        let (ours, missing): (Vec<_>, Vec<_>) = self.tables().await?.into_iter().partition(|table| table.allowed);
        let mut tasks = Vec::new();
        let (left, to_rebuild) = within(LOOK_LIMIT + GRACE, async {
            let mut reader = self.database.read(LOOK_LIMIT).await?;
            let left = rebuild::leftovers(&mut reader, &ours).await?;
            Ok::<_, sqlx::Error>((left, rebuild::bloated(&mut reader, &ours, wear).await?))
        })
        .await
        .flatten()?;
        tasks.extend(left.into_iter().map(|left| left.task(&self.database)));
        tasks.extend(ours.iter().filter(|table| table.is_worn()).map(|table| self.vacuum(table)));
        tasks.extend(to_rebuild.into_iter().map(|index| index.task(&self.database)));
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(|table| shown(&table.name)).collect();
            let why = "the role neither owns them nor has MAINTAIN (PostgreSQL 17)".to_owned();
            tasks.push(Task { step: "vacuum", about: names.join(", "), work: Err(why) });
        }
        Ok(tasks)
    }

    async fn tables(&self) -> Result<Vec<Table>, sqlx::Error> {
        let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        let rows = within(LOOK_LIMIT + GRACE, async {
            let mut reader = self.database.read(LOOK_LIMIT).await?;
            sqlx::query(OURS).bind(&names).fetch_all(&mut *reader).await
        })
        .await
        .flatten()?;
        rows.iter()
            .map(|row| {
                Ok(Table {
                    oid: row.try_get(0)?,
                    schema: row.try_get(1)?,
                    name: row.try_get(2)?,
                    dead: row.try_get(3)?,
                    changed: row.try_get(4)?,
                    live: row.try_get(5)?,
                    allowed: row.try_get(6)?,
                })
            })
            .collect()
    }

    fn vacuum(&self, table: &Table) -> Task<'_> {
        let sql = format!("VACUUM (ANALYZE) {}.{}", quoted(&table.schema), quoted(&table.name));
        Task {
            step: "vacuum",
            about: format!("{} with {} dead rows and {} changed ones", shown(&table.name), table.dead, table.changed),
            work: Ok(Box::new(Statement { database: &self.database, sql: Some(sql) })),
        }
    }
}

impl Upkeep for Keeper {
    fn database(&self) -> String {
        format!("`{}`", self.database.shown())
    }

    fn load(&self, span: Duration) -> Pending<'_, Result<Load, StoreError>> {
        Box::pin(async move {
            let begin = Instant::now();
            let before = transactions(&self.database).await.map_err(store_error)?;
            tokio::time::sleep(span).await;
            let after = transactions(&self.database).await.map_err(store_error)?;
            let transactions = (after - before).max(0) as f64 / begin.elapsed().as_secs_f64();
            // Its host is another one as often as not, and how busy that is nobody tells us.
            Ok(Load { transactions, host_percent: None })
        })
    }

    fn plan(&self, wear: Wear) -> Pending<'_, Result<Vec<Task<'_>>, StoreError>> {
        Box::pin(async move { self.planned(wear).await.map_err(store_error) })
    }
}

/// How many transactions the database has seen. Sessions tell of theirs once a second at most, and only at the end of each.
async fn transactions(database: &Database) -> Result<i64, sqlx::Error> {
    within(LOOK_LIMIT + GRACE, async {
        let mut reader = database.read(LOOK_LIMIT).await?;
        sqlx::query_scalar(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()",
        )
        .fetch_one(&mut *reader)
        .await
    })
    .await
    .flatten()
}

/// Runs `sql` in a session of its own, outside of a transaction, and lets the server end it after `limit`.
async fn alone(database: &Database, sql: &str, limit: Duration) -> Result<(), sqlx::Error> {
    let mut session = database.aside().await?;
    // At autovacuum's pace: by hand, VACUUM would take all that the disk gives. The rest is bounded by `limit` in any case.
    let settings = format!(
        "SET statement_timeout = {}; SET lock_timeout = {}; SET vacuum_cost_delay = 2",
        limit.as_millis().max(1),
        LOCK_LIMIT.min(limit).as_millis().max(1)
    );
    let done = within(limit + GRACE, async {
        sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut *session).await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *session).await
    })
    .await
    .flatten();
    session.close().await;
    done.map(drop)
}

/// A statement that is a task.
struct Statement<'a> {
    database: &'a Database,
    sql: Option<String>,
}

impl Tending for Statement<'_> {
    fn next(&mut self, within: Duration) -> Pending<'_, Result<Option<Tended>, StoreError>> {
        Box::pin(async move {
            let Some(sql) = &self.sql else { return Ok(None) };
            alone(self.database, sql, within).await.map_err(store_error)?;
            self.sql = None;
            Ok(Some(Tended::default()))
        })
    }
}
