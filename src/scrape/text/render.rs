//! Writes families as a page, so that tests and the fuzz target (which includes this file) can read them back. Plain and slow on purpose: it
//! shares no code with the parser, nor with the encoder that serves `/metrics`.
//!
//! Every family gets a `# TYPE` under its full name, so that nothing depends on how a parser guesses; only OpenMetrics counters are declared
//! without their `_total` where that name is free.

use std::fmt::Write;

use crate::clock::Timestamp;
use crate::sample::{Family, Kind, Labels, Suffix};

/// The page of `families`, in OpenMetrics or in text.
pub fn page(families: &[Family], open_metrics: bool) -> String {
    let mut out = String::new();
    for family in families {
        let declared = declared_name(families, family, open_metrics);
        if !family.help.is_empty() {
            let mut help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
            if open_metrics {
                help = help.replace('"', "\\\"");
            }
            let _ = writeln!(out, "# HELP {} {help}", name_alone(declared));
        }
        let word = if open_metrics && family.kind == Kind::Unknown { "unknown" } else { family.kind.word() };
        let _ = writeln!(out, "# TYPE {} {word}", name_alone(declared));
        for sample in &family.samples {
            let _ = writeln!(
                out,
                "{} {}{}",
                series(&family.series_name(sample), &sample.labels),
                number(sample.value),
                sample.at.map_or(String::new(), |at| time(at, open_metrics)),
            );
        }
    }
    if open_metrics {
        out.push_str("# EOF\n");
    }
    out
}

/// What two equal pages have in common: families by name, samples by suffix and labels. NaN equals NaN.
pub fn comparable(families: &[Family]) -> Vec<String> {
    let mut all: Vec<String> = families
        .iter()
        .map(|family| {
            let mut samples: Vec<(Suffix, &Labels, u64, Option<Timestamp>)> = family
                .samples
                .iter()
                .map(|s| (s.suffix, &s.labels, if s.value.is_nan() { u64::MAX } else { s.value.to_bits() }, s.at))
                .collect();
            samples.sort();
            format!("{:?} {:?} {:?} {samples:#?}", family.name, family.kind, family.help)
        })
        .collect();
    all.sort();
    all
}

fn declared_name<'a>(families: &[Family], family: &'a Family, open_metrics: bool) -> &'a str {
    match family.name.strip_suffix("_total") {
        Some(base)
            if open_metrics
                && family.kind == Kind::Counter
                && !base.is_empty()
                && families.iter().all(|other| other.name != base) =>
        {
            base
        }
        _ => &family.name,
    }
}

fn is_legacy(name: &str, colon: bool) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || colon && c == ':')
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn name_alone(name: &str) -> String {
    if is_legacy(name, true) { name.to_owned() } else { quoted(name) }
}

fn series(name: &str, labels: &Labels) -> String {
    let legacy = is_legacy(name, true);
    let mut parts: Vec<String> = if legacy { Vec::new() } else { vec![quoted(name)] };
    parts.extend(labels.iter().map(|(label, value)| {
        let label = if is_legacy(label, false) { label.to_owned() } else { quoted(label) };
        format!("{label}={}", quoted(value))
    }));
    let name = if legacy { name } else { "" };
    if parts.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", parts.join(",")) }
}

fn number(value: f64) -> String {
    match value {
        v if v.is_nan() => "NaN".to_owned(),
        v if v.is_infinite() => if v > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        v => format!("{v:e}"),
    }
}

fn time(at: Timestamp, open_metrics: bool) -> String {
    let millis = at.millis();
    if open_metrics {
        let sign = if millis < 0 { "-" } else { "" };
        format!(" {sign}{}.{:03}", millis.unsigned_abs() / 1000, millis.unsigned_abs() % 1000)
    } else {
        format!(" {millis}")
    }
}
