//! Makes segments: a full goes straight into the store, an increment into the spool first.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::info;

use super::super::codec::{self, Encoded, Label};
use super::super::layout::{FORMAT, object_key};
use super::super::manifest::{Content, Object, Sum};
use super::super::{Kind, Manifest, Place, Position, Segment, Soundness, Want};
use super::carry::{Landing, QUEUED, read_back, read_spool, write_spool};
use super::ground::Ground;
use super::state::Pending;
use super::{ShipError, Shipped, Shipper, Steps, stopped};
use crate::clock::Timestamp;
use crate::object::ObjectKey;
use crate::schedule::JobContext;

/// A random word.
pub(super) fn word() -> Result<u32, ShipError> {
    getrandom::u32().map_err(|e| ShipError::Failed(format!("there are no random numbers: {e}")))
}

/// An increment in the spool, or why it cannot be one.
enum Cut {
    Pending(Box<Pending>, Steps),
    Unfit(String),
}

/// What was stored is no success where its database is damaged.
pub(in crate::backup) fn undamaged(manifest: &Manifest) -> Result<(), ShipError> {
    let Some(Soundness::Damaged(words)) = &manifest.soundness else { return Ok(()) };
    Err(ShipError::Damaged(format!(
        "the database is damaged: {words}; {} is stored and marked, and counts as no backup\nhint: look at it with `PRAGMA integrity_check`, or restore an older state beside it",
        manifest.place()
    )))
}

/// Since when what `manifest` goes over was not followed. Where it leads to the state that there was, nothing was lost.
fn gap_before(ground: &Ground, manifest: &Manifest, from: Option<Timestamp>) -> Option<Timestamp> {
    let is_same = ground.tip.as_ref().is_some_and(|tip| tip.manifest.digest_after == manifest.digest_after);
    from.filter(|_| !is_same).map(|from| from.min(manifest.observed))
}

impl Shipper {
    /// Ships the whole database; `instead` of an increment, where that tells why.
    pub(in crate::backup) async fn ship_full(
        &self,
        cx: &JobContext,
        ground: &mut Ground,
        instead: Option<String>,
    ) -> Result<Shipped, ShipError> {
        self.deliver_waiting(cx, ground).await?;
        if let Some(why) = &instead {
            info!(why, "a full is shipped instead of an increment");
        }
        let place = ground.next_place();
        let key = self.new_key(place, Kind::Full, None)?;
        let (segment, encoded, upload) = self.land(cx, place, &key).await?;
        let began = Instant::now();
        self.read_back(cx, &key, &encoded.stored).await?;
        let read_back = began.elapsed();
        let steps = Steps { read: segment.took.read, check: segment.took.check, upload, read_back };
        let mut manifest = self.manifest(ground, place, segment, Some(self.object(&key, encoded)));
        manifest.gap_from = gap_before(ground, &manifest, ground.followed_until());
        let pending = Pending { manifest, spooled: false };
        self.state.intend(&pending).await?;
        let shipped = self.commit(ground, pending, steps).await?;
        undamaged(&shipped.manifest)?;
        Ok(Shipped { instead, ..shipped })
    }

    /// Ships what changed since the tip, which the source has adopted.
    /// `gap_from`, where it goes over commits that were to be followed and could not be.
    pub(in crate::backup) async fn ship_changes(
        &self,
        cx: &JobContext,
        ground: &mut Ground,
        gap_from: Option<Timestamp>,
    ) -> Result<Shipped, ShipError> {
        self.deliver_waiting(cx, ground).await?;
        let (pending, mut steps) = match self.cut(cx, ground, gap_from).await {
            Ok(Cut::Pending(pending, steps)) => (*pending, steps),
            Ok(Cut::Unfit(why)) => {
                self.state.clear_spool().await?;
                return self.ship_full(cx, ground, Some(why)).await;
            }
            Err(e) => {
                // Nothing tells of it, and nothing of it is stored.
                self.state.clear_spool().await?;
                return Err(e);
            }
        };
        self.state.intend(&pending).await?;
        if let Some(object) = &pending.manifest.object {
            let stored = self.store_spooled(cx, &ObjectKey::ours(&object.key), &object.stored).await?;
            (steps.upload, steps.read_back) = (stored.upload, stored.read_back);
        }
        self.commit(ground, pending, steps).await
    }

