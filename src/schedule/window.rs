//! A span of the day in which something may be done.

use std::fmt;
use std::time::Duration;

use chrono::{NaiveTime, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;

use crate::clock::Timestamp;

/// The minutes of a day.
const DAY: u32 = 24 * 60;

/// From a minute of the day until another; over midnight where the second is not the later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    from: u32,
    /// `00:00-00:00` and `00:00-24:00` are the whole day.
    to: u32,
}

impl Window {
    /// From `02:00-05:00`; the error is a sentence without its beginning.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
        match parts {
            Some((from, to)) if from < DAY => Ok(Self { from, to: to % DAY }),
            _ => Err("must be two times of the day: `02:00-05:00`, or `00:00-24:00` for all of it".to_owned()),
        }
    }

    /// What is left of it at `now`, in the clock of the zone called `zone`; nothing outside of it. Where that clock is changed inside the window, what is
    /// left ends when the clock shows the window's end.
    pub fn left(self, now: Timestamp, zone: &str) -> Option<Duration> {
        let zone: Tz = zone.parse().ok()?;
        let local = zone.timestamp_millis_opt(now.millis()).single()?;
        let span = match (self.to + DAY - self.from) % DAY {
            0 => DAY,
            span => span,
        };
        let minute = local.hour() * 60 + local.minute();
        let since = (minute + DAY - self.from) % DAY;
        if since >= span {
            return None;
        }
        let left = Duration::from_secs(u64::from(span - since) * 60 - u64::from(local.second()));
        let end = local.naive_local().with_nanosecond(0)? + TimeDelta::from_std(left).ok()?;
        // An end that the clock leaves out has no instant; the window's length decides then.
        let end = zone.from_local_datetime(&end).latest();
        Some(end.map_or(left, |end| Timestamp::from_millis(end.timestamp_millis()).since(now)))
    }
}

/// `HH:MM`, up to `24:00`.
fn minute(text: &str) -> Option<u32> {
    if text.trim() == "24:00" {
        return Some(DAY);
    }
    let time = NaiveTime::parse_from_str(text.trim(), "%H:%M").ok()?;
    Some(time.hour() * 60 + time.minute())
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = if self.to == 0 { DAY } else { self.to };
        write!(f, "{:02}:{:02}-{:02}:{:02}", self.from / 60, self.from % 60, to / 60, to % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(window: &str, now: &str, zone: &str) -> Option<u64> {
        let now = Timestamp::from_rfc3339(now).expect("valid");
        Window::parse(window).expect("valid").left(now, zone).map(|left| left.as_secs())
    }

    #[test]
    fn what_is_left_of_a_window() {
        assert_eq!(left("02:00-05:00", "2026-11-22T02:00:00Z", "UTC"), Some(3 * 3600));
        assert_eq!(left("02:00-05:00", "2026-11-22T04:59:30Z", "UTC"), Some(30));
        assert_eq!(left("02:00-05:00", "2026-11-22T05:00:00Z", "UTC"), None);
        assert_eq!(left("02:00-05:00", "2026-11-22T01:59:59Z", "UTC"), None);
        assert_eq!(left("02:00-05:00", "2026-11-22T01:30:00Z", "Europe/Paris"), Some(9000));
        assert_eq!(left("22:00-04:00", "2026-11-22T23:00:00Z", "UTC"), Some(5 * 3600));
        assert_eq!(left("22:00-04:00", "2026-11-22T03:00:00Z", "UTC"), Some(3600));
        assert_eq!(left("22:00-04:00", "2026-11-22T04:00:00Z", "UTC"), None);
        assert_eq!(left("00:00-24:00", "2026-11-22T23:59:00Z", "UTC"), Some(60));
    }

    #[test]
    fn t6_it_ends_when_the_clock_shows_its_end() {
        // At 03:00 Paris goes back to 02:00: an hour more. In spring it goes from 02:00 to 03:00: an hour less.
        assert_eq!(left("01:00-05:00", "2026-10-24T23:00:00Z", "Europe/Paris"), Some(5 * 3600));
        assert_eq!(left("01:00-05:00", "2026-03-29T00:00:00Z", "Europe/Paris"), Some(3 * 3600));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in ["", "02:00", "2-5", "02:00-25:00", "24:00-02:00", "02:00-05:00-06:00"] {
            assert!(Window::parse(text).is_err(), "{text}");
        }
        for text in ["02:00-05:00", "22:00-04:00", "00:00-24:00"] {
            assert_eq!(Window::parse(text).map(|window| window.to_string()), Ok(text.to_owned()));
        }
    }
}
