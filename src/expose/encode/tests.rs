//! The encoder over small inputs; whole pages and random ones are in tests/it/golden.

use super::*;
use crate::ingest::latest::Settings;
use crate::sample::globs::Globs;
use crate::sample::{Batch, Labels, Sample, Suffix};

const NOW: Timestamp = Timestamp::from_millis(1_795_374_000_123);
const MINUTE: Duration = Duration::from_secs(60);

fn settings(max_series: usize) -> Settings {
    Settings {
        keep_prefixes: vec!["app_".to_owned()],
        max_series,
        timestamps: false,
        counters_stale_after: Duration::from_secs(3600),
        hidden: Globs::new(["atlas_hidden*"]),
    }
}

fn latest(max_series: usize) -> (Latest, Registry) {
    let registry = Registry::new();
    (Latest::new(settings(max_series), &registry), registry)
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|&(n, v)| (n.to_owned(), v)).collect()
}

fn page(latest: &Latest, syntax: Syntax, escaping: Scheme, now: Timestamp) -> String {
    let parts: Vec<_> = latest.sources().into_iter().map(|(_, shown)| shown).collect();
    String::from_utf8(encode(&parts, Format { syntax, escaping }, now, latest.with_timestamps())).unwrap()
}

fn text(latest: &Latest) -> String {
    page(latest, Syntax::Text004, Scheme::Underscores, NOW)
}

fn gauges(names: &[&str]) -> Batch {
    let mut batch = Batch::new(NOW);
    for name in names {
        batch.family((*name).to_owned(), Kind::Gauge, "").push(Labels::none(), 1.0);
    }
    batch
}

#[test]
fn families_of_all_sources_stand_together_and_names_get_their_prefix() {
    let (latest, _) = latest(100);
    let mut a = Batch::new(NOW);
    a.family("requests_total", Kind::Counter, "say \"hi\"\\\n").push(labels(&[("source", "a")]), 5.0);
    a.family("app_up", Kind::Gauge, "").push(Labels::none(), 1.5);
    a.family("hidden_thing", Kind::Gauge, "").push(Labels::none(), 1.0);
    let mut b = Batch::new(NOW);
    b.family("requests_total", Kind::Counter, "other help").push(labels(&[("source", "b")]), 6.0);
    latest.put("a", MINUTE, false, &a);
    latest.put("b", MINUTE, false, &b);
    assert_eq!(
        text(&latest),
        "# TYPE app_up gauge\napp_up 1.5\n\
         # HELP atlas_requests_total say \"hi\"\\\\\\n\n# TYPE atlas_requests_total counter\n\
         atlas_requests_total{source=\"a\"} 5\natlas_requests_total{source=\"b\"} 6\n"
    );
    assert_eq!(
        page(&latest, Syntax::OpenMetrics100, Scheme::Underscores, NOW),
        "# TYPE app_up gauge\napp_up 1.5\n\
         # HELP atlas_requests say \\\"hi\\\"\\\\\\n\n# TYPE atlas_requests counter\n\
         atlas_requests_total{source=\"a\"} 5\natlas_requests_total{source=\"b\"} 6\n# EOF\n"
    );
}

/// V-13, E-9: each escaping scheme gets the names it can carry.
#[test]
fn foreign_names_under_every_scheme() {
    let (latest, _) = latest(100);
    let mut batch = Batch::new(NOW);
    batch.family("queue.depth", Kind::Gauge, "").push(labels(&[("worker.id", "a=\"b\",c")]), 2.0);
    batch.family("plain_total", Kind::Counter, "").push(labels(&[("x_y", "\\\"}{=")]), 3.0);
    latest.put("table", MINUTE, false, &batch);
    let page = |escaping| page(&latest, Syntax::Text100, escaping, NOW);
    assert_eq!(
        page(Scheme::AllowUtf8),
        "# TYPE atlas_plain_total counter\natlas_plain_total{x_y=\"\\\\\\\"}{=\"} 3\n\
         # TYPE \"atlas_queue.depth\" gauge\n{\"atlas_queue.depth\",\"worker.id\"=\"a=\\\"b\\\",c\"} 2\n"
    );
    assert_eq!(
        page(Scheme::Dots),
        "# TYPE atlas__plain__total counter\natlas__plain__total{x__y=\"\\\\\\\"}{=\"} 3\n\
         # TYPE atlas__queue_dot_depth gauge\natlas__queue_dot_depth{worker_dot_id=\"a=\\\"b\\\",c\"} 2\n"
    );
    assert!(page(Scheme::Values).contains("\nU__atlas__queue_2e_depth{U__worker_2e_id=\"a=\\\"b\\\",c\"} 2\n"));
    assert!(page(Scheme::Underscores).contains("\natlas_queue_depth{worker_id=\"a=\\\"b\\\",c\"} 2\n"));
}

