//! How tables, sizes and spans are written for people.

use std::time::Duration;

use crate::clock::Timestamp;

/// Lines of cells, columns as wide as they need.
pub(super) fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// `512 B`, `1.5 KiB`, `20.0 GiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `0 s`, `59 s`, `4 min 10 s`, `3 h 5 min`, `2 d 4 h`: what matters of it.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |large: u64, small: u64, units: [&str; 2]| match seconds % large / small {
        0 => format!("{} {}", seconds / large, units[0]),
        rest => format!("{} {} {rest} {}", seconds / large, units[0], units[1]),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => two(60, 1, ["min", "s"]),
        3_600..86_400 => two(3_600, 60, ["h", "min"]),
        _ => two(86_400, 3_600, ["d", "h"]),
    }
}

/// An instant; without its milliseconds where there are none.
pub(super) fn instant(at: Timestamp) -> String {
    at.to_rfc3339().replace(".000Z", "Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_short() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in
            [(0, "0 s"), (60, "1 min"), (250, "4 min 10 s"), (11_100, "3 h 5 min"), (187_300, "2 d 4 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        assert_eq!(instant(Timestamp::from_millis(1)), "1970-01-01T00:00:00.001Z");
        assert_eq!(instant(Timestamp::from_millis(1_000)), "1970-01-01T00:00:01Z");
    }
}
