//! The names of a destination's objects.
//!
//! ```text
//! format                                                             {"format":1}: an old program refuses a newer layout
//! RESTORE.md  restore.sh                                             how to restore with sqlite3 and gzip alone
//! SHA256SUMS                                                         for `sha256sum -c`
//! timelines/t000001.json                                             who claimed the timeline, from where it goes on
//! t000001/0000000001-20261123T021500Z-full-9f86d081.db.gz                     an image of the database
//! t000001/0000000001.json                                            its manifest: without it, the image does not exist
//! t000001/0000000002-20261124T021500Z-incremental-from-0000000001-7d865e95.wal.gz
//! t000001/0000000002.json
//! t000001/0000000003.wal.gz                                          a live segment, from the position before; its manifest is its note
//! t000001/0000003600-20261124T031500Z-fine-from-0000000002-4e07408b.wal.gz   live segments in one object
//! t000001/0000003600-20261124T031500Z-fine-from-0000000002-4e07408b.index.gz where in it each of them ends
//! t000001/0000003600.fine.json                                       its manifest; of a merged one: .merged.json
//! t000001/heartbeat-20261124T031730Z.json                            nothing was committed until then
//! ```
//!
//! A listing in the order of keys is one in the order of positions, with each manifest behind its object. A manifest's key depends on nothing but its
//! position: of two sidecars that make the same position, only one can create it.

use crate::clock::Timestamp;
use crate::object::ObjectKey;

use super::{Kind, Place, Position, Timeline};

/// The version of this layout and of the manifests.
pub const FORMAT: u32 = 1;

/// Says which layout it is.
pub fn format_key() -> ObjectKey {
    ObjectKey::ours("format")
}

/// How to restore by hand.
pub fn guide_key() -> ObjectKey {
    ObjectKey::ours("RESTORE.md")
}

/// The script that restores.
pub fn script_key() -> ObjectKey {
    ObjectKey::ours("restore.sh")
}

/// The sums of all objects that manifests name.
pub fn sums_key() -> ObjectKey {
    ObjectKey::ours("SHA256SUMS")
}

/// What the keys of claims begin with.
pub const CLAIMS: &str = "timelines/";

/// The claim of a timeline.
pub fn claim_key(timeline: Timeline) -> ObjectKey {
    ObjectKey::ours(format!("{CLAIMS}{timeline}.json"))
}

/// The timeline that a claim's key names. Where claims cannot be created under a condition, a word follows: `timelines/t000001-9f86d081.json`.
pub fn claimed(key: &ObjectKey) -> Option<Timeline> {
    let name = key.as_str().strip_prefix(CLAIMS)?.strip_suffix(".json")?;
    Timeline::parse(name.split('-').next()?)
}

/// The manifest of a position.
pub fn manifest_key(place: Place) -> ObjectKey {
    ObjectKey::ours(format!("{}/{}.json", place.timeline, place.position))
}

/// The place that a manifest's key names.
pub fn manifest_place(key: &ObjectKey) -> Option<Place> {
    let (timeline, name) = key.as_str().split_once('/')?;
    let position = Position::parse(name.strip_suffix(".json")?)?;
    Some(Place { timeline: Timeline::parse(timeline)?, position })
}

/// The object of the live segment that leads to `place`. It depends on nothing but the position, so that only one can create it: that is its commit.
pub fn live_key(place: Place, form: &str) -> ObjectKey {
    ObjectKey::ours(format!("{}/{}.wal.{form}", place.timeline, place.position))
}

/// The place that a live segment's key names.
pub fn live_place(key: &ObjectKey) -> Option<Place> {
    let (timeline, name) = key.as_str().split_once('/')?;
    let (position, form) = name.split_once('.')?;
    form.strip_prefix("wal.").filter(|form| !form.is_empty())?;
    Some(Place { timeline: Timeline::parse(timeline)?, position: Position::parse(position)? })
}

/// The manifest of what was folded, a [`Kind::Fine`] or [`Kind::Merged`] segment. It is another key than that of a full at the same place.
pub fn fold_key(place: Place, kind: Kind) -> ObjectKey {
    ObjectKey::ours(format!("{}/{}.{kind}.json", place.timeline, place.position))
}

/// The place and the kind that such a manifest's key names.
pub fn folded(key: &ObjectKey) -> Option<(Place, Kind)> {
    let (timeline, name) = key.as_str().split_once('/')?;
    let (position, kind) = name.strip_suffix(".json")?.split_once('.')?;
    let kind = [Kind::Fine, Kind::Merged].into_iter().find(|known| known.to_string() == kind)?;
    Some((Place { timeline: Timeline::parse(timeline)?, position: Position::parse(position)? }, kind))
}

