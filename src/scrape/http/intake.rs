//! What of a page is taken: the series that the settings name, from about now, under labels that say where they come from.
//!
//! A histogram or summary is taken whole or in pieces, never as a histogram with a piece missing: if the settings name only some of its series, those
//! become families of kind unknown, and a group of it is left out if any of its samples is.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::sample::globs::Globs;
use crate::sample::{Family, Kind, Labels, Sample, Suffix};

use super::text::{BadLine, Page, by_full_name};

/// How far a sample's own time may be from the scrape's. Prometheus' lookback is 5 minutes: what is older would be stale there too.
const WINDOW: Duration = Duration::from_secs(5 * 60);

/// What was taken of a page, and what was not.
pub(super) struct Taken {
    pub(super) families: Vec<Family>,
    pub(super) bad_lines: usize,
    pub(super) first_bad: Option<BadLine>,
    pub(super) duplicates: usize,
    pub(super) out_of_window: usize,
}

impl Taken {
    /// Why there are no families.
    pub(super) fn nothing(&self) -> String {
        match self.out_of_window {
            0 => "none of its series passes the target's `metrics`".to_owned(),
            samples => format!("all samples that were left ({samples}) are more than 5 minutes from our time"),
        }
    }
}

/// Takes of `page` what `metrics` names (by full name), labelled with `source`; `now` is the time of the scrape.
pub(super) fn take(page: Page, source: &str, metrics: &Globs, now: Timestamp) -> Taken {
    let mut out_of_window = 0;
    let mut families = Vec::with_capacity(page.families.len());
    for family in page.families {
        for mut family in named(family, metrics) {
            out_of_window += drop_out_of_window(&mut family, now);
            if family.samples.is_empty() {
                continue;
            }
            for sample in &mut family.samples {
                label(&mut sample.labels, source);
            }
            families.push(family);
        }
    }
    Taken { families, bad_lines: page.bad_lines, first_bad: page.first_bad, duplicates: page.duplicates, out_of_window }
}

/// `family` if all of its series pass; otherwise families of those that do.
fn named(family: Family, metrics: &Globs) -> Vec<Family> {
    let suffixes = match family.kind {
        Kind::Histogram => [Suffix::Bucket, Suffix::Sum, Suffix::Count],
        Kind::Summary => [Suffix::None, Suffix::Sum, Suffix::Count],
        _ if metrics.matches(&family.name) => return vec![family],
        _ => return Vec::new(),
    };
    let passes = suffixes.map(|suffix| metrics.matches(&format!("{}{}", family.name, suffix.text())));
    match passes {
        [true, true, true] => vec![family],
        [false, false, false] => Vec::new(),
        _ => by_full_name(family).into_iter().filter(|part| metrics.matches(&part.name)).collect(),
    }
}

/// Drops samples whose own time is not about `now`, and with them the rest of their histogram; gives how many.
fn drop_out_of_window(family: &mut Family, now: Timestamp) -> usize {
    let window = now.before(WINDOW)..=now.after(WINDOW);
    let outside = |sample: &Sample| sample.at.is_some_and(|at| !window.contains(&at));
    if !family.samples.iter().any(outside) {
        return 0;
    }
    let bound = match family.kind {
        Kind::Histogram => Some("le"),
        Kind::Summary => Some("quantile"),
        _ => None,
    };
    // A group's samples stand together, so what is to be dropped is known run by run.
    let dropped: Vec<bool> = family
        .samples
        .chunk_by(|a, b| bound.is_some_and(|bound| same_group(&a.labels, &b.labels, bound)))
        .flat_map(|group| std::iter::repeat_n(group.iter().any(outside), group.len()))
        .collect();
    let before = family.samples.len();
    let mut dropped = dropped.into_iter();
    family.samples.retain(|_| !dropped.next().unwrap_or(false));
    before - family.samples.len()
}

fn same_group(a: &Labels, b: &Labels, bound: &str) -> bool {
    a.iter().filter(|(name, _)| *name != bound).eq(b.iter().filter(|(name, _)| *name != bound))
}

