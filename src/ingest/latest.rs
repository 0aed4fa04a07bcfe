//! The last value of every series, with staleness: all that `/metrics` knows.
//!
//! Each source replaces what it showed before: a series that it no longer has is gone at once, and so is everything of a source that
//! failed. A table of who owns which series keeps three promises: no series is shown twice, no family has two types (V-13), and the
//! number of series has a limit at which the known ones stay and new ones are dropped and counted (E-12). What a failed source showed
//! stays reserved for it, so that a source that comes back finds its place and nothing flaps.

pub mod shown;

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge, Registry};

use crate::sample::globs::Globs;
use crate::sample::{Batch, Desc, Kind};
use crate::telemetry;

use shown::Shown;

/// The `[expose]` section.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name prefixes that are shown as they are; all other names get `atlas_` in front.
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
        match ["node_", "process_", "atlas_"].iter().any(|p| kept(p)) || self.keep_prefixes.iter().any(|p| kept(p)) {
            true => name.to_owned(),
            false => format!("atlas_{name}"),
        }
    }
}

const SERIES: Desc = Desc {
    name: "atlas_sidecar_series",
    kind: Kind::Gauge,
    unit: "series",
    help: "Series that sources hold on this page, those reserved for failed sources included; compare with the limit.",
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
    help: "Samples not shown, by source and reason: `limit` (raise expose.max_series or narrow the source), `duplicate` (another series has the same name and labels after escaping), `type_conflict` (another source shows the family with another type).",
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
    sources: BTreeMap<String, Held>,
    owners: Owners,
    /// Grows with every put; a series seen in this put carries it.
    round: u32,
    next_number: u32,
}

struct Held {
    number: u32,
    shown: Arc<Shown>,
    /// Series of a failed source that keep their place.
    reserved: Vec<u64>,
}

/// Who owns a series: the source's number, and the round in which it was last seen.
type Owners = HashMap<u64, (u32, u32), BuildHasherDefault<AsItIs>>;

/// The keys are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only `write_u64` is ever called on a `u64` key; this keeps the contract for any other.
        self.0 = bytes.iter().fold(self.0, |hash, &b| hash.rotate_left(8) ^ u64::from(b));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Latest {
    /// Holds nothing yet.
    pub fn new(settings: Settings, registry: &Registry) -> Self {
        let latest = Self {
            inner: Mutex::new(Inner {
                settings: Arc::new(settings),
                sources: BTreeMap::new(),
                owners: Owners::default(),
                round: 0,
                next_number: 0,
            }),
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
        let settings = Arc::clone(&self.lock().settings);
        // Rendered outside the lock: a scrape never waits for it.
        let draft = Shown::render(batch, interval, &settings, |text| self.hashes.hash_one(text));
        let mut inner = self.lock();
        let (dropped, reserved, number) = inner.admit(source, &draft, failed);
        let mut places = vec![false; draft.series.len()];
        for &(place, reason) in &dropped {
            places[place] = true;
            self.dropped.with_label_values(&[source, reason]).inc();
        }
        let shown = Arc::new(if dropped.is_empty() { draft } else { draft.without(&places) });
        inner.sources.insert(source.to_owned(), Held { number, shown, reserved });
        self.series.set(as_i64(inner.owners.len()));
    }

    /// Forgets every source but `names` (after the configuration changed), and takes new settings.
    pub fn retain(&self, names: &[String], settings: Settings) {
        let mut inner = self.lock();
        self.limit.set(as_i64(settings.max_series));
        inner.settings = Arc::new(settings);
        let Inner { sources, owners, .. } = &mut *inner;
        sources.retain(|name, _| names.contains(name));
        let numbers: Vec<u32> = sources.values().map(|held| held.number).collect();
        owners.retain(|_, (number, _)| numbers.contains(number));
        self.series.set(as_i64(inner.owners.len()));
    }

    /// What every source shows now, by name.
    pub fn sources(&self) -> Vec<(String, Arc<Shown>)> {
        self.lock().sources.iter().map(|(name, held)| (name.clone(), Arc::clone(&held.shown))).collect()
    }

    /// Renders `batch` under the present settings without taking it in.
    pub fn render(&self, batch: &Batch) -> Shown {
        let settings = Arc::clone(&self.lock().settings);
        Shown::render(batch, Duration::ZERO, &settings, |_| 0)
    }

    /// Whether samples are to carry their time.
    pub fn with_timestamps(&self) -> bool {
        self.lock().settings.timestamps
    }

    /// How many series are held.
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

impl Inner {
    /// Decides which series of `draft` are shown; gives the places of those that are not, with the reason, the places that stay
    /// reserved, and the source's number.
    fn admit(&mut self, source: &str, draft: &Shown, failed: bool) -> (Vec<(usize, &'static str)>, Vec<u64>, u32) {
        self.round = self.round.wrapping_add(1);
        let round = self.round;
        let mut dropped = self.type_conflicts(source, draft);
        let mut refused = vec![false; draft.series.len()];
        dropped.iter().for_each(|&(place, _)| refused[place] = true);

        let held = self.sources.remove(source);
        let number = held.as_ref().map_or_else(
            || {
                self.next_number += 1;
                self.next_number
            },
            |held| held.number,
        );
        let mut new = Vec::new();
        for (place, series) in draft.series.iter().enumerate().filter(|(place, _)| !refused[*place]) {
            match self.owners.entry(series.hash) {
                Entry::Occupied(mut known) if known.get().0 == number && known.get().1 != round => {
                    known.get_mut().1 = round;
                }
                Entry::Occupied(_) => dropped.push((place, "duplicate")),
                Entry::Vacant(_) => new.push(place),
            }
        }
        // Before new series are let in, the old ones that are gone make room; those of a failed source keep their place.
        let before = held.iter().flat_map(|h| h.shown.series.iter().map(|s| s.hash).chain(h.reserved.iter().copied()));
        let mut reserved = Vec::new();
        for hash in before {
            if self.owners.get(&hash).is_some_and(|&(owner, seen)| owner == number && seen != round) {
                match failed {
                    true => reserved.push(hash),
                    false => drop(self.owners.remove(&hash)),
                }
            }
        }
        for place in new {
            let full = self.owners.len() >= self.settings.max_series;
            match self.owners.entry(draft.series[place].hash) {
                Entry::Occupied(_) => dropped.push((place, "duplicate")),
                Entry::Vacant(_) if full => dropped.push((place, "limit")),
                Entry::Vacant(room) => drop(room.insert((number, round))),
            }
        }
        (dropped, reserved, number)
    }

    /// Series of families that another source, or an earlier family of this one, shows with another type.
    fn type_conflicts(&self, source: &str, draft: &Shown) -> Vec<(usize, &'static str)> {
        let mut conflicts = Vec::new();
        for (at, family) in draft.families.iter().enumerate() {
            let own = draft.families[..at].iter().rev().take_while(|f| f.name == family.name).last();
            let others = self.sources.iter().filter(|(name, _)| name.as_str() != source).find_map(|(_, held)| {
                let families = &held.shown.families;
                families.binary_search_by(|f| f.name.cmp(&family.name)).ok().map(|at| &families[at])
            });
            if own.or(others).is_some_and(|first| first.kind != family.kind) {
                conflicts.extend(family.series.clone().map(|place| (place, "type_conflict")));
            }
        }
        conflicts
    }
}

fn as_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
