//! Decimal numbers without loss: SQLite hands over integers, doubles and text, PostgreSQL keeps NUMERIC, and neither binary floating point nor the
//! engines' own sums are exact enough to check one against the other (V-6, V-7).

use std::collections::BTreeMap;
use std::fmt;

/// What a NUMERIC without precision holds in front of the point and behind it (<https://www.postgresql.org/docs/current/datatype-numeric.html>).
const MOST_WHOLE: i64 = 131_072;
const MOST_FRACTION: i64 = 16_383;

/// A number: its digits, without zeros at either end, times ten to the exponent. Zero has no digits, and no sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    /// ASCII digits.
    digits: String,
    exponent: i64,
}

/// Why a number does not go into a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Its whole part is too long.
    TooLarge,
    /// Its fraction is longer than the column's scale: the server would round it.
    TooFine,
}

impl Decimal {
    /// From `-12.5`, `.5`, `5.` or `1e-3`; nothing where `text` is anything else, or of a size that no column holds.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, small_integer(exponent)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let fraction_digits = i64::try_from(fraction.len()).ok()?;
        Some(Self::of(negative, format!("{whole}{fraction}"), exponent - fraction_digits))
    }

    /// The shortest decimal that reads back as `value`; nothing where it is not finite.
    pub fn shortest(value: f64) -> Option<Self> {
        value.is_finite().then(|| Self::parse(zmij::Buffer::new().format_finite(value))).flatten()
    }

    fn of(negative: bool, digits: String, mut exponent: i64) -> Self {
        let kept = digits.trim_end_matches('0');
        exponent += (digits.len() - kept.len()) as i64;
        let kept = kept.trim_start_matches('0');
        match kept.is_empty() {
            true => Self { negative: false, digits: String::new(), exponent: 0 },
            false => Self { negative, digits: kept.to_owned(), exponent },
        }
    }

    /// Whether a NUMERIC holds it as it is: of `(precision, scale)`, or any.
    pub fn fits(&self, limits: Option<(i64, i64)>) -> Result<(), Unfit> {
        if self.digits.is_empty() {
            return Ok(());
        }
        let whole = self.digits.len() as i64 + self.exponent;
        let (most_whole, scale) =
            limits.map_or((MOST_WHOLE, MOST_FRACTION), |(precision, scale)| (precision - scale, scale));
        match () {
            () if whole > most_whole => Err(Unfit::TooLarge),
            () if -self.exponent > scale => Err(Unfit::TooFine),
            () => Ok(()),
        }
    }

    /// Rounded to `scale` digits behind the point, halves away from zero, as PostgreSQL does it.
    pub fn rounded(&self, scale: i64) -> Self {
        let surplus = -self.exponent - scale;
        if surplus <= 0 || self.digits.is_empty() {
            return self.clone();
        }
        let kept = usize::try_from(self.digits.len() as i64 - surplus).ok();
        let up = kept.is_some_and(|kept| self.digits.as_bytes()[kept] >= b'5');
        let mut digits = self.digits.as_bytes()[..kept.unwrap_or(0)].to_vec();
        if up {
            // 9s turn over; where all do, a 1 goes in front.
            let nines = digits.iter().rev().take_while(|d| **d == b'9').count();
            let at = digits.len() - nines;
            digits[at..].fill(b'0');
            match at.checked_sub(1) {
                Some(before) => digits[before] += 1,
                None => digits.insert(0, b'1'),
            }
        }
        let text = digits.iter().map(|d| char::from(*d)).collect();
        Self::of(self.negative, text, -scale)
    }
}

fn small_integer(text: &str) -> Option<i64> {
    // Longer exponents belong to numbers that no column holds.
    text.parse::<i64>().ok().filter(|_| text.len() <= 7)
}

/// In PostgreSQL's and everybody's notation: plain where that is short, otherwise with an exponent.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.negative { "-" } else { "" };
        let (digits, count) = (&self.digits, self.digits.len() as i64);
        match self.exponent {
            _ if digits.is_empty() => f.write_str("0"),
            0 => write!(f, "{sign}{digits}"),
            zeros @ 1..=40 => write!(f, "{sign}{digits}{}", "0".repeat(zeros as usize)),
            behind @ -40..0 if count + behind > 0 => {
                let (whole, fraction) = digits.split_at((count + behind) as usize);
                write!(f, "{sign}{whole}.{fraction}")
            }
            behind @ -40..0 => write!(f, "{sign}0.{}{digits}", "0".repeat((-behind - count) as usize)),
            exponent => write!(f, "{sign}{digits}e{exponent}"),
        }
    }
}

/// Digits in a limb of a sum.
const LIMB: usize = 18;
/// Ten to the [`LIMB`].
const BASE: i128 = 1_000_000_000_000_000_000;

/// An exact sum: limbs of 18 digits by position, each with room for 10^20 additions before anything has to be carried.
#[derive(Clone, Debug, Default)]
pub struct Sum(BTreeMap<i64, i128>);

