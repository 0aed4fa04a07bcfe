//! How a session begins, or does not: hosts, roles, TLS, poolers, and servers that go away; each against a real one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use atlas_sidecar::engine::postgres::{Database, within};
use atlas_sidecar::secret::Secret;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

use crate::support::postgres::{Cluster, PASSWORD, ROLE, Stop};
use crate::support::{self, SIDECAR, free_address, wait_for};

/// What is said where there is no session.
async fn refused(url: &str) -> String {
    let said = Database::open(url, None).await.expect_err(url).message;
    assert!(!said.contains(PASSWORD), "{said}");
    said
}

async fn ask(database: &Database, sql: &'static str) -> Result<String, sqlx::Error> {
    let mut reader = database.read(Duration::from_secs(5)).await?;
    sqlx::query_scalar(sql).fetch_one(&mut *reader).await
}

/// Writes a row as a store would: within a limit, in a transaction.
async fn write(database: &Database, sql: &'static str) -> Result<(), sqlx::Error> {
    let written = within(Duration::from_secs(5), async {
        let mut writer = database.write().await?;
        sqlx::query(sql).execute(&mut *writer).await?;
        writer.commit().await
    });
    written.await.flatten()
}

#[tokio::test]
async fn the_first_host_that_answers_is_used_and_else_all_are_named() {
    let cluster = Cluster::start();
    cluster.database("one");
    let (dead, port) = (free_address().port(), cluster.port);
    let url = format!("postgres://{ROLE}@nowhere.invalid,127.0.0.1:{dead},localhost:{port}/one");
    let password = Secret::new(PASSWORD);
    let database = Database::open(&url, Some(&password)).await.unwrap();
    let home = database.home().unwrap();
    assert_eq!((home.host, home.tls), (format!("localhost:{port}"), None));
    assert!(cluster.psql("one", "SHOW server_version").starts_with(home.version.split(' ').next().unwrap()));
    let name = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    assert_eq!(ask(&database, name).await.unwrap(), "atlas-sidecar");
    database.close().await;
    assert!(matches!(database.read(Duration::from_secs(1)).await.map(drop), Err(sqlx::Error::PoolClosed)));
    wait_for("the sessions to end", Duration::from_secs(10), || {
        let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'atlas-sidecar'";
        (cluster.psql("one", left) == "0").then_some(())
    });
    let said = refused(&format!("postgres://{ROLE}:{PASSWORD}@nowhere.invalid,127.0.0.1:{dead}/one")).await;
    assert!(said.starts_with("cannot connect to `postgres://atlas:<secret>@nowhere.invalid,"), "{said}");
    assert!(said.contains("`nowhere.invalid:5432`: failed to lookup address"), "{said}");
    assert!(said.contains(&format!("; `127.0.0.1:{dead}`: connection refused")), "{said}");
}

#[tokio::test]
async fn a_socket_is_a_host_and_its_server_is_asked_in_vain_for_what_it_does_not_have() {
    let cluster = Cluster::start();
    cluster.database("one");
    let (folder, port) = (cluster.data(), cluster.port);
    let url = format!("postgres://{ROLE}@/one?host={}&port={port}&sslmode=verify-full", folder.display());
    let database = Database::open(&url, None).await.unwrap();
    assert_eq!(database.home().unwrap().host, format!("{}:{port}", folder.display()));
    for (url, words) in [
        (format!("postgres://{ROLE}@/one?host=/nowhere"), "no server listens at this socket"),
        (
            format!("postgres://{ROLE}:wrong-{PASSWORD}@127.0.0.1:{port}/one"),
            "password authentication failed for user \"atlas\" (28P01)",
        ),
        (format!("postgres://{ROLE}@127.0.0.1:{port}/one"), "password authentication failed"),
        (
            format!("postgres://nobody:{PASSWORD}@127.0.0.1:{port}/one"),
            "password authentication failed for user \"nobody\"",
        ),
        (cluster.url("two"), "database \"two\" does not exist (3D000)"),
    ] {
        let said = refused(&url).await;
        assert!(said.contains(words), "{said}");
    }
}

