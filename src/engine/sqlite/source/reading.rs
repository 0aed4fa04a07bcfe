//! Reading the pages of a state: what is sent, and what is put aside about them. All of it blocks.

use std::io::Write;

use super::identity::Identity;
use super::image::{self, lock_page};
use super::outlet::{Outlet, source_error};
use super::overlay::Overlay;
use super::page_map::{About, MapReader, MapWriter, Maps};
use super::snapshot::State;
use super::spot::Spot;
use crate::backup::digest::PageHash;
use crate::backup::{Base, Digest, Place, SourceError};
use crate::engine::sqlite::wal::WalWriter;

/// From one look at the log to the next.
const PAGES_PER_LOOK: u32 = 256;

/// What is to be read.
pub struct Reading {
    /// Of which state.
    pub state: State,
    /// Of which file.
    pub identity: Identity,
    /// What the increment begins at; nothing for a full.
    pub base: Option<About>,
    /// Where it leads to.
    pub place: Place,
    /// Where the map of it is written; nowhere, where what follows the commits has one.
    pub maps: Option<Maps>,
}

/// What was read.
pub struct Done {
    /// The state.
    pub about: About,
    /// Pages that were sent.
    pub sent_pages: u32,
    /// The SQLite that wrote page 1 last, as `sqlite_version_number`.
    pub written_by: u32,
}

impl Reading {
    /// Reads all pages and sends those that are wanted.
    pub fn run(self, outlet: Outlet) -> Result<Done, SourceError> {
        let overlay = self.state.overlay()?;
        let map = self.maps.as_ref().map(Maps::draft_map).transpose().map_err(source_error)?;
        match (self.base.clone(), self.maps.clone()) {
            (Some(base), Some(maps)) => self.changes(&overlay, map, outlet, &base, &maps),
            _ => self.full(&overlay, map, outlet),
        }
    }

    fn full(self, overlay: &Overlay, map: Option<MapWriter>, mut outlet: Outlet) -> Result<Done, SourceError> {
        let mut seen = Seen::new(map, self.state.page_size);
        image::pages(&self.state, overlay, |number, page| {
            seen.page(number, page)?;
            outlet.write_all(page).map_err(source_error)
        })?;
        outlet.send()?;
        seen.done(&self, self.state.pages)
    }

    fn changes(
        self,
        overlay: &Overlay,
        map: Option<MapWriter>,
        outlet: Outlet,
        base: &About,
        maps: &Maps,
    ) -> Result<Done, SourceError> {
        let mut seen = Seen::new(map, self.state.page_size);
        let mut before = maps.open(base).map_err(source_error)?;
        let watch = outlet.watch();
        let mut log = Log::new(outlet, self.state.page_size, self.place, base.base.digest);
        let mut first = Vec::new();
        image::pages(&self.state, overlay, |number, page| {
            if number % PAGES_PER_LOOK == 0 {
                watch.may_go_on()?;
            }
            if number == 1 {
                first = page.to_vec();
            }
            let hash = seen.page(number, page)?;
            let known = before.next_hash().map_err(source_error)?;
            if known == Some(hash) || number == lock_page(self.state.page_size) {
                return Ok(());
            }
            log.page(number, page)
        })?;
        require_whole(before, base, maps)?;
        // A log that only makes the database shorter has a frame all the same: it is what carries the length.
        if log.held.is_none() && self.state.pages != base.pages {
            log.page(1, &first)?;
        }
        let sent = log.end(self.state.pages)?;
        seen.done(&self, sent)
    }
}

/// The map is read to its end, and its sum must be the digest that it names: a hash that was damaged on the disk would leave a page out.
fn require_whole(map: MapReader, base: &About, maps: &Maps) -> Result<(), SourceError> {
    if map.digest().map_err(source_error)? == base.base.digest {
        return Ok(());
    }
    maps.discard().map_err(source_error)?;
    Err(SourceError::Broken(
        "the page map in the state directory is damaged and was thrown away: the next segment must be a full"
            .to_owned(),
    ))
}

