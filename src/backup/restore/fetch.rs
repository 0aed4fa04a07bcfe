//! From a stream of an object store to a `Read` on another thread, bounded, the next object's first bytes ahead.
//!
//! Live segments are small and come by the thousand: what takes time is the store's answer, not the bytes. So some are fetched at once, whole, and handed on in their order.

use std::io::{self, Read};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::super::Place;
use super::super::catalog::details::noted;
use super::super::codec::CodecError;
use super::super::manifest::{Manifest, Object};
use super::super::plan::Step;
use super::RestoreError;
use super::meter::Meter;
use crate::object::{ObjectError, ObjectKey, ObjectStore, PART_BYTES, Part};

/// Pieces on their way; a store's pieces have a MiB at most, so that this holds what one request round trip needs and no more.
const PIECES: usize = 8;

/// A piece of an object, or its end. An end that is not told is a download that broke off.
enum Piece {
    Bytes(Bytes),
    End,
}

/// An object's stored bytes, as they come.
pub(in crate::backup) struct Body {
    pieces: mpsc::Receiver<Piece>,
    now: Bytes,
    over: bool,
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() && !self.over {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.now = bytes,
                Some(Piece::End) => self.over = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download broke off")),
            }
        }
        let length = self.now.len().min(into.len());
        into[..length].copy_from_slice(&self.now.split_to(length));
        Ok(length)
    }
}

/// A live segment, whole.
pub(in crate::backup) struct Live {
    /// What its note says.
    pub(in crate::backup) manifest: Manifest,
    /// Its stored bytes.
    pub(in crate::backup) bytes: Bytes,
}

/// What a step of a plan needs.
pub(in crate::backup) enum Incoming {
    /// An object that comes as it is read.
    Body(Body),
    /// A live segment.
    Live(Box<Live>),
}

impl Incoming {
    /// Its stored bytes.
    pub(in crate::backup) fn into_read(self) -> Box<dyn Read + Send> {
        match self {
            Self::Body(body) => Box::new(body),
            Self::Live(live) => Box::new(io::Cursor::new(live.bytes)),
        }
    }
}

/// Live segments fetched at once. They have 8 MiB at most and some KiB mostly.
const LIVE_AT_A_TIME: usize = 8;

/// What is fetched of an object: how much from its beginning.
struct Wanted<'a> {
    key: &'a str,
    /// How long the whole object is.
    whole: u64,
    bytes: u64,
}

impl<'a> Wanted<'a> {
    fn all(object: &'a Object) -> Self {
        Self { key: &object.key, whole: object.stored.bytes, bytes: object.stored.bytes }
    }

    /// Of a step that is no live segment; nothing where it has no object.
    fn of(step: &'a Step) -> Option<Self> {
        match step {
            Step::Whole(manifest) => manifest.object.as_ref().map(Self::all),
            Step::Beginning { fine, .. } => {
                fine.object.as_ref().map(|object| Self { bytes: step.fetched_bytes(), ..Self::all(object) })
            }
            Step::Live { .. } => None,
        }
    }

    fn failed(&self, error: ObjectError) -> RestoreError {
        failed(self.key, error)
    }
}

fn failed(key: &str, error: ObjectError) -> RestoreError {
    match error {
        ObjectError::Missing(_) => RestoreError::Missing(key.to_owned()),
        error => RestoreError::Fetch { key: key.to_owned(), error },
    }
}

/// Fetches what `steps` need, in their order, and hands it on. Ends early, without an error, when nobody takes it any more.
pub(in crate::backup) async fn all(
    store: &dyn ObjectStore,
    steps: &[Step],
    into: mpsc::Sender<Incoming>,
    meter: &mut Meter<'_>,
) -> Result<(), RestoreError> {
    let is_live = |step: &Step| matches!(step, Step::Live { .. });
    for run in steps.chunk_by(|one, next| is_live(one) && is_live(next)) {
        let going_on = match run {
            [step] if !is_live(step) => match Wanted::of(step) {
                Some(wanted) => streamed(store, &wanted, &into, meter).await?,
                None => true,
            },
            run => lives(store, run, &into, meter).await?,
        };
        if !going_on {
            break;
        }
    }
    Ok(())
}

/// Fetches an object.
pub(in crate::backup) async fn object(
    store: &dyn ObjectStore,
    object: &Object,
    into: mpsc::Sender<Incoming>,
    meter: &mut Meter<'_>,
) -> Result<(), RestoreError> {
    streamed(store, &Wanted::all(object), &into, meter).await.map(drop)
}

