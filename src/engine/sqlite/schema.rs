//! The schema on SQLite.
//!
//! What a crash leaves: each step is one transaction (in a database without tables all of them together), so the schema is always between two steps,
//! and the next run plans the rest. An index over a large table is the longest one: SQLite cannot build it in pieces, and the
//! application cannot write meanwhile. That is why only the operator's `migrate` makes one.

pub mod apply;
pub mod full_text;
pub mod inventory;
pub mod own;
pub mod plan;

use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use self::apply::{LOOK_LIMIT, Work};
pub use self::plan::{Plan, plan};
use super::{Database, path_of};
use crate::clock::Clock;
use crate::engine::schema::inventory::Inventory;
use crate::engine::schema::{FileReport, KeySink, MigrateOptions, Report, complete, foreseen};
pub use crate::engine::schema::{Part, Scope, prepare};
use crate::engine::{EngineError, Settings};

/// What the operator asks for: creates and adds what is missing, in both databases where there are two.
pub async fn migrate(settings: &Settings, options: MigrateOptions, clock: &Clock) -> Result<Report, EngineError> {
    let mut report = Report::new(options.dry_run);
    for (part, path) in databases(settings)? {
        if options.dry_run {
            let file = foresee(&path, part, settings, &options.key_sink).await?;
            report.files.push(file);
            continue;
        }
        let database = Database::open(&path, may_be_made(part, settings)).await?;
        let mut work = Work::new(&database, (part, Scope::All), &settings.full_text, &options.key_sink, clock);
        let done = complete(&mut work, &mut report).await;
        database.close().await;
        done?;
    }
    Ok(report)
}

/// The databases of `settings` in the order in which they are brought up to date: the application's last, because its admin key is the one
/// thing that must not be lost in a later failure.
pub fn databases(settings: &Settings) -> Result<Vec<(Part, PathBuf)>, EngineError> {
    let app = path_of(&settings.url)?;
    match settings.metrics_url.as_deref().map(path_of).transpose()? {
        Some(metrics) if !same_file(&metrics, &app) => Ok(vec![(Part::Metrics, metrics), (Part::Application, app)]),
        _ => Ok(vec![(Part::Whole, app)]),
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// What a migration of the file at `path` would do.
async fn foresee(path: &Path, part: Part, settings: &Settings, sink: &KeySink) -> Result<FileReport, EngineError> {
    let made = !path.exists();
    if made && !may_be_made(part, settings) {
        return Err(EngineError::new(format!("database `{}` does not exist", path.display()))
            .hint("correct `database.url`, or set `database.create = true` if a new one is wanted there"));
    }
    let inventory = if made { Inventory::default() } else { look(path).await? };
    let plan = plan(&inventory, part, Scope::All, part.full_text(settings))?;
    Ok(foreseen(plan, FileReport { made, ..FileReport::new(path.display().to_string()) }, sink))
}

/// Whether a missing file is no mistake. The samples' own never is: `database.create` is there so that an application is not given an empty database.
fn may_be_made(part: Part, settings: &Settings) -> bool {
    settings.create || part == Part::Metrics
}

/// Reads the inventory and leaves no trace. A reader that is alone with a file in WAL mode leaves the WAL's files behind; a connection that may
/// write takes them away when it closes. But where they are there already it would also move their content into the file: then a reader.
async fn look(path: &Path) -> Result<Inventory, EngineError> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        Path::new(&name).exists()
    };
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(beside("-wal") || beside("-journal"))
        .pragma("query_only", "ON")
        .busy_timeout(LOOK_LIMIT);
    let cannot = |e: sqlx::Error| EngineError::new(format!("cannot read database `{}`: {e}", path.display()));
    let mut connection = options.connect().await.map_err(cannot)?;
    let inventory = inventory::read(&mut connection).await.map_err(cannot);
    connection.close().await.map_err(cannot)?;
    inventory
}
