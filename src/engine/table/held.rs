//! The latest row per foreign series: pure, so that its rules can be tested without a table.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Timestamp;
use crate::sample::Labels;

/// A row that can be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Where it is in the table: the later of two rows of one time is the one further behind.
    pub place: i64,
    /// The metric's name.
    pub name: String,
    /// Its labels, from the tags.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
    /// When it was measured.
    pub at: Timestamp,
}

/// A series: name and labels.
pub type Key = (String, Labels);

/// The row of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latest {
    /// Where it is in the table.
    pub place: i64,
    /// Its value.
    pub value: f64,
    /// When it was measured.
    pub at: Timestamp,
}

/// How much is held at most.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Series.
    pub series: usize,
    /// Bytes of names and labels.
    pub bytes: usize,
}

/// The rows that are shown.
///
/// A look at the table is [`Held::lift`] (take all off), [`Held::offer`] (whatever is there), [`Held::settle`]; or rows are offered on top of what is
/// held.
#[derive(Debug)]
pub struct Held {
    latest: BTreeMap<Key, Latest>,
    /// Series that have a place kept for them, though no row: known ones stay when there are too many (E-12).
    kept_places: BTreeSet<Key>,
    /// Bytes of the keys in `latest` and `kept_places`.
    bytes: usize,
    most: Most,
}

impl Held {
    /// Nothing yet; `known` series come first if there are more than `most`.
    pub fn expecting(known: BTreeSet<Key>, most: Most) -> Self {
        Self { bytes: known.iter().map(size).sum(), latest: BTreeMap::new(), kept_places: known, most }
    }

    /// How many series have a row.
    pub fn len(&self) -> usize {
        self.latest.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.latest.is_empty()
    }

    /// The series that have a row.
    pub fn keys(&self) -> BTreeSet<Key> {
        self.latest.keys().cloned().collect()
    }

    /// Whether `key` has a row.
    pub fn has(&self, key: &Key) -> bool {
        self.latest.contains_key(key)
    }

    /// All rows, sorted by name and labels.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &Labels, f64, Timestamp)> {
        self.latest.iter().map(|((name, labels), row)| (name.as_str(), labels, row.value, row.at))
    }

    /// Takes out what is older than `limit`.
    pub fn forget_before(&mut self, limit: Timestamp) {
        self.latest.retain(|key, row| {
            if row.at < limit {
                self.bytes -= size(key);
            }
            row.at >= limit
        });
    }

    /// Takes `found` in, if it is the latest of its series by (time, place) (T-7). `false` if there is no room for its series.
    pub fn offer(&mut self, found: Found) -> bool {
        let Found { place, name, labels, value, at } = found;
        let (key, row) = ((name, labels), Latest { place, value, at });
        if let Some(held) = self.latest.get_mut(&key) {
            if (row.at, row.place) >= (held.at, held.place) {
                *held = row;
            }
            return true;
        }
        if !self.kept_places.remove(&key) {
            let bytes = self.bytes + size(&key);
            if self.latest.len() + self.kept_places.len() >= self.most.series || bytes > self.most.bytes {
                return false;
            }
            self.bytes = bytes;
        }
        self.latest.insert(key, row);
        true
    }

    /// Takes all rows off and keeps their places until [`Held::settle`]; also where a look before this one was not finished.
    pub fn lift(&mut self) -> BTreeMap<Key, Latest> {
        let rows = std::mem::take(&mut self.latest);
        self.kept_places.extend(rows.keys().cloned());
        rows
    }

    /// Ends a look: the places of series that have no row any more are given away.
    pub fn settle(&mut self) {
        self.bytes -= self.kept_places.iter().map(size).sum::<usize>();
        self.kept_places = BTreeSet::new();
    }
}

fn size((name, labels): &Key) -> usize {
    name.len() + labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most { series: 3, bytes: 100 };

    fn found(place: i64, name: &str, value: f64, at: i64) -> Found {
        Found { place, name: name.to_owned(), labels: Labels::none(), value, at: Timestamp::from_millis(at) }
    }

    fn shown(held: &Held) -> Vec<(&str, f64)> {
        held.rows().map(|(name, _, value, _)| (name, value)).collect()
    }

    fn holding(rows: &[Found]) -> Held {
        let mut held = Held::expecting(BTreeSet::new(), MOST);
        rows.iter().for_each(|row| assert!(held.offer(row.clone())));
        held.settle();
        held
    }

    #[test]
    fn t7_the_last_by_time_then_place_counts() {
        let held =
            holding(&[found(1, "a", 1.0, 50), found(2, "a", 2.0, 40), found(3, "a", 3.0, 50), found(4, "b", 4.0, 1)]);
        assert_eq!(shown(&held), [("a", 3.0), ("b", 4.0)]);
    }

    #[test]
    fn e12_known_series_keep_their_places() {
        let known = [("y".to_owned(), Labels::none()), ("z".to_owned(), Labels::none())];
        let mut held = Held::expecting(known.into_iter().collect(), MOST);
        assert!(held.offer(found(1, "a", 1.0, 1)));
        assert!(!held.offer(found(2, "b", 1.0, 1)), "two places are kept for others");
        assert!(held.offer(found(3, "z", 1.0, 1)));
        assert!(held.offer(found(4, "y", 1.0, 1)));
        held.settle();
        assert_eq!(shown(&held), [("a", 1.0), ("y", 1.0), ("z", 1.0)]);
        // A look that ends half-way takes nobody's place either.
        held.lift();
        assert!(held.offer(found(3, "z", 2.0, 2)));
        held.lift();
        assert!(!held.offer(found(2, "b", 1.0, 1)));
        assert!(held.offer(found(1, "a", 3.0, 3)));
        held.settle();
        assert_eq!(shown(&held), [("a", 3.0)]);
        assert!(held.offer(found(2, "b", 1.0, 1)));
    }

    #[test]
    fn long_labels_fill_what_is_held_sooner_and_give_it_back() {
        let long = |place, name: char, at| found(place, &name.to_string().repeat(60), 1.0, at);
        let mut held = holding(&[long(1, 'a', 5)]);
        assert!(!held.offer(long(2, 'b', 9)));
        held.lift();
        assert!(held.offer(long(1, 'a', 5)));
        held.settle();
        assert!(!held.offer(long(2, 'b', 9)), "a second look gives no room");
        held.forget_before(Timestamp::from_millis(6));
        assert!(held.offer(long(2, 'b', 9)));
        held.lift();
        held.settle();
        assert_eq!(held.bytes, 0);
    }

    #[test]
    fn old_rows_are_forgotten() {
        let mut held = holding(&[found(1, "a", 1.0, 50), found(2, "b", 1.0, 60)]);
        held.forget_before(Timestamp::from_millis(60));
        assert_eq!(shown(&held), [("b", 1.0)]);
    }
}
