//! Where samples come from. The port [`Collector`], what surrounds one ([`Source`]), and the task that runs it.

pub mod host;
pub mod http;
pub mod text;

use std::fmt;
use std::time::Duration;

use crate::sample::Batch;
use crate::sample::globs::Globs;
use crate::task::Pending;

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
    /// The word for the label `reason` of `atlas_sidecar_source_failures_total`.
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

/// The `[scrape]` section.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The interval of every source that names none.
    pub interval: Duration,
    /// The timeout of every source that names none.
    pub timeout: Duration,
    /// How many collections may run at once.
    pub concurrency: usize,
    /// `[scrape.host]`
    pub host: host::Settings,
    /// `[[scrape.targets]]`
    pub targets: Vec<http::Target>,
}
