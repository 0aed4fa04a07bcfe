//! `content`: how much there is, how much of it search does not know yet, how much is read, and how it is scored.

use sqlx::{Row as _, SqliteConnection};

use super::{Needs, number};
use crate::sample::{Batch, Desc, Kind, Labels, Sample, Suffix};
use crate::task::Pending;

/// What it reads.
pub const NEEDS: Needs = Needs {
    table: "content_metadata",
    columns: &["search_indexed_at", "last_accessed_at", "access_count", "cognitive_score"],
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

const SUMS: &str = "SELECT CAST(count(*) AS REAL), CAST(count(*) FILTER (WHERE search_indexed_at IS NULL) AS REAL), \
     CAST(count(*) FILTER (WHERE access_count > 0 OR last_accessed_at IS NOT NULL) AS REAL), \
     total(access_count) FILTER (WHERE typeof(access_count) IN ('integer', 'real')) FROM content_metadata";

/// Numbers sort before any text, so this is "is a number" in a form that the index on the column serves.
const SCORES: &str = "SELECT count(*), total(cognitive_score) FROM content_metadata WHERE cognitive_score < ''";
const SCORE_AT: &str = "SELECT CAST(cognitive_score AS REAL) FROM content_metadata WHERE cognitive_score < '' \
     ORDER BY cognitive_score LIMIT 1 OFFSET ?";

/// Reads the content.
pub fn read<'a>(connection: &'a mut SqliteConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        let row = sqlx::query(SUMS).fetch_one(&mut *connection).await?;
        for (column, desc) in [&ITEMS, &UNINDEXED, &ACCESSED, &ACCESSES].into_iter().enumerate() {
            batch.push(desc, Labels::none(), number(&row, column)?);
        }
        read_scores(connection, batch).await
    })
}

async fn read_scores(connection: &mut SqliteConnection, batch: &mut Batch) -> Result<(), sqlx::Error> {
    let row = sqlx::query(SCORES).fetch_one(&mut *connection).await?;
    let (count, sum): (i64, f64) = (row.try_get(0)?, number(&row, 1)?);
    let mut samples = Vec::new();
    for (name, tenths) in [("0.1", 1), ("0.5", 5), ("0.9", 9)] {
        // Nearest rank: the smallest score that this share of all scores does not exceed.
        let rank = (count * tenths + 9) / 10;
        let found: Option<f64> =
            sqlx::query_scalar(SCORE_AT).bind((rank - 1).max(0)).fetch_optional(&mut *connection).await?;
        samples.extend(found.map(|value| (Suffix::None, Labels::none().with("quantile", name), value)));
    }
    samples.push((Suffix::Sum, Labels::none(), sum));
    samples.push((Suffix::Count, Labels::none(), count as f64));
    let family = batch.family(SCORE.name, SCORE.kind, SCORE.help);
    family.samples.extend(samples.into_iter().map(|(suffix, labels, value)| Sample {
        suffix,
        labels,
        value,
        at: None,
    }));
    Ok(())
}
