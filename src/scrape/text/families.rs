//! From samples under their full names to families.
//!
//! While a page is read, [`Gathered`] keeps one list of samples per full name and what `# HELP` and `# TYPE` said. At the end every full
//! name is placed once: it is a family of its own, or a part of a histogram or summary. A name with a `# TYPE` of its own
//! is never a part of another family (as in Prometheus' own parser), so a grouped family's name cannot meet another family's.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::sample::{Family, Kind, Sample, Suffix};

use super::line::Fault;
use super::{Syntax, number};

mod groups;
mod series;

use groups::Groups;
use series::drop_repeated;

/// The words of a `# TYPE` line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Declared {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Unknown,
    Info,
    StateSet,
    GaugeHistogram,
}

impl Declared {
    pub(super) fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            "untyped" | "unknown" => Self::Unknown,
            "info" => Self::Info,
            "stateset" => Self::StateSet,
            "gaugehistogram" => Self::GaugeHistogram,
            _ => return None,
        })
    }
}

/// What HELP and TYPE said about a name.
#[derive(Default)]
struct Metadata<'a> {
    declared: Option<Declared>,
    help: Option<Cow<'a, str>>,
}

/// Where the samples of one full name belong.
enum Place<'n> {
    /// A family of its own; its help may be under the name that its type was declared for.
    Alone {
        kind: Kind,
        declared: &'n str,
    },
    Part {
        family: &'n str,
        kind: Kind,
        suffix: Suffix,
    },
}

/// All samples of one full name.
struct Named<'a> {
    name: Cow<'a, str>,
    samples: Vec<Sample>,
}

/// What was read so far.
pub(super) struct Gathered<'a> {
    syntax: Syntax,
    metadata: HashMap<Cow<'a, str>, Metadata<'a>>,
    by_name: HashMap<Cow<'a, str>, usize>,
    named: Vec<Named<'a>>,
    /// The name of the sample before: pages keep a name's samples together.
    last: usize,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(syntax: Syntax) -> Self {
        Self { syntax, metadata: HashMap::new(), by_name: HashMap::new(), named: Vec::new(), last: 0 }
    }

    /// The first help of a name stays.
    pub(super) fn help(&mut self, name: Cow<'a, str>, help: Cow<'a, str>) {
        self.metadata.entry(name).or_default().help.get_or_insert(help);
    }

    /// The first type of a name stays; another one is a bad line.
    pub(super) fn declare(&mut self, name: Cow<'a, str>, declared: Declared) -> Result<(), Fault> {
        let first = *self.metadata.entry(name).or_default().declared.get_or_insert(declared);
        if first == declared { Ok(()) } else { Err(Fault::Bad("a second type for the same name")) }
    }

    pub(super) fn push(&mut self, name: Cow<'a, str>, sample: Sample) {
        if let Some(last) = self.named.get_mut(self.last)
            && last.name == name
        {
            last.samples.push(sample);
            return;
        }
        self.last = match self.by_name.entry(name) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.named.push(Named { name: new.key().clone(), samples: Vec::new() });
                *new.insert(self.named.len() - 1)
            }
        };
        self.named[self.last].samples.push(sample);
    }

    /// The families, and how many samples repeated a series.
    pub(super) fn into_families(mut self) -> (Vec<Family>, usize) {
        let mut build = Build::default();
        for Named { name, samples } in std::mem::take(&mut self.named) {
            match self.place(&name) {
                Place::Alone { kind, declared } => {
                    let help = self.help_of(declared).or_else(|| self.help_of(&name)).unwrap_or_default();
                    build.alone(&name, kind, help, samples);
                }
                Place::Part { family, kind, suffix } => {
                    build.part(family, kind, suffix, self.help_of(family).unwrap_or_default(), samples);
                }
            }
        }
        build.finish()
    }

    fn declared(&self, name: &str) -> Option<Declared> {
        self.metadata.get(name)?.declared
    }

    fn place<'n>(&self, name: &'n str) -> Place<'n> {
        let kind = match self.declared(name) {
            Some(Declared::Histogram) => {
                return Place::Part { family: name, kind: Kind::Histogram, suffix: Suffix::None };
            }
            Some(Declared::Summary) => return Place::Part { family: name, kind: Kind::Summary, suffix: Suffix::None },
            // Strictly, OpenMetrics declares `x` and sends `x_total`; some exporters declare `x_total` right away.
            Some(Declared::Counter) if self.syntax == Syntax::Text || name.ends_with("_total") => Kind::Counter,
            Some(Declared::Gauge | Declared::Info | Declared::StateSet) => Kind::Gauge,
            Some(_) => Kind::Unknown,
            None => return self.place_by_suffix(name),
        };
        Place::Alone { kind, declared: name }
    }

    /// For a name without a `# TYPE` of its own.
    fn place_by_suffix<'n>(&self, name: &'n str) -> Place<'n> {
        for suffix in [Suffix::Bucket, Suffix::Sum, Suffix::Count] {
            let Some(family) = name.strip_suffix(suffix.text()) else { continue };
            let kind = match self.declared(family) {
                Some(Declared::Histogram) => Kind::Histogram,
                Some(Declared::Summary) if suffix != Suffix::Bucket => Kind::Summary,
                _ => continue,
            };
            return Place::Part { family, kind, suffix };
        }
        for (suffix, kind) in [("_total", Kind::Counter), ("_created", Kind::Gauge), ("_info", Kind::Gauge)] {
            let Some(declared) = name.strip_suffix(suffix) else { continue };
            let adds = match self.declared(declared) {
                Some(Declared::Info) => suffix == "_info",
                Some(Declared::Counter) => suffix != "_info" && self.syntax == Syntax::OpenMetrics,
                Some(Declared::Histogram | Declared::Summary | Declared::GaugeHistogram) => {
                    suffix == "_created" && self.syntax == Syntax::OpenMetrics
                }
                _ => false,
            };
            if adds {
                return Place::Alone { kind, declared: if suffix == "_created" { name } else { declared } };
            }
        }
        Place::Alone { kind: Kind::Unknown, declared: name }
    }

    fn help_of(&self, name: &str) -> Option<&str> {
        self.metadata.get(name)?.help.as_deref()
    }
}

