//! Where the plain bytes of segments come from, and the proof that they are those.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_blocking;

use super::super::catalog::Catalog;
use super::super::codec::{CodecError, Decoded, Identity, decode};
use super::super::manifest::{Content, Object, Sum};
use super::super::tail::Kept;
use super::super::{Kind, Manifest, Place};
use super::FoldError;
use super::scratch::Scratch;
use crate::object::{Listed, ObjectError, ObjectKey, ObjectStore, PART_BYTES, Part};

/// A live segment: its note, and its bytes as they are stored, or as they were cut.
pub(super) struct Brought {
    pub(super) manifest: Manifest,
    bytes: Come,
}

enum Come {
    Stored(Bytes),
    Kept(Box<dyn Read + Send>),
}

/// From where live segments are brought.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) store: Arc<dyn ObjectStore>,
    /// Nothing where this machine's own copies are not to be used.
    pub(super) kept: Option<Arc<dyn Kept>>,
}

impl Sources {
    /// Fetches what is needed of the live segment that is `listed`.
    pub(super) async fn bring(&self, catalog: &Catalog, place: Place, listed: &Listed) -> Result<Brought, FoldError> {
        let known = catalog.notes.get(&place).map(|entry| entry.manifest.clone());
        let plain = match self.kept.clone() {
            Some(kept) => spawn_blocking(move || kept.plain(place).ok()).await.unwrap_or_default(),
            None => None,
        };
        // A first byte brings the note along.
        let part = Part { to: plain.is_some().then_some(1), ..Part::default() };
        let (manifest, stored) = match (known, plain.is_some()) {
            (Some(manifest), true) => (manifest, Bytes::new()),
            _ => fetch(self.store.as_ref(), place, listed, part).await?,
        };
        check(&manifest, place, listed).map_err(|why| FoldError::Damaged { place, why })?;
        Ok(Brought { manifest, bytes: plain.map_or(Come::Stored(stored), Come::Kept) })
    }
}

/// The note, and the bytes of `part`.
async fn fetch(
    store: &dyn ObjectStore,
    place: Place,
    listed: &Listed,
    part: Part,
) -> Result<(Manifest, Bytes), FoldError> {
    let damaged = |why: String| FoldError::Damaged { place, why };
    let mut download = match store.get(&listed.key, part).await {
        Err(ObjectError::Missing(_)) => return Err(damaged(format!("`{}` is gone", listed.key))),
        other => other?,
    };
    if download.bytes != listed.bytes || download.bytes > PART_BYTES as u64 {
        return Err(damaged(format!(
            "`{}` has {} bytes, it was listed with {}",
            listed.key, download.bytes, listed.bytes
        )));
    }
    let note = download.note.take().ok_or_else(|| damaged(format!("`{}` has no note", listed.key)))?;
    let manifest = Manifest::from_bytes(note.as_bytes()).map_err(|why| damaged(format!("`{}`: {why}", listed.key)))?;
    let mut bytes = BytesMut::new();
    while let Some(piece) = download.body.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok((manifest, bytes.freeze()))
}

/// Whether `manifest` is the note of the live segment that is `listed`.
fn check(manifest: &Manifest, place: Place, listed: &Listed) -> Result<(), String> {
    if (manifest.kind, manifest.place()) != (Kind::Live, place) {
        return Err(format!("`{}` has the note of a {} segment to {}", listed.key, manifest.kind, manifest.place()));
    }
    match &manifest.object {
        Some(object) if object.key == listed.key.as_str() && object.stored.bytes == listed.bytes => Ok(()),
        _ => Err(format!("`{}` with {} bytes is not what its note says", listed.key, listed.bytes)),
    }
}

impl Brought {
    /// Its plain bytes, whose end is an error where they are not what the note says.
    pub(super) fn open(self, identity: Option<&Identity>) -> Result<(Manifest, Box<dyn Read>), CodecError> {
        let Self { manifest, bytes } = self;
        let object = manifest.object.as_ref().ok_or_else(|| CodecError::Damaged("it has no object".to_owned()))?;
        let plain: Box<dyn Read> = match bytes {
            Come::Kept(plain) => Box::new(Summed::new(io::BufReader::new(plain), object.plain.clone())),
            Come::Stored(stored) => Box::new(Whole(Some(decode(object, identity, Box::new(io::Cursor::new(stored)))?))),
        };
        Ok((manifest, plain))
    }
}

/// The plain bytes of an object; their end comes only where the stored ones ended as well.
pub(super) struct Whole(pub(super) Option<Decoded>);

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(decoded) = &mut self.0 else { return Ok(0) };
        let length = decoded.read(buffer)?;
        if length == 0
            && !buffer.is_empty()
            && let Some(decoded) = self.0.take()
        {
            decoded.finish().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        }
        Ok(length)
    }
}

/// Bytes that must be `wanted`.
struct Summed<R> {
    inner: R,
    wanted: Content,
    bytes: u64,
    sum: Sha256,
}

impl<R: Read> Summed<R> {
    fn new(inner: R, wanted: Content) -> Self {
        Self { inner, wanted, bytes: 0, sum: Sha256::new() }
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.bytes += length as u64;
        self.sum.update(&buffer[..length]);
        let ended = length == 0 && !buffer.is_empty();
        if self.bytes > self.wanted.bytes || (ended && self.found() != self.wanted) {
            let words = "the copy that is kept on this machine is not what the note says".to_owned();
            return Err(io::Error::new(io::ErrorKind::InvalidData, CodecError::Damaged(words)));
        }
        Ok(length)
    }
}

impl<R> Summed<R> {
    fn found(&self) -> Content {
        Content { bytes: self.bytes, sha256: Sum::from_bytes(self.sum.clone().finalize().into()) }
    }
}

/// Puts the stored bytes of `object` into a file of `scratch`. What they are is found out when they are read.
pub(super) async fn download(
    store: &dyn ObjectStore,
    object: &Object,
    scratch: &Scratch,
    name: &str,
) -> Result<PathBuf, FoldError> {
    let mut file = tokio::fs::File::from_std(scratch.create(name)?);
    let mut download = store.get(&ObjectKey::ours(&object.key), Part::default()).await?;
    let mut bytes = 0;
    while let Some(piece) = download.body.next().await {
        let piece = piece?;
        bytes += piece.len() as u64;
        // More than there was room for.
        if bytes > object.stored.bytes {
            break;
        }
        file.write_all(&piece).await.map_err(|error| scratch.failed(error))?;
    }
    file.flush().await.map_err(|error| scratch.failed(error))?;
    Ok(scratch.path(name))
}

/// The plain bytes of `object`, whose stored ones are in `file`.
pub(super) fn open_file(object: &Object, identity: Option<&Identity>, file: &PathBuf) -> io::Result<Box<dyn Read>> {
    let stored = Box::new(File::open(file)?);
    let decoded = decode(object, identity, stored).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Box::new(Whole(Some(decoded))))
}
