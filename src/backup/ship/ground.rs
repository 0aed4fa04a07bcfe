//! Where a segment may begin: our timeline, the store's newest state on it, and what was left pending.

use std::time::Instant;

use super::super::catalog::{Catalog, Claim, Entry};
use super::super::claim::{self, About, Held, Standing, Tip};
use super::super::manifest::Sum;
use super::super::{Adopted, Kind, Look, Manifest, Place, Position, Soundness, Timeline};
use super::state::Pending;
use super::{ShipError, Shipper, Steps, segment};
use crate::clock::Timestamp;
use crate::object::{ObjectError, ObjectKey, Part};
use crate::schedule::JobContext;

/// Positions that a new timeline leaves out for whoever had the one before, where that one followed commits: it notices within five minutes that there is a claim, and at
/// its shortest interval of 100 ms commits ten numbers in a second.
const LEFT_OUT: u64 = 4096;

/// A timeline that is ours, and the store as it was seen since.
pub(in crate::backup) struct Ground {
    pub held: Held,
    pub catalog: Catalog,
    pub conditional: bool,
    /// The newest segment of our timeline, those included that wait in the spool of live segments.
    pub tip: Option<Entry>,
    /// Those that wait there, in their order.
    pub waiting: Vec<Place>,
}

impl Ground {
    fn new(held: Held, catalog: Catalog, conditional: bool, tip: Option<Entry>) -> Self {
        Self { held, catalog, conditional, tip, waiting: Vec::new() }
    }

    /// Where the next segment leads to.
    pub fn next_place(&self) -> Place {
        let timeline = self.held.timeline();
        let highest = self.catalog.highest_position();
        let position = match (&self.tip, highest) {
            (Some(tip), highest) => highest.map_or(tip.manifest.to, |highest| highest.max(tip.manifest.to)).next(),
            (None, None) => Position(1),
            (None, Some(highest)) if self.catalog.live.is_empty() && self.catalog.folds.is_empty() => {
                highest.next().next()
            }
            (None, Some(highest)) => Position(highest.0 + LEFT_OUT),
        };
        Place { timeline, position }
    }

    /// The sum of the manifest before the next one.
    pub fn previous(&self) -> Option<Sum> {
        let parent = || self.held.claim.parent.and_then(|parent| written(&self.catalog, parent.place));
        self.tip.as_ref().or_else(parent).map(|entry| entry.sha256.clone())
    }

    /// The time of a mark of `at`: never before the one in front of it.
    pub fn observed(&self, at: Timestamp) -> Timestamp {
        self.tip.as_ref().map_or(at, |tip| at.max(tip.manifest.observed))
    }

    /// The last instant at which the tip was known to be the newest state, where commits were followed up to it: those that came since cannot be told apart any more.
    pub fn followed_until(&self) -> Option<Timestamp> {
        let tip = &self.tip.as_ref()?.manifest;
        let place = tip.place();
        let beat = self.catalog.heartbeats.get(&place.timeline).filter(|beat| beat.tip.place == place);
        let was_followed = beat.is_some()
            || tip.kind == Kind::Live
            || tip.gap_from.is_some()
            || self.waiting.contains(&place)
            || self.catalog.followed(place);
        was_followed.then(|| beat.map_or(tip.observed, |beat| beat.until.max(tip.observed)))
    }

    /// Whether the store holds what leads from a full to the tip, as far as a listing can tell; why not.
    pub fn whole(&self) -> Result<(), String> {
        let timeline = self.held.timeline();
        let full = newest_full(&self.catalog, timeline).ok_or_else(|| format!("there is no full on {timeline} yet"))?;
        if let Some(fault) = full.fault() {
            return Err(fault);
        }
        if let Some(Soundness::Damaged(words)) = &full.manifest.soundness {
            return Err(format!("the full at {} is of a damaged database: {words}", full.manifest.to));
        }
        let last = self.waiting.first().and_then(|first| first.position.0.checked_sub(1));
        let tip = last.map(Position).or(self.tip.as_ref().map(|tip| tip.manifest.to));
        reach(&self.catalog, timeline, full.manifest.to, tip.unwrap_or(full.manifest.to))
    }
}

