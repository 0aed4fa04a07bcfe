//! The promises of `owners`, one by one; the random ones are in tests/it/golden/random.rs.

use super::*;
use crate::clock::Timestamp;
use crate::sample::{Labels, Sample, Suffix};

const NOW: Timestamp = Timestamp::from_millis(1_795_374_000_123);
const MINUTE: Duration = Duration::from_secs(60);

fn settings(max_series: usize) -> Settings {
    Settings {
        keep_prefixes: vec!["x_".to_owned()],
        max_series,
        timestamps: false,
        counters_stale_after: Duration::from_secs(3600),
        hidden: Globs::new(["x_hidden_bucket"]),
    }
}

fn latest(max_series: usize) -> (Latest, Registry) {
    let registry = Registry::new();
    (Latest::new(settings(max_series), &registry), registry)
}

fn one(name: &'static str, kind: Kind, value: f64) -> Batch {
    let mut batch = Batch::new(NOW);
    batch.family(name, kind, "").push(Labels::none(), value);
    batch
}

fn table(mut batch: Batch) -> Batch {
    batch.origin = Origin::Table;
    batch
}

fn histogram(name: &'static str, bounds: &[&str]) -> Batch {
    let mut batch = Batch::new(NOW);
    let family = batch.family(name, Kind::Histogram, "");
    let sample = |suffix, labels: Labels| Sample { suffix, labels, value: 1.0, at: None };
    for le in bounds {
        family.samples.push(sample(Suffix::Bucket, Labels::none().with("le", *le)));
    }
    family.samples.push(sample(Suffix::Sum, Labels::none()));
    family.samples.push(sample(Suffix::Count, Labels::none()));
    batch
}

/// All that is shown, as `kind name value`, sorted.
fn shown(latest: &Latest) -> Vec<String> {
    let mut all = Vec::new();
    for (_, shown) in latest.sources() {
        for family in &shown.families {
            for place in family.series.clone() {
                let text = String::from_utf8(shown.text_of(place).to_vec()).unwrap();
                all.push(format!("{} {text}{}", family.kind, shown.series[place].value));
            }
        }
    }
    all.sort();
    all
}

fn dropped(registry: &Registry) -> Vec<String> {
    let own = telemetry::gather(registry, NOW);
    let family = own.families.iter().find(|f| f.name == SERIES_DROPPED.name);
    let samples = family.iter().flat_map(|f| &f.samples);
    samples
        .map(|s| format!("{} {} {}", s.labels.get("source").unwrap(), s.labels.get("reason").unwrap(), s.value))
        .collect()
}

/// Whoever comes first: what was measured is shown before what somebody wrote to the table, then names decide.
#[test]
fn rank_decides_not_the_order_of_arrival() {
    for measured_first in [true, false] {
        let (latest, registry) = latest(9);
        let mut puts = [("z", one("x_a", Kind::Gauge, 1.0)), ("a", table(one("x_a", Kind::Gauge, 2.0)))];
        if !measured_first {
            puts.reverse();
        }
        puts.iter().for_each(|(source, batch)| latest.put(source, MINUTE, false, batch));
        assert_eq!(shown(&latest), ["gauge x_a 1"]);
        assert_eq!(dropped(&registry), ["a duplicate 1"]);
        latest.put("b", MINUTE, false, &one("x_a", Kind::Gauge, 3.0));
        assert_eq!(shown(&latest), ["gauge x_a 3"], "`b` comes before `z`");
        // Whoever is gone leaves its series to the next one that is collected.
        latest.put("b", MINUTE, false, &Batch::new(NOW));
        latest.put("a", MINUTE, false, &puts.iter().find(|(source, _)| *source == "a").unwrap().1);
        assert_eq!(shown(&latest), ["gauge x_a 2"]);
        assert_eq!(latest.len(), 1);
    }
}

/// V-13: the type that counts is that of the first in rank, at once.
#[test]
fn a_family_changes_hands_whole() {
    let (latest, registry) = latest(9);
    latest.put("b", MINUTE, false, &one("x_a", Kind::Gauge, 1.0));
    latest.put("c", MINUTE, false, &{
        let mut batch = Batch::new(NOW);
        batch.family("x_a", Kind::Gauge, "").push(Labels::none().with("l", "c"), 2.0);
        batch
    });
    latest.put("a", MINUTE, false, &one("x_a", Kind::Counter, 3.0));
    assert_eq!(shown(&latest), ["counter x_a 3"]);
    assert_eq!(dropped(&registry), ["b type_conflict 1", "c type_conflict 1"]);
    assert_eq!(latest.len(), 1);
}

/// A failed source keeps the meaning of its names as it keeps its series: nobody behind it takes them meanwhile.
#[test]
fn the_names_of_a_failed_source_are_reserved() {
    let (latest, _) = latest(9);
    latest.put("a", MINUTE, false, &one("x_a", Kind::Gauge, 1.0));
    latest.put("a", MINUTE, true, &Batch::new(NOW));
    latest.put("b", MINUTE, false, &one("x_a", Kind::Counter, 2.0));
    assert_eq!(shown(&latest), Vec::<String>::new());
    latest.put("a", MINUTE, false, &one("x_a", Kind::Gauge, 1.0));
    assert_eq!(shown(&latest), ["gauge x_a 1"]);
    // Forgotten, it keeps nothing.
    latest.put("a", MINUTE, true, &Batch::new(NOW));
    latest.retain(&["b".to_owned()], settings(9));
    assert_eq!(latest.len(), 0);
    latest.put("b", MINUTE, false, &one("x_a", Kind::Counter, 2.0));
    assert_eq!(shown(&latest), ["counter x_a 2"]);
}

