//! Where a segment may begin: our timeline, the store's newest state on it, and what was left pending.

use std::time::Instant;

use super::super::catalog::{Catalog, Claim, Entry};
use super::super::claim::{self, About, Held, Standing, Tip};
use super::super::manifest::Sum;
use super::super::{Adopted, Kind, Look, Place, Position};
use super::state::Pending;
use super::{ShipError, Shipper, Steps, segment};
use crate::clock::Timestamp;
use crate::object::ObjectKey;
use crate::schedule::JobContext;

/// A timeline that is ours, and the store as it was seen since.
pub(super) struct Ground {
    pub held: Held,
    pub catalog: Catalog,
    pub conditional: bool,
}

impl Ground {
    /// The newest segment of our timeline.
    pub fn tip(&self) -> Option<&Entry> {
        self.catalog.tip(self.held.timeline())
    }

    /// Where the next segment leads to.
    pub fn next_place(&self) -> Place {
        let timeline = self.held.timeline();
        let ours = self.catalog.entries.keys().any(|place| place.timeline == timeline);
        let position = match self.catalog.highest_position() {
            None => Position(1),
            Some(highest) if ours => highest.next(),
            // One is left out for whoever had the timeline before.
            Some(highest) => highest.next().next(),
        };
        Place { timeline, position }
    }

    /// The sum of the manifest before the next one.
    pub fn previous(&self) -> Option<Sum> {
        let parent = || self.held.claim.parent.and_then(|parent| self.catalog.entries.get(&parent.place));
        self.tip().or_else(parent).map(|entry| entry.sha256.clone())
    }

    /// The time of a mark of `at`: never before the one in front of it.
    pub fn observed(&self, at: Timestamp) -> Timestamp {
        self.tip().map_or(at, |tip| at.max(tip.manifest.observed))
    }
}

impl Shipper {
    /// Finds our timeline, or begins one.
    pub(super) async fn stand(
        &self,
        cx: &JobContext,
        catalog: Catalog,
        look: &Look,
        conditional: bool,
    ) -> Result<Ground, ShipError> {
        let destination = self.parts.store.place();
        let (held, catalog) = match claim::standing(self.state.held().await?, &catalog, &destination) {
            Standing::Ours(held) => (held, catalog),
            Standing::Unsettled(held) => self.settle(cx, held, conditional).await?,
            Standing::None(why) => return self.begin_timeline(cx, &catalog, look, why, conditional).await,
            Standing::Taken(taken) => return Err(self.fenced(&taken.to_string())),
        };
        let tip = catalog.tip(held.timeline());
        let pending = self.state.pending().await?;
        let pending = pending.map(|pending| Sum::of(&pending.manifest.to_bytes()));
        if held.wrote(tip) || tip.is_some_and(|tip| pending.as_ref() == Some(&tip.sha256)) {
            return Ok(Ground { held, catalog, conditional });
        }
        let why = match tip.map(|tip| tip.manifest.place()) {
            Some(place) => {
                format!(
                    "the newest segment, {place}, is not the last one that this installation wrote: it was put back, or copied"
                )
            }
            None => format!("the segments of {} are not in the store any more", held.timeline()),
        };
        self.begin_timeline(cx, &catalog, look, why, conditional).await
    }

    /// Claims the next timeline.
    pub(super) async fn begin_timeline(
        &self,
        cx: &JobContext,
        catalog: &Catalog,
        look: &Look,
        reason: String,
        conditional: bool,
    ) -> Result<Ground, ShipError> {
        let about = About { identity: look.identity.clone(), reason, at: self.parts.clock.now() };
        let claim = claim::next(catalog, self.state.held().await?.as_ref(), &self.parts.writer, about);
        let word = if conditional { None } else { Some(segment::word()?) };
        let key = claim::key(claim.timeline, word).to_string();
        let held = Held { destination: self.parts.store.place(), key, claim, settled: false, tip: None };
        self.state.hold(&held).await?;
        let (held, catalog) = self.settle(cx, held, conditional).await?;
        Ok(Ground { held, catalog, conditional })
    }