/// The newest full of `timeline`.
fn newest_full(catalog: &Catalog, timeline: Timeline) -> Option<&Entry> {
    let own = catalog.entries.iter().rev().filter(|(place, _)| place.timeline == timeline);
    own.map(|(_, entry)| entry).find(|entry| entry.manifest.kind == Kind::Full)
}

/// Whether segments lead from `from` to `to` without one missing.
fn reach(catalog: &Catalog, timeline: Timeline, from: Position, to: Position) -> Result<(), String> {
    let mut at = from;
    while at < to {
        let next = Place { timeline, position: at.next() };
        let folded = catalog.folds.range((next, Kind::Full)..).map(|(_, entry)| entry);
        let ahead = catalog.entries.range(next..).map(|(_, entry)| entry).chain(folded);
        let leads = |entry: &&Entry| {
            entry.manifest.timeline == timeline
                && entry.manifest.to <= to
                && entry.manifest.from.is_some_and(|from| from <= at)
                && entry.fault().is_none()
        };
        let live = catalog.live.contains_key(&next).then_some(next.position);
        let furthest = ahead.filter(leads).map(|entry| entry.manifest.to).chain(live).max();
        at = furthest.ok_or_else(|| format!("there is no segment to {next}, or it is damaged"))?;
    }
    Ok(())
}

/// What leads to `place`, of all whose words were read: a live segment rather than a full beside it, that rather than what was folded.
pub(in crate::backup) fn written(catalog: &Catalog, place: Place) -> Option<&Entry> {
    let folded = || [Kind::Fine, Kind::Merged].into_iter().find_map(|kind| catalog.folds.get(&(place, kind)));
    catalog.notes.get(&place).or_else(|| catalog.entries.get(&place)).or_else(folded)
}

/// The newest place on `timeline` that anything in the store leads to.
pub(in crate::backup) fn newest_place(catalog: &Catalog, timeline: Timeline) -> Option<Place> {
    let folded = catalog.folds.keys().map(|(place, _)| place);
    let all = catalog.entries.keys().chain(catalog.live.keys()).chain(folded);
    all.filter(|place| place.timeline == timeline).max().copied()
}

