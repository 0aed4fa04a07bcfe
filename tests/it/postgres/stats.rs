//! What PostgreSQL says about itself, next to postgres_exporter on the same server, under load, locks, and without rights.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atlas_sidecar::engine::postgres::Database;
use atlas_sidecar::engine::postgres::sources::{Own, metrics, sources};
use atlas_sidecar::sample::Batch;
use atlas_sidecar::scrape::Source;
use prometheus::Registry;

use crate::atlas::{series_of, settings};
use crate::store::at;
use crate::support::postgres::{Cluster, program};
use crate::support::{Sidecar, free_address, get, promtool, run, wait_for};

const NOW: &str = "2026-11-22T10:00:00Z";

/// Databases whose sources are collected, by name.
struct Measured {
    sources: Vec<Source>,
    notes: Vec<String>,
}

impl Measured {
    async fn of(app: &str, metrics: Option<&str>) -> Self {
        let app = Database::open(app, None).await.unwrap();
        let metrics = match metrics {
            Some(url) => Some(Database::open(url, None).await.unwrap()),
            None => None,
        };
        let settings = settings(&["database", "database_objects"], Vec::new());
        let (sources, notes) = sources(&app, metrics.as_ref(), &settings, &Own::new(&Registry::new())).await.unwrap();
        assert_eq!(sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["database", "database_objects"]);
        Self { sources, notes }
    }

    async fn batch(&mut self, name: &str) -> Batch {
        let source = self.sources.iter_mut().find(|source| source.name == name).unwrap();
        let mut batch = Batch::new(at(NOW));
        source.collector.collect(&mut batch).await.unwrap();
        let described: BTreeMap<_, _> = metrics().map(|d| (d.name, d)).collect();
        for family in &batch.families {
            let desc =
                described.get(family.name.as_ref()).unwrap_or_else(|| panic!("{} is not described", family.name));
            assert_eq!((desc.kind, desc.help), (family.kind, family.help.as_ref()));
        }
        batch
    }

    async fn series(&mut self, name: &str) -> BTreeMap<String, f64> {
        series_of(&self.batch(name).await)
    }
}

/// A session of somebody that stays open and does what it is told.
struct Session(Child);

impl Session {
    fn open(cluster: &Cluster, database: &str) -> Self {
        let psql = cluster.psql_command(database).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        Self(psql)
    }

    fn say(&mut self, sql: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{sql};").unwrap();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program of the server as its user; killed when dropped.
fn beside(cluster: &Cluster, name: &str, args: &[&str]) -> Session {
    let mut command = Command::new(program(name));
    command.args(["-h", cluster.data().to_str().unwrap(), "-p", &cluster.port.to_string(), "-U", "postgres"]);
    Session(command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn pgbench(cluster: &Cluster, args: &[&str]) {
    let port = cluster.port.to_string();
    let data = cluster.data();
    let mut all = vec!["-h", data.to_str().unwrap(), "-p", &port, "-U", "postgres"];
    all.extend(args);
    run(program("pgbench").to_str().unwrap(), &all);
}

/// A page in text 0.0.4: types by family, and values by family and labels.
#[derive(Default)]
struct Page {
    types: BTreeMap<String, String>,
    series: BTreeMap<String, BTreeMap<BTreeMap<String, String>, f64>>,
}

impl Page {
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                page.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') && !line.is_empty() {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let labels = labels.trim_end_matches('}').split("\",").filter(|l| !l.is_empty()).map(|label| {
                    let (name, value) = label.split_once("=\"").unwrap();
                    (name.to_owned(), value.trim_end_matches('"').to_owned())
                });
                page.series.entry(name.to_owned()).or_default().insert(labels.collect(), value.parse().unwrap());
            }
        }
        page
    }

    /// The series of `family` without the labels in `without`, where `datname`, if there is one, is `app`.
    fn of_app(&self, family: &str, without: &[&str]) -> BTreeMap<BTreeMap<String, String>, f64> {
        let all = self.series.get(family).into_iter().flatten();
        let ours = all.filter(|(labels, _)| labels.get("datname").is_none_or(|name| name == "app"));
        let kept = |labels: &BTreeMap<String, String>| {
            // An empty label is an absent one.
            labels
                .iter()
                .filter(|(n, v)| !without.contains(&n.as_str()) && !v.is_empty())
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect()
        };
        ours.map(|(labels, value)| (kept(labels), *value)).collect()
    }
}

