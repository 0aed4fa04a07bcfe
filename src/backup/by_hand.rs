//! The way back without this program: a guide and a script that lie beside the backups, for a day on which there is no sidecar, or nobody who knows it.
//!
//! Everything in a destination is a standard file, but SQLite itself is no judge of them: it takes a log that is cut off, damaged or in the wrong place for an
//! empty one, exits with 0 and deletes it. So the script proves what SQLite does not: the chain by its positions and digests, every object by its SHA-256
//! before and after unpacking, and that SQLite put all pages of each log into the database (`0|n|n`).
//!
//! Both are written again when a sidecar starts, so that they are those of the version that writes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::catalog::Catalog;
use super::layout::{fold_key, guide_key, manifest_key, script_key};
use crate::object::ObjectKey;

/// How to restore, for people.
pub const GUIDE: &str = include_str!("by_hand/RESTORE.md");

/// What restores, for `sh`.
pub const SCRIPT: &str = include_str!("by_hand/restore.sh");

/// What to [`put`](crate::object::ObjectStore::put) into a destination.
pub fn objects() -> Vec<(ObjectKey, Bytes)> {
    vec![(guide_key(), Bytes::from_static(GUIDE.as_bytes())), (script_key(), Bytes::from_static(SCRIPT.as_bytes()))]
}

/// The SHA-256 of every object that manifests name, and of the manifests, for `sha256sum -c`; its place is [`super::layout::sums_key`]. An object that is not
/// there is in it too, so that its absence is noticed. Live segments are not: there may be thousands, they go when they were folded, and have their sums in their notes.
pub fn sums(catalog: &Catalog) -> Bytes {
    let segments = catalog.entries.iter().map(|(place, entry)| (manifest_key(*place), entry));
    let folds = catalog.folds.iter().map(|((place, kind), entry)| (fold_key(*place, *kind), entry));
    let mut lines = BTreeMap::new();
    for (key, entry) in segments.chain(folds) {
        lines.extend(entry.manifest.objects().map(|object| (object.key.as_str().to_owned(), &object.stored.sha256)));
        lines.insert(key.to_string(), &entry.sha256);
    }
    // Two blanks: a name, of a file that is read as bytes.
    lines.iter().map(|(key, sum)| format!("{sum}  {key}\n")).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::Sum;
    use crate::backup::manifest::tests::manifest;
    use crate::backup::{Kind, Place};
    use crate::clock::Timestamp;

    #[test]
    fn sums_name_manifests_and_their_objects() {
        let documents = [(1, Kind::Full), (2, Kind::Incremental), (3, Kind::Incremental)].map(|(position, kind)| {
            let mut manifest = manifest(1, position, kind, Timestamp::from_millis(0));
            if position == 3 {
                manifest.object = None;
                manifest.digest_before = Some(manifest.digest_after);
            }
            (manifest_key(manifest.place()), Bytes::from(manifest.to_bytes()))
        });
        let catalog = Catalog::of(&[], documents.clone());
        let text = String::from_utf8(sums(&catalog).to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        for (key, bytes) in documents {
            assert!(lines.contains(&format!("{}  {key}", Sum::of(&bytes)).as_str()), "{key} in {text}");
        }
        let place = Place { timeline: super::super::Timeline(1), position: super::super::Position(1) };
        let object = catalog.entries[&place].manifest.object.as_ref().unwrap();
        assert_eq!(lines[0], format!("{}  {}", object.stored.sha256, object.key));
    }
}
