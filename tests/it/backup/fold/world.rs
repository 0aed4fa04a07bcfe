//! A database of pages that is changed, grown and cut off, and a bucket with its full, its live segments and its gaps.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atlas_sidecar::backup::catalog::Catalog;
use atlas_sidecar::backup::codec::{self, Form, Identity, Label};
use atlas_sidecar::backup::digest::PageHash;
use atlas_sidecar::backup::fold::{Fold, FoldError, Folded, Swept};
use atlas_sidecar::backup::index::Line;
use atlas_sidecar::backup::layout::{live_key, manifest_key, object_key};
use atlas_sidecar::backup::manifest::{Content, Object, Sum};
use atlas_sidecar::backup::tail::Kept;
use atlas_sidecar::backup::{Digest, Kind, Manifest, Place, Position, RebuildError, Soundness, Timeline};
use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::engine;
use atlas_sidecar::engine::sqlite::wal::WalWriter;
use atlas_sidecar::object::{ObjectKey, ObjectStore};
use atlas_sidecar::schedule::JobContext;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::support::memory_store::MemoryStore;

pub const PAGE: usize = 512;

/// A state: its pages one after another.
pub type Image = Vec<u8>;

/// Plain segments that this machine keeps.
#[derive(Default)]
pub struct Copies(pub Mutex<BTreeMap<Place, Vec<u8>>>);

impl Kept for Copies {
    fn behind(&self, _: Place) -> io::Result<Vec<(Manifest, String)>> {
        Ok(Vec::new())
    }

    fn plain(&self, place: Place) -> io::Result<Box<dyn Read + Send>> {
        let plain = self.0.lock().unwrap().get(&place).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(plain)))
    }
}

pub struct World {
    pub bucket: Arc<MemoryStore>,
    pub form: Form,
    pub identity: Option<Identity>,
    pub copies: Arc<Copies>,
    /// Whether what is cut is kept as well.
    pub keeps: bool,
    pub clock: Clock,
    pub image: Image,
    pub place: Place,
    /// All states that are in the store, with when they were seen.
    pub states: BTreeMap<Position, (Timestamp, Image)>,
    pub folder: tempfile::TempDir,
}

pub fn digest(image: &[u8]) -> Digest {
    let hashes = image.chunks(PAGE).zip(1..).map(|(page, number)| PageHash::of(number, page));
    hashes.fold(Digest::default(), Digest::plus)
}

pub fn content(bytes: &[u8]) -> Content {
    Content { bytes: bytes.len() as u64, sha256: Sum::of(bytes) }
}

fn count(image: &[u8]) -> u32 {
    u32::try_from(image.len() / PAGE).unwrap()
}

pub async fn encoded(form: &Form, plain: &[u8]) -> Vec<u8> {
    let (to, from) = tokio::sync::mpsc::channel(1);
    let (stored_to, mut stored) = tokio::sync::mpsc::channel::<Bytes>(64);
    to.send(Bytes::copy_from_slice(plain)).await.unwrap();
    drop(to);
    let label = Label { name: "x".to_owned(), at: Timestamp::from_millis(0) };
    let collecting = async {
        let mut all = Vec::new();
        while let Some(piece) = stored.recv().await {
            all.extend_from_slice(&piece);
        }
        all
    };
    let (done, all) = tokio::join!(codec::encode(form, label, 1, from, stored_to), collecting);
    done.unwrap();
    all
}

/// The log that leads from `before` to `after`, without those of the pages behind `before` that are zeros where `lazy` says so.
fn log(before: &[u8], after: &[u8], to: Position, lazy: bool) -> (Vec<u8>, u32) {
    let old = |number: usize| before.chunks(PAGE).nth(number);
    let sent: Vec<(u32, &[u8])> = (1..)
        .zip(after.chunks(PAGE))
        .filter(|(number, page)| match old(*number as usize - 1) {
            Some(had) => had != *page,
            None => !lazy || page.iter().any(|b| *b != 0),
        })
        .collect();
    let mut log = WalWriter::new(Vec::new(), PAGE as u32, to.0 as u32, [1, 2]).unwrap();
    for (at, (number, page)) in sent.iter().enumerate() {
        log.frame(*number, page, (at + 1 == sent.len()).then_some(count(after))).unwrap();
    }
    (log.finish().unwrap(), u32::try_from(sent.len()).unwrap())
}

