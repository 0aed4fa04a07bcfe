//! The main job on real input: a sidecar beside a writing application, its page read by promtool, by Prometheus' Python client and by
//! a real Prometheus; `kill -9` in the middle of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::python::{python, read_pages};
use crate::support::{Sidecar, free_address, get, request, run, wait_for};

/// One-second intervals, so that a test of seconds sees many collections.
const QUICK: &str = r#"
[scrape]
interval = "1s"
timeout = "900ms"
[write]
batch_age = "200ms"
[log]
level = "info"
"#;

fn application(database: &Path, seconds: u64) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/python/application.py");
    Command::new(python())
        .arg(script)
        .arg(database)
        .arg(seconds.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts")
}

fn rows(database: &Path, sql: &str) -> i64 {
    run("sqlite3", &["-readonly", database.to_str().unwrap(), sql]).trim().parse().unwrap()
}

/// Values of the page by series, as text 0.0.4 writes them.
fn series(page: &str) -> BTreeMap<String, f64> {
    page.lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.rsplit_once(' ').unwrap())
        .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
        .collect()
}

fn value_of(page: &str, series_name: &str) -> Option<f64> {
    series(page).get(series_name).copied()
}

#[test]
fn promtool_finds_nothing_to_say_about_the_page() {
    let scratch = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(scratch.path(), QUICK);
    let page = wait_for("a page with all sources", Duration::from_secs(20), || {
        Some(sidecar.metrics()).filter(|page| page.contains("node_load1 ") && page.contains("atlas_queue_"))
    });
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let out = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    // The host's names are node_exporter's, at whose `node_memory_MemFree_bytes` promtool shakes its head as well.
    let about_us: Vec<&str> = said.lines().filter(|line| !line.starts_with("node_")).collect();
    assert!(about_us.is_empty(), "promtool says:\n{said}");
    // What promtool does not look at: every series once, every family in one piece.
    let names: Vec<&str> =
        page.lines().filter(|l| !l.starts_with('#')).map(|l| l.rsplit_once(' ').unwrap().0).collect();
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "a series stands twice");
    let heads: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
    let unique: std::collections::BTreeSet<_> = heads.iter().map(|h| h.split(' ').next()).collect();
    assert_eq!(unique.len(), heads.len(), "a family stands in two pieces");
    assert_eq!(sidecar.stop(), 0);
}

