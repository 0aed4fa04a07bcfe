//! The databases of a configuration, opened, and the parts made of them.

use std::sync::Arc;

use prometheus::Registry;

use super::address::Address;
use super::expiry::OldRows;
use super::pressure::{self, Considerate, Pressure};
use super::queries::statement::only_condition;
use super::roll_up::Buckets;
use super::runs::Runs;
use super::samples::Samples;
use super::upkeep::Keeper;
use super::{Database, check, schema, sources};
use crate::backup;
use crate::clock::{Clock, Timestamp};
use crate::engine::ids::Instance;
use crate::engine::schema::{MigrateOptions, Report};
use crate::engine::{Answer, Archive, Checked, EngineError, Kind, Opened, Ready, Settings};
use crate::sample::Desc;
use crate::scrape::Source;
use crate::secret::redacted_url;
use crate::store::{Expiry, RollUps, RunLog, SampleStore, StoreError, Upkeep};
use crate::task::Pending;

/// PostgreSQL, as a kind of database.
pub struct Postgres;

impl Kind for Postgres {
    fn accepts(&self, url: &str) -> Result<(), String> {
        url.parse().map(|_: Address| ())
    }

    fn takes_password(&self, url: &str) -> Result<(), &'static str> {
        match url.parse() {
            Ok(Address { password: Some(_), .. }) => Err("has a password in it; keep one of them"),
            _ => Ok(()),
        }
    }

    fn takes_condition(&self, condition: &str) -> Result<(), String> {
        only_condition(condition).map(drop)
    }

    fn is_same(&self, a: &str, b: &str) -> bool {
        let address = |url: &str| url.parse::<Address>().ok();
        address(a).zip(address(b)).is_some_and(|(a, b)| a.is_same(&b))
    }

    fn shown(&self, url: &str) -> String {
        url.parse().map_or_else(|_| redacted_url(url), |address: Address| address.shown)
    }

    fn caution(&self, url: &str) -> Option<String> {
        url.parse().ok().and_then(|address: Address| address.caution())
    }

    fn open<'a>(&'a self, settings: &'a Settings, clock: &'a Clock, registry: &'a Registry) -> Answer<'a, Ready> {
        Box::pin(async move {
            let app = Database::open(&settings.url, settings.password.as_ref()).await?;
            let mut metrics = None;
            if let Some(url) = schema::samples_url(settings) {
                metrics = Some(Database::open(url, settings.metrics_password.as_ref()).await?);
            }
            let report = schema::prepare(&app, metrics.as_ref(), settings, clock).await?;
            let (own, paused) = (sources::Own::new(registry), pressure::Own::new(registry));
            let opened = Databases { app, metrics, own, paused };
            Ok((Box::new(opened) as Box<dyn Opened>, report))
        })
    }

    fn history<'a>(&'a self, settings: &'a Settings) -> Answer<'a, Archive> {
        Box::pin(history(settings))
    }

    fn check<'a>(&'a self, settings: &'a Settings, _clock: &'a Clock) -> Pending<'a, Vec<(String, Checked)>> {
        Box::pin(check::check(settings))
    }

    fn migrate<'a>(&'a self, settings: &'a Settings, options: MigrateOptions, clock: &'a Clock) -> Answer<'a, Report> {
        Box::pin(schema::migrate(settings, options, clock))
    }

    fn metrics(&self) -> Vec<&'static Desc> {
        sources::metrics().chain(pressure::METRICS.iter().copied()).collect()
    }
}

/// The application's database and, where there is one, the other for samples.
pub struct Databases {
    app: Database,
    metrics: Option<Database>,
    own: sources::Own,
    paused: pressure::Own,
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
            let cannot = |e: StoreError| EngineError::new(format!("cannot use database `{}`: {e}", database.shown()));
            let samples = Samples::new(database.clone(), instance);
            if samples.lacks().await.map_err(cannot)?.is_some() {
                return Ok(None);
            }
            samples.register(host, now).await.map_err(cannot)?;
            Ok(Some(Arc::new(samples) as Arc<dyn SampleStore>))
        })
    }

    fn sources<'a>(&'a self, settings: &'a Settings) -> Answer<'a, (Vec<Source>, Vec<String>)> {
        Box::pin(sources::sources(&self.app, self.metrics.as_ref(), settings, &self.own))
    }

    fn runs(&self) -> Arc<dyn RunLog> {
        Arc::new(Runs::new(self.with_own_tables().clone()))
    }

    fn expiry(&self) -> Arc<dyn Expiry> {
        Arc::new(Considerate::new(OldRows::new(self.app.clone()), Pressure::new(self.app.clone(), &self.paused)))
    }

    fn roll_ups(&self) -> Option<Arc<dyn RollUps>> {
        let database = self.with_own_tables();
        let pressure = Pressure::new(database.clone(), &self.paused);
        Some(Arc::new(Considerate::new(Buckets::new(database.clone()), pressure)))
    }

    fn upkeep(&self, _settings: &Settings) -> Vec<Arc<dyn Upkeep>> {
        // A GIN index keeps itself.
        let databases = std::iter::once(&self.app).chain(&self.metrics);
        databases.map(|database| Arc::new(Keeper::new(database.clone())) as Arc<dyn Upkeep>).collect()
    }

    /// None yet: a server's base backups and its log are not read.
    fn source(&self, _settings: &Settings) -> Option<Arc<dyn backup::Source>> {
        None
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

/// Opens the database of samples for reading.
async fn history(settings: &Settings) -> Result<Archive, EngineError> {
    let (url, password) = match &settings.metrics_url {
        Some(url) => (url, settings.metrics_password.as_ref()),
        None => (&settings.url, settings.password.as_ref()),
    };
    let database = Database::open(url, password).await?;
    // Reading needs no number of ours; nothing is registered.
    let samples = Samples::new(database.clone(), Instance::NOBODY);
    let no_history =
        |why: &dyn std::fmt::Display| EngineError::new(format!("no history in `{}`: {why}", database.shown()));
    let usable = match samples.lacks().await {
        Ok(None) => Ok(()),
        Ok(Some(missing)) => Err(no_history(&missing).hint("`atlas-sidecar migrate` makes what is missing")),
        Err(e) => Err(no_history(&e)),
    };
    if let Err(e) = usable {
        database.close().await;
        return Err(e);
    }
    let (own, paused) = (sources::Own::new(&Registry::new()), pressure::Own::new(&Registry::new()));
    let opened = Databases { app: database, metrics: None, own, paused };
    Ok(Archive { samples: Arc::new(samples), database: Box::new(opened) })
}
