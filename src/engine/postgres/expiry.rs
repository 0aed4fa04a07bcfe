//! Taking old rows out of a table on PostgreSQL: [`Expiry`] as `store.rs` documents it.
//!
//! A step looks at some pages in the order of the file, so that no step begins anew at the table's start, and none needs an index. First a
//! reader looks whether anything of the step is over; only then rows are locked, and judged again. A `ctid` is only valid inside a statement;
//! a row that moves meanwhile is met again in a later step, or by the next run.

use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;

use super::Database;
use super::errors::{is_missing_table, state, store_error};
use crate::clock::Timestamp;
use crate::engine::schema::names::quoted;
use crate::store::{Cursor, Expired, Expiry, Rule, Step, StoreError};
use crate::task::Pending;

/// Rows of a page of 8 KiB, for turning a number of rows into one of pages: rows with a kilobyte each.
const ROWS_OF_A_PAGE: i64 = 8;

/// The old rows of one database.
#[derive(Clone, Debug)]
pub struct OldRows {
    database: Database,
}

/// The statements of one rule.
struct Statements {
    /// How many pages there are.
    pages: String,
    /// How many rows of a step are over.
    count: String,
    /// Takes them out.
    delete: String,
}

impl Statements {
    /// Sessions live in UTC, so a `timestamp` without zone is compared as one of UTC (T-3).
    fn of(rule: &Rule) -> Self {
        let table = quoted(&rule.table);
        let over: Vec<String> = rule
            .ages
            .iter()
            .enumerate()
            .map(|(at, aged)| format!("{table}.{} < ${}::timestamptz", quoted(&aged.column), at + 3))
            .collect();
        let over = format!(
            "ctid >= format('(%s,0)', $1::bigint)::tid AND ctid < format('(%s,0)', $2::bigint)::tid AND ({})",
            over.join(" OR ")
        );
        Self {
            pages: format!(
                "SELECT pg_relation_size('{}'::regclass) / current_setting('block_size')::bigint",
                table.replace('\'', "''")
            ),
            count: format!("SELECT count(*) FROM {table} WHERE {over}"),
            delete: format!("DELETE FROM {table} WHERE {over}"),
        }
    }
}

impl OldRows {
    /// Those in `database`.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    async fn step(&self, rule: &Rule, now: Timestamp, step: Step) -> Result<Expired, sqlx::Error> {
        let statements = Statements::of(rule);
        let deadline = Instant::now() + step.within;
        let mut reader = self.database.read(step.within).await?;
        let pages: i64 = sqlx::query_scalar(AssertSqlSafe(statements.pages)).fetch_one(&mut *reader).await?;
        let end = step.from.0 + (i64::from(step.limit) / ROWS_OF_A_PAGE).max(1);
        let mut count = sqlx::query_scalar(AssertSqlSafe(statements.count)).bind(step.from.0).bind(end);
        for aged in &rule.ages {
            count = count.bind(now.before(aged.keep).to_rfc3339());
        }
        let rows: i64 = count.fetch_one(&mut *reader).await?;
        drop(reader);
        let next = (end < pages).then_some(Cursor(end));
        let mut expired = Expired { rows: rows.unsigned_abs(), next, held: Duration::ZERO };
        if rows == 0 || step.dry_run {
            return Ok(expired);
        }
        let mut tx = self.database.write().await?;
        let left = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
        sqlx::raw_sql(AssertSqlSafe(format!("SET LOCAL statement_timeout = {left}"))).execute(&mut *tx).await?;
        let since = Instant::now();
        let mut delete = sqlx::query(AssertSqlSafe(statements.delete)).bind(step.from.0).bind(end);
        for aged in &rule.ages {
            delete = delete.bind(now.before(aged.keep).to_rfc3339());
        }
        expired.rows = delete.execute(&mut *tx).await?.rows_affected();
        tx.commit().await?;
        expired.held = since.elapsed();
        Ok(expired)
    }
}

impl Expiry for OldRows {
    fn expire<'a>(
        &'a self,
        rule: &'a Rule,
        now: Timestamp,
        step: Step,
    ) -> Pending<'a, Result<Option<Expired>, StoreError>> {
        Box::pin(async move {
            match self.step(rule, now, step).await {
                Ok(expired) => Ok(Some(expired)),
                Err(e) if is_absent(&e) => Ok(None),
                Err(e) => Err(store_error(e)),
            }
        })
    }
}

/// Whether the table, or a column of the rule, does not exist.
fn is_absent(error: &sqlx::Error) -> bool {
    // 42703: undefined_column
    is_missing_table(error) || state(error).as_deref() == Some("42703")
}
