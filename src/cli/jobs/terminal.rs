//! The one line on a terminal that says how far a run is.

use std::io::{IsTerminal, Write};

/// Characters of the bar.
const BAR: u64 = 24;

/// A line that is written over; nothing where standard error is no terminal.
pub(in crate::cli) struct Line {
    job: String,
    terminal: bool,
    shown: bool,
}

impl Line {
    pub(in crate::cli) fn new(job: &str) -> Self {
        Self { job: job.to_owned(), terminal: std::io::stderr().is_terminal(), shown: false }
    }

    pub(super) fn show(&mut self, done: u64, total: Option<u64>, unit: &str) {
        self.write(&text(&self.job, done, total, unit));
    }

    /// Whether there is anybody to see it.
    pub(in crate::cli) fn is_seen(&self) -> bool {
        self.terminal
    }

    /// Writes it over.
    pub(in crate::cli) fn write(&mut self, text: &str) {
        if self.terminal {
            self.shown = true;
            write(&format!("\r\u{1b}[K{text}"));
        }
    }
}

impl Drop for Line {
    /// What follows begins on a clean line.
    fn drop(&mut self) {
        if self.shown {
            write("\r\u{1b}[K");
        }
    }
}

fn text(job: &str, done: u64, total: Option<u64>, unit: &str) -> String {
    match total.filter(|total| *total > 0) {
        Some(total) => format!("{job} {} {done} of {total} {unit}", bar(done, total)),
        None if done == 0 => format!("{job} …"),
        None => format!("{job} … {done} {unit}"),
    }
}

/// `[####....]  50 %`; `total` is not 0.
pub(in crate::cli) fn bar(done: u64, total: u64) -> String {
    let part = |of: u64| u64::try_from(u128::from(done.min(total)) * u128::from(of) / u128::from(total)).unwrap_or(of);
    let full = part(BAR) as usize;
    format!("[{}{}] {:3} %", "#".repeat(full), ".".repeat(BAR as usize - full), part(100))
}

fn write(text: &str) {
    let mut out = std::io::stderr();
    // A terminal that is gone is nothing to stop for.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_where_the_end_is_known() {
        assert_eq!(text("j", 5, Some(10), "rows"), "j [############............]  50 % 5 of 10 rows");
        assert_eq!(text("j", 11, Some(10), "rows"), "j [########################] 100 % 11 of 10 rows");
        assert_eq!(text("j", 7, None, "rows"), "j … 7 rows");
        assert_eq!(text("j", 7, Some(0), "rows"), "j … 7 rows");
    }
}
