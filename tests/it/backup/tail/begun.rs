//! Beginning: from where the log is still the same, over a gap, and where nothing is known.

use super::super::source::hostile::Application;
use super::*;

/// Each commit is cut, and what it leads to is the database.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_cut_and_nothing_else() {
    let mut scene = Scene::new(&rows(50)).await;
    assert_eq!(scene.cut().await, None, "nothing was committed");
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id IN (7, 9)");
    let cut = scene.cut().await.unwrap();
    assert_eq!(cut.segment.sent_pages, 2);
    assert!(scene.image == scene.expected());
    assert_eq!(scene.cut().await, None);
    scene.sql("DELETE FROM t WHERE id > 20; VACUUM");
    let before = scene.image.len();
    scene.cut().await.unwrap();
    assert!(scene.image.len() < before && scene.image == scene.expected(), "H25: a VACUUM is one segment, and shorter");
    scene.sql("CREATE TABLE u AS WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300) SELECT randomblob(3000) FROM n");
    scene.cut().await.unwrap();
    assert!(scene.image == scene.expected());
    // And the stock shell takes a segment as it is.
    let image = scene.image.clone();
    scene.sql("UPDATE u SET rowid = rowid WHERE rowid = 1; INSERT INTO t VALUES (NULL, 'last')");
    let (cut, bytes) = scene.try_cut().await.unwrap().unwrap();
    assert_eq!(bytes[12..16], (scene.next().position.0 as u32).to_be_bytes(), "the sequence is the position");
    assert_eq!(bytes[16..24], scene.tip.digest.high().to_be_bytes(), "the salts are the digest before");
    assert!(applied(&image, &bytes, 4096) == scene.expected());
    scene.keep(&cut, bytes).await;
}

/// A cut that was not kept did not happen, whatever became of the log meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_is_cut_again() {
    let mut scene = Scene::new(&rows(50)).await;
    scene.sql("UPDATE t SET body = 'first' WHERE id = 7");
    scene.cut().await.unwrap();
    for body in ["a", "b", "c"] {
        scene.sql(&format!("UPDATE t SET body = '{body}' WHERE id = 7"));
        scene.try_cut().await.unwrap().unwrap();
        scene.tend().await;
    }
    // A receiver that goes away.
    let (into, pieces) = mpsc::channel(1);
    drop(pieces);
    assert_eq!(scene.source.cut(scene.next(), into).await, Err(SourceError::Abandoned));
    assert!(matches!(scene.source.keep(scene.next()).await, Err(SourceError::Broken(_))), "nothing was cut");
    assert_eq!(scene.begin().await, Begun::Going);
    scene.cut().await.unwrap();
    assert_eq!(scene.cut().await, None);
    assert!(scene.image == scene.expected());
}

/// H18: after a restart with the same log nothing is read again, and what was committed meanwhile is told commit by commit.
#[tokio::test(flavor = "multi_thread")]
async fn h18_the_same_log_is_gone_on_with() {
    let mut scene = Scene::new(&rows(50)).await;
    let application =
        Application::start(&scene.path(), "db = sqlite3.connect(path)\ndb.execute('SELECT * FROM t').fetchone()");
    for round in 0..3 {
        scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 3");
        scene.cut().await.unwrap();
        if round == 1 {
            // What is known is on the disk: nothing needs to be replayed.
            scene.source.settle().await.unwrap();
            scene.spool.0.lock().unwrap().clear();
        }
        scene = scene.restarted().await;
        scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 30");
        assert_eq!(scene.begin().await, Begun::Going, "round {round}");
        scene.cut().await.unwrap();
        assert!(scene.image == scene.expected());
    }
    application.kill();
}

/// H18: a log that has begun anew meanwhile, or lost a bit, is a gap: the difference leads over it, and from there commits are followed.
#[tokio::test(flavor = "multi_thread")]
async fn h18_another_log_is_a_gap_that_a_difference_leads_over() {
    let mut scene = Scene::new(&rows(500)).await;
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 3");
    scene.cut().await.unwrap();
    scene = scene.restarted().await;
    scene.sql("PRAGMA wal_checkpoint(TRUNCATE); UPDATE t SET body = randomblob(3900) WHERE id IN (4, 400)");
    assert!(matches!(scene.begin().await, Begun::Gap(why) if why.contains("begun anew")));
    // Held from now on: this is no part of the difference, and is not lost.
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 5; PRAGMA wal_checkpoint(PASSIVE)");
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 6; PRAGMA wal_checkpoint(PASSIVE)");
    let segment = scene.cross().await;
    assert_eq!(segment.sent_pages, 2, "that which was committed before");
    assert_eq!(scene.cut().await.unwrap().segment.sent_pages, 2, "that which was committed since");
    assert!(scene.image == scene.expected());
    // And a restart behind a gap.
    scene.source.settle().await.unwrap();
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 7");
    scene = scene.restarted().await;
    assert_eq!(scene.begin().await, Begun::Going);
    scene.cut().await.unwrap();
    assert!(scene.image == scene.expected());
}

