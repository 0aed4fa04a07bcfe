//! Which segments lead to a state. The one notion of what can be restored: plans, lists, verifying and retention all ask here.
//!
//! A segment from `a` to `b` leads to `b` from every state `q` with `a <= q < b` of its timeline: a page that it lacks did not change in between. So a state can be
//! reached in many ways: through what was folded, or through the segments that it was folded of while they are still there, from the newest full or from one before it.
//! All of them are looked at once, in the order of positions; the best way to a position goes on from the best way to one that its last segment may go on from.
//!
//! The best way begins at a full of a sound database, at the newest of these, and takes the fewest segments. What cannot be used (an object that is missing or has another
//! length, a note or an index that cannot be read) is no segment, so that smaller ones take its place where there are some.
//!
//! Of a link, what can be checked is checked: where a segment begins exactly at the state that it is laid over, the digests must be the same, and the manifest
//! before it the one that it was written after.

use std::collections::BTreeMap;

use super::super::index::Line;
use super::super::manifest::Manifest;
use super::super::{Digest, Kind, Place, Position, Soundness, Timeline};
use super::{Catalog, Entry};
use crate::object::Listed;

/// A piece of a way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Piece<'a> {
    /// A segment with its manifest.
    Whole(&'a Entry),
    /// What a fine segment begins with, up to a mark in it.
    Beginning(&'a Entry, &'a Line),
    /// A live segment; its manifest comes with it.
    Live(Place, &'a Listed),
}

impl Piece<'_> {
    /// Where it leads to.
    pub fn place(&self) -> Place {
        match self {
            Self::Whole(entry) => entry.manifest.place(),
            Self::Beginning(fine, line) => Place { position: line.position, ..fine.manifest.place() },
            Self::Live(place, _) => *place,
        }
    }

    /// What kind of segment.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Whole(entry) => entry.manifest.kind,
            Self::Beginning(..) => Kind::Fine,
            Self::Live(..) => Kind::Live,
        }
    }
}

/// A segment that may be a piece of a way.
struct Candidate<'a> {
    /// Nothing for a full.
    from: Option<Position>,
    to: Position,
    piece: Piece<'a>,
    /// Its manifest, where it is known. Of a beginning, that of the whole.
    entry: Option<&'a Entry>,
    /// What it leads to, where that is known.
    digest: Option<Digest>,
    fault: Option<String>,
}

/// The best way to a position. What is less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    damaged: bool,
    /// The newer the full, the better.
    start: std::cmp::Reverse<Position>,
    pieces: usize,
}

/// How a position is reached.
#[derive(Clone, Copy, Debug)]
struct Reached {
    at: Position,
    cost: Cost,
    /// The last piece, among the candidates.
    by: usize,
    /// The position that it is laid over; nothing for a full.
    over: Option<Position>,
    page_size: Option<u32>,
}

/// Why a segment is of no use.
#[derive(Clone, Debug)]
enum Useless {
    /// Something is wrong with itself.
    Own(String),
    /// Nothing that it goes on from can be reached.
    Below,
}

/// Whether a segment can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usable {
    /// It can.
    Yes,
    /// It can, but the database was damaged when its full was read; the first words about that.
    Damaged(String),
    /// It could, if what it goes on from could be reached; what is wrong there.
    Below(String),
    /// It cannot; why.
    No(String),
}

/// The ways along a timeline.
pub struct Ways<'a> {
    catalog: &'a Catalog,
    timeline: Timeline,
    /// In the order of where they lead to.
    candidates: Vec<Candidate<'a>>,
    /// As many.
    useless: Vec<Option<Useless>>,
    reached: BTreeMap<Position, Reached>,
}

impl<'a> Ways<'a> {
    /// Those of `timeline`, from the newest full at or before `from` on where that is asked for, up to `to`.
    pub(super) fn of(catalog: &'a Catalog, timeline: Timeline, from: Position, to: Position) -> Self {
        let mut candidates = candidates(catalog, timeline, from, to);
        candidates.sort_by_key(|candidate| candidate.to);
        let useless = vec![None; candidates.len()];
        let mut ways = Self { catalog, timeline, candidates, useless, reached: BTreeMap::new() };
        ways.walk();
        ways
    }

