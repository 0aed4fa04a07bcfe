//! Logging, and the constructors of our own metrics.
//!
//! There is one `prometheus` registry; it is handed down, and each module registers its own struct of metrics built from its own
//! [`Desc`]s, so that help, unit and the line in docs/METRICS.md have one source.

use std::fmt;
use std::str::FromStr;

use prometheus::proto::{Metric, MetricType};
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock::Timestamp;
use crate::sample::{Batch, Desc, Kind, Labels, Sample, Suffix};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One line of words and `field=value`.
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("`text` or `json`"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// The `[log]` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least important lines that are shown.
    pub level: LevelFilter,
    /// How they look.
    pub format: Format,
}

/// Changes the level while running; the format stays as it was at the start.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<LevelFilter, tracing_subscriber::Registry>);

impl LogLevel {
    /// Shows lines from `level` on.
    pub fn set(&self, level: LevelFilter) {
        // Fails only where the subscriber is gone, and then there is nothing to set.
        let _ = self.0.modify(|now| *now = level);
    }
}

/// Sends log lines to standard error (standard output belongs to what a command prints).
pub fn start(settings: Settings) -> LogLevel {
    let (level, handle) = reload::Layer::new(settings.level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match settings.format {
        Format::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    // Fails only if logging was started before (tests in one process): the first one stays.
    let _ = tracing_subscriber::registry().with(lines.with_filter(level)).try_init();
    LogLevel(handle)
}

fn opts(desc: &'static Desc) -> Opts {
    Opts::new(desc.name, desc.help)
}

/// Registers `metric`; our own descriptions are constants, so a refusal is a mistake of ours.
fn register<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    desc: &'static Desc,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.unwrap_or_else(|e| panic!("metric `{}`: {e}", desc.name));
    registry.register(Box::new(metric.clone())).unwrap_or_else(|e| panic!("metric `{}`: {e}", desc.name));
    metric
}

/// A counter without labels.
pub fn counter(registry: &Registry, desc: &'static Desc) -> IntCounter {
    register(registry, desc, IntCounter::with_opts(opts(desc)))
}

/// A counter with `labels`.
pub fn counters(registry: &Registry, desc: &'static Desc, labels: &[&str]) -> IntCounterVec {
    register(registry, desc, IntCounterVec::new(opts(desc), labels))
}

/// A whole-number gauge without labels.
pub fn int_gauge(registry: &Registry, desc: &'static Desc) -> IntGauge {
    register(registry, desc, IntGauge::with_opts(opts(desc)))
}

/// A gauge without labels.
pub fn gauge(registry: &Registry, desc: &'static Desc) -> Gauge {
    register(registry, desc, Gauge::with_opts(opts(desc)))
}

/// A gauge with `labels`.
pub fn gauges(registry: &Registry, desc: &'static Desc, labels: &[&str]) -> GaugeVec {
    register(registry, desc, GaugeVec::new(opts(desc), labels))
}

/// A histogram without labels.
pub fn histogram(registry: &Registry, desc: &'static Desc, buckets: &[f64]) -> Histogram {
    let opts = HistogramOpts::from(opts(desc)).buckets(buckets.to_vec());
    register(registry, desc, Histogram::with_opts(opts))
}

/// Our own metrics as a batch, so that one encoder writes them and everything else.
pub fn gather(registry: &Registry, at: Timestamp) -> Batch {
    let mut batch = Batch::new(at);
    for family in registry.gather() {
        let kind = match family.get_field_type() {
            MetricType::COUNTER => Kind::Counter,
            MetricType::GAUGE => Kind::Gauge,
            MetricType::HISTOGRAM => Kind::Histogram,
            // The constructors above make no others.
            MetricType::SUMMARY | MetricType::UNTYPED => continue,
        };
        let samples = family.get_metric().iter().flat_map(|metric| samples_of(kind, metric)).collect();
        batch.family(family.name().to_owned(), kind, family.help().to_owned()).samples = samples;
    }
    batch
}

fn samples_of(kind: Kind, metric: &Metric) -> Vec<Sample> {
    let labels: Labels = metric.get_label().iter().map(|l| (l.name().to_owned(), l.value())).collect();
    let sample = |suffix, labels: &Labels, value| Sample { suffix, labels: labels.clone(), value, at: None };
    match kind {
        Kind::Counter => vec![sample(Suffix::None, &labels, metric.get_counter().get_value())],
        Kind::Histogram => {
            let histogram = metric.get_histogram();
            let bucket = |le: String, count| sample(Suffix::Bucket, &labels.clone().with("le", le), count as f64);
            let mut samples: Vec<Sample> = histogram
                .get_bucket()
                .iter()
                .filter(|b| b.upper_bound().is_finite())
                // `{:?}` writes 1 as `1.0`: the canonical form that OpenMetrics wants.
                .map(|b| bucket(format!("{:?}", b.upper_bound()), b.cumulative_count()))
                .collect();
            samples.push(bucket("+Inf".to_owned(), histogram.get_sample_count()));
            samples.push(sample(Suffix::Sum, &labels, histogram.get_sample_sum()));
            samples.push(sample(Suffix::Count, &labels, histogram.get_sample_count() as f64));
            samples
        }
        Kind::Gauge | Kind::Summary | Kind::Unknown => {
            vec![sample(Suffix::None, &labels, metric.get_gauge().get_value())]
        }
    }
}