impl World {
    /// With a full of a few pages.
    pub async fn new(form: Form, identity: Option<Identity>) -> Self {
        let mut image = vec![7; 8 * PAGE];
        image[..16].copy_from_slice(b"SQLite format 3\0");
        image[16..18].copy_from_slice(&(PAGE as u16).to_be_bytes());
        let clock = Clock::by_hand(Timestamp::from_rfc3339("2026-11-23T02:15:00Z").unwrap());
        let bucket = MemoryStore::new();
        bucket.set_clock(clock.now());
        let mut world = Self {
            bucket,
            form,
            identity,
            copies: Arc::default(),
            keeps: false,
            clock,
            image: image.clone(),
            place: Place { timeline: Timeline(1), position: Position(0) },
            states: BTreeMap::new(),
            folder: tempfile::tempdir().unwrap(),
        };
        world.full(image).await;
        world
    }

    pub fn pages(&self) -> usize {
        self.image.len() / PAGE
    }

    /// The store's clock goes on as well.
    pub fn pass(&self, span: Duration) {
        self.clock.set(self.clock.now().after(span));
        self.bucket.set_clock(self.clock.now());
    }

    fn manifest(&self, kind: Kind, image: &[u8], sent: u32, object: Object) -> Manifest {
        let full = kind == Kind::Full;
        Manifest {
            format: 1,
            engine: "sqlite".to_owned(),
            database: "atlas.db".to_owned(),
            kind,
            timeline: self.place.timeline,
            from: (!full).then(|| Position(self.place.position.0 - 1)),
            to: self.place.position,
            observed: self.clock.now(),
            object: Some(object),
            page_size: PAGE as u32,
            pages: count(image),
            sent_pages: sent,
            digest_before: (!full).then(|| digest(&self.image)),
            digest_after: digest(image),
            previous: None,
            soundness: full.then_some(Soundness::Sound),
            tables: BTreeMap::new(),
            engine_version: "3.51.3".to_owned(),
            sidecar_version: "0.1.0".to_owned(),
            gap_from: None,
            first_observed: None,
            index: None,
        }
    }

    async fn object(&self, key: &ObjectKey, plain: &[u8]) -> (Object, Vec<u8>) {
        let stored = encoded(&self.form, plain).await;
        let encrypted = !self.form.recipients.is_empty();
        let key = key.to_string();
        (Object { key, stored: content(&stored), plain: content(plain), codec: self.form.codec, encrypted }, stored)
    }

    fn next(&mut self) {
        self.place.position = self.place.position.next();
        self.clock.set(self.clock.now().after(Duration::from_secs(1)));
    }

    async fn with_manifest(&mut self, kind: Kind, image: Image, plain: &[u8], sent: u32) {
        let from = Some(Position(self.place.position.0 - 1)).filter(|_| kind != Kind::Full);
        let key = object_key(self.place, kind, from, self.clock.now(), 0, self.form.extension());
        let (object, stored) = self.object(&key, plain).await;
        let manifest = self.manifest(kind, &image, sent, object);
        self.bucket.set(key.as_str(), stored);
        self.bucket.set(manifest_key(self.place).as_str(), manifest.to_bytes());
        self.states.insert(self.place.position, (self.clock.now(), image.clone()));
        self.image = image;
    }

    pub async fn full(&mut self, image: Image) {
        self.next();
        let sent = count(&image);
        self.with_manifest(Kind::Full, image.clone(), &image, sent).await;
    }

    /// A full of the present state, at the place that a live segment leads to as well.
    pub async fn beside(&mut self) {
        let image = self.image.clone();
        let sent = count(&image);
        self.with_manifest(Kind::Full, image.clone(), &image, sent).await;
    }

    /// A position that only an ordinary increment leads to.
    pub async fn gap(&mut self, image: Image) {
        self.next();
        let (plain, sent) = log(&self.image, &image, self.place.position, false);
        self.with_manifest(Kind::Incremental, image, &plain, sent).await;
    }

