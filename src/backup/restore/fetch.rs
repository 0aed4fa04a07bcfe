//! From a stream of an object store to a `Read` on another thread, bounded, the next object's first bytes ahead.

use std::io::{self, Read};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::super::codec::CodecError;
use super::super::manifest::Object;
use super::RestoreError;
use super::meter::Meter;
use crate::object::{ObjectError, ObjectKey, ObjectStore, Part};

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

/// Fetches all `objects`, one after another, and hands each to `bodies` before its first byte is there. Ends early, without an error, when nobody takes them any more.
pub(in crate::backup) async fn all<'a>(
    store: &dyn ObjectStore,
    objects: impl Iterator<Item = &'a Object>,
    bodies: mpsc::Sender<Body>,
    meter: &mut Meter<'_>,
) -> Result<(), RestoreError> {
    for object in objects {
        let (pieces, taken) = mpsc::channel(PIECES);
        let body = Body { pieces: taken, now: Bytes::new(), over: false };
        if bodies.send(body).await.is_err() || !one(store, object, &pieces, meter).await? {
            break;
        }
    }
    Ok(())
}

/// Whether somebody took it to its end.
async fn one(
    store: &dyn ObjectStore,
    object: &Object,
    pieces: &mpsc::Sender<Piece>,
    meter: &mut Meter<'_>,
) -> Result<bool, RestoreError> {
    let failed = |error| match error {
        ObjectError::Missing(_) => RestoreError::Missing(object.key.clone()),
        error => RestoreError::Fetch { key: object.key.clone(), error },
    };
    let damaged = |bytes: u64| RestoreError::Damaged {
        key: object.key.clone(),
        why: format!("it has {bytes} bytes, its manifest says {}", object.stored.bytes),
    };
    let key = ObjectKey::parse(&object.key).ok_or_else(|| RestoreError::Missing(object.key.clone()))?;
    let mut download = store.get(&key, Part::default()).await.map_err(failed)?;
    if download.bytes != object.stored.bytes {
        return Err(damaged(download.bytes));
    }
    let mut bytes = 0;
    while let Some(piece) = download.body.next().await {
        let piece = piece.map_err(failed)?;
        bytes += piece.len() as u64;
        if bytes > object.stored.bytes {
            return Err(damaged(bytes));
        }
        meter.add(piece.len() as u64);
        if !piece.is_empty() && pieces.send(Piece::Bytes(piece)).await.is_err() {
            return Ok(false);
        }
    }
    if bytes != object.stored.bytes {
        return Err(damaged(bytes));
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
