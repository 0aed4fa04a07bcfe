//! From what SQLite stored to what a PostgreSQL column takes.
//!
//! The TARGET's type decides. SQLite stores any value in any column, whatever was declared (V-7, T-2), so each value is looked at for itself. What a column cannot
//! hold as it is has no conversion: it is named, and somebody decides. The one exception is asked for: `--round`.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::decimal::{Decimal, Unfit};
use super::{json, time};
use crate::engine::sqlite::times;

/// A value as SQLite stored it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stored<'a> {
    /// NULL
    Null,
    /// INTEGER
    Integer(i64),
    /// REAL
    Real(f64),
    /// TEXT, which need not be UTF-8.
    Text(&'a [u8]),
    /// BLOB
    Blob(&'a [u8]),
}

/// What a column of the target holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `boolean`
    Bool,
    /// `smallint`, `integer`, `bigint`
    Integer {
        /// The smallest.
        least: i64,
        /// The largest.
        most: i64,
    },
    /// `numeric`, of a precision and a scale or any.
    Numeric(Option<(i64, i64)>),
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `text`, `varchar`, `citext`: at most so many characters.
    Text(Option<usize>),
    /// `char(n)`, which does not count spaces at the end.
    Padded(Option<usize>),
    /// An enumeration.
    Label,
    /// `timestamp` and `timestamptz`
    Timestamp {
        /// Digits of the second's fraction.
        digits: u32,
        /// Whether it is printed with an offset.
        zone: bool,
    },
    /// `date`
    Date,
    /// `time`
    Time,
    /// `json`
    Json,
    /// `jsonb`
    Jsonb,
    /// `uuid`
    Uuid,
    /// `bytea`
    Bytea,
    /// Any other, by its name.
    Other(String),
}

/// Why a value cannot be copied: the end of a sentence about it.
pub type Bad = Cow<'static, str>;

/// What was changed on the way, where it is worth counting.
pub type Converted = Option<&'static str>;

type Wrote = Result<Converted, Bad>;

impl Kind {
    /// Writes `value`, which is not NULL, as the server reads it.
    pub fn write(&self, value: Stored<'_>, round: bool, out: &mut String) -> Wrote {
        let value = match value {
            Stored::Text(bytes) => Value::Text(text_of(bytes)?),
            Stored::Blob(bytes) => Value::Blob(bytes),
            Stored::Integer(number) => Value::Integer(number),
            Stored::Real(number) => Value::Real(number),
            Stored::Null => return Err("is NULL".into()),
        };
        match self {
            Self::Bool => boolean(value, out),
            Self::Integer { least, most } => integer(value, *least, *most, out),
            Self::Numeric(limits) => numeric(value, *limits, round, out),
            Self::Float4 => float(value, true, round, out),
            Self::Float8 => float(value, false, round, out),
            Self::Text(limit) => text(value, *limit, out),
            Self::Padded(limit) => padded(value, *limit, out),
            Self::Label => text(value, None, out),
            Self::Timestamp { digits, zone } => timestamp(value, *digits, *zone, round, out),
            Self::Date => date(value, out),
            Self::Time => time_of_day(value, out),
            Self::Json => json_text(value, false, out),
            Self::Jsonb => json_text(value, true, out),
            Self::Uuid => uuid(value, out),
            Self::Bytea => bytes(value, out),
            Self::Other(_) => Err("has a type that `copy` does not know".into()),
        }
    }

    /// Writes the one form of `text`, which is either what was sent or what came back. Nothing where the server can never have written it.
    pub fn canonical(&self, text: &str, out: &mut String) -> Option<()> {
        match self {
            Self::Numeric(_) => write!(out, "{}", Decimal::parse(text)?).ok(),
            // By their bits, so that -0 is not 0.
            Self::Float8 => write!(out, "{:x}", text.parse::<f64>().ok()?.to_bits()).ok(),
            Self::Float4 => write!(out, "{:x}", text.parse::<f32>().ok()?.to_bits()).ok(),
            Self::Padded(_) => {
                out.push_str(text.trim_end_matches(' '));
                Some(())
            }
            Self::Jsonb => json::canonical(text, out).ok(),
            _ => {
                out.push_str(text);
                Some(())
            }
        }
    }

    /// Whether there is an exact sum of it, here and on the server.
    pub fn has_sum(&self) -> bool {
        matches!(self, Self::Integer { .. } | Self::Numeric(_))
    }
}

