//! Beside an application that works: who waits for whom, and how long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atlas_sidecar::engine::postgres::schema::apply::Target;
use atlas_sidecar::engine::schema::apply::{Stepped, Work};
use atlas_sidecar::engine::schema::{KeySink, Part, Scope};

use super::{Place, clock};

/// E-6: a lock that the application holds is waited for, and named when it does not end.
#[tokio::test]
async fn a_lock_that_somebody_else_holds_is_waited_for() {
    let place = Place::made_by_the_application("base");
    place.run_starts(&place.settings()).await.unwrap();
    let (application, database) = (place.open().await, place.open().await);
    let target = Target { database: &database, widen: false };
    let (sink, clock) = (KeySink::File(place.scene.path("state")), clock());
    let mut work = Work::new(&target, (Part::Whole, Scope::All), &[], &sink, &clock);
    work.patience = Duration::ZERO;
    let mut writing = application.write().await.unwrap();
    sqlx::query("LOCK TABLE content_metadata IN SHARE MODE").execute(&mut *writing).await.unwrap();
    let error = work.step().await.unwrap_err();
    assert!(error.message.contains("locked by another process: add column `content_metadata`"), "{error}");
    assert!(error.hint.is_some() && !place.sql("\\d content_metadata").contains("search_indexed_at"));

    work.patience = Duration::from_secs(60);
    let (stepped, ()) = tokio::join!(work.step(), async {
        // Longer than a step waits by itself, so that it has to come back.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        writing.rollback().await.unwrap();
    });
    assert!(matches!(stepped.unwrap(), Stepped::Done { .. }));
    application.close().await;
    database.close().await;
}

/// A start that finds nothing to do does not wait for anybody.
#[tokio::test]
async fn a_start_with_nothing_to_do_takes_no_lock() {
    let place = Place::made_by_the_application("base");
    place.migrate().await;
    let application = place.open().await;
    let mut writing = application.write().await.unwrap();
    sqlx::query("LOCK TABLE sidecar_state, processing_queue IN EXCLUSIVE MODE").execute(&mut *writing).await.unwrap();
    let start = Instant::now();
    assert!(place.run_starts(&place.settings()).await.unwrap().unchanged());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    drop(writing);
    application.close().await;
}

/// The application writes all the time, and a reader of its own keeps tables open for seconds: our waiting must not hold its writes for longer than
/// a step waits. Some ten seconds, because the reader is slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_applications_writes_go_on() {
    let place = Place::made_by_the_application("base");
    place.sql_as_owner(
        "INSERT INTO processing_queue (id, status, created_at) SELECT 'r' || i, 'done', now() FROM generate_series(1, 100000) i",
    );
    let (writer, reader) = (place.open().await, place.open().await);
    let (done, mut longest, mut writes) = (AtomicBool::new(false), Duration::ZERO, 0);
    let settings = place.settings();
    let write = async {
        while !done.load(Ordering::Relaxed) {
            let start = Instant::now();
            let mut transaction = writer.write().await.unwrap();
            sqlx::query("SET LOCAL lock_timeout = 0").execute(&mut *transaction).await.unwrap();
            for sql in [
                "UPDATE processing_queue SET status = 'pending' WHERE id = 'r7'",
                "INSERT INTO content_metadata (id) VALUES (gen_random_uuid()::text)",
            ] {
                sqlx::query(sql).execute(&mut *transaction).await.unwrap();
            }
            transaction.commit().await.unwrap();
            longest = longest.max(start.elapsed());
            writes += 1;
        }
    };
    let read = async {
        for _ in 0..3 {
            let mut transaction = reader.write().await.unwrap();
            sqlx::query("SELECT count(*) FROM processing_queue, LATERAL (SELECT pg_sleep(0)) x LIMIT 1")
                .execute(&mut *transaction)
                .await
                .unwrap();
            sqlx::query("SELECT pg_sleep(2.5) FROM content_metadata LIMIT 1").execute(&mut *transaction).await.unwrap();
            transaction.commit().await.unwrap();
        }
    };
    let migrating = async {
        let report = place.try_migrate(&settings, false).await;
        done.store(true, Ordering::Relaxed);
        report
    };
    let (report, (), ()) = tokio::join!(migrating, write, read);
    let report = report.unwrap();
    assert!(report.files[0].steps.len() > 20 && writes > 100, "{writes} writes\n{report}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    writer.close().await;
    reader.close().await;
}

/// Another migration is waited for, and named.
#[tokio::test]
async fn another_migration_is_waited_for() {
    let place = Place::made_by_the_application("base");
    let (other, database) = (place.open().await, place.open().await);
    let mut holding = other.write().await.unwrap();
    let lock = atlas_sidecar::engine::postgres::schema::apply::LOCK;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(lock).execute(&mut *holding).await.unwrap();
    let target = Target { database: &database, widen: false };
    let (sink, clock) = (KeySink::File(place.scene.path("state")), clock());
    let mut work = Work::new(&target, (Part::Whole, Scope::All), &[], &sink, &clock);
    work.patience = Duration::ZERO;
    let error = work.step().await.unwrap_err();
    assert!(error.message.contains("another migration is at work"), "{error}");
    drop(holding);
    other.close().await;
    database.close().await;
}
