//! What lies between two marks that are known: nothing, marks that can be read, or a hole.
//!
//! There may be ten thousand marks, each of them in an object of its own or in the index of a fine segment. Few are read: the index of the one fine segment that the
//! instant lies in, and of live segments some at a time, which narrows the stretch by as much with each look.

use super::super::catalog::{Entry, Need};
use super::super::layout::{folded, live_place, manifest_place};
use super::super::{Place, Position, Timeline};
use super::Moment;
use super::error::Hole;
use super::line::{Line, fine_around, is_unread, why_closed};
use crate::object::ObjectKey;

/// Notes that are read before it is looked again where the mark is: what a store answers in the time of one.
const NOTES_AT_A_TIME: usize = 16;

/// The places between a mark and the next one that is known, or behind the last.
pub(super) struct Between<'l, 'a> {
    line: &'l Line<'a>,
    index: usize,
    ranges: Vec<Range>,
}

/// Positions of a timeline, neither end belongs to it.
#[derive(Clone, Copy)]
struct Range {
    timeline: Timeline,
    /// Nothing where the line comes from another timeline: it is not known which position is the first.
    from: Option<Position>,
    /// Nothing for the open end.
    to: Option<Position>,
    /// The last position inside, where another timeline goes on from it: there was a state, whatever is known of it.
    left: Option<Position>,
}

impl Range {
    fn place(&self, position: Position) -> Place {
        Place { timeline: self.timeline, position }
    }

    fn has(&self, place: Place) -> bool {
        place.timeline == self.timeline
            && self.from.is_none_or(|from| from < place.position)
            && self.to.is_none_or(|to| place.position < to)
    }
}

impl<'l, 'a> Between<'l, 'a> {
    /// Behind the mark at `index`.
    pub(super) fn of(line: &'l Line<'a>, index: usize) -> Self {
        let (mark, next) = (&line.points[index], line.points.get(index + 1));
        let last = next.map_or(line.stretches.len() - 1, |next| next.stretch);
        let range = |stretch: usize| {
            let before = next.filter(|next| next.stretch == stretch).map(|next| next.mark.place.position);
            let left = line.stretches[stretch].to.filter(|_| before.is_none());
            Range {
                timeline: line.stretches[stretch].timeline,
                from: (stretch == mark.stretch).then_some(mark.mark.place.position),
                to: before.or(left.map(Position::next)),
                left,
            }
        };
        Self { line, index, ranges: (mark.stretch..=last).map(range).collect() }
    }

    /// What has to be read to know whether there are marks that `at` may mean.
    pub(super) fn needs(&self, at: Moment) -> Vec<Need> {
        let mut needs = Vec::new();
        for range in &self.ranges {
            let fine = self.fine(range);
            if let Some(fine) = fine
                && is_unread(self.line.catalog, fine)
                && begins_by(fine, at)
            {
                needs.push(Need::Index(fine.manifest.place()));
            }
            let notes = self.unread_notes(range, fine.filter(|fine| why_closed(self.line.catalog, fine).is_none()));
            let chosen: Vec<Place> = match at {
                Moment::Latest => notes.last().copied().into_iter().collect(),
                Moment::At(_) => spread(&notes),
            };
            needs.extend(chosen.into_iter().map(Need::Note));
        }
        needs
    }

