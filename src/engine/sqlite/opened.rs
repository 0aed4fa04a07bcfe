//! The databases of a configuration, opened, and the parts made of them.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;

use super::samples::Samples;
use super::schema::inventory::Inventory;
use super::{Database, path_of, queries, schema, sources};
use crate::clock::{Clock, Timestamp};
use crate::engine::ids::Instance;
use crate::engine::schema::Report;
use crate::engine::{EngineError, Settings};
use crate::scrape::Source;
use crate::store::SampleStore;

/// Looking at a schema is a matter of milliseconds; this is for a disk that hangs.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// What the table of samples must have.
const SAMPLE_COLUMNS: &[&str] = &["id", "metric_name", "metric_value", "tags", "recorded_at"];

/// The application's database and, where there is one, the other for samples.
pub struct Opened {
    app: Database,
    metrics: Option<Database>,
    own: sources::Own,
}

impl Opened {
    /// Opens what `settings` name and does what `run` may do there by itself.
    pub async fn open(settings: &Settings, clock: &Clock, registry: &Registry) -> Result<(Self, Report), EngineError> {
        let app = Database::open(&path_of(&settings.url)?, settings.create).await?;
        let metrics = match &settings.metrics_url {
            // The sidecar's own: `create` is there so that an application is not given an empty database.
            Some(url) => Some(Database::open(&path_of(url)?, true).await?),
            None => None,
        };
        let report = schema::prepare(&app, metrics.as_ref(), settings, clock).await?;
        Ok((Self { app, metrics, own: sources::Own::new(registry) }, report))
    }

    /// Where samples go, with `instance` registered; nothing where there is no table for them.
    pub async fn samples(
        &self,
        instance: Instance,
        host: &str,
        now: Timestamp,
    ) -> Result<Option<Arc<dyn SampleStore>>, EngineError> {
        let database = self.metrics.as_ref().unwrap_or(&self.app);
        let cannot = |e: &dyn std::fmt::Display| {
            EngineError::new(format!("cannot use database `{}`: {e}", database.path().display()))
        };
        if look(database).await?.has("system_metrics", SAMPLE_COLUMNS).is_err() {
            return Ok(None);
        }
        let samples = Samples::new(database.clone(), instance);
        samples.register(host, now).await.map_err(|e| cannot(&e))?;
        Ok(Some(Arc::new(samples)))
    }

    /// See [`crate::engine::Engine::sources`].
    pub async fn sources(&self, settings: &Settings) -> Result<(Vec<Source>, Vec<String>), EngineError> {
        let metrics = self.metrics.as_ref().unwrap_or(&self.app);
        sources::sources(&self.app, metrics, settings, &self.own).await
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.app.close().await;
        if let Some(metrics) = &self.metrics {
            metrics.close().await;
        }
    }
}

async fn look(database: &Database) -> Result<Inventory, EngineError> {
    let failed =
        |e: sqlx::Error| EngineError::new(format!("cannot read the schema of `{}`: {e}", database.path().display()));
    let mut reader = database.read(LOOK_LIMIT).await.map_err(failed)?;
    Inventory::read(&mut reader).await.map_err(failed)
}

/// Opens the database of samples for reading.
pub async fn history(settings: &Settings) -> Result<(Database, Arc<dyn SampleStore>), EngineError> {
    let url = settings.metrics_url.as_ref().unwrap_or(&settings.url);
    let database = Database::open(&path_of(url)?, false).await?;
    let usable = look(&database).await.and_then(|inventory| {
        inventory.has("system_metrics", SAMPLE_COLUMNS).map_err(|missing| {
            EngineError::new(format!("no history in `{}`: {missing}", database.path().display()))
                .hint("`atlas-sidecar migrate` makes what is missing")
        })
    });
    if let Err(e) = usable {
        database.close().await;
        return Err(e);
    }
    // Reading needs no number of ours; nothing is registered.
    let instance = Instance::parse("000000000000").ok_or_else(|| EngineError::new("no instance"))?;
    Ok((database.clone(), Arc::new(Samples::new(database, instance))))
}

/// Looks at the databases and tries the queries; a line each.
pub async fn check(settings: &Settings) -> Vec<(String, Result<String, EngineError>)> {
    let mut lines = Vec::new();
    lines.push(("database.url".to_owned(), check_file(&settings.url, settings.create).await));
    if let Some(url) = &settings.metrics_url {
        lines.push(("database.metrics_url".to_owned(), check_file(url, true).await));
    }
    let app = match path_of(&settings.url) {
        Ok(path) if path.exists() => Database::open(&path, false).await,
        Ok(_) => return lines,
        Err(e) => Err(e),
    };
    let Ok(app) = app else { return lines };
    for query in &settings.queries {
        let tried = queries::check_query(&app, query).await;
        let line = tried.map(|()| "runs".to_owned()).map_err(EngineError::new);
        lines.push((format!("scrape.queries `{}`", query.name), line));
    }
    app.close().await;
    lines
}

/// What the file at `url` is, and what `migrate` would do to it.
async fn check_file(url: &str, create: bool) -> Result<String, EngineError> {
    let path = path_of(url)?;
    if !path.exists() && create {
        return Ok(format!("`{}` does not exist yet; `run` makes it", path.display()));
    }
    let database = Database::open(&path, false).await?;
    let inventory = look(&database).await;
    let journal = journal_mode(&database).await;
    database.close().await;
    let tables = inventory?.len();
    Ok(format!("`{}`: {tables} tables, journal mode `{}`", path.display(), journal?))
}

async fn journal_mode(database: &Database) -> Result<String, EngineError> {
    let failed = |e: sqlx::Error| EngineError::new(format!("cannot read `{}`: {e}", database.path().display()));
    let mut reader = database.read(LOOK_LIMIT).await.map_err(failed)?;
    sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *reader).await.map_err(failed)
}