/// What the configuration says is what happens: no variable and no file of the home folder adds to it.
#[test]
fn the_environment_changes_nothing() {
    let cluster = Cluster::start();
    cluster.database("one");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".pgpass"), format!("*:*:*:*:{PASSWORD}\n")).unwrap();
    std::fs::set_permissions(folder.path().join(".pgpass"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let start = |url: &str, variables: &[(&str, &str)]| {
        let mut command = Command::new(SIDECAR);
        command.args([
            "run",
            "--set",
            &format!("database.url={url}"),
            "--set",
            &format!("server.listen={}", free_address()),
        ]);
        command.env("HOME", folder.path()).envs(variables.iter().copied()).current_dir(folder.path());
        let out = command.stdin(Stdio::null()).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout))
    };
    let bare = format!("postgres://{ROLE}@127.0.0.1:{}/one", cluster.port);
    for variables in [&[][..], &[("PGPASSWORD", PASSWORD)], &[("PGPASSFILE", ".pgpass")]] {
        let (code, said) = start(&bare, variables);
        assert!(code == Some(69) && said.contains("password authentication failed"), "{variables:?}: {said}");
    }
    for variable in ["PGOPTIONS", "PGSSLCERT", "PGSSLKEY"] {
        let (code, said) = start(&cluster.url("one"), &[(variable, "-c search_path=elsewhere")]);
        assert!(code == Some(69) && said.contains(&format!("the variable `{variable}` is set; unset it")), "{said}");
    }
    let (code, said) = start(
        &cluster.url("missing"),
        &[
            ("PGHOST", "nowhere"),
            ("PGPORT", "1"),
            ("PGUSER", "u"),
            ("PGDATABASE", "d"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "/nowhere"),
            ("PGAPPNAME", "x"),
        ],
    );
    assert!(code == Some(69) && said.contains("database \"missing\" does not exist"), "{said}");
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server with TLS, whose certificate and authority change from question to question.
struct Tls {
    cluster: Cluster,
    folder: PathBuf,
}

