//! Doing what a plan says, in PostgreSQL's way: a migration's lock is an advisory one of the database.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, Postgres};

use super::plan::{Concurrent, Dialect, Never, Plan, plan};
use super::{about, inventory};
use crate::engine::postgres::errors::{said, state};
use crate::engine::postgres::{Database, Writer};
use crate::engine::schema::apply::{Asked, Failure, Pace, Site};
use crate::engine::schema::names::shown;
use crate::retry::Backoff;

/// The key of the advisory lock that every migration of a database holds: `ATLASSID` in ASCII.
pub const LOCK: i64 = 0x4154_4C41_5353_4944;

/// How long a step waits for the application's locks. While it waits, everybody waits behind it: so a little, and again later.
const LOCK_WAIT: &str = "1s";

/// How long a concurrent build waits for each transaction that is older than it. Nobody waits behind it meanwhile.
const BUILD_WAIT: &str = "30s";

/// Reading a schema is a matter of milliseconds; this is for a server that hangs.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// A database, and what may be changed of what it has.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The database.
    pub database: &'a Database,
    /// `database.widen_metric_value`.
    pub widen: bool,
}

impl Site for Target<'_> {
    type Dialect = Dialect;
    type Database = Postgres;
    type Transaction = Writer;

    // The application goes on in between.
    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(2) };

    fn name(&self) -> String {
        self.database.shown().to_owned()
    }

    /// Databases are made by `createdb`; an empty one is told by what is in it.
    fn made(&self) -> bool {
        false
    }

    async fn commit(&self, transaction: Writer) -> Result<(), sqlx::Error> {
        transaction.commit().await
    }

    async fn begin(&self) -> Result<Writer, Failure> {
        let failed = |e| self.failure("begin", &e);
        let mut transaction = self.database.write().await.map_err(failed)?;
        execute(&mut transaction, format!("SET LOCAL lock_timeout = '{LOCK_WAIT}'")).await.map_err(failed)?;
        self.lock(&mut transaction, "pg_try_advisory_xact_lock").await?;
        Ok(transaction)
    }

    async fn plan(&self, connection: &mut PgConnection, asked: Asked<'_>) -> Result<Plan, Failure> {
        let failed = |e| self.failure("read the schema", &e);
        let about = about::read(connection).await.map_err(failed)?;
        about.supported().map_err(Failure::Broken)?;
        let inventory = inventory::read(connection).await.map_err(failed)?;
        plan(&Dialect { about, widen: self.widen }, &inventory, asked).map_err(|mut error| {
            // There may be two databases.
            error.message = format!("database `{}`: {}", self.name(), error.message);
            Failure::Broken(error)
        })
    }

    async fn glance(&self, asked: Asked<'_>) -> Result<Plan, Failure> {
        let mut reader = self.database.read(LOOK_LIMIT).await.map_err(|e| self.failure("read the schema", &e))?;
        self.plan(&mut reader, asked).await
    }

    async fn sql(&self, connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
        execute(connection, sql).await
    }

    async fn fill_access_count(&self, connection: &mut PgConnection, pace: &mut Pace) -> Result<bool, sqlx::Error> {
        // By pages, because no index finds the NULLs; from PostgreSQL 14 on only those pages are read. A row that the application changes on the way may
        // move to a page that is done, and keep its NULL: it is what a row gets that the application writes without a count, so whoever reads the column has to
        // expect it anyway.
        let pages = "SELECT pg_relation_size('content_metadata') / current_setting('block_size')::bigint";
        let pages: i64 = sqlx::query_scalar(pages).fetch_one(&mut *connection).await?;
        let first = pace.after.unwrap_or(0);
        if first >= pages {
            return Ok(false);
        }
        let update = "UPDATE content_metadata SET access_count = 0
                      WHERE access_count IS NULL AND ctid >= format('(%s,0)', $1)::tid AND ctid < format('(%s,0)', $2)::tid";
        let next = first + pace.rows;
        sqlx::query(update).bind(first).bind(next).execute(&mut *connection).await?;
        pace.after = Some(next);
        Ok(true)
    }

    async fn fill(&self, _: &mut PgConnection, never: &Never, _: &mut Pace) -> Result<bool, sqlx::Error> {
        match *never {}
    }

    async fn outside(&self, (what, index): (&str, &Concurrent), asked: Asked<'_>) -> Result<bool, Failure> {
        // A connection of its own, closed at its end: with it go its settings and its lock, however this ends.
        let mut session = self.database.alone().await.map_err(|e| self.failure(what, &e))?;
        let done = self.build(&mut session, (what, index), asked).await;
        session.close().await;
        done
    }

    fn failure(&self, what: &str, error: &sqlx::Error) -> Failure {
        // lock_not_available, deadlock_detected, serialization_failure.
        let busy = matches!(error, sqlx::Error::PoolTimedOut)
            || matches!(state(error).as_deref(), Some("55P03" | "40P01" | "40001"));
        Failure::sorted(busy, &self.name(), what, &said(error))
    }
}

impl Target<'_> {
    /// Takes the lock of migrations by `function`, or says that somebody has it. It is tried, not waited for: who waits in a statement has a snapshot, and a
    /// concurrent build waits for everybody who has one.
    async fn lock(&self, connection: &mut PgConnection, function: &str) -> Result<(), Failure> {
        let sql = AssertSqlSafe(format!("SELECT {function}({LOCK})"));
        match sqlx::query_scalar(sql).fetch_one(connection).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Busy("another migration is at work".into())),
            Err(e) => Err(self.failure("take the lock of migrations", &e)),
        }
    }

    async fn build(
        &self,
        connection: &mut PgConnection,
        (what, index): (&str, &Concurrent),
        asked: Asked<'_>,
    ) -> Result<bool, Failure> {
        let failed = |e| self.failure(what, &e);
        // A large table takes its time; what it waits for is bounded.
        let settings = format!("SET statement_timeout = 0; SET lock_timeout = '{BUILD_WAIT}'");
        execute(connection, settings).await.map_err(failed)?;
        self.lock(connection, "pg_try_advisory_lock").await?;
        if self.plan(connection, asked).await?.steps.first().is_none_or(|step| step.what != what) {
            return Ok(false);
        }
        self.drop_broken(connection, &index.name).await?;
        match execute(connection, index.sql.clone()).await {
            Ok(()) => Ok(true),
            Err(error) => {
                // What is left of it would only cost the application. If it cannot go now, the next run takes it away.
                if let Err(left) = self.drop_broken(connection, &index.name).await {
                    tracing::warn!(index = index.name, ?left, "what is left of an interrupted index stays for now");
                }
                Err(failed(error))
            }
        }
    }

    /// Drops what an interrupted build left of the index `name`, which is ours by its name.
    async fn drop_broken(&self, connection: &mut PgConnection, name: &str) -> Result<(), Failure> {
        let look = "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.index_relid = i.indexrelid)
                    FROM pg_index AS i WHERE i.indexrelid = to_regclass($1) AND NOT (i.indisvalid AND i.indisready AND i.indislive)";
        let what = format!("drop what is left of index {}", shown(name));
        let failed = |e| self.failure(&what, &e);
        let found: Option<bool> =
            sqlx::query_scalar(look).bind(name).fetch_optional(&mut *connection).await.map_err(failed)?;
        match found {
            None => Ok(()),
            Some(true) => Err(Failure::Busy(format!("another session builds index {}", shown(name)))),
            Some(false) => {
                execute(connection, format!("DROP INDEX CONCURRENTLY IF EXISTS {name}")).await.map_err(failed)
            }
        }
    }
}

async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ())
}
