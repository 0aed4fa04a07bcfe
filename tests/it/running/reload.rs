//! SIGHUP: what changes at once, what waits, and what a file with mistakes does.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{QUICK, SOON, Target, logged, page_with, value};
use crate::support::{Sidecar, free_address, wait_for, whole};

const OK: &str = "atlas_sidecar_config_last_reload_successful";
const TIME: &str = "atlas_sidecar_config_last_reload_success_timestamp_seconds";
const WRITTEN: &str = "atlas_sidecar_samples_written_total";
const TAKEN_OVER: &str = "configuration taken over";

/// Writes the configuration anew, as an editor would, and sends SIGHUP.
fn change(sidecar: &Sidecar, config: &str) {
    write(sidecar, config, sidecar.address.to_string().as_str());
    sidecar.signal("HUP");
}

fn write(sidecar: &Sidecar, config: &str, listen: &str) {
    std::fs::write(sidecar.folder.join("sidecar.toml"), whole(config, listen)).unwrap();
}

/// Changes it and waits until the change is in force.
fn changed(sidecar: &Sidecar, config: &str) -> String {
    let before = value(&sidecar.metrics(), TIME).unwrap();
    change(sidecar, config);
    page_with(sidecar, "the new configuration", |page| value(page, TIME).is_some_and(|time| time > before))
}

#[test]
fn sources_intervals_exposition_and_log_level_change_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let (alpha, beta) = (Target::new("alpha"), Target::new("beta"));
    let hourly = "[scrape]\ninterval = \"1h\"\n[write]\nbatch_age = \"200ms\"\n";
    let sidecar = Sidecar::start(scratch.path(), &format!("{hourly}{}", alpha.toml("alpha")));
    let page = page_with(&sidecar, "alpha, load and rows", |page| {
        page.contains("atlas_alpha_hits_total{") && page.contains("\nnode_load5 ") && value(page, WRITTEN) > Some(0.0)
    });
    assert!(!page.contains("beta") && value(&page, "atlas_answer{a=\"b\"}").is_none());
    let written = value(&page, WRITTEN).unwrap();

    let query = "[[scrape.queries]]\nname = \"answer\"\nsql = \"SELECT 42 AS value, 'b' AS a\"\nvalues = [\"value\"]\nlabels = [\"a\"]\n";
    let hidden = "[expose]\nhidden = [\"node_load5\"]\n[log]\nlevel = \"error\"\n";
    let page = changed(&sidecar, &format!("{QUICK}{hidden}{}{query}", beta.toml("beta")));
    assert!(!page.contains("alpha_hits_total"), "the removed target's series vanish with the change");
    page_with(&sidecar, "beta, the query, and no hidden series", |page| {
        page.contains("atlas_beta_hits_total{")
            && value(page, "atlas_answer{a=\"b\"}") == Some(42.0)
            && !page.contains("\nnode_load5 ")
            && page.contains("\nnode_load1 ")
    });
    assert_eq!(alpha.hits(), 1, "nobody asks the removed target");
    wait_for("some collections at the new interval", SOON, || Some(()).filter(|()| beta.hits() >= 3));
    let page = sidecar.metrics();
    let about_alpha: Vec<&str> = series(&page).into_iter().filter(|s| s.contains("source=\"alpha\"")).collect();
    let counter = |s: &&str| s.starts_with("atlas_sidecar_") && s.split('{').next().unwrap().ends_with("_total");
    assert!(about_alpha.iter().all(counter), "only own counters are left of it: {about_alpha:?}");
    assert!(value(&page, WRITTEN).unwrap() >= written, "own counters go on");
    assert_eq!(value(&page, OK), Some(1.0));
    assert!(!sidecar.log_text().contains(TAKEN_OVER), "the level is `error` by now");

    let page = changed(&sidecar, &format!("{hourly}{}", alpha.toml("alpha")));
    assert!(
        !page.contains("atlas_answer") && !page.contains("beta_hits_total"),
        "the removed query's series vanish too"
    );
    logged(&sidecar, TAKEN_OVER, 1);
    page_with(&sidecar, "alpha and what was hidden", |page| {
        page.contains("atlas_alpha_hits_total{") && page.contains("\nnode_load5 ")
    });
    assert_eq!(sidecar.stop(), 0);
}

