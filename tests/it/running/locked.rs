//! Somebody holds the database: scrapes go on, samples wait, nothing is lost or doubled, and the end comes in time.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Holder, QUICK, SOON, TWICE, count, page_with, sql, value};
use crate::support::{Sidecar, get, wait_for};

const WRITTEN: &str = "atlas_sidecar_samples_written_total";
const RETRIES: &str = "atlas_sidecar_write_retries_total{reason=\"busy\"}";
const QUEUED: &str = "atlas_sidecar_write_queue_batches";

/// How long the lock is held: three of the writer's busy timeouts.
const HELD: Duration = Duration::from_secs(6);

/// In WAL mode, as the sidecar makes its files: whoever reads is not held up.
#[test]
fn a_locked_database_holds_up_no_scrape_and_loses_no_sample() {
    let scratch = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(scratch.path(), QUICK);
    outlives_a_lock(sidecar, &scratch.path().join("data/atlas.db"), "BEGIN EXCLUSIVE");
}

/// With a rollback journal, as applications often have it, an exclusive lock keeps readers out as well.
#[test]
fn neither_does_one_whose_readers_are_locked_out() {
    let scratch = tempfile::tempdir().unwrap();
    let database = scratch.path().join("data/atlas.db");
    let first = Sidecar::start(scratch.path(), QUICK);
    assert_eq!(first.stop(), 0);
    assert_eq!(sql(&database, "PRAGMA journal_mode = DELETE"), "delete");
    let sidecar = Sidecar::start(scratch.path(), QUICK);
    outlives_a_lock(sidecar, &database, "BEGIN EXCLUSIVE");
}

fn outlives_a_lock(sidecar: Sidecar, database: &Path, begin: &str) {
    let before = page_with(&sidecar, "rows", |page| value(page, WRITTEN) > Some(0.0));
    let retries = value(&before, RETRIES).unwrap_or(0.0);
    let holder = Holder::new(database, begin);
    let (since, from) = (Instant::now(), sql_now());
    let mut waits = Vec::new();
    let mut most_queued: f64 = 0.0;
    while since.elapsed() < HELD {
        let asked = Instant::now();
        let page = get(sidecar.address, "/metrics").expect("an answer").text();
        waits.push(asked.elapsed());
        assert_eq!(get(sidecar.address, "/-/ready").unwrap().status, 200);
        most_queued = most_queued.max(value(&page, QUEUED).unwrap());
        assert!(page.contains("\nnode_load1 "), "other sources go on");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (during, to) = (sidecar.metrics(), sql_now());
    holder.release();
    waits.sort();
    let (typical, longest) = (waits[waits.len() * 95 / 100], waits[waits.len() - 1]);
    // Whoever waits for the lock waits for the busy timeout, two seconds. The longest of some hundred scrapes may have met with a busy machine.
    println!("{} scrapes while it was locked: 95 % within {typical:?}, longest {longest:?}", waits.len());
    assert!(typical < Duration::from_secs(1), "{typical:?}, {longest:?}");
    assert!(most_queued >= 20.0, "only {most_queued} batches waited");
    assert!(value(&during, RETRIES).unwrap_or(0.0) > retries, "retries are counted");

    let accepted = value(&during, "atlas_sidecar_rows_today").unwrap();
    page_with(&sidecar, "all that waited in the table", |page| value(page, WRITTEN) >= Some(accepted));
    assert!(sidecar.log_text().contains("the database took the rows after all"), "{}", sidecar.log_text());
    let page = sidecar.metrics();
    let dropped = |line: &&str| line.starts_with("atlas_sidecar_samples_dropped_total{") && !line.ends_with(" 0");
    assert_eq!(page.lines().find(dropped), None);
    assert_eq!(sidecar.stop(), 0);
    assert_eq!(sql(database, TWICE), "0");
    let loads = count(
        database,
        &format!(
            "SELECT count(*) FROM system_metrics WHERE metric_name = 'node_load1' AND recorded_at BETWEEN '{from}' AND '{to}'"
        ),
    );
    assert!(loads >= 3, "{loads} of the six measured while it was locked");
    // What the sidecar says it has written is what is there.
    let own = count(database, "SELECT count(*) FROM system_metrics WHERE tags LIKE '%\"host\"%'");
    assert!(own as f64 >= value(&page, WRITTEN).unwrap());
}

fn sql_now() -> String {
    crate::support::run("date", &["-u", "+%F %T.%3N"]).trim().to_owned()
}

/// What the database does not take in ten seconds is dropped, counted, and said: also what was being tried when time was up.
#[test]
fn sigterm_while_it_is_locked_ends_in_time_and_counts_what_is_lost() {
    let scratch = tempfile::tempdir().unwrap();
    let database = scratch.path().join("data/atlas.db");
    // Nothing is written before the lock is there: all that is collected at the start waits for others.
    let sidecar = Sidecar::start(scratch.path(), "[scrape]\ninterval = \"1h\"\n[write]\nbatch_age = \"15s\"\n");
    let holder = Holder::new(&database, "BEGIN EXCLUSIVE");
    let page = page_with(&sidecar, "a collection of all", |page| {
        let up = page.lines().filter(|line| line.starts_with("atlas_sidecar_source_up{")).count();
        let sources = sidecar.log_text().contains(&format!("collecting sources={up} "));
        sources && value(page, "atlas_sidecar_rows_today") > Some(50.0)
    });
    assert_eq!(value(&page, WRITTEN), Some(0.0));
    let accepted = value(&page, "atlas_sidecar_rows_today").unwrap();

    sidecar.signal("TERM");
    let (since, mut sidecar) = (Instant::now(), sidecar);
    wait_for("a probe that says that it is ending", SOON, || {
        get(sidecar.address, "/-/ready").filter(|answer| answer.status == 503)
    });
    let status = wait_for("the end", Duration::from_secs(30), || sidecar.child.try_wait().unwrap());
    let took = since.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(25), "ten seconds, and the busy timeout of the try under way; it took {took:?}");
    let log = sidecar.log_text();
    assert!(
        log.contains(&format!("the database did not take the last rows in time rows={accepted}\n")),
        "{accepted}: {log}"
    );
    assert!(log.contains("stopped rows=0\n"), "{log}");
    drop(holder);
    assert_eq!(sql(&database, "SELECT count(*) FROM system_metrics"), "0");
    assert_eq!(sql(&database, "PRAGMA integrity_check"), "ok");
}
