//! What is kept of a destination, and what may go: a pure plan, printed before anything is done about it ([`super::prune`]).
//!
//! # What is kept
//!
//! Every instant of the window can be restored: on each line of history that reaches into it, its *anchor*, which is the newest restorable mark at or before the
//! window's beginning, with the chain that leads there, and whatever is newer. Where nothing restorable is that old, all of the line is kept. A line that somebody left
//! behind (another timeline goes on from the middle of it, or nothing does) goes when its last mark has left the window, but for what newer lines
//! stand on. Besides, the newest full of each of the last weeks and months that are asked for.
//!
//! # When nothing goes
//!
//! Where the newest mark is older than the window: whoever has made no backup for so long will want the old ones; and a clock that is years ahead looks just like
//! that (T-5). Objects that no manifest names go as well when they are old, but not while there is a manifest that cannot be read: it may be the one that names them.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::catalog::{Catalog, Entry};
use super::layout::manifest_key;
use super::plan::Line;
use super::{Kind, Place, Timeline};
use crate::clock::Timestamp;
use crate::object::ObjectKey;

/// A week, in milliseconds.
const WEEK: i64 = 7 * 86_400_000;

/// What is kept for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How far back any instant can be restored.
    pub window: Duration,
    /// For how many weeks the newest full of each is kept, the present one included.
    pub weeks: u64,
    /// For how many months, likewise.
    pub months: u64,
    /// How long after it was condemned an object goes: longer than any restore takes, and than it takes to notice a mistake.
    pub grace: Duration,
}

/// Why an object may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// No instant of the window needs it.
    Outdated,
    /// It belongs to a line that was left, and whose last mark has left the window.
    Left,
    /// No manifest names it, and it is old.
    Unnamed,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outdated => "outdated",
            Self::Left => "left behind",
            Self::Unnamed => "named by no manifest",
        })
    }
}

/// An object that may go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condemned {
    /// Its key.
    pub key: ObjectKey,
    /// How long it is; of manifests, zero.
    pub bytes: u64,
    /// Why.
    pub why: Why,
}

/// What may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The objects, in the order of their keys.
    pub condemned: Vec<Condemned>,
    /// How many segments are kept.
    pub kept: usize,
    /// Why nothing goes, where that is so whatever there is.
    pub halted: Option<String>,
}

/// What of `catalog` may go at `now`.
pub fn plan(catalog: &Catalog, policy: &Policy, now: Timestamp) -> Plan {
    let all = catalog.entries.len();
    let begin = now.before(policy.window);
    let newest = catalog.entries.values().filter(|e| is_sound(catalog, e)).map(|e| e.manifest.observed).max();
    let halted = match newest {
        None if all == 0 => None,
        None => Some("there is no backup that can be restored".to_owned()),
        Some(newest) if newest < begin => Some(format!(
            "the newest backup that can be restored, of {newest}, is older than the window: first make a new one"
        )),
        Some(_) => None,
    };
    if halted.is_some() {
        return Plan { condemned: Vec::new(), kept: all, halted };
    }
    let keep = keep(catalog, policy, begin, now);
    let mut condemned: Vec<Condemned> = catalog
        .entries
        .iter()
        .filter(|(place, _)| !keep.contains(place))
        .flat_map(|(place, entry)| {
            let why = if is_living(catalog, place.timeline, begin) { Why::Outdated } else { Why::Left };
            let object = entry.manifest.object.as_ref().filter(|_| entry.listed_bytes.is_some()).map(|object| {
                Condemned { key: ObjectKey::ours(&object.key), bytes: entry.listed_bytes.unwrap_or(0), why }
            });
            object.into_iter().chain([Condemned { key: manifest_key(*place), bytes: 0, why }])
        })
        .collect();
    if catalog.unreadable.is_empty() {
        let old = now.before(policy.grace);
        condemned.extend(catalog.unnamed.iter().filter(|object| object.modified < old).map(|object| Condemned {
            key: object.key.clone(),
            bytes: object.bytes,
            why: Why::Unnamed,
        }));
    }
    condemned.sort();
    Plan { condemned, kept: keep.len(), halted: None }
}

