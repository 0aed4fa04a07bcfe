//! `rate_limit`: a bucket that gains one token per interval and holds `burst` of them; a request takes one.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The section of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Time from one token to the next; not zero.
    pub interval: Duration,
    /// How many tokens the bucket holds; not zero.
    pub burst: u32,
}

/// The bucket itself.
#[derive(Debug)]
pub struct Bucket {
    limit: Limit,
    /// When the bucket would be full if nobody took any more (the generic cell rate algorithm: one instant says all).
    full_at: Mutex<Instant>,
}

impl Bucket {
    /// A full bucket.
    pub fn new(limit: Limit, now: Instant) -> Self {
        Self { limit, full_at: Mutex::new(now) }
    }

    /// What it was made with.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// Takes a token, or says how long until there is one.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (*full_at).max(now) + self.limit.interval;
        let missing = next - now;
        let room = self.limit.interval.saturating_mul(self.limit.burst);
        if missing > room {
            return Err(missing - room);
        }
        *full_at = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_per_interval() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let bucket = Bucket::new(Limit { interval: second, burst: 3 }, start);
        for _ in 0..3 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        assert_eq!(bucket.take(start), Err(second));
        assert_eq!(bucket.take(start + second / 2), Err(second / 2));
        assert_eq!(bucket.take(start + second), Ok(()));
        assert_eq!(bucket.take(start + second), Err(second));
        let later = start + second * 60;
        for _ in 0..3 {
            assert_eq!(bucket.take(later), Ok(()));
        }
        assert_eq!(bucket.take(later), Err(second));
    }
}
