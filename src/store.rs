//! The ports to what the database keeps: samples, runs of jobs, and what is taken out when it is old. No SQL here; the engines implement them.
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
pub enum Width {
    /// Five minutes.
    FiveMinutes,
    /// One hour: made from twelve of the others.
    Hour,
}

impl Width {
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

/// How far rolling up has come. Nothing here decides whether a row is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// All rows before it have been rolled up at least once. Never moves back.
    pub watermark: Option<Timestamp>,
    /// The newest row that is not in the future: a witness against a clock that jumped (T-5).
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
    /// How far it has come; rows after `now` are no witness of what time it is. `None` where the tables do not exist.
    fn progress(&self, now: Timestamp) -> Pending<'_, Result<Option<Progress>, StoreError>>;

    /// Mirrors in buckets what has come into the table, up to the last bucket that ended before `now`. When it is through, the watermark is there.
    /// Rows before `since` are left to [`prune`](Self::prune): their buckets may have gone already.
    fn roll_up(&self, since: Timestamp, now: Timestamp) -> Box<dyn Chore + '_>;

    /// Moves rows before `before` into sealed buckets, whole ones, and never beyond the watermark.
    fn prune(&self, before: Timestamp) -> Box<dyn Chore + '_>;

    /// Deletes buckets of `width` that began before `before`, whole hours of them.
    fn expire(&self, width: Width, before: Timestamp) -> Box<dyn Chore + '_>;

    /// How many rows before `before` would be deleted by [`prune`](Self::prune), for a dry run.
    fn due(&self, before: Timestamp) -> Pending<'_, Result<u64, StoreError>>;

    /// What [`prune`](Self::prune) leaves behind before `before`.
    fn kept(&self, before: Timestamp) -> Pending<'_, Result<Kept, StoreError>>;
}

/// Why a run of a job began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its schedule said so.
    Schedule,
    /// Its schedule had said so a while before, and nobody was there.
    CatchUp,
    /// Somebody asked for it.
    Manual,
    /// Somebody asked what it would do.
    DryRun,
}

/// How a run of a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It did what it is there for.
    Success,
    /// There was nothing for it to do here, for a reason that it names.
    Skipped,
    /// It failed; its next slot is the retry.
    Failed,
    /// It took longer than its timeout.
    TimedOut,
    /// It was stopped, by the sidecar's end mostly: whoever is there next takes its slot up again.
    Cancelled,
    /// Whoever ran it was gone, and nobody took it up.
    Lost,
    /// Nobody was there at its slot, and it is not caught up.
    Missed,
}

/// The words by which the run log, the metrics and the commands name a value of `$name`.
macro_rules! words {
    ($name:ident { $($value:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$value),+];

            /// Its word.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$value => $word),+
                }
            }

            /// What `word` names.
            pub fn of_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.word() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }
    };
}

words!(Reason { Schedule = "schedule", CatchUp = "catch-up", Manual = "manual", DryRun = "dry-run" });
words!(Ended {
    Success = "success",
    Skipped = "skipped",
    Failed = "failed",
    TimedOut = "timeout",
    Cancelled = "cancelled",
    Lost = "lost",
    Missed = "missed",
});

/// One run, as its owner names it. The attempt is part of it: who was taken for dead and is not finds that the run is somebody else's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId {
    /// The row.
    pub row: i64,
    /// How often it was begun, this time included.
    pub attempt: i64,
}

/// A run that nobody has finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Which one.
    pub id: RunId,
    /// What it is for.
    pub slot: Timestamp,
    /// Who began it.
    pub owner: String,
    /// Until when its owner answers for it; moved on while it runs.
    pub lease_until: Timestamp,
}

/// A run to begin.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Whose.
    pub job: &'a str,
    /// For when. With the job it is unique: a slot is run once.
    pub slot: Timestamp,
    /// Why.
    pub reason: Reason,
    /// By whom.
    pub owner: &'a str,
    /// Now.
    pub now: Timestamp,
    /// How long the owner answers for it without saying more.
    pub lease_until: Timestamp,
    /// An open run whose owner the caller takes for dead; it is taken over if it is still as the caller saw it.
    pub dead: Option<&'a Open>,
}

