//! Compaction: live segments become fine ones, fine ones become merged ones, and what is covered is swept away.
//!
//! ```text
//! live  live  live …        one object a second                  ── fine ──▶  one object an hour, each second in it a beginning of its own
//! fine  fine  fine …        one object an hour                   ── merged ─▶  one object a day: the newest version of each page
//! live segments that a fine one covers, heartbeats but two       ── sweep ──▶  gone, two hours later
//! ```
//!
//! # The order of things, and what a crash leaves
//!
//! 1. The segments are read, each checked against the sum that its note or manifest tells, and each against the one before it: the digests must meet.
//! 2. What they make is written to a file in the state directory, packed, and synced.
//! 3. That file is read again: every frame is compared with what came from the sources, and of a fine segment every beginning that its index names is unpacked by itself.
//! 4. Only then is it encrypted, where it must be, and stored; it is read back; so is its index.
//! 5. Its manifest is created. That is the commit.
//!
//! A crash before 5 leaves objects that no manifest names, which retention takes when they are old; the next run begins anew. Where two sidecars fold the same segments, one of them
//! creates the manifest, and the other one's objects are such objects. Nothing is deleted by folding: [`Fold::sweep`] looks at the store again, at the earliest two hours later.
//!
//! A segment that is damaged or lost ends a run of segments as a gap does. What is before it and behind it is folded nevertheless, and then the run fails and says which it is: a fold that gave up
//! there would let thousands of objects gather behind it.

mod proof;
mod scratch;
mod sources;
mod stored;
mod sweep;
mod waiting;
mod weaving;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tracing::{info, warn};

use self::scratch::Scratch;
use self::sources::{Sources, download};
use self::stored::About;
use self::weaving::{Made, PACKED, joined};
use super::catalog::Catalog;
use super::codec::{CodecError, Form, Identity};
use super::layout::object_key;
use super::manifest::Sum;
use super::ship::stopped;
use super::tail::Kept;
use super::{Digest, Kind, Manifest, Place, Position, RebuildError, Timeline};
use crate::clock::Clock;
use crate::object::{Listed, ObjectError, ObjectKey, ObjectStore};
use crate::schedule::{JobContext, JobError};

/// The sums of the manifests that this call made, by where these lead to: the catalog does not know them yet.
type Sums = BTreeMap<Position, Sum>;

/// The end of the keys of encrypted objects.
const ENCRYPTED: &str = ".age";

/// How an engine's logs are made into one. All of it blocks.
pub trait Weave: Send + Sync {
    /// The engine's name in manifests.
    fn engine(&self) -> &'static str;

    /// Begins a log to which transactions are added as they are.
    fn fine<'a>(&self, head: &Head, to: Box<dyn Write + 'a>) -> io::Result<Box<dyn Weaving + 'a>>;

    /// Writes a log of one transaction with the newest version of each page of `count` logs that follow one another. `open` opens one of them, from 0, and is asked twice for each.
    fn merged(
        &self,
        head: &Head,
        count: usize,
        open: &mut dyn FnMut(usize) -> io::Result<Box<dyn Read>>,
        to: Box<dyn Write + '_>,
    ) -> Result<Woven, RebuildError>;

    /// Reads a log to its end and tells, after each of its transactions, what it is up to there.
    fn read(&self, log: &mut dyn Read, transaction: &mut dyn FnMut(Woven)) -> Result<(), RebuildError>;
}

/// What a log begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the database before it, where that is known.
    pub pages: Option<u32>,
    /// Where it leads to.
    pub to: Position,
    /// The digest before it.
    pub digest_before: Digest,
}

/// A log that transactions are added to.
pub trait Weaving {
    /// Adds the log of the segment in `manifest`, which must be one transaction, and as the manifest says. All of it was written and flushed then.
    fn add(&mut self, manifest: &Manifest, plain: &mut dyn Read) -> Result<Woven, RebuildError>;
}

/// What a log is up to the end of one of its transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woven {
    /// Its frames.
    pub frames: u32,
    /// Its bytes.
    pub plain_bytes: u64,
    /// Pages of the database.
    pub pages: u32,
    /// A hash of all its frames: the number, the page, and whether it ends a transaction.
    pub sum: [u8; 32],
}

/// What folds.
pub struct Fold<'a> {
    /// The destination.
    pub store: &'a Arc<dyn ObjectStore>,
    /// What it holds.
    pub catalog: &'a Catalog,
    /// What is folded of it.
    pub timeline: Timeline,
    /// How bytes are stored.
    pub form: &'a Form,
    /// How many threads make them smaller.
    pub threads: usize,
    /// What reads encrypted segments.
    pub identity: Option<&'a Identity>,
    /// The plain segments of this machine.
    pub kept: &'a Arc<dyn Kept>,
    /// How the engine's logs become one.
    pub weave: &'static dyn Weave,
    /// A folder in the state directory that is for this alone.
    pub scratch: &'a Path,
    /// The time.
    pub clock: &'a Clock,
}

