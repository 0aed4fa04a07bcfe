//! The real program, killed and stopped in the middle of a job.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{SOON, faked, faked_as_before, sql, value};
use crate::support::{SIDECAR, Sidecar, wait_for};

/// A slot every minute, and nothing else that would write.
/// Nothing else in the run log.
const EVERY_MINUTE: &str = "[jobs.cache-expiry]\nschedule = \"* * * * *\"\n[jobs.metric-rollup]\nenabled = false\n[jobs.metric-retention]\nenabled = false\n[jobs.log-pruning]\nenabled = false\n[jobs.upkeep]\nenabled = false\n[scrape]\ninterval = \"1h\"\n";

/// A database whose cache takes some seconds to expire; made by a sidecar that ran before.
fn with_cache(folder: &Path, rows: u32) -> PathBuf {
    let sidecar = Sidecar::start(folder, "[scrape]\ninterval = \"1h\"\n");
    assert_eq!(sidecar.stop(), 0);
    let database = folder.join("data/atlas.db");
    fill(&database, rows);
    database
}

fn fill(database: &Path, rows: u32) {
    sql(
        database,
        &format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
             INSERT INTO search_cache SELECT lower(hex(randomblob(16))), hex(randomblob(16)), 'a query', '{{}}', '2020-01-01 00:00:00', '2020-01-02 00:00:00' FROM n"
        ),
    );
}

fn count(database: &Path) -> u32 {
    sql(database, "SELECT count(*) FROM search_cache").parse().unwrap()
}

/// Job runs by schedule: attempt, owner, outcome; the oldest first.
fn runs(database: &Path) -> String {
    let runs = "SELECT attempt, owner, coalesce(outcome, 'open') FROM sidecar_job_runs WHERE reason IN ('schedule', 'catch-up') ORDER BY id";
    sql(database, runs)
}

/// Some ten seconds of work on a loaded machine.
const ROWS: u32 = 60_000;

/// Waits for the slot, and until some rows are gone.
fn in_the_middle(database: &Path) {
    wait_for("the job to be in the middle of its work", Duration::from_secs(90), || {
        let left = count(database);
        assert!(left > 0, "it is through already: more rows are needed");
        (left < ROWS).then_some(())
    });
}

#[test]
fn a_job_that_was_killed_with_its_sidecar_is_taken_up_by_the_next_start() {
    let scratch = tempfile::tempdir().unwrap();
    let database = with_cache(scratch.path(), ROWS);
    let mut first = Sidecar::launch(scratch.path(), EVERY_MINUTE, &faked(&scratch, 5));
    in_the_middle(&database);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let owner = std::fs::read_to_string(scratch.path().join("data/state/instance")).unwrap().trim().to_owned();
    let left = count(&database);
    assert!(left > 0 && runs(&database) == format!("1|{owner}|open"), "{left} rows, {}", runs(&database));
    // At once, not after the lease: the state directory's lock tells that its owner is gone.
    // By the same clock; before the next minute.
    let second = Sidecar::launch(scratch.path(), EVERY_MINUTE, &faked_as_before(&scratch));
    second.wait_ready();
    wait_for("the slot to be taken up, and its end", Duration::from_secs(120), || {
        let first = runs(&database).lines().next().map(str::to_owned);
        assert!(
            first.as_ref().is_some_and(
                |run| run.starts_with(&format!("1|{owner}|open")) || run.starts_with(&format!("2|{owner}|"))
            ),
            "{first:?}"
        );
        (first == Some(format!("2|{owner}|success"))).then_some(())
    });
    assert_eq!(count(&database), 0);
    assert_eq!(second.stop(), 0);
    assert_eq!(sql(&database, "PRAGMA integrity_check"), "ok");
}

/// Two sidecars with state directories of their own. It takes a lease and a minute until a dead one is known to be dead: some two minutes.
#[test]
fn of_two_sidecars_one_runs_each_slot_and_takes_over_from_a_dead_one() {
    let (scratch, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let database = with_cache(scratch.path(), 0);
    let config = format!("{EVERY_MINUTE}[database]\nurl = \"sqlite://{}\"\n", database.display());
    let mut sides = [
        Sidecar::launch(scratch.path(), &config, &faked(&scratch, 5)),
        Sidecar::launch(elsewhere.path(), &config, &faked(&elsewhere, 5)),
    ];
    wait_for("the first slot", Duration::from_secs(90), || runs(&database).ends_with("success").then_some(()));
    fill(&database, ROWS);
    in_the_middle(&database);
    let slots = "SELECT count(*), count(DISTINCT slot) FROM sidecar_job_runs";
    assert_eq!(sql(&database, slots), "2|2", "one of them ran each");
    let open = "SELECT owner FROM sidecar_job_runs WHERE finished_at IS NULL";
    let owner = sql(&database, open);
    let instance =
        |folder: &Path| std::fs::read_to_string(folder.join("data/state/instance")).unwrap().trim().to_owned();
    let dead = usize::from(instance(scratch.path()) != owner);
    assert_eq!(owner, instance(&sides[dead].folder));
    sides[dead].child.kill().unwrap();
    sides[dead].child.wait().unwrap();
    let left = count(&database);
    assert!(left > 0);
    let other = instance(&sides[1 - dead].folder);
    wait_for("the other one to take over and end it", Duration::from_secs(200), || {
        (count(&database) == 0).then_some(())
    });
    wait_for("its record", SOON, || sql(&database, open).is_empty().then_some(()));
    let runs = runs(&database);
    let lost_or_taken = runs.contains(&format!("2|{other}|success")) || runs.contains(&format!("1|{owner}|lost"));
    assert!(lost_or_taken && runs.contains(&format!("|{other}|success")), "{runs}");
    let last = sides.into_iter().nth(1 - dead).unwrap();
    assert_eq!(last.stop(), 0);
}

/// S-9
#[test]
fn sigterm_waits_for_the_job_and_says_how_far_it_came() {
    let scratch = tempfile::tempdir().unwrap();
    let database = with_cache(scratch.path(), ROWS);
    let sidecar = Sidecar::start(scratch.path(), "[scrape]\ninterval = \"1h\"\n[jobs.cache-expiry]\nenabled = false\n");
    let asking = Command::new(SIDECAR)
        .args(["jobs", "run", "cache-expiry"])
        .current_dir(scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    in_the_middle(&database);
    let page = sidecar.metrics();
    assert_eq!(value(&page, "atlas_sidecar_job_running{job=\"cache-expiry\"}"), Some(1.0));
    assert_eq!(sidecar.stop(), 0);
    let out = asking.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("`cache-expiry`: cancelled") && said.contains("the sidecar was shutting down"), "{said}");
    assert!(count(&database) > 0, "it was not waited for to be through");
    let row = "SELECT outcome, words FROM sidecar_job_runs ORDER BY id DESC LIMIT 1";
    assert_eq!(sql(&database, row), "cancelled|the sidecar was shutting down");
    assert!(!scratch.path().join("data/state/control.sock").exists());
}
