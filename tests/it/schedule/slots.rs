//! A year of slots over zones whose clocks are changed, against Python's `zoneinfo` (T-6, S-2, S-3).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::schedule::cron::Schedule;

use crate::support::python::python;

/// Half an hour of summer time in Lord Howe, a quarter in the offset of Chatham, and the hour that is left out or repeated in the middle of each.
const ZONES: [&str; 3] = ["Europe/Paris", "Australia/Lord_Howe", "Pacific/Chatham"];

const PATTERNS: [&str; 10] = [
    "30 2 * * *",
    "0 2 * * *",
    "15 2 * * *",
    "15 3 * * *",
    "45 2 * * *",
    "*/15 * * * *",
    "0 */2 * * *",
    "10,40 1-3 * * *",
    "0 3 1,15 * SUN",
    "5 0 * * MON",
];

/// From the first moment of 2026 to the first of 2027, in UTC.
const YEAR: (i64, i64) = (1_767_225_600, 1_798_761_600);

fn expected(questions: &serde_json::Value) -> Vec<Vec<i64>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/python/slots.py");
    let mut child = Command::new(python()).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(questions.to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "the oracle fails; its words are on standard error");
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn a_year_of_slots_is_what_zoneinfo_says() {
    let asked: Vec<(&str, &str)> = ZONES.iter().flat_map(|zone| PATTERNS.map(|pattern| (pattern, *zone))).collect();
    let questions = serde_json::json!({ "from": YEAR.0, "to": YEAR.1, "schedules": asked });
    let expected = expected(&questions);
    assert_eq!(expected.len(), asked.len());
    for ((pattern, zone), expected) in asked.into_iter().zip(expected) {
        let schedule = Schedule::parse(pattern, zone).unwrap();
        let mut slots = Vec::new();
        let mut slot = Timestamp::from_millis(YEAR.0 * 1000 - 1);
        while let Some(next) = schedule.next_after(slot).filter(|next| next.millis() < YEAR.1 * 1000) {
            slots.push(next.millis() / 1000);
            slot = next;
        }
        let only = |a: &[i64], b: &[i64]| a.iter().filter(|t| !b.contains(t)).copied().collect::<Vec<_>>();
        if slots != expected {
            panic!(
                "`{pattern}` in {zone}: too many {:?}, too few {:?}",
                only(&slots, &expected),
                only(&expected, &slots)
            );
        }
        assert!(!expected.is_empty());
        // Looking back finds the same, at the slot and just before the next.
        let usual = slots[1] - slots[0];
        for (at, pair) in slots.windows(2).enumerate() {
            let [this, next] = [pair[0] * 1000, pair[1] * 1000];
            // All that are out of step, and some of the others: croner takes its time in a build without optimisation.
            if pair[1] - pair[0] == usual && at % 50 > 0 {
                continue;
            }
            for until in [this, this + 30_500, next - 1] {
                assert_eq!(schedule.last_until(Timestamp::from_millis(until)), Some(Timestamp::from_millis(this)));
            }
        }
    }
}
