//! A source of pages whose commits can be followed: what was captured lives in the process, what was settled survives it.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use atlas_sidecar::backup::digest::PageHash;
use atlas_sidecar::backup::tail::{Begun, Cut, Kept, Tended};
use atlas_sidecar::backup::{Adopted, Base, Digest, Look, Place, Segment, Source, SourceError, Tail, Took, Want};
use atlas_sidecar::task::Pending;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::mpsc;

use crate::backup::ship::pages::{Database, PAGE, PageSource, digest, hashes, pages_of};

/// What the process holds.
struct Held {
    base: Base,
    map: Vec<PageHash>,
    cut: Option<(Place, Vec<PageHash>)>,
    fixed: Option<Vec<Vec<u8>>>,
    /// Until it is adopted: where the difference leads to.
    gap: bool,
}

/// What a test does to the database's log.
#[derive(Default)]
pub struct Log {
    /// It has begun anew: the next beginning finds a gap.
    pub lost: AtomicBool,
    /// The full that is read is not what the tail has seen.
    pub lies: AtomicBool,
    pub unsupported: AtomicBool,
    pub released: AtomicUsize,
    pub begun: AtomicUsize,
}

pub struct Tape {
    pub inner: PageSource,
    pub log: Arc<Log>,
    held: Mutex<Option<Held>>,
}

impl Tape {
    pub fn new(inner: PageSource, log: &Arc<Log>) -> Self {
        Self { inner, log: Arc::clone(log), held: Mutex::default() }
    }

    fn database(&self) -> &Database {
        &self.inner.database
    }

    fn find(&self, tip: &Base, kept: &dyn Kept) -> Option<Vec<PageHash>> {
        let (base, mut map) = self.database().known();
        let base = base.filter(|base| base.place.timeline == tip.place.timeline)?;
        let mut at = base.digest;
        if base.place != tip.place {
            for (manifest, resume) in kept.behind(base.place).unwrap() {
                assert_eq!(resume, format!("after {}", manifest.place()));
                assert_eq!(manifest.digest_before, Some(at));
                let mut plain = Vec::new();
                kept.plain(manifest.place()).unwrap().read_to_end(&mut plain).unwrap();
                for frame in plain.chunks(4 + PAGE) {
                    let number = u32::from_be_bytes(frame[..4].try_into().unwrap());
                    let blank = || PageHash::of(u32::MAX, &[]);
                    map.resize_with(map.len().max(number as usize), blank);
                    map[number as usize - 1] = PageHash::of(number, &frame[4..]);
                }
                map.truncate(manifest.pages as usize);
                at = manifest.digest_after;
                if manifest.place() == tip.place {
                    break;
                }
            }
        }
        let found = map.iter().copied().fold(Digest::default(), Digest::plus);
        (found == tip.digest && at == tip.digest).then_some(map)
    }

    fn start(&self, tip: &Base, kept: &dyn Kept) -> Result<Begun, SourceError> {
        self.log.begun.fetch_add(1, Ordering::SeqCst);
        *self.held.lock().unwrap() = None;
        if self.log.unsupported.load(Ordering::SeqCst) {
            return Err(SourceError::Unsupported("it has a rollback journal".to_owned()));
        }
        if self.database().take_another() {
            return Ok(Begun::Another("the file was replaced".to_owned()));
        }
        let Some(map) = self.find(tip, kept) else { return Ok(Begun::Unknown("no map".to_owned())) };
        let gap = self.log.lost.swap(false, Ordering::SeqCst);
        if gap {
            self.database().know(*tip, map.clone());
        }
        *self.held.lock().unwrap() = Some(Held { base: *tip, map, cut: None, fixed: None, gap });
        Ok(if gap { Begun::Gap("its log has begun anew".to_owned()) } else { Begun::Going })
    }

    async fn cut_to(&self, place: Place, into: mpsc::Sender<Bytes>, fix: bool) -> Result<Option<Cut>, SourceError> {
        let pages = self.database().pages();
        let (frames, segment) = {
            let mut held = self.held.lock().unwrap();
            let held = held.as_mut().expect("nothing is cut of a database that is not held");
            assert!(!held.gap, "cut before the difference was adopted");
            assert!(held.base.place < place, "{place} behind {}", held.base.place);
            let now = hashes(&pages);
            let changed = |index: &usize| held.map.get(*index) != Some(&now[*index]);
            let mut numbers: Vec<usize> = (0..pages.len()).filter(changed).collect();
            if fix {
                held.fixed = Some(pages.clone());
                if numbers.is_empty() {
                    numbers.push(0);
                }
            }
            if numbers.is_empty() && held.map.len() == pages.len() {
                return Ok(None);
            }
            let segment = Segment {
                observed: self.database().now(),
                digest_before: Some(held.base.digest),
                digest_after: digest(&pages),
                page_size: u32::try_from(PAGE).unwrap(),
                pages: u32::try_from(pages.len()).unwrap(),
                sent_pages: u32::try_from(numbers.len()).unwrap(),
                engine_version: "0".to_owned(),
                tables: Default::default(),
                soundness: None,
                took: Took::default(),
            };
            held.cut = Some((place, now));
            let frame = |index: usize| {
                let mut frame = u32::try_from(index + 1).unwrap().to_be_bytes().to_vec();
                frame.extend_from_slice(&pages[index]);
                Bytes::from(frame)
            };
            (numbers.into_iter().map(frame).collect::<Vec<_>>(), segment)
        };
        for frame in frames {
            into.send(frame).await.map_err(|_| SourceError::Abandoned)?;
        }
        Ok(Some(Cut { segment, resume: format!("after {place}") }))
    }
}