impl Tls {
    fn start() -> Self {
        let cluster = Cluster::start();
        cluster.database("one");
        let folder = cluster.scratch("tls");
        let tls = Self { cluster, folder };
        tls.set("ssl_cert_file", &tls.path("server.pem"));
        tls.set("ssl_key_file", &tls.path("server.key"));
        tls
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn set(&self, key: &str, value: &str) {
        self.cluster.psql("postgres", &format!("ALTER SYSTEM SET {key} = '{value}'"));
    }

    /// Lets the server use a certificate for `name`, made by `issue`.
    fn serve(&self, name: &str, issue: impl FnOnce(CertificateParams, &KeyPair) -> rcgen::Certificate) {
        let key = KeyPair::generate().unwrap();
        let certificate = issue(CertificateParams::new(vec![name.to_owned()]).unwrap(), &key);
        self.write("server.pem", &certificate.pem());
        self.write("server.key", &key.serialize_pem());
        self.set("ssl", "on");
        self.reload();
    }

    /// Reloads and waits until new sessions are what the files say.
    fn reload(&self) {
        let before = self.cluster.log_text().matches("received SIGHUP").count();
        self.cluster.psql("postgres", "SELECT pg_reload_conf()");
        wait_for("the server to reload", Duration::from_secs(10), || {
            (self.cluster.log_text().matches("received SIGHUP").count() > before).then_some(())
        });
    }

    /// A file that only the server's user can read: it refuses a key that others can.
    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let owner = self.folder.metadata().unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    fn url(&self, rest: &str) -> String {
        format!("postgres://{ROLE}:{PASSWORD}@localhost:{}/one?{rest}", self.cluster.port)
    }

    /// The version of TLS of a session, or why there is none.
    async fn try_url(&self, url: &str) -> Result<Option<String>, String> {
        let database = Database::open(url, None).await.map_err(|e| e.message)?;
        let tls = database.home().unwrap().tls;
        database.close().await;
        Ok(tls)
    }
}

#[tokio::test]
async fn tls_is_what_sslmode_says() {
    let tls = Tls::start();
    let trusted = authority();
    std::fs::write(tls.path("ca.pem"), trusted.pem()).unwrap();
    std::fs::write(tls.path("other.pem"), authority().pem()).unwrap();
    std::fs::write(tls.path("none.pem"), "-----BEGIN CERTIFICATE-----\nno\n").unwrap();
    let full = format!("sslmode=verify-full&sslrootcert={}", tls.path("ca.pem"));

    // A server without TLS.
    for (rest, outcome) in [
        ("sslmode=prefer", Ok(None)),
        ("sslmode=disable", Ok(None)),
        ("sslmode=require", Err("the server offers no TLS; `sslmode` asks for it")),
        (full.as_str(), Err("the server offers no TLS")),
    ] {
        same(rest, tls.try_url(&tls.url(rest)).await, outcome);
    }

    // A certificate for this host, of an authority of our own.
    tls.serve("localhost", |params, key| params.signed_by(key, &trusted).unwrap());
    let encrypted = Ok(Some("TLSv1.3"));
    let ca = |mode: &str, file: &str| format!("sslmode={mode}&sslrootcert={}", tls.path(file));
    for (rest, outcome) in [
        ("", encrypted),
        ("sslmode=disable", Ok(None)),
        ("sslmode=require", encrypted),
        (&full, encrypted),
        (&format!("sslrootcert={}", tls.path("ca.pem")), encrypted),
        (&ca("verify-ca", "ca.pem"), encrypted),
        (&ca("verify-full", "other.pem"), Err("no authority that is trusted has signed it; name the one that did")),
        (&ca("verify-ca", "other.pem"), Err("no authority that is trusted has signed it")),
        ("sslmode=verify-full", Err("no authority that is trusted has signed it")),
        ("sslmode=verify-full&sslrootcert=system", Err("no authority that is trusted has signed it")),
        (&ca("verify-full", "missing.pem"), Err("cannot read `sslrootcert`, `")),
        (&ca("verify-full", "none.pem"), Err("TLS: ")),
    ] {
        same(rest, tls.try_url(&tls.url(rest)).await, outcome);
    }
    // The address is not in the certificate.
    let address = |rest: &str| tls.url(rest).replace("localhost", "127.0.0.1");
    same(
        "address",
        tls.try_url(&address(&full)).await,
        Err("the server's certificate is refused: it is for another host"),
    );
    same("address", tls.try_url(&address(&ca("verify-ca", "ca.pem"))).await, encrypted);

    tls.serve("db.example.org", |params, key| params.signed_by(key, &trusted).unwrap());
    same("name", tls.try_url(&tls.url(&full)).await, Err("it is for another host"));
    tls.serve("localhost", |mut params, key| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        params.signed_by(key, &trusted).unwrap()
    });
    same("expired", tls.try_url(&tls.url(&full)).await, Err("it has expired"));
    same("expired", tls.try_url(&tls.url("sslmode=require")).await, encrypted);
    // As the server's manual makes one.
    tls.serve("localhost", |mut params, key| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(key).unwrap();
        std::fs::write(tls.path("self.pem"), certificate.pem()).unwrap();
        certificate
    });
    same("self", tls.try_url(&tls.url(&ca("verify-full", "self.pem"))).await, Err("it is an authority's own"));
}

fn same(what: &str, found: Result<Option<String>, String>, expected: Result<Option<&str>, &str>) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{what}"),
        (Err(said), Err(words)) => assert!(said.contains(words), "{what}: {said}"),
        (found, expected) => panic!("{what}: {found:?}, not {expected:?}"),
    }
}

