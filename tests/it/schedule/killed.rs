//! `kill -9` of the real program in the middle of `upkeep` and of `log-pruning`: the database is whole, nothing is lost but what was to go, the dead run
//! stands in the log as what it was, and the next run finishes the work. For `cache-expiry` that is in `processes`, for compressing files in
//! `pruning_files`, for roll-ups and retention in `roll_up::crashes`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::shared::{Shared, instance};
use crate::support::postgres::Cluster;
use crate::support::{SIDECAR, wait_for};

/// What a wait of a loaded machine may take.
const LONG: Duration = Duration::from_secs(90);

fn configure(folder: &Path, shared: &Shared, more: &str) {
    std::fs::write(folder.join("sidecar.toml"), format!("{}{more}", shared.config())).unwrap();
}

fn command(folder: &Path, job: &str) -> Command {
    let mut command = Command::new(SIDECAR);
    command.args(["--config", "sidecar.toml", "jobs", "run", job, "--json"]).current_dir(folder).stdin(Stdio::null());
    command
}

/// A run that is killed once `in_the_middle`.
fn killed(folder: &Path, job: &str, mut in_the_middle: impl FnMut(&mut Child) -> bool) {
    let mut child = command(folder, job).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&format!("`{job}` to be in the middle of its work"), LONG, || {
        let now = in_the_middle(&mut child);
        assert!(child.try_wait().unwrap().is_none(), "it is through already: more work is needed");
        now.then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A run to its end: its words.
fn finished(folder: &Path, job: &str) -> String {
    let out = command(folder, job).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(answer["run"]["outcome"], "success", "{answer}");
    answer["run"]["words"].as_str().unwrap().to_owned()
}

/// The runs of `job` that were asked for, the oldest first.
fn asked(shared: &Shared, job: &str) -> String {
    shared.sql(&format!(
        "SELECT owner, coalesce(outcome, 'open'), coalesce(words, '') FROM sidecar_job_runs WHERE job = '{job}' AND reason = 'manual' ORDER BY id"
    ))
}

/// Old rows of a table go, young ones stay, whenever it is killed.
#[test]
fn log_pruning_of_tables() {
    for (scratch, shared) in Shared::both() {
        let folder = scratch.path();
        let rule = "[[retention.tables]]\ntable = \"access_log\"\ntime_column = \"at\"\nwhere = \"status < 500\"\n";
        configure(folder, &shared, rule);
        shared.sql("CREATE TABLE access_log (id varchar(36) PRIMARY KEY, at timestamp, status int, path text)");
        let old = 3_000;
        shared.slow_down("access_log");
        shared.insert("access_log", old, &format!("'old-' || n, '2020-01-01 00:00:00', 200, '{}'", Shared::wide()));
        shared.insert("access_log", 500, "'error-' || n, '2020-01-01 00:00:00', 500, '/'");
        shared.insert("access_log", 500, "'young-' || n, CURRENT_TIMESTAMP, 200, '/'");
        let left = || shared.sql("SELECT count(*) FROM access_log WHERE id LIKE 'old%'").parse::<u32>().unwrap();
        let mut before = old;
        for _ in 0..2 {
            killed(folder, "log-pruning", |_| left() < before);
            before = left();
            assert!(before > 0);
            shared.is_whole();
            assert!(
                asked(&shared, "log-pruning").ends_with(&format!("{}|open|", instance(folder))),
                "{}",
                asked(&shared, "log-pruning")
            );
        }
        let words = finished(folder, "log-pruning");
        assert_eq!(words, format!("{before} rows of `access_log` deleted"));
        let kept = "SELECT substr(id, 1, 5), count(*) FROM access_log GROUP BY 1 ORDER BY 1";
        assert_eq!(shared.sql(kept), "error|500\nyoung|500");
        let me = instance(folder);
        let dead = format!("{me}|lost|whoever ran it was gone");
        assert_eq!(asked(&shared, "log-pruning"), format!("{dead}\n{dead}\n{me}|success|{words}"));
        shared.is_whole();
    }
}

/// Pages are given back, statistics made and the full-text index refreshed, in whatever piece it dies.
#[test]
fn upkeep_on_sqlite() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let text = "[[database.full_text]]\ntable = \"content_metadata\"\nkey = \"id\"\ncolumns = [\"title\", \"url\"]\n";
    let shared = Shared::sqlite(folder);
    shared.sql("PRAGMA auto_vacuum = INCREMENTAL; VACUUM");
    configure(folder, &shared, text);
    let out = Command::new(SIDECAR).args(["--config", "sidecar.toml", "migrate"]).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(shared.sql("PRAGMA auto_vacuum"), "2");
    shared.insert(
        "content_metadata (id, title, url)",
        40_000,
        "'c' || n, 'word' || (n % 100), 'https://example.org/' || n",
    );
    shared.insert(
        "search_cache",
        60_000,
        "'row-' || n, n, hex(randomblob(400)), '{}', '2020-01-01 00:00:00', '2020-01-02 00:00:00'",
    );
    shared.sql("DELETE FROM search_cache");
    let number = |question: &str| shared.sql(question).parse::<u32>().unwrap();
    let unused = || number("SELECT freelist_count FROM pragma_freelist_count");
    let indexed = || number("SELECT count(*) FROM sidecar_fts_content_metadata");
    // In the full-text index, twice; then among the pages.
    let mut before = indexed();
    for _ in 0..2 {
        killed(folder, "upkeep", |_| indexed() > before);
        before = indexed();
        assert!(before < 40_000, "{before}");
        shared.is_whole();
    }
    let many = unused();
    assert!(many > 5_000, "{many}");
    killed(folder, "upkeep", |_| unused() < many);
    assert!(unused() > 0);
    shared.is_whole();
    let words = finished(folder, "upkeep");
    assert!(words.contains("incremental_vacuum"), "{words}");
    assert_eq!((unused(), indexed(), shared.count("content_metadata")), (0, 40_000, 40_000), "{words}");
    shared.sql("INSERT INTO sidecar_fts_content_metadata(sidecar_fts_content_metadata) VALUES ('integrity-check')");
    assert_eq!(
        number("SELECT count(*) FROM sidecar_fts_content_metadata WHERE sidecar_fts_content_metadata MATCH 'word42'"),
        400
    );
    let me = instance(folder);
    let dead = format!("{me}|lost|whoever ran it was gone\n").repeat(3);
    assert_eq!(asked(&shared, "upkeep"), format!("{dead}{me}|success|{words}"));
    assert!(!finished(folder, "upkeep").contains("incremental_vacuum"));
    shared.is_whole();
}

/// The sidecar dies while the server vacuums, and while it rebuilds an index: what the server then leaves behind is dropped by the next run.
#[test]
fn upkeep_on_postgresql() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    // A page of a VACUUM takes its time then.
    let shared = Shared::postgres(folder, Cluster::start_with(&[("vacuum_cost_limit", "1"), ("autovacuum", "off")]));
    configure(folder, &shared, "");
    let Shared::Postgres(cluster) = &shared else { unreachable!() };
    shared.insert(
        "search_cache",
        40_000,
        "md5(n::text), md5(n::text || 'x') || md5(n::text || 'y'), 'q', '{}', now(), now()",
    );
    shared.sql("DELETE FROM search_cache WHERE substr(id, 1, 1) < 'd'");
    shared.sql("SELECT pg_stat_force_next_flush()");
    let rows = shared.sql("SELECT count(*), sum(hashtext(id)) FROM search_cache");
    let psql = |sql: &str| cluster.psql("one", sql);
    let working = |view: &str| psql(&format!("SELECT count(*) FROM {view}")) != "0";
    killed(folder, "upkeep", |_| working("pg_stat_progress_vacuum"));
    // The server goes on without us, until somebody ends it.
    psql("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_vacuum");
    wait_for("the end of it", LONG, || (!working("pg_stat_progress_vacuum")).then_some(()));
    shared.is_whole();
    psql("ALTER SYSTEM SET vacuum_cost_limit = 10000");
    psql("SELECT pg_reload_conf()");
    // The setting of the command line is stronger: per role, for new sessions.
    psql("ALTER ROLE atlas SET vacuum_cost_limit = 10000");
    let words = finished(folder, "upkeep");
    assert!(words.contains("vacuum `search_cache`"), "{words}");

    // It waits for this transaction, having built its index.
    let sleep = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM search_cache; SELECT pg_sleep(600)";
    let mut holder =
        cluster.psql_command("one").args(["-c", sleep]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the transaction", LONG, || {
        (psql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1").then_some(())
    });
    let waits = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'";
    killed(folder, "upkeep", |_| psql(waits) != "0");
    let invalid = "SELECT count(*) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE NOT indisvalid AND relname LIKE '%_ccnew'";
    assert_eq!(psql(invalid), "1");
    psql("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index");
    wait_for("the end of it", LONG, || (!working("pg_stat_progress_create_index")).then_some(()));
    psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    holder.wait().unwrap();
    assert_eq!(psql(invalid), "1", "nobody was there to drop it");
    let words = finished(folder, "upkeep");
    assert!(words.contains("drop_leftover") && words.contains("reindex"), "{words}");
    shared.is_whole();
    assert_eq!(shared.sql("SELECT count(*), sum(hashtext(id)) FROM search_cache"), rows);
    let me = instance(folder);
    let runs = asked(&shared, "upkeep");
    let outcomes: Vec<&str> = runs.lines().filter_map(|line| line.split('|').nth(1)).collect();
    assert_eq!(outcomes, ["lost", "success", "lost", "success"], "{runs}");
    assert!(runs.lines().all(|line| line.starts_with(&me)), "{runs}");
}
