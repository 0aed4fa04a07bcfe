//! What the listing and the manifests alone show. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::super::catalog::{Catalog, Entry, Usable, Ways, along};
use super::super::layout::{claim_key, fold_key, manifest_key, manifest_place};
use super::super::manifest::Manifest;
use super::super::plan::{Line, PlanError, State, state};
use super::super::{Kind, Place, Position, Soundness, Timeline};
use super::{Finding, Report, YOUNG};
use crate::clock::Timestamp;

/// Looks at everything but the objects' bytes.
pub(super) fn look(catalog: &Catalog, now: Timestamp) -> Report {
    let named = || catalog.entries.values().chain(catalog.folds.values()).flat_map(|entry| entry.manifest.objects());
    let live = || catalog.live.values().map(|listed| listed.bytes);
    let mut report = Report {
        segments: catalog.entries.len() + catalog.folds.len() + catalog.live.len(),
        objects: named().count() + live().count(),
        stored_bytes: named().map(|object| object.stored.bytes).chain(live()).sum(),
        ..Report::default()
    };
    for (key, why) in &catalog.unreadable {
        report.problems.push(Finding { object: key.to_string(), what: why.clone() });
    }
    let written = catalog.entries.keys().chain(catalog.live.keys()).chain(catalog.folds.keys().map(|(place, _)| place));
    let timelines: BTreeSet<Timeline> = written.map(|place| place.timeline).collect();
    report.timelines = timelines.len();
    for timeline in timelines {
        look_along(catalog, timeline, &mut report);
    }
    if let Err(error @ (PlanError::Claim { .. } | PlanError::Several { .. })) = Line::of(catalog, None) {
        report.problems.push(Finding { object: "timelines".to_owned(), what: error.to_string() });
    }
    for object in catalog.unnamed.iter().filter(|object| now.since(object.modified) > YOUNG) {
        let what = format!("{} bytes since {} that no manifest names", object.bytes, object.modified);
        report.notes.push(Finding { object: object.key.to_string(), what });
    }
    report
}

fn look_along(catalog: &Catalog, timeline: Timeline, report: &mut Report) {
    if !catalog.claims.contains_key(&timeline) && !catalog.unreadable.iter().any(|(key, _)| *key == claim_key(timeline))
    {
        let what = "is missing: nobody has claimed this timeline, and it has marks".to_owned();
        report.problems.push(Finding { object: claim_key(timeline).to_string(), what });
    }
    let parent = catalog.claims.get(&timeline).and_then(|claim| claim.parent);
    let mut before = parent.and_then(|parent| catalog.entries.get(&parent.place));
    if let (Some(parent), Some(entry)) = (parent, before)
        && entry.manifest.digest_after != parent.digest
    {
        let what = format!("says that it goes on from another state of {} than there is", parent.place);
        report.problems.push(Finding { object: claim_key(timeline).to_string(), what });
    }
    let ways = catalog.ways(timeline);
    let (first, last) = along(timeline);
    for (place, entry) in catalog.entries.range(first..=last) {
        let about = About { entry, key: manifest_key(*place).to_string() };
        about.alone(&ways, report);
        if let Some(before) = before {
            about.after(before, catalog, report);
        }
        before = Some(entry);
    }
    for ((place, kind), entry) in catalog.folds.range((first, Kind::Full)..=(last, Kind::Merged)) {
        let about = About { entry, key: fold_key(*place, *kind).to_string() };
        about.alone(&ways, report);
        if let Some(why) = entry.index_fault() {
            report.problems.push(about.finding(format!("the marks inside it cannot be restored: {why}")));
        }
    }
    look_at_live(catalog, &ways, timeline, report);
    agree(catalog, timeline, report);
}

/// A line for each row of live segments that cannot be used, and for what their notes say about one another.
fn look_at_live(catalog: &Catalog, ways: &Ways<'_>, timeline: Timeline, report: &mut Report) {
    let (first, last) = along(timeline);
    let mut told: Option<Position> = None;
    // What was folded needs its live segments no more: they go, the oldest first.
    let folded = |place: Place| {
        let fines = catalog.folds.range((place, Kind::Full)..=(last, Kind::Merged));
        fines.filter(|((_, kind), _)| *kind == Kind::Fine).take(1).any(|((end, _), fine)| {
            fine.manifest.from.is_some_and(|from| from < place.position)
                && ways.usable(Kind::Fine, end.position) == Usable::Yes
        })
    };
    for (place, listed) in catalog.live.range(first..=last).filter(|(place, _)| !folded(**place)) {
        let why = match ways.usable(Kind::Live, place.position) {
            Usable::No(why) => format!("cannot be used: {why}"),
            Usable::Below(why) => format!("what it rests on cannot be used: {why}"),
            Usable::Yes | Usable::Damaged(_) => continue,
        };
        // The first of a row has the line.
        if told.map(Position::next) != Some(place.position) {
            report.problems.push(Finding { object: listed.key.to_string(), what: why });
        }
        told = Some(place.position);
    }
    for (place, note) in catalog.notes.range(first..=last) {
        let before = Place { position: Position(place.position.0.saturating_sub(1)), ..*place };
        let before = catalog.notes.get(&before);
        if before.is_some_and(|before| catalog.contradicts(before, note)) {
            let object = note.manifest.objects().map(|object| object.key.clone()).next().unwrap_or_default();
            report
                .problems
                .push(Finding { object, what: "was written after another one than the one before it".to_owned() });
        }
    }
}

