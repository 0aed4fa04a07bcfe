//! Parser of the Prometheus text formats (0.0.4 and 1.0.0) and of OpenMetrics 1.0.
//!
//! A page is read in one pass, line by line: `line` reads the grammar of one line and borrows from the page, this file gathers
//! the samples under their full names, and `families` puts those together at the end. Because nothing is decided before the end, a family may be
//! split over the page and its `# TYPE` may come late; both happen in the field.
//!
//! The parsers on the registry drop valid lines silently or fail the whole page for one bad line (E-1). Here every line that is not
//! understood is skipped, counted, and the first one is kept with its number and the reason. Three things fail the page as a whole,
//! because what is left of it would be a lie:
//!
//! - it is not an exposition (HTML, no samples at all, or more bad lines than [`Limits::bad_lines`]);
//! - it ends too early: OpenMetrics without `# EOF`. (Text has no such mark; there a cut page is noticed by HTTP.);
//! - it is larger than the [`Limits`] in any direction.
//!
//! What is read, and what becomes of it:
//!
//! | in the page | in our families |
//! |---|---|
//! | text: `# TYPE x counter`, `x` | counter `x` |
//! | OpenMetrics: `# TYPE x counter`, `x_total` | counter `x_total` |
//! | histogram, summary | one family; samples grouped by labels, `le` and `quantile` ascending, their texts as Prometheus 3 writes them (`1` → `1.0`) |
//! | a histogram or summary with a broken group (no `+Inf` bucket, no `le`, …) | families of kind unknown, one per full name |
//! | `info`, `stateset` | gauges |
//! | `gaugehistogram` | families of kind unknown, one per full name |
//! | OpenMetrics `x_created` | gauge `x_created` |
//! | a name that its `# TYPE` does not cover, or without `# TYPE` | a family of kind unknown |
//! | exemplars, `# UNIT`, other comments | read over |
//!
//! Sources: prometheus.io/docs/instrumenting/exposition_formats, the OpenMetrics 1.0 specification, and Prometheus'
//! `model/textparse`, which is followed where the texts leave a choice.

mod families;
mod line;
mod number;
#[cfg(test)]
mod render;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use crate::sample::{Family, Labels, Sample, Suffix};

use families::Gathered;
pub(super) use families::by_full_name;
use line::{Comment, Fault};

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// Prometheus text, 0.0.4 or 1.0.0 (the latter only adds quoted names, which are read in either).
    Text,
    /// OpenMetrics 0.0.1 or 1.0.0.
    OpenMetrics,
}

/// What a page may have at most. All but `bad_lines` fail the page as [`ParseError::TooLarge`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Lines of any kind.
    pub lines: usize,
    /// Samples.
    pub samples: usize,
    /// Labels of one series.
    pub labels: usize,
    /// Bytes of a metric's or label's name.
    pub name_bytes: usize,
    /// Bytes of a label's value or of a help text.
    pub value_bytes: usize,
    /// Lines that are skipped because they are not understood; one more and the page is no exposition.
    pub bad_lines: usize,
}

impl Limits {
    /// The limits of a page of at most `samples` samples.
    pub const fn of_samples(samples: usize) -> Self {
        Self {
            // HELP, TYPE, UNIT and one sample are the most lines that a family needs per sample; the rest are comments.
            lines: samples.saturating_mul(4).saturating_add(1_000),
            samples,
            // Prometheus has no limits by default. Mimir's are 30 labels, 1,024 and 2,048 bytes; these are well above.
            labels: 64,
            name_bytes: 1_024,
            value_bytes: 16_384,
            bad_lines: 100,
        }
    }
}

/// A line that was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it. Never the line itself, which may be anything.
    pub reason: &'static str,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// A page that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Its families in the order of their first samples, each name once, each with at least one sample.
    pub families: Vec<Family>,
    /// How many lines were skipped because they were not understood.
    pub bad_lines: usize,
    /// The first of them.
    pub first_bad: Option<BadLine>,
    /// How many samples were left out because their series was in the page already.
    pub duplicates: usize,
}

/// Why a whole page was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// It begins like HTML or XML.
    Html,
    /// It has more bad lines than allowed.
    TooManyBadLines(BadLine),
    /// It has no sample; the first bad line, if there is one, says why.
    NoSamples(Option<BadLine>),
    /// OpenMetrics, and it does not end with `# EOF`: it was cut.
    NoEof,
    /// OpenMetrics, and something follows `# EOF` at this line.
    AfterEof(usize),
    /// It is larger than its limits.
    TooLarge {
        /// Of what there is too much.
        what: &'static str,
        /// How much there may be.
        limit: usize,
        /// The line where that was noticed.
        line: usize,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Html => f.write_str("the page looks like HTML or XML, not like metrics"),
            Self::TooManyBadLines(first) => write!(f, "too many lines are not understood, first {first}"),
            Self::NoSamples(None) => f.write_str("the page has no samples"),
            Self::NoSamples(Some(first)) => write!(f, "the page has no samples, first bad {first}"),
            Self::NoEof => f.write_str("the page does not end with `# EOF`: it was cut"),
            Self::AfterEof(line) => write!(f, "line {line} follows `# EOF`"),
            Self::TooLarge { what, limit, line } => write!(f, "more than {limit} {what} (line {line})"),
        }
    }
}