    fn walk(&mut self) {
        // Of what was reached, in the order of positions, what is better than all that was reached later: the best at or behind any position is the first one there.
        let mut best: Vec<Reached> = Vec::new();
        let mut at = 0;
        while let Some(to) = self.candidates.get(at).map(|candidate| candidate.to) {
            let end = at + self.candidates[at..].iter().take_while(|candidate| candidate.to == to).count();
            let mut reached: Option<Reached> = None;
            for index in at..end {
                match self.reach(index, &best) {
                    Ok(way) if reached.is_none_or(|known| way.cost < known.cost) => reached = Some(way),
                    Ok(_) => {}
                    Err(useless) => self.useless[index] = Some(useless),
                }
            }
            if let Some(way) = reached {
                while best.last().is_some_and(|known| known.cost >= way.cost) {
                    best.pop();
                }
                best.push(way);
                self.reached.insert(to, way);
            }
            at = end;
        }
    }

    /// The best way whose last piece is the candidate at `by`.
    fn reach(&self, by: usize, best: &[Reached]) -> Result<Reached, Useless> {
        let candidate = &self.candidates[by];
        if let Some(fault) = &candidate.fault {
            return Err(Useless::Own(fault.clone()));
        }
        let page_size = candidate.entry.map(|entry| entry.manifest.page_size);
        let Some(from) = candidate.from else {
            let damaged = candidate.entry.is_some_and(|e| matches!(e.manifest.soundness, Some(Soundness::Damaged(_))));
            let cost = Cost { damaged, start: std::cmp::Reverse(candidate.to), pieces: 1 };
            return Ok(Reached { at: candidate.to, cost, by, over: None, page_size });
        };
        let mut refused = None;
        for from in [from, from.next()] {
            let Some(over) = best.get(best.partition_point(|reached| reached.at < from)) else { break };
            match self.link(over, candidate) {
                Ok(()) => {
                    let cost = Cost { pieces: over.cost.pieces + 1, ..over.cost };
                    let page_size = page_size.or(over.page_size);
                    return Ok(Reached { at: candidate.to, cost, by, over: Some(over.at), page_size });
                }
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        Err(refused.map_or(Useless::Below, Useless::Own))
    }

    /// Whether `next` may be laid over the state that was `reached`, as far as can be told.
    fn link(&self, reached: &Reached, next: &Candidate<'_>) -> Result<(), String> {
        let over = &self.candidates[reached.by];
        let Some(after) = next.entry else { return Ok(()) };
        let to = after.manifest.place();
        let from = Place { position: reached.at, ..to };
        let other = || format!("{to} does not begin at the state of {from}");
        if reached.page_size.is_some_and(|size| size != after.manifest.page_size) {
            return Err(other());
        }
        if Some(reached.at) != next.from {
            return Ok(());
        }
        if over.digest.is_some() && after.manifest.digest_before != over.digest {
            return Err(other());
        }
        match over.entry {
            Some(before) if before.manifest.to == reached.at && self.catalog.contradicts(before, after) => {
                Err(format!("the manifest of {from} is not the one that {to} was written after"))
            }
            _ => Ok(()),
        }
    }

    /// The pieces that lead to `position`, a full first; or what keeps it from being restored.
    pub fn to(&self, position: Position) -> Result<Vec<Piece<'a>>, String> {
        let mut pieces = Vec::new();
        let mut at = Some(position);
        while let Some(position) = at {
            let reached = self.reached.get(&position).ok_or_else(|| self.why(position))?;
            pieces.push(self.candidates[reached.by].piece);
            at = reached.over;
        }
        pieces.reverse();
        Ok(pieces)
    }

    /// Whether `position` can be restored to a state of a database that was sound.
    pub fn is_sound(&self, position: Position) -> bool {
        self.reached.get(&position).is_some_and(|reached| !reached.cost.damaged)
    }

    /// What the engine said about the database at the full that `position` is reached from, where that was damage.
    pub fn damage(&self, position: Position) -> Option<&'a str> {
        let start = self.reached.get(&position)?.cost.start.0;
        let full = self.candidates[self.reached.get(&start)?.by].entry?;
        match &full.manifest.soundness {
            Some(Soundness::Damaged(why)) => Some(why),
            _ => None,
        }
    }

