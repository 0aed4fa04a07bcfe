//! Times as anybody writes them into a column (T-1, T-2, T-4), read by one rule in two languages.
//!
//! | stored as | read as |
//! |---|---|
//! | text `YYYY-MM-DD HH:MM[:SS[.fff…]]`, space or `T`, nothing or `Z` or `±HH:MM` behind it | that time; UTC where it names no offset |
//! | number from 1e8 up to 1e11 | seconds since 1970 (1973 to 5138) |
//! | number above 1e11 and below 1e13 | milliseconds since 1970 (1973 to 2286) |
//! | NULL, blobs, other text, other numbers | nothing: counted, never guessed |
//!
//! Numbers outside the two ranges may be Julian days, dates like `20261122`, micro- or nanoseconds: taking them for seconds would
//! make rows look ancient, and age is what rows are deleted by.
//!
//! [`read`] is the rule in Rust, `millis!` the same rule as a SQL expression: it lets
//! SQLite count, sort and compare without handing every row over. They agree to the millisecond; a test asks SQLite itself.

use crate::clock::Timestamp;

/// A value as SQLite stores it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Raw<'a> {
    /// NULL, or a blob, which is no time either.
    None,
    /// INTEGER
    Integer(i64),
    /// REAL
    Real(f64),
    /// TEXT
    Text(&'a str),
}

/// The SQL expression of `$column`'s time in milliseconds since 1970, NULL where it cannot be read.
macro_rules! millis {
    ($column:literal) => {
        concat!(
            "(CASE typeof(",
            $column,
            ")",
            " WHEN 'text' THEN CASE WHEN ",
            $column,
            " GLOB",
            " '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9][ T][0-9][0-9]:[0-9][0-9]*'",
            " THEN CAST(round(unixepoch(",
            $column,
            ", 'subsec') * 1000) AS INTEGER) END",
            " WHEN 'blob' THEN NULL",
            " ELSE CASE WHEN ",
            $column,
            " BETWEEN 1e8 AND 1e11 THEN CAST(round(",
            $column,
            " * 1000) AS INTEGER)",
            " WHEN ",
            $column,
            " > 1e11 AND ",
            $column,
            " < 1e13 THEN CAST(round(",
            $column,
            ") AS INTEGER) END END)"
        )
    };
}
pub(crate) use millis;

/// The time that `raw` says.
pub fn read(raw: Raw<'_>) -> Option<Timestamp> {
    match raw {
        Raw::None => None,
        Raw::Integer(number @ 100_000_000..=100_000_000_000) => Some(Timestamp::from_millis(number * 1000)),
        Raw::Integer(number @ 100_000_000_001..=9_999_999_999_999) => Some(Timestamp::from_millis(number)),
        Raw::Integer(_) => None,
        Raw::Real(number) if (1e8..=1e11).contains(&number) => Some(from_float(number * 1000.0)),
        Raw::Real(number) if number > 1e11 && number < 1e13 => Some(from_float(number)),
        Raw::Real(_) => None,
        Raw::Text(text) => from_text(text.as_bytes()),
    }
}

fn from_float(millis: f64) -> Timestamp {
    Timestamp::from_millis(millis.round() as i64)
}

/// The forms that SQLite's own date functions read, with date and time of day both present and one character between.
fn from_text(text: &[u8]) -> Option<Timestamp> {
    let date = text.get(..10).filter(|d| d[4] == b'-' && d[7] == b'-')?;
    text.get(10).filter(|b| matches!(b, b' ' | b'T'))?;
    let time = text.get(11..16).filter(|t| t[2] == b':')?;
    let day = day_number(digits(&date[..4])?, within(&date[5..7], 1, 12)?, within(&date[8..], 1, 31)?);
    let minutes = within(&time[..2], 0, 24)? * 60 + within(&time[3..], 0, 59)?;
    let (second_millis, rest) = seconds(&text[16..])?;
    let offset = offset_minutes(rest)?;
    Some(Timestamp::from_millis(day * 86_400_000 + (minutes - offset) * 60_000 + second_millis))
}

/// The milliseconds that `:SS[.fff…]` at the start of `text` says, and what follows; none of it is zero.
fn seconds(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(text) = text.strip_prefix(b":") else { return Some((0, text)) };
    let whole = within(text.get(..2)?, 0, 59)?;
    let text = &text[2..];
    let count = match text.first() {
        Some(b'.') => text[1..].iter().take_while(|b| b.is_ascii_digit()).count(),
        _ => 0,
    };
    if count == 0 {
        return Some((whole * 1000, text));
    }
    let (digits, rest) = text[1..].split_at(count);
    // As SQLite does it, so that both agree: a fraction is rounded to a millisecond, but never up to the next second.
    let (mut fraction, mut scale) = (0.0, 1.0);
    for digit in digits {
        fraction = fraction * 10.0 + f64::from(digit - b'0');
        scale *= 10.0;
    }
    let fraction = (fraction / scale).min(0.999);
    Some((((whole as f64 + fraction) * 1000.0 + 0.5) as i64, rest))
}

/// Minutes east of UTC: nothing, `Z` or `±HH:MM`, with spaces around it.
fn offset_minutes(text: &[u8]) -> Option<i64> {
    let text = text.trim_ascii();
    match text.first() {
        None => Some(0),
        Some(b'Z' | b'z') if text.len() == 1 => Some(0),
        Some(sign @ (b'+' | b'-')) if text.len() == 6 && text[3] == b':' => {
            let minutes = within(&text[1..3], 0, 14)? * 60 + within(&text[4..], 0, 59)?;
            Some(if *sign == b'-' { -minutes } else { minutes })
        }
        Some(_) => None,
    }
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number, b| b.is_ascii_digit().then(|| number * 10 + i64::from(b - b'0')))
}

