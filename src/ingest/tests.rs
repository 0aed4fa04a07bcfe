//! The queue and its consumer before a store that answers from a script.

use std::collections::VecDeque;

use super::queue::MOST_ROWS;
use super::*;
use crate::sample::Labels;
use crate::sample::globs::Globs;
use crate::store::{History, Stored};
use crate::task::{Pending, Tasks};

const NOON: Timestamp = Timestamp::from_millis(1_795_348_800_000);

/// A store that answers from a script, then takes everything.
#[derive(Default)]
struct Scripted {
    script: Mutex<VecDeque<StoreError>>,
    taken: Mutex<Vec<Row>>,
    tried: Mutex<Vec<Vec<String>>>,
    metas: Mutex<Vec<Meta>>,
}

impl SampleStore for Scripted {
    fn append<'a>(&'a self, rows: &'a [Row]) -> Pending<'a, Result<Appended, StoreError>> {
        Box::pin(async move {
            self.tried.lock().unwrap().push(rows.iter().map(|r| r.id.clone()).collect());
            if let Some(error) = self.script.lock().unwrap().pop_front() {
                return Err(error);
            }
            self.taken.lock().unwrap().extend_from_slice(rows);
            Ok(Appended::Now)
        })
    }

    fn describe<'a>(&'a self, metas: &'a [Meta]) -> Pending<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.metas.lock().unwrap().extend_from_slice(metas);
            Ok(())
        })
    }

    fn own_rows_since(&self, _from: Timestamp) -> Pending<'_, Result<u64, StoreError>> {
        Box::pin(async { Ok(0) })
    }

    fn metas(&self) -> Pending<'_, Result<Vec<Meta>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn history<'a>(
        &'a self,
        _from: Timestamp,
        _to: Timestamp,
        _names: &'a Globs,
        _each: &'a mut (dyn FnMut(Stored) -> std::io::Result<()> + Send),
    ) -> Pending<'a, Result<History, StoreError>> {
        Box::pin(async { Ok(History::default()) })
    }
}

fn settings() -> Settings {
    Settings { queue_batches: 3, batch_rows: 10, batch_age: Duration::from_secs(5), rows_per_day: 0 }
}

fn ingest(settings: Settings, script: Vec<StoreError>) -> (Arc<Ingest>, Arc<Scripted>, Clock, Registry) {
    let store = Arc::new(Scripted { script: Mutex::new(script.into()), ..Scripted::default() });
    let (clock, registry) = (Clock::by_hand(NOON), Registry::new());
    let count = AtomicU64::new(0);
    let new_id: NewId = Arc::new(move |_| format!("id-{}", count.fetch_add(1, Ordering::Relaxed)));
    let port: Option<Arc<dyn SampleStore>> = Some(store.clone());
    let ingest = Ingest::new(settings, port, "box".to_owned(), new_id, clock.clone(), 0, &registry);
    (Arc::new(ingest), store, clock, registry)
}

fn batch(values: &[f64]) -> Batch {
    let mut batch = Batch::new(NOON);
    for (n, value) in values.iter().enumerate() {
        let labels = Labels::none().with("n", n.to_string());
        batch.family("x_total", Kind::Counter, "help").push(labels, *value);
    }
    batch
}

fn dropped(registry: &Registry) -> Vec<(String, f64)> {
    let own = telemetry::gather(registry, NOON);
    let family = own.families.into_iter().find(|f| f.name == DROPPED.name);
    let count = |s: crate::sample::Sample| (s.labels.get("reason").unwrap().to_owned(), s.value);
    family.into_iter().flat_map(|f| f.samples).map(count).filter(|(_, n)| *n > 0.0).collect()
}

async fn drained(ingest: &Arc<Ingest>) {
    let tasks = Tasks::new();
    let (ingest, stop) = (Arc::clone(ingest), tasks.stop_token());
    tasks.spawn("writer", async move { ingest.run(stop).await });
    tasks.stop().await;
}

