//! Any batches of any sources give pages that everybody reads (V-12, V-13, V-14): names and labels that become equal, parts of histograms
//! that are called like counters, values at the end of what a double can hold, histograms that contradict themselves.
//!
//! Names come from small pools made to collide, with anything at all now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atlas_sidecar::expose::encode::encode;
use atlas_sidecar::expose::negotiate::{Format, Syntax};
use atlas_sidecar::ingest::latest::{Latest, Settings};
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::sample::names::Scheme;
use atlas_sidecar::sample::{Batch, Family, Kind, Labels, Origin, Sample, Suffix, tags};
use prometheus::Registry;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::pages::{assert_in_one_piece, read_back};
use super::{MINUTE, format, now};
use crate::support::python::read_pages;

/// What a source may give: name, whether it is the table, batch.
type Put = (String, Batch);

fn settings(max_series: usize) -> Settings {
    Settings {
        keep_prefixes: vec!["x".to_owned(), "ü".to_owned()],
        max_series,
        timestamps: false,
        counters_stale_after: Duration::from_secs(3600),
        hidden: Globs::new(Vec::<String>::new()),
    }
}

fn name() -> impl Strategy<Value = String> {
    let pool = [
        "x",
        "x_total",
        "x.total",
        "x_created",
        "x_count",
        "x.count",
        "x_sum",
        "x_bucket",
        "x_bucket_total",
        "x_count_total",
        "x_total_total",
        "x_total_created",
        "x_created_total",
        "x:y",
        "x y",
        "x-y",
        "x_y",
        "x__y",
        "x.y",
        "ü",
        "U__x_2e_y",
        "9",
        "",
        "_",
        "_total",
        "a\"b\\c\nd",
        "node_x",
        "node_x_total",
        "x_info",
    ];
    prop_oneof![9 => proptest::sample::select(pool.to_vec()).prop_map(str::to_owned), 1 => "(?s).{0,8}"]
}

fn label_name() -> impl Strategy<Value = String> {
    let pool = [
        "a",
        "a.b",
        "a_b",
        "a-b",
        "a~b",
        "a_b_2",
        "U__a_2e_b",
        "",
        "__name__",
        "tag__name__",
        "tag",
        "ü",
        "job",
        "source",
        "a:b",
    ];
    prop_oneof![9 => proptest::sample::select(pool.to_vec()).prop_map(str::to_owned), 1 => "(?s).{1,6}"]
}

fn labels() -> impl Strategy<Value = Labels> {
    let value = prop_oneof![6 => "[01]", 1 => "(?s).{0,10}", 1 => Just("\\\"\n\r\t\u{0} ".to_owned())];
    // As they come from the table: anybody's JSON.
    btree_map(label_name(), value, 0..4).prop_map(|pairs| {
        let json = serde_json::to_string(&pairs).unwrap();
        let mut labels = tags::from_json(Some(&json)).unwrap();
        // These belong to histograms and summaries; in one of those they cannot be anybody's own.
        labels.set("le", "");
        labels.set("quantile", "");
        labels
    })
}

fn value() -> impl Strategy<Value = f64> {
    let odd = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        5e-324,
        1e300,
        f64::MAX,
        f64::MIN_POSITIVE,
        9_007_199_254_740_993.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    prop_oneof![proptest::sample::select(odd.to_vec()), any::<f64>(), (-1000i32..1000).prop_map(f64::from)]
}

fn sample(suffix: Suffix, labels: Labels, value: f64) -> Sample {
    Sample { suffix, labels, value, at: None }
}

/// A histogram as it should be, or with any values in its place.
fn histogram(labels: Labels) -> impl Strategy<Value = Vec<Sample>> {
    let sound = (vec(0u32..5, 1..4), 0.0..1e9).prop_map(|(counts, sum)| (counts, sum, true));
    let any = (vec(0u32..5, 0..4), value()).prop_map(|(counts, sum)| (counts, sum, false));
    (prop_oneof![sound, any], value()).prop_map(move |((counts, sum, sound), odd)| {
        let mut all = 0.0;
        let last = counts.len().saturating_sub(1);
        let mut samples = Vec::new();
        for (at, count) in counts.iter().enumerate() {
            all = if sound { all + f64::from(*count) } else { f64::from(*count) };
            let le = if at == last && (sound || *count > 0) { "+Inf" } else { ["0.1", "1.0", "10.0"][at] };
            samples.push(sample(Suffix::Bucket, labels.clone().with("le", le), all));
        }
        samples.push(sample(Suffix::Sum, labels.clone(), sum));
        if sound || odd > 0.0 {
            samples.push(sample(Suffix::Count, labels.clone(), if sound { all } else { odd }));
        }
        samples
    })
}

