//! What only PostgreSQL does: columns of many types, sessions that end, rights, and a server at the other end of a wire.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::ids::{Ids, Instance, Registered};
use atlas_sidecar::engine::postgres::Database;
use atlas_sidecar::engine::postgres::samples::{self, Samples};
use atlas_sidecar::sample::Kind;
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::store::{Appended, History, Meta, SampleStore, StoreError};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::contract::{foreign, round_trip, told};
use super::{Shell, Stand, at};
use crate::support::postgres::{Cluster, ROLE, Stop};
use crate::support::wait_for;

/// A server with one database, tables in it, a store on them, and ids.
pub struct Server {
    pub cluster: Cluster,
    pub database: Database,
    store: Samples,
    ids: Ids,
}

/// The one database.
const NAME: &str = "atlas";

impl Server {
    /// With a database that is made with `options` and has the tables of `schema`.
    pub async fn in_database(options: &str, schema: &str) -> Self {
        let cluster = Cluster::start();
        cluster.psql("postgres", &format!("CREATE DATABASE {NAME} OWNER {ROLE} {options}"));
        cluster.psql(NAME, &format!("SET ROLE {ROLE}; {schema}"));
        Self::on(cluster).await
    }

    async fn on(cluster: Cluster) -> Self {
        let database = Database::open(&cluster.url(NAME), None).await.unwrap();
        let instance = Instance::parse("00000000000a").unwrap();
        Self { store: Samples::new(database.clone(), instance), ids: Ids::new(instance), cluster, database }
    }
}

