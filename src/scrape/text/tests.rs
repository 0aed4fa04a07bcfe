//! Whole pages: what becomes of each form, what fails a page, and that what is written can be read back.

use super::*;
use crate::clock::Timestamp;
use crate::sample::Kind;
use proptest::prelude::*;

const LIMITS: Limits = Limits::of_samples(100_000);

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/fixtures/exposition/", $name))
    };
}

fn text(page: &str) -> Page {
    parse(page.as_bytes(), Syntax::Text, &LIMITS).expect("the page is read")
}

fn open_metrics(page: &str) -> Page {
    parse(page.as_bytes(), Syntax::OpenMetrics, &LIMITS).expect("the page is read")
}

fn family<'a>(page: &'a Page, name: &str) -> &'a Family {
    let found: Vec<&Family> = page.families.iter().filter(|f| f.name == name).collect();
    assert_eq!(found.len(), 1, "{name}");
    found[0]
}

/// `suffix{labels} value` of each sample.
fn shown(family: &Family) -> Vec<String> {
    let labels = |s: &Sample| s.labels.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(",");
    family.samples.iter().map(|s| format!("{}{{{}}} {}", s.suffix.text(), labels(s), s.value)).collect()
}

fn kinds(page: &Page) -> Vec<(&str, Kind)> {
    page.families.iter().map(|f| (f.name.as_ref(), f.kind)).collect()
}

/// E-1: each of these lines is valid, and each is lost or garbled by the parser on the registry.
#[test]
fn e1_lines_that_others_drop_are_read() {
    let page = text(std::str::from_utf8(fixture!("dropped_by_prometheus_parse.txt")).expect("UTF-8"));
    assert_eq!((page.bad_lines, page.duplicates), (0, 0), "{:?}", page.first_bad);
    let requests = family(&page, "http_requests_total");
    assert_eq!(requests.kind, Kind::Counter);
    assert_eq!(requests.help, "Requests, with a \\ and a\nline end.");
    assert_eq!(requests.samples[0].at, Some(Timestamp::from_millis(1_395_066_363_000)));
    assert_eq!(shown(requests), ["{code=200,method=post} 1027", "{code=400,method=post} 3"]);
    assert_eq!(shown(family(&page, "empty_braces")), ["{} 1"]);
    assert_eq!(shown(family(&page, "job:request_latency_seconds:mean5m")), ["{job=api} 0.25"]);
    let odd = &family(&page, "text_in_labels").samples[0].labels;
    assert_eq!(odd.iter().collect::<Vec<_>>(), [("other", "c,d=e"), ("quoted", "say \"hi\""), ("value", "a}{b")]);
    let paths = &family(&page, "windows_paths").samples[0].labels;
    assert_eq!(paths.get("path"), Some("C:\\DIR\\FILE.TXT"));
    assert_eq!(paths.get("error"), Some("Cannot find file:\n\"FILE.TXT\""));
    assert_eq!(shown(family(&page, "tabs_and_blanks")), ["{a=1,b=2} 3"]);
    assert_eq!(shown(family(&page, "my.dotted.metric")), ["{error.message=x} 1", "{error.message=y} 2"]);
    assert_eq!(shown(family(&page, "quoted name behind it")), ["{plain=label} 3"]);
    assert_eq!(family(&page, "sum_of_everything").samples[0].value, f64::INFINITY);
    assert!(family(&page, "nothing").samples[0].value.is_nan());
    assert_eq!(family(&page, "negative").samples[0].at, Some(Timestamp::from_millis(-3_982_045)));
    assert_eq!(family(&page, "hexadecimal").samples[0].value, 8.0);
    assert_eq!(family(&page, "tiny").samples[0].value, 5e-324);
    assert_eq!(family(&page, "huge").samples[0].value, 1e300);
}