    /// The fine segment that reaches over the range's end: one that ends inside it would end with a mark that is known.
    fn fine(&self, range: &Range) -> Option<&'a Entry> {
        let last = Position(range.to?.0 - 1);
        let inside = range.from.is_none_or(|from| from < last);
        let catalog = self.line.catalog;
        let closed = |fine: &&Entry| why_closed(catalog, fine).is_some();
        let around = || fine_around(catalog, range.place(last));
        inside.then(|| around().find(|fine| !closed(fine)).or_else(|| around().next())).flatten()
    }

    /// The live segments of the range that nobody knows the marks of, also not the index of `fine`.
    fn unread_notes(&self, range: &Range, fine: Option<&Entry>) -> Vec<Place> {
        let catalog = self.line.catalog;
        let first = range.place(range.from.map_or(Position(0), Position::next));
        let told = fine.and_then(|fine| fine.manifest.from);
        catalog
            .live
            .range(first..)
            .take_while(|(place, _)| range.has(**place))
            .filter(|(place, _)| told.is_none_or(|from| place.position <= from))
            .filter(|(place, listed)| {
                !catalog.notes.contains_key(place) && catalog.why_unreadable(listed.key.as_str()).is_none()
            })
            .map(|(place, _)| *place)
            .collect()
    }

    /// What shows that there is a mark which `at` may mean and which is not known. All that had to be read was.
    pub(super) fn hole(&self, at: Moment) -> Option<Hole> {
        let (mark, next) = (&self.line.points[self.index], self.line.points.get(self.index + 1));
        let pair = (mark.entry, next.and_then(|next| next.entry));
        if let (Some(before), Some(after)) = pair
            && after.manifest.previous.as_ref() == Some(&before.sha256)
        {
            return None;
        }
        let unreadable = self.unreadable();
        if !unreadable.is_empty() {
            return Some(Hole::Unreadable(unreadable));
        }
        if let Some(hole) = self.ranges.iter().find_map(|range| self.missing(range, at)) {
            return Some(hole);
        }
        match pair {
            (Some(before), Some(after)) if self.line.catalog.contradicts(before, after) => {
                let one_behind = after.manifest.to == before.manifest.to.next();
                Some(if one_behind { Hole::Changed } else { Hole::Missing })
            }
            _ => self.is_behind_the_tip().then_some(Hole::Missing),
        }
    }

    /// Manifests and notes of the ranges that cannot be read.
    fn unreadable(&self) -> Vec<(ObjectKey, String)> {
        let catalog = self.line.catalog;
        let told =
            |place: Place| fine_around(catalog, place).any(|fine| catalog.indexes.contains_key(&fine.manifest.place()));
        let place = |key: &ObjectKey| {
            let live = live_place(key).filter(|place| !told(*place));
            manifest_place(key).or(live).or_else(|| folded(key).map(|(place, _)| place))
        };
        let inside = |key: &ObjectKey| place(key).is_some_and(|place| self.ranges.iter().any(|range| range.has(place)));
        catalog.unreadable.iter().filter(|(key, _)| inside(key)).cloned().collect()
    }

    /// The first position of the range that no segment tells of.
    fn missing(&self, range: &Range, at: Moment) -> Option<Hole> {
        let catalog = self.line.catalog;
        let mut position = range.from.map(Position::next).or(range.left)?;
        loop {
            let place = range.place(position);
            if !range.has(place) {
                return None;
            }
            if let Some(fine) = fine_around(catalog, place).next() {
                return match (why_closed(catalog, fine), &fine.manifest.index) {
                    (Some(why), Some(index)) if begins_by(fine, at) => {
                        Some(Hole::Unreadable(vec![(ObjectKey::ours(&index.key), why)]))
                    }
                    // It reaches over the end, and its marks are behind the instant.
                    _ => None,
                };
            }
            let behind = catalog.live.range(place..).next().is_some_and(|(live, _)| range.has(*live));
            if !behind && range.to.is_none() {
                return None;
            }
            if !catalog.live.contains_key(&place) {
                return Some(Hole::Missing);
            }
            position = position.next();
        }
    }

    /// Whether the owner has said that there was a state behind the last one that is known.
    fn is_behind_the_tip(&self) -> bool {
        let Some(Range { timeline, to: None, .. }) = self.ranges.last() else { return false };
        let mark = self.line.points[self.index].mark.place;
        let tip = self.line.catalog.heartbeats.get(timeline).map(|heartbeat| heartbeat.tip.place);
        self.index + 1 == self.line.points.len() && tip.is_some_and(|tip| tip > mark)
    }
}

/// Whether `fine` has marks that `at` may mean.
fn begins_by(fine: &Entry, at: Moment) -> bool {
    match at {
        Moment::Latest => true,
        Moment::At(at) => fine.manifest.first_observed.is_none_or(|first| first <= at),
    }
}

/// Some of `places`, the last one among them, at equal distances.
fn spread(places: &[Place]) -> Vec<Place> {
    let step = places.len().div_ceil(NOTES_AT_A_TIME).max(1);
    places.iter().rev().step_by(step).copied().collect()
}