/// OpenMetrics forbids what text 0.0.4 allows: clashing names are resolved, not emitted.
#[test]
fn open_metrics_families_never_clash() {
    let (latest, _) = latest(100);
    let mut batch = Batch::new(NOW);
    for (name, kind) in [
        ("node_a", Kind::Gauge),
        ("node_a_total", Kind::Counter),
        ("node_b_created", Kind::Gauge),
        ("node_b_total", Kind::Counter),
        ("node_c", Kind::Counter),
        ("node_d", Kind::Unknown),
    ] {
        batch.family(name, kind, "").push(Labels::none(), 1.0);
    }
    latest.put("x", MINUTE, false, &batch);
    let page = page(&latest, Syntax::OpenMetrics100, Scheme::Underscores, NOW);
    assert_eq!(
        page,
        "# TYPE node_a gauge\nnode_a 1\n# TYPE node_a_total unknown\nnode_a_total 1\n\
         # TYPE node_b counter\nnode_b_total 1\n# TYPE node_c unknown\nnode_c 1\n# TYPE node_d unknown\nnode_d 1\n# EOF\n"
    );
}

/// Families that only look alike under underscores stand apart where their names are told apart.
#[test]
fn names_that_differ_have_heads_of_their_own() {
    let (latest, _) = latest(100);
    latest.put("one", MINUTE, false, &gauges(&["a.b"]));
    let mut other = Batch::new(NOW);
    other.family("a_b", Kind::Gauge, "").push(labels(&[("x", "y")]), 2.0);
    latest.put("two", MINUTE, false, &other);
    assert_eq!(text(&latest), "# TYPE atlas_a_b gauge\natlas_a_b 1\natlas_a_b{x=\"y\"} 2\n");
    assert_eq!(
        page(&latest, Syntax::Text100, Scheme::AllowUtf8, NOW),
        "# TYPE \"atlas_a.b\" gauge\n{\"atlas_a.b\"} 1\n# TYPE atlas_a_b gauge\natlas_a_b{x=\"y\"} 2\n"
    );
    assert_eq!(
        page(&latest, Syntax::Text100, Scheme::Dots, NOW),
        "# TYPE atlas__a__b gauge\natlas__a__b{x=\"y\"} 2\n# TYPE atlas__a_dot_b gauge\natlas__a_dot_b 1\n"
    );
}

/// Values that contradict their type cost the type in OpenMetrics, never the page.
#[test]
fn open_metrics_shows_what_contradicts_its_type_as_unknown() {
    let (latest, _) = latest(100);
    let mut batch = Batch::new(NOW);
    batch.family("node_a_total", Kind::Counter, "").push(Labels::none(), -1.0);
    batch.family("node_a_created", Kind::Gauge, "").push(Labels::none(), 5.0);
    let family = batch.family("node_h", Kind::Histogram, "a help");
    for (suffix, value) in [(Suffix::Sum, f64::NAN), (Suffix::Count, 1.0)] {
        family.samples.push(Sample { suffix, labels: Labels::none(), value, at: None });
    }
    latest.put("x", MINUTE, false, &batch);
    assert_eq!(
        page(&latest, Syntax::OpenMetrics100, Scheme::Underscores, NOW),
        "# TYPE node_a_created gauge\nnode_a_created 5\n# TYPE node_a_total unknown\nnode_a_total -1\n\
         # HELP node_h_sum a help\n# TYPE node_h_sum unknown\nnode_h_sum NaN\n\
         # HELP node_h_count a help\n# TYPE node_h_count unknown\nnode_h_count 1\n# EOF\n"
    );
}

