//! `[[scrape.queries]]`: the operator's own statements as collectors (E-5, E-7).
//!
//! What keeps such a statement harmless, from the outside in:
//!
//! - The connection is opened read-only, with `query_only` on top, and runs under a deadline that interrupts the statement itself.
//! - It is one statement that begins with SELECT, WITH or VALUES (`statement`). No PRAGMA: some change the connection for
//!   whoever uses it next; those that only tell are there as functions (`SELECT * FROM pragma_page_count`). No EXPLAIN:
//!   a plan is no measurement. No ATTACH: this database is what we were given.
//! - It runs as `SELECT * FROM (…) LIMIT n`, which nothing but a reading statement survives, and which stops it at the row limit.
//! - More rows or longer labels than allowed fail the collection: half a result would look like a whole one.

mod statement;

use std::collections::HashSet;

use prometheus::{IntCounter, IntCounterVec, Registry};
use sqlx::sqlite::{SqliteRow, SqliteValueRef};
use sqlx::{
    AssertSqlSafe, Column, Connection, Decode, Executor, Row as _, SqlSafeStr, Sqlite, Statement, TypeInfo, ValueRef,
};

use super::Database;
use super::errors::collect_error;
use crate::clock::Timestamp;
use crate::engine::Query;
use crate::sample::{Batch, Desc, Kind, Labels, Name};
use crate::scrape::{CollectError, Collector};
use crate::task::Pending;
use crate::telemetry;

/// The longest value of a label, in bytes: what is longer is a text, not a label.
const LABEL_BYTES: usize = 1024;

/// The families of this module.
pub const METRICS: &[&Desc] = &[&DUPLICATES];

const DUPLICATES: Desc = Desc {
    name: "atlas_sidecar_query_duplicate_rows_total",
    kind: Kind::Counter,
    unit: "rows",
    help: "Rows of a configured query whose labels an earlier row of the same result had; the first is kept. Add a label or GROUP BY",
};

/// The own metrics that all queries share.
#[derive(Clone)]
pub struct Own(IntCounterVec);

impl Own {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self(telemetry::counters(registry, &DUPLICATES, &["source"]))
    }
}

/// One configured query.
pub struct Queried {
    database: Database,
    query: Query,
    sql: Result<String, String>,
    duplicates: IntCounter,
}

impl Queried {
    /// The collector of `query`; a statement that is not allowed makes it fail with the reason each time.
    pub fn new(database: Database, query: Query, own: &Own) -> Self {
        let duplicates = own.0.with_label_values(&[&query.name]);
        let sql = bounded(&query);
        Self { database, query, sql, duplicates }
    }

    async fn run(&self, batch: &mut Batch) -> Result<(), CollectError> {
        let sql = self.sql.clone().map_err(CollectError::Malformed)?;
        let mut reader = self.database.read_for_query(self.query.timeout).await.map_err(collect_error)?;
        // Under one snapshot: a table that changes between preparing and running gives the statement other columns than sqlx asked it
        // for, which ends sqlx's worker. Reading the schema first makes this connection notice what changed before.
        let mut snapshot = reader.begin().await.map_err(collect_error)?;
        sqlx::query("SELECT count(*) FROM sqlite_schema").execute(&mut *snapshot).await.map_err(collect_error)?;
        let mut taking = Taking { queried: self, batch, columns: None, seen: HashSet::new(), rows: 0 };
        // Rows are taken one by one: a `SELECT *` may carry large columns that nobody asked for. The statement is not kept:
        // its columns are asked anew each time, for `SELECT *` changes with its table.
        sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .try_map(|row| taking.take(&row).map_err(|e| sqlx::Error::Decode(Box::new(e))))
            .fetch_all(&mut *snapshot)
            .await
            .map(drop)
            .map_err(collect_error)
    }
}

/// A result on its way into a batch.
struct Taking<'a> {
    queried: &'a Queried,
    batch: &'a mut Batch,
    columns: Option<Columns>,
    seen: HashSet<Labels>,
    rows: usize,
}

impl Taking<'_> {
    fn take(&mut self, row: &SqliteRow) -> Result<(), CollectError> {
        let query = &self.queried.query;
        self.rows += 1;
        if self.rows > query.max_rows {
            return Err(CollectError::TooLarge(format!("more than {} rows (`max_rows`)", query.max_rows)));
        }
        let columns = match &mut self.columns {
            Some(columns) => columns,
            None => {
                let names = row.columns().iter().map(Column::name);
                self.columns.insert(Columns::find(query, names).map_err(CollectError::Malformed)?)
            }
        };
        let labels = columns.labels(row)?;
        if !self.seen.insert(labels.clone()) {
            self.queried.duplicates.inc();
            return Ok(());
        }
        let kind = if query.counter { Kind::Counter } else { Kind::Gauge };
        for (family, column) in &columns.values {
            if let Some(value) = value_of(row, *column)? {
                self.batch.family(family.clone(), kind, query.help.clone()).push(labels.clone(), value);
            }
        }
        Ok(())
    }
}

