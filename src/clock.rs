//! Time as a value: [`Timestamp`] is what everything passes around, [`Clock`] is the one place that reads the wall clock.
//!
//! A function that needs the time takes it as an argument; only the tasks at the edge hold a [`Clock`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

/// An instant in UTC, in whole milliseconds since 1970 (the resolution of Prometheus and of the table).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since 1970, which may be negative.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Seconds since 1970 with their fraction, as Prometheus wants them.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// This instant less `span`.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis_of(span)))
    }

    /// This instant plus `span`.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis_of(span)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Midnight (UTC) of the day this instant is in.
    pub fn midnight(self) -> Self {
        const DAY: i64 = 86_400_000;
        Self(self.0.div_euclid(DAY) * DAY)
    }

    /// From RFC 3339 with an offset (`2026-11-22T19:00:00Z`, `2026-11-22T20:00:00.5+01:00`); finer than a millisecond is cut off.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(|t| Self(t.timestamp_millis()))
    }

    /// `2026-11-22T19:00:00.000Z`.
    pub fn to_rfc3339(self) -> String {
        self.utc().map_or_else(|| self.0.to_string(), |t| t.to_rfc3339_opts(SecondsFormat::Millis, true))
    }

    /// The canonical text of the table's time columns: `2026-11-22 19:00:00.000`, in UTC (T-1: one text, so that it sorts).
    pub fn to_sql(self) -> String {
        self.utc().map_or_else(|| self.0.to_string(), |t| t.format("%Y-%m-%d %H:%M:%S%.3f").to_string())
    }

    fn utc(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_millis(self.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

fn millis_of(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Where the time comes from: the system, or a hand that a test moves.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    by_hand: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The wall clock.
    pub fn system() -> Self {
        Self { by_hand: None }
    }

    /// A clock that stands at `start` until [`Clock::set`] moves it.
    pub fn by_hand(start: Timestamp) -> Self {
        Self { by_hand: Some(Arc::new(AtomicI64::new(start.0))) }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        match &self.by_hand {
            Some(hand) => Timestamp(hand.load(Ordering::SeqCst)),
            #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
            None => Timestamp(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, millis_of)),
        }
    }

    /// Moves a clock made by [`Clock::by_hand`]; the system's clock is left alone.
    pub fn set(&self, now: Timestamp) {
        if let Some(hand) = &self.by_hand {
            hand.store(now.0, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_sorts_like_time() {
        let at = Timestamp::from_rfc3339("2026-11-22T20:00:00.0405+01:00").expect("valid");
        assert_eq!(at.to_sql(), "2026-11-22 19:00:00.040");
        assert_eq!(at.to_rfc3339(), "2026-11-22T19:00:00.040Z");
        assert!(at.to_sql() < at.after(Duration::from_millis(1)).to_sql());
        assert_eq!(at.midnight().to_sql(), "2026-11-22 00:00:00.000");
    }

    #[test]
    fn a_clock_by_hand_stands_still() {
        let clock = Clock::by_hand(Timestamp::from_millis(5));
        assert_eq!(clock.now().millis(), 5);
        clock.set(Timestamp::from_millis(7));
        assert_eq!(clock.now().since(Timestamp::from_millis(9)), Duration::ZERO);
    }
}
