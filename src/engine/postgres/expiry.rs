//! Taking old rows out of a table on PostgreSQL: [`Expiry`](crate::store::Expiry) as `store.rs` documents it.
//!
//! A step looks at some pages in the order of the file, so that no step begins anew at the table's start, and none needs an index. First a
//! reader looks whether anything of the step is over; only then rows are locked, and judged again. A `ctid` is only valid inside a statement;
//! a row that moves meanwhile is met again in a later step, or by the next run.

use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;

use super::Database;
use super::errors::{is_missing_table, state, store_error};
use super::queries::statement::only_condition;
use crate::clock::Timestamp;
use crate::engine::expiry::{Failure, Steps};
use crate::engine::schema::names::quoted;
use crate::store::{Aged, Cursor, Expired, Rule, Step, StoreError};
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
    fn of(rule: &Rule) -> Result<Self, String> {
        let table = quoted(&rule.table);
        let column = |aged: &Aged| format!("{table}.{}", quoted(&aged.column));
        let over: Vec<String> = rule
            .ages
            .iter()
            .enumerate()
            .map(|(at, aged)| format!("{} < ${}::timestamptz", column(aged), at + 3))
            .collect();
        let over = over.join(" OR ");
        let unread: Vec<String> =
            rule.ages.iter().map(|aged| format!("isfinite({}) IS NOT TRUE", column(aged))).collect();
        let only = rule.only.as_deref().map(condition).transpose()?.unwrap_or_default();
        let step = format!(
            "FROM {table} WHERE ctid >= format('(%s,0)', $1::bigint)::tid AND ctid < format('(%s,0)', $2::bigint)::tid{only}"
        );
        Ok(Self {
            // A partition has pages of its own; a step looks at the same numbers in all of them.
            pages: format!(
                "WITH RECURSIVE parts(part) AS (
                    SELECT '{}'::regclass::oid UNION SELECT inhrelid FROM pg_inherits JOIN parts ON inhparent = part)
                SELECT coalesce(max(pg_relation_size(part)), 0) / current_setting('block_size')::bigint FROM parts",
                table.replace('\'', "''")
            ),
            count: format!(
                "SELECT count(*) FILTER (WHERE {over}), count(*) FILTER (WHERE ({over}) IS NOT TRUE AND {}) {step}",
                unread.join(" AND ")
            ),
            delete: format!("DELETE {step} AND ({over})"),
        })
    }
}

/// A rule's own condition, behind others.
fn condition(sql: &str) -> Result<String, String> {
    // The line break ends a comment at the condition's end.
    only_condition(sql).map(|sql| format!(" AND ({sql}\n)"))
}

impl OldRows {
    /// Those in `database`.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    async fn run(
        &self,
        rule: &Rule,
        statements: Statements,
        now: Timestamp,
        step: Step,
    ) -> Result<Expired, sqlx::Error> {
        let deadline = Instant::now() + step.within;
        let mut reader = self.database.read(step.within).await?;
        let pages: i64 = sqlx::query_scalar(AssertSqlSafe(statements.pages)).fetch_one(&mut *reader).await?;
        let end = step.from.0 + (i64::from(step.limit) / ROWS_OF_A_PAGE).max(1);
        let mut count = sqlx::query_as(AssertSqlSafe(statements.count)).bind(step.from.0).bind(end);
        for aged in &rule.ages {
            count = count.bind(now.before(aged.keep).to_rfc3339());
        }
        let (rows, unread): (i64, i64) = count.fetch_one(&mut *reader).await?;
        drop(reader);
        let next = (end < pages).then_some(Cursor(end));
        let (found, unread) = (rows.unsigned_abs(), unread.unsigned_abs());
        let mut expired = Expired { rows: found, unread, next, held: Duration::ZERO };
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

impl Steps for OldRows {
    fn step<'a>(&'a self, rule: &'a Rule, now: Timestamp, step: Step) -> Pending<'a, Result<Expired, Failure>> {
        Box::pin(async move {
            let statements = Statements::of(rule).map_err(|why| Failure::Failed(StoreError::Broken(why)))?;
            self.run(rule, statements, now, step).await.map_err(|e| match () {
                () if lacks_ctids(&e) => Failure::Unfit,
                () if is_absent(&e) => Failure::Absent(e.to_string()),
                () => Failure::Failed(store_error(e)),
            })
        })
    }
}

/// Whether the table, or a column of the rule, does not exist.
fn is_absent(error: &sqlx::Error) -> bool {
    // 42703: undefined_column
    is_missing_table(error) || state(error).as_deref() == Some("42703")
}

/// Whether rows have no place to take them by. The server says so in its own language, but always with the column's name.
fn lacks_ctids(error: &sqlx::Error) -> bool {
    state(error).as_deref() == Some("42703") && error.to_string().contains("ctid")
}