/// What the names of heartbeats begin with.
const HEARTBEAT: &str = "heartbeat-";

/// The heartbeat of `timeline` at `at`.
pub fn heartbeat_key(timeline: Timeline, at: Timestamp) -> ObjectKey {
    ObjectKey::ours(format!("{timeline}/{HEARTBEAT}{}.json", compact(at)))
}

/// The timeline that a heartbeat's key names. Of one timeline, the last key is the newest heartbeat.
pub fn heartbeat_of(key: &ObjectKey) -> Option<Timeline> {
    let (timeline, name) = key.as_str().split_once('/')?;
    name.strip_prefix(HEARTBEAT)?.strip_suffix(".json")?;
    Timeline::parse(timeline)
}

/// The timeline and the position that a key under a timeline begins with, a manifest's or an object's.
pub fn numbered(key: &ObjectKey) -> Option<Place> {
    let (timeline, name) = key.as_str().split_once('/')?;
    let position = Position::parse(name.split(['-', '.']).next()?)?;
    Some(Place { timeline: Timeline::parse(timeline)?, position })
}

/// The object of a segment begun at `at`. `form` is how its bytes are stored, as the end of a file's name: `gz`, `zst`, `gz.age`.
///
/// The `word` is random: a copied machine has the state of the first one and runs its jobs in the same second. Without the word, the one that
/// comes second would write over an object that the first one's manifest names.
pub fn object_key(place: Place, kind: Kind, from: Option<Position>, at: Timestamp, word: u32, form: &str) -> ObjectKey {
    let at = compact(at);
    let from = from.map_or_else(String::new, |from| format!("-from-{from}"));
    let content = match kind {
        Kind::Full => "db",
        Kind::Incremental | Kind::Live | Kind::Fine | Kind::Merged => "wal",
    };
    ObjectKey::ours(format!("{}/{}-{at}-{kind}{from}-{word:08x}.{content}.{form}", place.timeline, place.position))
}

/// `20261123T021500Z`: RFC 3339 without what a file's name should not have; whole seconds.
fn compact(at: Timestamp) -> String {
    let text = at.to_rfc3339();
    let whole = text.split('.').next().unwrap_or_default();
    let mut compact: String = whole.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    compact.push('Z');
    compact
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_position_and_read_back() {
        let at = Timestamp::from_rfc3339("2026-11-23T02:15:00.250Z").unwrap();
        let place = |position| Place { timeline: Timeline(1), position: Position(position) };
        let keys = [
            object_key(place(1), Kind::Full, None, at, 0x9f86_d081, "gz"),
            manifest_key(place(1)),
            object_key(place(2), Kind::Incremental, Some(Position(1)), at, 1, "gz.age"),
            manifest_key(place(2)),
            object_key(place(10), Kind::Incremental, Some(Position(2)), at, 2, "zst"),
        ];
        assert_eq!(keys[0].as_str(), "t000001/0000000001-20261123T021500Z-full-9f86d081.db.gz");
        assert_eq!(
            keys[2].as_str(),
            "t000001/0000000002-20261123T021500Z-incremental-from-0000000001-00000001.wal.gz.age"
        );
        assert!(keys.is_sorted());
        assert_eq!(manifest_place(&keys[1]), Some(place(1)));
        assert_eq!(manifest_place(&keys[0]), None);
        assert_eq!((numbered(&keys[0]), numbered(&keys[1])), (Some(place(1)), Some(place(1))));
        assert_eq!(numbered(&claim_key(Timeline(1))), None);
        let live = live_key(place(3), "gz.age");
        assert_eq!(live.as_str(), "t000001/0000000003.wal.gz.age");
        assert_eq!((live_place(&live), manifest_place(&live), numbered(&live)), (Some(place(3)), None, Some(place(3))));
        assert_eq!((live_place(&keys[0]), live_place(&keys[1])), (None, None));
        let fine = fold_key(place(4), Kind::Fine);
        assert_eq!((folded(&fine), manifest_place(&fine)), (Some((place(4), Kind::Fine)), None));
        assert_eq!((folded(&keys[1]), folded(&live)), (None, None));
        let heartbeat = heartbeat_key(Timeline(1), at);
        assert_eq!(heartbeat.as_str(), "t000001/heartbeat-20261123T021500Z.json");
        assert_eq!((heartbeat_of(&heartbeat), numbered(&heartbeat)), (Some(Timeline(1)), None));
        assert_eq!(claimed(&claim_key(Timeline(7))), Some(Timeline(7)));
        assert_eq!(claimed(&ObjectKey::ours("timelines/t000007-9f86d081.json")), Some(Timeline(7)));
        assert_eq!(claimed(&ObjectKey::ours("timelines/seven.json")), None);
    }
}
