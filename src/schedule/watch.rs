//! Whether the wall clock is to be believed (T-5).
//!
//! A clock that is suddenly in 2036 makes everything look old. What deletes by age must not believe it, but somebody who starts the sidecar after a
//! holiday has a right clock that jumped just as far, and nothing on this machine can tell the two apart. So a jump of more than a day, against
//! the monotonic clock or against what was last written down in the database, raises a doubt:
//!
//! - **Up to a week** (`HEALS`: a long weekend, a laptop in its bag) the doubt ends after a day of even running, in which a wrong clock is seen and put right.
//!   What a clock that is wrong by so little can take too early is a part of what is kept, not all of it.
//! - **More than that** no time heals. A clock that is ten years ahead is ten years ahead tomorrow as well, and by default logs are kept for seven days and
//!   samples for thirty: to believe it is to delete all there is. It takes a person's word (`jobs run NAME --clock-is-right`), or that the clock goes back.
//! - A **server** that has a clock of its own (PostgreSQL) is asked whenever a run is begun. It cannot show that a clock is right: it may be the same
//!   one. But where ours is more than a day ahead of it one of them is wrong, and the rows' times are the server's as often as not; this doubt
//!   lasts as long as the difference, and a person's word counts for one run only.
//!
//! A person's word is written down, so another sidecar of that database believes the same time. Going back by any span raises no doubt: it makes
//! things look younger.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;

/// A jump that is not longer may be a night's sleep.
const JUMP: Duration = Duration::from_secs(24 * 3600);

/// How long a clock has to run on evenly after a jump before it is believed again.
const TRIAL: Duration = Duration::from_secs(24 * 3600);

/// The longest jump that a trial makes good: not longer than logs are kept where nobody says (`retention.files`, `retention.tables`).
const HEALS: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is known about the clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockWatch {
    /// The wall clock and the monotonic one when they were last looked at.
    last: Option<(Timestamp, Instant)>,
    doubt: Option<Doubt>,
    /// What the database's server said last, if we are far ahead of it.
    server: Option<Timestamp>,
}

/// A jump that is not believed.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// Where the clock jumped from, and when.
    from: Timestamp,
    at: Instant,
    /// Since when it has run evenly.
    even: Instant,
}

impl Doubt {
    /// How far ahead the clock is of what it would be without the jump.
    fn ahead(&self, now: Timestamp, at: Instant) -> Duration {
        now.since(self.from.after(at.saturating_duration_since(self.at)))
    }
}

impl ClockWatch {
    /// Looks at the clock; `known` is the newest time that was written down before this process began.
    pub fn look(&mut self, now: Timestamp, at: Instant, known: Option<Timestamp>) {
        let expected = match self.last {
            Some((wall, then)) => Some(wall.after(at.saturating_duration_since(then))),
            None => known,
        };
        let jumped = expected.filter(|expected| now.since(*expected) > JUMP);
        self.doubt = match (self.doubt, jumped) {
            (None, None) => None,
            (None, Some(from)) => Some(Doubt { from, at, even: at }),
            // Another jump, and the first one is not forgotten for it.
            (Some(doubt), Some(_)) => Some(Doubt { even: at, ..doubt }),
            (Some(doubt), None) => {
                let ahead = doubt.ahead(now, at);
                let healed = ahead <= HEALS && at.saturating_duration_since(doubt.even) >= TRIAL;
                (ahead > JUMP && !healed).then_some(doubt)
            }
        };
        self.last = Some((now, at));
    }

    /// Takes in what the server's clock says, where there is one.
    pub fn hear(&mut self, server: Option<Timestamp>) {
        let Some((now, _)) = self.last else { return };
        self.server = server.filter(|server| now.since(*server) > JUMP);
    }

    /// Takes in what was written down: somebody may have believed this time since, here or beside another sidecar.
    pub fn learn(&mut self, known: Option<Timestamp>) {
        if let (Some(known), Some((now, _))) = (known, self.last)
            && now.since(known) <= JUMP
        {
            self.doubt = None;
        }
    }

    /// Whether it was looked at already.
    pub fn is_started(&self) -> bool {
        self.last.is_some()
    }

    /// Whether it jumped and is not believed: what is written down may tell.
    pub fn has_jumped(&self) -> bool {
        self.doubt.is_some()
    }

    /// Somebody who can tell believes it.
    pub fn believe(&mut self) {
        self.doubt = None;
    }

    /// Why it is not to be believed.
    pub fn doubt(&self) -> Option<String> {
        let (now, _) = self.last?;
        let why = match (self.doubt, self.server) {
            (Some(Doubt { from, .. }), _) => format!("the clock jumped from {from} to {now}"),
            (None, Some(server)) => format!("the clock says {now}, and that of the database's server {server}"),
            (None, None) => return None,
        };
        Some(format!("{why}; {IF_RIGHT}"))
    }
}

