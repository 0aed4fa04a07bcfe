//! The running program, held to what docs/OPERATIONS.md promises: signals, exit codes, a database that somebody else holds or made, commands
//! beside it, secrets, and `kill -9` at the worst moments. All of it with the real binary.

mod beside;
mod export;
mod killed;
mod locked;
mod migrate;
mod reload;
mod replaced;
mod rows;
mod secrets;
mod start;
mod two;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Sidecar, run, wait_for};

/// What a wait of a loaded machine may take before the test says that it did not come.
const SOON: Duration = Duration::from_secs(20);

/// One-second intervals and short groups, so that a test of seconds sees many collections and rows.
const QUICK: &str = "[scrape]\ninterval = \"1s\"\ntimeout = \"900ms\"\n[write]\nbatch_age = \"200ms\"\n";

/// The value of a series, as text 0.0.4 writes it.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Waits until the page passes `wanted`, and gives it.
fn page_with(sidecar: &Sidecar, what: &str, wanted: impl Fn(&str) -> bool) -> String {
    wait_for(what, SOON, || Some(sidecar.metrics()).filter(|page| wanted(page)))
}

/// Waits until the log holds `text` at least `times`.
fn logged(sidecar: &Sidecar, text: &str, times: usize) {
    wait_for(&format!("`{text}` in the log, {times} times"), SOON, || {
        Some(()).filter(|()| sidecar.log_text().matches(text).count() >= times)
    });
}

/// What the sqlite3 shell answers. It waits for locks as an application does.
fn sql(database: &Path, sql: &str) -> String {
    run("sqlite3", &["-bail", "-cmd", ".timeout 5000", database.to_str().unwrap(), sql]).trim_end().to_owned()
}

/// One number from the shell.
fn count(database: &Path, question: &str) -> i64 {
    sql(database, question).parse().unwrap()
}

/// A sample that this installation stored twice. Two sidecars on one host may well measure the same in the same millisecond.
const TWICE: &str = "SELECT count(*) FROM (SELECT 1 FROM system_metrics WHERE tags LIKE '%\"host\"%'
                     GROUP BY substr(id, 25), metric_name, tags, recorded_at HAVING count(*) > 1)";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code and standard error.
fn ended(out: &Output) -> (Option<i32>, String) {
    (out.status.code(), text(&out.stderr))
}

/// An application that holds the database's write lock until it is told otherwise.
struct Holder(Child);

impl Holder {
    fn new(database: &Path, begin: &str) -> Self {
        let program = "import sqlite3, sys\n\
                       db = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)\n\
                       db.execute(sys.argv[2])\n\
                       print('held', flush=True)\n\
                       sys.stdin.readline()\n\
                       db.execute('COMMIT')\n\
                       db.close()\n";
        let mut child = Command::new("python3")
            .args(["-c", program, database.to_str().unwrap(), begin])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the README's test command installs python3");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }

    fn release(mut self) {
        self.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An HTTP target with one counter, `<name>_hits_total`; counts who asked and keeps what they sent.
struct Target {
    address: SocketAddr,
    hits: Arc<AtomicUsize>,
    status: Arc<AtomicU16>,
    heads: Arc<Mutex<String>>,
}

impl Target {
    fn new(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target =
            Self { address, hits: Arc::default(), status: Arc::new(AtomicU16::new(200)), heads: Arc::default() };
        let (hits, status, heads) = (target.hits.clone(), target.status.clone(), target.heads.clone());
        let name = name.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(head) = head_of(&mut stream) else { continue };
                heads.lock().unwrap().push_str(&head);
                let hits = hits.fetch_add(1, Ordering::SeqCst) + 1;
                let body = format!("# TYPE {name}_hits_total counter\n{name}_hits_total {hits}\n");
                let status = status.load(Ordering::SeqCst);
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        target
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// As one of `[[scrape.targets]]`.
    fn toml(&self, name: &str) -> String {
        format!("[[scrape.targets]]\nname = \"{name}\"\nurl = \"http://{}/metrics\"\n", self.address)
    }
}

fn head_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}