/// H18: equal salts are not enough: every frame before the place is read, and its sums must come out.
#[tokio::test(flavor = "multi_thread")]
async fn h18_a_log_with_another_frame_is_a_gap() {
    let mut scene = Scene::new(&rows(50)).await;
    let application =
        Application::start(&scene.path(), "db = sqlite3.connect(path)\ndb.execute('SELECT * FROM t').fetchone()");
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 3");
    scene.cut().await.unwrap();
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 4");
    let words = scene.spool.0.lock().unwrap()[&scene.tip.place].1.clone();
    for (from, to) in [(" frame 1 sum ", " frame 2 sum "), (" sum ", " sum f"), ("inode ", "inode 1"), ("log ", "")] {
        let other = words.replace(from, to);
        assert_ne!(other, words);
        let map = scene.folder.path().join("state/backup/pages.map");
        let known = std::fs::read(&map).unwrap();
        scene.spool.0.lock().unwrap().get_mut(&scene.tip.place).unwrap().1 = other;
        assert!(
            matches!(scene.begin().await, Begun::Gap(why) if why.contains("what it had") || why.contains("not known"))
        );
        // What is known was settled, with that place.
        std::fs::write(&map, known).unwrap();
        scene.spool.0.lock().unwrap().get_mut(&scene.tip.place).unwrap().1 = words.clone();
        assert_eq!(scene.begin().await, Begun::Going, "{from:?}");
    }
    scene = scene.restarted().await;
    // One bit of the first frame's page, by another process (H4).
    let log = beside(&scene.path(), "-wal");
    run(
        "python3",
        &[
            "-c",
            "import sys; f = open(sys.argv[1], 'r+b'); f.seek(100); b = f.read(1); f.seek(100); f.write(bytes([b[0] ^ 1]))",
            log.to_str().unwrap(),
        ],
    );
    let begun = scene.source.begin(&scene.tip, scene.spool.clone()).await;
    assert!(matches!(&begun, Err(SourceError::Broken(why)) if why.contains("sums")), "{begun:?}");
    application.kill();
}

/// What is known lags behind the segments: these are read again, and each must lead to its digest; where one is missing or another one, a full is needed.
#[tokio::test(flavor = "multi_thread")]
async fn segments_that_are_kept_are_read_again() {
    let mut scene = Scene::new(&rows(50)).await;
    // From here on.
    scene.source.settle().await.unwrap();
    for sql in [
        "UPDATE t SET body = randomblob(3900) WHERE id = 3",
        "DELETE FROM t WHERE id > 30; VACUUM",
        "INSERT INTO t VALUES (NULL, randomblob(90000))",
    ] {
        scene.sql(sql);
        scene.cut().await.unwrap();
    }
    let whole = std::mem::take(&mut *scene.spool.0.lock().unwrap());
    for missing in 3..6 {
        let mut part = whole.clone();
        part.remove(&place(missing));
        *scene.spool.0.lock().unwrap() = part;
        assert!(
            matches!(scene.begin().await, Begun::Unknown(why) if why.contains("not all kept") || why.contains("does not begin")),
            "{missing}"
        );
    }
    let mut other = whole.clone();
    other.get_mut(&place(4)).unwrap().0.digest_after = scene.tip.digest;
    *scene.spool.0.lock().unwrap() = other;
    assert!(matches!(scene.begin().await, Begun::Unknown(why) if why.contains("digest")));
    *scene.spool.0.lock().unwrap() = whole;
    assert_eq!(scene.begin().await, Begun::Going);
    scene.sql("UPDATE t SET body = 'x' WHERE id = 1");
    scene.cut().await.unwrap();
    assert!(scene.image == scene.expected());
    // Another state, one that nothing is known about, and none at all.
    let tip = std::mem::replace(&mut scene.tip, Base { place: place(9), digest: Default::default() });
    assert!(matches!(scene.begin().await, Begun::Unknown(_)));
    scene.tip = Base { digest: Default::default(), ..tip };
    assert!(matches!(scene.begin().await, Begun::Unknown(_)));
    assert!(matches!(scene.try_cut().await, Err(SourceError::Broken(why)) if why.contains("begin")), "nothing is held");
    scene.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(scene.log_length(), 0);
}

