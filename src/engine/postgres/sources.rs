//! Everything on PostgreSQL that is a source: the built-in collectors and the configured queries.

use std::time::Duration;

use prometheus::Registry;

use super::stats::{About, Objects, Statistics};
use super::{Database, stats};
use crate::engine::sources::{self as shared, slow_source, source};
use crate::engine::{Builtin, EngineError, Settings, queries};
use crate::sample::Desc;
use crate::scrape::Source;

/// `database_objects` asks the file system about every file of the database: not more often than every 15 minutes, and with at least half a minute to do it.
const OBJECTS_PACE: (Duration, Duration) = (Duration::from_secs(900), Duration::from_secs(30));

/// Looking is a matter of milliseconds; this is for a server that hangs.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// All families that PostgreSQL's sources show, for docs/METRICS.md.
pub fn metrics() -> impl Iterator<Item = &'static Desc> {
    stats::metrics().chain(queries::METRICS.iter().copied())
}

/// What the sources measure of themselves: registered once, shared by all that come after a change of the configuration.
#[derive(Clone)]
pub struct Own {
    queries: queries::Own,
}

impl Own {
    /// Registers it.
    pub fn new(registry: &Registry) -> Self {
        Self { queries: queries::Own::new(registry) }
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
    let databases = [("application", Some(app)), ("metrics", metrics)];
    let databases: Vec<_> =
        databases.into_iter().filter_map(|(name, database)| Some((name, database?.clone()))).collect();
    let built_in = |name: &str| built_in(name, databases.clone(), &settings.builtin);
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

/// The built-in collector, or what it lacks.
fn built_in(name: &str, databases: Vec<(&'static str, Database)>, settings: &Builtin) -> Result<Source, String> {
    match name {
        "database" => Ok(source(name, settings, Box::new(Statistics { databases, limit: settings.timeout }))),
        "database_objects" => {
            Ok(slow_source(name, settings, OBJECTS_PACE, |limit| Box::new(Objects { databases, limit })))
        }
        _ => Err("it is not there for PostgreSQL".to_owned()),
    }
}

/// What the server of `database` says of itself.
pub(super) async fn about(database: &Database) -> Result<About, EngineError> {
    let failed = |e: sqlx::Error| EngineError::new(format!("cannot ask `{}` about itself: {e}", database.shown()));
    let mut reader = database.read(LOOK_LIMIT).await.map_err(failed)?;
    About::read(&mut reader).await.map_err(failed)
}
