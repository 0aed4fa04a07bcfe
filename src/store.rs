//! The port to stored samples. No SQL here; the engines implement it.
//!
//! How a row of `system_metrics` is written and how anybody's row is read:
//!
//! | column | we write | we read |
//! |---|---|---|
//! | `id` | UUIDv7 text; its last 48 bits are this instance's number, registered in `sidecar_state` | a row is ours if those bits are a registered number; any other id, NULL included, is foreign |
//! | `metric_name` | the series' name as its source gave it, at most 255 characters | any text; shown under the escaping rules |
//! | `metric_value` | a finite number; NaN and ±Inf are rejected and counted, and so is what the engine's column cannot hold | `CAST(… AS REAL)`; text, blobs and NULL are counted as bad |
//! | `tags` | canonical JSON: keys sorted, strings only, with the label `host` | any JSON; NULL is `{}`, the last of equal keys wins |
//! | `recorded_at` | UTC, `YYYY-MM-DD HH:MM:SS.sss` | space or `T`, `Z`, offsets, fractions, integers (seconds, or milliseconds above 1e11); unreadable ones are counted, never guessed |

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::sample::globs::Globs;
use crate::sample::{Kind, Labels};
use crate::task::Pending;

/// A row to be stored. Its id is assigned before the first try, so that a retry cannot store it twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// UUIDv7 text of 36 characters.
    pub id: String,
    /// The series' full name.
    pub name: String,
    /// Canonical JSON.
    pub tags: String,
    /// Finite.
    pub value: f64,
    /// When it was measured.
    pub at: Timestamp,
}

/// What the store keeps about a metric's name beside its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The family's name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its help.
    pub help: String,
}

/// A row of history, read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The series' full name.
    pub name: String,
    /// Its labels, from the tags.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
    /// When it was measured.
    pub at: Timestamp,
}

/// How an append ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The rows were written now.
    Now,
    /// An earlier try, whose answer was lost, had written them.
    Earlier,
}

/// What went wrong, named by what the caller may do next.
#[derive(Debug)]
pub enum StoreError {
    /// Somebody else holds the lock, or the connection broke: the same rows may be tried again.
    Busy(String),
    /// Some ids are taken by other rows: assign new ones and try again.
    Taken,
    /// A row cannot be stored as it is (its index and a reason for the counter): leave it out.
    Rejected {
        /// Which of the rows.
        row: usize,
        /// A short word for `atlas_sidecar_samples_dropped_total{reason}`.
        reason: &'static str,
    },
    /// The disk is full: wait longer, then try again.
    Full(String),
    /// Trying again will not help.
    Broken(String),
    /// Whoever takes the rows of a history stopped it, for this reason.
    Stopped(std::io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(why) => write!(f, "database busy: {why}"),
            Self::Taken => f.write_str("ids are taken by other rows"),
            Self::Rejected { row, reason } => write!(f, "row {row} rejected: {reason}"),
            Self::Full(why) => write!(f, "no space left: {why}"),
            Self::Broken(why) => write!(f, "database error: {why}"),
            Self::Stopped(why) => write!(f, "the rows are not taken: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Where history goes and comes from.
pub trait SampleStore: Send + Sync {
    /// Writes all `rows` in one transaction, or none.
    fn append<'a>(&'a self, rows: &'a [Row]) -> Pending<'a, Result<Appended, StoreError>>;

    /// Remembers kinds and helps; what is known is replaced.
    fn describe<'a>(&'a self, metas: &'a [Meta]) -> Pending<'a, Result<(), StoreError>>;

    /// How many rows this instance has stored since `from` (its row budget after a restart).
    fn own_rows_since(&self, from: Timestamp) -> Pending<'_, Result<u64, StoreError>>;

    /// All metas, by name.
    fn metas(&self) -> Pending<'_, Result<Vec<Meta>, StoreError>>;

    /// Hands every row with `from <= at < to` and a name that passes `names` to `each`: whole series one after another, ordered by
    /// name, labels, time. Stops at the first error of `each`. Memory is bounded by one series' labels, not by the history.
    fn history<'a>(
        &'a self,
        from: Timestamp,
        to: Timestamp,
        names: &'a Globs,
        each: &'a mut (dyn FnMut(Stored) -> std::io::Result<()> + Send),
    ) -> Pending<'a, Result<History, StoreError>>;
}

/// What [`SampleStore::history`] went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Rows handed over.
    pub rows: u64,
    /// Rows of the span that could not be read (values or tags), left out.
    pub bad_rows: u64,
    /// Rows whose time could not be read, anywhere in the table.
    pub bad_times: u64,
}

/// How wide roll-up buckets are. A bucket begins at a multiple of its width since 1970, in UTC (T-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Five minutes.
    FiveMinutes,
    /// One hour: made from twelve of the others.
    Hour,
}