impl Source for Tape {
    fn engine(&self) -> &'static str {
        "pages"
    }

    fn database(&self) -> String {
        self.inner.database()
    }

    fn look(&self) -> Pending<'_, Result<Look, SourceError>> {
        self.inner.look()
    }

    fn adopt<'a>(&'a self, tip: &'a Base) -> Pending<'a, Result<Adopted, SourceError>> {
        async move {
            let adopted = self.inner.adopt(tip).await?;
            if let Some(held) = self.held.lock().unwrap().as_mut()
                && adopted == Adopted::Known
            {
                (held.base, held.map, held.gap) = (*tip, self.database().known().1, false);
            }
            Ok(adopted)
        }
        .boxed()
    }

    fn read(&self, want: Want, place: Place, into: mpsc::Sender<Bytes>) -> Pending<'_, Result<Segment, SourceError>> {
        let fixed = self.held.lock().unwrap().as_mut().and_then(|held| held.fixed.take());
        let Some(pages) = fixed.filter(|_| want == Want::Full) else { return self.inner.read(want, place, into) };
        async move {
            let mut sent = pages.clone();
            if self.log.lies.swap(false, Ordering::SeqCst) {
                sent[3][7] ^= 1;
            }
            for page in &sent {
                into.send(Bytes::from(page.clone())).await.map_err(|_| SourceError::Abandoned)?;
            }
            let count = u32::try_from(sent.len()).unwrap();
            Ok(Segment {
                observed: self.database().now(),
                digest_before: None,
                digest_after: digest(&sent),
                page_size: u32::try_from(PAGE).unwrap(),
                pages: count,
                sent_pages: count,
                engine_version: "0".to_owned(),
                tables: Default::default(),
                soundness: Some(atlas_sidecar::backup::Soundness::Sound),
                took: Took::default(),
            })
        }
        .boxed()
    }

    fn tail(&self) -> Option<&dyn Tail> {
        Some(self)
    }
}

impl Tail for Tape {
    fn begin<'a>(&'a self, tip: &'a Base, kept: Arc<dyn Kept>) -> Pending<'a, Result<Begun, SourceError>> {
        async move { self.start(tip, kept.as_ref()) }.boxed()
    }

    fn cut(&self, place: Place, into: mpsc::Sender<Bytes>) -> Pending<'_, Result<Option<Cut>, SourceError>> {
        self.cut_to(place, into, false).boxed()
    }

    fn keep(&self, place: Place) -> Pending<'_, Result<(), SourceError>> {
        async move {
            let mut held = self.held.lock().unwrap();
            let held = held.as_mut().expect("held");
            let (cut, map) = held.cut.take().expect("what is kept was cut");
            assert_eq!(cut, place);
            let digest = map.iter().copied().fold(Digest::default(), Digest::plus);
            (held.base, held.map) = (Base { place, digest }, map);
            Ok(())
        }
        .boxed()
    }

    fn fix(&self, place: Place, into: mpsc::Sender<Bytes>) -> Pending<'_, Result<Cut, SourceError>> {
        async move { Ok(self.cut_to(place, into, true).await?.expect("a fixed cut is never empty")) }.boxed()
    }

    fn settle(&self) -> Pending<'_, Result<(), SourceError>> {
        async move {
            if let Some(held) = self.held.lock().unwrap().as_ref() {
                self.database().know(held.base, held.map.clone());
            }
            Ok(())
        }
        .boxed()
    }

    fn tend(&self) -> Pending<'_, Result<Tended, SourceError>> {
        async { Ok(Tended::default()) }.boxed()
    }

    fn release(&self) -> Pending<'_, ()> {
        async move {
            self.log.released.fetch_add(1, Ordering::SeqCst);
            *self.held.lock().unwrap() = None;
        }
        .boxed()
    }
}

/// Applies a live segment.
pub fn apply(pages: &mut Vec<Vec<u8>>, plain: &[u8], count: usize) {
    crate::backup::ship::pages::apply(pages, plain, count);
}

/// The pages of a full.
pub fn whole(plain: &[u8]) -> Vec<Vec<u8>> {
    pages_of(plain)
}
