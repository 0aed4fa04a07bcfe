//! Rows of anybody, brought to series and points, and folded into buckets of five minutes.

use std::collections::HashMap;

use super::bucket::Bucket;
use super::counters::Counters;
use crate::sample::tags::{self, BadTags};
use crate::store::Width;

/// A series as the roll-ups know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Series {
    /// The full name.
    pub name: String,
    /// Canonical JSON of the labels (V-11: permuted keys are one series, and NULL is `{}`).
    pub tags: String,
}

/// A row that counts.
#[derive(Clone, Copy, Debug)]
struct Point {
    series: usize,
    at: i64,
    /// Of equal times, the greater was stored later (T-7).
    order: i64,
    value: f64,
}

/// One bucket of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fresh {
    /// Which of [`Intake::series`].
    pub series: usize,
    /// When the bucket begins, in milliseconds.
    pub start: i64,
    /// What it holds.
    pub bucket: Bucket,
}

/// Rows as they come.
#[derive(Debug, Default)]
pub struct Intake {
    series: Vec<Series>,
    /// By name, then by raw tags: rows repeat both byte for byte, so nearly none is parsed.
    raw: HashMap<String, HashMap<String, Result<usize, BadTags>>>,
    canonical: HashMap<Series, usize>,
    points: Vec<Point>,
}

impl Intake {
    /// Takes a row; the error says that its tags are no labels, and nothing was taken.
    pub fn push(&mut self, name: &str, raw: Option<&str>, at: i64, order: i64, value: f64) -> Result<(), BadTags> {
        let series = self.series_of(name, raw)?;
        self.points.push(Point { series, at, order, value });
        Ok(())
    }

    fn series_of(&mut self, name: &str, raw: Option<&str>) -> Result<usize, BadTags> {
        let raw = raw.unwrap_or("{}");
        if let Some(known) = self.raw.get(name).and_then(|by_tags| by_tags.get(raw)) {
            return *known;
        }
        let found = tags::from_json(Some(raw)).map(|labels| {
            let series = Series { name: name.to_owned(), tags: tags::to_json(&labels) };
            *self.canonical.entry(series).or_insert_with_key(|series| {
                self.series.push(series.clone());
                self.series.len() - 1
            })
        });
        self.raw.entry(name.to_owned()).or_default().insert(raw.to_owned(), found);
        found
    }

    /// The rows' series.
    pub fn series(&self) -> &[Series] {
        &self.series
    }

    /// How many rows were taken.
    pub fn rows(&self) -> u64 {
        self.points.len() as u64
    }

    /// The rows' buckets, by series and time.
    pub fn fold(&mut self, counters: &Counters) -> Vec<Fresh> {
        self.points.sort_unstable_by_key(|p| (p.series, p.at, p.order));
        let counters: Vec<bool> = self.series.iter().map(|series| counters.has(&series.name)).collect();
        let mut buckets: Vec<Fresh> = Vec::new();
        for point in &self.points {
            let start = point.at - point.at.rem_euclid(Width::FiveMinutes.millis());
            let one = Bucket::of(point.at, point.value, counters[point.series]);
            match buckets.last_mut().filter(|b| b.series == point.series && b.start == start) {
                Some(fresh) => fresh.bucket = fresh.bucket.then(&one),
                None => buckets.push(Fresh { series: point.series, start, bucket: one }),
            }
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v11_permuted_keys_and_null_are_one_series() {
        let mut intake = Intake::default();
        for (n, raw) in [Some(r#"{"b":1,"a":2}"#), Some(r#"{"a":"2","b":"1"}"#), None, Some("{}"), Some(" {} ")]
            .into_iter()
            .enumerate()
        {
            intake.push("m", raw, 1_000 * n as i64, n as i64, 1.0).unwrap();
        }
        assert_eq!(intake.push("m", Some("[]"), 0, 9, 1.0), Err(BadTags::NotAnObject));
        assert_eq!(intake.push("m", Some("[]"), 0, 9, 1.0), Err(BadTags::NotAnObject));
        let buckets = intake.fold(&Counters::default());
        assert_eq!((intake.series().len(), intake.rows(), buckets.len()), (2, 5, 2));
        assert_eq!(buckets.iter().map(|b| b.bucket.count).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn t7_of_equal_times_the_one_stored_later_is_the_last() {
        let mut intake = Intake::default();
        for (at, order, value) in [(299_999, 7, 5.0), (299_999, 3, 4.0), (300_000, 1, 9.0), (-1, 2, 1.0)] {
            intake.push("m_total", None, at, order, value).unwrap();
        }
        let buckets = intake.fold(&Counters::default());
        assert_eq!(buckets.iter().map(|b| b.start).collect::<Vec<_>>(), [-300_000, 0, 300_000]);
        assert_eq!((buckets[1].bucket.first, buckets[1].bucket.last, buckets[1].bucket.inside), (4.0, 5.0, Some(1.0)));
    }
}
