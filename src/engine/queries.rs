//! `[[scrape.queries]]`: the operator's own statements as collectors (E-5, E-7), the same on every engine.
//!
//! What keeps such a statement harmless, from the outside in; the first and the last are the engine's ([`Asked`]):
//!
//! - Its connection cannot write, and the deadline ends the statement itself, not only our waiting for it.
//! - It is one statement that begins with SELECT, WITH or VALUES (`statement`).
//! - More rows or longer labels than allowed fail the collection: half a result would look like a whole one.
//! - It runs inside of another SELECT with a LIMIT, which nothing but a reading statement survives, and which stops it at the row limit.

pub mod statement;

use std::borrow::Cow;
use std::collections::HashSet;

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::{Checked, Query};
use crate::clock::Timestamp;
use crate::sample::{Batch, Desc, Kind, Labels, Name};
use crate::scrape::{CollectError, Collector, Source};
use crate::task::Pending;
use crate::telemetry;

/// The longest value of a label, in bytes: what is longer is a text, not a label.
pub const LABEL_BYTES: usize = 1024;

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

/// A database that queries are put to.
pub trait Asked: Clone + Send + Sync + 'static {
    /// `query` as it is run: inside of a statement of ours that gives at most one row more than allowed, which tells "too many".
    fn bounded(query: &Query) -> Result<String, String>;

    /// The columns that `query` itself gives, found out without running it.
    fn columns<'a>(&'a self, query: &'a Query) -> Pending<'a, Result<Vec<String>, String>>;

    /// Runs `sql` for `query` and hands over each row.
    fn ask<'a>(&'a self, sql: &'a str, taking: Taking<'a>) -> Pending<'a, Result<(), CollectError>>;
}

/// A row of a result.
pub trait Row {
    /// The names of its columns.
    fn names(&self) -> Vec<&str>;

    /// What is in a column.
    fn cell(&self, column: usize) -> Result<Cell<'_>, CollectError>;
}

/// A value as the database gave it, which need not be what the column was declared as.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'r> {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// Another number.
    Real(f64),
    /// A text; it may be that of a number.
    Text(Cow<'r, str>),
    /// Bytes.
    Blob,
}

/// One configured query.
pub struct Queried<D> {
    database: D,
    query: Query,
    sql: Result<String, String>,
    duplicates: IntCounter,
}

impl<D: Asked> Queried<D> {
    /// The collector of `query`; a statement that is not allowed makes it fail with the reason each time.
    pub fn new(database: D, query: Query, own: &Own) -> Self {
        let duplicates = own.0.with_label_values(&[&query.name]);
        let sql = D::bounded(&query);
        Self { database, query, sql, duplicates }
    }

    async fn run(&self, batch: &mut Batch) -> Result<(), CollectError> {
        let sql = self.sql.as_ref().map_err(|why| CollectError::Malformed(why.clone()))?;
        let Self { query, duplicates, .. } = self;
        let taking = Taking { query, duplicates, batch, columns: None, seen: HashSet::new(), rows: 0 };
        self.database.ask(sql, taking).await
    }
}

impl<D: Asked> Collector for Queried<D> {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(self.run(batch))
    }
}

/// The source that `query` is.
pub fn source<D: Asked>(database: &D, query: &Query, own: &Own) -> Source {
    Source {
        name: query.name.clone(),
        interval: query.interval,
        timeout: query.timeout,
        store: query.store.clone(),
        remote: false,
        collector: Box::new(Queried::new(database.clone(), query.clone(), own)),
    }
}

/// Whether `query` may run and has the columns that it promises: it is prepared, not run.
pub async fn prepare_query<D: Asked>(database: &D, query: &Query) -> Result<(), String> {
    D::bounded(query)?;
    let columns = database.columns(query).await?;
    Columns::find(query, columns.iter().map(String::as_str)).map(drop)
}

/// The same, and whether it gives what can be shown: it is run once, under its own limits.
pub async fn check_query<D: Asked>(database: &D, query: &Query) -> Result<(), String> {
    prepare_query(database, query).await?;
    let queried = Queried::new(database.clone(), query.clone(), &Own::new(&Registry::new()));
    let mut batch = Batch::new(Timestamp::from_millis(0));
    queried.run(&mut batch).await.map_err(|e| e.to_string())
}

/// Tries each of `queries`; a line each. One that fails is a reason to look, not to stop: only this query would fail.
pub async fn check<D: Asked>(database: &D, queries: &[Query]) -> Vec<(String, Checked)> {
    let mut lines = Vec::new();
    for query in queries {
        let tried = check_query(database, query).await.map(|()| Checked::Good("runs".to_owned()));
        lines.push((format!("scrape.queries `{}`", query.name), tried.unwrap_or_else(Checked::Look)));
    }
    lines
}