#[test]
fn every_type_of_openmetrics_finds_its_family() {
    let page = open_metrics(std::str::from_utf8(fixture!("all_types.openmetrics")).expect("UTF-8"));
    assert_eq!((page.bad_lines, page.duplicates), (0, 0), "{:?}", page.first_bad);
    assert_eq!(
        kinds(&page),
        [
            ("requests_total", Kind::Counter),
            ("requests_created", Kind::Gauge),
            ("temperature_celsius", Kind::Gauge),
            ("latency_seconds", Kind::Histogram),
            ("latency_seconds_created", Kind::Gauge),
            ("rpc_seconds", Kind::Summary),
            ("build_info", Kind::Gauge),
            ("state", Kind::Gauge),
            ("queue_bytes_bucket", Kind::Unknown),
            ("queue_bytes_gcount", Kind::Unknown),
            ("queue_bytes_gsum", Kind::Unknown),
            ("mystery", Kind::Unknown),
            ("dotted.name", Kind::Gauge),
        ]
    );
    let requests = family(&page, "requests_total");
    assert_eq!(requests.help, "Requests with \"quotes\", a \\ and a\nline end.");
    assert_eq!(requests.samples[0].at, Some(Timestamp::from_millis(1_520_879_607_789)));
    assert_eq!(requests.samples[1].at, None);
    assert_eq!(family(&page, "requests_created").help, "");
    assert_eq!(family(&page, "build_info").help, "What is running.");
    assert_eq!(
        shown(family(&page, "latency_seconds")),
        [
            "_bucket{le=0.1,path=/a} 8",
            "_bucket{le=1.0,path=/a} 10",
            "_bucket{le=+Inf,path=/a} 17",
            "_sum{path=/a} 324.8",
            "_count{path=/a} 17",
            "_bucket{le=1.0,path=/b} 0",
            "_bucket{le=+Inf,path=/b} 1",
            "_sum{path=/b} 2.5",
            "_count{path=/b} 1",
        ]
    );
    assert_eq!(
        shown(family(&page, "rpc_seconds")),
        ["{quantile=0.5} 0.2", "{quantile=1.0} 2", "_sum{} 2.5", "_count{} 3"]
    );
    assert_eq!(shown(family(&page, "dotted.name")), ["{label.with.dots=ünïcode ❤} 1"]);
}

/// Pages of the real node_exporter, of the real Prometheus and of Python's client, compared line by line with what is in them.
#[test]
fn captured_pages_are_read_whole() {
    for (bytes, syntax) in [
        (&fixture!("node_exporter.txt")[..], Syntax::Text),
        (&fixture!("prometheus.txt")[..], Syntax::Text),
        (&fixture!("python_client.openmetrics")[..], Syntax::OpenMetrics),
    ] {
        let page = parse(bytes, syntax, &LIMITS).expect("the page is read");
        assert_eq!((page.bad_lines, page.duplicates), (0, 0), "{:?}", page.first_bad);
        let source = std::str::from_utf8(bytes).expect("UTF-8");
        let mut expected: Vec<&str> =
            source.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split(['{', ' ']).next()).collect();
        let mut read: Vec<String> =
            page.families.iter().flat_map(|f| f.samples.iter().map(|s| f.series_name(s))).collect();
        expected.sort_unstable();
        read.sort_unstable();
        assert_eq!(read, expected);
        assert!(
            page.families.iter().all(|f| f.kind != Kind::Unknown || source.contains(&format!("{} untyped", f.name)))
        );
        let declared = source.lines().filter(|l| l.starts_with("# TYPE ")).count();
        let created = page.families.iter().filter(|f| f.name.ends_with("_created")).count();
        assert_eq!(page.families.len(), declared + created);
    }
}

#[test]
fn bad_lines_are_skipped_and_counted() {
    let source = std::str::from_utf8(fixture!("bad_lines.txt")).expect("UTF-8");
    let page = text(source);
    assert_eq!(kinds(&page), [("good", Kind::Gauge)]);
    assert_eq!(shown(family(&page, "good")), ["{} 1", "{after=them} 2"]);
    // All but the first two, the two comments and the last.
    assert_eq!(page.bad_lines, source.lines().count() - 5);
    assert_eq!(page.first_bad, Some(BadLine { line: 3, reason: "invalid value" }));
    for line in source.lines().skip(2).filter(|l| !l.starts_with(['#', 'g'])) {
        let page = text(&format!("{line}\nx 1\n"));
        assert_eq!(page.bad_lines, 1, "{line}");
    }
}

#[test]
fn a_line_that_is_not_utf8_is_bad() {
    let page = parse(b"a{l=\"\xff\"} 1\nb 2\n", Syntax::Text, &LIMITS).expect("the page is read");
    assert_eq!(page.first_bad, Some(BadLine { line: 1, reason: "not UTF-8" }));
    assert_eq!(kinds(&page), [("b", Kind::Unknown)]);
}