/// Adds `source`. A label of that name that the target sent itself is kept as `exported_source`, as Prometheus does without `honor_labels`.
fn label(labels: &mut Labels, source: &str) {
    if let Some(sent) = labels.take("source") {
        let mut name = "exported_source".to_owned();
        while labels.get(&name).is_some() {
            name.insert_str(0, "exported_");
        }
        labels.set(name, sent);
    }
    labels.set("source", source);
}

#[cfg(test)]
mod tests {
    use super::super::text::{Limits, Syntax, parse};
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn taken(page: &str, metrics: &[&str]) -> Taken {
        let page = parse(page.as_bytes(), Syntax::Text, &Limits::of_samples(100)).expect("a page");
        take(page, "t", &Globs::new(metrics.iter().copied()), NOW)
    }

    fn shown(taken: &Taken) -> Vec<String> {
        taken
            .families
            .iter()
            .flat_map(|f| f.samples.iter().map(|s| format!("{} {} {:?}", f.kind, f.series_name(s), s.labels)))
            .collect()
    }

    #[test]
    fn every_series_says_where_it_comes_from() {
        let taken = taken("a 1\nb{source=\"x\"} 1\nc{source=\"x\",exported_source=\"y\"} 1\n", &["*"]);
        let labels: Vec<Vec<(&str, &str)>> =
            taken.families.iter().map(|f| f.samples[0].labels.iter().collect()).collect();
        assert_eq!(labels[0], [("source", "t")]);
        assert_eq!(labels[1], [("exported_source", "x"), ("source", "t")]);
        assert_eq!(labels[2], [("exported_exported_source", "x"), ("exported_source", "y"), ("source", "t")]);
    }

    const HISTOGRAM: &str = "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n";

    #[test]
    fn a_histogram_is_taken_whole_or_in_pieces() {
        let names = |metrics: &[&str]| {
            let taken = taken(HISTOGRAM, metrics);
            taken.families.iter().map(|f| format!("{} {}", f.kind, f.name)).collect::<Vec<_>>()
        };
        assert_eq!(names(&["h_*"]), ["histogram h"]);
        assert_eq!(names(&["h_sum", "h_count"]), ["untyped h_sum", "untyped h_count"]);
        assert_eq!(names(&["h"]), Vec::<String>::new());
        assert_eq!(names(&["x"]), Vec::<String>::new());
        assert!(taken(HISTOGRAM, &["x"]).nothing().contains("`metrics`"));
    }

    #[test]
    fn samples_of_another_time_are_left_out() {
        let at = |seconds: i64| NOW.millis() + seconds * 1000;
        let page = format!("a 1 {}\nb 1 {}\nc 1 {}\nd 1 {}\n", at(-300), at(-301), at(300), at(301));
        let some = taken(&page, &["*"]);
        assert_eq!(some.out_of_window, 2);
        assert_eq!(some.families.iter().map(|f| f.name.as_ref()).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(some.families[0].samples[0].at, Some(Timestamp::from_millis(at(-300))));
        let none = taken(&format!("a 1 {}\n", at(-3600)), &["*"]);
        assert!(none.families.is_empty() && none.nothing().contains("5 minutes"), "{}", none.nothing());
    }

    #[test]
    fn a_group_with_a_sample_of_another_time_goes_whole() {
        let old = NOW.millis() - 3_600_000;
        let page = format!(
            "# TYPE h histogram\nh_bucket{{a=\"x\",le=\"1\"}} 1\nh_bucket{{a=\"x\",le=\"+Inf\"}} 1 {old}\nh_sum{{a=\"x\"}} 1\n\
             h_bucket{{a=\"y\",le=\"+Inf\"}} 1\nh_count{{a=\"y\"}} 1\n"
        );
        let taken = taken(&page, &["*"]);
        assert_eq!(taken.out_of_window, 3);
        assert_eq!(shown(&taken).len(), 2);
        assert!(
            shown(&taken).iter().all(|s| s.starts_with("histogram h_") && s.contains("\"y\"")),
            "{:?}",
            shown(&taken)
        );
    }
}
