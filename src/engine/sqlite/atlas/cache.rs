//! `cache`: how big the search cache is, and how much of it is of no use any more.

use sqlx::SqliteConnection;

use super::{Needs, number};
use crate::engine::sqlite::times::millis;
use crate::sample::{Batch, Desc, Kind, Labels};
use crate::task::Pending;

/// What it reads.
pub const NEEDS: Needs =
    Needs { table: "search_cache", columns: &["query_text", "results", "expires_at"], rowid: false };

/// The families of this collector.
pub const METRICS: &[&Desc] = &[&ROWS, &EXPIRED, &BYTES, &UNREADABLE];

const ROWS: Desc = Desc {
    name: "atlas_cache_rows",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows of search_cache, expired ones included",
};
const EXPIRED: Desc = Desc {
    name: "atlas_cache_expired_rows",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows of search_cache whose expires_at has passed; a number that keeps growing means that nobody cleans up",
};
const BYTES: Desc = Desc {
    name: "atlas_cache_bytes",
    kind: Kind::Gauge,
    unit: "bytes",
    help: "Bytes of query_text and results in search_cache; what the cache costs in the database file, indexes aside",
};
const UNREADABLE: Desc = Desc {
    name: "atlas_cache_unreadable_times",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows of search_cache whose expires_at cannot be read; they are never taken for expired",
};

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
        let row = sqlx::query(SUMS).bind(batch.at.millis()).fetch_one(connection).await?;
        for (column, desc) in [&ROWS, &EXPIRED, &BYTES, &UNREADABLE].into_iter().enumerate() {
            batch.push(desc, Labels::none(), number(&row, column)?);
        }
        Ok(())
    })
}
