//! The same rows on both engines are the same samples: the SQLite collectors and their PostgreSQL twins over tables that the same statements filled.

use std::collections::BTreeMap;
use std::time::Duration;

use atlas_sidecar::engine::postgres::atlas::{Read, Reading, cache, content, keys, queue, webhooks};
use atlas_sidecar::engine::postgres::table::{self, Table};
use atlas_sidecar::engine::{postgres, sqlite};
use atlas_sidecar::sample::{Batch, Kind};
use atlas_sidecar::scrape::{CollectError, Collector};
use prometheus::Registry;

use super::{NOW, settings};
use crate::store::{Bench, SCHEMA, at};
use crate::support::postgres::Cluster;
use crate::support::wait_for;

/// The application's tables as an ORM may make them: native ids, zones, documents, enums, flags that are numbers.
pub const OTHER_TYPES: &str = "
    CREATE TYPE state AS ENUM ('pending', 'processing', 'completed');
    CREATE DOMAIN moment AS timestamptz;
    CREATE TABLE api_keys (id UUID PRIMARY KEY, name TEXT, key_hash CHAR(64), rate_limit_per_hour BIGINT, last_used_at TIMESTAMPTZ, is_active SMALLINT);
    CREATE TABLE webhooks (id UUID PRIMARY KEY, url TEXT, events JSONB, secret TEXT, is_active INTEGER, last_triggered_at TIMESTAMPTZ(3),
        failure_count DOUBLE PRECISION);
    CREATE TABLE search_cache (id UUID PRIMARY KEY, query_hash TEXT, query_text VARCHAR, results TEXT, expires_at TIMESTAMPTZ);
    CREATE TABLE system_metrics (id UUID, metric_name TEXT, metric_value NUMERIC, tags JSONB, recorded_at moment);
    CREATE TABLE content_metadata (id UUID PRIMARY KEY, search_indexed_at TIMESTAMPTZ, last_accessed_at DATE, access_count NUMERIC, cognitive_score REAL);
    CREATE TABLE processing_queue (id UUID PRIMARY KEY, status state, created_at TIMESTAMPTZ, priority SMALLINT, estimated_duration NUMERIC(20,3),
        actual_duration REAL, worker_id TEXT);
    CREATE TABLE sidecar_state (key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT);
    CREATE TABLE sidecar_metric_meta (name TEXT PRIMARY KEY, kind TEXT NOT NULL, help TEXT NOT NULL, updated_at TEXT NOT NULL);
";

/// Ids that every type of id holds.
pub fn id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

/// A PostgreSQL database with the application's tables.
pub struct Server {
    pub cluster: Cluster,
    pub database: postgres::Database,
    pub registry: Registry,
    own: table::Own,
}

impl Server {
    pub async fn with(schema: &str) -> Self {
        let cluster = Cluster::start();
        let url = cluster.database("app");
        let database = postgres::Database::open(&url, None).await.unwrap();
        let registry = Registry::new();
        let server = Self { cluster, database, own: table::Own::new(&registry), registry };
        server.sql(schema);
        server
    }

    /// Ends the sidecar's sessions, waits until all have told the server's statistics what they did, and connects again.
    pub async fn settle(&mut self) {
        self.database.close().await;
        let others =
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        wait_for("the other sessions to end", Duration::from_secs(20), || (self.sql(others) == "0").then_some(()));
        self.database = postgres::Database::open(&self.cluster.url("app"), None).await.unwrap();
    }

    /// Runs `sql` in psql as the application.
    pub fn sql(&self, sql: &str) -> String {
        self.cluster.psql("app", &format!("SET ROLE atlas; {sql}"))
    }

    pub fn collector(&self, name: &str, limit: Duration) -> Box<dyn Collector> {
        let read: Read = match name {
            "queue" => queue::read,
            "cache" => cache::read,
            "content" => content::read,
            "api_keys" => keys::read,
            "webhooks" => webhooks::read,
            "table" => {
                return Box::new(Table::new(self.database.clone(), self.database.clone(), limit, self.own.clone()));
            }
            other => panic!("no collector {other}"),
        };
        Box::new(Reading { database: self.database.clone(), limit, read })
    }

