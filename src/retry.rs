//! How long to wait before the next try.

use std::time::Duration;

/// Exponential backoff with jitter: `first`, doubled per failure up to `most`, each wait between half and all of that.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row (1 = the first). `jitter` is any number; equal numbers give equal waits.
    pub fn wait(&self, failures: u32, jitter: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let full = self.first.saturating_mul(1 << doublings).min(self.most);
        // Half fixed, half spread over 1 024 steps: enough to part two sidecars that failed at the same moment.
        let spread = u32::try_from(jitter % 1024).unwrap_or(0);
        full / 2 + full / 2 * spread / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_stay_within_the_jitter() {
        let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };
        for jitter in [0, 511, 1023, u64::MAX] {
            for (failures, full) in [(1, 100), (2, 200), (5, 1600), (7, 5000), (u32::MAX, 5000)] {
                let wait = backoff.wait(failures, jitter).as_millis();
                assert!((full / 2..=full).contains(&wait), "{failures} {jitter} {wait}");
            }
        }
    }
}
