//! SQLite's sources on real files: the application's tables, the rows it writes to `system_metrics`, configured queries, and SQLite's
//! statistics; the sqlite3 shell is the application, and the oracle. PostgreSQL's collectors are held against them in `twins`.

mod foreign;
mod twins;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::queries::check_query;
use atlas_sidecar::engine::sqlite::sources::{Own, sources};
use atlas_sidecar::engine::{Builtin, COLLECTORS, Query, Settings};
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::sample::{Batch, Kind, Origin};
use atlas_sidecar::scrape::{CollectError, Source};
use atlas_sidecar::store::{Meta, SampleStore};
use prometheus::Registry;

use crate::store::{Bench, SCHEMA, at};

const NOW: &str = "2026-11-22T10:00:00Z";

/// What of the engine's settings sources look at.
pub fn settings(collectors: &[&str], queries: Vec<Query>) -> Settings {
    Settings {
        url: String::new(),
        metrics_url: None,
        password: None,
        metrics_password: None,
        widen_metric_value: false,
        create: false,
        full_text: Vec::new(),
        state_directory: "unused".into(),
        builtin: Builtin {
            collectors: collectors.iter().map(|c| (*c).to_owned()).collect(),
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            store: Globs::all(),
        },
        queries,
        follow: None,
    }
}

pub fn query(sql: &str, values: &[&str], labels: &[&str]) -> Query {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    Query {
        name: "q".to_owned(),
        sql: sql.to_owned(),
        values: owned(values),
        labels: owned(labels),
        help: "asked by the operator".to_owned(),
        counter: false,
        interval: Duration::from_secs(60),
        timeout: Duration::from_secs(5),
        max_rows: 10,
        store: Globs::all(),
    }
}

/// A file and one source on it.
struct One {
    bench: Bench,
    registry: Registry,
    source: Source,
}

impl One {
    async fn built_in(name: &str) -> Self {
        Self::of(Bench::new().await, settings(&[name], Vec::new())).await
    }

    async fn query(query: Query) -> Self {
        Self::of(Bench::new().await, settings(&[], vec![query])).await
    }

    async fn of(bench: Bench, settings: Settings) -> Self {
        let registry = Registry::new();
        let (mut sources, notes) =
            sources(&bench.database, &bench.database, &settings, &Own::new(&registry)).await.unwrap();
        assert_eq!(sources.len(), 1, "{notes:?}");
        Self { bench, registry, source: sources.remove(0) }
    }

    async fn batch(&mut self, now: Timestamp) -> Result<Batch, CollectError> {
        let mut batch = Batch::new(now);
        self.source.collector.collect(&mut batch).await?;
        Ok(batch)
    }

    /// The series as `name{label="value"}` with their values.
    async fn series(&mut self, now: &str) -> BTreeMap<String, f64> {
        series_of(&self.batch(at(now)).await.unwrap())
    }

    /// An own metric's value.
    fn own(&self, name: &str, label: Option<&str>) -> f64 {
        own_metric(&self.registry, name, label)
    }

    fn number(&self, sql: &str) -> f64 {
        self.bench.sql(sql).trim().parse().unwrap()
    }
}

fn own_metric(registry: &Registry, name: &str, label: Option<&str>) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|f| f.name() == name).unwrap_or_else(|| panic!("no {name}"));
    let metric = family.get_metric().iter().find(|m| label.is_none_or(|l| m.get_label()[0].value() == l)).unwrap();
    metric.get_gauge().get_value() + metric.get_counter().get_value()
}

pub fn series_of(batch: &Batch) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    for family in &batch.families {
        assert!(!family.samples.is_empty(), "{} is empty", family.name);
        for sample in &family.samples {
            let labels: Vec<String> = sample.labels.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let before = series.insert(format!("{}{labels}", family.series_name(sample)), sample.value);
            assert_eq!(before, None, "series are unique");
        }
    }
    series
}

pub fn told(series: &BTreeMap<String, f64>) -> Vec<String> {
    series.iter().map(|(name, value)| format!("{name} {value}")).collect()
}

