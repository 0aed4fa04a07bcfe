//! When a job is due: five-field cron patterns in a time zone, as pure functions of the time.
//!
//! A pattern is minute, hour, day of the month, month and day of the week, in the clock of its zone, evaluated by croner 4. What a change
//! of that clock does (T-6, S-2, S-3):
//!
//! - A pattern with a fixed time (`30 2 * * *`) runs once a day, also on the day that has 02:30 twice (the first one counts) and on the day that
//!   has none (it runs when the clock has jumped, at 03:00).
//! - A pattern with a `*`, a step or a list in minute or hour (`*/15 * * * *`) runs by the clock that passes: in both passes of the repeated
//!   hour, and not in the one that is left out.
//!
//! Where both the day of the month and the day of the week are given, either is enough, as in crontab(5): `0 0 13 * FRI` is every 13th and every
//! Friday; `0 0 13 * +FRI` is Friday the 13th (S-4).

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, TimeZone};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::clock::Timestamp;

/// Missed slots are counted up to here, as Kubernetes does it: a clock in 2036 must not count for minutes.
pub const MOST_COUNTED: usize = 100;

/// A slot that is not older is on time: triggers come once a minute, a restart takes a moment, and so does taking over from somebody who died.
pub const ON_TIME: Duration = Duration::from_secs(600);

/// The fields, in their order.
const FIELDS: [&str; 5] = ["minute", "hour", "day of the month", "month", "day of the week"];

/// A pattern in a zone.
#[derive(Clone)]
pub struct Schedule {
    pattern: String,
    zone: Tz,
    cron: Cron,
}

/// What becomes of slots at which nobody was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// They are missed.
    Skip,
    /// One run stands for all of them.
    RunOnce,
    /// Each gets its run, the oldest first; of more than [`MOST_COUNTED`] the newest.
    RunAll,
}

/// What is to be done about the slots that have come up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// The slots to run, the oldest first.
    pub run: Vec<Timestamp>,
    /// The newest slot of all, run or not.
    pub newest: Option<Timestamp>,
    /// How many have no run of their own; [`MOST_COUNTED`] stands for any more.
    pub missed: usize,
}

impl Schedule {
    /// From a pattern of five fields and the name of a zone (`Europe/Paris`); the error is a sentence without its beginning.
    pub fn parse(pattern: &str, zone: &str) -> Result<Self, String> {
        let zone = zone_of(zone)?;
        let fields: Vec<&str> = pattern.split_whitespace().collect();
        if fields.len() != FIELDS.len() {
            return Err(format!("must have five fields, not {}: {}", fields.len(), FIELDS.join(", ")));
        }
        for (at, (field, name)) in fields.iter().zip(FIELDS).enumerate() {
            let mut alone = ["*"; FIELDS.len()];
            alone[at] = field;
            let cannot = |why: &str| format!("the {name} `{field}` cannot be read: {why}");
            if field.split(',').any(str::is_empty) {
                return Err(cannot("a place in its list is empty"));
            }
            parse(&alone.join(" ")).map_err(|e| cannot(&lower(&e)))?;
        }
        let pattern = fields.join(" ");
        let cron = parse(&pattern).map_err(|e| format!("cannot be read: {}", lower(&e)))?;
        let schedule = Self { pattern, zone, cron };
        // Any start will do: leap years and weekdays repeat after 400 years, and croner looks further than that (S-10).
        match schedule.next_after(Timestamp::from_millis(0)) {
            Some(_) => Ok(schedule),
            None => Err(format!("never comes: there is no day `{}` in month `{}`", fields[2], fields[3])),
        }
    }