    /// Makes the claim. The catalog is read anew: until the claim was there, the owner of the timeline before may have gone on.
    async fn settle(&self, cx: &JobContext, mut held: Held, conditional: bool) -> Result<(Held, Catalog), ShipError> {
        let Self { parts, state, .. } = self;
        let store = parts.store.as_ref();
        let settled = claim::settle(store, cx, &held, conditional, parts.settings.claim_wait).await;
        settled.map_err(|e| self.of_claim(e))?;
        held.settled = true;
        state.hold(&held).await?;
        let Claim { timeline, parent, reason, .. } = &held.claim;
        let parent = parent.map(|parent| parent.place.to_string());
        tracing::info!(%timeline, parent, reason, "a timeline was begun");
        let catalog = Catalog::load(store).await?;
        Ok((held, catalog))
    }

    /// Asks the source whether it can go on from the newest state of our timeline.
    pub(super) async fn adopt_tip(&self, ground: &Ground) -> Result<Adopted, ShipError> {
        let Some(tip) = ground.tip() else {
            return Ok(Adopted::Unknown(format!("there is no full on {} yet", ground.held.timeline())));
        };
        let place = tip.manifest.place();
        match self.parts.source.adopt(&tip.manifest.base()).await? {
            Adopted::Known => Ok(match ground.catalog.sound_chain(place) {
                Ok(_) => Adopted::Known,
                Err(why) => Adopted::Unknown(why),
            }),
            other => Ok(other),
        }
    }

    /// Ends what was left on its way by a crash, a lost answer or a stop; or throws it away, where the store has gone on without it.
    pub(super) async fn finish_pending(&self, cx: &JobContext, ground: &mut Ground) -> Result<(), ShipError> {
        let Some(pending) = self.state.pending().await? else {
            return self.state.clear_spool().await;
        };
        let manifest = &pending.manifest;
        let place = manifest.place();
        let sha256 = Sum::of(&manifest.to_bytes());
        if ground.catalog.entries.get(&place).is_some_and(|entry| entry.sha256 == sha256) {
            if ground.tip().is_some_and(|tip| tip.manifest.place() == place) {
                ground.held.tip = Some(Tip { place, sha256 });
                self.state.hold(&ground.held).await?;
            }
            return self.state.clear_spool().await;
        }
        let from = ground.tip().map(|tip| tip.manifest.to);
        let fits = place.timeline == ground.held.timeline()
            && from.is_none_or(|from| from < place.position)
            && manifest.previous == ground.previous()
            && (manifest.kind == Kind::Full || manifest.from == from);
        if !fits {
            tracing::info!(%place, "a segment that was left pending is thrown away: the store went on without it");
            return self.state.clear_spool().await;
        }
        match self.deliver(cx, ground, &pending).await {
            // What was spooled is not there as it was: cut anew.
            Err(e @ (ShipError::Failed(_) | ShipError::State { .. })) => {
                tracing::warn!(%place, error = %e, "a segment that was left pending is thrown away");
                self.state.clear_spool().await
            }
            Err(e) => Err(e),
            Ok(steps) => {
                tracing::info!(%place, "a segment that was left pending is finished");
                self.commit(ground, pending, steps).await.map(|_| ())
            }
        }
    }

    /// Sees to it that the object of a pending segment is in the store.
    async fn deliver(&self, cx: &JobContext, ground: &Ground, pending: &Pending) -> Result<Steps, ShipError> {
        let Some(object) = &pending.manifest.object else { return Ok(Steps::default()) };
        let key =
            ObjectKey::parse(&object.key).ok_or_else(|| ShipError::Failed(format!("`{}` is no key", object.key)))?;
        let began = Instant::now();
        let there = ground.catalog.unnamed.iter().any(|o| o.key == key && o.bytes == object.stored.bytes);
        if there {
            match self.read_back(cx, &key, &object.stored).await {
                Ok(()) => return Ok(Steps { read_back: began.elapsed(), ..Steps::default() }),
                Err(e) if !pending.spooled => return Err(e),
                // It is stored once more.
                Err(ShipError::Store(_)) => {}
                Err(e) => return Err(e),
            }
        }
        if !pending.spooled {
            return Err(ShipError::Failed(format!("`{key}` is not in the store any more")));
        }
        self.store_spooled(cx, &key, &object.stored).await
    }
}