#[test]
fn a_broken_histogram_falls_apart_and_loses_nothing() {
    let source = std::str::from_utf8(fixture!("broken_histograms.txt")).expect("UTF-8");
    let page = text(source);
    assert_eq!((page.bad_lines, page.duplicates), (0, 0));
    let whole = family(&page, "whole");
    assert_eq!(whole.kind, Kind::Histogram);
    assert_eq!(
        shown(whole),
        ["_bucket{le=2.0} 1", "_bucket{le=10.0} 2", "_bucket{le=+Inf} 3", "_sum{} 4", "_count{} 3"]
    );
    for family in page.families.iter().filter(|f| f.name != "whole") {
        assert_eq!(family.kind, Kind::Unknown, "{}", family.name);
        assert!(family.samples.iter().all(|s| s.suffix == Suffix::None));
    }
    // The texts of the bounds stay as they came.
    assert_eq!(shown(family(&page, "no_infinity_bucket")), ["{le=1} 1"]);
    assert_eq!(shown(family(&page, "bad_bound_bucket")), ["{le=+Inf} 1", "{le=much} 1"]);
    assert_eq!(shown(family(&page, "total_with_bound_count")), ["{le=1} 1"]);
    assert_eq!(shown(family(&page, "bare")), ["{} 1"]);
    let lines = source.lines().filter(|l| !l.starts_with('#')).count();
    assert_eq!(page.families.iter().map(|f| f.samples.len()).sum::<usize>(), lines);
}

#[test]
fn types_may_come_late_and_families_may_be_split() {
    let page =
        text("h_bucket{le=\"+Inf\"} 1\na 1\nh_sum 1\na{x=\"y\"} 2\n# TYPE h histogram\n# TYPE a counter\nh_count 1\n");
    assert_eq!(kinds(&page), [("h", Kind::Histogram), ("a", Kind::Counter)]);
    assert_eq!(family(&page, "h").samples.len(), 3);
}

#[test]
fn a_name_that_does_not_fit_is_a_family_of_its_own() {
    let page = open_metrics("# TYPE c counter\nc 1\nc_total 2\nc_other 3\n# TYPE d_total counter\nd_total 4\n# EOF\n");
    assert_eq!(
        kinds(&page),
        [("c", Kind::Unknown), ("c_total", Kind::Counter), ("c_other", Kind::Unknown), ("d_total", Kind::Counter)]
    );
    let page = text(
        "# TYPE c counter\nc 1\nc_total 2\nc_created 3\n# TYPE s summary\ns_bucket 4\n# TYPE s_count gauge\ns_count 1\ns_sum 2\n",
    );
    assert_eq!(
        kinds(&page),
        [
            ("c", Kind::Counter),
            ("c_total", Kind::Unknown),
            ("c_created", Kind::Unknown),
            ("s_bucket", Kind::Unknown),
            ("s_count", Kind::Gauge),
            ("s", Kind::Summary),
        ]
    );
}

#[test]
fn the_first_of_a_series_stays_and_the_others_are_counted() {
    let page = text("a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\na{x=\"1\",y=\"2\",z=\"\"} 3\na 4\na{} 5\n");
    assert_eq!(shown(family(&page, "a")), ["{x=1,y=2} 1", "{} 4"]);
    assert_eq!(page.duplicates, 3);
    let page = text(
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"1.0\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 4\nh_sum 5\n",
    );
    assert_eq!(shown(family(&page, "h")), ["_bucket{le=1.0} 1", "_bucket{le=+Inf} 3", "_sum{} 4"]);
    assert_eq!(page.duplicates, 2);
}

#[test]
fn line_ends_of_windows_and_a_missing_last_one_are_tolerated() {
    let page = text("# HELP a b c \r\n# TYPE a gauge\r\n\r\na{x=\"\r\"} 1\r\n  a 2");
    assert_eq!(family(&page, "a").help, "b c");
    assert_eq!(shown(family(&page, "a")), ["{x=\r} 1", "{} 2"]);
    assert_eq!(page.bad_lines, 0);
    assert_eq!(kinds(&open_metrics("a 1\r\n# EOF\r\n")).len(), 1);
    assert_eq!(kinds(&open_metrics("a 1\n# EOF")).len(), 1);
}

