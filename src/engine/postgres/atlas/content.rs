//! `content` on PostgreSQL.

use sqlx::PgConnection;

use super::fit;
use crate::engine::atlas::content::{Content, Scores};
pub use crate::engine::atlas::content::{METRICS, NEEDS};
use crate::engine::postgres::numbers::number;
use crate::sample::Batch;
use crate::task::Pending;

/// One scan gives the sums and how often each score occurs; only the different scores are sorted, of which a `DECIMAL(5,2)` has some ten thousand.
const CONTENT: &str = concat!(
    "WITH content AS (SELECT search_indexed_at IS NULL AS unindexed, last_accessed_at IS NOT NULL AS used, ",
    number!("access_count"),
    " AS accesses, ",
    number!("cognitive_score"),
    " AS score FROM content_metadata),",
    " counts AS (SELECT grouping(score) = 1 AS is_all, score, count(*) AS n, count(*) FILTER (WHERE unindexed) AS unindexed,",
    " count(*) FILTER (WHERE used OR accesses > 0) AS accessed, sum(accesses) AS accesses",
    " FROM content GROUP BY GROUPING SETS ((score), ())),",
    " ranked AS (SELECT score, n, sum(n) OVER (ORDER BY score) AS upto, sum(n) OVER () AS scored",
    " FROM counts WHERE NOT is_all AND score IS NOT NULL)",
    " SELECT n::float8, unindexed::float8, accessed::float8, coalesce(accesses, 0), scores.*",
    " FROM counts, (SELECT coalesce(sum(n), 0)::float8, coalesce(sum(score * n), 0),",
    " min(score) FILTER (WHERE upto * 10 >= scored),",
    " min(score) FILTER (WHERE upto * 10 >= scored * 5),",
    " min(score) FILTER (WHERE upto * 10 >= scored * 9) FROM ranked) scores WHERE is_all"
);

/// What [`CONTENT`] gives: items, unindexed and accessed ones, accesses; scores, their sum and their quantiles.
type Row = (f64, f64, f64, f64, f64, f64, Option<f64>, Option<f64>, Option<f64>);

/// Reads the content.
pub fn read<'a>(connection: &'a mut PgConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        fit(connection, &NEEDS).await?;
        let row: Row = sqlx::query_as(CONTENT).fetch_one(connection).await?;
        let (items, unindexed, accessed, accesses, count, sum, low, median, high) = row;
        let scores = Scores { count, sum, quantiles: [low, median, high] };
        Content { items, unindexed, accessed, accesses, scores }.show(batch);
        Ok(())
    })
}
