//! The local time zone: its offset and abbreviation at an instant, from a TZif file (RFC 9636).
//!
//! node_exporter shows both; the abbreviation (`CET`, `CEST`) is in no crate that we have, and the file format is small. Files
//! written "slim" hold transitions only up to the year in which a rule became fixed, so the rule in the footer (POSIX `TZ`) is read too.

use std::path::{Path, PathBuf};

/// Where zone files are (the first is Linux's; the others are those that Go tries).
const FOLDERS: [&str; 3] = ["usr/share/zoneinfo", "usr/share/lib/zoneinfo", "usr/lib/locale/TZ"];

const DAY: i64 = 86_400;

/// No part of a real file has more than some hundreds of entries; sizes computed from counts must not overflow.
const MAX_COUNT: usize = 1 << 16;

/// Offset in seconds east of UTC and abbreviation of the local zone at `unix` seconds. `TZ` of our environment counts if we live in
/// that root ourselves; an unreadable zone is UTC, as for every C library.
pub fn local(rootfs: &Path, unix: i64) -> (i32, String) {
    let named = if rootfs == Path::new("/") { std::env::var("TZ").ok() } else { None };
    let bytes = match named.as_deref().map(|name| name.strip_prefix(':').unwrap_or(name)) {
        None => std::fs::read(target(rootfs, "etc/localtime")).ok(),
        Some("") => None,
        Some(name) => FOLDERS.iter().find_map(|folder| std::fs::read(rootfs.join(folder).join(name)).ok()),
    };
    bytes.and_then(|bytes| Zone::parse(&bytes)).map_or((0, "UTC".to_owned()), |zone| zone.at(unix))
}

/// A file below `rootfs`; an absolute link in it means a path of that root, not of ours.
fn target(rootfs: &Path, file: &str) -> PathBuf {
    let path = rootfs.join(file);
    match std::fs::read_link(&path) {
        Ok(link) if link.is_absolute() => rootfs.join(link.strip_prefix("/").unwrap_or(&link)),
        _ => path,
    }
}

/// A time zone.
#[derive(Debug)]
pub struct Zone {
    /// From that second on, that one of `kinds`.
    transitions: Vec<(i64, usize)>,
    kinds: Vec<(i32, String)>,
    after: Option<Rule>,
}

