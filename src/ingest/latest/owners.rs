//! Who shows what: no series twice, no name with two meanings, no more series than allowed.
//!
//! Where two sources want the same, the one that comes first in the order of [`Rank`] has it, whichever was collected first: our own
//! metrics, then what was measured, then what others wrote to the table, and among equals by name. So the same sources come to the same
//! page, however a start went. A source that has to give something up loses it at once; one that may have it back has it with its next
//! collection.
//!
//! What can be contested is a series, and a name: a family's, with its type, and those of a histogram's or summary's parts (`x_count`
//! cannot be a gauge as well; a reader would take it for the histogram's). A group of series (one histogram) is shown whole or not at all.
//!
//! What a failed source showed stays its own, names included. At the limit the known series stay and new ones are dropped; our own
//! metrics and the few series that tell of a source's health do not count there, or the limit would hide why it was reached.
//!
//! Series are known by a 64-bit hash of their text, seeded anew by each process. That two of 100,000 are taken for one happens once in
//! some 4 billion starts, and then one of them is counted as a duplicate.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::sample::Kind;

use super::shown::{Shown, ShownFamily};

/// Where a source stands among those that want the same; the smallest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Our own metrics.
    Own,
    /// What a collector measured.
    Measured,
    /// What somebody wrote to the table.
    Table,
}

/// Why a series is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    Limit,
    Duplicate,
    TypeConflict,
}

impl Reason {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Duplicate => "duplicate",
            Self::TypeConflict => "type_conflict",
        }
    }
}

/// How many series of which source were dropped, and why.
pub(super) type Dropped = BTreeMap<(String, Reason), u64>;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Family(Kind),
    /// Series of the histogram or summary whose name it begins with.
    Part,
}

/// What a source has.
struct Held {
    number: u32,
    rank: Rank,
    shown: Arc<Shown>,
    /// Series of a failed source that keep their place, and names that keep their meaning.
    reserved: Vec<u64>,
    reserved_names: Vec<(String, Meaning)>,
}

/// A name's meaning and the numbers of the sources that use it.
struct Users {
    meaning: Meaning,
    numbers: Vec<u32>,
}

/// The series' owner: its number, and the round in which the series was last seen.
type Series = HashMap<u64, (u32, u32), BuildHasherDefault<AsItIs>>;

/// All sources and what they own.
#[derive(Default)]
pub(super) struct Owners {
    sources: BTreeMap<String, Held>,
    series: Series,
    names: HashMap<String, Users>,
    /// Grows with every put; a series seen in this put carries it.
    round: u32,
    next_number: u32,
}

/// A put on its way in.
struct Put<'a> {
    source: &'a str,
    rank: Rank,
    number: u32,
    round: u32,
    draft: &'a Shown,
    refused: Vec<Option<Reason>>,
    /// Places whose name was taken from another source.
    contested: Vec<usize>,
    /// Places that no source has yet.
    new: Vec<usize>,
}

impl Owners {
    /// How many series are shown or reserved, our own metrics aside.
    pub(super) fn len(&self) -> usize {
        let own = self.sources.values().filter(|held| held.rank == Rank::Own);
        self.series.len() - own.map(|held| held.shown.series.len()).sum::<usize>()
    }

    /// What every source shows, the first in rank first.
    pub(super) fn shown(&self) -> Vec<(String, Arc<Shown>)> {
        let mut held: Vec<_> = self.sources.iter().collect();
        held.sort_by_key(|(_, held)| held.rank);
        held.into_iter().map(|(name, held)| (name.clone(), Arc::clone(&held.shown))).collect()
    }