/// What became of a [`Claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is the caller's.
    Yours(RunId),
    /// The slot has been run already.
    Settled,
    /// The job runs somewhere.
    Held(Open),
}

/// How often a slot is begun before it is given up: a job that takes its process along must not do so for ever.
pub const MOST_ATTEMPTS: i64 = 3;

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at: Timestamp,
    /// How.
    pub ended: Ended,
    /// Rows it dealt with.
    pub rows: u64,
    /// Bytes it dealt with.
    pub bytes: u64,
    /// What it did, or what went wrong: a line.
    pub words: String,
    /// How long it took.
    pub took: std::time::Duration,
}

/// A finished run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What it was for.
    pub slot: Timestamp,
    /// Why.
    pub reason: Reason,
    /// When it began.
    pub started: Timestamp,
    /// How it ended.
    pub end: End,
}

/// What the log knows of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Since when the job has the schedule that was asked for; slots before are not its own.
    pub since: Option<Timestamp>,
    /// The last slot until now that nobody has to run any more.
    pub settled: Option<Timestamp>,
    /// The run that is going on, or was when its owner died.
    pub open: Option<Open>,
    /// The last finished run that was no dry run.
    pub last: Option<Run>,
    /// When the last success was over; dry runs do not count.
    pub last_success: Option<Timestamp>,
    /// Since when somebody has wanted it not to run.
    pub paused: Option<Timestamp>,
    /// What time it is by the clock of the database's server; nothing where the database has none.
    pub server_time: Option<Timestamp>,
}

/// Who runs which job when, in the database, so that neither a restart nor a second sidecar runs a slot twice.
///
/// A job has one open run at most, over all processes. A *slot* is an instant at which the schedule wants a run; it is settled by a run that
/// ended in any way but `cancelled`, by [`MOST_ATTEMPTS`] begun ones, or by a miss that was noted.
pub trait RunLog: Send + Sync {
    /// What is known of `job` under `schedule`; `now` bounds what counts as settled (a clock that was wrong may have left slots of years to come).
    fn standing<'a>(
        &'a self,
        job: &'a str,
        schedule: &'a str,
        now: Timestamp,
    ) -> Pending<'a, Result<Standing, StoreError>>;

    /// Remembers that `job` has `schedule` since `since`.
    fn adopt<'a>(&'a self, job: &'a str, schedule: &'a str, since: Timestamp) -> Pending<'a, Result<(), StoreError>>;

    /// Begins a run, or tells why not.
    fn claim<'a>(&'a self, claim: Claim<'a>) -> Pending<'a, Result<Claimed, StoreError>>;

    /// Moves the lease on; `false` if the run is not the caller's any more.
    fn renew(&self, id: RunId, until: Timestamp) -> Pending<'_, Result<bool, StoreError>>;

    /// Ends a run; `false` if it was not the caller's any more.
    fn finish<'a>(&'a self, id: RunId, end: &'a End) -> Pending<'a, Result<bool, StoreError>>;

    /// Notes that `slot` and those before it are not run, with `words` about them; `false` if somebody else has seen to it.
    fn miss<'a>(
        &'a self,
        job: &'a str,
        slot: Timestamp,
        words: &'a str,
        now: Timestamp,
    ) -> Pending<'a, Result<bool, StoreError>>;

    /// The last time that nobody had a reason to doubt.
    fn believed(&self) -> Pending<'_, Result<Option<Timestamp>, StoreError>>;

    /// Remembers `now` as such.
    fn believe(&self, now: Timestamp) -> Pending<'_, Result<(), StoreError>>;

    /// Keeps `job` from running, or lets it.
    fn pause<'a>(&'a self, job: &'a str, since: Option<Timestamp>) -> Pending<'a, Result<(), StoreError>>;

    /// Forgets runs of `job` that began before `before`, and all but the last `keep`; a few hundred at a time, and never its last run and its
    /// last success. Tells whether there are more.
    fn tidy<'a>(&'a self, job: &'a str, before: Timestamp, keep: u32) -> Pending<'a, Result<bool, StoreError>>;
}