/// A value whose text is text.
enum Value<'a> {
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

fn text_of(bytes: &[u8]) -> Result<&str, Bad> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is text that is not UTF-8")?;
    match text.contains('\0') {
        true => Err("has a NUL character, which PostgreSQL cannot hold".into()),
        false => Ok(text),
    }
}

fn boolean(value: Value<'_>, out: &mut String) -> Wrote {
    let yes = match value {
        Value::Integer(number @ (0 | 1)) => number == 1,
        Value::Real(number) if number == 0.0 || number == 1.0 => number == 1.0,
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" => true,
            "0" | "f" | "false" => false,
            _ => return Err("is neither true nor false".into()),
        },
        _ => return Err("is neither true nor false".into()),
    };
    out.push(if yes { 't' } else { 'f' });
    Ok(match value {
        Value::Text(_) => Some("text to boolean"),
        _ => Some("0 and 1 to boolean"),
    })
}

/// The number that `value` says, exactly, and whether it was text.
fn exact(value: Value<'_>) -> Result<(Decimal, Converted), Bad> {
    match value {
        Value::Integer(number) => Ok((Decimal::parse(itoa::Buffer::new().format(number)).ok_or("")?, None)),
        Value::Real(number) => Ok((Decimal::shortest(number).ok_or("is not finite")?, None)),
        Value::Text(text) => Ok((Decimal::parse(text).ok_or("is text that is no number")?, Some("text to number"))),
        Value::Blob(_) => Err("is a blob and no number".into()),
    }
}

fn integer(value: Value<'_>, least: i64, most: i64, out: &mut String) -> Wrote {
    let (number, converted) = match value {
        Value::Integer(number) => (number, None),
        other => {
            let (number, converted) = exact(other)?;
            number.fits(Some((19, 0))).map_err(|_| "is no whole number, or too large")?;
            // Of 19 digits and without an exponent behind it: plain.
            let whole = number.to_string().parse().map_err(|_| "is too large")?;
            (whole, converted)
        }
    };
    if !(least..=most).contains(&number) {
        return Err("is too large".into());
    }
    out.push_str(itoa::Buffer::new().format(number));
    Ok(converted)
}

fn numeric(value: Value<'_>, limits: Option<(i64, i64)>, round: bool, out: &mut String) -> Wrote {
    let (mut number, mut converted) = exact(value)?;
    if let (Some((_, scale)), Err(Unfit::TooFine), true) = (limits, number.fits(limits), round) {
        (number, converted) = (number.rounded(scale), Some("rounded"));
    }
    let (precision, scale) = limits.unwrap_or_default();
    number.fits(limits).map_err(|unfit| match (unfit, limits) {
        (Unfit::TooLarge, Some(_)) => Bad::from(format!("is too large for `numeric({precision},{scale})`")),
        (Unfit::TooFine, Some(_)) => {
            format!("has more than the {scale} digits of `numeric({precision},{scale})` behind its point").into()
        }
        (_, None) => "has more digits than `numeric` holds".into(),
    })?;
    // Writing to a `String` does not fail.
    let _ = write!(out, "{number}");
    Ok(converted)
}

fn float(value: Value<'_>, single: bool, round: bool, out: &mut String) -> Wrote {
    let (number, mut converted) = match value {
        Value::Real(number) => (number, None),
        other => {
            let (wanted, converted) = exact(other)?;
            let number: f64 = wanted.to_string().parse().map_err(|_| "is no number")?;
            if !round && Decimal::shortest(number).as_ref() != Some(&wanted) {
                return Err("has more digits than a `double precision` holds".into());
            }
            (number, converted)
        }
    };
    // The shortest text of a double is no double of the same digits once it is a `real`: only what a `real` holds exactly is the same number.
    let narrowed = f64::from(number as f32);
    if single && narrowed != number {
        if !round || narrowed.is_infinite() {
            return Err("has more digits than a `real` holds".into());
        }
        converted = Some("rounded");
    }
    let shown = if single { narrowed } else { number };
    match shown.is_infinite() {
        true => out.push_str(if shown > 0.0 { "Infinity" } else { "-Infinity" }),
        false => out.push_str(zmij::Buffer::new().format(shown)),
    }
    Ok(converted)
}