/// Families of the exporter that we do not have; the docs of `engine::postgres::stats` say why. The times of `pg_stat_database` are one more statement per version,
/// for what transactions and connections tell.
const NOT_OURS: &[&str] = &[
    "pg_up",
    "pg_exporter_*",
    "pg_scrape_*",
    "pg_settings_*",
    "*_stats_reset",
    "*_stats_reset_total",
    "pg_stat_database_conflicts_*",
    "pg_stat_database_session*",
    "pg_stat_database_active_time",
    "pg_stat_database_idle_in_transaction_time",
    "pg_stat_database_checksum_last_failure",
    "pg_stat_replication_reply_time",
];

/// Gauges that nobody's looking changes.
const STABLE: &[&str] = &[
    "pg_static",
    "pg_settings_*",
    "pg_database_size_bytes",
    "pg_replication_slots_active",
    "pg_stat_replication_pg_current_wal_lsn_bytes",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_types_labels_and_values_are_those_of_postgres_exporter() {
    let cluster =
        Cluster::start_with(&[("autovacuum", "off"), ("wal_level", "replica"), ("bgwriter_lru_maxpages", "0")]);
    let app = cluster.database("app");
    cluster.psql("postgres", "GRANT pg_monitor TO atlas; SELECT pg_create_physical_replication_slot('kept', true)");
    pgbench(&cluster, &["-i", "-q", "app"]);
    pgbench(&cluster, &["-c", "4", "-t", "50", "-n", "app"]);
    let wal = cluster.scratch("wal");
    let _receiver = beside(&cluster, "pg_receivewal", &["-D", wal.to_str().unwrap(), "--slot", "kept"]);
    wait_for("the receiver", Duration::from_secs(10), || {
        (cluster.psql("app", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1").then_some(())
    });
    cluster.psql("app", "CHECKPOINT");

    // The exporter is asked before and after us: a counter of ours is between.
    let address = free_address();
    let mut exporter = Command::new("prometheus-postgres-exporter");
    let dsn =
        format!("postgres://postgres@/app?sslmode=disable&host={}&port={}", cluster.data().display(), cluster.port);
    exporter.env("DATA_SOURCE_NAME", dsn).arg(format!("--web.listen-address={address}"));
    let exporter = exporter.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let _exporter = Session(
        exporter
            .unwrap_or_else(|e| panic!("`prometheus-postgres-exporter` does not start ({e}): tests/run installs it")),
    );
    let theirs = || {
        get(address, "/metrics")
            .map(|a| Page::parse(&a.text()))
            .filter(|page| page.types.contains_key("pg_stat_database_blks_hit"))
    };
    let before = wait_for("the exporter", Duration::from_secs(20), theirs);

    let scratch = tempfile::tempdir().unwrap();
    let config = format!(
        "[database]\nurl = \"{app}\"\n[scrape.host]\ncollectors = []\n[scrape.atlas]\ncollectors = [\"database\", \"database_objects\"]\n"
    );
    let sidecar = Sidecar::start(scratch.path(), &config);
    let ours = wait_for("both sources", Duration::from_secs(20), || {
        Some(sidecar.metrics()).filter(|page| {
            page.matches("atlas_sidecar_source_up{source=\"database").count() == 2
                && page.contains("pg_stat_user_tables_seq_scan")
        })
    });
    let after = wait_for("the exporter", Duration::from_secs(20), theirs);

    // promtool: exit code 3 is advice, here that counters should end in `_total`: these are the exporter's names.
    let (code, said) = promtool(&ours);
    let other: Vec<&str> = said.lines().filter(|l| !l.starts_with("pg_") && !l.is_empty()).collect();
    assert!(matches!(code, Some(0 | 3)) && other.is_empty(), "{code:?} {said}");

    let ours = Page::parse(&ours);
    let globs = |list: &[&str]| atlas_sidecar::sample::globs::Globs::new(list.iter().copied());
    let (not_ours, stable) = (globs(NOT_OURS), globs(STABLE));
    let (mut compared, mut missing) = (0, Vec::new());
    for (family, kind) in after.types.iter().filter(|(name, _)| name.starts_with("pg_")) {
        let Some(our_kind) = ours.types.get(family) else {
            // What is NaN there is absent here.
            let known = after.of_app(family, &[]).values().any(|value| !value.is_nan());
            if known && !not_ours.matches(family) {
                missing.push(family);
            }
            continue;
        };
        // The exporter knows nothing of these columns, so it calls them untyped.
        if family != "pg_stat_database_checksum_failures" {
            assert_eq!(our_kind, kind, "{family}");
        }
        // What the slots' `database` was, and a standby's pid under a wrong name.
        let departed = match family {
            name if name.starts_with("pg_replication_slots_") => "database",
            name if name.starts_with("pg_stat_replication_") => "slot_name",
            _ => "",
        };
        let theirs = |page: &Page| -> BTreeMap<_, f64> {
            page.of_app(family, &["server", departed]).into_iter().filter(|(_, value)| !value.is_nan()).collect()
        };
        let (ours, before, after) = (ours.of_app(family, &["database"]), theirs(&before), theirs(&after));
        assert_eq!(ours.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{family}");
        for (labels, value) in ours.iter().filter(|_| kind == "counter" || stable.matches(family)) {
            let (before, after) = (before.get(labels).unwrap_or(&0.0), after[labels]);
            assert!(
                before <= value && *value <= after,
                "{family} {labels:?}: {value} is not between {before} and {after}"
            );
            compared += 1;
        }
    }
    assert!(missing.is_empty(), "the exporter has {missing:?}, we do not, and no reason is given");
    assert!(compared >= 25, "only {compared} series were compared by value");
    let rows = &ours.series["pg_stat_database_tup_updated"];
    assert!(rows.values().all(|v| *v >= 600.0), "200 transactions of pgbench update three rows each: {rows:?}");
}

/// What others do is told as it is, and a lock that somebody holds or waits for keeps us from nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_locks_and_long_transactions() {
    let cluster = Cluster::start();
    let app = cluster.database("app");
    cluster.psql(
        "app",
        "CREATE TABLE held (a int); CREATE TABLE wanted (a int PRIMARY KEY); CREATE TABLE open (a int); \
        INSERT INTO wanted SELECT generate_series(1, 100); GRANT pg_monitor TO atlas",
    );
    let mut measured = Measured::of(&app, None).await;
    assert!(measured.notes.is_empty(), "{:?}", measured.notes);
    let of =
        |state: &str| format!("pg_stat_activity_count{{database=\"application\",datname=\"app\",state=\"{state}\"}}");
    let longest =
        "pg_stat_activity_max_tx_duration{database=\"application\",datname=\"app\",state=\"idle in transaction\"}";
    let waiters = "atlas_database_lock_waiters{database=\"application\"}";
    let exclusive = "pg_locks_count{database=\"application\",datname=\"app\",mode=\"accessexclusivelock\"}";
    let before = measured.series("database").await;
    assert_eq!(
        (before[&of("idle in transaction")], before[longest], before[waiters], before[exclusive]),
        (0.0, 0.0, 0.0, 0.0)
    );

    let (mut holder, mut reader, mut waiter) =
        (Session::open(&cluster, "app"), Session::open(&cluster, "app"), Session::open(&cluster, "app"));
    holder.say("BEGIN; LOCK TABLE held");
    reader.say("BEGIN; SELECT count(*) FROM wanted");
    wait_for("the holder and the reader", Duration::from_secs(10), || {
        (cluster.psql("app", "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'") == "2")
            .then_some(())
    });
    waiter.say("BEGIN; LOCK TABLE wanted");
    wait_for("the waiter", Duration::from_secs(10), || {
        (cluster.psql("app", "SELECT count(*) FROM pg_locks WHERE NOT granted") == "1").then_some(())
    });
    let series = measured.series("database").await;
    assert_eq!((series[&of("idle in transaction")], series[waiters], series[exclusive]), (2.0, 1.0, 2.0));
    assert!(series[longest] > 0.0 && series[longest] < 60.0, "{}", series[longest]);
    let start = Instant::now();
    let objects = measured.series("database_objects").await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let shown: BTreeSet<&str> = ["held", "wanted", "wanted_pkey", "open"]
        .into_iter()
        .filter(|name| objects.keys().any(|k| k.contains(&format!("object=\"{name}\""))))
        .collect();
    assert_eq!(shown, BTreeSet::from(["open"]), "what cannot be asked without waiting is left out");
    assert!(objects.keys().any(|k| k.starts_with("pg_stat_user_tables_seq_scan") && k.contains("relname=\"wanted\"")));
}

/// Without pg_monitor: what is hidden is said to be hidden, never told as 0; with it, all is there, without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_rights_sees_less_and_is_told_nothing_wrong() {
    let cluster = Cluster::start();
    let app = cluster.database("app");
    let mut session = Session::open(&cluster, "app");
    session.say("BEGIN");
    wait_for("the session", Duration::from_secs(10), || {
        (cluster.psql("app", "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'") == "1")
            .then_some(())
    });
    let mut measured = Measured::of(&app, None).await;
    assert_eq!(measured.notes.len(), 1);
    assert!(
        measured.notes[0].starts_with("collector `database` shows less of `postgres://")
            && measured.notes[0].ends_with(
                "role `atlas` does not see sessions and standbys of other roles and the files of the write-ahead log; `GRANT pg_monitor TO atlas` lets it"
            ),
        "{}",
        measured.notes[0]
    );
    let sessions = |series: &BTreeMap<String, f64>| -> Vec<String> {
        series
            .iter()
            .filter(|(name, _)| name.starts_with("pg_stat_activity"))
            .map(|(name, value)| format!("{name} {value}"))
            .collect()
    };
    let series = measured.series("database").await;
    assert_eq!(
        sessions(&series),
        [r#"pg_stat_activity_count{database="application",datname="app",state="unknown"} 1"#]
    );
    for absent in ["pg_wal_size_bytes", "pg_wal_segments", "atlas_database_wal_bytes", "pg_stat_replication"] {
        assert!(!series.keys().any(|name| name.starts_with(absent)), "{absent}");
    }
    assert!(series.keys().any(|name| name.starts_with("pg_stat_database_numbackends")));
    cluster.psql("postgres", "GRANT pg_monitor TO atlas");
    let series = measured.series("database").await;
    assert_eq!(sessions(&series).len(), 12);
    assert!(series[r#"atlas_database_wal_bytes{database="application"}"#] >= 1048576.0);
    // The role's own sessions were never hidden.
    cluster.psql("postgres", "REVOKE pg_monitor FROM atlas");
    drop(session);
    wait_for("the session to end", Duration::from_secs(10), || {
        (cluster.psql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND usename <> 'atlas'")
            == "0")
            .then_some(())
    });
    assert_eq!(sessions(&measured.series("database").await).len(), 12);
}

/// Slots, standbys and what is kept for them, on a server that has both; the lag is what the server says it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_and_standbys() {
    let cluster =
        Cluster::start_with(&[("max_slot_wal_keep_size", "16MB"), ("max_wal_size", "8MB"), ("min_wal_size", "4MB")]);
    let app = cluster.database("app");
    cluster.psql("postgres", "GRANT pg_monitor TO atlas; SELECT pg_create_physical_replication_slot('left', true)");
    let mut measured = Measured::of(&app, None).await;
    let series = measured.series("database").await;
    let slot = |family: &str, labels: &str| format!("{family}{{database=\"application\",slot_name=\"left\"{labels}}}");
    assert_eq!(series[&slot("pg_replication_slots_active", "")], 0.0);
    let kept = "SELECT pg_current_wal_lsn() - restart_lsn FROM pg_replication_slots";
    let kept_after: f64 = cluster.psql("app", kept).parse().unwrap();
    let kept = series[&slot("pg_replication_slots_pg_wal_lsn_diff", "")];
    assert!(kept > 0.0 && kept <= kept_after, "{kept} {kept_after}");
    assert_eq!(series[&slot("pg_replication_slot_wal_status", ",slot_type=\"physical\",wal_status=\"reserved\"")], 1.0);
    assert!(series[&slot("pg_replication_slot_safe_wal_size_bytes", ",slot_type=\"physical\"")] > 0.0);
    let written = "atlas_database_wal_written_bytes_total{database=\"application\"}";
    let before = series[written];
    // Nobody reads from it while 40 MB are written: it is lost, and told so.
    cluster.psql("app", "CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 40000)");
    cluster.psql("app", "CHECKPOINT");
    cluster.psql("app", "SELECT pg_switch_wal()");
    cluster.psql("app", "CHECKPOINT");
    let series = measured.series("database").await;
    let status: Vec<&String> =
        series.keys().filter(|name| name.starts_with("pg_replication_slot_wal_status")).collect();
    assert!(status.len() == 1 && status[0].contains("wal_status=\"lost\""), "{status:?}");
    assert!(series[written] - before > 30e6, "{before} {}", series[written]);
    assert!(series["pg_stat_wal_wal_bytes{database=\"application\"}"] > 30e6);
    let checkpoints = "pg_stat_bgwriter_checkpoints_req_total{database=\"application\"}";
    let said: f64 = cluster.psql("app", "SELECT checkpoints_req FROM pg_stat_bgwriter").parse().unwrap();
    assert_eq!(series[checkpoints], said);

    // Somebody who reads the log, and applies none of it.
    let received = cluster.scratch("received");
    let _receiver = beside(&cluster, "pg_receivewal", &["-D", received.to_str().unwrap()]);
    wait_for("the receiver to stream", Duration::from_secs(10), || {
        (cluster.psql("app", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1").then_some(())
    });
    cluster.psql("app", "INSERT INTO big VALUES ('y')");
    let labels = r#"application_name="pg_receivewal",database="application",state="streaming""#;
    let position = format!("pg_stat_replication_pg_current_wal_lsn_bytes{{{labels}}}");
    let series = measured.series("database").await;
    assert!(series[&position] >= series[written], "{series:?}");
    assert!(
        !series.keys().any(|name| name.starts_with("pg_stat_replication_pg_wal_lsn_diff")),
        "it applies nothing: absent, not NaN"
    );
}

/// A standby that applies what it reads: the primary tells how far behind it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_and_its_lag() {
    let cluster = Cluster::start();
    let app = cluster.database("app");
    cluster.psql("postgres", "GRANT pg_monitor TO atlas");
    let (folder, address) = (cluster.scratch("standby"), free_address());
    let mut copy = beside(&cluster, "pg_basebackup", &["-D", folder.to_str().unwrap(), "-R", "-c", "fast"]);
    assert!(copy.0.wait().unwrap().success(), "pg_basebackup");
    let _standby = standby(&cluster, &folder, address.port());
    wait_for("the standby", Duration::from_secs(20), || {
        (cluster.psql("app", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1").then_some(())
    });
    cluster.psql("app", "CREATE TABLE t AS SELECT generate_series(1, 1000)");
    let mut primary = Measured::of(&app, None).await;
    let labels = r#"application_name="walreceiver",database="application""#;
    let series =
        wait_for_series(&mut primary, &format!("atlas_database_standby_lag_seconds{{{labels},stage=\"replay\"}}"))
            .await;
    for stage in ["write", "flush", "replay"] {
        let lag = series[&format!("atlas_database_standby_lag_seconds{{{labels},stage=\"{stage}\"}}")];
        assert!((0.0..60.0).contains(&lag), "{stage}: {lag}");
    }
    assert!(series[&format!("pg_stat_replication_pg_wal_lsn_diff{{{labels},state=\"streaming\"}}")] >= 0.0);
}

/// Collects until `name` is there: a lag is only measured when the standby next answers.
async fn wait_for_series(measured: &mut Measured, name: &str) -> BTreeMap<String, f64> {
    let start = Instant::now();
    loop {
        let series = measured.series("database").await;
        if series.contains_key(name) {
            return series;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "no {name} in {series:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts a server on `folder`, by the user who owns the other's files.
fn standby(cluster: &Cluster, folder: &Path, port: u16) -> Session {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).unwrap();
    let owner = cluster.data().metadata().unwrap();
    let owner = format!("{}:{}", owner.uid(), owner.gid());
    run("chown", &["-R", &owner, folder.to_str().unwrap()]);
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    let sockets = format!("unix_socket_directories={}", folder.display());
    command.arg("--").arg(program("postgres")).arg("-D").arg(folder).args(["-p", &port.to_string(), "-c", &sockets]);
    command.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=40", "-c", "fsync=off"]).current_dir("/");
    Session(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// The sizes are the server's, the hundred largest are shown, and the estimate of unused bytes stands against pgstattuple, which reads every page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_add_up_and_unused_bytes_are_near_the_truth() {
    let cluster = Cluster::start_with(&[("autovacuum", "off")]);
    let app = cluster.database("app");
    cluster.psql("app", "CREATE EXTENSION pgstattuple; GRANT pg_read_all_data TO atlas; CREATE SCHEMA other; CREATE TABLE other.t (a int);
        CREATE TABLE full_one (id bigint PRIMARY KEY, at timestamptz, word text, n int);
        INSERT INTO full_one SELECT n, now(), md5(n::text), n FROM generate_series(1, 50000) AS n;
        CREATE TABLE holed (LIKE full_one INCLUDING ALL);
        INSERT INTO holed SELECT * FROM full_one;
        DELETE FROM holed WHERE n % 10 <> 0;
        CREATE TABLE unknown AS SELECT generate_series(1, 1000) AS a;
        ALTER TABLE full_one OWNER TO atlas");
    let small = "DO $$ BEGIN FOR n IN 1..120 LOOP EXECUTE format('CREATE TABLE small_%s AS SELECT 1 AS a', n); END LOOP; END $$";
    cluster.psql("app", small);
    cluster.psql("app", "ANALYZE full_one; ANALYZE holed");
    cluster.psql("app", "VACUUM holed");
    let mut measured = Measured::of(&app, None).await;
    assert_eq!(measured.sources[1].interval, Duration::from_secs(900));
    let series = measured.series("database_objects").await;
    let value = |family: &str, object: &str| {
        let found: Vec<f64> = series
            .iter()
            .filter(|(name, _)| {
                name.starts_with(&format!("{family}{{")) && name.contains(&format!("object=\"{object}\""))
            })
            .map(|(_, v)| *v)
            .collect();
        assert!(found.len() <= 1);
        found.first().copied()
    };
    let bytes = |object| value("atlas_database_object_bytes", object);
    let unused = |object| value("atlas_database_object_unused_bytes", object);
    let said = |sql: &str| cluster.psql("app", sql).parse::<f64>().unwrap();
    for table in ["full_one", "holed"] {
        assert_eq!(bytes(table), Some(said(&format!("SELECT pg_table_size('{table}')"))), "{table}");
    }
    assert_eq!(bytes("full_one_pkey"), Some(said("SELECT pg_relation_size('full_one_pkey')")));
    let all: f64 =
        series.iter().filter(|(name, _)| name.starts_with("atlas_database_object_bytes")).map(|(_, v)| v).sum();
    let wanted = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace IN ('public'::regnamespace, 'other'::regnamespace)";
    assert_eq!(all, said(wanted), "toast tables and their indexes are their table's");
    assert_eq!(series.keys().filter(|name| name.starts_with("atlas_database_object_bytes")).count(), 101);
    assert!(bytes("other").is_some());
    assert_eq!(series.keys().filter(|name| name.starts_with("pg_stat_user_tables_seq_scan")).count(), 100);
    for (object, truth) in [
        ("full_one", "SELECT free_space + dead_tuple_len FROM pgstattuple('full_one')"),
        ("holed", "SELECT free_space + dead_tuple_len FROM pgstattuple('holed')"),
        (
            "full_one_pkey",
            "SELECT index_size * (0.9 - least(avg_leaf_density / 100, 0.9)) FROM pgstatindex('full_one_pkey')",
        ),
        ("holed_pkey", "SELECT index_size * (0.9 - least(avg_leaf_density / 100, 0.9)) FROM pgstatindex('holed_pkey')"),
    ] {
        let (estimate, truth, size) = (unused(object).unwrap(), said(truth), bytes(object).unwrap());
        assert!((estimate - truth).abs() < 0.15 * size, "{object}: estimated {estimate}, is {truth} of {size}");
    }
    assert_eq!(unused("unknown"), None, "never analyzed");
    let dead = |table: &str, family: &str| {
        series[&format!(
            "pg_stat_user_tables_{family}{{database=\"application\",datname=\"app\",relname=\"{table}\",schemaname=\"public\"}}"
        )]
    };
    assert_eq!((dead("full_one", "n_tup_ins"), dead("holed", "n_tup_del")), (50000.0, 45000.0));
    assert!(dead("holed", "last_vacuum") > 1.7e9);
}

/// Two databases of one server: each told, the server once. Of two servers: both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_databases_are_told_where_there_are_two() {
    let (cluster, other) = (Cluster::start(), Cluster::start());
    let (app, metrics, elsewhere) = (cluster.database("app"), cluster.database("samples"), other.database("samples"));
    let count = |series: &BTreeMap<String, f64>, family: &str| {
        series.keys().filter(|name| name.starts_with(&format!("{family}{{"))).count()
    };
    let one = Measured::of(&app, Some(&metrics)).await.series("database").await;
    assert_eq!((count(&one, "pg_stat_database_blks_hit"), count(&one, "pg_stat_archiver_failed_count")), (2, 1));
    assert!(
        one.keys().any(|name| name.contains("database=\"metrics\",datid=") && name.contains("datname=\"samples\""))
    );
    let mut measured = Measured::of(&app, Some(&elsewhere)).await;
    assert_eq!(measured.notes.len(), 2, "each role is told of: {:?}", measured.notes);
    let two = measured.series("database").await;
    assert_eq!((count(&two, "pg_stat_database_blks_hit"), count(&two, "pg_stat_archiver_failed_count")), (2, 2));
    let objects = measured.series("database_objects").await;
    assert_eq!(objects, BTreeMap::new(), "there are no tables");
}
