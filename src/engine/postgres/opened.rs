//! The databases of a configuration, opened, and the parts made of them.

use std::sync::Arc;

use prometheus::Registry;

use super::{Database, check, sources};
use crate::clock::{Clock, Timestamp};
use crate::engine::ids::Instance;
use crate::engine::schema::{MigrateOptions, Report};
use crate::engine::{Answer, Archive, Checked, EngineError, Kind, Opened, Ready, Settings};
use crate::sample::Desc;
use crate::scrape::Source;
use crate::store::SampleStore;
use crate::task::Pending;

/// PostgreSQL, as a kind of database.
pub struct Postgres;

impl Kind for Postgres {
    fn accepts(&self, url: &str) -> Result<(), String> {
        use std::str::FromStr;
        sqlx::postgres::PgConnectOptions::from_str(url)
            .map(drop)
            .map_err(|_| "must be `postgres://user@host:port/database`".to_owned())
    }

    fn takes_password(&self) -> bool {
        true
    }

    fn is_same(&self, a: &str, b: &str) -> bool {
        a == b
    }

    fn open<'a>(&'a self, settings: &'a Settings, _clock: &'a Clock, registry: &'a Registry) -> Answer<'a, Ready> {
        Box::pin(async move {
            let app = Database::open(&settings.url, settings.password.as_ref()).await?;
            let mut metrics = None;
            if let Some(url) = &settings.metrics_url {
                metrics = Some(Database::open(url, settings.metrics_password.as_ref()).await?);
            }
            let report = Report::new(false);
            let opened = Databases { app, metrics, own: sources::Own::new(registry) };
            Ok((Box::new(opened) as Box<dyn Opened>, report))
        })
    }

    fn history<'a>(&'a self, _settings: &'a Settings) -> Answer<'a, Archive> {
        Box::pin(async { Err(EngineError::new("not yet")) })
    }

    fn check<'a>(&'a self, settings: &'a Settings, clock: &'a Clock) -> Pending<'a, Vec<(String, Checked)>> {
        Box::pin(check::check(settings, clock))
    }

    fn migrate<'a>(
        &'a self,
        _settings: &'a Settings,
        _options: MigrateOptions,
        _clock: &'a Clock,
    ) -> Answer<'a, Report> {
        Box::pin(async { Err(EngineError::new("not yet")) })
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
}

impl Opened for Databases {
    fn samples<'a>(
        &'a self,
        _instance: Instance,
        _host: &'a str,
        _now: Timestamp,
    ) -> Answer<'a, Option<Arc<dyn SampleStore>>> {
        Box::pin(async { Ok(None) })
    }

    fn sources<'a>(&'a self, settings: &'a Settings) -> Answer<'a, (Vec<Source>, Vec<String>)> {
        Box::pin(sources::sources(&self.app, self.metrics.as_ref(), settings, &self.own))
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