/// What to do about a doubt.
pub const IF_RIGHT: &str = "look at it; if it is right, `atlas-sidecar jobs run NAME --clock-is-right` says so";

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn start() -> (Timestamp, Instant) {
        (Timestamp::from_rfc3339("2026-11-22T19:00:00Z").expect("valid"), Instant::now())
    }

    /// T-5: it stays in 2036 for a year, and is not believed; neither by a restart.
    #[test]
    fn a_clock_that_stays_in_2036_is_doubted_until_somebody_believes_it() {
        let (now, at) = start();
        let wrong = Timestamp::from_rfc3339("2036-01-01T00:00:00Z").expect("valid");
        for known in [None, Some(now)] {
            let mut watch = ClockWatch::default();
            if known.is_none() {
                watch.look(now, at, None);
                assert_eq!(watch.doubt(), None);
            }
            for hours in 1..24 * 365 {
                watch.look(wrong.after(HOUR * hours), at + HOUR * hours, known);
                assert!(watch.doubt().is_some(), "after {hours} h");
            }
            let words = watch.doubt().expect("a jump of ten years");
            assert!(words.contains("from 2026-11-22") && words.contains("--clock-is-right"), "{words}");
            let mut believed = watch;
            believed.believe();
            believed.look(wrong.after(HOUR * 24 * 365), at + HOUR * 24 * 365, known);
            assert_eq!(believed.doubt(), None);
            // It was believed beside another sidecar; what was written down before the jump says nothing.
            watch.learn(Some(now));
            assert!(watch.doubt().is_some());
            watch.learn(Some(wrong.after(HOUR * 24 * 365)));
            assert_eq!(watch.doubt(), None);
        }
    }

    #[test]
    fn a_jump_of_days_is_believed_after_a_day_of_even_running() {
        let (now, at) = start();
        for (jump, heals) in [(3 * DAY, true), (6 * DAY, true), (8 * DAY, false)] {
            let mut watch = ClockWatch::default();
            watch.look(now.after(jump), at, Some(now));
            watch.look(now.after(jump + 23 * HOUR), at + 23 * HOUR, None);
            assert!(watch.doubt().is_some());
            watch.look(now.after(jump + 24 * HOUR), at + 24 * HOUR, None);
            assert_eq!(watch.doubt().is_none(), heals, "{jump:?}");
        }
        // Not evenly: two jumps that come to more than a week.
        let mut watch = ClockWatch::default();
        watch.look(now.after(4 * DAY), at, Some(now));
        watch.look(now.after(8 * DAY), at + HOUR, None);
        watch.look(now.after(10 * DAY), at + HOUR + 2 * DAY, None);
        assert!(watch.doubt().is_some());
    }

    #[test]
    fn a_jump_that_is_taken_back_leaves_no_doubt() {
        let (now, at) = start();
        let mut watch = ClockWatch::default();
        watch.look(now, at, Some(now.before(HOUR)));
        watch.look(now.after(3000 * DAY), at + HOUR, None);
        assert!(watch.doubt().is_some());
        // By a part only: it is still years ahead.
        watch.look(now.after(2000 * DAY), at + HOUR, None);
        assert!(watch.doubt().is_some());
        watch.look(now.after(2 * HOUR), at + 2 * HOUR, None);
        assert_eq!(watch.doubt(), None);
    }

    #[test]
    fn a_server_that_is_far_behind_us_is_a_reason_to_doubt_as_long_as_it_is() {
        let (now, at) = start();
        let mut watch = ClockWatch::default();
        watch.look(now, at, None);
        for (server, doubted) in
            [(now, false), (now.before(23 * HOUR), false), (now.before(2 * DAY), true), (now.after(2 * DAY), false)]
        {
            watch.hear(Some(server));
            assert_eq!(watch.doubt().is_some(), doubted, "{server}");
        }
        watch.hear(Some(now.before(2 * DAY)));
        watch.believe();
        let words = watch.doubt().expect("it is as far away as before");
        assert!(words.contains("database's server 2026-11-20"), "{words}");
        watch.hear(None);
        assert_eq!(watch.doubt(), None);
    }

    #[test]
    fn small_steps_and_steps_back_raise_none() {
        let (now, at) = start();
        let mut watch = ClockWatch::default();
        for (wall, hours) in [(now, 0), (now.after(20 * HOUR), 1), (now.before(40 * DAY), 2)] {
            watch.look(wall, at + HOUR * hours, None);
            assert_eq!(watch.doubt(), None);
        }
    }
}
