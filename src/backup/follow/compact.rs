//! The hourly look after what was shipped: live segments are folded, the spool is swept of what is folded, and what the store has lost is stored again.

use std::sync::Arc;

use tracing::warn;

use super::super::catalog::Catalog;
use super::super::codec::Identity;
use super::super::fold::{Fold, FoldError, Folded};
use super::super::ship::{ShipError, Shipped};
use super::super::tail::Kept;
use super::super::{Kind, Place, Timeline};
use super::Follower;
use crate::schedule::JobContext;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was dealt with: pages of a backup, segments that were folded.
    pub count: u64,
    /// Bytes that were stored.
    pub bytes: u64,
    /// It in words.
    pub words: String,
}

impl Report {
    pub(super) fn of(shipped: &Shipped) -> Self {
        let count = shipped.manifest.sent_pages.into();
        Self { count, bytes: shipped.stored_bytes(), words: shipped.to_string() }
    }
}

impl Follower {
    /// Folds live segments into fine ones, and lets go of what is covered.
    pub async fn compact(&self, cx: &JobContext) -> Result<Report, ShipError> {
        // Before the listing: what is durable then must be in it.
        let durable = *self.durable.borrow();
        let (catalog, timeline) = self.catalog().await?;
        let Some(timeline) = timeline else { return Ok(nothing()) };
        let again = match durable.filter(|durable| durable.timeline == timeline) {
            Some(durable) => self.audit(&catalog, durable).await?,
            None => 0,
        };
        let fine = {
            let fold = self.folding(&catalog, timeline)?;
            fold.as_fold(self)?.fine(cx).await.map_err(of_fold)?
        };
        let (catalog, _) = if fine.is_some() { self.catalog().await? } else { (catalog, None) };
        let let_go = self.sweep_spool(&catalog, timeline).await?;
        let swept = self.folding(&catalog, timeline)?.as_fold(self)?.sweep(cx).await.map_err(of_fold)?;
        self.parts.shipper.tell_spool().await;
        let mut words = format!(
            "{}; {} live segments and {} heartbeats deleted, {let_go} let go of in the spool",
            folded(fine.as_ref(), "folded"),
            swept.live,
            swept.heartbeats
        );
        if again > 0 {
            words.push_str(&format!(", {again} that the destination had lost stored again"));
        }
        if let Some(why) = swept.refused {
            words.push_str(&format!("; {} may go and are still there: {why}", swept.left));
        }
        let (count, bytes) = fine.map_or((0, 0), |fine| (fine.segments, fine.bytes));
        Ok(Report { count, bytes, words })
    }

    /// Merges fine segments.
    pub async fn merge(&self, cx: &JobContext) -> Result<Report, ShipError> {
        let (catalog, timeline) = self.catalog().await?;
        let Some(timeline) = timeline else { return Ok(nothing()) };
        let merged = self.folding(&catalog, timeline)?.as_fold(self)?.merged(cx).await.map_err(of_fold)?;
        if merged.is_some() {
            self.catalog().await?;
        }
        let words = folded(merged.as_ref(), "merged");
        let (count, bytes) = merged.map_or((0, 0), |merged| (merged.segments, merged.bytes));
        Ok(Report { count, bytes, words })
    }

    /// Says what would be folded, and changes nothing.
    pub async fn preview(&self) -> Result<String, ShipError> {
        let (catalog, timeline) = self.catalog().await?;
        let Some(timeline) = timeline else { return Ok(nothing().words) };
        let open = catalog.live.keys().filter(|place| place.timeline == timeline && !is_folded(&catalog, **place));
        Ok(format!("{} live segments of {timeline} are not folded", open.count()))
    }

    /// What the store has, and which timeline is ours.
    async fn catalog(&self) -> Result<(Catalog, Option<Timeline>), ShipError> {
        let shipper = &self.parts.shipper;
        let catalog = Catalog::load(shipper.parts.store.as_ref()).await?;
        shipper.parts.metrics.know(&catalog);
        let held = shipper.held().await?.filter(|held| catalog.claims.get(&held.timeline()) == Some(&held.claim));
        Ok((catalog, held.map(|held| held.timeline())))
    }

