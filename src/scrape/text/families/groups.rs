//! A histogram's or summary's samples, put together by their labels.
//!
//! A group is what one histogram is: the labels without `le`, its buckets, its sum, its count. The family is whole if every group is; one
//! broken group makes the caller take the family apart, and so nothing is lost here: what does not fit is kept aside with its labels as they came.

use std::collections::HashMap;
use std::rc::Rc;

use crate::sample::{Kind, Labels, Sample, Suffix};

use super::number;
use super::series::{Index, drop_repeated};

/// One histogram or summary.
struct Group {
    labels: Labels,
    /// Buckets or quantiles.
    points: Vec<Point>,
    sum: Option<Sample>,
    count: Option<Sample>,
}

struct Point {
    bound: Rc<Bound>,
    /// The bound's text as it came.
    raw: String,
    /// Without the label of the bound.
    sample: Sample,
}

/// A bound that was read, and its text as Prometheus 3 writes it. Groups of a family share theirs.
struct Bound {
    value: f64,
    text: String,
}

pub(super) struct Groups {
    kind: Kind,
    groups: Vec<Group>,
    index: Index,
    bounds: HashMap<String, Rc<Bound>>,
    /// Samples that belong to no group; one is enough to break the family.
    odd: Vec<Sample>,
    repeated: usize,
}

impl Groups {
    /// For a histogram or a summary.
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, groups: Vec::new(), index: Index::default(), bounds: HashMap::new(), odd: Vec::new(), repeated: 0 }
    }

    /// The label of the bound, and which samples have it.
    fn bound_label(&self) -> (&'static str, Suffix) {
        if self.kind == Kind::Histogram { ("le", Suffix::Bucket) } else { ("quantile", Suffix::None) }
    }

    /// Adds all samples of one full name.
    pub(super) fn add(&mut self, suffix: Suffix, samples: Vec<Sample>) {
        let (label, bounded) = self.bound_label();
        let mut last = 0;
        for mut sample in samples {
            sample.suffix = suffix;
            let raw = sample.labels.take(label);
            let odd = match (suffix, raw) {
                (Suffix::Sum | Suffix::Count, None) => {
                    last = self.group(&sample.labels, last);
                    self.add_total(last, sample);
                    None
                }
                (_, Some(raw)) if suffix == bounded => match self.bound(&raw) {
                    Some(bound) => {
                        last = self.group(&sample.labels, last);
                        self.groups[last].points.push(Point { bound, raw, sample });
                        None
                    }
                    None => Some((Some(raw), sample)),
                },
                (_, raw) => Some((raw, sample)),
            };
            if let Some((raw, mut sample)) = odd {
                sample.labels.set(label, raw.unwrap_or_default());
                self.odd.push(sample);
            }
        }
    }

    fn add_total(&mut self, at: usize, sample: Sample) {
        let group = &mut self.groups[at];
        let total = if sample.suffix == Suffix::Sum { &mut group.sum } else { &mut group.count };
        if total.is_some() {
            self.repeated += 1;
        } else {
            *total = Some(sample);
        }
    }

    /// The position of the group with these labels, made if it is new; `last` is tried first.
    fn group(&mut self, labels: &Labels, last: usize) -> usize {
        if self.groups.get(last).is_some_and(|group| group.labels == *labels) {
            return last;
        }
        let groups = &self.groups;
        self.index.find(labels, groups.len(), |at| groups[at].labels == *labels).unwrap_or_else(|| {
            self.groups.push(Group { labels: labels.clone(), points: Vec::new(), sum: None, count: None });
            self.groups.len() - 1
        })
    }

    /// Reads a bound. A quantile lies within 0 and 1 (OpenMetrics), and neither is ever NaN.
    fn bound(&mut self, raw: &str) -> Option<Rc<Bound>> {
        if let Some(known) = self.bounds.get(raw) {
            return Some(known.clone());
        }
        let value = number::float(raw).filter(|v| !v.is_nan())?;
        if self.kind == Kind::Summary && !(0.0..=1.0).contains(&value) {
            return None;
        }
        let bound = Rc::new(Bound { value, text: number::canonical(value) });
        self.bounds.insert(raw.to_owned(), Rc::clone(&bound));
        Some(bound)
    }

    fn is_whole(&self) -> bool {
        let has_infinity = |group: &Group| group.points.iter().any(|p| p.bound.value == f64::INFINITY);
        self.odd.is_empty() && (self.kind == Kind::Summary || self.groups.iter().all(has_infinity))
    }

    /// All samples group by group, whether the family is whole, and how many samples repeated a series. If it is not
    /// whole, the samples have their labels as they came.
    pub(super) fn into_samples(self) -> (Vec<Sample>, bool, usize) {
        let whole = self.is_whole();
        let (label, _) = self.bound_label();
        let mut repeated = self.repeated;
        let mut samples =
            Vec::with_capacity(self.odd.len() + self.groups.iter().map(|g| g.points.len() + 2).sum::<usize>());
        for mut group in self.groups {
            group.points.sort_by(|a, b| a.bound.value.total_cmp(&b.bound.value));
            if whole {
                let before = group.points.len();
                group.points.dedup_by(|later, earlier| later.bound.text == earlier.bound.text);
                repeated += before - group.points.len();
            }
            samples.extend(group.points.into_iter().map(|Point { bound, raw, mut sample }| {
                sample.labels.set(label, if whole && raw != bound.text { bound.text.clone() } else { raw });
                sample
            }));
            samples.extend(group.sum.into_iter().chain(group.count));
        }
        if !whole {
            samples.extend(self.odd);
            repeated += drop_repeated_by_suffix(&mut samples);
        }
        (samples, whole, repeated)
    }
}

fn drop_repeated_by_suffix(samples: &mut Vec<Sample>) -> usize {
    let mut repeated = 0;
    let mut rest = std::mem::take(samples);
    for suffix in [Suffix::None, Suffix::Bucket, Suffix::Sum, Suffix::Count] {
        let mut these: Vec<Sample> = rest.extract_if(.., |sample| sample.suffix == suffix).collect();
        repeated += drop_repeated(&mut these);
        samples.append(&mut these);
    }
    repeated
}
