//! Makes a SQLite database of segments, without SQLite: a full is the file, an increment's pages are laid over it.
//!
//! What comes out is to the byte what `gunzip` and `PRAGMA wal_checkpoint` make of the same objects; the tests compare the two. That decides the corner cases:
//! pages of a log behind the database's end are left out, a page that nothing was written to is zeros, the size after a segment is that of the log's last commit.
//!
//! The digest is kept up page by page, before what is written: the page that goes is read and taken out of the sum, the one that comes is added. So each
//! segment proves itself and everything before it, and costs what it changes. A full is hashed and written by a thread of its own, while the caller's
//! unpacks what comes next.
//!
//! A log may hold many transactions, the same pages again and again: what was folded of an hour's live segments has some thousand. Pages are therefore held back, up to a bound,
//! and only their newest versions are written, in the order of the file. Where a transaction makes the database smaller, what lies behind the new end is gone for good: if
//! a later one makes it larger again, pages that it does not write are zeros, as they are when the segments come one by one.
//!
//! SQLite's own order of trust (a log that does not fit is empty) has no place here: whatever is not as the manifest says is an error, and after an
//! error there is no database any more that a segment could be laid over. The file stays with the caller, who chose its name.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::wal::{WalError, WalReader, is_page_size, lock_page, read_up_to};
use crate::backup::digest::PageHash;
use crate::backup::{Building, Digest, Kind, Manifest, Place, Rebuild, RebuildError};

/// What manifests call this engine.
pub const ENGINE: &str = "sqlite";

/// How much is read, hashed and written at a time: a multiple of every page size.
const PIECE_BYTES: usize = 1 << 20;

/// How many pieces of a full wait to be written: enough that neither side waits for the other's slow moments.
const PIECES_WAITING: usize = 4;

/// How many bytes of pages are held back: more than what an hour of a database of metrics changes, and little beside what a restore needs anyway.
const HELD_BYTES: usize = 32 << 20;

/// What the file of every SQLite database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Rebuilds SQLite databases.
#[derive(Debug)]
pub struct Sqlite;

impl Rebuild for Sqlite {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn begin(&self, into: &Path) -> io::Result<Box<dyn Building>> {
        // Nobody else's to read: who restores decides whose it becomes.
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(into)?;
        Ok(Box::new(Rebuilding { file, database: None }))
    }
}

/// A database that is being rebuilt.
#[derive(Debug)]
struct Rebuilding {
    file: File,
    /// Nothing before the full, and nothing after an error.
    database: Option<Database>,
}

/// What is in the file.
#[derive(Clone, Copy, Debug)]
struct Database {
    /// Which state.
    place: Place,
    page_size: u32,
    pages: u32,
    /// Of exactly these pages.
    digest: Digest,
}

impl Building for Rebuilding {
    fn full(&mut self, manifest: &Manifest, plain: &mut dyn Read) -> Result<(), RebuildError> {
        let named = Named(manifest);
        named.expect(manifest.engine == ENGINE && manifest.kind == Kind::Full, "is no full of a SQLite database")?;
        named
            .expect(is_page_size(manifest.page_size) && manifest.pages > 0, "has pages that no SQLite database has")?;
        let begun = self.database.is_some() || self.file.metadata()?.len() > 0;
        named.expect(!begun, "is a full, and there are segments already")?;
        let digest = lay_down(&self.file, named, plain)?;
        self.database = Some(named.reached(digest)?);
        Ok(())
    }

    fn changes(&mut self, manifest: &Manifest, plain: &mut dyn Read) -> Result<(), RebuildError> {
        let named = Named(manifest);
        let Some(mut database) = self.database.take() else {
            return Err(named.damaged("is an increment, and there is no database that it could be laid over"));
        };
        named.follows(&database)?;
        if manifest.object.is_some() {
            Merge { file: &self.file, named, database: &mut database, held: Held::default(), run: Run::default() }
                .log(plain)?;
        } else {
            named.expect(read_up_to(plain, &mut [0])? == 0, "has no object, and bytes")?;
            named.expect(manifest.pages == database.pages, "changes the size without an object")?;
        }
        self.database = Some(named.reached(database.digest)?);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), RebuildError> {
        if self.database.is_none() {
            return Err(RebuildError::Damaged("there is no database: no full, or an error behind it".to_owned()));
        }
        Ok(self.file.sync_all()?)
    }
}

