//! The latest row per foreign series: pure, so that its rules can be tested without a table.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::clock::Timestamp;
use crate::sample::Labels;

/// A row that can be shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub rowid: i64,
    pub name: String,
    pub labels: Labels,
    pub value: f64,
    pub at: Timestamp,
}

/// A series: name and labels.
type Key = (String, Labels);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Latest {
    rowid: i64,
    value: f64,
    at: Timestamp,
}

/// How much is held at most.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Most {
    pub series: usize,
    /// Of names and labels.
    pub bytes: usize,
}

/// The rows that are shown.
///
/// A re-read is [`Held::lift`] (take all off), [`Held::put_back`] (what still is there) and, after newer rows were offered,
/// [`Held::settle`]: whether every series that was there has a row again.
#[derive(Debug, Default)]
pub(super) struct Held {
    latest: BTreeMap<Key, Latest>,
    /// Series that have a place kept for them, though no row: known ones stay when there are too many (E-12).
    kept_places: BTreeSet<Key>,
    /// Rows that were lifted, by rowid.
    lifted: HashMap<i64, (Key, Timestamp)>,
    /// Bytes of the keys in `latest` and `kept_places`.
    bytes: usize,
    most: Most,
}

impl Held {
    /// Nothing yet; `known` series come first if there are more than `most`.
    pub fn expecting(known: BTreeSet<Key>, most: Most) -> Self {
        Self { bytes: known.iter().map(size).sum(), kept_places: known, most, ..Self::default() }
    }

    /// How many series have a row.
    pub fn len(&self) -> usize {
        self.latest.len()
    }

