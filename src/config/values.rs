//! The kinds of values that a key can have. Each reader answers the value, or the end of a sentence that says what is expected.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::{Value, ValueKind};

use super::layers::{is_textual, value_of_text};
use super::problem::shown;
use crate::nearest::nearest;
use crate::sample::globs::Globs;

/// How a reader answers.
pub(super) type Read<T> = Result<T, String>;

/// The units of durations, from the largest.
const SPANS: [(&str, u64); 6] =
    [("y", 365 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// The units of sizes, from the largest.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Any text.
pub(super) fn text(value: &Value) -> Read<String> {
    match &value.kind {
        ValueKind::String(text) => Ok(text.clone()),
        _ => Err("must be text in quotes".to_owned()),
    }
}

/// A text with something in it.
pub(super) fn words(value: &Value) -> Read<String> {
    match text(value)? {
        text if text.trim().is_empty() => Err("must not be empty".to_owned()),
        text => Ok(text),
    }
}

/// A path.
pub(super) fn path(value: &Value) -> Read<PathBuf> {
    match words(value)? {
        text if text.contains('\0') => Err("must not hold a NUL".to_owned()),
        text => Ok(PathBuf::from(text)),
    }
}

/// `true` or `false`.
pub(super) fn flag(value: &Value) -> Read<bool> {
    match &value.kind {
        ValueKind::Boolean(yes) => Ok(*yes),
        ValueKind::String(text) if is_textual(value) => text.trim().parse().map_err(|_| ()),
        _ => Err(()),
    }
    .map_err(|()| "must be `true` or `false`, without quotes".to_owned())
}

/// A whole number of `range`.
pub(super) fn whole(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Read<u64> {
    move |value| {
        let number = match &value.kind {
            ValueKind::I64(number) => u64::try_from(*number).ok(),
            ValueKind::String(text) if is_textual(value) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|n| range.contains(n)).ok_or_else(|| {
            let quotes = if is_quoted(value) { ", without quotes" } else { "" };
            match *range.end() {
                u64::MAX => format!("must be a whole number from {} on{quotes}", range.start()),
                end => format!("must be a whole number from {} to {end}{quotes}", range.start()),
            }
        })
    }
}

/// Whether a file writes text where another kind is wanted: its quotes are not seen in the value that a problem shows.
fn is_quoted(value: &Value) -> bool {
    matches!(value.kind, ValueKind::String(_)) && !is_textual(value)
}

/// The same as a count of things in memory.
pub(super) fn count(range: RangeInclusive<usize>) -> impl Fn(&Value) -> Read<usize> {
    move |value| whole(*range.start() as u64..=*range.end() as u64)(value).map(|n| n as usize)
}

/// A duration of `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Value) -> Read<Duration> {
    move |value| {
        let text = text(value).map_err(|_| "not a duration; write `60s`, `24h` or `30d` in quotes".to_owned())?;
        let span = parse_duration(&text).ok_or("not a duration; write `60s`, `24h` or `30d`")?;
        match range.contains(&span) {
            true => Ok(span),
            false => {
                Err(format!("must be from `{}` to `{}`", show_duration(*range.start()), show_duration(*range.end())))
            }
        }
    }
}

/// A number of bytes of `range`.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Read<usize> {
    move |value| {
        let text = text(value).map_err(|_| "not a size; write `512KiB` or `32MiB` in quotes".to_owned())?;
        let bytes = parse_size(&text).ok_or("not a size; write `512KiB` or `32MiB`")?;
        match range.contains(&bytes) {
            true => Ok(usize::try_from(bytes).unwrap_or(usize::MAX)),
            false => Err(format!("must be from `{}` to `{}`", show_size(*range.start()), show_size(*range.end()))),
        }
    }
}

/// A list of texts, none of them empty, each once. In the environment and after `--set` also `a,b,c`.
pub(super) fn list(value: &Value) -> Read<Vec<String>> {
    const EXPECTED: &str = "must be a list of texts: `[\"a\", \"b\"]`";
    let elements = match &value.kind {
        ValueKind::Array(elements) => {
            elements.iter().map(|e| text(e).map_err(|_| EXPECTED.to_owned())).collect::<Read<Vec<_>>>()?
        }
        ValueKind::String(text) if is_textual(value) && text.trim_start().starts_with('[') => {
            let parsed = value_of_text(text, value.origin().unwrap_or_default()).ok_or(EXPECTED)?;
            return match &parsed.kind {
                ValueKind::Array(_) => list(&parsed),
                _ => Err(EXPECTED.to_owned()),
            };
        }
        ValueKind::String(text) if is_textual(value) && text.trim().is_empty() => Vec::new(),
        ValueKind::String(text) if is_textual(value) => text.split(',').map(|e| e.trim().to_owned()).collect(),
        _ => return Err(EXPECTED.to_owned()),
    };
    for (at, element) in elements.iter().enumerate() {
        if element.trim().is_empty() {
            return Err("holds an empty text".to_owned());
        }
        if elements[..at].contains(element) {
            return Err(format!("holds `{}` twice", shown(element)));
        }
    }
    Ok(elements)
}

/// A list with something in it.
pub(super) fn some(value: &Value) -> Read<Vec<String>> {
    match list(value)? {
        list if list.is_empty() => Err("must not be empty".to_owned()),
        list => Ok(list),
    }
}

/// Patterns of names.
pub(super) fn globs(value: &Value) -> Read<Globs> {
    list(value).map(Globs::new)
}

/// A list whose elements are all of `known`; each other one is named with the nearest.
pub(super) fn chosen(known: &'static [&'static str], noun: &'static str) -> impl Fn(&Value) -> Read<Vec<String>> {
    move |value| {
        let list = list(value)?;
        let unknown: Vec<String> = list
            .iter()
            .filter(|name| !known.contains(&name.as_str()))
            .map(|name| format!("unknown {noun} `{}`; {}", shown(name), instead(name, known)))
            .collect();
        if unknown.is_empty() { Ok(list) } else { Err(unknown.join("; ")) }
    }
}

