//! `backup list`: what is at a destination, and what of it can be restored.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::shown::{columns, instant, size, span};
use super::super::{Exit, json_line};
use super::There;
use crate::backup::catalog::Entry;
use crate::backup::plan::{self, Line, Mark, State};
use crate::backup::{Catalog, Place, Timeline};

const HEAD: [&str; 8] = ["MARK", "KIND", "FROM", "OBSERVED", "SPAN", "STORED", "RATIO", "STATE"];

/// Prints it.
pub(super) fn print(there: &There, json: bool) -> Exit {
    let place = there.store.place();
    super::super::print(&match json {
        true => json_line(&document(&there.catalog, &place)),
        false => text(&there.catalog, &place),
    })
}

fn text(catalog: &Catalog, place: &str) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(catalog.entries.values().map(|entry| line(catalog, entry)));
    let mut text = String::new();
    if !catalog.entries.is_empty() {
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
    text.push_str(&format!("{place}: {} marks, {}\n", catalog.entries.len(), size(stored(catalog.entries.values()))));
    text
}

fn line(catalog: &Catalog, entry: &Entry) -> [String; HEAD.len()] {
    let manifest = &entry.manifest;
    let state = plan::state(&catalog.ways(entry.manifest.timeline), entry);
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
        state.why().map_or_else(|| state.word().to_owned(), |why| format!("{}: {why}", state.word())),
    ]
}

/// What a timeline holds, and from when until when it can be restored.
fn about(catalog: &Catalog, timeline: Timeline) -> String {
    let own = || catalog.entries.values().filter(|entry| entry.manifest.timeline == timeline);
    let mut text = format!("{timeline}: {} marks, {}", own().count(), size(stored(own())));
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
    if let Some(claim) = catalog.claims.get(&timeline) {
        let from = claim.parent.map_or_else(String::new, |parent| format!(", going on from {}", parent.place));
        text.push_str(&format!("; claimed by `{}` at {}{from}: {}", claim.host, instant(claim.claimed), claim.reason));
    }
    text.push('\n');
    text
}

fn document(catalog: &Catalog, place: &str) -> Value {
    let segments: Vec<Value> = catalog.entries.values().map(|entry| segment(catalog, entry)).collect();
    let timelines: Vec<Value> = timelines(catalog)
        .into_iter()
        .map(|timeline| {
            let (window, claim) = (window(catalog, timeline), catalog.claims.get(&timeline));
            json!({
                "timeline": timeline,
                "restorable_from": window.map(|(first, _)| first.observed.to_rfc3339()),
                "restorable_until": window.map(|(_, last)| last.observed.to_rfc3339()),
                "claim": claim,
            })
        })
        .collect();
    let unreadable = catalog.unreadable.iter().map(|(key, why)| json!({ "object": key.as_str(), "why": why }));
    let unnamed = catalog.unnamed.iter().map(|object| json!({ "object": object.key.as_str(), "bytes": object.bytes }));
    json!({
        "destination": place,
        "segments": segments,
        "timelines": timelines,
        "stored_bytes": stored(catalog.entries.values()),
        "unreadable": unreadable.collect::<Vec<_>>(),
        "unnamed": unnamed.collect::<Vec<_>>(),
    })
}

fn segment(catalog: &Catalog, entry: &Entry) -> Value {
    let (manifest, state) = (&entry.manifest, plan::state(&catalog.ways(entry.manifest.timeline), entry));
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

fn stored<'a>(entries: impl Iterator<Item = &'a Entry>) -> u64 {
    entries.filter_map(|entry| entry.manifest.object.as_ref()).map(|object| object.stored.bytes).sum()
}

/// Those with marks and those that were claimed.
fn timelines(catalog: &Catalog) -> BTreeSet<Timeline> {
    catalog.entries.keys().map(|place| place.timeline).chain(catalog.claims.keys().copied()).collect()
}

/// The oldest and the newest mark that can be restored on the line to `timeline`.
fn window(catalog: &Catalog, timeline: Timeline) -> Option<(Mark, Mark)> {
    Line::of(catalog, Some(timeline)).ok()?.window()
}
