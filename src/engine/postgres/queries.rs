//! `[[scrape.queries]]` on PostgreSQL: a `READ ONLY` transaction with a `statement_timeout`, rolled back at its end.
//!
//! - The server writes the values as text (`::text`), only those of the columns that the configuration names, and only as much of each as is looked at. So every type is
//!   a label, and a column that nobody asked for never leaves the server. `numeric` and `double precision` come exactly; a `boolean` is 1 or 0.
//!   A time is no number: `extract(epoch FROM …)` makes one. NaN and infinities are refused as the texts that they are here.
//! - The statement is not kept prepared: one that is kept fails with "cached plan must not change result type" when `SELECT *` meets a changed table.
//! - A function may do what no transaction undoes, if the role may call it: `pg_terminate_backend`, `dblink`. What an ordinary role can do comes to nothing:
//!   `pg_sleep` meets the timeout, the rollback undoes `set_config`, and locks of the session are given back.

pub(super) mod statement;

use std::borrow::Cow;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Column, Executor, PgConnection, Row as _, SqlSafeStr, Statement};

use super::Database;
use super::errors::{collect_error, said};
use crate::engine::Query;
use crate::engine::queries::{Asked, Cell, LABEL_BYTES, Row, Taking};
use crate::engine::schema::names::quoted;
use crate::scrape::CollectError;
use crate::task::Pending;

pub use crate::engine::queries::check_query;

/// Advisory locks of a session outlive its transactions, and this session is used again.
const FORGET_LOCKS: &str = "SELECT pg_advisory_unlock_all()";

impl Asked for Database {
    fn bounded(query: &Query) -> Result<String, String> {
        let one = statement::only_reading(&query.sql)?;
        // One character more than a label may have tells "too long". A number that is cut there was beyond all limits before (1025 digits), or is
        // cut far behind its point.
        let text = |column: &str| format!("left(asked.{column}::text, {})", LABEL_BYTES + 1);
        let values = query.values.iter().map(|column| {
            let (column, text) = (quoted(column), text(&quoted(column)));
            format!("CASE pg_typeof(asked.{column}) WHEN 'boolean'::regtype THEN ({text} = 'true')::int4::text ELSE {text} END AS {column}")
        });
        let labels = query.labels.iter().map(|column| format!("{} AS {}", text(&quoted(column)), quoted(column)));
        let columns = values.chain(labels).collect::<Vec<_>>().join(", ");
        // The line break ends a comment at the statement's end.
        Ok(format!("SELECT {columns} FROM ({one}\n) AS asked LIMIT {}", query.max_rows.saturating_add(1)))
    }

    fn columns<'a>(&'a self, query: &'a Query) -> Pending<'a, Result<Vec<String>, String>> {
        Box::pin(async move {
            // In the parentheses in which it will run: what is no SELECT fails here already.
            let sql = format!("SELECT * FROM ({}\n) AS asked", statement::only_reading(&query.sql)?);
            let mut reader = self.read_for_query(query.timeout).await.map_err(|e| said(&e))?;
            let prepared = (&mut *reader).prepare(AssertSqlSafe(sql).into_sql_str()).await.map_err(|e| said(&e))?;
            Ok(prepared.columns().iter().map(|column| column.name().to_owned()).collect())
        })
    }

    fn ask<'a>(&'a self, sql: &'a str, mut taking: Taking<'a>) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            let mut reader = self.read_for_query(taking.query().timeout).await.map_err(collect_error)?;
            // Before, for those of a run that failed: nothing can be asked in a transaction that failed.
            forget_locks(&mut reader).await?;
            sqlx::query(AssertSqlSafe(sql.to_owned()))
                .persistent(false)
                .try_map(|row: PgRow| taking.take(&row).map_err(|e| sqlx::Error::Decode(Box::new(e))))
                .fetch_all(&mut *reader)
                .await
                .map_err(collect_error)?;
            forget_locks(&mut reader).await
        })
    }
}

async fn forget_locks(connection: &mut PgConnection) -> Result<(), CollectError> {
    sqlx::query(FORGET_LOCKS).execute(connection).await.map(drop).map_err(collect_error)
}

impl Row for PgRow {
    fn names(&self) -> Vec<&str> {
        self.columns().iter().map(Column::name).collect()
    }

    fn cell(&self, column: usize) -> Result<Cell<'_>, CollectError> {
        Ok(match self.try_get::<Option<&str>, _>(column).map_err(collect_error)? {
            None => Cell::Null,
            Some(text) => Cell::Text(Cow::Borrowed(text)),
        })
    }
}
