//! The database: [`Engine`] is a bag of parts; this file is the only one that knows which database it is.

pub mod ids;
pub mod schema;
pub mod sqlite;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;

use crate::clock::Clock;
use crate::sample::Desc;
use crate::sample::globs::Globs;
use crate::scrape::Source;
use crate::store::SampleStore;

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

/// An opened database: the parts that the rest of the program works with.
pub struct Engine {
    database: sqlite::Opened,
    samples: Option<Arc<dyn SampleStore>>,
    ids: Arc<ids::Ids>,
    rows_today: u64,
    report: schema::Report,
}

impl Engine {
    /// Opens what `settings` name and does what `run` may do to its schema. `host` is what this instance is registered under.
    pub async fn open(
        settings: &Settings,
        host: &str,
        clock: &Clock,
        registry: &Registry,
    ) -> Result<Self, EngineError> {
        let (database, report) = sqlite::Opened::open(settings, clock, registry).await?;
        let instance = ids::Instance::load_or_make(&settings.state_directory).map_err(|e| {
            EngineError::new(format!("cannot keep `instance` in `{}`: {e}", settings.state_directory.display()))
        })?;
        let samples = database.samples(instance, host, clock.now()).await?;
        let rows_today = match &samples {
            // Where it cannot be counted now, the budget of this day begins again: rather too many rows than none.
            Some(samples) => samples.own_rows_since(clock.now().midnight()).await.unwrap_or(0),
            None => 0,
        };
        Ok(Self { database, samples, ids: Arc::new(ids::Ids::new(instance)), rows_today, report })
    }

    /// Where samples are stored; nothing where the database has no table for them.
    pub fn samples(&self) -> Option<Arc<dyn SampleStore>> {
        self.samples.clone()
    }

    /// What makes the ids of rows.
    pub fn ids(&self) -> Arc<ids::Ids> {
        Arc::clone(&self.ids)
    }

    /// How many rows this instance had stored today when it was opened.
    pub fn rows_today(&self) -> u64 {
        self.rows_today
    }

    /// What was done to the schema, and what `migrate` would do.
    pub fn report(&self) -> &schema::Report {
        &self.report
    }

    /// The built-in sources and the configured queries, and a line for each that is off because something is missing.
    pub async fn sources(&self, settings: &Settings) -> Result<(Vec<Source>, Vec<String>), EngineError> {
        self.database.sources(settings).await
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

/// Stored history, opened for reading: nothing is made or changed.
pub struct Archive {
    /// The history.
    pub samples: Arc<dyn SampleStore>,
    database: sqlite::Database,
}

impl Archive {
    /// Opens it.
    pub async fn open(settings: &Settings) -> Result<Self, EngineError> {
        let (database, samples) = sqlite::history(settings).await?;
        Ok(Self { samples, database })
    }

    /// Closes it. A process that ends without leaves the files of a write-ahead log beside the database.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

/// How something is that `check` looked at.
#[derive(Debug)]
pub enum Checked {
    /// As it should be.
    Good(String),
    /// `run` would work, but not wholly.
    Look(String),
    /// `run` would not work.
    Bad(EngineError),
}

/// Looks at the database and tries every configured query; one line each.
pub async fn check(settings: &Settings, clock: &Clock) -> Vec<(String, Checked)> {
    sqlite::check(settings, clock).await
}

/// Brings the schema up to date.
pub async fn migrate(
    settings: &Settings,
    options: schema::MigrateOptions,
    clock: &Clock,
) -> Result<schema::Report, EngineError> {
    sqlite::schema::migrate(settings, options, clock).await
}

/// The families of all engines.
pub fn metrics() -> Vec<&'static Desc> {
    sqlite::sources::metrics().collect()
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
