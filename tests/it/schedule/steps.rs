//! The real program while somebody sets its clock (T-5): libfaketime gives it another wall clock, from a file that is changed while it runs. The
//! monotonic clock is left alone, as the kernel does it.
//!
//! The scheduler looks at the clock once a minute, so each step takes about that long to be noticed.

use std::path::Path;
use std::time::Duration;

use super::{faked, set_clock, sql, value};
use crate::support::{Sidecar, wait_for};

/// Nothing else in the run log.
const EVERY_MINUTE: &str = "[jobs.cache-expiry]\nschedule = \"* * * * *\"\ncatch_up = \"run_once\"\n[jobs.metric-rollup]\nenabled = false\n[jobs.metric-retention]\nenabled = false\n[jobs.log-pruning]\nenabled = false\n[jobs.upkeep]\nenabled = false\n[scrape]\ninterval = \"1h\"\n";

/// A minute until the step is noticed, one until the next slot, some seconds of jitter, and a loaded machine.
const A_LOOK: Duration = Duration::from_secs(200);

fn started(folder: &tempfile::TempDir) -> Sidecar {
    let sidecar = Sidecar::launch(folder.path(), EVERY_MINUTE, &faked(folder, 5));
    sidecar.wait_ready();
    wait_for("the first slot", A_LOOK, || (succeeded(&sidecar) >= 1.0).then_some(()));
    sidecar
}

fn succeeded(sidecar: &Sidecar) -> f64 {
    value(&sidecar.metrics(), "atlas_sidecar_job_runs_total{job=\"cache-expiry\",outcome=\"success\"}").unwrap_or(0.0)
}

fn runs(folder: &Path, question: &str) -> String {
    sql(&folder.join("data/atlas.db"), question)
}

#[test]
fn an_hour_back_silences_no_job() {
    let scratch = tempfile::tempdir().unwrap();
    let sidecar = started(&scratch);
    let before = succeeded(&sidecar);
    set_clock(&scratch, -3600);
    wait_for("a run by the clock that was set back", A_LOOK, || (succeeded(&sidecar) > before).then_some(()));
    let twice = "SELECT count(*) - count(DISTINCT slot) FROM sidecar_job_runs";
    assert_eq!(runs(scratch.path(), twice), "0");
    assert_eq!(
        runs(
            scratch.path(),
            "SELECT max(slot) > (SELECT slot FROM sidecar_job_runs ORDER BY id DESC LIMIT 1) FROM sidecar_job_runs"
        ),
        "1",
        "an earlier slot ran later"
    );
    assert_eq!(sidecar.stop(), 0);
}

/// With nothing that would wake the scheduler but the metronome, which waits until the clock has caught up.
#[test]
fn an_hour_back_silences_the_metronome_and_the_watchdog_stands_in() {
    let scratch = tempfile::tempdir().unwrap();
    let config = "[jobs.cache-expiry]\nenabled = false\n[scrape]\ninterval = \"1h\"\n";
    let sidecar = Sidecar::launch(scratch.path(), config, &faked(&scratch, 5));
    sidecar.wait_ready();
    let beats = |cause| {
        let series = format!("atlas_sidecar_scheduler_ticks_total{{cause=\"{cause}\"}}");
        value(&sidecar.metrics(), &series).unwrap_or(0.0)
    };
    wait_for("a beat of the metronome", A_LOOK, || (beats("metronome") >= 1.0).then_some(()));
    assert_eq!(beats("watchdog"), 0.0);
    set_clock(&scratch, -3600);
    wait_for("a beat of the watchdog", A_LOOK, || (beats("watchdog") >= 1.0).then_some(()));
    assert_eq!(sidecar.stop(), 0);
}

#[test]
fn an_hour_ahead_is_caught_up_with_one_run() {
    let scratch = tempfile::tempdir().unwrap();
    let sidecar = started(&scratch);
    let before = succeeded(&sidecar);
    set_clock(&scratch, 3600);
    wait_for("a run by the clock that was set ahead", A_LOOK, || (succeeded(&sidecar) > before).then_some(()));
    let missed = value(&sidecar.metrics(), "atlas_sidecar_job_missed_total{job=\"cache-expiry\"}").unwrap();
    assert!((57.0..=62.0).contains(&missed), "{missed} slots were jumped over");
    assert_eq!(value(&sidecar.metrics(), "atlas_sidecar_clock_doubtful"), Some(0.0), "an hour is no reason to doubt");
    assert_eq!(sidecar.stop(), 0);
}

#[test]
fn a_clock_in_2036_deletes_nothing_until_somebody_says_that_it_is_right() {
    let scratch = tempfile::tempdir().unwrap();
    let sidecar = started(&scratch);
    let fresh = "INSERT INTO search_cache VALUES ('a', 'a', 'q', '{}', strftime('%Y-%m-%d %H:%M:%f', 'now'), strftime('%Y-%m-%d %H:%M:%f', 'now', '+20 hours'))";
    runs(scratch.path(), fresh);
    let history = runs(scratch.path(), "SELECT count(*) FROM sidecar_job_runs");
    set_clock(&scratch, 10 * 365 * 86_400);
    let skipped = "SELECT count(*) FROM sidecar_job_runs WHERE outcome = 'skipped' AND slot > '2036' AND words LIKE 'the clock jumped from 20%'";
    wait_for("a run that does nothing", A_LOOK, || (runs(scratch.path(), skipped) != "0").then_some(()));
    assert_eq!(runs(scratch.path(), "SELECT count(*) FROM search_cache"), "1");
    assert!(
        runs(scratch.path(), "SELECT count(*) FROM sidecar_job_runs").parse::<u32>().unwrap()
            > history.parse::<u32>().unwrap()
    );
    wait_for("the doubt on the page", A_LOOK, || {
        value(&sidecar.metrics(), "atlas_sidecar_clock_doubtful").filter(|doubt| *doubt == 1.0)
    });
    let out = crate::support::sidecar(scratch.path(), &["jobs", "run", "cache-expiry"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && said.contains("--clock-is-right"), "{said}");
    assert_eq!(runs(scratch.path(), "SELECT count(*) FROM search_cache"), "1");
    assert!(sidecar.log_text().contains("the clock is not believed, nothing is deleted by age"));
    let out = crate::support::sidecar(scratch.path(), &["jobs", "run", "cache-expiry", "--clock-is-right", "--json"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(runs(scratch.path(), "SELECT count(*) FROM search_cache"), "0");
    assert_eq!(sidecar.stop(), 0);
}