    /// The first slot after `after`; nothing where the calendar ends.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let next = of(self.cron.find_next_occurrence(&self.local(after)?, false).ok()?);
        assert!(next > after, "the next slot of `{self}` after {after} is {next}");
        Some(next)
    }

    /// The last slot before `before`, or at it.
    pub fn last_until(&self, until: Timestamp) -> Option<Timestamp> {
        let last = of(self.cron.find_previous_occurrence(&self.local(until)?, true).ok()?);
        assert!(last <= until, "the last slot of `{self}` until {until} is {last}");
        Some(last)
    }

    /// The pattern, one space between its fields.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The zone's name.
    pub fn zone(&self) -> &'static str {
        self.zone.name()
    }

    /// In whole seconds, as croner counts: the rest would survive into its answers.
    fn local(&self, at: Timestamp) -> Option<DateTime<Tz>> {
        self.zone.timestamp_opt(at.millis().div_euclid(1000), 0).single()
    }
}

fn of(local: DateTime<Tz>) -> Timestamp {
    Timestamp::from_millis(local.timestamp_millis())
}

fn parse(pattern: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(pattern).map_err(|e| e.to_string())
}

fn lower(message: &str) -> String {
    let message = message.trim_start_matches("Component error: ").trim_end_matches('.');
    message.chars().take(1).flat_map(char::to_lowercase).chain(message.chars().skip(1)).collect()
}

fn zone_of(name: &str) -> Result<Tz, String> {
    name.parse().map_err(|_| "must be a zone of the IANA database: `UTC`, `Europe/Paris`".to_owned())
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pattern, self.zone())
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern && self.zone == other.zone
    }
}