impl Stand for Server {
    const SCHEMA: &'static str = "
        CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL,
            metric_value NUMERIC NOT NULL, tags JSON, recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
        CREATE INDEX idx_system_metrics_name_time ON system_metrics(metric_name, recorded_at);
        CREATE TABLE sidecar_state (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL,
            updated_at TIMESTAMP(3) NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'));
        CREATE TABLE sidecar_metric_meta (name TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, help TEXT NOT NULL,
            updated_at TIMESTAMP(3) NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'));
    ";

    async fn with(schema: &str) -> Self {
        Self::in_database("", schema).await
    }

    fn store(&self) -> &dyn SampleStore {
        &self.store
    }

    fn ids(&self) -> &Ids {
        &self.ids
    }

    fn sql(&self, sql: &str) -> String {
        self.cluster.psql(NAME, sql)
    }

    fn lock(&self) -> Shell {
        let command: Command = self.cluster.psql_command(NAME);
        let mut shell = Shell::open(command);
        shell.run("BEGIN; LOCK TABLE system_metrics IN EXCLUSIVE MODE");
        shell
    }

    async fn register(&self, instance: Instance, host: &str, now: Timestamp) {
        Samples::new(self.database.clone(), instance).register(host, now).await.unwrap();
    }

    async fn registered(&self) -> Registered {
        samples::registered(&self.database).await.unwrap()
    }
}

/// [`Stand::SCHEMA`] with another type of `column`.
fn with_type(column: &str, kind: &str) -> String {
    let (from, rest) = match column {
        "metric_value" => ("metric_value NUMERIC NOT NULL", " NOT NULL"),
        "tags" => ("tags JSON", ""),
        "recorded_at" => ("recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP", ""),
        other => panic!("{other}"),
    };
    let schema = Server::SCHEMA.replace(from, &format!("{column} {kind}{rest}"));
    assert_ne!(schema, Server::SCHEMA);
    schema
}

fn rejected(appended: Result<Appended, StoreError>) -> (usize, &'static str) {
    match appended {
        Err(StoreError::Rejected { row, reason }) => (row, reason),
        other => panic!("{other:?}"),
    }
}

/// Appends a row with `value`.
async fn put(server: &Server, value: f64) -> Result<Appended, StoreError> {
    let mut rows = server.rows(1);
    rows[0].value = value;
    server.store.append(&rows).await
}

/// Triggers of the application may leave rows out, or put them elsewhere (partitions of the old kind): that is no error, and nothing to fall over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_trigger_takes_for_itself_counts_as_taken() {
    let server = Server::with(Server::SCHEMA).await;
    server.sql(
        "SET ROLE atlas; CREATE TABLE elsewhere (LIKE system_metrics);
         CREATE FUNCTION divert() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN IF NEW.metric_value < 0 THEN INSERT INTO elsewhere SELECT NEW.*; RETURN NULL; END IF; RETURN NEW; END';
         CREATE TRIGGER divert BEFORE INSERT ON system_metrics FOR EACH ROW EXECUTE FUNCTION divert()",
    );
    let mut rows = server.rows(10);
    (rows[3].value, rows[9].value) = (-1.0, -2.0);
    assert_eq!(server.store.append(&rows).await.unwrap(), Appended::Now);
    assert_eq!((server.count(), server.sql("SELECT count(*) FROM elsewhere")), (8, "2".to_owned()));
    let mut all = server.rows(5);
    all.iter_mut().for_each(|row| row.value = -3.0);
    assert_eq!(server.store.append(&all).await.unwrap(), Appended::Now);
    assert_eq!((server.count(), server.sql("SELECT count(*) FROM elsewhere")), (8, "7".to_owned()));
}

/// CVE-2018-1058: functions and operators that fit a VARCHAR better than the server's own do not run in our place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_functions_do_not_take_the_place_of_the_servers() {
    let server = Server::with(Server::SCHEMA).await;
    let rows = server.rows(10);
    server.store.append(&rows).await.unwrap();
    server.sql(
        "CREATE FUNCTION trap(varchar, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';
         CREATE FUNCTION substr(varchar, integer) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';
         CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = text, FUNCTION = trap);
         CREATE OPERATOR > (LEFTARG = varchar, RIGHTARG = text, FUNCTION = trap);
         CREATE OPERATOR < (LEFTARG = varchar, RIGHTARG = text, FUNCTION = trap);
         CREATE OPERATOR >= (LEFTARG = varchar, RIGHTARG = text, FUNCTION = trap)",
    );
    assert_eq!(server.store.own_rows_since(at("2026-11-22T00:00:00Z")).await.unwrap(), 10);
    assert_eq!(server.store.append(&rows).await.unwrap(), Appended::Earlier);
    assert_eq!(server.day().await.0.len(), 10);
}

/// V-1, V-5: the specification's own column. What it cannot hold is rejected before it is sent, what it rounds is rounded, and a column that is
/// widened is seen at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_v5_a_decimal_column_rejects_what_overflows_until_it_is_widened() {
    let server = Server::with(&with_type("metric_value", "DECIMAL(15,4)")).await;
    let mut rows = server.rows(1000);
    rows[500].value = 5e11;
    assert_eq!(rejected(server.store.append(&rows).await), (500, "overflow"));
    assert!(!server.cluster.log_text().contains("numeric field overflow"), "the server was not asked");
    rows.remove(500);
    assert_eq!(server.store.append(&rows).await.unwrap(), Appended::Now);
    assert_eq!(server.count(), 999);
    let values = [99_999_999_999.999_9, -99_999_999_999.999_9, 3.2e-5, 5e-5, -5e-5, 1e-300];
    let read = [99_999_999_999.999_9, -99_999_999_999.999_9, 0.0, 1e-4, -1e-4, 0.0];
    assert_eq!(round_trip(&server, &values).await, read);
    for value in [99_999_999_999.999_95, 1e11, -1e15, 1e300] {
        assert_eq!(rejected(put(&server, value).await), (0, "overflow"), "{value}");
    }
    server.sql("ALTER TABLE system_metrics ALTER metric_value TYPE NUMERIC");
    assert_eq!(put(&server, 1e300).await.unwrap(), Appended::Now);
    server.sql("TRUNCATE system_metrics; ALTER TABLE system_metrics ALTER metric_value TYPE NUMERIC(3,1)");
    // Narrowed behind our back: now it is the server that refuses.
    let mut rows = server.rows(100);
    rows.iter_mut().for_each(|row| row.value = 1.0);
    rows[77].value = 99.95;
    assert_eq!(rejected(server.store.append(&rows).await), (77, "overflow"));
    assert!(server.cluster.log_text().contains("numeric field overflow"));
    // Made an integer behind our back: the text that the old column wanted is refused, and written again as the new one wants it.
    server.sql("TRUNCATE system_metrics; ALTER TABLE system_metrics ALTER metric_value TYPE INTEGER");
    assert_eq!(put(&server, 2.5).await.unwrap(), Appended::Now);
    assert_eq!(server.day().await.0[0].value, 3.0);
}

