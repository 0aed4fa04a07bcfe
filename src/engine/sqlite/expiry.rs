//! Taking old rows out of a table on SQLite: [`Expiry`](crate::store::Expiry) as `store.rs` documents it.
//!
//! A step looks at some rows in rowid order, which is the order in which they lie in the file. An index over a time would have each step touch pages
//! all over the table, and misses what only the exact reading of a time tells (R-13, T-1). First a reader looks whether anything of the step is
//! over; only then the write lock is asked for, and the rows are judged again under it.

use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;

use super::Database;
use super::errors::store_error;
use super::queries::statement::only_condition;
use super::times::millis;
use crate::clock::Timestamp;
use crate::engine::expiry::{Failure, Steps};
use crate::engine::schema::names::quoted;
use crate::store::{Cursor, Expired, Rule, Step, StoreError};
use crate::task::Pending;

/// The old rows of one database.
#[derive(Clone, Debug)]
pub struct OldRows {
    database: Database,
}

/// The statements of one rule.
struct Statements {
    /// The last rowid of a step.
    end: String,
    /// How many rows of a step are over.
    count: String,
    /// Takes them out.
    delete: String,
}

impl Statements {
    fn of(rule: &Rule) -> Result<Self, String> {
        let table = quoted(&rule.table);
        // With the table's name in front: a bare name in double quotes that is no column would be a text to SQLite.
        let times: Vec<String> = rule
            .ages
            .iter()
            .map(|aged| millis!("@").replace('@', &format!("{table}.{}", quoted(&aged.column))))
            .collect();
        let any_over = |time: &dyn Fn(usize) -> String| {
            (0..times.len()).map(|at| format!("{} < ?{}", time(at), at + 3)).collect::<Vec<_>>().join(" OR ")
        };
        let read = |at: usize| format!("t{at}");
        let columns =
            (0..times.len()).map(|at| format!("{} AS {}", times[at], read(at))).collect::<Vec<_>>().join(", ");
        let unread = (0..times.len()).map(|at| format!("{} IS NULL", read(at))).collect::<Vec<_>>().join(" AND ");
        let only = rule.only.as_deref().map(condition).transpose()?.unwrap_or_default();
        let step = format!("FROM {table} NOT INDEXED WHERE rowid > ?1 AND rowid <= ?2");
        Ok(Self {
            end: format!(
                "SELECT max(r) FROM (SELECT rowid AS r FROM {table} WHERE rowid > ?1 ORDER BY rowid LIMIT ?2)"
            ),
            // Each time is read once: reading them is most of the work.
            count: format!(
                "WITH step AS MATERIALIZED (SELECT {columns} {step}{only})
                SELECT count(*) FILTER (WHERE {}), count(*) FILTER (WHERE {unread}) FROM step",
                any_over(&read)
            ),
            delete: format!("DELETE {step} AND ({}){only}", any_over(&|at| times[at].clone())),
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
        let end: Option<i64> = sqlx::query_scalar(AssertSqlSafe(statements.end))
            .bind(step.from.0)
            .bind(step.limit)
            .fetch_one(&mut *reader)
            .await?;
        let Some(end) = end else { return Ok(Expired::default()) };
        let mut count = sqlx::query_as(AssertSqlSafe(statements.count)).bind(step.from.0).bind(end);
        for aged in &rule.ages {
            count = count.bind(now.before(aged.keep).millis());
        }
        let (rows, unread): (i64, i64) = count.fetch_one(&mut *reader).await?;
        drop(reader);
        let (found, unread) = (rows.unsigned_abs(), unread.unsigned_abs());
        let mut expired = Expired { rows: found, unread, next: Some(Cursor(end)), held: Duration::ZERO };
        if rows == 0 || step.dry_run {
            return Ok(expired);
        }
        let mut tx = self.database.write_within(deadline.saturating_duration_since(Instant::now())).await?;
        let since = Instant::now();
        let mut delete = sqlx::query(AssertSqlSafe(statements.delete)).bind(step.from.0).bind(end);
        for aged in &rule.ages {
            delete = delete.bind(now.before(aged.keep).millis());
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
                () if lacks_rowids(&e) => Failure::Unfit,
                () if is_absent(&e) => Failure::Absent(e.to_string()),
                () => Failure::Failed(store_error(e)),
            })
        })
    }
}

/// Whether the table, or a column of the rule, does not exist.
fn is_absent(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|e| e.message().starts_with("no such table") || e.message().starts_with("no such column"))
}

/// Whether rows have no number to take them by.
fn lacks_rowids(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.message() == "no such column: rowid")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Aged;

    #[test]
    fn any_name_is_a_column_and_never_a_text() {
        let aged = |column: &str| Aged { column: column.to_owned(), keep: Duration::ZERO };
        let rule = Rule { table: "a\"b".to_owned(), ages: vec![aged("x"), aged("y")], only: None };
        let delete = Statements::of(&rule).unwrap().delete;
        assert!(delete.starts_with("DELETE FROM \"a\"\"b\" NOT INDEXED WHERE rowid > ?1 AND rowid <= ?2 AND ((CASE typeof(\"a\"\"b\".\"x\")"), "{delete}");
        assert!(delete.contains(" < ?3 OR ") && delete.ends_with(" < ?4)"), "{delete}");
    }
}
