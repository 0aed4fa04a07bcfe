//! What every store of samples does, on every engine: each function here is a test on SQLite and a test on PostgreSQL.

use std::time::{Duration, Instant};

use atlas_sidecar::engine::ids::{self, Ids, Instance};
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::sample::{Kind, tags};
use atlas_sidecar::store::{Appended, History, Meta, Row, StoreError, Stored};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::postgres::Server;
use super::{Bench, Stand, at};

/// Makes each function a test on each engine. On two threads: what a dropped connection still has to do is done while a shell is waited for.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name::<super::Bench>().await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name::<super::Server>().await;
            })+
        }
    };
}

on_both!(
    rows_are_written_as_documented_and_only_once,
    ids_taken_by_other_rows_write_nothing,
    v2_v3_v4_v9_a_row_that_cannot_be_stored_is_named_and_nothing_is_written,
    v2_a_rule_of_the_table_names_its_row_and_spares_the_others,
    v2_one_bad_row_of_a_thousand_leaves_the_others,
    v1_v5_v6_v14_values_come_back_to_the_bit,
    v1_v14_every_double_comes_back_to_the_bit,
    history_gives_whole_series_in_order,
    history_stops_where_its_reader_stops,
    e6_a_busy_writer_is_busy_and_the_retry_stores_once,
    an_append_that_is_dropped_leaves_nothing_open,
    own_rows_are_counted_by_instance_and_time,
    a_lost_state_directory_leaves_the_old_instance_known,
    metas_are_kept_and_replaced,
);

async fn rows_are_written_as_documented_and_only_once<S: Stand>() {
    let bench = S::fresh().await;
    let rows = bench.rows(1203);
    assert_eq!(bench.store().append(&rows).await.unwrap(), Appended::Now);
    assert_eq!(bench.count(), 1203);
    // Every byte of a row, as another process reads it.
    let shown = bench
        .sql("SELECT id, metric_name, metric_value, tags, recorded_at FROM system_metrics ORDER BY id DESC LIMIT 1");
    let last = rows.last().unwrap();
    assert_eq!(shown, format!("{}|m5|300.5|{}|2026-11-22 10:00:01.202", last.id, last.tags));
    // A retry whose first answer was lost, whole and of less than a chunk.
    assert_eq!(bench.store().append(&rows).await.unwrap(), Appended::Earlier);
    assert_eq!(bench.store().append(&rows[..3]).await.unwrap(), Appended::Earlier);
    assert_eq!(bench.count(), 1203);
    assert_eq!(bench.store().append(&[]).await.unwrap(), Appended::Now);
}

async fn ids_taken_by_other_rows_write_nothing<S: Stand>() {
    let bench = S::fresh().await;
    let rows = bench.rows(1000);
    bench.store().append(&rows[700..701]).await.unwrap();
    assert!(matches!(bench.store().append(&rows).await, Err(StoreError::Taken)));
    assert_eq!(bench.count(), 1);
    let mut twice = bench.rows(2);
    twice[1].id = twice[0].id.clone();
    assert!(matches!(bench.store().append(&twice).await, Err(StoreError::Taken)));
    bench.store().append(&bench.rows(5)).await.unwrap();
    assert_eq!(bench.count(), 6);
}

