//! `backup list`: what is at a destination, and what of it can be restored.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::shown::{columns, instant, size, span};
use super::super::{Exit, json_line};
use super::{There, out_of_reach};
use crate::backup::catalog::{Entry, Ways};
use crate::backup::plan::{self, Line, Mark, State};
use crate::backup::{Catalog, Kind, Place, Position, Timeline};
use crate::object::ObjectError;

/// Marks that a fine segment can have: more are a manifest that somebody has changed.
const MOST_MARKS: u64 = 1_000_000;

const HEAD: [&str; 8] = ["MARK", "KIND", "FROM", "OBSERVED", "SPAN", "STORED", "RATIO", "STATE"];

/// Reads what it takes to know the newest marks, and prints it.
pub(super) async fn run(mut there: There, json: bool) -> Exit {
    let newest = there.catalog.newest_notes();
    match there.catalog.read_details(there.store.as_ref(), there.identity.as_ref(), &newest).await {
        // It was folded since the listing: its time is not shown.
        Ok(()) | Err(ObjectError::Missing(_)) => {}
        Err(e) => return out_of_reach(&e),
    }
    let place = there.store.place();
    super::super::print(&match json {
        true => json_line(&document(&there.catalog, &place)),
        false => text(&there.catalog, &place),
    })
}

fn text(catalog: &Catalog, place: &str) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    for timeline in timelines(catalog) {
        let ways = catalog.ways(timeline);
        lines.extend(segments(catalog, timeline).into_iter().map(|entry| line(catalog, &ways, entry)));
        lines.extend(live_line(catalog, &ways, timeline));
    }
    let mut text = String::new();
    if lines.len() > 1 {
        text.push_str(&columns(&lines));
        text.push('\n');
    }
    for (key, why) in &catalog.unreadable {
        text.push_str(&format!("`{key}` cannot be read: {why}\n"));
    }
    for timeline in timelines(catalog) {
        text.push_str(&about(catalog, timeline));
    }
    if !catalog.unnamed.is_empty() {
        let bytes = catalog.unnamed.iter().map(|object| object.bytes).sum();
        let count = catalog.unnamed.len();
        text.push_str(&format!("objects that no manifest names: {count}, {}\n", size(bytes)));
    }
    let count = timelines(catalog).into_iter().map(|timeline| count(catalog, timeline)).sum::<usize>();
    let bytes = timelines(catalog).into_iter().map(|timeline| stored(catalog, timeline)).sum();
    text.push_str(&format!("{place}: {count} marks, {}\n", size(bytes)));
    text
}

/// Segments with manifests of their own, in the order of where they lead to.
fn segments(catalog: &Catalog, timeline: Timeline) -> Vec<&Entry> {
    let own = |place: &Place| place.timeline == timeline;
    let primary = catalog.entries.iter().filter(|(place, _)| own(place)).map(|(_, entry)| entry);
    let folds = catalog.folds.iter().filter(|((place, _), _)| own(place)).map(|(_, entry)| entry);
    let mut all: Vec<&Entry> = primary.chain(folds).collect();
    all.sort_by_key(|entry| (entry.manifest.to, entry.manifest.kind));
    all
}

fn live(catalog: &Catalog, timeline: Timeline) -> impl DoubleEndedIterator<Item = (Place, u64)> + '_ {
    let own = catalog.live.iter().filter(move |(place, _)| place.timeline == timeline);
    own.map(|(place, listed)| (*place, listed.bytes))
}

/// All live segments of a timeline, and when the newest was seen.
fn live_line(catalog: &Catalog, ways: &Ways<'_>, timeline: Timeline) -> Option<[String; HEAD.len()]> {
    let (first, last) = (live(catalog, timeline).next()?.0, live(catalog, timeline).next_back()?.0);
    let dash = || "-".to_owned();
    let bytes = live(catalog, timeline).map(|(_, bytes)| bytes).sum();
    Some([
        last.to_string(),
        format!("{} live", live(catalog, timeline).count()),
        Position(first.position.0.saturating_sub(1)).to_string(),
        catalog.notes.get(&last).map_or_else(dash, |note| instant(note.manifest.observed)),
        dash(),
        size(bytes),
        dash(),
        ways.to(last.position).map_or_else(|why| format!("broken: {why}"), |_| "restorable".to_owned()),
    ])
}

/// States that can be told apart: those inside fine segments as well.
fn count(catalog: &Catalog, timeline: Timeline) -> usize {
    let mut all: BTreeSet<u64> = live(catalog, timeline).map(|(place, _)| place.position.0).collect();
    for entry in segments(catalog, timeline) {
        match (entry.manifest.kind, entry.manifest.from) {
            (Kind::Fine, Some(from)) if entry.manifest.to.0 - from.0 <= MOST_MARKS => {
                all.extend(from.0 + 1..=entry.manifest.to.0);
            }
            _ => drop(all.insert(entry.manifest.to.0)),
        }
    }
    all.len()
}

fn line(catalog: &Catalog, ways: &Ways<'_>, entry: &Entry) -> [String; HEAD.len()] {
    let manifest = &entry.manifest;
    let state = plan::state(ways, entry);
    let gap = manifest.gap_from.map(|from| format!(", behind a gap from {}", instant(from))).unwrap_or_default();
    let dash = || "-".to_owned();
    let object = manifest.object.as_ref();
    [
        manifest.place().to_string(),
        manifest.kind.to_string(),
        manifest.from.map_or_else(dash, |from| from.to_string()),
        instant(manifest.observed),
        before(catalog, entry).map_or_else(dash, |before| span(manifest.observed.since(before.manifest.observed))),
        object.map_or_else(dash, |object| size(object.stored.bytes)),
        ratio(entry).map_or_else(dash, |ratio| format!("{ratio:.1}")),
        state.why().map_or_else(|| format!("{}{gap}", state.word()), |why| format!("{}: {why}{gap}", state.word())),
    ]
}

