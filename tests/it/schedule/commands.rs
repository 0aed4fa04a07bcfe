//! `jobs list`, `run`, `pause` and `resume`, alone and beside a running sidecar, and the socket between them.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::shared::Shared;
use super::{SOON, sql, value};
use crate::support::{SIDECAR, Sidecar, run, sidecar, wait_for};

const QUIET: &str =
    "[scrape]\ninterval = \"1h\"\n[jobs.cache-expiry]\nschedule = \"0 3 * * MON\"\ntimezone = \"Europe/Paris\"\n";

fn jobs(folder: &Path, args: &[&str]) -> Output {
    let config = folder.join("sidecar.toml");
    let mut all = vec!["jobs"];
    all.extend(args);
    if config.exists() {
        all.extend(["--config", config.to_str().unwrap()]);
    }
    sidecar(folder, &all)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn listed(folder: &Path) -> Value {
    let out = jobs(folder, &["list", "--json"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    let all = answer["jobs"].as_array().unwrap();
    all.iter().find(|job| job["job"] == "cache-expiry").unwrap().clone()
}

#[test]
fn alone_and_beside_a_sidecar_the_commands_do_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let out = jobs(folder, &["list"]);
    assert_eq!(out.status.code(), Some(69), "there is no database: {}", text(&out.stderr));
    assert!(!folder.join("data").exists(), "looking makes nothing");

    let beside = Sidecar::start(folder, QUIET);
    let run_and_pause = |told: &str| {
        let database = folder.join("data/atlas.db");
        sql(
            &database,
            "INSERT INTO search_cache VALUES ('a', 'a', 'q', '{}', '2020-01-01 00:00:00', '2020-01-02 00:00:00')",
        );
        let out = jobs(folder, &["run", "cache-expiry", "--dry-run"]);
        assert_eq!(out.status.code(), Some(0), "{told}: {}", text(&out.stderr));
        assert!(
            text(&out.stdout).contains("1 rows of `search_cache` would be deleted"),
            "{told}: {}",
            text(&out.stdout)
        );
        assert_eq!(sql(&database, "SELECT count(*) FROM search_cache"), "1", "{told}");
        let out = jobs(folder, &["run", "cache-expiry", "--json"]);
        let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(
            (&answer["job"], &answer["run"]["outcome"], &answer["run"]["rows"]),
            (&"cache-expiry".into(), &"success".into(), &1.into()),
            "{told}"
        );
        assert_eq!(sql(&database, "SELECT count(*) FROM search_cache"), "0", "{told}");
        let job = listed(folder);
        assert_eq!(
            (&job["last_reason"], &job["last_end"]["rows"], &job["running"]),
            (&"manual".into(), &1.into(), &false.into()),
            "{told}"
        );
        assert_eq!((&job["schedule"], &job["timezone"]), (&"0 3 * * MON".into(), &"Europe/Paris".into()), "{told}");
        assert!(job["next"].as_str().is_some_and(|next| next.ends_with(":00:00.000Z")), "{told}: {job}");
        assert_eq!(text(&jobs(folder, &["pause", "cache-expiry"]).stdout), "cache-expiry: paused\n", "{told}");
        let job = listed(folder);
        assert!(job["paused_since"].is_string() && job["next"].is_null(), "{told}: {job}");
        let table = text(&jobs(folder, &["list"]).stdout);
        assert!(table.starts_with("JOB ") && table.contains("  paused  "), "{told}: {table}");
        assert_eq!(text(&jobs(folder, &["resume", "cache-expiry"]).stdout), "cache-expiry: not paused\n", "{told}");
        assert!(listed(folder)["next"].is_string(), "{told}");
    };
    run_and_pause("beside");
    assert_eq!(
        value(&beside.metrics(), "atlas_sidecar_job_runs_total{job=\"cache-expiry\",outcome=\"success\"}"),
        Some(1.0),
        "the sidecar ran it"
    );
    assert_eq!(beside.stop(), 0);
    run_and_pause("alone");
    for args in [["run", "cache-expirey"], ["pause", "x"]] {
        let out = jobs(folder, &args);
        assert_eq!(out.status.code(), Some(64));
        assert!(text(&out.stderr).contains("hint: the jobs are `cache-expiry`"), "{}", text(&out.stderr));
    }
}

/// A job that runs already, and a state directory whose owner does not answer: 75 both.
#[test]
fn try_again_later_is_75() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let beside = Sidecar::start(folder, QUIET);
    let database = folder.join("data/atlas.db");
    // Somebody else's run, of whom nothing is known but the lease.
    let open = |lease: &str| {
        format!("INSERT INTO sidecar_job_runs (job, slot, reason, owner, started_at, lease_until)
            VALUES ('cache-expiry', '2026-01-01 00:00:00.000', 'schedule', 'feedfeedfeed', '2026-01-01 00:00:00.000', strftime('%Y-%m-%d %H:%M:%f', 'now', '{lease}'))")
    };
    sql(&database, &open("+1 hour"));
    let out = jobs(folder, &["run", "cache-expiry"]);
    assert_eq!(out.status.code(), Some(75), "{}", text(&out.stderr));
    assert!(
        text(&out.stderr).contains("error: `cache-expiry`: it is running already, in sidecar `feedfeedfeed`"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(listed(folder)["running"], true);
    sql(&database, "DELETE FROM sidecar_job_runs");
    sql(&database, &open("-1 second"));
    assert_eq!(
        jobs(folder, &["run", "cache-expiry"]).status.code(),
        Some(0),
        "its owner is dead by the clock of the wall"
    );

    beside.signal("STOP");
    let socket = folder.join("data/state/control.sock");
    std::fs::remove_file(&socket).unwrap();
    let out = jobs(folder, &["run", "cache-expiry"]);
    beside.signal("CONT");
    assert_eq!(out.status.code(), Some(75), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("in use, by somebody who does not answer"), "{}", text(&out.stderr));
    assert_eq!(beside.stop(), 0);
}

/// One conversation: `line` in, the first line back.
fn talk(socket: &Path, line: &[u8]) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    // A refusal may come before everything is taken.
    let _ = stream.write_all(line);
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn the_socket_is_private_and_takes_no_nonsense() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let beside = Sidecar::start(folder, QUIET);
    let socket = folder.join("data/state/control.sock");
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let good = b"{\"version\":1,\"ask\":\"list\"}\n";
    assert!(talk(&socket, good)["answer"]["listed"].as_array().unwrap().iter().any(|job| job["job"] == "cache-expiry"));
    let long = [b"{\"version\":1,\"ask\":\"".as_slice(), &[b'x'; 9000], b"\"}\n"].concat();
    for (line, words) in [
        (b"{\"version\":2,\"ask\":\"list\"}\n".as_slice(), "understands version 1"),
        (b"{\"ask\":\"list\"}\n", "understands version 1"),
        (b"{\"version\":1,\"ask\":\"dance\"}\n", "no request"),
        (b"{\"version\":1,\"ask\":{\"run\":{\"job\":\"cache-expiry\",\"dry_run\":true,\"x\":1}}}\n", "no request"),
        (b"hello\n", "no request"),
        (b"\xff\xfe\n", "cannot be read"),
        (&long, "no request"),
    ] {
        let answer = talk(&socket, line);
        let refused = &answer["answer"]["refused"];
        assert_eq!(refused["code"], "request", "{answer}");
        assert!(refused["message"].as_str().unwrap().contains(words), "{answer}");
    }
    let unknown = talk(&socket, b"{\"version\":1,\"ask\":{\"run\":{\"job\":\"x\",\"dry_run\":true}}}\n");
    assert_eq!(unknown["answer"]["refused"]["code"], "unknown");

    // More clients than there are places, all of them silent: they are sent away, and the next one is heard.
    let silent: Vec<UnixStream> = (0..12).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    assert_eq!(talk(&socket, good)["version"], 1);
    drop(silent);

    if run("id", &["-u"]).trim() == "0" {
        for (path, mode) in
            [(folder, 0o755), (&folder.join("data"), 0o755), (&folder.join("data/state"), 0o755), (&socket, 0o666)]
        {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let program = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode()); print(s.recv(4096).decode())";
        let said = run(
            "setpriv",
            &[
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                // Not by the PATH, which may lead into a home folder.
                "/usr/bin/python3",
                "-c",
                program,
                socket.to_str().unwrap(),
                std::str::from_utf8(good).unwrap(),
            ],
        );
        assert!(said.contains("only the sidecar's own user may ask"), "{said}");
    }
    assert_eq!(beside.stop(), 0);
}

#[test]
fn a_reload_changes_schedules() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let beside = Sidecar::start(folder, QUIET);
    let next = "atlas_sidecar_job_next_run_timestamp_seconds{job=\"cache-expiry\"}";
    wait_for("the next run", SOON, || value(&beside.metrics(), next));
    let change = |jobs: &str| {
        let config = format!(
            "[scrape]\ninterval = \"1h\"\n[jobs.cache-expiry]\n{jobs}\n[server]\nlisten = \"{}\"\n",
            beside.address
        );
        std::fs::write(folder.join("sidecar.toml"), config).unwrap();
        beside.signal("HUP");
    };
    change("schedule = \"30 4 1 1 *\"\ntimezone = \"Pacific/Chatham\"");
    wait_for("the new schedule", SOON, || (listed(folder)["schedule"] == "30 4 1 1 *").then_some(()));
    assert_eq!(listed(folder)["timezone"], "Pacific/Chatham");
    wait_for("its next run", SOON, || {
        // 04:30 at 13:45 hours ahead of UTC.
        value(&beside.metrics(), next).filter(|at| (at / 60.0) as i64 % 1440 == 14 * 60 + 45)
    });
    change("enabled = false");
    wait_for("no next run", SOON, || value(&beside.metrics(), next).is_none().then_some(()));
    change("schedule = \"0 25 * * *\"");
    wait_for("the refusal", SOON, || beside.log_text().contains("the hour `25` cannot be read").then_some(()));
    // Without the file, which has the mistake: the socket is where the default says.
    let out = sidecar(folder, &["jobs", "list", "--json"]);
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    let job = answer["jobs"].as_array().unwrap().iter().find(|job| job["job"] == "cache-expiry");
    assert_eq!(job.unwrap()["enabled"], false, "a file with mistakes changes nothing");
    assert_eq!(beside.stop(), 0);
}

#[test]
fn a_terminal_sees_how_far_a_run_is() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    assert_eq!(Sidecar::start(folder, QUIET).stop(), 0);
    sql(
        &folder.join("data/atlas.db"),
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
         INSERT INTO search_cache SELECT n, n, 'q', '{}', '2020-01-01 00:00:00', '2020-01-02 00:00:00' FROM n",
    );
    // `script` gives it a terminal.
    let command = format!("'{SIDECAR}' jobs run cache-expiry");
    let mut child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(folder)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(said.contains("\r\u{1b}[Kcache-expiry … ") && said.contains(" rows"), "{said:?}");
    assert!(said.ends_with("20000 rows of `search_cache` deleted\r\n"), "{said:?}");
}

/// Files, tables and the database itself: each first looked at and then done, beside a sidecar by its socket and alone, on both engines.
#[test]
fn log_pruning_and_upkeep_do_the_same_alone_and_beside_a_sidecar() {
    for (scratch, shared) in Shared::both() {
        let folder = scratch.path();
        let logs = folder.canonicalize().unwrap().join("logs");
        std::fs::create_dir(&logs).unwrap();
        std::fs::write(logs.join("access.log"), "in use").unwrap();
        let config = format!(
            "{QUIET}{}[[retention.tables]]\ntable = \"access_log\"\ntime_column = \"at\"\n[[retention.files]]\ndirectory = \"{}\"\nglob = \"access.log*\"\n",
            shared.config(),
            logs.display()
        );
        shared.sql("CREATE TABLE access_log (at timestamp)");
        shared.sql(match &shared {
            Shared::Sqlite(_) => "PRAGMA auto_vacuum = INCREMENTAL; VACUUM",
            Shared::Postgres(_) => "ALTER TABLE search_cache SET (autovacuum_enabled = false)",
        });
        let round = |told: &str| {
            shared.sql("INSERT INTO access_log VALUES ('2020-01-01 00:00:00'), (CURRENT_TIMESTAMP)");
            let old = std::fs::File::create(logs.join("access.log.1")).unwrap();
            old.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000))
                .unwrap();
            // A log that somebody has open stays.
            drop(old);
            let told = |job: &str| format!("{told}, {job} of {}", shared.config());
            let dry = |job: &str| {
                let out = jobs(folder, &["run", job, "--dry-run"]);
                assert_eq!(out.status.code(), Some(0), "{}: {}", told(job), text(&out.stderr));
                text(&out.stdout)
            };
            let done = |job: &str| {
                let out = jobs(folder, &["run", job, "--json"]);
                let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
                assert_eq!(answer["run"]["outcome"], "success", "{}: {answer}", told(job));
                answer["run"].clone()
            };
            let rows = shared.count("access_log");
            let said = dry("log-pruning");
            assert!(said.contains("1 rows of `access_log` would be deleted") && said.contains("1 files ("), "{said}");
            assert!(logs.join("access.log.1").exists() && shared.count("access_log") == rows);
            let run = done("log-pruning");
            assert_eq!(run["rows"], 1, "{run}");
            assert!(run["words"].as_str().unwrap().contains("1 files of `"), "{run}");
            assert!(!logs.join("access.log.1").exists() && logs.join("access.log").exists());
            assert_eq!(shared.count("access_log"), rows - 1);

            let long = "x".repeat(1000);
            shared.insert(
                "search_cache",
                3000,
                &format!("'row-' || n, n, '{long}', '{{}}', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP"),
            );
            shared.sql("DELETE FROM search_cache");
            let step = match &shared {
                Shared::Sqlite(_) => "incremental_vacuum",
                Shared::Postgres(cluster) => {
                    wait_for("the statistics", SOON, || {
                        cluster.psql("one", "SELECT pg_stat_force_next_flush()");
                        let dead = "SELECT n_dead_tup > 1000 FROM pg_stat_user_tables WHERE relname = 'search_cache'";
                        (cluster.psql("one", dead) == "t").then_some(())
                    });
                    "vacuum `search_cache`"
                }
            };
            let said = dry("upkeep");
            assert!(said.contains("would be done: ") && said.contains(step), "{}: {said}", told("upkeep"));
            let run = done("upkeep");
            assert!(run["words"].as_str().unwrap().contains(step), "{}: {run}", told("upkeep"));
            // Outside of its window and without asking who else is at work: somebody wants it now.
            let out = jobs(folder, &["run", "upkeep"]);
            assert!(!text(&out.stdout).contains(step), "it is done: {}", text(&out.stdout));
        };
        let beside = Sidecar::start(folder, &config);
        round("beside");
        for (job, runs) in [("log-pruning", 1.0), ("upkeep", 2.0)] {
            let series = format!("atlas_sidecar_job_runs_total{{job=\"{job}\",outcome=\"success\"}}");
            assert_eq!(value(&beside.metrics(), &series), Some(runs), "the sidecar ran it");
        }
        assert_eq!(beside.stop(), 0);
        round("alone");
        shared.is_whole();
    }
}