/// The same page in text 0.0.4 and in OpenMetrics gives Prometheus' Python client the same samples.
#[test]
fn the_python_client_reads_equal_samples_from_both_formats() {
    let scratch = tempfile::tempdir().unwrap();
    // One collection only, so that both pages are of the same values.
    let sidecar = Sidecar::start(scratch.path(), "[scrape]\ninterval = \"1h\"\n");
    wait_for("all sources", Duration::from_secs(20), || {
        let page = sidecar.metrics();
        let up = page.lines().filter(|l| l.starts_with("atlas_sidecar_source_up{")).count();
        Some(()).filter(|()| up >= 20 && page.contains("node_uname_info"))
    });
    let own = |name: &str| name.starts_with("atlas_sidecar_");
    let text = request("GET", sidecar.address, "/metrics", &[]).unwrap();
    let accept = ("Accept", "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8");
    let open = request("GET", sidecar.address, "/metrics", &[accept]).unwrap();
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    let read = read_pages(&[("text", &text.text()), ("openmetrics", &open.text())]);
    let mut read = read.into_iter().map(|page| page.unwrap().samples);
    let (mut from_text, mut from_open) = (read.next().unwrap(), read.next().unwrap());
    // Our own counters move with every request.
    from_text.retain(|(name, _), _| !own(name));
    from_open.retain(|(name, _), _| !own(name));
    assert!(from_text.len() > 200, "{}", from_text.len());
    assert_eq!(from_text, from_open);
    assert_eq!(sidecar.stop(), 0);
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
    fn start(folder: &Path, target: SocketAddr) -> Self {
        let address = free_address();
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: sidecar\n  static_configs:\n  - targets: ['{target}']\n"
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(folder.join("prometheus.log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the README's test command installs prometheus");
        Self { child, address }
    }

    /// The results of an instant query: labels and value of each.
    fn query(&self, query: &str) -> Option<Vec<(Value, f64)>> {
        let path = format!("/api/v1/query?query={}", percent(query));
        let answer: Value = serde_json::from_str(&get(self.address, &path)?.text()).ok()?;
        let results = answer["data"]["result"].as_array()?;
        let read = |r: &Value| Some((r["metric"].clone(), r["value"][1].as_str()?.parse().ok()?));
        results.iter().map(read).collect()
    }

    fn one(&self, query: &str) -> Option<f64> {
        self.query(query)?.first().map(|(_, value)| *value)
    }
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn database(folder: &Path) -> PathBuf {
    folder.join("data/atlas.db")
}

/// Takes half a minute: the whole main job, with three `kill -9` in its middle; `.ci/long` gives it an hour by `SOAK_SECONDS`.
#[test]
fn the_main_job_beside_a_writing_application_survives_kill_9() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let mut sidecar = Sidecar::start(folder, QUICK);
    let db = database(folder);
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let started = Instant::now();
    let app = application(&db, seconds);
    let prometheus = Prometheus::start(folder, sidecar.address);

    // Rows in the table, series in Prometheus, the application's own rows among them.
    wait_for("rows", Duration::from_secs(20), || {
        Some(()).filter(|()| rows(&db, "SELECT count(*) FROM system_metrics WHERE metric_name = 'node_load1'") > 3)
    });
    wait_for("the sidecar in Prometheus", Duration::from_secs(30), || {
        prometheus.one("up{job=\"sidecar\"}").filter(|up| *up == 1.0)
    });
    wait_for("the application's metric in Prometheus", Duration::from_secs(20), || {
        prometheus.one("atlas_app_jobs_done_total{worker=\"w1\"}").filter(|v| *v > 0.0)
    });
    wait_for("the queue in Prometheus", Duration::from_secs(20), || {
        prometheus.one("sum(atlas_queue_items{status=\"pending\"})").filter(|v| *v > 0.0)
    });

    // What has been acknowledged before the kill is there after it. Three kills, at no moment in particular.
    for round in 0.. {
        if round >= 3 && started.elapsed() + Duration::from_secs(5) > Duration::from_secs(seconds) {
            break;
        }
        let written = "atlas_sidecar_samples_written_total";
        let acknowledged = wait_for("acknowledged samples", Duration::from_secs(20), || {
            value_of(&sidecar.metrics(), written).filter(|v| *v > 200.0)
        });
        let before = rows(&db, OWN_ROWS);
        sidecar.child.kill().unwrap();
        sidecar.child.wait().unwrap();
        let after = rows(&db, OWN_ROWS);
        assert!(after >= before, "round {round}: rows vanished: {before} → {after}");
        assert!(after as f64 >= acknowledged, "round {round}: {acknowledged} acknowledged, {after} there");
        let address = sidecar.address;
        drop(sidecar);
        sidecar = Sidecar::start_at(address, folder, QUICK);
    }
    wait_for("rows after the last start", Duration::from_secs(20), || {
        value_of(&sidecar.metrics(), "atlas_sidecar_samples_written_total").filter(|v| *v > 0.0)
    });
    wait_for("the restarted sidecar in Prometheus", Duration::from_secs(20), || {
        prometheus.one("up{job=\"sidecar\"}").filter(|up| *up == 1.0)
    });

    let said = String::from_utf8(app.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("errors=0"), "the application could not write: {said}");
    assert_eq!(sidecar.stop(), 0);
    let twice = "SELECT count(*) FROM (SELECT 1 FROM system_metrics WHERE tags LIKE '%\"host\"%'
                 GROUP BY metric_name, tags, recorded_at HAVING count(*) > 1)";
    assert_eq!(rows(&db, twice), 0, "a sample is stored twice");
    assert_eq!(run("sqlite3", &[db.to_str().unwrap(), "PRAGMA integrity_check"]).trim(), "ok");
}

/// Own rows carry the tag `host`; the application's do not.
const OWN_ROWS: &str = "SELECT count(*) FROM system_metrics WHERE tags LIKE '%\"host\"%'";

/// The values that Prometheus holds are those of the page.
#[test]
fn prometheus_holds_what_the_page_says() {
    let scratch = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(scratch.path(), "[scrape]\ninterval = \"1h\"\n");
    let prometheus = Prometheus::start(scratch.path(), sidecar.address);
    wait_for("a scrape", Duration::from_secs(30), || {
        prometheus.one("scrape_samples_scraped{job=\"sidecar\"}").filter(|n| *n > 100.0)
    });
    let page = series(&sidecar.metrics());
    let same = |name: &str| !name.starts_with("atlas_sidecar_");
    let held = wait_for("all series", Duration::from_secs(20), || {
        let held = prometheus.query("{job=\"sidecar\",__name__=~\"node_.*|atlas_.*|process_.*\"}")?;
        Some(held).filter(|held| held.len() >= page.len())
    });
    let mut compared = 0;
    for (mut labels, value) in held {
        let labels = labels.as_object_mut().unwrap();
        let name = labels.remove("__name__").unwrap().as_str().unwrap().to_owned();
        labels.retain(|key, _| key != "job" && key != "instance");
        let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let series = if pairs.is_empty() { name.clone() } else { format!("{name}{{{}}}", pairs.join(",")) };
        if same(&name) {
            assert_eq!(page.get(&series), Some(&value), "{series}");
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}
