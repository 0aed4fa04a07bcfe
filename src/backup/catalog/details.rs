//! What a listing does not tell, read where somebody needs it: the notes of live segments and the indexes of fine ones.

use std::io::{Cursor, Read};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::super::codec::{self, Identity};
use super::super::index::{self, Line};
use super::super::manifest::{Manifest, Object, Sum};
use super::super::{Kind, Place};
use super::{Catalog, Entry};
use crate::object::{Listed, ObjectError, ObjectKey, ObjectStore, Part, get_small};

/// Objects asked for at a time: each answer is some hundred bytes, so that it is the store's latency that counts.
const AT_A_TIME: usize = 16;

/// The longest index that is read, as it is stored and as it is: of an hour with ten marks a second, with room.
const MOST_INDEX_BYTES: u64 = 64 << 20;

/// Something that has to be read before a question can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// The note of the live segment to this place.
    Note(Place),
    /// The index of the fine segment to this place.
    Index(Place),
}

/// What was read, or what is wrong with it.
enum Detail {
    Note(Place, Box<Entry>),
    Index(Place, Vec<Line>),
    Unreadable(ObjectKey, String),
}

impl Catalog {
    /// Reads what is needed and not known yet. What is there and makes no sense is [`Catalog::unreadable`] from then on. An object that is gone since the listing is
    /// [`ObjectError::Missing`]: it was folded, and whoever asks looks at a new catalog. Encrypted indexes need an `identity`.
    pub async fn read_details(
        &mut self,
        store: &dyn ObjectStore,
        identity: Option<&Identity>,
        what: &[Need],
    ) -> Result<(), ObjectError> {
        let mut notes: Vec<(Place, Listed)> = Vec::new();
        let mut indexes: Vec<(Manifest, Object)> = Vec::new();
        for need in what {
            match need {
                Need::Note(place) if !self.notes.contains_key(place) => {
                    notes.extend(self.live.get(place).map(|listed| (*place, listed.clone())));
                }
                Need::Index(place) if !self.indexes.contains_key(place) => {
                    let fine = self.folds.get(&(*place, Kind::Fine)).map(|entry| &entry.manifest);
                    indexes.extend(fine.and_then(|fine| Some((fine.clone(), fine.index.clone()?))));
                }
                Need::Note(_) | Need::Index(_) => {}
            }
        }
        let notes = stream::iter(notes).map(|(place, listed)| read_note(store, place, listed));
        let mut details: Vec<Detail> = notes.buffer_unordered(AT_A_TIME).try_collect().await?;
        let indexes = stream::iter(indexes).map(|(fine, object)| read_index(store, identity, fine, object));
        // An index may be large where a note is not.
        details.extend(indexes.buffer_unordered(2).try_collect::<Vec<_>>().await?);
        for detail in details {
            match detail {
                Detail::Note(place, entry) => drop(self.notes.insert(place, *entry)),
                Detail::Index(place, lines) => drop(self.indexes.insert(place, lines)),
                Detail::Unreadable(key, why) => self.unreadable.push((key, why)),
            }
        }
        self.unreadable.sort();
        self.unreadable.dedup();
        Ok(())
    }

    /// What it takes to know the newest state of each timeline.
    pub fn newest_notes(&self) -> Vec<Need> {
        let mut newest: Vec<Place> = Vec::new();
        for place in self.live.keys().rev() {
            if newest.last().is_none_or(|known| known.timeline != place.timeline) {
                newest.push(*place);
            }
        }
        newest.into_iter().map(Need::Note).collect()
    }

    /// Takes note that the object `key` was found damaged, so that other ways are looked for.
    pub fn shun(&mut self, key: ObjectKey, why: String) {
        self.unreadable.push((key, why));
        self.unreadable.sort();
    }

    /// What keeps `entry` from being used.
    pub(super) fn fault(&self, entry: &Entry) -> Option<String> {
        let object = entry.manifest.object.as_ref()?;
        let shunned = || self.why_unreadable(&object.key).map(|why| format!("`{}`: {why}", object.key));
        entry.fault().or_else(shunned)
    }

    /// Why an object could not be read, where that was tried.
    pub(in crate::backup) fn why_unreadable(&self, key: &str) -> Option<&str> {
        self.unreadable.iter().find(|(unreadable, _)| unreadable.as_str() == key).map(|(_, why)| why.as_str())
    }
}

/// The note comes with any part of its object.
async fn read_note(store: &dyn ObjectStore, place: Place, listed: Listed) -> Result<Detail, ObjectError> {
    let note = match store.get(&listed.key, Part { from: 0, to: Some(1), version: None }).await {
        Ok(download) => noted(&listed.key, place, download.note.as_deref()),
        Err(ObjectError::Corrupt(why)) => Err(why),
        Err(e) => return Err(e),
    };
    Ok(match note {
        Ok((manifest, sha256)) => {
            let entry = Entry { manifest, sha256, listed_bytes: Some(listed.bytes), listed_index_bytes: None };
            Detail::Note(place, Box::new(entry))
        }
        Err(why) => Detail::Unreadable(listed.key, why),
    })
}

/// The manifest that a live segment carries, and the sum of the note; the error says what is wrong with it.
pub(in crate::backup) fn noted(key: &ObjectKey, place: Place, note: Option<&str>) -> Result<(Manifest, Sum), String> {
    let note = note.ok_or("its note is missing")?;
    let manifest = Manifest::from_bytes(note.as_bytes()).map_err(|why| format!("its note is {why}"))?;
    let own = manifest.object.as_ref().is_some_and(|object| object.key == key.as_str());
    if manifest.kind != Kind::Live || manifest.place() != place || !own {
        return Err(format!("its note is that of a {} segment to {}", manifest.kind, manifest.place()));
    }
    Ok((manifest, Sum::of(note.as_bytes())))
}

async fn read_index(
    store: &dyn ObjectStore,
    identity: Option<&Identity>,
    fine: Manifest,
    object: Object,
) -> Result<Detail, ObjectError> {
    let key = ObjectKey::ours(&object.key);
    let stored = match get_small(store, &key, MOST_INDEX_BYTES).await {
        Ok(stored) => stored,
        Err(ObjectError::Corrupt(why)) => return Ok(Detail::Unreadable(key, why)),
        Err(e) => return Err(e),
    };
    let identity = identity.cloned();
    let place = fine.place();
    let lines = tokio::task::spawn_blocking(move || lines(&fine, &object, stored, identity.as_ref())).await;
    Ok(match lines.unwrap_or_else(|e| Err(e.to_string())) {
        Ok(lines) => Detail::Index(place, lines),
        Err(why) => Detail::Unreadable(key, why),
    })
}

/// What stands in the index of `fine`.
pub(in crate::backup) fn lines(
    fine: &Manifest,
    object: &Object,
    stored: Bytes,
    identity: Option<&Identity>,
) -> Result<Vec<Line>, String> {
    if object.plain.bytes > MOST_INDEX_BYTES {
        return Err(format!("an index of {} bytes", object.plain.bytes));
    }
    let mut plain = codec::decode(object, identity, Box::new(Cursor::new(stored))).map_err(|e| e.to_string())?;
    let mut text = String::new();
    plain.read_to_string(&mut text).map_err(|e| e.to_string())?;
    plain.finish().map_err(|e| e.to_string())?;
    index::parse(fine, &text)
}
