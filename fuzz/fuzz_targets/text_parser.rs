//! Arbitrary bytes as a page, in each syntax: no panic, nothing beyond the limits, the parser's promises kept, and the same again when it
//! is written and read once more.

#![no_main]

use std::collections::HashSet;

use atlas_sidecar::scrape::text::{Limits, Page, Syntax, parse};
// `render` is shared with the crate's own tests and finds these as it does there.
use atlas_sidecar::{clock, sample};
use libfuzzer_sys::fuzz_target;
use sample::{Family, Kind, Labels, Suffix};

#[path = "../../src/scrape/text/render.rs"]
mod render;

/// Small, so that short inputs reach them.
const SMALL: Limits = Limits { lines: 60, samples: 40, labels: 5, name_bytes: 24, value_bytes: 40, bad_lines: 8 };

fuzz_target!(|bytes: &[u8]| {
    for syntax in [Syntax::Text, Syntax::OpenMetrics] {
        let wide = Limits::of_samples(100_000);
        if let Ok(page) = parse(bytes, syntax, &SMALL) {
            check_limits(&page);
            // What fits the small limits is the same under wide ones.
            assert_eq!(
                render::comparable(&page.families),
                render::comparable(&parse(bytes, syntax, &wide).expect("fits").families)
            );
        }
        if let Ok(page) = parse(bytes, syntax, &wide) {
            check_promises(&page.families);
            let written = render::page(&page.families, syntax == Syntax::OpenMetrics);
            let again = parse(written.as_bytes(), syntax, &wide).unwrap_or_else(|e| panic!("{e}\n{written}"));
            assert_eq!((again.bad_lines, again.duplicates), (0, 0), "{:?}\n{written}", again.first_bad);
            assert_eq!(render::comparable(&again.families), render::comparable(&page.families), "\n{written}");
        }
    }
});

fn check_limits(page: &Page) {
    assert!(page.bad_lines <= SMALL.bad_lines);
    assert!(page.families.iter().map(|f| f.samples.len()).sum::<usize>() + page.duplicates <= SMALL.samples);
    for family in &page.families {
        assert!(family.name.len() <= SMALL.name_bytes && family.help.len() <= SMALL.value_bytes);
        for sample in &family.samples {
            assert!(sample.labels.len() <= SMALL.labels);
            // A bound's canonical text may be longer than what was sent.
            assert!(sample.labels.iter().all(|(n, v)| {
                n.len() <= SMALL.name_bytes && (v.len() <= SMALL.value_bytes || n == "le" || n == "quantile")
            }));
        }
    }
}

fn check_promises(families: &[Family]) {
    let mut names = HashSet::new();
    let mut series = HashSet::new();
    for family in families {
        assert!(names.insert(family.name.as_ref()) && !family.name.is_empty() && !family.samples.is_empty());
        for sample in &family.samples {
            assert!(series.insert((family.series_name(sample), sample.labels.clone())), "{family:?}");
            assert!(sample.labels.iter().all(|(n, v)| !n.is_empty() && n != "__name__" && !v.is_empty()));
        }
        match family.kind {
            Kind::Histogram => check_groups(family, "le", Suffix::Bucket),
            Kind::Summary => check_groups(family, "quantile", Suffix::None),
            _ => assert!(family.samples.iter().all(|s| s.suffix == Suffix::None)),
        }
    }
}

/// Groups stand together; their bounds ascend, and a histogram's end with `+Inf`.
fn check_groups(family: &Family, label: &str, bounded: Suffix) {
    let key = |labels: &Labels| {
        let mut labels = labels.clone();
        let bound = labels.take(label);
        (labels, bound)
    };
    let mut seen = HashSet::new();
    for group in family.samples.chunk_by(|a, b| key(&a.labels).0 == key(&b.labels).0) {
        assert!(seen.insert(key(&group[0].labels).0), "a group is split: {family:?}");
        let bounds: Vec<f64> = group
            .iter()
            .filter(|s| s.suffix == bounded)
            .map(|s| key(&s.labels).1.expect("a bound").parse().expect("a number"))
            .collect();
        assert!(bounds.is_sorted_by(|a, b| a < b), "{family:?}");
        assert!(family.kind == Kind::Summary || bounds.last() == Some(&f64::INFINITY), "{family:?}");
        let totals = &group[bounds.len()..];
        assert!(totals.is_sorted_by(|a, b| a.suffix < b.suffix), "{family:?}");
        assert!(totals.iter().all(|s| s.suffix != bounded && key(&s.labels).1.is_none()), "{family:?}");
    }
}
