//! `api_keys` on PostgreSQL.

use sqlx::PgConnection;

use super::fit;
use crate::engine::atlas::active;
use crate::engine::atlas::keys::Keys;
pub use crate::engine::atlas::keys::{METRICS, NEEDS};
use crate::engine::postgres::numbers::number;
use crate::engine::postgres::times::millis;
use crate::sample::Batch;
use crate::task::Pending;

/// A hash of at least 128 bits has 32 hexadecimal digits; what is shorter, or says so itself, is a placeholder.
const SUMS: &str = concat!(
    "SELECT (count(*) FILTER (WHERE ",
    active!(),
    "))::float8, (count(*) FILTER (WHERE NOT ",
    active!(),
    "))::float8,",
    " (count(*) FILTER (WHERE length(key_hash::text) < 32 OR lower(key_hash::text) LIKE '%placeholder%'))::float8 FROM api_keys"
);

/// A table that somebody else made may have no primary key: rows without id have no series of their own, they would all be the same (V-8).
const EACH: &str = concat!(
    "SELECT id::text, coalesce(left(name::text, 255), ''),",
    " CASE WHEN ",
    active!(),
    " THEN 1 ELSE 0 END::float8, ",
    millis!("last_used_at"),
    " AS used, ",
    number!("rate_limit_per_hour"),
    " FROM api_keys WHERE length(id::text) <= 255 ORDER BY used DESC NULLS LAST, id::text COLLATE \"C\" LIMIT 100"
);

/// Reads the keys.
pub fn read<'a>(connection: &'a mut PgConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        fit(connection, &NEEDS).await?;
        let (active, inactive, placeholders) = sqlx::query_as(SUMS).fetch_one(&mut *connection).await?;
        let each = sqlx::query_as(EACH).fetch_all(connection).await?;
        Keys { active, inactive, placeholders, each }.show(batch);
        Ok(())
    })
}
