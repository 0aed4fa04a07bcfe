//! Where samples come from. The port [`Collector`], what surrounds one ([`Source`]), and the task that runs it ([`Runner`]).
//!
//! Every source has a task of its own. It collects once at the start and then at its interval, at an offset that its name decides, so that
//! sources do not all wake at the same moment and a restart does not change when each of them does (E-4). A source that fails, hangs or
//! panics gives an empty batch: its series vanish, its health series say so, and nothing else notices.

pub mod host;
pub mod http;
pub mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, Registry};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::{Clock, Timestamp};
use crate::sample::globs::Globs;
use crate::sample::{Batch, Desc, Kind, Labels};
use crate::task::{Pending, caught};
use crate::telemetry;

/// Something that can be measured.
pub trait Collector: Send {
    /// Adds what is there now to `batch`. On an error the batch is thrown away: a source shows all it has or nothing.
    ///
    /// Dropping the future ends the collection (its time is up); it must not leave work behind that grows.
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>>;
}

/// A collector with its name and its manners.
pub struct Source {
    /// Unique; the value of the label `source` and of `collect[]`. Lower-case letters, digits, `_`, `-`, `.`.
    pub name: String,
    /// Time from one collection to the next.
    pub interval: Duration,
    /// Time a collection may take; below `interval`.
    pub timeout: Duration,
    /// Which of its series (by full name) are written to the table; all are shown.
    pub store: Globs,
    /// Whether it waits for a permit of `scrape.concurrency`. Those that ask other machines do; host and database must never wait for them.
    pub remote: bool,
    /// What collects.
    pub collector: Box<dyn Collector>,
}

/// Why a collection gave nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum CollectError {
    /// The source did not answer, or refused.
    Unreachable(String),
    /// It did not answer in time.
    Timeout,
    /// It answered something that cannot be understood.
    Malformed(String),
    /// It answered more than its limits allow.
    TooLarge(String),
    /// Something in the collector itself.
    Internal(String),
}

impl CollectError {
    /// One word, the label `reason` of `atlas_sidecar_source_failures_total`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Malformed(_) => "malformed",
            Self::TooLarge(_) => "too_large",
            Self::Internal(_) => "internal",
        }
    }
}

impl fmt::Display for CollectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Malformed(why) => write!(f, "malformed answer: {why}"),
            Self::TooLarge(why) => write!(f, "answer too large: {why}"),
            Self::Internal(why) => write!(f, "collector failed: {why}"),
        }
    }
}

impl std::error::Error for CollectError {}

/// Why collections fail.
const REASONS: [&str; 5] = ["unreachable", "timeout", "malformed", "too_large", "internal"];

/// The `[scrape]` section.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The interval of every source that names none.
    pub interval: Duration,
    /// The timeout of every source that names none.
    pub timeout: Duration,
    /// How many targets may be asked at once.
    pub concurrency: usize,
    /// `[scrape.host]`
    pub host: host::Settings,
    /// `[[scrape.targets]]`
    pub targets: Vec<http::Target>,
}

const UP: Desc = Desc {
    name: "atlas_sidecar_source_up",
    kind: Kind::Gauge,
    unit: "1",
    help: "1 if the last collection of the source gave its samples, 0 if it failed and shows none.",
};
const DURATION: Desc = Desc {
    name: "atlas_sidecar_source_scrape_duration_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "How long the last collection of the source took.",
};
const SAMPLES: Desc = Desc {
    name: "atlas_sidecar_source_samples",
    kind: Kind::Gauge,
    unit: "samples",
    help: "How many samples the last collection of the source gave.",
};
const LAST_SUCCESS: Desc = Desc {
    name: "atlas_sidecar_source_last_success_timestamp_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "When the source last gave its samples: sources are collected on their own schedule, so this is the age of what is shown.",
};
const FAILURES: Desc = Desc {
    name: "atlas_sidecar_source_failures_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Failed collections by source and reason: `unreachable`, `timeout`, `malformed`, `too_large`, `internal`.",
};

/// What this module measures of itself.
pub const METRICS: &[&Desc] = &[&UP, &DURATION, &SAMPLES, &LAST_SUCCESS, &FAILURES];

/// Takes what a collection of a source gave; the flag tells whether it failed.
pub type Sink = Arc<dyn Fn(&Source, bool, Batch) + Send + Sync>;

/// What is known of a source's last collections, for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Whether the last collection gave its samples; nothing before the first one.
    pub up: Option<bool>,
    /// When one last did.
    pub last_success: Option<Timestamp>,
    /// How long the last one took.
    pub took: Duration,
    /// How many samples it gave.
    pub samples: usize,
    /// Why it failed.
    pub error: Option<String>,
}

