//! What the live tail costs the application and how soon a commit is durable, with and without the sidecar in turns.
//!
//! `cargo bench --bench tail`; `PAIRS` is how often each is measured (9), `SECONDS` how long (5), `PROBES` how many commits are followed to the bucket (100),
//! `IDLE` how long nothing is done (120 s), `SIDECAR` another binary than the one that was built. Needs `sqlite3`.
//!
//! Everything is a process of its own: the sidecar as it is shipped, the application (a bare loop over SQLite's C interface), and a bucket in memory, whose processor time is
//! told apart because in life it is another machine's.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say where")]

mod application;
mod bucket;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Clock;
use tempfile::TempDir;

use application::Application;
use bucket::Bucket;
use support::{free_address, run, wait_for};

/// What a start may take.
const SOON: Duration = Duration::from_secs(60);
/// Commits a second of the application that does not go as fast as it can.
const RATE: u64 = 1000;

fn main() {
    // `cargo bench` passes `--bench`; a child gets what to be.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["bucket"] => bucket::serve(),
        ["application", database] => application::obey(Path::new(database)),
        [] => compare(),
        _ => panic!("no arguments: see the head of the file"),
    }
}

/// A number from the environment.
fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn compare() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    println!("load before: {}", load.trim());
    println!("| what | figure | bar |\n|---|---|---|");
    cost();
    for (interval, bar) in [("1s", "p50 0.6 s, p99 1.2 s"), ("100ms", "p99 0.3 s")] {
        let latencies = durable(interval);
        println!(
            "| commit to durable at {interval}: p50, p99, most of {} | {:.3} s, {:.3} s, {:.3} s | {bar} |",
            latencies.len(),
            share(&latencies, 0.5),
            share(&latencies, 0.99),
            share(&latencies, 1.0)
        );
    }
    println!("| idle, a core | {:.3} % | 0.2 % |", idle() * 100.0);
}

/// What the application can do with and without a sidecar beside it.
fn cost() {
    let (pairs, seconds) = (asked("PAIRS", 9), asked("SECONDS", 5));
    // Per pair: without and with.
    let (mut closed, mut open) = (Vec::new(), Vec::new());
    let (mut sidecar_cpu, mut bucket_cpu) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let mut rates = [0.0; 2];
        let mut waits = [0.0; 2];
        for turn in 0..2 {
            let with = (pair + turn) % 2 == 1;
            let scene = Scene::new("1s", with);
            let mut application = Application::start(&scene.database());
            rates[usize::from(with)] = application.closed(seconds);
            let before = scene.cpu();
            waits[usize::from(with)] = application.open(seconds, RATE);
            if let (Some(before), Some(after)) = (before, scene.cpu()) {
                sidecar_cpu.push((after.0 - before.0) / seconds as f64);
                bucket_cpu.push((after.1 - before.1) / seconds as f64);
            }
        }
        closed.push(rates);
        open.push(waits);
    }
    let of = |all: &[[f64; 2]], which: usize| median(all.iter().map(|pair| pair[which]).collect());
    let ratio = |all: &[[f64; 2]]| median(all.iter().map(|pair| pair[1] / pair[0]).collect());
    println!(
        "| closed loop, commits a second: without, with, median of {pairs} ratios | {:.0}, {:.0}, {:.3} | 0.97 |",
        of(&closed, 0),
        of(&closed, 1),
        ratio(&closed)
    );
    println!(
        "| open loop of {RATE} commits a second, p99 in ms: without, with, ratio | {:.2}, {:.2}, {:.3} | 1.1 |",
        of(&open, 0),
        of(&open, 1),
        ratio(&open)
    );
    println!(
        "| beside it, of a core: the sidecar; the bucket apart | {:.1} %; {:.1} % | |",
        median(sidecar_cpu) * 100.0,
        median(bucket_cpu) * 100.0
    );
}

