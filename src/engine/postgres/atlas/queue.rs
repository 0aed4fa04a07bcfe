//! `queue` on PostgreSQL.

use sqlx::PgConnection;

use super::fit;
pub use crate::engine::atlas::queue::{METRICS, NEEDS};
use crate::engine::atlas::queue::{Pair, Queue, Timed, Waiting};
use crate::engine::postgres::numbers::number;
use crate::engine::postgres::times::millis;
use crate::sample::Batch;
use crate::task::Pending;

/// One scan counts three ways: everything (`all`), by status and priority (`items`), by worker and status (`workers`). Of the pairs, the hundred most
/// frequent are shown and the rest is one row.
const QUEUE: &str = concat!(
    "WITH queue AS (SELECT status::text COLLATE \"C\" AS status, priority, worker_id::text COLLATE \"C\" AS worker,",
    " CASE WHEN status::text = 'pending' THEN ",
    millis!("created_at"),
    " END AS waits, ",
    number!("estimated_duration"),
    " AS estimated, ",
    number!("actual_duration"),
    " AS actual FROM processing_queue),",
    " counts AS (SELECT CASE WHEN grouping(priority) = 0 THEN 'items' WHEN grouping(worker) = 0 THEN 'workers' ELSE 'all' END AS what,",
    " status, priority, worker, count(*) AS n, count(*) FILTER (WHERE status = 'pending') AS pending, count(waits) AS readable,",
    " min(waits) AS oldest, count(*) FILTER (WHERE estimated + actual IS NOT NULL) AS timed,",
    " sum(estimated) FILTER (WHERE actual IS NOT NULL) AS estimated, sum(actual) FILTER (WHERE estimated IS NOT NULL) AS actual",
    " FROM queue GROUP BY GROUPING SETS ((status, priority), (worker, status), ())),",
    " ranked AS (SELECT *, row_number() OVER (PARTITION BY what",
    " ORDER BY n DESC, worker NULLS FIRST, status NULLS FIRST, priority NULLS FIRST) <= 100 AS shown",
    " FROM counts WHERE what <> 'workers' OR worker IS NOT NULL)",
    " SELECT what, CASE WHEN NOT shown THEN 'other' WHEN what = 'workers' THEN left(worker, 200) ELSE coalesce(left(status, 200), '') END,",
    " CASE WHEN NOT shown THEN 'other' WHEN what = 'workers' THEN coalesce(left(status, 200), '') ELSE coalesce(left(priority::text, 200), '') END,",
    " sum(n)::float8, sum(pending)::float8, min(oldest), (sum(pending) - sum(readable))::float8,",
    " sum(timed)::float8, coalesce(sum(estimated), 0), coalesce(sum(actual), 0)",
    " FROM ranked GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
);

/// What [`QUEUE`] gives: which way, a pair of labels, how many; pending ones, since when the oldest, those without a time; items with both durations, what
/// was estimated and what it took.
type Row = (String, String, String, f64, f64, Option<i64>, f64, f64, f64, f64);

/// Reads the queue.
pub fn read<'a>(connection: &'a mut PgConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        fit(connection, &NEEDS).await?;
        let rows: Vec<Row> = sqlx::query_as(QUEUE).fetch_all(connection).await?;
        queue_of(rows).show(batch);
        Ok(())
    })
}

fn queue_of(rows: Vec<Row>) -> Queue {
    let (mut items, mut workers): (Vec<Pair>, Vec<Pair>) = Default::default();
    let mut waiting = Waiting { items: 0.0, oldest: None, unreadable: 0.0 };
    let mut timed = Timed { items: 0.0, estimated: 0.0, actual: 0.0 };
    for (what, first, second, count, pending, oldest, unreadable, both, estimated, actual) in rows {
        match what.as_str() {
            "items" => items.push((first, second, count)),
            "workers" => workers.push((first, second, count)),
            _ => {
                waiting = Waiting { items: pending, oldest, unreadable };
                timed = Timed { items: both, estimated, actual };
            }
        }
    }
    Queue { items, waiting, timed, workers }
}
