//! Crashes at every statement, and `kill -9` of a real process.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atlas_sidecar::store::{RollUps, Width};

use super::*;

/// Some series over four hours in several forms, rolled up to the middle, with late rows for what was sealed.
async fn prepared() -> Bench {
    let mut bench = Bench::new().await;
    let mut sql = String::new();
    let mut insert = |bench: &mut Bench, name: &str, minute: i64, value: f64| {
        let at = START + minute * MINUTE;
        sql.push_str(&row(name, None, FORMS[minute as usize % FORMS.len()], at, value));
        bench.model.insert(name, "{}", at, value);
    };
    for minute in 0..180 {
        insert(&mut bench, "resetting_total", minute, (minute * 37 % 60) as f64);
        insert(&mut bench, "depth", minute, (minute * 13 % 60) as f64);
    }
    bench.sql(&std::mem::take(&mut sql)).await;
    bench.roll_up(START + 2 * HOUR).await;
    bench.prune(START + HOUR).await;
    for minute in [7, 12, 90, 177] {
        let at = START + minute * MINUTE + 1;
        bench.point("growing_total", at, at as f64).await;
    }
    bench
}

/// What a run of the jobs does.
async fn run(buckets: &Buckets) {
    let now = at(START + 3 * HOUR);
    all(buckets.roll_up(at(0), now)).await.unwrap();
    all(buckets.prune(now)).await.unwrap();
}

#[tokio::test]
async fn r1_a_crash_at_any_statement_loses_nothing_and_counts_nothing_twice() {
    let bench = prepared().await;
    bench.database.close().await;
    let mut polls = 0;
    let mut crashes = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("atlas.db");
        std::fs::copy(bench.file(), &file).unwrap();
        let database = Database::open(&file, false).await.unwrap();
        let copy = Bench { buckets: Buckets::new(database.clone()), database, folder, model: bench.model.clone() };
        let ended = Polls { future: Box::pin(run(&copy.buckets)), polls }.await;
        // What the process left: another one opens the file.
        let database = Database::open(&file, false).await.unwrap();
        let after = Bench { buckets: Buckets::new(database.clone()), database, folder: copy.folder, model: copy.model };
        after.nothing_is_lost_or_doubled().await;
        if crashes % 4 == 0 || ended.is_some() {
            run(&after.buckets).await;
            after.is_exact(START + 3 * HOUR, 0).await;
        }
        after.database.close().await;
        copy.database.close().await;
        if ended.is_some() {
            break;
        }
        crashes += 1;
        polls += 1;
    }
    // Each statement is at least one await: fewer would mean that this test does not see them.
    assert!(crashes > 60, "{crashes} places to crash at");
}

const PRUNED: &str = "SELECT coalesce(sum(count), 0) FROM sidecar_metrics_rollup WHERE sealed";

const CHILD: &str = "ATLAS_TEST_ROLL_UP_CHILD";

/// Not a test: the process that the next one kills. It rolls up and prunes the file that it is given, again and again.
#[tokio::test]
async fn child_process() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let buckets = Buckets::new(Database::open(Path::new(&file), false).await.unwrap());
    loop {
        let now = at(START + 12 * HOUR);
        // The other child may hold the lock for longer than we wait; that is no failure.
        let _ = all(buckets.roll_up(at(0), now)).await;
        let _ = all(buckets.prune(now)).await;
        let _ = all(buckets.expire(Width::FiveMinutes, at(START - DAY))).await;
    }
}

/// A child that is killed when it is dropped.
struct Killed(Child);

impl Killed {
    fn start(file: &Path) -> Self {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "roll_up::crashes::child_process"])
            .env(CHILD, file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn r1_r11_two_processes_killed_again_and_again_lose_nothing() {
    let mut bench = Bench::new().await;
    let mut children = [Killed::start(bench.file()), Killed::start(bench.file())];
    let start = Instant::now();
    let mut pruned = 0;
    for round in 0..25_i64 {
        // Rows come while both work: new ones, and late ones for what has been sealed.
        let mut sql = String::new();
        for n in 0..800_i64 {
            let at = START + (round * 17 + n) % 720 * MINUTE + round * 100 + n % 50;
            sql.push_str(&row("growing_total", None, FORMS[(n % 9) as usize], at, at as f64));
            bench.model.insert("growing_total", "{}", at, at as f64);
        }
        bench.sql(&sql).await;
        // However slow the machine, half of the rounds find a child that has got somewhere.
        while round == 12 && pruned == 0 {
            assert!(start.elapsed() < Duration::from_secs(120), "the children do nothing");
            tokio::time::sleep(Duration::from_millis(50)).await;
            pruned = bench.number(PRUNED).await;
        }
        // A different moment each time; waiting for one is the point.
        tokio::time::sleep(Duration::from_millis(40 + (round as u64 * 53) % 160)).await;
        children[(round % 2) as usize] = Killed::start(bench.file());
        bench.nothing_is_lost_or_doubled().await;
        pruned = pruned.max(bench.number(PRUNED).await);
    }
    drop(children);
    println!("{pruned} rows pruned in {:?}", start.elapsed());
    bench.roll_up(START + 12 * HOUR).await;
    bench.prune(START + 12 * HOUR).await;
    bench.is_exact(START + 12 * HOUR, 0).await;
}
