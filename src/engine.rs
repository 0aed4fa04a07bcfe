//! The database: [`Engine`] is a bag of parts; `kind_of` is the program's only match on which database it is.
//!
//! A kind of database is a twin folder behind two small ports: [`Kind`] is what can be asked of a URL before anything is open, [`Opened`] is what an open
//! database gives. Each twin writes the SQL that its engine likes; the names, units and meanings of what they give are in this folder, once.

pub mod atlas;
pub mod copy;
pub mod expiry;
mod history;
pub mod ids;
pub mod postgres;
pub mod queries;
pub mod roll_up;
pub mod runs;
mod samples;
pub mod schema;
pub mod sources;
pub mod sqlite;
pub mod stats;
pub mod table;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;

use crate::backup;
use crate::backup::Rebuild;
use crate::backup::fold::Weave;
use crate::clock::{Clock, Timestamp};
use crate::sample::Desc;
use crate::sample::globs::Globs;
use crate::scrape::Source;
use crate::secret::{Secret, redacted_url};
use crate::store::{Expiry, RollUps, RunLog, SampleStore, Upkeep};
use crate::task::Pending;

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
/// `database` is what the engine tells of itself; `database_objects` (sizes of tables and indexes) costs more and therefore runs once an hour at most, on
/// PostgreSQL every 15 minutes.
pub const COLLECTORS: &[&str] =
    &["queue", "cache", "content", "api_keys", "webhooks", "table", "database", "database_objects"];

/// The `[database]` section and what else the engine needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `sqlite://PATH` or `postgres://USER@HOST/DATABASE`.
    pub url: String,
    /// The password of `url`, where it is not part of it.
    pub password: Option<Secret>,
    /// Where samples and own tables go, if not into the same database; of the same kind.
    pub metrics_url: Option<String>,
    /// The password of `metrics_url`, where it is not part of it.
    pub metrics_password: Option<Secret>,
    /// Whether a missing file is made.
    pub create: bool,
    /// Whether `migrate` may widen a `metric_value` that cannot hold large numbers (PostgreSQL).
    pub widen_metric_value: bool,
    /// Full-text indexes that `migrate` makes.
    pub full_text: Vec<FullText>,
    /// Where `admin-key` goes.
    pub state_directory: PathBuf,
    /// `[scrape.atlas]`
    pub builtin: Builtin,
    /// `[[scrape.queries]]`
    pub queries: Vec<Query>,
    /// How the commits of the application's database are followed; nothing where they are not.
    pub follow: Option<Follow>,
}

/// `[backup.sqlite]`, as far as the database is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// How long the database's own log may become before it is let go, whatever is lost by it to the tail.
    pub log_max: u64,
    /// Whether a database with a rollback journal is given a write-ahead log.
    pub convert_to_wal: bool,
}

/// A kind of database.
pub trait Kind: Sync {
    /// Whether `url` is one of this kind's; the error says what is expected, and nothing of the URL that may be secret.
    fn accepts(&self, url: &str) -> Result<(), String>;

    /// Whether a password can be given beside `url`; the error says what about `url` is against it.
    fn takes_password(&self, url: &str) -> Result<(), &'static str>;

    /// Whether two URLs lead to one database.
    fn is_same(&self, a: &str, b: &str) -> bool;

    /// `url` without its secrets.
    fn shown(&self, url: &str) -> String {
        redacted_url(url)
    }

    /// Whether `condition` can stand behind a `WHERE` of ours; the error says what is wrong with it.
    fn takes_condition(&self, condition: &str) -> Result<(), String>;

    /// The files that are the database at `url`, on this machine.
    fn files(&self, _url: &str) -> Vec<PathBuf> {
        Vec::new()
    }

    /// What is unwise about `url`, in words.
    fn caution(&self, _url: &str) -> Option<String> {
        None
    }

    /// How its databases are made of the segments of backups; nothing where there are no backups of them.
    fn rebuild(&self) -> Option<&'static dyn Rebuild> {
        None
    }

    /// How the segments of its databases' backups are made into one; nothing where there are no backups of them.
    fn weave(&self) -> Option<&'static dyn Weave> {
        None
    }

    /// Opens what `settings` name and does what `run` may do there by itself.
    fn open<'a>(&'a self, settings: &'a Settings, clock: &'a Clock, registry: &'a Registry) -> Answer<'a, Ready>;

    /// Opens stored history for reading: nothing is made or changed.
    fn history<'a>(&'a self, settings: &'a Settings) -> Answer<'a, Archive>;

    /// Looks at the databases and tries every configured query; one line each.
    fn check<'a>(&'a self, settings: &'a Settings, clock: &'a Clock) -> Pending<'a, Vec<(String, Checked)>>;

    /// Brings the schema up to date.
    fn migrate<'a>(
        &'a self,
        settings: &'a Settings,
        options: schema::MigrateOptions,
        clock: &'a Clock,
    ) -> Answer<'a, schema::Report>;

    /// The families of its sources.
    fn metrics(&self) -> Vec<&'static Desc>;
}

/// What the engine answers when it has tried.
pub type Answer<'a, T> = Pending<'a, Result<T, EngineError>>;

/// An open database, and what was done to its schema.
pub type Ready = (Box<dyn Opened>, schema::Report);

