//! Files that are not as they should be, and databases that cannot be read.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use atlas_sidecar::engine::sqlite::wal::{Header, Sums, WalReader};

use super::*;

/// A Python program with the database's path as its argument, which says `ready` and then waits until it is killed.
pub(in crate::backup) struct Application(Child);

impl Application {
    pub(in crate::backup) fn start(path: &Path, program: &str) -> Self {
        let program = format!(
            "import sqlite3, sys, os, time\npath = sys.argv[1]\n{program}\nprint('ready', flush=True)\nsys.stdin.read()\n"
        );
        let mut child = Command::new("python3")
            .args(["-c", &program, path.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`python3` starts: the README's test command installs it");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    pub(in crate::backup) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Appends to the log at `path` the frame of a whole, valid transaction that was never published: what a process leaves that is killed while it flushes a commit.
fn phantom(path: &Path, number: u32, page: &[u8], pages: u32) {
    // The log has no locks: it may be opened here.
    let log = std::fs::read(path).unwrap();
    let mut reader = WalReader::new(log.as_slice()).unwrap();
    let header: Header = *reader.header();
    while reader.next_frame().unwrap().is_some() {}
    let mut sums = Sums::at(header.order, reader.sums());
    let mut frame = Vec::new();
    for word in [number, pages, header.salts[0], header.salts[1]] {
        frame.extend_from_slice(&word.to_be_bytes());
    }
    sums.add(&frame[..8]);
    sums.add(page);
    for word in sums.values() {
        frame.extend_from_slice(&word.to_be_bytes());
    }
    frame.extend_from_slice(page);
    std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(&frame).unwrap();
}

/// H1: a commit that is in the log and that nobody was told of is not read; the next one, which takes its place, is.
#[tokio::test(flavor = "multi_thread")]
async fn h1_a_phantom_commit_is_not_read() {
    let scene = Scene::new(&rows(20)).await;
    scene.sql("UPDATE t SET body = 'real' WHERE id = 3");
    let live = scene.expected();
    let pages = (live.len() / 4096) as u32;
    phantom(&beside(&scene.path(), "-wal"), pages, &[0xee; 4096], pages);
    assert_ne!(scene.expected(), live, "who believes the file alone sees the phantom");
    let full = scene.full().await;
    assert_eq!(full, live);
    scene.sql("UPDATE t SET body = 'next' WHERE id = 5");
    let (segment, log) = scene.read(Want::Changes, 2).await.unwrap();
    let after = applied(&full, &log, 4096);
    assert_eq!(segment.digest_after, digest_of(&after, 4096));
    assert_eq!(asked(&after, "SELECT group_concat(body) FROM t WHERE id IN (3, 5)"), "real,next");
    assert_eq!(asked(&after, "PRAGMA integrity_check"), "ok");
}

/// A log that is not what its index says is an error, not a shorter log.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_damaged_is_an_error() {
    let scene = Scene::new(&rows(20)).await;
    scene.sql("UPDATE t SET body = 'new' WHERE id = 3");
    let log = beside(&scene.path(), "-wal");
    let whole = std::fs::read(&log).unwrap();
    let mut flipped = whole.clone();
    flipped[32 + 24 + 100] ^= 1;
    for bad in [&flipped[..], &whole[..whole.len() - 1], &whole[..10]] {
        std::fs::write(&log, bad).unwrap();
        let answer = scene.read(Want::Full, 1).await;
        assert!(matches!(&answer, Err(SourceError::Broken(why)) if why.contains("log")), "{answer:?}");
    }
    std::fs::write(&log, &whole).unwrap();
    assert_eq!(scene.full().await, scene.expected());
}

/// H4: what another part of this process does to the locks is seen, and the segment is not believed.
#[tokio::test(flavor = "multi_thread")]
async fn h4_a_lost_lock_is_seen() {
    assert!(Path::new("/proc/locks").exists(), "without it, a lost lock cannot be seen");
    let scene = Scene::new(&rows(1500)).await;
    let index = beside(&scene.path(), "-shm");
    let (mut pieces, truncate) = (0, "PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(TRUNCATE)");
    let answer = read(&*scene.source, Want::Full, 1, |_| {
        pieces += 1;
        if pieces == 1 {
            // The lock holds against the application as long as nobody of us opens and closes one of its files.
            scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 3");
            assert!(shell(&scene.path(), truncate).contains("1|"), "the reading keeps its state");
            drop(std::fs::read(&index).unwrap());
            assert!(shell(&scene.path(), truncate).contains("0|"), "the lock is gone");
        }
    })
    .await;
    assert!(matches!(&answer, Err(SourceError::Broken(why)) if why.contains("lock")), "{answer:?}");
    assert_eq!(scene.restarted().await.full().await.len() % 4096, 0);
}

/// The source itself loses no lock by reading, however often: an application's checkpoint stays out.
#[tokio::test(flavor = "multi_thread")]
async fn h4_reading_again_and_again_loses_no_lock() {
    let scene = Scene::new(&rows(50)).await;
    let mut reader = scene.database.read(MINUTE).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM t").execute(&mut *reader).await.unwrap();
    for position in 1..4 {
        scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 3");
        scene.read(Want::Full, position).await.unwrap();
        scene.source.look().await.unwrap();
    }
    assert!(
        scene.sql("PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(TRUNCATE)").contains("1|"),
        "our reader's lock is there"
    );
}

/// A database with a rollback journal is read as it is; who writes waits.
#[tokio::test(flavor = "multi_thread")]
async fn h22_with_a_rollback_journal_writers_wait() {
    let scene = Scene::new(&rows(1500).replace("WAL", "DELETE")).await;
    let (mut refused, path) = (0, scene.path());
    let (segment, image) = read(&*scene.source, Want::Full, 1, |_| {
        let out = Command::new("sqlite3").args([path.to_str().unwrap(), "UPDATE t SET body = 1"]).output().unwrap();
        refused += u32::from(String::from_utf8_lossy(&out.stderr).contains("locked"));
    })
    .await
    .unwrap();
    assert!(refused > 0, "nobody writes to the file while it is read");
    assert_eq!(image, scene.expected());
    assert_eq!(segment.soundness, Some(Soundness::Sound));
    assert_eq!(scene.adopt(1, segment.digest_after).await, Adopted::Known);
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 10; DELETE FROM t WHERE id > 1400; VACUUM");
    let (_, log) = scene.read(Want::Changes, 2).await.unwrap();
    assert_eq!(applied(&image, &log, 4096), scene.expected());
    assert_eq!(scene.sql("PRAGMA journal_mode"), "delete", "and it is left as it is");
}

/// A process that is killed while it writes leaves a journal: it is taken back before anything is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_journal_is_rolled_back_first() {
    let scene = Scene::new(&rows(300).replace("WAL", "DELETE")).await;
    let before = scene.expected();
    Application::start(
        &scene.path(),
        "db = sqlite3.connect(path, isolation_level=None)\n\
         db.execute('PRAGMA cache_size = 2')\ndb.execute('BEGIN')\ndb.execute('UPDATE t SET body = randomblob(3900)')",
    )
    .kill();
    assert!(beside(&scene.path(), "-journal").exists() && scene.naive() != before, "the file is half written");
    assert!(scene.full().await == before);
}

/// H21: a new database is in its log but for one page.
#[tokio::test(flavor = "multi_thread")]
async fn h21_a_database_that_is_in_its_log_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let application = Application::start(
        &path,
        "db = sqlite3.connect(path, isolation_level=None)\ndb.execute('PRAGMA journal_mode = WAL')\n\
         db.execute('CREATE TABLE t (a)')\ndb.execute('INSERT INTO t VALUES (randomblob(9000))')",
    );
    let scene = Scene::over(folder).await;
    let bytes = scene.full().await;
    assert_eq!((scene.path().metadata().unwrap().len(), bytes.len()), (4096, 4 * 4096));
    assert_eq!(asked(&bytes, "SELECT length(a) FROM t; PRAGMA integrity_check"), "9000\nok");
    drop(application);
}

/// What cannot be read is said in words.
#[tokio::test(flavor = "multi_thread")]
async fn h23_what_cannot_be_read_is_said_in_words() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("app.db"), "").unwrap();
    let scene = Scene::over(folder).await;
    let answer = scene.read(Want::Full, 1).await;
    assert!(
        matches!(&answer, Err(SourceError::Unsupported(why)) if why.contains("nothing in the database")),
        "{answer:?}"
    );
    assert!(scene.source.look().await.unwrap().empty);
    // Somebody writes over the file what is no database (or an encrypted one).
    run("sh", &["-c", &format!("head -c 8192 /dev/urandom > '{}'", scene.path().display())]);
    let answer = scene.read(Want::Full, 1).await;
    assert!(matches!(&answer, Err(SourceError::Unsupported(why)) if why.contains("encrypted")), "{answer:?}");
    // The file is there for one process only.
    for (mode, unsupported) in [("DELETE", false), ("WAL", true)] {
        let scene = Scene::new(&rows(5).replace("WAL", "DELETE")).await;
        let application = Application::start(
            &scene.path(),
            &format!(
                "db = sqlite3.connect(path, isolation_level=None)\ndb.execute('PRAGMA locking_mode = EXCLUSIVE')\n\
                 db.execute('PRAGMA journal_mode = {mode}').fetchall()\ndb.execute('INSERT INTO t VALUES (NULL, 1)')"
            ),
        );
        let answer = scene.read(Want::Full, 1).await;
        match &answer {
            Err(SourceError::Unsupported(why)) if unsupported => assert!(why.contains("EXCLUSIVE"), "{why}"),
            Err(SourceError::Busy(why)) if !unsupported => assert!(why.contains("locked"), "{why}"),
            _ => panic!("{mode}: {answer:?}"),
        }
        application.kill();
        assert_eq!(scene.full().await, scene.expected());
    }
}

