//! Doing what a plan says, in SQLite's way: a migration's lock is the write lock of the file.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection, Transaction};

pub use crate::engine::schema::apply::{Stepped, Work};

use super::plan::{Dialect, Never, Plan, plan};
use super::{full_text, inventory};
use crate::engine::schema::apply::{Asked, Failure, Pace, Site};
use crate::engine::sqlite::Database;
use crate::engine::sqlite::errors::is_busy;
use crate::retry::Backoff;

/// Reading a schema is a matter of milliseconds; this is for a disk that hangs.
pub const LOOK_LIMIT: Duration = Duration::from_secs(10);

impl Site for Database {
    type Dialect = Dialect;
    type Database = Sqlite;
    type Transaction = Transaction<'static, Sqlite>;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), most: Duration::from_millis(500) };

    fn name(&self) -> String {
        self.path().display().to_string()
    }

    fn made(&self) -> bool {
        Self::made(self)
    }

    async fn commit(&self, transaction: Transaction<'static, Sqlite>) -> Result<(), sqlx::Error> {
        transaction.commit().await
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, Failure> {
        self.write().await.map_err(|e| self.failure("take the write lock", &e))
    }

    async fn plan(&self, connection: &mut SqliteConnection, asked: Asked<'_>) -> Result<Plan, Failure> {
        let inventory = inventory::read(connection).await.map_err(|e| self.failure("read the schema", &e))?;
        plan(&inventory, asked.part, asked.scope, asked.full_text).map_err(Failure::Broken)
    }

    async fn glance(&self, asked: Asked<'_>) -> Result<Plan, Failure> {
        let mut reader = self.read(LOOK_LIMIT).await.map_err(|e| self.failure("read the schema", &e))?;
        self.plan(&mut reader, asked).await
    }

    async fn sql(&self, connection: &mut SqliteConnection, sql: String) -> Result<(), sqlx::Error> {
        execute(connection, sql).await
    }

    async fn fill_access_count(&self, connection: &mut SqliteConnection, pace: &mut Pace) -> Result<bool, sqlx::Error> {
        // By rowid, because no index finds the NULLs. A VACUUM on the way may move rowids of the application's table, and a row then keep its NULL: it is
        // what a row gets that the application writes without a count, so whoever reads the column has to expect it anyway.
        let window = "SELECT max(r) FROM (SELECT _rowid_ AS r FROM content_metadata
                      WHERE ?1 IS NULL OR _rowid_ > ?1 ORDER BY _rowid_ LIMIT ?2)";
        let last: Option<i64> =
            sqlx::query_scalar(window).bind(pace.after).bind(pace.rows).fetch_one(&mut *connection).await?;
        let Some(last) = last else { return Ok(false) };
        let update = "UPDATE content_metadata SET access_count = 0
                      WHERE access_count IS NULL AND _rowid_ <= ?2 AND (?1 IS NULL OR _rowid_ > ?1)";
        sqlx::query(update).bind(pace.after).bind(last).execute(&mut *connection).await?;
        pace.after = Some(last);
        Ok(true)
    }

    async fn fill(
        &self,
        connection: &mut SqliteConnection,
        index: &full_text::Index,
        pace: &mut Pace,
    ) -> Result<bool, sqlx::Error> {
        let begun: bool = sqlx::query_scalar(AssertSqlSafe(index.begun_sql())).fetch_one(&mut *connection).await?;
        let sql = AssertSqlSafe(index.fill_sql(begun));
        let copied = sqlx::query(sql).bind(pace.rows).execute(&mut *connection).await?.rows_affected();
        if i64::try_from(copied).is_ok_and(|copied| copied >= pace.rows) {
            return Ok(true);
        }
        execute(connection, index.publish_sql()).await?;
        Ok(false)
    }

    async fn outside(&self, (_, never): (&str, &Never), _: Asked<'_>) -> Result<bool, Failure> {
        match *never {}
    }

    fn failure(&self, what: &str, error: &sqlx::Error) -> Failure {
        Failure::sorted(is_busy(error), &self.name(), what, &error.to_string())
    }
}

async fn execute(connection: &mut SqliteConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ())
}
