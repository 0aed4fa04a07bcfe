//! The main job on real input: a sidecar beside a writing application, its page read by promtool, by Prometheus' Python client and by
//! a real Prometheus; `kill -9` in the middle of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::python::{python, read_pages};
use crate::support::{Sidecar, free_address, get, promtool, request, run, wait_for};

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
    let (_, said) = promtool(&page);
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

/// One collection only, so that all pages are of the same values.
const ONCE: &str = "[scrape]\ninterval = \"1h\"\n";

/// Something in every table of the application, with what labels must carry: quotes, backslashes, line ends, other scripts.
pub(crate) const SEED: &str = r#"
    INSERT INTO content_metadata(id, title, access_count, cognitive_score, search_indexed_at) VALUES
        ('c1', 'one', 3, 0.25, CURRENT_TIMESTAMP), ('c2', 'two', 0, 7.5, NULL), ('c3', 'three', NULL, 99.99, NULL);
    INSERT INTO processing_queue(id, content_id, status, priority, estimated_duration, actual_duration, worker_id) VALUES
        ('q1', 'c1', 'pending', 1, 10, NULL, NULL), ('q2', 'c2', 'running "hot"', 5, 10, 12, 'w\1'),
        ('q3', 'c3', 'completed', 9, 10, 8, 'Küche');
    INSERT INTO search_cache(id, query_hash, query_text, results, expires_at) VALUES
        ('s1', 'h1', 'one', '[]', datetime('now', '+1 day')), ('s2', 'h2', 'two', '[]', datetime('now', '-1 day'));
    INSERT INTO api_keys(id, name, key_hash, last_used_at) VALUES ('k1', 'first "key"', 'x', CURRENT_TIMESTAMP), ('k2', 'second', 'y', NULL);
    INSERT INTO webhooks(id, url, events, failure_count) VALUES ('h1', 'https://example.org/a', '[]', 3), ('h2', 'https://example.org/b', '[]', 0);
    INSERT INTO system_metrics(id, metric_name, metric_value, tags) VALUES
        ('m1', 'app.jobs_done_total', 17, '{"worker.id": "w1", "path": "C:\\DIR\n\"x\""}'),
        ('m2', 'app.jobs_done_total', 9007199254740991, '{"worker.id": "Küche ❤", "job": "nightly", "instance": 3}'),
        ('m3', 'app_ratio', 0.1, '{"__name__": "x", "": "y"}'),
        ('m4', 'app_tiny', 5e-324, NULL), ('m5', 'app_huge', 1e300, NULL), ('m6', 'app_below_zero_total', -1, NULL);
"#;

/// A sidecar over seeded tables whose targets are a real Prometheus, which scrapes it, and a real node_exporter.
struct Scene {
    sidecar: Sidecar,
    prometheus: Prometheus,
    _node_exporter: Running,
}

impl Scene {
    fn start(folder: &Path) -> Self {
        assert_eq!(Sidecar::start(folder, ONCE).stop(), 0);
        run("sqlite3", &["-bail", database(folder).to_str().unwrap(), SEED]);
        let (address, exporter) = (free_address(), free_address());
        let node_exporter = Running::start(
            Command::new("prometheus-node-exporter").arg(format!("--web.listen-address={exporter}")),
            &folder.join("node_exporter.log"),
        );
        let prometheus = Prometheus::start(folder, address);
        for target in [prometheus.address, exporter] {
            // Twice, for only then there is something in the histograms of whoever serves the page.
            for _ in 0..2 {
                wait_for("a target", Duration::from_secs(30), || get(target, "/metrics").filter(|a| a.status == 200));
            }
        }
        let target =
            |name, address| format!("[[scrape.targets]]\nname = \"{name}\"\nurl = \"http://{address}/metrics\"\n");
        let targets = target("prometheus", prometheus.address) + &target("node", exporter);
        let sidecar = Sidecar::start_at(address, folder, &format!("{ONCE}{targets}"));
        wait_for(&format!("all sources; log: {}", sidecar.log_text()), Duration::from_secs(30), || {
            let page = sidecar.metrics();
            let up = |state| {
                page.lines().filter(|l| l.starts_with("atlas_sidecar_source_up{") && l.ends_with(state)).count()
            };
            assert_eq!(up(" 0"), 0, "{}", sidecar.log_text());
            Some(()).filter(|()| up(" 1") == 24)
        });
        Self { sidecar, prometheus, _node_exporter: node_exporter }
    }

    fn page(&self, accept: &str) -> String {
        let answer = request("GET", self.sidecar.address, "/metrics", &[("Accept", accept)]).unwrap();
        let kind = answer.header("content-type").unwrap();
        assert!(kind.starts_with(accept.split(';').next().unwrap()), "{kind}");
        answer.text()
    }
}

/// The families of a page and their types.
fn heads(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.rsplit_once(' '))
}

/// Our own counters move with every request.
fn moves(name: &str) -> bool {
    name.starts_with("atlas_sidecar_")
}