impl Sum {
    /// Adds `number`.
    pub fn add(&mut self, number: &Decimal) {
        let mut position = number.exponent.div_euclid(LIMB as i64);
        let zeros = number.exponent.rem_euclid(LIMB as i64) as usize;
        let digits = format!("{}{}", number.digits, &"0".repeat(LIMB)[..zeros]);
        let mut rest = digits.as_str();
        while !rest.is_empty() {
            let (front, limb) = rest.split_at(rest.len().saturating_sub(LIMB));
            let limb = limb.parse::<i128>().unwrap_or(0);
            *self.0.entry(position).or_default() += if number.negative { -limb } else { limb };
            (rest, position) = (front, position + 1);
        }
    }

    /// The sum.
    pub fn total(&self) -> Decimal {
        let (digits, owed) = self.carried(1);
        let (digits, negative) = match owed {
            true => (self.carried(-1).0, true),
            false => (digits, false),
        };
        let lowest = self.0.keys().next().copied().unwrap_or(0);
        Decimal::of(negative, digits, lowest * LIMB as i64)
    }

    /// The digits of `sign` times the sum, and whether that is below zero (then the digits are of no use).
    fn carried(&self, sign: i128) -> (String, bool) {
        let (Some(lowest), Some(highest)) = (self.0.keys().next(), self.0.keys().next_back()) else {
            return (String::new(), false);
        };
        let mut limbs = Vec::new();
        let mut carry = 0;
        let mut position = *lowest;
        // A debt that stays -1 for ever is the sign.
        while position <= *highest || !(-1..=0).contains(&carry) {
            let limb = sign * self.0.get(&position).copied().unwrap_or(0) + carry;
            limbs.push(limb.rem_euclid(BASE));
            carry = limb.div_euclid(BASE);
            position += 1;
        }
        (limbs.iter().rev().map(|limb| format!("{limb:018}")).collect(), carry < 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn numbers_have_one_form() {
        for (text, shown) in [
            ("5", "5"),
            ("+5.50", "5.5"),
            ("-0.0", "0"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-00012.3400", "-12.34"),
            ("1e3", "1000"),
            ("1E+25", "10000000000000000000000000"),
            ("1E+45", "1e45"),
            ("0.00004", "0.00004"),
            ("5e-324", "5e-324"),
            ("9007199254740993", "9007199254740993"),
        ] {
            assert_eq!(decimal(text).to_string(), shown);
            assert_eq!(decimal(shown), decimal(text));
        }
        for bad in ["", "-", ".", "e5", "1e", "NaN", "Infinity", "abc", "0x10", " 5", "5 ", "1_000", "1e99999999", "٣"]
        {
            assert_eq!(Decimal::parse(bad), None, "{bad}");
        }
        assert_eq!(Decimal::shortest(0.1 + 0.2).unwrap().to_string(), "0.30000000000000004");
        assert_eq!(Decimal::shortest(f64::INFINITY), None);
    }

    #[test]
    fn columns_have_limits_v1_v5() {
        let seed = Some((15, 4));
        assert_eq!(decimal("99999999999.9999").fits(seed), Ok(()));
        assert_eq!(decimal("100000000000").fits(seed), Err(Unfit::TooLarge));
        assert_eq!(decimal("0.00004").fits(seed), Err(Unfit::TooFine));
        assert_eq!(decimal("1e308").fits(None), Ok(()));
        assert_eq!(decimal("1e131072").fits(None), Err(Unfit::TooLarge));
        assert_eq!(decimal("1e-16384").fits(None), Err(Unfit::TooFine));
    }

    #[test]
    fn rounding_is_away_from_zero() {
        for (text, rounded) in [
            ("0.005", "0.01"),
            ("-0.005", "-0.01"),
            ("0.00499", "0"),
            ("9.995", "10"),
            ("0.0004", "0"),
            ("0.996", "1"),
            ("12.34", "12.34"),
            ("1e50", "1e50"),
        ] {
            assert_eq!(decimal(text).rounded(2).to_string(), rounded, "{text}");
        }
    }

    proptest! {
        #[test]
        fn sums_are_those_of_integers(numbers in prop::collection::vec((any::<i64>(), 0_i64..4), 0..40)) {
            let mut sum = Sum::default();
            let mut exact = 0_i128;
            for (number, fraction) in &numbers {
                sum.add(&decimal(&format!("{number}e-{fraction}")));
                exact += i128::from(*number) * 10_i128.pow(4 - *fraction as u32);
            }
            prop_assert_eq!(sum.total(), decimal(&format!("{exact}e-4")));
        }

        #[test]
        fn shortest_decimals_read_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            if let Some(shortest) = Decimal::shortest(value) {
                prop_assert_eq!(shortest.to_string().parse::<f64>().unwrap(), value);
            }
        }
    }

    #[test]
    fn sums_do_not_lose_what_is_small() {
        let mut sum = Sum::default();
        for text in ["1e300", "1e-300", "-1e300", "0.1", "0.2", "-0.3"] {
            sum.add(&decimal(text));
        }
        assert_eq!(sum.total(), decimal("1e-300"));
        assert_eq!(Sum::default().total(), decimal("0"));
    }
}
