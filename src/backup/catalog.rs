//! The catalog: what a destination holds. The store is the truth; nothing else is asked.
//!
//! [`Catalog::load`] lists and fetches; what follows from it ([`Catalog::of`], ways, marks) is pure, so that restoring, verifying and deleting plan on the
//! same picture, and tests on pictures that no store has to hold. What there are thousands of is listed only, and read where an answer depends on it
//! ([`Catalog::read_details`]).

pub(in crate::backup) mod details;
mod ways;

use std::collections::{BTreeMap, HashSet};

pub use details::Need;
pub use ways::{Piece, Usable, Ways};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::claim::winners;
use super::index::Line;
use super::layout::{FORMAT, claimed, folded, format_key, heartbeat_of, live_place, manifest_place, numbered};
use super::manifest::{self, Manifest, Object, Sum, rfc3339};
use super::{Base, Kind, Place, Position, Soundness, Timeline};
use crate::clock::Timestamp;
use crate::object::{Listed, ObjectError, ObjectKey, ObjectStore, get_small, list_all};

/// Manifests fetched at a time: enough to hide a store's latency, few enough for a Raspberry Pi.
const AT_A_TIME: usize = 8;

/// The longest claim or format that is read.
const MOST_SMALL_BYTES: u64 = 64 << 10;

/// Who has a timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The version of this layout: [`FORMAT`].
    pub format: u32,
    /// Which one.
    pub timeline: Timeline,
    /// The state of another timeline that it goes on from; nothing where there is none.
    pub parent: Option<Base>,
    /// The machine.
    pub host: String,
    /// The installation.
    pub instance: String,
    /// Which file it was ([`super::Look::identity`]).
    pub identity: String,
    /// Why, for people.
    pub reason: String,
    /// When, by the owner's clock.
    #[serde(with = "rfc3339")]
    pub claimed: Timestamp,
}

/// A segment that was committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its manifest.
    pub manifest: Manifest,
    /// The SHA-256 of the manifest's bytes.
    pub sha256: Sum,
    /// How long the object is that the manifest names, by the listing; nothing where there is none.
    pub listed_bytes: Option<u64>,
    /// The same of its index.
    pub listed_index_bytes: Option<u64>,
}

impl Entry {
    /// Of the `manifest` in `bytes`, its object's length being among `lengths`.
    fn of(manifest: Manifest, bytes: &[u8], lengths: &BTreeMap<&str, u64>) -> Self {
        let listed = |object: &Option<Object>| object.as_ref().and_then(|o| lengths.get(o.key.as_str()).copied());
        let (listed_bytes, listed_index_bytes) = (listed(&manifest.object), listed(&manifest.index));
        Self { manifest, sha256: Sum::of(bytes), listed_bytes, listed_index_bytes }
    }

    /// Of what was just committed: its objects are there as its manifest says.
    pub fn committed(manifest: Manifest, sha256: Sum) -> Self {
        let length = |object: &Option<Object>| object.as_ref().map(|object| object.stored.bytes);
        let (listed_bytes, listed_index_bytes) = (length(&manifest.object), length(&manifest.index));
        Self { manifest, sha256, listed_bytes, listed_index_bytes }
    }

    /// What keeps it from being used, as far as a listing can tell.
    pub fn fault(&self) -> Option<String> {
        fault(self.manifest.object.as_ref()?, self.listed_bytes)
    }

    /// What keeps the marks inside it from being known: of its end, nothing.
    pub fn index_fault(&self) -> Option<String> {
        fault(self.manifest.index.as_ref()?, self.listed_index_bytes)
    }
}

fn fault(object: &Object, listed_bytes: Option<u64>) -> Option<String> {
    match listed_bytes {
        None => Some(format!("`{}` is missing", object.key)),
        Some(bytes) if bytes != object.stored.bytes => {
            Some(format!("`{}` has {bytes} bytes, its manifest says {}", object.key, object.stored.bytes))
        }
        Some(_) => None,
    }
}

/// A word of the owner of a timeline: nothing but what is in the store was committed until then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// The version of this layout: [`FORMAT`].
    pub format: u32,
    /// The newest state in the store.
    pub tip: Base,
    /// Until when it was the newest.
    #[serde(with = "rfc3339")]
    pub until: Timestamp,
}

