//! `SampleStore::append` beside the least that its engine can do with the same rows, in turns: same indexes, same transactions, each on a
//! table of its own.
//!
//! `cargo bench --bench append` measures both engines, `… -- sqlite` or `… -- postgres` one of them. The bar is a ratio of 0.8 (benches/README.md).
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say where")]

mod postgres;
mod sqlite;
mod support;

use std::time::{Duration, Instant};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::ids::{Ids, Instance};
use atlas_sidecar::store::{Appended, Row, SampleStore};

const ROWS: usize = 200_000;
const TRANSACTION: usize = 2_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let rows = rows(Instance::parse("000000000001").unwrap());
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |engine: &str| wanted.is_empty() || wanted.iter().any(|word| word == engine);
    if is_wanted("sqlite") {
        sqlite::run(&runtime, &rows);
    }
    if is_wanted("postgres") {
        postgres::run(&runtime, &rows);
    }
}

/// What is measured in turns, a transaction each, and in turns who is first: the machine's mood is shared. The last one is ours.
struct Contest<'a> {
    engine: &'static str,
    parts: Vec<(&'static str, Part<'a>, Vec<Duration>)>,
}

/// Writes the transaction with this number.
type Part<'a> = Box<dyn FnMut(usize) -> Duration + 'a>;

impl<'a> Contest<'a> {
    fn on(engine: &'static str) -> Self {
        Self { engine, parts: Vec::new() }
    }

    fn of(mut self, name: &'static str, part: impl FnMut(usize) -> Duration + 'a) -> Self {
        self.parts.push((name, Box::new(part), Vec::new()));
        self
    }

    fn run(mut self) {
        let count = self.parts.len();
        for batch in 0..ROWS / TRANSACTION {
            for turn in 0..count {
                let (_, part, times) = &mut self.parts[(batch + turn) % count];
                times.push(part(batch));
            }
        }
        let (ours, ours_median) = rates(&self.parts[count - 1].2);
        for (name, _, times) in &self.parts {
            let (all, median) = rates(times);
            println!(
                "{}: {name} {all:.0} rows/s over all, {median:.0} in the median transaction; append against it {:.2} and {:.2}",
                self.engine,
                ours / all,
                ours_median / median
            );
        }
    }
}

/// Rows per second over all transactions, and in the median one.
fn rates(times: &[Duration]) -> (f64, f64) {
    let mut sorted = times.to_vec();
    sorted.sort();
    let rate = |rows: usize, took: Duration| rows as f64 / took.as_secs_f64();
    (rate(ROWS, times.iter().sum()), rate(TRANSACTION, sorted[sorted.len() / 2]))
}

/// Appends the transaction with number `batch`.
async fn append(store: &dyn SampleStore, rows: &[Row], batch: usize) -> Duration {
    let start = Instant::now();
    let appended = store.append(&rows[batch * TRANSACTION..][..TRANSACTION]).await.unwrap();
    let took = start.elapsed();
    assert_eq!(appended, Appended::Now);
    took
}

/// Rows of one collection of a source.
const COLLECTION: usize = 40;

/// What `ingest` hands over in life: collections of 25 sources one after another, each at a time of its own. No row has the name of the one
/// before, and the tags tell which of a source's series it is: nothing repeats that a store could share.
fn rows(instance: Instance) -> Vec<Row> {
    let ids = Ids::new(instance);
    let start = Timestamp::from_rfc3339("2026-11-22T00:00:00Z").unwrap();
    (0..ROWS)
        .map(|n| {
            let (collection, series) = (n / COLLECTION, n % COLLECTION);
            let source = collection % 25;
            let at = start.after(Duration::from_millis(collection as u64 * 2_413));
            Row {
                id: ids.next(at),
                name: format!("shop_{source:02}_request_{:02}_duration_seconds_total", series % 20),
                tags: format!(
                    r#"{{"host":"db-1.example.org","path":"/api/v1/{series}","source":"shop-{source}","worker":"{}"}}"#,
                    n % 1_000
                ),
                value: n as f64 * 1.37,
                at,
            }
        })
        .collect()
}