/// One place in the order of the page.
enum Slot {
    Alone(Family),
    Grouped { name: String, kind: Kind, help: String, groups: Groups },
}

#[derive(Default)]
struct Build {
    slots: Vec<Slot>,
    grouped: HashMap<String, usize>,
    duplicates: usize,
}

impl Build {
    fn alone(&mut self, name: &str, kind: Kind, help: &str, mut samples: Vec<Sample>) {
        self.duplicates += drop_repeated(&mut samples);
        self.slots.push(Slot::Alone(Family {
            name: name.to_owned().into(),
            kind,
            help: help.to_owned().into(),
            samples,
        }));
    }

    fn part(&mut self, family: &str, kind: Kind, suffix: Suffix, help: &str, samples: Vec<Sample>) {
        let at = match self.grouped.get(family) {
            Some(&at) => at,
            None => {
                let groups = Groups::new(kind);
                self.slots.push(Slot::Grouped { name: family.to_owned(), kind, help: help.to_owned(), groups });
                self.grouped.insert(family.to_owned(), self.slots.len() - 1);
                self.slots.len() - 1
            }
        };
        if let Some(Slot::Grouped { groups, .. }) = self.slots.get_mut(at) {
            groups.add(suffix, samples);
        }
    }

    fn finish(self) -> (Vec<Family>, usize) {
        let mut duplicates = self.duplicates;
        let mut families = Vec::with_capacity(self.slots.len());
        for slot in self.slots {
            match slot {
                Slot::Alone(family) => families.push(family),
                Slot::Grouped { name, kind, help, groups } => {
                    let (samples, whole, repeated) = groups.into_samples();
                    duplicates += repeated;
                    let family = Family { name: name.into(), kind, help: help.into(), samples };
                    if whole {
                        families.push(family);
                    } else {
                        families.extend(by_full_name(family));
                    }
                }
            }
        }
        (families, duplicates)
    }
}

/// A histogram or summary taken apart: one family of kind unknown per full name.
pub(in crate::scrape) fn by_full_name(family: Family) -> Vec<Family> {
    let mut apart: Vec<(Suffix, Family)> = Vec::new();
    for mut sample in family.samples {
        let suffix = std::mem::replace(&mut sample.suffix, Suffix::None);
        let at = apart.iter().position(|(known, _)| *known == suffix).unwrap_or_else(|| {
            let name = format!("{}{}", family.name, suffix.text()).into();
            apart.push((suffix, Family { name, kind: Kind::Unknown, help: family.help.clone(), samples: Vec::new() }));
            apart.len() - 1
        });
        apart[at].1.samples.push(sample);
    }
    apart.into_iter().map(|(_, family)| family).collect()
}
