//! `api_keys` on SQLite.

use sqlx::SqliteConnection;

use crate::engine::atlas::active;
use crate::engine::atlas::keys::Keys;
pub use crate::engine::atlas::keys::{METRICS, NEEDS};
use crate::engine::sqlite::times::millis;
use crate::sample::Batch;
use crate::task::Pending;

/// A hash of at least 128 bits has 32 hexadecimal digits; what is shorter, or says so itself, is a placeholder.
const SUMS: &str = concat!(
    "SELECT CAST(count(*) FILTER (WHERE ",
    active!(),
    ") AS REAL), CAST(count(*) FILTER (WHERE NOT ",
    active!(),
    ") AS REAL),",
    " CAST(count(*) FILTER (WHERE length(key_hash) < 32 OR lower(key_hash) LIKE '%placeholder%') AS REAL) FROM api_keys"
);

/// SQLite's primary key admits many NULLs (V-8): such rows have no series of their own, they would all be the same.
const EACH: &str = concat!(
    "SELECT id, coalesce(substr(CAST(name AS TEXT), 1, 255), ''),",
    " CAST(",
    active!(),
    " AS REAL), ",
    millis!("last_used_at"),
    " AS used,",
    " CASE WHEN typeof(rate_limit_per_hour) IN ('integer', 'real') THEN CAST(rate_limit_per_hour AS REAL) END",
    " FROM api_keys WHERE typeof(id) = 'text' AND length(id) <= 255 ORDER BY used DESC, id LIMIT 100"
);

/// Reads the keys.
pub fn read<'a>(connection: &'a mut SqliteConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        let (active, inactive, placeholders) = sqlx::query_as(SUMS).fetch_one(&mut *connection).await?;
        let each = sqlx::query_as(EACH).fetch_all(connection).await?;
        Keys { active, inactive, placeholders, each }.show(batch);
        Ok(())
    })
}