/// H20: a file that was replaced is noticed at the next look, and is another database.
#[tokio::test(flavor = "multi_thread")]
async fn h20_a_replaced_file_ends_it() {
    let mut scene = Scene::new(&rows(50)).await;
    let new = scene.folder.path().join("new.db");
    shell(&new, &rows(5));
    std::fs::rename(&new, scene.path()).unwrap();
    assert!(matches!(scene.source.tend().await, Err(SourceError::Broken(why)) if why.contains("replaced")));
    for end in ["-wal", "-shm"] {
        drop(std::fs::remove_file(beside(&scene.path(), end)));
    }
    assert!(matches!(scene.begin().await, Begun::Another(why) if why.contains("another file")));
    // Only the log is gone: the application goes on with one that has no name.
    let scene = Scene::new(&rows(50)).await;
    scene.sql("UPDATE t SET body = 1 WHERE id = 3");
    std::fs::remove_file(beside(&scene.path(), "-wal")).unwrap();
    assert!(matches!(scene.try_cut().await, Err(SourceError::Broken(why)) if why.contains("-wal")));
}

/// H19: an older state of the same file.
#[tokio::test(flavor = "multi_thread")]
async fn h19_an_older_database_is_another() {
    let mut scene = Scene::new(&rows(50)).await;
    scene.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let old = scene.expected();
    scene.sql("CREATE TABLE later (a)");
    scene.cut().await.unwrap();
    scene.source.settle().await.unwrap();
    scene.source.release().await;
    scene.database.close().await;
    std::fs::write(scene.path(), &old).unwrap();
    for end in ["-wal", "-shm"] {
        drop(std::fs::remove_file(beside(&scene.path(), end)));
    }
    let mut scene = scene.restarted().await;
    assert!(matches!(scene.begin().await, Begun::Another(why) if why.contains("older")));
}

/// H21: a new database is in its log but for one page.
#[tokio::test(flavor = "multi_thread")]
async fn h21_a_database_that_is_in_its_log_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let application = Application::start(
        &path,
        "db = sqlite3.connect(path, isolation_level=None)\ndb.execute('PRAGMA journal_mode = WAL')\n\
         db.execute('CREATE TABLE t (a)')\ndb.execute('INSERT INTO t VALUES (randomblob(9000))')",
    );
    let mut scene = Scene::over(folder, FOLLOW).await;
    assert_eq!(scene.begin().await, Begun::Going);
    scene.sql("INSERT INTO t VALUES (randomblob(9000))");
    scene.cut().await.unwrap();
    assert!(scene.image == scene.expected());
    application.kill();
}

/// H22, H23: what cannot be followed is said in words; a database is converted where that is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn h22_a_rollback_journal_is_converted_on_request_only() {
    let scene = Scene::held(&rows(50).replace("WAL", "DELETE")).await;
    let kept: Arc<dyn Kept> = scene.spool.clone();
    let answer = scene.source.begin(&scene.tip, Arc::clone(&kept)).await;
    assert!(matches!(&answer, Err(SourceError::Unsupported(why)) if why.contains("convert_to_wal")), "{answer:?}");
    assert_eq!(scene.sql("PRAGMA journal_mode"), "delete");
    scene.database.close().await;
    let Scene { folder, database, source, .. } = scene;
    drop((database, source));
    let mut scene = Scene::over(folder, Follow { convert_to_wal: true, ..FOLLOW }).await;
    assert!(matches!(scene.begin().await, Begun::Gap(_)), "page 1 says so");
    assert_eq!(scene.sql("PRAGMA journal_mode"), "wal");
    scene.cross().await;
    scene.sql("UPDATE t SET body = 'x' WHERE id = 3");
    scene.cut().await.unwrap();
    assert!(scene.image == scene.expected());
}

/// A process that only closes changes nothing: the log is there and as it was, although nobody else was.
#[tokio::test(flavor = "multi_thread")]
async fn closing_leaves_the_log_as_it_is() {
    let mut scene = Scene::new(&rows(50)).await;
    scene.sql("UPDATE t SET body = 'x' WHERE id = 3");
    scene.cut().await.unwrap();
    let mut writer = scene.database.write().await.unwrap();
    sqlx::raw_sql("UPDATE t SET body = 'y' WHERE id = 3").execute(&mut *writer).await.unwrap();
    writer.commit().await.unwrap();
    let copy = scene.folder.path().join("copy");
    run("cp", &[beside(&scene.path(), "-wal").to_str().unwrap(), copy.to_str().unwrap()]);
    scene.source.release().await;
    scene.database.close().await;
    let (before, after) = (std::fs::read(copy).unwrap(), std::fs::read(beside(&scene.path(), "-wal")).unwrap());
    assert!(!before.is_empty() && before == after);
    let mut scene = scene.restarted().await;
    assert_eq!(scene.begin().await, Begun::Going);
    assert!(scene.cut().await.is_some());
    assert!(scene.image == scene.expected());
}
