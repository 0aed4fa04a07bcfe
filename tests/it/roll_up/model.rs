//! The reference: what buckets must hold, said in one sentence per column over the rows that were ever inserted. It shares no code with
//! the sidecar.

use std::collections::BTreeMap;

/// A row that counts.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub at: i64,
    /// Of equal times the one inserted later counts as later.
    pub order: usize,
    pub value: f64,
}

/// Rows by series (name, canonical tags).
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub series: BTreeMap<(String, String), Vec<Point>>,
    inserted: usize,
}

/// A bucket: what the table says, and what the model says.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    pub count: i64,
    pub sum: f64,
    pub min: f64,
    pub max: f64,
    pub first: (i64, f64),
    pub last: (i64, f64),
    pub increase: Option<f64>,
}

/// Name, tags, start.
pub type Key = (String, String, i64);

impl Model {
    pub fn insert(&mut self, name: &str, tags: &str, at: i64, value: f64) {
        self.inserted += 1;
        let point = Point { at, order: self.inserted, value };
        self.series.entry((name.to_owned(), tags.to_owned())).or_default().push(point);
    }

    /// All buckets that are `step` wide and end before or at `before`. In this model, counters are what ends in `_total`.
    pub fn buckets(&self, step: i64, before: i64) -> BTreeMap<Key, Bucket> {
        let mut buckets = BTreeMap::new();
        for ((name, tags), points) in &self.series {
            let mut points = points.clone();
            points.sort_by_key(|p| (p.at, p.order));
            for (place, point) in points.iter().enumerate() {
                let start = point.at.div_euclid(step) * step;
                if start + step > before {
                    continue;
                }
                let grown = match place.checked_sub(1).map(|before| points[before].value) {
                    None => 0.0,
                    Some(before) if point.value >= before => point.value - before,
                    Some(_) => point.value,
                };
                let bucket = buckets.entry((name.clone(), tags.clone(), start)).or_insert_with(|| Bucket {
                    count: 0,
                    sum: 0.0,
                    min: point.value,
                    max: point.value,
                    first: (point.at, point.value),
                    last: (point.at, point.value),
                    increase: name.ends_with("_total").then_some(0.0),
                });
                bucket.count += 1;
                bucket.sum += point.value;
                bucket.min = bucket.min.min(point.value);
                bucket.max = bucket.max.max(point.value);
                bucket.last = (point.at, point.value);
                bucket.increase = bucket.increase.map(|i| i + grown);
            }
        }
        buckets
    }
}
