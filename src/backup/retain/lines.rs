//! The lines of history that a destination has, and how far back each must reach.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::catalog::{Catalog, Entry, Piece, Ways};
use super::super::{Kind, Place, Position, Timeline};
use crate::clock::Timestamp;

/// How far the store's clock and that of whoever wrote may be apart: what retention bears ([`super::super::prune`]).
const MOST_APART: Duration = Duration::from_secs(15 * 60);

/// A segment: no two of a kind lead to the same place.
pub(super) type Segment = (Place, Kind);

/// What there is of a timeline.
struct Along<'a> {
    ways: Ways<'a>,
    /// The segments, with where they begin, in the order of their ends.
    segments: Vec<(Segment, Option<Position>)>,
    /// Positions and when each was seen. The marks inside fine segments are none of them: what reaches back to where such a segment begins reaches back far enough for all of them.
    nodes: BTreeMap<Position, Timestamp>,
}

/// All lines.
pub(super) struct Lines<'a> {
    catalog: &'a Catalog,
    along: BTreeMap<Timeline, Along<'a>>,
}

/// A part of a line: a timeline, and the last position of it that belongs to the line, where that is not its end.
type Stretch = (Timeline, Option<Position>);

impl<'a> Lines<'a> {
    /// Those of `catalog`.
    pub(super) fn of(catalog: &'a Catalog) -> Self {
        let mut along: BTreeMap<Timeline, Along<'a>> = BTreeMap::new();
        let new = |timeline| Along { ways: catalog.ways(timeline), segments: Vec::new(), nodes: BTreeMap::new() };
        let mut add = |segment: Segment, from, seen: Timestamp| {
            let along = along.entry(segment.0.timeline).or_insert_with(|| new(segment.0.timeline));
            along.segments.push((segment, from));
            let node = along.nodes.entry(segment.0.position).or_insert(seen);
            *node = seen.max(*node);
        };
        for entry in catalog.entries.values().chain(catalog.folds.values()) {
            add(segment_of(entry), entry.manifest.from, entry.manifest.observed);
        }
        for (place, listed) in &catalog.live {
            // Where its note was not read, it was seen before it was stored. To take it for younger than it is keeps more.
            let noted = catalog.notes.get(place).map(|note| note.manifest.observed);
            let seen = noted.unwrap_or_else(|| listed.modified.after(MOST_APART));
            add((*place, Kind::Live), Some(Position(place.position.0.saturating_sub(1))), seen);
        }
        along.values_mut().for_each(|along| along.segments.sort());
        Self { catalog, along }
    }

    /// When the newest state that can be restored, on any timeline, was seen.
    pub(super) fn newest_sound(&self) -> Option<Timestamp> {
        let sound = |along: &'_ Along<'_>| {
            let sound = along.nodes.iter().filter(|(position, _)| along.ways.is_sound(**position));
            sound.map(|(_, seen)| *seen).max()
        };
        self.along.values().filter_map(sound).max()
    }

    /// The timelines whose history reaches into the window that begins at `begin`: their last mark is there, or they are the one that is being written.
    pub(super) fn living(&self, begin: Timestamp) -> BTreeSet<Timeline> {
        let newest = self.catalog.newest_timeline();
        let lives = |timeline: &Timeline| {
            Some(*timeline) == newest || self.nodes(&self.stretches(*timeline)).any(|(_, seen)| seen >= begin)
        };
        self.along.keys().copied().filter(lives).collect()
    }

    /// What of the line that leads to `timeline` must stay, so that every instant from `begin` on means the mark that it means now.
    ///
    /// The *anchor* is the newest state seen at or before `begin` that can be restored. What leads to it stays, and every segment that leads beyond it: whatever way there was
    /// to a newer state either begins behind the anchor, or has one segment that leads over it, which can be laid over the anchor as well.
    pub(super) fn needed(&self, timeline: Timeline, begin: Timestamp) -> BTreeSet<Segment> {
        let stretches = self.stretches(timeline);
        let anchor = if self.is_one_engine(&stretches) { self.anchor(&stretches, begin) } else { None };
        let mut needed = BTreeSet::new();
        for (timeline, bound) in stretches {
            let Some(along) = self.along.get(&timeline) else { continue };
            let own = anchor.filter(|anchor| anchor.timeline == timeline).map(|anchor| anchor.position);
            let belongs = |(segment, from): &&(Segment, Option<Position>)| {
                // One that leads over the bound has marks before it.
                let begins = bound.is_none_or(|bound| segment.0.position <= bound || from.is_some_and(|f| f < bound));
                begins && own.is_none_or(|own| segment.0.position > own)
            };
            needed.extend(along.segments.iter().filter(belongs).map(|(segment, _)| *segment));
            if let Some(own) = own {
                needed.extend(along.ways.to(own).unwrap_or_default().iter().map(segment_of_piece));
                break;
            }
        }
        needed
    }

