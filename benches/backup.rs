//! Backups and restores of a database file beside `pigz` with as many threads, in turns, each in a process of its own so that its memory is its own.
//!
//! `cargo bench --bench backup`; `MB` is the database's size (2000), `ROUNDS` how often (3), `DATABASE` a file to take instead of making one (it is written to).
//! Needs `pigz`, `sqlite3` and `gzip` (Debian packages of these names). The database is that of `codec`.
//!
//! A round: `cat db | pigz -1`, a full, `pigz -d`, a restore (compared), one page in a thousand changed, an increment. A full is counted from its first read to its last byte on
//! the disk: with its synchronisation, which pigz does without, and without the check and the reading back, which are told apart.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say where")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_sidecar::backup::Want;
use atlas_sidecar::backup::claim::{WAIT, Writer};
use atlas_sidecar::backup::codec::Form;
use atlas_sidecar::backup::plan::Moment;
use atlas_sidecar::backup::restore::{Order, carry_out};
use atlas_sidecar::backup::ship::{Metrics, Parts, Settings, Shipped, Shipper};
use atlas_sidecar::clock::Clock;
use atlas_sidecar::engine::rebuild;
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::source::{self, Pages};
use atlas_sidecar::object::ObjectStore;
use atlas_sidecar::object::dir::Dir;
use atlas_sidecar::object::patient::{self, Patience, Patient};
use atlas_sidecar::schedule::JobContext;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const FILL: &str = include_str!("atlas.sql");
const MB: f64 = 1e6;
/// Of these, one changes.
const PAGES: u64 = 1000;
/// Bytes in front of the pages of a log, and of each page (<https://www.sqlite.org/fileformat2.html#walformat>).
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

fn main() {
    // `cargo bench` passes `--bench`; a child gets what to do.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["full", db, home] => child(|runtime| ship(runtime, Want::Full, db.as_ref(), home.as_ref())),
        ["incremental", db, home] => child(|runtime| ship(runtime, Want::Changes, db.as_ref(), home.as_ref())),
        ["restore", home, to] => child(|runtime| restore(runtime, home.as_ref(), to.as_ref())),
        [] => compare(),
        _ => panic!("no arguments: see the head of the file"),
    }
}

/// A number from the environment.
fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn compare() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (home, packed, back, restored) = (at("home"), at("pigz.gz"), at("back"), at("restored.db"));
    let db = std::env::var("DATABASE").unwrap_or_else(|_| at("atlas.db"));
    if !Path::new(&db).exists() {
        sqlite(&db, &FILL.replace(":rows", &(asked("MB", 2000) * 3_000).to_string()));
    }
    sqlite(&db, "PRAGMA journal_mode = WAL; PRAGMA wal_checkpoint(TRUNCATE);");
    let bytes = std::fs::metadata(&db).unwrap().len();
    let (threads, rounds) = (threads(), asked("ROUNDS", 3));
    println!("{:.0} MB, {threads} threads, medians of {rounds}; load {}", bytes as f64 / MB, load());
    let mut figures = Figures::default();
    for round in 0..rounds {
        figures.note("cat | pigz -1", peer(&format!("cat {db} | pigz -1 -p {threads} > {packed}")));
        let full = ours(&["full", &db, &home]);
        figures.note("full", seconds(&full, "upload"));
        for step in ["read", "check", "read_back"] {
            figures.note(&format!("full: {step}"), seconds(&full, step));
        }
        figures.most("full: peak MiB", full["peak_kib"].as_f64().unwrap() / 1024.0);
        figures.note("full: processor", seconds(&full, "processor"));
        figures.note("pigz -d", peer(&format!("pigz -d -p {threads} < {packed} > {back}")));
        figures.note("pigz -d, sync", peer(&format!("pigz -d -p {threads} < {packed} > {back} && sync {back}")));
        let restore = ours(&["restore", &home, &restored]);
        figures.note("restore", seconds(&restore, "took"));
        figures.note("restore: processor", seconds(&restore, "processor"));
        figures.most("restore: peak MiB", restore["peak_kib"].as_f64().unwrap() / 1024.0);
        assert!(Command::new("cmp").args([&db, &restored]).status().unwrap().success());
        std::fs::remove_file(&restored).unwrap();
        let changed = change(&db, round);
        let one = ours(&["incremental", &db, &home]);
        figures.note("incremental", seconds(&one, "read"));
        figures.most("incremental: peak MiB", one["peak_kib"].as_f64().unwrap() / 1024.0);
        figures.most("incremental: bytes read of the file's", one["read_bytes"].as_f64().unwrap() / bytes as f64);
        figures.most("incremental: pages of those changed", one["pages"].as_f64().unwrap() / changed as f64);
        let alone = compressed_pages(&Path::new(&home).join("backups").join(one["object"].as_str().unwrap()));
        figures
            .most("incremental: stored bytes of those of gzip", one["stored_bytes"].as_f64().unwrap() / alone as f64);
        sqlite(&db, "PRAGMA wal_checkpoint(TRUNCATE);");
    }
    println!("load {}", load());
    figures.print(bytes as f64 / MB);
}

