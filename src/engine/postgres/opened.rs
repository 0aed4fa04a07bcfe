//! The databases of a configuration, opened, and the parts made of them.

use std::sync::Arc;

use prometheus::Registry;

use super::Database;
use super::expiry::OldRows;
use super::roll_up::Buckets;
use super::runs::Runs;
use crate::clock::{Clock, Timestamp};
use crate::engine::ids::Instance;
use crate::engine::schema::{MigrateOptions, Report};
use crate::engine::{Answer, Archive, Checked, EngineError, Kind, Opened, Ready, Settings};
use crate::sample::Desc;
use crate::scrape::Source;
use crate::store::{Expiry, RollUps, RunLog, SampleStore};
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

    fn open<'a>(&'a self, settings: &'a Settings, _clock: &'a Clock, _registry: &'a Registry) -> Answer<'a, Ready> {
        Box::pin(async move {
            let app = Database::open(&settings.url, settings.password.as_ref()).await?;
            let mut metrics = None;
            if let Some(url) = &settings.metrics_url {
                metrics = Some(Database::open(url, settings.metrics_password.as_ref()).await?);
            }
            let report = Report::new(false);
            Ok((Box::new(Databases { app, metrics }) as Box<dyn Opened>, report))
        })
    }

    fn history<'a>(&'a self, _settings: &'a Settings) -> Answer<'a, Archive> {
        Box::pin(async { Err(EngineError::new("not yet")) })
    }

    fn check<'a>(&'a self, _settings: &'a Settings, _clock: &'a Clock) -> Pending<'a, Vec<(String, Checked)>> {
        Box::pin(async { Vec::new() })
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
        Vec::new()
    }
}

/// The application's database and, where there is one, the other for samples.
pub struct Databases {
    app: Database,
    metrics: Option<Database>,
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

    fn sources<'a>(&'a self, _settings: &'a Settings) -> Answer<'a, (Vec<Source>, Vec<String>)> {
        Box::pin(async { Ok((Vec::new(), Vec::new())) })
    }

    fn runs(&self) -> Arc<dyn RunLog> {
        Arc::new(Runs::new(self.metrics.as_ref().unwrap_or(&self.app).clone()))
    }

    fn expiry(&self) -> Arc<dyn Expiry> {
        Arc::new(OldRows::new(self.app.clone()))
    }

    fn roll_ups(&self) -> Option<Arc<dyn RollUps>> {
        Some(Arc::new(Buckets::new(self.metrics.as_ref().unwrap_or(&self.app).clone())))
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
