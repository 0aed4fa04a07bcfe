//! From batches to rows: bounded queue, groups by count or age, one transaction each.
//!
//! A row gets its id when it enters the queue, so every further try writes the same rows, and a try whose answer was lost is recognised
//! by its ids. A group leaves only when the store has acknowledged it, or when the store says that trying again will not help.
//!
//! Nothing waits for the database: a full queue drops its oldest batch. Every sample that is not stored is counted by its reason in
//! `atlas_sidecar_samples_dropped_total`:
//!
//! | reason | meaning |
//! |---|---|
//! | `not_finite` | NaN or ±Inf, which the table cannot hold |
//! | `name_too_long` | more than 255 characters, or none |
//! | `budget` | `write.rows_per_day` is used up; goes on at midnight UTC |
//! | `queue_full` | the database was away for longer than the queue lasts |
//! | `no_table` | the database has no `system_metrics` |
//! | `store_error` | the store refused the group for good; the log says why |
//! | `shutdown` | still waiting when the time for shutting down was over |
//! | others | what the store rejected a single row for |

pub mod latest;
mod queue;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::{Clock, Timestamp};
use crate::retry::Backoff;
use crate::sample::{Batch, Desc, Kind, Origin, tags};
use crate::store::{Appended, Meta, Row, SampleStore, StoreError};
use crate::telemetry;

use queue::{Due, Queue};

/// The `[write]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The most batches that wait; one more drops the oldest and counts its samples.
    pub queue_batches: usize,
    /// The most rows of one transaction.
    pub batch_rows: usize,
    /// The longest a row waits for others.
    pub batch_age: Duration,
    /// The most rows written per UTC day; 0 for no limit.
    pub rows_per_day: u64,
}

/// `VARCHAR(255)`: PostgreSQL holds us to it, SQLite would not (V-9).
const LONGEST_NAME: usize = 255;

/// The most names whose kind and help are kept in mind: some 10 MB.
const MOST_NAMES: usize = 100_000;

/// Single rows of a group that a table's rules may refuse before the rest of the group is given up.
const MOST_REJECTIONS: usize = 100;

/// How long shutting down may wait for the database.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(5) };

/// A full disk does not mend itself within seconds.
const FULL_BACKOFF: Backoff = Backoff { first: Duration::from_secs(5), most: Duration::from_secs(60) };

const WRITTEN: Desc = Desc {
    name: "atlas_sidecar_samples_written_total",
    kind: Kind::Counter,
    unit: "samples",
    help: "Samples that the database has acknowledged.",
};
const DROPPED: Desc = Desc {
    name: "atlas_sidecar_samples_dropped_total",
    kind: Kind::Counter,
    unit: "samples",
    help: "Samples that were not stored, by reason; the reasons are explained in docs/OPERATIONS.md.",
};
const QUEUED: Desc = Desc {
    name: "atlas_sidecar_write_queue_batches",
    kind: Kind::Gauge,
    unit: "batches",
    help: "Batches that wait for the database; grows while it is locked or away.",
};
const QUEUE_LIMIT: Desc = Desc {
    name: "atlas_sidecar_write_queue_limit",
    kind: Kind::Gauge,
    unit: "batches",
    help: "The most batches that wait, `write.queue_batches`; beyond it the oldest is dropped.",
};
const RETRIES: Desc = Desc {
    name: "atlas_sidecar_write_retries_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Transactions tried again, by reason: `busy` (another writer, or a lost connection), `full` (no space), `taken` (ids in use).",
};
const SECONDS: Desc = Desc {
    name: "atlas_sidecar_write_duration_seconds",
    kind: Kind::Histogram,
    unit: "seconds",
    help: "How long a transaction that stored samples took, waiting for the lock included.",
};
const LAST_SUCCESS: Desc = Desc {
    name: "atlas_sidecar_write_last_success_timestamp_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "When the database last acknowledged samples; alert on its age.",
};
const ROWS_TODAY: Desc = Desc {
    name: "atlas_sidecar_rows_today",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows accepted for writing since midnight UTC; compare with the budget.",
};
const ROW_BUDGET: Desc = Desc {
    name: "atlas_sidecar_rows_per_day_limit",
    kind: Kind::Gauge,
    unit: "rows",
    help: "The row budget of a day, `write.rows_per_day`; 0 means none.",
};

