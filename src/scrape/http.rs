//! HTTP targets in Prometheus text and OpenMetrics.
//!
//! A target is somebody else's program, so nothing that it answers is trusted: only status 200 counts, the Content-Type must be an exposition
//! (E-1), the body is read as it comes and cut off at the target's limit before and after decompression (E-3), lines and labels have limits of their own,
//! and a sample that claims to be from another time is left out. What went wrong lowers this source's own health and is said in words
//! that never carry a secret.
//!
//! A scrape goes: request (`client`) → body within its limits (`body`) → families ([`text`]) → what of them is taken, and under which labels
//! (`intake`) → the batch. Reading a page of 100,000 lines takes tens of milliseconds, so that part runs on a blocking thread.
//!
//! A collection that is dropped because its time is up closes its connection; at most the reading of one page, which its limits
//! bound, goes on after it.

mod address;
mod body;
mod client;
mod intake;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Incoming;
use prometheus::{IntCounterVec, Registry};
use tracing::{info, warn};

use crate::clock::Timestamp;
use crate::sample::globs::Globs;
use crate::sample::{Batch, Desc, Family, Kind};
use crate::secret::Secret;
use crate::task::Pending;
use crate::telemetry;

use super::text::{self, BadLine, Limits, ParseError, Syntax};
use super::{CollectError, Collector, Source};

pub use address::{check_url, is_own};
pub use client::Client;
use intake::Taken;

/// How a target wants to be asked.
#[derive(Clone, Debug)]
pub enum Auth {
    /// `Authorization: Bearer …`
    Bearer(Secret),
    /// `Authorization: Basic …`
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: Secret,
    },
}

/// One of `[[scrape.targets]]`.
#[derive(Clone)]
pub struct Target {
    /// The source's name, also the label `source` of every series.
    pub name: String,
    /// `http://…` or `https://…`; may carry secrets, so never printed as it is.
    pub url: String,
    /// The address as people may see it.
    pub shown: String,
    /// From one scrape to the next.
    pub interval: Duration,
    /// What a scrape may take.
    pub timeout: Duration,
    /// Which series (by full name) are taken; the others are as if the target had not sent them.
    pub metrics: Globs,
    /// Which of the taken series are written to the table.
    pub store: Globs,
    /// Credentials.
    pub auth: Option<Auth>,
    /// The most bytes of an answer after decompression.
    pub max_body_bytes: usize,
    /// The most samples of an answer.
    pub max_samples: usize,
}

impl fmt::Debug for Target {
    /// Without what may be secret in the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).field("url", &self.shown).finish_non_exhaustive()
    }
}

/// Our metrics about targets.
pub const METRICS: &[&Desc] = &[&BAD_LINES, &DUPLICATES, &OUT_OF_WINDOW];

const BAD_LINES: Desc = Desc {
    name: "atlas_sidecar_target_bad_lines_total",
    kind: Kind::Counter,
    unit: "lines",
    help: "Lines of a target's page that were not understood and skipped. If it grows, the target writes broken text: the log \
           names the first such line.",
};

const DUPLICATES: Desc = Desc {
    name: "atlas_sidecar_target_duplicate_series_total",
    kind: Kind::Counter,
    unit: "samples",
    help: "Samples left out because the target's page had their series already; the first one was taken. If it grows, the target \
           has a mistake.",
};

const OUT_OF_WINDOW: Desc = Desc {
    name: "atlas_sidecar_target_out_of_window_samples_total",
    kind: Kind::Counter,
    unit: "samples",
    help: "Samples left out because the target gave them a time more than 5 minutes from ours. If it grows, compare the clocks; a \
           target that repeats old samples is harmless.",
};

/// The counters of all targets.
#[derive(Debug)]
pub struct Metrics {
    bad_lines: IntCounterVec,
    duplicates: IntCounterVec,
    out_of_window: IntCounterVec,
}

impl Metrics {
    /// Registers them. Once per registry.
    pub fn new(registry: &Registry) -> Self {
        Self {
            bad_lines: telemetry::counters(registry, &BAD_LINES, &["source"]),
            duplicates: telemetry::counters(registry, &DUPLICATES, &["source"]),
            out_of_window: telemetry::counters(registry, &OUT_OF_WINDOW, &["source"]),
        }
    }

    fn count(counter: &IntCounterVec, source: &str, by: usize) {
        counter.with_label_values(&[source]).inc_by(u64::try_from(by).unwrap_or(u64::MAX));
    }
}