    pub async fn batch(&self, name: &str, now: &str) -> Result<Batch, CollectError> {
        collected(&mut *self.collector(name, Duration::from_secs(10)), now).await
    }

    /// The series with their values.
    pub async fn told(&self, name: &str) -> Vec<String> {
        super::told(&super::series_of(&self.batch(name, NOW).await.unwrap()))
    }

    pub fn own_metric(&self, name: &str, label: Option<&str>) -> f64 {
        super::own_metric(&self.registry, name, label)
    }
}

pub async fn collected(collector: &mut dyn Collector, now: &str) -> Result<Batch, CollectError> {
    let mut batch = Batch::new(at(now));
    collector.collect(&mut batch).await.map(|()| batch)
}

/// A database of each engine.
struct Twins {
    bench: Bench,
    server: Server,
}

impl Twins {
    async fn with(schema: &str) -> Self {
        Self { bench: Bench::new().await, server: Server::with(schema).await }
    }

    fn sql(&self, sql: &str) {
        self.bench.sql(sql);
        self.server.sql(sql);
    }

    /// What both show; fails where they differ.
    async fn same(&self, name: &str) -> BTreeMap<String, Family> {
        let own = sqlite::sources::Own::new(&Registry::new());
        let settings = settings(&[name], Vec::new());
        let (mut sources, notes) =
            sqlite::sources::sources(&self.bench.database, &self.bench.database, &settings, &own).await.unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        let there = collected(&mut *sources[0].collector, NOW).await.unwrap();
        let here = self.server.batch(name, NOW).await.unwrap();
        assert_eq!(here.origin, there.origin);
        let (here, there) = (families(&here), families(&there));
        assert_eq!(here, there, "{name}: PostgreSQL, then SQLite");
        here
    }
}

/// Kind, help, and by name and labels: value and time.
type Family = (Kind, String, BTreeMap<String, (f64, Option<i64>)>);

fn families(batch: &Batch) -> BTreeMap<String, Family> {
    let sample = |family: &atlas_sidecar::sample::Family, sample: &atlas_sidecar::sample::Sample| {
        (
            format!("{}{:?}", family.series_name(sample), sample.labels),
            (sample.value, sample.at.map(atlas_sidecar::clock::Timestamp::millis)),
        )
    };
    batch
        .families
        .iter()
        .map(|f| {
            let samples: BTreeMap<_, _> = f.samples.iter().map(|s| sample(f, s)).collect();
            assert_eq!(samples.len(), f.samples.len(), "series are unique");
            (f.name.to_string(), (f.kind, f.help.to_string(), samples))
        })
        .collect()
}

/// `count` rows by one statement that both engines read: `row` uses `i`, from 1.
fn many(count: u32, into: &str, row: &str) -> String {
    format!(
        "INSERT INTO {into} WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT {row} FROM n"
    )
}

#[tokio::test]
async fn queue_is_the_same() {
    for schema in [SCHEMA, OTHER_TYPES] {
        let twins = Twins::with(schema).await;
        twins.same("queue").await;
        let rows: Vec<String> = [
            "'pending', 5, '2026-11-22 09:59:00', 10, NULL, NULL",
            "'pending', 5, '2026-11-22 09:30:00.250', NULL, NULL, NULL",
            "'pending', 1, '2026-11-22 09:58:00', NULL, NULL, ''",
            "'pending', -1, '2027-01-01 00:00:00', NULL, NULL, 'ahead'",
            "'pending', NULL, NULL, NULL, NULL, NULL",
            "'processing', 5, '2020-01-01 00:00:00', 10, NULL, 'wörker №1'",
            "'completed', 5, '2020-01-01 00:00:00', 10, 20.5, 'wörker №1'",
            "'completed', 5, NULL, 5, 3, 'w2'",
            "NULL, NULL, NULL, NULL, 3, 'w2'",
        ]
        .iter()
        .enumerate()
        .map(|(number, row)| format!("('{}', {row})", id(number as u64)))
        .collect();
        // The specification's durations are integers.
        let rows = if schema == SCHEMA { rows.join(", ").replace("20.5", "20") } else { rows.join(", ") };
        let insert = "INSERT INTO processing_queue (id, status, priority, created_at, estimated_duration, actual_duration, worker_id) VALUES ";
        twins.sql(&format!("{insert}{rows}"));
        let found = twins.same("queue").await;
        assert_eq!(found["atlas_queue_oldest_waiting_seconds"].2.values().next().unwrap().0, 1799.75);
        assert_eq!(found["atlas_queue_unreadable_times"].2.values().next().unwrap().0, 1.0);
        assert_eq!(found["atlas_queue_worker_items"].2.len(), 6);
        // Nothing but an item without a time waits: no age is shown.
        twins.sql("DELETE FROM processing_queue WHERE created_at IS NOT NULL");
        assert!(!twins.same("queue").await.contains_key("atlas_queue_oldest_waiting_seconds"));
    }
}