/// Hands on a body before its first byte is there, and then its bytes. Whether somebody took them to the end.
async fn streamed(
    store: &dyn ObjectStore,
    wanted: &Wanted<'_>,
    into: &mpsc::Sender<Incoming>,
    meter: &mut Meter<'_>,
) -> Result<bool, RestoreError> {
    let (pieces, taken) = mpsc::channel(PIECES);
    let body = Body { pieces: taken, now: Bytes::new(), over: false };
    Ok(into.send(Incoming::Body(body)).await.is_ok() && one(store, wanted, &pieces, meter).await?)
}

/// Whether somebody took all of them.
async fn lives(
    store: &dyn ObjectStore,
    run: &[Step],
    into: &mpsc::Sender<Incoming>,
    meter: &mut Meter<'_>,
) -> Result<bool, RestoreError> {
    // Futures over references to the steps would make the whole restore one that cannot be spawned.
    let wanted: Vec<(Place, ObjectKey, u64)> = run
        .iter()
        .filter_map(|step| match step {
            Step::Live { place, key, bytes, .. } => Some((*place, key.clone(), *bytes)),
            Step::Whole(_) | Step::Beginning { .. } => None,
        })
        .collect();
    let fetched = stream::iter(wanted).map(|(place, key, bytes)| live(store, place, key, bytes));
    let mut fetched = std::pin::pin!(fetched.buffered(LIVE_AT_A_TIME));
    while let Some(live) = fetched.next().await {
        let live = live?;
        meter.add(live.bytes.len() as u64);
        if into.send(Incoming::Live(Box::new(live))).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Fetches a live segment and its note.
async fn live(store: &dyn ObjectStore, place: Place, key: ObjectKey, listed: u64) -> Result<Live, RestoreError> {
    let failed = |error| failed(key.as_str(), error);
    let damaged = |why: String| RestoreError::Damaged { key: key.to_string(), why };
    let mut download = store.get(&key, Part::default()).await.map_err(failed)?;
    let (manifest, _) = noted(&key, place, download.note.as_deref()).map_err(damaged)?;
    let stored = manifest.object.as_ref().map_or(0, |object| object.stored.bytes);
    if download.bytes != stored || listed != stored || stored > PART_BYTES as u64 {
        return Err(damaged(format!("it has {} bytes, its note says {stored}", download.bytes)));
    }
    let mut bytes = Vec::with_capacity(download.bytes as usize);
    while let Some(piece) = download.body.next().await {
        bytes.extend_from_slice(&piece.map_err(failed)?);
        if bytes.len() as u64 > stored {
            break;
        }
    }
    if bytes.len() as u64 != stored {
        return Err(damaged(format!("{} bytes of {stored} came", bytes.len())));
    }
    Ok(Live { manifest, bytes: bytes.into() })
}

/// Whether somebody took it to its end.
async fn one(
    store: &dyn ObjectStore,
    wanted: &Wanted<'_>,
    pieces: &mpsc::Sender<Piece>,
    meter: &mut Meter<'_>,
) -> Result<bool, RestoreError> {
    let damaged = |bytes: u64, expected: u64| RestoreError::Damaged {
        key: wanted.key.to_owned(),
        why: format!("it has {bytes} bytes, its manifest says {expected}"),
    };
    let key = ObjectKey::parse(wanted.key).ok_or_else(|| RestoreError::Missing(wanted.key.to_owned()))?;
    let part = Part { from: 0, to: (wanted.bytes < wanted.whole).then_some(wanted.bytes), version: None };
    let mut download = store.get(&key, part).await.map_err(|e| wanted.failed(e))?;
    if download.bytes != wanted.whole {
        return Err(damaged(download.bytes, wanted.whole));
    }
    let mut bytes = 0;
    while let Some(piece) = download.body.next().await {
        let piece = piece.map_err(|e| wanted.failed(e))?;
        bytes += piece.len() as u64;
        if bytes > wanted.bytes {
            return Err(damaged(bytes, wanted.bytes));
        }
        meter.add(piece.len() as u64);
        if !piece.is_empty() && pieces.send(Piece::Bytes(piece)).await.is_err() {
            return Ok(false);
        }
    }
    if bytes != wanted.bytes {
        return Err(damaged(bytes, wanted.bytes));
    }
    // A decoder may know the end by itself and not ask for it.
    let _ = pieces.send(Piece::End).await;
    Ok(true)
}

/// What is wrong with the object `key`.
pub(in crate::backup) fn undecoded(key: &str, error: CodecError) -> RestoreError {
    match error {
        CodecError::NoIdentity | CodecError::WrongIdentity => {
            RestoreError::Identity { key: key.to_owned(), why: error.to_string() }
        }
        error => RestoreError::Damaged { key: key.to_owned(), why: error.to_string() },
    }
}
