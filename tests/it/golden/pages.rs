//! The golden pages, and their readers: our own parser, Prometheus' Python client, promtool.

use std::collections::{BTreeMap, BTreeSet};

use atlas_sidecar::expose::negotiate::Syntax;
use atlas_sidecar::sample::names::Scheme;
use atlas_sidecar::sample::tags;
use atlas_sidecar::scrape::text::{self, Limits};

use super::{FORMATS, batches, exposer, fixture, format, page, pages};
use crate::support::promtool;
use crate::support::python::read_pages;

/// What our own parser reads: values by series (name and canonical labels). Nothing may be bad, nothing twice.
pub fn read_back(page: &str, syntax: Syntax) -> BTreeMap<String, u64> {
    let syntax = if syntax == Syntax::OpenMetrics100 { text::Syntax::OpenMetrics } else { text::Syntax::Text };
    let limits = Limits { labels: 200, value_bytes: 1 << 20, name_bytes: 1 << 20, ..Limits::of_samples(1_000_000) };
    let read = text::parse(page.as_bytes(), syntax, &limits).unwrap_or_else(|e| panic!("{e} in:\n{page}"));
    assert_eq!((read.bad_lines, read.first_bad, read.duplicates), (0, None, 0), "{page}");
    let mut series = BTreeMap::new();
    for family in &read.families {
        for sample in &family.samples {
            let bits = if sample.value.is_nan() { f64::NAN.to_bits() } else { sample.value.to_bits() };
            let name = format!("{}{}", family.series_name(sample), tags::to_json(&sample.labels));
            assert_eq!(series.insert(name, bits), None);
        }
    }
    series
}

/// Every family in one piece under one `# TYPE`, and every series once, as the text says it.
pub fn assert_in_one_piece(page: &str) {
    let mut families = BTreeSet::new();
    let mut series = BTreeSet::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(families.insert(rest.rsplit_once(' ').unwrap().0), "two heads: {line}");
        } else if !line.starts_with('#') {
            assert!(!families.is_empty(), "a series before any head: {line}");
            assert!(series.insert(line.rsplit_once(' ').unwrap().0), "twice: {line}");
        }
    }
}

#[tokio::test]
async fn the_pages_are_the_golden_ones() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for ((name, _), page) in FORMATS.iter().zip(pages().await) {
        let golden = fixture("page").join(name);
        if update {
            std::fs::write(&golden, &page).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        for (ours, golden) in page.lines().zip(expected.lines()) {
            assert_eq!(ours, golden, "{name}");
        }
        assert_eq!(page.lines().count(), expected.lines().count(), "{name}");
        assert_eq!(page, expected, "{name}");
    }
}

/// Text 1.0.0 with underscores is text 0.0.4: only quoted names are new in it.
#[tokio::test]
async fn text_1_0_0_with_underscores_is_text_0_0_4() {
    let exposer = exposer(&batches().await);
    let [old, new] = [Syntax::Text004, Syntax::Text100].map(|s| page(&exposer, format(s, Scheme::Underscores)));
    assert_eq!(old, new);
}

/// The page is the same whoever was collected first.
#[tokio::test]
async fn the_order_of_collection_does_not_show() {
    let mut batches = batches().await;
    let counted = |page: &str| {
        page.lines().filter(|l| !l.starts_with("atlas_sidecar_series_dropped")).collect::<Vec<_>>().join("\n")
    };
    let of = |batches: &[_]| FORMATS.map(|(_, format)| counted(&page(&exposer(batches), format)));
    let first = of(&batches);
    batches.reverse();
    assert_eq!(of(&batches), first);
    for turn in 1..batches.len() {
        batches.rotate_left(turn);
        assert_eq!(of(&batches), first, "turn {turn}");
    }
}

/// V-12, V-13, V-14: our own parser reads every page whole, and the same in each.
#[tokio::test]
async fn our_parser_reads_the_same_samples_in_every_format() {
    let pages = pages().await;
    pages.iter().for_each(|page| assert_in_one_piece(page));
    let read: Vec<_> = FORMATS.iter().zip(&pages).map(|((_, format), page)| read_back(page, format.syntax)).collect();
    let values = |series: &BTreeMap<String, u64>| {
        let mut values: Vec<u64> = series.values().copied().collect();
        values.sort_unstable();
        values
    };
    // Names differ by escaping, values do not.
    for (at, (name, _)) in FORMATS.iter().enumerate().take(4) {
        assert_eq!(values(&read[at]), values(&read[0]), "{name}");
    }
    let (text, mut open) = (read[1].clone(), read[4].clone());
    let left_out: BTreeSet<&str> =
        text.keys().filter(|name| !open.contains_key(*name)).map(|name| name.split('{').next().unwrap()).collect();
    // A counter's or histogram's times of creation belong to it in OpenMetrics, and we do not put them there.
    let created = [
        "atlas_jobs_created",
        "atlas_latency_seconds_created",
        "atlas_size_bytes_created",
        "atlas_wait_seconds_created",
    ];
    assert!(left_out.iter().all(|name| created.contains(name)), "{left_out:?}");
    open.retain(|name, _| text.contains_key(name));
    assert_eq!(open.len(), read[4].len());
    assert!(open.iter().all(|(name, value)| text[name] == *value));
    assert!(text.len() > 500, "{}", text.len());
}

/// Prometheus' own Python client reads all pages, and the same samples in them.
#[tokio::test]
async fn the_python_client_reads_the_golden_pages() {
    let pages = pages().await;
    let kind = |syntax| if syntax == Syntax::OpenMetrics100 { "openmetrics" } else { "text" };
    let asked: Vec<(&str, &str)> =
        FORMATS.iter().zip(&pages).map(|((_, format), page)| (kind(format.syntax), page.as_str())).collect();
    let read: Vec<_> = read_pages(&asked)
        .into_iter()
        .zip(FORMATS)
        .map(|(read, (name, _))| read.unwrap_or_else(|e| panic!("{name}: {e}")))
        .collect();
    let created = |name: &str| name.ends_with("_created");
    let (text, open) = (&read[1].samples, &read[4].samples);
    let without: BTreeMap<_, _> =
        text.iter().filter(|((name, _), _)| open.keys().any(|(n, _)| n == name) || !created(name)).collect();
    assert_eq!(without, open.iter().collect());
    for (at, (name, _)) in FORMATS.iter().enumerate().take(4) {
        assert_eq!(read[at].samples.len(), text.len(), "{name}");
        // The oracle and our own parser agree on what is there.
        assert_eq!(read_back(&pages[at], FORMATS[at].1.syntax).len(), text.len(), "{name}");
    }
}

/// promtool, which knows nothing newer, reads text 0.0.4; what it says is about other people's names.
#[tokio::test]
async fn promtool_reads_the_golden_page() {
    let page = &pages().await[0];
    let (code, said) = promtool(page);
    assert!(matches!(code, Some(0 | 3)), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("atlas_sidecar_")), "{said}");
}
