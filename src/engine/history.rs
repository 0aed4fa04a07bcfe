//! What reading history back is on both engines: which raw `tags` mean one series, and how its rows are handed over and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::sample::{Labels, tags};
use crate::store::{History, StoreError, Stored};

/// What one name's rows may take: an hour is an export of a table that has grown far beyond its retention.
pub(super) const LIMIT: Duration = Duration::from_secs(3600);

/// From a time to before another.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub from: Timestamp,
    pub to: Timestamp,
}

/// One name's series: labels, and the raw tags that mean them (V-11).
#[derive(Default)]
pub(super) struct Series(BTreeMap<Labels, BTreeSet<String>>);

impl Series {
    /// Takes one of the name's raw tags; `false` if they are no labels. `None` is what is no text, or too long to be copied.
    pub fn take(&mut self, raw: Option<String>) -> bool {
        let Some(raw) = raw else { return false };
        let Ok(labels) = tags::from_json(Some(&raw)) else { return false };
        self.0.entry(labels).or_default().insert(raw);
        true
    }

    /// The labels in their order, and every raw tags with the position of its labels.
    pub fn into_positions(self) -> (Vec<Labels>, Vec<(String, usize)>) {
        let mut positions = Vec::new();
        let labels = self.0.into_iter().enumerate().map(|(position, (labels, raws))| {
            positions.extend(raws.into_iter().map(|raw| (raw, position)));
            labels
        });
        (labels.collect(), positions)
    }
}

/// Who takes the rows, and what was handed over.
pub(super) struct Taker<'a> {
    each: &'a mut (dyn FnMut(Stored) -> io::Result<()> + Send),
    done: History,
    /// Kept here, because sqlx has no error for it: its own of that kind means a lost connection.
    stopped: Option<io::Error>,
}

impl<'a> Taker<'a> {
    pub fn new(each: &'a mut (dyn FnMut(Stored) -> io::Result<()> + Send)) -> Self {
        Self { each, done: History::default(), stopped: None }
    }

    /// Rows whose time cannot be read.
    pub fn bad_times(&mut self, rows: i64) {
        self.done.bad_times += u64::try_from(rows).unwrap_or(0);
    }

    /// Rows of the span that cannot be read.
    pub fn bad_rows(&mut self, rows: i64) {
        self.done.bad_rows += u64::try_from(rows).unwrap_or(0);
    }

    /// Hands a row over; without a value it is a bad one.
    pub fn take(&mut self, name: &str, labels: &Labels, value: Option<f64>, at: Timestamp) -> Result<(), sqlx::Error> {
        let Some(value) = value else {
            self.done.bad_rows += 1;
            return Ok(());
        };
        self.done.rows += 1;
        let row = Stored { name: name.to_owned(), labels: labels.clone(), value, at };
        (self.each)(row).map_err(|e| sqlx::Error::Io(self.stopped.insert(e).kind().into()))
    }

    /// What there was, if `read` went well and nobody stopped it.
    pub fn end(
        self,
        read: Result<(), sqlx::Error>,
        meaning: fn(sqlx::Error) -> StoreError,
    ) -> Result<History, StoreError> {
        match self.stopped {
            Some(why) => Err(StoreError::Stopped(why)),
            None => read.map(|()| self.done).map_err(meaning),
        }
    }
}
