//! `cache` on SQLite.

use sqlx::SqliteConnection;

use crate::engine::atlas::cache::Cache;
pub use crate::engine::atlas::cache::{METRICS, NEEDS};
use crate::engine::sqlite::times::millis;
use crate::sample::Batch;
use crate::task::Pending;

/// `octet_length` looks at the length in a value's header: the results themselves are not read.
const SUMS: &str = concat!(
    "SELECT CAST(count(*) AS REAL), CAST(count(*) FILTER (WHERE at < ?) AS REAL),",
    " total(bytes), CAST(count(*) - count(at) AS REAL) FROM (SELECT ",
    millis!("expires_at"),
    " AS at, coalesce(octet_length(query_text), 0) + coalesce(octet_length(results), 0) AS bytes FROM search_cache)"
);

/// Reads the cache.
pub fn read<'a>(connection: &'a mut SqliteConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        let (rows, expired, bytes, unreadable) =
            sqlx::query_as(SUMS).bind(batch.at.millis()).fetch_one(connection).await?;
        Cache { rows, expired, bytes, unreadable }.show(batch);
        Ok(())
    })
}