/// Segments that lead to the same place must lead to the same state; and what the owner last said there is must be there.
fn agree(catalog: &Catalog, timeline: Timeline, report: &mut Report) {
    let (first, last) = along(timeline);
    let folds =
        catalog.folds.range((first, Kind::Full)..=(last, Kind::Merged)).map(|((place, _), entry)| (*place, entry));
    let notes = catalog.notes.range(first..=last).map(|(place, entry)| (*place, entry));
    let all = catalog.entries.range(first..=last).map(|(place, entry)| (*place, entry)).chain(folds).chain(notes);
    let mut states: BTreeMap<Place, &Manifest> = BTreeMap::new();
    for (place, entry) in all {
        let known = states.entry(place).or_insert(&entry.manifest);
        if known.digest_after != entry.manifest.digest_after {
            let what = format!("the {} and the {} segment lead to different states", known.kind, entry.manifest.kind);
            report.problems.push(Finding { object: place.to_string(), what });
        }
    }
    let Some(heartbeat) = catalog.heartbeats.get(&timeline) else { return };
    let tip = heartbeat.tip;
    let live = catalog.live.range(first..=last).next_back().map(|(place, _)| *place);
    let newest = states.keys().next_back().copied().max(live);
    if newest < Some(tip.place) {
        let what = format!("is missing: at {} its owner said that it is there", heartbeat.until);
        report.problems.push(Finding { object: tip.place.to_string(), what });
    }
    if states.get(&tip.place).is_some_and(|there| there.digest_after != tip.digest) {
        let what = format!("is another state than the one that its owner named at {}", heartbeat.until);
        report.problems.push(Finding { object: tip.place.to_string(), what });
    }
}

/// A segment and its manifest's key.
struct About<'a> {
    entry: &'a Entry,
    key: String,
}

impl About<'_> {
    fn finding(&self, what: String) -> Finding {
        Finding { object: self.key.clone(), what }
    }

    /// The segment and what it rests on.
    fn alone(&self, ways: &Ways<'_>, report: &mut Report) {
        let manifest = &self.entry.manifest;
        match state(ways, self.entry) {
            State::Restorable => {}
            State::Damaged(why) if manifest.kind == Kind::Full => {
                report.problems.push(self.finding(format!("the database was damaged when it was read: {why}")));
            }
            // The full has the line.
            State::Damaged(_) => {}
            State::Uploaded(why) => {
                report.problems.push(self.finding(format!("what it rests on cannot be used: {why}")))
            }
            State::Broken(why) => report.problems.push(self.finding(format!("cannot be used: {why}"))),
        }
        if let Some(Soundness::Unchecked(why)) = &manifest.soundness {
            report.notes.push(self.finding(format!("the database was not checked when it was read: {why}")));
        }
        let own = format!("{}/{}-", manifest.timeline, manifest.to);
        if let Some(object) = manifest.objects().find(|object| !object.key.starts_with(&own)) {
            report.problems.push(self.finding(format!("names the object of another position: `{}`", object.key)));
        }
    }

    /// The segment and the one before it.
    fn after(&self, before: &Entry, catalog: &Catalog, report: &mut Report) {
        let (manifest, earlier) = (&self.entry.manifest, &before.manifest);
        if manifest.observed < earlier.observed {
            let what =
                format!("its time {} lies before that of {}, {}", manifest.observed, earlier.place(), earlier.observed);
            report.problems.push(self.finding(what));
        }
        let (from, to) = (earlier.place(), manifest.place());
        // An increment's state has told it.
        if manifest.from == Some(from.position) || manifest.previous.as_ref() == Some(&before.sha256) {
            return;
        }
        let between = |place: Place| from < place && place < to;
        if catalog.unreadable.iter().filter_map(|(key, _)| manifest_place(key)).any(between) {
            return;
        }
        if to.timeline == from.timeline && to.position == from.position.next() {
            if catalog.contradicts(before, self.entry) {
                let what = format!("was written after another manifest of {from} than there is");
                report.problems.push(self.finding(what));
            }
        } else if !reached_by_tail(catalog, from, to) {
            // Retention thins out what it keeps for long.
            report.notes.push(self.finding(format!(
                "marks between it and {from} were removed or lost, or the manifest of {from} was changed"
            )));
        }
    }
}

/// Whether live segments, or what was folded of them, lead from the one place to the other without one missing.
fn reached_by_tail(catalog: &Catalog, from: Place, to: Place) -> bool {
    if from.timeline != to.timeline {
        return catalog.followed(from);
    }
    let mut at = from.position.next();
    while at < to.position {
        let place = Place { position: at, ..to };
        let fold = catalog
            .folds
            .range((place, Kind::Full)..=(along(to.timeline).1, Kind::Merged))
            .find(|((_, kind), fold)| *kind == Kind::Fine && fold.manifest.from.is_some_and(|from| from < at));
        at = match fold {
            Some(((end, _), _)) => end.position.next(),
            None if catalog.live.contains_key(&place) => at.next(),
            None => return false,
        };
    }
    true
}