impl std::error::Error for ParseError {}

/// Reads a whole page.
pub fn parse(page: &[u8], syntax: Syntax, limits: &Limits) -> Result<Page, ParseError> {
    if page.trim_ascii_start().first() == Some(&b'<') {
        return Err(ParseError::Html);
    }
    let mut reader = Reader::new(syntax, *limits);
    for (number, bytes) in lines(page).enumerate() {
        reader.line(number + 1, bytes)?;
    }
    reader.finish()
}

/// What may stand around a line's parts.
const BLANKS: [char; 2] = [' ', '\t'];
/// What may stand at a line's end: a CRLF page is read like one with LF.
const BLANKS_AND_CR: [char; 3] = [' ', '\t', '\r'];

/// The lines of `page`; the last one need not be ended.
fn lines(page: &[u8]) -> impl Iterator<Item = &[u8]> {
    page.strip_suffix(b"\n").unwrap_or(page).split(|&byte| byte == b'\n')
}

/// The labels of one line as they stand in the page, sorted by name.
type Pairs<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

struct Reader<'a> {
    syntax: Syntax,
    limits: Limits,
    gathered: Gathered<'a>,
    samples: usize,
    bad_lines: usize,
    first_bad: Option<BadLine>,
    ended: bool,
    /// Kept from line to line, so that most lines allocate only what stays.
    pairs: Pairs<'a>,
}

impl<'a> Reader<'a> {
    fn new(syntax: Syntax, limits: Limits) -> Self {
        Self {
            syntax,
            limits,
            gathered: Gathered::new(syntax),
            samples: 0,
            bad_lines: 0,
            first_bad: None,
            ended: false,
            pairs: Vec::new(),
        }
    }

    fn line(&mut self, number: usize, bytes: &'a [u8]) -> Result<(), ParseError> {
        if self.ended {
            return Err(ParseError::AfterEof(number));
        }
        if number > self.limits.lines {
            return Err(ParseError::TooLarge { what: "lines", limit: self.limits.lines, line: number });
        }
        let read = match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text.trim_start_matches(BLANKS).trim_end_matches(BLANKS_AND_CR)),
            Err(_) => Err(Fault::Bad("not UTF-8")),
        };
        match read {
            Ok(()) => Ok(()),
            Err(Fault::Bad(reason)) => self.bad(BadLine { line: number, reason }),
            Err(Fault::TooLarge { what, limit }) => Err(ParseError::TooLarge { what, limit, line: number }),
        }
    }

    fn text(&mut self, text: &'a str) -> Result<(), Fault> {
        match text.as_bytes().first() {
            None => Ok(()),
            Some(b'#') => self.comment(text),
            Some(_) => self.sample(text),
        }
    }

    fn comment(&mut self, text: &'a str) -> Result<(), Fault> {
        match line::comment(text, self.syntax, &self.limits)? {
            Comment::Help { name, help } => self.gathered.help(name, help),
            Comment::Type { name, declared } => return self.gathered.declare(name, declared),
            Comment::Eof => self.ended = true,
            Comment::Other => {}
        }
        Ok(())
    }

    fn sample(&mut self, text: &'a str) -> Result<(), Fault> {
        let read = line::sample(text, self.syntax, &self.limits, &mut self.pairs)?;
        if self.samples == self.limits.samples {
            return Err(Fault::TooLarge { what: "samples", limit: self.limits.samples });
        }
        self.samples += 1;
        let labels: Labels = self.pairs.drain(..).map(|(name, value)| (owned(name), value)).collect();
        self.gathered.push(read.name, Sample { suffix: Suffix::None, labels, value: read.value, at: read.at });
        Ok(())
    }

    fn bad(&mut self, bad: BadLine) -> Result<(), ParseError> {
        let first = *self.first_bad.get_or_insert(bad);
        self.bad_lines += 1;
        if self.bad_lines > self.limits.bad_lines { Err(ParseError::TooManyBadLines(first)) } else { Ok(()) }
    }

    fn finish(self) -> Result<Page, ParseError> {
        if self.syntax == Syntax::OpenMetrics && !self.ended {
            return Err(ParseError::NoEof);
        }
        if self.samples == 0 {
            return Err(ParseError::NoSamples(self.first_bad));
        }
        let (families, duplicates) = self.gathered.into_families();
        Ok(Page { families, bad_lines: self.bad_lines, first_bad: self.first_bad, duplicates })
    }
}

/// Label names that many exporters use. A page of 100,000 samples repeats each of them up to 100,000 times; these cost no memory.
const FREQUENT: &[&str] = &[
    "code",
    "collector",
    "container",
    "cpu",
    "device",
    "handler",
    "host",
    "id",
    "instance",
    "job",
    "le",
    "method",
    "mode",
    "mountpoint",
    "name",
    "namespace",
    "node",
    "path",
    "pod",
    "quantile",
    "service",
    "state",
    "status",
    "type",
];

/// A label's name that outlives the page.
fn owned(name: Cow<'_, str>) -> Cow<'static, str> {
    match FREQUENT.binary_search(&name.as_ref()) {
        Ok(at) => Cow::Borrowed(FREQUENT[at]),
        Err(_) => Cow::Owned(name.into_owned()),
    }
}