async fn v2_v3_v4_v9_a_row_that_cannot_be_stored_is_named_and_nothing_is_written<S: Stand>() {
    let bench = S::fresh().await;
    for (row, spoil, reason) in [
        (3, (|r| r.value = f64::NAN) as fn(&mut Row), "not_finite"),
        (999, |r| r.value = f64::NEG_INFINITY, "not_finite"),
        (500, |r| r.name = "ü".repeat(256), "name_too_long"),
    ] {
        let mut rows = bench.rows(1000);
        spoil(&mut rows[row]);
        match bench.store().append(&rows).await {
            Err(StoreError::Rejected { row: named, reason: why }) => assert_eq!((named, why), (row, reason)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bench.count(), 0);
    let mut rows = bench.rows(1);
    rows[0].name = "ü".repeat(255);
    assert_eq!(bench.store().append(&rows).await.unwrap(), Appended::Now);
}

async fn v2_a_rule_of_the_table_names_its_row_and_spares_the_others<S: Stand>() {
    let with_rule =
        S::SCHEMA.replace("metric_name VARCHAR(255) NOT NULL", "metric_name TEXT CHECK (metric_name <> 'bad')");
    let bench = S::with(&with_rule).await;
    for bad in [0, 499, 700, 1011] {
        let mut rows = bench.rows(1012);
        rows[bad].name = "bad".to_owned();
        let refused = bench.store().append(&rows).await;
        assert!(
            matches!(refused, Err(StoreError::Rejected { row, reason: "constraint" }) if row == bad),
            "{refused:?}"
        );
        let before = bench.count();
        rows.remove(bad);
        assert_eq!(bench.store().append(&rows).await.unwrap(), Appended::Now);
        assert_eq!(bench.count(), before + 1011);
    }
}

/// As `ingest` goes on: what is rejected is left out, and the others are tried again.
async fn v2_one_bad_row_of_a_thousand_leaves_the_others<S: Stand>() {
    let bench = S::fresh().await;
    let mut rows = bench.rows(1000);
    rows[500].value = f64::INFINITY;
    let Err(StoreError::Rejected { row, .. }) = bench.store().append(&rows).await else { panic!() };
    rows.remove(row);
    assert_eq!(bench.store().append(&rows).await.unwrap(), Appended::Now);
    assert_eq!(bench.count(), 999);
}

/// Appends `values` as one series and gives what is read back.
pub(super) async fn round_trip<S: Stand>(bench: &S, values: &[f64]) -> Vec<f64> {
    bench.sql("DELETE FROM system_metrics");
    let mut rows = bench.rows(values.len());
    for (row, value) in rows.iter_mut().zip(values) {
        (row.name, row.value) = ("v".to_owned(), *value);
    }
    bench.store().append(&rows).await.unwrap();
    bench.day().await.0.iter().map(|row| row.value).collect()
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

async fn v1_v5_v6_v14_values_come_back_to_the_bit<S: Stand>() {
    let bench = S::fresh().await;
    let values = [
        5e11,
        1e15,
        99_999_999_999.999_9,
        3.2e-5,
        5.0,
        5.5,
        0.0,
        -7.25,
        9_007_199_254_740_993.0,
        1e300,
        5e-324,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        0.1,
    ];
    assert_eq!(bits(&round_trip(&bench, &values).await), bits(&values));
    // The one value that changes: neither engine's NUMERIC has a negative zero.
    assert_eq!(bits(&round_trip(&bench, &[-0.0]).await), bits(&[0.0]));
    assert_eq!(bench.sql("SELECT metric_value FROM system_metrics"), "0");
}

async fn v1_v14_every_double_comes_back_to_the_bit<S: Stand>() {
    let bench = S::fresh().await;
    let mut runner = TestRunner::new(Config::default());
    // Any bits that are a number: subnormals and the largest come as often as the rest.
    let some = proptest::collection::vec(any::<u64>().prop_map(f64::from_bits), 3000);
    for _ in 0..5 {
        let values: Vec<f64> = some.new_tree(&mut runner).unwrap().current();
        let values: Vec<f64> = values.into_iter().filter(|v| v.is_finite() && v.to_bits() != 1 << 63).collect();
        assert_eq!(bits(&round_trip(&bench, &values).await), bits(&values));
    }
}

/// What others may have written, in forms that both engines hold: V-3 no numbers, V-11 permuted and doubled keys, T-4 no time, T-7 ties, and out
/// of order in the table.
const FOREIGN: &str = r#"INSERT INTO system_metrics (id, metric_name, metric_value, tags, recorded_at) VALUES
    ('u0', 'm', 6, '{"b":1,"a":"x"}', '2026-11-22 10:06:00'),
    ('u1', 'm', 1, '{"a":"x","b":"1"}', '2026-11-22T10:01:00'),
    ('u2', 'm', 2, ' {"a":"x", "b":1}', '2026-11-22T10:02:00.000000'),
    ('u3', 'm', 4, '{"a":"y","a":"x","b":"1"}', '2026-11-22 10:04:00.000'),
    ('u4', 'm', 5, '{"a":"x","b":"1"}', '2026-11-22 10:05:00Z'),
    ('u5', 'm', 5.5, '{"a":"x","b":"1"}', '2026-11-22 10:05:00.000'),
    ('n1', 'm', 8, NULL, '2026-11-22 10:00:00'),
    ('n2', 'm', 9, '{}', '2026-11-22 10:00:01'),
    ('n3', 'm', 9.5, '{"e":"","n":null}', '2026-11-22 10:00:02'),
    ('o1', 'm', 0, NULL, '2026-11-22 09:59:59.999'),
    ('o2', 'm', 0, NULL, '2026-11-22 10:10:00'),
    ('f1', 'f', 1, NULL, '2026-11-22 10:00:00.1234'),
    ('f2', 'f', 2, NULL, '2026-11-22 10:00:00.1235'),
    ('f3', 'f', 3, NULL, '2026-11-22 10:09:59.9999'),
    ('f4', 'f', 0, NULL, '2026-11-22 09:59:59.9999'),
    ('d1', 'm', 1, '{"t":true,"o":{"z":[1, 2],"a":null},"f":5.50}', '2026-11-22 10:00:00'),
    ('l1', 'l.x', 7, NULL, '2026-11-22 10:00:00'),
    ('l2', 'a name', 7, '{"odd key":"v","nul":"\u0000"}', '2026-11-22 10:00:00'),
    ('l3', 'B', 7, NULL, '2026-11-22 10:00:00'),
    ('l4', '_', 7, NULL, '2026-11-22 10:00:00'),
    ('l5', 'é', 7, NULL, '2026-11-22 10:00:00'),
    ('l6', '', 7, NULL, '2026-11-22 10:00:00'),
    ('b1', 'm', 'NaN', '{"a":"x","b":"1"}', '2026-11-22 10:00:00'),
    ('b2', 'm', 'Infinity', NULL, '2026-11-22 10:00:00'),
    ('b3', 'm', 1, '[1]', '2026-11-22 10:00:00'),
    ('b4', 'm', 1, 'null', '2026-11-22 10:00:00'),
    ('b5', 'm', 1, '{"a":"LONG"}', '2026-11-22 10:00:00'),
    ('t1', 'm', 1, NULL, NULL)"#;

/// [`FOREIGN`] with tags that are too long to be copied.
pub(super) fn foreign() -> String {
    FOREIGN.replace("LONG", &"x".repeat(70_000))
}

pub(super) fn told(rows: &[Stored]) -> Vec<String> {
    rows.iter()
        .map(|r| format!("{}{} {} {}", r.name, tags::to_json(&r.labels), r.value, &r.at.to_sql()[14..]))
        .collect()
}

async fn history_gives_whole_series_in_order<S: Stand>() {
    let bench = S::fresh().await;
    bench.sql(&foreign());
    let (read, done) = bench.history("2026-11-22T10:00:00Z", "2026-11-22T10:10:00Z", &Globs::all()).await;
    assert_eq!(
        told(&read),
        [
            r"{} 7 00:00.000",
            r"B{} 7 00:00.000",
            r"_{} 7 00:00.000",
            r#"a name{"nul":"\u0000","odd key":"v"} 7 00:00.000"#,
            r"f{} 1 00:00.123",
            r"f{} 2 00:00.124",
            r"f{} 3 09:59.999",
            r"l.x{} 7 00:00.000",
            r"m{} 8 00:00.000",
            r"m{} 9 00:01.000",
            r"m{} 9.5 00:02.000",
            r#"m{"a":"x","b":"1"} 1 01:00.000"#,
            r#"m{"a":"x","b":"1"} 2 02:00.000"#,
            r#"m{"a":"x","b":"1"} 4 04:00.000"#,
            r#"m{"a":"x","b":"1"} 5 05:00.000"#,
            r#"m{"a":"x","b":"1"} 5.5 05:00.000"#,
            r#"m{"a":"x","b":"1"} 6 06:00.000"#,
            r#"m{"f":"5.5","o":"{\"a\":null,\"z\":[1,2]}","t":"true"} 1 00:00.000"#,
            r"é{} 7 00:00.000",
        ]
    );
    assert_eq!(done, History { rows: 19, bad_rows: 5, bad_times: 1 });
    let (read, done) = bench.history("2026-11-22T10:00:00Z", "2026-11-22T10:10:00Z", &Globs::new(["l*"])).await;
    assert_eq!((read.len(), done), (1, History { rows: 1, bad_rows: 0, bad_times: 1 }));
}

/// The same input gives the same history on both engines, whatever is asked for, also where the database sorts texts as people do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_engines_show_the_same() {
    let sqlite = Bench::fresh().await;
    let postgres =
        Server::in_database("LOCALE_PROVIDER icu ICU_LOCALE 'en-US' TEMPLATE template0", Server::SCHEMA).await;
    let sorted = postgres.sql("SELECT string_agg(n, '' ORDER BY n) FROM unnest(ARRAY['B', 'a', '_']) AS n");
    assert_eq!(sorted, "_aB", "not by bytes");
    let mut rows = sqlite.rows(2500);
    for (n, row) in rows.iter_mut().enumerate() {
        row.name = ["B", "a", "_x", "a.b", "é", "Z z"][n % 6].to_owned();
        row.tags = format!(r#"{{"host":"h","n":"{}"}}"#, ["a", "B", "_", "é", "\\\\", ""][n % 5]);
        row.value = (n as f64 - 700.0) * 1.37e-3;
        // Ties, and not in the order of the table.
        row.at = at("2026-11-22T10:00:00Z").after(Duration::from_millis((n as u64 * 7919) % 1000));
    }
    sqlite.store().append(&rows).await.unwrap();
    postgres.store().append(&rows).await.unwrap();
    Stand::sql(&sqlite, &foreign());
    postgres.sql(&foreign());
    for (from, to, names) in [
        ("2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z", Globs::all()),
        ("2026-11-22T10:00:00.124Z", "2026-11-22T10:00:00.500Z", Globs::all()),
        ("2026-11-22T10:00:00.123Z", "2026-11-22T10:00:00.124Z", Globs::new(["f"])),
        ("2026-11-22T09:59:59.999Z", "2026-11-22T10:00:00Z", Globs::all()),
        ("2026-11-22T10:00:00Z", "2026-11-22T10:00:01Z", Globs::new(["a*", "B"])),
        ("2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z", Globs::all()),
    ] {
        let (one, other) = (sqlite.history(from, to, &names).await, postgres.history(from, to, &names).await);
        assert_eq!(one.1, other.1, "from {from} to {to}");
        assert_eq!(told(&one.0), told(&other.0));
        assert!(one.0 == other.0, "to the bit");
    }
}

async fn history_stops_where_its_reader_stops<S: Stand>() {
    let bench = S::fresh().await;
    bench.store().append(&bench.rows(100)).await.unwrap();
    let mut left = 5;
    let mut each = |_: Stored| {
        left -= 1;
        if left == 0 { Err(std::io::Error::other("pipe closed")) } else { Ok(()) }
    };
    let (from, to) = (at("2026-11-22T00:00:00Z"), at("2026-11-23T00:00:00Z"));
    let ended = bench.store().history(from, to, &Globs::all(), &mut each).await;
    assert!(ended.is_err_and(|e| e.to_string().contains("pipe closed")));
    assert_eq!(left, 0);
}

/// E-6: another process holds a lock. The append says so instead of waiting for ever, and the same rows go in afterwards.
async fn e6_a_busy_writer_is_busy_and_the_retry_stores_once<S: Stand>() {
    let bench = S::fresh().await;
    let rows = bench.rows(600);
    let mut shell = bench.lock();
    let start = Instant::now();
    let busy = bench.store().append(&rows).await;
    assert!(matches!(busy, Err(StoreError::Busy(_))), "{busy:?}");
    assert!(start.elapsed() < Duration::from_secs(4), "took {:?}", start.elapsed());
    shell.run("COMMIT");
    assert_eq!(bench.store().append(&rows).await.unwrap(), Appended::Now);
    assert_eq!(bench.store().append(&rows).await.unwrap(), Appended::Earlier);
    assert_eq!(bench.count(), 600);
}

async fn an_append_that_is_dropped_leaves_nothing_open<S: Stand>() {
    let bench = S::fresh().await;
    let rows = bench.rows(5000);
    for micros in [1, 200, 1000, 3000, 5000, 10_000, 20_000, 40_000] {
        let _ = tokio::time::timeout(Duration::from_micros(micros), bench.store().append(&rows)).await;
        // Others get a lock, and all rows or none are there.
        bench.lock().run("COMMIT");
        assert!([0, 5000].contains(&bench.count()));
        assert!(bench.store().append(&rows[..0]).await.is_ok());
    }
    assert!(bench.store().append(&rows).await.is_ok());
    assert_eq!(bench.count(), 5000);
    assert_eq!(bench.store().append(&bench.rows(7)).await.unwrap(), Appended::Now);
    assert_eq!(bench.count(), 5007);
}

async fn own_rows_are_counted_by_instance_and_time<S: Stand>() {
    let bench = S::fresh().await;
    let now = at("2026-11-22T10:00:00Z");
    bench.store().append(&bench.rows(20)).await.unwrap();
    let foreign: Vec<String> = (1..=50).map(|n| format!("('01999999-0000-7000-8000-{n:012x}', 'x', 1)")).collect();
    bench.sql(&format!(
        "INSERT INTO system_metrics (id, metric_name, metric_value) VALUES ('z', 'x', 1), {}",
        foreign.join(",")
    ));
    assert_eq!(bench.store().own_rows_since(now).await.unwrap(), 20);
    assert_eq!(bench.store().own_rows_since(now.before(Duration::from_secs(1))).await.unwrap(), 20);
    assert_eq!(bench.store().own_rows_since(now.after(Duration::from_millis(1))).await.unwrap(), 0);
}

async fn a_lost_state_directory_leaves_the_old_instance_known<S: Stand>() {
    let bench = S::fresh().await;
    let now = at("2026-11-22T10:00:00Z");
    let first = bench.ids().instance();
    bench.register(first, "h1", now).await;
    bench.register(first, "h1", now.after(Duration::from_secs(60))).await;
    let second = Instance::parse("00000000000b").unwrap();
    bench.register(second, "h1", now).await;
    let registered = bench.registered().await;
    let (old, new) = (bench.ids().next(now), Ids::new(second).next(now));
    for id in [&old, &new] {
        assert!(ids::is_own(Some(id), &registered), "{id} in {registered:?}");
    }
    assert_eq!(
        bench.sql(&format!("SELECT value FROM sidecar_state WHERE key = 'instance/{first}'")),
        r#"{"first_seen":"2026-11-22T10:00:00.000Z","host":"h1"}"#
    );
    // The application's user may look at it too.
    bench.sql("INSERT INTO sidecar_state (key, value, updated_at) VALUES ('instance0', '', '2026-11-22 10:00:00')");
    assert_eq!(bench.registered().await, registered);
    bench.sql("DROP TABLE sidecar_state");
    assert!(!bench.registered().await.knows(first));
}

async fn metas_are_kept_and_replaced<S: Stand>() {
    let bench = S::fresh().await;
    let meta = |name: &str, kind, help: &str| Meta { name: name.to_owned(), kind, help: help.to_owned() };
    let first = [meta("b", Kind::Gauge, "it's"), meta("A", Kind::Histogram, ""), meta("c", Kind::Unknown, "?")];
    bench.store().describe(&first).await.unwrap();
    bench.sql("UPDATE sidecar_metric_meta SET updated_at = '2001-01-01 00:00:00'");
    // A name may come twice: its source changed its mind before it was written.
    let next = [meta("b", Kind::Gauge, "it's"), meta("A", Kind::Gauge, "old"), meta("A", Kind::Counter, "now")];
    bench.store().describe(&next).await.unwrap();
    bench.sql("INSERT INTO sidecar_metric_meta (name, kind, help, updated_at) VALUES ('_', 'odd', 'x', '2001-01-01 00:00:00')");
    assert_eq!(
        bench.store().metas().await.unwrap(),
        [
            meta("A", Kind::Counter, "now"),
            meta("_", Kind::Unknown, "x"),
            meta("b", Kind::Gauge, "it's"),
            meta("c", Kind::Unknown, "?")
        ]
    );
    let untouched =
        "SELECT name FROM sidecar_metric_meta WHERE updated_at = '2001-01-01 00:00:00' AND name > 'a' ORDER BY 1";
    assert_eq!(bench.sql(untouched), "b\nc");
    assert!(bench.store().describe(&[]).await.is_ok());
    bench.sql("DROP TABLE sidecar_metric_meta");
    assert_eq!(bench.store().metas().await.unwrap(), []);
}
