//! Takes hold of the database, and makes one line of what the store has, what waits in the spool and what is committed from now on.

use std::collections::VecDeque;
use std::sync::Arc;

use tracing::{info, warn};

use super::super::ship::ground::Ground;
use super::super::ship::{ShipError, Shipped};
use super::super::tail::{Begun, Kept};
use super::super::{Kind, Look, Place, Position};
use super::spool::Spool;
use super::{End, Follower, Line, tell_going};
use crate::clock::Timestamp;
use crate::schedule::JobContext;

/// How often a full may have come between, in place of an increment, until it is given up.
const TRIES: usize = 3;

impl Follower {
    /// Begins to follow.
    pub(super) async fn begin(&self, cx: &JobContext) -> Result<(), End> {
        let mut line = self.line.lock().await;
        *line = Some(self.take_hold(cx).await?);
        Ok(())
    }

    /// The same for whoever has the lock.
    pub(super) async fn take_hold(&self, cx: &JobContext) -> Result<Line, End> {
        let shipper = &self.parts.shipper;
        let mut memory = shipper.alone(cx).await?;
        let (mut ground, look) = shipper.ground(cx, &mut memory, false).await?;
        if !shipper.keeps_notes(&mut memory).await? {
            let place = shipper.parts.store.place();
            return Err(End::Unsupported(format!("{place} drops what is noted about an object (`x-amz-meta-…`)")));
        }
        let held = self.hold(cx, &mut ground, &look).await;
        shipper.tell_spool().await;
        if held.is_err()
            && let Some(tail) = self.tail()
        {
            tail.release().await;
        }
        held?;
        self.line_of(ground).await
    }

    /// Takes hold of the database at the end of `ground`.
    async fn hold(&self, cx: &JobContext, ground: &mut Ground, look: &Look) -> Result<(), End> {
        let Some(tail) = self.tail() else { return Err(End::Unsupported("its commits cannot be followed".to_owned())) };
        let shipper = &self.parts.shipper;
        if let Some(why) = self.known().doubt.clone() {
            return Err(End::NeedsFull(why));
        }
        // Where it is about to be full, it would be so again at once.
        if shipper.spool.bytes() > self.parts.settings.spool_max / 2 {
            shipper.deliver_waiting(cx, ground).await?;
        }
        for _ in 0..TRIES {
            cx.check().map_err(ShipError::from)?;
            ground.whole().map_err(End::NeedsFull)?;
            let Some(tip) = ground.tip.as_ref().map(|tip| tip.manifest.base()) else {
                return Err(End::NeedsFull(format!("there is no full on {} yet", ground.held.timeline())));
            };
            let kept: Arc<dyn Kept> = Arc::clone(&shipper.spool) as _;
            match tail.begin(&tip, kept).await.map_err(ShipError::from)? {
                Begun::Going => {
                    tell_going(tip.place, ground.waiting.len(), None);
                    return Ok(());
                }
                Begun::Gap(why) => {
                    if self.cross(cx, ground, why).await? {
                        return Ok(());
                    }
                }
                Begun::Unknown(why) => return Err(End::NeedsFull(why)),
                Begun::Another(why) => {
                    let catalog = std::mem::take(&mut ground.catalog);
                    *ground = shipper.begin_timeline(cx, catalog, look, why.clone(), ground.conditional).await?;
                    return Err(End::NeedsFull(why));
                }
            }
        }
        Err(End::NeedsFull("the state that the store has could not be gone on from".to_owned()))
    }

    /// Ships what lies between the tip and the database as it is held. Whether commits are followed from there on; a full may have come instead.
    async fn cross(&self, cx: &JobContext, ground: &mut Ground, why: String) -> Result<bool, End> {
        let Some(from) = ground.tip.as_ref().map(|tip| tip.manifest.place()) else { return Ok(false) };
        let was_followed = ground.followed_until();
        let since = was_followed.or(ground.tip.as_ref().map(|tip| tip.manifest.observed)).unwrap_or_else(|| self.now());
        let shipped = match self.parts.shipper.ship_changes(cx, ground, Some(since)).await {
            Err(e @ ShipError::State { .. }) => self.cross_without_room(cx, ground, since, e).await?,
            shipped => shipped?,
        };
        if was_followed.is_some() && shipped.manifest.gap_from.is_some() {
            self.parts.metrics.gap();
        }
        if shipped.manifest.kind != Kind::Incremental {
            return Ok(false);
        }
        let (to, until) = (shipped.manifest.place(), shipped.manifest.observed);
        let gap = shipped.manifest.gap_from.map(|_| why.as_str());
        if let Some(why) = gap {
            warn!(%from, %to, %since, %until, why, "a gap: commits between these two instants can only be restored as one");
        }
        tell_going(to, 0, gap);
        Ok(true)
    }

    /// The same where the disk of the state directory is full, most likely of what the store has by now: that is let go. A difference that has no room even then is
    /// shipped as a full, which needs none.
    async fn cross_without_room(
        &self,
        cx: &JobContext,
        ground: &mut Ground,
        since: Timestamp,
        e: ShipError,
    ) -> Result<Shipped, ShipError> {
        let (shipper, Some(tip)) = (&self.parts.shipper, ground.tip.as_ref().map(|tip| tip.manifest.place())) else {
            return Err(e);
        };
        warn!(error = %e, "no room for the difference: segments that are stored are let go of before they are folded");
        let waiting = ground.waiting.clone();
        let stored = move |spool: &Spool| {
            let mut stored = spool.up_to(tip);
            stored.retain(|place| !waiting.contains(place));
            spool.sweep(&stored)
        };
        shipper.on_spool(stored).await?;
        match shipper.ship_changes(cx, ground, Some(since)).await {
            Err(ShipError::State { error, .. }) => {
                shipper.ship_full(cx, ground, Some(format!("there is no room for the difference: {error}"))).await
            }
            shipped => shipped,
        }
    }

    /// Makes it known to the loops.
    async fn line_of(&self, ground: Ground) -> Result<Line, End> {
        let Ground { held, catalog, conditional, tip, waiting } = ground;
        let tip = tip.ok_or_else(|| End::NeedsFull("there is no full yet".to_owned()))?;
        let mut row = VecDeque::with_capacity(waiting.len());
        for place in &waiting {
            let spooled = self.parts.shipper.spooled(*place).await?;
            let since = spooled.map_or(tip.manifest.observed, |s| Timestamp::from_millis(s.words.since));
            row.push_back((*place, since));
        }
        let before = |first: &Place| Place { position: Position(first.position.0.saturating_sub(1)), ..*first };
        let durable = waiting.first().map_or(tip.manifest.place(), before);
        self.durable.send_replace(Some(durable));
        if waiting.is_empty() {
            self.parts.shipper.parts.metrics.live(tip.manifest.observed);
        }
        if let Some(beat) = catalog.heartbeats.get(&held.timeline()).filter(|beat| beat.tip.place <= durable) {
            self.parts.shipper.parts.metrics.live(beat.until);
        }
        {
            let mut known = self.known();
            known.going = true;
            known.wanted = true;
            known.looked = known.looked.max(tip.manifest.observed);
            known.waiting = row;
            known.uploading = None;
        }
        self.parts.metrics.following(true);
        self.wants_full.send_replace(None);
        if !waiting.is_empty() {
            info!(segments = waiting.len(), "live segments wait in the spool and go up first");
        }
        Ok(Line { held, conditional, tip, cut: None })
    }
}
