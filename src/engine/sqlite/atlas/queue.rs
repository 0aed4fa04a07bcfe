//! `queue`: how much waits, for how long, who works, and how well durations are guessed.

use sqlx::{Row as _, SqliteConnection};

use super::{Needs, number, text};
use crate::engine::sqlite::times::millis;
use crate::sample::{Batch, Desc, Kind, Labels};
use crate::task::Pending;

/// What it reads.
pub const NEEDS: Needs = Needs {
    table: "processing_queue",
    columns: &["status", "priority", "created_at", "estimated_duration", "actual_duration", "worker_id"],
    rowid: false,
};

/// The families of this collector.
pub const METRICS: &[&Desc] = &[&ITEMS, &OLDEST, &UNREADABLE, &TIMED_ITEMS, &ESTIMATED, &ACTUAL, &WORKER_ITEMS];

const ITEMS: Desc = Desc {
    name: "atlas_queue_items",
    kind: Kind::Gauge,
    unit: "items",
    help: "Items of processing_queue by status and priority; watch status=\"pending\" for a backlog. The 100 most frequent pairs, the rest as other",
};
const OLDEST: Desc = Desc {
    name: "atlas_queue_oldest_waiting_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "Age of the oldest pending item by created_at, 0 if none is pending; alert on it rather than on the depth",
};
const UNREADABLE: Desc = Desc {
    name: "atlas_queue_unreadable_times",
    kind: Kind::Gauge,
    unit: "items",
    help: "Pending items whose created_at cannot be read, so the oldest waiting age leaves them out",
};
const TIMED_ITEMS: Desc = Desc {
    name: "atlas_queue_timed_items",
    kind: Kind::Gauge,
    unit: "items",
    help: "Items that have both an estimated and an actual duration",
};
const ESTIMATED: Desc = Desc {
    name: "atlas_queue_timed_estimated_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "Sum of estimated_duration (seconds) over the timed items; divide by the actual sum for how well durations are guessed",
};
const ACTUAL: Desc = Desc {
    name: "atlas_queue_timed_actual_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "Sum of actual_duration (seconds) over the timed items; divide by the timed items for the mean",
};
const WORKER_ITEMS: Desc = Desc {
    name: "atlas_queue_worker_items",
    kind: Kind::Gauge,
    unit: "items",
    help: "Items by worker_id and status; a worker whose items stay in work has stopped. The 100 most frequent pairs, the rest as other",
};

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

const OLDEST_WAITING: &str = concat!(
    "SELECT min(at), CAST(count(*) AS REAL), CAST(count(*) - count(at) AS REAL) FROM (SELECT ",
    millis!("created_at"),
    " AS at FROM processing_queue WHERE status = 'pending')"
);

const DURATIONS: &str = "SELECT CAST(count(*) AS REAL), total(estimated_duration), total(actual_duration) \
     FROM processing_queue WHERE typeof(estimated_duration) IN ('integer', 'real') AND typeof(actual_duration) IN ('integer', 'real')";

/// Reads the queue.
pub fn read<'a>(connection: &'a mut SqliteConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        for row in sqlx::query(pairs!("status", "priority", "")).fetch_all(&mut *connection).await? {
            let labels = Labels::none().with("status", text(&row, 0)?).with("priority", text(&row, 1)?);
            batch.push(&ITEMS, labels, number(&row, 2)?);
        }
        let row = sqlx::query(OLDEST_WAITING).fetch_one(&mut *connection).await?;
        let (oldest, waiting): (Option<i64>, f64) = (row.try_get(0)?, number(&row, 1)?);
        match oldest {
            Some(at) => batch.push(&OLDEST, Labels::none(), (batch.at.millis() - at).max(0) as f64 / 1000.0),
            None if waiting == 0.0 => batch.push(&OLDEST, Labels::none(), 0.0),
            // Something waits, and nobody knows since when: no number is better than a wrong one.
            None => {}
        }
        batch.push(&UNREADABLE, Labels::none(), number(&row, 2)?);
        let row = sqlx::query(DURATIONS).fetch_one(&mut *connection).await?;
        for (column, desc) in [&TIMED_ITEMS, &ESTIMATED, &ACTUAL].into_iter().enumerate() {
            batch.push(desc, Labels::none(), number(&row, column)?);
        }
        let workers = sqlx::query(pairs!("worker_id", "status", " WHERE worker_id IS NOT NULL"));
        for row in workers.fetch_all(&mut *connection).await? {
            let labels = Labels::none().with("worker", text(&row, 0)?).with("status", text(&row, 1)?);
            batch.push(&WORKER_ITEMS, labels, number(&row, 2)?);
        }
        Ok(())
    })
}