/// The same page in text 0.0.4 and in OpenMetrics gives Prometheus' Python client the same samples: of our own sources with something in
/// every table, of rows that an application wrote, and of what real targets say, histograms and summaries included.
#[test]
fn the_python_client_reads_equal_samples_from_both_formats() {
    let scratch = tempfile::tempdir().unwrap();
    let scene = Scene::start(scratch.path());
    let accept = "application/openmetrics-text; version=1.0.0; escaping=underscores";
    let (text, open) = (scene.page("text/plain; version=0.0.4"), scene.page(accept));
    let mut read = read_pages(&[("text", &text), ("openmetrics", &open)]).into_iter().map(|page| page.unwrap());
    let (mut from_text, mut from_open) = (read.next().unwrap().samples, read.next().unwrap().samples);
    from_text.retain(|(name, _), _| !moves(name));
    from_open.retain(|(name, _), _| !moves(name));
    assert!(from_text.len() > 1000, "{}", from_text.len());
    assert_eq!(from_text, from_open);
    // Types are equal too, but for counters whose name OpenMetrics does not take for one.
    let open: BTreeMap<&str, &str> = heads(&open).collect();
    let (mut unknown, mut kinds) = (Vec::new(), BTreeMap::new());
    for (name, kind) in heads(&text).filter(|(name, _)| !moves(name)) {
        *kinds.entry(kind).or_insert(0) += 1;
        let base = name.strip_suffix("_total").filter(|_| kind == "counter");
        let kind = if kind == "untyped" { "unknown" } else { kind };
        if base.is_some_and(|base| open.get(base) == Some(&"counter")) || open.get(name) == Some(&kind) {
            continue;
        }
        assert_eq!((kind, open.get(name)), ("counter", Some(&"unknown")), "{name}");
        unknown.push(name);
    }
    assert!(["counter", "gauge", "histogram", "summary"].iter().all(|kind| kinds[kind] > 4), "{kinds:?}");
    // Below zero; and beside a gauge `…_bytes`, as Go has it.
    let known = ["atlas_app_below_zero_total", "atlas_go_memstats_alloc_bytes_total"];
    assert!(known.iter().all(|name| unknown.contains(name)), "{unknown:?}");
    assert!(unknown.iter().all(|name| known.contains(name) || !name.ends_with("_total")), "{unknown:?}");
    assert_eq!(scene.sidecar.stop(), 0);
}

/// A program of the tests; killed when dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        Self(child.unwrap_or_else(|e| panic!("{command:?} does not start ({e}): tests/run installs it")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real Prometheus on a port of its own.
pub struct Prometheus {
    _running: Running,
    pub address: SocketAddr,
}

impl Prometheus {
    pub fn start(folder: &Path, target: SocketAddr) -> Self {
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: sidecar\n  static_configs:\n  - targets: ['{target}']\n"
        );
        std::fs::write(&config, text).unwrap();
        Self::start_with(folder, &config)
    }

    /// One with a configuration of the caller's; what it keeps and says goes to `folder`.
    pub fn start_with(folder: &Path, config: &Path) -> Self {
        let address = free_address();
        let running = Running::start(
            Command::new("prometheus")
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
                .arg(format!("--web.listen-address={address}")),
            &folder.join("prometheus.log"),
        );
        Self { _running: running, address }
    }

    /// The results of an instant query: labels and value of each.
    pub fn query(&self, query: &str) -> Option<Vec<(Value, f64)>> {
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
    let mut earlier = 0;
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
        let ours = after - earlier;
        assert!(ours as f64 >= acknowledged, "round {round}: {acknowledged} acknowledged, {ours} there");
        earlier = after;
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

/// What Prometheus 2 asks for, and so what it was given.
const PROMETHEUS_2: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// The values that a real Prometheus holds, which asks for OpenMetrics, are those of the page: all series, and nothing else.
#[test]
fn prometheus_holds_what_the_page_says() {
    let scratch = tempfile::tempdir().unwrap();
    let scene = Scene::start(scratch.path());
    let page = series(&scene.page(PROMETHEUS_2).replace("# EOF\n", ""));
    let page: BTreeMap<_, _> = page.into_iter().filter(|(series, _)| !moves(series)).collect();
    assert!(page.len() > 1000, "{}", page.len());
    let held = wait_for("all series", Duration::from_secs(30), || {
        let held = scene.prometheus.query("{job=\"sidecar\",__name__=~\"(node|process|atlas)_.*\"}")?;
        let held: BTreeMap<_, _> = held.into_iter().map(named).filter(|(series, _)| !moves(series)).collect();
        Some(held).filter(|held| held.len() >= page.len())
    });
    let differ = |a: f64, b: f64| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan());
    for (series, value) in &page {
        let held = held.get(series).unwrap_or_else(|| panic!("Prometheus has no {series}"));
        assert!(!differ(*value, *held), "{series}: {value} on the page, {held} in Prometheus");
    }
    assert_eq!(held.len(), page.len());
    assert_eq!(scene.prometheus.one("prometheus_target_scrapes_sample_duplicate_timestamp_total").unwrap_or(0.0), 0.0);
}

/// A series of Prometheus as the page writes it.
fn named((labels, value): (Value, f64)) -> (String, f64) {
    let Value::Object(labels) = labels else { panic!("{labels}") };
    let (mut name, mut pairs) = (String::new(), BTreeMap::new());
    for (label, text) in labels {
        match label.as_str() {
            "__name__" => name = text.as_str().unwrap().to_owned(),
            // Prometheus' own; what the page has under these names it keeps with `exported_` in front.
            "job" | "instance" => {}
            _ => drop(
                pairs.insert(
                    label
                        .strip_prefix("exported_")
                        .filter(|l| ["job", "instance"].contains(l))
                        .unwrap_or(&label)
                        .to_owned(),
                    text,
                ),
            ),
        }
    }
    let pairs: Vec<String> = pairs.iter().map(|(label, text)| format!("{label}={text}")).collect();
    (if pairs.is_empty() { name } else { format!("{name}{{{}}}", pairs.join(",")) }, value)
}
