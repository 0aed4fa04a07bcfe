//! From batches to rows: bounded queue, groups by count or age, one transaction each.

pub mod latest;

use std::time::Duration;

/// The `[write]` section.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The most batches that wait; one more drops the oldest and counts its samples.
    pub queue_batches: usize,
    /// The most rows of one transaction.
    pub batch_rows: usize,
    /// The longest a row waits for others.
    pub batch_age: Duration,
    /// The most rows written per UTC day; 0 for no limit.
    pub rows_per_day: u64,
}