/// A damaged database is sent as it is, and called so; rows that break a rule are no damage.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_from_rows_that_break_a_rule() {
    let scene = Scene::new(
        "CREATE TABLE t (a CHECK (a < 10)); PRAGMA ignore_check_constraints = 1; INSERT INTO t VALUES (99); CREATE INDEX i ON t (a);",
    )
    .await;
    assert_eq!(scene.read(Want::Full, 1).await.unwrap().0.soundness, Some(Soundness::Sound));
    scene.sql("PRAGMA writable_schema = 1; CREATE TABLE u (b); INSERT INTO u VALUES (5); UPDATE sqlite_schema SET rootpage = 4 WHERE name = 'i'");
    let (segment, bytes) = scene.read(Want::Full, 2).await.unwrap();
    assert!(matches!(&segment.soundness, Some(Soundness::Damaged(what)) if !what.is_empty()), "{segment:?}");
    assert_eq!(bytes, scene.expected());
}

/// H11: a log that grows too far while nobody takes the pieces ends the reading, and lets the application use it anew; less, and only the check is left out.
#[tokio::test(flavor = "multi_thread")]
async fn h11_the_log_grows_within_bounds() {
    let Scene { folder, database, source } = Scene::new(&rows(1500)).await;
    database.close().await;
    drop((database, source));
    let scene = Scene::with(folder, Settings { log_growth_max: Some(200_000), follow: None }).await;
    let writing = |pages: u32| {
        let (path, mut first) = (scene.path(), true);
        move |_: &Bytes| {
            if std::mem::take(&mut first) {
                shell(&path, &format!("UPDATE t SET body = randomblob(3900) WHERE id <= {pages}"));
            }
        }
    };
    let (segment, _) = read(&*scene.source, Want::Full, 1, writing(60)).await.unwrap();
    assert!(matches!(&segment.soundness, Some(Soundness::Unchecked(why)) if why.contains("log")), "{segment:?}");
    let answer = read(&*scene.source, Want::Full, 1, writing(200)).await;
    assert!(matches!(&answer, Err(SourceError::Busy(why)) if why.contains("log")), "{answer:?}");
    assert!(scene.sql("PRAGMA wal_checkpoint(TRUNCATE)").contains("0|0|0"), "the state was let go");
}

/// Nobody takes the pieces any more, or nobody waits for the reading: it ends, and the next one begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_nobody_wants_ends() {
    let scene = Scene::new(&rows(1500)).await;
    let (into, mut pieces) = mpsc::channel(1);
    let leaves = async {
        pieces.recv().await.unwrap();
        drop(pieces);
    };
    let (answer, ()) = tokio::join!(scene.source.read(Want::Full, place(1), into), leaves);
    assert_eq!(answer, Err(SourceError::Abandoned));
    let (into, mut pieces) = mpsc::channel(1);
    tokio::select! {
        answer = scene.source.read(Want::Full, place(1), into) => panic!("it cannot end: {answer:?}"),
        _ = pieces.recv() => {}
    }
    // The pieces are still wanted, but nobody will say that they were all.
    while pieces.recv().await.is_some() {}
    assert_eq!(tokio::time::timeout(MINUTE, scene.full()).await.unwrap(), scene.expected());
}
