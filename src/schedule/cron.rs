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
            parse(&alone.join(" ")).map_err(|e| format!("the {name} `{field}` cannot be read: {}", lower(&e)))?;
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
