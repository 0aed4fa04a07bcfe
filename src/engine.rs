//! The database: [`Engine`] is a bag of parts, [`open`] the only place that knows which database it is.

pub mod ids;
pub mod schema;
pub mod sqlite;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::sample::globs::Globs;

/// One of `[[database.full_text]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullText {
    /// The table that is searched.
    pub table: String,
    /// The column that identifies its rows.
    pub key: String,
    /// The columns whose text is indexed.
    pub columns: Vec<String>,
}

/// One of `[[scrape.queries]]`.
#[derive(Clone, Debug)]
pub struct Query {
    /// The source's name and, with the value's column, the family's: `<name>_<column>`, or `<name>` for a single column `value`.
    pub name: String,
    /// One statement that reads.
    pub sql: String,
    /// Columns that are values; each is a family.
    pub values: Vec<String>,
    /// Columns that are labels.
    pub labels: Vec<String>,
    /// One line for people.
    pub help: String,
    /// Whether the values only grow; otherwise gauges.
    pub counter: bool,
    /// From one run to the next.
    pub interval: Duration,
    /// What a run may take; the statement is interrupted after it.
    pub timeout: Duration,
    /// The most rows; more is a failure.
    pub max_rows: usize,
    /// Which series are written to the table.
    pub store: Globs,
}

/// `[scrape.atlas]`: the collectors over the application's tables and the engine's statistics.
#[derive(Clone, Debug)]
pub struct Builtin {
    /// Which of the built-in collectors run (see [`COLLECTORS`]).
    pub collectors: Vec<String>,
    /// From one run to the next.
    pub interval: Duration,
    /// What a run may take.
    pub timeout: Duration,
    /// Which series are written to the table.
    pub store: Globs,
}

/// The names of the built-in collectors, in the order in which they are documented. `table` shows the rows that others write to `system_metrics`;
/// `database_objects` (sizes of tables and indexes) reads every page of the file and therefore runs once an hour at most.
pub const COLLECTORS: &[&str] =
    &["queue", "cache", "content", "api_keys", "webhooks", "table", "database", "database_objects"];

/// The `[database]` section and what else the engine needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `sqlite://PATH`.
    pub url: String,
    /// Where samples and own tables go, if not into the same database.
    pub metrics_url: Option<String>,
    /// Whether a missing file is made.
    pub create: bool,
    /// Full-text indexes that `migrate` makes.
    pub full_text: Vec<FullText>,
    /// Where `admin-key` goes.
    pub state_directory: PathBuf,
    /// `[scrape.atlas]`
    pub builtin: Builtin,
    /// `[[scrape.queries]]`
    pub queries: Vec<Query>,
}

/// Why the engine could not do what it was asked: exit code 69 at start.
#[derive(Debug)]
pub struct EngineError {
    /// What is wrong, naming the database without its secrets.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl EngineError {
    /// An error without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for EngineError {}