    /// Stores again what is in the spool, was stored, and is not listed any more.
    async fn audit(&self, catalog: &Catalog, durable: Place) -> Result<u64, ShipError> {
        let Some((held, conditional)) = self.claim().await else { return Ok(0) };
        let shipper = &self.parts.shipper;
        let mut again = 0;
        for place in shipper.spool.all().into_iter().filter(|p| p.timeline == durable.timeline && *p <= durable) {
            let there = catalog.live.contains_key(&place)
                || is_folded(catalog, place)
                || catalog.entries.get(&place).is_some_and(|entry| entry.manifest.kind == Kind::Incremental);
            if !there {
                warn!(%place, "the destination has lost a live segment: it is stored again");
                shipper.deliver_one(&held, conditional, place).await?;
                again += 1;
            }
        }
        Ok(again)
    }

    /// Lets go of what is in the spool and in a fine segment. Only where the tail has made durable that it needs none of it.
    async fn sweep_spool(&self, catalog: &Catalog, timeline: Timeline) -> Result<u64, ShipError> {
        let line = self.line.lock().await;
        let (Some(line), Some(tail)) = (line.as_ref(), self.tail()) else { return Ok(0) };
        if line.held.timeline() != timeline {
            return Ok(0);
        }
        let long = |place: &Place| catalog.entries.get(place).is_some_and(|e| e.manifest.kind == Kind::Incremental);
        let spool = &self.parts.shipper.spool;
        let old: Vec<Place> =
            spool.all().into_iter().filter(|place| is_folded(catalog, *place) || long(place)).collect();
        if old.is_empty() {
            return Ok(0);
        }
        tail.settle().await?;
        self.parts.shipper.on_spool(move |spool| spool.sweep(&old)).await
    }

    fn folding<'a>(&self, catalog: &'a Catalog, timeline: Timeline) -> Result<Folding<'a>, ShipError> {
        let identity = self.parts.identity_file.as_deref().map(Identity::from_file).transpose();
        let identity = identity.map_err(ShipError::Failed)?;
        let kept: Arc<dyn Kept> = Arc::clone(&self.parts.shipper.spool) as _;
        let scratch = self.parts.shipper.parts.settings.state_directory.join("backup/fold");
        Ok(Folding { catalog, timeline, identity, kept, scratch })
    }
}

/// What a [`Fold`] borrows.
struct Folding<'a> {
    catalog: &'a Catalog,
    timeline: Timeline,
    identity: Option<Identity>,
    kept: Arc<dyn Kept>,
    scratch: std::path::PathBuf,
}

impl Folding<'_> {
    fn as_fold<'a>(&'a self, of: &'a Follower) -> Result<Fold<'a>, ShipError> {
        let parts = &of.parts.shipper.parts;
        let none = || ShipError::Failed(format!("segments of {} cannot be folded", parts.source.engine()));
        Ok(Fold {
            store: &parts.store,
            catalog: self.catalog,
            timeline: self.timeline,
            form: &parts.settings.form,
            threads: parts.settings.threads,
            identity: self.identity.as_ref(),
            kept: &self.kept,
            weave: of.parts.weave.ok_or_else(none)?,
            scratch: &self.scratch,
            clock: &parts.clock,
        })
    }
}

/// Whether the segment to `place` is in a fine one.
fn is_folded(catalog: &Catalog, place: Place) -> bool {
    let ahead = catalog.folds.range((place, Kind::Full)..).take_while(|((to, _), _)| to.timeline == place.timeline);
    let mut fine = ahead.filter(|((_, kind), _)| *kind == Kind::Fine).map(|(_, entry)| &entry.manifest);
    fine.any(|fine| fine.from.is_some_and(|from| from < place.position))
}

fn nothing() -> Report {
    Report { words: "no timeline of this installation is at the destination".to_owned(), ..Report::default() }
}

fn folded(folded: Option<&Folded>, verb: &str) -> String {
    match folded {
        Some(Folded { manifest, made, segments, bytes, .. }) => {
            format!("{segments} segments {verb} into {made}, up to {}, {bytes} bytes stored", manifest.place())
        }
        None => format!("nothing to be {verb}"),
    }
}

fn of_fold(e: FoldError) -> ShipError {
    match e {
        FoldError::Stopped => ShipError::Stopped,
        e => ShipError::Failed(e.to_string()),
    }
}
