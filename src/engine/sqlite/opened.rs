//! The databases of a configuration, opened, and the parts made of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rustix::fs::{Access, access};

use super::expiry::OldRows;
use super::queries::statement::only_condition;
use super::roll_up::Buckets;
use super::runs::Runs;
use super::samples::Samples;
use super::schema::Part;
use super::schema::inventory;
use super::source::{self, Pages};
use super::upkeep::Keeper;
use super::{Database, fold, path_of, rebuild, schema, sources, table};
use crate::backup::fold::Weave;
use crate::backup::{self, Rebuild};
use crate::clock::{Clock, Timestamp};
use crate::engine::ids::Instance;
use crate::engine::schema::inventory::Inventory;
use crate::engine::schema::{KeySink, MigrateOptions, Report};
use crate::engine::{Answer, Archive, Checked, EngineError, Kind, Opened, Ready, Settings, queries};
use crate::sample::Desc;
use crate::scrape::Source;
use crate::store::{Expiry, RollUps, RunLog, SampleStore, Upkeep};
use crate::task::Pending;

/// Looking at a schema is a matter of milliseconds; this is for a disk that hangs.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// SQLite, as a kind of database.
pub struct Sqlite;

impl Kind for Sqlite {
    fn accepts(&self, url: &str) -> Result<(), String> {
        // The engine's own error would repeat the URL.
        path_of(url).map(drop).map_err(|_| {
            "must be `sqlite://` and the path of a file, without parameters: `sqlite://data/atlas.db`, or `postgres://user@host/database`".to_owned()
        })
    }

    fn takes_password(&self, _url: &str) -> Result<(), &'static str> {
        Err("is a file, which has no password")
    }

    fn takes_condition(&self, condition: &str) -> Result<(), String> {
        only_condition(condition).map(drop)
    }

    /// With those that come and go beside it (<https://www.sqlite.org/tempfiles.html>).
    fn files(&self, url: &str) -> Vec<PathBuf> {
        let Ok(path) = path_of(url) else { return Vec::new() };
        // They lie beside the file that a link leads to.
        let path = path.canonicalize().unwrap_or(path);
        let beside = |end: &&str| {
            let mut path = path.clone().into_os_string();
            path.push(end);
            PathBuf::from(path)
        };
        ["", "-wal", "-shm", "-journal"].iter().map(beside).collect()
    }

    /// Links are followed where the file exists.
    fn is_same(&self, a: &str, b: &str) -> bool {
        let real = |url| {
            let path = path_of(url).ok()?;
            path.canonicalize().or_else(|_| std::path::absolute(&path)).ok()
        };
        real(a) == real(b)
    }

    fn rebuild(&self) -> Option<&'static dyn Rebuild> {
        Some(&rebuild::Sqlite)
    }

    fn weave(&self) -> Option<&'static dyn Weave> {
        Some(&fold::Logs)
    }

    fn open<'a>(&'a self, settings: &'a Settings, clock: &'a Clock, registry: &'a Registry) -> Answer<'a, Ready> {
        Box::pin(async move {
            let app = Database::open(&path_of(&settings.url)?, settings.create).await?;
            let app = app.keeping_log(settings.follow.is_some());
            let mut metrics = None;
            for (_, path) in schema::databases(settings)?.into_iter().filter(|(part, _)| *part == Part::Metrics) {
                // The sidecar's own: `create` is there so that an application is not given an empty database.
                metrics = Some(Database::open(&path, true).await?);
            }
            let report = schema::prepare(&app, metrics.as_ref(), settings, clock).await?;
            let opened = Databases { app, metrics, own: sources::Own::new(registry), clock: clock.clone() };
            Ok((Box::new(opened) as Box<dyn Opened>, report))
        })
    }

    fn history<'a>(&'a self, settings: &'a Settings) -> Answer<'a, Archive> {
        Box::pin(history(settings))
    }

    fn check<'a>(&'a self, settings: &'a Settings, clock: &'a Clock) -> Pending<'a, Vec<(String, Checked)>> {
        Box::pin(check(settings, clock))
    }

    fn migrate<'a>(&'a self, settings: &'a Settings, options: MigrateOptions, clock: &'a Clock) -> Answer<'a, Report> {
        Box::pin(schema::migrate(settings, options, clock))
    }

    fn metrics(&self) -> Vec<&'static Desc> {
        sources::metrics().collect()
    }
}

/// The application's database and, where there is one, the other for samples.
pub struct Databases {
    app: Database,
    metrics: Option<Database>,
    own: sources::Own,
    clock: Clock,
}

impl Databases {
    /// The database that has the samples and our own tables.
    fn with_own_tables(&self) -> &Database {
        self.metrics.as_ref().unwrap_or(&self.app)
    }
}