/// Our rule is PostgreSQL's rule: whatever it makes of a number in a column, it makes of the row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_every_type_of_value_takes_and_rejects_what_the_server_does() {
    let server = Server::fresh().await;
    let mut runner = TestRunner::new(Config::default());
    let number = prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        (-100_000_i64..100_000, -6_i32..6).prop_map(|(digits, exponent)| digits as f64 * 10_f64.powi(exponent)),
        (0_i32..70, -2_i64..3).prop_map(|(bits, off)| 2_f64.powi(bits) + off as f64 / 2.0),
    ];
    let (mut taken, mut refused) = (0, 0);
    for (kind, cast) in [
        ("NUMERIC(15,4)", "numeric(15,4)"),
        ("NUMERIC(5,0)", "numeric(5,0)"),
        ("NUMERIC(3,-2)", "numeric(3,-2)"),
        ("NUMERIC(2,5)", "numeric(2,5)"),
        ("NUMERIC(1000,300)", "numeric(1000,300)"),
        ("DOUBLE PRECISION", "float8"),
        ("REAL", "float4"),
        ("SMALLINT", "numeric::int2"),
        ("INTEGER", "numeric::int4"),
        ("BIGINT", "numeric::int8"),
    ] {
        server.sql(&format!("TRUNCATE system_metrics; ALTER TABLE system_metrics ALTER metric_value TYPE {kind}"));
        let values: Vec<f64> = std::iter::repeat_with(|| number.new_tree(&mut runner).unwrap().current())
            .filter(|value: &f64| value.is_finite())
            .take(60)
            .collect();
        // One session for all: what the server makes of each, NULL where it refuses.
        let list: Vec<String> = values.iter().map(|value| format!("('{value:e}')")).collect();
        let theirs = server.sql(&format!(
            "CREATE FUNCTION pg_temp.taken(v text) RETURNS float8 LANGUAGE plpgsql AS
                'BEGIN RETURN v::{cast}::float8; EXCEPTION WHEN numeric_value_out_of_range THEN RETURN NULL; END';
             SELECT coalesce(pg_temp.taken(v)::text, 'refused') FROM (VALUES {}) AS list (v)",
            list.join(", ")
        ));
        // What is refused is left out one by one, as the writer does, and the rest is one transaction.
        let mut rows = server.rows(values.len());
        let mut ours: Vec<(f64, &str)> = values.iter().copied().zip(theirs.lines()).collect();
        rows.iter_mut().zip(&ours).for_each(|(row, (value, _))| row.value = *value);
        loop {
            match server.store.append(&rows).await {
                Ok(_) => break,
                Err(StoreError::Rejected { row, reason: "overflow" }) => {
                    rows.remove(row);
                    let (value, theirs) = ours.remove(row);
                    assert_eq!(theirs, "refused", "{value:e} in {kind}");
                    refused += 1;
                }
                other => panic!("{kind}: {other:?}"),
            }
        }
        let read = server.sql("SELECT metric_value::float8 FROM system_metrics ORDER BY id");
        assert_eq!(read.lines().count(), ours.len());
        for (read, (value, theirs)) in read.lines().zip(&ours) {
            assert_eq!(read.parse::<f64>().ok(), theirs.parse().ok(), "{value:e} in {kind}: {theirs}");
        }
        taken += ours.len();
    }
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
}

