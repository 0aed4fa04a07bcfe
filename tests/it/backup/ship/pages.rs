//! A database that is a list of pages, and a source that ships it. What the source knows page by page survives its process, as the real one's map does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use atlas_sidecar::backup::digest::PageHash;
use atlas_sidecar::backup::{Adopted, Base, Digest, Look, Place, Segment, Soundness, Source, SourceError, Took, Want};
use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::object::ObjectError;
use atlas_sidecar::task::Pending;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::mpsc;

use crate::support::memory_store::Fault;

pub const PAGE: usize = 4096;

/// A database and what its source remembers.
pub struct Database {
    state: Mutex<State>,
    clock: Mutex<Clock>,
}

#[derive(Clone, Default)]
struct State {
    pages: Vec<Vec<u8>>,
    /// Every state that there was.
    history: Vec<Vec<Vec<u8>>>,
    adopted: Option<Base>,
    map: Vec<PageHash>,
    aside: BTreeMap<Place, Vec<PageHash>>,
    identity: String,
    damaged: bool,
    another: bool,
    empty: bool,
    fails: Option<SourceError>,
    reads: usize,
    observed: Option<Timestamp>,
}

impl Database {
    pub fn new(clock: &Clock) -> Arc<Self> {
        let database = Self { state: Mutex::default(), clock: Mutex::new(clock.clone()) };
        database.set(|state| state.identity = "1:2".to_owned());
        database.resize(20);
        Arc::new(database)
    }

    pub fn copied(&self, clock: &Clock) -> Arc<Self> {
        let state = self.state.lock().unwrap().clone();
        Arc::new(Self { state: Mutex::new(state), clock: Mutex::new(clock.clone()) })
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap();
        change(&mut state);
        let pages = state.pages.clone();
        if state.history.last() != Some(&pages) {
            state.history.push(pages);
        }
    }

    pub fn write(&self, page: usize, byte: u8) {
        self.write_all(page..page + 1, byte);
    }

    pub fn write_all(&self, pages: Range<usize>, byte: u8) {
        self.set(|state| state.pages[pages].iter_mut().for_each(|page| page.fill(byte)));
    }

    /// New pages are random: they stay large when they are packed. The first page tells how many there are, as SQLite's does.
    pub fn resize(&self, pages: usize) {
        self.set(|state| {
            while state.pages.len() < pages {
                let mut page = vec![0; PAGE];
                getrandom::fill(&mut page).unwrap();
                state.pages.push(page);
            }
            state.pages.truncate(pages);
            state.pages[0][..8].copy_from_slice(&pages.to_be_bytes());
        });
    }

    /// The file is replaced by another one.
    pub fn replace(&self) {
        self.set(|state| {
            (state.identity, state.another) = ("1:3".to_owned(), true);
            state.pages.iter_mut().for_each(|page| page[0] ^= 1);
        });
    }

    pub fn forget_map(&self) {
        self.set(|state| (state.adopted, state.aside) = (None, BTreeMap::new()));
    }

    pub fn empty(&self, empty: bool) {
        self.set(|state| state.empty = empty);
    }

    pub fn damage(&self, damaged: bool) {
        self.set(|state| state.damaged = damaged);
    }

    pub fn fail(&self, fails: Option<SourceError>) {
        self.set(|state| state.fails = fails);
    }

    pub fn reads(&self) -> usize {
        self.state.lock().unwrap().reads
    }

    pub fn pages(&self) -> Vec<Vec<u8>> {
        self.state.lock().unwrap().pages.clone()
    }

    /// What is known page by page, and survives the process.
    pub fn known(&self) -> (Option<Base>, Vec<PageHash>) {
        let state = self.state.lock().unwrap();
        (state.adopted, state.map.clone())
    }

    pub fn know(&self, base: Base, map: Vec<PageHash>) {
        let mut state = self.state.lock().unwrap();
        (state.adopted, state.map) = (Some(base), map);
    }

    /// Whether the file was replaced, which is told once.
    pub fn take_another(&self) -> bool {
        std::mem::take(&mut self.state.lock().unwrap().another)
    }

    pub fn now(&self) -> Timestamp {
        self.clock.lock().unwrap().now()
    }

    pub fn digest(&self) -> Digest {
        digest(&self.state.lock().unwrap().pages)
    }

    /// Whether the pages were its pages once, and have that digest.
    pub fn had(&self, expected: Digest, pages: &[Vec<u8>]) -> bool {
        expected == digest(pages) && self.state.lock().unwrap().history.iter().any(|then| then == pages)
    }
}

