//! Beyond 1 GiB, where the lock page lies (H26).

use std::io::Read;

use super::*;

/// A database of 1 GiB that is a hole for the most part: its pages are zeros that nothing uses, which is no matter to reading them.
pub(in crate::backup) fn just_below_the_lock_page(path: &Path) {
    shell(
        path,
        "PRAGMA page_size = 65536; PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB); PRAGMA wal_checkpoint(TRUNCATE)",
    );
    let pages = lock_page(65_536) - 3;
    let mut bytes = std::fs::read(path).unwrap();
    bytes[28..32].copy_from_slice(&pages.to_be_bytes());
    std::fs::write(path, &bytes).unwrap();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(u64::from(pages) * 65_536).unwrap();
}

/// The digest of a file and of all its bytes, without holding it: it has a GiB.
pub(in crate::backup) fn digest(path: &Path) -> (Digest, blake3::Hash) {
    let (mut file, mut page) = (std::fs::File::open(path).unwrap(), vec![0; 65_536]);
    let (mut digest, mut all) = (Digest::default(), blake3::Hasher::new());
    for number in 1.. {
        match file.read_exact(&mut page) {
            Ok(()) if number == lock_page(65_536) => assert!(page.iter().all(|byte| *byte == 0), "a hole"),
            Ok(()) => digest = digest.plus(PageHash::of(number, &page)),
            Err(_) => break,
        }
        all.update(&page);
    }
    (digest, all.finalize())
}

/// A full, and what its bytes add up to.
async fn read_through(scene: &Scene, position: u64) -> (Segment, blake3::Hash) {
    let (into, mut pieces) = mpsc::channel::<Bytes>(1);
    let taking = async {
        let mut all = blake3::Hasher::new();
        while let Some(piece) = pieces.recv().await {
            all.update(&piece);
        }
        all.finalize()
    };
    let (segment, all) = tokio::join!(scene.source.read(Want::Full, place(position), into), taking);
    (segment.unwrap(), all)
}

/// The lock page is crossed by an increment: it is not in the log, SQLite leaves a hole for it, and the digests agree.
#[tokio::test(flavor = "multi_thread")]
async fn h26_the_lock_page_is_a_hole() {
    let folder = tempfile::tempdir().unwrap();
    just_below_the_lock_page(&folder.path().join("app.db"));
    let scene = Scene::over(folder).await;
    let copy = scene.folder.path().join("image.db");
    run("cp", &["--sparse=always", scene.path().to_str().unwrap(), copy.to_str().unwrap()]);
    let (full, bytes) = read_through(&scene, 1).await;
    assert_eq!((full.digest_after, bytes), digest(&copy));
    // Nothing uses the pages of the hole, which is what SQLite says of them.
    assert!(matches!(full.soundness, Some(Soundness::Damaged(_))), "{:?}", full.soundness);
    assert_eq!(scene.adopt(1, full.digest_after).await, Adopted::Known);
    scene.sql("INSERT INTO t VALUES (1, randomblob(500000))");
    let (segment, log) = scene.read(Want::Changes, 2).await.unwrap();
    assert!(segment.pages > lock_page(65_536) && segment.sent_pages < 20, "{segment:?}");
    let numbers: Vec<u32> =
        log[32..].chunks(24 + 65_536).map(|frame| u32::from_be_bytes(frame[..4].try_into().unwrap())).collect();
    assert!(
        numbers.is_sorted() && !numbers.contains(&lock_page(65_536)) && numbers.contains(&(lock_page(65_536) + 1)),
        "{numbers:?}"
    );
    std::fs::write(beside(&copy, "-wal"), &log).unwrap();
    let frames = numbers.len();
    assert_eq!(shell(&copy, "PRAGMA wal_checkpoint(FULL)"), format!("0|{frames}|{frames}"));
    assert_eq!(digest(&copy).0, segment.digest_after);
    assert_eq!(shell(&copy, "SELECT id, length(body) FROM t"), "1|500000");
    // A full that has the lock page within it.
    let (again, bytes) = read_through(&scene, 3).await;
    assert_eq!(again.digest_after, segment.digest_after);
    assert_eq!(bytes, digest(&copy).1);
}
