//! Whether the wall clock is to be believed (T-5).
//!
//! A clock that is suddenly in 2036 makes everything look old. What deletes by age must not believe it, but somebody who starts the sidecar after a
//! holiday has a right clock that jumped just as far. Nothing on this machine can tell the two apart for sure, so: after a jump of more than a day,
//! against what was last written down or against the monotonic clock, doubt stays for a day of running, in which a wrong clock is seen and put right;
//! or until somebody runs a job by hand, which says that the clock is right.
//!
//! Going back by any span raises no doubt: it makes things look younger.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;

/// A jump that is not longer may be a night's sleep.
const JUMP: Duration = Duration::from_secs(24 * 3600);

/// How long a clock has to run on evenly after a jump before it is believed again.
const TRIAL: Duration = Duration::from_secs(24 * 3600);

/// What is known about the clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockWatch {
    /// The wall clock and the monotonic one when they were last looked at.
    last: Option<(Timestamp, Instant)>,
    /// Where it jumped from, and when it began to be watched since.
    doubt: Option<(Timestamp, Instant)>,
}

impl ClockWatch {
    /// Looks at the clock; `known` is the newest time that was written down before this process began.
    pub fn look(&mut self, now: Timestamp, at: Instant, known: Option<Timestamp>) {
        let expected = match self.last {
            Some((wall, then)) => Some(wall.after(at.saturating_duration_since(then))),
            None => known,
        };
        if let Some(expected) = expected {
            if now.since(expected) > JUMP {
                self.doubt = Some((expected, at));
            } else if expected.since(now) > JUMP {
                // It went back as far: what it had jumped over lies ahead again.
                self.doubt = None;
            }
        }
        if self.doubt.is_some_and(|(_, since)| at.saturating_duration_since(since) >= TRIAL) {
            self.doubt = None;
        }
        self.last = Some((now, at));
    }

    /// Whether it was looked at already.
    pub fn is_started(&self) -> bool {
        self.last.is_some()
    }

    /// Somebody who can tell believes it.
    pub fn believe(&mut self) {
        self.doubt = None;
    }

    /// Why it is not to be believed.
    pub fn doubt(&self) -> Option<String> {
        let ((from, _), (now, _)) = (self.doubt?, self.last?);
        Some(format!("the clock jumped from {from} to {now}; if it is right, `atlas-sidecar jobs run NAME` says so"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn start() -> (Timestamp, Instant) {
        (Timestamp::from_rfc3339("2026-11-22T19:00:00Z").expect("valid"), Instant::now())
    }

    /// T-5
    #[test]
    fn a_clock_in_2036_is_doubted_until_somebody_believes_it_or_a_day_has_passed() {
        let (now, at) = start();
        let wrong = Timestamp::from_rfc3339("2036-01-01T00:00:00Z").expect("valid");
        for known in [None, Some(now)] {
            let mut watch = ClockWatch::default();
            if known.is_none() {
                watch.look(now, at, None);
                assert_eq!(watch.doubt(), None);
            }
            watch.look(wrong, at + HOUR, known);
            let words = watch.doubt().expect("a jump of ten years");
            assert!(words.contains("2036-01-01") && words.contains("jobs run"), "{words}");
            watch.look(wrong.after(23 * HOUR), at + 24 * HOUR, known);
            assert!(watch.doubt().is_some());
            let mut believed = watch;
            believed.believe();
            assert_eq!(believed.doubt(), None);
            watch.look(wrong.after(24 * HOUR), at + 25 * HOUR, known);
            assert_eq!(watch.doubt(), None, "it ran on evenly for a day");
        }
    }

    #[test]
    fn a_jump_that_is_taken_back_leaves_no_doubt() {
        let (now, at) = start();
        let mut watch = ClockWatch::default();
        watch.look(now, at, Some(now.before(HOUR)));
        watch.look(now.after(3000 * DAY), at + HOUR, None);
        assert!(watch.doubt().is_some());
        watch.look(now.after(2 * HOUR), at + 2 * HOUR, None);
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
