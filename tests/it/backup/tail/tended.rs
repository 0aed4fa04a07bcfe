//! Tending the log: it begins anew, applications that wait are let through, and it is let go before the disk is full.

use super::super::source::hostile::Application;
use super::*;

/// A checkpoint of each kind that waits, with a busy timeout, while the commit before it was not even cut.
const WAITS: &str = "
db = sqlite3.connect(path, isolation_level=None, timeout=20)
db.execute('UPDATE t SET body = randomblob(3900) WHERE id = 5')
for kind in ['FULL', 'RESTART', 'TRUNCATE']:
    db.execute('UPDATE t SET body = randomblob(3900) WHERE id < 5')
    done = db.execute('PRAGMA wal_checkpoint(%s)' % kind).fetchone()
    assert done[0] == 0, (kind, done)
";

/// H9: it goes through, and nothing is lost by it.
#[tokio::test(flavor = "multi_thread")]
async fn h9_an_applications_checkpoint_is_let_through() {
    let mut scene = Scene::new(&rows(50)).await;
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 7");
    scene.cut().await.unwrap();
    for _ in 0..3 {
        let path = scene.path();
        let waiting = tokio::task::spawn_blocking(move || Application::start(&path, WAITS));
        while !waiting.is_finished() {
            scene.tend().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let application = waiting.await.unwrap();
        assert_eq!(scene.log_length(), 0, "it was cut off");
        scene.cut().await.unwrap();
        assert!(scene.image == scene.expected());
        application.kill();
    }
}

/// H6: the log begins anew after a passive checkpoint of ours, when all of it was captured; what it had is cut all the same.
#[tokio::test(flavor = "multi_thread")]
async fn h6_the_log_begins_anew_between_two_cuts() {
    let mut scene = Scene::new(&rows(400)).await;
    let application =
        Application::start(&scene.path(), "db = sqlite3.connect(path)\ndb.execute('SELECT * FROM t').fetchone()");
    for round in 0..3 {
        // More than SQLite lets a log have before it makes a checkpoint, and the same again: less than what is kept in memory.
        for _ in 0..3 {
            scene.sql("PRAGMA wal_autocheckpoint = 0; UPDATE t SET body = randomblob(3900)");
            scene.cut().await.unwrap();
        }
        let before = scene.log_length();
        scene.sql("PRAGMA wal_autocheckpoint = 0; UPDATE t SET body = randomblob(3900) WHERE id < 100");
        // At most one each second.
        until("the log begins anew", async || {
            scene.tend().await;
            // Of the same bytes nothing would be written.
            scene.sql("PRAGMA wal_autocheckpoint = 0; UPDATE t SET body = randomblob(9) WHERE id = 3");
            scene.tend().await.log_bytes < before / 2
        })
        .await;
        scene.sql("UPDATE t SET body = 'also small' WHERE id = 4");
        let cut = scene.cut().await.unwrap();
        assert!(cut.segment.sent_pages >= 99, "round {round}: the old log's pages are in it");
        assert!(scene.image == scene.expected(), "round {round}");
        assert_eq!(scene.cut().await, None);
    }
    application.kill();
}

/// H10: somebody else's long reader keeps the log from beginning anew; it is told, and nobody is forced.
#[tokio::test(flavor = "multi_thread")]
async fn h10_another_reader_is_not_forced() {
    let mut scene = Scene::new(&rows(1500)).await;
    let reader = Application::start(
        &scene.path(),
        "db = sqlite3.connect(path, isolation_level=None)\ndb.execute('BEGIN')\ndb.execute('SELECT * FROM t').fetchone()",
    );
    for _ in 0..4 {
        scene.sql("PRAGMA wal_autocheckpoint = 0; UPDATE t SET body = randomblob(3900)");
        scene.cut().await.unwrap();
        scene.tend().await;
    }
    let tended = scene.tend().await;
    assert!(tended.log_bytes > 16 << 20, "{tended:?}");
    until("it is told to be pinned", async || !scene.tend().await.pinned.is_zero()).await;
    assert_eq!(scene.tend().await.write_lock_held, Duration::ZERO, "no lock would help");
    reader.kill();
    until("the log begins anew", async || {
        scene.tend().await;
        scene.sql("PRAGMA wal_autocheckpoint = 0; UPDATE t SET body = randomblob(9) WHERE id = 3");
        scene.tend().await.pinned.is_zero()
    })
    .await;
    scene.cut().await.unwrap();
    assert!(scene.image == scene.expected());
}

/// H11: a log that becomes longer than it may is let go, and the application can use it anew; what was missed is a gap.
#[tokio::test(flavor = "multi_thread")]
async fn h11_a_log_that_is_too_long_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    shell(&folder.path().join("app.db"), &rows(50));
    let mut scene = Scene::over(folder, Follow { log_max: 100_000, ..FOLLOW }).await;
    assert!(matches!(scene.begin().await, Begun::Gap(_)));
    scene.cross().await;
    assert_eq!(scene.tend().await.released, None);
    scene.sql("UPDATE t SET body = randomblob(3900)");
    assert!(scene.tend().await.released.is_some_and(|why| why.contains("write-ahead log")));
    assert!(matches!(scene.try_cut().await, Err(SourceError::Broken(_))));
    let begun = scene.source.begin(&scene.tip, scene.spool.clone()).await;
    assert!(matches!(begun, Err(SourceError::Busy(why)) if why.contains("begun anew")), "not again and again");
    scene.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    assert!(matches!(scene.begin().await, Begun::Gap(_)));
    scene.cross().await;
    assert!(scene.image == scene.expected());
}

