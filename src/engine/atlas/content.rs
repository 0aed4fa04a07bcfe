//! `content`: how much there is, how much of it search does not know yet, how much is read, and how it is scored.

use super::{Needs, push_all};
use crate::sample::{Batch, Desc, Kind, Labels, Sample, Suffix};

/// What it reads.
pub const NEEDS: Needs = Needs {
    table: "content_metadata",
    columns: &["search_indexed_at", "last_accessed_at", "access_count", "cognitive_score"],
    times: &[],
    numbers: &["access_count", "cognitive_score"],
    rowid: false,
};

/// The families of this collector.
pub const METRICS: &[&Desc] = &[&ITEMS, &UNINDEXED, &ACCESSED, &ACCESSES, &SCORE];

const ITEMS: Desc =
    Desc { name: "atlas_content_items", kind: Kind::Gauge, unit: "items", help: "Rows of content_metadata" };
const UNINDEXED: Desc = Desc {
    name: "atlas_content_unindexed_items",
    kind: Kind::Gauge,
    unit: "items",
    help: "Content without search_indexed_at: search does not find it; alert if it does not go down",
};
const ACCESSED: Desc = Desc {
    name: "atlas_content_accessed_items",
    kind: Kind::Gauge,
    unit: "items",
    help: "Content that was accessed at least once (access_count above 0 or last_accessed_at set)",
};
const ACCESSES: Desc = Desc {
    name: "atlas_content_accesses",
    kind: Kind::Gauge,
    unit: "accesses",
    help: "Sum of access_count over the content there is; falls when content is deleted, so use delta() with care",
};
const SCORE: Desc = Desc {
    name: "atlas_content_cognitive_score",
    kind: Kind::Summary,
    unit: "1",
    help: "Cognitive scores of the content there is: quantiles by nearest rank, sum and count of scored items",
};

/// The quantiles that are shown: the label's value, and in tenths.
pub const QUANTILES: [(&str, i64); 3] = [("0.1", 1), ("0.5", 5), ("0.9", 9)];

/// What was read.
pub struct Content {
    /// Rows.
    pub items: f64,
    /// Those that search does not know.
    pub unindexed: f64,
    /// Those that were accessed.
    pub accessed: f64,
    /// How often.
    pub accesses: f64,
    /// Their scores.
    pub scores: Scores,
}

/// The scores that are numbers.
pub struct Scores {
    /// How many.
    pub count: f64,
    /// Their sum.
    pub sum: f64,
    /// For each of [`QUANTILES`] by nearest rank, the smallest score that this share of all scores does not exceed; nothing where there is no score.
    pub quantiles: [Option<f64>; 3],
}

impl Content {
    /// Adds its samples.
    pub fn show(&self, batch: &mut Batch) {
        let Self { items, unindexed, accessed, accesses, .. } = *self;
        push_all(batch, [(&ITEMS, items), (&UNINDEXED, unindexed), (&ACCESSED, accessed), (&ACCESSES, accesses)]);
        let Scores { count, sum, quantiles } = &self.scores;
        let sample = |suffix, labels, value| Sample { suffix, labels, value, at: None };
        let quantiles = QUANTILES.iter().zip(quantiles).filter_map(|((name, _), value)| {
            Some(sample(Suffix::None, Labels::none().with("quantile", *name), (*value)?))
        });
        let family = batch.family(SCORE.name, SCORE.kind, SCORE.help);
        family.samples.extend(quantiles);
        family.samples.push(sample(Suffix::Sum, Labels::none(), *sum));
        family.samples.push(sample(Suffix::Count, Labels::none(), *count));
    }
}
