//! Puts what was spooled into the store: a live segment with one request that is its commit, one that is too long for that as an increment.
//!
//! After a lost answer there is such an object already: ours, where its note and its bytes are the same, and otherwise that of somebody who has a copy of this installation's
//! state. Nothing is written over.
//!
//! Where the store ignores conditions, it is looked first whether there is one. Between that look and the writing, which is a few milliseconds, somebody else's may
//! come, and is written over: two installations with one state, which the heartbeat finds within five minutes by listing the claims.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::catalog::Entry;
use super::super::claim::{self, Held, Tip};
use super::super::ship::carry::{Landing, QUEUED, read_back, read_spool};
use super::super::ship::ground::Ground;
use super::super::ship::{ShipError, Shipper};
use super::super::{Kind, Place};
use super::spool::Spooled;
use crate::object::{Listed, ObjectError, ObjectKey, Part, get_small};
use crate::schedule::JobContext;

impl Shipper {
    /// Stores what waits in the spool of live segments, one after another.
    pub(in crate::backup) async fn deliver_waiting(
        &self,
        cx: &JobContext,
        ground: &mut Ground,
    ) -> Result<(), ShipError> {
        while let Some(place) = ground.waiting.first().copied() {
            cx.check()?;
            let entry = self.deliver_one(&ground.held, ground.conditional, place).await?;
            ground.waiting.remove(0);
            remember(ground, place, entry);
        }
        Ok(())
    }

    /// Stores the spooled segment that leads to `place`.
    pub(in crate::backup) async fn deliver_one(
        &self,
        held: &Held,
        conditional: bool,
        place: Place,
    ) -> Result<Entry, ShipError> {
        let lost = || ShipError::Failed(format!("the segment to {place} is not in the spool any more"));
        let spooled = self.spooled(place).await?.ok_or_else(lost)?;
        match spooled.entry.manifest.kind {
            Kind::Live => self.create_live(conditional, &spooled).await?,
            _ => self.store_long(held, conditional, &spooled).await?,
        }
        Ok(spooled.entry)
    }

    /// Creates a live segment, or finds that it was created.
    async fn create_live(&self, conditional: bool, spooled: &Spooled) -> Result<(), ShipError> {
        let store = self.parts.store.as_ref();
        let Some(object) = &spooled.entry.manifest.object else { return Ok(()) };
        let key = ObjectKey::ours(&object.key);
        let bytes = {
            let spooled = spooled.clone();
            self.on_spool(move |spool| {
                let stored = spool.stored(&spooled);
                // What is not as it was written is of no use to anybody: without it, the next beginning goes on from the one before.
                if stored.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::InvalidData) {
                    spool.remove(spooled.entry.manifest.place())?;
                }
                stored
            })
            .await?
        };
        if !conditional {
            match store.get(&key, Part { to: Some(1), ..Part::default() }).await {
                Ok(_) => return self.compare(&key, spooled, &bytes).await,
                Err(ObjectError::Missing(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        match store.create_noted(&key, bytes.clone(), &spooled.words.text).await {
            Err(ObjectError::Exists(_)) => self.compare(&key, spooled, &bytes).await,
            other => Ok(other?),
        }
    }

    /// Whether the object that there is already is ours.
    async fn compare(&self, key: &ObjectKey, spooled: &Spooled, bytes: &Bytes) -> Result<(), ShipError> {
        let store = self.parts.store.as_ref();
        let note = store.get(key, Part { to: Some(1), ..Part::default() }).await?.note;
        let there = match get_small(store, key, bytes.len() as u64).await {
            Ok(there) => Some(there),
            // Another length is another object.
            Err(ObjectError::Corrupt(_)) => None,
            Err(e) => return Err(e.into()),
        };
        let same = there.as_ref() == Some(bytes);
        match note {
            Some(note) if same && note == spooled.words.text => Ok(()),
            None if same => Err(ShipError::Failed(format!(
                "{} has lost the note of `{key}`: live segments cannot be kept there",
                store.place()
            ))),
            _ => Err(self.copied(spooled.entry.manifest.place())),
        }
    }

    /// Who else can have written where nobody but us may.
    pub(in crate::backup) fn copied(&self, place: Place) -> ShipError {
        self.fenced(&format!(
            "somebody has committed another segment to {place}, who has a copy of this installation's state"
        ))
    }

    /// Stores a segment that is too long for one request, with a manifest of its own.
    async fn store_long(&self, held: &Held, conditional: bool, spooled: &Spooled) -> Result<(), ShipError> {
        let store = &self.parts.store;
        let manifest = &spooled.entry.manifest;
        let Some(object) = &manifest.object else { return Ok(()) };
        let key = ObjectKey::ours(&object.key);
        // It may be there, and only the manifest's answer was lost; whoever reads so much anyway may as well compare.
        if read_back(store.as_ref(), &key, &object.stored).await.is_err() {
            let mut landing = Landing::new(store, &key);
            let (to, stored) = mpsc::channel(QUEUED);
            let file = self.spool.file(manifest.place());
            let mut landed = tokio::try_join!(landing.take(stored), read_spool(&file, &object.stored, to)).map(|_| ());
            if landed.is_ok() {
                landed = landing.finish().await;
            }
            if let Err(e) = landed {
                landing.abort().await;
                return Err(e);
            }
            read_back(store.as_ref(), &key, &object.stored).await?;
        }
        claim::still_ours(store.as_ref(), held).await.map_err(|e| self.of_claim(e))?;
        let text = Bytes::from(spooled.words.text.clone());
        match self.create_manifest(conditional, manifest, text).await? {
            true => Ok(()),
            false => Err(self.copied(manifest.place())),
        }
    }
}

/// Takes a segment that was stored into the catalog.
fn remember(ground: &mut Ground, place: Place, entry: Entry) {
    let Ground { held, catalog, .. } = ground;
    if entry.manifest.kind != Kind::Live {
        held.tip = Some(Tip { place, sha256: entry.sha256.clone() });
        catalog.entries.insert(place, entry);
        return;
    }
    if let Some(object) = &entry.manifest.object {
        let key = ObjectKey::ours(&object.key);
        let listed = Listed { key, bytes: object.stored.bytes, modified: entry.manifest.observed };
        catalog.live.insert(place, listed);
    }
    catalog.notes.insert(place, entry);
}