/// A full beside the tail is of a place that the tail has, too, whether something was committed or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_beside_the_tail_is_of_one_of_its_places() {
    let mut scene = Scene::new(&rows(50)).await;
    scene.fix().await;
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 7");
    scene.fix().await;
    assert!(scene.image == scene.expected());
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 8");
    assert_eq!(scene.source.adopt(&scene.tip).await.unwrap(), Adopted::Known, "as whoever made the full does");
    scene.cut().await.unwrap();
    assert!(scene.image == scene.expected());
    // Without a state that is held for it there is none: it would be of another place than its name says.
    let answer = read(&*scene.source, Want::Full, scene.tip.place.position.0, |_| {}).await;
    assert!(matches!(answer, Err(SourceError::Busy(why)) if why.contains("fixed")));
    // Commits go on while it is read, and are cut.
    let (into, pieces) = mpsc::channel(1);
    let place = scene.next();
    let (cut, bytes) = tokio::join!(scene.source.fix(place, into), all(pieces));
    scene.keep(&cut.unwrap(), bytes).await;
    let image = scene.image.clone();
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 9");
    scene.cut().await.unwrap();
    scene.tend().await;
    let (full, bytes) = read(&*scene.source, Want::Full, place.position.0, |_| {}).await.unwrap();
    assert!(bytes == image && full.digest_after != scene.tip.digest);
    assert!(scene.image == scene.expected());
}

/// What was cut is in the log until it is kept: nobody is let through before, and then he is.
#[tokio::test(flavor = "multi_thread")]
async fn h5_the_log_stays_until_a_cut_is_kept() {
    let mut scene = Scene::new(&rows(50)).await;
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 7");
    let (cut, bytes) = scene.try_cut().await.unwrap().unwrap();
    let path = scene.path();
    let waiting = tokio::task::spawn_blocking(move || {
        shell(&path, "PRAGMA wal_checkpoint(TRUNCATE); UPDATE t SET body = randomblob(3900) WHERE id = 8")
    });
    for _ in 0..20 {
        scene.tend().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!waiting.is_finished());
    scene.keep(&cut, bytes).await;
    until("it is let through", async || {
        scene.tend().await;
        waiting.is_finished()
    })
    .await;
    assert!(waiting.await.unwrap().starts_with("0|0|0"));
    assert_eq!(scene.cut().await.unwrap().segment.sent_pages, 1);
    assert!(scene.image == scene.expected());
}

/// H8: beside a writer who hardly pauses the log begins anew all the same, and how long he waited is told.
#[tokio::test(flavor = "multi_thread")]
async fn h8_a_long_log_begins_anew_beside_a_writer_who_hardly_pauses() {
    let mut scene = Scene::new(&rows(1500)).await;
    let writes = "
import threading
def forever():
    db = sqlite3.connect(path, isolation_level=None, timeout=60)
    db.execute('PRAGMA synchronous = OFF')
    db.execute('PRAGMA wal_autocheckpoint = 0')
    n = 0
    while True:
        n += 1
        db.execute('UPDATE t SET body = randomblob(9) WHERE id = ?', (n % 1500,))
        # A commit in less than a millisecond; a debug build on a slow machine is to keep up with that.
        time.sleep(0.0005)
threading.Thread(target=forever, daemon=True).start()
";
    // So that it is long already.
    for _ in 0..4 {
        scene.sql("PRAGMA wal_autocheckpoint = 0; UPDATE t SET body = randomblob(3900)");
        scene.cut().await.unwrap();
    }
    let application = Application::start(&scene.path(), writes);
    let mut held = Duration::ZERO;
    until("the log begins anew", async || {
        scene.cut().await;
        let tended = scene.tend().await;
        held += tended.write_lock_held;
        tended.log_bytes < 16 << 20
    })
    .await;
    println!("writers waited {held:?}");
    application.kill();
    scene.cut().await;
    assert!(scene.image == scene.expected());
}
