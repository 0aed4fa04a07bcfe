//! How far a transfer is: a bar on a terminal, a line now and then elsewhere.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::jobs::terminal::{Line, bar};
use super::super::shown::{size, span};
use crate::backup::restore::Progress;

/// Between two lines where there is no terminal: what a log can bear.
const LINES: Duration = Duration::from_secs(10);

/// Shows progress on standard error.
pub(in crate::cli) struct Bar {
    what: &'static str,
    shown: Mutex<Shown>,
}

struct Shown {
    line: Line,
    last: Instant,
}

impl Bar {
    pub(in crate::cli) fn new(what: &'static str) -> Self {
        Self { what, shown: Mutex::new(Shown { line: Line::new(what), last: Instant::now() }) }
    }

    pub(in crate::cli) fn show(&self, progress: Progress) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let text = format!("{} {}", self.what, words(progress));
        if shown.line.is_seen() {
            shown.line.write(&text);
        } else if shown.last.elapsed() >= LINES {
            shown.last = Instant::now();
            // Nobody to tell it to is nothing to stop for.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

fn words(progress: Progress) -> String {
    let Progress { done, total, rate, left } = progress;
    let bar = if total == 0 { String::new() } else { format!("{} ", bar(done, total)) };
    let left = left.map_or_else(String::new, |left| format!(", {} left", span(left)));
    format!("{bar}{} of {}, {}/s{left}", size(done), size(total), size(rate as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_rate_and_time_left() {
        let progress = Progress { done: 512, total: 1024, rate: 2048.0, left: Some(Duration::from_secs(65)) };
        assert_eq!(words(progress), "[############............]  50 % 512 B of 1.0 KiB, 2.0 KiB/s, 1 min 5 s left");
        assert_eq!(words(Progress { done: 0, total: 0, rate: 0.0, left: None }), "0 B of 0 B, 0 B/s");
    }
}