#[tokio::test]
async fn queue_depth_age_durations_and_workers() {
    let mut one = One::built_in("queue").await;
    assert_eq!(
        told(&one.series(NOW).await),
        [
            "atlas_queue_oldest_waiting_seconds 0",
            "atlas_queue_timed_actual_seconds 0",
            "atlas_queue_timed_estimated_seconds 0",
            "atlas_queue_timed_items 0",
            "atlas_queue_unreadable_times 0",
        ]
    );
    // T-1, T-2: the oldest is the one with an offset, which sorts last as a text.
    one.bench.sql(
        "INSERT INTO processing_queue (id, status, priority, created_at, estimated_duration, actual_duration, worker_id) VALUES
        ('1', 'pending', 5, '2026-11-22 09:59:00', 10, NULL, NULL),
        ('2', 'pending', 5, '2026-11-22T10:30:00.250000+01:00', NULL, NULL, NULL),
        ('3', 'pending', 1, '2026-11-22T09:58:00', NULL, NULL, NULL),
        ('4', 'pending', 1, 'soon', NULL, NULL, NULL),
        ('5', 'processing', 5, '2020-01-01 00:00:00', 10, NULL, 'w1'),
        ('6', 'completed', 5, '2020-01-01 00:00:00', 10, 20, 'w1'),
        ('7', 'completed', 5, '2020-01-01 00:00:00', 5, 3, 'w2'),
        ('8', NULL, NULL, NULL, 'x', 3, 'w2')",
    );
    assert_eq!(
        told(&one.series(NOW).await),
        [
            "atlas_queue_items 1",
            r#"atlas_queue_items{priority="1",status="pending"} 2"#,
            r#"atlas_queue_items{priority="5",status="completed"} 2"#,
            r#"atlas_queue_items{priority="5",status="pending"} 2"#,
            r#"atlas_queue_items{priority="5",status="processing"} 1"#,
            "atlas_queue_oldest_waiting_seconds 1799.75",
            "atlas_queue_timed_actual_seconds 23",
            "atlas_queue_timed_estimated_seconds 15",
            "atlas_queue_timed_items 2",
            "atlas_queue_unreadable_times 1",
            r#"atlas_queue_worker_items{status="completed",worker="w1"} 1"#,
            r#"atlas_queue_worker_items{status="completed",worker="w2"} 1"#,
            r#"atlas_queue_worker_items{status="processing",worker="w1"} 1"#,
            r#"atlas_queue_worker_items{worker="w2"} 1"#,
        ]
    );
}