/// All `targets` as sources. Without any, no client is made: it would read this machine's certificates for nothing.
pub fn sources(targets: &[Target], own_listen: SocketAddr, metrics: &Arc<Metrics>) -> Vec<Source> {
    if targets.is_empty() {
        return Vec::new();
    }
    let client = Client::new();
    let source = |target: &Target| Source {
        name: target.name.clone(),
        interval: target.interval,
        timeout: target.timeout,
        store: target.store.clone(),
        remote: true,
        collector: Box::new(collector(target.clone(), own_listen, client.clone(), Arc::clone(metrics))),
    };
    targets.iter().map(source).collect()
}

/// What scrapes `target`.
///
/// `own_listen` is the address that our server is bound to: an answer that comes from there is refused, whatever name the
/// target's address uses (E-2). `client` is shared by all targets.
pub fn collector(target: Target, own_listen: SocketAddr, client: Client, metrics: Arc<Metrics>) -> impl Collector {
    // So that the counters are there, at zero, before anything goes wrong.
    for counter in [&metrics.bad_lines, &metrics.duplicates, &metrics.out_of_window] {
        Metrics::count(counter, &target.name, 0);
    }
    HttpTarget {
        request: client::request(&target),
        target: Arc::new(target),
        own_listen,
        client,
        metrics,
        first_bad: None,
    }
}

struct HttpTarget {
    target: Arc<Target>,
    /// Made once; an error here is a mistake in the configuration that [`check_url`] did not see.
    request: Result<Request<Empty<Bytes>>, String>,
    own_listen: SocketAddr,
    client: Client,
    metrics: Arc<Metrics>,
    /// The first bad line of the scrape before, so that it is logged once and not every minute.
    first_bad: Option<BadLine>,
}

impl Collector for HttpTarget {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            let (page, syntax) = self.fetch().await?;
            let (target, at) = (Arc::clone(&self.target), batch.at);
            let taken = tokio::task::spawn_blocking(move || read(&page, syntax, &target, at))
                .await
                .map_err(|e| CollectError::Internal(format!("reading the page: {e}")))??;
            self.note(&taken);
            if taken.families.is_empty() {
                return Err(CollectError::Malformed(taken.nothing()));
            }
            batch.families.extend(taken.families.into_iter().map(|family| self.helped(family)));
            Ok(())
        })
    }
}

impl HttpTarget {
    /// A family without a word of help gets one: promtool asks for it, and so does whoever meets the name a year later.
    fn helped(&self, mut family: Family) -> Family {
        if family.help.is_empty() {
            family.help = format!("From the target `{}`, which gives no help.", self.target.name).into();
        }
        family
    }

    /// The body, decoded and within its limits, and how it is written.
    async fn fetch(&self) -> Result<(Vec<u8>, Syntax), CollectError> {
        let request = self.request.clone().map_err(CollectError::Internal)?;
        let answer = self.client.ask(request).await.map_err(|e| self.named(e))?;
        if client::is_from(&answer, self.own_listen) {
            return Err(CollectError::Internal(format!("{}: this is our own listen address", self.target.shown)));
        }
        client::check_status(&answer).map_err(|why| self.named(CollectError::Unreachable(why)))?;
        let syntax = body::syntax(answer.headers()).map_err(CollectError::Malformed)?;
        let encoding = body::encoding(answer.headers()).map_err(CollectError::Malformed)?;
        let body: Incoming = answer.into_body();
        Ok((body::read(body, encoding, self.target.max_body_bytes).await?, syntax))
    }

    /// The same error with the address in front, without secrets.
    fn named(&self, error: CollectError) -> CollectError {
        match error {
            CollectError::Unreachable(why) => CollectError::Unreachable(format!("`{}`: {why}", self.target.shown)),
            other => other,
        }
    }

    /// Counts what was left out, and logs bad lines when they begin, change or end.
    fn note(&mut self, taken: &Taken) {
        let source = &self.target.name;
        Metrics::count(&self.metrics.bad_lines, source, taken.bad_lines);
        Metrics::count(&self.metrics.duplicates, source, taken.duplicates);
        Metrics::count(&self.metrics.out_of_window, source, taken.out_of_window);
        if self.first_bad != taken.first_bad {
            match taken.first_bad {
                Some(BadLine { line, reason }) => {
                    warn!(source, lines = taken.bad_lines, line, reason, "the target's page has bad lines");
                }
                None => info!(source, "the target's page has no bad lines any more"),
            }
            self.first_bad = taken.first_bad;
        }
    }
}

/// Reads a page and takes of it what the target's settings want.
fn read(page: &[u8], syntax: Syntax, target: &Target, at: Timestamp) -> Result<Taken, CollectError> {
    let page = text::parse(page, syntax, &Limits::of_samples(target.max_samples)).map_err(|e| match e {
        ParseError::TooLarge { .. } => CollectError::TooLarge(e.to_string()),
        _ => CollectError::Malformed(e.to_string()),
    })?;
    Ok(intake::take(page, &target.name, &target.metrics, at))
}
