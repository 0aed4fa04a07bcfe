//! Going on from a state of the store: which map is used, and which never.

use super::*;

fn unknown(adopted: &Adopted) -> bool {
    matches!(adopted, Adopted::Unknown(_))
}

/// What was read is put aside, and survives a restart; a state is gone on from only when the store has it.
#[tokio::test(flavor = "multi_thread")]
async fn h31_a_restart_goes_on_from_the_stores_newest_state() {
    let scene = Scene::new(&rows(50)).await;
    let (full, image) = scene.read(Want::Full, 1).await.unwrap();
    // Before the store has it, there is nothing to go on from.
    assert!(matches!(scene.read(Want::Changes, 2).await, Err(SourceError::Broken(_))));
    let scene = scene.restarted().await;
    assert_eq!(scene.adopt(1, full.digest_after).await, Adopted::Known, "the crash was behind the manifest");
    scene.sql("UPDATE t SET body = randomblob(3900) WHERE id < 4");
    let (second, log) = scene.read(Want::Changes, 2).await.unwrap();
    // The manifest of 2 was not written: the store is still at 1, and another attempt is the same.
    let scene = scene.restarted().await;
    assert_eq!(scene.adopt(1, full.digest_after).await, Adopted::Known);
    let again = scene.read(Want::Changes, 2).await.unwrap();
    assert_eq!((again.0.digest_after, &again.1), (second.digest_after, &log));
    let scene = scene.restarted().await;
    assert_eq!(scene.adopt(2, second.digest_after).await, Adopted::Known);
    assert!(unknown(&scene.adopt(1, full.digest_after).await), "there is one map, of the newest");
    assert_eq!(applied(&image, &log, 4096), scene.expected());
}

/// A lost, damaged, swapped or foreign map is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_is_not_the_stores_state_is_not_used() {
    let scene = Scene::new(&rows(50)).await;
    let image = scene.full().await;
    let digest = digest_of(&image, 4096);
    let map = scene.state().join("pages.map");
    let whole = std::fs::read(&map).unwrap();
    std::fs::remove_file(&map).unwrap();
    assert!(unknown(&scene.adopt(1, digest).await), "lost");
    std::fs::write(&map, &whole).unwrap();
    assert!(unknown(&scene.adopt(1, Digest::default()).await), "of another digest");
    assert!(unknown(&scene.adopt(2, digest).await), "of another position");
    std::fs::write(&map, &whole[..whole.len() - 16]).unwrap();
    assert!(unknown(&scene.adopt(1, digest).await), "short");
    let other = Scene::new(&rows(50)).await;
    other.full().await;
    std::fs::copy(other.state().join("pages.map"), &map).unwrap();
    assert!(unknown(&scene.adopt(1, digest).await), "of another database");
    // A hash that the disk has damaged is seen when all have been added up. That page would have been left out, or sent for nothing.
    let mut bytes = whole.clone();
    bytes[128 + 16 * 20] ^= 1;
    std::fs::write(&map, &bytes).unwrap();
    assert_eq!(scene.adopt(1, digest).await, Adopted::Known, "the header is whole");
    assert!(matches!(scene.read(Want::Changes, 2).await, Err(SourceError::Broken(why)) if why.contains("page map")));
    assert!(unknown(&scene.adopt(1, digest).await), "it was thrown away");
}

/// A page that is A in the store, B afterwards and A again is sent each time: a map that lagged would leave it out, and the store would stay at B.
#[tokio::test(flavor = "multi_thread")]
async fn d5_a_page_that_comes_back_is_sent_again() {
    let scene = Scene::new(&format!(
        "PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, body); INSERT INTO t VALUES (1, 'A'); {}",
        "CREATE TABLE u (a); INSERT INTO u VALUES (1);"
    ))
    .await;
    let mut image = scene.full().await;
    let first = image.clone();
    for (position, body) in [(2, "B"), (3, "A")] {
        scene.sql(&format!("UPDATE t SET body = '{body}'"));
        let (segment, log) = scene.read(Want::Changes, position).await.unwrap();
        assert!(segment.sent_pages > 0);
        image = applied(&image, &log, 4096);
        assert_eq!(scene.adopt(position, segment.digest_after).await, Adopted::Known);
    }
    assert_eq!(image, scene.expected());
    assert_eq!(image[4096..8192], first[4096..8192], "the page of the table is the same as it was");
}

/// H20: another file is at the path. What is there is still read: the difference to a state is right for any file.
#[tokio::test(flavor = "multi_thread")]
async fn h20_a_file_that_was_replaced_is_another_database() {
    let scene = Scene::new(&rows(50)).await;
    let image = scene.full().await;
    let digest = digest_of(&image, 4096);
    let before = scene.source.look().await.unwrap().identity;
    let new = scene.folder.path().join("new.db");
    std::fs::write(&new, &image).unwrap();
    shell(&new, "UPDATE t SET body = 'new'; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE");
    for end in ["-wal", "-shm"] {
        drop(std::fs::remove_file(beside(&scene.path(), end)));
    }
    std::fs::rename(&new, scene.path()).unwrap();
    assert!(matches!(scene.adopt(1, digest).await, Adopted::Another(why) if why.contains("another file")));
    assert_ne!(scene.source.look().await.unwrap().identity, before);
    let (_, bytes) = scene.read(Want::Full, 2).await.unwrap();
    assert_eq!(bytes, scene.expected());
    assert_eq!(asked(&bytes, "SELECT DISTINCT body FROM t"), "new");
    // And the files of the old one are closed when they have no name.
    let open =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let old = format!("{} (deleted)", scene.path().display());
    let held = open.filter(|target| target.to_string_lossy() == old).count();
    assert_eq!(held, 0, "the old database is still open");
}

/// H19: an older state of the same file.
#[tokio::test(flavor = "multi_thread")]
async fn h19_an_older_database_is_told_by_its_change_counter() {
    let scene = Scene::new(&rows(50)).await;
    scene.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let old = scene.expected();
    scene.sql("CREATE TABLE later (a)");
    let (segment, _) = scene.read(Want::Full, 1).await.unwrap();
    let Scene { folder, database, source } = scene;
    database.close().await;
    drop((database, source));
    // Written over, as a volume that is put back does it: the inode stays.
    let path = folder.path().join("app.db");
    std::fs::write(&path, &old).unwrap();
    for end in ["-wal", "-shm"] {
        drop(std::fs::remove_file(beside(&path, end)));
    }
    let scene = Scene::over(folder).await;
    assert!(matches!(scene.adopt(1, segment.digest_after).await, Adopted::Another(why) if why.contains("older")));
}

/// H24: pages of another size.
#[tokio::test(flavor = "multi_thread")]
async fn h24_pages_of_another_size_need_a_full() {
    let scene = Scene::new(&rows(50).replace("WAL", "DELETE")).await;
    let image = scene.full().await;
    scene.sql("PRAGMA page_size = 8192; VACUUM");
    assert!(matches!(scene.adopt(1, digest_of(&image, 4096)).await, Adopted::Unknown(why) if why.contains("8192")));
    assert_eq!(scene.read(Want::Full, 2).await.unwrap().1, scene.expected());
}
