//! What the listing and the manifests alone show. Pure.

use super::super::catalog::{Catalog, Entry};
use super::super::layout::{claim_key, manifest_key, manifest_place};
use super::super::plan::{Line, PlanError, State, state};
use super::super::{Kind, Place, Soundness, Timeline};
use super::{Finding, Report, YOUNG};
use crate::clock::Timestamp;

/// Looks at everything but the objects' bytes.
pub(super) fn look(catalog: &Catalog, now: Timestamp) -> Report {
    let objects = || catalog.entries.values().filter_map(|entry| entry.manifest.object.as_ref());
    let mut report = Report {
        segments: catalog.entries.len(),
        objects: objects().count(),
        stored_bytes: objects().map(|object| object.stored.bytes).sum(),
        ..Report::default()
    };
    for (key, why) in &catalog.unreadable {
        report.problems.push(Finding { object: key.to_string(), what: why.clone() });
    }
    let mut timelines: Vec<Timeline> = catalog.entries.keys().map(|place| place.timeline).collect();
    timelines.dedup();
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
    for (_, entry) in catalog.entries.iter().filter(|(place, _)| place.timeline == timeline) {
        let about = About { entry, key: manifest_key(entry.manifest.place()).to_string() };
        about.alone(catalog, report);
        if let Some(before) = before {
            about.after(before, catalog, report);
        }
        before = Some(entry);
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
    fn alone(&self, catalog: &Catalog, report: &mut Report) {
        let manifest = &self.entry.manifest;
        match state(&catalog.ways(manifest.timeline), self.entry) {
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
        if let Some(object) = manifest.object.as_ref().filter(|object| !object.key.starts_with(&own)) {
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
        // An increment's state has told it.
        if manifest.kind == Kind::Incremental || manifest.previous.as_ref() == Some(&before.sha256) {
            return;
        }
        let (from, to) = (earlier.place(), manifest.place());
        let between = |place: Place| from < place && place < to;
        if catalog.unreadable.iter().filter_map(|(key, _)| manifest_place(key)).any(between) {
            return;
        }
        if to.timeline == from.timeline && to.position == from.position.next() {
            report.problems.push(self.finding(format!("was written after another manifest of {from} than there is")));
        } else {
            // Retention thins out what it keeps for long.
            report.notes.push(self.finding(format!(
                "marks between it and {from} were removed or lost, or the manifest of {from} was changed"
            )));
        }
    }
}