pub fn hashes(pages: &[Vec<u8>]) -> Vec<PageHash> {
    pages.iter().zip(1..).map(|(page, number)| PageHash::of(number, page)).collect()
}

pub fn digest(pages: &[Vec<u8>]) -> Digest {
    hashes(pages).into_iter().fold(Digest::default(), Digest::plus)
}

/// The pages of a full.
pub fn pages_of(plain: &[u8]) -> Vec<Vec<u8>> {
    plain.chunks(PAGE).map(<[u8]>::to_vec).collect()
}

/// Applies an increment: numbers (four bytes, from 1) and pages.
pub fn apply(pages: &mut Vec<Vec<u8>>, plain: &[u8], count: usize) {
    pages.resize(count, vec![0; PAGE]);
    for frame in plain.chunks(4 + PAGE) {
        let number = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
        pages[number - 1] = frame[4..].to_vec();
    }
}

/// Ships a [`Database`]; taking over a state is a side effect that may go wrong.
pub struct PageSource {
    pub database: Arc<Database>,
    pub fault: Arc<Fault>,
}

impl PageSource {
    fn take_over(&self, tip: &Base) -> Adopted {
        let mut state = self.database.state.lock().unwrap();
        if state.another {
            state.another = false;
            return Adopted::Another("the file was replaced".to_owned());
        }
        if let Some(map) = state.aside.remove(&tip.place) {
            (state.adopted, state.map) = (Some(*tip), map);
        }
        match state.adopted {
            Some(adopted) if adopted == *tip => Adopted::Known,
            _ => Adopted::Unknown("the map of pages is of another state".to_owned()),
        }
    }

    async fn send(&self, want: Want, place: Place, into: mpsc::Sender<Bytes>) -> Result<Segment, SourceError> {
        let state = {
            let mut state = self.database.state.lock().unwrap();
            state.reads += 1;
            let map = hashes(&state.pages);
            state.aside.insert(place, map);
            state.clone()
        };
        let clock = self.database.clock.lock().unwrap().clone();
        let now = hashes(&state.pages);
        let mut sent_pages = 0;
        for (index, page) in state.pages.iter().enumerate() {
            let mut piece = Vec::new();
            if want == Want::Changes {
                if state.map.get(index) == Some(&now[index]) {
                    continue;
                }
                piece.extend_from_slice(&u32::try_from(index + 1).unwrap().to_be_bytes());
            }
            sent_pages += 1;
            piece.extend_from_slice(page);
            into.send(piece.into()).await.map_err(|_| SourceError::Abandoned)?;
            if let Some(fails) = &state.fails
                && sent_pages == 3
            {
                return Err(fails.clone());
            }
        }
        let full = want == Want::Full;
        let soundness = if state.damaged { Soundness::Damaged("page 3 is torn".to_owned()) } else { Soundness::Sound };
        Ok(Segment {
            observed: state.observed.unwrap_or_else(|| clock.now()),
            digest_before: state.adopted.filter(|_| !full).map(|base| base.digest),
            digest_after: digest(&state.pages),
            page_size: u32::try_from(PAGE).unwrap(),
            pages: u32::try_from(state.pages.len()).unwrap(),
            sent_pages,
            engine_version: "0".to_owned(),
            tables: BTreeMap::new(),
            soundness: full.then_some(soundness),
            took: Took::default(),
        })
    }
}

impl Source for PageSource {
    fn engine(&self) -> &'static str {
        "pages"
    }

    fn database(&self) -> String {
        "pages.db".to_owned()
    }

    fn look(&self) -> Pending<'_, Result<Look, SourceError>> {
        async move {
            let state = self.database.state.lock().unwrap();
            let bytes = (state.pages.len() * PAGE) as u64;
            Ok(Look { identity: state.identity.clone(), bytes, empty: state.empty })
        }
        .boxed()
    }

    fn adopt<'a>(&'a self, tip: &'a Base) -> Pending<'a, Result<Adopted, SourceError>> {
        let taken_over = async move { Ok::<_, ObjectError>(self.take_over(tip)) };
        let passed = self.fault.pass(format!("adopt {}", tip.place), taken_over);
        async move { passed.await.map_err(|e| SourceError::Busy(e.to_string())) }.boxed()
    }

    fn read(&self, want: Want, place: Place, into: mpsc::Sender<Bytes>) -> Pending<'_, Result<Segment, SourceError>> {
        self.send(want, place, into).boxed()
    }
}