    /// Whether a segment can be used: of that `kind` to `position`, a primary one where no kind is named.
    pub fn usable(&self, kind: Kind, position: Position) -> Usable {
        let first = self.candidates.partition_point(|candidate| candidate.to < position);
        let own = |candidate: &Candidate<'_>| {
            candidate.piece.kind() == kind && !matches!(candidate.piece, Piece::Beginning(..))
        };
        let all = self.candidates[first..].iter().take_while(|candidate| candidate.to == position);
        let Some(index) = all.into_iter().position(own).map(|index| first + index) else {
            return Usable::No(self.none(position));
        };
        match &self.useless[index] {
            Some(Useless::Own(why)) => Usable::No(why.clone()),
            Some(Useless::Below) => {
                Usable::Below(self.candidates[index].from.map_or_else(String::new, |from| self.why(from)))
            }
            None => {
                let full = self.candidates[index].entry.map(|entry| &entry.manifest).filter(|m| m.kind == Kind::Full);
                let damage = match full {
                    Some(Manifest { soundness: Some(Soundness::Damaged(why)), .. }) => Some(why.as_str()),
                    Some(_) => None,
                    None => self.damage(position),
                };
                damage.map_or(Usable::Yes, |why| Usable::Damaged(why.to_owned()))
            }
        }
    }

    /// Why `position` cannot be reached.
    fn why(&self, position: Position) -> String {
        let mut position = position;
        loop {
            let first = self.candidates.partition_point(|candidate| candidate.to < position);
            let all = first..first + self.candidates[first..].iter().take_while(|c| c.to == position).count();
            let mut below = None;
            let mut own = None;
            for index in all {
                match &self.useless[index] {
                    Some(Useless::Own(why)) => own = own.or(Some(why.clone())),
                    Some(Useless::Below) => below = below.max(self.candidates[index].from),
                    None => {}
                }
            }
            match (below, own) {
                (Some(from), _) => position = from,
                (None, Some(why)) => return why,
                (None, None) => return self.none(position),
            }
        }
    }

    fn none(&self, position: Position) -> String {
        format!("there is no segment to {}", Place { timeline: self.timeline, position })
    }
}

/// All segments of `timeline` that lead to places behind `from`, the primary one at `from` itself included, up to `to`.
fn candidates<'a>(catalog: &'a Catalog, timeline: Timeline, from: Position, to: Position) -> Vec<Candidate<'a>> {
    let place = |position| Place { timeline, position };
    let (first, last) = (place(from), place(to));
    let whole = |entry: &'a Entry| Candidate {
        from: entry.manifest.from,
        to: entry.manifest.to,
        piece: Piece::Whole(entry),
        entry: Some(entry),
        digest: Some(entry.manifest.digest_after),
        fault: catalog.fault(entry),
    };
    let mut candidates: Vec<Candidate<'a>> =
        catalog.entries.range(first..=last).map(|(_, entry)| whole(entry)).collect();
    let folds = catalog.folds.range((first, Kind::Full)..=(last, Kind::Merged));
    candidates.extend(folds.map(|(_, entry)| whole(entry)));
    candidates.extend(catalog.live.range(first..=last).map(|(place, listed)| {
        let entry = catalog.notes.get(place);
        let unread = || catalog.why_unreadable(listed.key.as_str()).map(|why| format!("`{}`: {why}", listed.key));
        let empty = || (listed.bytes == 0).then(|| format!("`{}` is empty", listed.key));
        Candidate {
            from: Some(Position(place.position.0.saturating_sub(1))),
            to: place.position,
            piece: Piece::Live(*place, listed),
            entry,
            digest: entry.map(|entry| entry.manifest.digest_after),
            fault: entry.and_then(Entry::fault).or_else(unread).or_else(empty),
        }
    }));
    for (end, lines) in catalog.indexes.range(first..).take_while(|(end, _)| end.timeline == timeline) {
        let Some(fine) = catalog.folds.get(&(*end, Kind::Fine)) else { continue };
        let fault = catalog.fault(fine);
        let inside = lines.iter().filter(|line| line.position < end.position && (from..=to).contains(&line.position));
        candidates.extend(inside.map(|line| Candidate {
            from: fine.manifest.from,
            to: line.position,
            piece: Piece::Beginning(fine, line),
            entry: Some(fine),
            digest: Some(line.digest),
            fault: fault.clone(),
        }));
    }
    candidates
}
