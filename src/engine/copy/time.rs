//! Times to the microsecond, which is what PostgreSQL keeps. What counts as a time is the rule of [`times`]; that one
//! ends at milliseconds, and the digits behind them would be lost by copying.

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime};

use crate::clock::Timestamp;
use crate::engine::sqlite::times::{self, Raw};

/// Microseconds since 1970, and whether digits behind them were cut off.
pub fn micros(raw: Raw<'_>) -> Option<(i64, bool)> {
    let at = times::read(raw)?.millis() * 1000;
    match raw {
        Raw::Text(text) => of_text(text, at),
        // A double of seconds has some 0.2 µs between two neighbours, one of milliseconds less: the nearest microsecond is what was meant.
        Raw::Real(number) if number <= 1e11 => Some(((number * 1e6).round() as i64, false)),
        Raw::Real(number) => Some(((number * 1e3).round() as i64, false)),
        Raw::Integer(_) | Raw::None => Some((at, false)),
    }
}

fn of_text(text: &str, at: i64) -> Option<(i64, bool)> {
    let Some((whole, behind)) = text.split_at_checked(19) else { return Some((at, false)) };
    let Some(behind) = behind.strip_prefix('.') else { return Some((at, false)) };
    let count = behind.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, zone) = behind.split_at(count);
    // The rule again without the fraction: offsets and calendars stay its business.
    let second = times::read(Raw::Text(&format!("{whole}{zone}"))).map(Timestamp::millis)? * 1000;
    let (kept, cut) = digits.split_at_checked(6).unwrap_or((digits, ""));
    let fraction: i64 = format!("{kept:0<6}").parse().ok()?;
    Some((second + fraction, cut.bytes().any(|b| b != b'0')))
}

/// As PostgreSQL prints a `timestamp` in its ISO style, or a `timestamptz` in a session in UTC.
pub fn text_of(micros: i64, zone: bool) -> Option<String> {
    let at = DateTime::from_timestamp_micros(micros)?.naive_utc();
    let (year, era) = if at.year() > 0 { (at.year(), "") } else { (1 - at.year(), " BC") };
    let fraction = micros.rem_euclid(1_000_000);
    let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:06}") };
    let zone = if zone { "+00" } else { "" };
    let fraction = fraction.trim_end_matches('0');
    Some(format!("{year:04}-{}{fraction}{zone}{era}", at.format("%m-%d %H:%M:%S")))
}

/// Whether `text` is a day as `date` prints it.
pub fn is_date(text: &str) -> bool {
    NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok_and(|d| d.year() > 0 && d.format("%Y-%m-%d").to_string() == text)
}

/// A time of day (`HH:MM:SS`, perhaps with a fraction of at most six digits) as `time` prints it.
pub fn time_of_day(text: &str) -> Option<String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let time = NaiveTime::parse_from_str(whole, "%H:%M:%S").ok()?;
    // chrono knows leap seconds, `time` would turn them over.
    let good =
        time.format("%H:%M:%S").to_string() == whole && !whole.ends_with("60") && matches!(fraction.len(), 1..=6);
    if !good || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    Some(if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<String> {
        micros(Raw::Text(text)).and_then(|(at, _)| text_of(at, false))
    }

    #[test]
    fn t1_t2_every_form_keeps_its_microseconds() {
        for (raw, printed) in [
            ("2026-11-22 17:09:20", "2026-11-22 17:09:20"),
            ("2026-11-22T17:09:20.427222", "2026-11-22 17:09:20.427222"),
            ("2026-11-22 17:09:20.4272229", "2026-11-22 17:09:20.427222"),
            ("2026-11-22T19:09:20.5+02:00", "2026-11-22 17:09:20.5"),
            ("2026-11-22 17:09:59.9999995Z", "2026-11-22 17:09:59.999999"),
            ("2026-11-22 17:09", "2026-11-22 17:09:00"),
            ("2026-11-22 17:09+02:00", "2026-11-22 15:09:00"),
            ("0000-06-01 00:00:00.25", "0001-06-01 00:00:00.25 BC"),
            ("1969-12-31 23:59:59.25", "1969-12-31 23:59:59.25"),
        ] {
            assert_eq!(text(raw).as_deref(), Some(printed), "{raw}");
        }
        assert_eq!(micros(Raw::Text("2026-11-22 17:09:20.4272229")).map(|m| m.1), Some(true));
        assert_eq!(micros(Raw::Text("2026-11-22 17:09:20.427222000")).map(|m| m.1), Some(false));
        assert_eq!(micros(Raw::Real(1_795_367_360.427_222)), Some((1_795_367_360_427_222, false)));
        assert_eq!(micros(Raw::Integer(1_795_367_360_427)), Some((1_795_367_360_427_000, false)));
        for bad in ["2026-11-22", "17:09:20", "2026-11-22 17:09:20.", "now", "2026-11-22 17:09:20.5 UTC"] {
            assert_eq!(text(bad), None, "{bad}");
        }
    }

    #[test]
    fn days_and_times_of_day() {
        assert!(is_date("2024-02-29") && !is_date("2026-02-29") && !is_date("2026-2-1") && !is_date("0000-01-01"));
        assert_eq!(time_of_day("17:09:20.500").as_deref(), Some("17:09:20.5"));
        assert_eq!(time_of_day("17:09:20").as_deref(), Some("17:09:20"));
        for bad in ["17:09", "24:00:00", "17:09:60", "17:09:20.", "17:09:20.1234567", "7:09:20"] {
            assert_eq!(time_of_day(bad), None, "{bad}");
        }
    }
}
