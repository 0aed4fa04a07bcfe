//! One source's series, rendered once: what a scrape copies instead of formatting it again.
//!
//! A series is its text up to the value (`name{label="value"} `), a value and a time. A scrape of 100,000 series then is a walk over one
//! buffer; rendering names and labels per scrape took more than ten times as long.
//!
//! A histogram or summary is shown whole or not at all: its series form a group that is admitted, dropped and stale as one. Where
//! `expose.hidden` names only some of its series, the others become families of type unknown, for what is left is no histogram.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::sample::names::{Of, Scheme};
use crate::sample::{Batch, Family, Kind, Labels, Sample, Suffix};

use super::Settings;
use super::sound::{is_sound, same_group};

/// Gauges are stale after this at the earliest: Prometheus' own lookback.
const GAUGES_STALE_AFTER: Duration = Duration::from_secs(300);

/// One rendered series.
#[derive(Clone, Debug)]
pub struct Series {
    /// Where its text ends in [`Shown::text`]; it starts where the one before ends.
    pub end: u32,
    /// Which of its family's series it is.
    pub suffix: Suffix,
    /// Whether it is the first of its histogram or summary; other series are groups of their own.
    pub leads: bool,
    /// When it was measured.
    pub at: Timestamp,
    /// Its value.
    pub value: f64,
    /// Hash of its text.
    pub hash: u64,
}

/// A family's head and where its series are.
#[derive(Clone, Debug)]
pub struct ShownFamily {
    /// Its name in legacy characters.
    pub name: String,
    /// Its name as it is, where that has other characters.
    pub raw: Option<String>,
    /// Its kind.
    pub kind: Kind,
    /// Whether OpenMetrics takes its values for that kind (`sound`).
    pub sound: bool,
    /// Its help.
    pub help: String,
    /// Its series in [`Shown::series`].
    pub series: Range<usize>,
}

/// A series' name and labels as they are, where they have characters beyond the legacy ones.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// The family's name with what is shown before it, without suffix.
    pub name: String,
    /// The suffix.
    pub suffix: Suffix,
    /// The labels.
    pub labels: Labels,
}

/// All series of one source.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The families by name.
    pub families: Vec<ShownFamily>,
    /// The texts of all series, one after another.
    pub text: Vec<u8>,
    /// The series, family by family.
    pub series: Vec<Series>,
    /// Those with foreign characters, by their place in `series`.
    pub foreign: HashMap<usize, Foreign>,
    gauges_for: Duration,
    counters_for: Duration,
}

/// A family on its way in: the samples that are shown under a name.
struct Draft<'a> {
    name: String,
    raw: String,
    kind: Kind,
    help: &'a str,
    /// The suffix that has become a part of the name.
    within: Suffix,
    samples: Vec<&'a Sample>,
}

impl Shown {
    /// Renders what `batch` holds and `settings` do not hide.
    pub(super) fn render(batch: &Batch, interval: Duration, settings: &Settings, hash: impl Fn(&[u8]) -> u64) -> Self {
        let mut drafts: Vec<Draft<'_>> = batch.families.iter().flat_map(|family| drafts(family, settings)).collect();
        drafts.sort_by(|a, b| a.name.cmp(&b.name));
        let mut shown = Self {
            gauges_for: GAUGES_STALE_AFTER.max(interval * 3),
            counters_for: settings.counters_stale_after.max(interval * 3),
            ..Self::default()
        };
        for draft in drafts {
            shown.add_family(draft, batch.at, &hash);
        }
        // Held until the source's next collection, so without the room to grow.
        shown.text.shrink_to_fit();
        shown.series.shrink_to_fit();
        shown
    }

