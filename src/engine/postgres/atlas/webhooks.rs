//! `webhooks` on PostgreSQL.

use sqlx::PgConnection;

use super::fit;
use crate::engine::atlas::active;
use crate::engine::atlas::webhooks::Webhooks;
pub use crate::engine::atlas::webhooks::{METRICS, NEEDS};
use crate::engine::postgres::numbers::number;
use crate::engine::postgres::times::millis;
use crate::sample::Batch;
use crate::task::Pending;

const SUMS: &str = concat!(
    "SELECT (count(*) FILTER (WHERE ",
    active!(),
    "))::float8, (count(*) FILTER (WHERE NOT ",
    active!(),
    "))::float8 FROM webhooks"
);

const EACH: &str = concat!(
    "SELECT id::text, CASE WHEN ",
    active!(),
    " THEN 1 ELSE 0 END::float8, ",
    millis!("last_triggered_at"),
    ", coalesce(",
    number!("failure_count"),
    ", 0) AS failures",
    " FROM webhooks WHERE length(id::text) <= 255 ORDER BY failures DESC, id::text COLLATE \"C\" LIMIT 100"
);

/// Reads the webhooks.
pub fn read<'a>(connection: &'a mut PgConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        fit(connection, &NEEDS).await?;
        let (active, inactive) = sqlx::query_as(SUMS).fetch_one(&mut *connection).await?;
        let each = sqlx::query_as(EACH).fetch_all(connection).await?;
        Webhooks { active, inactive, each }.show(batch);
        Ok(())
    })
}
