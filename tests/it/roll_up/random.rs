//! Random histories, with everything that can happen between.

use atlas_sidecar::store::RollUps;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    /// Rows: series, minutes and milliseconds behind the start, form, value.
    Insert(Vec<(u8, i64, i64, usize, i32)>),
    /// Rows that nobody can read.
    Rubbish(i64),
    /// Rolling up, at most so many steps, by one of two sidecars; dropped at that poll.
    RollUp(bool, usize, usize),
    /// Pruning up to so many hours, likewise.
    Prune(bool, i64, usize, usize),
    /// Both sidecars prune, step by step in turns.
    Both(i64),
    /// Rowids are dealt anew.
    Vacuum,
}

const HOURS: i64 = 6;

fn events() -> impl Strategy<Value = Vec<Event>> {
    let row = (0..8_u8, 0..HOURS * 60, prop_oneof![Just(0), 0..60_000_i64], 0..FORMS.len(), -40..400_i32);
    let polls = prop_oneof![3 => Just(usize::MAX), 1 => 1..80_usize];
    let steps = prop_oneof![3 => Just(usize::MAX), 1 => 0..4_usize];
    let event = prop_oneof![
        6 => proptest::collection::vec(row, 1..60).prop_map(Event::Insert),
        1 => (0..HOURS * 60).prop_map(Event::Rubbish),
        4 => (any::<bool>(), steps.clone(), polls.clone()).prop_map(|(w, s, p)| Event::RollUp(w, s, p)),
        3 => (any::<bool>(), 0..=HOURS, steps, polls).prop_map(|(w, h, s, p)| Event::Prune(w, h, s, p)),
        1 => (0..=HOURS).prop_map(Event::Both),
        1 => Just(Event::Vacuum),
    ];
    proptest::collection::vec(event, 1..14)
}

/// Name, raw tags and canonical tags of a series; two pairs of them are one series each.
fn series(number: u8) -> (&'static str, Option<&'static str>, &'static str) {
    match number {
        0 => ("gauge", None, "{}"),
        1 => ("gauge", Some("{}"), "{}"),
        2 => ("gauge", Some(r#"{"b":2,"a":"x"}"#), r#"{"a":"x","b":"2"}"#),
        3 => ("gauge", Some(r#"{"a": "x", "b": "2"}"#), r#"{"a":"x","b":"2"}"#),
        4 => ("growing_total", None, "{}"),
        5 => ("growing_total", Some(r#"{"a":"x"}"#), r#"{"a":"x"}"#),
        6 => ("resetting_total", None, "{}"),
        _ => ("resetting_total", Some(r#"{"a":"x"}"#), r#"{"a":"x"}"#),
    }
}

async fn steps(chore: Box<dyn Chore + '_>, most: usize, polls: usize) {
    let work = async move {
        let mut chore = chore;
        for _ in 0..most {
            if chore.next().await.unwrap().is_none() {
                break;
            }
        }
    };
    Polls { future: Box::pin(work), polls }.await;
}

async fn history(events: Vec<Event>) {
    let mut bench = Bench::new().await;
    let other = bench.other().await;
    let now = START + HOURS * HOUR + HOUR;
    let mut sealed = i64::MIN;
    let (mut rubbish, mut order) = (0, 0_i64);
    for event in events {
        match event {
            Event::Insert(rows) => {
                let mut sql = String::new();
                for (number, minute, millis, form, value) in rows {
                    let (name, tags, canonical) = series(number);
                    let mut at = START + minute * MINUTE + millis;
                    let mut value = f64::from(value) / 4.0;
                    if name == "growing_total" {
                        value = (at - START) as f64 / 4.0;
                    } else if name == "resetting_total" {
                        // Growth of a counter that starts again among rows that are gone cannot be known: `Bucket::with_late`. Equal times likewise.
                        at = at.max(sealed.saturating_add(1)) + order;
                        order += 1;
                        if at >= now {
                            continue;
                        }
                    }
                    sql.push_str(&row(name, tags, FORMS[form], at, value));
                    bench.model.insert(name, canonical, at, value);
                }
                bench.sql(&sql).await;
            }
            Event::Rubbish(minute) => {
                let at = Form::Canonical.literal(START + minute * MINUTE);
                bench.sql(&format!("INSERT INTO system_metrics VALUES (NULL, 'gauge', 'abc', NULL, {at}), (NULL, 'gauge', 1, NULL, 'x')")).await;
                rubbish += 2;
            }
            Event::RollUp(who, most, polls) => {
                let who = if who { &bench.buckets } else { &other };
                steps(who.roll_up(at(0), at(now)), most, polls).await;
            }
            Event::Prune(who, hours, most, polls) => {
                sealed = sealed.max(START + hours * HOUR);
                let who = if who { &bench.buckets } else { &other };
                steps(who.prune(at(START + hours * HOUR)), most, polls).await;
            }
            Event::Both(hours) => {
                sealed = sealed.max(START + hours * HOUR);
                let before = at(START + hours * HOUR);
                let (mut one, mut two) = (bench.buckets.prune(before), other.prune(before));
                while let (Some(_), _) | (_, Some(_)) = (one.next().await.unwrap(), two.next().await.unwrap()) {}
            }
            Event::Vacuum => {
                let file = bench.file().to_str().unwrap().to_owned();
                crate::support::run("sqlite3", &["-cmd", ".timeout 5000", &file, "VACUUM"]);
            }
        }
        bench.nothing_is_lost_or_doubled().await;
    }
    bench.roll_up(now).await;
    bench.prune(now).await;
    bench.is_exact(now, 0).await;
    assert_eq!(bench.number("SELECT count(*) FROM system_metrics").await, rubbish, "what cannot be read stays");
}

/// sum, count, min, max, first, last and increase of raw and roll-ups are the model's, whatever happens between.
#[test]
fn random_histories_come_to_what_the_model_says() {
    let cases = std::env::var("ATLAS_TEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() });
    let done = runner.run(&events(), |events| {
        let history = std::panic::AssertUnwindSafe(|| runtime.block_on(history(events)));
        std::panic::catch_unwind(history).map_err(|panic| {
            let words = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            TestCaseError::fail(words)
        })
    });
    if let Err(e) = done {
        panic!("{e}");
    }
}
