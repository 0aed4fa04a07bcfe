//! Backups: what is written in which order, what a crash leaves behind, and why that is safe.
//!
//! ```text
//!   Source (port) ──plain──▶ codec ──stored──▶ ObjectStore (port) ──▶ manifest, by create: the commit
//!                                                    │
//!                        catalog ◀───────────────────┘
//!                           │
//!                 ┌─────────┼──────────┬───────────┐
//!                 ▼         ▼          ▼           ▼
//!              verify    retain      plan ──▶ restore ──▶ Rebuild (port)
//! ```
//!
//! # Words
//!
//! A *position* numbers the states of the database that are in the store, one after another; no number is used twice, also not on another timeline. A
//! *segment* leads to a position: a *full* is the whole database at one commit; an *incremental* is the newest version of every page that changed since the
//! position before. A *timeline* is a line of positions that one installation wrote; it begins where another one was left. A *mark* is a position with
//! the time at which its state was seen.
//!
//! # The order of writing
//!
//! 1. The segment's bytes are cut; those of an incremental into a spool file in the state directory, so that a second try stores identical bytes.
//! 2. They are stored under a key that nothing else has.
//! 3. They are read back: length and SHA-256.
//! 4. The manifest is created under the position's key. This is the commit: an object that no manifest names does not exist.
//! 5. Only then does the source take the new state for the one that the next increment begins at ([`Source::adopt`]).
//!
//! A crash before 4 leaves an object that nobody names: retention removes it when it is old enough. A crash after 4 leaves a source that is behind the store:
//! it finds the new state, which it had put aside in 1, when it is next asked to adopt the store's newest position; where it cannot, the next
//! segment is a full. Nothing in the state directory is needed for a restore, and losing it costs time only.
//!
//! # Two writers
//!
//! Who writes has claimed a timeline by creating `timelines/tNNNNNN.json`. A second sidecar, a copied machine or a database that was put back claims the
//! next number and says from where it goes on; before each segment the owner of a timeline looks whether somebody has, and stops. Nothing is ever
//! written to another one's timeline, and a manifest that is created twice fails the second time.

pub mod by_hand;
pub mod catalog;
pub mod claim;
pub mod codec;
pub mod digest;
pub mod fold;
pub mod follow;
pub mod index;
pub mod layout;
pub mod manifest;
pub mod plan;
pub mod prune;
pub mod restore;
pub mod retain;
pub mod ship;
pub mod tail;
pub mod verify;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use catalog::Catalog;
pub use digest::Digest;
pub use manifest::Manifest;
pub use tail::Tail;

use crate::clock::Timestamp;
use crate::object::{self, Destination};
use crate::task::Pending;

/// `[backup]`
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where backups go; nowhere, and none are made, where there is none.
    pub destination: Option<Destination>,
    /// How to talk to a bucket.
    pub s3: object::s3::Settings,
    /// How bytes are stored.
    pub form: codec::Form,
    /// What is kept for how long.
    pub policy: retain::Policy,
    /// What reads encrypted backups; only where somebody restores.
    pub identity_file: Option<PathBuf>,
    /// How commits of a SQLite database are shipped as they come.
    pub sqlite: follow::Settings,
}

impl Settings {
    /// `destination`, with what else a store needs to know.
    pub fn object(&self, destination: Destination) -> object::Settings {
        object::Settings { destination, s3: self.s3.clone() }
    }
}

/// What kind of segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The whole database.
    Full,
    /// What changed since the position before.
    Incremental,
    /// The same, cut from the database's own log as it was written. It has no manifest of its own: its object carries one as a note, and creating it is the
    /// commit.
    Live,
    /// The live segments of about an hour in one log, a transaction for each: what it begins with, up to any of these, is a log of its own.
    Fine,
    /// The newest version of all pages that live segments of about a day changed, in one transaction.
    Merged,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Live => "live",
            Self::Fine => "fine",
            Self::Merged => "merged",
        })
    }
}

/// The number of a state in the store, from 1. Ten digits sort as text does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// From its ten digits.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten().filter(|number| *number > 0).map(Self)
    }

    /// The one behind it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}", self.0)
    }
}

/// The number of a timeline, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl Timeline {
    /// From `t` and six digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('t')?;
        let plain = digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten().filter(|number| *number > 0).map(Self)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{:06}", self.0)
    }
}

/// A position on a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The timeline.
    pub timeline: Timeline,
    /// The position.
    pub position: Position,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.timeline, self.position)
    }
}

/// A state that is in the store: where, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Where.
    pub place: Place,
    /// The digest of the database there.
    pub digest: Digest,
}

