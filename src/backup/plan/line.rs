//! The marks of a line of timelines, and which of them an instant means.

use std::collections::{BTreeMap, HashSet};
use std::sync::OnceLock;

use serde::Serialize;

use super::super::catalog::{Catalog, Entry, Need, Ways};
use super::super::layout::claimed;
use super::super::manifest::{Manifest, rfc3339};
use super::super::{Digest, Kind, Place, Position, Timeline};
use super::Moment;
use super::between::Between;
use super::error::{Nearest, PlanError};
use crate::clock::Timestamp;

/// A state of the database that was seen at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// When it was the newest; never before a mark that it follows.
    #[serde(serialize_with = "rfc3339::serialize")]
    pub observed: Timestamp,
    /// Of the database.
    pub digest: Digest,
}

/// All marks that are known on the way to the newest of a timeline, the oldest first.
pub struct Line<'a> {
    pub(super) catalog: &'a Catalog,
    /// The oldest first.
    pub(super) stretches: Vec<Stretch<'a>>,
    pub(super) points: Vec<Point<'a>>,
}

/// How far a line goes along a timeline.
pub(super) struct Stretch<'a> {
    pub(super) timeline: Timeline,
    /// The last position that belongs to the line; nothing for the timeline that it leads to.
    pub(super) to: Option<Position>,
    ways: OnceLock<Ways<'a>>,
}

/// A mark and what tells of it.
#[derive(Clone, Copy)]
pub(super) struct Point<'a> {
    pub(super) mark: Mark,
    /// Which stretch it is on.
    pub(super) stretch: usize,
    /// The segment that leads there; nothing for a mark inside a fine one.
    pub(super) entry: Option<&'a Entry>,
}

impl<'a> Line<'a> {
    /// That of `timeline`, or of the newest one.
    pub fn of(catalog: &'a Catalog, timeline: Option<Timeline>) -> Result<Self, PlanError> {
        let newest = catalog.newest_timeline();
        // The claim that cannot be read may be the newest one, which says where the line runs.
        let unclear = catalog.unreadable.iter().find(|(key, _)| claimed(key) > newest.max(timeline));
        if let (None, Some((key, why))) = (timeline, unclear) {
            return Err(PlanError::Claim { key: key.clone(), why: why.clone() });
        }
        let top = timeline.or(newest).ok_or(PlanError::Empty)?;
        let stretches = stretches(catalog, top);
        let mut points = Vec::new();
        for (index, stretch) in stretches.iter().enumerate() {
            points.extend(marks_along(catalog, stretch).into_values().map(|(mark, entry)| Point {
                mark,
                stretch: index,
                entry,
            }));
        }
        if points.is_empty() {
            let known: Vec<Timeline> = known_timelines(catalog);
            return Err(if known.is_empty() { PlanError::Empty } else { PlanError::Timeline { timeline: top, known } });
        }
        one_database(catalog, &catalog.ancestry(top), timeline.is_some())?;
        let mut seen: Option<Timestamp> = None;
        for point in &mut points {
            let observed = seen.map_or(point.mark.observed, |seen| seen.max(point.mark.observed));
            (point.mark.observed, seen) = (observed, Some(observed));
        }
        Ok(Self { catalog, stretches, points })
    }

    /// The mark at `index`.
    pub fn mark(&self, index: usize) -> Mark {
        self.points[index].mark
    }

    /// Those that a manifest tells of, with it.
    pub fn marks(&self) -> impl DoubleEndedIterator<Item = (Mark, &'a Entry)> + '_ {
        self.points.iter().filter_map(|point| Some((point.mark, point.entry?)))
    }

    /// Whether the mark at `index` is the newest.
    pub fn is_newest(&self, index: usize) -> bool {
        index + 1 == self.points.len()
    }

    /// The ways along the timeline of the mark at `index`.
    pub fn ways(&self, index: usize) -> &Ways<'a> {
        let stretch = &self.stretches[self.points[index].stretch];
        stretch.ways.get_or_init(|| self.catalog.ways(stretch.timeline))
    }