#[tokio::test]
async fn queue_labels_without_end_are_bounded_alike() {
    let twins = Twins::with(SCHEMA).await;
    // 150 workers of equal counts: which hundred are shown is decided by their bytes, in which upper case comes before lower and `_` between.
    let row = "'i' || i, CASE i % 3 WHEN 0 THEN 'completed' WHEN 1 THEN 'Failed' END, i % 7, substr('aZ_b0ü', 1 + i % 6, 1) || (i % 150)";
    twins.sql(&many(1200, "processing_queue (id, status, priority, worker_id)", row));
    let found = twins.same("queue").await;
    assert_eq!(found["atlas_queue_worker_items"].2.len(), 101);
    assert_eq!(found["atlas_queue_worker_items"].2.values().map(|(n, _)| n).sum::<f64>(), 1200.0);
    // More than a hundred statuses, long ones that are the same where they are cut, and one that is called like the rest.
    let long = "ü".repeat(250);
    let row = format!(
        "'j' || i, CASE i % 130 WHEN 0 THEN 'other' WHEN 1 THEN '{long}' || i ELSE 's' || (i % 130) END, i % 2"
    );
    twins.sql(&many(700, "processing_queue (id, status, priority)", &row));
    assert!(twins.same("queue").await["atlas_queue_items"].2.len() <= 101);
}

#[tokio::test]
async fn cache_is_the_same() {
    for schema in [SCHEMA, OTHER_TYPES] {
        let twins = Twins::with(schema).await;
        twins.same("cache").await;
        let ids: Vec<String> = (0..6).map(id).collect();
        twins.sql(&format!(
            "INSERT INTO search_cache (id, query_hash, query_text, results, expires_at) VALUES
            ('{}', 'a', 'küche', '[]', '2026-11-22 09:59:59'), ('{}', 'b', 'q', '[1, 2]', '2026-11-22 10:00:00.001'),
            ('{}', 'c', '', '\"{}\"', '2026-11-22 09:59:59.999'), ('{}', 'd', '{}', '0', '2026-11-22 10:00:00'),
            ('{}', 'e', '{}', '0', '2099-01-01 00:00:00')",
            ids[0],
            ids[1],
            ids[2],
            "ü".repeat(600),
            ids[3],
            "x".repeat(126),
            ids[4],
            "x".repeat(127),
        ));
        let found = twins.same("cache").await;
        assert_eq!(found["atlas_cache_expired_rows"].2.values().next().unwrap().0, 2.0);
    }
}

#[tokio::test]
async fn content_is_the_same() {
    for schema in [SCHEMA, OTHER_TYPES] {
        let twins = Twins::with(schema).await;
        twins.same("content").await;
        for count in [1, 10, 101] {
            let mut rows: Vec<String> = (0..count)
                .map(|n| format!("('{}', NULL, NULL, {}, {})", id(n), n % 3, (n % 40) as f64 / 4.0))
                .collect();
            rows.push(format!("('{}', '2026-11-22 09:00:00', NULL, NULL, NULL)", id(1001)));
            rows.push(format!("('{}', NULL, '2026-11-22 09:00:00', 0, -0.5)", id(1002)));
            rows.push(format!("('{}', NULL, NULL, -7, 0.5)", id(1003)));
            let insert = "INSERT INTO content_metadata (id, search_indexed_at, last_accessed_at, access_count, cognitive_score) VALUES";
            twins.sql(&format!("DELETE FROM content_metadata; {insert} {}", rows.join(", ")));
            assert_eq!(twins.same("content").await["atlas_content_cognitive_score"].2.len(), 5);
        }
    }
}

