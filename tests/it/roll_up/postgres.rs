//! The same on PostgreSQL: the same model, the same histories, crashes, and two sidecars at once.

use atlas_sidecar::engine::postgres::Database;
use atlas_sidecar::engine::postgres::roll_up::Buckets;
use atlas_sidecar::store::{RollUps, StoreError, Width};

use super::*;
use crate::support::postgres::Cluster;

const TABLES: &str = concat!(
    "CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL, metric_value NUMERIC NOT NULL,
        tags JSON, recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
    CREATE INDEX by_time ON system_metrics USING brin (recorded_at);
    CREATE TABLE sidecar_state (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL,
        updated_at TIMESTAMP(3) NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'));
    CREATE TABLE sidecar_metric_meta (name TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, help TEXT NOT NULL);",
    include_str!("../../../migrations/postgres/0004_rollup.sql")
);

/// A database with [`TABLES`], and the model of what was put into it.
struct Server {
    cluster: Cluster,
    database: Database,
    buckets: Buckets,
    model: Model,
    rows: usize,
}

impl Server {
    async fn new() -> Self {
        Self::on(Cluster::start(), "atlas").await
    }

    async fn on(cluster: Cluster, name: &str) -> Self {
        let database = Database::open(&cluster.database(name), None).await.unwrap();
        let server =
            Self { buckets: Buckets::new(database.clone()), database, cluster, model: Model::default(), rows: 0 };
        server.sql(TABLES).await;
        server
    }

    async fn sql(&self, sql: &str) {
        let mut tx = self.database.write().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *tx).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        tx.commit().await.unwrap();
    }

    fn row(&mut self, name: &str, tags: Option<&str>, canonical: &str, at: i64, value: f64) -> String {
        self.rows += 1;
        self.model.insert(name, canonical, at, value);
        let tags = tags.map_or("NULL".to_owned(), |tags| format!("'{tags}'"));
        let time = super::at(at).to_sql();
        format!("INSERT INTO system_metrics VALUES ('{:012}', '{name}', {value:?}, {tags}, '{time}');", self.rows)
    }

    async fn point(&mut self, name: &str, at: i64, value: f64) {
        let row = self.row(name, None, "{}", at, value);
        self.sql(&row).await;
    }

    async fn roll_up(&self, now: i64) -> Done {
        all(self.buckets.roll_up(at(0), at(now))).await.unwrap()
    }

    async fn prune(&self, before: i64) -> Done {
        all(self.buckets.prune(at(before))).await.unwrap()
    }

    async fn number(&self, sql: &'static str) -> i64 {
        let mut tx = self.database.write().await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut *tx).await.unwrap()
    }

    async fn held(&self, step: i64) -> BTreeMap<Key, (Bucket, bool)> {
        let mut tx = self.database.write().await.unwrap();
        let rows = sqlx::query(
            "SELECT name, tags, start_ms, count, sum, min, max, first_ms, first, last_ms, last, increase, sealed \
             FROM sidecar_metrics_rollup JOIN sidecar_metrics_series ON id = series WHERE step_secs = $1",
        )
        .bind(i32::try_from(step / 1000).unwrap())
        .fetch_all(&mut *tx)
        .await
        .unwrap();
        rows.iter()
            .map(|row| {
                let bucket = Bucket {
                    count: row.get(3),
                    sum: row.get(4),
                    min: row.get(5),
                    max: row.get(6),
                    first: (row.get(7), row.get(8)),
                    last: (row.get(9), row.get(10)),
                    increase: row.get(11),
                };
                ((row.get(0), row.get(1), row.get(2)), (bucket, row.get(12)))
            })
            .collect()
    }

    async fn is_exact(&self, before: i64) {
        for step in [SLICE, HOUR] {
            let held = self.held(step).await.into_iter().filter(|((_, _, start), _)| start + step <= before);
            let held: BTreeMap<Key, Bucket> = held.map(|(key, (bucket, _))| (key, bucket)).collect();
            let wanted = self.model.buckets(step, before);
            for (key, bucket) in &wanted {
                assert_eq!(held.get(key), Some(bucket), "{key:?} of {step}");
            }
            assert_eq!(held.len(), wanted.len(), "buckets that nothing asked for");
        }
    }

    /// Counted by the server in one statement: what is in sealed buckets and what is in the table are all rows, by slice.
    async fn nothing_is_lost_or_doubled(&self) {
        let mut tx = self.database.write().await.unwrap();
        let slices: Vec<(i64, i64, f64)> = sqlx::query_as(
            "SELECT start_ms, sum(count)::bigint, sum(sum)::float8 FROM (
                SELECT start_ms, count, sum FROM sidecar_metrics_rollup WHERE sealed AND step_secs = 300
                UNION ALL
                SELECT floor(extract(epoch FROM recorded_at) / 300)::bigint * 300000, 1, metric_value::float8
                FROM system_metrics WHERE metric_value <> 'NaN' AND (tags IS NULL OR json_typeof(tags) = 'object')
            ) AS both_places GROUP BY start_ms ORDER BY start_ms",
        )
        .fetch_all(&mut *tx)
        .await
        .unwrap();
        let mut wanted: BTreeMap<i64, (i64, f64)> = BTreeMap::new();
        for ((_, _, start), bucket) in self.model.buckets(SLICE, i64::MAX) {
            let slice = wanted.entry(start).or_default();
            slice.0 += bucket.count;
            slice.1 += bucket.sum;
        }
        let wanted: Vec<(i64, i64, f64)> = wanted.into_iter().map(|(start, (n, sum))| (start, n, sum)).collect();
        assert_eq!(slices, wanted);
    }
}

