//! The SQLite source: bytes against what SQLite itself makes of the same commit.
//!
//! A database of this process is never opened here by anything but SQLite and the source: that would drop their locks (H4). Its files are copied by `cp`.

mod beside;
pub(super) mod hostile;
pub(super) mod large;
pub(super) mod random;
mod resumed;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atlas_sidecar::backup::digest::PageHash;
use atlas_sidecar::backup::{
    Adopted, Base, Digest, Place, Position, Segment, Soundness, Source, SourceError, Timeline, Want,
};
use atlas_sidecar::clock::Clock;
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::source::{Pages, Settings};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::mpsc;

pub use self::beside::Writers;

use crate::support::run;

/// The page that begins 1 GiB into a file, which the digest leaves out.
pub(super) fn lock_page(page_size: u32) -> u32 {
    (1 << 30) / page_size + 1
}

/// The digest of an image, made from nothing but its bytes.
pub(super) fn digest_of(image: &[u8], page_size: u32) -> Digest {
    let pages = (1..).zip(image.chunks(page_size as usize));
    pages
        .filter(|(number, _)| *number != lock_page(page_size))
        .fold(Digest::default(), |digest, (number, page)| digest.plus(PageHash::of(number, page)))
}

pub(super) fn place(position: u64) -> Place {
    Place { timeline: Timeline(1), position: Position(position) }
}

pub(super) fn shell(path: &Path, sql: &str) -> String {
    run("sqlite3", &["-bail", "-cmd", ".timeout 10000", path.to_str().unwrap(), sql]).trim_end().to_owned()
}

pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// A database, and a source of it.
struct Scene {
    folder: TempDir,
    database: Database,
    source: Arc<Pages>,
}

impl Scene {
    /// A file that `sql` makes, in a process of its own.
    async fn new(sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        shell(&folder.path().join("app.db"), sql);
        Self::over(folder).await
    }

    /// Over a folder with a database in it.
    async fn over(folder: TempDir) -> Self {
        Self::with(folder, Settings::default()).await
    }

    async fn with(folder: TempDir, settings: Settings) -> Self {
        let database = Database::open(&folder.path().join("app.db"), false).await.unwrap();
        let source = Pages::new(database.clone(), Clock::system(), folder.path().join("state/backup"), settings);
        Self { folder, database, source: Arc::new(source) }
    }

    /// As after a restart of the sidecar.
    async fn restarted(self) -> Self {
        self.database.close().await;
        let Self { folder, database, source } = self;
        drop((database, source));
        Self::over(folder).await
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state/backup")
    }

    fn sql(&self, sql: &str) -> String {
        shell(&self.path(), sql)
    }

    /// The database file that SQLite makes of the files as they are: copied, and the log brought into it.
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

    /// The database file alone: what it would be to forget the log.
    fn naive(&self) -> Vec<u8> {
        let copy = self.folder.path().join("naive.db");
        run("cp", &[self.path().to_str().unwrap(), copy.to_str().unwrap()]);
        std::fs::read(copy).unwrap()
    }

    async fn read(&self, want: Want, position: u64) -> Result<(Segment, Vec<u8>), SourceError> {
        read(&*self.source, want, position, |_| {}).await
    }

    async fn adopt(&self, position: u64, digest: Digest) -> Adopted {
        self.source.adopt(&Base { place: place(position), digest }).await.unwrap()
    }

    /// A full that is adopted as position 1.
    async fn full(&self) -> Vec<u8> {
        let (segment, bytes) = self.read(Want::Full, 1).await.unwrap();
        assert_eq!(segment.digest_after, digest_of(&bytes, segment.page_size));
        assert_eq!(self.adopt(1, segment.digest_after).await, Adopted::Known);
        bytes
    }
}

/// Reads; `each` is called for each piece that came.
pub(super) async fn read(
    source: &dyn Source,
    want: Want,
    position: u64,
    mut each: impl FnMut(&Bytes),
) -> Result<(Segment, Vec<u8>), SourceError> {
    let (into, mut pieces) = mpsc::channel::<Bytes>(1);
    let taking = async {
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.recv().await {
            assert!(!piece.is_empty() && piece.len() <= (1 << 20) + (64 << 10), "{} bytes in a piece", piece.len());
            each(&piece);
            bytes.extend_from_slice(&piece);
        }
        bytes
    };
    let (segment, bytes) = tokio::join!(source.read(want, place(position), into), taking);
    segment.map(|segment| (segment, bytes))
}

