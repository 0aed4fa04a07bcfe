//! Crashes, and others at the same time.

use atlas_sidecar::engine::postgres::Database;
use atlas_sidecar::engine::postgres::schema::apply::Target;
use atlas_sidecar::engine::schema::apply::{Stepped, Work};
use atlas_sidecar::engine::schema::{KeySink, Part, Scope};
use atlas_sidecar::engine::{FullText, Settings};

use super::super::full_text;
use super::{Place, clock};

fn wanted() -> Vec<FullText> {
    vec![full_text("content_metadata", "id", &["title"])]
}

fn settings(place: &Place, database: &str) -> Settings {
    Settings { url: place.cluster.url(database), full_text: wanted(), widen_metric_value: true, ..place.settings() }
}

/// Ends after each step in turn; the next run always reaches the schema of one that was not interrupted. Some seconds, because each of a dozen steps
/// has its copy of the database.
#[tokio::test]
async fn wherever_a_migration_ends_the_next_one_completes_it() {
    let mut place = Place::made_by_the_application("older");
    place.migrate().await;
    // Of each kind of step a few are to be done again.
    place.sql(
        "DROP TABLE webhooks, sidecar_job_runs, sidecar_metrics_series, sidecar_metrics_rollup, sidecar_state, sidecar_metric_meta, sidecar_migrations; DELETE FROM api_keys;
         ALTER TABLE processing_queue DROP worker_id; DROP INDEX idx_system_metrics_recorded;
         UPDATE content_metadata SET access_count = NULL WHERE access_count = 0",
    );
    place.database = place.copy("reference");
    let whole = place.try_migrate(&settings(&place, "reference"), false).await.unwrap().files.remove(0).steps;
    for kind in [
        "create `sidecar",
        "create table",
        "add column",
        "create index",
        "full-text",
        "migration 002",
        "change the type",
        "admin key",
    ] {
        assert!(whole.iter().any(|step| step.contains(kind)), "{kind}: {whole:?}");
    }
    let reference = comparable(&place);

    place.database = "atlas_db".to_owned();
    for steps in 1..=whole.len() + 1 {
        let more = one_step(&place).await;
        assert_eq!(more, steps <= whole.len(), "{steps}");
        let copy = place.copy(&format!("after_{steps}"));
        let _ = std::fs::remove_dir_all(place.scene.path("state"));
        let report = place.try_migrate(&settings(&place, &copy), false).await.unwrap();
        assert_eq!(report.files[0].steps, whole[steps.min(whole.len())..], "after {steps} steps");
        let origin = std::mem::replace(&mut place.database, copy);
        assert_eq!(comparable(&place), reference, "after {steps} steps");
        place.database = origin;
    }
}

fn comparable(place: &Place) -> String {
    let counts = place.sql(
        "SELECT count(*), sum(access_count), (SELECT count(*) FROM sidecar_migrations), (SELECT count(*) FROM pg_index WHERE NOT indisvalid)
         FROM content_metadata",
    );
    format!("{counts}\n{}", place.schema())
}

/// One step by a process that then ends; whether it had something to do.
async fn one_step(place: &Place) -> bool {
    let database = place.open().await;
    let target = Target { database: &database, widen: true };
    let (sink, clock, wanted) = (KeySink::File(place.scene.path("elsewhere")), clock(), wanted());
    let mut work = Work::new(&target, (Part::Whole, Scope::All), &wanted, &sink, &clock);
    let more = loop {
        match work.step().await.unwrap() {
            Stepped::Rows => {}
            Stepped::Done { .. } => break true,
            Stepped::Nothing(_) => break false,
        }
    };
    database.close().await;
    more
}