#[tokio::test]
async fn pg_r7_r5_r3_v11_the_hazards_of_the_arithmetic() {
    let mut bench = Server::new().await;
    for (minute, value) in [(0, 5.0), (4, 9.0), (5, 2.0), (7, 1.0), (31, 3.5), (59, 4.5), (60, 1.0), (121, 0.25)] {
        bench.point("jobs_total", START + minute * MINUTE, value).await;
        bench.point("depth", START + minute * MINUTE, value).await;
    }
    for (n, tags) in [(0, r#"{"b":1,"a":"x"}"#), (1, r#"{"a":"x", "b":"1"}"#)] {
        let row = bench.row("depth", Some(tags), r#"{"a":"x","b":"1"}"#, START + n, 1.0);
        bench.sql(&row).await;
    }
    bench.roll_up(START + 4 * HOUR).await;
    bench.is_exact(START + 3 * HOUR).await;
    assert_eq!(bench.prune(START + 3 * HOUR).await.rows, 18);
    bench.is_exact(START + 3 * HOUR).await;
    // Late, for sealed buckets.
    bench.point("depth", START + 5 * MINUTE + 1, 7.0).await;
    bench.point("new_total", START + 8 * MINUTE, 7.0).await;
    bench.roll_up(START + 4 * HOUR).await;
    bench.nothing_is_lost_or_doubled().await;
    let done = bench.prune(START + 3 * HOUR).await;
    assert_eq!((done.rows, done.late_rows), (2, 1));
    bench.is_exact(START + 3 * HOUR).await;
    // Five minutes expire, then a late row for a sealed hour, then everything.
    all(bench.buckets.expire(Width::FiveMinutes, at(START + 3 * HOUR))).await.unwrap();
    assert!(bench.held(SLICE).await.is_empty());
    bench.point("depth", START + 2 * MINUTE, -7.0).await;
    bench.roll_up(START + 4 * HOUR).await;
    bench.prune(START + 3 * HOUR).await;
    let held: BTreeMap<Key, Bucket> = bench.held(HOUR).await.into_iter().map(|(k, (b, _))| (k, b)).collect();
    assert_eq!(held, bench.model.buckets(HOUR, START + 3 * HOUR));
    all(bench.buckets.expire(Width::FiveMinutes, at(START + 3 * HOUR))).await.unwrap();
    all(bench.buckets.expire(Width::Hour, at(START + 3 * HOUR))).await.unwrap();
    assert_eq!(bench.number("SELECT count(*) FROM sidecar_metrics_series").await, 0);
}

#[tokio::test]
async fn pg_r2_v3_t4_what_is_not_rolled_up_or_cannot_be_read_stays() {
    let mut bench = Server::new().await;
    for minute in 0..180 {
        bench.point("m", START + minute * MINUTE, 1.0).await;
    }
    bench.sql(
        "INSERT INTO system_metrics VALUES ('a', 'm', 'NaN', NULL, '2026-11-22 00:01'), ('b', 'm', 1, '[1]', '2026-11-22 00:01'), \
         ('c', 'm', 1, NULL, NULL), ('d', 'm', 1, NULL, '-infinity'), ('e', 'm', 1e400, NULL, '2026-11-22 00:01')",
    )
    .await;
    assert_eq!(bench.prune(START + DAY).await.rows, 0, "no watermark");
    bench.roll_up(START + HOUR + 20 * MINUTE).await;
    let done = bench.prune(START + DAY).await;
    assert_eq!((done.rows, done.bad_rows), (60, 1), "the hour below the watermark");
    let kept = bench.buckets.kept(at(START + HOUR)).await.unwrap();
    assert_eq!((kept.times, kept.values, kept.labels), (2, 2, 1));
    bench.sql("DROP INDEX by_time").await;
    let error = all(bench.buckets.prune(at(START))).await.unwrap_err();
    assert!(matches!(&error, StoreError::Broken(why) if why.contains("migrate")), "{error}");
}

#[tokio::test]
async fn pg_r16_a_row_that_somebody_has_locked_is_left_to_the_next_run() {
    let mut bench = Server::new().await;
    for minute in 0..60 {
        bench.point("m_total", START + minute * MINUTE, minute as f64).await;
    }
    bench.roll_up(START + 2 * HOUR).await;
    let other = Database::open(&bench.cluster.url("atlas"), None).await.unwrap();
    let mut tx = other.write().await.unwrap();
    sqlx::query("SELECT * FROM system_metrics WHERE id = '000000000007' FOR UPDATE").execute(&mut *tx).await.unwrap();
    assert_eq!(bench.prune(START + HOUR).await.rows, 59);
    tx.rollback().await.unwrap();
    bench.nothing_is_lost_or_doubled().await;
    assert_eq!(bench.prune(START + HOUR).await.rows, 1);
    bench.is_exact(START + HOUR).await;
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as i64) % n
    }
}