    fn add_family(&mut self, draft: Draft<'_>, at: Timestamp, hash: &impl Fn(&[u8]) -> u64) {
        let Draft { name, raw, kind, help, within, samples } = draft;
        let first = self.series.len();
        let mut before: Option<&Sample> = None;
        for &sample in &samples {
            let start = self.text.len();
            let suffix = if within == Suffix::None { sample.suffix } else { Suffix::None };
            write_series(&mut self.text, &name, suffix, &sample.labels, Scheme::Underscores);
            // Offsets are 32 bits wide: past 4 GiB of names the rest of the source is left out (the series cap is far below).
            let Ok(end) = u32::try_from(self.text.len()) else {
                self.text.truncate(start);
                break;
            };
            let hash = hash(&self.text[start..self.text.len() - 1]);
            if raw != name || sample.labels.iter().any(|(name, _)| !is_plain(name)) {
                let foreign = Foreign { name: raw.clone(), suffix, labels: sample.labels.clone() };
                self.foreign.insert(self.series.len(), foreign);
            }
            let leads = before.is_none_or(|before| !same_group(kind, &before.labels, &sample.labels));
            before = Some(sample);
            self.series.push(Series { end, suffix, leads, at: sample.at.unwrap_or(at), value: sample.value, hash });
        }
        if first < self.series.len() {
            // A histogram is as old as the oldest of its series: it goes stale whole.
            for group in groups_mut(&mut self.series[first..]).filter(|group| group.len() > 1) {
                let oldest = group.iter().map(|s| s.at).min().unwrap_or(at);
                group.iter_mut().for_each(|s| s.at = oldest);
            }
            let (sound, raw) = (is_sound(kind, &samples), (raw != name).then_some(raw));
            let (help, series) = (help.to_owned(), first..self.series.len());
            self.families.push(ShownFamily { name, raw, kind, sound, help, series });
        }
    }

    /// The text of the series at `place`, with its trailing space.
    pub fn text_of(&self, place: usize) -> &[u8] {
        let start = if place == 0 { 0 } else { self.series[place - 1].end as usize };
        &self.text[start..self.series[place].end as usize]
    }

    /// The groups of series that are shown or dropped as one, by their places.
    pub(super) fn groups(&self) -> impl Iterator<Item = Range<usize>> {
        self.series.chunk_by(|_, b| !b.leads).scan(0, |end, group| {
            let start = *end;
            *end += group.len();
            Some(start..*end)
        })
    }

    /// The suffixes that series of `family` have.
    pub fn suffixes(&self, family: &ShownFamily) -> impl Iterator<Item = Suffix> {
        let series = &self.series[family.series.clone()];
        SUFFIXES.into_iter().filter(|suffix| series.iter().any(|s| s.suffix == *suffix))
    }

    /// The moment up to which a sample of that kind must have been measured to be shown at `now`.
    pub fn oldest_shown(&self, kind: Kind, now: Timestamp) -> Timestamp {
        now.before(match kind {
            Kind::Gauge | Kind::Unknown => self.gauges_for,
            Kind::Counter | Kind::Histogram | Kind::Summary => self.counters_for,
        })
    }

    /// Without the series whose place in `dropped` is true.
    pub(super) fn without(&self, dropped: &[bool]) -> Self {
        let mut kept = Self { gauges_for: self.gauges_for, counters_for: self.counters_for, ..Self::default() };
        for family in &self.families {
            let first = kept.series.len();
            for place in family.series.clone().filter(|&place| !dropped[place]) {
                kept.text.extend_from_slice(self.text_of(place));
                if let Some(foreign) = self.foreign.get(&place) {
                    kept.foreign.insert(kept.series.len(), foreign.clone());
                }
                // The kept text is a part of the old one, whose length fitted.
                kept.series.push(Series { end: kept.text.len() as u32, ..self.series[place].clone() });
            }
            if first < kept.series.len() {
                kept.families.push(ShownFamily { series: first..kept.series.len(), ..family.clone() });
            }
        }
        kept.text.shrink_to_fit();
        kept.series.shrink_to_fit();
        kept
    }
}

/// All suffixes, that of the family's own name first.
pub const SUFFIXES: [Suffix; 4] = [Suffix::None, Suffix::Bucket, Suffix::Sum, Suffix::Count];