/// The state of all sources, by name.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<String, Status>>>);

impl Board {
    /// All sources as they are now.
    pub fn all(&self) -> BTreeMap<String, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets all but `names`, and knows these.
    pub fn retain(&self, names: &[String]) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.retain(|name, _| names.contains(name));
        for name in names {
            board.entry(name.clone()).or_default();
        }
    }

    fn set(&self, source: &str, status: Status) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(source.to_owned(), status);
    }

    fn get(&self, source: &str) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(source).cloned().unwrap_or_default()
    }
}

/// Runs sources: what their tasks share.
#[derive(Clone)]
pub struct Runner {
    /// Where batches go.
    sink: Sink,
    /// Where their state is kept.
    pub board: Board,
    /// The clock that stamps batches.
    clock: Clock,
    /// How many remote sources may collect at once.
    permits: Arc<Semaphore>,
    failures: IntCounterVec,
}

impl Runner {
    /// A runner that asks at most `concurrency` remote sources at once.
    pub fn new(sink: Sink, clock: Clock, concurrency: usize, registry: &Registry) -> Self {
        let failures = telemetry::counters(registry, &FAILURES, &["source", "reason"]);
        Self { sink, board: Board::default(), clock, permits: Arc::new(Semaphore::new(concurrency)), failures }
    }

    /// Collects `source` now and then at its interval, until `stop`.
    pub async fn run(&self, mut source: Source, stop: CancellationToken) {
        // There at zero, so that the first failure is an increase.
        for reason in REASONS {
            self.failures.with_label_values(&[source.name.as_str(), reason]).inc_by(0);
        }
        let first = tokio::time::Instant::now() + offset(&source.name, source.interval);
        let mut ticks = tokio::time::interval_at(first, source.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                // A panic in a collector is its failure; one in the sink would be ours, and must not end the source for good.
                done = caught(self.collect(&mut source)) => if let Err(panic) = done {
                    error!(source = source.name, panic, "taking in a batch panicked");
                },
                () = stop.cancelled() => return,
            }
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One collection, whatever it ends in.
    pub async fn collect(&self, source: &mut Source) {
        // Never closed, so there is always a permit in the end.
        let _permit = if source.remote { self.permits.acquire().await.ok() } else { None };
        let mut batch = Batch::new(self.clock.now());
        let started = Instant::now();
        let collected = caught(tokio::time::timeout(source.timeout, source.collector.collect(&mut batch))).await;
        let took = started.elapsed();
        let error = match collected {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(error),
            Ok(Err(_)) => Some(CollectError::Timeout),
            Err(panic) => Some(CollectError::Internal(format!("panicked: {panic}"))),
        };
        if error.is_some() {
            batch.families.clear();
        }
        let before = self.board.get(&source.name);
        let status = Status {
            up: Some(error.is_none()),
            last_success: if error.is_none() { Some(batch.at) } else { before.last_success },
            took,
            samples: batch.len(),
            error: error.as_ref().map(ToString::to_string),
        };
        self.tell(&source.name, &before, error.as_ref());
        add_health(&mut batch, &source.name, &status);
        self.board.set(&source.name, status);
        (self.sink)(source, error.is_some(), batch);
    }

    /// Counts each failure, logs only what changed since `before`.
    fn tell(&self, source: &str, before: &Status, error: Option<&CollectError>) {
        match error {
            Some(error) => {
                self.failures.with_label_values(&[source, error.reason()]).inc();
                if before.error != Some(error.to_string()) {
                    warn!(source, reason = error.reason(), %error, "source failed");
                }
            }
            None if before.up == Some(false) => info!(source, "source is back"),
            None => {}
        }
    }
}

fn add_health(batch: &mut Batch, source: &str, status: &Status) {
    let labels = Labels::none().with("source", source);
    batch.push(&UP, labels.clone(), f64::from(u8::from(status.up == Some(true))));
    batch.push(&DURATION, labels.clone(), status.took.as_secs_f64());
    batch.push(&SAMPLES, labels.clone(), status.samples as f64);
    if let Some(last) = status.last_success {
        batch.push(&LAST_SUCCESS, labels, last.seconds());
    }
}

/// Whether a series of `source` is written to the table: what its `store` lets through; of the series about its health `up` only, and always.
pub fn is_stored(source: &Source, series: &str) -> bool {
    match [&UP, &DURATION, &SAMPLES, &LAST_SUCCESS].iter().find(|desc| desc.name == series) {
        Some(health) => health.name == UP.name,
        None => source.store.matches(series),
    }
}

/// Where in its interval a source is collected: the same after every restart.
fn offset(name: &str, interval: Duration) -> Duration {
    // DefaultHasher::new() has fixed keys; equal names give equal offsets within a version of the standard library.
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let part = u32::try_from(hasher.finish() % 1000).unwrap_or(0);
    interval * part / 1000
}

/// A source that panics, to show that the shipped profile survives one.
#[cfg(feature = "test-panic")]
pub fn panicking() -> Source {
    struct Panicking;

    impl Collector for Panicking {
        fn collect<'a>(&'a mut self, _batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
            Box::pin(async { panic!("as the test wants it") })
        }
    }