    /// Which mark `at` means.
    pub fn find(&self, at: Moment) -> Result<usize, PlanError> {
        let behind = match at {
            Moment::Latest => self.points.len(),
            Moment::At(at) => self.points.partition_point(|point| point.mark.observed <= at),
        };
        let index = behind.checked_sub(1).ok_or_else(|| self.before(at))?;
        let between = Between::of(self, index);
        let needs = between.needs(at);
        if !needs.is_empty() {
            return Err(PlanError::Unread(needs));
        }
        let mark = self.mark(index);
        if matches!(at, Moment::At(at) if at == mark.observed) {
            // By its own time a mark can always be had.
            return Ok(index);
        }
        if let (Moment::At(at), Some((from, next))) = (at, self.gap(index))
            && at > from
        {
            let nearest = self.nearest(index).into();
            return Err(PlanError::Gap { at, between: Box::new((mark, next)), from, nearest });
        }
        match between.hole(at) {
            Some(hole) => {
                let between = Box::new((mark, self.points.get(behind).map(|point| point.mark)));
                Err(PlanError::Hole { between, hole, nearest: self.nearest(index).into() })
            }
            None => Ok(index),
        }
    }

    /// Where the mark behind that at `index` goes over commits that could not be followed: since when that may have been, and that mark.
    fn gap(&self, index: usize) -> Option<(Timestamp, Mark)> {
        let next = self.points.get(index + 1)?;
        Some((next.entry?.manifest.gap_from?, next.mark))
    }

    /// What has to be read before it is known which segments lead to the mark at `index`: where it lies inside a fine one.
    pub fn needs(&self, index: usize) -> Vec<Need> {
        let place = self.mark(index).place;
        if self.ways(index).is_sound(place.position) {
            return Vec::new();
        }
        fine_around(self.catalog, place)
            .filter(|fine| is_unread(self.catalog, fine))
            .map(|fine| Need::Index(fine.manifest.place()))
            .take(1)
            .collect()
    }

    /// The restorable marks next to `index`: it or one before it, and one behind it.
    pub fn nearest(&self, index: usize) -> Nearest {
        let good = |index: usize| self.is_sound(index).then(|| self.mark(index));
        let before = (0..=index).rev().find_map(good);
        Nearest { before, after: (index + 1..self.points.len()).find_map(good) }
    }

    /// The oldest and the newest mark that can be restored.
    pub fn window(&self) -> Option<(Mark, Mark)> {
        let oldest = (0..self.points.len()).find(|index| self.is_sound(*index))?;
        let newest = (0..self.points.len()).rev().find(|index| self.is_sound(*index))?;
        Some((self.mark(oldest), self.mark(newest)))
    }

    fn is_sound(&self, index: usize) -> bool {
        self.ways(index).is_sound(self.mark(index).place.position)
    }

    fn before(&self, at: Moment) -> PlanError {
        match at {
            Moment::At(at) => PlanError::Before { at, window: self.window().map(Box::new) },
            Moment::Latest => PlanError::Empty,
        }
    }
}

/// Fine segments that `place` lies inside of.
pub(super) fn fine_around(catalog: &Catalog, place: Place) -> impl Iterator<Item = &Entry> {
    let behind = Place { position: place.position.next(), ..place };
    catalog
        .folds
        .range((behind, Kind::Full)..)
        .take_while(move |((end, _), _)| end.timeline == place.timeline)
        .filter(move |((_, kind), fine)| {
            *kind == Kind::Fine && fine.manifest.from.is_some_and(|from| from < place.position)
        })
        .map(|(_, fine)| fine)
}

/// Why the index of `fine` cannot be read, where that is known.
pub(super) fn why_closed(catalog: &Catalog, fine: &Entry) -> Option<String> {
    let key = &fine.manifest.index.as_ref()?.key;
    fine.index_fault().or_else(|| catalog.why_unreadable(key).map(str::to_owned))
}

