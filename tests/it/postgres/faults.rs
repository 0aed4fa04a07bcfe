//! What happens to a server, to the way to it and to our rights there, with the whole sidecar writing meanwhile.
//!
//! The oracle is the same for all: what the sidecar says it has written is in the table, once; and `/metrics` answers throughout.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::postgres::{Cluster, ROLE, Stop};
use crate::support::{self, Sidecar, free_address, get, wait_for};

const WRITTEN: &str = "atlas_sidecar_samples_written_total ";
const BUSY: &str = "atlas_sidecar_write_retries_total{reason=\"busy\"} ";
const FULL: &str = "atlas_sidecar_write_retries_total{reason=\"full\"} ";

/// A connection to a server that is away may take some seconds to be given up, a lock the same.
const SOON: Duration = Duration::from_secs(60);

/// The longest answer of `/metrics`: a machine that is busy with other tests has its share in it.
const ANSWER: Duration = Duration::from_secs(3);

/// A sidecar that writes some hundred rows each second, and somebody who asks for its page all the time.
struct Writing {
    sidecar: Sidecar,
    /// The longest wait for a page, once it is joined.
    watch: JoinHandle<Duration>,
    ended: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

impl Writing {
    fn start(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "state_directory = \"state\"\n[database]\nurl = \"{url}\"\n[scrape]\ninterval = \"1s\"\n[write]\nbatch_age = \"100ms\"\nrows_per_day = 0\n"
        );
        let mut sidecar = Sidecar::launch::<&str>(folder.path(), &config, &[]);
        wait_for("readiness", SOON, || {
            assert!(sidecar.child.try_wait().unwrap().is_none(), "ended: {}", sidecar.log_text());
            get(sidecar.address, "/-/ready").filter(|answer| answer.status == 200)
        });
        let (address, ended) = (sidecar.address, Arc::new(AtomicBool::new(false)));
        let end = Arc::clone(&ended);
        let watch = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !end.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let answer = get(address, "/metrics").expect("an answer");
                longest = longest.max(asked.elapsed());
                assert_eq!(answer.status, 200);
                std::thread::sleep(Duration::from_millis(20));
            }
            longest
        });
        let writing = Self { sidecar, watch, ended, _folder: folder };
        writing.grows();
        writing
    }

    /// The number behind `series`.
    fn value(&self, series: &str) -> f64 {
        let page = self.sidecar.metrics();
        page.lines().find_map(|line| line.strip_prefix(series)?.parse().ok()).unwrap_or(0.0)
    }

    /// Waits until more rows than now are acknowledged.
    fn grows(&self) {
        let before = self.value(WRITTEN);
        self.wait("rows are written", |writing| writing.value(WRITTEN) > before);
    }

    /// Waits until the writer has failed since now.
    fn fails(&self, retries: &str) {
        let before = self.value(retries);
        self.wait("a failed write", |writing| writing.value(retries) > before);
    }

    fn wait(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + SOON;
        while !done(self) {
            assert!(Instant::now() < end, "waited {SOON:?} for {what}; log:\n{}", self.sidecar.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        self.sidecar.log_text()
    }

    /// Ends it in order and balances the books against the table of `cluster`; gives the log.
    fn balance(self, cluster: &Cluster) -> String {
        self.grows();
        let page = self.sidecar.metrics();
        let dropped = |line: &&str| line.starts_with("atlas_sidecar_samples_dropped_total{") && !line.ends_with(" 0");
        assert_eq!(page.lines().find(dropped), None, "{}", self.log());
        self.ended.store(true, Ordering::Relaxed);
        let longest = self.watch.join().expect("`/metrics` answered throughout");
        assert!(longest < ANSWER, "a page took {longest:?}");
        let log = self.sidecar.log.clone();
        assert_eq!(self.sidecar.stop(), 0);
        let log = std::fs::read_to_string(log).unwrap();
        let stopped = log.lines().find(|line| line.contains("stopped rows=")).unwrap_or_else(|| panic!("{log}"));
        let written = stopped.rsplit("rows=").next().unwrap();
        let rows = cluster.psql(
            "one",
            "SELECT count(*), count(DISTINCT (metric_name, tags::text, recorded_at)) FROM system_metrics WHERE metric_name NOT LIKE 'filler%'",
        );
        assert_eq!(
            rows,
            format!("{written}|{written}"),
            "in the table, and different ones; acknowledged: {written}\n{log}"
        );
        log
    }
}

/// A server with an Atlas database.
fn cluster() -> (Cluster, String) {
    let cluster = Cluster::start();
    let url = cluster.database("one");
    (cluster, url)
}

/// Ends all sessions of the sidecar, so that the next ones are new.
fn end_sessions(cluster: &Cluster) {
    cluster.psql(
        "postgres",
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'atlas-sidecar'",
    );
}

#[test]
fn a_server_may_be_restarted_and_may_crash() {
    let (mut cluster, url) = cluster();
    let writing = Writing::start(&url);
    for how in [Stop::Fast, Stop::Immediate, Stop::Immediate] {
        cluster.stop(how);
        writing.fails(BUSY);
        cluster.restart();
        writing.grows();
    }
    let log = writing.balance(&cluster);
    assert!(log.contains("the database does not take rows now, trying again"), "{log}");
    assert!(log.contains("the database took the rows after all"), "{log}");
}

#[test]
fn a_failover_needs_no_restart() {
    let (mut first, _) = cluster();
    // The sidecar is asked for what is acknowledged; that a standby has it, too, is asked of the server.
    let mut second = first.standby();
    let url = format!(
        "postgres://{ROLE}:{}@127.0.0.1:{},127.0.0.1:{}/one",
        support::postgres::PASSWORD,
        first.port,
        second.port
    );
    first.psql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
    first.psql("postgres", "ALTER SYSTEM SET synchronous_commit = 'remote_apply'");
    first.psql("postgres", "SELECT pg_reload_conf()");
    wait_for("a synchronous standby", Duration::from_secs(20), || {
        (first.psql("postgres", "SELECT sync_state FROM pg_stat_replication") == "sync").then_some(())
    });
    let writing = Writing::start(&url);
    first.stop(Stop::Immediate);
    writing.fails(BUSY);
    second.promote();
    writing.grows();
    let log = writing.balance(&second);
    assert!(log.contains("the database is at another host now"), "{log}");
    assert!(log.contains("connection refused; `127.0.0.1:"), "{log}");
    second.stop(Stop::Fast);
}

/// What is done to a connection when the next batch passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Cut {
    Nothing,
    /// Half of the rows arrive, then the connection ends.
    Rows,
    /// The rows arrive and count; the answer that says so does not.
    Answer,
    /// From the rows on nothing passes any more, and nobody says so.
    Silence,
}

