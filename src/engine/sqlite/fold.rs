//! Write-ahead logs made into one.
//!
//! A *fine* log has the transactions of its sources as they are: only the salts and the sums of the frames are new. What it begins with, up to any of its commits, is a log as well. A
//! *merged* one has the newest version of each page, in one transaction.
//!
//! Both must be right laid over any state between their ends, because that is what restores do with them. So a log needs each page that changed anywhere in between; and there is one way for a
//! page to change without a frame: the database shrinks, and grows again over a page that nobody writes. Laid down one by one such a page is zeros; in a longer log an older version
//! would show through. Where a transaction leaves such a page out, a frame of zeros is added to it.
//!
//! What comes out is not trusted either: [`Weave::read`] reads it anew, and [`Woven::sum`] of both must be equal.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};

use super::rebuild::ENGINE;
use super::wal::{FRAME_HEADER_BYTES, Frame, HEADER_BYTES, WalError, WalReader, WalWriter, lock_page};
use crate::backup::fold::{Head, Weave, Weaving, Woven};
use crate::backup::{Manifest, RebuildError};

/// Makes SQLite's logs into one.
#[derive(Debug)]
pub struct Logs;

impl Weave for Logs {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn fine<'a>(&self, head: &Head, to: Box<dyn Write + 'a>) -> io::Result<Box<dyn Weaving + 'a>> {
        Ok(Box::new(Fine { out: Out::begin(head, to)?, pages: head.pages, held: Vec::new() }))
    }

    fn merged(
        &self,
        head: &Head,
        count: usize,
        open: &mut dyn FnMut(usize) -> io::Result<Box<dyn Read>>,
        to: Box<dyn Write + '_>,
    ) -> Result<Woven, RebuildError> {
        let (newest, pages) = newest_versions(head, count, open)?;
        let mut left = newest.keys().filter(|number| **number <= pages).count();
        if left == 0 {
            return Err(RebuildError::Damaged("the logs have no page of the database that they lead to".to_owned()));
        }
        let mut out = Out::begin(head, to)?;
        let mut at = 0;
        for index in 0..count {
            let mut log = WalReader::new(open(index)?).map_err(told)?;
            while let Some(Frame { number, page, .. }) = log.next_frame().map_err(told)? {
                at += 1;
                if number <= pages && newest.get(&number) == Some(&at) {
                    left -= 1;
                    out.frame(number, page, (left == 0).then_some(pages))?;
                }
            }
        }
        if left > 0 {
            return Err(RebuildError::Damaged("the logs were others when they were read again".to_owned()));
        }
        out.woven()
    }

    fn read(&self, log: &mut dyn Read, transaction: &mut dyn FnMut(Woven)) -> Result<(), RebuildError> {
        let mut log = WalReader::new(log).map_err(told)?;
        let mut seen = Seen::new(log.header().page_size);
        while let Some(frame) = log.next_frame().map_err(told)? {
            seen.frame(&frame);
            if frame.commit.is_some() {
                transaction(seen.woven()?);
            }
        }
        Ok(())
    }
}

/// In which frame, counted over all logs from 1, each page has its newest version; and how many pages the database has in the end. About 12 bytes a page, whatever the length of the logs.
fn newest_versions(
    head: &Head,
    count: usize,
    open: &mut dyn FnMut(usize) -> io::Result<Box<dyn Read>>,
) -> Result<(HashMap<u32, u64>, u32), RebuildError> {
    let (mut newest, mut pages, mut at) = (HashMap::new(), 0, 0);
    for index in 0..count {
        let mut log = WalReader::new(open(index)?).map_err(told)?;
        if log.header().page_size != head.page_size {
            return Err(RebuildError::Damaged("a log has pages of another size".to_owned()));
        }
        while let Some(frame) = log.next_frame().map_err(told)? {
            at += 1;
            newest.insert(frame.number, at);
            pages = frame.commit.unwrap_or(pages);
        }
    }
    Ok((newest, pages))
}

/// What is wrong with a log.
fn told(error: WalError) -> RebuildError {
    match error {
        WalError::Io(e) => RebuildError::Io(e),
        WalError::Damaged(why) => RebuildError::Damaged(why),
    }
}

/// Frames that passed.
struct Seen {
    page_size: u32,
    frames: u64,
    pages: u32,
    sum: blake3::Hasher,
}

impl Seen {
    fn new(page_size: u32) -> Self {
        Self { page_size, frames: 0, pages: 0, sum: blake3::Hasher::new() }
    }