/// An open database.
pub trait Opened: Send + Sync {
    /// Where samples go, with `instance` registered under `host`; nothing where there is no table for them.
    fn samples<'a>(
        &'a self,
        instance: ids::Instance,
        host: &'a str,
        now: Timestamp,
    ) -> Answer<'a, Option<Arc<dyn SampleStore>>>;

    /// The built-in sources and the configured queries, and a line for each that is off because something is missing.
    fn sources<'a>(&'a self, settings: &'a Settings) -> Answer<'a, (Vec<Source>, Vec<String>)>;

    /// Who runs which job when.
    fn runs(&self) -> Arc<dyn RunLog>;

    /// What takes old rows out of the application's tables.
    fn expiry(&self) -> Arc<dyn Expiry>;

    /// What rolls up and prunes the samples.
    fn roll_ups(&self) -> Option<Arc<dyn RollUps>>;

    /// What looks after each of its databases, with the full-text indexes that `settings` ask for.
    fn upkeep(&self, settings: &Settings) -> Vec<Arc<dyn Upkeep>>;

    /// What the application's database is backed up from; nothing where the engine cannot. Ask once: it owns files in the state directory.
    fn source(&self, settings: &Settings) -> Option<Arc<dyn backup::Source>>;

    /// Closes all connections.
    fn close(&self) -> Pending<'_, ()>;
}

/// All kinds.
const KINDS: [&dyn Kind; 2] = [&sqlite::Sqlite, &postgres::Postgres];

/// The kind of database that `url` names.
pub fn kind_of(url: &str) -> &'static dyn Kind {
    match url.split(':').next() {
        Some("postgres" | "postgresql") => &postgres::Postgres,
        _ => &sqlite::Sqlite,
    }
}

/// How databases of the engine that a manifest names are made of segments; no database has to be there.
pub fn rebuild(engine: &str) -> Option<&'static dyn Rebuild> {
    KINDS.iter().filter_map(|kind| kind.rebuild()).find(|rebuild| rebuild.engine() == engine)
}

/// How segments of the engine that a manifest names are made into one.
pub fn weave(engine: &str) -> Option<&'static dyn Weave> {
    KINDS.iter().filter_map(|kind| kind.weave()).find(|weave| weave.engine() == engine)
}

/// An opened database: the parts that the rest of the program works with.
pub struct Engine {
    database: Box<dyn Opened>,
    samples: Option<Arc<dyn SampleStore>>,
    instance: ids::Instance,
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
        let (database, report) = kind_of(&settings.url).open(settings, clock, registry).await?;
        let instance = ids::Instance::load_or_make(&settings.state_directory).map_err(|e| {
            EngineError::new(format!("cannot keep `instance` in `{}`: {e}", settings.state_directory.display()))
        })?;
        let samples = database.samples(instance, host, clock.now()).await?;
        let rows_today = match &samples {
            // Where it cannot be counted now, the budget of this day begins again: rather too many rows than none.
            Some(samples) => samples.own_rows_since(clock.now().midnight()).await.unwrap_or(0),
            None => 0,
        };
        Ok(Self { database, samples, instance, ids: Arc::new(ids::Ids::new(instance)), rows_today, report })
    }

    /// Where samples are stored; nothing where the database has no table for them.
    pub fn samples(&self) -> Option<Arc<dyn SampleStore>> {
        self.samples.clone()
    }

    /// What makes the ids of rows.
    pub fn ids(&self) -> Arc<ids::Ids> {
        Arc::clone(&self.ids)
    }

    /// The number of this installation.
    pub fn instance(&self) -> ids::Instance {
        self.instance
    }

    /// Who runs which job when.
    pub fn runs(&self) -> Arc<dyn RunLog> {
        self.database.runs()
    }

    /// What takes old rows out of the application's tables.
    pub fn expiry(&self) -> Arc<dyn Expiry> {
        self.database.expiry()
    }

    /// What rolls up and prunes the samples.
    pub fn roll_ups(&self) -> Option<Arc<dyn RollUps>> {
        self.database.roll_ups()
    }

    /// What looks after each of the databases.
    pub fn upkeep(&self, settings: &Settings) -> Vec<Arc<dyn Upkeep>> {
        self.database.upkeep(settings)
    }

    /// What the application's database is backed up from; nothing where the engine cannot. Ask once: it owns files in the state directory.
    pub fn source(&self, settings: &Settings) -> Option<Arc<dyn backup::Source>> {
        self.database.source(settings)
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

/// Stored history, opened for reading: nothing is made or changed. Drop it only after [`Archive::close`]: a process that ends without leaves the
/// files of a write-ahead log beside a SQLite database.
pub struct Archive {
    /// The history.
    pub samples: Arc<dyn SampleStore>,
    database: Box<dyn Opened>,
}

impl Archive {
    /// Opens it.
    pub async fn open(settings: &Settings) -> Result<Self, EngineError> {
        kind_of(&settings.url).history(settings).await
    }

    /// Who ran which job when.
    pub fn runs(&self) -> Arc<dyn RunLog> {
        self.database.runs()
    }

    /// Closes it.
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
    kind_of(&settings.url).check(settings, clock).await
}

/// Brings the schema up to date.
pub async fn migrate(
    settings: &Settings,
    options: schema::MigrateOptions,
    clock: &Clock,
) -> Result<schema::Report, EngineError> {
    kind_of(&settings.url).migrate(settings, options, clock).await
}

/// The families of all engines.
pub fn metrics() -> Vec<&'static Desc> {
    let mut all: Vec<&'static Desc> = KINDS.iter().flat_map(|kind| kind.metrics()).collect();
    // Most of them are the same on every engine.
    all.sort_by_key(|desc| desc.name);
    all.dedup_by_key(|desc| desc.name);
    all
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