/// What a destination holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// Who has which timeline.
    pub claims: BTreeMap<Timeline, Claim>,
    /// Fulls and increments with a manifest of their own, by where they lead to.
    pub entries: BTreeMap<Place, Entry>,
    /// What was folded, by where it leads to and [`Kind::Fine`] or [`Kind::Merged`].
    pub folds: BTreeMap<(Place, Kind), Entry>,
    /// Live segments, as they are listed. There may be thousands: their notes are read where somebody wants them.
    pub live: BTreeMap<Place, Listed>,
    /// The notes of live segments that were read.
    pub notes: BTreeMap<Place, Entry>,
    /// The indexes of fine segments that were read, by where these lead to.
    pub indexes: BTreeMap<Place, Vec<Line>>,
    /// The newest heartbeat of each timeline.
    pub heartbeats: BTreeMap<Timeline, Heartbeat>,
    /// Objects under a timeline that no manifest names: what a crash left, or somebody else's.
    pub unnamed: Vec<Listed>,
    /// Manifests and claims that cannot be read, with the reason.
    pub unreadable: Vec<(ObjectKey, String)>,
}

impl Catalog {
    /// Reads it from `store`; an empty one where nothing was ever stored. A newer layout is refused.
    pub async fn load(store: &dyn ObjectStore) -> Result<Self, ObjectError> {
        check_format(store).await?;
        let listed = list_all(store, "").await?;
        let wanted: Vec<ObjectKey> = listed
            .iter()
            .map(|object| &object.key)
            .filter(|key| manifest_place(key).is_some() || folded(key).is_some() || claimed(key).is_some())
            .chain(newest_heartbeats(&listed).into_values())
            .cloned()
            .collect();
        let documents = stream::iter(wanted)
            .map(|key| async move {
                match get_small(store, &key, manifest::MOST_BYTES).await {
                    Ok(bytes) => Ok(Some((key, bytes))),
                    // Retention took it since the listing.
                    Err(ObjectError::Missing(_)) => Ok(None),
                    Err(e) => Err(e),
                }
            })
            .buffer_unordered(AT_A_TIME)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(Self::of(&listed, documents.into_iter().flatten()))
    }

    /// Makes it of a listing and of the documents in it.
    pub fn of(listed: &[Listed], documents: impl IntoIterator<Item = (ObjectKey, Bytes)>) -> Self {
        let mut catalog = Self::default();
        let lengths: BTreeMap<&str, u64> = listed.iter().map(|o| (o.key.as_str(), o.bytes)).collect();
        let winners = winners(listed);
        for (key, bytes) in documents {
            // Where claims cannot be created under a condition there may be several of a timeline: the others have lost.
            if claimed(&key).is_some_and(|timeline| winners.get(&timeline).is_some_and(|winner| **winner != key)) {
                continue;
            }
            if let Err(why) = catalog.take(&key, &bytes, &lengths) {
                catalog.unreadable.push((key, why));
            }
        }
        catalog.unreadable.sort();
        catalog.live = listed.iter().filter_map(|object| Some((live_place(&object.key)?, object.clone()))).collect();
        let segments = catalog.entries.values().chain(catalog.folds.values());
        let named: HashSet<&str> =
            segments.flat_map(|entry| entry.manifest.objects()).map(|object| object.key.as_str()).collect();
        let is_ours = |key: &ObjectKey| {
            named.contains(key.as_str())
                || manifest_place(key).is_some()
                || folded(key).is_some()
                || live_place(key).is_some()
                || heartbeat_of(key).is_some()
        };
        let under_a_timeline =
            |key: &ObjectKey| key.as_str().split_once('/').is_some_and(|(t, _)| Timeline::parse(t).is_some());
        let unnamed = listed.iter().filter(|o| under_a_timeline(&o.key) && !is_ours(&o.key)).cloned().collect();
        catalog.unnamed = unnamed;
        catalog
    }

