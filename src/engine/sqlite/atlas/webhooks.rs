//! `webhooks` on SQLite.

use sqlx::SqliteConnection;

use crate::engine::atlas::active;
use crate::engine::atlas::webhooks::Webhooks;
pub use crate::engine::atlas::webhooks::{METRICS, NEEDS};
use crate::engine::sqlite::times::millis;
use crate::sample::Batch;
use crate::task::Pending;

const SUMS: &str = concat!(
    "SELECT CAST(count(*) FILTER (WHERE ",
    active!(),
    ") AS REAL), CAST(count(*) FILTER (WHERE NOT ",
    active!(),
    ") AS REAL)",
    " FROM webhooks"
);

const EACH: &str = concat!(
    "SELECT id, CAST(",
    active!(),
    " AS REAL), ",
    millis!("last_triggered_at"),
    ",",
    " CASE WHEN typeof(failure_count) IN ('integer', 'real') THEN CAST(failure_count AS REAL) ELSE 0.0 END AS failures",
    " FROM webhooks WHERE typeof(id) = 'text' AND length(id) <= 255 ORDER BY failures DESC, id LIMIT 100"
);

/// Reads the webhooks.
pub fn read<'a>(connection: &'a mut SqliteConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        let (active, inactive) = sqlx::query_as(SUMS).fetch_one(&mut *connection).await?;
        let each = sqlx::query_as(EACH).fetch_all(connection).await?;
        Webhooks { active, inactive, each }.show(batch);
        Ok(())
    })
}
