//! What is measured of backups. What is told of the store comes from its catalog, at the start and after each backup, so that a restart forgets nothing.

use std::sync::atomic::{AtomicI64, Ordering};

use prometheus::{Gauge, GaugeVec, IntGauge, Registry};

use super::super::Kind;
use super::super::catalog::{Catalog, Entry};
use super::{Shipped, Steps};
use crate::clock::Timestamp;
use crate::sample::{self, Desc};
use crate::telemetry;

const UNTIL: Desc = Desc {
    name: "atlas_sidecar_backup_restorable_until_timestamp_seconds",
    kind: sample::Kind::Gauge,
    unit: "seconds",
    help: "The newest instant that the destination can restore, 0 for none. Alert when `time()` is further away from it than the data loss you accept.",
};
const FROM: Desc = Desc {
    name: "atlas_sidecar_backup_restorable_from_timestamp_seconds",
    kind: sample::Kind::Gauge,
    unit: "seconds",
    help: "The oldest instant that the destination can restore, 0 for none. It should lie a whole `backup.window` back once backups run that long.",
};
const FULL: Desc = Desc {
    name: "atlas_sidecar_backup_last_full_success_timestamp_seconds",
    kind: sample::Kind::Gauge,
    unit: "seconds",
    help: "When the newest full that can be restored was made, 0 for none. Alert when it is older than two of its intervals.",
};
const INCREMENTAL: Desc = Desc {
    name: "atlas_sidecar_backup_last_incremental_success_timestamp_seconds",
    kind: sample::Kind::Gauge,
    unit: "seconds",
    help: "When the newest increment that can be restored was made, with a live tail the newest merged one; 0 for none. A full instead of an increment does not move it.",
};
const TIMELINE: Desc = Desc {
    name: "atlas_sidecar_backup_timeline",
    kind: sample::Kind::Gauge,
    unit: "1",
    help: "The newest timeline at the destination. It changes when another installation or another database file goes on: look why in `backup list`.",
};
const SPOOL: Desc = Desc {
    name: "atlas_sidecar_backup_spool_bytes",
    kind: sample::Kind::Gauge,
    unit: "bytes",
    help: "Bytes in the state directory that wait to be stored, or to be folded: live segments of about an hour, and an increment whose upload failed, which the next backup finishes. When it comes near `backup.sqlite.spool_max` the destination does not take what is committed.",
};
const BYTES: Desc = Desc {
    name: "atlas_sidecar_backup_last_bytes",
    kind: sample::Kind::Gauge,
    unit: "bytes",
    help: "Bytes of the newest backup in the store by `kind`, and `form`: `plain` as the database has them, `stored` as they are kept.",
};
const SECONDS: Desc = Desc {
    name: "atlas_sidecar_backup_last_seconds",
    kind: sample::Kind::Gauge,
    unit: "seconds",
    help: "How long the `step`s of the last backup took that this process made, by `kind`. A full is stored while it is read.",
};

/// What this module measures.
pub const METRICS: &[&Desc] = &[&UNTIL, &FROM, &FULL, &INCREMENTAL, &TIMELINE, &SPOOL, &BYTES, &SECONDS];

/// The numbers, made once.
pub struct Metrics {
    /// The newest instant that the live tail has stored, in milliseconds.
    live: AtomicI64,
    until: Gauge,
    from: Gauge,
    full: Gauge,
    incremental: Gauge,
    timeline: IntGauge,
    spool: IntGauge,
    bytes: GaugeVec,
    seconds: GaugeVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            live: AtomicI64::new(0),
            until: telemetry::gauge(registry, &UNTIL),
            from: telemetry::gauge(registry, &FROM),
            full: telemetry::gauge(registry, &FULL),
            incremental: telemetry::gauge(registry, &INCREMENTAL),
            timeline: telemetry::int_gauge(registry, &TIMELINE),
            spool: telemetry::int_gauge(registry, &SPOOL),
            bytes: telemetry::gauges(registry, &BYTES, &["kind", "form"]),
            seconds: telemetry::gauges(registry, &SECONDS, &["kind", "step"]),
        }
    }

    /// Takes over what the store has: of the newest timeline and of those that it goes on from.
    pub fn know(&self, catalog: &Catalog) {
        let newest = catalog.newest_timeline();
        self.timeline.set(newest.map_or(0, |timeline| timeline.0.into()));
        let line = newest.map(|timeline| catalog.ancestry(timeline)).unwrap_or_default();
        let sound = |entry: &&Entry| catalog.sound_chain(entry.manifest.place()).is_ok();
        let at = |entry: Option<&Entry>| entry.map_or(0.0, |entry| entry.manifest.observed.seconds());
        let newest_of = |kind| line.iter().copied().filter(|e| e.manifest.kind == kind).find(sound);
        let live = Timestamp::from_millis(self.live.load(Ordering::Relaxed)).seconds();
        self.until.set(at(line.iter().copied().find(sound)).max(live));
        self.from.set(at(line.iter().rev().copied().find(sound)));
        for (kind, gauge) in [(Kind::Full, &self.full), (Kind::Incremental, &self.incremental)] {
            let newest = newest_of(kind);
            let merged = catalog.folds.iter().rev().find(|((_, fold), _)| *fold == Kind::Merged);
            let merged = merged.filter(|_| kind == Kind::Incremental).map(|(_, entry)| entry);
            gauge.set(at(newest).max(at(merged)));
            if let Some(object) = newest.and_then(|entry| entry.manifest.object.as_ref()) {
                self.bytes(kind, object.plain.bytes, object.stored.bytes);
            }
        }
    }

    /// Everything that was committed until `at` can be restored.
    pub fn live(&self, at: Timestamp) {
        let newest = self.live.fetch_max(at.millis(), Ordering::Relaxed).max(at.millis());
        self.until.set(self.until.get().max(Timestamp::from_millis(newest).seconds()));
    }

    /// Takes over how long a backup took.
    pub fn shipped(&self, shipped: &Shipped) {
        let kind = shipped.manifest.kind.to_string();
        self.bytes(shipped.manifest.kind, shipped.plain_bytes(), shipped.stored_bytes());
        let Steps { read, check, upload, read_back } = shipped.steps;
        for (step, took) in [("read", read), ("check", check), ("upload", upload), ("read_back", read_back)] {
            self.seconds.with_label_values(&[kind.as_str(), step]).set(took.as_secs_f64());
        }
    }

    /// Takes over how much waits in the spool.
    pub fn spool(&self, bytes: u64) {
        self.spool.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn bytes(&self, kind: Kind, plain: u64, stored: u64) {
        let kind = kind.to_string();
        for (form, bytes) in [("plain", plain), ("stored", stored)] {
            self.bytes.with_label_values(&[kind.as_str(), form]).set(bytes as f64);
        }
    }
}