fn text(value: Value<'_>, limit: Option<usize>, out: &mut String) -> Wrote {
    let converted = match value {
        Value::Text(text) => {
            out.push_str(text);
            None
        }
        Value::Blob(_) => return Err("is a blob and no text".into()),
        number => {
            let _ = write!(out, "{}", exact(number)?.0);
            Some("number to text")
        }
    };
    match limit {
        // Characters, as PostgreSQL counts them (V-9); of bytes there are at least as many.
        Some(limit) if out.len() > limit && out.chars().count() > limit => {
            Err(format!("is longer than {limit} characters").into())
        }
        _ => Ok(converted),
    }
}

fn padded(value: Value<'_>, limit: Option<usize>, out: &mut String) -> Wrote {
    let converted = text(value, None, out)?;
    let kept = out.trim_end_matches(' ');
    match limit {
        Some(limit) if kept.chars().count() > limit => Err(format!("is longer than {limit} characters").into()),
        _ => {
            out.truncate(kept.len());
            Ok(converted)
        }
    }
}

fn timestamp(value: Value<'_>, digits: u32, zone: bool, round: bool, out: &mut String) -> Wrote {
    let (raw, mut converted) = match value {
        Value::Integer(number) => {
            (times::Raw::Integer(number), Some("seconds or milliseconds since 1970 to timestamp"))
        }
        Value::Real(number) => (times::Raw::Real(number), Some("seconds or milliseconds since 1970 to timestamp")),
        Value::Text(text) => {
            let moved = text.get(16..).is_some_and(|rest| rest.contains(['+', '-']));
            (times::Raw::Text(text), moved.then_some("time with an offset to UTC"))
        }
        Value::Blob(_) => (times::Raw::None, None),
    };
    let (mut micros, cut) = time::micros(raw).ok_or("is no time that can be read")?;
    if cut {
        converted = Some("time cut to microseconds");
    }
    let unit = 10_i64.pow(6_u32.saturating_sub(digits));
    if micros.rem_euclid(unit) != 0 {
        if !round {
            return Err(format!("has more than the {digits} digits of its column in its second").into());
        }
        (micros, converted) = ((micros + unit / 2).div_euclid(unit) * unit, Some("rounded"));
    }
    out.push_str(&time::text_of(micros, zone).ok_or("is no time that can be read")?);
    Ok(converted)
}

fn date(value: Value<'_>, out: &mut String) -> Wrote {
    match value {
        Value::Text(text) if time::is_date(text) => {
            out.push_str(text);
            Ok(None)
        }
        _ => Err("is no date like `2026-11-22`".into()),
    }
}

fn time_of_day(value: Value<'_>, out: &mut String) -> Wrote {
    let Value::Text(text) = value else { return Err("is no time of day like `17:09:20`".into()) };
    out.push_str(&time::time_of_day(text).ok_or("is no time of day like `17:09:20`")?);
    Ok(None)
}

fn json_text(value: Value<'_>, binary: bool, out: &mut String) -> Wrote {
    match value {
        Value::Text(text) => {
            let fault = if binary { json::canonical(text, &mut String::new()) } else { json::check(text) };
            fault.map_err(json::Fault::words)?;
            out.push_str(text);
            Ok(None)
        }
        Value::Blob(_) => Err("is a blob and no JSON".into()),
        // A column declared JSON has the affinity NUMERIC: SQLite made a number of the text `5`.
        number => {
            let _ = write!(out, "{}", exact(number)?.0);
            Ok(Some("number to JSON"))
        }
    }
}

fn uuid(value: Value<'_>, out: &mut String) -> Wrote {
    let (hex, converted) = match value {
        Value::Text(text) => {
            let hex: String = text.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
            let dashes: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
            if !(dashes.is_empty() || dashes == [8, 13, 18, 23]) {
                return Err("is no UUID".into());
            }
            (hex, None)
        }
        Value::Blob(bytes) => (hex(bytes), Some("bytes to UUID")),
        _ => return Err("is no UUID".into()),
    };
    if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("is no UUID".into());
    }
    let _ = write!(out, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    Ok(converted)
}

fn bytes(value: Value<'_>, out: &mut String) -> Wrote {
    let (bytes, converted) = match value {
        Value::Blob(bytes) => (bytes, None),
        Value::Text(text) => (text.as_bytes(), Some("text to bytes")),
        _ => return Err("is a number and no bytes".into()),
    };
    out.push_str("\\x");
    out.push_str(&hex(bytes));
    Ok(converted)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

#[cfg(test)]
mod tests;