#[test]
fn pages_that_are_no_exposition_fail_as_a_whole() {
    let fails = |page: &[u8], syntax| parse(page, syntax, &LIMITS).expect_err("the page is refused");
    assert_eq!(fails(fixture!("error_page.html"), Syntax::Text), ParseError::Html);
    assert_eq!(fails(b"\n <!DOCTYPE html>", Syntax::OpenMetrics), ParseError::Html);
    assert_eq!(fails(b"", Syntax::Text), ParseError::NoSamples(None));
    assert_eq!(fails(b"# TYPE a gauge\n", Syntax::Text), ParseError::NoSamples(None));
    let bad = BadLine { line: 1, reason: "invalid value" };
    assert_eq!(fails(b"Internal Server Error\n", Syntax::Text), ParseError::NoSamples(Some(bad)));
    assert_eq!(fails("a b\n".repeat(101).as_bytes(), Syntax::Text), ParseError::TooManyBadLines(bad));
    assert_eq!(fails(b"a 1\n", Syntax::OpenMetrics), ParseError::NoEof);
    assert_eq!(fails(b"a 1\n# EOF\nb 1\n", Syntax::OpenMetrics), ParseError::AfterEof(3));
    assert_eq!(fails(b"a 1\n# EOF\n\n", Syntax::OpenMetrics), ParseError::AfterEof(3));
    // In text it is a comment.
    assert_eq!(kinds(&text("a 1\n# EOF\nb 1\n")).len(), 2);
}

#[test]
fn frequent_names_are_found_by_bisection() {
    assert!(FREQUENT.is_sorted_by(|a, b| a < b));
    assert!(matches!(owned("le".into()), Cow::Borrowed("le")));
    assert!(matches!(owned("lf".into()), Cow::Owned(_)));
}

#[test]
fn every_limit_is_kept() {
    let small = Limits { lines: 4, samples: 2, labels: 2, name_bytes: 3, value_bytes: 5, bad_lines: 1 };
    for (page, what, line) in [
        ("a 1\n\n\n\n\n", "lines", 5),
        ("a 1\nb 2\nc 3\n", "samples", 3),
        ("a{x=\"1\",y=\"2\",z=\"3\"} 1\n", "labels of one series", 1),
        ("abcd 1\n", "bytes of a name", 1),
        ("{\"abcd\"} 1\n", "bytes of a name", 1),
        ("a{abcd=\"x\"} 1\n", "bytes of a name", 1),
        ("a 1\nb{x=\"123456\"} 1\n", "bytes of a label's value", 2),
        ("# HELP a 123456\n", "bytes of a help text", 1),
        ("# TYPE abcd gauge\n", "bytes of a name", 1),
    ] {
        match parse(page.as_bytes(), Syntax::Text, &small) {
            Err(ParseError::TooLarge { what: is, line: at, .. }) => assert_eq!((is, at), (what, line), "{page}"),
            other => panic!("{page}: {other:?}"),
        }
    }
    assert!(parse(b"abc{x=\"1\",y=\"12345\"} 1\nbad\n\nb 2\n", Syntax::Text, &small).is_ok());
}

/// Each of these takes minutes where a family, a series or a histogram is looked for one by one.
#[test]
fn large_pages_take_no_longer_per_line() {
    const LINES: usize = 50_000;
    // An odd step through all numbers: no order that would help.
    let mixed = |n: usize| n * 7_919 % LINES;
    let families: String = (0..LINES).map(|n| format!("f{} 1\n", mixed(n))).collect();
    assert_eq!(text(&families).families.len(), LINES);
    let series: String = (0..LINES).map(|n| format!("f{{x=\"{}\"}} 1\n", mixed(n))).collect();
    assert_eq!(text(&series).families[0].samples.len(), LINES);
    let buckets = (0..LINES).map(|n| format!("h_bucket{{x=\"{}\",le=\"+Inf\"}} 1\n", mixed(n)));
    let counts = (0..LINES).rev().map(|n| format!("h_count{{x=\"{}\"}} 1\n", mixed(n)));
    let page = text(&["# TYPE h histogram\n".to_owned()].into_iter().chain(buckets).chain(counts).collect::<String>());
    assert_eq!(kinds(&page), [("h", Kind::Histogram)]);
    assert_eq!((page.families[0].samples.len(), page.duplicates), (2 * LINES, 0));
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", "[ -~]{1,8}", "\\PC{1,6}", "(.|\n){1,4}"]
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), any::<i32>().prop_map(f64::from), Just(f64::NAN), Just(f64::INFINITY), Just(-0.0)]
}

fn labels() -> impl Strategy<Value = Labels> {
    let other = name().prop_filter("reserved", |n| !["le", "quantile", "__name__"].contains(&n.as_str()));
    proptest::collection::vec((other, prop_oneof!["[a-z]{0,4}", "(.|\n){0,6}"]), 0..4)
        .prop_map(|pairs| pairs.into_iter().collect())
}

