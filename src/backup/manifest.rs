//! Manifests: what a segment is, where its bytes are, and what they must be. One JSON object, a member to a line, so that a shell script can read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::layout::FORMAT;
use super::{Base, Digest, Kind, Place, Position, Soundness, Timeline};
use crate::clock::Timestamp;
use crate::object::ObjectKey;

/// The longest manifest that is read: one with row counts of some thousand tables.
pub const MOST_BYTES: u64 = 1 << 20;

/// SHA-256 as 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sum(String);

impl Sum {
    /// Of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_bytes(Sha256::digest(bytes).into())
    }

    /// From the 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Sum> for String {
    fn from(sum: Sum) -> Self {
        sum.0
    }
}

impl TryFrom<String> for Sum {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if plain { Ok(Self(text)) } else { Err("no SHA-256: 64 lower-case hexadecimal digits".to_owned()) }
    }
}

/// How many bytes, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// How many.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: Sum,
}

/// How bytes are made smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// gzip, as `gunzip` reads it.
    #[default]
    Gzip,
    /// zstd, as `zstd -d` reads it.
    Zstd,
}

/// The bytes of a segment in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// Their key.
    pub key: String,
    /// As they are stored.
    pub stored: Content,
    /// As the database knows them.
    pub plain: Content,
    /// What lies between the two.
    pub codec: Codec,
    /// Whether they are encrypted besides (age).
    pub encrypted: bool,
}

/// A manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this layout: [`FORMAT`].
    pub format: u32,
    /// Which engine's database: `sqlite`.
    pub engine: String,
    /// The database's name: `atlas.db`.
    pub database: String,
    /// What kind of segment.
    pub kind: Kind,
    /// On which timeline.
    pub timeline: Timeline,
    /// The position that an increment begins at; nothing for a full.
    pub from: Option<Position>,
    /// The position that it leads to.
    pub to: Position,
    /// When the state was the newest: the time of the mark. It only grows along a timeline.
    #[serde(with = "rfc3339")]
    pub observed: Timestamp,
    /// The segment's bytes; nothing where an increment found no change.
    pub object: Option<Object>,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the database.
    pub pages: u32,
    /// Pages in the segment.
    pub sent_pages: u32,
    /// The digest that it begins at; nothing for a full.
    pub digest_before: Option<Digest>,
    /// The digest that it leads to.
    pub digest_after: Digest,
    /// The SHA-256 of the manifest before it, on this timeline or the one that it goes on from; nothing for the first of all.
    pub previous: Option<Sum>,
    /// What the engine said about the database, for a full.
    pub soundness: Option<Soundness>,
    /// Rows per table, for a full that was checked.
    pub tables: BTreeMap<String, u64>,
    /// The version of the engine that read it.
    pub engine_version: String,
    /// The version of the sidecar that wrote it.
    pub sidecar_version: String,
    /// Of an increment, or a full, that goes over commits which could not be followed: when the last state before it was known to be the newest. Instants from there to `observed`
    /// cannot be restored.
    #[serde(default, with = "rfc3339::some", skip_serializing_if = "Option::is_none")]
    pub gap_from: Option<Timestamp>,
    /// Of a fine segment: the time of its first mark.
    #[serde(default, with = "rfc3339::some", skip_serializing_if = "Option::is_none")]
    pub first_observed: Option<Timestamp>,
    /// Of a fine segment: where in its bytes each mark is ([`super::index`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Object>,
}

impl Manifest {
    /// Where it leads to.
    pub fn place(&self) -> Place {
        Place { timeline: self.timeline, position: self.to }
    }

    /// The state that it leads to.
    pub fn base(&self) -> Base {
        Base { place: self.place(), digest: self.digest_after }
    }

    /// The objects that it names.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.object.iter().chain(&self.index)
    }

    /// As a note, on one line, of a live segment.
    pub fn to_note(&self) -> String {
        serde_json::to_string(self).expect("a manifest is JSON").chars().fold(String::new(), |mut note, c| {
            // Notes travel as header fields: everything beyond ASCII stands in a string, where JSON has another way to write it.
            if c.is_ascii() {
                note.push(c);
            } else {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| note.push_str(&format!("\\u{unit:04x}")));
            }
            note
        })
    }

    /// Its bytes in the store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest is JSON");
        bytes.push(b'\n');
        bytes
    }

    /// From its bytes; the error says what is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        /// What every layout has.
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let Versioned { format } = serde_json::from_slice(bytes).map_err(|e| format!("no manifest: {e}"))?;
        if format != FORMAT {
            return Err(format!("a manifest of format {format}, this version reads format {FORMAT}"));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| format!("no manifest: {e}"))?;
        manifest.check().map(|()| manifest).map_err(|why| format!("no manifest: {why}"))
    }

    /// What must hold whatever wrote it.
    fn check(&self) -> Result<(), String> {
        let goes_on = self.digest_before.is_some() && self.from.is_some_and(|from| from < self.to);
        let whole = match self.kind {
            Kind::Full => self.from.is_none() && self.digest_before.is_none() && self.object.is_some(),
            Kind::Incremental => goes_on && (self.object.is_some() || self.digest_before == Some(self.digest_after)),
            Kind::Live => goes_on && self.object.is_some() && self.from.map(Position::next) == Some(self.to),
            Kind::Fine => goes_on && self.object.is_some() && self.index.is_some() && self.first_observed.is_some(),
            Kind::Merged => goes_on && self.object.is_some(),
        };
        let whole = whole
            && (self.gap_from.is_none() || matches!(self.kind, Kind::Full | Kind::Incremental))
            && (self.kind == Kind::Fine || (self.index.is_none() && self.first_observed.is_none()));
        if !whole {
            return Err(format!("its members do not fit a {} segment", self.kind));
        }
        if !self.page_size.is_power_of_two() || !(512..=65_536).contains(&self.page_size) {
            return Err(format!("pages of {} bytes", self.page_size));
        }
        match self.objects().find(|object| ObjectKey::parse(&object.key).is_none()) {
            Some(object) => Err(format!("`{}` is no key", object.key.escape_debug())),
            None => Ok(()),
        }
    }
}