#[tokio::test]
async fn worker_ids_without_end_become_a_hundred_series_and_other() {
    let mut one = One::built_in("queue").await;
    one.bench.sql(
        "INSERT INTO processing_queue (id, status, created_at, worker_id)
        SELECT value, 'completed', CURRENT_TIMESTAMP, 'w' || (value % 1000) FROM generate_series(1, 2500)",
    );
    let series = one.series(NOW).await;
    let workers: Vec<_> = series.iter().filter(|(name, _)| name.starts_with("atlas_queue_worker_items")).collect();
    assert_eq!(workers.len(), 101);
    assert_eq!(workers.iter().map(|(_, n)| **n).sum::<f64>(), 2500.0);
    assert_eq!(series[r#"atlas_queue_worker_items{status="other",worker="other"}"#], 2200.0);
}

#[tokio::test]
async fn cache_rows_expired_and_bytes() {
    let mut one = One::built_in("cache").await;
    one.bench.sql(
        "INSERT INTO search_cache (id, query_hash, query_text, results, expires_at) VALUES
        ('1', 'a', 'küche', '[]', '2026-11-22 09:59:59'),
        ('2', 'b', 'q', printf('%.*c', 300000, 'x'), '2026-11-22 10:00:00.001'),
        ('3', 'c', 'q', '[1]', '2026-11-22T10:30:00+02:00'),
        ('4', 'd', 'q', '[1]', 1795341599),
        ('5', 'e', 'q', '5', 'never')",
    );
    let bytes =
        one.number("SELECT sum(length(CAST(query_text AS BLOB)) + length(CAST(results AS BLOB))) FROM search_cache");
    assert_eq!(
        told(&one.series(NOW).await),
        [
            format!("atlas_cache_bytes {bytes}"),
            "atlas_cache_expired_rows 3".to_owned(),
            "atlas_cache_rows 5".to_owned(),
            "atlas_cache_unreadable_times 1".to_owned(),
        ]
    );
}

#[tokio::test]
async fn content_counts_and_score_quantiles() {
    let mut one = One::built_in("content").await;
    assert_eq!(
        told(&one.series(NOW).await),
        [
            "atlas_content_accessed_items 0",
            "atlas_content_accesses 0",
            "atlas_content_cognitive_score_count 0",
            "atlas_content_cognitive_score_sum 0",
            "atlas_content_items 0",
            "atlas_content_unindexed_items 0",
        ]
    );
    one.bench.sql(
        "INSERT INTO content_metadata (id, search_indexed_at, last_accessed_at, access_count, cognitive_score)
        SELECT value, iif(value % 4 = 0, NULL, CURRENT_TIMESTAMP), iif(value = 7, 'x', NULL), value % 3, value / 10.0
        FROM generate_series(1, 101);
        INSERT INTO content_metadata (id, cognitive_score, access_count) VALUES ('t', 'high', 'often'), ('n', NULL, NULL)",
    );
    let series = one.series(NOW).await;
    for (name, sql) in [
        ("atlas_content_items", "SELECT count(*) FROM content_metadata"),
        ("atlas_content_unindexed_items", "SELECT count(*) FROM content_metadata WHERE search_indexed_at IS NULL"),
        ("atlas_content_accesses", "SELECT sum(access_count) FROM content_metadata WHERE id <> 't'"),
        ("atlas_content_cognitive_score_count", "SELECT 101"),
    ] {
        assert_eq!(series[name], one.number(sql), "{name}");
    }
    for (name, value) in [("0.1", 1.1), ("0.5", 5.1), ("0.9", 9.1)] {
        assert_eq!(series[&format!("atlas_content_cognitive_score{{quantile=\"{name}\"}}")], value);
    }
    assert!((series["atlas_content_cognitive_score_sum"] - 515.1).abs() < 1e-9);
}

#[tokio::test]
async fn keys_by_name_and_never_by_hash() {
    let mut one = One::built_in("api_keys").await;
    one.bench.sql(
        "INSERT INTO api_keys (id, name, key_hash, rate_limit_per_hour, last_used_at, is_active) VALUES
        ('admin-key-001', 'Admin API Key', '$2b$12$placeholder_hash_for_the_first_key_of_all', 1000, NULL, TRUE),
        ('k2', 'robot', 'canary0123456789canary0123456789canary0123456789canary0123456789', 5, '2026-11-22T11:00:00.5+02:00', 1),
        ('k3', 'old', 'canary9999456789canary0123456789canary0123456789canary0123456789', NULL, '2020-01-01 00:00:00', FALSE),
        (NULL, 'no id', 'short', 1, NULL, 'false')",
    );
    let series = one.series(NOW).await;
    assert_eq!(
        told(&series),
        [
            r#"atlas_api_key_active{id="admin-key-001",name="Admin API Key"} 1"#,
            r#"atlas_api_key_active{id="k2",name="robot"} 1"#,
            r#"atlas_api_key_active{id="k3",name="old"} 0"#,
            r#"atlas_api_key_last_used_timestamp_seconds{id="k2",name="robot"} 1795338000.5"#,
            r#"atlas_api_key_last_used_timestamp_seconds{id="k3",name="old"} 1577836800"#,
            r#"atlas_api_key_rate_limit_requests_per_hour{id="admin-key-001",name="Admin API Key"} 1000"#,
            r#"atlas_api_key_rate_limit_requests_per_hour{id="k2",name="robot"} 5"#,
            "atlas_api_keys_not_shown 1",
            "atlas_api_keys_placeholder_hashes 2",
            r#"atlas_api_keys{active="false"} 2"#,
            r#"atlas_api_keys{active="true"} 2"#,
        ]
    );
    assert!(!format!("{:?}", one.batch(at(NOW)).await.unwrap()).contains("canary"));
}

#[tokio::test]
async fn webhooks_by_id_and_never_by_url() {
    let mut one = One::built_in("webhooks").await;
    one.bench.sql(
        "INSERT INTO webhooks (id, url, events, secret, is_active, last_triggered_at, failure_count) VALUES
        ('w1', 'https://canary.example/?token=canary', '[]', 'canary', 1, '2026-11-22 09:00:00', 3),
        ('w2', 'https://canary.example/2', '[]', NULL, 0, NULL, NULL)",
    );
    let batch = one.batch(at(NOW)).await.unwrap();
    assert_eq!(
        told(&series_of(&batch)),
        [
            r#"atlas_webhook_active{id="w1"} 1"#,
            r#"atlas_webhook_active{id="w2"} 0"#,
            r#"atlas_webhook_failures{id="w1"} 3"#,
            r#"atlas_webhook_failures{id="w2"} 0"#,
            r#"atlas_webhook_last_triggered_timestamp_seconds{id="w1"} 1795338000"#,
            "atlas_webhooks_not_shown 0",
            r#"atlas_webhooks{active="false"} 1"#,
            r#"atlas_webhooks{active="true"} 1"#,
        ]
    );
    assert!(!format!("{batch:?}").contains("canary"));
}

#[tokio::test]
async fn the_files_are_told_as_sqlite_tells_them() {
    let mut one = One::built_in("database").await;
    one.bench.store.append(&one.bench.rows(3000)).await.unwrap();
    one.bench.sql("PRAGMA user_version = 42; DELETE FROM system_metrics WHERE rowid > 1000");
    let series = one.series(NOW).await;
    let value = |name: &str| series[&format!("atlas_database_{name}{{database=\"application\"}}")];
    for (name, pragma) in [
        ("page_size_bytes", "page_size"),
        ("pages", "page_count"),
        ("free_pages", "freelist_count"),
        ("schema_version", "schema_version"),
        ("user_version", "user_version"),
    ] {
        assert_eq!(value(name), one.number(&format!("PRAGMA {pragma}")), "{name}");
    }
    assert!(value("free_pages") > 0.0);
    let length = |end: &str| std::fs::metadata(format!("{}{end}", one.bench.file().display())).unwrap().len() as f64;
    assert_eq!((value("file_bytes"), value("wal_bytes")), (length(""), length("-wal")));
    assert_eq!(series[r#"atlas_database_journal_mode_info{database="application",mode="wal"}"#], 1.0);
    assert_eq!(series[r#"atlas_database_auto_vacuum_info{database="application",mode="none"}"#], 1.0);
}

#[tokio::test]
async fn objects_add_up_to_the_file() {
    let mut one = One::built_in("database_objects").await;
    one.bench.store.append(&one.bench.rows(3000)).await.unwrap();
    assert_eq!(one.source.interval, Duration::from_secs(3600));
    let series = one.series(NOW).await;
    let of = |object: &str, kind: &str| {
        let labels = format!(r#"{{database="application",kind="{kind}",object="{object}",table="system_metrics"}}"#);
        (
            series[&format!("atlas_database_object_bytes{labels}")],
            series[&format!("atlas_database_object_unused_bytes{labels}")],
        )
    };
    for (object, kind) in [("system_metrics", "table"), ("idx_system_metrics_name_time", "index")] {
        let (bytes, unused) = of(object, kind);
        assert!(bytes >= 100_000.0 && unused < bytes, "{object}: {bytes} {unused}");
    }
    let all: f64 = series.iter().filter(|(n, _)| n.starts_with("atlas_database_object_bytes")).map(|(_, v)| v).sum();
    assert_eq!(all, one.number("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"));
}

#[tokio::test]
async fn both_files_are_told_where_there_are_two() {
    let bench = Bench::new().await;
    let other = Database::open(&bench.folder.path().join("metrics.db"), true).await.unwrap();
    let registry = Registry::new();
    let (sources, notes) =
        sources(&bench.database, &other, &settings(COLLECTORS, Vec::new()), &Own::new(&registry)).await.unwrap();
    assert_eq!((sources.len(), notes.len()), (COLLECTORS.len(), 0), "{notes:?}");
    for mut source in sources {
        let mut batch = Batch::new(at(NOW));
        source.collector.collect(&mut batch).await.unwrap();
        if source.name.starts_with("database") {
            for database in ["application", "metrics"] {
                assert!(
                    series_of(&batch).keys().any(|n| n.contains(&format!("database=\"{database}\""))),
                    "{database}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_collector_without_its_columns_is_off_and_says_so() {
    let older = SCHEMA
        .replace("search_indexed_at TIMESTAMP, last_accessed_at TIMESTAMP, ", "")
        .replace("CREATE TABLE search_cache", "CREATE TABLE other_cache");
    let bench = Bench::with(&older).await;
    let wanted = settings(&["queue", "cache", "content", "nonsense"], Vec::new());
    let (sources, notes) =
        sources(&bench.database, &bench.database, &wanted, &Own::new(&Registry::new())).await.unwrap();
    assert_eq!(sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["queue"]);
    assert_eq!(notes.len(), 3);
    assert!(notes[0].starts_with("collector `cache` is off: there is no table `search_cache`"), "{}", notes[0]);
    assert!(
        notes[1].contains("table `content_metadata` has no column `search_indexed_at`, `last_accessed_at`"),
        "{}",
        notes[1]
    );
    assert_eq!(notes[2], "there is no collector `nonsense`");
}

#[tokio::test]
async fn every_family_is_described() {
    let bench = Bench::new().await;
    bench.sql(
        "INSERT INTO api_keys (id, name, key_hash, last_used_at) VALUES ('a', 'a', 'a', CURRENT_TIMESTAMP);
        INSERT INTO webhooks (id, url, events, last_triggered_at) VALUES ('a', 'a', '[]', CURRENT_TIMESTAMP);
        INSERT INTO processing_queue (id, worker_id) VALUES ('a', 'a');
        INSERT INTO content_metadata (id, cognitive_score) VALUES ('a', 1)",
    );
    let described: BTreeMap<_, _> = atlas_sidecar::engine::sqlite::sources::metrics().map(|d| (d.name, d)).collect();
    let mut shown = 0;
    let (sources, _) =
        sources(&bench.database, &bench.database, &settings(COLLECTORS, Vec::new()), &Own::new(&Registry::new()))
            .await
            .unwrap();
    for mut source in sources {
        let mut batch = Batch::new(at(NOW));
        source.collector.collect(&mut batch).await.unwrap();
        for family in &batch.families {
            let desc =
                described.get(family.name.as_ref()).unwrap_or_else(|| panic!("{} is not described", family.name));
            assert_eq!((desc.kind, desc.help), (family.kind, family.help.as_ref()));
            shown += 1;
        }
    }
    let own = described.keys().filter(|name| name.starts_with("atlas_sidecar_")).count();
    assert_eq!(shown + own, described.len(), "what is described is shown");
}

// The collector `table`.

#[tokio::test]
async fn foreign_rows_are_shown_and_own_rows_are_not() {
    let mut one = One::built_in("table").await;
    one.bench.store.register("h", at(NOW)).await.unwrap();
    one.bench.store.append(&one.bench.rows(50)).await.unwrap();
    let meta = |name: &str, kind| Meta { name: name.to_owned(), kind, help: format!("about {name}") };
    one.bench
        .store
        .describe(&[meta("jobs", Kind::Counter), meta("lag_total", Kind::Gauge), meta("h_count", Kind::Histogram)])
        .await
        .unwrap();
    one.bench.sql(
        r#"INSERT INTO system_metrics VALUES
        ('a', 'jobs', 5, '{"b":1,"a":"x"}', '2026-11-22 09:58:00'),
        ('0192f0c1-2b3c-7abc-8def-0123456789ab', 'jobs', 6, '{"a":"x","b":"1"}', '2026-11-22T09:59:00'),
        ('c', 'lag_total', 0.5, NULL, '2026-11-22T11:59:30.5+02:00'),
        ('d', 'seen_total', 9, '{}', 1795341600),
        ('e', 'h_count', 1, '{}', 1795341600000),
        ('f', 'old', 1, '{}', '2026-11-22 08:59:59')"#,
    );
    let batch = one.batch(at(NOW)).await.unwrap();
    assert_eq!(batch.origin, Origin::Table);
    assert_eq!(told(&series_of(&batch)), ["h_count 1", r#"jobs{a="x",b="1"} 6"#, "lag_total 0.5", "seen_total 9"]);
    let kinds: Vec<_> = batch.families.iter().map(|f| (f.name.as_ref(), f.kind, f.help.as_ref())).collect();
    assert_eq!(
        kinds,
        [
            ("h_count", Kind::Counter, "about h_count"),
            ("jobs", Kind::Counter, "about jobs"),
            ("lag_total", Kind::Gauge, "about lag_total"),
            ("seen_total", Kind::Counter, "Written to system_metrics by others than the sidecar."),
        ]
    );
    assert_eq!(batch.families[2].samples[0].at, Some(at("2026-11-22T09:59:30.5Z")));
}

#[tokio::test]
async fn v7_v8_v11_t2_t3_t4_bad_rows_are_counted_and_never_shown() {
    let mut one = One::built_in("table").await;
    one.bench.sql(
        r#"INSERT INTO system_metrics VALUES
        ('1', 'v', 'abc', NULL, '2026-11-22 09:59:00'), ('2', 'v', 'NaN', NULL, '2026-11-22 09:59:00'), ('3', 'v', x'01', NULL, '2026-11-22 09:59:00'),
        ('4', 't', 1, '[1]', '2026-11-22 09:59:00'), ('5', 't', 1, 'x', '2026-11-22 09:59:00'),
        ('6', 't', 1, printf('{"a":"%.*c"}', 2000000, 'x'), '2026-11-22 09:59:00'), ('7', 't', 1, 7, '2026-11-22 09:59:00'),
        ('8', 'z', 1, NULL, NULL), ('9', 'z', 1, NULL, 'today'),
        (NULL, 'n', 1, NULL, '2026-11-22 09:59:00'), (NULL, 'n', 1, NULL, '2026-11-22 09:59:00'),
        ('a', x'00', 1, NULL, '2026-11-22 09:59:00'), ('e', '', 1, NULL, '2026-11-22 09:59:00'),
        ('b', 'f', 1, NULL, '2026-11-22 10:05:01'), ('c', 'ok', 1, NULL, '2026-11-22 10:04:59')"#,
    );
    let counts = |one: &One| {
        ["value", "tags", "time", "null_id", "name"].map(|r| one.own("atlas_sidecar_table_bad_rows", Some(r)) as i64)
    };
    assert_eq!(told(&one.series(NOW).await), ["ok 1"]);
    assert_eq!(counts(&one), [3, 4, 2, 2, 2]);
    assert_eq!(one.own("atlas_sidecar_table_future_rows", None), 1.0);
    // Since the rebuild: new bad rows add, old ones are not counted twice.
    one.bench.sql("INSERT INTO system_metrics VALUES ('d', 'v', 'x', NULL, '2026-11-22 09:59:00')");
    one.series(NOW).await;
    assert_eq!(counts(&one), [4, 4, 2, 2, 2]);
    one.bench.sql("DELETE FROM system_metrics WHERE metric_name IN ('v', 't')");
    one.series("2026-11-22T10:15:01Z").await;
    assert_eq!(counts(&one), [0, 0, 2, 2, 2], "a rebuild counts what is there");
    // The future has come.
    assert_eq!(told(&one.series("2026-11-22T10:31:00Z").await), ["f 1", "ok 1"]);
}

#[tokio::test]
async fn t7_e13_the_latest_row_counts_and_changes_are_followed() {
    let mut one = One::built_in("table").await;
    one.bench.sql(
        "INSERT INTO system_metrics VALUES ('1', 'a', 1, NULL, '2026-11-22 09:50:00'), ('2', 'a', 2, NULL, '2026-11-22T09:50:00Z'),
        ('3', 'a', 3, NULL, '2026-11-22 09:49:00'), ('4', 'b', 4, NULL, '2026-11-22 09:50:00')",
    );
    let rebuilds = |one: &One| one.own("atlas_sidecar_table_rebuilds_total", None);
    assert_eq!(told(&one.series(NOW).await), ["a 2", "b 4"]);
    // A late row is newer by rowid, older by time; a later one counts.
    one.bench.sql(
        "INSERT INTO system_metrics VALUES ('5', 'a', 5, NULL, '2026-11-22 09:40:00'), ('6', 'b', 6, NULL, 1795341300)",
    );
    assert_eq!(told(&one.series(NOW).await), ["a 2", "b 6"]);
    // UPDATE in place, with and without a new time.
    one.bench.sql("UPDATE system_metrics SET metric_value = 20 WHERE id = '2'; UPDATE system_metrics SET recorded_at = '2026-11-22 09:59:00', metric_value = 60 WHERE id = '6'");
    assert_eq!(told(&one.series(NOW).await), ["a 20", "b 60"]);
    assert_eq!(rebuilds(&one), 1.0, "all of that was followed");
    // The held row goes: the one before it counts again.
    one.bench.sql("DELETE FROM system_metrics WHERE id = '2'");
    assert_eq!(told(&one.series(NOW).await), ["a 1", "b 60"]);
    assert_eq!(rebuilds(&one), 2.0);
    // A row that becomes bad is as good as gone.
    one.bench.sql("UPDATE system_metrics SET metric_value = 'x' WHERE id = '1'");
    assert_eq!(told(&one.series(NOW).await), ["a 3", "b 60"]);
    // Replaced under the same id: another rowid, nothing lost.
    one.bench.sql("REPLACE INTO system_metrics VALUES ('6', 'b', 61, NULL, '2026-11-22 09:59:30')");
    assert_eq!(told(&one.series(NOW).await), ["a 3", "b 61"]);
    // What is an hour old goes, row by row.
    assert_eq!(told(&one.series("2026-11-22T10:50:00Z").await), ["b 61"]);
    assert_eq!(told(&one.series("2026-11-22T11:00:00Z").await), Vec::<String>::new());
}

#[tokio::test]
async fn rowids_that_are_given_again_are_noticed() {
    let mut one = One::built_in("table").await;
    let insert = |one: &One, ids: &[&str]| {
        for id in ids {
            one.bench
                .sql(&format!("INSERT INTO system_metrics VALUES ('{id}', 'm{id}', 1, NULL, '2026-11-22 09:50:00')"));
        }
    };
    insert(&one, &["1", "2", "3"]);
    assert_eq!(told(&one.series(NOW).await), ["m1 1", "m2 1", "m3 1"]);
    // The last rowid belongs to another row now.
    one.bench.sql("DELETE FROM system_metrics WHERE id IN ('2', '3')");
    insert(&one, &["4", "5"]);
    assert_eq!(told(&one.series(NOW).await), ["m1 1", "m4 1", "m5 1"]);
    // Fewer rows than before.
    one.bench.sql("DELETE FROM system_metrics");
    insert(&one, &["6"]);
    assert_eq!(told(&one.series(NOW).await), ["m6 1"]);
    // VACUUM numbers anew.
    insert(&one, &["7", "8"]);
    one.series(NOW).await;
    one.bench.sql("DELETE FROM system_metrics WHERE id = '7'; VACUUM");
    insert(&one, &["9"]);
    assert_eq!(told(&one.series(NOW).await), ["m6 1", "m8 1", "m9 1"]);
    one.bench.sql("DELETE FROM system_metrics");
    assert_eq!(told(&one.series(NOW).await), Vec::<String>::new());
}

/// Random inserts, updates, deletes and looks: what is followed is what a fresh collector reads.
#[tokio::test]
async fn following_equals_reading_anew() {
    let mut one = One::built_in("table").await;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for round in 0..60 {
        let mut sql = String::from("BEGIN;");
        for step in 0..1 + random(6) {
            let (series, minute, row) = (random(5), 30 + random(30), random(20));
            sql += &match random(10) {
                0 => format!(
                    "DELETE FROM system_metrics WHERE rowid = (SELECT max(rowid) - {} FROM system_metrics);",
                    row % 4
                ),
                1 => format!("DELETE FROM system_metrics WHERE rowid = {row};"),
                2 => format!(
                    "UPDATE system_metrics SET metric_value = {round} WHERE rowid = (SELECT max(rowid) FROM system_metrics);"
                ),
                _ => format!(
                    "INSERT INTO system_metrics VALUES ('{round}-{step}', 's{series}', {row}, NULL, '2026-11-22 09:{minute}:00');"
                ),
            };
        }
        one.bench.sql(&(sql + "COMMIT"));
        let followed = told(&one.series(NOW).await);
        let settings = settings(&["table"], Vec::new());
        let (mut fresh, _) =
            sources(&one.bench.database, &one.bench.database, &settings, &Own::new(&Registry::new())).await.unwrap();
        let mut batch = Batch::new(at(NOW));
        fresh[0].collector.collect(&mut batch).await.unwrap();
        assert_eq!(followed, told(&series_of(&batch)), "round {round}");
    }
    let rebuilds = one.own("atlas_sidecar_table_rebuilds_total", None);
    assert!((2.0..60.0).contains(&rebuilds), "{rebuilds} rebuilds: both ways were taken");
}

#[tokio::test]
async fn a_table_without_rows_or_our_tables_is_no_trouble() {
    let bench = Bench::with(SCHEMA.split("CREATE TABLE sidecar_state").next().unwrap()).await;
    let mut one = One::of(bench, settings(&["table"], Vec::new())).await;
    assert!(one.series(NOW).await.is_empty());
    one.bench.sql("INSERT INTO system_metrics VALUES ('1', 'a', 1, NULL, '2026-11-22 09:50:00')");
    assert_eq!(told(&one.series(NOW).await), ["a 1"]);
}

/// 50,000 series are held and no more; which ones does not change while they are written, and the rest is counted.
#[tokio::test]
async fn e12_series_without_end_are_bounded() {
    let mut one = One::built_in("table").await;
    let write = |one: &One, from: u32, to: u32| {
        one.bench.sql(&format!(
            "INSERT INTO system_metrics SELECT 'r' || random(), 'm', value, json_object('n', value), '2026-11-22 09:59:00'
            FROM generate_series({from}, {to})"
        ));
    };
    write(&one, 1, 50_100);
    assert_eq!(one.series(NOW).await.len(), 50_000);
    assert_eq!(one.own("atlas_sidecar_table_rows_over_limit", None), 100.0);
    // The others come first now, and a rebuild reads them first; the known ones stay.
    one.bench.sql("DELETE FROM system_metrics");
    write(&one, 49_000, 50_200);
    write(&one, 1, 48_999);
    let series = one.series(NOW).await;
    assert_eq!(series.len(), 50_000);
    assert!(
        series.contains_key(r#"m{n="1"}"#)
            && series.contains_key(r#"m{n="50000"}"#)
            && !series.contains_key(r#"m{n="50001"}"#)
    );
    assert_eq!(one.own("atlas_sidecar_table_series", None), 50_000.0);
}

#[tokio::test]
async fn a_table_that_cannot_be_followed_is_off() {
    for shape in [
        SCHEMA.replace("recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);", "recorded_at TIMESTAMP) WITHOUT ROWID;"),
        SCHEMA.replace("CREATE TABLE system_metrics", "CREATE TABLE base_metrics").replace(
            "CREATE INDEX idx_system_metrics_name_time ON system_metrics(metric_name, recorded_at);",
            "CREATE VIEW system_metrics AS SELECT * FROM base_metrics;",
        ),
    ] {
        let bench = Bench::with(&shape).await;
        let wanted = settings(&["table"], Vec::new());
        let (sources, notes) =
            sources(&bench.database, &bench.database, &wanted, &Own::new(&Registry::new())).await.unwrap();
        assert!(sources.is_empty() && notes[0].contains("has no rowid"), "{notes:?}");
    }
}

// Configured queries.

#[tokio::test]
async fn e7_values_labels_and_duplicates() {
    let sql =
        "WITH t(a, b, v, w) AS (VALUES ('x', 1, 1, 2.5), ('y', NULL, '1e3', NULL), ('x', 1, 7, 7), ('z', 0.5, NULL, 4))
        SELECT * FROM t; -- done";
    let mut one = One::query(query(sql, &["v", "w"], &["a", "b"])).await;
    assert_eq!(
        told(&one.series(NOW).await),
        [r#"q_v{a="x",b="1"} 1"#, r#"q_v{a="y"} 1000"#, r#"q_w{a="x",b="1"} 2.5"#, r#"q_w{a="z",b="0.5"} 4"#,]
    );
    one.series(NOW).await;
    assert_eq!(one.own("atlas_sidecar_query_duplicate_rows_total", Some("q")), 2.0, "the check's run is not counted");
    let mut one = One::query(Query { counter: true, ..query("SELECT 3 AS value", &["value"], &[]) }).await;
    let batch = one.batch(at(NOW)).await.unwrap();
    assert_eq!((batch.families[0].name.as_ref(), batch.families[0].kind), ("q", Kind::Counter));
    assert_eq!(batch.families[0].help, "asked by the operator");
}

#[tokio::test]
async fn e7_what_cannot_be_a_result_is_an_error_with_its_reason() {
    let bench = Bench::new().await;
    for (query, words) in [
        (query("SELECT 1 AS a, 2 AS b", &["v"], &[]), "no column `v`; it gives `a`, `b`"),
        (query("SELECT 1 AS v FROM system_metrics", &["v"], &["host"]), "no column `host`; it gives `v`"),
        (query("SELECT 'abc' AS v", &["v"], &[]), "column `v` holds a text"),
        (query("SELECT 'NaN' AS v", &["v"], &[]), "column `v` holds a text"),
        (query("SELECT x'00' AS v", &["v"], &[]), "column `v` holds a blob"),
        (query("SELECT 1 AS v, x'00' AS l", &["v"], &["l"]), "label `l` holds a blob"),
        (query("SELECT 1 AS v, printf('%.*c', 1025, 'x') AS l", &["v"], &["l"]), "label `l` has 1025 bytes"),
        (query("SELECT value AS v FROM json_each('[1,2,3,4,5,6,7,8,9,10,11]')", &["v"], &[]), "more than 10 rows"),
        (query("SELECT 1 AS v FROM nowhere", &["v"], &[]), "no such table: nowhere"),
        (query("SELECT 1 AS v; SELECT 2", &["v"], &[]), "more than one statement"),
        (query("PRAGMA page_count", &["page_count"], &[]), "pragma_page_count"),
        (query("INSERT INTO webhooks (id) VALUES (1)", &["v"], &[]), "begins with INSERT"),
        (query("ATTACH 'x.db' AS x", &["v"], &[]), "begins with ATTACH"),
        (query("WITH x AS (SELECT 1) INSERT INTO webhooks (id) SELECT * FROM x", &["v"], &[]), "syntax error"),
    ] {
        let refused = check_query(&bench.database, &query).await.unwrap_err();
        assert!(refused.contains(words), "{}: {refused}", query.sql);
    }
    assert_eq!(
        check_query(&bench.database, &query("SELECT page_count AS v FROM pragma_page_count", &["v"], &[])).await,
        Ok(())
    );
    let ten = query("SELECT value AS v, key AS k FROM json_each('[1,2,3,4,5,6,7,8,9,10]')", &["v"], &["k"]);
    assert_eq!(check_query(&bench.database, &ten).await, Ok(()));
}

/// E-7: even a statement that got past the rules cannot write: the connection cannot.
#[tokio::test]
async fn e7_the_readers_cannot_write() {
    let bench = Bench::new().await;
    bench.sql("INSERT INTO webhooks (id, url, events) VALUES ('w', 'u', '[]')");
    let new_file = bench.folder.path().join("new.db");
    let attach = format!("ATTACH '{}' AS other", new_file.display());
    let attach_url = format!("ATTACH 'file:{}?mode=rwc' AS other", new_file.display());
    for sql in [
        "DELETE FROM webhooks",
        "INSERT INTO webhooks (id, url, events) VALUES ('x', 'u', '[]')",
        "PRAGMA query_only = OFF; DELETE FROM webhooks",
        "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema",
        "PRAGMA user_version = 7",
        "DROP TABLE webhooks",
        &attach,
        &attach_url,
    ] {
        let mut reader = bench.database.read(Duration::from_secs(5)).await.unwrap();
        assert!(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut *reader).await.is_err(), "{sql}");
    }
    assert!(!new_file.exists());
    assert_eq!(bench.sql("SELECT count(*) FROM webhooks; PRAGMA user_version"), "1\n0\n");
}

/// E-5 through the collector.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_a_query_that_does_not_end_times_out() {
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) AS v FROM n";
    let limit = Duration::from_millis(400);
    let mut one = One::query(Query { timeout: limit, ..query(endless, &["v"], &[]) }).await;
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(one.batch(at(NOW)).await, Err(CollectError::Timeout));
        assert!(start.elapsed() < limit.mul_f64(1.2), "took {:?}", start.elapsed());
    }
    let refused = check_query(&one.bench.database, &Query { timeout: limit, ..query(endless, &["v"], &[]) }).await;
    assert_eq!(refused, Err("no answer in time".to_owned()));
}

/// `SELECT *` sees the table as it is, not as it was when the statement was first prepared.
#[tokio::test]
async fn e7_a_changed_table_is_seen() {
    let mut one = One::query(query("SELECT * FROM t", &["v"], &["l"])).await;
    assert!(matches!(one.batch(at(NOW)).await, Err(CollectError::Internal(why)) if why.contains("no such table")));
    one.bench.sql("CREATE TABLE t (v); INSERT INTO t VALUES (1)");
    assert!(matches!(one.batch(at(NOW)).await, Err(CollectError::Malformed(why)) if why.contains("no column `l`")));
    one.bench.sql("ALTER TABLE t ADD COLUMN l DEFAULT 'x'");
    assert_eq!(told(&one.series(NOW).await), [r#"q_v{l="x"} 1"#]);
}
