//! Beside tables that the application made: what `run` adds, what it says is missing, and what stays as it was.

use std::path::{Path, PathBuf};

use super::{QUICK, count, logged, page_with, sql, text, value};
use crate::support::{Sidecar, python, sidecar};

const WRITTEN: &str = "atlas_sidecar_samples_written_total";
const NO_TABLE: &str = "atlas_sidecar_samples_dropped_total{reason=\"no_table\"}";

/// The database as the application makes it, with rows in every table that `shape` has.
fn made_by_the_application(folder: &Path, shape: &str) -> PathBuf {
    let database = folder.join("app.db");
    python::script("atlas/atlas.py", &["create", database.to_str().unwrap(), shape]);
    database
}

const BESIDE: &str = "[database]\nurl = \"sqlite://app.db\"\ncreate = false\n";

/// Text of all that is in the file, but for the sidecar's own tables.
fn dump(database: &Path) -> String {
    // `.dump` takes patterns of what is wanted only, so the shell is asked for the names first.
    let names = sql(
        database,
        "SELECT group_concat(quote(name), ' ') FROM sqlite_schema WHERE name NOT LIKE 'sidecar%' AND tbl_name NOT LIKE 'sidecar%'",
    );
    sql(database, &format!(".dump {names}"))
}

#[test]
fn run_adds_nothing_but_its_own_tables() {
    // `older` lacks columns, so nothing can be stored there; `full` has all that is needed.
    for shape in ["older", "full"] {
        let scratch = tempfile::tempdir().unwrap();
        let database = made_by_the_application(scratch.path(), shape);
        adds_only_its_own(scratch.path(), &database, shape == "full");
    }
}

fn adds_only_its_own(folder: &Path, database: &Path, stores: bool) {
    let schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE tbl_name NOT LIKE 'sidecar%' ORDER BY 1, 2";
    let (before, content) = (sql(database, schema), dump(database));
    // Rows go to the application's table: a budget of one, so that it can be taken out again.
    let nothing = "[scrape.atlas]\nstore = []\n[scrape.host]\nstore = []\n";
    let sidecar = Sidecar::start(folder, &format!("{BESIDE}{QUICK}rows_per_day = 1\n{nothing}"));
    page_with(&sidecar, "the file's own statistics", |page| page.contains("atlas_database_file_bytes"));
    match stores {
        true => page_with(&sidecar, "the one row of the budget", |page| value(page, WRITTEN) == Some(1.0)),
        false => page_with(&sidecar, "samples without a place", |page| value(page, NO_TABLE) > Some(0.0)),
    };
    assert_eq!(sidecar.stop(), 0);
    assert_eq!(sql(database, schema), before);
    let added =
        sql(database, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'sidecar%' ORDER BY 1");
    assert_eq!(
        added,
        "sidecar_job_runs\nsidecar_metric_meta\nsidecar_metrics_rollup\nsidecar_metrics_series\nsidecar_migrations\nsidecar_state"
    );
    let own = "FROM system_metrics WHERE metric_name = 'atlas_sidecar_source_up'";
    assert_eq!(count(database, &format!("SELECT count(*) {own}")), i64::from(stores));
    sql(database, &format!("DELETE {own}"));
    assert_eq!(dump(database), content, "the rest is as it was, to the letter");
    assert!(!folder.join("data/state/admin-key").exists(), "keys are the operator's affair here");
}

#[test]
fn what_is_missing_is_off_and_said_until_migrate_adds_it() {
    let scratch = tempfile::tempdir().unwrap();
    let database = made_by_the_application(scratch.path(), "base");
    let config = format!("{BESIDE}{QUICK}");
    let running = Sidecar::start(scratch.path(), &config);
    let page = page_with(&running, "host series, the file's statistics, and samples without a table", |page| {
        page.contains("\nnode_load1 ")
            && page.contains("atlas_database_file_bytes")
            && value(page, NO_TABLE) > Some(0.0)
    });
    assert_eq!(value(&page, WRITTEN), Some(0.0));
    for off in ["cache", "queue", "content", "api_keys", "webhooks", "table"] {
        logged(&running, &format!("collector `{off}` is off: "), 1);
        assert!(!page.contains(&format!("source=\"{off}\"")), "{off}");
    }
    logged(&running, "`atlas-sidecar migrate` would add to the application's tables", 1);

    // The operator's act, while the sidecar runs; it takes it up at its next start.
    let out = sidecar(scratch.path(), &["--config", "sidecar.toml", "migrate"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert_eq!(running.stop(), 0);
    let running = Sidecar::start(scratch.path(), &config);
    let page = page_with(&running, "stored samples and the collectors that were off", |page| {
        value(page, WRITTEN) > Some(0.0) && page.contains("atlas_queue_items{") && page.contains("atlas_cache_rows")
    });
    assert_eq!(value(&page, NO_TABLE), Some(0.0));
    assert!(!running.log_text().rsplit("database opened").next().unwrap().contains("is off"));
    assert_eq!(running.stop(), 0);
    assert!(count(&database, "SELECT count(*) FROM system_metrics WHERE metric_name = 'node_load1'") > 0);
}

/// With `database.metrics_url` the application's file is only read, in whatever mode it is.
#[test]
fn a_separate_metrics_database_leaves_the_applications_file_byte_for_byte() {
    for journal in ["delete", "wal"] {
        let scratch = tempfile::tempdir().unwrap();
        let database = made_by_the_application(scratch.path(), "full");
        assert_eq!(sql(&database, &format!("PRAGMA journal_mode = {journal}")), journal);
        sql(&database, "PRAGMA wal_checkpoint(TRUNCATE)");
        let (before, bytes) = (sql(&database, ".dump"), std::fs::read(&database).unwrap());
        // `create = false` protects the application from an empty database; the other file is the sidecar's own.
        let check = ["check", "--set", "database.url=sqlite://app.db", "--set", "database.metrics_url=sqlite://own.db"];
        let out = sidecar(scratch.path(), &[&check[..], &["--set", "database.create=false"]].concat());
        assert!(text(&out.stdout).contains("`own.db` does not exist yet; `run` makes it"), "{out:?}");
        assert!(!scratch.path().join("own.db").exists());
        let config = format!("{BESIDE}metrics_url = \"sqlite://own.db\"\n{QUICK}");
        let sidecar = Sidecar::start(scratch.path(), &config);
        page_with(&sidecar, "rows, and the application's own", |page| {
            value(page, WRITTEN) > Some(100.0) && page.contains("atlas_queue_items{") && page.contains("atlas_api_key")
        });
        assert_eq!(sidecar.stop(), 0);
        assert!(std::fs::read(&database).unwrap() == bytes, "{journal}: the file has changed");
        let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("app.db-")), "{journal}: {left:?}");
        assert_eq!(sql(&database, ".dump"), before, "{journal}");
        assert!(count(&scratch.path().join("own.db"), "SELECT count(*) FROM system_metrics") > 100);
    }
}