#[tokio::test]
async fn a_server_may_know_us_by_a_certificate() {
    let tls = Tls::start();
    let trusted = authority();
    tls.write("ca.pem", &trusted.pem());
    std::fs::write(tls.path("ca-for-us.pem"), trusted.pem()).unwrap();
    tls.set("ssl_ca_file", &tls.path("ca.pem"));
    tls.serve("localhost", |params, key| params.signed_by(key, &trusted).unwrap());
    std::fs::write(tls.cluster.data().join("pg_hba.conf"), "local all all trust\nhostssl all all all cert\n").unwrap();
    tls.reload();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, ROLE);
    std::fs::write(tls.path("client.pem"), params.signed_by(&key, &trusted).unwrap().pem()).unwrap();
    std::fs::write(tls.path("client.key"), key.serialize_pem()).unwrap();
    let base =
        format!("postgres://{ROLE}@localhost:{}/one?sslrootcert={}", tls.cluster.port, tls.path("ca-for-us.pem"));
    let url = |key: &str| format!("{base}&sslcert={}&sslkey={}", tls.path("client.pem"), tls.path(key));
    same("known", tls.try_url(&url("client.key")).await, Ok(Some("TLSv1.3")));
    same("unknown", tls.try_url(&base).await, Err("connection requires a valid client certificate"));
    same("no key", tls.try_url(&url("missing.key")).await, Err("cannot read `sslkey`, `"));
    same("a wrong key", tls.try_url(&url("client.pem")).await, Err("no keys found"));
}

/// A pooler in front of `cluster`; ends with the test.
struct Pooler {
    child: Child,
    port: u16,
}

impl Pooler {
    fn start(cluster: &Cluster, settings: &str) -> Self {
        let folder = cluster.scratch("pooler");
        let port = free_address().port();
        let file = folder.join(format!("{port}.ini"));
        let text = format!(
            "[databases]\none = host=127.0.0.1 port={} dbname=one password={PASSWORD}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\nlogfile = {}\n{settings}\n",
            cluster.port,
            folder.join(format!("{port}.log")).display(),
        )
        // `any` logs everybody in as the user of the database's line.
        .replace(" password=", &format!(" user={ROLE} password="));
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if rustix::process::geteuid().is_root() {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        }
        command
            .args(["--", program_of_debian()])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|e| panic!("`setpriv` does not start ({e}): tests/run installs it"));
        wait_for("pgbouncer (tests/run installs it)", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { child, port }
    }

    fn url(&self) -> String {
        format!("postgres://{ROLE}:{PASSWORD}@127.0.0.1:{}/one", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program_of_debian() -> &'static str {
    let path = "/usr/sbin/pgbouncer";
    assert!(Path::new(path).exists(), "`{path}` is missing: tests/run installs it");
    path
}

/// A pooler keeps no promise about a session, whether it says so or not.
#[tokio::test]
async fn a_pooler_is_refused_as_what_it_is() {
    let cluster = Cluster::start();
    cluster.database("one");
    for (mode, settings, words) in [
        ("transaction", "", "it says: unsupported startup parameter: options"),
        ("session", "", "it says: unsupported startup parameter: options"),
        (
            "transaction",
            "ignore_startup_parameters = options",
            "`statement_timeout` is `0` although the session asked for `30000`",
        ),
        ("session", "ignore_startup_parameters = options,extra_float_digits", "`statement_timeout` is `0` although"),
    ] {
        let pooler = Pooler::start(&cluster, &format!("pool_mode = {mode}\n{settings}"));
        let said = refused(&pooler.url()).await;
        assert!(said.contains("this is a pooler (pgbouncer)") && said.contains(words), "{mode} {settings}: {said}");
        assert!(said.contains("give the address of the server itself"), "{said}");
        // As one of two hosts, it is passed by.
        let both = pooler.url().replace("/one", &format!(",127.0.0.1:{}/one", cluster.port));
        let database = Database::open(&both, None).await.unwrap();
        assert_eq!(database.home().unwrap().host, format!("127.0.0.1:{}", cluster.port));
        database.close().await;
    }
}

/// A transaction in which a statement failed cannot be committed, although the server's COMMIT would look like a success.
#[tokio::test]
async fn a_commit_of_what_failed_is_an_error() {
    let cluster = Cluster::start();
    let database = Database::open(&cluster.database("one"), None).await.unwrap();
    write(&database, "CREATE TABLE t (n int)").await.unwrap();
    let mut writer = database.write().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *writer).await.unwrap();
    sqlx::query("SELECT 1/0").execute(&mut *writer).await.unwrap_err();
    let refused = writer.commit().await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "25P02");
    let mut writer = database.write().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut *writer).await.unwrap();
    drop(writer);
    write(&database, "INSERT INTO t VALUES (3)").await.unwrap();
    assert_eq!(cluster.psql("one", "SELECT n FROM t"), "3");
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'atlas-sidecar'";
    assert_eq!(cluster.psql("one", sessions), "1", "one session was enough for all of it");
}