/// What was folded: it was read back and is committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// The newest segment that was made.
    pub manifest: Manifest,
    /// How many were made.
    pub made: usize,
    /// How many segments went into them.
    pub segments: u64,
    /// Bytes of those that were made, as they are stored.
    pub bytes: u64,
}

/// What was swept away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Live segments.
    pub live: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that may go and are still there.
    pub left: u64,
    /// Why nothing more could be deleted, where the store says so.
    pub refused: Option<String>,
}

/// Why nothing was folded.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] ObjectError),
    /// A segment is not what its note or its manifest says; which, and what is wrong.
    #[error("{place}: {why}")]
    Damaged {
        /// Where it leads to.
        place: Place,
        /// What is wrong.
        why: String,
    },
    /// The state directory's disk.
    #[error("cannot use `{}`: {error}", folder.display())]
    State {
        /// Where.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no room for it.
    #[error("{free} bytes are free in `{}`, folding needs {needed}", folder.display())]
    NoRoom {
        /// Where.
        folder: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// It could not be packed or encrypted.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// What was made is not what it was made of: a fault of this program or of the machine. Nothing was stored.
    #[error("what was folded is not what it was made of: {0}")]
    Unlike(String),
}

impl From<JobError> for FoldError {
    fn from(_: JobError) -> Self {
        Self::Stopped
    }
}

impl Fold<'_> {
    /// Folds the live segments that no fine segment covers yet into fine ones; nothing where there is none.
    ///
    /// Where one of them is damaged, what is before it and behind it is folded, and then that is the error.
    pub async fn fine(&self, cx: &JobContext) -> Result<Option<Folded>, FoldError> {
        let mut unreadable = 0_u64;
        let runs = waiting::runs(self.catalog, self.timeline, |place, listed| {
            let readable =
                self.identity.is_some() || !listed.key.as_str().ends_with(ENCRYPTED) || self.kept.plain(place).is_ok();
            unreadable += u64::from(!readable);
            readable
        });
        if unreadable > 0 {
            info!(
                segments = unreadable,
                "live segments stay as they are: they are encrypted, and neither an identity nor their plain copies are on this machine"
            );
        }
        let mut waiting: VecDeque<Vec<(Place, &Listed)>> = runs.into();
        let mut doubted = BTreeSet::new();
        let (mut folded, mut broken, mut sums) = (None, None, Sums::new());
        while let Some(run) = waiting.pop_front() {
            cx.check()?;
            let own_copies = !run.iter().any(|(place, _)| doubted.contains(place));
            let made = match self.limited(cx, self.one_fine(&run, own_copies, &sums)).await {
                Ok((manifest, sum)) => {
                    sums.insert(manifest.to, sum);
                    Folded::add(&mut folded, manifest, run.len());
                    continue;
                }
                Err(FoldError::Damaged { place, why }) if run.iter().any(|(at, _)| *at == place) => (place, why),
                Err(e) => return Err(e),
            };
            let (place, why) = made;
            // It may be this machine's copy that is damaged.
            if own_copies && self.readable_from_store(&run) {
                doubted.insert(place);
                waiting.push_front(run);
                continue;
            }
            let at = run.iter().position(|(at, _)| *at == place).unwrap_or(0);
            for part in [&run[at + 1..], &run[..at]].into_iter().filter(|part| !part.is_empty()) {
                waiting.push_front(part.to_vec());
            }
            warn!(%place, why, "a live segment cannot be folded");
            broken.get_or_insert(FoldError::Damaged { place, why });
        }
        broken.map_or(Ok(folded), Err)
    }

    /// Merges the fine segments behind the newest merged one, up to a day of them at a time; nothing where no two of them follow one another.
    pub async fn merged(&self, cx: &JobContext) -> Result<Option<Folded>, FoldError> {
        let (mut folded, mut sums) = (None, Sums::new());
        for day in waiting::days(self.catalog, self.timeline) {
            cx.check()?;
            let day: Vec<Manifest> = day.iter().map(|fine| fine.manifest.clone()).collect();
            if self.identity.is_none() && day.iter().flat_map(|fine| &fine.object).any(|object| object.encrypted) {
                info!("fine segments are not merged: they are encrypted, and there is no identity on this machine");
                return Ok(folded);
            }
            let (manifest, sum) = self.limited(cx, self.one_merged(&day, &sums)).await?;
            sums.insert(manifest.to, sum);
            Folded::add(&mut folded, manifest, day.len());
        }
        Ok(folded)
    }

    /// `work`, as long as the job goes on.
    async fn limited<T>(
        &self,
        cx: &JobContext,
        work: impl Future<Output = Result<T, FoldError>>,
    ) -> Result<T, FoldError> {
        tokio::select! {
            done = work => done,
            () = stopped(cx) => Err(FoldError::Stopped),
        }
    }

    /// Makes one fine segment of all of `run`.
    async fn one_fine(
        &self,
        run: &[(Place, &Listed)],
        own_copies: bool,
        sums: &Sums,
    ) -> Result<(Manifest, Sum), FoldError> {
        let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else {
            return Err(FoldError::Unlike("there is nothing to fold".to_owned()));
        };
        let from = Position(first.position.0.saturating_sub(1));
        let bytes = run.iter().map(|(_, listed)| listed.bytes).sum::<u64>();
        let scratch = Scratch::new(self.scratch, self.room(bytes))?;
        let about = self.about(*last, Kind::Fine, from, sums)?;
        let kept = own_copies.then(|| Arc::clone(self.kept));
        let sources = Sources { store: Arc::clone(self.store), kept };
        let made = self.weave_fine(run, &sources, &scratch, self.name_of(&about.key)).await?;
        self.prove_and_commit(&about, made, &scratch).await
    }

    /// Makes one merged segment of `day`.
    async fn one_merged(&self, day: &[Manifest], sums: &Sums) -> Result<(Manifest, Sum), FoldError> {
        let (Some(first), Some(last)) = (day.first(), day.last()) else {
            return Err(FoldError::Unlike("there is nothing to merge".to_owned()));
        };
        let from = first.from.unwrap_or(Position(0));
        let bytes = day.iter().flat_map(|fine| &fine.object).map(|object| object.stored.bytes).sum::<u64>();
        let scratch = Scratch::new(self.scratch, bytes.saturating_add(self.room(bytes)))?;
        let about = self.about(last.place(), Kind::Merged, from, sums)?;
        let mut files = Vec::new();
        for (number, object) in day.iter().flat_map(|fine| &fine.object).enumerate() {
            let name = format!("source-{number}");
            files.push(download(self.store.as_ref(), object, &scratch, &name).await?);
        }
        let made = self.weave_merged(day, &files, &scratch, self.name_of(&about.key)).await?;
        self.prove_and_commit(&about, made, &scratch).await
    }

    async fn prove_and_commit(
        &self,
        about: &About,
        made: Made,
        scratch: &Scratch,
    ) -> Result<(Manifest, Sum), FoldError> {
        let (weave, codec, packed) = (self.weave, self.form.codec, scratch.path(PACKED));
        let proving = spawn_blocking(move || proof::prove(weave, codec, &made, &packed).map(|()| made));
        let made = joined(proving.await)?;
        let ready = self.ready(&made, scratch).await?;
        self.commit(about, &made, &ready).await
    }

    /// Bytes of the disk that folding `bytes` may take: the codec may be another one than that of the sources, which makes up to twice of it; and encrypted, it is there twice.
    fn room(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(if self.form.recipients.is_empty() { 2 } else { 4 })
    }

    /// Whether the store's bytes of all of `run` can be read here.
    fn readable_from_store(&self, run: &[(Place, &Listed)]) -> bool {
        self.identity.is_some() || run.iter().all(|(_, listed)| !listed.key.as_str().ends_with(ENCRYPTED))
    }

    fn about(&self, place: Place, kind: Kind, from: Position, sums: &Sums) -> Result<About, FoldError> {
        let no_word = |e| FoldError::Codec(CodecError::Io(io::Error::other(format!("no random bytes: {e}"))));
        let word = getrandom::u32().map_err(no_word)?;
        let key = object_key(place, kind, Some(from), self.clock.now(), word, self.form.extension());
        let before = self.catalog.folds.get(&(Place { position: from, ..place }, kind));
        let previous = sums.get(&from).or(before.map(|before| &before.sha256)).cloned();
        Ok(About { kind, from, key, previous })
    }

    /// What the packed file calls itself.
    fn name_of(&self, key: &ObjectKey) -> String {
        let name = key.as_str().rsplit('/').next().unwrap_or_default();
        name.strip_suffix(&format!(".{}", self.form.extension())).unwrap_or(name).to_owned()
    }
}

impl Folded {
    /// `manifest`, made of `segments`, is one more.
    fn add(folded: &mut Option<Self>, manifest: Manifest, segments: usize) {
        let bytes = manifest.objects().map(|object| object.stored.bytes).sum::<u64>();
        let before = folded.take();
        let (made, had, stored) = before.as_ref().map_or((0, 0, 0), |f| (f.made, f.segments, f.bytes));
        // Parts of a run come later than what is behind it.
        let newest = before.map(|f| f.manifest).filter(|other| other.to > manifest.to).unwrap_or(manifest);
        *folded =
            Some(Self { manifest: newest, made: made + 1, segments: had + segments as u64, bytes: stored + bytes });
    }
}
