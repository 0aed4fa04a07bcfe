//! The real program, killed and stopped in the middle of a job.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::shared::{MANY, Shared, instance};
use super::{SOON, faked, faked_as_before, sql, value};
use crate::support::postgres::Cluster;
use crate::support::{SIDECAR, Sidecar, wait_for};

/// A slot every minute, and nothing else that would write.
const EVERY_MINUTE: &str = "[jobs.cache-expiry]\nschedule = \"* * * * *\"\n[jobs.metric-rollup]\nenabled = false\n[jobs.metric-retention]\nenabled = false\n[jobs.log-pruning]\nenabled = false\n[jobs.upkeep]\nenabled = false\n[scrape]\ninterval = \"1h\"\n";

/// A file whose cache takes some seconds to expire; made by a sidecar that ran before.
fn with_cache(folder: &Path) -> PathBuf {
    let shared = Shared::sqlite(folder);
    shared.fill_cache();
    folder.join("data/atlas.db")
}

fn count(database: &Path) -> u32 {
    sql(database, "SELECT count(*) FROM search_cache").parse().unwrap()
}

/// Job runs by schedule: attempt, owner, outcome; the oldest first.
fn runs(database: &Path) -> String {
    let runs = "SELECT attempt, owner, coalesce(outcome, 'open') FROM sidecar_job_runs WHERE reason IN ('schedule', 'catch-up') ORDER BY id";
    sql(database, runs)
}

/// Waits for the slot, and until some rows are gone.
fn in_the_middle(database: &Path) {
    wait_for("the job to be in the middle of its work", Duration::from_secs(90), || {
        let left = count(database);
        assert!(left > 0, "it is through already: more rows are needed");
        (left < MANY).then_some(())
    });
}

