//! The command `export`: rows of the sidecar and of the application, as CSV and as OpenMetrics that promtool and Prometheus take.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{QUICK, ended, page_with, sql, text, value};
use crate::support::{SIDECAR, Sidecar, free_address, get, run, sidecar, wait_for};

/// A folder with a database in which both have written; the application in its own forms of time.
fn written() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let running = Sidecar::start(scratch.path(), QUICK);
    page_with(&running, "some rounds of rows", |page| value(page, "atlas_sidecar_samples_written_total") > Some(600.0));
    assert_eq!(running.stop(), 0);
    sql(&scratch.path().join("data/atlas.db"), FOREIGN);
    scratch
}

/// Five rows of one series in five forms, a second apart around 12:00:00 UTC, in another order than that of time; and one that nobody can read.
const FOREIGN: &str = r#"
INSERT INTO system_metrics(id, metric_name, metric_value, tags, recorded_at) VALUES
  ('a5', 'app.jobs', 5, '{"b":"x,\"y\"","a":1}', 1795348804000),
  ('a1', 'app.jobs', 1, '{"a":1,"b":"x,\"y\""}', '2026-11-22 12:00:00'),
  ('a2', 'app.jobs', 2.5, '{"b":"x,\"y\"","a":"1"}', '2026-11-22T14:00:01+02:00'),
  ('a3', 'app.jobs', 3, '{"a":1,"b":"x,\"y\""}', '2026-11-22T12:00:02.250Z'),
  ('a4', 'app.jobs', 4, '{"a":1,"b":"x,\"y\""}', 1795348803),
  ('a6', 'app.jobs', 6, '{"a":1,"b":"x,\"y\""}', 'noon');
"#;

const NOON: [&str; 4] = ["--from", "2026-11-22T12:00:00Z", "--to", "2026-11-22T12:00:05Z"];

fn export(folder: &Path, args: &[&str]) -> String {
    let out = sidecar(folder, &[&["export", "--config", "sidecar.toml"], args].concat());
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    text(&out.stdout)
}

#[test]
fn rows_of_the_application_come_out_in_order_whatever_form_their_times_have() {
    let scratch = written();
    let only = ["--metric", "app.*", "--format"];
    assert_eq!(
        export(scratch.path(), &[&NOON[..], &only, &["csv"]].concat()),
        "time,metric,value,labels\n\
         2026-11-22T12:00:00.000Z,app.jobs,1,\"{\"\"a\"\":\"\"1\"\",\"\"b\"\":\"\"x,\\\"\"y\\\"\"\"\"}\"\n\
         2026-11-22T12:00:01.000Z,app.jobs,2.5,\"{\"\"a\"\":\"\"1\"\",\"\"b\"\":\"\"x,\\\"\"y\\\"\"\"\"}\"\n\
         2026-11-22T12:00:02.250Z,app.jobs,3,\"{\"\"a\"\":\"\"1\"\",\"\"b\"\":\"\"x,\\\"\"y\\\"\"\"\"}\"\n\
         2026-11-22T12:00:03.000Z,app.jobs,4,\"{\"\"a\"\":\"\"1\"\",\"\"b\"\":\"\"x,\\\"\"y\\\"\"\"\"}\"\n\
         2026-11-22T12:00:04.000Z,app.jobs,5,\"{\"\"a\"\":\"\"1\"\",\"\"b\"\":\"\"x,\\\"\"y\\\"\"\"\"}\"\n"
    );
    assert_eq!(
        export(scratch.path(), &[&NOON[..], &only, &["openmetrics"]].concat()),
        "# TYPE atlas_app_jobs unknown\n\
         atlas_app_jobs{a=\"1\",b=\"x,\\\"y\\\"\"} 1 1795348800\n\
         atlas_app_jobs{a=\"1\",b=\"x,\\\"y\\\"\"} 2.5 1795348801\n\
         atlas_app_jobs{a=\"1\",b=\"x,\\\"y\\\"\"} 3 1795348802.25\n\
         atlas_app_jobs{a=\"1\",b=\"x,\\\"y\\\"\"} 4 1795348803\n\
         atlas_app_jobs{a=\"1\",b=\"x,\\\"y\\\"\"} 5 1795348804\n\
         # EOF\n"
    );
    let out = sidecar(scratch.path(), &[&["export", "--config", "sidecar.toml"], &NOON[..], &only, &["csv"]].concat());
    assert!(text(&out.stderr).contains("1 whose time cannot be read"), "{}", text(&out.stderr));
    // The end is left out, as said.
    let half =
        ["--from", "2026-11-22T12:00:01Z", "--to", "2026-11-22T12:00:03Z", "--metric", "app.job?", "--format", "csv"];
    assert_eq!(export(scratch.path(), &half).lines().count(), 3);

    // Globs of stored names, repeated; what they let through is what the table has.
    let hour = ["--from", "-1h", "--to", "now", "--format", "csv"];
    let some = export(scratch.path(), &[&hour[..], &["--metric", "node_load?", "--metric", "node_memory_*"]].concat());
    let database = scratch.path().join("data/atlas.db");
    let wanted = sql(
        &database,
        "SELECT count(*) FROM system_metrics WHERE metric_name GLOB 'node_load?' OR metric_name GLOB 'node_memory_*'",
    );
    assert_eq!((some.lines().count() - 1).to_string(), wanted);
    assert!(some.lines().skip(1).all(|line| line.contains(",node_load") || line.contains(",node_memory_")));
    let all = export(scratch.path(), &hour);
    assert!(all.lines().count() > some.lines().count());
    // Reading changes nothing, and leaves nothing.
    assert!(!database.with_extension("db-wal").exists());
}