/// What the stock shell makes of `image` with `log` beside it, as the restore script does it: it must say that all frames were brought over.
pub(super) fn applied(image: &[u8], log: &[u8], page_size: u32) -> Vec<u8> {
    if log.is_empty() {
        return image.to_vec();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.db");
    std::fs::write(&path, image).unwrap();
    std::fs::write(beside(&path, "-wal"), log).unwrap();
    let frames = (log.len() - 32) / (24 + page_size as usize);
    assert_eq!(shell(&path, "PRAGMA wal_checkpoint(FULL)"), format!("0|{frames}|{frames}"));
    std::fs::read(path).unwrap()
}

/// The answers of the stock shell to `sql` about `image`.
pub(super) fn asked(image: &[u8], sql: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.db");
    std::fs::write(&path, image).unwrap();
    // Immutable: no log is there, and none is made.
    run("sqlite3", &["-bail", &format!("file:{}?immutable=1", path.to_str().unwrap()), sql]).trim_end().to_owned()
}

/// A table of rows that fill a page each.
pub(super) fn rows(count: u32) -> String {
    format!(
        "PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})
         INSERT INTO t SELECT n, randomblob(3900) FROM n;"
    )
}

pub(super) const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_says_what_is_in_it() {
    let scene = Scene::new(&format!(
        "{} CREATE TABLE \"odd \"\"name\" (a); INSERT INTO \"odd \"\"name\" VALUES (1), (2);
         CREATE TABLE child (t REFERENCES t); INSERT INTO child VALUES (999);
         CREATE VIRTUAL TABLE words USING fts5(text); INSERT INTO words VALUES ('one');",
        rows(5)
    ))
    .await;
    let look = scene.source.look().await.unwrap();
    assert!(!look.empty && look.bytes > 5 * 4096 && look.identity.contains("inode"), "{look:?}");
    assert_eq!((scene.source.engine(), scene.source.database()), ("sqlite", "app.db".to_owned()));
    let (segment, bytes) = scene.read(Want::Full, 1).await.unwrap();
    assert_eq!(bytes, scene.expected());
    assert_eq!(segment.soundness, Some(Soundness::Sound), "a reference to nothing is the application's matter");
    let of = |table: &str| segment.tables.get(table).copied();
    assert_eq!((of("t"), of("odd \"name"), of("child"), of("words")), (Some(5), Some(2), Some(1), None));
    assert_eq!((segment.digest_before, segment.digest_after), (None, digest_of(&bytes, 4096)));
    assert_eq!(
        (segment.page_size, segment.pages, segment.sent_pages),
        (4096, (bytes.len() / 4096) as u32, segment.pages)
    );
    assert!(segment.engine_version.starts_with("3."), "{}", segment.engine_version);
}

/// H7: nothing is written to the database, its log stays as it is, and nothing is sent where nothing changed.
#[tokio::test(flavor = "multi_thread")]
async fn h7_reading_changes_nothing_and_nothing_changed_is_nothing_sent() {
    let scene = Scene::new(&rows(50)).await;
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 7");
    let sizes = || [scene.path(), beside(&scene.path(), "-wal")].map(|file| file.metadata().unwrap().len());
    let (before, bytes) = (sizes(), scene.expected());
    assert!(before[1] > 0);
    let full = scene.full().await;
    let (segment, sent) = scene.read(Want::Changes, 2).await.unwrap();
    assert_eq!((segment.sent_pages, sent.len()), (0, 0));
    assert_eq!((segment.digest_before, segment.soundness), (Some(segment.digest_after), None));
    assert_eq!((sizes(), scene.expected(), full), (before, bytes.clone(), bytes));
}

/// Only the pages that changed are sent, and the log carries the state that it belongs on.
#[tokio::test(flavor = "multi_thread")]
async fn an_increment_is_small_and_says_where_it_belongs() {
    let scene = Scene::new(&rows(500)).await;
    let image = scene.full().await;
    let before = digest_of(&image, 4096);
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id IN (100, 300)");
    let (segment, log) = scene.read(Want::Changes, 2).await.unwrap();
    assert_eq!(segment.sent_pages, 2);
    assert_eq!(log.len(), 32 + 2 * (24 + 4096));
    assert_eq!(log[12..16], 2u32.to_be_bytes(), "the sequence is the position");
    assert_eq!(log[16..24], before.high().to_be_bytes(), "the salts are the digest before");
    let after = applied(&image, &log, 4096);
    assert_eq!(after, scene.expected());
    assert_eq!(segment.digest_after, digest_of(&after, 4096));
}