fn summary(labels: Labels) -> impl Strategy<Value = Vec<Sample>> {
    (vec(value(), 0..3), value(), value()).prop_map(move |(quantiles, sum, count)| {
        let quantile = |(at, value): (usize, f64)| {
            sample(Suffix::None, labels.clone().with("quantile", ["0.5", "0.9", "1.0"][at]), value)
        };
        let mut samples: Vec<Sample> = quantiles.into_iter().enumerate().map(quantile).collect();
        samples.push(sample(Suffix::Sum, labels.clone(), sum));
        samples.push(sample(Suffix::Count, labels.clone(), count.abs().floor()));
        samples
    })
}

fn group(kind: Kind, labels: Labels) -> BoxedStrategy<Vec<Sample>> {
    match kind {
        Kind::Histogram => histogram(labels).boxed(),
        Kind::Summary => summary(labels).boxed(),
        Kind::Counter | Kind::Gauge | Kind::Unknown => {
            value().prop_map(move |value| vec![sample(Suffix::None, labels.clone(), value)]).boxed()
        }
    }
}

fn family(name: String) -> impl Strategy<Value = Family> {
    let kinds = [Kind::Counter, Kind::Counter, Kind::Gauge, Kind::Histogram, Kind::Summary, Kind::Unknown];
    let help = prop_oneof![Just(String::new()), "(?s).{0,12}", Just("\"\\\n\r ".to_owned())];
    (proptest::sample::select(kinds.to_vec()), proptest::collection::hash_set(labels(), 1..4), help).prop_flat_map(
        move |(kind, labels, help)| {
            let name = name.clone();
            let groups: Vec<_> = labels.into_iter().map(|labels| group(kind, labels)).collect();
            groups.prop_map(move |groups| Family {
                name: name.clone().into(),
                kind,
                help: help.clone().into(),
                samples: groups.concat(),
            })
        },
    )
}

fn batch() -> impl Strategy<Value = Batch> {
    let families = proptest::collection::hash_set(name(), 0..6)
        .prop_flat_map(|names| names.into_iter().map(family).collect::<Vec<_>>());
    (families, any::<bool>()).prop_map(|(families, table)| {
        let mut batch = Batch::new(now());
        batch.families = families;
        if table {
            batch.origin = Origin::Table;
        }
        batch
    })
}

/// Sources in any order.
fn puts() -> impl Strategy<Value = Vec<Put>> {
    let all = btree_map("[a-e]", batch(), 1..5);
    all.prop_flat_map(|sources| Just(sources.into_iter().collect::<Vec<_>>()).prop_shuffle())
}

const ALL: [Format; 8] = [
    Format::DEFAULT,
    format(Syntax::Text100, Scheme::AllowUtf8),
    format(Syntax::Text100, Scheme::Dots),
    format(Syntax::Text100, Scheme::Values),
    format(Syntax::OpenMetrics100, Scheme::Underscores),
    format(Syntax::OpenMetrics100, Scheme::AllowUtf8),
    format(Syntax::OpenMetrics100, Scheme::Dots),
    format(Syntax::OpenMetrics100, Scheme::Values),
];

fn shown(puts: &[Put], max_series: usize) -> (Latest, Registry) {
    let registry = Registry::new();
    let latest = Latest::new(settings(max_series), &registry);
    for (source, batch) in puts {
        latest.put(source, MINUTE, false, batch);
    }
    (latest, registry)
}

fn page(latest: &Latest, format: Format) -> String {
    let parts: Vec<_> = latest.sources().into_iter().map(|(_, shown)| shown).collect();
    String::from_utf8(encode(&parts, format, now(), false)).unwrap()
}