/// Whether the index of `fine` was not read, and may be.
pub(super) fn is_unread(catalog: &Catalog, fine: &Entry) -> bool {
    !catalog.indexes.contains_key(&fine.manifest.place()) && why_closed(catalog, fine).is_none()
}

/// All marks of a stretch that are known, by their positions. Where several segments lead to one, it was seen when the first of them was made.
fn marks_along<'a>(catalog: &'a Catalog, stretch: &Stretch<'_>) -> BTreeMap<Position, (Mark, Option<&'a Entry>)> {
    let first = Place { timeline: stretch.timeline, position: Position(0) };
    let last = Place { position: stretch.to.unwrap_or(Position(u64::MAX)), ..first };
    let mut marks: BTreeMap<Position, (Mark, Option<&'a Entry>)> = BTreeMap::new();
    let mut add = |mark: Mark, entry: Option<&'a Entry>| {
        let known = marks.entry(mark.place.position).or_insert((mark, entry));
        known.0.observed = known.0.observed.min(mark.observed);
        known.1 = known.1.or(entry);
    };
    let of = |manifest: &Manifest| Mark {
        place: manifest.place(),
        observed: manifest.observed,
        digest: manifest.digest_after,
    };
    catalog.entries.range(first..=last).for_each(|(_, entry)| add(of(&entry.manifest), Some(entry)));
    catalog.notes.range(first..=last).for_each(|(_, entry)| add(of(&entry.manifest), Some(entry)));
    let folds = catalog.folds.range((first, Kind::Full)..=(last, Kind::Merged));
    folds.for_each(|(_, entry)| add(of(&entry.manifest), Some(entry)));
    for (end, lines) in catalog.indexes.range(first..).take_while(|(end, _)| end.timeline == stretch.timeline) {
        for line in lines.iter().filter(|line| line.position <= last.position) {
            let place = Place { position: line.position, ..*end };
            add(Mark { place, observed: line.observed, digest: line.digest }, None);
        }
    }
    marks
}

/// The timelines that lead to `top`, as [`Catalog::ancestry`] walks them, the oldest first.
fn stretches<'a>(catalog: &Catalog, top: Timeline) -> Vec<Stretch<'a>> {
    let stretch = |timeline, to| Stretch { timeline, to, ways: OnceLock::new() };
    let mut stretches = vec![stretch(top, None)];
    let mut at = top;
    while let Some(parent) = catalog.claims.get(&at).and_then(|claim| claim.parent)
        && parent.place.timeline < at
    {
        at = parent.place.timeline;
        stretches.push(stretch(at, Some(parent.place.position)));
    }
    stretches.reverse();
    stretches
}

fn known_timelines(catalog: &Catalog) -> Vec<Timeline> {
    let mut known: Vec<Timeline> = catalog.entries.keys().map(|place| place.timeline).collect();
    known.dedup();
    known
}

/// Several databases that share a destination by mistake are told apart by nobody but whoever restores. On one timeline a database may have been renamed: its states
/// are one line, the digests prove it.
fn one_database(catalog: &Catalog, line: &[&Entry], chosen: bool) -> Result<(), PlanError> {
    let name = |entry: &Entry| format!("`{}` ({})", entry.manifest.database, entry.manifest.engine);
    let Some(newest) = line.first() else { return Ok(()) };
    let stranger = |entry: &&Entry| entry.manifest.engine != newest.manifest.engine;
    if let Some(other) = line.iter().copied().find(|entry| stranger(entry)) {
        return Err(PlanError::Several { names: [name(newest), name(other)], timeline: other.manifest.timeline });
    }
    let which = |entry: &'_ &Entry| (entry.manifest.database.clone(), entry.manifest.engine.clone());
    let own: HashSet<(String, String)> = line.iter().map(which).collect();
    match catalog.entries.values().find(|entry| !own.contains(&which(entry))) {
        Some(other) if !chosen => {
            Err(PlanError::Several { names: [name(newest), name(other)], timeline: other.manifest.timeline })
        }
        _ => Ok(()),
    }
}