/// One of `known`.
pub(super) fn one_of(known: &'static [&'static str]) -> impl Fn(&Value) -> Read<&'static str> {
    move |value| {
        let text = text(value).map_err(|_| one_of_these(known))?;
        known.iter().find(|k| **k == text).copied().ok_or_else(|| instead(&text, known))
    }
}

/// What may have been meant instead of `name`.
pub(super) fn instead(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => one_of_these(known),
    }
}

fn one_of_these(known: &[&str]) -> String {
    format!("must be one of {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", "))
}

/// `500ms`, `60s`, `15m`, `24h`, `30d`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    in_units(text, &SPANS).map(Duration::from_millis)
}

/// In the largest unit that divides it.
pub(super) fn show_duration(span: Duration) -> String {
    show_in_units(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), &SPANS)
}

fn parse_size(text: &str) -> Option<u64> {
    in_units(text, &SIZES)
}

/// In the largest unit that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    show_in_units(bytes, &SIZES)
}

fn in_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show_in_units(number: u64, units: &[(&str, u64)]) -> String {
    let fits = units.iter().find(|(_, factor)| number >= *factor && number.is_multiple_of(*factor));
    match fits.or(units.last()) {
        Some((name, factor)) => format!("{}{name}", number / factor),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_back() {
        for text in ["500ms", "1500ms", "61s", "15m", "23h", "30d"] {
            assert_eq!(parse_duration(text).map(show_duration).as_deref(), Some(text));
        }
        assert_eq!(parse_duration("0s").map(show_duration).as_deref(), Some("0ms"));
        assert_eq!(parse_duration("24h").map(show_duration).as_deref(), Some("1d"));
        for text in ["", "5", "s", "5 parsecs", "-5s", "1.5h", "1h30m", "99999999999999999999s", "9999999999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in ["1B", "512KiB", "32MiB", "3GiB", "1025B"] {
            assert_eq!(parse_size(text).map(show_size).as_deref(), Some(text));
        }
        assert_eq!(parse_size("64MB"), None);
    }
}
