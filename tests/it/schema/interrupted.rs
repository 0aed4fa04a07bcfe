//! Crashes, and others at the same time.

use std::time::Duration;

use atlas_sidecar::engine::schema::KeySink;
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::schema::apply::{Stepped, Work};
use atlas_sidecar::engine::sqlite::schema::{Part, Scope};
use atlas_sidecar::engine::{FullText, Settings};

use super::{Scene, clock, full_text};
use crate::support::wait_for;

fn wanted() -> Vec<FullText> {
    vec![full_text("content_metadata", "id", &["title"]), full_text("authors", "id", &["name", "order", "it\"s"])]
}

/// Ends after each step in turn; the next run always reaches the schema of one that was not interrupted, and rows stay. Some seconds, because that is
/// some five hundred transactions.
#[tokio::test]
async fn wherever_a_migration_ends_the_next_one_completes_it() {
    let origin = Scene::made_by_the_application("older");
    let settings = |scene: &Scene| Settings { full_text: wanted(), ..scene.settings() };
    let reference = copy_of(&origin);
    reference.try_migrate(&settings(&reference), false).await.unwrap();
    let (rows, objects) = (origin.rows(), reference.objects());
    let before = origin.dump(&rows);

    let slow = copy_of(&origin);
    for steps in 1.. {
        assert!(steps < 100, "it never ends");
        let more = one_step(&slow).await;
        let scene = copy_of(&slow);
        let report = scene.try_migrate(&settings(&scene), false).await.unwrap();
        assert_eq!(scene.objects(), objects, "after {steps} steps");
        assert_eq!(scene.dump(&rows), before, "after {steps} steps");
        let counts = "SELECT count(*) FROM content_metadata WHERE access_count IS NULL;
                      SELECT count(*) FROM sidecar_fts_content_metadata; PRAGMA integrity_check";
        assert_eq!(scene.sql(counts), "0\n200\nok\n", "after {steps} steps");
        if !more {
            assert!(report.unchanged() && steps > 20, "{steps}");
            break;
        }
    }
}

fn copy_of(scene: &Scene) -> Scene {
    let copy = Scene::new();
    std::fs::copy(scene.path("atlas.db"), copy.path("atlas.db")).unwrap();
    copy
}

