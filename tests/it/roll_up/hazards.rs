//! One test per hazard of the list.

use atlas_sidecar::store::{RollUps, StoreError, Width};

use super::*;

#[tokio::test]
async fn r7_resets_on_the_border_and_within_gaps_and_single_samples() {
    let mut bench = Bench::new().await;
    // Up to the border, a reset exactly on it, two resets within a bucket, one sample, three empty buckets, one sample after them.
    for (minute, value) in [
        (0, 5.0),
        (4, 9.0),
        (5, 2.0),
        (7, 1.0),
        (8, 4.0),
        (9, 0.5),
        (11, 1.5),
        (31, 3.5),
        (59, 4.5),
        (60, 1.0),
        (121, 0.25),
    ] {
        bench.point("jobs_total", START + minute * MINUTE, value).await;
        bench.point("depth", START + minute * MINUTE, value).await;
    }
    // Reborn under other tags: another series, which begins at nothing.
    bench.insert("jobs_total", Some(r#"{"a":"1"}"#), r#"{"a":"1"}"#, Form::T, START + 6 * MINUTE, 100.0).await;
    bench.roll_up(START + 4 * HOUR).await;
    bench.is_exact(START + 3 * HOUR, 23).await;
    bench.prune(START + 3 * HOUR).await;
    bench.is_exact(START + 3 * HOUR, 0).await;
    let total: f64 = bench.held(HOUR).await.values().filter_map(|(b, _)| b.increase).sum();
    assert_eq!(total, 4.0 + 2.0 + 1.0 + 3.0 + 0.5 + 1.0 + 2.0 + 1.0 + 1.0 + 0.25);
}

#[tokio::test]
async fn t1_t2_rows_of_all_forms_are_one_slice() {
    let mut bench = Bench::new().await;
    for (n, form) in FORMS.into_iter().chain([Form::Real, Form::TwentyFour]).enumerate() {
        for minute in [0, 3, 7, 58, 61] {
            bench.insert("m_total", None, "{}", form, START + minute * MINUTE + n as i64 * 1_000, n as f64).await;
        }
    }
    bench.insert("m_total", None, "{}", Form::TwentyFour, START, 50.0).await;
    bench.roll_up(START + 3 * HOUR).await;
    let done = bench.prune(START + 2 * HOUR).await;
    assert_eq!(done.rows, 56);
    // The form that no span finds was found by the walk, after its slice had been sealed.
    assert_eq!(bench.number("SELECT sum(count) FROM sidecar_metrics_rollup WHERE step_secs = 300").await, 56);
    assert_eq!(bench.number("SELECT sum(count) FROM sidecar_metrics_rollup WHERE step_secs = 3600").await, 56);
    assert_eq!(bench.number("SELECT count(*) FROM system_metrics").await, 0);
}

#[tokio::test]
async fn r6_a_cut_off_within_a_bucket_takes_whole_hours_only() {
    let mut bench = Bench::new().await;
    for minute in 0..130 {
        bench.point("m", START + minute * MINUTE, minute as f64).await;
    }
    bench.roll_up(START + 3 * HOUR).await;
    assert_eq!(bench.prune(START + HOUR + 7 * MINUTE).await.rows, 60);
    assert_eq!(bench.number("SELECT count(*) FROM system_metrics").await, 70);
    bench.nothing_is_lost_or_doubled().await;
}

#[tokio::test]
async fn r2_nothing_is_pruned_that_was_not_rolled_up() {
    let mut bench = Bench::new().await;
    for minute in 0..180 {
        bench.point("m", START + minute * MINUTE, 1.0).await;
    }
    assert_eq!(bench.prune(START + DAY).await.rows, 0, "no watermark");
    bench.roll_up(START + HOUR + 20 * MINUTE).await;
    assert_eq!(bench.prune(START + DAY).await.rows, 60, "the hour below the watermark");
    bench.nothing_is_lost_or_doubled().await;
}

#[tokio::test]
async fn r4_late_rows_while_the_others_are_there_remake_their_bucket() {
    let mut bench = Bench::new().await;
    for minute in 0..120 {
        bench.point("m_total", START + minute * MINUTE, minute as f64).await;
    }
    bench.roll_up(START + 2 * HOUR).await;
    bench.point("m_total", START + 30 * MINUTE + 500, 30.5).await;
    bench.point("m_total", START - 10 * DAY, 0.0).await;
    let done = bench.roll_up(START + 2 * HOUR).await;
    assert_eq!(done.rows, 7, "only the two slices: six rows and one");
    bench.is_exact(START + 2 * HOUR, 122).await;
}

#[tokio::test]
async fn r3_r5_late_rows_for_sealed_buckets_are_merged_and_counted() {
    let mut bench = Bench::new().await;
    for minute in (0..120).step_by(2) {
        bench.point("m_total", START + minute * MINUTE, minute as f64).await;
        bench.point("g", START + minute * MINUTE, -1.5).await;
    }
    bench.roll_up(START + 2 * HOUR).await;
    bench.prune(START + 2 * HOUR).await;
    for minute in (1..120).step_by(2) {
        bench.point("m_total", START + minute * MINUTE, minute as f64).await;
    }
    bench.point("new_total", START + 17 * MINUTE, 3.0).await;
    bench.roll_up(START + 2 * HOUR).await;
    bench.nothing_is_lost_or_doubled().await;
    let done = bench.prune(START + 2 * HOUR).await;
    assert_eq!((done.rows, done.late_rows), (61, 60));
    bench.is_exact(START + 2 * HOUR, 0).await;
}

#[tokio::test]
async fn v3_v4_v7_t4_rows_that_cannot_be_read_stay_and_are_counted() {
    let mut bench = Bench::new().await;
    bench.point("m", START, 1.0).await;
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    for (value, tags, time) in [
        ("'abc'", "NULL", "'2026-11-22 00:01:00'"),
        ("'NaN'", "NULL", "'2026-11-22T00:01:00Z'"),
        ("9e999", "NULL", "'2026-11-22 00:01:00'"),
        ("1", "'[1]'", "'2026-11-22 00:01:00'"),
        ("1", "'{'", "1795305660"),
        ("1", "7", "'2026-11-22 00:01:00'"),
        ("1", &format!("'{deep}'"), "'2026-11-22 00:01:00'"),
        ("1", "CAST(x'7b2261223a22ff227d' AS TEXT)", "'2026-11-22 00:01:00'"),
        ("1", "NULL", "NULL"),
        ("1", "NULL", "'2026-11-21'"),
        ("1", "NULL", "'soon'"),
        ("1", "NULL", "2461367.5"),
        ("1", "NULL", "1795305660000000"),
        ("1", "NULL", "x'00'"),
    ] {
        bench
            .sql(&format!("INSERT INTO system_metrics VALUES (hex(randomblob(8)), 'm', {value}, {tags}, {time})"))
            .await;
    }
    let mirrored = bench.roll_up(START + 3 * HOUR).await;
    assert_eq!((mirrored.rows, mirrored.bad_rows), (1, 8));
    let done = bench.prune(START + 2 * HOUR).await;
    assert_eq!(done.rows, 1);
    assert_eq!(bench.number("SELECT count(*) FROM system_metrics").await, 14);
    let kept = bench.buckets.kept(at(START + 2 * HOUR)).await.unwrap();
    assert_eq!((kept.times, kept.values), (6, 3));
    // Tags that SQLite takes for an object, and Rust does not, are known when they are met.
    assert_eq!((kept.labels, done.bad_rows), (3, 2));
    bench.is_exact(START + 2 * HOUR, 2).await;
}

#[tokio::test]
async fn v11_permuted_tags_and_null_are_one_series() {
    let mut bench = Bench::new().await;
    for (n, tags) in [Some(r#"{"b":1,"a":"x"}"#), Some(r#"{"a":"x","b":"1"}"#)].into_iter().enumerate() {
        bench.insert("m", tags, r#"{"a":"x","b":"1"}"#, Form::Canonical, START + n as i64, 1.0).await;
    }
    bench.insert("m", None, "{}", Form::Canonical, START, 1.0).await;
    bench.insert("m", Some("{}"), "{}", Form::Canonical, START, 3.0).await;
    bench
        .sql("INSERT INTO system_metrics VALUES (NULL, 'nul' || char(0) || 'x', 1, NULL, '2026-11-22 00:00:00')")
        .await;
    bench
        .sql("INSERT INTO system_metrics VALUES (NULL, 'nul' || char(0) || 'y', 1, NULL, '2026-11-22 00:00:00')")
        .await;
    bench.model.insert("nul\0x", "{}", START, 1.0);
    bench.model.insert("nul\0y", "{}", START, 1.0);
    bench.roll_up(START + 2 * HOUR).await;
    bench.is_exact(START + HOUR, 6).await;
    bench.prune(START + HOUR).await;
    bench.is_exact(START + HOUR, 0).await;
}

#[tokio::test]
async fn rowids_that_begin_again_lose_nothing() {
    let mut bench = Bench::new().await;
    for minute in 0..60 {
        bench.point("m", START + minute * MINUTE, 1.0).await;
    }
    bench.roll_up(START + HOUR).await;
    bench.prune(START + HOUR).await;
    assert_eq!(bench.number("SELECT count(*) FROM system_metrics").await, 0);
    // Fewer rows than the last rowid seen; then VACUUM, which deals rowids anew.
    for minute in 60..90 {
        bench.point("m", START + minute * MINUTE, 2.0).await;
    }
    bench.roll_up(START + 2 * HOUR).await;
    bench.is_exact(START + 2 * HOUR, 30).await;
    bench.sql("DELETE FROM system_metrics WHERE metric_name = 'gone'").await;
    bench.point("m", START + 10 * MINUTE, 9.0).await;
    bench.roll_up(START + 2 * HOUR).await;
    bench.prune(START + 2 * HOUR).await;
    bench.is_exact(START + 2 * HOUR, 0).await;
}

#[tokio::test]
async fn a_slice_that_is_too_large_for_one_transaction_goes_in_parts() {
    let mut bench = Bench::new().await;
    let mut sql = String::new();
    for n in 0..30_000_i64 {
        // Resets in it: parts one after another keep growth exact.
        let (at, value) = (START + n * 9, (n % 1_000) as f64);
        sql.push_str(&row("m_total", None, Form::Canonical, at, value));
        bench.model.insert("m_total", "{}", at, value);
    }
    bench.sql(&sql).await;
    bench.roll_up(START + 2 * HOUR).await;
    let mut chore = bench.buckets.prune(at(START + HOUR));
    let mut transactions = 0;
    while let Some(done) = chore.next().await.unwrap() {
        assert_eq!(done.late_rows, 0);
        transactions += 1;
    }
    assert!(transactions > 5, "{transactions} transactions");
    drop(chore);
    bench.is_exact(START + HOUR, 0).await;
}

#[tokio::test]
async fn buckets_expire_by_hours_and_their_hour_is_sealed_before() {
    let mut bench = Bench::new().await;
    for minute in 0..180 {
        bench.point("m_total", START + minute * MINUTE, minute as f64).await;
    }
    bench.roll_up(START + 3 * HOUR).await;
    bench.prune(START + 2 * HOUR).await;
    let hours = bench.held(HOUR).await;
    // The third hour's rows are still there: it stays, although it is old enough.
    all(bench.buckets.expire(Width::FiveMinutes, at(START + 3 * HOUR))).await.unwrap();
    assert_eq!(bench.held(SLICE).await.len(), 12);
    assert_eq!(
        bench.held(HOUR).await.values().map(|(b, _)| b).collect::<Vec<_>>(),
        hours.values().map(|(b, _)| b).collect::<Vec<_>>()
    );
    // Late rows for an hour whose five minutes are gone.
    bench.point("m_total", START + 30 * MINUTE + 1, 30.5).await;
    bench.roll_up(START + 3 * HOUR).await;
    bench.prune(START + 2 * HOUR).await;
    all(bench.buckets.expire(Width::FiveMinutes, at(START + 2 * HOUR))).await.unwrap();
    let wanted = bench.model.buckets(HOUR, START + 3 * HOUR);
    let held: BTreeMap<Key, Bucket> = bench.held(HOUR).await.into_iter().map(|(k, (b, _))| (k, b)).collect();
    assert_eq!(held, wanted);
    all(bench.buckets.expire(Width::Hour, at(START + 2 * HOUR))).await.unwrap();
    assert_eq!(bench.held(HOUR).await.len(), 1);
    assert_eq!(bench.number("SELECT count(*) FROM sidecar_metrics_series").await, 1);
    bench.prune(START + 3 * HOUR).await;
    all(bench.buckets.expire(Width::FiveMinutes, at(START + 3 * HOUR))).await.unwrap();
    all(bench.buckets.expire(Width::Hour, at(START + 3 * HOUR))).await.unwrap();
    assert_eq!(
        bench.number("SELECT count(*) FROM sidecar_metrics_series").await,
        0,
        "a series without buckets is forgotten"
    );
}

#[tokio::test]
async fn without_an_index_on_the_time_it_says_what_to_do() {
    let mut bench = Bench::new().await;
    bench.point("m", START, 1.0).await;
    bench.sql("DROP INDEX idx_system_metrics_recorded").await;
    for chore in [bench.buckets.roll_up(at(0), at(START + HOUR)), bench.buckets.prune(at(START))] {
        let error = all(chore).await.unwrap_err();
        assert!(matches!(&error, StoreError::Broken(why) if why.contains("migrate")), "{error}");
    }
}