/// V-3, V-4: a NUMERIC of somebody else holds what no double does; DOUBLE PRECISION holds what no value is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_v4_v6_values_beyond_a_double_are_bad_or_zero_and_end_nothing() {
    let server = Server::fresh().await;
    let insert = |values: &[&str]| {
        let rows: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(n, value)| format!("('{n}', 'v', {value}, '2026-11-22 10:00:{n:02}')"))
            .collect();
        server.sql("TRUNCATE system_metrics");
        server.sql(&format!(
            "INSERT INTO system_metrics (id, metric_name, metric_value, recorded_at) VALUES {}",
            rows.join(",")
        ));
    };
    insert(&["'NaN'", "'Infinity'", "1e400", "-1e400", "1.7976931348623157e308", "1e-400", "2e-324", "3e-324", "5.0"]);
    let (read, done) = server.day().await;
    assert_eq!(read.iter().map(|row| row.value).collect::<Vec<_>>(), [f64::MAX, 0.0, 0.0, 5e-324, 5.0]);
    assert_eq!(done, History { rows: 5, bad_rows: 4, bad_times: 0 });
    server.sql("TRUNCATE system_metrics; ALTER TABLE system_metrics ALTER metric_value TYPE DOUBLE PRECISION");
    insert(&["'NaN'", "'-Infinity'", "1.7976931348623157e308", "5e-324", "'-0'"]);
    let (read, done) = server.day().await;
    assert_eq!(
        read.iter().map(|row| row.value.to_bits()).collect::<Vec<_>>(),
        [f64::MAX, 5e-324, 0.0].map(f64::to_bits),
        "a negative zero is read as zero, as on SQLite"
    );
    assert_eq!(done, History { rows: 3, bad_rows: 2, bad_times: 0 });
}

/// V-11: tags as JSON, JSONB or TEXT are the same labels. JSONB holds no NUL: such a row is named and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v11_tags_may_be_json_jsonb_or_text() {
    let server = Server::fresh().await;
    let insert = |server: &Server| server.sql(&foreign().replace(r"\u0000", "zero"));
    insert(&server);
    let as_json = server.day().await;
    for kind in ["JSONB", "TEXT"] {
        let server = Server::with(&with_type("tags", kind)).await;
        insert(&server);
        let (read, done) = server.day().await;
        assert_eq!((told(&read), done), (told(&as_json.0), as_json.1), "{kind}");
        let rows = server.rows(10);
        match kind {
            "JSONB" => assert_eq!(rejected(server.store.append(&rows).await), (0, "encoding")),
            _ => assert_eq!(server.store.append(&rows).await.unwrap(), Appended::Now),
        }
    }
    let mut rows = server.rows(1000);
    rows[500].name = "with\0nul".to_owned();
    assert_eq!(rejected(server.store.append(&rows).await), (500, "encoding"));
    let nul = Meta { name: "a".to_owned(), kind: Kind::Gauge, help: "a\0b".to_owned() };
    server.store.describe(&[nul]).await.unwrap();
    assert_eq!(server.store.metas().await.unwrap()[0].help, "a\u{fffd}b");
}

