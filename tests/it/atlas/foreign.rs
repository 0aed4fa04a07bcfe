//! PostgreSQL as others leave it: values that only it can hold, types that cannot serve, tables without rights, locks and size.
//!
//! Two threads: while one waits for psql to change a table, the other ends the reading transaction before it.

use std::time::{Duration, Instant};

use atlas_sidecar::scrape::CollectError;

use super::twins::{OTHER_TYPES, Server, collected, id};
use super::{NOW, told};
use crate::store::SCHEMA;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_infinity_is_no_time() {
    let server = Server::with(OTHER_TYPES).await;
    server.sql(&format!(
        "INSERT INTO processing_queue (id, status, created_at) VALUES ('{}', 'pending', '-infinity'), ('{}', 'pending', 'infinity'), ('{}', 'pending', '294276-12-31');
        INSERT INTO search_cache VALUES ('{}', 'a', '', '', '-infinity'), ('{}', 'b', '', '', 'infinity'), ('{}', 'c', NULL, NULL, '4713-01-01 BC');
        INSERT INTO webhooks (id, last_triggered_at) VALUES ('{}', 'infinity');
        INSERT INTO api_keys (id, last_used_at) VALUES ('{}', '-infinity');
        INSERT INTO system_metrics VALUES ('{}', 'a', 1, NULL, 'infinity'), ('{}', 'b', 1, NULL, '-infinity')",
        id(1), id(2), id(3), id(1), id(2), id(3), id(1), id(1), id(1), id(2),
    ));
    let queue = server.told("queue").await;
    assert!(queue.contains(&"atlas_queue_unreadable_times 2".to_owned()), "{queue:?}");
    assert!(queue.contains(&"atlas_queue_oldest_waiting_seconds 0".to_owned()), "{queue:?}");
    assert_eq!(
        server.told("cache").await,
        ["atlas_cache_bytes 0", "atlas_cache_expired_rows 1", "atlas_cache_rows 3", "atlas_cache_unreadable_times 2"]
    );
    for name in ["api_keys", "webhooks"] {
        assert!(!server.told(name).await.iter().any(|s| s.contains("timestamp")), "{name}");
    }
    assert!(server.told("table").await.is_empty());
    assert_eq!(server.own_metric("atlas_sidecar_table_bad_rows", Some("time")), 1.0);
}

/// V-2, V-3, V-4: one number that is none, or that no double holds, neither fails the rest nor is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_v3_v4_numbers_that_are_none() {
    let server = Server::with(OTHER_TYPES).await;
    server.sql(&format!(
        "INSERT INTO content_metadata (id, access_count, cognitive_score) VALUES ('{}', 'NaN', 'NaN'), ('{}', 1e400, 'infinity'), ('{}', 1e-400, '-infinity'), ('{}', 2, 0.5);
        INSERT INTO processing_queue (id, estimated_duration, actual_duration) VALUES ('{}', 'NaN', 1), ('{}', 1, 'NaN'), ('{}', 4, 8);
        INSERT INTO webhooks (id, failure_count) VALUES ('{}', 'NaN'), ('{}', 'infinity'), ('{}', 3);
        INSERT INTO system_metrics VALUES ('{}', 'nan', 'NaN', NULL, '2026-11-22 09:59:00Z'), ('{}', 'inf', 'infinity', NULL, '2026-11-22 09:59:00Z'),
            ('{}', 'big', 1e309, NULL, '2026-11-22 09:59:00Z'), ('{}', 'small', -1e-400, NULL, '2026-11-22 09:59:00Z'),
            ('{}', 'most', -1.5e308, NULL, '2026-11-22 09:59:00Z'), ('{}', 'none', NULL, NULL, '2026-11-22 09:59:00Z')",
        id(1), id(2), id(3), id(4), id(1), id(2), id(3), id(1), id(2), id(3), id(1), id(2), id(3), id(4), id(5), id(6),
    ));
    assert_eq!(
        server.told("content").await,
        [
            "atlas_content_accessed_items 1",
            "atlas_content_accesses 2",
            "atlas_content_cognitive_score_count 1",
            "atlas_content_cognitive_score_sum 0.5",
            r#"atlas_content_cognitive_score{quantile="0.1"} 0.5"#,
            r#"atlas_content_cognitive_score{quantile="0.5"} 0.5"#,
            r#"atlas_content_cognitive_score{quantile="0.9"} 0.5"#,
            "atlas_content_items 4",
            "atlas_content_unindexed_items 4",
        ]
    );
    let queue = server.told("queue").await;
    for wanted in ["timed_items 1", "timed_estimated_seconds 4", "timed_actual_seconds 8"] {
        assert!(queue.contains(&format!("atlas_queue_{wanted}")), "{queue:?}");
    }
    let failures: Vec<_> = server.told("webhooks").await.into_iter().filter(|s| s.contains("failures")).collect();
    assert_eq!(failures.iter().map(|s| s.rsplit(' ').next().unwrap()).collect::<Vec<_>>(), ["0", "0", "3"]);
    assert_eq!(server.told("table").await, [format!("most -{}", 1.5e308), "small 0".to_owned()]);
    assert_eq!(server.own_metric("atlas_sidecar_table_bad_rows", Some("value")), 4.0);
}

