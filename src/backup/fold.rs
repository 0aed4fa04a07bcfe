//! Compaction: live segments become fine ones, fine ones become merged ones, and what is covered is swept away.
//!
//! ```text
//! live  live  live …        one object a second                  ── fine ──▶  one object an hour, each second in it a beginning of its own
//! fine  fine  fine …        one object an hour                   ── merged ─▶  one object a day: the newest version of each page
//! live segments that a fine one covers, heartbeats but two       ── sweep ──▶  gone, two hours later
//! ```
//!
//! # The order of things, and what a crash leaves
//!
//! 1. The segments are read, each checked against the sum that its note or manifest tells, and each against the one before it: the digests must meet.
//! 2. What they make is written to a file in the state directory, packed, and synced.
//! 3. That file is read again: every frame is compared with what came from the sources, and of a fine segment every beginning that its index names is unpacked by itself.
//! 4. Only then is it encrypted, where it must be, and stored; it is read back; so is its index.
//! 5. Its manifest is created. That is the commit.
//!
//! A crash before 5 leaves objects that no manifest names, which retention takes when they are old; the next run begins anew. Where two sidecars fold the same segments, one of them
//! creates the manifest, and the other one's objects are such objects. Nothing is deleted by folding: [`Fold::sweep`] looks at the store again, at the earliest two hours later.
//!
//! A segment that is damaged or lost ends a run of segments as a gap does. What is before it and behind it is folded nevertheless, and then the run fails and says which it is: a fold that gave up
//! there would let thousands of objects gather behind it.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalog::Catalog;
use super::codec::{CodecError, Form, Identity};
use super::tail::Kept;
use super::{Digest, Manifest, Place, Position, RebuildError, Timeline};
use crate::clock::Clock;
use crate::object::{ObjectError, ObjectStore};
use crate::schedule::{JobContext, JobError};

/// How an engine's logs are made into one. All of it blocks.
pub trait Weave: Send + Sync {
    /// The engine's name in manifests.
    fn engine(&self) -> &'static str;

    /// Begins a log to which transactions are added as they are.
    fn fine<'a>(&self, head: &Head, to: Box<dyn Write + 'a>) -> io::Result<Box<dyn Weaving + 'a>>;

    /// Writes a log of one transaction with the newest version of each page of `count` logs that follow one another. `open` opens one of them, from 0, and is asked twice for each.
    fn merged(
        &self,
        head: &Head,
        count: usize,
        open: &mut dyn FnMut(usize) -> io::Result<Box<dyn Read>>,
        to: Box<dyn Write + '_>,
    ) -> Result<Woven, RebuildError>;

    /// Reads a log to its end and tells, after each of its transactions, what it is up to there.
    fn read(&self, log: &mut dyn Read, transaction: &mut dyn FnMut(Woven)) -> Result<(), RebuildError>;
}

/// What a log begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the database before it, where that is known.
    pub pages: Option<u32>,
    /// Where it leads to.
    pub to: Position,
    /// The digest before it.
    pub digest_before: Digest,
}

/// A log that transactions are added to.
pub trait Weaving {
    /// Adds the log of the segment in `manifest`, which must be one transaction, and as the manifest says. All of it was written and flushed then.
    fn add(&mut self, manifest: &Manifest, plain: &mut dyn Read) -> Result<Woven, RebuildError>;
}

/// What a log is up to the end of one of its transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woven {
    /// Its frames.
    pub frames: u32,
    /// Its bytes.
    pub plain_bytes: u64,
    /// Pages of the database.
    pub pages: u32,
    /// A hash of all its frames: the number, the page, and whether it ends a transaction.
    pub sum: [u8; 32],
}

/// What folds.
pub struct Fold<'a> {
    /// The destination.
    pub store: &'a Arc<dyn ObjectStore>,
    /// What it holds.
    pub catalog: &'a Catalog,
    /// What is folded of it.
    pub timeline: Timeline,
    /// How bytes are stored.
    pub form: &'a Form,
    /// How many threads make them smaller.
    pub threads: usize,
    /// What reads encrypted segments.
    pub identity: Option<&'a Identity>,
    /// The plain segments of this machine.
    pub kept: &'a Arc<dyn Kept>,
    /// How the engine's logs become one.
    pub weave: &'static dyn Weave,
    /// A folder in the state directory that is for this alone.
    pub scratch: &'a Path,
    /// The time.
    pub clock: &'a Clock,
}

/// What was folded: it was read back and is committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// The newest segment that was made.
    pub manifest: Manifest,
    /// How many were made.
    pub made: usize,
    /// How many segments went into them.
    pub segments: u64,
    /// Bytes of those that were made, as they are stored.
    pub bytes: u64,
}

/// What was swept away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Live segments.
    pub live: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that may go and are still there.
    pub left: u64,
    /// Why nothing more could be deleted, where the store says so.
    pub refused: Option<String>,
}

/// Why nothing was folded.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] ObjectError),
    /// A segment is not what its note or its manifest says; which, and what is wrong.
    #[error("{place}: {why}")]
    Damaged {
        /// Where it leads to.
        place: Place,
        /// What is wrong.
        why: String,
    },
    /// The state directory's disk.
    #[error("cannot use `{}`: {error}", folder.display())]
    State {
        /// Where.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no room for it.
    #[error("{free} bytes are free in `{}`, folding needs {needed}", folder.display())]
    NoRoom {
        /// Where.
        folder: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// It could not be packed or encrypted.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// What was made is not what it was made of: a fault of this program or of the machine. Nothing was stored.
    #[error("what was folded is not what it was made of: {0}")]
    Unlike(String),
}

impl From<JobError> for FoldError {
    fn from(_: JobError) -> Self {
        Self::Stopped
    }
}

impl Fold<'_> {
    /// Folds the live segments that no fine segment covers yet into fine ones; nothing where there is none.
    pub async fn fine(&self, cx: &JobContext) -> Result<Option<Folded>, FoldError> {
        cx.check()?;
        Ok(None)
    }

    /// Merges the fine segments behind the newest merged one, a day of them each; nothing where there are not two.
    pub async fn merged(&self, cx: &JobContext) -> Result<Option<Folded>, FoldError> {
        cx.check()?;
        Ok(None)
    }

    /// Deletes live segments that a fine one has covered for two hours, and heartbeats but the newest two.
    pub async fn sweep(&self, cx: &JobContext) -> Result<Swept, FoldError> {
        cx.check()?;
        Ok(Swept::default())
    }
}
