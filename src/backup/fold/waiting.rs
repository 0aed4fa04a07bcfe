//! What waits to be folded: pure, of a catalog.

use std::time::Duration;

use super::super::catalog::{Catalog, Entry};
use super::super::{Kind, Manifest, Place, Position, Timeline};
use crate::object::Listed;

/// The most marks of a fine segment: what is known about each is held while it is made. At one a second, not quite three hours.
const MOST_MARKS: usize = 10_000;

/// How many stored bytes of live segments go into a fine one, unless the first alone has more: what a single upload and a single restore step should be.
const MOST_BYTES: u64 = 4 << 30;

/// How much time a merged segment goes over.
const DAY: Duration = Duration::from_secs(86_400);

/// The fine segments of `timeline` that can be read with all their marks, as far as a listing tells, in the order of their ends.
pub(super) fn fines(catalog: &Catalog, timeline: Timeline) -> impl Iterator<Item = &Entry> {
    let of_timeline = catalog.folds.iter().filter(move |((place, _), _)| place.timeline == timeline);
    let whole = |entry: &Entry| entry.fault().is_none() && entry.index_fault().is_none();
    of_timeline.filter(move |((_, kind), entry)| *kind == Kind::Fine && whole(entry)).map(|(_, entry)| entry)
}

/// Fine segments of a timeline, in the order of their ends.
pub(super) struct Covering<'a>(pub(super) Vec<&'a Manifest>);

impl Covering<'_> {
    /// Whether one of them leads over `position`.
    pub(super) fn covers(&self, position: Position) -> bool {
        // Those that end behind it come after all that do not; the first of them mostly is the one.
        let behind = self.0.partition_point(|fine| fine.to < position);
        self.0[behind..].iter().any(|fine| fine.from.is_some_and(|from| from < position))
    }
}

/// The live segments that no fine one covers and that `readable` says can be read: consecutive ones together, cut where they are too many.
pub(super) fn runs<'a>(
    catalog: &'a Catalog,
    timeline: Timeline,
    mut readable: impl FnMut(Place, &Listed) -> bool,
) -> Vec<Vec<(Place, &'a Listed)>> {
    let covering = Covering(fines(catalog, timeline).map(|entry| &entry.manifest).collect());
    let mut runs: Vec<Vec<(Place, &Listed)>> = Vec::new();
    let mut bytes = 0;
    for (place, listed) in catalog.live.iter().filter(|(place, _)| place.timeline == timeline) {
        if covering.covers(place.position) || !readable(*place, listed) {
            continue;
        }
        let fits = |run: &&mut Vec<(Place, &Listed)>| {
            let goes_on = run.last().is_some_and(|(last, _)| last.position.next() == place.position);
            goes_on && run.len() < MOST_MARKS && bytes + listed.bytes <= MOST_BYTES
        };
        match runs.last_mut().filter(fits) {
            Some(run) => {
                run.push((*place, listed));
                bytes += listed.bytes;
            }
            None => {
                runs.push(vec![(*place, listed)]);
                bytes = listed.bytes;
            }
        }
    }
    runs
}

/// The fine segments behind the newest merged one that follow one another: at least two, and no more than a day of them, together.
pub(super) fn days(catalog: &Catalog, timeline: Timeline) -> Vec<Vec<&Entry>> {
    let merged = catalog.folds.iter().filter(|((place, kind), entry)| {
        place.timeline == timeline && *kind == Kind::Merged && entry.fault().is_none()
    });
    let begin = merged.map(|((place, _), _)| place.position).max();
    let mut days: Vec<Vec<&Entry>> = Vec::new();
    for fine in fines(catalog, timeline).filter(|fine| begin.is_none_or(|begin| fine.manifest.from >= Some(begin))) {
        let fits = |day: &&mut Vec<&Entry>| {
            let first = day.first().and_then(|first| first.manifest.first_observed);
            day.last().is_some_and(|last| {
                Some(last.manifest.to) == fine.manifest.from && last.manifest.page_size == fine.manifest.page_size
            }) && first.is_some_and(|first| fine.manifest.observed.since(first) <= DAY)
        };
        match days.last_mut().filter(fits) {
            Some(day) => day.push(fine),
            None => days.push(vec![fine]),
        }
    }
    days.retain(|day| day.len() > 1);
    days
}

/// What is known about the state at `place`.
pub(super) fn known(catalog: &Catalog, place: Place) -> Option<&Manifest> {
    let folded = [Kind::Fine, Kind::Merged].into_iter().find_map(|kind| catalog.folds.get(&(place, kind)));
    catalog.entries.get(&place).or(folded).or_else(|| catalog.notes.get(&place)).map(|entry| &entry.manifest)
}