/// V-8, V-11: rows without ids, tags that are no objects, texts that are too long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v8_v11_bad_rows_are_counted_and_never_shown() {
    let schema = OTHER_TYPES.replace("tags JSONB", "tags TEXT");
    let server = Server::with(&schema).await;
    server.sql(&format!(
        "INSERT INTO system_metrics VALUES
        (NULL, 'n', 1, NULL, '2026-11-22 09:59:00Z'), (NULL, 'n', 1, NULL, '2026-11-22 09:59:00Z'),
        ('{0}', NULL, 1, NULL, '2026-11-22 09:59:00Z'), ('{0}', repeat('ü', 513), 1, NULL, '2026-11-22 09:59:00Z'),
        ('{0}', 't', 1, 'x', '2026-11-22 09:59:00Z'), ('{0}', 't', 1, '7', '2026-11-22 09:59:00Z'), ('{0}', 't', 1, '7', '2026-11-22 09:58:00Z'),
        ('{0}', 't', 1, '{{\"a\":\"' || repeat('x', 2000000) || '\"}}', '2026-11-22 09:59:00Z'),
        ('{0}', 'z', 1, NULL, NULL), ('{0}', 'z', 1, NULL, NULL),
        ('{0}', 'f', 1, NULL, '2026-11-22 10:05:01Z'), ('{0}', 'ok', 1, '{{\"a\":\"' || repeat('x', 1000) || '\"}}', '2026-11-22 10:04:59Z')",
        id(1)
    ));
    let told = server.told("table").await;
    assert!(told.len() == 1 && told[0].starts_with("ok{a=\"xxx"), "{told:?}");
    let bad = |reason| server.own_metric("atlas_sidecar_table_bad_rows", Some(reason));
    assert_eq!(["null_id", "name", "value", "tags", "time"].map(bad), [2.0, 2.0, 0.0, 4.0, 2.0]);
    assert_eq!(server.own_metric("atlas_sidecar_table_future_rows", None), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_cannot_serve_is_named() {
    let server = Server::with(OTHER_TYPES).await;
    for (collector, table, column, becomes, not) in [
        ("queue", "processing_queue", "created_at", "text", "a time"),
        ("queue", "processing_queue", "created_at", "bigint", "a time"),
        ("queue", "processing_queue", "actual_duration", "interval", "a number"),
        ("cache", "search_cache", "expires_at", "jsonb", "a time"),
        ("content", "content_metadata", "access_count", "boolean", "a number"),
        ("api_keys", "api_keys", "last_used_at", "character varying(30)", "a time"),
        ("webhooks", "webhooks", "failure_count", "text[]", "a number"),
        ("table", "system_metrics", "recorded_at", "integer", "a time"),
        ("table", "system_metrics", "metric_value", "text", "a number"),
    ] {
        let before = server.sql(&format!(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attname = '{column}'"
        ));
        let turn = |into: &str| server.sql(&format!("ALTER TABLE {table} ALTER {column} TYPE {into} USING NULL"));
        turn(becomes);
        let refused = server.batch(collector, NOW).await.unwrap_err();
        let words = format!("column `{column}` of `{table}` is of type `{becomes}`, which is not {not}");
        assert_eq!(refused, CollectError::Malformed(words));
        turn(&before);
        server.batch(collector, NOW).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_or_forbidden_is_said() {
    let server = Server::with(OTHER_TYPES).await;
    server.sql("ALTER TABLE processing_queue DROP COLUMN worker_id; DROP TABLE search_cache");
    server.cluster.psql("app", "ALTER TABLE webhooks OWNER TO postgres");
    for (collector, words) in [
        ("queue", "column \"worker_id\" does not exist"),
        ("cache", "relation \"search_cache\" does not exist"),
        ("webhooks", "permission denied for table webhooks"),
    ] {
        let refused = server.batch(collector, NOW).await.unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
    }
    // A column that changes its type while the sidecar runs.
    let mut keys = server.collector("api_keys", Duration::from_secs(10));
    collected(&mut *keys, NOW).await.unwrap();
    server.sql("ALTER TABLE api_keys ALTER id TYPE TEXT, ALTER is_active TYPE BOOLEAN USING is_active = 1, ALTER rate_limit_per_hour TYPE NUMERIC");
    collected(&mut *keys, NOW).await.unwrap();
    server.sql("ALTER TABLE api_keys ALTER last_used_at TYPE TEXT");
    assert!(collected(&mut *keys, NOW).await.unwrap_err().to_string().contains("`last_used_at`"));
}

/// E-5, and a guest's manners: whoever holds a table is waited for as long as a lock may be, and our reading takes no lock that anybody waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_a_locked_table_fails_in_time_and_nothing_is_left_running() {
    let server = Server::with(SCHEMA).await;
    let mut holder = server.cluster.psql_command("app");
    let mut holder = holder.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = holder.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"BEGIN; LOCK TABLE search_cache; SELECT 'held';\n").unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert_eq!(line, "held\n");
    let begun = Instant::now();
    let mut cache = server.collector("cache", Duration::from_millis(300));
    assert_eq!(collected(&mut *cache, NOW).await, Err(CollectError::Timeout));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'atlas-sidecar' AND state = 'active'";
    assert_eq!(server.sql(busy), "0");
    drop(stdin);
    holder.wait().unwrap();
    collected(&mut *cache, NOW).await.unwrap();
}

/// E-13, T-7 on PostgreSQL alone: what an UPDATE moves is the last of its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t7_e13_changes_are_seen() {
    let server = Server::with(SCHEMA).await;
    server.sql(
        "INSERT INTO system_metrics VALUES ('1', 'a', 1, NULL, '2026-11-22 09:50:00'), ('2', 'a', 2, NULL, '2026-11-22 09:50:00'),
        ('3', 'a', 3, NULL, '2026-11-22 09:49:00'), ('4', 'b', 4, NULL, '2026-11-22 09:50:00')",
    );
    let mut table = server.collector("table", Duration::from_secs(10));
    let mut look = async |sql: &str, now: &str| {
        server.sql(sql);
        told(&super::series_of(&collected(&mut *table, now).await.unwrap()))
    };
    assert_eq!(look("SELECT", NOW).await, ["a 2", "b 4"]);
    assert_eq!(
        look("INSERT INTO system_metrics VALUES ('5', 'a', 5, NULL, '2026-11-22 09:40:00')", NOW).await,
        ["a 2", "b 4"]
    );
    assert_eq!(look("UPDATE system_metrics SET metric_value = 20 WHERE id = '2'", NOW).await, ["a 20", "b 4"]);
    assert_eq!(look("DELETE FROM system_metrics WHERE id = '2'", NOW).await, ["a 1", "b 4"]);
    assert_eq!(look("UPDATE system_metrics SET metric_value = 'NaN' WHERE id = '1'", NOW).await, ["a 3", "b 4"]);
    server.cluster.psql("app", "VACUUM FULL system_metrics");
    assert_eq!(look("SELECT", NOW).await, ["a 3", "b 4"]);
    // What is an hour old goes, row by row; a sidecar that comes takes its rows with it.
    assert_eq!(look("SELECT", "2026-11-22T10:49:30Z").await, ["b 4"]);
    let own = "INSERT INTO system_metrics VALUES ('0192f0c1-2b3c-7abc-8def-0123456789ab', 'own', 1, NULL, '2026-11-22 10:49:00')";
    assert_eq!(look(own, "2026-11-22T10:49:30Z").await, ["b 4", "own 1"]);
    let registers = "INSERT INTO sidecar_state VALUES ('instance/0123456789ab', '{}', '')";
    assert_eq!(look(registers, "2026-11-22T10:49:30Z").await, ["b 4"]);
    // Without our tables nobody is registered.
    assert_eq!(look("DROP TABLE sidecar_state, sidecar_metric_meta", "2026-11-22T10:49:30Z").await, ["b 4", "own 1"]);
}