fn dropped(registry: &Registry) -> usize {
    let families = registry.gather();
    let dropped = families.iter().find(|f| f.name() == "atlas_sidecar_series_dropped_total");
    let samples = dropped.iter().flat_map(|family| family.get_metric());
    samples.map(|metric| metric.get_counter().get_value()).sum::<f64>() as usize
}

fn samples(puts: &[Put]) -> usize {
    puts.iter().map(|(_, batch)| batch.len()).sum()
}

/// What a page with UTF-8 may hold: values by series.
fn given(puts: &[Put]) -> BTreeMap<String, BTreeSet<u64>> {
    let mut given: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    let families = puts.iter().flat_map(|(_, batch)| &batch.families);
    for (family, sample) in families.flat_map(|family| family.samples.iter().map(move |sample| (family, sample))) {
        let name = settings(0).shown_name(&family.name);
        let bits = if sample.value.is_nan() { f64::NAN.to_bits() } else { sample.value.to_bits() };
        let series = format!("{name}{}{}", sample.suffix.text(), tags::to_json(&renamed(&sample.labels)));
        given.entry(series).or_default().insert(bits);
    }
    given
}

/// Reserved and empty names get `tag` in front, and a number where that is taken.
fn renamed(labels: &Labels) -> Labels {
    let reserved = |name: &str| name.is_empty() || name.starts_with("__");
    let mut shown: Labels =
        labels.iter().filter(|(name, _)| !reserved(name)).map(|(name, value)| (name.to_owned(), value)).collect();
    for (name, value) in labels.iter().filter(|(name, _)| reserved(name)) {
        let numbered = |n: u32| if n == 1 { format!("tag{name}") } else { format!("tag{name}_{n}") };
        let free = (1..).map(numbered).find(|name| shown.get(name).is_none()).unwrap();
        shown.set(free, value);
    }
    shown
}

proptest! {
    #[test]
    fn every_page_reads_back(puts in puts()) {
        let (latest, registry) = shown(&puts, 10_000);
        let pages = ALL.map(|format| page(&latest, format));
        let read: Vec<_> = ALL.iter().zip(&pages).map(|(format, page)| {
            assert_in_one_piece(page);
            match format.syntax {
                Syntax::OpenMetrics100 if page == "# EOF\n" => BTreeMap::new(),
                Syntax::OpenMetrics100 => {
                    assert!(page.ends_with("\n# EOF\n"), "{page}");
                    read_back(page, format.syntax)
                }
                _ if page.is_empty() => BTreeMap::new(),
                _ => read_back(page, format.syntax),
            }
        }).collect();
        // Nothing is lost without being counted, and nothing is made up.
        prop_assert_eq!(read[0].len() + dropped(&registry), samples(&puts), "{}", &pages[0]);
        prop_assert_eq!(read[1].len(), read[0].len(), "{}", &pages[1]);
        prop_assert_eq!(latest.len(), read[0].len());
        let given = given(&puts);
        for (series, bits) in &read[1] {
            prop_assert!(given.get(series).is_some_and(|values| values.contains(bits)), "{series} {bits} of {given:?}");
        }
        // OpenMetrics has what text has, but for times of creation.
        for (text, open) in [(0, 4), (1, 5), (2, 6), (3, 7)] {
            for (series, bits) in &read[open] {
                prop_assert_eq!(read[text].get(series), Some(bits), "{}", &pages[open]);
            }
            for series in read[text].keys().filter(|series| !read[open].contains_key(*series)) {
                let name = series.split_once('{').unwrap().0;
                prop_assert!(name.contains("created"), "{series} is missing in\n{}\nbut is in\n{}", &pages[open], &pages[text]);
            }
        }
    }

    /// Whoever was collected first: when all have been collected as often as there are sources, each has found out what it may show.
    #[test]
    fn the_order_of_puts_does_not_show((one, other) in puts().prop_flat_map(|puts| (Just(puts.clone()), Just(puts).prop_shuffle()))) {
        let rounds = |puts: &[Put]| vec![puts.to_vec(); puts.len()].concat();
        let (one, other) = (shown(&rounds(&one), 10_000).0, shown(&rounds(&other), 10_000).0);
        for format in ALL {
            prop_assert_eq!(page(&one, format), page(&other, format));
        }
    }

    /// E-12: at the limit, over rounds of collections that fail or change, the limit holds and histograms are whole.
    #[test]
    fn histograms_are_whole_at_the_limit(limit in 1usize..12, rounds in vec((puts(), any::<u8>()), 1..4)) {
        let latest = Latest::new(settings(limit), &Registry::new());
        for (puts, failing) in &rounds {
            let mut present: BTreeSet<String> = BTreeSet::new();
            for (at, (source, batch)) in puts.iter().enumerate() {
                let failed = failing & (1 << at) != 0;
                // Apart from all other sources', so that what is on the page is known to be its own.
                let mut batch = batch.clone();
                batch.families.iter_mut().flat_map(|f| &mut f.samples).for_each(|s| s.labels.set("of", source.as_str()));
                if failed {
                    batch.families.clear();
                }
                latest.put(source, MINUTE, failed, &batch);
                present.insert(source.clone());
                prop_assert!(latest.len() <= limit);
            }
            let page = page(&latest, format(Syntax::Text100, Scheme::AllowUtf8));
            if page.is_empty() {
                continue;
            }
            let read = read_back(&page, Syntax::Text100);
            prop_assert!(read.len() <= limit);
            for (at, (source, batch)) in puts.iter().enumerate().filter(|(at, _)| failing & (1 << at) == 0) {
                let _ = at;
                for family in batch.families.iter().filter(|f| is_grouped(f)) {
                    for group in family.samples.chunk_by(|a, b| bare(&a.labels, source) == bare(&b.labels, source)) {
                        let name = settings(0).shown_name(&family.name);
                        let is_shown = |s: &&Sample| {
                            let labels = renamed(&s.labels.clone().with("of", source.as_str()));
                            read.contains_key(&format!("{name}{}{}", s.suffix.text(), tags::to_json(&labels)))
                        };
                        let shown = group.iter().filter(is_shown).count();
                        prop_assert!(shown == 0 || shown == group.len() || shared(&batch.families, family), "{shown} of {group:?}\n{page}");
                    }
                }
            }
        }
    }
}