/// From the end of a commit until its live segment is in the bucket, in seconds, one commit at a time and at any moment of the interval.
fn durable(interval: &str) -> Vec<f64> {
    let mut scene = Scene::new(interval, true);
    let mut application = Application::start(&scene.database());
    let bucket = scene.bucket.as_mut().unwrap();
    (0..asked("PROBES", 100))
        .map(|probe| {
            // Multiples of the golden ratio fall evenly between one cut and the next.
            std::thread::sleep(Duration::from_millis(probe * 618 % 1000));
            let live = bucket.live();
            let committed = application.commit();
            let stored = wait_for("the commit to be durable", SOON, || bucket.stored_after(live));
            (stored - committed).max(0.0) / 1e3
        })
        .collect()
}

/// Of a core, while nobody does anything.
fn idle() -> f64 {
    let scene = Scene::new("1s", true);
    // What the start begins has ended by then.
    std::thread::sleep(Duration::from_secs(10));
    let (seconds, before) = (asked("IDLE", 120), scene.cpu().unwrap());
    std::thread::sleep(Duration::from_secs(seconds));
    (scene.cpu().unwrap().0 - before.0) / seconds as f64
}

/// A new database, and beside it, or not, a sidecar that follows it.
struct Scene {
    sidecar: Option<Running>,
    bucket: Option<Bucket>,
    folder: TempDir,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Scene {
    fn new(interval: &str, with: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut scene = Self { sidecar: None, bucket: None, folder };
        run("sqlite3", &[scene.database().to_str().unwrap(), application::SCHEMA]);
        if with {
            scene.start(interval);
        }
        scene
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("atlas.db")
    }

    fn start(&mut self, interval: &str) {
        let (mut bucket, address) = (Bucket::start(), free_address());
        // Its rows go elsewhere: what is measured is the tail.
        let config = format!(
            "[server]\nlisten = \"{address}\"\n[database]\nurl = \"sqlite://atlas.db\"\nmetrics_url = \"sqlite://metrics.db\"\n[backup]\ndestination = \"{}\"\n[backup.sqlite]\ninterval = \"{interval}\"\n{}",
            bucket.url(),
            bucket.section(self.folder.path())
        );
        std::fs::write(self.folder.path().join("sidecar.toml"), config).unwrap();
        let binary = std::env::var("SIDECAR").unwrap_or_else(|_| env!("CARGO_BIN_EXE_atlas-sidecar").to_owned());
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(std::path::absolute(binary).unwrap());
        command.args(["--config", "sidecar.toml", "run"]).current_dir(self.folder.path()).stdin(Stdio::null());
        self.sidecar = Some(Running(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()));
        // It follows once it has shipped a commit, which wants the first full before.
        let begun = Instant::now();
        wait_for("the tail to follow", SOON, || {
            run("sqlite3", &["-cmd", ".timeout 10000", self.database().to_str().unwrap(), application::TOUCH]);
            std::thread::sleep(Duration::from_millis(500));
            (bucket.live() > 0).then_some(())
        });
        // The next cut takes the last of these commits.
        std::thread::sleep(Duration::from_secs(3).max(begun.elapsed() / 10));
        self.bucket = Some(bucket);
    }

    /// Seconds of a processor that the sidecar and the bucket have used.
    fn cpu(&self) -> Option<(f64, f64)> {
        Some((cpu(self.sidecar.as_ref()?.0.id()), cpu(self.bucket.as_ref()?.id())))
    }
}

/// Seconds of a processor that a process has used.
fn cpu(process: u32) -> f64 {
    let stat = procfs::process::Process::new(process.try_into().unwrap()).unwrap().stat().unwrap();
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The least that so large a share of `figures` does not exceed.
fn share(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted[index.clamp(1, sorted.len()) - 1]
}

/// Milliseconds since 1970, the same for all processes of this machine.
fn now() -> f64 {
    Clock::system().now().millis() as f64
}