    /// A live segment to `image`, which must be another state than the present one.
    pub async fn live(&mut self, image: Image, lazy: bool) -> ObjectKey {
        self.next();
        let (plain, sent) = log(&self.image, &image, self.place.position, lazy);
        let key = live_key(self.place, self.form.extension());
        let (object, stored) = self.object(&key, &plain).await;
        let note = self.manifest(Kind::Live, &image, sent, object).to_note();
        self.bucket.set_noted(key.as_str(), stored, &note);
        if self.keeps {
            self.copies.0.lock().unwrap().insert(self.place, plain);
        }
        self.states.insert(self.place.position, (self.clock.now(), image.clone()));
        self.image = image;
        key
    }

    /// One with page `number` (from 1) other than it was.
    pub async fn write(&mut self, number: usize, byte: u8) -> ObjectKey {
        let mut image = self.image.clone();
        let page = &mut image[(number - 1) * PAGE + 100..number * PAGE];
        page.fill(byte);
        // Never the same twice.
        page[..8].copy_from_slice(&self.place.position.0.to_be_bytes());
        self.live(image, false).await
    }

    pub async fn catalog(&self) -> Catalog {
        Catalog::load(self.bucket.as_ref()).await.unwrap()
    }

    pub fn scratch(&self) -> PathBuf {
        self.folder.path().join("fold")
    }