impl Collector for Queried {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(self.run(batch))
    }
}

/// Whether `query` may run and has the columns that it promises: it is prepared, not run.
pub async fn prepare_query(database: &Database, query: &Query) -> Result<(), String> {
    let sql = bounded(query)?;
    let mut reader = database.read_for_query(query.timeout).await.map_err(|e| e.to_string())?;
    let prepared = (&mut *reader).prepare(AssertSqlSafe(sql).into_sql_str()).await.map_err(|e| e.to_string())?;
    Columns::find(query, prepared.columns().iter().map(Column::name)).map(drop)
}

/// The same, and whether it gives what can be shown: it is run once, under its own limits.
pub async fn check_query(database: &Database, query: &Query) -> Result<(), String> {
    prepare_query(database, query).await?;
    let queried = Queried::new(database.clone(), query.clone(), &Own::new(&Registry::new()));
    let mut batch = Batch::new(Timestamp::from_millis(0));
    queried.run(&mut batch).await.map_err(|e| e.to_string())
}

/// The statement as it is run; one row more than allowed tells "too many".
fn bounded(query: &Query) -> Result<String, String> {
    let one = statement::only_reading(&query.sql)?;
    // The line break ends a comment at the statement's end.
    Ok(format!("SELECT * FROM ({one}\n) LIMIT {}", query.max_rows.saturating_add(1)))
}

/// Where the query's columns are in its rows.
struct Columns {
    values: Vec<(Name, usize)>,
    labels: Vec<(String, usize)>,
}

impl Columns {
    fn find<'a>(query: &Query, names: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let there: Vec<&str> = names.collect();
        let place = |wanted: &String| {
            there.iter().position(|name| name == wanted).ok_or_else(|| {
                let there: Vec<String> = there.iter().map(|name| format!("`{name}`")).collect();
                format!("the statement gives no column `{wanted}`; it gives {}", there.join(", "))
            })
        };
        let only_value = query.values.len() == 1 && query.values[0] == "value";
        let family = |column: &String| match only_value {
            true => Name::Owned(query.name.clone()),
            false => Name::Owned(format!("{}_{column}", query.name)),
        };
        Ok(Self {
            values: query.values.iter().map(|c| Ok((family(c), place(c)?))).collect::<Result<_, String>>()?,
            labels: query.labels.iter().map(|c| Ok((c.clone(), place(c)?))).collect::<Result<_, String>>()?,
        })
    }

    fn labels(&self, row: &SqliteRow) -> Result<Labels, CollectError> {
        self.labels.iter().map(|(name, column)| Ok((name.clone(), label_of(row, *column)?))).collect::<Result<_, _>>()
    }
}

/// What SQLite stored, which need not be what a column was declared as.
enum Stored<'r> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'r str),
    Blob,
}

fn stored(row: &SqliteRow, column: usize) -> Result<Stored<'_>, CollectError> {
    fn decode<'r, T: Decode<'r, Sqlite>>(value: SqliteValueRef<'r>) -> Result<T, CollectError> {
        T::decode(value).map_err(|e| CollectError::Malformed(e.to_string()))
    }
    let value = row.try_get_raw(column).map_err(collect_error)?;
    if value.is_null() {
        return Ok(Stored::Null);
    }
    let kind = value.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "INTEGER" => Stored::Integer(decode(value)?),
        "REAL" => Stored::Real(decode(value)?),
        "TEXT" => Stored::Text(decode(value)?),
        _ => Stored::Blob,
    })
}

/// A number, or nothing where it is NULL.
fn value_of(row: &SqliteRow, column: usize) -> Result<Option<f64>, CollectError> {
    let wrong = |what: &str| {
        CollectError::Malformed(format!("column `{}` holds {what}, not a number", row.column(column).name()))
    };
    match stored(row, column)? {
        Stored::Null => Ok(None),
        Stored::Integer(number) => Ok(Some(number as f64)),
        Stored::Real(number) => Ok(Some(number)),
        Stored::Text(text) => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(wrong("a text")),
        },
        Stored::Blob => Err(wrong("a blob")),
    }
}

/// A label's value; NULL is an absent label.
fn label_of(row: &SqliteRow, column: usize) -> Result<String, CollectError> {
    let name = || row.column(column).name().to_owned();
    match stored(row, column)? {
        Stored::Null => Ok(String::new()),
        Stored::Integer(number) => Ok(number.to_string()),
        Stored::Real(number) => Ok(number.to_string()),
        Stored::Text(text) if text.len() <= LABEL_BYTES => Ok(text.to_owned()),
        Stored::Text(text) => Err(CollectError::TooLarge(format!(
            "label `{}` has {} bytes, {LABEL_BYTES} are allowed; shorten it with `substr()`",
            name(),
            text.len()
        ))),
        Stored::Blob => Err(CollectError::Malformed(format!("label `{}` holds a blob; use `hex()`", name()))),
    }
}