/// The slots of `schedule` after `settled` that have come up by `now`, and what to do about them.
///
/// Nothing where `settled` lies ahead of `now`: a clock that stepped back meets its own slots again, and they have been run (T-5).
pub fn due_slots(schedule: &Schedule, settled: Timestamp, now: Timestamp, catch_up: CatchUp) -> Due {
    let mut slots = Vec::new();
    let mut until = now;
    while slots.len() < MOST_COUNTED
        && let Some(slot) = schedule.last_until(until).filter(|slot| *slot > settled)
    {
        slots.push(slot);
        until = slot.before(Duration::from_secs(1));
    }
    let newest = slots.first().copied();
    let run: Vec<Timestamp> = match (catch_up, newest) {
        (CatchUp::RunAll, _) => slots.iter().rev().copied().collect(),
        (CatchUp::RunOnce, Some(newest)) => vec![newest],
        (CatchUp::Skip, Some(newest)) if now.since(newest) <= ON_TIME => vec![newest],
        _ => Vec::new(),
    };
    Due { missed: slots.len() - run.len(), run, newest }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(text: &str) -> Timestamp {
        Timestamp::from_rfc3339(text).expect("valid")
    }

    fn schedule(pattern: &str, zone: &str) -> Schedule {
        Schedule::parse(pattern, zone).unwrap_or_else(|e| panic!("`{pattern}` in {zone}: {e}"))
    }

    /// S-10
    #[test]
    fn what_is_no_pattern_is_refused_with_its_field() {
        for (pattern, words) in [
            ("", "must have five fields, not 0: minute, hour, day of the month, month, day of the week"),
            ("@daily", "must have five fields, not 1"),
            ("0 0 3 * * *", "must have five fields, not 6"),
            ("0 0 3 * * * 2027", "must have five fields, not 7"),
            ("60 3 * * *", "the minute `60` cannot be read"),
            ("*/0 3 * * *", "the minute `*/0` cannot be read"),
            ("0 24 * * *", "the hour `24` cannot be read"),
            ("0 22-2 * * *", "the hour `22-2` cannot be read"),
            ("0 3 0 * *", "the day of the month `0` cannot be read"),
            ("0 3 32 * *", "the day of the month `32` cannot be read"),
            ("0 3 * 13 *", "the month `13` cannot be read"),
            ("0 3 * * 8", "the day of the week `8` cannot be read"),
            ("0 3 * * MOON", "the day of the week `MOON` cannot be read"),
            ("0 3 * * ,", "the day of the week `,` cannot be read"),
            ("0 0 30 2 *", "never comes: there is no day `30` in month `2`"),
            ("0 0 31 4,6 *", "never comes: there is no day `31` in month `4,6`"),
        ] {
            let said = Schedule::parse(pattern, "UTC").expect_err(pattern);
            assert!(said.starts_with(words), "`{pattern}`: {said}");
        }
        for zone in ["", "Paris", "CET+1", "+01:00"] {
            let said = Schedule::parse("* * * * *", zone).expect_err(zone);
            assert!(said.contains("Europe/Paris"), "`{zone}`: {said}");
        }
    }

    /// S-4
    #[test]
    fn of_two_kinds_of_days_either_is_enough_and_plus_wants_both() {
        let from = at("2026-11-22T00:00:00Z");
        let either = schedule("0 0 13 * FRI", "UTC");
        assert_eq!(either.next_after(from), Some(at("2026-11-27T00:00:00Z")), "the next Friday");
        let both = schedule("0 0 13 * +FRI", "UTC");
        assert_eq!(both.next_after(from), Some(at("2027-08-13T00:00:00Z")), "the next Friday the 13th");
    }

    #[test]
    fn a_leap_day_is_waited_for() {
        let leap = schedule("0 0 29 2 *", "UTC");
        assert_eq!(leap.next_after(at("2096-03-01T00:00:00Z")), Some(at("2104-02-29T00:00:00Z")));
    }

    /// S-3: from the second 02:30 CET, croner 3 goes back to 02:31 CEST.
    #[test]
    fn the_next_slot_lies_ahead_in_the_repeated_hour() {
        let minutes = schedule("* * * * *", "Europe/Paris");
        let second_pass = at("2026-10-25T01:30:00Z");
        assert_eq!(minutes.next_after(second_pass), Some(at("2026-10-25T01:31:00Z")));
        assert_eq!(minutes.last_until(second_pass), Some(second_pass));
    }

    /// S-11, T-5
    #[test]
    fn what_came_up_while_nobody_was_there() {
        let hourly = schedule("0 * * * *", "UTC");
        let (settled, now) = (at("2026-11-22T01:00:00Z"), at("2026-11-22T05:30:00Z"));
        let hours = |hours: &[u32]| hours.iter().map(|h| at(&format!("2026-11-22T0{h}:00:00Z"))).collect::<Vec<_>>();
        let due = |now, catch_up| due_slots(&hourly, settled, now, catch_up);
        let newest = Some(at("2026-11-22T05:00:00Z"));
        assert_eq!(due(now, CatchUp::Skip), Due { run: vec![], newest, missed: 4 });
        assert_eq!(due(now, CatchUp::RunOnce), Due { run: hours(&[5]), newest, missed: 3 });
        assert_eq!(due(now, CatchUp::RunAll), Due { run: hours(&[2, 3, 4, 5]), newest, missed: 0 });
        let on_time = at("2026-11-22T05:09:59Z");
        assert_eq!(due(on_time, CatchUp::Skip), Due { run: hours(&[5]), newest, missed: 3 });
        for back in ["2026-11-22T01:00:00Z", "2026-11-21T23:30:00Z", "1970-01-01T00:00:00Z"] {
            assert_eq!(due(at(back), CatchUp::RunAll), Due::default(), "{back}");
        }
        let wrong = due(at("2036-01-01T00:30:00Z"), CatchUp::RunAll);
        assert_eq!((wrong.run.len(), wrong.newest), (MOST_COUNTED, Some(at("2036-01-01T00:00:00Z"))));
    }

    fn any_schedule() -> impl Strategy<Value = Schedule> {
        const PATTERNS: &[&str] = &[
            "* * * * *",
            "*/15 * * * *",
            "30 2 * * *",
            "0 3 * * MON",
            "15,45 1-3 * * *",
            "0 */2 * * *",
            "0 0 1 * *",
            "10 2 29 2 *",
        ];
        const ZONES: &[&str] =
            &["UTC", "Europe/Paris", "Australia/Lord_Howe", "Pacific/Chatham", "America/St_Johns", "Asia/Kathmandu"];
        (proptest::sample::select(PATTERNS), proptest::sample::select(ZONES)).prop_map(|(p, z)| schedule(p, z))
    }

    fn any_time() -> impl Strategy<Value = Timestamp> {
        // 2026 and 2027, to the millisecond.
        (1_767_225_600_000..1_830_297_600_000_i64).prop_map(Timestamp::from_millis)
    }

    fn any_catch_up() -> impl Strategy<Value = CatchUp> {
        proptest::sample::select(&[CatchUp::Skip, CatchUp::RunOnce, CatchUp::RunAll][..])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Never in the future, never settled ones, never more than the cap; looking back finds what looking ahead does.
        #[test]
        fn due_slots_are_those_between(
            schedule in any_schedule(), settled in any_time(), ahead in 0..40 * 86_400_000_i64, catch_up in any_catch_up(),
        ) {
            let now = Timestamp::from_millis(settled.millis() + ahead);
            let due = due_slots(&schedule, settled, now, catch_up);
            let mut expected = Vec::new();
            let mut slot = settled;
            while let Some(next) = schedule.next_after(slot).filter(|next| *next <= now) {
                expected.push(next);
                slot = next;
            }
            prop_assert_eq!(due.newest, expected.last().copied());
            prop_assert!(due.run.len() + due.missed <= MOST_COUNTED);
            prop_assert_eq!(due.run.len() + due.missed, expected.len().min(MOST_COUNTED));
            prop_assert!(due.run.iter().all(|slot| *slot > settled && *slot <= now));
            if catch_up == CatchUp::RunAll {
                prop_assert_eq!(&due.run[..], &expected[expected.len().saturating_sub(MOST_COUNTED)..]);
            } else {
                prop_assert!(due.run.len() <= 1 && due.run.iter().all(|slot| Some(*slot) == due.newest));
            }
        }

        /// Whatever the clock does, no slot is run twice, and none before its time (T-5).
        #[test]
        fn no_slot_is_run_twice_whatever_the_clock_does(
            schedule in any_schedule(), start in any_time(), catch_up in any_catch_up(),
            steps in proptest::collection::vec(prop_oneof![
                4 => 0..120_000_i64,
                1 => -7_200_000..7_200_000_i64,
                1 => -3_000 * 86_400_000_i64..3_000 * 86_400_000_i64,
            ], 1..40),
        ) {
            let (mut now, mut run) = (start, BTreeSet::new());
            for step in steps {
                now = Timestamp::from_millis(now.millis() + step);
                // As the run log does it: the last settled slot until now.
                let settled = run.range(..=now).next_back().copied().map_or(start.min(now), |slot: Timestamp| slot);
                for slot in due_slots(&schedule, settled, now, catch_up).run {
                    prop_assert!(slot <= now);
                    prop_assert!(run.insert(slot), "{} was run twice", slot);
                }
            }
        }
    }

    proptest! {
        // A case is two days of minutes.
        #![proptest_config(ProptestConfig::with_cases(8))]

        /// A sidecar that is always there misses nothing: every slot once, in time.
        #[test]
        fn an_even_clock_runs_every_slot_once(schedule in any_schedule(), start in any_time(), catch_up in any_catch_up()) {
            let (mut settled, mut run) = (start, Vec::<Timestamp>::new());
            let mut now = start;
            while now < start.after(2 * DAY) {
                now = now.after(Duration::from_secs(60));
                let due = due_slots(&schedule, settled, now, catch_up);
                prop_assert_eq!(due.missed, 0);
                run.extend(&due.run);
                settled = due.newest.unwrap_or(settled);
            }
            let all = std::iter::successors(schedule.next_after(start), |slot| schedule.next_after(*slot));
            prop_assert_eq!(run, all.take_while(|slot| *slot <= now).collect::<Vec<_>>());
        }
    }
}
