//! Beyond 1 GiB, where the lock page lies (H26), and a VACUUM with more pages than are kept in memory (H25).

use super::super::source::large::{digest, just_below_the_lock_page};
use super::*;

/// Follows a database too large to be held here, from a full on.
async fn followed(folder: &TempDir) -> (Database, Arc<Pages>, Base) {
    let database = Database::open(&folder.path().join("app.db"), false).await.unwrap().keeping_log(true);
    let source = source_of(folder, &database, FOLLOW);
    let mut tip = Base { place: place(1), digest: Default::default() };
    for want in [Want::Full, Want::Changes] {
        let (into, mut pieces) = mpsc::channel(1);
        let taking = async { while pieces.recv().await.is_some() {} };
        let (segment, ()) = tokio::join!(source.read(want, tip.place, into), taking);
        tip.digest = segment.unwrap().digest_after;
        assert_eq!(source.adopt(&tip).await.unwrap(), Adopted::Known);
        if want == Want::Full {
            assert!(matches!(source.begin(&tip, Arc::new(Spool::default())).await.unwrap(), Begun::Gap(_)));
            tip.place = place(2);
        }
    }
    (database, source, tip)
}

async fn cut(source: &Pages, position: u64) -> (Cut, Vec<u8>) {
    let (into, pieces) = mpsc::channel(1);
    let (cut, bytes) = tokio::join!(source.cut(place(position), into), all(pieces));
    source.keep(place(position)).await.unwrap();
    (cut.unwrap().unwrap(), bytes)
}

/// The lock page is crossed upwards and downwards: it is in no segment, and the digests agree.
#[tokio::test(flavor = "multi_thread")]
async fn h26_the_lock_page_is_in_no_segment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    just_below_the_lock_page(&path);
    let copy = folder.path().join("image.db");
    run("cp", &["--sparse=always", path.to_str().unwrap(), copy.to_str().unwrap()]);
    let (_database, source, _) = followed(&folder).await;
    for (position, sql) in (3..).zip(["INSERT INTO t VALUES (1, randomblob(500000))", "VACUUM"]) {
        shell(&path, sql);
        let (cut, bytes) = cut(&source, position).await;
        let lock_page = (1 << 30) / 65_536 + 1;
        assert_eq!(cut.segment.pages > lock_page, position == 3, "{cut:?}");
        let mut log = WalReader::new(bytes.as_slice()).unwrap();
        while let Some(frame) = log.next_frame().unwrap() {
            assert_ne!(frame.number, lock_page);
        }
        std::fs::write(beside(&copy, "-wal"), &bytes).unwrap();
        let frames = cut.segment.sent_pages;
        assert_eq!(shell(&copy, "PRAGMA wal_checkpoint(FULL)"), format!("0|{frames}|{frames}"));
        assert_eq!(digest(&copy).0, cut.segment.digest_after, "{sql}");
    }
    source.settle().await.unwrap();
}

/// H25: more pages in one transaction than hashes are kept in memory: a page map is written on the way, and is the one in use when the segment is kept.
#[tokio::test(flavor = "multi_thread")]
async fn h25_a_segment_of_more_pages_than_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    shell(
        &path,
        "PRAGMA page_size = 512; PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300) INSERT INTO t SELECT n, zeroblob(200000) FROM n",
    );
    let mut image = std::fs::read(&path).unwrap();
    let (_database, source, mut tip) = followed(&folder).await;
    let spool = Spool::default();
    for (position, sql) in (3..).zip([
        "DELETE FROM t WHERE id % 10 = 0; VACUUM",
        "UPDATE t SET body = 'x' WHERE id = 5",
        "INSERT INTO t SELECT id + 1000, body FROM t; VACUUM",
    ]) {
        shell(&path, sql);
        let (cut, bytes) = cut(&source, position).await;
        image = laid_over(&image, &bytes);
        assert!(cut.segment.digest_after == digest_of(&image, 512), "{sql}");
        tip = Base { place: place(position), digest: cut.segment.digest_after };
        let manifest = manifest_of(tip.place, &cut.segment, bytes.len() as u64);
        spool.0.lock().unwrap().insert(tip.place, (manifest, cut.resume, bytes));
    }
    assert!(image.len() / 512 > 100_000);
    // From the map that was written on the way.
    assert_eq!(source.begin(&tip, Arc::new(spool)).await.unwrap(), Begun::Going);
    shell(&path, "UPDATE t SET body = 'y' WHERE id = 6");
    let (cut, bytes) = cut(&source, 6).await;
    assert_eq!(cut.segment.digest_after, digest_of(&laid_over(&image, &bytes), 512));
}