#[test]
fn a_file_with_mistakes_changes_nothing_and_the_log_lists_them() {
    let scratch = tempfile::tempdir().unwrap();
    let alpha = Target::new("alpha");
    let good = format!("{QUICK}{}", alpha.toml("alpha"));
    let sidecar = Sidecar::start(scratch.path(), &good);
    let before = page_with(&sidecar, "alpha", |page| page.contains("atlas_alpha_hits_total{"));

    for (broken, said) in [
        (
            "[scrape]\nintervall = \"1s\"\n[log]\nlevel = \"loud\"\n",
            ["did you mean `scrape.interval`", "`log.level` = `loud`"],
        ),
        ("[scrape\n", ["sidecar.toml", "configuration not taken over"]),
    ] {
        change(&sidecar, broken);
        page_with(&sidecar, "the gauge that tells", |page| value(page, OK) == Some(0.0));
        for said in said {
            logged(&sidecar, said, 1);
        }
        change(&sidecar, &good);
        page_with(&sidecar, "the gauge that tells", |page| value(page, OK) == Some(1.0));
    }
    std::fs::remove_file(scratch.path().join("sidecar.toml")).unwrap();
    sidecar.signal("HUP");
    let page = page_with(&sidecar, "the gauge that tells", |page| value(page, OK) == Some(0.0));
    assert!(value(&page, TIME) > value(&before, TIME), "of the last good one");
    let hits = alpha.hits();
    wait_for("collections as before", SOON, || Some(()).filter(|()| alpha.hits() >= hits + 2));
    assert!(sidecar.metrics().contains("atlas_alpha_hits_total{"));
    assert_eq!(sidecar.stop(), 0);
}

#[test]
fn what_waits_for_a_restart_is_said_as_long_as_it_waits() {
    let scratch = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(scratch.path(), QUICK);
    let waiting = format!(
        "state_directory = \"elsewhere\"\n[database]\nurl = \"sqlite://other.db\"\n{}batch_rows = 7\n[log]\nformat = \"json\"\n",
        QUICK
    );
    let elsewhere = free_address().to_string();
    // The second time nothing has changed since the first, and all of it still waits.
    for times in [1, 2] {
        write(&sidecar, &waiting, &elsewhere);
        sidecar.signal("HUP");
        logged(&sidecar, TAKEN_OVER, times);
        for section in ["state_directory", "database", "server", "write", "log.format"] {
            let line = format!("changed settings of this section wait for a restart section=\"{section}\"");
            assert_eq!(sidecar.log_text().matches(&line).count(), times, "{section}: {}", sidecar.log_text());
        }
    }
    assert!(!scratch.path().join("other.db").exists() && !scratch.path().join("elsewhere").exists());
    assert_eq!(value(&sidecar.metrics(), OK), Some(1.0), "the old address answers");

    let said = sidecar.log_text().matches("wait for a restart").count();
    change(&sidecar, QUICK);
    logged(&sidecar, TAKEN_OVER, 3);
    assert_eq!(sidecar.log_text().matches("wait for a restart").count(), said, "back to what is in force");
    assert_eq!(sidecar.stop(), 0);
}

/// Threads and open files of the process.
fn held(sidecar: &Sidecar) -> (usize, usize) {
    let entries = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", sidecar.child.id())).unwrap().count();
    (entries("task"), entries("fd"))
}

fn series(page: &str) -> Vec<&str> {
    page.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0).collect()
}

#[test]
fn twenty_reloads_leak_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let alpha = Target::new("alpha");
    let configs = ["1h", "2h"].map(|interval| format!("[scrape]\ninterval = \"{interval}\"\n{}", alpha.toml("alpha")));
    let sidecar = Sidecar::start(scratch.path(), &configs[0]);
    let whole = |page: &str| {
        let up = series(page).iter().filter(|s| s.starts_with("atlas_sidecar_source_up{")).count();
        page.contains("alpha_hits_total{") && page.contains("node_uname_info") && up == wanted_sources(scratch.path())
    };
    let first = page_with(&sidecar, "all sources", whole);
    for round in 1..=20 {
        // By the log, because the page is encoded once a second at most.
        change(&sidecar, &configs[round % 2]);
        logged(&sidecar, TAKEN_OVER, round);
    }
    let last = page_with(&sidecar, "all sources after twenty changes", whole);
    let new: Vec<&str> = series(&last).into_iter().filter(|s| !series(&first).contains(s)).collect();
    // What was counted since: writes, failures, requests.
    assert!(new.iter().all(|s| s.starts_with("atlas_sidecar_") || s.starts_with("node_")), "{new:?}");
    assert!(new.len() < 20, "{new:?}");

    // Connections of readers are opened when they are first needed, blocking threads end after ten idle seconds: so there is a little to allow for.
    let (threads, files) = held(&sidecar);
    let mut quiet = (threads, files);
    wait_for("threads and files as after one start", SOON, || {
        quiet = held(&sidecar);
        Some(()).filter(|()| quiet.0 <= 16 && quiet.1 <= 40)
    });
    // A task that was left behind would go on asking.
    changed(&sidecar, &format!("{QUICK}{}", alpha.toml("alpha")));
    let (hits, since) = (alpha.hits(), Instant::now());
    wait_for("some collections", SOON, || Some(()).filter(|()| alpha.hits() >= hits + 3));
    assert!(
        since.elapsed() >= Duration::from_millis(1500),
        "three collections at an interval of a second took {:?}",
        since.elapsed()
    );
    assert_eq!(sidecar.stop(), 0);
}

/// How many sources the sidecar says that it has.
fn wanted_sources(folder: &Path) -> usize {
    let log = std::fs::read_to_string(folder.join("sidecar.log")).unwrap();
    let line = log.lines().rfind(|line| line.contains("collecting sources=")).unwrap();
    line.split("sources=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}