#[tokio::test]
async fn keys_and_webhooks_are_the_same() {
    for schema in [SCHEMA, OTHER_TYPES] {
        let twins = Twins::with(schema).await;
        twins.same("api_keys").await;
        twins.same("webhooks").await;
        let (yes, no) = if schema == SCHEMA { ("TRUE", "FALSE") } else { ("1", "0") };
        let keys: Vec<String> = (0..130_u64)
            .map(|n| {
                let name = if n == 3 { format!("schlüssel {}", "ß".repeat(240)) } else { format!("key \"{n}\"\\") };
                let hash = if n == 4 { "placeholder".repeat(4) } else { format!("{n:064}") };
                let used = match n % 5 {
                    0 => "NULL".to_owned(),
                    1 => "'2027-01-01 00:00:00'".to_owned(),
                    // Ties: decided by id.
                    _ => format!("'2026-11-22 09:00:0{}.125'", n % 3),
                };
                let active = [yes, no, "NULL"][n as usize % 3];
                let limit = if n % 4 == 0 { "NULL".to_owned() } else { n.to_string() };
                format!("('{}', '{name}', '{hash}', {limit}, {used}, {active})", id(n * 7919 % 1000))
            })
            .collect();
        twins.sql(&format!(
            "INSERT INTO api_keys (id, name, key_hash, rate_limit_per_hour, last_used_at, is_active) VALUES {}",
            keys.join(", ")
        ));
        let found = twins.same("api_keys").await;
        assert_eq!(found["atlas_api_key_active"].2.len(), 100);
        assert_eq!(found["atlas_api_keys_not_shown"].2.values().next().unwrap().0, 30.0);
        assert_eq!(found["atlas_api_keys_placeholder_hashes"].2.values().next().unwrap().0, 1.0);
        let webhooks: Vec<String> = (0..120_u64)
            .map(|n| {
                let active = [yes, no, "NULL"][n as usize % 3];
                let called = if n % 2 == 0 { "NULL" } else { "'2026-11-22 09:00:00'" };
                let failures = if n % 6 == 0 { "NULL".to_owned() } else { (n % 5).to_string() };
                format!(
                    "('{}', 'https://canary.example', '[]', 'canary', {active}, {called}, {failures})",
                    id(n * 31 % 1000)
                )
            })
            .collect();
        twins.sql(&format!(
            "INSERT INTO webhooks (id, url, events, secret, is_active, last_triggered_at, failure_count) VALUES {}",
            webhooks.join(", ")
        ));
        let found = twins.same("webhooks").await;
        assert_eq!(found["atlas_webhook_failures"].2.len(), 100);
        assert!(!format!("{found:?}").contains("canary"));
    }
}