    /// The series that have a row.
    pub fn keys(&self) -> BTreeSet<Key> {
        self.latest.keys().cloned().collect()
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

    /// Takes `found` in, if it is the latest of its series by (time, rowid) (T-7). `false` if there is no room for its series.
    pub fn offer(&mut self, found: Found) -> bool {
        let Found { rowid, name, labels, value, at } = found;
        let (key, row) = ((name, labels), Latest { rowid, value, at });
        if let Some(held) = self.latest.get_mut(&key) {
            if (row.at, row.rowid) >= (held.at, held.rowid) {
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

    /// Takes all rows off and gives their rowids, to be read again.
    pub fn lift(&mut self) -> Vec<i64> {
        let rows = std::mem::take(&mut self.latest);
        let rowids = rows.values().map(|row| row.rowid).collect();
        self.kept_places = rows.keys().cloned().collect();
        self.lifted = rows.into_iter().map(|(key, row)| (row.rowid, (key, row.at))).collect();
        rowids
    }

    /// Puts a row back as it is now. One that moved back in time, or to another series, leaves its series without a row: an older
    /// row may be the latest now.
    pub fn put_back(&mut self, found: Found) {
        let stays = self
            .lifted
            .get(&found.rowid)
            .is_some_and(|(key, at)| key.0 == found.name && key.1 == found.labels && found.at >= *at);
        let moved = self.lifted.get(&found.rowid).is_some_and(|(key, _)| key.0 != found.name || key.1 != found.labels);
        // A row that went over to another series counts there like any new one.
        if stays || moved {
            self.offer(found);
        }
    }

    /// Ends a re-read (or a rebuild): `true` if no series is left without its row.
    pub fn settle(&mut self) -> bool {
        let lost = self.lifted.values().any(|(key, _)| !self.latest.contains_key(key));
        self.lifted = HashMap::new();
        self.bytes -= self.kept_places.iter().map(size).sum::<usize>();
        self.kept_places = BTreeSet::new();
        !lost
    }
}

fn size((name, labels): &Key) -> usize {
    name.len() + labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most { series: 3, bytes: 100 };

    fn found(rowid: i64, name: &str, value: f64, at: i64) -> Found {
        Found { rowid, name: name.to_owned(), labels: Labels::none(), value, at: Timestamp::from_millis(at) }
    }

    fn shown(held: &Held) -> Vec<(&str, f64)> {
        held.rows().map(|(name, _, value, _)| (name, value)).collect()
    }

    fn holding(rows: &[Found]) -> Held {
        let mut held = Held::expecting(BTreeSet::new(), MOST);
        rows.iter().for_each(|row| assert!(held.offer(row.clone())));
        assert!(held.settle());
        held
    }

    #[test]
    fn t7_the_last_by_time_then_rowid_counts() {
        let held =
            holding(&[found(1, "a", 1.0, 50), found(2, "a", 2.0, 40), found(3, "a", 3.0, 50), found(4, "b", 4.0, 1)]);
        assert_eq!(shown(&held), [("a", 3.0), ("b", 4.0)]);
    }

    #[test]
    fn e13_a_changed_row_is_shown_changed_and_a_deleted_one_asks_for_a_rebuild() {
        let mut held = holding(&[found(1, "a", 1.0, 50), found(2, "b", 2.0, 50)]);
        assert_eq!(held.lift(), [1, 2]);
        held.put_back(found(1, "a", 9.0, 51));
        held.put_back(found(2, "b", 2.0, 50));
        assert!(held.settle());
        assert_eq!(shown(&held), [("a", 9.0), ("b", 2.0)]);
        held.lift();
        held.put_back(found(1, "a", 9.0, 51));
        assert!(!held.settle(), "b lost its row");
    }

    #[test]
    fn e13_a_replaced_row_needs_no_rebuild() {
        let mut held = holding(&[found(1, "a", 1.0, 50)]);
        held.lift();
        held.offer(found(2, "a", 2.0, 60));
        assert!(held.settle());
        assert_eq!(shown(&held), [("a", 2.0)]);
    }

    #[test]
    fn a_row_that_moves_back_or_away_asks_for_a_rebuild() {
        let mut held = holding(&[found(1, "a", 1.0, 50)]);
        held.lift();
        held.put_back(found(1, "a", 1.0, 49));
        assert!(!held.settle());
        let mut held = holding(&[found(1, "a", 1.0, 50)]);
        held.lift();
        held.put_back(found(1, "c", 1.0, 50));
        assert_eq!(shown(&held), [("c", 1.0)]);
        assert!(!held.settle());
    }

    #[test]
    fn e12_known_series_keep_their_places() {
        let known = [("y".to_owned(), Labels::none()), ("z".to_owned(), Labels::none())];
        let mut held = Held::expecting(known.into_iter().collect(), MOST);
        assert!(held.offer(found(1, "a", 1.0, 1)));
        assert!(!held.offer(found(2, "b", 1.0, 1)), "two places are kept for others");
        assert!(held.offer(found(3, "z", 1.0, 1)));
        assert!(held.offer(found(4, "y", 1.0, 1)));
        assert!(held.settle());
        assert_eq!(shown(&held), [("a", 1.0), ("y", 1.0), ("z", 1.0)]);
    }

    #[test]
    fn long_labels_fill_what_is_held_sooner_and_give_it_back() {
        let long = |rowid, name: char, at| found(rowid, &name.to_string().repeat(60), 1.0, at);
        let mut held = holding(&[long(1, 'a', 5)]);
        assert!(!held.offer(long(2, 'b', 9)));
        held.lift();
        held.put_back(long(1, 'a', 5));
        assert!(held.settle());
        assert!(!held.offer(long(2, 'b', 9)), "a re-read gives no room");
        held.forget_before(Timestamp::from_millis(6));
        assert!(held.offer(long(2, 'b', 9)));
        held.lift();
        assert!(!held.settle());
        assert_eq!(held.bytes, 0);
    }

    #[test]
    fn old_rows_are_forgotten() {
        let mut held = holding(&[found(1, "a", 1.0, 50), found(2, "b", 1.0, 60)]);
        held.forget_before(Timestamp::from_millis(60));
        assert_eq!(shown(&held), [("b", 1.0)]);
    }
}