/// `x_h_count` beside a histogram `x_h` would be read as that histogram's count.
#[test]
fn the_names_of_a_histograms_parts_are_taken() {
    let (latest, registry) = latest(9);
    latest.put("b", MINUTE, false, &one("x_h_count", Kind::Gauge, 7.0));
    latest.put("a", MINUTE, false, &histogram("x_h", &["+Inf"]));
    assert_eq!(shown(&latest).len(), 3);
    assert_eq!(dropped(&registry), ["b type_conflict 1"]);
    // A histogram without that part leaves the name to others.
    let mut without = histogram("x_h", &["+Inf"]);
    without.families[0].samples.pop();
    latest.put("a", MINUTE, false, &without);
    latest.put("b", MINUTE, false, &one("x_h_count", Kind::Gauge, 7.0));
    assert!(shown(&latest).contains(&"gauge x_h_count 7".to_owned()));
}

/// E-12: a histogram finds room for all of its series or is not shown; what it would have taken is there for others.
#[test]
fn a_histogram_is_shown_whole_or_not_at_all() {
    let (latest, registry) = latest(4);
    latest.put("a", MINUTE, false, &histogram("x_h", &["1.0", "2.0", "+Inf"]));
    assert_eq!((shown(&latest).len(), latest.len()), (0, 0));
    assert_eq!(dropped(&registry), ["a limit 5"]);
    latest.put("a", MINUTE, false, &histogram("x_h", &["1.0", "+Inf"]));
    assert_eq!((shown(&latest).len(), latest.len()), (4, 4));
    // Another source's series within it takes the rest of it out as well.
    latest.put("b", MINUTE, false, &histogram("x_h", &["2.0", "+Inf"]));
    assert_eq!(shown(&latest).len(), 4);
    latest.put("0", MINUTE, false, &histogram("x_h", &["+Inf"]));
    assert_eq!(shown(&latest).len(), 3, "{:?}", shown(&latest));
    assert_eq!(latest.len(), 3);
}

/// A histogram of which only the buckets are hidden is no histogram.
#[test]
fn what_is_left_of_a_partly_hidden_histogram_has_no_type() {
    let (latest, _) = latest(9);
    latest.put("a", MINUTE, false, &histogram("x_hidden", &["+Inf"]));
    assert_eq!(shown(&latest), ["untyped x_hidden_count 1", "untyped x_hidden_sum 1"]);
}

/// A series of a histogram that is older than the others takes them with it when it goes stale.
#[test]
fn a_histogram_is_as_old_as_its_oldest_series() {
    let (latest, _) = latest(9);
    let mut batch = histogram("x_h", &["+Inf"]);
    batch.families[0].samples[1].at = Some(NOW.before(MINUTE));
    latest.put("a", MINUTE, false, &batch);
    let (_, shown) = latest.sources().remove(0);
    assert!(shown.series.iter().all(|series| series.at == NOW.before(MINUTE)));
}

/// At the limit a source still says whether it is up; a target that makes up such names gains nothing.
#[test]
fn health_is_shown_at_the_limit() {
    let (latest, _) = latest(1);
    let health = |source: &str| {
        let mut batch = one("x_b", Kind::Gauge, 1.0);
        let family = batch.family("atlas_sidecar_source_up", Kind::Gauge, "");
        family.push(Labels::none().with("source", source), 1.0);
        batch
    };
    latest.put("a", MINUTE, false, &one("x_a", Kind::Gauge, 1.0));
    latest.put("b", MINUTE, false, &health("b"));
    assert_eq!(shown(&latest), ["gauge atlas_sidecar_source_up{source=\"b\"} 1", "gauge x_a 1"]);
    latest.put("c", MINUTE, false, &health("other"));
    assert_eq!(shown(&latest).len(), 2);
    let mut many = Batch::new(NOW);
    for n in 0..100 {
        many.family(format!("atlas_sidecar_source_{n:03}"), Kind::Gauge, "")
            .push(Labels::none().with("source", "d"), 1.0);
    }
    latest.put("d", MINUTE, false, &many);
    assert_eq!(shown(&latest).len(), 2 + 8);
}

/// A row called like one of our own metrics does not stand beside it, nor does it change its type.
#[test]
fn our_own_metrics_come_first() {
    let (latest, registry) = latest(2);
    let mut rows = table(one("atlas_sidecar_series", Kind::Gauge, 99.0));
    rows.family("atlas_sidecar_series_limit", Kind::Counter, "").push(Labels::none().with("l", "m"), 99.0);
    latest.put("table", MINUTE, false, &rows);
    latest.put_own(&telemetry::gather(&registry, NOW));
    assert_eq!(shown(&latest), ["gauge atlas_sidecar_series 2", "gauge atlas_sidecar_series_limit 2"]);
    assert_eq!(dropped(&registry), ["table duplicate 1", "table type_conflict 1"]);
    // They do not count for the limit, and a new configuration does not take them away.
    assert_eq!(latest.len(), 0);
    latest.put("a", MINUTE, false, &{
        let mut batch = one("x_a", Kind::Gauge, 1.0);
        batch.family("x_b", Kind::Gauge, "").push(Labels::none(), 1.0);
        batch
    });
    assert_eq!(latest.len(), 2);
    latest.retain(&[], settings(9));
    // With the counter of what was dropped, which had nothing to say before.
    assert_eq!(shown(&latest).len(), 2);
}
