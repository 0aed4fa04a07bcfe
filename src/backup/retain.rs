//! What is kept of a destination, and what may go: a pure plan, printed before anything is done about it ([`super::prune`]).
//!
//! # What is kept
//!
//! Every instant of the window can be restored: on each line of history that reaches into it, its *anchor*, which is the newest restorable mark at or before the
//! window's beginning, with the chain that leads there, and whatever is newer. Where nothing restorable is that old, all of the line is kept. A line that somebody left
//! behind (another timeline goes on from the middle of it, or nothing does) goes when its last mark has left the window, but for what newer lines
//! stand on. Besides, the newest full of each of the last weeks and months that are asked for.
//!
//! Behind the anchor every segment stays, the finest ones too, so that each instant of the window means the same mark as before. To the anchor the shortest way is enough: fine segments that
//! merged ones lead over go, and so do merged ones that a full has made superfluous. Live segments wait to be folded and are swept then ([`super::fold`]); here only those go that a fine one has had for longer
//! than the grace, which nobody swept, and those of lines that are left.
//!
//! # When nothing goes
//!
//! Where the newest mark is older than the window: whoever has made no backup for so long will want the old ones; and a clock that is years ahead looks just like
//! that (T-5). Objects that no manifest names go as well when they are old, but not while there is a manifest that cannot be read: it may be the one that names them.

mod lines;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use self::lines::{Lines, Segment, segment_of};
use super::catalog::{Catalog, Entry};
use super::layout::{fold_key, manifest_key};
use super::{Kind, Timeline};
use crate::clock::Timestamp;
use crate::object::{Listed, ObjectKey};

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
    let all = catalog.entries.len() + catalog.folds.len() + catalog.live.len();
    let begin = now.before(policy.window);
    let lines = Lines::of(catalog);
    let halted = match lines.newest_sound() {
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
    let living = lines.living(begin);
    let kept = keep(catalog, &lines, &living, policy, begin, now);
    let why = |timeline| if living.contains(&timeline) { Why::Outdated } else { Why::Left };
    let entries = catalog.entries.values().chain(catalog.folds.values());
    let mut condemned: Vec<Condemned> = entries
        .filter(|entry| !kept.contains(&segment_of(entry)))
        .flat_map(|entry| of_entry(entry, why(entry.manifest.timeline)))
        .collect();
    let live = catalog.live.iter().filter(|(place, _)| !kept.contains(&(**place, Kind::Live)));
    condemned.extend(live.map(|(place, object)| of_listed(object, why(place.timeline))));
    if catalog.unreadable.is_empty() {
        let old = now.before(policy.grace);
        let unnamed = catalog.unnamed.iter().filter(|object| object.modified < old);
        condemned.extend(unnamed.map(|object| of_listed(object, Why::Unnamed)));
    }
    condemned.sort();
    Plan { condemned, kept: kept.len(), halted: None }
}

fn of_listed(object: &Listed, why: Why) -> Condemned {
    Condemned { key: object.key.clone(), bytes: object.bytes, why }
}

/// A segment goes with its object, its index and its manifest.
fn of_entry(entry: &Entry, why: Why) -> Vec<Condemned> {
    let manifest = &entry.manifest;
    let named = [(&manifest.object, entry.listed_bytes), (&manifest.index, entry.listed_index_bytes)];
    let there = named.into_iter().filter_map(|(object, bytes)| Some((object.as_ref()?, bytes?)));
    let mut condemned: Vec<Condemned> =
        there.map(|(object, bytes)| Condemned { key: ObjectKey::ours(&object.key), bytes, why }).collect();
    let key = match manifest.kind {
        Kind::Fine | Kind::Merged => fold_key(manifest.place(), manifest.kind),
        Kind::Full | Kind::Incremental | Kind::Live => manifest_key(manifest.place()),
    };
    condemned.push(Condemned { key, bytes: 0, why });
    condemned
}

/// The segments that stay.
fn keep(
    catalog: &Catalog,
    lines: &Lines<'_>,
    living: &BTreeSet<Timeline>,
    policy: &Policy,
    begin: Timestamp,
    now: Timestamp,
) -> BTreeSet<Segment> {
    let mut keep: BTreeSet<Segment> = living.iter().flat_map(|timeline| lines.needed(*timeline, begin)).collect();
    if let Some(newest) = catalog.newest_timeline() {
        let fulls = lines.sound_fulls(newest);
        let week = |at: Timestamp| Some((at.millis() + 3 * 86_400_000).div_euclid(WEEK));
        keep.extend(newest_of_each(&fulls, policy.weeks, now, week));
        keep.extend(newest_of_each(&fulls, policy.months, now, month));
    }
    // What nothing else has is not for retention to take, as long as its timeline is of use: it waits to be folded.
    let of_living = catalog.live.keys().filter(|place| living.contains(&place.timeline));
    keep.extend(of_living.map(|place| (*place, Kind::Live)));
    let old = now.before(policy.grace);
    for place in lines.doubled(&keep) {
        if catalog.live.get(&place).is_some_and(|object| object.modified < old) {
            keep.remove(&(place, Kind::Live));
        }
    }
    keep
}

/// The newest full of each of the last `spans`, the present one included. `fulls` come the newest first.
fn newest_of_each(
    fulls: &[&Entry],
    spans: u64,
    now: Timestamp,
    span_of: impl Fn(Timestamp) -> Option<i64>,
) -> BTreeSet<Segment> {
    let mut seen = BTreeSet::new();
    let first = span_of(now).map(|now| now.saturating_sub_unsigned(spans));
    fulls
        .iter()
        .filter(|entry| {
            let span = span_of(entry.manifest.observed);
            span > first && span.is_some_and(|span| seen.insert(span))
        })
        .map(|entry| segment_of(entry))
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
