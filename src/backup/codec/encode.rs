//! Plain bytes become stored ones, on several threads and in order.
//!
//! The stage itself is a future that waits; what costs processor time runs on threads of the runtime for blocking work, of which it starts no more than it was
//! allowed to, and each for one block: when the future is dropped, nothing goes on for longer than a block takes.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{BLOCK_BYTES, CodecError, Encoded, Form, Label, age, gzip, zstd};
use crate::backup::manifest::{Codec, Content, Sum};

/// Reads `plain` until its sender is gone and sends what is stored. No bytes at all make a file of no bytes.
///
/// That the sender is gone is the end, whatever made it go: whether all bytes were sent, its own result has to say. When the receiver of the stored bytes is gone,
/// this ends with [`CodecError::Abandoned`], which closes `plain`.
///
/// `threads` blocks are compressed at once; memory is some 2 MiB for each, and what the channels hold.
pub async fn encode(
    form: &Form,
    label: Label,
    threads: usize,
    plain: Receiver<Bytes>,
    stored: Sender<Bytes>,
) -> Result<Encoded, CodecError> {
    let codec = form.codec;
    let label = Arc::new(label);
    let mut source = Blocks { plain, pending: BytesMut::new(), count: 0 };
    let mut end = End::new(form, stored)?;
    let mut tally = Tally::default();
    let mut packing: VecDeque<JoinHandle<Result<Vec<u8>, CodecError>>> = VecDeque::new();
    while let Some(block) = source.next(&end.stored).await? {
        if packing.len() >= threads.max(1)
            && let Some(first) = packing.pop_front()
        {
            end.put(joined(first).await??).await?;
        }
        let (packed, label) = (block.clone(), (source.count == 1).then(|| label.clone()));
        packing.push_back(spawn_blocking(move || pack(codec, &packed, label.as_deref())));
        tally = on_a_thread(move || tally.with(&block)).await?;
    }
    for packed in packing {
        end.put(joined(packed).await??).await?;
    }
    Ok(Encoded { plain: tally.content(), stored: end.finish().await? })
}

fn pack(codec: Codec, block: &[u8], label: Option<&Label>) -> Result<Vec<u8>, CodecError> {
    match codec {
        Codec::Gzip => Ok(gzip::member(block, label)),
        Codec::Zstd => zstd::frame(block).map_err(CodecError::Io),
    }
}

/// Bytes as they come, cut anew.
struct Blocks {
    plain: Receiver<Bytes>,
    pending: BytesMut,
    count: u64,
}

impl Blocks {
    /// The next block: full ones, then a shorter one, which is empty only where it is the first. Ends early when nobody takes what is stored.
    async fn next(&mut self, stored: &Sender<Bytes>) -> Result<Option<Bytes>, CodecError> {
        while self.pending.len() < BLOCK_BYTES {
            let piece = tokio::select! {
                piece = self.plain.recv() => piece,
                () = stored.closed() => return Err(CodecError::Abandoned),
            };
            let Some(piece) = piece else { break };
            if self.pending.is_empty() && piece.len() == BLOCK_BYTES {
                self.count += 1;
                return Ok(Some(piece));
            }
            self.pending.extend_from_slice(&piece);
        }
        if self.pending.is_empty() && self.count > 0 {
            return Ok(None);
        }
        self.count += 1;
        Ok(Some(self.pending.split_to(self.pending.len().min(BLOCK_BYTES)).freeze()))
    }
}

/// Where stored bytes leave: encrypted, counted, sent.
struct End {
    stored: Sender<Bytes>,
    seal: Seal,
}

/// What has to see the stored bytes one after another.
#[derive(Default)]
struct Seal {
    sealer: Option<age::Sealer>,
    tally: Tally,
    /// The header of an encrypted file, until it has gone.
    begun: Vec<u8>,
}

impl End {
    fn new(form: &Form, stored: Sender<Bytes>) -> Result<Self, CodecError> {
        let (sealer, begun) = match form.recipients.as_slice() {
            [] => (None, Vec::new()),
            recipients => age::seal(recipients).map(|(sealer, header)| (Some(sealer), header))?,
        };
        Ok(Self { stored, seal: Seal { sealer, tally: Tally::default(), begun } })
    }

    async fn put(&mut self, packed: Vec<u8>) -> Result<(), CodecError> {
        let seal = std::mem::take(&mut self.seal);
        let (seal, bytes) = on_a_thread(move || seal.through(packed)).await?;
        self.seal = seal;
        self.send(bytes).await
    }

    async fn send(&self, bytes: Vec<u8>) -> Result<(), CodecError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.stored.send(bytes.into()).await.map_err(|_| CodecError::Abandoned)
    }

    async fn finish(mut self) -> Result<Content, CodecError> {
        let seal = std::mem::take(&mut self.seal);
        let (tally, bytes) = seal.last();
        self.send(bytes).await?;
        Ok(tally.content())
    }
}

impl Seal {
    fn through(mut self, packed: Vec<u8>) -> (Self, Vec<u8>) {
        let bytes = match &mut self.sealer {
            None => packed,
            Some(sealer) => {
                let mut bytes = std::mem::take(&mut self.begun);
                sealer.push(&packed, &mut bytes);
                bytes
            }
        };
        self.tally.add(&bytes);
        (self, bytes)
    }

    fn last(mut self) -> (Tally, Vec<u8>) {
        let mut bytes = self.begun;
        if let Some(sealer) = self.sealer {
            sealer.finish(&mut bytes);
        }
        self.tally.add(&bytes);
        (self.tally, bytes)
    }
}

/// Length and sum of bytes that pass.
#[derive(Default)]
struct Tally {
    bytes: u64,
    sum: Sha256,
}

impl Tally {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.sum.update(bytes);
    }

    fn with(mut self, bytes: &[u8]) -> Self {
        self.add(bytes);
        self
    }

    fn content(self) -> Content {
        Content { bytes: self.bytes, sha256: Sum::from_bytes(self.sum.finalize().into()) }
    }
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CodecError> {
    joined(spawn_blocking(work)).await
}

/// What `work` gave. Its panic is ours; that it never ran means that the runtime ends.
async fn joined<T>(work: JoinHandle<T>) -> Result<T, CodecError> {
    work.await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(_) => CodecError::Abandoned,
    })
}
