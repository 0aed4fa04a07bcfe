//! What happens where a guard is missing, from inside.

use std::process::Command;

use super::*;
use crate::backup::Adopted;
use crate::backup::manifest::Manifest;
use crate::backup::{Position, Source, Timeline, Want};
use crate::clock::Clock;
use crate::engine::Follow;
use crate::engine::sqlite::Database;
use crate::engine::sqlite::source::Settings;

struct NoneKept;

impl Kept for NoneKept {
    fn behind(&self, _: Place) -> std::io::Result<Vec<(Manifest, String)>> {
        Ok(Vec::new())
    }

    fn plain(&self, _: Place) -> std::io::Result<Box<dyn std::io::Read + Send>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

fn place(position: u64) -> Place {
    Place { timeline: Timeline(1), position: Position(position) }
}

/// An application, in a process of its own: this one must not have the files open by other means.
fn sql(folder: &tempfile::TempDir, sql: &str) {
    let path = folder.path().join("a.db");
    let out = Command::new("sqlite3").arg("-bail").arg(path).arg(sql).output().expect("`sqlite3` starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

async fn received<T>(pages: &Pages, ask: impl AsyncFnOnce(&Pages, mpsc::Sender<Bytes>) -> T) -> T {
    let (into, mut pieces) = mpsc::channel::<Bytes>(1);
    let receive = async { while pieces.recv().await.is_some() {} };
    tokio::join!(ask(pages, into), receive).0
}

async fn full(pages: &Pages, position: u64) -> Segment {
    received(pages, async |pages, into| pages.read(Want::Full, place(position), into).await.unwrap()).await
}

/// H5, sensitivity: between two transactions nothing is held for a moment, in which the application commits and its checkpoint lets the log begin anew. The rule for logs says so. Without it the tail goes on
/// in the new log, whose frames are all good, and what it has then is no state that ever was: nothing but the digest of the whole database can tell.
#[tokio::test]
async fn h5_a_moment_without_a_hold_is_noticed_and_would_be_a_lost_commit() {
    let folder = tempfile::tempdir().unwrap();
    sql(
        &folder,
        "PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, body);
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 9) INSERT INTO t SELECT n, randomblob(3900) FROM n",
    );
    let database = Database::open(&folder.path().join("a.db"), false).await.unwrap().keeping_log(true);
    let other = Database::open(&folder.path().join("other.db"), true).await.unwrap();
    let follow = Follow { log_max: 1 << 30, convert_to_wal: false };
    let settings = Settings { follow: Some(follow), ..Settings::default() };
    let pages = Pages::new(database.clone(), Clock::system(), folder.path().join("state"), settings);
    sql(&folder, "UPDATE t SET body = 'a' WHERE id = 1");
    let tip = Base { place: place(1), digest: full(&pages, 1).await.digest_after };
    assert_eq!(pages.adopt(&tip).await.unwrap(), Adopted::Known);
    assert_eq!(pages.begin(&tip, Arc::new(NoneKept)).await.unwrap(), Begun::Going);
    {
        let mut tailing = pages.tailing.lock().await;
        let following = tailing.going().unwrap();
        let elsewhere = Snapshot::begin(&other).await.unwrap();
        std::mem::replace(&mut following.hold.pin, elsewhere).end().await;
        sql(&folder, "UPDATE t SET body = 'lost' WHERE id = 3");
        sql(&folder, "PRAGMA wal_checkpoint(TRUNCATE)");
        sql(&folder, "UPDATE t SET body = 'seen' WHERE id = 7");
        let again = Snapshot::begin(&database).await.unwrap();
        std::mem::replace(&mut following.hold.pin, again).end().await;
        let header = following.hold.header().unwrap().unwrap();
        assert!(matches!(following.follow_log(&header), Err(SourceError::Broken(why)) if why.contains("anew")));
        // Who takes new salts for a new beginning, as others do.
        following.at = Spot::beginning(header.salts);
    }
    let cut = received(&pages, async |pages, into| pages.cut(place(2), into).await).await.unwrap().unwrap();
    assert!(cut.segment.sent_pages > 0, "it takes it without a word");
    pages.release().await;
    assert_ne!(full(&pages, 3).await.digest_after, cut.segment.digest_after, "and it is another database");
    database.close().await;
    other.close().await;
}

/// The growth of a database is looked at: a page that is missing would be zeros (H26).
#[tokio::test]
async fn h26_a_segment_without_a_page_that_the_database_grew_by_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    sql(&folder, "PRAGMA journal_mode = WAL; CREATE TABLE t (body); INSERT INTO t VALUES (randomblob(9000))");
    let database = Database::open(&folder.path().join("a.db"), false).await.unwrap();
    let follow = Follow { log_max: 1 << 30, convert_to_wal: false };
    let settings = Settings { follow: Some(follow), ..Settings::default() };
    let pages = Pages::new(database.clone(), Clock::system(), folder.path().join("state"), settings);
    sql(&folder, "INSERT INTO t VALUES (1)");
    let tip = Base { place: place(1), digest: full(&pages, 1).await.digest_after };
    assert_eq!(pages.adopt(&tip).await.unwrap(), Adopted::Known);
    assert_eq!(pages.begin(&tip, Arc::new(NoneKept)).await.unwrap(), Begun::Going);
    let mut tailing = pages.tailing.lock().await;
    let following = tailing.going().unwrap();
    let had = following.known.about.pages;
    let of = |pages: &[u32], least| frames::Frames { newest: pages.iter().map(|page| (*page, 1)).collect(), least };
    assert!(following.wanted(of(&[1, had + 1, had + 2], had + 2), had + 2).is_ok());
    assert!(following.wanted(of(&[1, had + 2], had + 2), had + 2).is_err());
    assert!(following.wanted(of(&[1, had + 1], had + 2), had + 2).is_err());
    assert!(following.wanted(of(&[1], had - 1), had).is_err(), "it was shorter in between");
    assert!(following.wanted(of(&[], had), had).is_err(), "a commit has a page");
    assert_eq!(following.wanted(of(&[1, had], had - 1), had - 1).unwrap(), [(1, 1)], "and nothing behind the end");
}
