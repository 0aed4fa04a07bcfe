//! Weaves segments into a file of the scratch folder.
//!
//! ```text
//! sources ─▶ a thread that weaves ─▶ codec ─▶ file, synced
//! ```

use std::io::{self, Write};
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::super::codec::{self, CodecError, Encoded, Form, Identity, Label, Piece};
use super::super::manifest::{Content, Object};
use super::super::ship::carry::{QUEUED, write_spool};
use super::super::{Digest, Manifest, Place, Position, RebuildError};
use super::scratch::Scratch;
use super::sources::{Brought, Sources, open_file};
use super::waiting::known;
use super::{Fold, FoldError, Head, Weave, Woven};
use crate::clock::Timestamp;
use crate::object::Listed;

/// Live segments fetched at a time: enough to hide a store's latency; each has a part at most, which is 8 MiB.
const AT_A_TIME: usize = 4;

/// Plain bytes handed on at once.
const PIECE_BYTES: usize = 1 << 18;

/// The packed bytes, in the scratch folder.
pub(super) const PACKED: &str = "packed";

/// A mark of what was woven.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    pub(super) position: Position,
    pub(super) observed: Timestamp,
    pub(super) digest: Digest,
    /// The log up to there.
    pub(super) woven: Woven,
}

/// What was woven and packed, and not encrypted.
pub(super) struct Made {
    /// The digest before it.
    pub(super) digest_before: Digest,
    /// The last of its sources.
    pub(super) last: Manifest,
    /// Of a fine segment each of its sources, otherwise the last one.
    pub(super) marks: Vec<Mark>,
    pub(super) encoded: Encoded,
    /// What is packed up to each mark, of a fine segment.
    pub(super) ends: Vec<Content>,
}

impl Fold<'_> {
    /// Weaves the live segments of `run` into one log, a member and more for each.
    pub(super) async fn weave_fine(
        &self,
        run: &[(Place, &Listed)],
        sources: &Sources,
        scratch: &Scratch,
        name: String,
    ) -> Result<Made, FoldError> {
        let (brought_to, brought) = mpsc::channel(1);
        let bringing = async {
            let mut coming = stream::iter(run.iter().map(|(place, listed)| (*place, (*listed).clone())))
                .map(|(place, listed)| async move { sources.bring(self.catalog, place, &listed).await })
                .buffered(AT_A_TIME)
                .boxed();
            while let Some(one) = coming.next().await {
                if brought_to.send(one?).await.is_err() {
                    // Whoever takes them has failed, and says so.
                    break;
                }
            }
            drop(brought_to);
            Ok(())
        };
        let (plain_to, plain) = mpsc::channel(QUEUED);
        let thread = FineThread {
            weave: self.weave,
            before: run.first().and_then(|(first, _)| {
                let position = Position(first.position.0.checked_sub(1)?);
                known(self.catalog, Place { position, ..*first }).cloned()
            }),
            beside: run
                .iter()
                .filter_map(|(place, _)| self.catalog.entries.get(place))
                .map(|e| e.manifest.base())
                .collect(),
            to: run.last().map_or(Position(0), |(last, _)| last.position),
            identity: self.identity.cloned(),
        };
        let count = run.len();
        let weaving = async { joined(spawn_blocking(move || thread.weave(count, brought, &plain_to)).await) };
        let ((), (woven, (encoded, ends))) =
            tokio::try_join!(bringing, async { tokio::try_join!(weaving, self.pack(scratch, name, plain)) })?;
        let (digest_before, last, marks) = woven;
        Ok(Made { digest_before, last, marks, encoded, ends })
    }

    /// Weaves the newest version of each page of `day`, whose stored bytes are in `files`.
    pub(super) async fn weave_merged(
        &self,
        day: &[Manifest],
        files: &[PathBuf],
        scratch: &Scratch,
        name: String,
    ) -> Result<Made, FoldError> {
        let (Some(first), Some(last)) = (day.first(), day.last().cloned()) else {
            return Err(FoldError::Unlike("there is nothing to merge".to_owned()));
        };
        let digest_before = first.digest_before.unwrap_or_default();
        let head = Head { page_size: last.page_size, pages: None, to: last.to, digest_before };
        let (plain_to, plain) = mpsc::channel(QUEUED);
        let (weave, identity, place) = (self.weave, self.identity.cloned(), last.place());
        let logs: Vec<(Object, PathBuf)> =
            day.iter().filter_map(|fine| fine.object.clone()).zip(files.iter().cloned()).collect();
        let work = move || {
            let mut open = |index: usize| {
                let (object, file) = &logs[index];
                open_file(object, identity.as_ref(), file)
            };
            let to = Box::new(Pieces::new(&plain_to));
            weave.merged(&head, logs.len(), &mut open, to).map_err(|e| failed(e, place))
        };
        let weaving = async { joined(spawn_blocking(work).await) };
        let (woven, (encoded, _)) = tokio::try_join!(weaving, self.pack(scratch, name, plain))?;
        let mark = Mark { position: last.to, observed: last.observed, digest: last.digest_after, woven };
        Ok(Made { digest_before, last, marks: vec![mark], encoded, ends: Vec::new() })
    }

    /// Packs `plain` into the scratch folder, durably. It is not encrypted: what is stored is compared with its sources before it is.
    async fn pack(
        &self,
        scratch: &Scratch,
        name: String,
        plain: mpsc::Receiver<Piece>,
    ) -> Result<(Encoded, Vec<Content>), FoldError> {
        let file = tokio::fs::File::from_std(scratch.create(PACKED)?);
        let form = Form { codec: self.form.codec, recipients: Vec::new() };
        let label = Label { name, at: self.clock.now() };
        let (stored_to, stored) = mpsc::channel(QUEUED);
        let writing = async { write_spool(file, stored).await.map_err(|error| scratch.failed(error)) };
        let packing = async { Ok(codec::encode_members(&form, label, self.threads, plain, stored_to).await?) };
        let ((), packed) = tokio::try_join!(writing, packing)?;
        Ok(packed)
    }
}