/// A manifest, and errors that name it.
#[derive(Clone, Copy)]
struct Named<'a>(&'a Manifest);

impl Named<'_> {
    fn damaged(self, what: impl std::fmt::Display) -> RebuildError {
        RebuildError::Damaged(format!("{} {what}", self.0.place()))
    }

    fn expect(self, holds: bool, otherwise: &str) -> Result<(), RebuildError> {
        if holds { Ok(()) } else { Err(self.damaged(otherwise)) }
    }

    /// Whether it is the segment that goes on from `database`.
    fn follows(self, database: &Database) -> Result<(), RebuildError> {
        let manifest = self.0;
        self.expect(manifest.engine == ENGINE && manifest.kind != Kind::Full, "is no increment of a SQLite database")?;
        let from = manifest.from.map(|position| Place { position, ..manifest.place() });
        // A page that it lacks did not change since `from`, so that it may be laid over any state from there to before its end.
        if from.is_none_or(|from| from.timeline != database.place.timeline || from > database.place)
            || manifest.place() <= database.place
        {
            return Err(self.damaged(format_args!("does not go on from {}, which comes before it", database.place)));
        }
        if manifest.page_size != database.page_size {
            let had = database.page_size;
            return Err(self.damaged(format_args!("has pages of {} bytes, not {had}", manifest.page_size)));
        }
        match manifest.digest_before {
            Some(before) if before == database.digest || from != Some(database.place) => Ok(()),
            before => {
                let before = before.map_or_else(|| "none".to_owned(), |before| before.to_string());
                Err(self
                    .damaged(format_args!("begins at the digest {before}, {} has {}", database.place, database.digest)))
            }
        }
    }

    /// What there is behind it, if that is what there should be.
    fn reached(self, digest: Digest) -> Result<Database, RebuildError> {
        let manifest = self.0;
        if digest != manifest.digest_after {
            let expected = manifest.digest_after;
            return Err(self.damaged(format_args!("leads to the digest {digest}, its manifest says {expected}")));
        }
        let (page_size, pages) = (manifest.page_size, manifest.pages);
        Ok(Database { place: manifest.place(), page_size, pages, digest })
    }
}

/// Writes a full into an empty file and gives its digest.
fn lay_down(file: &File, named: Named<'_>, plain: &mut dyn Read) -> Result<Digest, RebuildError> {
    let manifest = named.0;
    let expected = u64::from(manifest.pages) * u64::from(manifest.page_size);
    let wrong = |came: &str| named.damaged(format_args!("has {came} than its {expected} bytes"));
    let (full, pieces) = sync_channel::<Vec<u8>>(PIECES_WAITING);
    // Pieces come back to be filled again.
    let (back, empty) = sync_channel::<Vec<u8>>(PIECES_WAITING + 2);
    thread::scope(|scope| {
        let write = move || {
            let mut laid = LaidDown { file, page_size: manifest.page_size, next: 1, digest: Digest::default() };
            laid.all(&pieces, |piece| {
                // Nobody waits for it after the last one.
                let _ = back.try_send(piece);
            })?;
            Ok::<_, io::Error>(laid.digest)
        };
        let writing = thread::Builder::new().name("rebuild".to_owned()).spawn_scoped(scope, write)?;
        let mut left = expected;
        let read = loop {
            let mut piece = empty.try_recv().unwrap_or_default();
            piece.resize(PIECE_BYTES, 0);
            let came = match read_up_to(plain, &mut piece) {
                Ok(0) if left == 0 => break Ok(()),
                Ok(0) => break Err(wrong("less")),
                Ok(came) if came as u64 > left => break Err(wrong("more")),
                Ok(came) if came < PIECE_BYTES && (came as u64) < left => break Err(wrong("less")),
                Ok(came) => came,
                Err(e) => break Err(e.into()),
            };
            if left == expected && !begins_a_database(&piece, manifest.page_size) {
                break Err(
                    named.damaged(format_args!("is no SQLite database with pages of {} bytes", manifest.page_size))
                );
            }
            left -= came as u64;
            piece.truncate(came);
            if full.send(piece).is_err() {
                // The writer ended, and says why.
                break Ok(());
            }
        };
        drop(full);
        let written = writing.join().unwrap_or_else(|_| Err(io::Error::other("the writer of a full panicked")));
        read.and(written.map_err(RebuildError::from))
    })
}