/// V-2, V-3, V-4, V-9: what the table cannot hold is left out and counted; the rest of the batch is stored.
#[tokio::test(start_paused = true)]
async fn samples_that_cannot_be_stored_are_counted_and_do_not_take_others_along() {
    let (ingest, store, _, registry) = ingest(settings(), vec![]);
    let mut mixed = batch(&[1.0, f64::NAN, f64::INFINITY, 2.0]);
    mixed.family("n".repeat(256), Kind::Gauge, "").push(Labels::none(), 1.0);
    mixed.family("ä".repeat(255), Kind::Gauge, "").push(Labels::none(), 1.0);
    ingest.offer(&|_| true, mixed);
    drained(&ingest).await;
    let taken = store.taken.lock().unwrap();
    assert_eq!(taken.iter().map(|r| r.value).collect::<Vec<_>>(), [1.0, 2.0, 1.0]);
    assert_eq!(taken[0].tags, r#"{"host":"box","n":"0"}"#);
    assert_eq!(dropped(&registry), [("name_too_long".to_owned(), 1.0), ("not_finite".to_owned(), 2.0)]);
    assert_eq!(
        store.metas.lock().unwrap()[0],
        Meta { name: "x_total".to_owned(), kind: Kind::Counter, help: "help".to_owned() }
    );
}

/// A retry writes the same ids; ids in use are replaced; a rejected row is left out; none is lost or doubled.
#[tokio::test(start_paused = true)]
async fn retries_write_the_same_rows() {
    let script = vec![
        StoreError::Busy("locked".to_owned()),
        StoreError::Full("disk".to_owned()),
        StoreError::Rejected { row: 1, reason: "overflow" },
        StoreError::Taken,
    ];
    let (ingest, store, _, registry) = ingest(settings(), script);
    ingest.offer(&|_| true, batch(&[1.0, 2.0, 3.0]));
    drained(&ingest).await;
    let tried = store.tried.lock().unwrap();
    assert_eq!(tried[0], tried[1]);
    assert_eq!(tried[1], tried[2]);
    assert_eq!(tried[3], [tried[0][0].clone(), tried[0][2].clone()]);
    assert!(tried[4].iter().all(|id| !tried[3].contains(id)));
    assert_eq!(store.taken.lock().unwrap().iter().map(|r| r.value).collect::<Vec<_>>(), [1.0, 3.0]);
    assert_eq!(dropped(&registry), [("overflow".to_owned(), 1.0)]);
    assert_eq!(ingest.written(), 2);
}

/// A group that is interrupted while the store may be committing it comes back alone: mixed with others, its ids would look taken by
/// somebody else, and its rows would be stored again under new ones.
#[tokio::test(start_paused = true)]
async fn an_interrupted_group_is_tried_again_as_it_was() {
    let (ingest, store, _, _) = ingest(settings(), vec![StoreError::Busy("locked".to_owned())]);
    ingest.offer(&|_| true, batch(&[1.0; 3]));
    let tasks = Tasks::new();
    let (writer, stop) = (Arc::clone(&ingest), tasks.stop_token());
    tasks.spawn("writer", async move { writer.run(stop).await });
    // The group is due after five seconds, fails at once, and waits for its next try when the stop comes.
    tokio::time::sleep(Duration::from_millis(5010)).await;
    ingest.offer(&|_| true, batch(&[2.0; 3]));
    tasks.stop().await;
    let tried = store.tried.lock().unwrap();
    assert_eq!(tried.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3]);
    assert_eq!(tried[0], tried[1]);
    assert_eq!(store.taken.lock().unwrap().len(), 6);
}

/// A table that refuses every row is not asked two thousand times a group.
#[tokio::test(start_paused = true)]
async fn a_table_that_refuses_everything_is_not_asked_for_ever() {
    let script = (0..200).map(|_| StoreError::Rejected { row: 0, reason: "constraint" }).collect();
    let (ingest, store, _, registry) = ingest(Settings { batch_rows: 500, ..settings() }, script);
    ingest.offer(&|_| true, batch(&[1.0; 500]));
    drained(&ingest).await;
    assert_eq!(store.tried.lock().unwrap().len(), MOST_REJECTIONS);
    assert_eq!(dropped(&registry), [("constraint".to_owned(), 500.0)]);
}

