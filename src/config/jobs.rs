//! `[jobs.NAME]`, `[retention]` and `[upkeep]`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::logs::{self, Around};
use super::reader::{Section, Show};
use super::sections::DAY;
use super::values;
use crate::jobs::retain::Keep;
use crate::jobs::{NAMES, Retention, Settings, upkeep};
use crate::schedule::cron::{CatchUp, Schedule};
use crate::schedule::runner::Plan;
use crate::schedule::window::Window;
use crate::store::Wear;

/// What `catch_up` may be.
const WORDS: [&str; 3] = ["skip", "run_once", "run_all"];

/// What it means, in the same order.
const CATCH_UP: [CatchUp; 3] = [CatchUp::Skip, CatchUp::RunOnce, CatchUp::RunAll];

/// The word for `catch_up`.
pub(super) fn word(catch_up: CatchUp) -> &'static str {
    WORDS[CATCH_UP.iter().position(|known| *known == catch_up).unwrap_or_default()]
}

/// All of them; `None` only where a problem was noted.
pub(super) fn read(
    mut jobs: Section<'_>,
    mut retention: Section<'_>,
    upkeep: Section<'_>,
    around: &Around<'_>,
) -> Option<Settings> {
    let plans: Vec<_> = NAMES.iter().map(|name| Some((*name, plan(jobs.section(name))?))).collect();
    let metrics = metrics(&mut retention);
    let retention = Retention {
        metrics,
        // An entry of a minute is a cache still; ten years are for ever.
        cache: retention.take("cache", values::duration(Duration::from_secs(60)..=3650 * DAY)),
        logs: logs::read(&mut retention, around),
    };
    let upkeep = looking_after(upkeep);
    let plans = plans.into_iter().collect::<Option<BTreeMap<_, _>>>()?;
    Some(Settings { plans, retention, upkeep: upkeep? })
}

fn looking_after(mut section: Section<'_>) -> Option<upkeep::Settings> {
    let window = section.get("window", Show::Plain, |value| Window::parse(&values::words(value)?));
    // More than a million in a second are nobody's; ten thousand percent is a host that nobody can log into.
    let quiet_transactions = section.take("quiet_transactions", values::whole(0..=1_000_000));
    let quiet_host_percent = section.take("quiet_host_percent", values::whole(1..=10_000));
    let unused_percent = section.take("unused_percent", values::whole(1..=99));
    Some(upkeep::Settings {
        window: window.ok()??,
        quiet_transactions,
        quiet_host_percent,
        wear: Wear { unused_percent },
    })
}

/// Each is kept at least as long as what it is made of.
fn metrics(retention: &mut Section<'_>) -> Keep {
    let mut keep = |name| retention.take(name, values::duration(DAY..=36_500 * DAY));
    let keep = Keep { rows: keep("metrics"), five_minutes: keep("rollup_5m"), hours: keep("rollup_1h") };
    if keep.five_minutes < keep.rows {
        retention.reject("rollup_5m", "must not be shorter than `retention.metrics`");
    }
    if keep.hours < keep.five_minutes {
        retention.reject("rollup_1h", "must not be shorter than `retention.rollup_5m`");
    }
    keep
}

fn plan(mut section: Section<'_>) -> Option<Plan> {
    let zone = section.get("timezone", Show::Plain, |value| {
        let zone = values::words(value)?;
        Schedule::parse("* * * * *", &zone).map(|_| zone)
    });
    let pattern = section.get("schedule", Show::Plain, |value| {
        let pattern = values::words(value)?;
        Schedule::parse(&pattern, "UTC").map(|_| pattern)
    });
    let enabled = section.take("enabled", values::flag);
    let timeout = section.take("timeout", values::duration(Duration::from_secs(1)..=DAY));
    let catch_up = section.get("catch_up", Show::Plain, |value| {
        let word = values::one_of(&WORDS)(value)?;
        Ok(CATCH_UP[WORDS.iter().position(|known| *known == word).unwrap_or_default()])
    });
    let schedule = Schedule::parse(&pattern.ok()??, &zone.ok()??).ok()?;
    Some(Plan { schedule, enabled, timeout, catch_up: catch_up.ok()?? })
}
