//! Everything on SQLite that is a source: the built-in collectors and the configured queries.

use std::time::Duration;

use prometheus::Registry;

use super::atlas::{Needs, Read, cache, content, keys, queue, webhooks};
use super::opened::look;
use super::stats::{Files, Objects};
use super::table::Table;
use super::{Database, atlas, stats, table};
use crate::engine::schema::inventory::Inventory;
use crate::engine::sources::{self as shared, slow_source, source};
use crate::engine::stats as both;
use crate::engine::{Builtin, EngineError, Settings, queries};
use crate::sample::Desc;
use crate::scrape::{Collector, Source};

/// `database_objects` reads every page of the file: not more often than once an hour, and with at least a minute to do it.
const OBJECTS_PACE: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(60));

/// All families that SQLite's sources show, for docs/METRICS.md.
pub fn metrics() -> impl Iterator<Item = &'static Desc> {
    let others = [table::METRICS, both::METRICS, stats::METRICS, queries::METRICS];
    crate::engine::atlas::metrics().chain(others.into_iter().flatten().copied())
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

/// The sources that `settings` ask for and the databases can serve, and a line about each that is off or will fail, with the reason.
///
/// `metrics` is where our own tables are (`app` itself, if there is no `metrics_url`).
pub async fn sources(
    app: &Database,
    metrics: &Database,
    settings: &Settings,
    own: &Own,
) -> Result<(Vec<Source>, Vec<String>), EngineError> {
    let inventory = look(app).await?;
    let built_in = |name: &str| built_in(name, (app, metrics), &inventory, &settings.builtin, own);
    Ok(shared::sources(app, settings, &own.queries, built_in).await)
}

/// The built-in collector, or what it lacks.
fn built_in(
    name: &str,
    (app, metrics): (&Database, &Database),
    inventory: &Inventory,
    settings: &Builtin,
    own: &Own,
) -> Result<Source, String> {
    let (needs, read): (Needs, Option<Read>) = match name {
        "queue" => (queue::NEEDS, Some(queue::read)),
        "cache" => (cache::NEEDS, Some(cache::read)),
        "content" => (content::NEEDS, Some(content::read)),
        "api_keys" => (keys::NEEDS, Some(keys::read)),
        "webhooks" => (webhooks::NEEDS, Some(webhooks::read)),
        "table" => (table::NEEDS, None),
        _ => return Ok(about_the_files(name, app, metrics, settings)),
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

fn about_the_files(name: &str, app: &Database, metrics: &Database, settings: &Builtin) -> Source {
    let mut databases = vec![("application", app.clone())];
    if metrics.path() != app.path() {
        databases.push(("metrics", metrics.clone()));
    }
    if name == "database" {
        return source(name, settings, Box::new(Files { databases, limit: settings.timeout }));
    }
    slow_source(name, settings, OBJECTS_PACE, |timeout| {
        // Each database has its share, so that the source's timeout covers all.
        let limit = timeout / u32::try_from(databases.len()).unwrap_or(1);
        Box::new(Objects { databases, limit })
    })
}
