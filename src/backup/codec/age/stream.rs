//! The body of an age file: chunks of 64 KiB, each encrypted and authenticated under its number, so that none can be changed, moved, left out or added; the last one says
//! that it is.

use std::io::{self, Read};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::damaged;

pub(super) const CHUNK_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;
pub(super) const SEALED_BYTES: usize = CHUNK_BYTES + TAG_BYTES;

/// A key with the number of the next chunk.
struct Numbered {
    key: LessSafeKey,
    number: u64,
}

impl Numbered {
    fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key has 32 bytes");
        Self { key: LessSafeKey::new(key), number: 0 }
    }

    /// Eleven bytes of number, and whether it is the last chunk. 2^64 chunks are more than there are bytes on earth.
    fn nonce(&mut self, last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.number.to_be_bytes());
        nonce[11] = u8::from(last);
        self.number += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Encrypts.
pub(in crate::backup::codec) struct Sealer {
    key: Numbered,
    /// What has to wait until it is known whether it is the last: a chunk at most.
    pending: Vec<u8>,
}

impl Sealer {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self { key: Numbered::new(key), pending: Vec::with_capacity(CHUNK_BYTES) }
    }

    /// Takes `plain`; what can go is added to `sealed`.
    pub(in crate::backup::codec) fn push(&mut self, mut plain: &[u8], sealed: &mut Vec<u8>) {
        while self.pending.len() + plain.len() > CHUNK_BYTES {
            let (now, later) = plain.split_at(CHUNK_BYTES - self.pending.len());
            self.pending.extend_from_slice(now);
            self.chunk(false, sealed);
            plain = later;
        }
        self.pending.extend_from_slice(plain);
    }

    /// Ends; what is left is added to `sealed`.
    pub(in crate::backup::codec) fn finish(mut self, sealed: &mut Vec<u8>) {
        self.chunk(true, sealed);
    }

    fn chunk(&mut self, last: bool, sealed: &mut Vec<u8>) {
        let nonce = self.key.nonce(last);
        let tag = self.key.key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut self.pending);
        sealed.extend_from_slice(&self.pending);
        sealed.extend_from_slice(tag.expect("a chunk can be encrypted").as_ref());
        self.pending.clear();
    }
}

/// Decrypts. No byte comes out that was not authenticated.
pub(in crate::backup::codec) struct Opener<R> {
    sealed: R,
    key: Numbered,
    /// A sealed chunk and the first byte behind it, which tells whether it is the last; then, up to `end`, what it held.
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
    /// The first byte of the next chunk.
    ahead: Option<u8>,
    ended: bool,
}

impl<R: Read> Opener<R> {
    pub(super) fn new(key: &[u8; 32], sealed: R) -> Self {
        let buffer = vec![0; SEALED_BYTES + 1].into();
        Self { sealed, key: Numbered::new(key), buffer, at: 0, end: 0, ahead: None, ended: false }
    }

    /// Where the sealed bytes come from.
    pub(in crate::backup::codec) fn get_mut(&mut self) -> &mut R {
        &mut self.sealed
    }

    fn chunk(&mut self) -> io::Result<()> {
        let first = self.key.number == 0;
        let carried = self.ahead.take().map_or(0, |byte| {
            self.buffer[0] = byte;
            1
        });
        let length = carried + fill(&mut self.sealed, &mut self.buffer[carried..])?;
        let last = length <= SEALED_BYTES;
        let nonce = self.key.nonce(last);
        let chunk = &mut self.buffer[..length.min(SEALED_BYTES)];
        let ahead = (chunk.len() >= TAG_BYTES).then(|| self.key.key.open_in_place(nonce, Aad::empty(), chunk));
        let Some(Ok(plain)) = ahead else {
            return Err(damaged(match (length, last) {
                (0, _) => "the encrypted bytes end before their last chunk",
                (_, true) => "the last encrypted chunk is damaged, or not the last",
                (_, false) => "an encrypted chunk is damaged",
            }));
        };
        (self.at, self.end, self.ended) = (0, plain.len(), last);
        if last && !first && self.end == 0 {
            return Err(damaged("the last encrypted chunk is empty"));
        }
        self.ahead = (!last).then(|| self.buffer[SEALED_BYTES]);
        Ok(())
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end && !self.ended {
            self.chunk()?;
        }
        let length = buffer.len().min(self.end - self.at);
        buffer[..length].copy_from_slice(&self.buffer[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Reads until `buffer` is full or nothing is left.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