/// Whether `bytes` are the beginning of a database with pages of that size.
fn begins_a_database(bytes: &[u8], page_size: u32) -> bool {
    // Two bytes are one too few for the largest size, which stands there as 1.
    let stored = match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65_536,
        size => u32::from(size),
    };
    bytes.starts_with(MAGIC) && stored == page_size
}

/// A full that is being written.
struct LaidDown<'a> {
    file: &'a File,
    page_size: u32,
    next: u32,
    digest: Digest,
}

impl LaidDown<'_> {
    fn all(&mut self, pieces: &Receiver<Vec<u8>>, done: impl Fn(Vec<u8>)) -> io::Result<()> {
        for piece in pieces {
            for page in piece.chunks_exact(self.page_size as usize) {
                if self.next != lock_page(self.page_size) {
                    self.digest = self.digest.plus(PageHash::of(self.next, page));
                }
                // The last page of the largest database has no number behind it.
                self.next = self.next.wrapping_add(1);
            }
            (&mut &*self.file).write_all(&piece)?;
            done(piece);
        }
        Ok(())
    }
}

/// Pages that follow one another and are written together.
#[derive(Debug, Default)]
struct Run {
    first: u32,
    bytes: Vec<u8>,
    /// What there was, kept to be filled again.
    old: Vec<u8>,
}

/// The newest versions of pages that wait to be written.
#[derive(Debug, Default)]
struct Held {
    /// Pages, one after another, in the order in which they came first.
    bytes: Vec<u8>,
    /// Which of them each page is.
    slots: BTreeMap<u32, usize>,
    /// Those that nobody needs any more.
    free: Vec<usize>,
}

impl Held {
    fn put(&mut self, number: u32, page: &[u8]) {
        let slots = self.bytes.len() / page.len();
        let slot = *self.slots.entry(number).or_insert_with(|| self.free.pop().unwrap_or(slots));
        match slot == slots {
            true => self.bytes.extend_from_slice(page),
            false => self.bytes[slot * page.len()..][..page.len()].copy_from_slice(page),
        }
    }

    /// Forgets what lies behind page `last`.
    fn cut(&mut self, last: u32) {
        if let Some(first) = last.checked_add(1) {
            self.free.extend(self.slots.split_off(&first).into_values());
        }
    }
}

/// A log on its way into the database.
struct Merge<'a> {
    file: &'a File,
    named: Named<'a>,
    database: &'a mut Database,
    held: Held,
    run: Run,
}