impl Step {
    /// The width in milliseconds.
    pub const fn millis(self) -> i64 {
        match self {
            Self::FiveMinutes => 300_000,
            Self::Hour => 3_600_000,
        }
    }

    /// The width in seconds, which is how tables and labels name it.
    pub const fn seconds(self) -> i64 {
        self.millis() / 1000
    }

    /// The start of the bucket that `at` is in.
    pub const fn floor(self, at: Timestamp) -> Timestamp {
        Timestamp::from_millis(at.millis() - at.millis().rem_euclid(self.millis()))
    }
}

/// How far rolling up has come. Nothing here decides whether a row is counted; it says what has been looked at, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// All rows before it have been rolled up at least once. Never moves back.
    pub watermark: Option<Timestamp>,
    /// The time of the last run: what a clock that jumped is found out by (T-5).
    pub last_now: Option<Timestamp>,
    /// The newest row that is not in the future: the other witness against a clock.
    pub newest: Option<Timestamp>,
}

/// What one step of a [`Chore`] did: one short transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Rows rolled up, or deleted.
    pub rows: u64,
    /// Of these, rows that came after their bucket had been sealed and were merged into it.
    pub late_rows: u64,
    /// Rows met whose value, name or tags cannot be read: in no bucket, and not deleted.
    pub bad_rows: u64,
    /// Buckets written.
    pub buckets: u64,
    /// How long others could not write (SQLite), or the transaction was open (PostgreSQL).
    pub held: Duration,
}

/// Rows that are past their age and stay, because deleting them would lose what no bucket holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Their time cannot be read (T-2, T-4).
    pub times: u64,
    /// Their value is no finite number (V-3, V-4, V-7).
    pub values: u64,
    /// Their name is no text, or their tags are no JSON object.
    pub labels: u64,
}

/// Work that is done in short transactions. Whoever stops calling leaves a whole database behind, and a later chore goes on there.
pub trait Chore: Send {
    /// Does a piece; `None` where nothing is left. After an error the same piece may be tried again.
    fn next(&mut self) -> Pending<'_, Result<Option<Done>, StoreError>>;
}

/// Buckets of what is in `system_metrics`, and the only way in which its rows are deleted by age.
///
/// A row is in exactly one place: in the table, or (deleted) in its *sealed* buckets. Buckets that are not sealed only mirror rows that are
/// still there.
pub trait RollUps: Send + Sync {
    /// How far it has come; rows after `now` are no witness of what time it is.
    fn progress(&self, now: Timestamp) -> Pending<'_, Result<Progress, StoreError>>;

    /// Remembers that it was `now`; not called with a time that is not trusted.
    fn note_time(&self, now: Timestamp) -> Pending<'_, Result<(), StoreError>>;

    /// Mirrors in buckets what has come into the table, up to the last bucket that ended before `now`. When it is through, the watermark is there.
    /// Rows before `since` are left to [`prune`](Self::prune): their buckets may have gone already.
    fn roll_up(&self, since: Timestamp, now: Timestamp) -> Box<dyn Chore + '_>;

    /// Moves rows before `before` into sealed buckets, whole ones, and never beyond the watermark.
    fn prune(&self, before: Timestamp) -> Box<dyn Chore + '_>;

    /// Deletes buckets of `step` that began before `before`, whole hours of them.
    fn expire(&self, step: Step, before: Timestamp) -> Box<dyn Chore + '_>;

    /// How many rows before `before` would be deleted by [`prune`](Self::prune), for a dry run.
    fn due(&self, before: Timestamp) -> Pending<'_, Result<u64, StoreError>>;

    /// What [`prune`](Self::prune) leaves behind before `before`.
    fn kept(&self, before: Timestamp) -> Pending<'_, Result<Kept, StoreError>>;
}
