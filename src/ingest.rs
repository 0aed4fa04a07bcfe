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

use std::collections::{HashMap, VecDeque};
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

/// The most rows that wait, whatever the number of batches: some 80 MB. The newest batch is never the one to go.
const MOST_ROWS: usize = 250_000;

/// Single rows of a group that the store may reject before the rest of the group is given up.
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
    queue: Mutex<Queue>,
    more: Notify,
    dropped_total: AtomicU64,
    metrics: Metrics,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<(Instant, VecDeque<Row>)>,
    /// A group that was being written when that was interrupted. It stays a group of its own: the store may have it already, and knows it only whole.
    again: Option<Vec<Row>>,
    /// Of all the above.
    rows: usize,
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
        for reason in
            ["not_finite", "name_too_long", "budget", "queue_full", "no_table", "store_error", "constraint", "shutdown"]
        {
            metrics.dropped.with_label_values(&[reason]).inc_by(0);
        }
        for reason in ["busy", "full", "taken"] {
            metrics.retries.with_label_values(&[reason]).inc_by(0);
        }
        telemetry::int_gauge(registry, &QUEUE_LIMIT).set(i64::try_from(settings.queue_batches).unwrap_or(i64::MAX));
        telemetry::int_gauge(registry, &ROW_BUDGET).set(i64::try_from(settings.rows_per_day).unwrap_or(i64::MAX));
        let queue = Queue { day: Some(clock.now().midnight()), rows_today, ..Queue::default() };
        Self {
            settings,
            store,
            host,
            new_id,
            clock,
            queue: Mutex::new(queue),
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
        let mut queue = self.lock();
        for meta in metas {
            // Names that a target makes up without end are stored like all others, but not described.
            if queue.known_metas.len() < MOST_NAMES
                && queue.known_metas.insert(meta.name.clone(), meta.kind) != Some(meta.kind)
            {
                queue.new_metas.push(meta);
            }
        }
        let rows = self.within_budget(&mut queue, rows);
        if rows.is_empty() {
            return;
        }
        queue.rows += rows.len();
        queue.batches.push_back((Instant::now(), rows.into()));
        while queue.batches.len() > self.settings.queue_batches || queue.rows > MOST_ROWS && queue.batches.len() > 1 {
            if let Some((_, oldest)) = queue.batches.pop_front() {
                queue.rows -= oldest.len();
                self.drop_rows("queue_full", oldest.len());
            }
        }
        self.metrics.queued.set(i64::try_from(queue.batches.len()).unwrap_or(i64::MAX));
        drop(queue);
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
            while self.lock().rows > 0 {
                self.write_group(store.as_ref()).await;
            }
        };
        if tokio::time::timeout(DRAIN_LIMIT, drain).await.is_err() {
            let left = std::mem::take(&mut self.lock().rows);
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
    fn within_budget(&self, queue: &mut Queue, mut rows: Vec<Row>) -> Vec<Row> {
        let today = self.clock.now().midnight();
        if queue.day != Some(today) {
            (queue.day, queue.rows_today) = (Some(today), 0);
        }
        if self.settings.rows_per_day > 0 {
            let left = self.settings.rows_per_day.saturating_sub(queue.rows_today);
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(rows.len());
            self.drop_rows("budget", rows.len() - room);
            rows.truncate(room);
        }
        queue.rows_today += rows.len() as u64;
        self.metrics.rows_today.set(i64::try_from(queue.rows_today).unwrap_or(i64::MAX));
        rows
    }

    /// Returns when a group is full or its oldest row has waited long enough.
    async fn until_due(&self) {
        loop {
            let due = {
                let queue = self.lock();
                match queue.batches.front() {
                    _ if queue.again.is_some() => return,
                    Some(_) if queue.rows >= self.settings.batch_rows => return,
                    Some((since, _)) => Some(*since + self.settings.batch_age),
                    None => None,
                }
            };
            match due {
                None => self.more.notified().await,
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => return,
                    () = self.more.notified() => {}
                },
            }
        }
    }

    /// Writes one group; tries again until the store has it, or gives it up. What is dropped on the way goes back to the queue.
    async fn write_group(&self, store: &dyn SampleStore) {
        self.describe(store).await;
        let mut group = Group { rows: self.take(self.settings.batch_rows), ingest: self };
        let (mut failures, mut rejections) = (0, 0);
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
                    // Each costs a transaction. A table that refuses this many refuses them all, and the application waits meanwhile.
                    let given_up = if rejections < MOST_REJECTIONS { 0 } else { std::mem::take(rows).len() };
                    self.drop_rows(reason, 1 + given_up);
                    continue;
                }
                Err(StoreError::Taken) => {
                    rows.iter_mut().for_each(|row| row.id = (self.new_id)(row.at));
                    (None, "taken")
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

    /// Takes an interrupted group, or batches up to `limit` rows; a batch beyond the limit is split.
    fn take(&self, limit: usize) -> Vec<Row> {
        let mut queue = self.lock();
        let again = queue.again.take();
        let fresh = again.is_none();
        let mut rows = again.unwrap_or_default();
        while fresh && let Some((since, mut batch)) = queue.batches.pop_front() {
            let room = limit - rows.len();
            if room == 0 {
                queue.batches.push_front((since, batch));
                break;
            }
            rows.extend(batch.drain(..room.min(batch.len())));
            if !batch.is_empty() {
                queue.batches.push_front((since, batch));
                break;
            }
        }
        queue.rows -= rows.len();
        self.metrics.queued.set(i64::try_from(queue.batches.len()).unwrap_or(i64::MAX));
        rows
    }

    fn put_back(&self, rows: Vec<Row>) {
        let mut queue = self.lock();
        queue.rows += rows.len();
        queue.again = Some(rows);
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

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.ingest.put_back(std::mem::take(&mut self.rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Labels;
    use crate::sample::globs::Globs;
    use crate::store::{History, Stored};
    use crate::task::{Pending, Tasks};

    const NOON: Timestamp = Timestamp::from_millis(1_795_348_800_000);

    /// A store that answers from a script, then takes everything.
    #[derive(Default)]
    struct Scripted {
        script: Mutex<VecDeque<StoreError>>,
        taken: Mutex<Vec<Row>>,
        tried: Mutex<Vec<Vec<String>>>,
        metas: Mutex<Vec<Meta>>,
    }

    impl SampleStore for Scripted {
        fn append<'a>(&'a self, rows: &'a [Row]) -> Pending<'a, Result<Appended, StoreError>> {
            Box::pin(async move {
                self.tried.lock().unwrap().push(rows.iter().map(|r| r.id.clone()).collect());
                if let Some(error) = self.script.lock().unwrap().pop_front() {
                    return Err(error);
                }
                self.taken.lock().unwrap().extend_from_slice(rows);
                Ok(Appended::Now)
            })
        }

        fn describe<'a>(&'a self, metas: &'a [Meta]) -> Pending<'a, Result<(), StoreError>> {
            Box::pin(async move {
                self.metas.lock().unwrap().extend_from_slice(metas);
                Ok(())
            })
        }

        fn own_rows_since(&self, _from: Timestamp) -> Pending<'_, Result<u64, StoreError>> {
            Box::pin(async { Ok(0) })
        }

        fn metas(&self) -> Pending<'_, Result<Vec<Meta>, StoreError>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn history<'a>(
            &'a self,
            _from: Timestamp,
            _to: Timestamp,
            _names: &'a Globs,
            _each: &'a mut (dyn FnMut(Stored) -> std::io::Result<()> + Send),
        ) -> Pending<'a, Result<History, StoreError>> {
            Box::pin(async { Ok(History::default()) })
        }
    }

    fn settings() -> Settings {
        Settings { queue_batches: 3, batch_rows: 10, batch_age: Duration::from_secs(5), rows_per_day: 0 }
    }

    fn ingest(settings: Settings, script: Vec<StoreError>) -> (Arc<Ingest>, Arc<Scripted>, Clock, Registry) {
        let store = Arc::new(Scripted { script: Mutex::new(script.into()), ..Scripted::default() });
        let (clock, registry) = (Clock::by_hand(NOON), Registry::new());
        let count = AtomicU64::new(0);
        let new_id: NewId = Arc::new(move |_| format!("id-{}", count.fetch_add(1, Ordering::Relaxed)));
        let port: Option<Arc<dyn SampleStore>> = Some(store.clone());
        let ingest = Ingest::new(settings, port, "box".to_owned(), new_id, clock.clone(), 0, &registry);
        (Arc::new(ingest), store, clock, registry)
    }

    fn batch(values: &[f64]) -> Batch {
        let mut batch = Batch::new(NOON);
        for (n, value) in values.iter().enumerate() {
            let labels = Labels::none().with("n", n.to_string());
            batch.family("x_total", Kind::Counter, "help").push(labels, *value);
        }
        batch
    }

    fn dropped(registry: &Registry) -> Vec<(String, f64)> {
        let own = telemetry::gather(registry, NOON);
        let family = own.families.into_iter().find(|f| f.name == DROPPED.name);
        let count = |s: crate::sample::Sample| (s.labels.get("reason").unwrap().to_owned(), s.value);
        family.into_iter().flat_map(|f| f.samples).map(count).filter(|(_, n)| *n > 0.0).collect()
    }

    async fn drained(ingest: &Arc<Ingest>) {
        let tasks = Tasks::new();
        let (ingest, stop) = (Arc::clone(ingest), tasks.stop_token());
        tasks.spawn("writer", async move { ingest.run(stop).await });
        tasks.stop().await;
    }

    /// V-2, V-3, V-4, V-9: what the table cannot hold is left out and counted; the rest of the batch is stored.
    #[tokio::test(start_paused = true)]
    async fn samples_that_cannot_be_stored_are_counted_and_do_not_take_others_along() {
        let (ingest, store, _, registry) = ingest(settings(), vec![]);
        let mut mixed = batch(&[1.0, f64::NAN, f64::INFINITY, 2.0]);
        mixed.family("n".repeat(256), Kind::Gauge, "").push(Labels::none(), 1.0);
        mixed.family("ä".repeat(255), Kind::Gauge, "").push(Labels::none(), 1.0);
        ingest.offer(&|_| true, mixed);
        drained(&ingest).await;
        let taken = store.taken.lock().unwrap();
        assert_eq!(taken.iter().map(|r| r.value).collect::<Vec<_>>(), [1.0, 2.0, 1.0]);
        assert_eq!(taken[0].tags, r#"{"host":"box","n":"0"}"#);
        assert_eq!(dropped(&registry), [("name_too_long".to_owned(), 1.0), ("not_finite".to_owned(), 2.0)]);
        assert_eq!(
            store.metas.lock().unwrap()[0],
            Meta { name: "x_total".to_owned(), kind: Kind::Counter, help: "help".to_owned() }
        );
    }

    /// A retry writes the same ids; ids in use are replaced; a rejected row is left out; none is lost or doubled.
    #[tokio::test(start_paused = true)]
    async fn retries_write_the_same_rows() {
        let script = vec![
            StoreError::Busy("locked".to_owned()),
            StoreError::Full("disk".to_owned()),
            StoreError::Rejected { row: 1, reason: "overflow" },
            StoreError::Taken,
        ];
        let (ingest, store, _, registry) = ingest(settings(), script);
        ingest.offer(&|_| true, batch(&[1.0, 2.0, 3.0]));
        drained(&ingest).await;
        let tried = store.tried.lock().unwrap();
        assert_eq!(tried[0], tried[1]);
        assert_eq!(tried[1], tried[2]);
        assert_eq!(tried[3], [tried[0][0].clone(), tried[0][2].clone()]);
        assert!(tried[4].iter().all(|id| !tried[3].contains(id)));
        assert_eq!(store.taken.lock().unwrap().iter().map(|r| r.value).collect::<Vec<_>>(), [1.0, 3.0]);
        assert_eq!(dropped(&registry), [("overflow".to_owned(), 1.0)]);
        assert_eq!(ingest.written(), 2);
    }

    /// A group that is interrupted while the store may be committing it comes back alone: mixed with others, its ids would look taken by
    /// somebody else, and its rows would be stored again under new ones.
    #[tokio::test(start_paused = true)]
    async fn an_interrupted_group_is_tried_again_as_it_was() {
        let (ingest, store, _, _) = ingest(settings(), vec![StoreError::Busy("locked".to_owned())]);
        ingest.offer(&|_| true, batch(&[1.0; 3]));
        let tasks = Tasks::new();
        let (writer, stop) = (Arc::clone(&ingest), tasks.stop_token());
        tasks.spawn("writer", async move { writer.run(stop).await });
        // The group is due after five seconds, fails at once, and waits for its next try when the stop comes.
        tokio::time::sleep(Duration::from_millis(5010)).await;
        ingest.offer(&|_| true, batch(&[2.0; 3]));
        tasks.stop().await;
        let tried = store.tried.lock().unwrap();
        assert_eq!(tried.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3]);
        assert_eq!(tried[0], tried[1]);
        assert_eq!(store.taken.lock().unwrap().len(), 6);
    }

    /// A table that refuses every row is not asked two thousand times a group.
    #[tokio::test(start_paused = true)]
    async fn a_table_that_refuses_everything_is_not_asked_for_ever() {
        let script = (0..200).map(|_| StoreError::Rejected { row: 0, reason: "constraint" }).collect();
        let (ingest, store, _, registry) = ingest(Settings { batch_rows: 500, ..settings() }, script);
        ingest.offer(&|_| true, batch(&[1.0; 500]));
        drained(&ingest).await;
        assert_eq!(store.tried.lock().unwrap().len(), MOST_REJECTIONS);
        assert_eq!(dropped(&registry), [("constraint".to_owned(), 500.0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_drops_the_oldest_and_a_refused_group_is_counted() {
        let (ingest, store, _, registry) = ingest(settings(), vec![StoreError::Broken("no such table".to_owned())]);
        for value in 0..5 {
            ingest.offer(&|_| true, batch(&[f64::from(value); 10]));
        }
        drained(&ingest).await;
        assert_eq!(dropped(&registry), [("queue_full".to_owned(), 20.0), ("store_error".to_owned(), 10.0)]);
        assert_eq!(
            store.taken.lock().unwrap().iter().map(|r| r.value).collect::<Vec<_>>()[..],
            [[3.0; 10], [4.0; 10]].concat()
        );
        assert_eq!(ingest.dropped(), 30);
    }

    /// A target with many series fills the memory long before it fills the count of batches.
    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_in_rows_too() {
        let (ingest, store, _, registry) = ingest(Settings { queue_batches: 100, ..settings() }, vec![]);
        let big = |value: f64| {
            let mut batch = Batch::new(NOON);
            let family = batch.family("x_total", Kind::Counter, "");
            (0..MOST_ROWS * 2 / 3).for_each(|_| family.push(Labels::none(), value));
            batch
        };
        ingest.offer(&|_| true, big(1.0));
        ingest.offer(&|_| true, big(2.0));
        assert_eq!(dropped(&registry), [("queue_full".to_owned(), (MOST_ROWS * 2 / 3) as f64)]);
        drained(&ingest).await;
        assert!(store.taken.lock().unwrap().iter().all(|row| row.value == 2.0));
    }

    /// R-23: the budget of a day ends at midnight UTC.
    #[tokio::test(start_paused = true)]
    async fn the_row_budget_is_of_a_day() {
        let (ingest, store, clock, registry) = ingest(Settings { rows_per_day: 4, ..settings() }, vec![]);
        ingest.offer(&|_| true, batch(&[1.0; 3]));
        ingest.offer(&|_| true, batch(&[2.0; 3]));
        ingest.offer(&|_| true, batch(&[3.0; 3]));
        clock.set(NOON.after(Duration::from_secs(12 * 3600)));
        ingest.offer(&|_| true, batch(&[4.0; 3]));
        drained(&ingest).await;
        let values: Vec<f64> = store.taken.lock().unwrap().iter().map(|r| r.value).collect();
        assert_eq!(values, [1.0, 1.0, 1.0, 2.0, 4.0, 4.0, 4.0]);
        assert_eq!(dropped(&registry), [("budget".to_owned(), 5.0)]);
    }

    /// Groups form by count at once and by age after a while; big batches are split.
    #[tokio::test(start_paused = true)]
    async fn groups_by_count_or_age() {
        let (ingest, store, _, _) = ingest(settings(), vec![]);
        let tasks = Tasks::new();
        let (writer, stop) = (Arc::clone(&ingest), tasks.stop_token());
        tasks.spawn("writer", async move { writer.run(stop).await });
        ingest.offer(&|_| true, batch(&[1.0; 4]));
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(store.tried.lock().unwrap().len(), 0);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(store.tried.lock().unwrap().len(), 1);
        ingest.offer(&|_| true, batch(&[1.0; 25]));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(store.tried.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [4, 10, 10]);
        tasks.stop().await;
        assert_eq!(store.taken.lock().unwrap().len(), 29);
    }

    /// What the application wrote is shown, never stored again; without a table everything is counted.
    #[tokio::test]
    async fn foreign_rows_are_not_stored_and_a_missing_table_is_counted() {
        let (ingest, store, clock, _) = ingest(settings(), vec![]);
        ingest.offer(&|_| true, Batch { origin: Origin::Table, ..batch(&[1.0]) });
        drained(&ingest).await;
        assert!(store.tried.lock().unwrap().is_empty());
        let registry = Registry::new();
        let without = Ingest::new(settings(), None, "box".to_owned(), Arc::new(|_| String::new()), clock, 0, &registry);
        without.offer(&|name| name == "x_total", batch(&[1.0, 2.0]));
        without.offer(&|_| false, batch(&[1.0]));
        assert_eq!(dropped(&registry), [("no_table".to_owned(), 2.0)]);
    }
}
