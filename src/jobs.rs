//! The jobs: what there is to do beside an Atlas database, made of the settings and of the parts of the engine.
//!
//! A job knows neither when it runs nor who else does; that is the scheduler's.

pub mod expire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::schedule::Job;
use crate::schedule::runner::{Plan, Planned};
use crate::store::Expiry;

/// All jobs, by name: each has a section `[jobs.NAME]`.
pub const NAMES: &[&str] = &[expire::CACHE];

/// `[jobs]` and `[retention]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// When each of [`NAMES`] runs.
    pub plans: BTreeMap<&'static str, Plan>,
    /// What is kept for how long.
    pub retention: Retention,
}

/// `[retention]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Rows of `search_cache`, whatever their `expires_at` says.
    pub cache: Duration,
}

/// What the jobs work with.
pub struct Parts {
    /// What takes old rows out of the application's tables.
    pub expiry: Arc<dyn Expiry>,
}

/// The jobs with their plans.
pub fn planned(settings: &Settings, parts: &Parts) -> Vec<Planned> {
    let jobs: Vec<Arc<dyn Job>> =
        vec![Arc::new(expire::CacheExpiry::new(Arc::clone(&parts.expiry), settings.retention.cache))];
    let with_plan = |job: Arc<dyn Job>| {
        let plan = settings.plans.get(job.name()).cloned().expect("each job has a section");
        Planned { job, plan }
    };
    jobs.into_iter().map(with_plan).collect()
}