/// E-5: who stops waiting for a query keeps nobody else waiting, and nothing is left running for longer than its limit.
#[tokio::test]
async fn a_query_that_nobody_waits_for_blocks_nobody() {
    let cluster = Cluster::start();
    let database = Database::open(&cluster.database("one"), None).await.unwrap();
    for _ in 0..2 {
        let mut reader = database.read_for_query(Duration::from_secs(8)).await.unwrap();
        let slept = sqlx::query("SELECT pg_sleep(60)").execute(&mut *reader);
        tokio::time::timeout(Duration::from_millis(100), slept).await.unwrap_err();
    }
    let start = Instant::now();
    let mut reader = database.read_for_query(Duration::from_secs(8)).await.unwrap();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut *reader).await.unwrap();
    assert!(one == 1 && start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    wait_for("the statements' limit", Duration::from_secs(20), || {
        (cluster.psql("one", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()") == "0").then_some(())
    });
}

/// A server that is there and says nothing, as behind a cut cable: no reset comes, and its own limits are gone with it.
#[tokio::test]
async fn a_server_that_falls_silent_is_waited_for_within_a_limit() {
    let cluster = Cluster::start();
    let url = cluster.database("one").replace("/one", "/one?connect_timeout=1");
    let database = Database::open(&url, None).await.unwrap();
    write(&database, "CREATE TABLE t (n int)").await.unwrap();
    let mut writer = database.write().await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *writer).await.unwrap();
    cluster.signal("STOP");
    support::run("kill", &["-STOP", &pid.to_string()]);
    let start = Instant::now();
    let insert = sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *writer);
    let silent = within(Duration::from_millis(500), insert).await.map(drop).unwrap_err();
    assert!(silent.to_string().contains("no answer from the server in 500ms"), "{silent}");
    drop(writer);
    // The session is given up, and so is the next one that a stopped server does not answer.
    let none = database.write().await.map(drop).unwrap_err();
    assert!(none.to_string().contains("no answer in 1s"), "{none}");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    support::run("kill", &["-CONT", &pid.to_string()]);
    cluster.signal("CONT");
    wait_for_write(&database, "INSERT INTO t VALUES (2)").await;
    assert_eq!(cluster.psql("one", "SELECT n FROM t"), "2");
}

