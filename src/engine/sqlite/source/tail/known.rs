//! What is known about the pages at the segment that was kept last: the map in use, and what changed since it was written.

use std::collections::HashMap;
use std::io::{self, Read};

use super::super::image::lock_page;
use super::super::page_map::{About, HashFile, Maps};
use super::super::reading::change_counter;
use super::super::spot::Spot;
use crate::backup::digest::PageHash;
use crate::backup::{Base, Digest, Manifest};
use crate::engine::sqlite::wal::WalReader;

/// Hashes that are kept in memory: some 5 MB. With more a map is written.
pub const MOST_HASHES: usize = 100_000;

/// A state, page by page.
#[derive(Debug)]
pub struct Known {
    maps: Maps,
    map: HashFile,
    /// What the map in use is of.
    written: About,
    /// Pages whose hash is not the map's any more, or that are not in it.
    newer: HashMap<u32, PageHash>,
    /// The state.
    pub about: About,
}

/// What leads from the known state to the next one.
#[derive(Debug)]
pub struct Step {
    /// The state that it leads to.
    pub about: About,
    hashes: Hashes,
}

#[derive(Debug)]
enum Hashes {
    /// Of the pages that changed.
    Few(Vec<(u32, PageHash)>),
    /// A map was written beside the one in use.
    Successor,
}

impl Known {
    /// The state of the map in use, which must be that of `about`.
    pub fn of(maps: &Maps, about: About) -> io::Result<Self> {
        let map = maps.hashes(&about)?;
        Ok(Self { maps: maps.clone(), map, written: about.clone(), newer: HashMap::new(), about })
    }

    /// The hash of page `number`, that of the lock page being none.
    pub fn hash(&mut self, number: u32) -> io::Result<PageHash> {
        if number == lock_page(self.about.page_size) {
            return Ok(PageHash::default());
        }
        if let Some(hash) = self.newer.get(&number) {
            return Ok(*hash);
        }
        self.map.hash(number)?.ok_or_else(|| io::Error::other(format!("the page map does not know page {number}")))
    }

    /// The digest without the pages that a database of `pages` does not have any more.
    pub fn shortened(&mut self, pages: u32) -> io::Result<Digest> {
        let mut digest = self.about.base.digest;
        for number in pages.saturating_add(1)..=self.about.pages {
            digest = digest.minus(self.hash(number)?);
        }
        Ok(digest)
    }

    /// Begins a step to a state of `pages`, of which `changed` will be other ones.
    pub fn step(&mut self, pages: u32, changed: usize) -> io::Result<Stepping<'_>> {
        let digest = self.shortened(pages)?;
        let successor = if changed > MOST_HASHES { Some(self.maps.successor()?) } else { None };
        Ok(Stepping { known: self, digest, pages, hashes: Vec::new(), next: 1, successor })
    }

    /// Takes a step.
    pub fn take(&mut self, step: Step) -> io::Result<()> {
        match step.hashes {
            Hashes::Few(hashes) => {
                self.newer.extend(hashes);
                self.newer.retain(|number, _| *number <= step.about.pages);
            }
            Hashes::Successor => {
                self.map = self.maps.succeed(&step.about)?;
                self.written = step.about.clone();
                self.newer.clear();
            }
        }
        self.about = step.about;
        if self.newer.len() > MOST_HASHES { self.settle() } else { Ok(()) }
    }

    /// Takes the step that a segment which was kept on this machine made.
    pub fn replay(&mut self, manifest: &Manifest, spot: Spot, plain: impl Read) -> Result<(), String> {
        let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", manifest.place());
        let about = &self.about;
        if manifest.from != Some(about.base.place.position)
            || manifest.timeline != about.base.place.timeline
            || manifest.digest_before != Some(about.base.digest)
            || manifest.page_size != about.page_size
        {
            return Err(failed(&format!("it does not begin where {} ended", about.base.place)));
        }
        let (mut pages, mut changes) = (HashMap::new(), about.changes);
        let mut log = WalReader::new(plain).map_err(|e| failed(&e))?;
        while let Some(frame) = log.next_frame().map_err(|e| failed(&e))? {
            if frame.number == 1 {
                changes = change_counter(frame.page);
            }
            pages.insert(frame.number, PageHash::of(frame.number, frame.page));
        }
        let mut pages: Vec<_> = pages.into_iter().filter(|(number, _)| *number <= manifest.pages).collect();
        pages.sort_unstable_by_key(|(number, _)| *number);
        let step = (|| {
            let mut stepping = self.step(manifest.pages, pages.len())?;
            pages.into_iter().try_for_each(|(number, hash)| stepping.page(number, hash))?;
            stepping.end(manifest.base(), changes, spot)
        })()
        .map_err(|e: io::Error| failed(&e))?;
        if step.about.base.digest != manifest.digest_after {
            return Err(failed(&"its pages do not lead to the digest that it names"));
        }
        self.take(step).map_err(|e| failed(&e))
    }

    /// Makes it durable: the map in use is of this state afterwards.
    pub fn settle(&mut self) -> io::Result<()> {
        if self.written == self.about {
            return Ok(());
        }
        let (mut map, mut digest) = (self.maps.successor()?, Digest::default());
        for number in 1..=self.about.pages {
            let hash = self.hash(number)?;
            digest = digest.plus(hash);
            map.push(hash)?;
        }
        if digest != self.about.base.digest {
            self.maps.discard()?;
            return Err(io::Error::other("its hashes do not add up to its digest, and it was thrown away"));
        }
        map.finish(&self.about)?;
        self.map = self.maps.succeed(&self.about)?;
        self.written = self.about.clone();
        self.newer = HashMap::new();
        Ok(())
    }
}

/// A step that is made page by page, in their order.
pub struct Stepping<'a> {
    known: &'a mut Known,
    digest: Digest,
    pages: u32,
    hashes: Vec<(u32, PageHash)>,
    /// The page that the successor wants next.
    next: u32,
    successor: Option<super::super::page_map::MapWriter>,
}

impl Stepping<'_> {
    /// Page `number` has another hash now.
    pub fn page(&mut self, number: u32, hash: PageHash) -> io::Result<()> {
        if number <= self.known.about.pages {
            self.digest = self.digest.minus(self.known.hash(number)?);
        }
        self.digest = self.digest.plus(hash);
        if self.successor.is_none() {
            self.hashes.push((number, hash));
            return Ok(());
        }
        self.fill(number)?;
        self.next = number + 1;
        self.successor.as_mut().map_or(Ok(()), |map| map.push(hash))
    }

    /// Gives the successor what stays as it is before page `end`.
    fn fill(&mut self, end: u32) -> io::Result<()> {
        for number in self.next..end {
            let hash = self.known.hash(number)?;
            if let Some(map) = &mut self.successor {
                map.push(hash)?;
            }
        }
        Ok(())
    }

    /// The state at `place`, whose digest is the one that came out.
    pub fn end(mut self, base: Base, changes: u32, spot: Spot) -> io::Result<Step> {
        let base = Base { digest: self.digest, ..base };
        let about = About { base, pages: self.pages, changes, spot, ..self.known.about.clone() };
        let Some(_) = self.successor else { return Ok(Step { about, hashes: Hashes::Few(self.hashes) }) };
        self.fill(self.pages + 1)?;
        if let Some(map) = self.successor {
            map.finish(&about)?;
        }
        Ok(Step { about, hashes: Hashes::Successor })
    }
}
