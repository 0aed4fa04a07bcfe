//! Finding the rows of a span of time by the index on `recorded_at`, in whatever forms their times are written (T-1, T-2).
//!
//! The index sorts texts by their characters and numbers before all texts. A span of time is therefore several spans of the index: for each
//! offset from UTC that writers use, once with a space and once with a `T` between date and time; and once each for seconds and milliseconds.
//! They are a superset; `millis!` decides exactly.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::clock::Timestamp;

/// Offsets that are looked for. Writers of one table use one or two; times in further ones are still pruned, one by one.
pub const OFFSETS_MOST: usize = 32;

/// The greatest offset that a time can be written with (`times.rs`): 14:59 hours, to the next whole hour.
pub const OFFSET_MOST: i64 = 15 * 3_600_000;

const MINUTE: i64 = 60_000;

/// Spans of the index, `[[from, to], …]`, that hold all rows with `from <= time < to` (milliseconds).
pub fn spans(from: i64, to: i64, offsets: &BTreeSet<i64>) -> String {
    let mut spans = Vec::new();
    for offset in offsets.iter().copied().chain([0]).collect::<BTreeSet<i64>>() {
        for separator in [' ', 'T'] {
            let low = minute(from + offset * MINUTE, separator);
            // Texts go on behind the minute, so the end is the next one.
            let high = minute(to + offset * MINUTE + MINUTE - 1, separator);
            spans.push(Value::from(vec![low, high]));
        }
    }
    // A millisecond more on both sides: the exact test rounds.
    let (low, high) = ((from - 1) as f64, (to + 1) as f64);
    spans.push(Value::from(vec![low / 1000.0, high / 1000.0]));
    spans.push(Value::from(vec![low, high]));
    Value::from(spans).to_string()
}

/// The first sixteen characters of a time's text.
pub fn minute(at: i64, separator: char) -> String {
    let text: String = Timestamp::from_millis(at).to_sql().chars().take(16).collect();
    text.replacen(' ', separator.encode_utf8(&mut [0; 4]), 1)
}

/// The offset in a time's last six characters, in minutes; nothing for one that is UTC or that names none.
pub fn offset(end: &str) -> Option<i64> {
    let (sign, rest) = match end.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let offset = sign * (hours.parse::<u8>().ok()? as i64 * 60 + minutes.parse::<u8>().ok()? as i64);
    (offset != 0 && offset.abs() < OFFSET_MOST / MINUTE).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t1_t2_every_form_is_in_one_of_the_spans() {
        let at = Timestamp::from_rfc3339("2026-11-22T17:05:00Z").unwrap().millis();
        let spans: Vec<(Value, Value)> = serde_json::from_str(&spans(at, at + 300_000, &[120, -330].into())).unwrap();
        let text = |text: &str| {
            spans.iter().any(|(low, high)| low.as_str().is_some_and(|l| l <= text) && high.as_str().unwrap() > text)
        };
        for inside in
            ["2026-11-22 17:05", "2026-11-22T17:09:59.999Z", "2026-11-22 19:06:00+02:00", "2026-11-22T11:35:00-05:30"]
        {
            assert!(text(inside), "{inside}");
        }
        assert!(!text("2026-11-22 17:04:59.999") && !text("2026-11-22 17:10") && !text("2026-11-22T18:06:00+01:00"));
        for number in [at as f64 / 1000.0, at as f64, (at + 299_999) as f64] {
            assert!(spans.iter().any(|(l, h)| l.as_f64().is_some_and(|l| l <= number) && h.as_f64().unwrap() > number));
        }
    }

    #[test]
    fn offsets_are_read_from_the_end_of_a_time() {
        assert_eq!(offset("+02:00"), Some(120));
        assert_eq!(offset("-05:30"), Some(-330));
        for none in ["+00:00", ":20.00", "20:00Z", "+99:00", "", "é00:0", "+0a:00"] {
            assert_eq!(offset(none), None, "{none}");
        }
    }
}