#[test]
fn wrong_questions_and_missing_tables_have_their_exit_codes() {
    let scratch = tempfile::tempdir().unwrap();
    sql(
        &scratch.path().join("app.db"),
        "PRAGMA journal_mode = WAL; CREATE TABLE content_metadata(id TEXT PRIMARY KEY)",
    );
    let app = ["export", "--set", "database.url=sqlite://app.db", "--format", "csv"];
    let asked = |args: &[&str]| ended(&sidecar(scratch.path(), &[&app[..], args].concat()));
    for args in [["--from", "now", "--to", "-1h"], ["--from", "-1h", "--to", "-1h"], ["--from", "noon", "--to", "now"]]
    {
        let (code, said) = asked(&args);
        assert_eq!(code, Some(64), "{args:?}: {said}");
    }
    let (code, said) = asked(&["--from", "-1h", "--to", "now"]);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("`system_metrics`") && said.contains("hint: `atlas-sidecar migrate`"), "{said}");
    let (code, said) = asked(&["--from", "-1h", "--to", "now", "--set", "database.url=sqlite://nowhere.db"]);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("`nowhere.db` does not exist"), "{said}");
    let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["app.db"]);
}

#[test]
fn a_reader_that_has_enough_is_no_failure_and_a_full_device_is_one() {
    let scratch = written();
    let args = ["export", "--config", "sidecar.toml", "--from", "-1h", "--to", "now", "--format"];
    for format in ["csv", "openmetrics"] {
        let mut child = Command::new(SIDECAR)
            .args(args)
            .arg(format)
            .current_dir(scratch.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let (code, said) = ended(&child.wait_with_output().unwrap());
        assert_eq!((code, said.as_str()), (Some(0), ""), "{format}");

        let full = File::options().write(true).open("/dev/full").unwrap();
        let out = Command::new(SIDECAR)
            .args(args)
            .arg(format)
            .current_dir(scratch.path())
            .stdout(full)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let (code, said) = ended(&out);
        assert_eq!(code, Some(1), "{format}");
        assert!(said.starts_with("error: cannot write to standard output: No space left on device"), "{said}");
    }
}

struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// On the data that is there; it scrapes nothing.
    fn over(folder: &Path, data: &Path) -> Self {
        let address = free_address();
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, "{}").unwrap();
        let log = File::create(folder.join("prometheus.log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg("--storage.tsdb.retention.time=100y")
            .arg(format!("--web.listen-address={address}"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the README's test command installs prometheus");
        let started = Self { child, address };
        wait_for("prometheus", Duration::from_secs(30), || {
            get(address, "/-/ready").filter(|answer| answer.status == 200)
        });
        started
    }

    /// All samples of `name` by labels: (seconds, value).
    fn samples(&self, name: &str) -> BTreeMap<String, Vec<(f64, f64)>> {
        // A range that holds both noon of the fixture's day and now.
        let path =
            format!("/api/v1/query?query=%7B__name__%3D%22{name}%22%7D%5B20y%5D&time={}", now() + 366 * 24 * 3600);
        let answer: Value = serde_json::from_str(&get(self.address, &path).unwrap().text()).unwrap();
        let results = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let sample = |pair: &Value| (pair[0].as_f64().unwrap(), pair[1].as_str().unwrap().parse().unwrap());
        results
            .iter()
            .map(|series| {
                let mut labels = series["metric"].clone();
                labels.as_object_mut().unwrap().remove("__name__");
                (labels.to_string(), series["values"].as_array().unwrap().iter().map(sample).collect())
            })
            .collect()
    }
}

fn now() -> u64 {
    run("date", &["+%s"]).trim().parse().unwrap()
}

/// The way back into Prometheus: promtool makes blocks of the export, and a Prometheus on them has the rows of the table.
#[test]
fn prometheus_takes_the_history_and_has_the_same_values() {
    let scratch = written();
    let page = export(scratch.path(), &["--from", "2020-01-01T00:00:00Z", "--to", "now", "--format", "openmetrics"])
        + &export(
            scratch.path(),
            &["--from", "2019-01-01T00:00:00Z", "--to", "2019-01-02T00:00:00Z", "--format", "openmetrics"],
        );
    let page = page.strip_suffix("# EOF\n").unwrap();
    let (file, data) = (scratch.path().join("history.om"), scratch.path().join("tsdb"));
    std::fs::write(&file, page).unwrap();
    let blocks = [file.to_str().unwrap(), data.to_str().unwrap()];
    run("promtool", &[&["tsdb", "create-blocks-from", "openmetrics", "--quiet"], &blocks[..]].concat());

    let prometheus = Prometheus::over(scratch.path(), &data);
    let database = scratch.path().join("data/atlas.db");
    for (shown, stored) in [
        ("node_load1", "node_load1"),
        ("node_cpu_seconds_total", "node_cpu_seconds_total"),
        ("atlas_sidecar_source_up", "atlas_sidecar_source_up"),
        ("atlas_queue_items", "atlas_queue_items"),
        ("atlas_app_jobs", "app.jobs"),
    ] {
        let held = prometheus.samples(shown);
        let table = table(&database, stored);
        assert_eq!(held, table, "{shown}");
    }
    assert_eq!(prometheus.samples("node_load1").len(), 1);
}

/// The rows of a name by their tags, read by the shell: (seconds, value).
fn table(database: &Path, name: &str) -> BTreeMap<String, Vec<(f64, f64)>> {
    let lines = sql(
        database,
        &format!(
            "SELECT json_array(json(tags), metric_value, CASE typeof(recorded_at) WHEN 'text' THEN round((julianday(recorded_at) - 2440587.5) * 86400, 3)
                 ELSE recorded_at / iif(recorded_at > 1e11, 1000.0, 1.0) END) AS row
             FROM system_metrics WHERE metric_name = '{name}' AND row ->> 2 IS NOT NULL ORDER BY row ->> 2"
        ),
    );
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for line in lines.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let labels: BTreeMap<&str, String> = row[0]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect();
        let labels = serde_json::to_value(labels).unwrap().to_string();
        series.entry(labels).or_default().push((row[2].as_f64().unwrap(), row[1].as_f64().unwrap()));
    }
    series
}
