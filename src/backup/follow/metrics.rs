//! What is measured of the live tail.

use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, IntGauge, Registry};

use super::super::tail::Tended;
use crate::sample::{Desc, Kind};
use crate::telemetry;

const FOLLOWING: Desc = Desc {
    name: "atlas_sidecar_backup_following",
    kind: Kind::Gauge,
    unit: "1",
    help: "1 while the database's commits are followed as they come, 0 where they are not: the log says why, and backups are made by their schedule only.",
};
const AGE: Desc = Desc {
    name: "atlas_sidecar_backup_oldest_unshipped_commit_age_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "How long the oldest commit waits that is not in the destination yet: what would be lost with this machine. It grows while the destination does not answer, and while commits should be followed and cannot be. Alert when it exceeds the loss you accept; 0 where no live tail is configured or possible.",
};
const GAPS: Desc = Desc {
    name: "atlas_sidecar_backup_gaps_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Times that commits could not be told one by one and were shipped as one difference: instants within cannot be restored. `backup list` shows them. Many: the spool or `log_max` is too small for the outages there are, or something else checkpoints the database.",
};
const WAL: Desc = Desc {
    name: "atlas_sidecar_backup_wal_bytes",
    kind: Kind::Gauge,
    unit: "bytes",
    help: "Bytes of the database's write-ahead log that commits take. When it stays large something keeps it from beginning anew: a reader that does not end, or a tail that cannot catch up.",
};
const PINNED: Desc = Desc {
    name: "atlas_sidecar_backup_wal_pinned_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "For how long the write-ahead log has been longer than it should be and could not begin anew. Above some minutes look for a long transaction in the application.",
};
const WRITE_LOCK: Desc = Desc {
    name: "atlas_sidecar_backup_write_lock_held_seconds",
    kind: Kind::Histogram,
    unit: "seconds",
    help: "How long writers were kept waiting each time so that the write-ahead log could begin anew. Compare with the application's busy timeout; the sum's rate is the share of time that capture takes from it.",
};
const LIVE: Desc = Desc {
    name: "atlas_sidecar_backup_live_segments_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Live segments that were stored. Its rate is requests that somebody may bill: a longer `backup.sqlite.interval` makes fewer.",
};

/// From a moment that nobody notices to the busy timeout that most applications have.
const WRITE_LOCK_BUCKETS: [f64; 9] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 5.0];

/// What this module measures.
pub const METRICS: &[&Desc] = &[&FOLLOWING, &AGE, &GAPS, &WAL, &PINNED, &WRITE_LOCK, &LIVE];

/// The numbers, made once.
pub struct Metrics {
    following: IntGauge,
    age: Gauge,
    gaps: IntCounter,
    wal: IntGauge,
    pinned: Gauge,
    write_lock: Histogram,
    live: IntCounter,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            following: telemetry::int_gauge(registry, &FOLLOWING),
            age: telemetry::gauge(registry, &AGE),
            gaps: telemetry::counter(registry, &GAPS),
            wal: telemetry::int_gauge(registry, &WAL),
            pinned: telemetry::gauge(registry, &PINNED),
            write_lock: telemetry::histogram(registry, &WRITE_LOCK, &WRITE_LOCK_BUCKETS),
            live: telemetry::counter(registry, &LIVE),
        }
    }

    pub(super) fn following(&self, following: bool) {
        self.following.set(following.into());
    }

    pub(super) fn age(&self, age: Duration) {
        self.age.set(age.as_secs_f64());
    }

    pub(super) fn gap(&self) {
        self.gaps.inc();
    }

    pub(super) fn stored(&self) {
        self.live.inc();
    }

    pub(super) fn tended(&self, tended: &Tended) {
        self.wal.set(i64::try_from(tended.log_bytes).unwrap_or(i64::MAX));
        self.pinned.set(tended.pinned.as_secs_f64());
        if !tended.write_lock_held.is_zero() {
            self.write_lock.observe(tended.write_lock_held.as_secs_f64());
        }
    }
}
