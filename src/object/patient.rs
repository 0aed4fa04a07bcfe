//! Patience with a store: what may work later is tried again for about a minute, and a download that breaks goes on where it broke.
//!
//! A minute because a storage cluster that loses a node needs up to 23 s until it answers again (measured with Garage, three nodes), where the SDK's own
//! retries have given up after 1.5 s. What takes longer is for the next activation of the job: it stores the same bytes again.
//!
//! The requests are counted here because here each of them is seen, also those whose failure nobody hears of.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use prometheus::{IntCounterVec, Registry};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{Download, ObjectError, ObjectKey, ObjectStore, Page, Part, Upload};
use crate::retry::Backoff;
use crate::sample::{Desc, Kind};
use crate::task::Pending;
use crate::telemetry::counters;

/// Requests by what was asked and what came of it.
pub const REQUESTS: Desc = Desc {
    name: "atlas_sidecar_backup_object_requests_total",
    kind: Kind::Counter,
    unit: "requests",
    help: "Requests to the backups' destination by op and by code: ok, or what the caller could do about the failure (missing, exists, denied, transient, corrupt). Each try counts. A growing share of transient: the destination or the way to it is in trouble; any denied: look at credentials and rights.",
};

/// Bytes that went over.
pub const BYTES: Desc = Desc {
    name: "atlas_sidecar_backup_object_bytes_total",
    kind: Kind::Counter,
    unit: "bytes",
    help: "Bytes of objects that were stored (op put, create, part) or fetched (op get). What a provider bills as traffic.",
};

/// Every metric of this module.
pub const METRICS: &[&Desc] = &[&REQUESTS, &BYTES];

/// The counters.
#[derive(Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    bytes: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self { requests: counters(registry, &REQUESTS, &["op", "code"]), bytes: counters(registry, &BYTES, &["op"]) }
    }

    fn count<T>(&self, op: &str, result: &Result<T, ObjectError>) {
        let code = match result {
            Ok(_) => "ok",
            Err(ObjectError::Missing(_)) => "missing",
            Err(ObjectError::Exists(_)) => "exists",
            Err(ObjectError::Denied(_)) => "denied",
            Err(ObjectError::Transient(_)) => "transient",
            Err(ObjectError::Corrupt(_)) => "corrupt",
        };
        self.requests.with_label_values(&[op, code]).inc();
    }

    fn carried(&self, op: &str, bytes: usize) {
        self.bytes.with_label_values(&[op]).inc_by(bytes as u64);
    }
}

/// How patient.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The waits between tries.
    pub backoff: Backoff,
    /// No new try begins when this has passed since the first one began; for a download, since it last came on well.
    pub budget: Duration,
    /// How long one try may take.
    pub attempt: Duration,
    /// How long a download may go without a byte before it is begun again where it stands.
    pub stall: Duration,
    /// How many requests there may be at once. A download counts until its first byte only: whoever reads several in turn would wait for itself.
    pub at_once: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            backoff: Backoff { first: Duration::from_millis(200), most: Duration::from_secs(10) },
            budget: Duration::from_secs(60),
            // A part has its own bound below this (see `s3`); this one is for a folder on a network file system that hangs.
            attempt: Duration::from_secs(400),
            // Above the 20 s for which Garage stalls when one of its nodes is frozen.
            stall: Duration::from_secs(30),
            at_once: 8,
        }
    }
}

/// A store with patience.
pub struct Patient {
    store: Arc<dyn ObjectStore>,
    tries: Tries,
}

impl Patient {
    /// `store`, asked patiently.
    pub fn new(store: Arc<dyn ObjectStore>, patience: Patience, metrics: Metrics) -> Self {
        Self { store, tries: Tries { patience, metrics, permits: Arc::new(Semaphore::new(patience.at_once)) } }
    }
}

/// What it takes to try again.
#[derive(Clone)]
struct Tries {
    patience: Patience,
    metrics: Metrics,
    permits: Arc<Semaphore>,
}

impl Tries {
    /// Asks until there is an answer, or an error that does not pass, or the budget is used up.
    async fn ask<T, F>(&self, op: &'static str, mut once: impl FnMut() -> F) -> Result<T, ObjectError>
    where
        F: Future<Output = Result<T, ObjectError>>,
    {
        let begun = Instant::now();
        let mut failures = 0;
        loop {
            let words = match self.once(op, once()).await {
                Err(ObjectError::Transient(words)) => words,
                other => return other,
            };
            failures += 1;
            let wait = self.patience.backoff.wait(failures, jitter());
            if begun.elapsed() + wait > self.patience.budget {
                let words = format!("{words} ({failures} tries in {} s)", begun.elapsed().as_secs());
                return Err(ObjectError::Transient(words));
            }
            debug!(op, failures, error = words, "trying the destination again");
            sleep(wait).await;
        }
    }

    /// One try.
    async fn once<T>(
        &self,
        op: &'static str,
        request: impl Future<Output = Result<T, ObjectError>>,
    ) -> Result<T, ObjectError> {
        // Never closed.
        let _permit = self.permits.acquire().await;
        let limit = self.patience.attempt;
        let result = timeout(limit, request)
            .await
            .unwrap_or_else(|_| Err(ObjectError::Transient(format!("{op}: no answer in {} s", limit.as_secs()))));
        self.metrics.count(op, &result);
        result
    }
}

/// A random number, or none where the system has none: then the waits are the shortest.
fn jitter() -> u64 {
    let mut bytes = [0; 8];
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

impl ObjectStore for Patient {
    fn place(&self) -> String {
        self.store.place()
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            self.tries.ask("put", || self.store.put(key, bytes.clone())).await?;
            self.tries.metrics.carried("put", bytes.len());
            Ok(())
        })
    }