/// V-6, V-8, V-11, T-3, T-7 on both: what `table` shows of rows that both engines can hold.
#[tokio::test]
async fn table_is_the_same() {
    for schema in [SCHEMA, OTHER_TYPES] {
        let twins = Twins::with(schema).await;
        twins.same("table").await;
        twins.sql(
            "INSERT INTO sidecar_state VALUES ('instance/0123456789ab', '{}', ''), ('instance/none', '{}', '');
            INSERT INTO sidecar_metric_meta VALUES ('jobs', 'counter', 'Jobs, in all', ''), ('lag_total', 'gauge', '', ''), ('h_count', 'histogram', 'H', '')",
        );
        let rows = [
            r#"'jobs', 5, '{"b":1,"a":"x"}', '2026-11-22 09:58:00'"#,
            r#"'jobs', 6, '{"a":"x","b":"1"}', '2026-11-22 09:59:00'"#,
            r#"'jobs', 7, '{"a":"x","b":"2","c":null,"d":""}', '2026-11-22 09:59:00'"#,
            r#"'lag_total', 0.5, NULL, '2026-11-22 09:59:30.5'"#,
            r#"'lag_total', -3, '{}', '2026-11-22 09:59:30.499'"#,
            r#"'h_count', 1, '{"n":{"z":1,"a":[1, 2]},"t":true}', '2026-11-22 09:59:00'"#,
            // T-7: the last of one time.
            "'tie', 1, NULL, '2026-11-22 09:59:00'",
            "'tie', 3, NULL, '2026-11-22 09:59:00'",
            "'tie', 2, '{}', '2026-11-22 09:59:00'",
            "'old', 1, NULL, '2026-11-22 08:59:59.999'",
            "'edge', 1, NULL, '2026-11-22 09:00:00'",
            "'ahead', 1, NULL, '2026-11-22 10:05:00'",
            "'late', 1, NULL, '2026-11-22 09:30:00'",
            "'late', 2, NULL, '2026-11-22 10:05:00.001'",
            "'undated', 1, NULL, NULL",
            "'größe in μs', 2.25, '{\"straße\":\"ä\\u0000ö\"}', '2026-11-22 09:59:00'",
            "'', 1, NULL, '2026-11-22 09:59:00'",
            "'bad', 1, '[1]', '2026-11-22 09:59:00'",
        ];
        let mut rows: Vec<String> =
            rows.iter().enumerate().map(|(n, row)| format!("('{}', {row})", id(n as u64))).collect();
        // An own row, and one that only looks like it.
        rows.push("('0192f0c1-2b3c-7abc-8def-0123456789ab', 'own', 1, NULL, '2026-11-22 09:59:00')".to_owned());
        rows.push("('0192f0c1-2b3c-7abc-8def-0123456789ac', 'foreign', 1, NULL, '2026-11-22 09:59:00')".to_owned());
        let mut rows = rows.join(", ");
        if schema == OTHER_TYPES {
            // JSONB does not hold that character.
            rows = rows.replace("\\u0000", "\\u0001");
        }
        twins.sql(&format!("INSERT INTO system_metrics VALUES {rows}"));
        let found = twins.same("table").await;
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["ahead", "edge", "foreign", "größe in μs", "h_count", "jobs", "lag_total", "late", "tie"]);
        assert_eq!(found["tie"].2.values().next().unwrap().0, 2.0);
        let bad = |reason| twins.server.own_metric("atlas_sidecar_table_bad_rows", Some(reason));
        assert_eq!(["null_id", "name", "value", "tags", "time"].map(bad), [0.0, 1.0, 0.0, 1.0, 1.0]);
        assert_eq!(twins.server.own_metric("atlas_sidecar_table_future_rows", None), 1.0);
    }
}

/// E-13: random inserts, late ones too, updates, deletes and looks; what PostgreSQL reads anew is what SQLite follows.
#[tokio::test]
async fn e13_table_stays_the_same() {
    let twins = Twins::with(SCHEMA).await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut rows = 0;
    for _ in 0..25 {
        let mut sql = String::new();
        for _ in 0..1 + random(6) {
            let (series, minute, row) = (random(5), 10 + random(50), random(rows + 1));
            rows += 1;
            // Every time once: after an UPDATE the engines decide a tie differently.
            let time = format!("2026-11-22 09:{minute}:00.{rows:03}");
            sql += &match random(5) {
                0 => format!("DELETE FROM system_metrics WHERE id = '{}';", id(row)),
                1 => format!("UPDATE system_metrics SET metric_value = {rows} WHERE id = '{}';", id(row)),
                2 => format!("UPDATE system_metrics SET recorded_at = '{time}' WHERE id = '{}';", id(row)),
                _ => format!("INSERT INTO system_metrics VALUES ('{}', 's{series}', {row}, NULL, '{time}');", id(rows)),
            };
        }
        twins.sql(&sql);
        twins.same("table").await;
    }
}
