//! `queue`: how much waits, for how long, who works, and how well durations are guessed.

use super::{Needs, push_all};
use crate::sample::{Batch, Desc, Kind, Labels};

/// What it reads.
pub const NEEDS: Needs = Needs {
    table: "processing_queue",
    columns: &["status", "priority", "created_at", "estimated_duration", "actual_duration", "worker_id"],
    times: &["created_at"],
    numbers: &["estimated_duration", "actual_duration"],
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

/// What was read.
pub struct Queue {
    /// Items by status and priority.
    pub items: Vec<Pair>,
    /// What waits.
    pub waiting: Waiting,
    /// What has both durations.
    pub timed: Timed,
    /// Items by worker and status.
    pub workers: Vec<Pair>,
}

/// Two labels' values and how many items have them. An empty one is none; those beyond the hundred most frequent pairs are one pair, both `other`.
pub type Pair = (String, String, f64);

/// Pending items.
pub struct Waiting {
    /// How many.
    pub items: f64,
    /// Since when the oldest waits, of those that say so; in milliseconds since 1970.
    pub oldest: Option<i64>,
    /// How many do not say so.
    pub unreadable: f64,
}

/// Items that have both an estimated and an actual duration.
pub struct Timed {
    /// How many.
    pub items: f64,
    /// Sum of what was estimated, in seconds.
    pub estimated: f64,
    /// Sum of what it took, in seconds.
    pub actual: f64,
}

impl Queue {
    /// Adds its samples.
    pub fn show(self, batch: &mut Batch) {
        let Self { items, waiting, timed, workers } = self;
        for (status, priority, count) in items {
            batch.push(&ITEMS, Labels::none().with("status", status).with("priority", priority), count);
        }
        match waiting.oldest {
            Some(at) => batch.push(&OLDEST, Labels::none(), (batch.at.millis() - at).max(0) as f64 / 1000.0),
            None if waiting.items == 0.0 => batch.push(&OLDEST, Labels::none(), 0.0),
            // Something waits, and nobody knows since when: no number is better than a wrong one.
            None => {}
        }
        let Timed { items, estimated, actual } = timed;
        push_all(
            batch,
            [(&UNREADABLE, waiting.unreadable), (&TIMED_ITEMS, items), (&ESTIMATED, estimated), (&ACTUAL, actual)],
        );
        for (worker, status, count) in workers {
            batch.push(&WORKER_ITEMS, Labels::none().with("worker", worker).with("status", status), count);
        }
    }
}