async fn wait_for_write(database: &Database, sql: &'static str) {
    let start = Instant::now();
    while let Err(e) = write(database, sql).await {
        assert!(start.elapsed() < Duration::from_secs(20), "no write: {e}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An owner who stops all writing for a while (`default_transaction_read_only`) is obeyed, also on a session that is already there.
#[tokio::test]
async fn a_database_that_is_made_read_only_is_not_written_to() {
    let mut cluster = Cluster::start();
    let url = cluster.database("one");
    let database = Database::open(&url, None).await.unwrap();
    write(&database, "CREATE TABLE t (n int)").await.unwrap();
    cluster.psql("postgres", "ALTER DATABASE one SET default_transaction_read_only = on");
    cluster.psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'one'");
    let said = write(&database, "INSERT INTO t VALUES (1)").await.unwrap_err().to_string();
    assert!(said.contains("cannot be written to: `default_transaction_read_only` is on"), "{said}");
    assert_eq!(ask(&database, "SELECT count(*)::text FROM t").await.unwrap(), "0", "reading goes on");
    cluster.psql("postgres", "ALTER DATABASE one RESET default_transaction_read_only");
    wait_for_write(&database, "INSERT INTO t VALUES (2)").await;
    // A restart in between is noticed when the next transaction begins, not by it.
    cluster.stop(Stop::Immediate);
    assert!(write(&database, "INSERT INTO t VALUES (3)").await.unwrap_err().to_string().contains("connection refused"));
    cluster.restart();
    wait_for_write(&database, "INSERT INTO t VALUES (4)").await;
    write(&database, "INSERT INTO t VALUES (5)").await.unwrap();
    assert_eq!(cluster.psql("one", "SELECT string_agg(n::text, ' ') FROM t"), "2 4 5");
}

/// Rounds that found no server are followed by waits, in which nobody is asked.
#[tokio::test]
async fn a_server_that_is_away_is_not_asked_all_the_time() {
    let mut cluster = Cluster::start();
    let database = Database::open(&cluster.database("one"), None).await.unwrap();
    cluster.stop(Stop::Fast);
    let listener = std::net::TcpListener::bind(("127.0.0.1", cluster.port)).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    // Closed at once: a server that starts or ends does that.
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for _ in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        database.write().await.map(drop).unwrap_err();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Waits of 200, 400 and 800 ms, or down to the half of each.
    let rounds = asked.load(Ordering::Relaxed);
    assert!((3..=6).contains(&rounds), "{rounds} rounds in two seconds");
}

/// The other server becomes the one that can be written to: the next transaction is there. The old one comes back as a standby and is not used.
#[tokio::test]
async fn a_failover_is_followed() {
    let mut first = Cluster::start();
    first.database("one");
    let second = first.standby();
    let url = format!("postgres://{ROLE}:{PASSWORD}@127.0.0.1:{},127.0.0.1:{}/one", second.port, first.port);
    let database = Database::open(&url, None).await.unwrap();
    let home =
        |cluster: &Cluster| (database.home().unwrap().host == format!("127.0.0.1:{}", cluster.port)).then_some(());
    home(&first).expect("the standby is passed by");
    write(&database, "CREATE TABLE t (n int)").await.unwrap();
    write(&database, "INSERT INTO t VALUES (1)").await.unwrap();
    ask(&database, "SELECT count(*)::text FROM t").await.unwrap();
    wait_for("the standby to follow", Duration::from_secs(20), || {
        second.try_psql("one", "SELECT n FROM t").is_ok_and(|n| n == "1").then_some(())
    });
    first.stop(Stop::Immediate);
    let said = write(&database, "INSERT INTO t VALUES (2)").await.unwrap_err().to_string();
    assert!(
        said.contains("a standby, which cannot be written to; `127.0.0.1:") && said.contains("connection refused"),
        "{said}"
    );
    second.promote();
    wait_for_write(&database, "INSERT INTO t VALUES (3)").await;
    home(&second).expect("the promoted one");
    // Its sessions outlive a demotion where nothing is restarted (a managed service): here the other way round, the old one comes back and stays unused.
    first.restart();
    assert_eq!(ask(&database, "SELECT string_agg(n::text, ' ') FROM t").await.unwrap(), "1 3");
    write(&database, "INSERT INTO t VALUES (4)").await.unwrap();
    assert_eq!(second.psql("one", "SELECT string_agg(n::text, ' ') FROM t"), "1 3 4");
}
