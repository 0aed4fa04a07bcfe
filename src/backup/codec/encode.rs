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

/// What is encoded member by member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Plain bytes.
    Bytes(Bytes),
    /// What came so far must be readable without what follows: a member, or several, end here. It stands behind bytes.
    End,
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

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
    Ok(encode_pieces(form, label, threads, plain, stored).await?.0)
}

/// The same, and what had been stored at each [`Piece::End`]. With recipients that is what had left by then: what stood before the end may follow a little later.
pub async fn encode_members(
    form: &Form,
    label: Label,
    threads: usize,
    plain: Receiver<Piece>,
    stored: Sender<Bytes>,
) -> Result<(Encoded, Vec<Content>), CodecError> {
    encode_pieces(form, label, threads, plain, stored).await
}

async fn encode_pieces<P: Into<Piece>>(
    form: &Form,
    label: Label,
    threads: usize,
    plain: Receiver<P>,
    stored: Sender<Bytes>,
) -> Result<(Encoded, Vec<Content>), CodecError> {
    let codec = form.codec;
    let label = Arc::new(label);
    let mut source = Blocks { plain, pending: BytesMut::new(), count: 0, ending: false };
    let mut end = End::new(form, stored)?;
    let (mut tally, mut ends) = (Tally::default(), Vec::new());
    let mut packing: VecDeque<Packing> = VecDeque::new();
    while let Some(piece) = source.next(&end.stored).await? {
        let block = match piece {
            Piece::Bytes(block) => block,
            Piece::End => {
                match packing.back_mut() {
                    Some(last) => last.ends = true,
                    None => ends.push(end.content()),
                }
                continue;
            }
        };
        if packing.len() >= threads.max(1)
            && let Some(first) = packing.pop_front()
        {
            ends.extend(end.take(first).await?);
        }
        let (packed, label) = (block.clone(), (source.count == 1).then(|| label.clone()));
        let work = spawn_blocking(move || pack(codec, &packed, label.as_deref()));
        packing.push_back(Packing { work, ends: false });
        tally = on_a_thread(move || tally.with(&block)).await?;
    }
    for packed in packing {
        ends.extend(end.take(packed).await?);
    }
    Ok((Encoded { plain: tally.content(), stored: end.finish().await? }, ends))
}

/// A block on its way.
struct Packing {
    work: JoinHandle<Result<Vec<u8>, CodecError>>,
    /// Whether it is the last one before an end.
    ends: bool,
}

fn pack(codec: Codec, block: &[u8], label: Option<&Label>) -> Result<Vec<u8>, CodecError> {
    match codec {
        Codec::Gzip => Ok(gzip::member(block, label)),
        Codec::Zstd => zstd::frame(block).map_err(CodecError::Io),
    }
}

/// Bytes as they come, cut anew.
struct Blocks<P> {
    plain: Receiver<P>,
    pending: BytesMut,
    count: u64,
    /// Whether an end stands behind what is pending.
    ending: bool,
}

impl<P: Into<Piece>> Blocks<P> {
    /// The next block: full ones, before each end and at the last a shorter one, which is empty only where it is the first. Ends early when nobody takes what is stored.
    async fn next(&mut self, stored: &Sender<Bytes>) -> Result<Option<Piece>, CodecError> {
        while self.pending.len() < BLOCK_BYTES && !self.ending {
            let piece = tokio::select! {
                piece = self.plain.recv() => piece,
                () = stored.closed() => return Err(CodecError::Abandoned),
            };
            let piece = match piece.map(Into::into) {
                Some(Piece::Bytes(piece)) => piece,
                Some(Piece::End) => {
                    self.ending = true;
                    break;
                }
                None => break,
            };
            if self.pending.is_empty() && piece.len() == BLOCK_BYTES {
                self.count += 1;
                return Ok(Some(Piece::Bytes(piece)));
            }
            self.pending.extend_from_slice(&piece);
        }
        if self.pending.is_empty() && self.ending {
            self.ending = false;
            return Ok(Some(Piece::End));
        }
        if self.pending.is_empty() && self.count > 0 {
            return Ok(None);
        }
        self.count += 1;
        Ok(Some(Piece::Bytes(self.pending.split_to(self.pending.len().min(BLOCK_BYTES)).freeze())))
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

    /// Takes a block, and tells what is stored with it where it stands before an end.
    async fn take(&mut self, packing: Packing) -> Result<Option<Content>, CodecError> {
        self.put(joined(packing.work).await??).await?;
        Ok(packing.ends.then(|| self.content()))
    }

    /// What has left so far.
    fn content(&self) -> Content {
        self.seal.tally.clone().content()
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
#[derive(Clone, Default)]
pub(super) struct Tally {
    bytes: u64,
    sum: Sha256,
}

impl Tally {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.sum.update(bytes);
    }

    fn with(mut self, bytes: &[u8]) -> Self {
        self.add(bytes);
        self
    }

    pub(super) fn content(self) -> Content {
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