/// 50,000 series are held and no more; which ones does not change while they are written, and the rest is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e12_series_without_end_are_bounded() {
    let server = Server::with(SCHEMA).await;
    let write = |from: u32, to: u32| {
        server.sql(&format!(
            "INSERT INTO system_metrics SELECT gen_random_uuid(), 'm', i, json_build_object('n', i), '2026-11-22 09:59:00' FROM generate_series({from}, {to}) i"
        ))
    };
    write(1, 50_100);
    let mut table = server.collector("table", Duration::from_secs(10));
    let held = super::series_of(&collected(&mut *table, NOW).await.unwrap());
    assert_eq!(held.len(), 50_000);
    assert_eq!(server.own_metric("atlas_sidecar_table_rows_over_limit", None), 100.0);
    server.sql("DELETE FROM system_metrics");
    write(49_000, 50_200);
    write(1, 48_999);
    // The known ones stay, also where a look between failed.
    server.sql("ALTER TABLE system_metrics RENAME TO away");
    collected(&mut *table, NOW).await.unwrap_err();
    server.sql("ALTER TABLE away RENAME TO system_metrics");
    assert!(super::series_of(&collected(&mut *table, NOW).await.unwrap()).keys().eq(held.keys()));
    assert_eq!(server.own_metric("atlas_sidecar_table_series", None), 50_000.0);
}