/// One step by a process that then ends; whether it had something to do. A filling step is gone through to its end: where those are
/// interrupted is tested elsewhere.
async fn one_step(scene: &Scene) -> bool {
    let database = Database::open(&scene.path("atlas.db"), false).await.unwrap();
    let (sink, clock, wanted) = (KeySink::File(scene.path("state")), clock(), wanted());
    let mut work = Work::new(&database, (Part::Whole, Scope::All), &wanted, &sink, &clock);
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

/// `kill -9` in the middle of filling, each time at another place; the process is this test again.
#[tokio::test]
async fn a_killed_migration_is_completed_by_the_next() {
    const CHILD: &str = "ATLAS_TEST_KILLED_DATABASE";
    let wanted = vec![full_text("notes", "id", &["body"])];
    if let Some(folder) = std::env::var_os(CHILD) {
        let url = format!("sqlite://{}/atlas.db", folder.display());
        let scene = Scene::new();
        scene.try_migrate(&Settings { url, full_text: wanted, ..scene.settings() }, false).await.unwrap();
        return;
    }
    let scene = Scene::made_by_sql(
        "PRAGMA journal_mode = wal; CREATE TABLE notes(id VARCHAR(36) PRIMARY KEY, body TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
         INSERT INTO notes SELECT format('%08x', (i * 2654435761) & 0xffffffff), 'word' || i FROM n;",
    );
    // The copy has its own name until it is complete; then this statement fails, and the shell's answer is empty.
    let copied = || {
        let out = std::process::Command::new("sqlite3")
            .args([&scene.text("atlas.db"), "SELECT count(*) FROM sidecar_fts_notes_filling"])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap().trim().parse::<u32>().ok()
    };
    let (mut last, mut kills) = (0, 0);
    for _ in 0..3 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "schema::interrupted::a_killed_migration_is_completed_by_the_next"])
            .env(CHILD, scene.folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait_for("some rows more, or the end", Duration::from_secs(60), || {
            copied().filter(|n| *n > last).or_else(|| child.try_wait().unwrap().map(|_| 0))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        if let Some(rows) = copied() {
            (last, kills) = (rows, kills + 1);
        }
    }
    assert!(kills > 0, "none was killed in the middle");
    scene.try_migrate(&Settings { full_text: wanted, ..scene.settings() }, false).await.unwrap();
    let difference = "SELECT count(*) FROM (SELECT id, body FROM notes EXCEPT SELECT key, body FROM sidecar_fts_notes);
                      SELECT count(*) FROM sidecar_fts_notes; PRAGMA integrity_check";
    assert_eq!(scene.sql(difference), "0\n60000\nok\n");
}

/// In an empty database all is one transaction: what fails at its end leaves nothing, so a `run` that failed is not a guest the next time.
#[tokio::test]
async fn an_empty_database_gets_all_or_nothing() {
    let scene = Scene::made_by_sql("PRAGMA user_version = 1");
    std::fs::create_dir(scene.path("state")).unwrap();
    std::fs::write(scene.path("state/admin-key"), "in the way").unwrap();
    assert!(scene.try_migrate(&scene.settings(), false).await.is_err());
    assert_eq!(scene.objects(), "");
    std::fs::remove_file(scene.path("state/admin-key")).unwrap();
    scene.migrate().await;
    assert_ne!(scene.objects(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_migrations_at_once_do_everything_once() {
    for kind in ["empty", "base"] {
        let scene = if kind == "empty" { Scene::new() } else { Scene::made_by_the_application(kind) };
        let settings = Settings {
            create: true,
            full_text: vec![full_text("content_metadata", "id", &["title"])],
            ..scene.settings()
        };
        if kind == "empty" {
            std::fs::write(scene.path("atlas.db"), "").unwrap();
        }
        let reports = tokio::join!(
            scene.try_migrate(&settings, false),
            scene.try_migrate(&settings, false),
            scene.try_migrate(&settings, false)
        );
        let mut steps = Vec::new();
        for report in [reports.0, reports.1, reports.2] {
            steps.extend(report.unwrap().files.remove(0).steps);
        }
        let all = steps.len();
        steps.sort();
        steps.dedup();
        assert_eq!(steps.len(), all, "{kind}: each step was done by one of them");
        assert_eq!(scene.sql("SELECT count(*) FROM api_keys; PRAGMA integrity_check"), "1\nok\n");
        assert!(scene.try_migrate(&settings, false).await.unwrap().unchanged());
    }
}

/// E-6: another writer is waited for, and named when it does not end.
#[tokio::test]
async fn a_lock_that_somebody_else_holds_is_waited_for() {
    let scene = Scene::made_by_the_application("base");
    let application = Database::open(&scene.path("atlas.db"), false).await.unwrap();
    let database = Database::open(&scene.path("atlas.db"), false).await.unwrap();
    let (sink, clock) = (KeySink::File(scene.path("state")), clock());
    let mut work = Work::new(&database, (Part::Whole, Scope::All), &[], &sink, &clock);
    work.patience = Duration::ZERO;
    let writing = application.write().await.unwrap();
    let error = work.step().await.unwrap_err();
    assert!(error.message.contains("locked by another process") && error.hint.is_some(), "{error}");

    work.patience = Duration::from_secs(60);
    let (stepped, ()) = tokio::join!(work.step(), async {
        // Longer than a connection waits by itself, so that the step has to come back.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        writing.rollback().await.unwrap();
    });
    assert!(matches!(stepped.unwrap(), Stepped::Done { .. }));
    application.close().await;
    database.close().await;
}

/// Migration 002 goes through the table in pieces, with the application's writes in between.
#[tokio::test]
async fn no_row_that_was_there_keeps_a_null_count() {
    let scene = Scene::made_by_sql(
        "CREATE TABLE content_metadata(id VARCHAR(36) PRIMARY KEY, access_count INTEGER);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         INSERT INTO content_metadata SELECT format('%d', i), CASE WHEN i % 7 = 0 THEN i END FROM n;
         DELETE FROM content_metadata WHERE rowid <= 1000;",
    );
    let kept = scene.sql("SELECT sum(access_count) FROM content_metadata");
    let database = Database::open(&scene.path("atlas.db"), false).await.unwrap();
    let (sink, clock) = (KeySink::File(scene.path("state")), clock());
    let mut work = Work::new(&database, (Part::Whole, Scope::All), &[], &sink, &clock);
    let mut batches = 0;
    loop {
        match work.step().await.unwrap() {
            Stepped::Nothing(_) => break,
            Stepped::Done { .. } => {}
            Stepped::Rows => {
                batches += 1;
                scene.sql("DELETE FROM content_metadata WHERE rowid = (SELECT max(rowid) FROM content_metadata WHERE access_count IS NULL)");
            }
        }
    }
    database.close().await;
    assert!(batches > 4, "{batches}");
    assert_eq!(scene.sql("SELECT count(*) FROM content_metadata WHERE access_count IS NULL"), "0\n");
    assert_eq!(scene.sql("SELECT sum(access_count) FROM content_metadata"), kept);
}
