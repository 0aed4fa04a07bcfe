//! How much one transaction takes: so many rows that others wait about [`HOLD`].

use std::time::Duration;

/// What others may wait for us. The promise is 250 ms; the rest is for a disk that is slow just then.
pub const HOLD: Duration = Duration::from_millis(60);

/// Where a chore begins, before it has measured anything.
const FIRST: u64 = 2_000;
const LEAST: u64 = 100;
/// More would not go faster, and memory is for the guest's host.
const MOST: u64 = 20_000;

/// The rows of the next transaction.
#[derive(Clone, Copy, Debug)]
pub struct Pace(u64);

impl Default for Pace {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Pace {
    /// How many rows the next transaction may take.
    pub fn rows(self) -> u64 {
        self.0
    }

    /// Learns from a transaction with `rows` that took `held`.
    pub fn learn(&mut self, rows: u64, held: Duration) {
        let wanted = rows as f64 * HOLD.as_secs_f64() / held.as_secs_f64().max(1e-4);
        // A small transaction says little about a large one: up by half, down at once.
        let most = (self.0 + self.0 / 2).min(MOST);
        if rows * 2 >= self.0 || held > HOLD {
            self.0 = (wanted as u64).clamp(LEAST, most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_transactions_shrink_at_once_and_fast_ones_grow_slowly() {
        let mut pace = Pace::default();
        pace.learn(2_000, Duration::from_millis(1_200));
        assert_eq!(pace.rows(), 100);
        pace.learn(100, Duration::from_millis(1));
        assert_eq!(pace.rows(), 150);
        for _ in 0..50 {
            pace.learn(pace.rows(), Duration::from_millis(1));
        }
        assert_eq!(pace.rows(), MOST);
        pace.learn(10, Duration::from_micros(1));
        assert_eq!(pace.rows(), MOST, "ten rows say nothing");
    }
}
