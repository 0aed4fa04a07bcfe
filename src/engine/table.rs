//! The collector `table`: what the application itself writes to `system_metrics` is shown like any other source.
//!
//! The latest row of each foreign series is held ([`held`]) and shown, never stored again. How the table is followed is the twins' business; here is
//! which rows are shown and how.
//!
//! Own rows are known by their ids and left out in SQL, before they cost anything. Rows without id, with values that are no
//! numbers, with tags that are no object, and with times that cannot be read are counted by reason and never shown (V-7, V-8, V-11, T-2, T-4).

pub mod held;

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{GaugeVec, IntGauge, Registry};

use self::held::{Found, Held, Most};
use crate::clock::Timestamp;
use crate::engine::atlas::Needs;
use crate::sample::{Batch, Desc, Family, Kind, Origin, Sample, Suffix, tags};
use crate::store::Meta;
use crate::telemetry;

/// What is held at most: 50,000 series, and 32 MiB of names and labels, for one tag may have 64 KiB.
pub const MOST: Most = Most { series: 50_000, bytes: 32 << 20 };

/// Age at which a row is no longer what is the case.
pub const OLD: Duration = Duration::from_secs(3600);

/// How far ahead a row's clock may be (T-3).
pub const AHEAD: Duration = Duration::from_secs(300);

/// What it reads.
pub const NEEDS: Needs = Needs {
    table: "system_metrics",
    columns: &["id", "metric_name", "metric_value", "tags", "recorded_at"],
    times: &["recorded_at"],
    numbers: &["metric_value"],
    rowid: true,
};

/// Rows that cannot be shown.
pub const BAD_ROWS: Desc = Desc {
    name: "atlas_sidecar_table_bad_rows",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows of the application in system_metrics that cannot be shown, by reason, among those of the last hour and those without a time \
           (SQLite: seen since the last rebuild among the last 200,000); anything above 0 is a writer to be corrected",
};
/// Rows of the future.
pub const FUTURE_ROWS: Desc = Desc {
    name: "atlas_sidecar_table_future_rows",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows in system_metrics dated more than 5 minutes ahead and not shown (SQLite: seen since the last rebuild); a writer's clock or time zone \
           is wrong",
};
/// What is shown.
pub const HELD_SERIES: Desc = Desc {
    name: "atlas_sidecar_table_series",
    kind: Kind::Gauge,
    unit: "series",
    help: "Series that the application writes to system_metrics and that are shown; at most 50,000",
};
/// What there is no room for.
pub const OVER_LIMIT: Desc = Desc {
    name: "atlas_sidecar_table_rows_over_limit",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows in system_metrics of series beyond what is held (50,000 series, 32 MiB of labels) that are not shown (SQLite: seen since the last \
           rebuild); look for a tag that never repeats",
};

/// Why a row cannot be shown.
const REASONS: [&str; 5] = ["null_id", "name", "value", "tags", "time"];

/// A row as it was read. What cannot be shown, or is too long to be copied, is nothing; no tags are `{}`.
pub struct Raw<'r> {
    /// Where it is in the table.
    pub place: i64,
    /// Whether its id is NULL.
    pub no_id: bool,
    /// Text of 1 to 1024 bytes.
    pub name: Option<String>,
    /// A number.
    pub value: Option<f64>,
    /// Text of at most 64 KiB.
    pub tags: Option<&'r str>,
    /// Milliseconds since 1970.
    pub at: Option<i64>,
    /// How many rows it stands for: all of one series and one fate, of which it is the latest.
    pub rows: u64,
}

impl Raw<'_> {
    /// Its parts, or why they cannot be shown.
    fn parts(self) -> Result<Found, &'static str> {
        if self.no_id {
            return Err("null_id");
        }
        let name = self.name.ok_or("name")?;
        let value = self.value.ok_or("value")?;
        let labels = self.tags.and_then(|json| tags::from_json(Some(json)).ok()).ok_or("tags")?;
        let at = Timestamp::from_millis(self.at.ok_or("time")?);
        Ok(Found { place: self.place, name, labels, value, at })
    }
}

/// What was not shown.
#[derive(Debug, Default)]
pub struct Seen {
    bad: BTreeMap<&'static str, u64>,
    future: u64,
    over_limit: u64,
}

impl Seen {
    /// The row, if it can be shown now; otherwise it is counted.
    pub fn sort_out(&mut self, raw: Raw<'_>, now: Timestamp) -> Option<Found> {
        let rows = raw.rows;
        match raw.parts() {
            Ok(found) if found.at > now.after(AHEAD) => self.future += rows,
            Ok(found) if found.at < now.before(OLD) => {}
            Ok(found) => return Some(found),
            Err(reason) => *self.bad.entry(reason).or_default() += rows,
        }
        None
    }

    /// Offers the row to `held`, if it can be shown now and there is room; otherwise it is counted.
    pub fn take_in(&mut self, raw: Raw<'_>, held: &mut Held, now: Timestamp) {
        let rows = raw.rows;
        if let Some(found) = self.sort_out(raw, now)
            && !held.offer(found)
        {
            self.over_limit += rows;
        }
    }
}

/// Adds what is held to `batch`; `metas` say what is known of a name.
pub fn show<'m>(held: &Held, meta_of: impl Fn(&str) -> Option<&'m Meta>, batch: &mut Batch) {
    batch.origin = Origin::Table;
    for (name, labels, value, at) in held.rows() {
        let sample = Sample { suffix: Suffix::None, labels: labels.clone(), value, at: Some(at) };
        // Rows come by name: a new name is a new family, and need not be looked for among tens of thousands.
        match batch.families.last_mut().filter(|family| family.name == name) {
            Some(family) => family.samples.push(sample),
            None => batch.families.push(family_of(name, meta_of(name), sample)),
        }
    }
}

fn family_of(name: &str, meta: Option<&Meta>, first: Sample) -> Family {
    let help = meta.map(|meta| meta.help.clone()).filter(|help| !help.is_empty());
    let help = help.unwrap_or_else(|| "Written to system_metrics by others than the sidecar.".to_owned());
    Family { name: name.to_owned().into(), kind: kind_of(name, meta), help: help.into(), samples: vec![first] }
}

/// what somebody said about the name, else what its ending says. A row is one series, so never a histogram or summary.
fn kind_of(name: &str, meta: Option<&Meta>) -> Kind {
    match meta.map(|meta| meta.kind) {
        Some(kind @ (Kind::Counter | Kind::Gauge)) => kind,
        _ if ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)) => Kind::Counter,
        _ => Kind::Gauge,
    }
}

/// The collector's own metrics.
#[derive(Clone)]
pub struct Own {
    bad: GaugeVec,
    future: IntGauge,
    series: IntGauge,
    over_limit: IntGauge,
}

impl Own {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let bad = telemetry::gauges(registry, &BAD_ROWS, &["reason"]);
        for reason in REASONS {
            bad.with_label_values(&[reason]).set(0.0);
        }
        Self {
            bad,
            future: telemetry::int_gauge(registry, &FUTURE_ROWS),
            series: telemetry::int_gauge(registry, &HELD_SERIES),
            over_limit: telemetry::int_gauge(registry, &OVER_LIMIT),
        }
    }

    /// Tells what was seen and how much is held.
    pub fn show(&self, seen: &Seen, held: &Held) {
        for reason in REASONS {
            self.bad.with_label_values(&[reason]).set(seen.bad.get(reason).copied().unwrap_or(0) as f64);
        }
        self.future.set(seen.future as i64);
        self.series.set(held.len() as i64);
        self.over_limit.set(seen.over_limit as i64);
    }
}