/// T-3, T-4: what is written is UTC whatever the column is and whatever zone the server lives in; infinite times are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t3_t4_times_are_utc_in_both_types_of_column() {
    for kind in ["TIMESTAMP", "TIMESTAMPTZ"] {
        let server = Server::with(&with_type("recorded_at", kind)).await;
        server.sql("ALTER ROLE atlas SET timezone = 'America/New_York'");
        let rows = server.rows(3);
        server.store.append(&rows).await.unwrap();
        let shown =
            server.sql("SET timezone = 'UTC'; SELECT recorded_at::timestamp FROM system_metrics ORDER BY id LIMIT 1");
        assert_eq!(shown, "2026-11-22 10:00:00");
        let read = server.history("2026-11-22T10:00:00Z", "2026-11-22T10:00:01Z", &Globs::all()).await;
        assert_eq!(
            read.0.iter().map(|row| row.at).collect::<Vec<_>>(),
            rows.iter().map(|row| row.at).collect::<Vec<_>>()
        );
        server.sql(
            "INSERT INTO system_metrics VALUES ('1', 'm', 1, NULL, 'infinity'), ('2', 'm', 1, NULL, '-infinity'), ('3', 'm', 1, NULL, NULL)",
        );
        let (read, done) = server.history("0001-01-01T00:00:00Z", "9999-12-31T00:00:00Z", &Globs::all()).await;
        assert_eq!((read.len(), done), (3, History { rows: 3, bad_rows: 0, bad_times: 3 }), "{kind}");
    }
}

/// V-2: texts that the database's encoding does not have are found, and so is what only the end of the transaction finds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_the_row_is_found_whatever_refuses_it() {
    let latin = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
    let server = Server::in_database(latin, Server::SCHEMA).await;
    for bad in [0, 1, 700, 999] {
        let mut rows = server.rows(1000);
        rows[bad].name = "€".to_owned();
        assert_eq!(rejected(server.store.append(&rows).await), (bad, "encoding"));
        rows[bad].name = "ü".to_owned();
        assert_eq!(server.store.append(&rows).await.unwrap(), Appended::Now);
    }
    assert_eq!(server.count(), 4000);
    server.sql(
        "TRUNCATE system_metrics; CREATE TABLE names (name VARCHAR(255) PRIMARY KEY); INSERT INTO names SELECT 'm' || generate_series(0, 6);
         GRANT SELECT, REFERENCES ON names TO PUBLIC;
         ALTER TABLE system_metrics ADD FOREIGN KEY (metric_name) REFERENCES names DEFERRABLE INITIALLY DEFERRED",
    );
    for bad in [0, 1, 77, 99] {
        let mut rows = server.rows(100);
        rows[bad].name = "unknown".to_owned();
        assert_eq!(rejected(server.store.append(&rows).await), (bad, "constraint"));
        rows.remove(bad);
        assert_eq!(server.store.append(&rows).await.unwrap(), Appended::Now);
    }
    server.sql("TRUNCATE system_metrics; ALTER TABLE system_metrics ADD UNIQUE (metric_value, recorded_at)");
    let mut rows = server.rows(20);
    (rows[11].value, rows[11].at) = (rows[4].value, rows[4].at);
    rows.iter_mut().for_each(|row| row.at = row.at.after(Duration::from_secs(1)));
    assert_eq!(rejected(server.store.append(&rows).await), (11, "constraint"));
    server.sql("ALTER TABLE system_metrics ALTER metric_name TYPE VARCHAR(3)");
    let mut rows = server.rows(20);
    rows[19].name = "m000".to_owned();
    assert_eq!(rejected(server.store.append(&rows).await), (19, "name_too_long"));
}