    /// The fulls of the line that leads to `timeline` which can be restored, the newest first.
    pub(super) fn sound_fulls(&self, timeline: Timeline) -> Vec<&'a Entry> {
        let mut fulls = self.catalog.ancestry(timeline);
        fulls.retain(|entry| {
            let place = entry.manifest.place();
            entry.manifest.kind == Kind::Full
                && self.along.get(&place.timeline).is_some_and(|along| along.ways.is_sound(place.position))
        });
        fulls
    }

    /// Live segments that stand beside a fine one that is kept, and was kept whole: the store has all of their marks twice.
    pub(super) fn doubled(&self, kept: &BTreeSet<Segment>) -> BTreeSet<Place> {
        let whole = |entry: &&Entry| {
            kept.contains(&segment_of(entry)) && entry.fault().is_none() && entry.index_fault().is_none()
        };
        let fines = self.catalog.folds.values().filter(|entry| entry.manifest.kind == Kind::Fine).filter(whole);
        fines
            .flat_map(|fine| {
                let to = fine.manifest.place();
                let from = Place { position: fine.manifest.from.map_or(to.position, Position::next), ..to };
                self.catalog.live.range(from..=to).map(|(place, _)| *place)
            })
            .collect()
    }

    fn anchor(&self, stretches: &[Stretch], begin: Timestamp) -> Option<Place> {
        let mut anchor = None;
        for (place, _) in self.nodes(stretches).take_while(|(_, seen)| *seen <= begin) {
            if self.along.get(&place.timeline).is_some_and(|along| along.ways.is_sound(place.position)) {
                anchor = Some(place);
            }
        }
        anchor
    }

    /// The nodes of a line, the oldest first. Along a line a state was seen no earlier than those before it, whatever clocks said.
    fn nodes(&self, stretches: &[Stretch]) -> impl Iterator<Item = (Place, Timestamp)> {
        let nodes = stretches.iter().rev().flat_map(|(timeline, bound)| {
            let nodes = self.along.get(timeline).into_iter().flat_map(|along| &along.nodes);
            let before = nodes.filter(move |(position, _)| bound.is_none_or(|bound| **position <= bound));
            before.map(|(position, seen)| (Place { timeline: *timeline, position: *position }, *seen))
        });
        nodes.scan(None, |latest: &mut Option<Timestamp>, (place, seen)| {
            let seen = latest.map_or(seen, |latest| latest.max(seen));
            *latest = Some(seen);
            Some((place, seen))
        })
    }

    /// The timelines that lead to `top`, the newest first.
    fn stretches(&self, top: Timeline) -> Vec<Stretch> {
        let mut stretches = vec![(top, None)];
        let mut at = top;
        // Numbers only grow, so that a claim that names itself ends nothing but its own line.
        while let Some(parent) = self.catalog.claims.get(&at).and_then(|claim| claim.parent)
            && parent.place.timeline < at
        {
            at = parent.place.timeline;
            stretches.push((at, Some(parent.place.position)));
        }
        stretches
    }

    /// Whether all of a line is of one engine. Otherwise nobody can tell what would be restored.
    fn is_one_engine(&self, stretches: &[Stretch]) -> bool {
        let entries = stretches.iter().flat_map(|(timeline, bound)| {
            let entries = self.catalog.entries.iter().filter(|(place, _)| place.timeline == *timeline);
            entries.filter(move |(place, _)| bound.is_none_or(|bound| place.position <= bound))
        });
        let engines: BTreeSet<&str> = entries.map(|(_, entry)| entry.manifest.engine.as_str()).collect();
        engines.len() <= 1
    }
}

/// Which segment an entry is.
pub(super) fn segment_of(entry: &Entry) -> Segment {
    (entry.manifest.place(), entry.manifest.kind)
}

fn segment_of_piece(piece: &Piece<'_>) -> Segment {
    match piece {
        Piece::Whole(entry) | Piece::Beginning(entry, _) => segment_of(entry),
        Piece::Live(place, _) => (*place, Kind::Live),
    }
}