    /// Forgets all sources but our own metrics and those of which `keep` holds.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.sources.retain(|name, held| held.rank == Rank::Own || keep(name));
        let numbers: BTreeSet<u32> = self.sources.values().map(|held| held.number).collect();
        self.series.retain(|_, (number, _)| numbers.contains(number));
        self.names.retain(|_, users| {
            users.numbers.retain(|number| numbers.contains(number));
            !users.numbers.is_empty()
        });
    }

    /// Replaces what `source` shows by what of `draft` it may show. Of a `failed` one, what it had is reserved.
    pub(super) fn put(&mut self, source: &str, rank: Rank, draft: Shown, failed: bool, limit: usize) -> Dropped {
        let held = self.sources.remove(source);
        let number = held.as_ref().map_or(self.next_number, |held| held.number);
        self.next_number += u32::from(held.is_none());
        self.round = self.round.wrapping_add(1);
        // A failure says nothing about where a source's samples come from.
        let rank = held.as_ref().map_or(rank, |held| held.rank.max(rank));
        let refused = vec![None; draft.series.len()];
        let (contested, new) = (Vec::new(), Vec::new());
        let mut put = Put { source, rank, number, round: self.round, draft: &draft, refused, contested, new };
        let mut dropped = Dropped::new();

        self.names_of(&mut put, &mut dropped);
        let taken = self.known_of(&mut put);
        let reserved = self.leave(held.as_ref(), &put, failed);
        self.new_of(&mut put, limit);
        self.whole_groups(&mut put);
        self.give_up(&taken, &mut dropped);

        let refused = put.refused;
        for reason in refused.iter().flatten() {
            *dropped.entry((source.to_owned(), *reason)).or_default() += 1;
        }
        let places: Vec<bool> = refused.iter().map(Option::is_some).collect();
        let shown = if places.contains(&true) { draft.without(&places) } else { draft };
        let reserved_names = self.rename(held.as_ref(), number, &shown, failed);
        self.sources.insert(source.to_owned(), Held { number, rank, shown: Arc::new(shown), reserved, reserved_names });
        dropped
    }

    /// Settles the names: refuses families whose name has another meaning, or takes the name from those behind in rank.
    fn names_of(&mut self, put: &mut Put<'_>, dropped: &mut Dropped) {
        let mut mine: HashMap<String, Meaning> = HashMap::new();
        let mut taken: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for family in &put.draft.families {
            let wanted: Vec<(String, Meaning)> = meanings(put.draft, family).collect();
            let other = |(name, meaning): &(String, Meaning)| {
                let users = self.names.get(name).filter(|users| users.meaning != *meaning)?;
                let others: Vec<u32> = users.numbers.iter().copied().filter(|n| *n != put.number).collect();
                Some((name.clone(), others)).filter(|(_, others)| !others.is_empty())
            };
            let contested: Vec<(String, Vec<u32>)> = wanted.iter().filter_map(other).collect();
            let first = contested.iter().all(|(_, others)| others.iter().all(|n| self.is_behind(*n, put)));
            if !first || wanted.iter().any(|(name, meaning)| mine.get(name).is_some_and(|m| m != meaning)) {
                family.series.clone().for_each(|place| put.refused[place] = Some(Reason::TypeConflict));
                continue;
            }
            if !contested.is_empty() {
                put.contested.extend(family.series.clone());
            }
            for (name, others) in contested {
                for number in others {
                    taken.entry(number).or_default().insert(name.clone());
                }
            }
            mine.extend(wanted);
        }
        for (number, names) in taken {
            let of = |shown: &Shown| {
                let theirs = |family: &&ShownFamily| meanings(shown, family).any(|(name, _)| names.contains(&name));
                shown.families.iter().filter(theirs).flat_map(|family| family.series.clone()).collect()
            };
            self.evict(number, Reason::TypeConflict, of, dropped);
            if let Some((_, held)) = self.numbered(number) {
                held.reserved_names.retain(|(name, _)| !names.contains(name));
            }
            for name in &names {
                self.forget_name(name, number);
            }
        }
    }

    /// Marks the series that the source has already, refuses those of sources before it in rank, and gives what it takes from others.
    fn known_of(&mut self, put: &mut Put<'_>) -> BTreeMap<u32, BTreeSet<u64>> {
        let mut taken: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        for place in 0..put.draft.series.len() {
            if put.refused[place].is_some() {
                continue;
            }
            let hash = put.draft.series[place].hash;
            match self.series.get(&hash).copied() {
                None => put.new.push(place),
                Some((number, round)) if number == put.number && round != put.round => {
                    self.series.insert(hash, (number, put.round));
                }
                Some((number, _)) if number != put.number && self.is_behind(number, put) => {
                    self.series.insert(hash, (put.number, put.round));
                    taken.entry(number).or_default().insert(hash);
                }
                Some(_) => put.refused[place] = Some(Reason::Duplicate),
            }
        }
        taken
    }

    /// Old series that are gone make room before new ones are let in; those of a failed source keep their place and are given back.
    fn leave(&mut self, held: Option<&Held>, put: &Put<'_>, failed: bool) -> Vec<u64> {
        let mut reserved = Vec::new();
        let before = held.iter().flat_map(|h| h.shown.series.iter().map(|s| s.hash).chain(h.reserved.iter().copied()));
        for hash in before {
            if self.series.get(&hash).is_some_and(|&(owner, seen)| owner == put.number && seen != put.round) {
                match failed {
                    true => reserved.push(hash),
                    false => drop(self.series.remove(&hash)),
                }
            }
        }
        reserved
    }

    /// Lets new series in while there is room: health without asking, then those whose name was taken from others, then the rest.
    fn new_of(&mut self, put: &mut Put<'_>, limit: usize) {
        let health = health(put);
        let mut new = std::mem::take(&mut put.new);
        new.sort_by_key(|place| (!health.contains(place), put.contested.binary_search(place).is_err()));
        let own = self.series.len() - self.len();
        for place in new {
            let unlimited = put.rank == Rank::Own || health.contains(&place);
            let full = !unlimited && self.series.len() - own >= limit;
            match self.series.entry(put.draft.series[place].hash) {
                Entry::Occupied(_) => put.refused[place] = Some(Reason::Duplicate),
                Entry::Vacant(_) if full => put.refused[place] = Some(Reason::Limit),
                Entry::Vacant(room) => drop(room.insert((put.number, put.round))),
            }
        }
    }

    /// A group of which one series is refused is refused whole.
    fn whole_groups(&mut self, put: &mut Put<'_>) {
        for group in put.draft.groups().filter(|group| group.len() > 1) {
            let Some(reason) = put.refused[group.clone()].iter().flatten().min().copied() else { continue };
            for place in group.filter(|&place| put.refused[place].is_none()).collect::<Vec<_>>() {
                put.refused[place] = Some(reason);
                self.release(put.draft.series[place].hash, put.number);
            }
        }
    }

    /// Takes from other sources what this put has taken over.
    fn give_up(&mut self, taken: &BTreeMap<u32, BTreeSet<u64>>, dropped: &mut Dropped) {
        for (number, hashes) in taken {
            let of = |shown: &Shown| {
                let gone = |place: &usize| hashes.contains(&shown.series[*place].hash);
                shown.groups().filter(|group| group.clone().any(|place| gone(&place))).flatten().collect()
            };
            self.evict(*number, Reason::Duplicate, of, dropped);
            if let Some((_, held)) = self.numbered(*number) {
                held.reserved.retain(|hash| !hashes.contains(hash));
            }
        }
    }

    /// Drops from what source `number` shows the places that `of` names.
    fn evict(&mut self, number: u32, reason: Reason, of: impl Fn(&Shown) -> Vec<usize>, dropped: &mut Dropped) {
        let Some((name, held)) = self.numbered(number) else { return };
        let before = Arc::clone(&held.shown);
        let mut gone = vec![false; before.series.len()];
        of(&before).into_iter().for_each(|place| gone[place] = true);
        if !gone.contains(&true) {
            return;
        }
        let (name, after) = (name.to_owned(), Arc::new(before.without(&gone)));
        held.shown = Arc::clone(&after);
        for (name, _) in before.families.iter().flat_map(|family| meanings(&before, family)) {
            self.forget_name(&name, number);
        }
        for (name, meaning) in after.families.iter().flat_map(|family| meanings(&after, family)) {
            self.learn_name(name, meaning, number);
        }
        let places = (0..gone.len()).filter(|&place| gone[place]);
        for hash in places.map(|place| before.series[place].hash) {
            self.release(hash, number);
            *dropped.entry((name.clone(), reason)).or_default() += 1;
        }
    }

    /// Brings the table of names up to date with what the source shows now; gives the names that a failed one keeps.
    fn rename(&mut self, held: Option<&Held>, number: u32, shown: &Shown, failed: bool) -> Vec<(String, Meaning)> {
        let before: Vec<(String, Meaning)> = held.map_or_else(Vec::new, |held| {
            held.shown
                .families
                .iter()
                .flat_map(|f| meanings(&held.shown, f))
                .chain(held.reserved_names.clone())
                .collect()
        });
        for (name, _) in &before {
            self.forget_name(name, number);
        }
        for (name, meaning) in shown.families.iter().flat_map(|family| meanings(shown, family)) {
            self.learn_name(name, meaning, number);
        }
        let reserved = if failed { before } else { Vec::new() };
        let mut kept = Vec::new();
        for (name, meaning) in reserved {
            if self.learn_name(name.clone(), meaning, number) {
                kept.push((name, meaning));
            }
        }
        kept
    }

    /// Whether the name was new to the source and means that.
    fn learn_name(&mut self, name: String, meaning: Meaning, number: u32) -> bool {
        let users = self.names.entry(name).or_insert(Users { meaning, numbers: Vec::new() });
        let new = users.meaning == meaning && !users.numbers.contains(&number);
        if new {
            users.numbers.push(number);
        }
        new
    }

    fn forget_name(&mut self, name: &str, number: u32) {
        if let Some(users) = self.names.get_mut(name) {
            users.numbers.retain(|n| *n != number);
            if users.numbers.is_empty() {
                self.names.remove(name);
            }
        }
    }

    fn release(&mut self, hash: u64, number: u32) {
        if self.series.get(&hash).is_some_and(|(owner, _)| *owner == number) {
            self.series.remove(&hash);
        }
    }

    fn numbered(&mut self, number: u32) -> Option<(&str, &mut Held)> {
        self.sources.iter_mut().find(|(_, held)| held.number == number).map(|(name, held)| (name.as_str(), held))
    }

    /// Whether source `number` stands behind the one of `put`.
    fn is_behind(&self, number: u32, put: &Put<'_>) -> bool {
        let other = self.sources.iter().find(|(_, held)| held.number == number);
        other.is_none_or(|(name, held)| (put.rank, put.source) < (held.rank, name.as_str()))
    }
}

