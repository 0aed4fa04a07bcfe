//! Moves stored bytes: into the store in parts, into the spool and out of it, and back from the store to see that they are there.
//!
//! Nothing here holds more than a few parts: whoever makes bytes waits until there is room.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::super::manifest::{Content, Sum};
use super::ShipError;
use crate::object::{ObjectError, ObjectKey, ObjectStore, PART_BYTES, Part, Upload};

/// Parts on their way at a time. With the one that is being filled, 32 MiB.
const IN_FLIGHT: usize = 3;

/// The most parts of an object in S3 (UploadPart).
const MOST_PARTS: u32 = 10_000;

/// Pieces that wait between two stages: each is about a MiB.
pub(in crate::backup) const QUEUED: usize = 4;

/// Bytes of a file read at once.
const PIECE: usize = 1 << 20;

/// An object on its way into the store. It is there after [`Landing::finish`], never before.
pub(in crate::backup) struct Landing {
    store: Arc<dyn ObjectStore>,
    key: ObjectKey,
    upload: Option<Arc<dyn Upload>>,
    parts: u32,
    rest: BytesMut,
}

impl Landing {
    pub(in crate::backup) fn new(store: &Arc<dyn ObjectStore>, key: &ObjectKey) -> Self {
        let (store, key) = (Arc::clone(store), key.clone());
        Self { store, key, upload: None, parts: 0, rest: BytesMut::new() }
    }

    /// Takes what comes until nothing does any more; whether that was all, somebody else has to know.
    pub(in crate::backup) async fn take(&mut self, mut stored: mpsc::Receiver<Bytes>) -> Result<(), ShipError> {
        let mut flying = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(landed) = flying.next(), if !flying.is_empty() => landed?,
                piece = stored.recv(), if flying.len() < IN_FLIGHT => {
                    let Some(piece) = piece else { break };
                    self.rest.extend_from_slice(&piece);
                    // More than a part: something stays for the last one, which must not be empty.
                    while self.rest.len() > PART_BYTES {
                        let upload = self.begun().await?;
                        let (number, bytes) = (self.parts, self.rest.split_to(PART_BYTES).freeze());
                        flying.push(async move { upload.part(number, bytes).await });
                    }
                }
            }
        }
        while let Some(landed) = flying.next().await {
            landed?;
        }
        Ok(())
    }

    /// The upload, for one part more.
    async fn begun(&mut self) -> Result<Arc<dyn Upload>, ShipError> {
        if self.parts >= MOST_PARTS {
            let most = u64::from(MOST_PARTS) * PART_BYTES as u64;
            return Err(ShipError::Failed(format!("the segment is longer than {most} bytes, which a store can hold")));
        }
        self.parts += 1;
        match &self.upload {
            Some(upload) => Ok(Arc::clone(upload)),
            None => {
                let upload: Arc<dyn Upload> = self.store.upload(&self.key).await?.into();
                self.upload = Some(Arc::clone(&upload));
                Ok(upload)
            }
        }
    }

    /// Makes the object. One that fits into a part goes there in one request.
    pub(in crate::backup) async fn finish(&mut self) -> Result<(), ShipError> {
        let rest = self.rest.split().freeze();
        if self.upload.is_none() {
            return Ok(self.store.put(&self.key, rest).await?);
        }
        let upload = self.begun().await?;
        upload.part(self.parts, rest).await?;
        Ok(upload.finish(self.parts).await?)
    }

    /// Throws away what is there of it, if the store lets us.
    pub(in crate::backup) async fn abort(&self) {
        if let Some(upload) = &self.upload
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(key = %self.key, %error, "the parts of an upload could not be thrown away");
        }
    }
}

/// Writes what comes to `file`, durably.
pub(in crate::backup) async fn write_spool(mut file: File, mut stored: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(piece) = stored.recv().await {
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    file.sync_all().await
}

/// Sends the bytes that `file` begins with, which must be `content`.
pub(in crate::backup) async fn read_spool(
    file: &Path,
    content: &Content,
    into: mpsc::Sender<Bytes>,
) -> Result<(), ShipError> {
    let of_spool = |error| ShipError::State { folder: file.to_owned(), error };
    let mut from = File::open(file).await.map_err(of_spool)?.take(content.bytes);
    let (mut sum, mut length) = (Sha256::new(), 0);
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        if from.read_buf(&mut piece).await.map_err(of_spool)? == 0 {
            break;
        }
        sum.update(&piece);
        length += piece.len() as u64;
        if into.send(piece.freeze()).await.is_err() {
            // Whoever took them has failed, and says so.
            return Ok(());
        }
    }
    let found = Content { bytes: length, sha256: Sum::from_bytes(sum.finalize().into()) };
    if found != *content {
        return Err(ShipError::Failed(format!(
            "the spooled segment has {} bytes with SHA-256 {}, it was written with {} and {}",
            found.bytes, found.sha256, content.bytes, content.sha256
        )));
    }
    Ok(())
}

/// Fetches the object back and looks whether it is `content`.
pub(in crate::backup) async fn read_back(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    content: &Content,
) -> Result<(), ShipError> {
    let mut download = store.get(key, Part::default()).await?;
    let (mut sum, mut length) = (Sha256::new(), 0);
    while let Some(piece) = download.body.next().await {
        let piece = piece?;
        sum.update(&piece);
        length += piece.len() as u64;
    }
    let found = Content { bytes: length, sha256: Sum::from_bytes(sum.finalize().into()) };
    if found == *content {
        return Ok(());
    }
    Err(ObjectError::Corrupt(format!(
        "the store gives back `{key}` as {} bytes with SHA-256 {}; {} bytes with SHA-256 {} were stored",
        found.bytes, found.sha256, content.bytes, content.sha256
    ))
    .into())
}
