//! What the columns of `system_metrics` can hold, as the catalog says, and PostgreSQL's own rules about it, applied before a row is sent.
//!
//! Tables that we make have an unbounded NUMERIC; the specification's own is `DECIMAL(15,4)` and holds nothing from 100 billion on (V-1), and
//! somebody may have made it DOUBLE PRECISION, REAL or an integer. A row that does not fit is refused here, by name, at no cost; one that
//! slipped through costs the whole batch a round (V-2). What fits is rounded by the column (V-5).

use sqlx::{PgConnection, Row as _};

use crate::engine::samples::is_longer;
use crate::store::{Row, StoreError};

/// The types of our columns, and whether a unique index on the id makes a repeated append harmless. `to_regclass` finds the table as a
/// statement does, by `search_path`.
const COLUMNS: &str = "SELECT a.attname::text, a.atttypid::regtype::text, a.atttypmod, EXISTS (SELECT FROM pg_index i \
     WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND a.attnum = ANY (i.indkey)) \
     FROM pg_attribute a WHERE a.attrelid = to_regclass('system_metrics') AND a.attnum > 0 AND NOT a.attisdropped";

/// The columns that a row has.
const NAMES: [&str; 5] = ["id", "metric_name", "metric_value", "tags", "recorded_at"];

/// What the table can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    name_characters: usize,
    pub value: Number,
    has_jsonb: bool,
}

/// What the column of values can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// Every finite number: NUMERIC without bounds, DOUBLE PRECISION; or a type that only the server knows.
    Any,
    /// `NUMERIC(precision, scale)`
    Decimal {
        /// Digits in all.
        precision: i32,
        /// Digits behind the point; negative ones are zeros before it.
        scale: i32,
    },
    /// REAL
    Single,
    /// SMALLINT, INTEGER, BIGINT: bits without the sign.
    Integer(i32),
}

impl Columns {
    /// Reads them; the error says what is missing.
    pub async fn read(connection: &mut PgConnection) -> Result<Result<Self, String>, sqlx::Error> {
        let mut found = Self { name_characters: usize::MAX, value: Number::Any, has_jsonb: false };
        let (mut missing, mut unique) = (NAMES.to_vec(), false);
        for row in sqlx::query(COLUMNS).fetch_all(connection).await? {
            let (name, kind, modifier): (&str, &str, i32) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            missing.retain(|missing| *missing != name);
            match name {
                "id" => unique = row.try_get(3)?,
                // The modifier of a text is its length and four bytes of header; -1 is none.
                "metric_name" => {
                    found.name_characters = usize::try_from(modifier.saturating_sub(4)).unwrap_or(usize::MAX);
                }
                "metric_value" => found.value = Number::of(kind, modifier),
                "tags" => found.has_jsonb = kind == "jsonb",
                _ => {}
            }
        }
        Ok(match missing.as_slice() {
            [] if unique => Ok(found),
            [] => {
                Err("`system_metrics.id` has no unique index, and a repeated append would store rows twice".to_owned())
            }
            missing if missing.len() == NAMES.len() => Err("there is no table `system_metrics`".to_owned()),
            [missing, ..] => Err(format!("`system_metrics` has no column `{missing}`")),
        })
    }

    /// The first of `rows` that the table would refuse.
    pub fn check(&self, rows: &[Row]) -> Result<(), StoreError> {
        let refused = rows.iter().enumerate().find_map(|(row, it)| self.refuses(it).map(|reason| (row, reason)));
        refused.map_or(Ok(()), |(row, reason)| Err(StoreError::Rejected { row, reason }))
    }

    fn refuses(&self, row: &Row) -> Option<&'static str> {
        if is_longer(&row.name, self.name_characters) {
            return Some("name_too_long");
        }
        // No text of PostgreSQL holds NUL, and jsonb, which keeps texts and not JSON, holds no escaped one either.
        if row.name.contains('\0') || row.tags.contains('\0') || (self.has_jsonb && escapes_nul(&row.tags)) {
            return Some("encoding");
        }
        (!self.value.holds(row.value)).then_some("overflow")
    }
}

/// Whether there is a `\u0000` in `json` whose backslash is not itself escaped.
fn escapes_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| {
        let before = json.as_bytes()[..at].iter().rev().take_while(|b| **b == b'\\').count();
        before % 2 == 0
    })
}

impl Number {
    fn of(kind: &str, modifier: i32) -> Self {
        match kind {
            // Four bytes of header, the precision in the upper half, the scale in eleven bits with its sign
            // (`numeric_typmod_scale` in src/backend/utils/adt/numeric.c; before 15 there was no sign, and no scale above 1000).
            "numeric" if modifier >= 4 => {
                let bits = modifier - 4;
                Self::Decimal { precision: (bits >> 16) & 0xffff, scale: ((bits & 0x7ff) ^ 1024) - 1024 }
            }
            "real" => Self::Single,
            "smallint" => Self::Integer(15),
            "integer" => Self::Integer(31),
            "bigint" => Self::Integer(63),
            _ => Self::Any,
        }
    }

