//! Following a database's commits: what is cut, laid over what was before, against what SQLite itself makes of the same commit, to the byte.

mod begun;
mod beside;
mod guarded;
mod large;
mod random;
mod tended;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atlas_sidecar::backup::manifest::{Codec, Content, Manifest, Object, Sum};
use atlas_sidecar::backup::tail::{Begun, Cut, Kept, Tended};
use atlas_sidecar::backup::{Adopted, Base, Kind, Place, Segment, Source, SourceError, Tail, Want};
use atlas_sidecar::clock::Clock;
use atlas_sidecar::engine::Follow;
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::source::{Pages, Settings};
use atlas_sidecar::engine::sqlite::wal::WalReader;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::source::{MINUTE, applied, asked, beside, digest_of, place, read, rows, shell};
use crate::support::run;

const FOLLOW: Follow = Follow { log_max: 1 << 30, convert_to_wal: false };

/// Segments that are kept: what a spool is.
#[derive(Default)]
struct Spool(Mutex<BTreeMap<Place, (Manifest, String, Vec<u8>)>>);

impl Kept for Spool {
    fn behind(&self, place: Place) -> io::Result<Vec<(Manifest, String)>> {
        let all = self.0.lock().unwrap();
        let behind = all.iter().filter(|(at, _)| at.timeline == place.timeline && at.position > place.position);
        Ok(behind.map(|(_, (manifest, words, _))| (manifest.clone(), words.clone())).collect())
    }

    fn plain(&self, place: Place) -> io::Result<Box<dyn Read + Send>> {
        let all = self.0.lock().unwrap();
        let (_, _, bytes) = all.get(&place).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(bytes.clone())))
    }
}

/// A database whose commits are followed, and the image that its segments lead to.
struct Scene {
    folder: TempDir,
    database: Database,
    source: Arc<Pages>,
    spool: Arc<Spool>,
    image: Vec<u8>,
    tip: Base,
    page_size: u32,
}

impl Scene {
    /// A file that `sql` makes, with a full, followed from there.
    async fn new(sql: &str) -> Self {
        let mut scene = Self::held(sql).await;
        // The shell has removed the log when it closed: there is no place in it, and nothing was missed either.
        assert!(matches!(scene.begin().await, Begun::Gap(why) if why.contains("not known")));
        assert_eq!(scene.cross().await.sent_pages, 0);
        scene
    }

    /// The same before it is followed.
    async fn held(sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        shell(&folder.path().join("app.db"), sql);
        Self::over(folder, FOLLOW).await
    }

    async fn over(folder: TempDir, follow: Follow) -> Self {
        let database = Database::open(&folder.path().join("app.db"), false).await.unwrap().keeping_log(true);
        let source = source_of(&folder, &database, follow);
        let mut scene = Self {
            folder,
            database,
            source,
            spool: Arc::default(),
            image: Vec::new(),
            tip: Base { place: place(1), digest: Default::default() },
            page_size: 0,
        };
        scene.full(1).await;
        scene
    }

    /// A full that is the state at `position`.
    async fn full(&mut self, position: u64) {
        let (segment, bytes) = read(&*self.source, Want::Full, position, |_| {}).await.unwrap();
        self.reach(&segment, position, bytes);
        assert_eq!(self.source.adopt(&self.tip).await.unwrap(), Adopted::Known);
    }

    fn reach(&mut self, segment: &Segment, position: u64, image: Vec<u8>) {
        self.page_size = segment.page_size;
        assert_eq!(segment.pages as usize * segment.page_size as usize, image.len(), "position {position}");
        assert_eq!(segment.digest_after, digest_of(&image, segment.page_size), "position {position}");
        self.image = image;
        self.tip = Base { place: place(position), digest: segment.digest_after };
    }