/// What a timeline holds, and from when until when it can be restored.
fn about(catalog: &Catalog, timeline: Timeline) -> String {
    let bytes = size(stored(catalog, timeline));
    let mut text = format!("{timeline}: {} marks, {bytes}", count(catalog, timeline));
    match window(catalog, timeline) {
        Some((first, last)) => {
            text.push_str(&format!(
                ", can be restored from {} until {}",
                instant(first.observed),
                instant(last.observed)
            ));
        }
        None => text.push_str(", cannot be restored"),
    }
    if let Some(heartbeat) = catalog.heartbeats.get(&timeline) {
        text.push_str(&format!(", nothing committed until {}", instant(heartbeat.until)));
    }
    if let Some(claim) = catalog.claims.get(&timeline) {
        let from = claim.parent.map_or_else(String::new, |parent| format!(", going on from {}", parent.place));
        text.push_str(&format!("; claimed by `{}` at {}{from}: {}", claim.host, instant(claim.claimed), claim.reason));
    }
    text.push('\n');
    text
}

fn document(catalog: &Catalog, place: &str) -> Value {
    let segments: Vec<Value> = timelines(catalog)
        .into_iter()
        .flat_map(|timeline| {
            let ways = catalog.ways(timeline);
            segments(catalog, timeline).into_iter().map(move |entry| segment(catalog, &ways, entry)).collect::<Vec<_>>()
        })
        .collect();
    let timelines: Vec<Value> = timelines(catalog)
        .into_iter()
        .map(|timeline| {
            let (window, claim) = (window(catalog, timeline), catalog.claims.get(&timeline));
            json!({
                "timeline": timeline,
                "restorable_from": window.map(|(first, _)| first.observed.to_rfc3339()),
                "restorable_until": window.map(|(_, last)| last.observed.to_rfc3339()),
                "live": live_document(catalog, timeline),
                "heartbeat": catalog.heartbeats.get(&timeline),
                "claim": claim,
            })
        })
        .collect();
    let unreadable = catalog.unreadable.iter().map(|(key, why)| json!({ "object": key.as_str(), "why": why }));
    let unnamed = catalog.unnamed.iter().map(|object| json!({ "object": object.key.as_str(), "bytes": object.bytes }));
    let timelines_bytes: u64 = self::timelines(catalog).into_iter().map(|timeline| stored(catalog, timeline)).sum();
    json!({
        "destination": place,
        "segments": segments,
        "timelines": timelines,
        "stored_bytes": timelines_bytes,
        "unreadable": unreadable.collect::<Vec<_>>(),
        "unnamed": unnamed.collect::<Vec<_>>(),
    })
}

/// The live segments of a timeline; nothing where there are none.
fn live_document(catalog: &Catalog, timeline: Timeline) -> Option<Value> {
    let (first, last) = (live(catalog, timeline).next()?.0, live(catalog, timeline).next_back()?.0);
    Some(json!({
        "count": live(catalog, timeline).count(),
        "from": first.position.0.saturating_sub(1),
        "to": last.position,
        "observed": catalog.notes.get(&last).map(|note| note.manifest.observed.to_rfc3339()),
        "stored_bytes": live(catalog, timeline).map(|(_, bytes)| bytes).sum::<u64>(),
    }))
}

fn segment(catalog: &Catalog, ways: &Ways<'_>, entry: &Entry) -> Value {
    let (manifest, state) = (&entry.manifest, plan::state(ways, entry));
    json!({
        "state": state.word(),
        "why": state.why(),
        "restorable": state == State::Restorable,
        "span_seconds": before(catalog, entry).map(|before| manifest.observed.since(before.manifest.observed).as_secs_f64()),
        "ratio": ratio(entry),
        "manifest_sha256": entry.sha256,
        "manifest": manifest,
    })
}

/// The segment that an increment begins at.
fn before<'a>(catalog: &'a Catalog, entry: &Entry) -> Option<&'a Entry> {
    catalog.entries.get(&Place { position: entry.manifest.from?, ..entry.manifest.place() })
}

/// How many times larger the plain bytes are.
fn ratio(entry: &Entry) -> Option<f64> {
    let object = entry.manifest.object.as_ref().filter(|object| object.stored.bytes > 0)?;
    Some(object.plain.bytes as f64 / object.stored.bytes as f64)
}

fn stored(catalog: &Catalog, timeline: Timeline) -> u64 {
    let named = segments(catalog, timeline).into_iter().flat_map(|entry| entry.manifest.objects());
    named.map(|object| object.stored.bytes).chain(live(catalog, timeline).map(|(_, bytes)| bytes)).sum()
}

/// Those with marks and those that were claimed.
fn timelines(catalog: &Catalog) -> BTreeSet<Timeline> {
    let written = catalog.entries.keys().chain(catalog.live.keys()).map(|place| place.timeline);
    written.chain(catalog.claims.keys().copied()).collect()
}

/// The oldest and the newest mark that can be restored on the line to `timeline`.
fn window(catalog: &Catalog, timeline: Timeline) -> Option<(Mark, Mark)> {
    Line::of(catalog, Some(timeline)).ok()?.window()
}
