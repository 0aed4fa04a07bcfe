//! One source's series, rendered once: what a scrape copies instead of formatting it again.
//!
//! A series is its text up to the value (`name{label="value"} `), a value and a time. A scrape of 100,000 series then is a walk over one
//! buffer; rendering names and labels per scrape took more than ten times as long.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::sample::names::{Of, Scheme};
use crate::sample::{Batch, Family, Kind, Labels, Suffix};

use super::Settings;

/// Gauges are stale after this at the earliest: Prometheus' own lookback.
const GAUGES_STALE_AFTER: Duration = Duration::from_secs(300);

/// One rendered series.
#[derive(Clone, Debug)]
pub struct Series {
    /// Where its text ends in [`Shown::text`]; it starts where the one before ends.
    pub end: u32,
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

impl Shown {
    /// Renders what `batch` holds and `settings` do not hide.
    pub(super) fn render(batch: &Batch, interval: Duration, settings: &Settings, hash: impl Fn(&[u8]) -> u64) -> Self {
        let mut families: Vec<(String, String, &Family)> = batch
            .families
            .iter()
            .map(|family| {
                let raw = settings.shown_name(&family.name);
                (Of::Metric.escape(&raw, Scheme::Underscores).into_owned(), raw, family)
            })
            .collect();
        families.sort_by(|a, b| a.0.cmp(&b.0));
        let mut shown = Self {
            gauges_for: GAUGES_STALE_AFTER.max(interval * 3),
            counters_for: settings.counters_stale_after.max(interval * 3),
            ..Self::default()
        };
        for (name, raw, family) in families {
            shown.add_family(name, raw, family, batch.at, settings, &hash);
        }
        shown
    }

    fn add_family(
        &mut self,
        name: String,
        raw: String,
        family: &Family,
        at: Timestamp,
        settings: &Settings,
        hash: &impl Fn(&[u8]) -> u64,
    ) {
        let first = self.series.len();
        for sample in &family.samples {
            let start = self.text.len();
            let labels = shown_labels(&sample.labels);
            write_series(&mut self.text, &name, sample.suffix, &labels, Scheme::Underscores);
            let whole = &self.text[start..self.text.len() - 1];
            let bare = &whole[..whole.iter().position(|&b| b == b'{').unwrap_or(whole.len())];
            // Offsets are 32 bits wide: past 4 GiB of names the rest of the source is left out (the series cap is far below).
            let Ok(end) = u32::try_from(self.text.len()) else {
                self.text.truncate(start);
                return;
            };
            if settings.hidden.matches(std::str::from_utf8(bare).unwrap_or("")) {
                self.text.truncate(start);
                continue;
            }
            let hash = hash(whole);
            if raw != name || labels.iter().any(|(name, _)| !Of::Label.is_legacy(name)) {
                let foreign = Foreign { name: raw.clone(), suffix: sample.suffix, labels: labels.into_owned() };
                self.foreign.insert(self.series.len(), foreign);
            }
            self.series.push(Series { end, at: sample.at.unwrap_or(at), value: sample.value, hash });
        }
        if first < self.series.len() {
            let raw = (raw != name).then_some(raw);
            let (kind, help, series) = (family.kind, family.help.to_string(), first..self.series.len());
            self.families.push(ShownFamily { name, raw, kind, help, series });
        }
    }

    /// The text of the series at `place`, with its trailing space.
    pub fn text_of(&self, place: usize) -> &[u8] {
        let start = if place == 0 { 0 } else { self.series[place - 1].end as usize };
        &self.text[start..self.series[place].end as usize]
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
        kept
    }
}

/// Labels that may be shown: a name that begins with `__` is reserved by Prometheus and gets `tag` in front.
fn shown_labels(labels: &Labels) -> std::borrow::Cow<'_, Labels> {
    if labels.iter().all(|(name, _)| !name.starts_with("__")) {
        return std::borrow::Cow::Borrowed(labels);
    }
    let renamed = |name: &str| if name.starts_with("__") { format!("tag{name}") } else { name.to_owned() };
    std::borrow::Cow::Owned(labels.iter().map(|(name, value)| (renamed(name), value)).collect())
}

/// Appends `name_suffix{labels} `, or under [`Scheme::AllowUtf8`] with foreign characters `{"name_suffix","label"="value"} `.
pub fn write_series(out: &mut Vec<u8>, name: &str, suffix: Suffix, labels: &Labels, scheme: Scheme) {
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
    let mut used: Vec<String> = Vec::new();
    let all_legacy = labels.iter().all(|(name, _)| Of::Label.is_legacy(name));
    for (place, (label, value)) in labels.iter().enumerate() {
        out.push(if place == 0 && !quoted { b'{' } else { b',' });
        if scheme == Scheme::AllowUtf8 && !Of::Label.is_legacy(label) {
            out.push(b'"');
            write_escaped(out, label, true);
            out.push(b'"');
        } else if all_legacy && scheme != Scheme::Dots {
            out.extend_from_slice(label.as_bytes());
        } else {
            let name = unused(Of::Label.escape(label, scheme).into_owned(), labels, label, &used);
            out.extend_from_slice(name.as_bytes());
            used.push(name);
        }
        out.extend_from_slice(b"=\"");
        write_escaped(out, value, true);
        out.push(b'"');
    }
    if quoted || !labels.is_empty() {
        out.push(b'}');
    }
    out.push(b' ');
}

/// Two tags that become one label (`a.b` and `a_b`): the one that has the name by right keeps it, the others get `_2`, `_3`, …
fn unused(name: String, labels: &Labels, raw: &str, used: &[String]) -> String {
    let taken = |name: &String| used.contains(name) || (name != raw && labels.get(name).is_some());
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
        assert_eq!(text("m", &labels, Scheme::Underscores), r#"m{a_b_2="3",a_b_3="1",a_b="2"} "#);
        assert_eq!(text("m", &labels, Scheme::AllowUtf8), r#"m{"a-b"="3","a.b"="1",a_b="2"} "#);
    }

    #[test]
    fn foreign_names_and_values_are_escaped() {
        let labels = [("path", "C:\\DIR\n\"x\"")];
        assert_eq!(text("my.m", &labels, Scheme::AllowUtf8), "{\"my.m\",path=\"C:\\\\DIR\\n\\\"x\\\"\"} ");
        assert_eq!(text("my.m", &[], Scheme::AllowUtf8), "{\"my.m\"} ");
        assert_eq!(text("my.m", &[], Scheme::Dots), "my_dot_m ");
        assert_eq!(text("m", &[], Scheme::Underscores), "m ");
        let hidden: Labels = [("__name__", "x")].into_iter().collect();
        assert_eq!(shown_labels(&hidden).get("tag__name__"), Some("x"));
    }
}