impl Zone {
    /// From the bytes of a TZif file; `None` where they are none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let first = Header::read(&mut input)?;
        if first.version == 0 {
            return Self::body(&mut input, &first, 4);
        }
        // Version 2 and up: the same again with times of 64 bits, then the rule.
        input.take(first.size(4))?;
        let second = Header::read(&mut input)?;
        let mut zone = Self::body(&mut input, &second, 8)?;
        let footer = input.0.strip_prefix(b"\n").and_then(|f| f.split(|&b| b == b'\n').next());
        zone.after = footer.and_then(|f| Rule::parse(std::str::from_utf8(f).ok()?));
        Some(zone)
    }

    fn body(input: &mut Input<'_>, header: &Header, width: usize) -> Option<Self> {
        let times = input.take(header.transitions * width)?.chunks_exact(width).map(big_endian);
        let times: Vec<i64> = times.collect();
        let which = input.take(header.transitions)?;
        let kinds = input.take(header.kinds * 6)?;
        let names = input.take(header.name_bytes)?;
        input.take(header.leaps * (width + 4) + header.standard + header.universal)?;
        let kind = |k: &[u8]| {
            let name = names.get(usize::from(k[5])..)?.split(|&b| b == 0).next()?;
            Some((i32::try_from(big_endian(&k[..4])).ok()?, String::from_utf8_lossy(name).into_owned()))
        };
        let kinds: Vec<_> = kinds.chunks_exact(6).map(kind).collect::<Option<_>>()?;
        let transitions: Vec<_> = times.into_iter().zip(which.iter().map(|&w| usize::from(w))).collect();
        let valid = !kinds.is_empty() && transitions.iter().all(|(_, which)| *which < kinds.len());
        valid.then_some(Self { transitions, kinds, after: None })
    }

    /// Offset and abbreviation at `unix` seconds.
    pub fn at(&self, unix: i64) -> (i32, String) {
        let past = self.transitions.partition_point(|(time, _)| *time <= unix);
        if past == self.transitions.len()
            && let Some(rule) = &self.after
        {
            return rule.at(unix);
        }
        // Before the first transition counts the first kind.
        let kind = past.checked_sub(1).map_or(0, |at| self.transitions[at].1);
        self.kinds[kind].clone()
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

struct Header {
    version: u8,
    universal: usize,
    standard: usize,
    leaps: usize,
    transitions: usize,
    kinds: usize,
    name_bytes: usize,
}

impl Header {
    fn read(input: &mut Input<'_>) -> Option<Self> {
        let bytes = input.take(44)?;
        let count = |at: usize| {
            let count = usize::try_from(big_endian(&bytes[20 + 4 * at..24 + 4 * at])).ok()?;
            (count <= MAX_COUNT).then_some(count)
        };
        bytes.starts_with(b"TZif").then_some(())?;
        Some(Self {
            version: bytes[4],
            universal: count(0)?,
            standard: count(1)?,
            leaps: count(2)?,
            transitions: count(3)?,
            kinds: count(4)?,
            name_bytes: count(5)?,
        })
    }

    fn size(&self, width: usize) -> usize {
        let timed = self.transitions * (width + 1) + self.leaps * (width + 4);
        timed + self.kinds * 6 + self.name_bytes + self.standard + self.universal
    }
}

/// A signed number of 4 or 8 bytes.
fn big_endian(bytes: &[u8]) -> i64 {
    let sign = if bytes.first().is_some_and(|b| b & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(sign, |n, &b| (n << 8) | i64::from(b))
}

/// A POSIX `TZ` rule: `CET-1CEST,M3.5.0,M10.5.0/3`.
#[derive(Debug)]
struct Rule {
    standard: (i32, String),
    summer: Option<Summer>,
}

#[derive(Debug)]
struct Summer {
    kind: (i32, String),
    start: Change,
    end: Change,
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let (standard, rest) = named_offset(text, None)?;
        if rest.is_empty() {
            return Some(Self { standard, summer: None });
        }
        // Summer time is one hour ahead unless it says otherwise.
        let (kind, rest) = named_offset(rest, Some(standard.0 + 3600))?;
        let (start, end) = rest.strip_prefix(',')?.split_once(',')?;
        let summer = Summer { kind, start: Change::parse(start)?, end: Change::parse(end)? };
        Some(Self { standard, summer: Some(summer) })
    }

    fn at(&self, unix: i64) -> (i32, String) {
        let Some(summer) = &self.summer else { return self.standard.clone() };
        let year = year_of(unix + i64::from(self.standard.0));
        let start = summer.start.unix(year, self.standard.0);
        let end = summer.end.unix(year, summer.kind.0);
        // South of the equator summer goes over the new year.
        let is_summer = if start <= end { (start..end).contains(&unix) } else { !(end..start).contains(&unix) };
        if is_summer { summer.kind.clone() } else { self.standard.clone() }
    }
}

/// A name, letters or `<+03>`, and its offset, which POSIX counts west of Greenwich.
fn named_offset(text: &str, default: Option<i32>) -> Option<((i32, String), &str)> {
    let (name, rest) = match text.strip_prefix('<') {
        Some(quoted) => quoted.split_once('>')?,
        None => text.split_at(text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len())),
    };
    let end = rest.find(',').into_iter().chain(rest.find(|c: char| c.is_ascii_alphabetic() || c == '<')).min();
    let (offset, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let east = if offset.is_empty() { default? } else { -i32::try_from(seconds(offset)?).ok()? };
    (!name.is_empty()).then(|| ((east, name.to_owned()), rest))
}

/// `[+-]h[:m[:s]]`
fn seconds(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut unit = 3600;
    let mut sum = 0;
    for part in digits.split(':') {
        sum += i64::from(part.parse::<u16>().ok()?) * unit;
        unit /= 60;
    }
    Some(sign * sum)
}

/// When a rule changes the time, in every year.
#[derive(Debug)]
struct Change {
    day: YearDay,
    seconds: i64,
}

#[derive(Debug)]
enum YearDay {
    /// `Jn`: 1 to 365, never 29 February.
    Julian(i64),
    /// `n`: 0 to 365.
    Zero(i64),
    /// `Mm.w.d`: day of the week `d` (Sunday 0) for the `w`th time in month `m`, 5 for the last time.
    Week(i64, i64, i64),
}

impl Change {
    fn parse(text: &str) -> Option<Self> {
        let (day, time) = text.split_once('/').unwrap_or((text, "2"));
        let day = if let Some(week) = day.strip_prefix('M') {
            let mut parts = week.split('.').map(|part| part.parse().ok());
            let (month, week, day) = (parts.next()??, parts.next()??, parts.next()??);
            let valid = (1..=12).contains(&month) && (1..=5).contains(&week) && (0..=6).contains(&day);
            valid.then_some(YearDay::Week(month, week, day))?
        } else if let Some(julian) = day.strip_prefix('J') {
            YearDay::Julian(julian.parse().ok()?)
        } else {
            YearDay::Zero(day.parse().ok()?)
        };
        Some(Self { day, seconds: seconds(time)? })
    }

    /// The instant in `year`, by a clock that is `offset` east of UTC.
    fn unix(&self, year: i64, offset: i32) -> i64 {
        let first = days_to(year, 1);
        let day = match self.day {
            YearDay::Zero(day) => first + day,
            YearDay::Julian(day) => first + day - 1 + i64::from(is_leap(year) && day >= 60),
            YearDay::Week(month, week, weekday) => {
                let month_start = days_to(year, month);
                let next = if month == 12 { days_to(year + 1, 1) } else { days_to(year, month + 1) };
                // 1 January 1970 was a Thursday, 4.
                let first = month_start + (weekday - (month_start + 4)).rem_euclid(7);
                let day = first + 7 * (week - 1);
                if day >= next { day - 7 } else { day }
            }
        };
        day * DAY + self.seconds - i64::from(offset)
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days from 1970 to the first of the month.
fn days_to(year: i64, month: i64) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let last = year - 1;
    let leaps = last.div_euclid(4) - last.div_euclid(100) + last.div_euclid(400) - 477;
    let month = usize::try_from(month - 1).unwrap_or(0);
    (year - 1970) * 365 + leaps + BEFORE[month] + i64::from(month > 1 && is_leap(year))
}

/// The year of a count of seconds.
fn year_of(unix: i64) -> i64 {
    let day = unix.div_euclid(DAY);
    // 365.2425 days a year: at most one off.
    let year = 1970 + day * 400 / 146_097;
    (year - 1..=year + 1).rev().find(|&y| days_to(y, 1) <= day).unwrap_or(year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_change_when_they_say() {
        let berlin = Rule::parse("CET-1CEST,M3.5.0,M10.5.0/3").expect("valid");
        // 2027-03-28 01:00 UTC and 2027-10-31 01:00 UTC.
        for (unix, name) in
            [(1_806_195_599, "CET"), (1_806_195_600, "CEST"), (1_824_944_399, "CEST"), (1_824_944_400, "CET")]
        {
            assert_eq!(berlin.at(unix).1, name, "{unix}");
        }
        let sydney = Rule::parse("AEST-10AEDT,M10.1.0,M4.1.0/3").expect("valid");
        assert_eq!(sydney.at(1_800_000_000), (11 * 3600, "AEDT".to_owned()));
        assert_eq!(Rule::parse("<+0545>-5:45").expect("valid").at(0), (20_700, "+0545".to_owned()));
        for broken in ["", "CET", "CET-1CEST", "CET-1CEST,M3.5.0", "CET-1CEST,M13.5.0,M10.5.0", "<+03-3"] {
            assert!(Rule::parse(broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn days_and_years() {
        assert_eq!(days_to(1970, 1), 0);
        assert_eq!(days_to(2000, 3), 11_017);
        for year in [1900, 1969, 1970, 1999, 2000, 2024, 2025, 2100, 2400] {
            let first = days_to(year, 1) * DAY;
            assert_eq!((year_of(first - 1), year_of(first)), (year - 1, year));
        }
    }

    #[test]
    fn nonsense_is_no_zone() {
        for bytes in [&b""[..], b"TZif", &[0; 44], &[b'T'; 100]] {
            assert!(Zone::parse(bytes).is_none());
        }
        let mut huge = b"TZif2".to_vec();
        huge.extend([0xff; 39]);
        assert!(Zone::parse(&huge).is_none());
        let nowhere = tempfile::tempdir().expect("a folder");
        assert_eq!(local(nowhere.path(), 0), (0, "UTC".to_owned()));
    }
}
