//! Where bytes leave a reading: in pieces, and with an eye on what it costs the application that they leave slowly.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::snapshot::State;
use crate::backup::SourceError;

/// Bytes of a piece.
const PIECE: usize = 1 << 20;

/// From one look at the log to the next while nobody takes a piece.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Takes the bytes of a segment on a thread that may block.
pub struct Outlet {
    watch: Watch,
    runtime: Handle,
    piece: Vec<u8>,
}

/// Whether a reading goes on.
#[derive(Clone)]
pub struct Watch {
    into: mpsc::Sender<Bytes>,
    stop: CancellationToken,
    state: State,
    most_growth: u64,
}

impl Watch {
    /// Whether going on is wanted, and whether it is decent (H11: rather no backup than a full disk).
    pub fn may_go_on(&self) -> Result<(), SourceError> {
        if self.stop.is_cancelled() || self.into.is_closed() {
            return Err(SourceError::Abandoned);
        }
        match self.state.grown() {
            grown if grown > self.most_growth => Err(SourceError::Busy(format!(
                "the write-ahead log grew by {} MiB while the database was read, and it must not grow further: the segment is left to quieter times, or to a faster destination",
                grown >> 20
            ))),
            _ => Ok(()),
        }
    }
}

impl Outlet {
    /// Sends to `into` what is read of `state`, until `stop`, or until the log has grown by `most_growth` bytes that wait for us.
    pub fn new(into: mpsc::Sender<Bytes>, stop: CancellationToken, state: State, most_growth: u64) -> Self {
        let watch = Watch { into, stop, state, most_growth };
        Self { watch, runtime: Handle::current(), piece: Vec::with_capacity(PIECE) }
    }

    /// For who reads long without sending.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Sends what there is.
    pub fn send(&mut self) -> Result<(), SourceError> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE)));
        self.watch.may_go_on()?;
        let mut piece = Some(piece);
        while let Some(bytes) = piece.take() {
            let room = self.runtime.block_on(async {
                tokio::select! {
                    room = self.watch.into.reserve() => Some(room),
                    () = self.watch.stop.cancelled() => None,
                    () = tokio::time::sleep(LOOK_EVERY) => None,
                }
            });
            match room {
                Some(Ok(room)) => room.send(bytes),
                Some(Err(_)) => return Err(SourceError::Abandoned),
                None => {
                    self.watch.may_go_on()?;
                    piece = Some(bytes);
                }
            }
        }
        Ok(())
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.send().map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send().map_err(io::Error::other)
    }
}

/// What an outlet said, back from `std::io`; everything else happened to a file of ours.
pub fn source_error(error: io::Error) -> SourceError {
    error.downcast().unwrap_or_else(|e| SourceError::Busy(format!("cannot keep the page map: {e}")))
}