    /// Cuts the increment into the spool.
    async fn cut(&self, cx: &JobContext, ground: &Ground, gap_from: Option<Timestamp>) -> Result<Cut, ShipError> {
        let place = ground.next_place();
        let Some(tip) = ground.tip.as_ref().map(|tip| &tip.manifest) else {
            return Ok(Cut::Unfit("there is nothing that it could go on from".to_owned()));
        };
        let key = self.new_key(place, Kind::Incremental, Some(tip.to))?;
        let file = self.state.open_spool().await?;
        let (stored_to, stored) = mpsc::channel(QUEUED);
        let folder = self.state.segment_file();
        let landing = async { write_spool(file, stored).await.map_err(|error| ShipError::State { folder, error }) };
        let (segment, encoded) = self.pipe(cx, Want::Changes, place, &key, stored_to, landing).await?;
        if segment.digest_before != Some(tip.digest_after) {
            return Ok(Cut::Unfit(format!("the source did not go on from the state of {}", tip.place())));
        }
        if segment.page_size != tip.page_size {
            return Ok(Cut::Unfit(format!("pages had {} bytes and have {} now", tip.page_size, segment.page_size)));
        }
        let steps = Steps { read: segment.took.read, check: segment.took.check, ..Steps::default() };
        let spooled = encoded.plain.bytes > 0;
        if !spooled && segment.digest_after != tip.digest_after {
            return Err(ShipError::Failed("the source sent no page of a database that has changed".to_owned()));
        }
        let object = spooled.then(|| self.object(&key, encoded));
        let mut manifest = self.manifest(ground, place, segment, object);
        (manifest.kind, manifest.from) = (Kind::Incremental, Some(tip.to));
        // Never behind the mark itself, also where the clock was set back.
        manifest.gap_from = gap_before(ground, &manifest, gap_from.or_else(|| ground.followed_until()));
        Ok(Cut::Pending(Box::new(Pending { manifest, spooled }), steps))
    }

    /// Reads a full into the object `key`, and tells how long storing it took, without the check that comes between the last piece and the end.
    pub(in crate::backup) async fn land(
        &self,
        cx: &JobContext,
        place: Place,
        key: &ObjectKey,
    ) -> Result<(Segment, Encoded, Duration), ShipError> {
        let began = Instant::now();
        let mut taken = Duration::ZERO;
        let mut landing = Landing::new(&self.parts.store, key);
        let (stored_to, stored) = mpsc::channel(QUEUED);
        let taking = async {
            landing.take(stored).await?;
            taken = began.elapsed();
            Ok(())
        };
        let mut landed = self.pipe(cx, Want::Full, place, key, stored_to, taking).await;
        let began = Instant::now();
        // Only now is it known that what came was all.
        if landed.is_ok()
            && let Err(e) = landing.finish().await
        {
            landed = Err(e);
        }
        if landed.is_err() {
            landing.abort().await;
        }
        landed.map(|(segment, encoded)| (segment, encoded, taken + began.elapsed()))
    }

    /// The source, the codec and `landing`, all at work until one fails or all are done.
    async fn pipe(
        &self,
        cx: &JobContext,
        want: Want,
        place: Place,
        key: &ObjectKey,
        stored: mpsc::Sender<Bytes>,
        landing: impl Future<Output = Result<(), ShipError>>,
    ) -> Result<(Segment, Encoded), ShipError> {
        let settings = &self.parts.settings;
        let name = key.as_str().rsplit('/').next().unwrap_or_default();
        let name = name.strip_suffix(&format!(".{}", settings.form.extension())).unwrap_or(name).to_owned();
        let label = Label { name, at: self.parts.clock.now() };
        let (plain_to, plain) = mpsc::channel(QUEUED);
        let reading = async { Ok::<_, ShipError>(self.parts.source.read(want, place, plain_to).await?) };
        let encoding = async { Ok(codec::encode(&settings.form, label, settings.threads, plain, stored).await?) };
        tokio::select! {
            done = async { tokio::try_join!(landing, encoding, reading) } => {
                let ((), encoded, segment) = done?;
                Ok((segment, encoded))
            }
            () = stopped(cx) => Err(ShipError::Stopped),
        }
    }