/// `family` as it is shown: as one, in parts where only parts of it are hidden, or not at all.
fn drafts<'a>(family: &'a Family, settings: &Settings) -> Vec<Draft<'a>> {
    let mut raw = settings.shown_name(&family.name);
    if raw.is_empty() {
        // Nothing else can be shown, in any scheme.
        raw.push('_');
    }
    let name = Of::Metric.escape(&raw, Scheme::Underscores).into_owned();
    let has = |suffix: Suffix| family.samples.iter().any(|s| s.suffix == suffix);
    let hidden = |suffix: Suffix| settings.hidden.matches(&format!("{name}{}", suffix.text()));
    let (hidden, open): (Vec<_>, Vec<_>) = SUFFIXES.into_iter().filter(|s| has(*s)).partition(|s| hidden(*s));
    let draft = |kind, within: Suffix, samples| Draft {
        name: format!("{name}{}", within.text()),
        raw: format!("{raw}{}", within.text()),
        kind,
        help: &family.help,
        within,
        samples,
    };
    if hidden.is_empty() {
        return vec![draft(family.kind, Suffix::None, family.samples.iter().collect())];
    }
    let part = |suffix| {
        let samples = family.samples.iter().filter(|s| s.suffix == suffix).collect();
        draft(Kind::Unknown, suffix, samples)
    };
    open.into_iter().map(part).collect()
}

/// Whether a label's name is the same under all schemes but dots, and no other name becomes it.
fn is_plain(name: &str) -> bool {
    Of::Label.is_legacy(name) && !name.starts_with("U__")
}

fn groups_mut(series: &mut [Series]) -> impl Iterator<Item = &mut [Series]> {
    series.chunk_by_mut(|_, b| !b.leads)
}

/// Labels that may be shown: a name that begins with `__` is reserved by Prometheus and gets `tag` in front; so does an empty one.
fn shown_labels(labels: &Labels) -> Cow<'_, Labels> {
    let fine = |name: &str| !name.is_empty() && !name.starts_with("__");
    if labels.iter().all(|(name, _)| fine(name)) {
        return Cow::Borrowed(labels);
    }
    // Those that keep their names first, so that no other takes one of them (V-12).
    let (kept, renamed): (Vec<_>, Vec<_>) = labels.iter().partition(|(name, _)| fine(name));
    let mut shown: Labels = kept.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for (name, value) in renamed {
        let name = numbered(format!("tag{name}"), |name| shown.get(name).is_some());
        shown.set(name, value);
    }
    Cow::Owned(shown)
}

