//! `content` on SQLite.

use sqlx::SqliteConnection;

use crate::engine::atlas::content::{Content, QUANTILES, Scores};
pub use crate::engine::atlas::content::{METRICS, NEEDS};
use crate::sample::Batch;
use crate::task::Pending;

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
        let (items, unindexed, accessed, accesses) = sqlx::query_as(SUMS).fetch_one(&mut *connection).await?;
        let scores = scores(connection).await?;
        Content { items, unindexed, accessed, accesses, scores }.show(batch);
        Ok(())
    })
}

async fn scores(connection: &mut SqliteConnection) -> Result<Scores, sqlx::Error> {
    let (count, sum): (i64, f64) = sqlx::query_as(SCORES).fetch_one(&mut *connection).await?;
    let mut quantiles = [None; QUANTILES.len()];
    for (found, (_, tenths)) in quantiles.iter_mut().zip(QUANTILES) {
        let rank = (count * tenths + 9) / 10;
        *found = sqlx::query_scalar(SCORE_AT).bind((rank - 1).max(0)).fetch_optional(&mut *connection).await?;
    }
    Ok(Scores { count: count as f64, sum, quantiles })
}