/// V-1: two hundred numbers that the column cannot hold do not cost the others of their group.
#[tokio::test(start_paused = true)]
async fn v1_any_number_of_overflows_spares_the_rest() {
    let script = (0..200).map(|_| StoreError::Rejected { row: 0, reason: "overflow" }).collect();
    let (ingest, store, _, registry) = ingest(Settings { batch_rows: 500, ..settings() }, script);
    ingest.offer(&|_| true, batch(&[1.0; 500]));
    drained(&ingest).await;
    assert_eq!(store.taken.lock().unwrap().len(), 300);
    assert_eq!(dropped(&registry), [("overflow".to_owned(), 200.0)]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_the_oldest_and_a_refused_group_is_counted() {
    let (ingest, store, _, registry) = ingest(settings(), vec![StoreError::Broken("no such table".to_owned())]);
    for value in 0..5 {
        ingest.offer(&|_| true, batch(&[f64::from(value); 10]));
    }
    drained(&ingest).await;
    assert_eq!(dropped(&registry), [("queue_full".to_owned(), 20.0), ("store_error".to_owned(), 10.0)]);
    assert_eq!(
        store.taken.lock().unwrap().iter().map(|r| r.value).collect::<Vec<_>>()[..],
        [[3.0; 10], [4.0; 10]].concat()
    );
    assert_eq!(ingest.dropped(), 30);
}

/// A target with many series fills the memory long before it fills the count of batches.
#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_in_rows_too() {
    let (ingest, store, _, registry) = ingest(Settings { queue_batches: 100, ..settings() }, vec![]);
    let big = |value: f64| {
        let mut batch = Batch::new(NOON);
        let family = batch.family("x_total", Kind::Counter, "");
        (0..MOST_ROWS * 2 / 3).for_each(|_| family.push(Labels::none(), value));
        batch
    };
    ingest.offer(&|_| true, big(1.0));
    ingest.offer(&|_| true, big(2.0));
    assert_eq!(dropped(&registry), [("queue_full".to_owned(), (MOST_ROWS * 2 / 3) as f64)]);
    drained(&ingest).await;
    assert!(store.taken.lock().unwrap().iter().all(|row| row.value == 2.0));
}

/// R-23: the budget of a day ends at midnight UTC.
#[tokio::test(start_paused = true)]
async fn the_row_budget_is_of_a_day() {
    let (ingest, store, clock, registry) = ingest(Settings { rows_per_day: 4, ..settings() }, vec![]);
    ingest.offer(&|_| true, batch(&[1.0; 3]));
    ingest.offer(&|_| true, batch(&[2.0; 3]));
    ingest.offer(&|_| true, batch(&[3.0; 3]));
    clock.set(NOON.after(Duration::from_secs(12 * 3600)));
    ingest.offer(&|_| true, batch(&[4.0; 3]));
    drained(&ingest).await;
    let values: Vec<f64> = store.taken.lock().unwrap().iter().map(|r| r.value).collect();
    assert_eq!(values, [1.0, 1.0, 1.0, 2.0, 4.0, 4.0, 4.0]);
    assert_eq!(dropped(&registry), [("budget".to_owned(), 5.0)]);
}

/// Groups form by count at once and by age after a while; big batches are split.
#[tokio::test(start_paused = true)]
async fn groups_by_count_or_age() {
    let (ingest, store, _, _) = ingest(settings(), vec![]);
    let tasks = Tasks::new();
    let (writer, stop) = (Arc::clone(&ingest), tasks.stop_token());
    tasks.spawn("writer", async move { writer.run(stop).await });
    ingest.offer(&|_| true, batch(&[1.0; 4]));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(store.tried.lock().unwrap().len(), 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(store.tried.lock().unwrap().len(), 1);
    ingest.offer(&|_| true, batch(&[1.0; 25]));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(store.tried.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [4, 10, 10]);
    tasks.stop().await;
    assert_eq!(store.taken.lock().unwrap().len(), 29);
}

/// What the application wrote is shown, never stored again; without a table everything is counted.
#[tokio::test]
async fn foreign_rows_are_not_stored_and_a_missing_table_is_counted() {
    let (ingest, store, clock, _) = ingest(settings(), vec![]);
    ingest.offer(&|_| true, Batch { origin: Origin::Table, ..batch(&[1.0]) });
    drained(&ingest).await;
    assert!(store.tried.lock().unwrap().is_empty());
    let registry = Registry::new();
    let without = Ingest::new(settings(), None, "box".to_owned(), Arc::new(|_| String::new()), clock, 0, &registry);
    without.offer(&|name| name == "x_total", batch(&[1.0, 2.0]));
    without.offer(&|_| false, batch(&[1.0]));
    assert_eq!(dropped(&registry), [("no_table".to_owned(), 2.0)]);
}