/// The names that a family uses.
fn meanings<'a>(shown: &'a Shown, family: &'a ShownFamily) -> impl Iterator<Item = (String, Meaning)> + 'a {
    let grouped = matches!(family.kind, Kind::Histogram | Kind::Summary);
    let parts = grouped.then(|| shown.suffixes(family)).into_iter().flatten();
    let parts = parts.map(|suffix| suffix.text()).filter(|suffix| !suffix.is_empty());
    let parts = parts.map(|suffix| (format!("{}{suffix}", family.name), Meaning::Part));
    std::iter::once((family.name.clone(), Meaning::Family(family.kind))).chain(parts)
}

/// The most series of one put that tell of its source's health. `scrape` adds four.
const HEALTH: usize = 8;

/// The places of the series that tell of the source's own health: by their names, and the only label `source`.
fn health(put: &Put<'_>) -> Vec<usize> {
    if put.rank == Rank::Own {
        return Vec::new();
    }
    let families = &put.draft.families;
    let first = families.partition_point(|family| family.name.as_str() < "atlas_sidecar_source_");
    let families = families[first..].iter().take_while(|family| family.name.starts_with("atlas_sidecar_source_"));
    let own = |family: &ShownFamily, place: usize| {
        let labels = put.draft.text_of(place).strip_prefix(family.name.as_bytes());
        labels.is_some_and(|labels| labels == format!("{{source=\"{}\"}} ", put.source).as_bytes())
    };
    let places = families.flat_map(|family| family.series.clone().filter(move |&place| own(family, place)));
    places.take(HEALTH).collect()
}

/// The keys are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only `write_u64` is ever called on a `u64` key; this keeps the contract for any other.
        self.0 = bytes.iter().fold(self.0, |hash, &b| hash.rotate_left(8) ^ u64::from(b));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