/// A result on its way into a batch. Rows are taken one by one: they may carry large columns that nobody asked for.
pub struct Taking<'a> {
    query: &'a Query,
    duplicates: &'a IntCounter,
    batch: &'a mut Batch,
    columns: Option<Columns>,
    seen: HashSet<Labels>,
    rows: usize,
}

impl Taking<'_> {
    /// The query whose result it is.
    pub fn query(&self) -> &Query {
        self.query
    }

    /// Takes a row, or says why the result cannot be shown.
    pub fn take(&mut self, row: &impl Row) -> Result<(), CollectError> {
        let query = self.query;
        self.rows += 1;
        if self.rows > query.max_rows {
            return Err(CollectError::TooLarge(format!("more than {} rows (`max_rows`)", query.max_rows)));
        }
        let columns = match &mut self.columns {
            Some(columns) => columns,
            None => {
                let found = Columns::find(query, row.names().into_iter());
                self.columns.insert(found.map_err(CollectError::Malformed)?)
            }
        };
        let labels = columns.labels(row)?;
        if !self.seen.insert(labels.clone()) {
            self.duplicates.inc();
            return Ok(());
        }
        let kind = if query.counter { Kind::Counter } else { Kind::Gauge };
        for (column, (family, place)) in query.values.iter().zip(&columns.values) {
            if let Some(value) = value_of(row.cell(*place)?, column)? {
                self.batch.family(family.clone(), kind, query.help.clone()).push(labels.clone(), value);
            }
        }
        Ok(())
    }
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

    fn labels(&self, row: &impl Row) -> Result<Labels, CollectError> {
        let label = |(name, place): &(String, usize)| Ok((name.clone(), label_of(row.cell(*place)?, name)?));
        self.labels.iter().map(label).collect::<Result<_, _>>()
    }
}

/// A number, or nothing where it is NULL.
fn value_of(cell: Cell<'_>, column: &str) -> Result<Option<f64>, CollectError> {
    let wrong = |what: &str| CollectError::Malformed(format!("column `{column}` holds {what}, not a number"));
    match cell {
        Cell::Null => Ok(None),
        Cell::Integer(number) => Ok(Some(number as f64)),
        Cell::Real(number) => Ok(Some(number)),
        Cell::Text(text) => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(wrong("a text")),
        },
        Cell::Blob => Err(wrong("a blob")),
    }
}

/// A label's value; NULL is an absent label.
fn label_of(cell: Cell<'_>, name: &str) -> Result<String, CollectError> {
    match cell {
        Cell::Null => Ok(String::new()),
        Cell::Integer(number) => Ok(number.to_string()),
        Cell::Real(number) => Ok(number.to_string()),
        Cell::Text(text) if text.len() <= LABEL_BYTES => Ok(text.into_owned()),
        Cell::Text(_) => Err(CollectError::TooLarge(format!(
            "label `{name}` has {} bytes or more, {LABEL_BYTES} are allowed; shorten it with `substr()`",
            LABEL_BYTES + 1
        ))),
        Cell::Blob => Err(CollectError::Malformed(format!("label `{name}` holds a blob; use `hex()`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e7_values_are_finite_numbers_or_nothing() {
        let text = |text: &'static str| value_of(Cell::Text(text.into()), "v");
        assert_eq!(text(" -1.5e3 "), Ok(Some(-1500.0)));
        assert_eq!(value_of(Cell::Null, "v"), Ok(None));
        assert_eq!(value_of(Cell::Integer(7), "v"), Ok(Some(7.0)));
        for word in ["", "abc", "NaN", "Infinity", "-inf", "1,5", "2026-11-22 10:00:00+00"] {
            assert!(
                matches!(text(word), Err(CollectError::Malformed(why)) if why.contains("`v` holds a text")),
                "{word}"
            );
        }
        assert!(value_of(Cell::Blob, "v").is_err());
    }

    #[test]
    fn e7_labels_are_short() {
        let label = |text: String| label_of(Cell::Text(text.into()), "l");
        assert_eq!(label("x".repeat(LABEL_BYTES)).map(|l| l.len()), Ok(LABEL_BYTES));
        assert!(matches!(label("x".repeat(LABEL_BYTES + 1)), Err(CollectError::TooLarge(_))));
        assert_eq!(label_of(Cell::Null, "l"), Ok(String::new()));
        assert_eq!(label_of(Cell::Real(0.5), "l"), Ok("0.5".to_owned()));
    }
}