/// Every state that a server may answer with, said by a trigger, in the middle of an append.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_state_says_what_to_do_next() {
    let server = Server::fresh().await;
    server.sql(
        "CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF NEW.metric_name LIKE 'say %' THEN RAISE 'said' USING ERRCODE = substr(NEW.metric_name, 5); END IF; RETURN NEW; END $$;
         CREATE TRIGGER say BEFORE INSERT ON system_metrics FOR EACH ROW EXECUTE FUNCTION say()",
    );
    for (state, wanted) in [
        ("53100", "no space left"),
        ("53200", "database busy"),
        ("53300", "database busy"),
        ("55P03", "database busy"),
        ("40001", "database busy"),
        ("40P01", "database busy"),
        ("57014", "database busy"),
        ("57P01", "database busy"),
        ("57P03", "database busy"),
        ("08006", "database busy"),
        ("25006", "database busy"),
        ("42501", "database busy"),
        ("42P01", "database busy"),
        ("58030", "database busy"),
        ("XX001", "database error"),
        ("42703", "database error"),
        ("22003", "row 5 rejected: overflow"),
        ("22P02", "row 5 rejected: constraint"),
        ("22021", "row 5 rejected: encoding"),
        ("23514", "row 5 rejected: constraint"),
        ("P0001", "row 5 rejected: constraint"),
    ] {
        let mut rows = server.rows(9);
        rows[5].name = format!("say {state}");
        let refused = server.store.append(&rows).await.unwrap_err().to_string();
        assert!(refused.starts_with(wanted), "{state}: {refused}");
        rows[5].name = "well".to_owned();
        assert_eq!(server.store.append(&rows).await.unwrap(), Appended::Now, "after {state}");
    }
}

/// Rights, a table that is away, a table whose rows could be doubled, a server that only reads: nothing is lost, and words say what is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_administrator_can_cure_is_waited_for() {
    let server = Server::fresh().await;
    let rows = server.rows(10);
    for (spoil, wanted, cure) in [
        (
            "REVOKE INSERT ON system_metrics FROM atlas",
            "needs SELECT and INSERT",
            "GRANT INSERT ON system_metrics TO atlas",
        ),
        (
            "ALTER TABLE system_metrics RENAME TO away",
            "no table `system_metrics`",
            "ALTER TABLE away RENAME TO system_metrics",
        ),
        (
            "ALTER TABLE system_metrics RENAME tags TO away",
            "no column `tags`",
            "ALTER TABLE system_metrics RENAME away TO tags",
        ),
        (
            "ALTER TABLE system_metrics DROP CONSTRAINT system_metrics_pkey",
            "no unique index",
            "ALTER TABLE system_metrics ADD PRIMARY KEY (id)",
        ),
    ] {
        let database = Database::open(&server.cluster.url(NAME), None).await.unwrap();
        server.sql(spoil);
        let fresh = Database::open(&server.cluster.url(NAME), None).await.unwrap();
        let store = Samples::new(fresh, Instance::parse("00000000000a").unwrap());
        match store.append(&rows).await {
            Err(StoreError::Busy(why)) => assert!(why.contains(wanted), "{why}"),
            other => panic!("{spoil}: {other:?}"),
        }
        server.sql(cure);
        assert_eq!(store.append(&rows).await.unwrap(), Appended::Now, "after {cure}");
        server.sql("TRUNCATE system_metrics");
        database.close().await;
    }
}

/// The server ends as in a crash, and comes back: the same store goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_takes_the_same_rows() {
    let mut server = Server::fresh().await;
    let (first, second) = (server.rows(100), server.rows(100));
    server.store.append(&first).await.unwrap();
    server.cluster.stop(Stop::Immediate);
    for _ in 0..2 {
        let busy = server.store.append(&second).await;
        assert!(matches!(busy, Err(StoreError::Busy(_))), "{busy:?}");
    }
    server.cluster.restart();
    let end = Instant::now() + Duration::from_secs(20);
    // For a moment after a failed try the server is not asked.
    let appended = loop {
        match server.store.append(&second).await {
            Err(StoreError::Busy(_)) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(20)).await,
            other => break other.unwrap(),
        }
    };
    assert_eq!(appended, Appended::Now);
    assert_eq!(server.store.append(&first).await.unwrap(), Appended::Earlier);
    assert_eq!(server.count(), 200);
}