/// What a thread gave; its panic is ours.
pub(super) fn joined<T>(work: Result<Result<T, FoldError>, tokio::task::JoinError>) -> Result<T, FoldError> {
    work.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(FoldError::Stopped),
    })
}

/// What weaves a fine segment.
struct FineThread {
    weave: &'static dyn Weave,
    /// The state before it, where it is known.
    before: Option<Manifest>,
    /// What else leads to one of its marks: fulls that were made beside the tail.
    beside: Vec<super::super::Base>,
    to: Position,
    identity: Option<Identity>,
}

impl FineThread {
    fn weave(
        self,
        count: usize,
        mut brought: mpsc::Receiver<Brought>,
        plain_to: &mpsc::Sender<Piece>,
    ) -> Result<(Digest, Manifest, Vec<Mark>), FoldError> {
        // Without one, whoever brings them has failed, and says so.
        let first = brought.blocking_recv().ok_or(FoldError::Stopped)?;
        let head = self.head(&first.manifest);
        let place = first.manifest.place();
        let pieces = Box::new(Pieces::new(plain_to));
        let mut weaving = self.weave.fine(&head, pieces).map_err(|e| failed(e.into(), place))?;
        let mut marks: Vec<Mark> = Vec::with_capacity(count);
        let mut digest = self.before.as_ref().map_or(head.digest_before, |before| before.digest_after);
        let mut next = Some(first);
        let mut last = None;
        while let Some(one) = next {
            let place = one.manifest.place();
            self.check(&one.manifest, digest).map_err(|why| FoldError::Damaged { place, why })?;
            let (manifest, mut plain) =
                one.open(self.identity.as_ref()).map_err(|e| failed(RebuildError::Io(io::Error::other(e)), place))?;
            let woven = weaving.add(&manifest, &mut plain).map_err(|e| failed(e, place))?;
            plain_to.blocking_send(Piece::End).map_err(|_| CodecError::Abandoned)?;
            digest = manifest.digest_after;
            marks.push(Mark { position: manifest.to, observed: manifest.observed, digest, woven });
            last = Some(manifest);
            next = brought.blocking_recv();
        }
        match last {
            Some(last) if marks.len() == count => Ok((head.digest_before, last, marks)),
            _ => Err(FoldError::Stopped),
        }
    }

    fn head(&self, first: &Manifest) -> Head {
        Head {
            page_size: first.page_size,
            pages: self.before.as_ref().map(|before| before.pages),
            to: self.to,
            digest_before: first.digest_before.unwrap_or_default(),
        }
    }

    /// Whether `manifest` goes on from the state that has `digest`, and leads where others say that it does.
    fn check(&self, manifest: &Manifest, digest: Digest) -> Result<(), String> {
        if manifest.engine != self.weave.engine() {
            return Err(format!("it is of a database of {}", manifest.engine));
        }
        if manifest.digest_before != Some(digest) {
            return Err("it does not begin at the state before it".to_owned());
        }
        match self.beside.iter().find(|base| base.place == manifest.place()) {
            Some(base) if base.digest != manifest.digest_after => Err(format!(
                "it leads to a state with the digest {}, and the full at the same place has {}",
                manifest.digest_after, base.digest
            )),
            _ => Ok(()),
        }
    }
}

/// What an engine could not do with the segment to `place`, or with its bytes.
pub(super) fn failed(error: RebuildError, place: Place) -> FoldError {
    let why = match error {
        RebuildError::Damaged(why) => why,
        RebuildError::Io(error) => match CodecError::from(error) {
            CodecError::Damaged(why) => why,
            other => return FoldError::Codec(other),
        },
    };
    FoldError::Damaged { place, why }
}

/// Hands plain bytes on to the codec.
struct Pieces<'a> {
    to: &'a mpsc::Sender<Piece>,
    filling: Vec<u8>,
}

impl<'a> Pieces<'a> {
    fn new(to: &'a mpsc::Sender<Piece>) -> Self {
        Self { to, filling: Vec::with_capacity(PIECE_BYTES) }
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.filling.extend_from_slice(bytes);
        if self.filling.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::replace(&mut self.filling, Vec::with_capacity(PIECE_BYTES)));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, CodecError::Abandoned);
        self.to.blocking_send(Piece::Bytes(bytes)).map_err(gone)
    }
}