/// What is stale takes no name from what is shown.
#[test]
fn stale_families_claim_nothing() {
    let (latest, _) = latest(100);
    let mut batch = gauges(&["node_a"]);
    batch.families[0].samples[0].at = Some(NOW.before(MINUTE * 6));
    batch.family("node_a_total", Kind::Counter, "").push(Labels::none(), 1.0);
    latest.put("x", MINUTE, false, &batch);
    let page = page(&latest, Syntax::OpenMetrics100, Scheme::Underscores, NOW);
    assert_eq!(page, "# TYPE node_a counter\nnode_a_total 1\n# EOF\n");
}

/// Gauges go stale after max(5 min, 3 × interval), counters after an hour; the sample's own time counts.
#[test]
fn staleness_by_kind_and_own_time() {
    let (latest, _) = latest(100);
    let mut batch = Batch::new(NOW);
    batch.family("node_g", Kind::Gauge, "").samples = [("old", 301), ("new", 299)]
        .map(|(name, age)| Sample {
            suffix: Suffix::None,
            labels: labels(&[("n", name)]),
            value: 1.0,
            at: Some(NOW.before(Duration::from_secs(age))),
        })
        .to_vec();
    batch.family("node_c_total", Kind::Counter, "").push(Labels::none(), 1.0);
    latest.put("x", MINUTE, false, &batch);
    assert_eq!(
        text(&latest),
        "# TYPE node_c_total counter\nnode_c_total 1\n# TYPE node_g gauge\nnode_g{n=\"new\"} 1\n"
    );
    let at = |secs| page(&latest, Syntax::Text004, Scheme::Underscores, NOW.after(Duration::from_secs(secs)));
    assert_eq!(at(3600), "# TYPE node_c_total counter\nnode_c_total 1\n");
    assert_eq!(at(3601), "");
    // A source that is collected every two hours is not stale in between.
    latest.put("x", Duration::from_secs(7200), false, &batch);
    assert!(at(3 * 7200 - 300).contains("node_g"));
}

/// E-12: at the limit known series stay, new ones are dropped, and a source that failed finds its place again.
#[test]
fn the_series_limit_never_flaps() {
    let (latest, registry) = latest(3);
    latest.put("a", MINUTE, false, &gauges(&["node_a1", "node_a2"]));
    latest.put("b", MINUTE, false, &gauges(&["node_b1", "node_b2"]));
    assert_eq!(text(&latest).matches("\nnode_").count(), 3);
    // `a` fails: its series vanish, their places do not go to `b`.
    latest.put("a", MINUTE, true, &gauges(&[]));
    latest.put("b", MINUTE, false, &gauges(&["node_b2", "node_b1"]));
    assert_eq!(text(&latest), "# TYPE node_b1 gauge\nnode_b1 1\n");
    latest.put("a", MINUTE, false, &gauges(&["node_a1", "node_a2"]));
    assert_eq!(text(&latest).matches("\nnode_").count(), 3);
    // A series that is gone makes room.
    latest.put("a", MINUTE, false, &gauges(&["node_a1"]));
    latest.put("b", MINUTE, false, &gauges(&["node_b1", "node_b2"]));
    assert!(text(&latest).contains("node_b2"));
    let own = telemetry::gather(&registry, NOW);
    let dropped = own.families.iter().find(|f| f.name == "atlas_sidecar_series_dropped_total").unwrap();
    assert_eq!(dropped.samples[0].labels, labels(&[("source", "b"), ("reason", "limit")]));
    assert_eq!(dropped.samples[0].value, 2.0);
    latest.retain(&["b".to_owned()], settings(3));
    assert_eq!(latest.len(), 2);
}

