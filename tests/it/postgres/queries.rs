//! Configured queries on a real server (E-5, E-7).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atlas_sidecar::engine::Query;
use atlas_sidecar::engine::postgres::Database;
use atlas_sidecar::engine::postgres::queries::check_query;
use atlas_sidecar::engine::postgres::sources::{Own, sources};
use atlas_sidecar::sample::{Batch, Kind};
use atlas_sidecar::scrape::{CollectError, Source};
use prometheus::Registry;

use crate::atlas::{query, series_of, settings, told};
use crate::store::at;
use crate::support::postgres::Cluster;
use crate::support::wait_for;

const NOW: &str = "2026-11-22T10:00:00Z";

/// A server, a database in it, and one query as a source.
struct One {
    cluster: Cluster,
    database: Database,
    registry: Registry,
    source: Source,
    notes: Vec<String>,
}

impl One {
    async fn of(query: Query) -> Self {
        let cluster = Cluster::start();
        let database = Database::open(&cluster.database("app"), None).await.unwrap();
        let registry = Registry::new();
        let own = Own::new(&registry);
        let (mut sources, notes) = sources(&database, None, &settings(&[], vec![query]), &own).await.unwrap();
        Self { cluster, database, registry, source: sources.remove(0), notes }
    }

    async fn batch(&mut self) -> Result<Batch, CollectError> {
        let mut batch = Batch::new(at(NOW));
        self.source.collector.collect(&mut batch).await?;
        Ok(batch)
    }

    async fn series(&mut self) -> BTreeMap<String, f64> {
        series_of(&self.batch().await.unwrap())
    }
}

