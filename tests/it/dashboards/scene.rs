//! Every query, asked of a real Prometheus that has scraped a sidecar at work: tables with rows, jobs that ran and one that failed, backups, a source that is
//! down. A query that gives nothing is one that is listed here with the reason.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Dashboard, Query};
use crate::prometheus::{Prometheus, SEED};
use crate::support::{Sidecar, run, sidecar, wait_for};

/// Queries that may give nothing, and why that is in order.
const EMPTY: &[(&str, &str)] = &[
    ("backups / Requests that failed / A", "no request failed; a series comes with the first one"),
    ("jobs / Upkeep / B", "only the schedule puts upkeep off, and runs it at night"),
];

const SOON: Duration = Duration::from_secs(60);

/// `{logs}` is a folder of old files.
const CONFIG: &str = r#"
[scrape]
interval = "1s"
timeout = "900ms"
[write]
batch_age = "200ms"
[backup]
destination = "file:store"
[[scrape.queries]]
name = "broken"
sql = "SELECT 1 AS value FROM nowhere"
values = ["value"]
[[retention.tables]]
table = "access_log"
time_column = "created_at"
[[retention.files]]
directory = "{logs}"
glob = "*.log"
"#;

/// What the jobs find to do, beside what the application's tables hold: rows past their age, with and without a readable time.
const OLD: &str = "
    CREATE TABLE access_log(id INTEGER PRIMARY KEY, created_at TEXT);
    INSERT INTO access_log(created_at) VALUES (datetime('now', '-10 days')), ('yesterday');
    INSERT INTO system_metrics(id, metric_name, metric_value, recorded_at) VALUES ('old', 'app_old', 1, datetime('now', '-40 days'));
    UPDATE webhooks SET last_triggered_at = CURRENT_TIMESTAMP WHERE id = 'h1';
";

/// Runs each job. The clock seems wrong to `metric-retention`, since there is nothing between the oldest row and the newest ones: it fails until it is told.
fn run_jobs(folder: &Path) {
    let job =
        |args: &[&str]| sidecar(folder, &[&["--config", "sidecar.toml", "jobs", "run"], args].concat()).status.code();
    assert_eq!(job(&["metric-retention"]), Some(1));
    for name in [
        "cache-expiry",
        "metric-rollup",
        "log-pruning",
        "backup-incremental",
        "backup-verify",
        "backup-retention",
        "upkeep",
    ] {
        assert_eq!(job(&[name]), Some(0), "{name}");
    }
    assert_eq!(job(&["metric-retention", "--clock-is-right"]), Some(0));
}

fn busy_sidecar(folder: &Path) -> (Sidecar, Prometheus) {
    let logs = folder.join("logs");
    std::fs::create_dir(&logs).unwrap();
    for file in ["a.log", "b.log"] {
        run("touch", &["-d", "10 days ago", logs.join(file).to_str().unwrap()]);
    }
    let running = Sidecar::start(folder, &CONFIG.replace("{logs}", logs.to_str().unwrap()));
    let prometheus = Prometheus::start(folder, running.address);
    wait_for("the first backup", SOON, || Some(()).filter(|()| running.log_text().contains("backup committed")));
    let database = folder.join("data/atlas.db");
    run("sqlite3", &["-bail", "-cmd", ".timeout 20000", database.to_str().unwrap(), &format!("{SEED}{OLD}")]);
    // An increase is one that Prometheus saw: it has to know what was before.
    wait_for("a scrape", SOON, || prometheus.query("atlas_sidecar_job_runs_total").filter(|series| !series.is_empty()));
    run_jobs(folder);
    (running, prometheus)
}

/// The query as Grafana sends it with everything chosen.
fn filled_in(text: &str) -> String {
    text.replace("$__rate_interval", "1m").replace("$job", ".+").replace("$instance", ".+")
}

/// Something, with the labels that are shown of it.
fn has_data(prometheus: &Prometheus, query: &Query<'_>) -> bool {
    let series = prometheus.query(&filled_in(query.expr)).unwrap_or_default();
    let whole = |labels: &Value| query.labels.iter().all(|label| labels[label].is_string());
    !series.is_empty() && series.iter().all(|(labels, _)| whole(labels))
}

/// Whether there is nothing to measure on this machine: no sensors, no disk of its own in a container, a kernel without pressure stall information.
fn is_not_there(page: &str, query: &Query<'_>) -> bool {
    let host = |name: &str| name.starts_with("node_");
    let shown =
        |name: &str| page.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    query.selectors().any(|(name, ..)| host(name) && !shown(name))
}

#[test]
fn every_query_says_something_about_a_sidecar_at_work() {
    let scratch = tempfile::tempdir().unwrap();
    let (running, prometheus) = busy_sidecar(scratch.path());
    let all = Dashboard::all();
    let queries: Vec<_> = all.iter().flat_map(Dashboard::queries).collect();
    for (place, reason) in EMPTY {
        assert!(queries.iter().any(|query| query.place == *place), "nothing is at `{place}` ({reason})");
    }
    // Nothing is a right answer, no answer is a mistake in the query.
    for query in &queries {
        assert!(
            prometheus.query(&filled_in(query.expr)).is_some(),
            "{}: Prometheus refuses {}",
            query.place,
            query.expr
        );
    }
    let page = running.metrics();
    let excused =
        |query: &Query<'_>| EMPTY.iter().any(|(place, _)| *place == query.place) || is_not_there(&page, query);
    let mut missing: Vec<_> = queries.into_iter().filter(|query| !excused(query)).collect();
    let end = Instant::now() + SOON;
    while !missing.is_empty() && Instant::now() < end {
        missing.retain(|query| !has_data(&prometheus, query));
        std::thread::sleep(Duration::from_millis(100));
    }
    let missing: Vec<_> = missing
        .iter()
        .map(|query| format!("{}: {}, with {:?}", query.place, filled_in(query.expr), query.labels))
        .collect();
    assert!(missing.is_empty(), "no data:\n{}", missing.join("\n"));
    variables_have_values(&prometheus, &all);
    assert_eq!(running.stop(), 0);
}

/// `label_values(METRIC, LABEL)`, as the variables ask.
fn variables_have_values(prometheus: &Prometheus, all: &[Dashboard]) {
    for dashboard in all {
        for name in ["job", "instance"] {
            let list = dashboard.json["templating"]["list"].as_array().unwrap();
            let text =
                list.iter().find(|variable| variable["name"] == name).unwrap()["query"]["query"].as_str().unwrap();
            let inner = text.strip_prefix("label_values(").and_then(|text| text.strip_suffix(')')).unwrap();
            let (metric, label) = inner.rsplit_once(", ").unwrap();
            let series = prometheus.query(&filled_in(metric)).unwrap();
            assert!(series.iter().any(|(labels, _)| labels[label].is_string()), "{text}");
        }
    }
}