/// A database that can be backed up.
pub trait Source: Send + Sync {
    /// The engine's name in manifests: `sqlite`.
    fn engine(&self) -> &'static str;

    /// The database's own name, which restored files get: `atlas.db`.
    fn database(&self) -> String;

    /// A quick look, without reading it all.
    fn look(&self) -> Pending<'_, Result<Look, SourceError>>;

    /// Makes `tip`, the store's newest state, the one that the next increment begins at.
    fn adopt<'a>(&'a self, tip: &'a Base) -> Pending<'a, Result<Adopted, SourceError>>;

    /// Reads the database at one commit and sends plain bytes in pieces of about a MiB; of an increment without a change, none. What it learns about
    /// the pages is put aside under `place`, for [`Source::adopt`]. When the receiver is gone it ends with [`SourceError::Abandoned`].
    fn read(&self, want: Want, place: Place, into: mpsc::Sender<Bytes>) -> Pending<'_, Result<Segment, SourceError>>;

    /// What follows its commits; nothing where they cannot be followed.
    fn tail(&self) -> Option<&dyn Tail> {
        None
    }
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The whole database, and whether it is sound.
    Full,
    /// What changed since the adopted state.
    Changes,
}

/// Whether a source can go on from a state of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It knows that state page by page.
    Known,
    /// It does not: the next segment must be a full. Why, for people.
    Unknown(String),
    /// The database is another one, or an older one, than the state belongs to: a new timeline. Why, for people.
    Another(String),
}

/// What a quick look tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Which file it is: changes when the file is replaced.
    pub identity: String,
    /// How long it is.
    pub bytes: u64,
    /// Whether there is no table in it.
    pub empty: bool,
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// When its state was the newest.
    pub observed: Timestamp,
    /// Of the adopted state; nothing for a full.
    pub digest_before: Option<Digest>,
    /// Of the state read.
    pub digest_after: Digest,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the database.
    pub pages: u32,
    /// Pages that were sent.
    pub sent_pages: u32,
    /// The version of the engine that read.
    pub engine_version: String,
    /// Rows per table, for a full that was checked.
    pub tables: BTreeMap<String, u64>,
    /// Whether the database is sound, for a full.
    pub soundness: Option<Soundness>,
    /// How long reading took, and checking.
    pub took: Took,
}

/// How long the steps of a reading took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// Reading and sending.
    pub read: Duration,
    /// Checking.
    pub check: Duration,
}

/// Whether a database is sound, as far as its own engine can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Soundness {
    /// All checks passed.
    Sound,
    /// It was not checked to the end; why.
    Unchecked(String),
    /// It is damaged; the first words about it.
    Damaged(String),
}

/// Why a database could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It may work later.
    #[error("{0}")]
    Busy(String),
    /// This database cannot be backed up: in words that say what to do.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// It is not what it should be.
    #[error("{0}")]
    Broken(String),
    /// Nobody takes the bytes any more.
    #[error("nobody takes the bytes any more")]
    Abandoned,
}

/// How databases of an engine are made of segments. No database is needed, and nothing that ran before.
pub trait Rebuild: Send + Sync {
    /// The engine's name in manifests.
    fn engine(&self) -> &'static str;

    /// Begins a database in the file `into`, which does not exist yet. All of this blocks: it wants a thread of its own.
    fn begin(&self, into: &Path) -> io::Result<Box<dyn Building>>;
}

/// A database that is being rebuilt. After each segment it has the digest that the segment's manifest tells, or there is an error.
pub trait Building: Send {
    /// Takes the plain bytes of a full, which must be the first.
    fn full(&mut self, manifest: &Manifest, plain: &mut dyn Read) -> Result<(), RebuildError>;

    /// Takes the plain bytes of an increment that follows what there is.
    fn changes(&mut self, manifest: &Manifest, plain: &mut dyn Read) -> Result<(), RebuildError>;

    /// Makes it durable.
    fn finish(self: Box<Self>) -> Result<(), RebuildError>;
}

/// Why a database could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The target's disk, or the segment's bytes, could not be had.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are not what the manifest says; what is wrong.
    #[error("{0}")]
    Damaged(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_and_nothing_else_does() {
        assert_eq!(Position::parse(&Position(12).to_string()), Some(Position(12)));
        assert_eq!(Timeline::parse(&Timeline(12).to_string()), Some(Timeline(12)));
        for bad in ["", "12", "0000000000", "+000000001", "00000000012"] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
        for bad in ["", "t12", "000012", "t000000", "t+00012"] {
            assert_eq!(Timeline::parse(bad), None, "{bad}");
        }
    }
}