/// A big table is read by its index, and not at all without one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_table_is_read_by_its_index_or_not_at_all() {
    let mut server = Server::with(SCHEMA).await;
    // 80 MiB that nobody needs to look at, and an hour.
    server.sql(
        "INSERT INTO system_metrics SELECT gen_random_uuid(), 'old', i, json_build_object('filler', repeat('x', 1000)), timestamp '2026-01-01' + i * interval '1 minute'
        FROM generate_series(1, 80000) i;
        INSERT INTO system_metrics SELECT gen_random_uuid(), 'new', i, NULL, timestamp '2026-11-22 09:00:00' + i * interval '1 second' FROM generate_series(1, 3000) i",
    );
    let refused = server.batch("table", NOW).await.unwrap_err();
    assert!(
        matches!(&refused, CollectError::TooLarge(why) if why.contains("no index on `recorded_at`") && why.contains("migrate")),
        "{refused}"
    );
    for index in ["brin (recorded_at)", "btree (recorded_at)"] {
        server.sql(&format!("CREATE INDEX by_time ON system_metrics USING {index}"));
        server.cluster.psql("app", "VACUUM ANALYZE system_metrics");
        server.settle().await;
        server.cluster.psql("app", "SELECT pg_stat_reset()");
        assert_eq!(server.told("table").await, ["new 3000"]);
        server.settle().await;
        let scans = "SELECT i.idx_scan > 0, t.seq_scan FROM pg_stat_user_indexes i JOIN pg_stat_user_tables t USING (relid) WHERE indexrelname = 'by_time'";
        assert_eq!(server.sql(scans), "t|0", "{index}");
        server.sql("DROP INDEX by_time");
    }
    // An index over some of the rows does not find the others.
    server.sql("CREATE INDEX by_time ON system_metrics (recorded_at) WHERE metric_name = 'new'");
    server.batch("table", NOW).await.unwrap_err();
    // One that is in parts is as big as its parts.
    server.sql(
        "DROP INDEX by_time; ALTER TABLE system_metrics RENAME TO part; CREATE TABLE system_metrics (LIKE part) PARTITION BY RANGE (recorded_at);
        ALTER TABLE system_metrics ATTACH PARTITION part FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    );
    let refused = server.batch("table", NOW).await.unwrap_err();
    assert!(matches!(&refused, CollectError::TooLarge(why) if why.contains("no index")), "{refused}");
    server.sql("CREATE INDEX by_time ON system_metrics (recorded_at)");
    server.cluster.psql("app", "VACUUM ANALYZE system_metrics");
    assert_eq!(server.told("table").await, ["new 3000"]);
}

/// A cache of long results is measured without reading them: what is compressed counts as it is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_results_count_as_they_are_stored() {
    let mut server = Server::with(SCHEMA).await;
    server.sql("INSERT INTO search_cache (id, query_hash, query_text, results, expires_at) VALUES ('1', 'a', 'q', to_json(repeat('x', 3000000)), now())");
    server.settle().await;
    server.cluster.psql("app", "SELECT pg_stat_reset()");
    let told = server.told("cache").await;
    let bytes: f64 = told[0].strip_prefix("atlas_cache_bytes ").unwrap().parse().unwrap();
    assert!(bytes > 1000.0 && bytes < 100_000.0, "{bytes}");
    server.settle().await;
    let scans = "SELECT (SELECT seq_scan FROM pg_stat_all_tables WHERE relid = c.oid), (SELECT idx_scan + seq_scan FROM pg_stat_all_tables WHERE relid = c.reltoastrelid)
        FROM pg_class c WHERE relname = 'search_cache'";
    assert_eq!(server.sql(scans), "1|0");
}
