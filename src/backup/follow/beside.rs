//! Fulls and increments for whoever asks for one: beside the live tail while commits are followed, without it otherwise.
//!
//! A full beside the tail is read at a state that has a live segment: capture waits while that is cut and held, and goes on while the full is read. The two were made in
//! different ways, one of what changed, the other of all there is, so they must have one digest. Where they do not, one of them is wrong, nothing is committed, and
//! commits are not followed any more until a full was made without the tail.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{error, warn};

use super::super::catalog::Entry;
use super::super::claim::{self, Held};
use super::super::layout::manifest_key;
use super::super::ship::commit::tell;
use super::super::ship::segment::undamaged;
use super::super::ship::{ShipError, Shipped, Steps, papers};
use super::super::{Catalog, Kind, Place, Want};
use super::capture::What;
use super::compact::Report;
use super::{End, Follower};
use crate::schedule::JobContext;

/// Between looks whether what is waited for can still come.
const LOOK: Duration = Duration::from_secs(1);

impl Follower {
    /// Ships the whole database.
    pub async fn full(&self, cx: &JobContext) -> Result<Report, ShipError> {
        self.unfenced()?;
        let fixed = {
            let mut line = self.line.lock().await;
            match line.as_mut() {
                None => return self.alone(cx, Want::Full).await,
                Some(line) => {
                    let entry = self.cut_one(line, What::Fixed).await?;
                    let none = || ShipError::Failed("the live tail gave no state to read".to_owned());
                    (entry.ok_or_else(none)?, line.held.clone(), line.conditional)
                }
            }
        };
        let (entry, held, conditional) = fixed;
        let shipped = self.full_beside(cx, entry, &held, conditional).await;
        self.parts.shipper.tell_spool().await;
        shipped.map(|shipped| Report::of(&shipped))
    }

    /// Says what would be shipped, and changes nothing.
    pub async fn preview_of(&self, want: Want) -> Result<String, ShipError> {
        match want {
            Want::Changes if self.known().going => {
                Ok("commits are followed: what was shipped of them would be merged".to_owned())
            }
            want => self.parts.shipper.preview(want).await,
        }
    }

    /// Ships what changed: what was folded is merged while commits are followed, and otherwise the difference.
    pub async fn incremental(&self, cx: &JobContext) -> Result<Report, ShipError> {
        self.unfenced()?;
        let mut line = self.line.lock().await;
        if line.is_some() {
            drop(line);
            return self.merge(cx).await;
        }
        if self.tail().is_none() {
            return self.alone(cx, Want::Changes).await;
        }
        let caught_up = match self.take_hold(cx).await {
            Ok(mut held) => {
                let news = self.catch_up(cx, &mut held).await;
                self.let_go_of(&mut line).await;
                news
            }
            Err(End::NeedsFull(_) | End::Unsupported(_)) => self.alone(cx, Want::Changes).await,
            Err(End::Stopped) => Err(ShipError::Stopped),
            Err(End::Fenced(who)) => Err(ShipError::Fenced(who)),
            Err(End::Lost(why)) => Err(ShipError::Failed(why)),
            Err(End::Failed(e)) => Err(e),
        };
        if caught_up.is_ok() {
            self.again.notify_one();
        }
        caught_up
    }

    /// Whoever saw another writer while it followed commits does not write beside him until somebody has looked and started it anew.
    fn unfenced(&self) -> Result<(), ShipError> {
        self.known().fenced.clone().map_or(Ok(()), |who| Err(ShipError::Fenced(who)))
    }

    /// Without the tail; afterwards there is something that it can begin at.
    async fn alone(&self, cx: &JobContext, want: Want) -> Result<Report, ShipError> {
        // Where what is known of the pages is in doubt, an increment by it would be, too.
        let want = if self.known().doubt.is_some() { Want::Full } else { want };
        let shipped = self.parts.shipper.ship(cx, want).await;
        if want == Want::Full && shipped.is_ok() {
            self.known().doubt = None;
        }
        // Only then is there something new to begin at: whoever asked for a full that fails must not ask again at once.
        if shipped.is_ok() {
            self.again.notify_one();
        }
        if shipped.as_ref().is_ok_and(|shipped| shipped.manifest.gap_from.is_some()) {
            self.parts.metrics.gap();
        }
        shipped.map(|shipped| Report::of(&shipped))
    }