fn within(text: &[u8], least: i64, most: i64) -> Option<i64> {
    digits(text).filter(|n| (least..=most).contains(n))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar; the 30th of February is the 2nd of March, as in SQLite.
/// (<https://howardhinnant.github.io/date_algorithms.html>, `days_from_civil`.)
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Option<i64> {
        read(Raw::Text(text)).map(Timestamp::millis)
    }

    #[test]
    fn t1_t2_six_forms_of_one_instant_are_one_instant() {
        let instant = Timestamp::from_rfc3339("2026-11-22T17:09:20Z").unwrap();
        for raw in [
            Raw::Text("2026-11-22 17:09:20"),
            Raw::Text("2026-11-22T17:09:20"),
            Raw::Text("2026-11-22T17:09:20Z"),
            Raw::Text("2026-11-22T19:09:20.000000+02:00"),
            Raw::Integer(instant.millis() / 1000),
            Raw::Integer(instant.millis()),
            Raw::Real(instant.seconds()),
        ] {
            assert_eq!(read(raw), Some(instant), "{raw:?}");
        }
        assert_eq!(read(Raw::Text(&instant.to_sql())), Some(instant));
        assert_eq!(read(Raw::Text(&instant.to_rfc3339())), Some(instant));
    }

    #[test]
    fn fractions_become_milliseconds() {
        let second = text("2026-11-22 17:09:20").unwrap();
        assert_eq!(text("2026-11-22T17:09:20.427222386+00:00"), Some(second + 427));
        assert_eq!(text("2026-11-22 17:09:20.5"), Some(second + 500));
        assert_eq!(text("2026-11-22 17:09:20.9999"), Some(second + 999));
        assert_eq!(text("2026-11-22 17:09"), Some(second - 20_000));
    }

    #[test]
    fn t2_t4_nothing_is_guessed() {
        for bad in [
            "",
            "now",
            "2026-11-22",
            "17:09:20",
            "1795341600",
            "2026-11-22  17:09:20",
            "2026-11-22 17:09:20 UTC",
            "2026-11-22 17:09:20+0200",
            "2026-13-22 17:09:20",
            "2026-11-22 17:60:20",
            "22.11.2026 17:09",
            "２026-11-22 17:09",
        ] {
            assert_eq!(text(bad), None, "{bad}");
        }
        // NULL, a Julian day, a date as a number, microseconds, nanoseconds, before 1973.
        assert_eq!(read(Raw::None), None);
        assert_eq!(read(Raw::Real(2_461_367.2)), None);
        for bad in [20_261_122, 1_795_341_600_000_000, 1_795_341_600_000_000_000, 0, -5, i64::MIN] {
            assert_eq!(read(Raw::Integer(bad)), None, "{bad}");
        }
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(read(Raw::Real(bad)), None);
        }
    }

    /// The rule in SQL: what SQLite itself makes of `raw`.
    async fn in_sql(connection: &mut sqlx::SqliteConnection, raw: Raw<'_>) -> Option<i64> {
        let query = sqlx::query_scalar::<_, Option<i64>>(concat!("SELECT ", millis!("v"), " FROM (SELECT ? AS v)"));
        match raw {
            Raw::None => query.bind(None::<i64>),
            Raw::Integer(number) => query.bind(number),
            Raw::Real(number) => query.bind(number),
            Raw::Text(text) => query.bind(text.to_owned()),
        }
        .fetch_one(connection)
        .await
        .unwrap()
    }

    #[test]
    fn sqlite_reads_what_we_read() {
        use sqlx::Connection;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(sqlx::SqliteConnection::connect("sqlite::memory:")).unwrap();
        let connection = std::cell::RefCell::new(connection);
        let same = |raw: Raw<'_>| {
            let theirs = runtime.block_on(in_sql(&mut connection.borrow_mut(), raw));
            assert_eq!(read(raw).map(Timestamp::millis), theirs, "{raw:?}");
        };
        for fixed in [
            "2026-02-30 10:00",
            "2024-02-29T24:00:00",
            "2026-11-22 17:09:20.0405",
            "2026-11-22 17:09:59.9999",
            "2026-11-22T17:09:20+14:59",
            "2026-11-22T17:09:20+15:00",
            "2026-11-22 17:09:20  Z ",
            "2026-11-22",
            "x",
            "2026-11-22 17:09:20.",
            "2026-11-22 17:09:20.+02:00",
            "2026-11-22 17:09+02:00",
            "0001-01-01 00:00",
            "9999-12-31 23:59:59.999",
            "2026-11-22 1:09",
            "2026-11-22 17:09:2",
            "2026-11-22 17:09:20+02:0",
        ] {
            same(Raw::Text(fixed));
        }
        for number in
            [0, 99_999_999, 100_000_000, 100_000_000_000, 100_000_000_001, 9_999_999_999_999, 10_000_000_000_000]
        {
            same(Raw::Integer(number));
            same(Raw::Real(number as f64));
        }
        same(Raw::None);
        proptest!(ProptestConfig::with_cases(400), |(
            moment in "(19[789][0-9]|20[0-9]{2})-(0[1-9]|1[0-2])-([0-2][0-9]|3[01])[ T]([01][0-9]|2[0-4]):[0-5][0-9]",
            rest in "(:[0-5][0-9](\\.[0-9]{1,9})?)?( ?(Z|z|[+-](0[0-9]|1[0-5]):[0-6][0-9]))?",
            real in 0.0..2e13_f64,
        )| {
            same(Raw::Text(&format!("{moment}{rest}")));
            same(Raw::Real(real));
        });
    }
}
