//! The built-in collectors over the application's tables: a file each, a few statements each.
//!
//! The tables are the application's, in whatever state: so each collector says which columns it needs and is off, with a word about it,
//! where they are missing; times are read by the rule of [`times`](super::times); labels that the data decides
//! are bounded to the hundred most frequent values, the rest is counted as `other`; and no secret, hash or URL ever is a label.

pub mod cache;
pub mod content;
pub mod keys;
pub mod queue;
pub mod webhooks;

use std::time::Duration;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::Database;
use super::errors::collect_error;
use crate::engine::schema::inventory::{Inventory, Kind};
use crate::sample::Batch;
use crate::scrape::{CollectError, Collector};
use crate::task::Pending;

/// What a collector cannot do without.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// The table.
    pub table: &'static str,
    /// Its columns that are read.
    pub columns: &'static [&'static str],
    /// Whether it is followed by rowid, which a view or a table WITHOUT ROWID does not have.
    pub rowid: bool,
}

impl Needs {
    /// What of it is missing, in words; `None` if nothing is.
    pub fn missing(&self, inventory: &Inventory) -> Option<String> {
        let Some(relation) = inventory.relation(self.table) else {
            return Some(format!("there is no table `{}`", self.table));
        };
        let missing: Vec<String> =
            self.columns.iter().filter(|c| relation.column(c).is_none()).map(|c| format!("`{c}`")).collect();
        if !missing.is_empty() {
            return Some(format!("table `{}` has no column {}", self.table, missing.join(", ")));
        }
        let followed = !self.rowid || relation.kind == Kind::Table;
        (!followed).then(|| format!("table `{}` has no rowid to follow it by", self.table))
    }
}

/// Reads some tables over a connection with a deadline and adds what it finds; the time is the batch's.
pub type Read = for<'a> fn(&'a mut SqliteConnection, &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>>;

/// A collector that is one [`Read`].
pub struct Reading {
    /// Where it reads.
    pub database: Database,
    /// What it may take: its statements are interrupted after that (E-5).
    pub limit: Duration,
    /// What it reads.
    pub read: Read,
}

impl Collector for Reading {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            let mut reader = self.database.read(self.limit).await.map_err(collect_error)?;
            (self.read)(&mut reader, batch).await.map_err(collect_error)
        })
    }
}

/// A number that SQL has cast to REAL: counts and sums come as INTEGER or REAL as SQLite likes (V-6).
fn number(row: &SqliteRow, column: usize) -> Result<f64, sqlx::Error> {
    sqlx::Row::try_get(row, column)
}

/// A label that SQL has cast to TEXT.
fn text(row: &SqliteRow, column: usize) -> Result<String, sqlx::Error> {
    sqlx::Row::try_get(row, column)
}