    fn take(&mut self, key: &ObjectKey, bytes: &Bytes, lengths: &BTreeMap<&str, u64>) -> Result<(), String> {
        if let Some(place) = manifest_place(key) {
            let manifest = Manifest::from_bytes(bytes)?;
            if manifest.place() != place {
                return Err(format!("a manifest of {}", manifest.place()));
            }
            self.entries.insert(place, Entry::of(manifest, bytes, lengths));
        } else if let Some((place, kind)) = folded(key) {
            let manifest = Manifest::from_bytes(bytes)?;
            if (manifest.place(), manifest.kind) != (place, kind) {
                return Err(format!("a manifest of a {} segment to {}", manifest.kind, manifest.place()));
            }
            self.folds.insert((place, kind), Entry::of(manifest, bytes, lengths));
        } else if let Some(timeline) = heartbeat_of(key) {
            let heartbeat: Heartbeat = serde_json::from_slice(bytes).map_err(|e| format!("no heartbeat: {e}"))?;
            if heartbeat.tip.place.timeline != timeline || heartbeat.format != FORMAT {
                return Err(format!("a heartbeat of {} in format {}", heartbeat.tip.place, heartbeat.format));
            }
            self.heartbeats.insert(timeline, heartbeat);
        } else if let Some(timeline) = claimed(key) {
            let claim: Claim = serde_json::from_slice(bytes).map_err(|e| format!("no claim: {e}"))?;
            if claim.timeline != timeline || claim.format != FORMAT {
                return Err(format!("a claim of {} in format {}", claim.timeline, claim.format));
            }
            self.claims.insert(timeline, claim);
        }
        Ok(())
    }

    /// Whether nobody ever wrote there.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
            && self.entries.is_empty()
            && self.live.is_empty()
            && self.unnamed.is_empty()
            && self.unreadable.is_empty()
    }

    /// The newest state of `timeline` that is known: of a segment with a manifest, of what was folded, or of a live segment whose note was read
    /// ([`Catalog::newest_notes`]). Where several lead to the same place it is the first of these.
    pub fn tip(&self, timeline: Timeline) -> Option<&Entry> {
        let (first, last) = along(timeline);
        let primary = self.entries.range(first..=last).next_back();
        let fold = self.folds.range((first, Kind::Full)..=(last, Kind::Merged)).next_back();
        let note = self.notes.range(first..=last).next_back();
        let folded = fold.map(|((place, _), entry)| (place, entry));
        let mut newest = primary;
        for other in [note, folded] {
            if other.map(|(place, _)| place) > newest.map(|(place, _)| place) {
                newest = other;
            }
        }
        newest.map(|(_, entry)| entry)
    }

    /// The newest timeline that was claimed.
    pub fn newest_timeline(&self) -> Option<Timeline> {
        let written = self.entries.keys().chain(self.live.keys()).map(|place| place.timeline);
        self.claims.keys().copied().chain(written).max()
    }

    /// The highest number of a timeline that anything in the store has, readable or not: the next one is free.
    pub fn highest_timeline(&self) -> Option<Timeline> {
        let others = self.unreadable.iter().map(|(key, _)| key).chain(self.unnamed.iter().map(|o| &o.key));
        let others = others.filter_map(|key| claimed(key).or_else(|| numbered(key).map(|place| place.timeline)));
        self.newest_timeline().into_iter().chain(others).max()
    }

    /// The highest number of a position that was committed, on any timeline, readable or not.
    ///
    /// Objects that no manifest names do not count. If they did, a copied machine that is about to commit this number would see another one commit the
    /// number behind it, and both would succeed.
    pub fn highest_position(&self) -> Option<Position> {
        let unreadable = self.unreadable.iter().filter_map(|(key, _)| manifest_place(key));
        let folded = self.folds.keys().map(|(place, _)| *place);
        self.entries
            .keys()
            .copied()
            .chain(self.live.keys().copied())
            .chain(folded)
            .chain(unreadable)
            .map(|place| place.position)
            .max()
    }

    /// All ways along `timeline`: for whoever asks about more than one position.
    pub fn ways(&self, timeline: Timeline) -> Ways<'_> {
        Ways::of(self, timeline, Position(0), Position(u64::MAX))
    }

    /// What a restore of `target` applies, the full first; or what keeps it from being restored.
    pub fn cover(&self, timeline: Timeline, target: Position) -> Result<Vec<Piece<'_>>, String> {
        // The newest full is nearly always the one that is begun at.
        let upto = self.entries.range(along(timeline).0..=Place { timeline, position: target });
        let full = upto.rev().find(|(_, entry)| entry.manifest.kind == Kind::Full).map(|(place, _)| place.position);
        if let Some(full) = full {
            let ways = Ways::of(self, timeline, full, target);
            if ways.is_sound(target) {
                return ways.to(target);
            }
        }
        Ways::of(self, timeline, Position(0), target).to(target)
    }

    /// The same for what is worth restoring: a full of a database that was found damaged is kept, but is no backup.
    pub fn sound_chain(&self, place: Place) -> Result<Vec<Piece<'_>>, String> {
        let chain = self.cover(place.timeline, place.position)?;
        match chain.first() {
            Some(Piece::Whole(Entry {
                manifest: Manifest { to, soundness: Some(Soundness::Damaged(words)), .. },
                ..
            })) => Err(format!("the full at {to} is of a damaged database: {words}")),
            _ => Ok(chain),
        }
    }

    /// Whether `after`, which goes on from where `before` leads to, was written after another manifest than that of `before`.
    ///
    /// Where a live segment led to the same place, its note may be the one that was meant; it is gone when the segment was folded.
    pub(super) fn contradicts(&self, before: &Entry, after: &Entry) -> bool {
        let (earlier, later) = (&before.manifest, &after.manifest);
        if later.previous.as_ref() == Some(&before.sha256) {
            return false;
        }
        match (earlier.kind, later.kind) {
            // Each kind of fold has its own line of manifests. What could not be read once may be folded later than what comes behind it, which names nothing then.
            (Kind::Fine | Kind::Merged, kind) => kind == earlier.kind && later.previous.is_some(),
            (_, Kind::Fine | Kind::Merged) | (Kind::Full, Kind::Live) => false,
            (Kind::Full, _) if later.gap_from.is_some() => false,
            (_, Kind::Full) if self.followed(later.place()) => false,
            (Kind::Live, _) => {
                self.entries.get(&earlier.place()).is_none_or(|other| later.previous.as_ref() != Some(&other.sha256))
            }
            _ => !self.followed(earlier.place()),
        }
    }

    /// Whether commits were followed to `place`: a live segment leads there, or led there before it was folded.
    pub fn followed(&self, place: Place) -> bool {
        self.live.contains_key(&place)
            || self
                .folds
                .range((place, Kind::Full)..=(along(place.timeline).1, Kind::Merged))
                .any(|(_, fold)| fold.manifest.from.is_some_and(|from| from < place.position))
    }

    /// The places on the way to `timeline`'s newest one, the newest first: its own, then those of the timelines that it goes on from, up to where each
    /// was left.
    pub fn ancestry(&self, timeline: Timeline) -> Vec<&Entry> {
        let mut line = Vec::new();
        let mut bound = None;
        let mut at = Some(timeline);
        while let Some(timeline) = at {
            let own =
                self.entries.range(..).rev().filter(|(place, _)| {
                    place.timeline == timeline && bound.is_none_or(|bound| place.position <= bound)
                });
            line.extend(own.map(|(_, entry)| entry));
            let parent = self.claims.get(&timeline).and_then(|claim| claim.parent);
            bound = parent.map(|parent| parent.place.position);
            // Numbers only grow, so that a claim that names itself ends nothing but its own line.
            at = parent.map(|parent| parent.place.timeline).filter(|parent| *parent < timeline);
        }
        line
    }
}

