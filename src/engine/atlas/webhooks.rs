//! `webhooks`: which ones fail, by id. Their URLs and secrets are never read.

use super::{Needs, push_active};
use crate::sample::{Batch, Desc, Kind, Labels};

/// What it reads.
pub const NEEDS: Needs = Needs {
    table: "webhooks",
    columns: &["id", "is_active", "last_triggered_at", "failure_count"],
    times: &["last_triggered_at"],
    numbers: &["failure_count"],
    rowid: false,
};

/// The families of this collector.
pub const METRICS: &[&Desc] = &[&WEBHOOKS, &ACTIVE, &FAILURES, &LAST_TRIGGERED, &NOT_SHOWN];

const WEBHOOKS: Desc = Desc {
    name: "atlas_webhooks",
    kind: Kind::Gauge,
    unit: "webhooks",
    help: "Rows of webhooks by whether they are active",
};
const ACTIVE: Desc = Desc {
    name: "atlas_webhook_active",
    kind: Kind::Gauge,
    unit: "1",
    help: "1 if the webhook is called, by id; the 100 that failed most",
};
const FAILURES: Desc = Desc {
    name: "atlas_webhook_failures",
    kind: Kind::Gauge,
    unit: "failures",
    help: "The webhook's failure_count, which its owner may reset; a receiver is down if it grows",
};
const LAST_TRIGGERED: Desc = Desc {
    name: "atlas_webhook_last_triggered_timestamp_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "When the webhook was called last, absent if never",
};
const NOT_SHOWN: Desc = Desc {
    name: "atlas_webhooks_not_shown",
    kind: Kind::Gauge,
    unit: "webhooks",
    help: "Webhooks beyond the 100 that have series of their own",
};

/// What was read.
pub struct Webhooks {
    /// Webhooks that are called.
    pub active: f64,
    /// Webhooks that are not.
    pub inactive: f64,
    /// The hundred that failed most.
    pub each: Vec<Webhook>,
}

/// A webhook: its id, 1 if it is active, when it was called last (milliseconds since 1970), and its failures.
pub type Webhook = (String, f64, Option<i64>, f64);

impl Webhooks {
    /// Adds its samples.
    pub fn show(self, batch: &mut Batch) {
        let Self { active, inactive, each } = self;
        push_active(batch, &WEBHOOKS, active, inactive);
        // A webhook may come between the count and the list.
        batch.push(&NOT_SHOWN, Labels::none(), (active + inactive - each.len() as f64).max(0.0));
        for (id, active, triggered, failures) in each {
            let labels = Labels::none().with("id", id);
            batch.push(&ACTIVE, labels.clone(), active);
            if let Some(triggered) = triggered {
                batch.push(&LAST_TRIGGERED, labels.clone(), triggered as f64 / 1000.0);
            }
            batch.push(&FAILURES, labels, failures);
        }
    }
}