/// One series' labels, bounds with values, and a time for some.
type Points = (Labels, Vec<(f64, f64)>, Option<Timestamp>);

fn points() -> impl Strategy<Value = Points> {
    let time = proptest::option::of((-(1i64 << 45)..1 << 45).prop_map(Timestamp::from_millis));
    (labels(), proptest::collection::vec((any::<f64>(), value()), 1..5), time)
}

/// A valid family: what the module's docs promise about the parser's output, built from random parts.
fn built(name: String, kind: Kind, help: &str, all: Vec<Points>) -> Family {
    let mut family = Family { name: name.into(), kind, help: help.trim().to_owned().into(), samples: Vec::new() };
    let mut seen: Vec<Labels> = Vec::new();
    for (labels, points, at) in all {
        if seen.contains(&labels) {
            continue;
        }
        seen.push(labels.clone());
        let (label, suffix) = match kind {
            Kind::Histogram => ("le", Suffix::Bucket),
            Kind::Summary => ("quantile", Suffix::None),
            _ => {
                family.samples.push(Sample { suffix: Suffix::None, labels, value: points[0].1, at });
                continue;
            }
        };
        let last = if kind == Kind::Histogram { f64::INFINITY } else { 1.0 };
        let mut bounds: Vec<f64> = points
            .iter()
            .map(|p| if kind == Kind::Histogram { p.0 } else { p.0.abs().fract() })
            .filter(|b| b.is_finite() && *b != 0.0)
            .chain([last])
            .collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        for bound in bounds {
            let labels = labels.clone().with(label, number::canonical(bound));
            family.samples.push(Sample { suffix, labels, value: points[0].1, at });
        }
        for suffix in [Suffix::Sum, Suffix::Count] {
            family.samples.push(Sample { suffix, labels: labels.clone(), value: points[0].1, at });
        }
    }
    family
}

fn families(tails: &'static [&'static str]) -> impl Strategy<Value = Vec<Family>> {
    let kind = prop_oneof![
        Just(Kind::Counter),
        Just(Kind::Gauge),
        Just(Kind::Histogram),
        Just(Kind::Summary),
        Just(Kind::Unknown)
    ];
    let one =
        (name(), proptest::sample::select(tails), kind, "(.|\n){0,12}", proptest::collection::vec(points(), 1..4));
    proptest::collection::vec(one, 1..6).prop_map(|all| {
        // The number keeps the names apart, whatever suffix follows.
        let named = all.into_iter().enumerate().map(|(n, (name, tail, kind, help, points))| {
            let tail = if kind == Kind::Counter { "_total" } else { tail };
            built(format!("{name}{n}x{tail}"), kind, &help, points)
        });
        named.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(
        families in families(&["", "_total", "_sum", "_count", "_bucket", "_info", "_created"]),
        open in any::<bool>(),
    ) {
        let page = render::page(&families, open);
        let syntax = if open { Syntax::OpenMetrics } else { Syntax::Text };
        let read = parse(page.as_bytes(), syntax, &LIMITS).map_err(|e| TestCaseError::fail(format!("{e}: {page}")))?;
        prop_assert_eq!((read.bad_lines, read.duplicates), (0, 0), "{:?} {}", read.first_bad, page);
        prop_assert_eq!(render::comparable(&read.families), render::comparable(&families), "{}", page);
        // Without late or split names, even the order is the same.
        let order = |all: &[Family]| all.iter().map(|f| f.name.to_string()).collect::<Vec<_>>();
        prop_assert_eq!(order(&read.families), order(&families));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), open in any::<bool>()) {
        let _ = parse(&bytes, if open { Syntax::OpenMetrics } else { Syntax::Text }, &LIMITS);
    }

    #[test]
    fn no_cut_or_changed_page_makes_it_panic(at in 0..2_000usize, byte in any::<u8>(), cut in any::<bool>()) {
        for (bytes, syntax) in [
            (&fixture!("all_types.openmetrics")[..], Syntax::OpenMetrics),
            (&fixture!("dropped_by_prometheus_parse.txt")[..], Syntax::Text),
            (&fixture!("broken_histograms.txt")[..], Syntax::Text),
        ] {
            let mut bytes = bytes.to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            let _ = parse(&bytes, syntax, &LIMITS);
        }
    }
}
