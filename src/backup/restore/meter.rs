//! How far a transfer is, and how long it will take at the rate of the last seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two reports. Ten a second is what an eye follows.
const STEP: Duration = Duration::from_millis(100);

/// Reports that the rate is made of: those of the last ten seconds, so that a stall shows and a hiccup does not.
const SAMPLES: usize = 100;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes altogether.
    pub total: u64,
    /// Bytes a second.
    pub rate: f64,
    /// The time that the rest will take; nothing while that cannot be told.
    pub left: Option<Duration>,
}

/// Counts, and reports now and then.
pub(in crate::backup) struct Meter<'a> {
    total: u64,
    done: u64,
    report: &'a (dyn Fn(Progress) + Sync),
    samples: VecDeque<(Instant, u64)>,
}

impl<'a> Meter<'a> {
    pub(in crate::backup) fn new(total: u64, report: &'a (dyn Fn(Progress) + Sync)) -> Self {
        Self { total, done: 0, report, samples: VecDeque::from([(Instant::now(), 0)]) }
    }

    /// Counts `bytes` more.
    pub(in crate::backup) fn add(&mut self, bytes: u64) {
        self.at(Instant::now(), bytes);
    }

    fn at(&mut self, now: Instant, bytes: u64) {
        self.done += bytes;
        let last = self.samples.back().map_or(now, |(at, _)| *at);
        if now.duration_since(last) < STEP && self.done < self.total {
            return;
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, self.done));
        (self.report)(self.progress());
    }

    fn progress(&self) -> Progress {
        let (Some((from, before)), Some((to, done))) = (self.samples.front(), self.samples.back()) else {
            return Progress { done: self.done, total: self.total, rate: 0.0, left: None };
        };
        let rate = (done - before) as f64 / to.duration_since(*from).as_secs_f64().max(0.001);
        let left = Duration::try_from_secs_f64(self.total.saturating_sub(self.done) as f64 / rate).ok();
        Progress { done: self.done, total: self.total, rate, left }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let seen = Mutex::new(Vec::new());
        let report = |progress| seen.lock().unwrap().push(progress);
        let mut meter = Meter::new(1_000, &report);
        let start = meter.samples[0].0;
        meter.at(start + Duration::from_millis(50), 10);
        assert_eq!(seen.lock().unwrap().len(), 0, "too soon");
        meter.at(start + Duration::from_secs(1), 90);
        assert_eq!(
            seen.lock().unwrap()[0],
            Progress { done: 100, total: 1_000, rate: 100.0, left: Some(Duration::from_secs(9)) }
        );
        meter.at(start + Duration::from_secs(1), 900);
        let last = seen.lock().unwrap()[1];
        assert_eq!((last.done, last.left), (1_000, Some(Duration::ZERO)), "the end is always told");
    }

    #[test]
    fn a_stall_has_no_end() {
        let report = |_| ();
        let mut meter = Meter::new(10, &report);
        let start = meter.samples[0].0;
        meter.at(start + Duration::from_secs(1), 0);
        assert_eq!(meter.progress().left, None);
    }
}
