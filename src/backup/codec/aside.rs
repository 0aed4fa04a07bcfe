//! A SHA-256 made beside whoever reads: unpacking and summing take turns otherwise, and of a restore's time that is a sixth.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use sha2::{Digest as _, Sha256};

use crate::backup::manifest::Sum;

/// How many bytes go to the thread at once. What is shorter altogether needs none.
const PIECE_BYTES: usize = 1 << 18;

/// How many pieces wait: enough that neither side waits for the other's slow moments.
const PIECES_WAITING: usize = 4;

/// The sum of bytes that pass.
#[derive(Default)]
pub(super) struct Aside {
    filling: Vec<u8>,
    /// As soon as there is a piece for it. Its thread ends when this is dropped.
    summing: Option<Summing>,
}

struct Summing {
    full: SyncSender<Vec<u8>>,
    /// Pieces that come back to be filled again.
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Sha256>,
}

impl Aside {
    pub(super) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.filling.extend_from_slice(bytes);
        if self.filling.len() < PIECE_BYTES {
            return Ok(());
        }
        let summing = match self.summing.take() {
            Some(summing) => summing,
            None => Summing::begin()?,
        };
        let mut next = summing.empty.try_recv().unwrap_or_default();
        next.clear();
        // Nobody takes it only where the thread panicked, which its end tells.
        let _ = summing.full.send(std::mem::replace(&mut self.filling, next));
        self.summing = Some(summing);
        Ok(())
    }

    pub(super) fn sum(self) -> io::Result<Sum> {
        let begun = match self.summing {
            None => Sha256::new(),
            Some(Summing { full, empty: _empty, thread }) => {
                drop(full);
                thread.join().map_err(|_| io::Error::other("the thread that makes a sum panicked"))?
            }
        };
        Ok(Sum::from_bytes(begun.chain_update(&self.filling).finalize().into()))
    }
}

impl Summing {
    fn begin() -> io::Result<Self> {
        let (full, pieces) = sync_channel::<Vec<u8>>(PIECES_WAITING);
        let (back, empty) = sync_channel(PIECES_WAITING + 2);
        let sum = move || {
            let mut sum = Sha256::new();
            for piece in pieces {
                sum.update(&piece);
                // Nobody waits for the last ones.
                let _ = back.try_send(piece);
            }
            sum
        };
        let thread = thread::Builder::new().name("sum".to_owned()).spawn(sum)?;
        Ok(Self { full, empty, thread })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sum_however_the_bytes_come() {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        for length in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, bytes.len()] {
            for cut in [1000, PIECE_BYTES, 2_000_000] {
                let mut aside = Aside::default();
                bytes[..length].chunks(cut).for_each(|piece| aside.add(piece).unwrap());
                assert_eq!(aside.sum().unwrap(), Sum::of(&bytes[..length]), "{length} bytes by {cut}");
            }
        }
    }
}