/// A column with a time, and how long a row is kept after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aged {
    /// The column.
    pub column: String,
    /// How long after it.
    pub keep: std::time::Duration,
}

/// Which rows of a table go: those for which any of `ages` is over.
///
/// A time that cannot be read makes no row old (T-2), and neither does a missing one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The table.
    pub table: String,
    /// Its times.
    pub ages: Vec<Aged>,
    /// A condition in the engine's SQL; rows for which it is not true stay.
    pub only: Option<String>,
}

/// How far [`Expiry::expire`] has come; the engine's own number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub i64);

/// One step of an expiry.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Where it begins: the default at first, then what the step before gave.
    pub from: Cursor,
    /// How many rows it looks at, at most.
    pub limit: u32,
    /// What it may take; the engine ends it then.
    pub within: std::time::Duration,
    /// Whether rows are only counted.
    pub dry_run: bool,
}

/// What a step of an expiry did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Rows that went, or would go.
    pub rows: u64,
    /// Rows that no age reaches, because none of their times can be read.
    pub unread: u64,
    /// Where the next step begins; nothing at the table's end.
    pub next: Option<Cursor>,
    /// How long writers were kept out.
    pub held: std::time::Duration,
}

/// Takes old rows out of any table, in steps that are short transactions of their own.
pub trait Expiry: Send + Sync {
    /// Looks at some rows of `rule`'s table and takes out those that are over at `now`. Nothing where the table or the column of an
    /// age does not exist.
    fn expire<'a>(
        &'a self,
        rule: &'a Rule,
        now: Timestamp,
        step: Step,
    ) -> Pending<'a, Result<Option<Expired>, StoreError>>;
}

/// What others do in a database, as far as it shows from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Transactions in a second: on SQLite those of others that wrote (20 are the most that are told apart), on PostgreSQL all of the database, the
    /// sidecar's few included.
    pub transactions: f64,
    /// What the host waits for, as the average number of tasks of the last minute in percent of its processors; only where its processors are the
    /// database's.
    pub host_percent: Option<f64>,
}

/// What makes work for [`Upkeep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wear {
    /// How much of a file or an index may lie unused, in percent.
    pub unused_percent: u64,
}

/// Something that upkeep would do.
pub struct Task<'a> {
    /// Which kind of step: a word of the engine, the label of a counter.
    pub step: &'static str,
    /// To what, and why, for people: it follows the step's word.
    pub about: String,
    /// The work; or what keeps it from being done.
    pub work: Result<Box<dyn Tending + 'a>, String>,
}

/// What a piece of upkeep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tended {
    /// Rows written.
    pub rows: u64,
    /// Bytes that the file system, or others' rows, have again.
    pub freed: u64,
    /// How long writers were kept out.
    pub held: Duration,
}

/// A task under way. Whoever stops between two pieces leaves a whole database behind.
pub trait Tending: Send {
    /// Does a piece, which the engine ends after `within`; `None` where nothing is left.
    fn next(&mut self, within: Duration) -> Pending<'_, Result<Option<Tended>, StoreError>>;
}

/// Looks after the database itself: space that lies unused in its files, statistics, indexes.
pub trait Upkeep: Send + Sync {
    /// Which database it is, for people.
    fn database(&self) -> String;

    /// What others do during `span`.
    fn load(&self, span: Duration) -> Pending<'_, Result<Load, StoreError>>;

    /// What there is to do now, in the order in which it is to be done.
    fn plan(&self, wear: Wear) -> Pending<'_, Result<Vec<Task<'_>>, StoreError>>;
}
