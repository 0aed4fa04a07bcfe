//! The whole `/metrics` page over captured inputs, byte for byte in every format, and what others read in it.
//!
//! The inputs are those of the other tests: the made-up host of `tests/fixtures/host`, pages of `tests/fixtures/exposition` behind a
//! real HTTP collector, rows that an application wrote, a configured query. All that a clock or this machine would change is left out.
//!
//! `UPDATE_GOLDEN=1 cargo test --test it golden::` writes the pages anew.

mod pages;
mod random;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::engine::Query;
use atlas_sidecar::engine::sqlite::sources::{Own, sources as engine_sources};
use atlas_sidecar::expose::encode::{Exposer, OWN_SOURCE};
use atlas_sidecar::expose::negotiate::{Filter, Format, Syntax};
use atlas_sidecar::ingest::latest::{Latest, Settings};
use atlas_sidecar::sample::Batch;
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::sample::names::Scheme;
use atlas_sidecar::scrape::host::{self, COLLECTORS};
use atlas_sidecar::scrape::{Source, http};
use prometheus::Registry;

use crate::store::Bench;
use crate::support::free_address;

const MINUTE: Duration = Duration::from_secs(60);

fn now() -> Timestamp {
    crate::store::at("2026-07-01T12:00:00.250Z")
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

const fn format(syntax: Syntax, escaping: Scheme) -> Format {
    Format { syntax, escaping }
}

/// All formats with the names of their golden files. Text 1.0.0 with underscores is text 0.0.4, and has no file of its own.
const FORMATS: [(&str, Format); 5] = [
    ("text-0.0.4.txt", Format::DEFAULT),
    ("text-1.0.0-allow-utf-8.txt", format(Syntax::Text100, Scheme::AllowUtf8)),
    ("text-1.0.0-dots.txt", format(Syntax::Text100, Scheme::Dots)),
    ("text-1.0.0-values.txt", format(Syntax::Text100, Scheme::Values)),
    ("openmetrics-1.0.0-allow-utf-8.txt", format(Syntax::OpenMetrics100, Scheme::AllowUtf8)),
];

fn settings() -> Settings {
    Settings {
        keep_prefixes: Vec::new(),
        max_series: 10_000,
        timestamps: false,
        counters_stale_after: Duration::from_secs(3600),
        hidden: Globs::new(["node_vmstat_pgpg*", "atlas_prometheus_tsdb_compaction_chunk_size_bytes_bucket"]),
    }
}

/// The host collectors whose input is captured.
fn host_sources() -> Vec<Source> {
    let captured = |name: &&&str| !["time", "uname", "process", "filesystem"].contains(*name);
    let settings = host::Settings {
        collectors: COLLECTORS.iter().filter(captured).map(|&name| name.to_owned()).collect(),
        store: Globs::all(),
        procfs: fixture("host/proc"),
        sysfs: fixture("host/sys"),
        rootfs: fixture("host/root"),
        ignored_mount_points: Globs::new(["/dev/*"]),
        ignored_filesystem_types: Globs::new(["proc"]),
        ignored_network_devices: Globs::new(["lo"]),
        ignored_block_devices: Globs::new(["loop*", "ram*"]),
    };
    host::sources(&settings, MINUTE, Duration::from_secs(10))
}

/// A source that gets the fixture `page` from a server, once.
fn target(name: &str, page: &str, metrics: &[&str], counters: &Arc<http::Metrics>) -> Source {
    let body = std::fs::read(fixture("exposition").join(page)).unwrap();
    let kind = match page.ends_with(".openmetrics") {
        true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        false => "text/plain; version=0.0.4; charset=utf-8",
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[answer.as_bytes(), &body].concat()).unwrap();
    });
    let target = http::Target {
        name: name.to_owned(),
        shown: url.clone(),
        url,
        interval: MINUTE,
        timeout: Duration::from_secs(10),
        metrics: Globs::new(metrics.iter().copied()),
        store: Globs::all(),
        auth: None,
        max_body_bytes: 1 << 20,
        max_samples: 10_000,
    };
    http::sources(&[target], free_address(), counters).remove(0)
}