/// Each step of a history is served by an index; without one an export of a month is a matter of hours. Only bad times are looked for everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_goes_by_the_index() {
    let server = Server::fresh().await;
    server.sql(
        "INSERT INTO system_metrics SELECT 'i' || n, 'm' || n % 40, n, json_build_object('a', n % 7), '2026-11-01'::timestamp + n * interval '10 s'
         FROM generate_series(1, 200000) AS n; ANALYZE system_metrics",
    );
    let scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'system_metrics'";
    let lookups = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'idx_system_metrics_name_time'";
    let before: u64 = server.sql(scans).parse().unwrap();
    let (read, done) = server.history("2026-11-10T00:00:00Z", "2026-11-11T00:00:00Z", &Globs::new(["m1*"])).await;
    // `m1` and `m10` to `m19`, each with every fortieth of a day's rows.
    assert_eq!((read.len(), done.rows), (11 * 8640 / 40, 11 * 8640 / 40));
    // A session's counts arrive when it ends.
    server.database.close().await;
    let lookups = wait_for("the counts", Duration::from_secs(20), || {
        server.sql(lookups).parse::<u64>().ok().filter(|count| *count >= 41 + 2 * 11)
    });
    assert_eq!(lookups, 41 + 2 * 11, "41 steps for 40 names, and two statements a name");
    assert_eq!(server.sql(scans).parse::<u64>().unwrap(), before + 1);
}

/// More rows than one FETCH gives, and somebody who stops in the middle of them: the connection is free at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_comes_in_parts_and_can_be_stopped() {
    let server = Server::fresh().await;
    let mut rows = server.rows(12_345);
    rows.iter_mut().for_each(|row| row.name = "m".to_owned());
    server.store.append(&rows).await.unwrap();
    let (read, done) = server.day().await;
    assert_eq!(done.rows, 12_345);
    assert!(read.iter().zip(&rows).all(|(read, row)| (read.value, read.at) == (row.value, row.at)));
    for stop in [1, 4_999, 5_000, 5_001, 12_345] {
        let mut taken = 0;
        let mut each = |_| {
            taken += 1;
            if taken == stop { Err(std::io::Error::other("enough")) } else { Ok(()) }
        };
        let (from, to) = (at("2026-11-22T00:00:00Z"), at("2026-11-23T00:00:00Z"));
        let stopped = server.store.history(from, to, &Globs::all(), &mut each).await;
        assert!(matches!(stopped, Err(StoreError::Stopped(_))), "{stopped:?}");
        assert_eq!(taken, stop);
    }
    assert_eq!(server.day().await.1.rows, 12_345);
}

/// Where a [`Wire`] is cut, the next time that a client ends a COPY, which is what commits an append.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// The server never gets the end.
    Before,
    /// It does, and its answer is lost.
    AnswerLost,
    /// It does, and goes on by itself; the client is told at once that its connection is gone.
    Meanwhile,
}

/// A wire to the server that can be cut.
struct Wire {
    url: String,
    next: Arc<Mutex<Option<Cut>>>,
}

impl Wire {
    fn to(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (from, to) = (listener.local_addr().unwrap().port(), cluster.port);
        let url = cluster.url(NAME).replace(&format!(":{to}/"), &format!(":{from}/")) + "?sslmode=disable";
        let next = Arc::new(Mutex::new(None));
        let cuts = Arc::clone(&next);
        // Ends with the process: it holds nothing but sockets.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", to)).unwrap());
                let cuts = Arc::clone(&cuts);
                std::thread::spawn(move || carry(client, server, &cuts));
            }
        });
        Self { url, next }
    }

    fn cut_next(&self, cut: Cut) {
        *self.next.lock().unwrap() = Some(cut);
    }
}

