//! Finding the rows of a span of time by the index on `recorded_at`, in whatever forms their times are written (T-1, T-2).
//!
//! The index sorts texts by their characters and numbers before all texts. A span of time is therefore several spans of the index: for each
//! offset from UTC that writers use, once with a space and once with a `T` between date and time; and once each for seconds and milliseconds.
//! They are a superset; `millis!` decides exactly.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::Value;

use crate::clock::Timestamp;

/// Offsets that are looked for. Writers of one table use one or two; times in further ones are still pruned, one by one.
pub const OFFSETS_MOST: usize = 32;

/// The greatest offset that a time can be written with (`times.rs`): 14:59 hours, to the next whole hour.
pub const OFFSET_MOST: i64 = 15 * 3_600_000;

const MINUTE: i64 = 60_000;

/// Spans of the index, `[[from, to], …]`, that hold all rows with `from <= time < to` (milliseconds), each of them once.
pub fn spans(from: i64, to: i64, offsets: &BTreeSet<i64>) -> String {
    let mut texts = Vec::new();
    for offset in offsets.iter().copied().chain([0]).collect::<BTreeSet<i64>>() {
        for separator in [' ', 'T'] {
            // Texts go on behind the minute, so the end is the next one.
            let (low, high) = (from + offset * MINUTE, to + offset * MINUTE + MINUTE - 1);
            texts.push((minute(low, separator), minute(high, separator)));
        }
    }
    // A millisecond more on both sides: the exact test rounds.
    let (low, high) = ((from - 1) as f64, (to + 1) as f64);
    let numbers = apart(vec![(low / 1000.0, high / 1000.0), (low, high)]);
    let of = |(low, high): (Value, Value)| Value::from(vec![low, high]);
    let texts = apart(texts).into_iter().map(|(low, high)| of((low.into(), high.into())));
    Value::from_iter(texts.chain(numbers.into_iter().map(|(low, high)| of((low.into(), high.into()))))).to_string()
}

/// The same without what two of them share: other offsets are hours away, and a `T` comes behind every space of its day.
fn apart<T: PartialOrd>(mut spans: Vec<(T, T)>) -> Vec<(T, T)> {
    spans.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    let mut apart: Vec<(T, T)> = Vec::with_capacity(spans.len());
    for (low, high) in spans {
        match apart.last_mut() {
            Some(last) if low <= last.1 => {
                if high > last.1 {
                    last.1 = high;
                }
            }
            _ => apart.push((low, high)),
        }
    }
    apart
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

    /// A row that were in two of them would be counted twice.
    #[test]
    fn no_two_spans_share_anything() {
        let day = 86_400_000;
        for (from, to) in
            [(0, 300_000), (1_795_305_600_000, 1_795_305_900_000), (1_795_305_600_000, 1_795_305_600_000 + day)]
        {
            let text = spans(from, to, &(-840..=840).step_by(60).collect());
            let spans: Vec<(Value, Value)> = serde_json::from_str(&text).unwrap();
            let key =
                |value: &Value| (value.is_string(), value.as_f64().unwrap_or(0.0), value.as_str().map(str::to_owned));
            for ((low, high), (other_low, other_high)) in
                spans.iter().enumerate().flat_map(|(n, one)| spans[..n].iter().map(move |other| (one, other)))
            {
                let apart = key(high) < key(other_low) || key(other_high) < key(low);
                assert!(apart, "{low}-{high} and {other_low}-{other_high}");
            }
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
