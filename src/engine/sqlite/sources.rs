//! Everything on SQLite that is a source: the built-in collectors and the configured queries.

use std::time::Duration;

use prometheus::Registry;

use super::atlas::{Needs, Read, cache, content, keys, queue, webhooks};
use super::opened::look;
use super::queries::{Queried, prepare_query};
use super::stats::{Files, Objects};
use super::table::Table;
use super::{Database, atlas, queries, stats, table};
use crate::engine::schema::inventory::Inventory;
use crate::engine::{Builtin, COLLECTORS, EngineError, Settings};
use crate::sample::Desc;
use crate::scrape::{Collector, Source};

/// `database_objects` reads every page of the file: not more often than this, and with at least a minute to do it.
const OBJECTS_INTERVAL: Duration = Duration::from_secs(3600);
const OBJECTS_TIMEOUT: Duration = Duration::from_secs(60);

/// All families that SQLite's sources show, for docs/METRICS.md.
pub fn metrics() -> impl Iterator<Item = &'static Desc> {
    [
        queue::METRICS,
        cache::METRICS,
        content::METRICS,
        keys::METRICS,
        webhooks::METRICS,
        table::METRICS,
        stats::METRICS,
        queries::METRICS,
    ]
    .into_iter()
    .flatten()
    .copied()
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
    let (mut sources, mut notes) = (Vec::new(), Vec::new());
    let inventory = look(app).await?;
    for name in COLLECTORS.iter().filter(|name| settings.builtin.collectors.iter().any(|wanted| wanted == *name)) {
        match built_in(name, (app, metrics), &inventory, &settings.builtin, own) {
            Ok(source) => sources.push(source),
            Err(missing) => notes.push(format!(
                "collector `{name}` is off: {missing}; `atlas-sidecar migrate --dry-run` tells what it would add"
            )),
        }
    }
    for wanted in settings.builtin.collectors.iter().filter(|wanted| !COLLECTORS.contains(&wanted.as_str())) {
        notes.push(format!("there is no collector `{wanted}`"));
    }
    for query in &settings.queries {
        // It starts all the same: its table may come, and until then its own health says that it fails.
        if let Err(why) = prepare_query(app, query).await {
            notes.push(format!("query `{}` fails: {why}", query.name));
        }
        sources.push(Source {
            name: query.name.clone(),
            interval: query.interval,
            timeout: query.timeout,
            store: query.store.clone(),
            remote: false,
            collector: Box::new(Queried::new(app.clone(), query.clone(), &own.queries)),
        });
    }
    Ok((sources, notes))
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
    let timeout = settings.timeout.max(OBJECTS_TIMEOUT);
    // Each database has its share, so that the source's timeout covers all.
    let limit = timeout / u32::try_from(databases.len()).unwrap_or(1);
    Source {
        interval: settings.interval.max(OBJECTS_INTERVAL),
        timeout,
        ..source(name, settings, Box::new(Objects { databases, limit }))
    }
}

fn source(name: &str, settings: &Builtin, collector: Box<dyn Collector>) -> Source {
    Source {
        remote: false,
        name: name.to_owned(),
        interval: settings.interval,
        timeout: settings.timeout,
        store: settings.store.clone(),
        collector,
    }
}