/// What was measured, in the order in which it was first.
#[derive(Default)]
struct Figures {
    names: Vec<String>,
    times: BTreeMap<String, Vec<f64>>,
    most: BTreeMap<String, f64>,
}

impl Figures {
    fn note(&mut self, name: &str, seconds: f64) {
        self.times.entry(name.to_owned()).or_default().push(seconds);
        self.name(name);
    }

    fn most(&mut self, name: &str, value: f64) {
        let most = self.most.entry(name.to_owned()).or_insert(value);
        *most = most.max(value);
        self.name(name);
    }

    fn name(&mut self, name: &str) {
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
    }

    fn median(&self, name: &str) -> f64 {
        median(&self.times[name])
    }

    fn print(&self, megabytes: f64) {
        println!("{:<44} {:>8} {:>8}   of each round", "", "median s", "MB/s");
        for name in &self.names {
            match self.times.get(name) {
                Some(times) => {
                    let each: Vec<String> = times.iter().map(|time| format!("{time:.1}")).collect();
                    let median = median(times);
                    println!("{name:<44} {median:>8.1} {:>8.0}   {}", megabytes / median, each.join(" "));
                }
                None => println!("{name:<44} {:>8.3}", self.most[name]),
            }
        }
        for (ours, peer) in [("full", "cat | pigz -1"), ("restore", "pigz -d"), ("restore", "pigz -d, sync")] {
            let each =
                self.times[ours].iter().zip(&self.times[peer]).map(|(ours, peer)| peer / ours).collect::<Vec<_>>();
            let shown: Vec<String> = each.iter().map(|ratio| format!("{ratio:.2}")).collect();
            println!(
                "{ours} against `{peer}`: {:.2}; of each round {}",
                self.median(peer) / self.median(ours),
                shown.join(" ")
            );
        }
    }
}