/// What this module measures of itself.
pub const METRICS: &[&Desc] =
    &[&WRITTEN, &DROPPED, &QUEUED, &QUEUE_LIMIT, &RETRIES, &SECONDS, &LAST_SUCCESS, &ROWS_TODAY, &ROW_BUDGET];

struct Metrics {
    written: IntCounter,
    dropped: IntCounterVec,
    queued: IntGauge,
    retries: IntCounterVec,
    seconds: Histogram,
    last_success: prometheus::Gauge,
    rows_today: IntGauge,
}

/// Makes the id of a row measured at that time.
pub type NewId = Arc<dyn Fn(Timestamp) -> String + Send + Sync>;

/// The queue and its one consumer.
pub struct Ingest {
    settings: Settings,
    store: Option<Arc<dyn SampleStore>>,
    host: String,
    new_id: NewId,
    clock: Clock,
    state: Mutex<State>,
    more: Notify,
    dropped_total: AtomicU64,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// Kinds and helps not told to the store yet, and all that it knows.
    new_metas: Vec<Meta>,
    known_metas: HashMap<String, Kind>,
    day: Option<Timestamp>,
    rows_today: u64,
}

impl Ingest {
    /// A queue before `store`; without a store everything is counted as `no_table`. `rows_today` is what was stored earlier today.
    pub fn new(
        settings: Settings,
        store: Option<Arc<dyn SampleStore>>,
        host: String,
        new_id: NewId,
        clock: Clock,
        rows_today: u64,
        registry: &Registry,
    ) -> Self {
        let metrics = Metrics {
            written: telemetry::counter(registry, &WRITTEN),
            dropped: telemetry::counters(registry, &DROPPED, &["reason"]),
            queued: telemetry::int_gauge(registry, &QUEUED),
            retries: telemetry::counters(registry, &RETRIES, &["reason"]),
            // Seconds: from a warm commit to the busy timeout of the writer and beyond.
            seconds: telemetry::histogram(registry, &SECONDS, &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0]),
            last_success: telemetry::gauge(registry, &LAST_SUCCESS),
            rows_today: telemetry::int_gauge(registry, &ROWS_TODAY),
        };
        // There at zero, so that the first one is an increase.
        for reason in [
            "not_finite",
            "name_too_long",
            "budget",
            "queue_full",
            "no_table",
            "store_error",
            "constraint",
            "overflow",
            "encoding",
            "shutdown",
        ] {
            metrics.dropped.with_label_values(&[reason]).inc_by(0);
        }
        for reason in ["busy", "full", "taken"] {
            metrics.retries.with_label_values(&[reason]).inc_by(0);
        }
        telemetry::int_gauge(registry, &QUEUE_LIMIT).set(i64::try_from(settings.queue_batches).unwrap_or(i64::MAX));
        telemetry::int_gauge(registry, &ROW_BUDGET).set(i64::try_from(settings.rows_per_day).unwrap_or(i64::MAX));
        let state = State { day: Some(clock.now().midnight()), rows_today, ..State::default() };
        Self {
            settings,
            store,
            host,
            new_id,
            clock,
            state: Mutex::new(state),
            more: Notify::new(),
            dropped_total: AtomicU64::new(0),
            metrics,
        }
    }

    /// Takes those samples of `batch` whose series' name `wanted` lets through. Never waits.
    pub fn offer(&self, wanted: &dyn Fn(&str) -> bool, batch: Batch) {
        if batch.origin == Origin::Table {
            return;
        }
        let (rows, metas) = self.rows_of(wanted, batch);
        if rows.is_empty() {
            return;
        }
        if self.store.is_none() {
            return self.drop_rows("no_table", rows.len());
        }
        let mut state = self.lock();
        for meta in metas {
            // Names that a target makes up without end are stored like all others, but not described.
            if state.known_metas.len() < MOST_NAMES
                && state.known_metas.insert(meta.name.clone(), meta.kind) != Some(meta.kind)
            {
                state.new_metas.push(meta);
            }
        }
        let rows = self.within_budget(&mut state, rows);
        if rows.is_empty() {
            return;
        }
        let lost = state.queue.push(rows, self.settings.queue_batches);
        self.drop_rows("queue_full", lost);
        self.show_length(&state.queue);
        drop(state);
        self.more.notify_one();
    }

    /// Writes until `stop`, then what is left, for at most ten seconds.
    pub async fn run(&self, stop: CancellationToken) {
        let Some(store) = self.store.clone() else { return };
        let writing = async {
            loop {
                self.until_due().await;
                self.write_group(store.as_ref()).await;
            }
        };
        // A group that is interrupted goes back to the queue, and if the store had it already, the next try finds it there.
        stop.run_until_cancelled(writing).await;
        let drain = async {
            while self.lock().queue.rows() > 0 {
                self.write_group(store.as_ref()).await;
            }
        };
        if tokio::time::timeout(DRAIN_LIMIT, drain).await.is_err() {
            let left = self.lock().queue.clear();
            self.drop_rows("shutdown", left);
            warn!(rows = left, "the database did not take the last rows in time");
        }
    }

    /// How many rows have been acknowledged.
    pub fn written(&self) -> u64 {
        self.metrics.written.get()
    }

    /// How many samples were not stored, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_total.load(Ordering::Relaxed)
    }

    fn rows_of(&self, wanted: &dyn Fn(&str) -> bool, batch: Batch) -> (Vec<Row>, Vec<Meta>) {
        let (mut rows, mut metas) = (Vec::new(), Vec::new());
        for family in batch.families {
            let before = rows.len();
            for sample in &family.samples {
                let name = family.series_name(sample);
                if !wanted(&name) {
                    continue;
                }
                if !sample.value.is_finite() {
                    self.drop_rows("not_finite", 1);
                } else if name.is_empty() || name.chars().count() > LONGEST_NAME {
                    self.drop_rows("name_too_long", 1);
                } else {
                    let at = sample.at.unwrap_or(batch.at);
                    let mut labels = sample.labels.clone();
                    if labels.get("host").is_none() {
                        labels.set("host", self.host.clone());
                    }
                    let tags = tags::to_json(&labels);
                    rows.push(Row { id: (self.new_id)(at), name, tags, value: sample.value, at });
                }
            }
            if rows.len() > before {
                metas.push(Meta { name: family.name.into_owned(), kind: family.kind, help: family.help.into_owned() });
            }
        }
        (rows, metas)
    }

    /// What of `rows` today's budget still covers.
    fn within_budget(&self, state: &mut State, mut rows: Vec<Row>) -> Vec<Row> {
        let today = self.clock.now().midnight();
        if state.day != Some(today) {
            (state.day, state.rows_today) = (Some(today), 0);
        }
        if self.settings.rows_per_day > 0 {
            let left = self.settings.rows_per_day.saturating_sub(state.rows_today);
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(rows.len());
            self.drop_rows("budget", rows.len() - room);
            rows.truncate(room);
        }
        state.rows_today += rows.len() as u64;
        self.metrics.rows_today.set(i64::try_from(state.rows_today).unwrap_or(i64::MAX));
        rows
    }

    /// Returns when a group is full or its oldest row has waited long enough.
    async fn until_due(&self) {
        loop {
            let due = self.lock().queue.due(self.settings.batch_rows, self.settings.batch_age);
            match due {
                Due::Now => return,
                Due::Never => self.more.notified().await,
                Due::At(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => return,
                    () = self.more.notified() => {}
                },
            }
        }
    }

    /// Writes one group; tries again until the store has it, or gives it up. What is dropped on the way goes back to the queue.
    async fn write_group(&self, store: &dyn SampleStore) {
        self.describe(store).await;
        let mut group = Group { rows: self.take(), ingest: self };
        let (mut failures, mut rejections, mut refusals) = (0, 0, 0);
        while !group.rows.is_empty() {
            let started = Instant::now();
            let rows = &mut group.rows;
            let (backoff, reason) = match store.append(rows).await {
                Ok(appended) => return self.acknowledged(appended, std::mem::take(rows).len(), started, failures),
                Err(StoreError::Rejected { row, reason }) if row < rows.len() => {
                    let rejected = rows.remove(row);
                    if rejections == 0 {
                        warn!(
                            metric = rejected.name,
                            reason, "the store rejected a sample; others of its group are only counted"
                        );
                    }
                    rejections += 1;
                    // Each costs a transaction. A table that refuses this many refuses them all, and the application waits meanwhile. Not so
                    // numbers that are too large for a column (V-1): a store knows them beforehand, and a scrape may well have a hundred.
                    refusals += usize::from(reason == "constraint");
                    let given_up = if refusals < MOST_REJECTIONS { 0 } else { std::mem::take(rows).len() };
                    self.drop_rows(reason, 1 + given_up);
                    continue;
                }
                Err(StoreError::Taken) => {
                    rows.iter_mut().for_each(|row| row.id = (self.new_id)(row.at));
                    // Once is an accident. Again and again it is a table that swallows rows (a trigger), and the application waits meanwhile.
                    ((failures > 0).then_some(BACKOFF), "taken")
                }
                Err(e @ StoreError::Busy(_)) => {
                    if failures == 0 {
                        info!(rows = rows.len(), error = %e, "the database does not take rows now, trying again");
                    }
                    (Some(BACKOFF), "busy")
                }
                Err(e @ StoreError::Full(_)) => {
                    warn!(rows = rows.len(), error = %e, "the database cannot grow, trying again");
                    (Some(FULL_BACKOFF), "full")
                }
                Err(e @ (StoreError::Broken(_) | StoreError::Stopped(_) | StoreError::Rejected { .. })) => {
                    error!(rows = rows.len(), error = %e, "rows are lost: the database refused them");
                    return self.drop_rows("store_error", std::mem::take(rows).len());
                }
            };
            failures += 1;
            self.metrics.retries.with_label_values(&[reason]).inc();
            if let Some(backoff) = backoff {
                // The queue goes on filling meanwhile, and drops at its own bound.
                tokio::time::sleep(backoff.wait(failures, self.jitter())).await;
            }
        }
    }

    fn acknowledged(&self, appended: Appended, rows: usize, started: Instant, failures: u32) {
        self.metrics.written.inc_by(rows as u64);
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        self.metrics.last_success.set(self.clock.now().seconds());
        if failures > 0 {
            info!(rows, failures, earlier = appended == Appended::Earlier, "the database took the rows after all");
        }
    }

    /// Tells the store about new names; a failure is tried again with the next group.
    async fn describe(&self, store: &dyn SampleStore) {
        let metas = self.lock().new_metas.clone();
        if !metas.is_empty() && store.describe(&metas).await.is_ok() {
            // Newer ones were added behind these.
            self.lock().new_metas.drain(..metas.len());
        }
    }

    fn take(&self) -> Vec<Row> {
        let mut state = self.lock();
        let group = state.queue.take(self.settings.batch_rows);
        self.show_length(&state.queue);
        group
    }

    fn show_length(&self, queue: &Queue) {
        self.metrics.queued.set(i64::try_from(queue.batches()).unwrap_or(i64::MAX));
    }

    fn drop_rows(&self, reason: &str, rows: usize) {
        if rows > 0 {
            self.dropped_total.fetch_add(rows as u64, Ordering::Relaxed);
            self.metrics.dropped.with_label_values(&[reason]).inc_by(rows as u64);
        }
    }

    /// Parts the tries of several sidecars; ids are random enough.
    fn jitter(&self) -> u64 {
        (self.new_id)(self.clock.now()).bytes().fold(0, |sum, b| sum.wrapping_mul(31).wrapping_add(u64::from(b)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows on their way to the store. However the way ends, those that are left are back in the queue: none is lost uncounted.
struct Group<'a> {
    rows: Vec<Row>,
    ingest: &'a Ingest,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if !self.rows.is_empty() {
            self.ingest.lock().queue.put_back(std::mem::take(&mut self.rows));
        }
    }
}

#[cfg(test)]
mod tests;