/// What is learnt on the way.
struct Seen {
    map: Option<MapWriter>,
    lock_page: u32,
    digest: Digest,
    changes: u32,
    written_by: u32,
}

impl Seen {
    fn new(map: Option<MapWriter>, page_size: u32) -> Self {
        Self { map, lock_page: lock_page(page_size), digest: Digest::default(), changes: 0, written_by: 0 }
    }

    /// Takes a page, and gives what it adds to the digest: nothing, where it is the lock page.
    fn page(&mut self, number: u32, page: &[u8]) -> Result<PageHash, SourceError> {
        if number == 1 {
            self.changes = change_counter(page);
            self.written_by = written_by(page);
        }
        let hash = if number == self.lock_page { PageHash::default() } else { PageHash::of(number, page) };
        self.digest = self.digest.plus(hash);
        if let Some(map) = &mut self.map {
            map.push(hash).map_err(source_error)?;
        }
        Ok(hash)
    }

    fn done(self, reading: &Reading, sent_pages: u32) -> Result<Done, SourceError> {
        let about = About {
            base: Base { place: reading.place, digest: self.digest },
            page_size: reading.state.page_size,
            pages: reading.state.pages,
            changes: self.changes,
            identity: reading.identity,
            spot: reading.state.commit.as_ref().map(Spot::of).unwrap_or_default(),
        };
        if let Some(map) = self.map {
            map.finish(&about).map_err(source_error)?;
        }
        Ok(Done { about, sent_pages, written_by: self.written_by })
    }
}

/// The counter in a first page that grows when a transaction writes that page. In WAL mode that is not every one.
pub fn change_counter(page: &[u8]) -> u32 {
    u32::from_be_bytes([page[24], page[25], page[26], page[27]])
}

/// The SQLite that wrote a first page last, as `sqlite_version_number`.
pub fn written_by(page: &[u8]) -> u32 {
    u32::from_be_bytes([page[96], page[97], page[98], page[99]])
}

/// The write-ahead log of an increment, which begins with its first page: of nothing, nothing is sent.
pub struct Log {
    outlet: Option<Outlet>,
    writer: Option<WalWriter<Outlet>>,
    page_size: u32,
    sequence: u32,
    salts: [u32; 2],
    /// The last page so far. Only the last one of all carries the commit.
    held: Option<(u32, Vec<u8>)>,
    sent: u32,
}

impl Log {
    /// One that leads from the state of digest `before` to `place`.
    pub fn new(outlet: Outlet, page_size: u32, place: Place, before: Digest) -> Self {
        // The salts say to whoever looks at the file which state it belongs on.
        let high = before.high();
        Self {
            outlet: Some(outlet),
            writer: None,
            page_size,
            sequence: place.position.0 as u32,
            salts: [(high >> 32) as u32, high as u32],
            held: None,
            sent: 0,
        }
    }

    /// Adds a page.
    pub fn page(&mut self, number: u32, page: &[u8]) -> Result<(), SourceError> {
        let mut next = Vec::new();
        if let Some((held, bytes)) = self.held.take() {
            self.frame(held, &bytes, None)?;
            next = bytes;
        }
        next.clear();
        next.extend_from_slice(page);
        self.held = Some((number, next));
        Ok(())
    }

    fn frame(&mut self, number: u32, page: &[u8], commit: Option<u32>) -> Result<(), SourceError> {
        if let Some(outlet) = self.outlet.take() {
            let writer = WalWriter::new(outlet, self.page_size, self.sequence, self.salts).map_err(source_error)?;
            self.writer = Some(writer);
        }
        self.sent += 1;
        match &mut self.writer {
            Some(writer) => writer.frame(number, page, commit).map_err(source_error),
            None => Err(SourceError::Abandoned),
        }
    }

    /// Ends it with a commit of `pages` pages, and gives how many were sent.
    pub fn end(mut self, pages: u32) -> Result<u32, SourceError> {
        if let Some((number, page)) = self.held.take() {
            self.frame(number, &page, Some(pages))?;
        }
        if let Some(writer) = self.writer {
            writer.finish().map_err(source_error)?;
        }
        Ok(self.sent)
    }
}
