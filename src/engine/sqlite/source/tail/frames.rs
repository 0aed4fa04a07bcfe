//! The frames of the log that were committed since a place: proven to go on from there and to end where the index says, and nothing behind it looked at (H1, H2).
//!
//! Several frames with a commit one after another are no error: SQLite fills a sector up by repeating the last one (H3).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::super::spot::Spot;
use super::super::wal_index;
use crate::backup::SourceError;
use crate::engine::sqlite::wal::{FRAME_HEADER_BYTES, HEADER_BYTES, Header, Sums};

/// Bytes of the log that are read at once.
const PIECE: usize = 1 << 20;

/// What was committed between two places of a log.
#[derive(Debug, PartialEq, Eq)]
pub struct Frames {
    /// Pages, each with the last frame that has it, in the order of the pages: 8 bytes a page, for a VACUUM has all of them (H25).
    pub newest: Vec<(u32, u32)>,
    /// The fewest pages that the database had after one of the commits.
    pub least: u32,
}

/// Frames `from.frames + 1` up to those of `to`. `each` is given every one of them, and must not believe it before all were good.
pub fn read(
    log: &File,
    from: Spot,
    to: &wal_index::Header,
    mut each: impl FnMut(u32, &[u8]) -> Result<(), SourceError>,
) -> Result<Frames, SourceError> {
    let (mut newest, mut least, mut last) = (Vec::new(), u32::MAX, None);
    let end = walk(log, from, to.page_size, to.frames, |at, head, page| {
        let (number, pages) = (word(head, 0), word(head, 4));
        if number == 0 {
            return Err(damaged(&format!("frame {at} is of page 0")));
        }
        if pages > 0 {
            least = least.min(pages);
        }
        last = Some(pages);
        newest.push((number, at));
        each(number, page)
    })?;
    if last != Some(to.pages) {
        return Err(damaged(&format!("its last frame commits {last:?} pages, and the index says {}", to.pages)));
    }
    if end != Spot::of(to) {
        return Err(damaged(&format!("its frames lead to {end}, and the index says {}", Spot::of(to))));
    }
    newest.sort_unstable();
    newest.reverse();
    newest.dedup_by_key(|(page, _)| *page);
    newest.reverse();
    Ok(Frames { newest, least })
}

/// Whether the log of `salts` that is in `log` leads to `wanted`, by its bytes.
pub fn leads_to(log: &File, wanted: Spot, page_size: u32) -> Result<bool, SourceError> {
    walk(log, Spot::beginning(wanted.salts), page_size, wanted.frames, |_, _, _| Ok(())).map(|end| end == wanted)
}

/// Goes over the frames behind `from` up to number `last`, each of the same log and with the sums that it names.
fn walk(
    log: &File,
    from: Spot,
    page_size: u32,
    last: u32,
    mut each: impl FnMut(u32, &[u8], &[u8]) -> Result<(), SourceError>,
) -> Result<Spot, SourceError> {
    let mut bytes = [0; HEADER_BYTES];
    log.read_exact_at(&mut bytes, 0).map_err(unreadable)?;
    let header = Header::parse(&bytes).map_err(|why| damaged(&why))?;
    if (header.page_size, header.salts) != (page_size, from.salts) {
        return Err(damaged("it is another log"));
    }
    let mut sums = if from.frames == 0 { header.sums(&bytes) } else { Sums::at(header.order, from.sums) };
    let length = FRAME_HEADER_BYTES + page_size as usize;
    let most = (PIECE / length).max(1) as u32;
    let mut piece = vec![0; length * most.min(last.saturating_sub(from.frames)) as usize];
    let mut next = from.frames + 1;
    while next <= last {
        let count = most.min(last - next + 1);
        let piece = &mut piece[..length * count as usize];
        log.read_exact_at(piece, offset(next, page_size)).map_err(unreadable)?;
        for (at, frame) in (next..).zip(piece.chunks_exact(length)) {
            let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
            sums.add(&head[..8]);
            sums.add(page);
            if [word(head, 8), word(head, 12)] != from.salts || [word(head, 16), word(head, 20)] != sums.values() {
                return Err(damaged(&format!("frame {at} does not go on from the one before it")));
            }
            each(at, head, page)?;
        }
        next += count;
    }
    Ok(match last {
        0 => from,
        frames => Spot { salts: from.salts, frames, sums: sums.values() },
    })
}

/// Where frame `at` begins.
fn offset(at: u32, page_size: u32) -> u64 {
    HEADER_BYTES as u64 + (FRAME_HEADER_BYTES as u64 + u64::from(page_size)) * u64::from(at - 1)
}

/// Reads the page of frame `at`, which must be `number`, into `page`.
pub fn page(log: &File, at: u32, number: u32, page: &mut [u8]) -> Result<(), SourceError> {
    let begin = offset(at, page.len() as u32);
    let mut head = [0; 4];
    log.read_exact_at(&mut head, begin).map_err(unreadable)?;
    if u32::from_be_bytes(head) != number {
        return Err(damaged(&format!("frame {at} is no longer page {number}")));
    }
    log.read_exact_at(page, begin + FRAME_HEADER_BYTES as u64).map_err(unreadable)
}

/// Pages that were taken out of the log before it could begin anew.
#[derive(Debug, Default)]
pub struct Memory {
    /// The newest version of each.
    pub pages: BTreeMap<u32, Box<[u8]>>,
    /// The fewest pages that the database had after one of the commits; nothing where there was none.
    pub least: Option<u32>,
    /// How many it had after the last one.
    pub pages_after: Option<u32>,
}

impl Memory {
    /// Whether there is no commit in it.
    pub fn is_empty(&self) -> bool {
        self.least.is_none()
    }

    /// How many bytes of pages it has.
    pub fn bytes(&self) -> u64 {
        self.pages.values().map(|page| page.len() as u64).sum()
    }

    /// Adds page 1 as it is, for a segment that nothing was committed for.
    pub fn repeat(&mut self, page: Box<[u8]>, pages: u32) {
        self.pages.insert(1, page);
        self.least = Some(self.least.unwrap_or(pages).min(pages));
        self.pages_after = Some(pages);
    }

    /// Adds what was committed between `from` and `to`.
    pub fn add(&mut self, log: &File, from: Spot, to: &wal_index::Header) -> Result<(), SourceError> {
        let mut pages = BTreeMap::new();
        let frames = read(log, from, to, |number, page| {
            pages.insert(number, page.into());
            Ok(())
        })?;
        self.pages.append(&mut pages);
        self.pages.retain(|number, _| *number <= to.pages);
        self.least = Some(self.least.unwrap_or(u32::MAX).min(frames.least));
        self.pages_after = Some(to.pages);
        Ok(())
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn damaged(what: &str) -> SourceError {
    SourceError::Broken(format!("the write-ahead log is not what its index says: {what}"))
}

fn unreadable(error: std::io::Error) -> SourceError {
    SourceError::Broken(format!("cannot read the write-ahead log: {error}"))
}
