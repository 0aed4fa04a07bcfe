//! Whether a family keeps the rules that OpenMetrics has for its type.
//!
//! Text 0.0.4 has none, and exporters in the field break them: counters below zero, histograms read while they change, `_sum` of NaN.
//! One such family makes a strict reader refuse the whole page, so the encoder shows it there as what it surely is: `unknown`.
//! The rules are those of the OpenMetrics 1.0 specification as far as Prometheus' own Python client enforces them.

use crate::sample::{Kind, Labels, Sample, Suffix};

/// The label that tells the series of one histogram or summary apart.
const fn bound(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Histogram => Some("le"),
        Kind::Summary => Some("quantile"),
        Kind::Counter | Kind::Gauge | Kind::Unknown => None,
    }
}

/// Whether two samples of a family of `kind` belong to one histogram or summary.
pub(super) fn same_group(kind: Kind, a: &Labels, b: &Labels) -> bool {
    let Some(bound) = bound(kind) else { return false };
    a.iter().filter(|(name, _)| *name != bound).eq(b.iter().filter(|(name, _)| *name != bound))
}

/// Whether all `samples` of a family of `kind` may stand under its type in OpenMetrics.
pub(super) fn is_sound(kind: Kind, samples: &[&Sample]) -> bool {
    match kind {
        Kind::Gauge | Kind::Unknown => true,
        Kind::Counter => samples.iter().all(|s| s.value >= 0.0),
        Kind::Histogram => groups(kind, samples).all(is_histogram),
        Kind::Summary => groups(kind, samples).all(is_summary),
    }
}

fn groups<'a, 'b>(kind: Kind, samples: &'b [&'a Sample]) -> impl Iterator<Item = &'b [&'a Sample]> {
    samples.chunk_by(move |a, b| same_group(kind, &a.labels, &b.labels))
}

/// Buckets that rise to `+Inf`, with that as the count, and a sum. A group that is torn in two has lost one of these.
fn is_histogram(group: &[&Sample]) -> bool {
    let mut last: Option<(f64, f64)> = None;
    for sample in with(group, Suffix::Bucket) {
        let Some(le) = sample.labels.get("le").and_then(number) else { return false };
        let rises = last.is_none_or(|(bound, count)| le > bound && sample.value >= count);
        if !rises || !is_count(sample.value) {
            return false;
        }
        last = Some((le, sample.value));
    }
    let whole = last.is_some_and(|(le, all)| le == f64::INFINITY && one(group, Suffix::Count) == Some(all));
    // Observations below zero let the sum fall, so OpenMetrics wants none with such buckets.
    let negative = with(group, Suffix::Bucket).any(|s| s.labels.get("le").and_then(number).is_some_and(|le| le < 0.0));
    whole
        && !negative
        && one(group, Suffix::Sum).is_some_and(|sum| sum >= 0.0)
        && with(group, Suffix::None).count() == 0
}

/// Quantiles between 0 and 1 that are not below zero, one sum, one count.
fn is_summary(group: &[&Sample]) -> bool {
    let quantile = |sample: &Sample| {
        let quantile = sample.labels.get("quantile").and_then(number);
        quantile.is_some_and(|q| (0.0..=1.0).contains(&q)) && (sample.value >= 0.0 || sample.value.is_nan())
    };
    with(group, Suffix::None).all(quantile)
        && one(group, Suffix::Count).is_some_and(is_count)
        && one(group, Suffix::Sum).is_some_and(|sum| sum >= 0.0)
        && with(group, Suffix::Bucket).count() == 0
}

fn with<'a>(group: &'a [&'a Sample], suffix: Suffix) -> impl Iterator<Item = &'a Sample> {
    group.iter().copied().filter(move |sample| sample.suffix == suffix)
}

/// The value of the only sample with `suffix`.
fn one(group: &[&Sample], suffix: Suffix) -> Option<f64> {
    let mut all = with(group, suffix);
    let first = all.next()?;
    all.next().is_none().then_some(first.value)
}

fn is_count(value: f64) -> bool {
    value >= 0.0 && value.is_finite() && value.fract() == 0.0
}

/// A bound in the form that OpenMetrics wants: `1.0`, not `1`.
fn number(text: &str) -> Option<f64> {
    let canonical = text == "+Inf" || text.contains(['.', 'e']);
    text.parse::<f64>().ok().filter(|number| canonical && !number.is_nan())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(suffix: Suffix, bound: (&'static str, &str), value: f64) -> Sample {
        Sample { suffix, labels: Labels::none().with("x", "y").with(bound.0, bound.1), value, at: None }
    }

    fn histogram(buckets: &[(&str, f64)], sum: f64, count: f64) -> bool {
        let mut samples: Vec<Sample> =
            buckets.iter().map(|&(le, value)| sample(Suffix::Bucket, ("le", le), value)).collect();
        samples.push(sample(Suffix::Sum, ("le", ""), sum));
        samples.push(sample(Suffix::Count, ("le", ""), count));
        is_sound(Kind::Histogram, &samples.iter().collect::<Vec<_>>())
    }

    #[test]
    fn histograms() {
        assert!(histogram(&[("0.5", 1.0), ("1.0", 1.0), ("+Inf", 3.0)], 2.5, 3.0));
        for (buckets, sum, count, why) in [
            (&[("0.5", 1.0), ("1.0", 1.0)][..], 2.5, 1.0, "no +Inf"),
            (&[("0.5", 2.0), ("+Inf", 1.0)], 2.5, 1.0, "falls"),
            (&[("1.0", 1.0), ("0.5", 1.0), ("+Inf", 1.0)], 2.5, 1.0, "out of order"),
            (&[("+Inf", 3.0)], 2.5, 4.0, "another count"),
            (&[("+Inf", 3.0)], f64::NAN, 3.0, "no sum"),
            (&[("+Inf", 3.0)], -1.0, 3.0, "sum below zero"),
            (&[("-1.0", 0.0), ("+Inf", 3.0)], 1.0, 3.0, "bound below zero"),
            (&[("+Inf", 2.5)], 1.0, 2.5, "half an observation"),
            (&[("1", 1.0), ("+Inf", 3.0)], 1.0, 3.0, "not canonical"),
            (&[("x", 1.0), ("+Inf", 3.0)], 1.0, 3.0, "no number"),
            (&[], 1.0, 3.0, "no buckets"),
        ] {
            assert!(!histogram(buckets, sum, count), "{why}");
        }
    }

    #[test]
    fn summaries_and_counters() {
        let summary = |quantile, value, sum, count| {
            let samples = [
                sample(Suffix::None, ("quantile", quantile), value),
                sample(Suffix::Sum, ("quantile", ""), sum),
                sample(Suffix::Count, ("quantile", ""), count),
            ];
            is_sound(Kind::Summary, &samples.iter().collect::<Vec<_>>())
        };
        assert!(summary("0.5", 1.0, 1.0, 1.0) && summary("0.99", f64::NAN, 0.0, 0.0));
        assert!(!summary("1.5", 1.0, 1.0, 1.0) && !summary("", 1.0, 1.0, 1.0) && !summary("0.5", -1.0, 1.0, 1.0));
        assert!(!summary("0.5", 1.0, -1.0, 1.0) && !summary("0.5", 1.0, 1.0, f64::INFINITY));
        let counter = |value| is_sound(Kind::Counter, &[&sample(Suffix::None, ("x", "y"), value)]);
        assert!(counter(0.0) && counter(f64::INFINITY) && !counter(-1.0) && !counter(f64::NAN));
        assert!(is_sound(Kind::Gauge, &[&sample(Suffix::None, ("x", "y"), f64::NAN)]));
    }
}