/// Appends `name_suffix{labels} `, or under [`Scheme::AllowUtf8`] with foreign characters `{"name_suffix","label"="value"} `.
///
/// The labels stand in the order of the names that they get, so that equal series have equal texts.
pub fn write_series(out: &mut Vec<u8>, name: &str, suffix: Suffix, labels: &Labels, scheme: Scheme) {
    let labels = &*shown_labels(labels);
    let quoted = scheme == Scheme::AllowUtf8 && !Of::Metric.is_legacy(name);
    if quoted {
        out.extend_from_slice(b"{\"");
        write_escaped(out, name, true);
        out.extend_from_slice(suffix.text().as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(Of::Metric.escape(name, scheme).as_bytes());
        out.extend_from_slice(suffix.text().as_bytes());
    }
    let mut before = if quoted { b',' } else { b'{' };
    let mut write_label = |out: &mut Vec<u8>, name: &str, value: &str| {
        out.push(before);
        before = b',';
        if Of::Label.is_legacy(name) {
            out.extend_from_slice(name.as_bytes());
        } else {
            out.push(b'"');
            write_escaped(out, name, true);
            out.push(b'"');
        }
        out.extend_from_slice(b"=\"");
        write_escaped(out, value, true);
        out.push(b'"');
    };
    if scheme == Scheme::AllowUtf8
        || (scheme != Scheme::Dots && labels.iter().all(|(name, _)| Of::Label.is_legacy(name)))
    {
        labels.iter().for_each(|(name, value)| write_label(out, name, value));
    } else {
        escaped(labels, scheme).iter().for_each(|(name, value)| write_label(out, name, value));
    }
    if quoted || !labels.is_empty() {
        out.push(b'}');
    }
    out.push(b' ');
}

/// The labels under a scheme that changes names, sorted by those that they get.
fn escaped(labels: &Labels, scheme: Scheme) -> Vec<(String, &str)> {
    let mut named: Vec<(String, &str)> = Vec::with_capacity(labels.len());
    for (name, value) in labels.iter() {
        let name = unused(name, labels, scheme, &named);
        named.push((name, value));
    }
    named.sort_unstable();
    named
}

/// Two tags that become one label (`a.b` and `a_b`): the one that has the name by right keeps it, the others get `_2`, `_3`, …
fn unused(raw: &str, labels: &Labels, scheme: Scheme, used: &[(String, &str)]) -> String {
    let name = Of::Label.escape(raw, scheme).into_owned();
    if Of::Label.is_legacy(raw) {
        return name;
    }
    // `°°C` would become a reserved name, and so would the second `°`.
    let name = if scheme == Scheme::Underscores && (name.starts_with("__") || name == "_") {
        format!("tag{name}")
    } else {
        name
    };
    let by_right = |name: &str| {
        let mut others = labels.iter().filter(|(other, _)| *other != raw && Of::Label.is_legacy(other));
        others.any(|(other, _)| Of::Label.escape(other, scheme) == name)
    };
    numbered(name, |name| used.iter().any(|(used, _)| used == name) || by_right(name))
}

/// `name`, or where that is taken the first free of `name_2`, `name_3`, …
fn numbered(name: String, taken: impl Fn(&str) -> bool) -> String {
    if !taken(&name) {
        return name;
    }
    (2..).map(|n| format!("{name}_{n}")).find(|name| !taken(name)).unwrap_or(name)
}

/// Appends `text` with backslash and line feed escaped, and the quote where it stands in quotes.
pub fn write_escaped(out: &mut Vec<u8>, text: &str, quoted: bool) {
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'"' if quoted => b"\\\"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..at]);
        out.extend_from_slice(escape);
        from = at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, labels: &[(&str, &str)], scheme: Scheme) -> String {
        let labels: Labels = labels.iter().map(|&(n, v)| (n.to_owned(), v)).collect();
        let mut out = Vec::new();
        write_series(&mut out, name, Suffix::None, &labels, scheme);
        String::from_utf8(out).unwrap()
    }

    /// V-12: tags that become one label stay two.
    #[test]
    fn tags_that_collapse_are_told_apart() {
        let labels = [("a.b", "1"), ("a_b", "2"), ("a-b", "3")];
        assert_eq!(text("m", &labels, Scheme::Underscores), r#"m{a_b="2",a_b_2="3",a_b_3="1"} "#);
        assert_eq!(text("m", &labels, Scheme::AllowUtf8), r#"m{"a-b"="3","a.b"="1",a_b="2"} "#);
    }

    #[test]
    fn foreign_names_and_values_are_escaped() {
        let labels = [("path", "C:\\DIR\n\"x\"")];
        assert_eq!(text("my.m", &labels, Scheme::AllowUtf8), "{\"my.m\",path=\"C:\\\\DIR\\n\\\"x\\\"\"} ");
        assert_eq!(text("my.m", &[], Scheme::AllowUtf8), "{\"my.m\"} ");
        assert_eq!(text("my.m", &[], Scheme::Dots), "my_dot_m ");
        assert_eq!(text("m", &[], Scheme::Underscores), "m ");
    }

    /// V-12: what Prometheus keeps for itself, and what is no name.
    #[test]
    fn reserved_and_empty_names_are_tagged() {
        let labels = [("__name__", "1"), ("tag__name__", "2"), ("", "3"), ("°°C", "4")];
        let expected = r#"m{tag="3",tag__C="4",tag__name__="2",tag__name___2="1"} "#;
        assert_eq!(text("m", &labels, Scheme::Underscores), expected);
        let expected = r#"m{tag="3",tag__name__="2",tag__name___2="1","°°C"="4"} "#;
        assert_eq!(text("m", &labels, Scheme::AllowUtf8), expected);
        assert_eq!(text("m", &[("a-b", "1"), ("a_b", "2")], Scheme::Dots), r#"m{a__b="2",a__b_2="1"} "#);
    }
}
