//! `queue` on SQLite.

use sqlx::SqliteConnection;

pub use crate::engine::atlas::queue::{METRICS, NEEDS};
use crate::engine::atlas::queue::{Queue, Timed, Waiting};
use crate::engine::sqlite::times::millis;
use crate::sample::Batch;
use crate::task::Pending;

/// Two columns' pairs with their counts: the hundred most frequent, the rest in one row.
macro_rules! pairs {
    ($first:literal, $second:literal, $where:literal) => {
        concat!(
            "WITH counts AS (SELECT ", $first, " AS a, ", $second, " AS b, count(*) AS n FROM processing_queue", $where,
            " GROUP BY 1, 2), ranked AS (SELECT *, row_number() OVER (ORDER BY n DESC, a, b) <= 100 AS shown FROM counts)",
            " SELECT CASE WHEN shown THEN coalesce(substr(CAST(a AS TEXT), 1, 200), '') ELSE 'other' END,",
            " CASE WHEN shown THEN coalesce(substr(CAST(b AS TEXT), 1, 200), '') ELSE 'other' END,",
            " CAST(sum(n) AS REAL) FROM ranked GROUP BY 1, 2 ORDER BY 1, 2"
        )
    };
}
const ITEMS: &str = pairs!("status", "priority", "");
const WORKERS: &str = pairs!("worker_id", "status", " WHERE worker_id IS NOT NULL");

const WAITING: &str = concat!(
    "SELECT CAST(count(*) AS REAL), min(at), CAST(count(*) - count(at) AS REAL) FROM (SELECT ",
    millis!("created_at"),
    " AS at FROM processing_queue WHERE status = 'pending')"
);

const TIMED: &str = "SELECT CAST(count(*) AS REAL), total(estimated_duration), total(actual_duration) \
     FROM processing_queue WHERE typeof(estimated_duration) IN ('integer', 'real') AND typeof(actual_duration) IN ('integer', 'real')";

/// Reads the queue.
pub fn read<'a>(connection: &'a mut SqliteConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        let items = sqlx::query_as(ITEMS).fetch_all(&mut *connection).await?;
        let (waiting, oldest, unreadable) = sqlx::query_as(WAITING).fetch_one(&mut *connection).await?;
        let (timed, estimated, actual) = sqlx::query_as(TIMED).fetch_one(&mut *connection).await?;
        let workers = sqlx::query_as(WORKERS).fetch_all(connection).await?;
        let waiting = Waiting { items: waiting, oldest, unreadable };
        Queue { items, waiting, timed: Timed { items: timed, estimated, actual }, workers }.show(batch);
        Ok(())
    })
}
