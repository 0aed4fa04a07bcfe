//! The pages that a write-ahead log has newer than the database file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::wal_index::Header;
use crate::backup::SourceError;
use crate::engine::sqlite::wal::{FRAME_HEADER_BYTES, HEADER_BYTES, WalReader};

/// Bytes of the log that are read at once.
const PIECE: usize = 1 << 20;

/// Which frame has the newest version of each page: some 13 bytes for a page in the log.
#[derive(Debug, Default)]
pub struct Overlay {
    log: Option<Arc<File>>,
    frames: BTreeMap<u32, u32>,
}

impl Overlay {
    /// Reads `log` up to `commit`, and no further. Each frame must be of this log (salts), the sums over all of them must be those of the commit, which ended a
    /// transaction: whatever has happened to the file, nothing else is taken for the state.
    pub fn read(log: Arc<File>, commit: &Header) -> Result<Self, SourceError> {
        let damaged =
            |what: String| SourceError::Broken(format!("the write-ahead log is not what its index says: {what}"));
        let frame = FRAME_HEADER_BYTES as u64 + u64::from(commit.page_size);
        let committed = HEADER_BYTES as u64 + frame * u64::from(commit.frames);
        let bytes = BufReader::with_capacity(PIECE, At { file: &log, offset: 0 }.take(committed));
        let mut reader = WalReader::new(bytes).map_err(|e| damaged(e.to_string()))?;
        if (reader.header().page_size, reader.header().salts) != (commit.page_size, commit.salts) {
            return Err(damaged("it is another log".to_owned()));
        }
        let (mut frames, mut pages, mut at) = (BTreeMap::new(), None, 0);
        while let Some(frame) = reader.next_frame().map_err(|e| damaged(e.to_string()))? {
            at += 1;
            pages = frame.commit;
            frames.insert(frame.number, at);
        }
        if at != commit.frames || pages != Some(commit.pages) {
            return Err(damaged(format!("{at} frames, and the last one commits {pages:?} pages, not {commit:?}")));
        }
        if reader.sums() != commit.sums {
            return Err(damaged("its sums are others".to_owned()));
        }
        // Pages that a shrinking database has dropped.
        frames.retain(|number, _| *number <= commit.pages);
        Ok(Self { log: Some(log), frames })
    }

    /// Reads page `number` into `page` where the log has it, and says whether it has.
    pub fn page(&self, number: u32, page: &mut [u8]) -> io::Result<bool> {
        let (Some(log), Some(frame)) = (&self.log, self.frames.get(&number)) else { return Ok(false) };
        let length = (FRAME_HEADER_BYTES + page.len()) as u64;
        let begin = HEADER_BYTES as u64 + length * u64::from(frame - 1);
        let mut head = [0; 4];
        log.read_exact_at(&mut head, begin)?;
        if u32::from_be_bytes(head) != number {
            return Err(io::Error::other(format!("frame {frame} of the write-ahead log is no longer page {number}")));
        }
        log.read_exact_at(page, begin + FRAME_HEADER_BYTES as u64)?;
        Ok(true)
    }
}

/// Reads a shared file from a place on.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let came = self.file.read_at(into, self.offset)?;
        self.offset += came as u64;
        Ok(came)
    }
}
