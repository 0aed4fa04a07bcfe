//! What is measured: a [`Batch`] holds families, a [`Family`] its samples, a [`Sample`] its labels and value.
//!
//! Names follow the text format 0.0.4: a counter's family carries its `_total`, a histogram's family the bare name and its samples a
//! [`Suffix`]. Names and label values are any UTF-8 here; [`names`] turns them into what an exposition may carry, [`tags`]
//! into the canonical JSON of the table and back.

pub mod globs;
pub mod names;
pub mod tags;

use std::borrow::Cow;
use std::fmt;

use crate::clock::Timestamp;

/// A name that is usually a literal.
pub type Name = Cow<'static, str>;

/// What kind of number a family holds, as Prometheus tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only grows, or starts again at zero.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets (`le`), a sum and a count.
    Histogram,
    /// Quantiles (`quantile`), a sum and a count.
    Summary,
    /// Not known: `untyped` in text 0.0.4, `unknown` in OpenMetrics.
    Unknown,
}

impl Kind {
    /// The word in a `# TYPE` line of text 0.0.4.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Unknown => "untyped",
        }
    }
}

/// A family that is known when the program is written: the source of its `# HELP`, its unit and its line in docs/METRICS.md.
#[derive(Clone, Copy, Debug)]
pub struct Desc {
    /// The family's name (a counter's with `_total`). In the page a `<part>` stands for what the system decides.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The unit of its values in words (`seconds`, `bytes`, `rows`, `ratio`, `1` for none).
    pub unit: &'static str,
    /// What the number means and what to do with it.
    pub help: &'static str,
}

/// Which of a histogram's or summary's series a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suffix {
    /// The family's own name: counters, gauges, quantiles.
    None,
    /// `_bucket`
    Bucket,
    /// `_sum`
    Sum,
    /// `_count`
    Count,
}

impl Suffix {
    /// The text behind the family's name.
    pub const fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Bucket => "_bucket",
            Self::Sum => "_sum",
            Self::Count => "_count",
        }
    }
}

/// Labels sorted by name, each name once; an empty value is an absent label (as in Prometheus).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Vec<(Name, String)>);

impl Labels {
    /// No labels.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Sets `name`; an earlier value of it is replaced, an empty value removes it.
    pub fn set(&mut self, name: impl Into<Name>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match (self.0.binary_search_by(|(n, _)| n.as_ref().cmp(&name)), value.is_empty()) {
            (Ok(at), true) => drop(self.0.remove(at)),
            (Ok(at), false) => self.0[at].1 = value,
            (Err(_), true) => {}
            (Err(at), false) => self.0.insert(at, (name, value)),
        }
    }

    /// These labels with `name` set, for chains.
    #[must_use]
    pub fn with(mut self, name: impl Into<Name>, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.binary_search_by(|(n, _)| n.as_ref().cmp(name)).ok().map(|at| self.0[at].1.as_str())
    }

    /// Takes `name` out and gives its value.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.binary_search_by(|(n, _)| n.as_ref().cmp(name)).ok().map(|at| self.0.remove(at).1)
    }

    /// All labels in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_ref(), v.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<N: Into<Name>, V: Into<String>> FromIterator<(N, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut labels = Self::none();
        for (name, value) in pairs {
            labels.set(name, value);
        }
        labels
    }
}

/// One value of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Which of its family's series it is.
    pub suffix: Suffix,
    /// Its labels.
    pub labels: Labels,
    /// Its value; NaN and infinities are shown, never stored.
    pub value: f64,
    /// When it was measured, where that is not the batch's own time.
    pub at: Option<Timestamp>,
}

/// All series of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// The name as its source gave it (see the module's words on suffixes).
    pub name: Name,
    /// Its kind.
    pub kind: Kind,
    /// One line for people; may be empty.
    pub help: Name,
    /// Its samples; series are unique.
    pub samples: Vec<Sample>,
}

impl Family {
    /// Adds a sample without suffix and without a time of its own.
    pub fn push(&mut self, labels: Labels, value: f64) {
        self.samples.push(Sample { suffix: Suffix::None, labels, value, at: None });
    }

    /// The full name of `sample`'s series, which is what the table's `metric_name` holds.
    pub fn series_name(&self, sample: &Sample) -> String {
        format!("{}{}", self.name, sample.suffix.text())
    }
}

/// Whether samples were measured by us or read from rows that somebody else wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Measured by a collector: shown and stored.
    Measured,
    /// Read from the table: shown, never stored again.
    Table,
}

/// What one scrape of one source gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The time of the scrape: the time of every sample that has none of its own.
    pub at: Timestamp,
    /// Where the samples come from.
    pub origin: Origin,
    /// The families, each name once.
    pub families: Vec<Family>,
}

impl Batch {
    /// An empty batch of measured samples.
    pub const fn new(at: Timestamp) -> Self {
        Self { at, origin: Origin::Measured, families: Vec::new() }
    }

    /// Adds one sample to the family of `desc`.
    pub fn push(&mut self, desc: &'static Desc, labels: Labels, value: f64) {
        self.family(desc.name, desc.kind, desc.help).push(labels, value);
    }

    /// The family of that name, made if it is new (an existing one keeps its kind and help).
    pub fn family(&mut self, name: impl Into<Name>, kind: Kind, help: impl Into<Name>) -> &mut Family {
        let name = name.into();
        // Collectors fill one family after another, so the last one is nearly always it.
        let at = match self.families.iter().rposition(|f| f.name == name) {
            Some(at) => at,
            None => {
                self.families.push(Family { name, kind, help: help.into(), samples: Vec::new() });
                self.families.len() - 1
            }
        };
        &mut self.families[at]
    }

    /// How many samples it holds.
    pub fn len(&self) -> usize {
        self.families.iter().map(|f| f.samples.len()).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.families.iter().all(|f| f.samples.is_empty())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_unique_and_never_empty() {
        let labels: Labels = [("b", "1"), ("a", "2"), ("b", "3"), ("c", "")].into_iter().collect();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3")]);
        assert_eq!(labels.get("b"), Some("3"));
        assert_eq!(labels.with("a", "").len(), 1);
    }

    #[test]
    fn a_family_is_found_again() {
        let mut batch = Batch::new(Timestamp::from_millis(0));
        batch.family("a", Kind::Gauge, "first").push(Labels::none(), 1.0);
        batch.family("b", Kind::Gauge, "").push(Labels::none(), 1.0);
        batch.family("a", Kind::Counter, "second").push(Labels::none().with("x", "y"), 2.0);
        assert_eq!(batch.families.len(), 2);
        assert_eq!(batch.families[0].help, "first");
        assert_eq!(batch.len(), 3);
    }
}
