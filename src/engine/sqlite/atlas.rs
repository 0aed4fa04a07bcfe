//! The built-in collectors over the application's tables, read from SQLite: a file each, a few statements each.
//!
//! The tables are the application's, in whatever state: so each collector says which columns it needs and is off, with a word about it,
//! where they are missing, and times are read by the rule of [`times`](super::times).

pub mod cache;
pub mod content;
pub mod keys;
pub mod queue;
pub mod webhooks;

use std::time::Duration;

use sqlx::SqliteConnection;

use super::Database;
use super::errors::collect_error;
pub use crate::engine::atlas::Needs;
use crate::sample::Batch;
use crate::scrape::{CollectError, Collector};
use crate::task::Pending;

/// Reads some tables over a connection with a deadline and adds what it finds; the time is the batch's. Numbers are cast to REAL in SQL: counts and
/// sums come as INTEGER or REAL as SQLite likes (V-6).
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