/// Whether it has groups, and none that becomes like another by the `tag` that it gets.
fn is_grouped(family: &Family) -> bool {
    let tagged = |sample: &Sample| sample.labels.iter().any(|(name, _)| name.is_empty() || name.starts_with("__"));
    matches!(family.kind, Kind::Histogram | Kind::Summary) && !family.samples.iter().any(tagged)
}

fn bare(labels: &Labels, source: &str) -> Labels {
    labels.clone().with("of", source).with("le", "").with("quantile", "")
}

/// Whether another family of the batch has series of the same names.
fn shared(families: &[Family], one: &Family) -> bool {
    let names =
        |family: &Family| -> BTreeSet<String> { family.samples.iter().map(|s| family.series_name(s)).collect() };
    families.iter().any(|other| !std::ptr::eq(other, one) && !names(other).is_disjoint(&names(one)))
}

/// Prometheus' own Python client takes the OpenMetrics pages, and the same samples from them as our parser; in one process, for its start
/// takes longer than all pages.
#[test]
fn the_python_client_reads_random_pages() {
    let mut runner = TestRunner::deterministic();
    let format = |escaping| format(Syntax::OpenMetrics100, escaping);
    let formats = [format(Scheme::AllowUtf8), format(Scheme::Underscores), format(Scheme::Values)];
    let strategy = puts();
    let pages: Vec<String> = (0..300)
        .map(|n| {
            let puts = strategy.new_tree(&mut runner).unwrap().current();
            page(&shown(&puts, 10_000).0, formats[n % formats.len()])
        })
        .collect();
    let asked: Vec<(&str, &str)> = pages.iter().map(|page| ("openmetrics", page.as_str())).collect();
    for (page, read) in pages.iter().zip(read_pages(&asked)) {
        let read = read.unwrap_or_else(|e| panic!("{e} in:\n{page}"));
        let ours = if page == "# EOF\n" { 0 } else { read_back(page, Syntax::OpenMetrics100).len() };
        assert_eq!(read.samples.len(), ours, "{page}");
    }
}