#[tokio::test]
async fn pg_random_histories_with_crashes_and_two_sidecars_come_to_what_the_model_says() {
    let mut cluster = Some(Cluster::start());
    for seed in 0..12 {
        let mut bench = Server::on(cluster.take().unwrap(), &format!("history_{seed}")).await;
        let other = Database::open(&bench.cluster.url(&format!("history_{seed}")), None).await.unwrap();
        let other_buckets = Buckets::new(other.clone());
        let mut dice = Dice(seed);
        let (mut sealed, mut order) = (i64::MIN, 0);
        let now = START + 5 * HOUR;
        for _ in 0..14 {
            let mut sql = String::new();
            for _ in 0..dice.below(80) {
                let at = START + dice.below(240) * MINUTE + dice.below(2) * dice.below(60_000);
                sql.push_str(&match dice.below(4) {
                    0 => bench.row("gauge", None, "{}", at, dice.below(400) as f64 / 4.0),
                    1 => bench.row("gauge", Some(r#"{"b":2,"a":"x"}"#), r#"{"a":"x","b":"2"}"#, at, -1.5),
                    2 => bench.row("growing_total", Some("{}"), "{}", at, (at - START) as f64 / 4.0),
                    _ => {
                        // See `Bucket::with_late`: resets among rows that are gone cannot be known, nor the order of equal times.
                        order += 1;
                        let at = at.max(sealed.saturating_add(1)) + order;
                        let value = dice.below(100) as f64;
                        bench.row("resetting_total", None, "{}", at, value)
                    }
                });
            }
            bench.sql(&sql).await;
            let (one, two) = (&bench.buckets, &other_buckets);
            let polls = if dice.below(3) == 0 { dice.below(60) as usize } else { usize::MAX };
            match dice.below(3) {
                0 => drop(Polls { future: Box::pin(all(one.roll_up(at(0), at(now)))), polls }.await),
                1 => {
                    let hour = START + dice.below(5) * HOUR;
                    sealed = sealed.max(hour);
                    drop(Polls { future: Box::pin(all(two.prune(at(hour)))), polls }.await);
                }
                _ => {
                    let hour = START + dice.below(5) * HOUR;
                    sealed = sealed.max(hour);
                    // At once: the lock decides who works, and neither fails.
                    let (a, b, c) = tokio::join!(
                        all(one.prune(at(hour))),
                        all(two.prune(at(hour))),
                        all(two.roll_up(at(0), at(now)))
                    );
                    for done in [a, b, c] {
                        done.unwrap();
                    }
                }
            }
            bench.nothing_is_lost_or_doubled().await;
        }
        bench.roll_up(now).await;
        bench.prune(now).await;
        assert_eq!(bench.number("SELECT count(*) FROM system_metrics").await, 0);
        bench.is_exact(now).await;
        other.close().await;
        bench.database.close().await;
        cluster = Some(bench.cluster);
    }
}