/// A way to the server that can be cut.
struct Way {
    address: SocketAddr,
    cut: Arc<AtomicU8>,
}

impl Way {
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, cut) = (listener.local_addr().unwrap(), Arc::new(AtomicU8::new(Cut::Nothing as u8)));
        let shared = Arc::clone(&cut);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
                for (from, to, up) in [(client, server, true), (ends.1, ends.0, false)] {
                    let cut = Arc::clone(&shared);
                    std::thread::spawn(move || pass(from, to, up, &cut));
                }
            }
        });
        Self { address, cut }
    }

    fn cut(&self, how: Cut) {
        self.cut.store(how as u8, Ordering::SeqCst);
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst) == Cut::Nothing as u8
    }
}

/// Passes bytes on until the ordered cut is met: once, by the first who meets it.
fn pass(mut from: TcpStream, mut to: TcpStream, up: bool, cut: &AtomicU8) {
    let mut bytes = vec![0; 128 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let part = &bytes[..read];
        // `d` is the message of COPY's rows; `COPY 500` ends it well.
        let rows = up && part[0] == b'd' && part.len() > 1000;
        let answer = !up && part.windows(5).any(|w| w == b"COPY ");
        let meets = |how: Cut, met: bool| {
            met && cut.compare_exchange(how as u8, Cut::Nothing as u8, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        };
        if meets(Cut::Rows, rows) {
            let _ = to.write_all(&part[..read / 2]);
            break;
        }
        if meets(Cut::Answer, answer) {
            break;
        }
        if meets(Cut::Silence, rows) {
            std::thread::sleep(Duration::from_secs(300));
        }
        if to.write_all(part).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// The server may have stored a batch of which it could not say so: the next try finds it there.
#[test]
fn a_connection_may_be_cut_in_the_middle_of_a_batch_and_before_its_answer() {
    let (cluster, url) = cluster();
    let way = Way::to(cluster.port);
    let writing = Writing::start(&url.replace(&cluster.port.to_string(), &way.address.port().to_string()));
    for how in [Cut::Rows, Cut::Answer, Cut::Rows, Cut::Answer, Cut::Answer] {
        way.cut(how);
        writing.wait("the cut", |_| way.is_cut());
        writing.grows();
    }
    let log = writing.balance(&cluster);
    assert!(log.matches("earlier=true").count() >= 2, "an answer was lost and the rows were found: {log}");
    assert!(log.matches("earlier=false").count() >= 2, "{log}");
}

/// It takes most of a minute, because the limit that is tested is longer than that of the longest statement.
#[test]
fn a_server_that_falls_silent_in_the_middle_of_a_batch_is_given_up() {
    let (cluster, url) = cluster();
    let way = Way::to(cluster.port);
    // The silent way first, the direct one behind it.
    let port = cluster.port;
    let writing = Writing::start(&url.replace(&port.to_string(), &format!("{},127.0.0.1:{port}", way.address.port())));
    let start = Instant::now();
    way.cut(Cut::Silence);
    writing.wait("the silence", |_| way.is_cut());
    writing.fails(BUSY);
    writing.grows();
    assert!(start.elapsed() < Duration::from_secs(55), "{:?}", start.elapsed());
    let log = writing.balance(&cluster);
    assert!(log.contains("no answer from the server in 40s"), "{log}");
}

#[test]
fn a_lock_that_somebody_holds_is_waited_for() {
    let (cluster, url) = cluster();
    let writing = Writing::start(&url);
    let mut holder = cluster.psql_command("one");
    holder.args([
        "-c",
        "BEGIN",
        "-c",
        "LOCK TABLE system_metrics IN ACCESS EXCLUSIVE MODE",
        "-c",
        "SELECT pg_sleep(10)",
    ]);
    let mut holder = holder.spawn().unwrap();
    writing.fails(BUSY);
    // Each try waits for two seconds at most: others who wait are not kept waiting behind us for longer.
    writing.fails(BUSY);
    assert!(holder.wait().unwrap().success());
    writing.grows();
    let log = writing.balance(&cluster);
    assert!(log.contains("canceling statement due to lock timeout"), "{log}");
}

#[test]
fn a_right_that_is_taken_away_is_named_and_its_return_is_enough() {
    let (cluster, url) = cluster();
    let writing = Writing::start(&url);
    // The owner's rights are taken as well.
    cluster.psql("one", "ALTER TABLE system_metrics OWNER TO postgres");
    cluster.psql("one", &format!("GRANT SELECT ON system_metrics TO {ROLE}"));
    writing.fails(BUSY);
    let log = writing.log();
    assert!(log.contains("permission denied for table system_metrics"), "{log}");
    assert!(log.contains("needs SELECT and INSERT on `system_metrics`"), "{log}");
    cluster.psql("one", &format!("GRANT INSERT ON system_metrics TO {ROLE}"));
    writing.grows();
    writing.balance(&cluster);
}

/// A server whose disk is full, without a small disk, for which one would have to be root: a limit for the size of files, which ends in the middle of the table's
/// next page. So the write of that page comes back short, and PostgreSQL reports what it would report of a full disk.
#[test]
fn a_full_disk_of_the_server_is_waited_for() {
    let (cluster, url) = cluster();
    let writing = Writing::start(&url);
    // Longer than a segment of the WAL (1 MiB here), to which the limit applies as well.
    cluster.psql(
        "one",
        "INSERT INTO system_metrics (id, metric_name, metric_value, recorded_at) \
         SELECT 'filler' || n, 'filler' || repeat('x', 200), n, now() FROM generate_series(1, 20000) AS n",
    );
    let size: u64 = cluster.psql("one", "SELECT pg_relation_size('system_metrics')").parse().unwrap();
    assert!(size > 2 << 20, "{size}");
    cluster.limit_files(Some(size + 16 * 8192 + 4096));
    end_sessions(&cluster);
    writing.fails(FULL);
    let log = writing.log();
    assert!(log.contains("the database cannot grow, trying again"), "{log}");
    cluster.limit_files(None);
    end_sessions(&cluster);
    writing.grows();
    writing.balance(&cluster);
}

/// Without a server there is nothing to write to: the sidecar ends with 69 and names the hosts; whoever started it starts it again.
#[test]
fn a_sidecar_does_not_start_without_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (free_address(), free_address());
    let url = format!("database.url=postgres://u:canary-of-the-start@{a},{b}/d");
    let out =
        support::sidecar(folder.path(), &["run", "--set", &url, "--set", &format!("server.listen={}", free_address())]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(69), "{said}");
    assert!(said.contains(&format!("`{a}`: connection refused; `{b}`: connection refused")), "{said}");
    assert!(!said.contains("canary"), "{said}");
}