/// In an empty database all is one transaction: what fails at its end leaves nothing, so a `run` that failed is not a guest the next time.
#[tokio::test]
async fn an_empty_database_gets_all_or_nothing() {
    let place = Place::new();
    let before = place.schema();
    std::fs::create_dir(place.scene.path("state")).unwrap();
    std::fs::write(place.scene.path("state/admin-key"), "in the way").unwrap();
    assert!(place.run_starts(&place.settings()).await.is_err());
    assert_eq!(place.schema(), before);
    std::fs::remove_file(place.scene.path("state/admin-key")).unwrap();
    assert!(place.run_starts(&place.settings()).await.unwrap().files[0].pending.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn migrations_at_once_do_everything_once() {
    for shape in ["empty", "base"] {
        let place = if shape == "empty" { Place::new() } else { Place::made_by_the_application(shape) };
        let settings = settings(&place, "atlas_db");
        let reports = tokio::join!(
            place.try_migrate(&settings, false),
            place.try_migrate(&settings, false),
            place.try_migrate(&settings, false)
        );
        let mut steps = Vec::new();
        for report in [reports.0, reports.1, reports.2] {
            steps.extend(report.unwrap().files.remove(0).steps);
        }
        let all = steps.len();
        steps.sort();
        steps.dedup();
        assert_eq!(steps.len(), all, "{shape}: each step was done by one of them");
        assert_eq!(place.sql("SELECT count(*) FROM api_keys"), "1");
        assert_eq!(place.sql("SELECT count(*) FROM pg_index WHERE NOT indisvalid"), "0");
        assert!(place.try_migrate(&settings, false).await.unwrap().unchanged());
    }
}

/// what a build that was cut off left under our name is dropped and made again; others' is not ours.
#[tokio::test]
async fn what_an_interrupted_build_left_is_made_again() {
    let place = Place::made_by_the_application("full");
    // A transaction that is older than the build, and does not end in time for it.
    let older = place.open().await;
    let mut writing = older.write().await.unwrap();
    sqlx::query("UPDATE processing_queue SET worker_id = 'x' WHERE priority = 1").execute(&mut *writing).await.unwrap();
    for index in [
        "idx_queue_pending ON processing_queue (priority, created_at) WHERE status = 'pending'",
        "somebodys ON processing_queue (status, id)",
    ] {
        let build = format!("CREATE INDEX CONCURRENTLY {index}");
        let out = place
            .cluster
            .psql_command("atlas_db")
            .args(["-c", "SET lock_timeout = '200ms'", "-c", &build])
            .output()
            .unwrap();
        assert!(!out.status.success());
    }
    writing.rollback().await.unwrap();
    older.close().await;
    let broken = "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid ORDER BY 1";
    assert_eq!(place.sql(broken), "idx_queue_pending\nsomebodys");

    let report = place.migrate().await;
    let again = report.files[0].steps.iter().filter(|s| s.contains("whose first building was interrupted")).count();
    assert_eq!(again, 1, "{report}");
    assert_eq!(place.sql(broken), "somebodys");
    assert_eq!(place.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'idx_queue_pending'::regclass"), "t");
    assert!(place.migrate().await.unchanged());
}

/// Migration 002 goes through the table in pieces, with the application's writes in between.
#[tokio::test]
async fn no_row_that_was_there_keeps_a_null_count() {
    let place = Place::made_by_sql(
        "CREATE TABLE content_metadata (id varchar(36) PRIMARY KEY, access_count integer, body text);
         INSERT INTO content_metadata SELECT i::text, CASE WHEN i % 7 = 0 THEN i END, repeat('x', 700) FROM generate_series(1, 5000) i;
         DELETE FROM content_metadata WHERE access_count < 700",
    );
    let kept = place.sql("SELECT sum(access_count) FROM content_metadata");
    let database = Database::open(&place.url(), None).await.unwrap();
    let target = Target { database: &database, widen: false };
    let (sink, clock) = (KeySink::File(place.scene.path("state")), clock());
    let mut work = Work::new(&target, (Part::Whole, Scope::All), &[], &sink, &clock);
    let mut batches = 0;
    loop {
        match work.step().await.unwrap() {
            Stepped::Nothing(_) => break,
            Stepped::Done { .. } => {}
            Stepped::Rows => {
                batches += 1;
                place.sql("DELETE FROM content_metadata WHERE ctid = (SELECT max(ctid) FROM content_metadata WHERE access_count IS NULL)");
            }
        }
    }
    database.close().await;
    assert!(batches > 3, "{batches}");
    assert_eq!(place.sql("SELECT count(*) FROM content_metadata WHERE access_count IS NULL"), "0");
    assert_eq!(place.sql("SELECT sum(access_count) FROM content_metadata"), kept);
}
