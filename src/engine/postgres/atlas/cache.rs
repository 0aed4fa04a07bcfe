//! `cache` on PostgreSQL.

use sqlx::PgConnection;

use super::fit;
use crate::engine::atlas::cache::Cache;
pub use crate::engine::atlas::cache::{METRICS, NEEDS};
use crate::engine::postgres::times::millis;
use crate::sample::Batch;
use crate::task::Pending;

/// The bytes of a value as they are stored, without the one or four of its header: what is long is compressed and lies elsewhere, and reading all of it
/// every minute would push the application's pages out of the server's memory.
macro_rules! stored {
    ($column:literal) => {
        concat!("pg_column_size(", $column, ") - CASE WHEN pg_column_size(", $column, ") < 128 THEN 1 ELSE 4 END")
    };
}

const SUMS: &str = concat!(
    "SELECT count(*)::float8, (count(*) FILTER (WHERE at < $1))::float8,",
    " coalesce(sum(bytes), 0)::float8, (count(*) - count(at))::float8 FROM (SELECT ",
    millis!("expires_at"),
    " AS at, coalesce(",
    stored!("query_text"),
    ", 0) + coalesce(",
    stored!("results"),
    ", 0) AS bytes FROM search_cache) c"
);

/// Reads the cache.
pub fn read<'a>(connection: &'a mut PgConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        fit(connection, &NEEDS).await?;
        let (rows, expired, bytes, unreadable) =
            sqlx::query_as(SUMS).bind(batch.at.millis()).fetch_one(connection).await?;
        Cache { rows, expired, bytes, unreadable }.show(batch);
        Ok(())
    })
}
