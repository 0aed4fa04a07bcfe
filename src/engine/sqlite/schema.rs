//! Bringing a database's schema up to date, as a guest in somebody's file.
//!
//! Three steps: read what is there ([`Inventory`]), decide what is missing ([`plan()`], pure and printable), do it ([`mod@apply`]). Nothing of the
//! application's is ever dropped, rewritten or renamed; what is in the way is left alone and named. Running it again changes nothing.
//!
//! Who may do what:
//!
//! | | database without tables, or made by `run` | beside the application's tables |
//! |---|---|---|
//! | `migrate` | everything | everything that is missing |
//! | `run` | everything | only `sidecar_*`; it says what `migrate` would add |
//!
//! With `database.metrics_url` the samples' table and the `sidecar_*` tables live in the file named there, which is the operator's gift to the
//! sidecar: everything of that part is made there by both. The application's database then gets a `sidecar_` table only from `migrate`: the
//! record of what it did there, and the full-text indexes, which belong beside their text.
//!
//! What a crash leaves: each step is one transaction (in a database without tables all of them together), so the schema is always between two steps,
//! and the next run plans the rest. An index over a large table is the longest one: SQLite cannot build it in pieces, and the
//! application cannot write meanwhile. That is why only the operator's `migrate` makes one.

pub mod apply;
pub mod full_text;
pub mod inventory;
pub mod own;
pub mod plan;
pub mod seed;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use self::apply::{MadeKey, Stepped, Work};
pub use self::plan::{Plan, plan};
use super::{Database, admin_key, path_of};
use crate::clock::Clock;
use crate::engine::schema::inventory::Inventory;
use crate::engine::schema::{FileReport, KeySink, MigrateOptions, Report};
use crate::engine::{EngineError, FullText, Settings};

/// Which part of the schema belongs in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it: there is one database.
    Whole,
    /// The application's, while the samples go elsewhere.
    Application,
    /// The samples and what the sidecar remembers.
    Metrics,
}

/// What may be done to a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything that is missing.
    All,
    /// Everything in a database without tables; beside tables only the sidecar's own.
    Guest,
}

/// Reading a schema is a matter of milliseconds; this is for a disk that hangs.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

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

/// What `run` does at its start with the databases that it has opened. The admin key of a database that it makes goes to the state directory.
pub async fn prepare(
    app: &Database,
    metrics: Option<&Database>,
    settings: &Settings,
    clock: &Clock,
) -> Result<Report, EngineError> {
    let mut report = Report::new(false);
    let sink = KeySink::File(settings.state_directory.clone());
    if let Some(metrics) = metrics {
        let mut work = Work::new(metrics, (Part::Metrics, Scope::All), &[], &sink, clock);
        complete(&mut work, &mut report).await?;
    }
    let part = if metrics.is_some() { Part::Application } else { Part::Whole };
    let scope = if app.made() { Scope::All } else { Scope::Guest };
    let mut work = Work::new(app, (part, scope), &settings.full_text, &sink, clock);
    complete(&mut work, &mut report).await?;
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

/// Steps until nothing is left. A start that finds nothing to do does not ask for the write lock.
async fn complete(work: &mut Work<'_>, report: &mut Report) -> Result<(), EngineError> {
    let mut file = FileReport { made: work.database.made(), ..FileReport::new(work.database.path()) };
    let mut last = glance(work).await.filter(|plan| plan.steps.is_empty());
    while last.is_none() {
        match work.step().await? {
            Stepped::Nothing(plan) => last = Some(plan),
            Stepped::Rows => {}
            Stepped::Done { what, key, plan } => {
                file.steps.extend(what);
                // The key's step is the last of its plan, so nothing that could fail comes after it, and the key is not lost.
                match key {
                    Some(MadeKey::Shown(key)) => report.admin_key = Some(key),
                    Some(MadeKey::Written(path)) => report.admin_key_file = Some(path),
                    None => {}
                }
                last = Some(plan).filter(|plan| plan.steps.is_empty());
            }
        }
    }
    let plan = last.unwrap_or_default();
    (file.pending, file.notes, file.warnings) = (plan.pending, plan.notes, plan.warnings);
    report.files.push(file);
    Ok(())
}

/// The plan as a reader sees it; nothing where it cannot be read now, because the step that follows says why.
async fn glance(work: &Work<'_>) -> Option<Plan> {
    let mut reader = work.database.read(LOOK_LIMIT).await.ok()?;
    let inventory = inventory::read(&mut reader).await.ok()?;
    plan(&inventory, work.part, work.scope, work.full_text).ok()
}

/// What a migration of the file at `path` would do.
async fn foresee(path: &Path, part: Part, settings: &Settings, sink: &KeySink) -> Result<FileReport, EngineError> {
    let made = !path.exists();
    if made && !may_be_made(part, settings) {
        return Err(EngineError::new(format!("database `{}` does not exist", path.display()))
            .hint("correct `database.url`, or set `database.create = true` if a new one is wanted there"));
    }
    let inventory = if made { Inventory::default() } else { look(path).await? };
    let plan = plan(&inventory, part, Scope::All, full_text(part, settings))?;
    let key = plan.steps.iter().find_map(|step| match step.action {
        plan::Action::AdminKey { first, .. } => Some(first),
        _ => None,
    });
    let mut file = FileReport { made, ..FileReport::new(path) };
    file.steps = plan.steps.into_iter().map(|s| s.what).collect();
    (file.notes, file.warnings) = (plan.notes, plan.warnings);
    if let (Some(first), KeySink::File(directory)) = (key, sink)
        && admin_key::exists(directory)
        && (!first || admin_key::left_behind(directory).is_none())
    {
        file.warnings.push(admin_key::taken(directory).to_string());
    }
    Ok(file)
}

/// Whether a missing file is no mistake. The samples' own never is: `database.create` is there so that an application is not given an empty database.
fn may_be_made(part: Part, settings: &Settings) -> bool {
    settings.create || part == Part::Metrics
}

fn full_text(part: Part, settings: &Settings) -> &[FullText] {
    if part == Part::Metrics { &[] } else { &settings.full_text }
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
