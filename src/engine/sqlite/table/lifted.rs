//! Rows that are held and read again at their rowids: pure, so that its rules can be tested without a table.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::engine::table::held::{Found, Held, Key};

/// What was held, by rowid: [`Lifted::off`] takes it off, [`Lifted::put_back`] what still is there, and after newer rows were offered
/// [`Lifted::is_lost`] says whether a series that was there has no row any more.
#[derive(Debug)]
pub(super) struct Lifted(BTreeMap<i64, (Key, Timestamp)>);

impl Lifted {
    /// Takes all rows off.
    pub fn off(held: &mut Held) -> Self {
        Self(held.lift().into_iter().map(|(key, row)| (row.place, (key, row.at))).collect())
    }

    /// Where they are.
    pub fn rowids(&self) -> Vec<i64> {
        self.0.keys().copied().collect()
    }

    /// Puts a row back as it is now. One that moved back in time, or to another series, leaves its series without a row: an older
    /// row may be the latest now.
    pub fn put_back(&self, held: &mut Held, found: Found) {
        let Some((key, at)) = self.0.get(&found.place) else { return };
        let moved = key.0 != found.name || key.1 != found.labels;
        // A row that went over to another series counts there like any new one.
        if moved || found.at >= *at {
            held.offer(found);
        }
    }

    /// Whether a series lost its row.
    pub fn is_lost(&self, held: &Held) -> bool {
        self.0.values().any(|(key, _)| !held.has(key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::engine::table::MOST;
    use crate::sample::Labels;

    fn found(place: i64, name: &str, value: f64, at: i64) -> Found {
        Found { place, name: name.to_owned(), labels: Labels::none(), value, at: Timestamp::from_millis(at) }
    }

    fn shown(held: &Held) -> Vec<(&str, f64)> {
        held.rows().map(|(name, _, value, _)| (name, value)).collect()
    }

    fn holding(rows: &[Found]) -> Held {
        let mut held = Held::expecting(BTreeSet::new(), MOST);
        rows.iter().for_each(|row| assert!(held.offer(row.clone())));
        held
    }

    #[test]
    fn e13_a_changed_row_is_shown_changed_and_a_deleted_one_asks_for_a_rebuild() {
        let mut held = holding(&[found(1, "a", 1.0, 50), found(2, "b", 2.0, 50)]);
        let lifted = Lifted::off(&mut held);
        assert_eq!(lifted.rowids(), [1, 2]);
        lifted.put_back(&mut held, found(1, "a", 9.0, 51));
        lifted.put_back(&mut held, found(2, "b", 2.0, 50));
        assert!(!lifted.is_lost(&held));
        assert_eq!(shown(&held), [("a", 9.0), ("b", 2.0)]);
        let lifted = Lifted::off(&mut held);
        lifted.put_back(&mut held, found(1, "a", 9.0, 51));
        assert!(lifted.is_lost(&held), "b lost its row");
    }

    #[test]
    fn e13_a_replaced_row_needs_no_rebuild() {
        let mut held = holding(&[found(1, "a", 1.0, 50)]);
        let lifted = Lifted::off(&mut held);
        held.offer(found(2, "a", 2.0, 60));
        assert!(!lifted.is_lost(&held));
        assert_eq!(shown(&held), [("a", 2.0)]);
    }

    #[test]
    fn a_row_that_moves_back_or_away_asks_for_a_rebuild() {
        let mut held = holding(&[found(1, "a", 1.0, 50)]);
        let lifted = Lifted::off(&mut held);
        lifted.put_back(&mut held, found(1, "a", 1.0, 49));
        assert!(lifted.is_lost(&held));
        let mut held = holding(&[found(1, "a", 1.0, 50)]);
        let lifted = Lifted::off(&mut held);
        lifted.put_back(&mut held, found(1, "c", 1.0, 50));
        assert_eq!(shown(&held), [("c", 1.0)]);
        assert!(lifted.is_lost(&held));
    }
}
