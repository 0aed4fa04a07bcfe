//! Numbers as Go reads and writes them, because the text formats are defined by Go's `strconv.ParseFloat`.

use crate::clock::Timestamp;

/// A value: decimal, hexadecimal with a binary exponent, `Inf`, `Infinity` with or without sign, `NaN`, in any case.
///
/// As in Prometheus, a number too large for a double is refused instead of becoming infinite, and so are underscores.
pub(super) fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned.as_bytes() {
        [b'0', b'x' | b'X', ..] => hexadecimal(&unsigned[2..]).map(|v| if text.starts_with('-') { -v } else { v }),
        [b'0'..=b'9' | b'.', ..] => text.parse().ok().filter(|v: &f64| v.is_finite()),
        [b'i' | b'I', ..] => text.parse().ok(),
        [b'n' | b'N', ..] if unsigned.len() == text.len() => text.parse().ok(),
        _ => None,
    }
}

/// A sample's time in OpenMetrics: seconds with a fraction; finer than a millisecond is rounded.
pub(super) fn seconds(text: &str) -> Option<Timestamp> {
    let millis = (float(text)? * 1000.0).round();
    // Beyond 2^50 (the year 37,000) a double of seconds does not tell milliseconds apart. NaN is refused with it.
    (millis.abs() <= (1i64 << 50) as f64).then_some(Timestamp::from_millis(millis as i64))
}

/// A sample's time in the text formats: whole milliseconds.
pub(super) fn millis(text: &str) -> Option<Timestamp> {
    text.parse().ok().map(Timestamp::from_millis)
}

/// What follows `0x`: digits with an optional point, then `p` and an exponent of two, which Go demands.
fn hexadecimal(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once(['p', 'P'])?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (mut bits, mut lost, mut shift) = (0u64, false, 0i64);
    for digit in whole.chars().chain(fraction.chars()) {
        let digit = u64::from(digit.to_digit(16)?);
        if bits >> 60 == 0 {
            bits = bits << 4 | digit;
        } else {
            lost |= digit != 0;
            shift += 4;
        }
    }
    let exponent: i64 = exponent.parse().ok()?;
    let power = exponent.checked_add(shift)?.checked_sub(4 * i64::try_from(fraction.len()).ok()?)?;
    rounded(bits, lost, power)
}

/// `bits` × 2^`power`, rounded half to even; `lost` says that non-zero bits came after them. `None` if a double cannot hold it.
fn rounded(bits: u64, lost: bool, power: i64) -> Option<f64> {
    if bits == 0 {
        return Some(0.0);
    }
    let zeros = bits.leading_zeros();
    let bits = bits << zeros;
    let power = power.checked_sub(i64::from(zeros))?;
    let exponent = power.checked_add(63)?;
    if exponent > 1023 {
        return None;
    }
    // A double keeps 53 bits, and below 2^-1022 one less for every power of two.
    let dropped = 11 + (-1022 - exponent).max(0);
    if dropped > 64 {
        return Some(0.0);
    }
    let wide = u128::from(bits);
    let kept = wide >> dropped;
    let rest = wide & ((1 << dropped) - 1);
    let half = 1u128 << (dropped - 1);
    let up = rest > half || rest == half && (lost || kept & 1 == 1);
    let value = (kept + u128::from(up)) as f64 * power_of_two(power + dropped);
    value.is_finite().then_some(value)
}

/// 2^`power` for -1074 ≤ `power` ≤ 1023.
fn power_of_two(power: i64) -> f64 {
    let bits = if power >= -1022 { (power + 1023) << 52 } else { 1 << (power + 1074) };
    f64::from_bits(bits as u64)
}

/// How Prometheus 3 writes the value of `le` and `quantile`: shortest digits, always with a point or an exponent (`formatOpenMetricsFloat`,
/// which is Go's `%g` plus `.0`).
pub(super) fn canonical(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value == 0.0 {
        return "0.0".to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    // Go's `%g` with the shortest precision changes to exponents below 1e-4 and from 1e6 on.
    if (-4..6).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_go_reads_them() {
        for (text, value) in [
            ("0", 0.0),
            ("-1", -1.0),
            ("+1.5", 1.5),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e300", 1e300),
            ("1E+3", 1000.0),
            ("5e-324", 5e-324),
            ("1e-400", 0.0),
            ("9007199254740993", 9007199254740992.0),
            ("inf", f64::INFINITY),
            ("+Inf", f64::INFINITY),
            ("-INFINITY", f64::NEG_INFINITY),
            ("0x1p3", 8.0),
            ("-0X1.8p1", -3.0),
            ("0x.8p0", 0.5),
            ("0x1p-1074", 5e-324),
            ("0x1p-1075", 0.0),
            ("0x1.8p-1075", 5e-324),
            ("0x1.fffffffffffffp1023", f64::MAX),
            ("0x1.00000000000008p0", 1.0),
            ("0x1.000000000000080000001p0", 1.0 + f64::EPSILON),
            ("0x1.00000000000018p0", 1.0 + 2.0 * f64::EPSILON),
        ] {
            assert_eq!(float(text), Some(value), "{text}");
        }
        assert!(float("NaN").is_some_and(f64::is_nan));
        assert!(float("nan").is_some_and(f64::is_nan));
        assert!(float("-0").is_some_and(|v| v == 0.0 && v.is_sign_negative()));
        for text in [
            "",
            "+",
            "-",
            ".",
            "e5",
            "1e",
            "1_000",
            "0x1",
            "0xp1",
            "0x1p",
            "0x1_0p1",
            "0x1p1024",
            "1e400",
            "-1e309",
            "+NaN",
            "-nan",
            "infi",
            "in",
            "nano",
            "+-1",
            "1,5",
            "0x",
            "0b1",
            "1 ",
            "0x1p99999999999999999999",
            "0x1p1.5",
            "0xgp1",
            "0x1.fffffffffffff8p1023",
        ] {
            assert_eq!(float(text), None, "{text}");
        }
    }

    #[test]
    fn bucket_bounds_are_written_as_prometheus_3_writes_them() {
        for (value, text) in [
            (1.0, "1.0"),
            (0.0, "0.0"),
            (-0.0, "0.0"),
            (-1.0, "-1.0"),
            (0.005, "0.005"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (2.5, "2.5"),
            (100_000.0, "100000.0"),
            (1e6, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (1e100, "1e+100"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(canonical(value), text);
        }
    }

    #[test]
    fn times_are_milliseconds_or_seconds() {
        assert_eq!(millis("-5"), Some(Timestamp::from_millis(-5)));
        assert_eq!(millis("1.5"), None);
        assert_eq!(millis("9223372036854775808"), None);
        assert_eq!(seconds("1520879607.789"), Some(Timestamp::from_millis(1_520_879_607_789)));
        assert_eq!(seconds("-1.5e0"), Some(Timestamp::from_millis(-1500)));
        for text in ["NaN", "+Inf", "1e300", "1.2e12"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
