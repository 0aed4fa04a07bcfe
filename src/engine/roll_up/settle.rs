//! What becomes of buckets when rows are mirrored in them, or moved into them: the decision, before anything is written.
//!
//! | bucket that is there | mirroring rows | moving rows (they are deleted in the same transaction) |
//! |---|---|---|
//! | none | a new one | a new one, sealed |
//! | not sealed | replaced | replaced, sealed |
//! | sealed | left alone: rows it counts are gone (R-3) | merged (R-5) |
//!
//! An hour is made anew from its five minutes, all of which are there as long as it is not sealed itself; it is sealed when they are deleted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::bucket::Bucket;
use super::intake::Fresh;
use crate::clock::Timestamp;
use crate::store::Width;

/// Which bucket of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// When it begins, in milliseconds.
    pub start: i64,
    /// The series' number in the table.
    pub series: i64,
}

impl Key {
    fn hour(self) -> Self {
        Self { start: Width::Hour.floor(Timestamp::from_millis(self.start)).millis(), ..self }
    }
}

/// A bucket that is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held {
    /// What it holds.
    pub bucket: Bucket,
    /// Whether rows that it counts have been deleted.
    pub sealed: bool,
}

/// What happens to the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They stay.
    Mirror,
    /// They are deleted.
    Seal,
}

/// What is to be written of one step.
#[derive(Debug, Default)]
pub struct Level {
    /// Buckets that are new or other than they were.
    pub writes: Vec<(Key, Held)>,
    /// Buckets that only have to be sealed.
    pub seals: Vec<Key>,
    /// Rows merged into buckets that were sealed before.
    pub late_rows: u64,
}

impl Level {
    fn settle(&mut self, key: Key, held: Option<&Held>, fresh: &Bucket, mode: Mode) {
        let sealed = mode == Mode::Seal;
        match held {
            Some(held) if held.sealed && sealed => {
                self.late_rows += u64::try_from(fresh.count).unwrap_or(0);
                self.writes.push((key, Held { bucket: held.bucket.with_late(fresh), sealed }));
            }
            Some(held) if held.sealed => {}
            // Nearly always, since it has been mirrored: nothing behind it changes either.
            Some(held) if held.bucket == *fresh && sealed => self.seals.push(key),
            Some(held) if held.bucket == *fresh => {}
            Some(_) | None => self.writes.push((key, Held { bucket: *fresh, sealed })),
        }
    }
}

/// Buckets of five minutes: `fresh` with its series' numbers.
pub fn five_minutes(fresh: &[(Key, Bucket)], held: &HashMap<Key, Held>, mode: Mode) -> Level {
    let mut level = Level::default();
    for (key, bucket) in fresh {
        level.settle(*key, held.get(key), bucket, mode);
    }
    level
}

/// Hours that may have to be written: from the first to the last, with that one's end.
pub fn hours_of(fresh: &[(Key, Bucket)]) -> Option<(i64, i64)> {
    let first = fresh.iter().map(|(key, _)| key.hour().start).min()?;
    let last = fresh.iter().map(|(key, _)| key.hour().start).max()?;
    Some((first, last + Width::Hour.millis()))
}

/// Hours: `parts` are the five minutes in them as they are now, by time; `changed` those of them that were written.
pub fn hours(
    fresh: &[(Key, Bucket)],
    changed: &[(Key, Held)],
    parts: &[(Key, Held)],
    held: &HashMap<Key, Held>,
    mode: Mode,
) -> Level {
    let mut level = Level::default();
    let is_sealed = |key: &Key| held.get(key).is_some_and(|held| held.sealed);
    // The five minutes of a sealed hour are gone: whatever is moved now is new to it.
    if mode == Mode::Seal {
        for (key, bucket) in joined(fresh.iter().copied(), |hour| is_sealed(&hour)) {
            level.settle(key, held.get(&key), &bucket, mode);
        }
    }
    let touched: BTreeSet<Key> = changed.iter().map(|(key, _)| key.hour()).filter(|hour| !is_sealed(hour)).collect();
    for (key, bucket) in joined(parts.iter().map(|(key, held)| (*key, held.bucket)), |hour| touched.contains(&hour)) {
        level.settle(key, held.get(&key), &bucket, Mode::Mirror);
    }
    // The rows were counted when their five minutes were settled.
    level.late_rows = 0;
    level
}

/// The hours of five minutes that come by time, as far as they are `wanted`.
fn joined(parts: impl Iterator<Item = (Key, Bucket)>, wanted: impl Fn(Key) -> bool) -> BTreeMap<Key, Bucket> {
    let mut hours: BTreeMap<Key, Bucket> = BTreeMap::new();
    for (key, bucket) in parts {
        let hour = key.hour();
        if wanted(hour) {
            hours.entry(hour).and_modify(|held| *held = held.then(&bucket)).or_insert(bucket);
        }
    }
    hours
}

/// `fresh` with the numbers that its series have in the table.
pub fn numbered(fresh: &[Fresh], ids: &[i64]) -> Vec<(Key, Bucket)> {
    fresh.iter().map(|f| (Key { start: f.start, series: ids[f.series] }, f.bucket)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { start: 0, series: 1 };

    fn settled(held: Option<(f64, bool)>, mode: Mode) -> (Vec<(i64, bool)>, usize, u64) {
        let bucket = |value| Bucket::of(0, value, false);
        let held = held.map(|(value, sealed)| (KEY, Held { bucket: bucket(value), sealed })).into_iter().collect();
        let level = five_minutes(&[(KEY, bucket(1.0))], &held, mode);
        (level.writes.iter().map(|(_, w)| (w.bucket.count, w.sealed)).collect(), level.seals.len(), level.late_rows)
    }

    #[test]
    fn r3_r5_the_table_of_the_module() {
        assert_eq!(settled(None, Mode::Mirror), (vec![(1, false)], 0, 0));
        assert_eq!(settled(Some((1.0, false)), Mode::Mirror), (vec![], 0, 0));
        assert_eq!(settled(Some((2.0, false)), Mode::Mirror), (vec![(1, false)], 0, 0));
        assert_eq!(settled(Some((2.0, true)), Mode::Mirror), (vec![], 0, 0));
        assert_eq!(settled(None, Mode::Seal), (vec![(1, true)], 0, 0));
        assert_eq!(settled(Some((1.0, false)), Mode::Seal), (vec![], 1, 0));
        assert_eq!(settled(Some((2.0, false)), Mode::Seal), (vec![(1, true)], 0, 0));
        assert_eq!(settled(Some((1.0, true)), Mode::Seal), (vec![(2, true)], 0, 1));
    }

    #[test]
    fn a_sealed_hour_takes_what_is_moved_and_ignores_what_is_mirrored() {
        let one = Bucket::of(5, 3.0, false);
        let held: HashMap<Key, Held> = [(KEY, Held { bucket: one, sealed: true })].into();
        let fresh = [(KEY, Bucket::of(7, 4.0, false))];
        let written = [(KEY, Held { bucket: fresh[0].1, sealed: true })];
        let moved = hours(&fresh, &written, &written, &held, Mode::Seal);
        assert_eq!(moved.writes.len(), 1);
        assert_eq!((moved.writes[0].1.bucket.count, moved.writes[0].1.sealed), (2, true));
        assert!(hours(&fresh, &written, &written, &held, Mode::Mirror).writes.is_empty());
    }
}