/// A time as RFC 3339.
pub(super) mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::clock::Timestamp;

    pub(in crate::backup) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&at.to_rfc3339())
    }

    pub(in crate::backup) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        Timestamp::from_rfc3339(&text).ok_or_else(|| D::Error::custom("no time as in RFC 3339"))
    }

    /// A time that may be missing.
    pub(in crate::backup) mod some {
        use serde::{Deserializer, Serializer};

        use crate::clock::Timestamp;

        pub(in crate::backup) fn serialize<S: Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
            match at {
                Some(at) => super::serialize(at, to),
                None => to.serialize_none(),
            }
        }

        pub(in crate::backup) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Timestamp>, D::Error> {
            super::deserialize(from).map(Some)
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A manifest that leads to `position` of `timeline`: a full, or an increment from the position before.
    pub(in crate::backup) fn manifest(timeline: u32, position: u64, kind: Kind, observed: Timestamp) -> Manifest {
        let place = Place { timeline: Timeline(timeline), position: Position(position) };
        let from = (kind != Kind::Full).then(|| Position(position - 1));
        let digest = |position: u64| format!("{position:032x}").parse().expect("a digest");
        let content = |bytes| Content { bytes, sha256: Sum::of(place.to_string().as_bytes()) };
        let key = super::super::layout::object_key(place, kind, from, observed, 0, "gz");
        Manifest {
            format: FORMAT,
            engine: "sqlite".to_owned(),
            database: "atlas.db".to_owned(),
            kind,
            timeline: place.timeline,
            from,
            to: place.position,
            observed,
            object: Some(Object {
                key: key.to_string(),
                stored: content(100),
                plain: content(1_000),
                codec: Codec::Gzip,
                encrypted: false,
            }),
            page_size: 4096,
            pages: 3,
            sent_pages: 1,
            digest_before: from.map(|from| digest(from.0)),
            digest_after: digest(position),
            previous: None,
            soundness: (kind == Kind::Full).then_some(Soundness::Sound),
            tables: BTreeMap::new(),
            engine_version: "3.51.3".to_owned(),
            sidecar_version: "0.1.0".to_owned(),
            gap_from: None,
            first_observed: None,
            index: None,
        }
    }

    #[test]
    fn a_manifest_reads_back_a_member_to_a_line() {
        let at = Timestamp::from_rfc3339("2026-11-23T02:15:00.250Z").unwrap();
        for kind in [Kind::Full, Kind::Incremental] {
            let written = manifest(1, 2, kind, at);
            let bytes = written.to_bytes();
            assert_eq!(Manifest::from_bytes(&bytes), Ok(written));
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains("\n  \"observed\": \"2026-11-23T02:15:00.250Z\",\n"), "{text}");
            assert!(text.contains("\n    \"key\": \"t000001/0000000002-20261123T021500Z-"), "{text}");
        }
    }

    #[test]
    fn a_note_is_a_manifest_on_one_line_of_ascii() {
        let mut live = manifest(1, 2, Kind::Live, Timestamp::from_millis(250));
        live.database = "atlas \u{1f600} ü\n.db".to_owned();
        let note = live.to_note();
        assert!(note.bytes().all(|b| (b' '..=b'~').contains(&b)), "{note}");
        assert_eq!(Manifest::from_bytes(note.as_bytes()), Ok(live));
        assert!(note.len() < crate::object::MOST_NOTE_BYTES, "{}", note.len());
    }

    #[test]
    fn what_is_no_manifest_is_told_apart() {
        let at = Timestamp::from_millis(0);
        let text = |change: fn(&mut Manifest)| {
            let mut manifest = manifest(1, 2, Kind::Incremental, at);
            change(&mut manifest);
            Manifest::from_bytes(&manifest.to_bytes()).unwrap_err()
        };
        assert!(Manifest::from_bytes(b"{").unwrap_err().starts_with("no manifest: "));
        assert!(Manifest::from_bytes(br#"{"format":2,"new":1}"#).unwrap_err().contains("format 2"));
        assert!(text(|m| m.from = None).contains("do not fit"));
        assert!(text(|m| m.from = Some(m.to)).contains("do not fit"));
        assert!(text(|m| m.object = None).contains("do not fit"), "a change without bytes");
        assert!(text(|m| m.page_size = 1000).contains("1000"));
        assert!(text(|m| m.object.as_mut().unwrap().key = "../x".into()).contains("is no key"));
        let mut stranger = manifest(1, 2, Kind::Full, at).to_bytes();
        let end = stranger.iter().rposition(|b| *b == b'}').unwrap();
        stranger.splice(end..end, br#", "what": 1"#.iter().copied());
        assert!(Manifest::from_bytes(&stranger).unwrap_err().contains("what"));
    }
}