impl Merge<'_> {
    /// Lays all pages of the log over the database.
    fn log(mut self, plain: &mut dyn Read) -> Result<(), RebuildError> {
        let named = self.named;
        let wal = |e| match e {
            WalError::Io(e) => RebuildError::Io(e),
            WalError::Damaged(what) => named.damaged(format_args!("is damaged: {what}")),
        };
        let manifest = named.0;
        // One page more: the lock page, which no log has. What grows further would be pages that nobody wrote.
        let most = self.database.pages.saturating_add(manifest.sent_pages).saturating_add(1);
        named.expect(manifest.pages <= most, "grows by more pages than it holds")?;
        let mut log = WalReader::new(plain).map_err(wal)?;
        named.expect(log.header().page_size == manifest.page_size, "is a log with pages of another size")?;
        let mut pages = None;
        while let Some(frame) = log.next_frame().map_err(wal)? {
            named.expect(frame.number != lock_page(manifest.page_size), "writes the lock page")?;
            // As SQLite does it: what lies behind the end was cut off later in the same log.
            if frame.number <= most {
                if self.held.bytes.len() >= HELD_BYTES && !self.held.slots.contains_key(&frame.number) {
                    self.write_held()?;
                }
                self.held.put(frame.number, frame.page);
            }
            if let Some(end) = frame.commit {
                pages = Some(end);
                self.held.cut(end);
                self.shrink(end)?;
            }
        }
        self.write_held()?;
        named.expect(pages == Some(manifest.pages), "leads to another number of pages than its manifest says")?;
        if log.frames() != u64::from(manifest.sent_pages) {
            let said = manifest.sent_pages;
            return Err(named.damaged(format_args!("has {} pages, its manifest says {said}", log.frames())));
        }
        self.grow(manifest.pages);
        Ok(self.file.set_len(u64::from(manifest.pages) * u64::from(manifest.page_size))?)
    }

    /// Writes what waits, in the order of the file.
    fn write_held(&mut self) -> Result<(), RebuildError> {
        let size = self.database.page_size as usize;
        let held = std::mem::take(&mut self.held);
        for (number, slot) in &held.slots {
            self.put(*number, &held.bytes[slot * size..][..size])?;
        }
        self.write_run()?;
        // Its memory is used again.
        let mut bytes = held.bytes;
        bytes.clear();
        self.held.bytes = bytes;
        Ok(())
    }

    /// Adds a page to the run, which is written first where the page does not go on from it.
    fn put(&mut self, number: u32, page: &[u8]) -> Result<(), RebuildError> {
        // At most a piece of pages.
        let held = (self.run.bytes.len() / page.len()) as u32;
        if held == 0 || self.run.first.checked_add(held) != Some(number) || self.run.bytes.len() >= PIECE_BYTES {
            self.write_run()?;
            self.run.first = number;
        }
        self.run.bytes.extend_from_slice(page);
        Ok(())
    }

    fn write_run(&mut self) -> Result<(), RebuildError> {
        if self.run.bytes.is_empty() {
            return Ok(());
        }
        let size = self.database.page_size as usize;
        let first = self.run.first;
        self.grow(first - 1);
        self.take_out(first, self.run.bytes.len() / size)?;
        for (number, page) in (first..=u32::MAX).zip(self.run.bytes.chunks_exact(size)) {
            self.database.digest = self.database.digest.plus(PageHash::of(number, page));
            self.database.pages = self.database.pages.max(number);
        }
        self.file.write_all_at(&self.run.bytes, offset(first, size))?;
        self.run.bytes.clear();
        Ok(())
    }

    /// Takes out of the digest those of `count` pages from `first` on that there are.
    fn take_out(&mut self, first: u32, count: usize) -> io::Result<()> {
        let (size, database) = (self.database.page_size as usize, &mut *self.database);
        let there = (database.pages as usize + 1).saturating_sub(first as usize).min(count);
        self.run.old.resize(there * size, 0);
        self.file.read_exact_at(&mut self.run.old, offset(first, size))?;
        for (number, page) in (first..=u32::MAX).zip(self.run.old.chunks_exact(size)) {
            if number != lock_page(database.page_size) {
                database.digest = database.digest.minus(PageHash::of(number, page));
            }
        }
        Ok(())
    }

    /// Counts pages up to number `last` that nobody wrote: zeros, once something is written behind them or the file is made longer.
    fn grow(&mut self, last: u32) {
        if self.database.pages >= last {
            return;
        }
        let zeros = vec![0; self.database.page_size as usize];
        while self.database.pages < last {
            self.database.pages += 1;
            if self.database.pages != lock_page(self.database.page_size) {
                self.database.digest = self.database.digest.plus(PageHash::of(self.database.pages, &zeros));
            }
        }
    }

    /// Takes what lies behind page `pages` away.
    fn shrink(&mut self, pages: u32) -> Result<(), RebuildError> {
        let size = self.database.page_size as usize;
        let most = PIECE_BYTES / size;
        let mut gone = self.database.pages.saturating_sub(pages) as usize;
        if gone == 0 {
            return Ok(());
        }
        while gone > 0 {
            let count = gone.min(most);
            // From the end, so that no number is counted behind the last one.
            let first = self.database.pages - (count as u32 - 1);
            self.take_out(first, count)?;
            self.database.pages -= count as u32;
            gone -= count;
        }
        // If it grows again, there are zeros.
        Ok(self.file.set_len(u64::from(pages) * size as u64)?)
    }
}

/// Where page `number` begins.
fn offset(number: u32, page_size: usize) -> u64 {
    u64::from(number - 1) * page_size as u64
}

#[cfg(test)]
mod tests;
