//! The snapshot encoder beside the `prometheus` crate's, on the same series, each in a process of its own so that its memory is its own.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot go on should say where")]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::expose::encode::{Page, encode};
use atlas_sidecar::expose::negotiate::{Format, Syntax};
use atlas_sidecar::ingest::latest::{Latest, Settings};
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::sample::names::Scheme;
use atlas_sidecar::sample::{Batch, Kind, Labels};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, Registry, TextEncoder};

/// Series come from sources of this size, as they do in life: no more than one source's samples are in hand at once.
const SOURCE: usize = 10_000;
const ROUNDS: usize = 7;

fn main() {
    // `cargo bench` passes `--bench`; a child gets a case and a number of series instead.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match args.as_slice() {
        [case, series] if case == "ours" => ours(series.parse().unwrap()),
        [case, series] if case == "theirs" => theirs(series.parse().unwrap()),
        _ => compare(),
    }
}

fn compare() {
    println!("case    series    encode ms (median of {ROUNDS})  gzip ms  peak resident MiB");
    for series in [10_000, 100_000, 1_000_000] {
        let mut medians = Vec::new();
        for case in ["ours", "theirs"] {
            let out =
                Command::new(std::env::current_exe().unwrap()).args([case, &series.to_string()]).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let line = String::from_utf8(out.stdout).unwrap();
            print!("{line}");
            medians.push(line.split_whitespace().nth(2).unwrap().parse::<f64>().unwrap());
        }
        println!("        ratio theirs / ours at {series} series: {:.1}", medians[1] / medians[0]);
    }
}

fn labels(n: usize) -> [(&'static str, String); 4] {
    [
        ("device", format!("nvme{}n{}", n % 7, n % 3)),
        ("instance_id", format!("i-{n:012x}")),
        ("mode", ["idle", "user", "system", "iowait"][n % 4].to_owned()),
        ("source", format!("source-{}", n / SOURCE)),
    ]
}

fn name(n: usize) -> String {
    format!("node_bench_family_{}_seconds_total", n % SOURCE / 500)
}

fn value(n: usize) -> f64 {
    n as f64 * 1.37
}

fn ours(series: usize) {
    let settings = Settings {
        keep_prefixes: Vec::new(),
        max_series: series,
        timestamps: false,
        counters_stale_after: Duration::from_secs(3600),
        hidden: Globs::new(Vec::<String>::new()),
    };
    let latest = Latest::new(settings, &Registry::new());
    let now = Timestamp::from_millis(1_795_374_000_000);
    for first in (0..series).step_by(SOURCE) {
        let mut batch = Batch::new(now);
        for n in first..(first + SOURCE).min(series) {
            let labels: Labels = labels(n).into_iter().collect();
            batch.family(name(n), Kind::Counter, "a family of the benchmark").push(labels, value(n));
        }
        latest.put(&format!("source-{}", first / SOURCE), Duration::from_secs(60), false, &batch);
    }
    assert_eq!(latest.len(), series);
    let format = Format { syntax: Syntax::Text004, escaping: Scheme::Underscores };
    let encode = || {
        let parts: Vec<Arc<_>> = latest.sources().into_iter().map(|(_, shown)| shown).collect();
        encode(&parts, format, now, false)
    };
    let encoded = median(|| drop(encode()));
    let page = Page::new(encode());
    let started = Instant::now();
    let gzip = page.gzip().len();
    let took = started.elapsed().as_secs_f64() * 1000.0;
    assert!(gzip > 0);
    report("ours", series, encoded, took);
}

/// Holds labels and values, and makes the crate's types at every scrape, as a custom collector does. A `GaugeVec` takes twice as long.
struct Store(Vec<Held>, Desc);

type Held = (String, [(&'static str, String); 4], f64);

impl Collector for Store {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.1]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families: std::collections::BTreeMap<&str, Vec<Metric>> = std::collections::BTreeMap::new();
        for (name, labels, value) in &self.0 {
            let pair = |(name, value): &(&str, String)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(value.clone());
                pair
            };
            let mut counter = Counter::default();
            counter.set_value(*value);
            let mut metric = Metric::default();
            metric.set_label(labels.iter().map(pair).collect());
            metric.set_counter(counter);
            families.entry(name).or_default().push(metric);
        }
        let family = |(name, metrics): (&str, Vec<Metric>)| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help("a family of the benchmark".to_owned());
            family.set_field_type(MetricType::COUNTER);
            family.set_metric(metrics);
            family
        };
        families.into_iter().map(family).collect()
    }
}

fn theirs(series: usize) {
    let desc = Desc::new("bench".to_owned(), "bench".to_owned(), vec![], std::collections::HashMap::new()).unwrap();
    let store = Store((0..series).map(|n| (name(n), labels(n), value(n))).collect(), desc);
    let registry = Registry::new();
    registry.register(Box::new(store)).unwrap();
    let encoded = median(|| {
        let mut out = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut out).unwrap();
        assert!(!out.is_empty());
    });
    report("theirs", series, encoded, f64::NAN);
}

fn median(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn report(case: &str, series: usize, encode_ms: f64, gzip_ms: f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("{case:<7} {series:>9} {encode_ms:>10.2} {gzip_ms:>22.1} {:>12.1}", kib / 1024.0);
}
