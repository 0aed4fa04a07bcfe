//! Cuts segments into the spool, and tends the database's own log.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::super::catalog::Entry;
use super::super::codec::{self, CodecError, Encoded, Label};
use super::super::layout::live_key;
use super::super::manifest::{Object, Sum};
use super::super::ship::ShipError;
use super::super::ship::carry::QUEUED;
use super::super::tail::Cut;
use super::super::{Kind, Manifest, Place, SourceError, Tail};
use super::spool::{Draft, Words};
use super::{End, FEW, Follower, Line, next};
use crate::object::{MOST_NOTE_BYTES, PART_BYTES};

/// After how long without a commit the database is looked at less often, and how many times as long it takes then.
const QUIET: Duration = Duration::from_secs(3);
const QUIET_LOOKS: u32 = 5;

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// What was committed since the last one.
    News,
    /// The same, and its state is held for a full.
    Fixed,
}

/// A cut in the spool, without the words that make it a segment.
struct Raw {
    cut: Cut,
    encoded: Encoded,
    draft: Draft,
}

impl Follower {
    /// Cuts at the interval and tends, until `stop` or until the database is lost.
    pub(super) async fn capture(&self, stop: &CancellationToken) -> End {
        let Some(interval) = self.parts.settings.interval else { return End::Stopped };
        let (mut due, mut failing) = (Instant::now(), None);
        let mut look = self.parts.pace.tend;
        loop {
            let wait = look.min(due.saturating_duration_since(Instant::now()));
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return End::Stopped;
            }
            let mut line = self.line.lock().await;
            let Some(line) = line.as_mut() else { return End::Lost("the line of segments was let go".to_owned()) };
            let mut done = Ok(());
            if due <= Instant::now() {
                due = Instant::now() + interval;
                if self.may_cut(line) {
                    done = self.cut_some(line).await;
                }
            }
            if done.is_ok() {
                done = self.tend().await;
            }
            // Ten looks a second are a third of a percent of a core on a small machine: where nothing is committed, that would be all that it does.
            let is_quiet = line.cut.is_none_or(|cut| cut.elapsed() > QUIET);
            look = self.parts.pace.tend * if is_quiet { QUIET_LOOKS } else { 1 };
            match done {
                Ok(()) => failing = None,
                Err(ShipError::Source(SourceError::Busy(why))) => {
                    if failing.as_ref() != Some(&why) {
                        warn!(why, "the database was busy, its commits are looked for again");
                    }
                    failing = Some(why);
                }
                Err(ShipError::Source(SourceError::Unsupported(why))) => return End::Unsupported(why),
                Err(e) => return End::Lost(e.to_string()),
            }
        }
    }

    /// Whether a segment more is better than a larger one later.
    fn may_cut(&self, line: &Line) -> bool {
        let known = self.known();
        known.waiting.len() < FEW || line.cut.is_none_or(|cut| cut.elapsed() >= known.takes * 2)
    }

    async fn tend(&self) -> Result<(), ShipError> {
        let Some(tail) = self.tail() else { return Ok(()) };
        let tended = tail.tend().await?;
        self.parts.metrics.tended(&tended);
        tended.released.map_or(Ok(()), |why| Err(ShipError::Failed(format!("the database was let go: {why}"))))
    }

    /// Cuts, where there is room for it.
    async fn cut_some(&self, line: &mut Line) -> Result<(), ShipError> {
        self.make_room(line).await?;
        self.cut_one(line, What::News).await.map(|_| ())
    }

    /// The last look before the end.
    pub(super) async fn last_cut(&self) {
        let mut line = self.line.lock().await;
        if let Some(line) = line.as_mut()
            && let Err(error) = self.cut_some(line).await
        {
            warn!(%error, "the last commits were not cut: the next start finds them in the database");
        }
    }

    /// Where the spool is about to be full of what the store has already, that is let go; where it is full of what it has not, no more is cut.
    async fn make_room(&self, line: &mut Line) -> Result<(), ShipError> {
        let (full, spool) = (self.parts.settings.spool_max, &self.parts.shipper.spool);
        if spool.bytes() <= full / 2 {
            return Ok(());
        }
        let waiting = self.known().waiting.front().map(|(place, _)| *place);
        let stored = *self.durable.borrow();
        if let (Some(tail), Some(stored)) = (self.tail(), stored)
            && waiting.is_none_or(|first| first > stored)
            && spool.all().first().is_some_and(|first| *first < stored)
        {
            tail.settle().await?;
            self.parts.shipper.on_spool(move |spool| spool.sweep(&spool.up_to(stored))).await?;
        }
        // Where nothing waits, what is left is one segment that the store has, which may be a long one.
        if waiting.is_some() && spool.bytes() >= full {
            let place = line.tip.manifest.place();
            return Err(ShipError::Failed(format!(
                "the database is let go at {place}: {} bytes wait in `{}`, and `backup.sqlite.spool_max` is {full}",
                spool.bytes(),
                spool.folder().display(),
            )));
        }
        Ok(())
    }

    /// Cuts one segment and lines it up; nothing where there is nothing.
    pub(super) async fn cut_one(&self, line: &mut Line, what: What) -> Result<Option<Entry>, ShipError> {
        let (shipper, clock) = (&self.parts.shipper, &self.parts.shipper.parts.clock);
        let Some(tail) = self.tail() else { return Ok(None) };
        let (place, before) = (next(line.tip.manifest.place()), clock.now());
        let cut = self.spool_cut(tail, place, what).await;
        if cut.is_err() {
            // What was begun takes room that may be just what is missing. What stays is thrown away at the next beginning.
            let _ = shipper.on_spool(move |spool| spool.remove(place)).await;
        }
        let Some(raw) = cut? else {
            let mut known = self.known();
            known.looked = known.looked.max(before);
            return Ok(None);
        };
        let observed = raw.cut.segment.observed;
        let since = std::mem::replace(&mut self.known().looked, before.max(observed));
        let manifest = self.manifest_of(line, place, &raw)?;
        let text = match manifest.kind {
            Kind::Live => manifest.to_note(),
            _ => String::from_utf8_lossy(&manifest.to_bytes()).into_owned(),
        };
        let entry = Entry::committed(manifest, Sum::of(text.as_bytes()));
        let words = Words { text, resume: raw.cut.resume, since: since.millis() };
        shipper.on_spool(move |spool| raw.draft.finish(spool, &words)).await?;
        tail.keep(place).await?;
        line.tip = entry.clone();
        line.cut = Some(Instant::now());
        self.known().waiting.push_back((place, since));
        shipper.tell_spool().await;
        self.cut.notify_one();
        Ok(Some(entry))
    }

    /// The manifest of what was cut for `place`.
    fn manifest_of(&self, line: &Line, place: Place, raw: &Raw) -> Result<Manifest, ShipError> {
        let shipper = &self.parts.shipper;
        let form = &shipper.parts.settings.form;
        let (segment, tip) = (raw.cut.segment.clone(), &line.tip.manifest);
        if segment.digest_before != Some(tip.digest_after) || segment.page_size != tip.page_size {
            return Err(ShipError::Failed(format!("what was cut does not go on from the state of {}", tip.place())));
        }
        let long = raw.encoded.stored.bytes > PART_BYTES as u64;
        let key = live_key(place, form.extension());
        let object = Object {
            key: key.to_string(),
            stored: raw.encoded.stored.clone(),
            plain: raw.encoded.plain.clone(),
            codec: form.codec,
            encrypted: !form.recipients.is_empty(),
        };
        let observed = segment.observed.max(tip.observed);
        let mut manifest = shipper.manifest_of(place, segment, Some(object), observed, Some(line.tip.sha256.clone()));
        (manifest.kind, manifest.from, manifest.soundness) = (Kind::Live, Some(tip.to), None);
        if long || manifest.to_note().len() > MOST_NOTE_BYTES {
            // What is too long for one request is an increment as the schedule makes them.
            let key = shipper.new_key(place, Kind::Incremental, Some(tip.to))?;
            manifest.kind = Kind::Incremental;
            if let Some(object) = &mut manifest.object {
                object.key = key.to_string();
            }
        }
        Ok(manifest)
    }

    /// Cuts into a file of the spool; makes none where there is nothing to cut.
    async fn spool_cut(&self, tail: &dyn Tail, place: Place, what: What) -> Result<Option<Raw>, ShipError> {
        let settings = &self.parts.shipper.parts.settings;
        let label = Label { name: format!("{}.wal", place.position), at: self.now() };
        let (plain_to, mut plain) = mpsc::channel(QUEUED);
        let cutting = async {
            Ok::<_, ShipError>(match what {
                What::News => tail.cut(place, plain_to).await?,
                What::Fixed => Some(tail.fix(place, plain_to).await?),
            })
        };
        let writing = async {
            let Some(first) = plain.recv().await else { return Ok(None) };
            let secret = !settings.form.recipients.is_empty();
            let draft = self.parts.shipper.on_spool(move |spool| spool.draft(place, secret)).await?;
            let copy = draft.plain().map_err(|e| self.of_spool(place, e))?;
            let (whole_to, whole) = mpsc::channel(QUEUED);
            let (stored_to, stored) = mpsc::channel(QUEUED);
            let encoding =
                async { Ok(codec::encode(&settings.form, label, settings.threads, whole, stored_to).await?) };
            let (encoded, draft, ()) = tokio::try_join!(
                encoding,
                self.write(place, draft, stored),
                self.pass(place, first, plain, copy, whole_to)
            )?;
            Ok(Some((encoded, draft)))
        };
        let (cut, written) = tokio::try_join!(cutting, writing)?;
        match (cut, written) {
            (None, None) => Ok(None),
            (Some(cut), Some((encoded, draft))) => Ok(Some(Raw { cut, encoded, draft })),
            _ => Err(ShipError::Failed(format!("what was cut for {place} and what was sent do not fit"))),
        }
    }

    /// Writes stored bytes as they come.
    async fn write(
        &self,
        place: Place,
        mut draft: Draft,
        mut stored: mpsc::Receiver<Bytes>,
    ) -> Result<Draft, ShipError> {
        while let Some(piece) = stored.recv().await {
            let written = spawn_blocking(move || draft.add(&piece).map(|()| draft)).await;
            draft = written.map_err(std::io::Error::other).flatten().map_err(|e| self.of_spool(place, e))?;
        }
        Ok(draft)
    }

    /// Passes plain bytes on, with a copy where they are to be kept.
    async fn pass(
        &self,
        place: Place,
        first: Bytes,
        mut plain: mpsc::Receiver<Bytes>,
        mut copy: Option<File>,
        whole: mpsc::Sender<Bytes>,
    ) -> Result<(), ShipError> {
        let mut piece = first;
        loop {
            if let Some(mut file) = copy.take() {
                let bytes = piece.clone();
                let written = spawn_blocking(move || file.write_all(&bytes).map(|()| file)).await;
                copy = Some(written.map_err(std::io::Error::other).flatten().map_err(|e| self.of_spool(place, e))?);
            }
            if whole.send(piece).await.is_err() {
                return Err(CodecError::Abandoned.into());
            }
            match plain.recv().await {
                Some(next) => piece = next,
                None => return Ok(()),
            }
        }
    }

    fn of_spool(&self, place: Place, error: std::io::Error) -> ShipError {
        let folder: PathBuf = self.parts.shipper.spool.file(place);
        ShipError::State { folder, error }
    }
}
