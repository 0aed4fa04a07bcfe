//! The database file is replaced under a running sidecar, as a restore by hand does.

use std::time::Duration;

use super::{QUICK, SOON, page_with, sql, value};
use crate::support::{Sidecar, run, wait_for};

#[test]
fn what_is_acknowledged_is_in_the_file_that_is_there() {
    let scratch = tempfile::tempdir().unwrap();
    let database = scratch.path().join("data/atlas.db");
    let copy = scratch.path().join("data/restored.db");
    let sidecar = Sidecar::start(scratch.path(), QUICK);
    page_with(&sidecar, "rows", |page| value(page, "atlas_sidecar_samples_written_total") > Some(50.0));
    run("sqlite3", &[database.to_str().unwrap(), &format!(".backup '{}'", copy.display())]);
    for beside in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{beside}", database.display()));
    }
    std::fs::rename(&copy, &database).unwrap();
    let there = "SELECT count(*) FROM system_metrics WHERE metric_name = 'node_load1'";
    let before: u32 = sql(&database, there).parse().unwrap();
    wait_for("rows in the new file", SOON.max(Duration::from_secs(20)), || {
        sql(&database, there).parse::<u32>().ok().filter(|now| *now > before + 2)
    });
    assert!(sidecar.log_text().contains("the database file was replaced"), "{}", sidecar.log_text());
    page_with(&sidecar, "collectors on the new file", |page| {
        value(page, "atlas_sidecar_source_up{source=\"queue\"}") == Some(1.0)
            && value(page, "atlas_sidecar_source_up{source=\"table\"}") == Some(1.0)
    });
    assert_eq!(sidecar.stop(), 0);
    assert_eq!(sql(&database, "PRAGMA integrity_check"), "ok");
}

/// E-4, E-5: targets that hang and queries that never end keep neither the host's nor the database's collectors from their turn.
#[test]
fn hanging_targets_and_endless_queries_harm_only_themselves() {
    let scratch = tempfile::tempdir().unwrap();
    // Accepts connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut config = QUICK.to_owned();
    for n in 0..20 {
        config += &format!("[[scrape.targets]]\nname = \"silent{n}\"\nurl = \"http://127.0.0.1:{port}/metrics\"\n");
    }
    for n in 0..3 {
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS value FROM n";
        config += &format!("[[scrape.queries]]\nname = \"endless{n}\"\nsql = \"{endless}\"\nvalues = [\"value\"]\n");
    }
    let sidecar = Sidecar::start(scratch.path(), &config);
    let age = |page: &str, source: &str| {
        let name = format!("atlas_sidecar_source_last_success_timestamp_seconds{{source=\"{source}\"}}");
        value(page, "node_time_seconds").zip(value(page, &name)).map(|(now, last)| now - last)
    };
    let since = std::time::Instant::now();
    while since.elapsed() < Duration::from_secs(6) {
        let page = page_with(&sidecar, "a first collection", |page| age(page, "queue").is_some());
        for source in ["queue", "table", "database", "cpu"] {
            assert!(age(&page, source).is_none_or(|age| age < 4.0), "`{source}` is {:?} s old", age(&page, source));
            assert_ne!(value(&page, &format!("atlas_sidecar_source_up{{source=\"{source}\"}}")), Some(0.0), "{source}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let page = sidecar.metrics();
    assert!(value(&page, "atlas_sidecar_source_failures_total{reason=\"timeout\",source=\"endless0\"}") > Some(0.0));
    assert!(value(&page, "atlas_sidecar_source_failures_total{reason=\"timeout\",source=\"silent0\"}") > Some(0.0));
    assert!(!sidecar.log_text().contains("acquire"), "{}", sidecar.log_text());
    assert_eq!(sidecar.stop(), 0);
}

/// In a guest's rollback-journal file every commit is on the disk before it counts, as the application expects of its own file.
#[tokio::test]
async fn a_guest_is_as_careful_as_the_journal_demands() {
    use atlas_sidecar::engine::sqlite::Database;
    let scratch = tempfile::tempdir().unwrap();
    for (mode, expected) in [("DELETE", 2), ("WAL", 1)] {
        let path = scratch.path().join(mode);
        run("sqlite3", &[path.to_str().unwrap(), &format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (x)")]);
        let database = Database::open(&path, false).await.unwrap();
        let mut writing = database.write().await.unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *writing).await.unwrap();
        assert_eq!(synchronous, expected, "{mode}");
    }
    let made = Database::open(&scratch.path().join("made"), true).await.unwrap();
    let mut writing = made.write().await.unwrap();
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *writing).await.unwrap();
    assert_eq!(synchronous, 1);
}
