//! Rows that wait for the store: batches in the order in which they came, bounded in batches and in rows.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::Row;

/// The most rows that wait, whatever the number of batches: some 80 MB. The newest batch is never the one to go.
pub(super) const MOST_ROWS: usize = 250_000;

/// When something of the queue is to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// There is nothing.
    Never,
    /// A group is full, or old enough.
    Now,
    /// The oldest row will be old enough then.
    At(Instant),
}

/// The waiting rows.
#[derive(Default)]
pub(super) struct Queue {
    batches: VecDeque<(Instant, VecDeque<Row>)>,
    /// A group that was being written when that was interrupted. It stays a group of its own: the store may have it already, and knows it only whole.
    again: Option<Vec<Row>>,
    /// Of all the above.
    rows: usize,
}

impl Queue {
    /// How many batches wait.
    pub(super) fn batches(&self) -> usize {
        self.batches.len() + usize::from(self.again.is_some())
    }

    /// How many rows wait.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Adds a batch; gives how many rows of the oldest had to go for it.
    pub(super) fn push(&mut self, batch: Vec<Row>, most_batches: usize) -> usize {
        self.rows += batch.len();
        self.batches.push_back((Instant::now(), batch.into()));
        let before = self.rows;
        while self.batches.len() > most_batches || self.rows > MOST_ROWS && self.batches.len() > 1 {
            self.rows -= self.batches.pop_front().map_or(0, |(_, oldest)| oldest.len());
        }
        before - self.rows
    }

    /// When a group of `rows`, or one that has waited for `age`, is there.
    pub(super) fn due(&self, rows: usize, age: Duration) -> Due {
        match self.batches.front() {
            _ if self.again.is_some() || self.rows >= rows => Due::Now,
            Some((since, _)) if since.elapsed() >= age => Due::Now,
            Some((since, _)) => Due::At(*since + age),
            None => Due::Never,
        }
    }

    /// Takes an interrupted group, or batches up to `limit` rows; a batch beyond the limit is split.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Row> {
        let group = self.again.take().unwrap_or_else(|| self.take_fresh(limit));
        self.rows -= group.len();
        group
    }

    fn take_fresh(&mut self, limit: usize) -> Vec<Row> {
        let mut group = Vec::new();
        while let Some((_, batch)) = self.batches.front_mut().filter(|_| group.len() < limit) {
            let room = (limit - group.len()).min(batch.len());
            group.extend(batch.drain(..room));
            if batch.is_empty() {
                self.batches.pop_front();
            }
        }
        group
    }

    /// Takes back what [`Queue::take`] gave and was not written.
    pub(super) fn put_back(&mut self, group: Vec<Row>) {
        self.rows += group.len();
        self.again = Some(group);
    }

    /// Gives up everything; gives how many rows that were.
    pub(super) fn clear(&mut self) -> usize {
        std::mem::take(self).rows
    }
}