    /// Stores what is in the spool under `key`, and reads it back.
    pub(super) async fn store_spooled(
        &self,
        cx: &JobContext,
        key: &ObjectKey,
        content: &Content,
    ) -> Result<Steps, ShipError> {
        let began = Instant::now();
        let file = self.state.segment_file();
        let mut landing = Landing::new(&self.parts.store, key);
        let (stored_to, stored) = mpsc::channel(QUEUED);
        let moving = async { tokio::try_join!(landing.take(stored), read_spool(&file, content, stored_to)) };
        let mut moved = tokio::select! {
            moved = moving => moved.map(|_| ()),
            () = stopped(cx) => Err(ShipError::Stopped),
        };
        if moved.is_ok() {
            moved = landing.finish().await;
        }
        if let Err(e) = moved {
            landing.abort().await;
            return Err(e);
        }
        let upload = began.elapsed();
        let began = Instant::now();
        self.read_back(cx, key, content).await?;
        Ok(Steps { upload, read_back: began.elapsed(), ..Steps::default() })
    }

    pub(in crate::backup) async fn read_back(
        &self,
        cx: &JobContext,
        key: &ObjectKey,
        content: &Content,
    ) -> Result<(), ShipError> {
        tokio::select! {
            read = read_back(self.parts.store.as_ref(), key, content) => read,
            () = stopped(cx) => Err(ShipError::Stopped),
        }
    }

    pub(in crate::backup) fn new_key(
        &self,
        place: Place,
        kind: Kind,
        from: Option<Position>,
    ) -> Result<ObjectKey, ShipError> {
        let form = self.parts.settings.form.extension();
        Ok(object_key(place, kind, from, self.parts.clock.now(), word()?, form))
    }

    pub(in crate::backup) fn object(&self, key: &ObjectKey, encoded: Encoded) -> Object {
        let form = &self.parts.settings.form;
        let Encoded { plain, stored } = encoded;
        Object { key: key.to_string(), stored, plain, codec: form.codec, encrypted: !form.recipients.is_empty() }
    }

    /// The manifest of a full; what an increment has besides is its cutter's to say.
    fn manifest(&self, ground: &Ground, place: Place, segment: Segment, object: Option<Object>) -> Manifest {
        let observed = ground.observed(segment.observed);
        self.manifest_of(place, segment, object, observed, ground.previous())
    }

    /// The same, behind the manifest of the sum `previous`.
    pub(in crate::backup) fn manifest_of(
        &self,
        place: Place,
        segment: Segment,
        object: Option<Object>,
        observed: Timestamp,
        previous: Option<Sum>,
    ) -> Manifest {
        let Segment { digest_before, digest_after, page_size, pages, sent_pages, .. } = segment;
        let Segment { engine_version, tables, soundness, .. } = segment;
        Manifest {
            format: FORMAT,
            engine: self.parts.source.engine().to_owned(),
            database: self.parts.source.database(),
            kind: Kind::Full,
            timeline: place.timeline,
            from: None,
            to: place.position,
            observed,
            object,
            page_size,
            pages,
            sent_pages,
            digest_before,
            digest_after,
            previous,
            soundness,
            tables: BTreeMap::from_iter(tables),
            engine_version,
            sidecar_version: env!("CARGO_PKG_VERSION").to_owned(),
            gap_from: None,
            first_observed: None,
            index: None,
        }
    }
}