    /// Cuts what is there and stores it, in a process in which nobody else does.
    async fn catch_up(&self, cx: &JobContext, line: &mut super::Line) -> Result<Report, ShipError> {
        let entry = self.cut_one(line, What::News).await?;
        let mut report =
            Report { words: "nothing was committed since the newest segment".to_owned(), ..Report::default() };
        loop {
            cx.check()?;
            let Some((place, _)) = self.known().waiting.front().copied() else { break };
            self.parts.shipper.deliver_one(&line.held, line.conditional, place).await?;
            self.known().waiting.pop_front();
        }
        if let Some(entry) = entry {
            let shipped = Shipped { manifest: entry.manifest, instead: None, steps: Steps::default() };
            self.parts.shipper.parts.metrics.live(shipped.manifest.observed);
            report = Report::of(&shipped);
        }
        Ok(report)
    }

    /// The full of the state that `live` leads to and that the tail holds.
    async fn full_beside(
        &self,
        cx: &JobContext,
        live: Entry,
        held: &Held,
        conditional: bool,
    ) -> Result<Shipped, ShipError> {
        let shipper = &self.parts.shipper;
        let place = live.manifest.place();
        let key = shipper.new_key(place, Kind::Full, None)?;
        let (segment, encoded, upload) = shipper.land(cx, place, &key).await?;
        let began = Instant::now();
        shipper.read_back(cx, &key, &encoded.stored).await?;
        let steps = Steps { read: segment.took.read, check: segment.took.check, upload, read_back: began.elapsed() };
        if segment.digest_after != live.manifest.digest_after {
            let words = format!(
                "the full at {place} has the digest {}, the live segments lead to {}: one of them is not the database, and the full is not committed\nhint: `atlas-sidecar backup verify --deep`; commits are not followed until a full was made without the live tail",
                segment.digest_after, live.manifest.digest_after
            );
            error!(%place, full = %segment.digest_after, live = %live.manifest.digest_after, "a full and the live segments differ");
            self.known().doubt = Some(format!("the full at {place} and the live segments differ"));
            self.let_go().await;
            return Err(ShipError::Failed(words));
        }
        self.until_durable(cx, place).await?;
        let object = shipper.object(&key, encoded);
        let previous = live.manifest.previous.clone();
        let manifest = shipper.manifest_of(place, segment, Some(object), live.manifest.observed, previous);
        claim::still_ours(shipper.parts.store.as_ref(), held).await.map_err(|e| shipper.of_claim(e))?;
        if !shipper.create_manifest(conditional, &manifest, Bytes::from(manifest.to_bytes())).await? {
            return Err(shipper.fenced(&format!("there is a full at `{}` already", manifest_key(place))));
        }
        let shipped = Shipped { manifest, instead: None, steps };
        shipper.parts.metrics.shipped(&shipped);
        tell(&shipped);
        match Catalog::load(shipper.parts.store.as_ref()).await {
            Ok(catalog) => {
                shipper.parts.metrics.know(&catalog);
                if let Err(error) = papers::keep_sums(shipper.parts.store.as_ref(), &catalog).await {
                    warn!(%error, "`SHA256SUMS` could not be brought up to date: the next backup does it");
                }
            }
            Err(error) => warn!(%error, "the destination could not be listed after a full"),
        }
        undamaged(&shipped.manifest)?;
        Ok(shipped)
    }

    /// Comes back when the live segment that leads to `place` is in the store.
    async fn until_durable(&self, cx: &JobContext, place: Place) -> Result<(), ShipError> {
        let durable = self.durable.subscribe();
        loop {
            if durable.borrow().is_some_and(|durable| durable.timeline == place.timeline && durable >= place) {
                return Ok(());
            }
            self.unfenced()?;
            cx.check()?;
            let mut durable = durable.clone();
            tokio::select! {
                _ = tokio::time::timeout(LOOK, durable.changed()) => {}
                stopped = cx.rest(cx.time_left()) => stopped?,
            }
        }
    }
}
