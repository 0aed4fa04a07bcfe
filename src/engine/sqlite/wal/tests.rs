use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

use super::*;

/// A log as SQLite left it, and the database file before and after SQLite put the log into it.
pub(in super::super) struct Real {
    pub log: Vec<u8>,
    pub before: Vec<u8>,
    pub after: Vec<u8>,
    pub frames: u64,
}

async fn open(path: &Path, page_size: u32) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .page_size(page_size)
        .journal_mode(SqliteJournalMode::Wal)
        .pragma("wal_autocheckpoint", "0")
        .connect()
        .await
        .unwrap()
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Has SQLite write `statements`, each a transaction, into a log.
pub(in super::super) async fn real(page_size: u32, statements: &[&'static str]) -> Real {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let mut connection = open(&path, page_size).await;
    sqlx::raw_sql("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB); PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&mut connection)
        .await
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    for statement in statements {
        sqlx::raw_sql(*statement).execute(&mut connection).await.unwrap();
    }
    let log = std::fs::read(beside(&path, "-wal")).unwrap();
    let row = sqlx::query("PRAGMA wal_checkpoint(FULL)").fetch_one(&mut connection).await.unwrap();
    let frames = u64::try_from(row.get::<i64, _>(1)).unwrap();
    connection.close().await.unwrap();
    Real { log, before, after: std::fs::read(&path).unwrap(), frames }
}

/// Grows, changes, shrinks.
pub(in super::super) const WRITING: &[&str] = &[
    "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < 40) \
     INSERT INTO t SELECT k, randomblob(700) FROM n",
    "UPDATE t SET v = randomblob(900) WHERE k % 3 = 0",
    "DELETE FROM t WHERE k > 20; VACUUM",
];

/// A frame's page number, the size of the database where it commits, the page.
type Framed = (u32, Option<u32>, Vec<u8>);

fn read(log: &[u8]) -> Result<(Vec<Framed>, Header), String> {
    let mut reader = WalReader::new(log).map_err(|e| e.to_string())?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().map_err(|e| e.to_string())? {
        frames.push((frame.number, frame.commit, frame.page.to_vec()));
    }
    assert_eq!(reader.frames(), frames.len() as u64);
    Ok((frames, *reader.header()))
}

/// Puts frames into an image, as a checkpoint does.
fn apply(image: &mut Vec<u8>, frames: &[Framed]) {
    let pages = frames.last().unwrap().1.unwrap() as usize;
    for (number, _, page) in frames {
        let at = (*number as usize - 1) * page.len();
        if image.len() < at + page.len() {
            image.resize(at + page.len(), 0);
        }
        image[at..at + page.len()].copy_from_slice(page);
    }
    image.resize(pages * frames[0].2.len(), 0);
}

#[tokio::test]
async fn what_sqlite_wrote_is_read_as_sqlite_reads_it() {
    for page_size in [512, 4096, 65_536] {
        let mut real = real(page_size, WRITING).await;
        let (frames, header) = read(&real.log).unwrap();
        assert_eq!(header.page_size, page_size);
        assert_eq!(frames.len() as u64, real.frames);
        assert!(frames.iter().filter(|(_, commit, _)| commit.is_some()).count() >= 3);
        apply(&mut real.before, &frames);
        assert!(real.before == real.after, "pages of {page_size} bytes");
    }
}

#[tokio::test]
async fn a_log_of_ours_is_to_the_byte_what_sqlite_wrote() {
    let real = real(4096, WRITING).await;
    let (frames, header) = read(&real.log).unwrap();
    // SQLite adds up in the order of its machine's words.
    if header.order == Order::Little {
        let mut ours = WalWriter::new(Vec::new(), header.page_size, header.sequence, header.salts).unwrap();
        for (number, commit, page) in &frames {
            ours.frame(*number, page, *commit).unwrap();
        }
        assert!(ours.finish().unwrap() == real.log);
    }
}

/// SQLite takes a log of ours in either byte order, made anew of the newest version of each page.
#[tokio::test]
async fn sqlite_applies_a_log_of_ours() {
    for order in [Order::Little, Order::Big] {
        let real = real(1024, WRITING).await;
        let (frames, _) = read(&real.log).unwrap();
        let pages = frames.last().unwrap().1.unwrap();
        let newest: std::collections::BTreeMap<u32, &[u8]> =
            frames.iter().map(|(number, _, page)| (*number, page.as_slice())).filter(|(n, _)| *n <= pages).collect();
        let mut ours = WalWriter::new(Vec::new(), 1024, 7, [1, 2]).unwrap();
        ours.header.order = order;
        ours.to = ours.header.to_bytes().to_vec();
        ours.sums = ours.header.sums(&ours.header.to_bytes());
        let last = *newest.keys().last().unwrap();
        for (number, page) in &newest {
            ours.frame(*number, page, (*number == last).then_some(pages)).unwrap();
        }
        let log = ours.finish().unwrap();
        assert_eq!(read(&log).unwrap().0.len(), newest.len());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.db");
        std::fs::write(&path, &real.before).unwrap();
        std::fs::write(beside(&path, "-wal"), &log).unwrap();
        let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        let row = sqlx::query("PRAGMA wal_checkpoint(FULL)").fetch_one(&mut connection).await.unwrap();
        assert_eq!(row.get::<i64, _>(2), newest.len() as i64, "{order:?}");
        connection.close().await.unwrap();
        assert!(std::fs::read(&path).unwrap() == real.after, "{order:?}");
    }
}

#[tokio::test]
async fn a_log_that_is_not_whole_is_an_error_and_no_end() {
    let real = real(512, WRITING).await;
    let whole = &real.log;
    let frame = FRAME_HEADER_BYTES + 512;
    let (frames, _) = read(whole).unwrap();
    let ends: Vec<usize> =
        (1..=frames.len()).filter(|at| frames[at - 1].1.is_some()).map(|at| HEADER_BYTES + at * frame).collect();
    for length in (0..whole.len()).filter(|length| *length < 2000 || length % 61 == 0 || length % frame == HEADER_BYTES)
    {
        let what = read(&whole[..length]);
        assert_eq!(what.is_ok(), ends.contains(&length), "{length} of {} bytes: {what:?}", whole.len());
    }
    let mut damaged = whole.clone();
    for at in (0..whole.len()).filter(|at| *at < 3 * frame || at % 47 == 0) {
        damaged[at] ^= 1 << (at % 8);
        // The sequence is SQLite's own and in the header's sums all the same.
        assert!(read(&damaged).is_err(), "a bit at {at}");
        damaged[at] ^= 1 << (at % 8);
    }
    let trailing = [whole.as_slice(), &[0]].concat();
    assert!(read(&trailing).unwrap_err().contains("has 1 bytes instead of 536"));
    let older = [whole.as_slice(), &vec![7; frame]].concat();
    assert!(read(&older).unwrap_err().contains("salts"));
    assert!(read(&whole[..HEADER_BYTES]).unwrap_err().contains("no frame"));
    assert!(read(&whole[..HEADER_BYTES + frame]).unwrap_err().contains("does not end a transaction"));
}

/// Whole frames in another order, twice, or without one of them.
#[tokio::test]
async fn frames_cannot_change_places() {
    let real = real(512, WRITING).await;
    let frame = FRAME_HEADER_BYTES + 512;
    let at = |n: usize| HEADER_BYTES + n * frame;
    let log = &real.log;
    let swapped = [&log[..at(1)], &log[at(2)..at(3)], &log[at(1)..at(2)], &log[at(3)..]].concat();
    let twice = [&log[..at(2)], &log[at(1)..]].concat();
    let without = [&log[..at(1)], &log[at(2)..]].concat();
    for (what, log) in [("swapped", swapped), ("twice", twice), ("without", without)] {
        assert!(read(&log).unwrap_err().contains("sums"), "{what}");
    }
}

#[test]
fn a_header_of_another_make_is_named() {
    let header = Header { order: Order::Big, page_size: 4096, sequence: 3, salts: [4, 5] };
    let bytes = header.to_bytes();
    assert_eq!(Header::parse(&bytes), Ok(header));
    let changed = |at: usize, word: u32| {
        let mut bytes = bytes;
        bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        let mut sums = Sums::new(Order::Big);
        sums.add(&bytes[..24]);
        put_words(&mut bytes[24..], &sums.values());
        Header::parse(&bytes).unwrap_err()
    };
    assert!(changed(0, 0x5351_4c69).contains("0x53514c69"));
    assert!(changed(4, 3_007_001).contains("version 3007001"));
    for size in [0, 1, 256, 1000, 131_072] {
        assert!(changed(8, size).contains(&format!("{size} bytes")));
    }
}