fn sqlite(db: &str, sql: &str) {
    let mut shell = Command::new("sqlite3").arg(db).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

/// Changes one page in a thousand, in one transaction, and tells how many lie in the log now: each once, for SQLite holds them all until the commit.
fn change(db: &str, round: u64) -> u64 {
    let rows: u64 = {
        let out = Command::new("sqlite3").args([db, "SELECT max(rowid) FROM system_metrics"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()
    };
    let pages = std::fs::metadata(db).unwrap().len() / 4096;
    let step = rows / (pages / PAGES);
    // A shell that closes the last connection makes a checkpoint and removes the log; this one is kept from it.
    let sql = format!(
        ".filectrl persist_wal 1\nPRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -200000;\n.dbconfig no_ckpt_on_close on\n\
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})\n\
         UPDATE system_metrics SET metric_value = metric_value + 1 WHERE rowid IN (SELECT i * {step} + {round} FROM n);",
        pages / PAGES - 1
    );
    sqlite(db, &sql);
    (std::fs::metadata(format!("{db}-wal")).unwrap().len() - LOG_HEADER as u64) / (4096 + FRAME_HEADER as u64)
}

/// How many bytes `gzip -1` makes of the pages in the increment `object`.
fn compressed_pages(object: &Path) -> usize {
    let log = Command::new("gzip").arg("-dc").stdin(File::open(object).unwrap()).output().unwrap().stdout;
    let pages: Vec<u8> =
        log[LOG_HEADER..].chunks(FRAME_HEADER + 4096).flat_map(|frame| &frame[FRAME_HEADER..]).copied().collect();
    let mut scratch = tempfile::tempfile().unwrap();
    scratch.write_all(&pages).unwrap();
    std::io::Seek::rewind(&mut scratch).unwrap();
    Command::new("gzip").args(["-1", "-c"]).stdin(scratch).output().unwrap().stdout.len()
}

fn peer(command: &str) -> f64 {
    let start = Instant::now();
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    start.elapsed().as_secs_f64()
}

/// What a child says of itself.
fn ours(args: &[&str]) -> Value {
    let out = Command::new(std::env::current_exe().unwrap()).args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(out.status.success(), "{args:?}");
    serde_json::from_slice(&out.stdout).unwrap()
}

fn seconds(said: &Value, step: &str) -> f64 {
    said[step].as_f64().unwrap()
}

/// Does `work` on a runtime like the sidecar's, and says beside its words how much memory this process had at most, and what it took.
fn child(work: impl FnOnce(&Runtime) -> Value) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut said = work(&runtime);
    said["peak_kib"] = field("/proc/self/status", "VmHWM:").into();
    said["processor"] = processor().as_secs_f64().into();
    said["read_bytes"] = field("/proc/self/io", "rchar:").into();
    println!("{said}");
}

/// The number behind `name` in one of the system's tables.
fn field(table: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(table).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Processor time of this process: `utime` and `stime` of proc_pid_stat(5), in hundredths of a second.
fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let behind_name = stat.rsplit_once(") ").unwrap().1;
    let ticks: u64 = behind_name.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn store(home: &Path) -> Arc<dyn ObjectStore> {
    let folder = Arc::new(Dir::open(home.join("backups"), Clock::system()));
    Arc::new(Patient::new(folder, Patience::default(), patient::Metrics::new(&Registry::new())))
}

fn ship(runtime: &Runtime, want: Want, db: &Path, home: &Path) -> Value {
    let state: PathBuf = home.join("state");
    let clock = Clock::system();
    let shipped: Shipped = runtime.block_on(async {
        let database = Database::open(db, false).await.unwrap();
        let pages = Pages::new(database.clone(), clock.clone(), state.join("backup"), source::Settings::default());
        let shipper = Shipper::new(Parts {
            source: Arc::new(pages),
            store: store(home),
            settings: Settings { state_directory: state, form: Form::default(), threads: threads(), claim_wait: WAIT },
            writer: Writer { host: "here".to_owned(), instance: "bench".to_owned() },
            clock: clock.clone(),
            metrics: Arc::new(Metrics::new(&Registry::new())),
        });
        let cx = JobContext::alone(clock, CancellationToken::new(), Duration::from_secs(3600));
        let shipped = shipper.ship(&cx, want).await.unwrap();
        database.close().await;
        shipped
    });
    assert_eq!(shipped.instead, None);
    let steps = shipped.steps;
    json!({
        "read": steps.read.as_secs_f64(),
        "check": steps.check.as_secs_f64(),
        "upload": steps.upload.as_secs_f64(),
        "read_back": steps.read_back.as_secs_f64(),
        "pages": shipped.manifest.sent_pages,
        "stored_bytes": shipped.stored_bytes(),
        "object": shipped.manifest.object.map(|object| object.key),
    })
}

fn restore(runtime: &Runtime, home: &Path, to: &Path) -> Value {
    let store = store(home);
    let order = Order {
        store: &store,
        timeline: None,
        at: Moment::Latest,
        rebuild,
        identity: None,
        to,
        planned: &|_| (),
        progress: &|_| (),
    };
    json!({ "took": runtime.block_on(carry_out(&order)).unwrap().took.as_secs_f64() })
}

/// Of the last minute.
fn load() -> String {
    let mut text = String::new();
    File::open("/proc/loadavg").unwrap().read_to_string(&mut text).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

fn threads() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