    /// As after a restart of the sidecar; `killed` leaves it no time to close anything.
    async fn restarted(self) -> Self {
        self.source.release().await;
        self.database.close().await;
        let Self { folder, database, source, spool, image, tip, page_size } = self;
        drop((database, source));
        let database = Database::open(&folder.path().join("app.db"), false).await.unwrap().keeping_log(true);
        let source = source_of(&folder, &database, FOLLOW);
        Self { folder, database, source, spool, image, tip, page_size }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    fn sql(&self, sql: &str) -> String {
        shell(&self.path(), sql)
    }

    /// The same while the log is tended.
    async fn sql_tended(&self, sql: &str) -> String {
        let (path, sql) = (self.path(), sql.to_owned());
        let done = tokio::task::spawn_blocking(move || shell(&path, &sql));
        until("the statement is done", async || {
            self.tend().await;
            done.is_finished()
        })
        .await;
        done.await.unwrap()
    }

    fn log_length(&self) -> u64 {
        beside(&self.path(), "-wal").metadata().map_or(0, |about| about.len())
    }

    async fn begin(&mut self) -> Begun {
        self.source.begin(&self.tip, Arc::clone(&self.spool) as Arc<dyn Kept>).await.unwrap()
    }

    async fn tend(&self) -> Tended {
        self.source.tend().await.unwrap()
    }

    fn next(&self) -> Place {
        place(self.tip.place.position.0 + 1)
    }

    /// Cuts, and keeps nothing.
    async fn try_cut(&self) -> Result<Option<(Cut, Vec<u8>)>, SourceError> {
        let (into, pieces) = mpsc::channel(1);
        let (cut, bytes) = tokio::join!(self.source.cut(self.next(), into), all(pieces));
        match cut? {
            Some(cut) => Ok(Some((cut, bytes))),
            None => {
                assert!(bytes.is_empty());
                Ok(None)
            }
        }
    }

    /// Cuts and keeps; says whether there was something.
    async fn cut(&mut self) -> Option<Cut> {
        let (cut, bytes) = self.try_cut().await.unwrap()?;
        self.keep(&cut, bytes).await;
        Some(cut)
    }

    async fn keep(&mut self, cut: &Cut, bytes: Vec<u8>) {
        let (place, segment) = (self.next(), &cut.segment);
        assert_eq!(segment.digest_before, Some(self.tip.digest), "{place}");
        assert_eq!(bytes.len() as u64, 32 + u64::from(segment.sent_pages) * u64::from(24 + segment.page_size));
        let manifest = manifest_of(place, segment, bytes.len() as u64);
        let image = laid_over(&self.image, &bytes);
        self.spool.0.lock().unwrap().insert(place, (manifest, cut.resume.clone(), bytes));
        self.source.keep(place).await.unwrap();
        self.reach(segment, place.position.0, image);
    }

    /// Cuts what there is, holds that state, and reads it as a full: the two must be one.
    async fn fix(&mut self) {
        let (into, pieces) = mpsc::channel(1);
        let place = self.next();
        let (cut, bytes) = tokio::join!(self.source.fix(place, into), all(pieces));
        self.keep(&cut.unwrap(), bytes).await;
        let (full, image) = read(&*self.source, Want::Full, place.position.0, |_| {}).await.unwrap();
        assert!(image == self.image, "{place}: the full is not what the segments lead to");
        assert_eq!(full.digest_after, self.tip.digest);
    }

    /// The difference over a gap.
    async fn cross(&mut self) -> Segment {
        let place = self.next();
        let (segment, log) = read(&*self.source, Want::Changes, place.position.0, |_| {}).await.unwrap();
        let image = applied(&self.image, &log, self.page_size);
        self.reach(&segment, place.position.0, image);
        assert_eq!(self.source.adopt(&self.tip).await.unwrap(), Adopted::Known);
        segment
    }

    /// The database file that SQLite makes of the files as they are, while nobody writes: copied, and the log brought into it.
    fn expected(&self) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("app.db");
        run("cp", &[self.path().to_str().unwrap(), copy.to_str().unwrap()]);
        if beside(&self.path(), "-wal").exists() {
            run("cp", &[beside(&self.path(), "-wal").to_str().unwrap(), beside(&copy, "-wal").to_str().unwrap()]);
            shell(&copy, "PRAGMA wal_checkpoint(TRUNCATE)");
        }
        std::fs::read(copy).unwrap()
    }
}

fn source_of(folder: &TempDir, database: &Database, follow: Follow) -> Arc<Pages> {
    let settings = Settings { follow: Some(follow), ..Settings::default() };
    Arc::new(Pages::new(database.clone(), Clock::system(), folder.path().join("state/backup"), settings))
}

async fn all(mut pieces: mpsc::Receiver<Bytes>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.recv().await {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

fn manifest_of(place: Place, segment: &Segment, bytes: u64) -> Manifest {
    let content = Content { bytes, sha256: Sum::of(b"") };
    let key = atlas_sidecar::backup::layout::live_key(place, "gz").to_string();
    Manifest {
        format: atlas_sidecar::backup::layout::FORMAT,
        engine: "sqlite".to_owned(),
        database: "app.db".to_owned(),
        kind: Kind::Live,
        timeline: place.timeline,
        from: Some(super::source::place(place.position.0 - 1).position),
        to: place.position,
        observed: segment.observed,
        object: Some(Object { key, stored: content.clone(), plain: content, codec: Codec::Gzip, encrypted: false }),
        page_size: segment.page_size,
        pages: segment.pages,
        sent_pages: segment.sent_pages,
        digest_before: segment.digest_before,
        digest_after: segment.digest_after,
        previous: None,
        soundness: None,
        tables: BTreeMap::new(),
        engine_version: segment.engine_version.clone(),
        sidecar_version: String::new(),
        gap_from: None,
        first_observed: None,
        index: None,
    }
}

/// `image` with the pages of `log`, which has one transaction.
fn laid_over(image: &[u8], log: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    let mut log = WalReader::new(log).unwrap();
    let size = log.header().page_size as usize;
    let mut pages = None;
    while let Some(frame) = log.next_frame().unwrap() {
        assert_eq!(pages, None, "one transaction");
        let begin = (frame.number as usize - 1) * size;
        image.resize(image.len().max(begin + size), 0);
        image[begin..begin + size].copy_from_slice(frame.page);
        pages = frame.commit;
    }
    image.resize(pages.unwrap() as usize * size, 0);
    image
}

/// Looks again and again until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + MINUTE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "it is not so after a minute: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
