//! The port of what follows a database's commits as they come.
//!
//! ```text
//! begin ─▶ Going ──────────▶ cut ─▶ (spooled, durable) ─▶ keep ─▶ cut …         tend: every 100 ms or so, whatever else happens
//!   │        ▲                │
//!   │        │ adopt          └─ fix: a cut whose state is held, for a full to read: Source::read(Want::Full)
//!   └─▶ Gap ─┴─ Source::read(Want::Changes): the difference to the state that begin was asked for, of the state that is held since
//! ```
//!
//! A cut that is not kept did not happen: the next one has its pages, too. Only one follows a database, and nobody else asks the same [`super::Source`] for
//! changes while it does.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::manifest::Manifest;
use super::{Base, Place, Segment, SourceError};
use crate::task::Pending;

/// Follows a database's commits.
pub trait Tail: Send + Sync {
    /// Takes hold of the database and finds out whether its commits can be followed from `tip` on: the state of the newest segment that is in the store or
    /// among the `kept` ones. Whatever was held before is let go.
    fn begin<'a>(&'a self, tip: &'a Base, kept: Arc<dyn Kept>) -> Pending<'a, Result<Begun, SourceError>>;

    /// Sends what was committed since the last segment that was kept, as a write-ahead log with one transaction that leads to `place`; nothing, and sends nothing, where there is
    /// nothing.
    fn cut(&self, place: Place, into: mpsc::Sender<Bytes>) -> Pending<'_, Result<Option<Cut>, SourceError>>;

    /// The segment that was cut for `place` is durable: the next one begins there.
    fn keep(&self, place: Place) -> Pending<'_, Result<(), SourceError>>;

    /// Cuts, and holds the state that the cut leads to until it was read: the next [`super::Source::read`] of a full is of it. Where nothing was committed it sends page 1
    /// again, so that the full has a place of its own.
    fn fix(&self, place: Place, into: mpsc::Sender<Bytes>) -> Pending<'_, Result<Cut, SourceError>>;

    /// Makes durable what is known about the pages at the segment that was kept last: segments up to it need not be kept for [`Tail::begin`] any more.
    fn settle(&self) -> Pending<'_, Result<(), SourceError>>;

    /// Sees to it that the database's own log can begin anew, as soon as what it holds was cut or is in memory. Short, and to be called often: an application that waits
    /// for us is noticed here.
    fn tend(&self) -> Pending<'_, Result<Tended, SourceError>>;

    /// Lets the database go. What is committed from now on is found by the next [`Tail::begin`].
    fn release(&self) -> Pending<'_, ()>;
}

/// Segments that were cut and are kept on this machine.
pub trait Kept: Send + Sync {
    /// Those behind `place` on its timeline, one after another without one missing: their manifests, and the words that [`Cut::resume`] had.
    fn behind(&self, place: Place) -> io::Result<Vec<(Manifest, String)>>;

    /// The plain bytes of one of them.
    fn plain(&self, place: Place) -> io::Result<Box<dyn Read + Send>>;
}

/// Whether commits can be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// From the state that was asked for on.
    Going,
    /// Something may have been committed since that state which cannot be told commit by commit any more. The database is held at its present state: the difference
    /// ([`super::Want::Changes`]) leads there, and once it is adopted, commits are followed. Why, for people.
    Gap(String),
    /// That state is not known page by page: the next segment must be a full. Nothing is held. Why, for people.
    Unknown(String),
    /// The database is another one, or an older one, than the state belongs to: a new timeline. Nothing is held. Why, for people.
    Another(String),
}

/// What was cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// What it is: `digest_before` is that of the segment before it.
    pub segment: Segment,
    /// Where in the database's own log it ends, in the engine's words, on one line: handed back by [`Kept::behind`] after a restart.
    pub resume: String,
}

/// How the database's own log is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tended {
    /// How long it is: bytes that its commits take.
    pub log_bytes: u64,
    /// For how long it has been longer than it should be and could not begin anew.
    pub pinned: Duration,
    /// For how long writers were kept waiting by this call.
    pub write_lock_held: Duration,
    /// Why the database was let go, where going on would have filled the disk or kept the application from its work: commits are lost to the tail until it begins again.
    pub released: Option<String>,
}
