//! `SampleStore::append` beside the least that its engine can do with the same rows, in turns: same tables, same indexes, same transactions.
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
const ROUNDS: usize = 7;

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

/// What is measured in turns, and in turns who is first: the machine's mood is shared. The last one is ours.
struct Contest<'a> {
    title: &'static str,
    parts: Vec<(&'static str, Part<'a>, Vec<Duration>)>,
}

/// One run, from an empty table.
type Part<'a> = Box<dyn FnMut() -> Duration + 'a>;

impl<'a> Contest<'a> {
    fn new(title: &'static str) -> Self {
        Self { title, parts: Vec::new() }
    }

    fn between(self, name: &'static str, part: impl FnMut() -> Duration + 'a) -> Self {
        self.and(name, part)
    }

    fn and(mut self, name: &'static str, part: impl FnMut() -> Duration + 'a) -> Self {
        self.parts.push((name, Box::new(part), Vec::new()));
        self
    }

    fn run(mut self) {
        let count = self.parts.len();
        for round in 0..ROUNDS {
            for turn in 0..count {
                let (_, part, times) = &mut self.parts[(round + turn) % count];
                times.push(part());
            }
            let told = self.parts.iter().map(|(name, _, times)| format!("{name} {:.0}", per_second(times[round])));
            println!("{} round {round}, rows/s: {}", self.title, told.collect::<Vec<_>>().join(", "));
        }
        let ours = per_second(median(&mut self.parts[count - 1].2));
        for (name, _, times) in &mut self.parts {
            let rate = per_second(median(times));
            println!("{} median: {name} {rate:.0} rows/s, ratio {:.2}", self.title, ours / rate);
        }
    }
}

/// Appends all `rows`, a transaction after the other.
async fn append_all(store: &dyn SampleStore, rows: &[Row]) -> Duration {
    let start = Instant::now();
    for batch in rows.chunks(TRANSACTION) {
        assert_eq!(store.append(batch).await.unwrap(), Appended::Now);
    }
    start.elapsed()
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

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn per_second(took: Duration) -> f64 {
    ROWS as f64 / took.as_secs_f64()
}
