//! Stores what was spooled, in order, and looks now and then whether the timeline is still ours.

use std::time::Instant;

use bytes::Bytes;
use tracing::{info, warn};

use super::super::catalog::Heartbeat;
use super::super::claim::{self, ClaimError, Held, Taken, claim_of};
use super::super::layout::{FORMAT, claim_key, heartbeat_key};
use super::super::ship::ShipError;
use super::super::{Base, Kind, Timeline};
use super::{End, Follower};

/// The store does not take what it should.
struct Outage {
    began: Instant,
    failures: u32,
}

impl Follower {
    /// Stores what waits, until that must end.
    pub(super) async fn upload(&self) -> End {
        let mut beat = Instant::now() + self.parts.pace.heartbeat;
        let mut outage: Option<Outage> = None;
        loop {
            let until_beat = beat.saturating_duration_since(Instant::now());
            let done = if until_beat.is_zero() {
                beat = Instant::now() + self.parts.pace.heartbeat;
                self.heartbeat().await
            } else if self.known().waiting.is_empty() {
                let _ = tokio::time::timeout(until_beat, self.cut.notified()).await;
                continue;
            } else {
                self.store_first(outage.is_some()).await
            };
            match done {
                Ok(()) => self.is_over(&mut outage),
                Err(ShipError::Store(e)) => {
                    let outage = outage.get_or_insert_with(|| {
                        warn!(error = %e, "the destination does not take what is committed: it waits in the spool");
                        Outage { began: Instant::now(), failures: 0 }
                    });
                    outage.failures = outage.failures.saturating_add(1);
                    tokio::time::sleep(self.parts.pace.again.wait(outage.failures, 0)).await;
                }
                Err(e) => return e.into(),
            }
        }
    }

    fn is_over(&self, outage: &mut Option<Outage>) {
        if let Some(Outage { began, failures }) = outage.take() {
            let waiting = self.known().waiting.len();
            let seconds = began.elapsed().as_secs();
            info!(seconds, failures, waiting, "the destination takes what is committed again");
        }
    }

    /// Stores the segment that waits longest.
    async fn store_first(&self, after_outage: bool) -> Result<(), ShipError> {
        let Some((held, conditional)) = self.claim().await else { return Ok(()) };
        let first = {
            let mut known = self.known();
            let first = known.waiting.front().copied();
            // An outage is one upload, however often it is tried.
            known.uploading = first.map(|_| known.uploading.unwrap_or_else(Instant::now));
            first
        };
        let Some((place, _)) = first else { return Ok(()) };
        if after_outage {
            // Somebody may have gone on without us meanwhile.
            self.look_for_others(&held, conditional).await?;
        }
        let shipper = &self.parts.shipper;
        let entry = shipper.deliver_one(&held, conditional, place).await?;
        let empty = {
            let mut known = self.known();
            known.waiting.pop_front();
            if let Some(took) = known.uploading.take().map(|since| since.elapsed().min(self.parts.pace.slow)) {
                known.takes = (known.takes * 3 + took) / 4;
            }
            known.waiting.is_empty()
        };
        self.durable.send_replace(Some(place));
        shipper.parts.metrics.live(entry.manifest.observed);
        if entry.manifest.kind == Kind::Live {
            self.parts.metrics.stored();
        }
        if empty {
            shipper.tell_spool().await;
        }
        Ok(())
    }

    /// Comes back when nothing waits.
    pub(super) async fn uploaded(&self) {
        let mut durable = self.durable.subscribe();
        while !self.known().waiting.is_empty() {
            if durable.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) async fn claim(&self) -> Option<(Held, bool)> {
        let line = self.line.lock().await;
        line.as_ref().map(|line| (line.held.clone(), line.conditional))
    }

    /// Looks whether the timeline is still ours, and says that nothing but what is in the store was committed.
    pub(super) async fn heartbeat(&self) -> Result<(), ShipError> {
        let Some((held, conditional)) = self.claim().await else { return Ok(()) };
        self.look_for_others(&held, conditional).await?;
        let Some((tip, until)) = self.silence().await else { return Ok(()) };
        let beat = Heartbeat { format: FORMAT, tip, until };
        let mut bytes = serde_json::to_vec_pretty(&beat).map_err(|e| ShipError::Failed(e.to_string()))?;
        bytes.push(b'\n');
        let shipper = &self.parts.shipper;
        let key = heartbeat_key(held.timeline(), self.now());
        shipper.parts.store.put(&key, Bytes::from(bytes)).await?;
        shipper.parts.metrics.live(until);
        Ok(())
    }

    /// The newest state, where all of it is in the store, and until when it was the newest, where that says more than its own mark.
    async fn silence(&self) -> Option<(Base, crate::clock::Timestamp)> {
        let line = self.line.lock().await;
        let tip = &line.as_ref()?.tip.manifest;
        let known = self.known();
        let silent = known.waiting.is_empty() && known.looked > tip.observed;
        silent.then(|| (tip.base(), known.looked))
    }

    /// Looks whether somebody has claimed the next timeline.
    async fn look_for_others(&self, held: &Held, conditional: bool) -> Result<(), ShipError> {
        let shipper = &self.parts.shipper;
        let store = shipper.parts.store.as_ref();
        if !conditional {
            return claim::still_ours(store, held).await.map_err(|e| shipper.of_claim(e));
        }
        let next = Timeline(held.timeline().0 + 1);
        match claim_of(store, &claim_key(next)).await? {
            None => Ok(()),
            Some(by) => Err(shipper.of_claim(ClaimError::Taken(Taken { timeline: next, by }))),
        }
    }
}