/// Whether `next` goes on from `tip`.
fn follows(tip: Option<&Entry>, next: &Entry) -> bool {
    tip.is_some_and(|tip| {
        next.manifest.from == Some(tip.manifest.to)
            && next.manifest.digest_before == Some(tip.manifest.digest_after)
            && next.manifest.previous.as_ref() == Some(&tip.sha256)
    })
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
        let (held, mut catalog) = match claim::standing(self.state.held().await?, &catalog, &destination) {
            Standing::Ours(held) => (held, catalog),
            Standing::Unsettled(held) => self.settle(cx, held, conditional).await?,
            Standing::None(why) => return self.begin_timeline(cx, catalog, look, why, conditional).await,
            Standing::Taken(taken) => return Err(self.fenced(&taken.to_string())),
        };
        let place = newest_place(&catalog, held.timeline());
        if let Some(place) = place {
            self.read_note(&mut catalog, place).await?;
        }
        let tip = place.and_then(|place| written(&catalog, place)).cloned();
        let pending = self.state.pending().await?;
        let pending = pending.map(|pending| Sum::of(&pending.manifest.to_bytes()));
        let spooled = match place {
            Some(place) => self.spooled(place).await?.map(|spooled| spooled.entry),
            None => None,
        };
        // What was folded, or a full, may be all that is left of a live segment that is still in the spool.
        let same = |ours: &Entry, there: &Entry| {
            ours.sha256 == there.sha256
                || (there.manifest.kind != Kind::Live && ours.manifest.base() == there.manifest.base())
        };
        let ours = match (&spooled, &tip) {
            (Some(spooled), Some(tip)) if same(spooled, tip) => true,
            (_, tip) => {
                held.wrote(tip.as_ref()) || tip.as_ref().is_some_and(|tip| pending.as_ref() == Some(&tip.sha256))
            }
        };
        if ours {
            let tip = spooled.filter(|spooled| tip.as_ref().is_some_and(|tip| same(spooled, tip))).or(tip);
            let mut ground = Ground::new(held, catalog, conditional, tip);
            self.wait_in_line(&mut ground).await?;
            return Ok(ground);
        }
        let why = match place {
            Some(place) => {
                format!(
                    "the newest segment, {place}, is not the last one that this installation wrote: it was put back, or copied"
                )
            }
            None => format!("the segments of {} are not in the store any more", held.timeline()),
        };
        self.begin_timeline(cx, catalog, look, why, conditional).await
    }

    /// Finds what in the spool goes on from the tip. What does not will never be stored and is thrown away; what was stored is kept for whoever folds it.
    async fn wait_in_line(&self, ground: &mut Ground) -> Result<(), ShipError> {
        let timeline = ground.held.timeline();
        let stored = ground.tip.as_ref().map_or(Position(0), |tip| tip.manifest.to);
        let mut lost = Vec::new();
        for place in self.on_spool(|spool| Ok(spool.all())).await? {
            if place.timeline == timeline && place.position <= stored {
                continue;
            }
            match self.spooled(place).await? {
                Some(spooled) if place.timeline == timeline && follows(ground.tip.as_ref(), &spooled.entry) => {
                    ground.tip = Some(spooled.entry);
                    ground.waiting.push(place);
                }
                _ => lost.push(place),
            }
        }
        if let (Some(first), Some(last)) = (lost.first().copied(), lost.last()) {
            tracing::warn!(%first, %last, segments = lost.len(), "live segments that do not go on from what the store has are thrown away");
            self.on_spool(move |spool| lost.iter().try_for_each(|place| spool.remove(*place))).await?;
        }
        Ok(())
    }

    /// The words of the live segment at `place`, where there is one, among the catalog's.
    pub(in crate::backup) async fn read_note(&self, catalog: &mut Catalog, place: Place) -> Result<(), ShipError> {
        let Some(listed) = catalog.live.get(&place).filter(|_| !catalog.notes.contains_key(&place)) else {
            return Ok(());
        };
        let first = Part { to: Some(1), ..Part::default() };
        let note = match self.parts.store.get(&listed.key, first).await {
            Ok(download) => download.note.unwrap_or_default(),
            Err(ObjectError::Missing(_)) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let manifest = Manifest::from_bytes(note.as_bytes())
            .map_err(|why| ObjectError::Corrupt(format!("the note of `{}`: {why}", listed.key)))?;
        let entry = Entry { listed_bytes: Some(listed.bytes), ..Entry::committed(manifest, Sum::of(note.as_bytes())) };
        catalog.notes.insert(place, entry);
        Ok(())
    }

    /// Claims the next timeline.
    pub(in crate::backup) async fn begin_timeline(
        &self,
        cx: &JobContext,
        mut catalog: Catalog,
        look: &Look,
        reason: String,
        conditional: bool,
    ) -> Result<Ground, ShipError> {
        if let Some(place) = catalog.newest_timeline().and_then(|timeline| newest_place(&catalog, timeline)) {
            self.read_note(&mut catalog, place).await?;
        }
        let about = About { identity: look.identity.clone(), reason, at: self.parts.clock.now() };
        let claim = claim::next(&catalog, self.state.held().await?.as_ref(), &self.parts.writer, about);
        let word = if conditional { None } else { Some(segment::word()?) };
        let key = claim::key(claim.timeline, word).to_string();
        let held = Held { destination: self.parts.store.place(), key, claim, settled: false, tip: None };
        self.state.hold(&held).await?;
        let (held, mut catalog) = self.settle(cx, held, conditional).await?;
        if let Some(parent) = &held.claim.parent {
            self.read_note(&mut catalog, parent.place).await?;
        }
        let mut ground = Ground::new(held, catalog, conditional, None);
        self.wait_in_line(&mut ground).await?;
        Ok(ground)
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
        let Some(tip) = &ground.tip else {
            return Ok(Adopted::Unknown(format!("there is no full on {} yet", ground.held.timeline())));
        };
        match self.parts.source.adopt(&tip.manifest.base()).await? {
            Adopted::Known => Ok(ground.whole().map_or_else(Adopted::Unknown, |()| Adopted::Known)),
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
            if ground.tip.as_ref().is_some_and(|tip| tip.manifest.place() == place) {
                ground.held.tip = Some(Tip { place, sha256 });
                self.state.hold(&ground.held).await?;
            }
            return self.state.clear_spool().await;
        }
        let from = ground.tip.as_ref().map(|tip| tip.manifest.to);
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
                self.deliver_waiting(cx, ground).await?;
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