    fn create<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            self.tries.ask("create", || self.store.create(key, bytes.clone())).await?;
            self.tries.metrics.carried("create", bytes.len());
            Ok(())
        })
    }

    fn create_noted<'a>(
        &'a self,
        key: &'a ObjectKey,
        bytes: Bytes,
        note: &'a str,
    ) -> Pending<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            self.tries.ask("create", || self.store.create_noted(key, bytes.clone(), note)).await?;
            self.tries.metrics.carried("create", bytes.len());
            Ok(())
        })
    }

    fn upload<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<Box<dyn Upload>, ObjectError>> {
        Box::pin(async move {
            let upload = self.tries.ask("upload", || self.store.upload(key)).await?;
            Ok(Box::new(PatientUpload { upload, tries: self.tries.clone() }) as Box<dyn Upload>)
        })
    }

    fn get<'a>(&'a self, key: &'a ObjectKey, part: Part) -> Pending<'a, Result<Download, ObjectError>> {
        Box::pin(async move {
            let download = self.tries.ask("get", || self.store.get(key, part.clone())).await?;
            let (bytes, version, note) = (download.bytes, download.version.clone(), download.note);
            let reading = Reading {
                store: Arc::clone(&self.store),
                tries: self.tries.clone(),
                key: key.clone(),
                at: part.from,
                to: part.to.unwrap_or(bytes).min(bytes),
                version: version.clone(),
                body: download.body,
                row: Row::default(),
            };
            let body = stream::try_unfold(reading, |mut reading| async move {
                Ok(reading.next().await?.map(|chunk| (chunk, reading)))
            });
            Ok(Download { bytes, version, note, body: body.boxed() })
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, from: Option<&'a str>) -> Pending<'a, Result<Page, ObjectError>> {
        Box::pin(self.tries.ask("list", move || self.store.list(prefix, from)))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<(), ObjectError>> {
        Box::pin(self.tries.ask("delete", move || self.store.delete(key)))
    }
}

struct PatientUpload {
    upload: Box<dyn Upload>,
    tries: Tries,
}

impl Upload for PatientUpload {
    fn part(&self, number: u32, bytes: Bytes) -> Pending<'_, Result<(), ObjectError>> {
        Box::pin(async move {
            self.tries.ask("part", || self.upload.part(number, bytes.clone())).await?;
            self.tries.metrics.carried("part", bytes.len());
            Ok(())
        })
    }

    fn finish(&self, parts: u32) -> Pending<'_, Result<(), ObjectError>> {
        Box::pin(self.tries.ask("finish", move || self.upload.finish(parts)))
    }

    fn abort(&self) -> Pending<'_, Result<(), ObjectError>> {
        Box::pin(self.tries.ask("abort", move || self.upload.abort()))
    }
}

/// A download that goes on.
struct Reading {
    store: Arc<dyn ObjectStore>,
    tries: Tries,
    key: ObjectKey,
    /// Where the next byte is.
    at: u64,
    /// Where the last one was.
    to: u64,
    version: Option<String>,
    body: stream::BoxStream<'static, Result<Bytes, ObjectError>>,
    row: Row,
}

/// Breaks since the download last came on well.
#[derive(Default)]
struct Row {
    breaks: u32,
    since: Option<Instant>,
    bytes: u64,
}

/// How much must come until earlier breaks are forgotten: a server that sends a few bytes per connection is not worked through in small bites.
const FORGIVEN_AFTER: u64 = 1 << 20;

impl Reading {
    /// The next bytes; nothing at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        while self.at < self.to {
            let stall = self.tries.patience.stall;
            let words = match timeout(stall, self.body.next()).await {
                Ok(Some(Ok(chunk))) => return self.came(chunk).map(Some),
                Ok(Some(Err(ObjectError::Transient(words)))) => words,
                Ok(Some(Err(e))) => return Err(e),
                Ok(None) => "the answer ended too early".to_owned(),
                Err(_) => format!("no byte came for {} s", stall.as_secs()),
            };
            self.again(words).await?;
        }
        Ok(None)
    }

    fn came(&mut self, chunk: Bytes) -> Result<Bytes, ObjectError> {
        let bytes = chunk.len() as u64;
        if bytes > self.to - self.at {
            return Err(ObjectError::Corrupt(format!("`{}`: more bytes came than it has", self.key)));
        }
        self.at += bytes;
        self.row.bytes += bytes;
        if self.row.bytes >= FORGIVEN_AFTER {
            self.row = Row::default();
        }
        self.tries.metrics.carried("get", chunk.len());
        Ok(chunk)
    }

    /// Begins again where it broke.
    async fn again(&mut self, words: String) -> Result<(), ObjectError> {
        self.row.breaks += 1;
        let since = *self.row.since.get_or_insert_with(Instant::now);
        let failed = |why: &str| ObjectError::Transient(format!("`{}` at byte {}: {words}{why}", self.key, self.at));
        // Without a version it could go on with another object's bytes.
        let Some(version) = self.version.clone() else { return Err(failed("")) };
        let wait = self.tries.patience.backoff.wait(self.row.breaks, jitter());
        if since.elapsed() + wait > self.tries.patience.budget {
            return Err(failed(&format!(" ({} times in a row)", self.row.breaks)));
        }
        debug!(key = %self.key, at = self.at, error = words, "a download broke: going on where it did");
        sleep(wait).await;
        let part = Part { from: self.at, to: Some(self.to), version: Some(version) };
        self.body = self.tries.ask("get", || self.store.get(&self.key, part.clone())).await?.body;
        Ok(())
    }
}