/// V-12, V-13: names that become equal, and one name with two types: one wins, the other is counted.
#[test]
fn collisions_are_dropped_and_counted() {
    let (latest, registry) = latest(100);
    let mut batch = gauges(&["a.b", "a_b", "c"]);
    batch.family("a-b", Kind::Counter, "").push(Labels::none(), 9.0);
    latest.put("one", MINUTE, false, &batch);
    let mut other = Batch::new(NOW);
    other.family("c", Kind::Counter, "").push(labels(&[("x", "y")]), 1.0);
    latest.put("two", MINUTE, false, &other);
    assert_eq!(text(&latest), "# TYPE atlas_a_b gauge\natlas_a_b 1\n# TYPE atlas_c gauge\natlas_c 1\n");
    let own = telemetry::gather(&registry, NOW);
    let dropped = own.families.iter().find(|f| f.name == "atlas_sidecar_series_dropped_total").unwrap();
    assert_eq!(dropped.samples.iter().map(|s| s.value).sum::<f64>(), 3.0);
}

/// V-14
#[test]
fn numbers_are_the_shortest_that_read_back() {
    for (value, expected) in [
        (0.0, "0"),
        (-0.0, "-0.0"),
        (5.0, "5"),
        (-17.25, "-17.25"),
        (1e300, "1e+300"),
        (5e-324, "5e-324"),
        (9_007_199_254_740_993.0, "9007199254740992"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "+Inf"),
        (f64::NEG_INFINITY, "-Inf"),
    ] {
        let mut out = Vec::new();
        write_value(&mut out, value);
        let text = String::from_utf8(out).unwrap();
        if value.is_finite() {
            assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{text}");
        }
        assert!(text == expected || value.abs() > 1e15, "{value} {text} {expected}");
    }
}

/// Our encoder and the `prometheus` crate's write the same text for what both can.
#[test]
fn equal_to_the_text_encoder_of_the_prometheus_crate() {
    let registry = Registry::new();
    let vec = prometheus::GaugeVec::new(prometheus::Opts::new("atlas_t", "a \"b\"\\c\nd"), &["l", "m"]).unwrap();
    registry.register(Box::new(vec.clone())).unwrap();
    for (at, value) in [0.5, -3.0, 1e15, 123_456.789, f64::NAN].iter().enumerate() {
        vec.with_label_values(&[&format!("x\"\\\n{at}"), "plain"]).set(*value);
    }
    let theirs = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let (latest, _) = latest(100);
    latest.put("x", MINUTE, false, &telemetry::gather(&registry, NOW));
    assert_eq!(text(&latest), theirs);
}

#[test]
fn timestamps_only_when_asked_for() {
    let registry = Registry::new();
    let latest = Latest::new(Settings { timestamps: true, ..settings(9) }, &registry);
    latest.put("x", MINUTE, false, &gauges(&["node_x"]));
    assert!(text(&latest).ends_with("node_x 1 1795374000123\n"));
    let open = page(&latest, Syntax::OpenMetrics100, Scheme::Underscores, NOW);
    assert!(open.ends_with("node_x 1 1795374000.123\n# EOF\n"), "{open}");
}

#[test]
fn pages_are_shared_and_filtered() {
    let (latest, registry) = latest(9);
    latest.put("x", MINUTE, false, &gauges(&["node_x"]));
    let exposer = Exposer::new(Arc::new(latest), registry, Clock::by_hand(NOW));
    let format = Format { syntax: Syntax::Text004, escaping: Scheme::Underscores };
    let whole = exposer.page(format, &Filter::default());
    assert!(Arc::ptr_eq(&whole, &exposer.page(format, &Filter::default())));
    let only = exposer.page(format, &Filter { collect: vec!["x".to_owned()], exclude: vec![] });
    assert_eq!(only.text(), "# TYPE node_x gauge\nnode_x 1\n");
    let without = exposer.page(format, &Filter { collect: vec![], exclude: vec!["x".to_owned()] });
    let without = String::from_utf8(without.text().to_vec()).unwrap();
    assert!(without.contains("atlas_sidecar_series 1\n") && !without.contains("node_x"));
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&whole.gzip()[..]), &mut plain).unwrap();
    assert_eq!(plain, whole.text());
}