    Source {
        name: "panicking".to_owned(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        store: Globs::all(),
        remote: false,
        collector: Box::new(Panicking),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Tasks;

    enum Act {
        Give,
        Fail,
        Hang,
        Panic,
    }

    /// Does one act per collection, then gives.
    struct Actor(Vec<Act>);

    impl Collector for Actor {
        fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
            Box::pin(async move {
                batch.family("x", Kind::Gauge, "").push(Labels::none(), 1.0);
                match if self.0.is_empty() { Act::Give } else { self.0.remove(0) } {
                    Act::Give => Ok(()),
                    Act::Fail => Err(CollectError::Malformed("broken".to_owned())),
                    Act::Hang => std::future::pending().await,
                    Act::Panic => panic!("at the wrong place"),
                }
            })
        }
    }

    fn source(acts: Vec<Act>) -> Source {
        Source {
            name: "actor".to_owned(),
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            store: Globs::all(),
            remote: false,
            collector: Box::new(Actor(acts)),
        }
    }

    type Seen = Arc<Mutex<Vec<(bool, Vec<String>)>>>;

    fn runner(registry: &Registry) -> (Runner, Seen) {
        let seen = Seen::default();
        let sink: Sink = {
            let seen = Arc::clone(&seen);
            Arc::new(move |_, failed, batch| {
                let names = batch.families.iter().map(|f| f.name.to_string()).collect();
                seen.lock().unwrap().push((failed, names));
            })
        };
        (Runner::new(sink, Clock::by_hand(Timestamp::from_millis(1000)), 2, registry), seen)
    }

    /// E-4: whatever a source does, its series vanish, its health tells why, and the next collection goes on.
    #[tokio::test(start_paused = true)]
    async fn a_source_that_fails_hangs_or_panics_lowers_only_its_own_flag() {
        let registry = Registry::new();
        let (runner, seen) = runner(&registry);
        let mut source = source(vec![Act::Give, Act::Fail, Act::Hang, Act::Panic]);
        for (up, error) in [
            (true, None),
            (false, Some("malformed answer: broken")),
            (false, Some("no answer in time")),
            (false, Some("collector failed: panicked: at the wrong place")),
            (true, None),
        ] {
            runner.collect(&mut source).await;
            let status = runner.board.all().remove("actor").unwrap();
            assert_eq!((status.up, status.error.as_deref()), (Some(up), error));
            assert_eq!(status.last_success, Some(Timestamp::from_millis(1000)));
            let (failed, names) = seen.lock().unwrap().pop().unwrap();
            assert_eq!(failed, !up);
            assert_eq!(names.contains(&"x".to_owned()), up);
            assert!(names.contains(&UP.name.to_owned()));
        }
        let failures: f64 =
            telemetry::gather(&registry, Timestamp::from_millis(0)).families[0].samples.iter().map(|s| s.value).sum();
        assert_eq!(failures, 3.0);
    }

    #[test]
    fn of_a_sources_health_only_up_is_stored() {
        let mut source = source(vec![]);
        assert!(is_stored(&source, "x") && is_stored(&source, UP.name) && !is_stored(&source, DURATION.name));
        source.store = Globs::new(["y"]);
        assert!(!is_stored(&source, "x") && is_stored(&source, UP.name));
    }

    #[tokio::test(start_paused = true)]
    async fn sources_are_collected_at_once_and_then_once_per_interval() {
        let (runner, seen) = runner(&Registry::new());
        let tasks = Tasks::new();
        let stop = tasks.stop_token();
        tasks.spawn("source", async move { runner.run(source(vec![]), stop).await });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(seen.lock().unwrap().len(), 1);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(seen.lock().unwrap().len(), 11);
        tasks.stop().await;
    }
}