/// The first and the last place that a timeline can have.
pub(super) fn along(timeline: Timeline) -> (Place, Place) {
    let place = |position| Place { timeline, position: Position(position) };
    (place(0), place(u64::MAX))
}

/// The key of the newest heartbeat of each timeline.
fn newest_heartbeats(listed: &[Listed]) -> BTreeMap<Timeline, &ObjectKey> {
    // In the order of keys, so that the last one stays.
    listed.iter().filter_map(|object| Some((heartbeat_of(&object.key)?, &object.key))).collect()
}

/// Refuses a layout that this version does not know.
pub(super) async fn check_format(store: &dyn ObjectStore) -> Result<(), ObjectError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let key = format_key();
    let bytes = match get_small(store, &key, MOST_SMALL_BYTES).await {
        Ok(bytes) => bytes,
        Err(ObjectError::Missing(_)) => return Ok(()),
        Err(e) => return Err(e),
    };
    match serde_json::from_slice::<Format>(&bytes) {
        Ok(Format { format }) if format == FORMAT => Ok(()),
        Ok(Format { format }) => Err(ObjectError::Denied(format!(
            "{} has a layout of format {format}, this version knows format {FORMAT}: use a newer atlas-sidecar",
            store.place()
        ))),
        Err(e) => Err(ObjectError::Corrupt(format!("`{key}` in {} is not ours: {e}", store.place()))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis(hours * 3_600_000)
    }

    fn place(timeline: u32, position: u64) -> Place {
        Place { timeline: Timeline(timeline), position: Position(position) }
    }

    fn catalog(manifests: &[Manifest]) -> Catalog {
        let mut listed = Vec::new();
        let mut documents = Vec::new();
        for manifest in manifests {
            let object = manifest.object.as_ref().unwrap();
            let key = super::super::layout::manifest_key(manifest.place());
            let bytes: Bytes = manifest.to_bytes().into();
            let listing = |key: ObjectKey, bytes| Listed { key, bytes, modified: manifest.observed };
            listed.push(listing(ObjectKey::ours(&object.key), object.stored.bytes));
            listed.push(listing(key.clone(), bytes.len() as u64));
            documents.push((key, bytes));
        }
        Catalog::of(&listed, documents)
    }

    #[test]
    fn a_chain_goes_back_to_its_full() {
        use Kind::{Full, Incremental};
        let kinds = [Full, Incremental, Incremental, Full, Incremental];
        let mut manifests: Vec<_> =
            kinds.iter().zip(1..).map(|(kind, n)| manifest(1, n, *kind, at(n.try_into().unwrap()))).collect();
        for at in 1..manifests.len() {
            manifests[at].previous = Some(Sum::of(&manifests[at - 1].to_bytes()));
        }
        let known = catalog(&manifests);
        assert_eq!(known.unnamed, []);
        let positions = |place: Place| {
            known
                .cover(place.timeline, place.position)
                .map(|way| way.iter().map(|p| p.place().position.0).collect::<Vec<_>>())
        };
        assert_eq!(positions(place(1, 3)), Ok(vec![1, 2, 3]));
        assert_eq!(positions(place(1, 4)), Ok(vec![4]));
        assert_eq!(positions(place(1, 5)), Ok(vec![4, 5]));
        assert_eq!(known.tip(Timeline(1)).unwrap().manifest.to, Position(5));
        assert_eq!(positions(place(1, 6)), Err("there is no segment to t000001/0000000006".to_owned()));

        let holed = catalog(&[manifests[0].clone(), manifests[2].clone()]);
        assert!(holed.cover(Timeline(1), Position(3)).unwrap_err().contains("no segment to t000001/0000000002"));
        let mut other = manifests[1].clone();
        other.digest_after = Digest7::digest();
        let broken = catalog(&[manifests[0].clone(), other, manifests[2].clone()]);
        assert!(broken.cover(Timeline(1), Position(3)).unwrap_err().contains("does not begin at the state"));
    }

    struct Digest7;
    impl Digest7 {
        fn digest() -> super::super::Digest {
            format!("{:032x}", 7).parse().unwrap()
        }
    }

    #[test]
    fn a_lost_object_is_a_fault_and_an_unnamed_one_is_known() {
        let full = manifest(1, 1, Kind::Full, at(1));
        let key = super::super::layout::manifest_key(full.place());
        let stray = Listed { key: ObjectKey::ours("t000001/stray.db.gz"), bytes: 5, modified: at(1) };
        let guide = Listed { key: ObjectKey::ours("RESTORE.md"), bytes: 5, modified: at(1) };
        let known = Catalog::of(&[stray.clone(), guide], [(key.clone(), full.to_bytes().into())]);
        assert!(known.cover(Timeline(1), Position(1)).unwrap_err().ends_with("is missing"));
        assert_eq!(known.unnamed, [stray]);
        let known = Catalog::of(&[], [(super::super::layout::manifest_key(place(1, 2)), full.to_bytes().into())]);
        assert_eq!(known.unreadable[0].1, "a manifest of t000001/0000000001");
    }

    #[test]
    fn ancestry_leaves_a_parent_where_it_was_left() {
        use Kind::{Full, Incremental};
        let mut known = catalog(&[
            manifest(1, 1, Full, at(1)),
            manifest(1, 2, Incremental, at(2)),
            manifest(1, 3, Incremental, at(3)),
            manifest(2, 4, Full, at(4)),
        ]);
        let claim = |timeline: u32, parent: Option<Place>| Claim {
            format: FORMAT,
            timeline: Timeline(timeline),
            parent: parent.map(|place| Base { place, digest: Digest7::digest() }),
            host: "h".to_owned(),
            instance: "i".to_owned(),
            identity: "1:2".to_owned(),
            reason: "a test".to_owned(),
            claimed: at(1),
        };
        known.claims.insert(Timeline(1), claim(1, None));
        known.claims.insert(Timeline(2), claim(2, Some(place(1, 2))));
        let line: Vec<u64> = known.ancestry(Timeline(2)).iter().map(|e| e.manifest.to.0).collect();
        assert_eq!(line, [4, 2, 1]);
        known.claims.insert(Timeline(2), claim(2, Some(place(2, 2))));
        assert_eq!(known.ancestry(Timeline(2)).len(), 1);
    }
}