/// The places that stay.
fn keep(catalog: &Catalog, policy: &Policy, begin: Timestamp, now: Timestamp) -> BTreeSet<Place> {
    let mut keep = BTreeSet::new();
    let timelines: BTreeSet<Timeline> = catalog.entries.keys().map(|place| place.timeline).collect();
    for timeline in timelines.into_iter().filter(|timeline| is_living(catalog, *timeline, begin)) {
        let Ok(line) = Line::of(catalog, Some(timeline)) else {
            // Nobody can tell what would be restored.
            keep.extend(catalog.ancestry(timeline).iter().map(|entry| entry.manifest.place()));
            continue;
        };
        for (mark, entry) in line.marks().rev() {
            // A chain reaches back beyond what is newer than the anchor; a broken one is kept as far as it goes.
            keep.insert(mark.place);
            keep.extend(
                catalog.cover(mark.place.timeline, mark.place.position).unwrap_or_default().iter().map(|p| p.place()),
            );
            if mark.observed <= begin && is_sound(catalog, entry) {
                break;
            }
        }
    }
    if let Some(newest) = catalog.newest_timeline() {
        let fulls: Vec<&Entry> = catalog
            .ancestry(newest)
            .into_iter()
            .filter(|e| e.manifest.kind == Kind::Full && is_sound(catalog, e))
            .collect();
        keep.extend(newest_of_each(&fulls, policy.weeks, now, |at| {
            Some((at.millis() + 3 * 86_400_000).div_euclid(WEEK))
        }));
        keep.extend(newest_of_each(&fulls, policy.months, now, month));
    }
    keep
}

/// The newest full of each of the last `spans`, the present one included. `fulls` come the newest first.
fn newest_of_each(
    fulls: &[&Entry],
    spans: u64,
    now: Timestamp,
    span_of: impl Fn(Timestamp) -> Option<i64>,
) -> BTreeSet<Place> {
    let mut seen = BTreeSet::new();
    let first = span_of(now).map(|now| now.saturating_sub_unsigned(spans));
    fulls
        .iter()
        .filter(|entry| {
            let span = span_of(entry.manifest.observed);
            span > first && span.is_some_and(|span| seen.insert(span))
        })
        .map(|entry| entry.manifest.place())
        .collect()
}

/// The number of the month (UTC), counted on over the years.
fn month(at: Timestamp) -> Option<i64> {
    let text = at.to_rfc3339();
    let mut parts = text.split('-');
    let year: i64 = parts.next()?.parse().ok()?;
    let month: i64 = parts.next()?.parse().ok()?;
    Some(year * 12 + month)
}

/// Whether a line's history reaches into the window: its last mark is there, or it is the one that is being written.
fn is_living(catalog: &Catalog, timeline: Timeline, begin: Timestamp) -> bool {
    catalog.newest_timeline() == Some(timeline)
        || Line::of(catalog, Some(timeline))
            .is_ok_and(|line| line.marks().next_back().is_some_and(|(last, _)| last.observed >= begin))
}

/// Whether the state it leads to can be restored and is worth it, as far as a listing and the manifests tell.
fn is_sound(catalog: &Catalog, entry: &Entry) -> bool {
    catalog.sound_chain(entry.manifest.place()).is_ok()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.halted {
            return writeln!(f, "nothing may go: {why}");
        }
        for condemned in &self.condemned {
            writeln!(f, "{:>14}  {}  ({})", condemned.bytes, condemned.key, condemned.why)?;
        }
        let bytes: u64 = self.condemned.iter().map(|c| c.bytes).sum();
        writeln!(f, "{} objects may go, with {bytes} bytes; {} segments stay", self.condemned.len(), self.kept)
    }
}

#[cfg(test)]
mod tests;