    /// Whether the column takes `value`, finite, as [`Number::push`] writes it.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::Any => true,
            Self::Decimal { precision, scale } => {
                // Rounding moves no value by more than a half, so most need no look at their digits.
                let room = precision - scale;
                (scale >= 0 && room >= 1 && value.abs() < 0.5 * 10_f64.powi(room))
                    || fits(zmij::Buffer::new().format_finite(value), precision, scale)
            }
            // As `float4in`: neither infinite nor, unless it is zero, zero.
            Self::Single => {
                let single: f32 = zmij::Buffer::new().format_finite(value).parse().unwrap_or(f32::NAN);
                single.is_finite() && (single != 0.0 || value == 0.0)
            }
            Self::Integer(bits) => {
                let (rounded, end) = (value.round(), 2_f64.powi(bits));
                -end <= rounded && rounded < end
            }
        }
    }

    /// Writes `value` the way that the column reads it: the shortest decimal text that means this number and no other. (A cast from float8 to
    /// numeric on the server would keep 15 digits.) For an integer it is rounded as PostgreSQL rounds a numeric, half away from zero.
    pub fn push(self, out: &mut Vec<u8>, value: f64) {
        match self {
            Self::Integer(_) => out.extend_from_slice(itoa::Buffer::new().format(value.round() as i64).as_bytes()),
            _ => {
                let mut buffer = zmij::Buffer::new();
                let text = buffer.format_finite(value);
                // `5`, not `5.0`: a numeric keeps, and shows, the zeros that it got.
                out.extend_from_slice(text.strip_suffix(".0").unwrap_or(text).as_bytes());
            }
        }
    }
}

/// Whether `numeric(precision, scale)` takes the decimal number `text`: rounded to the scale, half away from zero, it must have no more than
/// `precision - scale` digits before the point (`apply_typmod` in src/backend/utils/adt/numeric.c).
fn fits(text: &str, precision: i32, scale: i32) -> bool {
    let (digits, point) = decimal(text);
    let Ok(kept) = usize::try_from(point + scale) else { return true };
    let point = match digits.get(kept) {
        // It ends before.
        None => point,
        Some(b'5'..) if digits[..kept].iter().all(|digit| *digit == b'9') => point + 1,
        // Less than half of the least number is zero.
        Some(_) if kept == 0 => return true,
        Some(_) => point,
    };
    digits.is_empty() || point <= precision - scale
}

/// The digits of `text`, a finite number with or without point and exponent, and where the point is: 0.DIGITS × 10^point.
fn decimal(text: &str) -> (Vec<u8>, i32) {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let mantissa = mantissa.trim_start_matches('-');
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    let point = whole.len() as i32 - zeros as i32 + exponent.parse::<i32>().unwrap_or(0);
    (digits[zeros..].to_vec(), point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_a_numeric_takes_what_has_room_after_rounding() {
        for (text, precision, scale, wanted) in [
            ("99999999999.9999", 15, 4, true),
            ("99999999999.99994", 15, 4, true),
            ("99999999999.99995", 15, 4, false),
            ("-99999999999.99995", 15, 4, false),
            ("100000000000", 15, 4, false),
            ("1e11", 15, 4, false),
            ("1e300", 15, 4, false),
            ("5e-324", 15, 4, true),
            ("0", 3, 3, true),
            ("0.9994", 3, 3, true),
            ("0.9995", 3, 3, false),
            ("0.00094", 3, 5, true),
            ("0.0099995", 3, 5, false),
            ("0.01", 3, 5, false),
            ("99949", 3, -2, true),
            ("99950", 3, -2, false),
            ("49", 1, -2, true),
            ("50", 1, -2, true),
            ("949", 1, -2, true),
            ("950", 1, -2, false),
        ] {
            assert_eq!(fits(text, precision, scale), wanted, "{text} as numeric({precision},{scale})");
        }
    }

    #[test]
    fn a_type_is_told_by_its_name_and_modifier() {
        // (15 << 16 | 4) + 4, and (3 << 16 | -2 in eleven bits) + 4, as pg_attribute has them.
        assert_eq!(Number::of("numeric", 983_048), Number::Decimal { precision: 15, scale: 4 });
        assert_eq!(Number::of("numeric", 198_658), Number::Decimal { precision: 3, scale: -2 });
        assert_eq!(Number::of("numeric", -1), Number::Any);
        assert_eq!(Number::of("double precision", -1), Number::Any);
    }

    #[test]
    fn integers_are_rounded_half_away_from_zero() {
        let written = |value| {
            let mut out = Vec::new();
            Number::Integer(63).push(&mut out, value);
            String::from_utf8(out).unwrap()
        };
        assert_eq!([0.5, -0.5, 1.4999, -0.0, 2.5].map(written), ["1", "-1", "1", "0", "3"]);
        assert!(Number::Integer(15).holds(32_767.4) && !Number::Integer(15).holds(32_767.5));
        assert!(Number::Integer(63).holds(-9_223_372_036_854_775_808.0) && !Number::Integer(63).holds(2_f64.powi(63)));
    }

    #[test]
    fn only_an_unescaped_escape_is_nul() {
        assert!(escapes_nul(r#"{"a":"\u0000"}"#));
        assert!(escapes_nul(r#"{"a":"\\\u0000"}"#));
        assert!(!escapes_nul(r#"{"a":"\\u0000"}"#));
        assert!(!escapes_nul("{}"));
    }
}
