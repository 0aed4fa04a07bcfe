//! Which series are counters: the table says no kind.
//!
//! A kind that a source declared decides; where there is none, the endings that Prometheus' conventions keep for counters do.
//! A histogram's buckets, sum and count are counters each.

use std::collections::HashMap;

use crate::sample::Kind;
use crate::store::Meta;

/// The endings of a histogram's and a summary's series.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The kinds that are known.
#[derive(Clone, Debug, Default)]
pub struct Counters(HashMap<String, Kind>);

impl Counters {
    /// From what sources declared.
    pub fn new(metas: Vec<Meta>) -> Self {
        Self(metas.into_iter().map(|meta| (meta.name, meta.kind)).collect())
    }

    /// Whether the series of that full name are counters.
    pub fn has(&self, name: &str) -> bool {
        match self.0.get(name) {
            Some(Kind::Counter) => return true,
            // A summary's or histogram's own name carries quantiles.
            Some(Kind::Gauge | Kind::Summary | Kind::Histogram) => return false,
            Some(Kind::Unknown) | None => {}
        }
        let family = PARTS.iter().find_map(|part| name.strip_suffix(part)).and_then(|family| self.0.get(family));
        matches!(family, Some(Kind::Histogram | Kind::Summary))
            || name.ends_with("_total")
            || PARTS.iter().any(|part| name.ends_with(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r9_a_declared_kind_decides_and_otherwise_the_ending() {
        let meta = |name: &str, kind| Meta { name: name.into(), kind, help: String::new() };
        let counters = Counters::new(vec![
            meta("odd", Kind::Counter),
            meta("parked_total", Kind::Gauge),
            meta("rows_count", Kind::Gauge),
            meta("delay", Kind::Histogram),
            meta("size", Kind::Summary),
            meta("what_total", Kind::Unknown),
        ]);
        for yes in ["odd", "delay_bucket", "delay_sum", "size_count", "what_total", "new_total", "new_bucket"] {
            assert!(counters.has(yes), "{yes}");
        }
        for no in ["parked_total", "rows_count", "size", "delay", "new", "total", "new_total_x"] {
            assert!(!counters.has(no), "{no}");
        }
    }
}