async fn database(cluster: &Cluster) -> Database {
    Database::open(&cluster.database("app"), None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_values_labels_and_duplicates() {
    let sql =
        "WITH t(a, b, v, w) AS (VALUES ('x', 1, 1, 2.5), ('y', NULL, 1000, NULL), ('x', 1, 7, 7), ('z', 0.5, NULL, 4))
        SELECT * FROM t; -- done";
    let mut one = One::of(query(sql, &["v", "w"], &["a", "b"])).await;
    assert!(one.notes.is_empty(), "{:?}", one.notes);
    assert_eq!(
        told(&one.series().await),
        [r#"q_v{a="x",b="1"} 1"#, r#"q_v{a="y"} 1000"#, r#"q_w{a="x",b="1"} 2.5"#, r#"q_w{a="z",b="0.5"} 4"#,]
    );
    let counted = one.registry.gather();
    assert_eq!(counted[0].name(), "atlas_sidecar_query_duplicate_rows_total");
    assert_eq!(counted[0].get_metric()[0].get_counter().get_value(), 1.0);
    let mut one = One::of(Query { counter: true, ..query("SELECT 3 AS value", &["value"], &[]) }).await;
    let batch = one.batch().await.unwrap();
    assert_eq!((batch.families[0].name.as_ref(), batch.families[0].kind), ("q", Kind::Counter));
    assert_eq!(batch.families[0].help, "asked by the operator");
}

/// V-6 and its kin: every type of number is its own value, every type at all is a label.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_every_type_is_read_exactly() {
    let cluster = Cluster::start();
    let database = database(&cluster).await;
    let value = async |expression: &str| {
        let query = query(&format!("SELECT {expression} AS value"), &["value"], &[]);
        let own = Own::new(&Registry::new());
        let (mut sources, _) = sources(&database, None, &settings(&[], vec![query]), &own).await.unwrap();
        let mut batch = Batch::new(at(NOW));
        sources[0].collector.collect(&mut batch).await.unwrap();
        series_of(&batch).get("q").copied()
    };
    for (expression, wanted) in [
        ("32767::int2", Some(32767.0)),
        ("(-2147483648)::int4", Some(-2147483648.0)),
        ("9007199254740993::int8", Some(9007199254740992.0)),
        ("0.1::float4", Some(0.1)),
        ("5e-324::float8", Some(5e-324)),
        ("1.7976931348623157e308::float8", Some(f64::MAX)),
        ("123456789012345.6789::numeric", Some(123456789012345.67)),
        ("'0.1000000000000000055511151231257827021181583404541015625'::numeric", Some(0.1)),
        ("repeat('1', 300)::numeric / repeat('1', 299)::numeric", Some(10.0)),
        ("('0.5' || repeat('0', 2000))::numeric", Some(0.5)),
        ("true", Some(1.0)),
        ("(1 = 2)", Some(0.0)),
        ("' 7 '::text", Some(7.0)),
        ("'8'::json", Some(8.0)),
        ("12.5::numeric(15,4)", Some(12.5)),
        ("extract(epoch FROM timestamptz '2026-11-22 10:00:00Z')", Some(1795341600.0)),
        ("NULL::int", None),
        ("NULL", None),
    ] {
        assert_eq!(value(expression).await, wanted, "{expression}");
    }
    let sql = "SELECT 1 AS v, '2026-11-22 10:00+02'::timestamptz AS a, '{\"x\": 1}'::json AS b, '\\x00ff'::bytea AS c, ARRAY[1, 2] AS d, ROW(1, 'x') AS e, \
               'f0000000-0000-0000-0000-000000000001'::uuid AS f, 1.50 AS g, NULL::text AS h, true AS i, '10.0.0.1'::inet AS j";
    let own = Own::new(&Registry::new());
    let query = query(sql, &["v"], &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]);
    let (mut sources, notes) = sources(&database, None, &settings(&[], vec![query]), &own).await.unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    let mut batch = Batch::new(at(NOW));
    sources[0].collector.collect(&mut batch).await.unwrap();
    let labels: Vec<_> = batch.families[0].samples[0].labels.iter().collect();
    assert_eq!(
        labels,
        [
            ("a", "2026-11-22 08:00:00+00"),
            ("b", "{\"x\": 1}"),
            ("c", "\\x00ff"),
            ("d", "{1,2}"),
            ("e", "(1,x)"),
            ("f", "f0000000-0000-0000-0000-000000000001"),
            ("g", "1.50"),
            ("i", "true"),
            ("j", "10.0.0.1/32"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_what_cannot_be_a_result_is_an_error_with_its_reason() {
    let cluster = Cluster::start();
    let database = database(&cluster).await;
    cluster.psql("app", "CREATE TABLE t (v int); GRANT ALL ON t TO atlas");
    for (query, words) in [
        (query("SELECT 1 AS a, 2 AS b", &["v"], &[]), "no column `v`; it gives `a`, `b`"),
        (query("SELECT 1 AS v FROM t", &["v"], &["host"]), "no column `host`; it gives `v`"),
        (query("SELECT 1 AS \"V\"", &["v"], &[]), "no column `v`; it gives `V`"),
        (query("SELECT 'abc' AS v", &["v"], &[]), "column `v` holds a text"),
        (query("SELECT 'NaN'::numeric AS v", &["v"], &[]), "column `v` holds a text"),
        (query("SELECT 'NaN'::float8 AS v", &["v"], &[]), "column `v` holds a text"),
        (query("SELECT '-Infinity'::float8 AS v", &["v"], &[]), "column `v` holds a text"),
        (query("SELECT ('1' || repeat('0', 2000))::numeric AS v", &["v"], &[]), "column `v` holds a text"),
        (query("SELECT now() AS v", &["v"], &[]), "column `v` holds a text"),
        (query("SELECT '\\x00'::bytea AS v", &["v"], &[]), "column `v` holds a text"),
        (query("SELECT 1 AS v, repeat('x', 100000000) AS l", &["v"], &["l"]), "label `l` has 1025 bytes or more"),
        (query("SELECT 1 AS v, repeat('ü', 513) AS l", &["v"], &["l"]), "label `l` has 1025 bytes or more"),
        (query("SELECT v FROM generate_series(1, 11) AS v", &["v"], &[]), "more than 10 rows"),
        (query("SELECT 1 AS v FROM nowhere", &["v"], &[]), "relation \"nowhere\" does not exist (42P01)"),
        (query("SELECT 1 / 0 AS v", &["v"], &[]), "division by zero"),
        (query("SELECT 1 AS v, 2 AS v", &["v"], &[]), "ambiguous"),
        (query("SELECT 1 AS v; SELECT 2", &["v"], &[]), "more than one statement"),
        (query("SHOW all", &["v"], &[]), "current_setting"),
        (query("INSERT INTO t VALUES (1)", &["v"], &[]), "begins with INSERT"),
        (query("COPY t TO '/tmp/x'", &["v"], &[]), "begins with COPY"),
        (query("WITH x AS (INSERT INTO t VALUES (1) RETURNING v) SELECT * FROM x", &["v"], &[]), "at the top level"),
        (query("SELECT $1 AS v", &["v"], &[]), "parameter"),
    ] {
        let refused = check_query(&database, &query).await.unwrap_err();
        assert!(refused.contains(words), "{}: {refused}", query.sql);
        assert!(!refused.contains(" at line "), "a line of the server's source: {refused}");
    }
    let ten = query("SELECT v, v AS k FROM generate_series(1, 10) AS v", &["v"], &["k"]);
    assert_eq!(check_query(&database, &ten).await, Ok(()));
    assert_eq!(check_query(&database, &query("SELECT 1 AS \"Total\"", &["Total"], &[])).await, Ok(()));
    assert_eq!(cluster.psql("app", "SELECT count(*) FROM t"), "0");
}

/// E-7: what a statement of one SELECT may still try, through functions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_functions_write_nothing_and_leave_nothing() {
    let cluster = Cluster::start();
    let database = database(&cluster).await;
    cluster.psql(
        "app",
        "CREATE TABLE t (v int); CREATE SEQUENCE s; GRANT ALL ON t, s TO atlas; \
        CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (1) RETURNING v'",
    );
    for (sql, words) in [
        ("SELECT writes() AS v", "read-only transaction"),
        ("SELECT nextval('s') AS v", "read-only transaction"),
        ("SELECT set_config('transaction_read_only', 'off', true) AS l, writes() AS v", "transaction"),
    ] {
        let refused = check_query(&database, &query(sql, &["v"], &[])).await.unwrap_err();
        assert!(refused.contains(words), "{sql}: {refused}");
    }
    // These succeed, and what they did is gone with the transaction.
    for sql in [
        "SELECT 1 AS v, set_config('statement_timeout', '0', false) AS l",
        "SELECT 2 AS v, set_config('default_transaction_read_only', 'off', false) AS l",
        "SELECT 3 AS v, pg_notify('channel', 'text')::text AS l",
        "SELECT 4 AS v, pg_advisory_lock(42)::text AS l",
    ] {
        assert_eq!(check_query(&database, &query(sql, &["v"], &["l"])).await, Ok(()), "{sql}");
    }
    assert_eq!(cluster.psql("app", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
    let now = "SELECT (current_setting('statement_timeout') = '5s')::int4 AS a, (current_setting('default_transaction_read_only') = 'on')::int4 AS v";
    let mut one =
        sources(&database, None, &settings(&[], vec![query(now, &["a", "v"], &[])]), &Own::new(&Registry::new()))
            .await
            .unwrap()
            .0
            .remove(0);
    let mut batch = Batch::new(at(NOW));
    one.collector.collect(&mut batch).await.unwrap();
    assert_eq!(told(&series_of(&batch)), ["q_a 1", "q_v 1"]);
    assert_eq!(cluster.psql("app", "SELECT count(*) FROM t"), "0");
}

/// E-7: a lock of the session that a failing statement took is given back before the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_locks_of_a_failed_statement_are_given_back() {
    let cluster = Cluster::start();
    let database = database(&cluster).await;
    let failing =
        query("SELECT 1 AS v, pg_advisory_lock(42)::text AS l, 1 / (random() * 0)::int AS w", &["v", "w"], &["l"]);
    assert!(check_query(&database, &failing).await.unwrap_err().contains("division by zero"));
    assert_eq!(check_query(&database, &query("SELECT 1 AS v", &["v"], &[])).await, Ok(()));
    assert_eq!(cluster.psql("app", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
}

/// E-5: the statement ends on the server, not only for us, and the next one waits for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_a_query_that_does_not_end_times_out() {
    let limit = Duration::from_millis(400);
    let mut one =
        One::of(Query { timeout: limit, ..query("SELECT 1 AS v, pg_sleep(60)::text AS l", &["v"], &["l"]) }).await;
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(one.batch().await, Err(CollectError::Timeout));
        assert!(start.elapsed() < limit * 2, "took {:?}", start.elapsed());
    }
    // And where the collection is dropped before.
    assert!(tokio::time::timeout(limit / 4, one.batch()).await.is_err());
    wait_for("the statement to end", Duration::from_secs(2), || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()";
        (one.cluster.psql("app", running) == "0").then_some(())
    });
    assert_eq!(check_query(&one.database, &query("SELECT 1 AS v", &["v"], &[])).await, Ok(()));
}

/// `SELECT *` sees the table as it is ("cached plan must not change result type"), and a source whose table comes later comes with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_a_changed_table_is_seen() {
    let mut one = One::of(query("SELECT * FROM t", &["v"], &["l"])).await;
    assert!(one.notes[0].starts_with("query `q` fails: "), "{:?}", one.notes);
    assert!(matches!(one.batch().await, Err(CollectError::Internal(why)) if why.contains("does not exist")));
    one.cluster.psql("app", "CREATE TABLE t (v int, l text); INSERT INTO t VALUES (1, 'x'); GRANT ALL ON t TO atlas");
    for (change, wanted) in [
        ("SELECT 1", r#"q_v{l="x"} 1"#),
        ("ALTER TABLE t ALTER COLUMN v TYPE numeric USING v + 0.5", r#"q_v{l="x"} 1.5"#),
        ("ALTER TABLE t ADD COLUMN w int; ALTER TABLE t ALTER COLUMN l TYPE int USING 7", r#"q_v{l="7"} 1.5"#),
        ("ALTER TABLE t DROP COLUMN w; ALTER TABLE t ALTER COLUMN v TYPE text", r#"q_v{l="7"} 1.5"#),
    ] {
        one.cluster.psql("app", change);
        assert_eq!(told(&one.series().await), [wanted], "{change}");
    }
}