    pub fn cx(&self) -> JobContext {
        JobContext::alone(self.clock.clone(), CancellationToken::new(), Duration::from_secs(600))
    }

    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.bucket) as Arc<dyn ObjectStore>
    }

    async fn with<T>(&self, store: Arc<dyn ObjectStore>, work: impl AsyncFnOnce(&Fold<'_>, &JobContext) -> T) -> T {
        let catalog = self.catalog().await;
        let kept: Arc<dyn Kept> = Arc::clone(&self.copies) as Arc<dyn Kept>;
        let fold = Fold {
            store: &store,
            catalog: &catalog,
            timeline: self.place.timeline,
            form: &self.form,
            threads: 2,
            identity: self.identity.as_ref(),
            kept: &kept,
            weave: engine::weave("sqlite").unwrap(),
            scratch: &self.scratch(),
            clock: &self.clock,
        };
        work(&fold, &self.cx()).await
    }

    pub async fn fine_through(&self, store: Arc<dyn ObjectStore>) -> Result<Option<Folded>, FoldError> {
        self.with(store, async |fold, cx| fold.fine(cx).await).await
    }

    pub async fn merged_through(&self, store: Arc<dyn ObjectStore>) -> Result<Option<Folded>, FoldError> {
        self.with(store, async |fold, cx| fold.merged(cx).await).await
    }

    pub async fn sweep_through(&self, store: Arc<dyn ObjectStore>) -> Result<Swept, FoldError> {
        self.with(store, async |fold, cx| fold.sweep(cx).await).await
    }

    pub async fn fine(&self) -> Result<Option<Folded>, FoldError> {
        self.fine_through(self.store()).await
    }

    pub async fn merged(&self) -> Result<Option<Folded>, FoldError> {
        self.merged_through(self.store()).await
    }

    /// The plain bytes of an object of ours.
    pub fn plain(&self, object: &Object) -> Vec<u8> {
        let stored = self.bucket.bytes(&object.key).unwrap_or_else(|| panic!("`{}` is not there", object.key));
        let mut plain = Vec::new();
        let mut decoded = codec::decode(object, self.identity.as_ref(), Box::new(io::Cursor::new(stored))).unwrap();
        decoded.read_to_end(&mut plain).unwrap();
        decoded.finish().unwrap();
        plain
    }

    pub fn index(&self, manifest: &Manifest) -> Vec<Line> {
        let plain = self.plain(manifest.index.as_ref().unwrap());
        std::str::from_utf8(&plain).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The manifest and the plain bytes of what the fine segment in `manifest` begins with, up to `line`.
    pub fn beginning(&self, manifest: &Manifest, line: &Line) -> (Manifest, Vec<u8>) {
        let object = manifest.object.as_ref().unwrap();
        let plain = if object.encrypted {
            self.plain(object)[..usize::try_from(line.plain_bytes).unwrap()].to_vec()
        } else {
            let stored = self.bucket.bytes(&object.key).unwrap();
            let stored = stored.slice(..usize::try_from(line.stored.bytes).unwrap());
            assert_eq!(content(&stored), line.stored);
            let mut plain = Vec::new();
            match object.codec {
                codec if codec == Default::default() => {
                    flate2::read::MultiGzDecoder::new(stored.as_ref()).read_to_end(&mut plain).unwrap();
                }
                _ => plain = unzstd(&stored),
            }
            plain
        };
        assert_eq!(plain.len() as u64, line.plain_bytes);
        let (to, pages, sent_pages) = (line.position, line.pages, line.frames);
        let manifest =
            Manifest { to, pages, sent_pages, digest_after: line.digest, observed: line.observed, ..manifest.clone() };
        (manifest, plain)
    }

    /// Lays `segments` over the full at the first position; what comes out.
    pub fn rebuilt(&self, catalog: &Catalog, segments: Vec<(Manifest, Vec<u8>)>) -> Result<Image, RebuildError> {
        let file = self.folder.path().join("rebuilt.db");
        let _ = std::fs::remove_file(&file);
        let mut building = engine::rebuild("sqlite").unwrap().begin(&file)?;
        let full = &catalog.entries.values().next().unwrap().manifest;
        building.full(full, &mut self.plain(full.object.as_ref().unwrap()).as_slice())?;
        let mut at = full.base();
        for (manifest, plain) in segments {
            assert!(manifest.from <= Some(at.place.position) && at.place.position < manifest.to, "{manifest:?}");
            let (from, digest_before) = (Some(at.place.position), Some(at.digest));
            at = manifest.base();
            // Laid over a state between its ends, as it may be.
            let laid = Manifest {
                kind: Kind::Incremental,
                from,
                digest_before,
                index: None,
                first_observed: None,
                ..manifest
            };
            building.changes(&laid, &mut plain.as_slice())?;
        }
        building.finish()?;
        Ok(std::fs::read(file).unwrap())
    }

    /// The segments of a chain to `target`: again and again that which leads farthest, merged ones only where `merged` says so, and a beginning at the end. Live segments are not used.
    pub fn chain(&self, catalog: &Catalog, target: Position, merged: bool) -> Vec<(Manifest, Vec<u8>)> {
        let mut at = catalog.entries.keys().next().unwrap().position;
        let mut chain = Vec::new();
        let folds = || catalog.folds.values().map(|entry| &entry.manifest).filter(|m| merged || m.kind == Kind::Fine);
        let gaps = || catalog.entries.values().map(|entry| &entry.manifest).filter(|m| m.kind == Kind::Incremental);
        while at < target {
            let starts = |m: &&Manifest| m.from <= Some(at) && at < m.to;
            let whole = folds().chain(gaps()).filter(starts).filter(|m| m.to <= target).max_by_key(|m| m.to);
            let (manifest, plain) = match whole {
                Some(manifest) => (manifest.clone(), self.plain(manifest.object.as_ref().unwrap())),
                None => {
                    let fine = folds().filter(starts).find(|m| m.kind == Kind::Fine);
                    let fine = fine.unwrap_or_else(|| panic!("nothing leads from {at} to {target}"));
                    let lines = self.index(fine);
                    let line = lines.iter().find(|line| line.position == target).unwrap();
                    self.beginning(fine, line)
                }
            };
            at = manifest.to;
            chain.push((manifest, plain));
        }
        chain
    }

    /// Every state comes back to the byte, from what was folded alone, with merged segments and without.
    pub async fn restorable(&self, told: &str) {
        let catalog = self.catalog().await;
        for (position, (_, image)) in &self.states {
            for merged in [false, true] {
                let chain = self.chain(&catalog, *position, merged);
                let made = self.rebuilt(&catalog, chain).unwrap_or_else(|e| panic!("{told}: {position}: {e}"));
                assert!(made == *image, "{told}: {position}, with merged ones: {merged}");
            }
        }
    }

    /// What is in the scratch folder.
    pub fn left(&self) -> usize {
        std::fs::read_dir(self.scratch()).map_or(0, Iterator::count)
    }
}

/// By the program that everybody has.
fn unzstd(stored: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.zst");
    std::fs::write(&file, stored).unwrap();
    let out = std::process::Command::new("zstd").arg("-dc").arg(&file).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}