/// Carries messages to the server until one side ends or the wire is cut, and everything back by another thread.
fn carry(client: TcpStream, server: TcpStream, cuts: &Mutex<Option<Cut>>) {
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let mute = Arc::new(AtomicBool::new(false));
    let (muted, mut answers, mut back) = (Arc::clone(&mute), server.try_clone().unwrap(), client.try_clone().unwrap());
    let returning = std::thread::spawn(move || {
        let mut bytes = [0; 65536];
        while let Ok(length @ 1..) = answers.read(&mut bytes) {
            if muted.load(Ordering::SeqCst) {
                // The answer to the COPY's end: it is committed.
                break;
            }
            if back.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        let _ = back.shutdown(Shutdown::Both);
    });
    // The first message, which opens the session, has no letter.
    let mut letter = Vec::new();
    while let Some(message) = message(&mut from, &mut letter) {
        let cut = if message[0] == b'c' { cuts.lock().unwrap().take() } else { None };
        match cut {
            Some(Cut::Before) => break,
            Some(Cut::AnswerLost) => mute.store(true, Ordering::SeqCst),
            Some(Cut::Meanwhile) => {
                mute.store(true, Ordering::SeqCst);
                let _ = to.write_all(&message);
                let _ = client.shutdown(Shutdown::Both);
                let _ = returning.join();
                return;
            }
            None => {}
        }
        if to.write_all(&message).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}

/// The next whole message; `letter` is as long as a message's letter is, from the second one on.
fn message(from: &mut TcpStream, letter: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut message = vec![0; letter.len() + 4];
    from.read_exact(&mut message).ok()?;
    let length = u32::from_be_bytes(message[letter.len()..].try_into().unwrap()) as usize;
    let head = message.len();
    message.resize(letter.len() + length, 0);
    from.read_exact(&mut message[head..]).ok()?;
    letter.resize(1, 0);
    Some(message)
}

/// The ambiguous commit: the connection is lost as an append ends. Nothing is lost, nothing doubled, and the retry knows which it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_at_the_commit_neither_loses_nor_doubles_rows() {
    let server = Server::fresh().await;
    let wire = Wire::to(&server.cluster);
    let database = Database::open(&wire.url, None).await.unwrap();
    let store = Samples::new(database, server.ids.instance());
    let mut there = 0;
    for (cut, wanted) in [
        (Cut::Before, Appended::Now),
        (Cut::AnswerLost, Appended::Earlier),
        (Cut::Before, Appended::Now),
        (Cut::AnswerLost, Appended::Earlier),
    ] {
        let rows = server.rows(2_000);
        wire.cut_next(cut);
        let lost = store.append(&rows).await;
        assert!(matches!(lost, Err(StoreError::Busy(_))), "{cut:?}: {lost:?}");
        let written = if wanted == Appended::Earlier { 2_000 } else { 0 };
        assert_eq!(server.count(), there + written, "{cut:?}");
        assert_eq!(store.append(&rows).await.unwrap(), wanted, "{cut:?}");
        there += 2_000;
        assert_eq!(server.count(), there);
    }
}

/// The same while the server is still at it: the retry waits for the first try, as long as for any lock, and then knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_waits_for_the_try_that_the_server_is_still_at() {
    let server = Server::fresh().await;
    server.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(NEW.metric_value::float8); RETURN NEW; END $$;
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON system_metrics DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
         WHEN (NEW.metric_name = 'slow') EXECUTE FUNCTION slow()",
    );
    let wire = Wire::to(&server.cluster);
    let database = Database::open(&wire.url, None).await.unwrap();
    let store = Samples::new(database, server.ids.instance());
    for (seconds, busy) in [(1.0, false), (4.0, true)] {
        let mut rows = server.rows(100);
        (rows[50].name, rows[50].value) = ("slow".to_owned(), seconds);
        let before = server.count();
        wire.cut_next(Cut::Meanwhile);
        assert!(matches!(store.append(&rows).await, Err(StoreError::Busy(_))));
        assert_eq!(server.count(), before, "not yet");
        let mut again = store.append(&rows).await;
        assert_eq!(again.is_err(), busy, "{again:?}");
        while again.is_err() {
            assert!(matches!(again, Err(StoreError::Busy(_))), "{again:?}");
            again = store.append(&rows).await;
        }
        assert_eq!(again.unwrap(), Appended::Earlier);
        assert_eq!(server.count(), before + 100);
    }
}
