//! The last value of every series, with staleness: all that `/metrics` knows.
//!
//! Each source replaces what it showed before: a series that it no longer has is gone at once, and so is everything of a source that
//! failed. `owners` keeps the promises of the whole: no series is shown twice, no name has two types (V-13), the number of series has a
//! limit at which the known ones stay (E-12), and the page does not depend on who was collected first. Our own metrics are a source
//! among these, put anew for every page.

mod owners;
pub mod shown;
mod sound;
#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge, Registry};

use crate::sample::globs::Globs;
use crate::sample::{Batch, Desc, Kind, Origin};
use crate::telemetry;

use owners::{Dropped, Owners, Rank};
use shown::Shown;

/// The key of our own metrics among the sources: no source has an empty name.
pub const OWN: &str = "";

/// The `[expose]` section.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name prefixes that are shown as they are, beside those of node_exporter, postgres_exporter and ourselves; all other names get `atlas_` in front.
    pub keep_prefixes: Vec<String>,
    /// The most series shown; known ones stay, new ones beyond it are dropped and counted.
    pub max_series: usize,
    /// Whether samples carry their time.
    pub timestamps: bool,
    /// How long a counter (histogram, summary) is shown after its last value; gauges: max(5 min, 3 × interval).
    pub counters_stale_after: Duration,
    /// Which series (by the name under which they would be shown) are never shown.
    pub hidden: Globs,
}

impl Settings {
    /// The name under which a family is shown.
    pub fn shown_name(&self, name: &str) -> String {
        let kept = |prefix: &str| name.starts_with(prefix);
        match ["node_", "process_", "pg_", "atlas_"].iter().any(|p| kept(p))
            || self.keep_prefixes.iter().any(|p| kept(p))
        {
            true => name.to_owned(),
            false => format!("atlas_{name}"),
        }
    }
}

const SERIES: Desc = Desc {
    name: "atlas_sidecar_series",
    kind: Kind::Gauge,
    unit: "series",
    help: "Series that sources hold on this page, those reserved for failed sources included, the sidecar's own not; compare with the limit.",
};
const SERIES_LIMIT: Desc = Desc {
    name: "atlas_sidecar_series_limit",
    kind: Kind::Gauge,
    unit: "series",
    help: "The limit on series, `expose.max_series`: new series beyond it are dropped.",
};
const SERIES_DROPPED: Desc = Desc {
    name: "atlas_sidecar_series_dropped_total",
    kind: Kind::Counter,
    unit: "samples",
    help: "Samples not shown, by source and reason: `limit` (raise expose.max_series or narrow the source), `duplicate` (another series has the same name and labels after escaping), `type_conflict` (another source shows the name with another type).",
};

/// What this module measures of itself.
pub const METRICS: &[&Desc] = &[&SERIES, &SERIES_LIMIT, &SERIES_DROPPED];

/// The last values of all sources.
pub struct Latest {
    inner: Mutex<Inner>,
    hashes: RandomState,
    series: IntGauge,
    limit: IntGauge,
    dropped: IntCounterVec,
}

struct Inner {
    settings: Arc<Settings>,
    owners: Owners,
}

impl Latest {
    /// Holds nothing yet.
    pub fn new(settings: Settings, registry: &Registry) -> Self {
        let latest = Self {
            inner: Mutex::new(Inner { settings: Arc::new(settings), owners: Owners::default() }),
            hashes: RandomState::new(),
            series: telemetry::int_gauge(registry, &SERIES),
            limit: telemetry::int_gauge(registry, &SERIES_LIMIT),
            dropped: telemetry::counters(registry, &SERIES_DROPPED, &["source", "reason"]),
        };
        latest.limit.set(as_i64(latest.lock().settings.max_series));
        latest
    }

    /// Replaces what `source`, which is collected every `interval`, shows. Of a `failed` source the places are kept.
    pub fn put(&self, source: &str, interval: Duration, failed: bool, batch: &Batch) {
        let rank = match batch.origin {
            Origin::Measured => Rank::Measured,
            Origin::Table => Rank::Table,
        };
        self.put_ranked(source, rank, interval, failed, batch);
    }

    /// Replaces what we show of our own metrics.
    pub fn put_own(&self, batch: &Batch) {
        self.put_ranked(OWN, Rank::Own, Duration::ZERO, false, batch);
    }

    fn put_ranked(&self, source: &str, rank: Rank, interval: Duration, failed: bool, batch: &Batch) {
        let settings = Arc::clone(&self.lock().settings);
        // Rendered outside the lock: a scrape never waits for it.
        let draft = Shown::render(batch, interval, &settings, |text| self.hashes.hash_one(text));
        let mut inner = self.lock();
        let dropped: Dropped = inner.owners.put(source, rank, draft, failed, settings.max_series);
        self.series.set(as_i64(inner.owners.len()));
        drop(inner);
        for ((source, reason), samples) in dropped {
            self.dropped.with_label_values(&[source.as_str(), reason.word()]).inc_by(samples);
        }
    }

    /// Forgets every source but `names` (after the configuration changed), and takes new settings. What is held stays as it was
    /// rendered until its source is collected, which is the first thing that a source does after a change.
    pub fn retain(&self, names: &[String], settings: Settings) {
        let mut inner = self.lock();
        self.limit.set(as_i64(settings.max_series));
        inner.settings = Arc::new(settings);
        inner.owners.retain(|name| names.iter().any(|kept| kept == name));
        self.series.set(as_i64(inner.owners.len()));
    }

    /// What every source shows now: our own metrics ([`OWN`]), then what is measured, then the table, each by name.
    pub fn sources(&self) -> Vec<(String, Arc<Shown>)> {
        self.lock().owners.shown()
    }

    /// Whether samples are to carry their time.
    pub fn with_timestamps(&self) -> bool {
        self.lock().settings.timestamps
    }

    /// How many series are held, our own metrics aside.
    pub fn len(&self) -> usize {
        self.lock().owners.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock is held leaves at worst one source's series of one round: replaced by its next put.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn as_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