    fn frame(&mut self, frame: &Frame<'_>) {
        self.frames += 1;
        self.pages = frame.commit.unwrap_or(self.pages);
        self.sum.update(&frame.number.to_be_bytes());
        self.sum.update(&frame.commit.unwrap_or(0).to_be_bytes());
        self.sum.update(frame.page);
    }

    fn woven(&self) -> Result<Woven, RebuildError> {
        let too_long = |_| RebuildError::Damaged("the log has more frames than can be counted".to_owned());
        let frames = u32::try_from(self.frames).map_err(too_long)?;
        let plain_bytes = HEADER_BYTES as u64 + self.frames * (FRAME_HEADER_BYTES as u64 + u64::from(self.page_size));
        Ok(Woven { frames, plain_bytes, pages: self.pages, sum: self.sum.finalize().into() })
    }
}

/// A log that is being written.
struct Out<'a> {
    log: WalWriter<Box<dyn Write + 'a>>,
    seen: Seen,
}

impl<'a> Out<'a> {
    /// The sequence and the salts are for whoever looks at the file: SQLite asks nothing of them. They are what increments have.
    fn begin(head: &Head, to: Box<dyn Write + 'a>) -> io::Result<Self> {
        let salts = head.digest_before.high();
        let salts = [(salts >> 32) as u32, salts as u32];
        let log = WalWriter::new(to, head.page_size, head.to.0 as u32, salts)?;
        Ok(Self { log, seen: Seen::new(head.page_size) })
    }

    fn frame(&mut self, number: u32, page: &[u8], commit: Option<u32>) -> Result<(), RebuildError> {
        self.seen.frame(&Frame { number, commit, page });
        Ok(self.log.frame(number, page, commit)?)
    }

    /// What it is up to here, all of which was handed on.
    fn woven(&mut self) -> Result<Woven, RebuildError> {
        self.log.flush()?;
        self.seen.woven()
    }
}

/// A fine log that is being written.
struct Fine<'a> {
    out: Out<'a>,
    /// Of the database, as far as it has come; not known before the first transaction where nobody knows.
    pages: Option<u32>,
    /// The page whose frame ends the transaction: it waits for what must stand before it.
    held: Vec<u8>,
}

impl Weaving for Fine<'_> {
    fn add(&mut self, manifest: &Manifest, plain: &mut dyn Read) -> Result<Woven, RebuildError> {
        let expect = |holds: bool, what: &str| {
            if holds { Ok(()) } else { Err(RebuildError::Damaged(format!("{} {what}", manifest.place()))) }
        };
        let size = self.out.seen.page_size;
        let mut log = WalReader::new(plain).map_err(told)?;
        expect(log.header().page_size == size && manifest.page_size == size, "has pages of another size")?;
        let before = self.pages.unwrap_or(manifest.pages);
        // Those behind the end of the state before.
        let (mut written, mut last) = (HashSet::new(), None);
        while let Some(Frame { number, commit, page }) = log.next_frame().map_err(told)? {
            expect(last.is_none(), "has more than one transaction")?;
            expect(number != lock_page(size), "writes the lock page")?;
            if number > before {
                written.insert(number);
            }
            match commit {
                None => self.out.frame(number, page, None)?,
                Some(pages) => {
                    last = Some((number, pages));
                    self.held.clear();
                    self.held.extend_from_slice(page);
                }
            }
        }
        let frames = log.frames();
        expect(frames == u64::from(manifest.sent_pages), "has another number of frames than it says")?;
        expect(
            last.is_some_and(|(_, pages)| pages == manifest.pages),
            "leads to another number of pages than it says",
        )?;
        // As a restore does it: what grows further would be pages that nobody wrote.
        let most = u64::from(before) + frames + 1;
        expect(u64::from(manifest.pages) <= most, "grows by more pages than it holds")?;
        self.zeros(before, manifest.pages, &written)?;
        if let Some((number, pages)) = last {
            self.out.frame(number, &self.held, Some(pages))?;
        }
        self.pages = Some(manifest.pages);
        self.out.woven()
    }
}

impl Fine<'_> {
    /// Adds a frame for each page from behind `before` to `pages` that was not written.
    fn zeros(&mut self, before: u32, pages: u32, written: &HashSet<u32>) -> Result<(), RebuildError> {
        let size = self.out.seen.page_size;
        if before >= pages {
            return Ok(());
        }
        let zeros = vec![0; size as usize];
        for number in before + 1..=pages {
            if number != lock_page(size) && !written.contains(&number) {
                self.out.frame(number, &zeros, None)?;
            }
        }
        Ok(())
    }
}