impl Opened for Databases {
    fn samples<'a>(
        &'a self,
        instance: Instance,
        host: &'a str,
        now: Timestamp,
    ) -> Answer<'a, Option<Arc<dyn SampleStore>>> {
        Box::pin(async move {
            let database = self.with_own_tables();
            let cannot = |e: &dyn std::fmt::Display| {
                EngineError::new(format!("cannot use database `{}`: {e}", database.path().display()))
            };
            if look(database).await?.has(table::NEEDS.table, table::NEEDS.columns).is_err() {
                return Ok(None);
            }
            let samples = Samples::new(database.clone(), instance);
            samples.register(host, now).await.map_err(|e| cannot(&e))?;
            Ok(Some(Arc::new(samples) as Arc<dyn SampleStore>))
        })
    }

    fn sources<'a>(&'a self, settings: &'a Settings) -> Answer<'a, (Vec<Source>, Vec<String>)> {
        Box::pin(sources::sources(&self.app, self.with_own_tables(), settings, &self.own))
    }

    fn runs(&self) -> Arc<dyn RunLog> {
        Arc::new(Runs::new(self.with_own_tables().clone()))
    }

    fn expiry(&self) -> Arc<dyn Expiry> {
        Arc::new(OldRows::new(self.app.clone()))
    }

    fn roll_ups(&self) -> Option<Arc<dyn RollUps>> {
        Some(Arc::new(Buckets::new(self.with_own_tables().clone())))
    }

    fn upkeep(&self, settings: &Settings) -> Vec<Arc<dyn Upkeep>> {
        let app = Keeper::new(self.app.clone(), settings.full_text.clone());
        let metrics = self.metrics.iter().map(|database| Keeper::new(database.clone(), Vec::new()));
        std::iter::once(app).chain(metrics).map(|keeper| Arc::new(keeper) as Arc<dyn Upkeep>).collect()
    }

    fn source(&self, settings: &Settings) -> Option<Arc<dyn backup::Source>> {
        let folder = settings.state_directory.join("backup");
        let settings = source::Settings { follow: settings.follow, ..source::Settings::default() };
        Some(Arc::new(Pages::new(self.app.clone(), self.clock.clone(), folder, settings)))
    }

    fn close(&self) -> Pending<'_, ()> {
        Box::pin(async move {
            self.app.close().await;
            if let Some(metrics) = &self.metrics {
                metrics.close().await;
            }
        })
    }
}

/// What is in `database`.
pub(super) async fn look(database: &Database) -> Result<Inventory, EngineError> {
    let failed =
        |e: sqlx::Error| EngineError::new(format!("cannot read the schema of `{}`: {e}", database.path().display()));
    let mut reader = database.read(LOOK_LIMIT).await.map_err(failed)?;
    inventory::read(&mut reader).await.map_err(failed)
}

/// Opens the database of samples for reading.
async fn history(settings: &Settings) -> Result<Archive, EngineError> {
    let url = settings.metrics_url.as_ref().unwrap_or(&settings.url);
    let database = Database::open(&path_of(url)?, false).await?;
    let usable = look(&database).await.and_then(|inventory| {
        inventory.has(table::NEEDS.table, table::NEEDS.columns).map_err(|missing| {
            EngineError::new(format!("no history in `{}`: {missing}", database.path().display()))
                .hint("`atlas-sidecar migrate` makes what is missing")
        })
    });
    if let Err(e) = usable {
        database.close().await;
        return Err(e);
    }
    // Reading needs no number of ours; nothing is registered.
    let samples = Arc::new(Samples::new(database.clone(), Instance::NOBODY));
    let own = sources::Own::new(&Registry::new());
    Ok(Archive { samples, database: Box::new(Databases { app: database, metrics: None, own, clock: Clock::system() }) })
}

/// Looks at the databases and tries the queries; a line each.
async fn check(settings: &Settings, clock: &Clock) -> Vec<(String, Checked)> {
    let mut lines = Vec::new();
    let files = [("database.url", Some(&settings.url)), ("database.metrics_url", settings.metrics_url.as_ref())];
    for (key, url) in files.into_iter().filter_map(|(key, url)| Some((key, url?))) {
        lines.push((key.to_owned(), check_file(url, settings, clock).await.unwrap_or_else(Checked::Bad)));
    }
    if lines.iter().any(|(_, line)| matches!(line, Checked::Bad(_))) {
        return lines;
    }
    let app = match path_of(&settings.url) {
        Ok(path) if path.exists() => Database::open(&path, false).await,
        _ => return lines,
    };
    let Ok(app) = app else { return lines };
    lines.extend(queries::check(&app, &settings.queries).await);
    app.close().await;
    lines
}

/// What the file at `url` is, whether it can be written to, and whether `migrate` would add something to it.
async fn check_file(url: &str, settings: &Settings, clock: &Clock) -> Result<Checked, EngineError> {
    let path = path_of(url)?;
    let options = MigrateOptions { dry_run: true, key_sink: KeySink::File(settings.state_directory.clone()) };
    let foreseen = schema::migrate(settings, options, clock).await?;
    if !path.exists() {
        return Ok(Checked::Good(format!("`{}` does not exist yet; `run` makes it", path.display())));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for place in [path.as_path(), folder] {
        if access(place, Access::WRITE_OK).is_err() {
            return Err(EngineError::new(format!("`{}` cannot be written to by this user", place.display())));
        }
    }
    let database = Database::open(&path, false).await?;
    let journal = journal_mode(&database).await;
    database.close().await;
    let about = format!("`{}`, journal mode `{}`", path.display(), journal?);
    Ok(foreseen.checked(&path.display().to_string(), about))
}

async fn journal_mode(database: &Database) -> Result<String, EngineError> {
    let failed = |e: sqlx::Error| EngineError::new(format!("cannot read `{}`: {e}", database.path().display()));
    let mut reader = database.read(LOOK_LIMIT).await.map_err(failed)?;
    sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *reader).await.map_err(failed)
}
