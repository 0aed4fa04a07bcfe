//! What only SQLite does: its own forms of values and times, its transactions, its limits.

use std::time::{Duration, Instant};

use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::sample::tags;
use atlas_sidecar::store::{Appended, History, SampleStore, StoreError};

use super::{Bench, Stand};

#[tokio::test]
async fn history_gives_whole_series_in_order_whatever_wrote_them() {
    let bench = Bench::new().await;
    // V-8 NULL ids, V-11 permuted keys and numbers, T-1 and T-2 forms, T-7 ties, out of order in the table.
    bench.sql(
        r#"INSERT INTO system_metrics VALUES
        (NULL, 'm', 6, '{"b":1,"a":"x"}', '2026-11-22 10:06:00'),
        (NULL, 'm', 1, '{"a":"x","b":"1"}', '2026-11-22T12:01:00+02:00'),
        ('u1', 'm', 3, '{"a":"x","b":1}', 1795341780),
        ('u2', 'm', 2, ' {"a":"x", "b":1}', '2026-11-22T10:02:00.000000'),
        ('u3', 'm', 4, '{"a":"y","a":"x","b":"1"}', 1795341840000),
        ('u4', 'm', 5, '{"a":"x","b":"1"}', '2026-11-22 10:05:00Z'),
        ('u5', 'm', 5.5, '{"a":"x","b":"1"}', '2026-11-22 10:05:00.000'),
        ('n1', 'm', 8, NULL, '2026-11-22 10:00:00'),
        ('n2', 'm', 9, '{}', '2026-11-22 10:00:01'),
        ('o1', 'm', 0, NULL, '2026-11-22 09:59:59.999'),
        ('o2', 'm', 0, NULL, '2026-11-22 10:10:00'),
        ('o3', 'm', 0, NULL, '2026-11-22T09:30:00-00:40'),
        ('l1', 'l.x', 7, NULL, '2026-11-22 10:00:00'),
        ('b1', 'm', 'abc', NULL, '2026-11-22 10:00:00'),
        ('b2', 'm', 'NaN', '{"a":"x","b":"1"}', '2026-11-22 10:00:00'),
        ('b3', 'm', 1, '[1]', '2026-11-22 10:00:00'),
        ('b4', 'm', 1, '{"a"', '2026-11-22 10:00:00'),
        ('b5', 'm', 1, printf('{"a":"%*c"}', 2000000, 'x'), '2026-11-22 10:00:00'),
        ('b6', 'm', x'00ff', NULL, '2026-11-22 10:00:00'),
        ('t1', 'm', 1, NULL, NULL),
        ('t2', 'z', 1, NULL, 'yesterday'),
        ('t3', 'm', 1, NULL, 20261122)"#,
    );
    assert_eq!(bench.sql("SELECT unixepoch('2026-11-22 10:03:00')"), "1795341780\n");
    let (read, done) = bench.history("2026-11-22T10:00:00Z", "2026-11-22T10:10:00Z", &Globs::all()).await;
    let told: Vec<_> = read
        .iter()
        .map(|r| format!("{}{} {} {}", r.name, tags::to_json(&r.labels), r.value, &r.at.to_sql()[14..]))
        .collect();
    assert_eq!(
        told,
        [
            r"l.x{} 7 00:00.000",
            r"m{} 8 00:00.000",
            r"m{} 9 00:01.000",
            r#"m{"a":"x","b":"1"} 1 01:00.000"#,
            r#"m{"a":"x","b":"1"} 2 02:00.000"#,
            r#"m{"a":"x","b":"1"} 3 03:00.000"#,
            r#"m{"a":"x","b":"1"} 4 04:00.000"#,
            r#"m{"a":"x","b":"1"} 5 05:00.000"#,
            r#"m{"a":"x","b":"1"} 5.5 05:00.000"#,
            r#"m{"a":"x","b":"1"} 6 06:00.000"#,
        ]
    );
    assert_eq!(done, History { rows: 10, bad_rows: 6, bad_times: 3 });
    let (read, done) = bench.history("2026-11-22T10:00:00Z", "2026-11-22T10:10:00Z", &Globs::new(["l*"])).await;
    assert_eq!((read.len(), done.rows), (1, 1));
}

/// The lock goes away while the append waits for it: no error at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e6_a_short_lock_is_waited_for() {
    let bench = Bench::new().await;
    let rows = bench.rows(10);
    let mut shell = bench.lock();
    let (appended, ()) = tokio::join!(bench.store.append(&rows), async {
        tokio::task::spawn_blocking(move || {
            shell.run("COMMIT");
        })
        .await
        .unwrap();
    });
    assert_eq!(appended.unwrap(), Appended::Now);
}

#[tokio::test]
async fn a_full_disk_is_full_and_heals() {
    let bench = Bench::new().await;
    bench.store.append(&bench.rows(10)).await.unwrap();
    let limit = |pages: u32| {
        let database = bench.database.clone();
        async move {
            let mut tx = database.write().await.unwrap();
            sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}")))
                .execute(&mut *tx)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
    };
    limit(40).await;
    let rows = bench.rows(2000);
    assert!(matches!(bench.store.append(&rows).await, Err(StoreError::Full(_))));
    assert_eq!(bench.count(), 10);
    limit(1_000_000).await;
    assert_eq!(bench.store.append(&rows).await.unwrap(), Appended::Now);
    assert_eq!(bench.count(), 2010);
}

/// SQLite ends a transaction by itself on some errors; sqlx goes on counting it. The writer must not stay lost.
#[tokio::test]
async fn a_transaction_that_sqlite_ended_does_not_block_the_writer() {
    let bench = Bench::new().await;
    for _ in 0..3 {
        let mut tx = bench.database.write().await.unwrap();
        sqlx::query("ROLLBACK").execute(&mut *tx).await.unwrap();
        assert!(tx.rollback().await.is_err());
        assert_eq!(bench.store.append(&bench.rows(5)).await.unwrap(), Appended::Now);
    }
    assert_eq!(bench.count(), 15);
}

/// E-5: the statement itself is interrupted, within 1.2 times its limit, and its connection works at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_an_endless_statement_is_interrupted_and_its_connection_works() {
    let bench = Bench::new().await;
    let limit = Duration::from_millis(500);
    for _ in 0..4 {
        let start = Instant::now();
        let mut reader = bench.database.read(limit).await.unwrap();
        let endless =
            sqlx::query("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n");
        let error = endless.fetch_one(&mut *reader).await.unwrap_err();
        assert!(error.to_string().contains("interrupted"), "{error}");
        assert!(start.elapsed() < limit.mul_f64(1.2), "took {:?}", start.elapsed());
        drop(reader);
        let start = Instant::now();
        let mut reader = bench.database.read(limit).await.unwrap();
        let one: i64 = sqlx::query_scalar("SELECT 1").fetch_one(&mut *reader).await.unwrap();
        assert_eq!(one, 1);
        assert!(start.elapsed() < Duration::from_millis(100), "waited {:?}", start.elapsed());
    }
}