/// What an application may write, from the ordinary to what nobody would (V-11 … V-14); every row a minute old.
const ROWS: &str = r#"
    INSERT INTO sidecar_metric_meta VALUES ('jobs.done_total', 'counter', 'Jobs done. "Quoted", \ and' || char(10) || 'a line end.', '2026-07-01');
    INSERT INTO system_metrics(id, metric_name, metric_value, tags, recorded_at) VALUES
    (1, 'queue_depth', 5, '{"worker": "w1"}', '2026-07-01 11:59:00'),
    (2, 'queue_depth', 0.1, NULL, '2026-07-01T11:59:00Z'),
    (3, 'jobs.done_total', 9007199254740993, '{"worker.id": "a", "worker_id": "b", "worker-id": "c"}', '2026-07-01 11:59:00'),
    (4, 'jobs_done_total', 1e300, '{"from": "another name that becomes the same"}', '2026-07-01 11:59:00'),
    (5, 'jobs.done_total', 7, '{"worker_id": "a"}', '2026-07-01 11:59:00'),
    (6, 'jobs_done_total', 8, '{"worker_id": "a"}', '2026-07-01 11:59:00'),
    (7, 'Temperatur °C ❤', -17.25, '{"raum": "Küche", "größe": 3}', '2026-07-01 11:59:00'),
    (8, '9 lives', 5e-324, '{"": "empty name", "__name__": "x", "tag__name__": "y"}', '2026-07-01 11:59:00'),
    (9, 'a"quoted\name', 1, '{"path": "C:\\DIR\n\"x\"", "null": null, "none": ""}', '2026-07-01 11:59:00'),
    (10, 'nested', 1, '{"b": [1, {"y": 2, "x": true}], "a": 1.50, "job": "j", "instance": "i", "le": "1", "source": "app"}', '2026-07-01 11:59:00'),
    (11, 'jobs_total', -3, '{"why": "a counter below zero"}', '2026-07-01 11:59:00'),
    (12, 'latency_seconds_count', 3, '{"why": "the name of a part of the histogram of a target"}', '2026-07-01 11:59:00'),
    (13, 'node_load1', 99, NULL, '2026-07-01 11:59:00'),
    (14, 'node_memory_MemFree_bytes', 99, '{"why": "another series of a family of the host"}', '2026-07-01 11:59:00'),
    (15, 'node_cpu_seconds_total', 99, '{"why": "a family of the host that everybody takes for a counter"}', '2026-07-01 11:59:00'),
    (16, 'atlas_sidecar_series', 99, NULL, '2026-07-01 11:59:00'),
    (17, 'requests', 1, '{"why": "beside requests_total of a target"}', '2026-07-01 11:59:00'),
    (18, 'old', 1, NULL, '2026-07-01 11:54:00'),
    (19, 'old_total', 1, NULL, '2026-07-01 11:54:00');
    INSERT INTO content_metadata(id, title) VALUES (1, 'a'), (2, 'ö"'), (3, 'ö"'), (4, NULL);
"#;

fn query() -> Query {
    Query {
        name: "titles".to_owned(),
        sql: "SELECT title, count(*) AS documents, max(id) / 3.0 AS last FROM content_metadata GROUP BY title"
            .to_owned(),
        values: vec!["documents".to_owned(), "last".to_owned()],
        labels: vec!["title".to_owned()],
        help: "Asked by the operator.".to_owned(),
        counter: false,
        interval: MINUTE,
        timeout: Duration::from_secs(5),
        max_rows: 100,
        store: Globs::all(),
    }
}

/// The table and the query over `bench`.
async fn database_sources(bench: &Bench) -> Vec<Source> {
    bench.sql(ROWS);
    let settings = crate::atlas::settings(&["table"], vec![query()]);
    let own = Own::new(&Registry::new());
    let (sources, notes) = engine_sources(&bench.database, &bench.database, &settings, &own).await.unwrap();
    assert_eq!((sources.len(), notes.len()), (2, 0), "{notes:?}");
    sources
}

/// All inputs, collected: by source the batch.
async fn batches() -> Vec<(String, Batch)> {
    let bench = Bench::new().await;
    let counters = Arc::new(http::Metrics::new(&Registry::new()));
    let prometheus = ["go_*", "net_conntrack_*", "process_*", "prometheus_engine_*", "prometheus_tsdb_compaction_*"];
    let mut sources = host_sources();
    sources.extend(database_sources(&bench).await);
    sources.push(target("all-types", "all_types.openmetrics", &["*"], &counters));
    sources.push(target("broken", "broken_histograms.txt", &["*"], &counters));
    sources.push(target(
        "neighbour",
        "node_exporter.txt",
        &["node_load*", "node_memory_Mem*", "node_disk_*", "go_*"],
        &counters,
    ));
    sources.push(target("prometheus", "prometheus.txt", &prometheus, &counters));
    sources.push(target("python", "python_client.openmetrics", &["*"], &counters));
    let mut batches = Vec::new();
    for Source { name, mut collector, .. } in sources {
        let mut batch = Batch::new(now());
        collector.collect(&mut batch).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        batches.push((name, batch));
    }
    batches
}

/// The pages of `batches`, put in this order.
fn exposer(batches: &[(String, Batch)]) -> Exposer {
    let registry = Registry::new();
    let latest = Latest::new(settings(), &registry);
    for (name, batch) in batches {
        latest.put(name, MINUTE, false, batch);
    }
    let exposer = Exposer::new(Arc::new(latest), registry, Clock::by_hand(now()));
    // The first page is where our own metrics take their names from whoever has them, and that is counted.
    exposer.page(Format::DEFAULT, &Filter { collect: vec![OWN_SOURCE.to_owned()], exclude: Vec::new() });
    exposer
}

fn page(exposer: &Exposer, format: Format) -> String {
    String::from_utf8(exposer.page(format, &Filter::default()).text().to_vec()).unwrap()
}

/// The page in all of [`FORMATS`].
async fn pages() -> Vec<String> {
    let exposer = exposer(&batches().await);
    FORMATS.iter().map(|(_, format)| page(&exposer, *format)).collect()
}