#[test]
fn a_job_that_was_killed_with_its_sidecar_is_taken_up_by_the_next_start() {
    let scratch = tempfile::tempdir().unwrap();
    let database = with_cache(scratch.path());
    let mut first = Sidecar::launch(scratch.path(), EVERY_MINUTE, &faked(&scratch, 5));
    in_the_middle(&database);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let owner = instance(scratch.path());
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
fn of_two_sidecars_one_runs_each_slot(scratch: tempfile::TempDir, shared: &Shared) {
    let elsewhere = tempfile::tempdir().unwrap();
    let config = format!("{EVERY_MINUTE}{}", shared.config());
    let mut sides = [
        Sidecar::launch(scratch.path(), &config, &faked(&scratch, 5)),
        Sidecar::launch(elsewhere.path(), &config, &faked(&elsewhere, 5)),
    ];
    let runs = || shared.runs("cache-expiry");
    wait_for("the first slot", Duration::from_secs(90), || runs().ends_with("success").then_some(()));
    let rows = shared.fill_cache();
    wait_for("the job to be in the middle of its work", Duration::from_secs(90), || {
        let left = shared.count("search_cache");
        assert!(left > 0, "it is through already: more rows are needed");
        (left < rows).then_some(())
    });
    let slots = shared.sql("SELECT count(*), count(DISTINCT slot) FROM sidecar_job_runs");
    let (all, distinct) = slots.split_once('|').unwrap();
    assert!(all == distinct && all != "1", "one of them ran each: {slots}");
    let open = "SELECT owner FROM sidecar_job_runs WHERE finished_at IS NULL";
    let owner = shared.sql(open);
    let dead = usize::from(instance(scratch.path()) != owner);
    assert_eq!(owner, instance(&sides[dead].folder));
    sides[dead].child.kill().unwrap();
    sides[dead].child.wait().unwrap();
    assert!(shared.count("search_cache") > 0);
    let other = instance(&sides[1 - dead].folder);
    // By the monotonic clock: until then the slot is the dead one's, whatever slots come up meanwhile.
    let since = Instant::now();
    let begun = shared.sql("SELECT max(started_at) FROM sidecar_job_runs");
    let taken = format!("SELECT count(*) FROM sidecar_job_runs WHERE owner = '{other}' AND started_at > '{begun}'");
    wait_for("the other one to take over", Duration::from_secs(150), || (shared.sql(&taken) != "0").then_some(()));
    assert!(
        since.elapsed() > Duration::from_secs(25),
        "the lease was moved on a quarter of a minute before at most: {:?}",
        since.elapsed()
    );
    wait_for("its end", Duration::from_secs(150), || (shared.count("search_cache") == 0).then_some(()));
    wait_for("its record", SOON, || shared.sql(open).is_empty().then_some(()));
    let runs = runs();
    let lost_or_taken = runs.contains(&format!("2|{other}|success")) || runs.contains(&format!("1|{owner}|lost"));
    assert!(lost_or_taken && runs.contains(&format!("|{other}|success")), "{runs}");
    let slots = shared.sql("SELECT count(*) - count(DISTINCT slot) FROM sidecar_job_runs");
    assert_eq!(slots, "0");
    let last = sides.into_iter().nth(1 - dead).unwrap();
    assert_eq!(last.stop(), 0);
    shared.is_whole();
}

#[test]
fn of_two_sidecars_one_runs_each_slot_and_takes_over_from_a_dead_one_on_sqlite() {
    let scratch = tempfile::tempdir().unwrap();
    let shared = Shared::sqlite(scratch.path());
    of_two_sidecars_one_runs_each_slot(scratch, &shared);
}

#[test]
fn of_two_sidecars_one_runs_each_slot_and_takes_over_from_a_dead_one_on_postgresql() {
    let scratch = tempfile::tempdir().unwrap();
    let shared = Shared::postgres(scratch.path(), Cluster::start());
    of_two_sidecars_one_runs_each_slot(scratch, &shared);
}

/// Two hosts on one PostgreSQL database, each with logs of its own: whoever gets the slot of what is shared, both prune.
#[test]
fn each_sidecar_prunes_the_files_of_its_own_host() {
    let (scratch, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shared = Shared::postgres(scratch.path(), Cluster::start());
    shared.sql("CREATE TABLE access_log (at timestamp); INSERT INTO access_log VALUES ('2020-01-01'), (now())");
    let start = |folder: &tempfile::TempDir| {
        let logs = folder.path().canonicalize().unwrap().join("logs");
        std::fs::create_dir(&logs).unwrap();
        for (name, days) in [("access.log.1", 30), ("access.log", 0)] {
            let file = std::fs::File::create(logs.join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + days)).unwrap();
        }
        std::fs::File::options()
            .write(true)
            .open(logs.join("access.log"))
            .unwrap()
            .set_modified(logs.metadata().unwrap().modified().unwrap())
            .unwrap();
        let config = format!(
            "{}{}[[retention.files]]\ndirectory = \"{}\"\nglob = \"access.log*\"\n[[retention.tables]]\ntable = \"access_log\"\ntime_column = \"at\"\n",
            EVERY_MINUTE
                .replace("[jobs.log-pruning]\nenabled = false", "[jobs.log-pruning]\nschedule = \"* * * * *\"")
                .replace("schedule = \"* * * * *\"\n[jobs.metric-rollup]", "enabled = false\n[jobs.metric-rollup]"),
            shared.config(),
            logs.display()
        );
        (Sidecar::launch(folder.path(), &config, &faked(folder, 5)), logs)
    };
    let sides = [start(&scratch), start(&elsewhere)];
    for (side, logs) in &sides {
        let known = format!("log-pruning@{}", instance_of(side));
        wait_for("its files", Duration::from_secs(120), || (!logs.join("access.log.1").exists()).then_some(()));
        assert!(logs.join("access.log").exists());
        wait_for("its record", SOON, || shared.runs(&known).contains("success").then_some(()));
        let listed = crate::support::sidecar(&side.folder, &["jobs", "list", "--json", "--config", "sidecar.toml"]);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        let job = listed["jobs"].as_array().unwrap().iter().find(|job| job["job"] == "log-pruning").unwrap().clone();
        assert_eq!(job["last_end"]["outcome"], "success", "{job}");
    }
    assert_eq!(shared.runs("log-pruning"), "");
    assert_eq!(shared.count("access_log"), 1);
    for (side, _) in sides {
        let folder = side.folder.clone();
        assert_eq!(side.stop(), 0);
        // Alone it is listed by the same name.
        let listed = crate::support::sidecar(&folder, &["jobs", "list", "--config", "sidecar.toml"]);
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.lines().any(|line| line.starts_with("log-pruning ") && line.contains("success")), "{listed}");
    }
}

/// Once it has one.
fn instance_of(side: &Sidecar) -> String {
    wait_for("its number", SOON, || side.folder.join("data/state/instance").exists().then_some(()));
    instance(&side.folder)
}

/// S-9
#[test]
fn sigterm_waits_for_the_job_and_says_how_far_it_came() {
    let scratch = tempfile::tempdir().unwrap();
    let database = with_cache(scratch.path());
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
