//! Everything on PostgreSQL that is a source: the built-in collectors and the configured queries.

use std::time::Duration;

use prometheus::Registry;

use super::atlas::{self, Needs, Read, cache, content, keys, queue, webhooks};
use super::errors::said;
use super::schema::inventory;
use super::stats::{About, Objects, Statistics};
use super::table::{self, Table};
use super::{Database, stats};
use crate::engine::atlas as families;
use crate::engine::schema::inventory::Inventory;
use crate::engine::sources::{self as shared, slow_source, source};
use crate::engine::{Builtin, EngineError, Settings, queries};
use crate::sample::Desc;
use crate::scrape::{Collector, Source};

/// `database_objects` asks the file system about every file of the database: not more often than every 15 minutes, and with at least half a minute to do it.
const OBJECTS_PACE: (Duration, Duration) = (Duration::from_secs(900), Duration::from_secs(30));

/// Looking is a matter of milliseconds; this is for a server that hangs.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// All families that PostgreSQL's sources show, for docs/METRICS.md.
pub fn metrics() -> impl Iterator<Item = &'static Desc> {
    let others = [table::METRICS, queries::METRICS];
    families::metrics().chain(stats::metrics()).chain(others.into_iter().flatten().copied())
}

/// What the sources measure of themselves: registered once, shared by all that come after a change of the configuration.
#[derive(Clone)]
pub struct Own {
    table: table::Own,
    queries: queries::Own,
}

impl Own {
    /// Registers it.
    pub fn new(registry: &Registry) -> Self {
        Self { table: table::Own::new(registry), queries: queries::Own::new(registry) }
    }
}

/// The sources that `settings` ask for and the databases can serve, and a line about each that is off, will fail or shows less than it could, with the reason.
///
/// `metrics` is the other database for samples, where there is one.
pub async fn sources(
    app: &Database,
    metrics: Option<&Database>,
    settings: &Settings,
    own: &Own,
) -> Result<(Vec<Source>, Vec<String>), EngineError> {
    let inventory = look(app).await?;
    let databases = [("application", Some(app)), ("metrics", metrics)];
    let databases: Vec<_> =
        databases.into_iter().filter_map(|(name, database)| Some((name, database?.clone()))).collect();
    let built_in = |name: &str| built_in(name, &databases, &inventory, &settings.builtin, own);
    let (sources, mut notes) = shared::sources(app, settings, &own.queries, built_in).await;
    if sources.iter().any(|source| source.name == "database") {
        for (_, database) in &databases {
            let missing = about(database).await?.missing_rights();
            notes.extend(
                missing.map(|missing| format!("collector `database` shows less of `{}`: {missing}", database.shown())),
            );
        }
    }
    Ok((sources, notes))
}

/// The built-in collector, or what it lacks. The first of `databases` is the application's, the last the one with our own tables.
fn built_in(
    name: &str,
    databases: &[(&'static str, Database)],
    inventory: &Inventory,
    settings: &Builtin,
    own: &Own,
) -> Result<Source, String> {
    let ([(_, app), ..], [.., (_, metrics)]) = (databases, databases) else {
        return Err("no database is open".to_owned());
    };
    let (needs, read): (Needs, Option<Read>) = match name {
        "queue" => (families::queue::NEEDS, Some(queue::read)),
        "cache" => (families::cache::NEEDS, Some(cache::read)),
        "content" => (families::content::NEEDS, Some(content::read)),
        "api_keys" => (families::keys::NEEDS, Some(keys::read)),
        "webhooks" => (families::webhooks::NEEDS, Some(webhooks::read)),
        "table" => (table::NEEDS, None),
        _ => return Ok(about_the_server(name, databases.to_vec(), settings)),
    };
    if let Some(missing) = needs.missing(inventory) {
        return Err(missing);
    }
    let limit = settings.timeout;
    let collector: Box<dyn Collector> = match read {
        Some(read) => Box::new(atlas::Reading { database: app.clone(), limit, read }),
        None => Box::new(Table::new(app.clone(), metrics.clone(), limit, own.table.clone())),
    };
    Ok(source(name, settings, collector))
}

fn about_the_server(name: &str, databases: Vec<(&'static str, Database)>, settings: &Builtin) -> Source {
    match name {
        "database" => source(name, settings, Box::new(Statistics { databases, limit: settings.timeout })),
        _ => slow_source(name, settings, OBJECTS_PACE, |limit| Box::new(Objects { databases, limit })),
    }
}

async fn look(database: &Database) -> Result<Inventory, EngineError> {
    let failed =
        |e: sqlx::Error| EngineError::new(format!("cannot read the schema of `{}`: {}", database.shown(), said(&e)));
    let mut reader = database.read(LOOK_LIMIT).await.map_err(failed)?;
    inventory::read(&mut reader).await.map_err(failed)
}

/// What the server of `database` says of itself.
pub(super) async fn about(database: &Database) -> Result<About, EngineError> {
    let failed =
        |e: sqlx::Error| EngineError::new(format!("cannot ask `{}` about itself: {}", database.shown(), said(&e)));
    let mut reader = database.read(LOOK_LIMIT).await.map_err(failed)?;
    About::read(&mut reader).await.map_err(failed)
}
