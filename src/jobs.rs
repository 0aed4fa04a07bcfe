//! The jobs: what there is to do beside an Atlas database, made of the settings and of the parts of the engine.
//!
//! A job knows neither when it runs nor who else does; that is the scheduler's.

pub mod back_up;
pub mod backups;
pub mod compact_backups;
pub mod expire;
pub mod prune_backups;
pub mod prune_logs;
pub mod retain;
pub mod roll_up;
pub mod upkeep;
pub mod verify_backups;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;

use crate::sample::Desc;
use crate::schedule::Job;
use crate::schedule::runner::{self, Plan, Planned};
use crate::store::{Expiry, RollUps, Upkeep};

/// All jobs, by name: each has a section `[jobs.NAME]`.
pub const NAMES: &[&str] = &[
    expire::CACHE,
    roll_up::ROLL_UP,
    retain::RETAIN,
    prune_logs::PRUNE_LOGS,
    upkeep::UPKEEP,
    back_up::FULL,
    back_up::INCREMENTAL,
    compact_backups::COMPACT,
    verify_backups::VERIFY_BACKUPS,
    prune_backups::PRUNE_BACKUPS,
];

/// `[jobs]`, `[retention]` and `[upkeep]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// When each of [`NAMES`] runs.
    pub plans: BTreeMap<&'static str, Plan>,
    /// What is kept for how long.
    pub retention: Retention,
    /// When and at what upkeep is done.
    pub upkeep: upkeep::Settings,
}

impl Settings {
    /// The name of job `name` in the run log of the sidecar `owner`.
    pub fn known_as(&self, name: &str, owner: &str) -> String {
        runner::known_as(name, name == prune_logs::PRUNE_LOGS && self.retention.logs.is_own(), owner)
    }
}

/// `[retention]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Rows of `search_cache`, whatever their `expires_at` says.
    pub cache: Duration,
    /// `system_metrics` and its roll-ups.
    pub metrics: retain::Keep,
    /// Logs, in tables and in files.
    pub logs: prune_logs::Settings,
}

/// What the jobs work with.
pub struct Parts {
    /// What takes old rows out of the application's tables.
    pub expiry: Arc<dyn Expiry>,
    /// What rolls up and prunes samples, where there are any.
    pub roll_ups: Option<Arc<dyn RollUps>>,
    /// What looks after the databases.
    pub upkeep: Vec<Arc<dyn Upkeep>>,
    /// Where backups go, if they go anywhere.
    pub backups: Option<Arc<backups::Backups>>,
    /// Whose turn it is at the database.
    pub turn: back_up::Turn,
    /// What the jobs count.
    pub metrics: Arc<Metrics>,
}

/// What the jobs measure of themselves.
pub struct Metrics {
    roll_up: Arc<roll_up::Metrics>,
    retain: Arc<retain::Metrics>,
    prune_logs: Arc<prune_logs::Metrics>,
    upkeep: Arc<upkeep::Metrics>,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            roll_up: roll_up::Metrics::new(registry).into(),
            retain: retain::Metrics::new(registry).into(),
            prune_logs: prune_logs::Metrics::new(registry).into(),
            upkeep: upkeep::Metrics::new(registry).into(),
        }
    }
}

/// What the jobs measure of themselves, described.
pub fn metrics() -> impl Iterator<Item = &'static Desc> {
    let own = [roll_up::METRICS, retain::METRICS, prune_logs::METRICS, upkeep::METRICS];
    own.into_iter().flatten().copied().chain(backups::metrics())
}

/// The jobs with their plans.
pub fn planned(settings: &Settings, parts: &Parts) -> Vec<Planned> {
    let Retention { cache, metrics: keep, logs } = settings.retention.clone();
    let zone = |name| settings.plans.get(name).map_or("UTC", |plan| plan.schedule.zone());
    let mut jobs: Vec<Arc<dyn Job>> = vec![
        Arc::new(expire::CacheExpiry::new(Arc::clone(&parts.expiry), cache)),
        Arc::new(roll_up::MetricRollUp::new(
            parts.roll_ups.clone(),
            keep.five_minutes,
            Arc::clone(&parts.metrics.roll_up),
        )),
        Arc::new(retain::MetricRetention::new(parts.roll_ups.clone(), keep, Arc::clone(&parts.metrics.retain))),
        Arc::new(prune_logs::LogPruning::new(Arc::clone(&parts.expiry), logs, Arc::clone(&parts.metrics.prune_logs))),
        Arc::new(upkeep::DatabaseUpkeep::new(
            parts.upkeep.clone(),
            settings.upkeep,
            zone(upkeep::UPKEEP),
            parts.turn.clone(),
            Arc::clone(&parts.metrics.upkeep),
        )),
    ];
    jobs.extend(parts.backups.iter().flat_map(|backups| backups.jobs(&parts.turn)));
    let with_plan = |job: Arc<dyn Job>| {
        let plan = settings.plans.get(job.name()).cloned().expect("each job has a section");
        Planned { job, plan }
    };
    jobs.into_iter().map(with_plan).collect()
}
