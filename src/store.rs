//! The port to stored samples. No SQL here; the engines implement it.
//!
//! How a row of `system_metrics` is written and how anybody's row is read:
//!
//! | column | we write | we read |
//! |---|---|---|
//! | `id` | UUIDv7 text; its last 48 bits are this instance's number, registered in `sidecar_state` | a row is ours if those bits are a registered number; any other id, NULL included, is foreign |
//! | `metric_name` | the series' name as its source gave it, at most 255 characters, or as many as the column has | any text; shown under the escaping rules |
//! | `metric_value` | a finite number; NaN and ±Inf are rejected and counted, and so is what the engine's column cannot hold | as a double; text, blobs, NULL, NaN and infinite numbers are counted as bad |
//! | `tags` | canonical JSON: keys sorted, strings only, with the label `host` | any JSON; NULL is `{}`, the last of equal keys wins |
//! | `recorded_at` | UTC, `YYYY-MM-DD HH:MM:SS.sss` | SQLite: space or `T`, `Z`, offsets, fractions, integers (seconds, or milliseconds above 1e11); PostgreSQL: its own type, with or without time zone. Unreadable, missing and infinite ones are counted, never guessed |
//!
//! What comes back of a value that was written (V-1, V-5, V-6):
//!
//! | column of `metric_value` | comes back | is rejected as `overflow` |
//! |---|---|---|
//! | SQLite, any declared type | the same double to the bit, but -0.0 as 0.0 | nothing |
//! | PostgreSQL `NUMERIC`, which is what `migrate` makes | the same double to the bit, but -0.0 as 0.0 | nothing |
//! | PostgreSQL `DECIMAL(15,4)`, the specification's | rounded to four places: 0.00004 is 0, 0.00005 is 0.0001 | ±99,999,999,999.99995 and beyond |
//! | PostgreSQL `NUMERIC(p,s)` | rounded to `s` places, half away from zero | what then has more than `p - s` digits before the point |
//! | PostgreSQL `DOUBLE PRECISION` | the same double to the bit, but -0.0 as 0.0 | nothing |
//! | PostgreSQL `REAL` | the nearest single | what is infinite as a single, or zero without being it |
//! | PostgreSQL `SMALLINT`, `INTEGER`, `BIGINT` | rounded to a whole number, half away from zero | what lies outside |
//!
//! Texts are stored whole on both, with one exception: PostgreSQL holds no NUL in a text, and none, not even escaped, in JSONB. A row with one is
//! rejected as `encoding`, and so is one with a character that the encoding of a PostgreSQL database other than UTF8 does not have.

use std::fmt;

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
