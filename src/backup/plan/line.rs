//! The marks of a line of timelines, and which of them an instant means.

use serde::Serialize;

use super::super::catalog::{Catalog, Entry};
use super::super::layout::{claimed, manifest_place};
use super::super::manifest::rfc3339;
use super::super::{Digest, Place, Position, Timeline};
use super::Moment;
use super::error::{Hole, Nearest, PlanError};
use super::state::{State, state};
use crate::clock::Timestamp;
use crate::object::ObjectKey;

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

/// All marks on the way to the newest of a timeline, the oldest first.
pub struct Line<'a> {
    timelines: Vec<Stretch>,
    marks: Vec<(Mark, &'a Entry)>,
}

/// How far a line goes along a timeline.
struct Stretch {
    timeline: Timeline,
    /// The last position that belongs to the line; nothing for the timeline that it leads to.
    to: Option<Position>,
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
        let timelines = stretches(catalog, top);
        let entries = catalog.ancestry(top);
        if entries.is_empty() {
            let known: Vec<Timeline> = known_timelines(catalog);
            return Err(if known.is_empty() { PlanError::Empty } else { PlanError::Timeline { timeline: top, known } });
        }
        one_database(catalog, &entries, timeline.is_some())?;
        let mut seen = None;
        let marks = entries.into_iter().rev().map(|entry| {
            let observed = seen.map_or(entry.manifest.observed, |seen: Timestamp| seen.max(entry.manifest.observed));
            seen = Some(observed);
            (Mark { place: entry.manifest.place(), observed, digest: entry.manifest.digest_after }, entry)
        });
        Ok(Self { timelines, marks: marks.collect() })
    }

    /// The mark at `index`.
    pub fn mark(&self, index: usize) -> Mark {
        self.marks[index].0
    }

    /// All of them, with what is known about each.
    pub fn marks(&self) -> impl DoubleEndedIterator<Item = (Mark, &'a Entry)> + '_ {
        self.marks.iter().copied()
    }

    /// Whether the mark at `index` is the newest.
    pub fn is_newest(&self, index: usize) -> bool {
        index + 1 == self.marks.len()
    }

    /// Which mark `at` means.
    pub fn find(&self, catalog: &Catalog, at: Moment) -> Result<usize, PlanError> {
        let behind = match at {
            Moment::Latest => self.marks.len(),
            Moment::At(at) => self.marks.partition_point(|(mark, _)| mark.observed <= at),
        };
        let index = behind.checked_sub(1).ok_or_else(|| self.before(catalog, at))?;
        let exact = matches!(at, Moment::At(at) if at == self.mark(index).observed);
        match self.hole(catalog, index) {
            Some(hole) if !exact => Err(PlanError::Hole {
                between: Box::new((self.mark(index), self.marks.get(behind).map(|(mark, _)| *mark))),
                hole,
                nearest: self.nearest(catalog, index).into(),
            }),
            _ => Ok(index),
        }
    }

    /// The restorable marks next to `index`: it or one before it, and one behind it.
    pub fn nearest(&self, catalog: &Catalog, index: usize) -> Nearest {
        let good = |(mark, entry): &&(Mark, &Entry)| {
            (state(&catalog.ways(entry.manifest.timeline), entry) == State::Restorable).then_some(*mark)
        };
        let (to, behind) = self.marks.split_at(index + 1);
        Nearest { before: to.iter().rev().find_map(|it| good(&it)), after: behind.iter().find_map(|it| good(&it)) }
    }

    /// The oldest and the newest mark that can be restored.
    pub fn window(&self, catalog: &Catalog) -> Option<(Mark, Mark)> {
        let good = |entry: &Entry| state(&catalog.ways(entry.manifest.timeline), entry) == State::Restorable;
        let oldest = self.marks().find(|(_, entry)| good(entry))?.0;
        let newest = self.marks().rev().find(|(_, entry)| good(entry))?.0;
        Some((oldest, newest))
    }

    fn before(&self, catalog: &Catalog, at: Moment) -> PlanError {
        match at {
            Moment::At(at) => PlanError::Before { at, window: self.window(catalog).map(Box::new) },
            Moment::Latest => PlanError::Empty,
        }
    }

    /// What shows that there was a mark behind that at `index` which is not known.
    fn hole(&self, catalog: &Catalog, index: usize) -> Option<Hole> {
        let (mark, entry) = self.marks[index];
        let next = self.marks.get(index + 1);
        if next.is_some_and(|(_, next)| next.manifest.previous.as_ref() == Some(&entry.sha256)) {
            return None;
        }
        let upto = next.map(|(next, _)| next.place);
        let unreadable: Vec<(ObjectKey, String)> = catalog
            .unreadable
            .iter()
            .filter(|(key, _)| {
                manifest_place(key)
                    .is_some_and(|at| at > mark.place && upto.is_none_or(|upto| at < upto) && self.has(at))
            })
            .cloned()
            .collect();
        if !unreadable.is_empty() {
            return Some(Hole::Unreadable(unreadable));
        }
        match next {
            Some((next, _)) if next.place.position > mark.place.position.next() => Some(Hole::Missing),
            Some(_) => Some(Hole::Changed),
            // A claim knows where it went on from.
            None => self
                .timelines
                .iter()
                .filter_map(|stretch| stretch.to)
                .any(|to| to > mark.place.position)
                .then_some(Hole::Missing),
        }
    }

    /// Whether `place` is on the line.
    fn has(&self, place: Place) -> bool {
        self.timelines
            .iter()
            .any(|stretch| stretch.timeline == place.timeline && stretch.to.is_none_or(|to| place.position <= to))
    }
}

/// The timelines that lead to `top`, as [`Catalog::ancestry`] walks them.
fn stretches(catalog: &Catalog, top: Timeline) -> Vec<Stretch> {
    let mut stretches = vec![Stretch { timeline: top, to: None }];
    let mut at = top;
    while let Some(parent) = catalog.claims.get(&at).and_then(|claim| claim.parent)
        && parent.place.timeline < at
    {
        at = parent.place.timeline;
        stretches.push(Stretch { timeline: at, to: Some(parent.place.position) });
    }
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
    let own = |entry: &Entry| line.iter().any(|mine| name(mine) == name(entry));
    match catalog.entries.values().find(|entry| !own(entry)) {
        Some(other) if !chosen => {
            Err(PlanError::Several { names: [name(newest), name(other)], timeline: other.manifest.timeline })
        }
        _ => Ok(()),
    }
}
