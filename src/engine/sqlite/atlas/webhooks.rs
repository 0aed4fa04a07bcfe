//! `webhooks`: which ones fail, by id. Their URLs and secrets are never read.

use sqlx::{Row as _, SqliteConnection};

use super::keys::active;
use super::{Needs, number, text};
use crate::engine::sqlite::times::millis;
use crate::sample::{Batch, Desc, Kind, Labels};
use crate::task::Pending;

/// What it reads.
pub const NEEDS: Needs =
    Needs { table: "webhooks", columns: &["id", "is_active", "last_triggered_at", "failure_count"], rowid: false };

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
        let row = sqlx::query(SUMS).fetch_one(&mut *connection).await?;
        let (active, inactive) = (number(&row, 0)?, number(&row, 1)?);
        batch.push(&WEBHOOKS, Labels::none().with("active", "true"), active);
        batch.push(&WEBHOOKS, Labels::none().with("active", "false"), inactive);
        let webhooks = sqlx::query(EACH).fetch_all(&mut *connection).await?;
        for webhook in &webhooks {
            let labels = Labels::none().with("id", text(webhook, 0)?);
            batch.push(&ACTIVE, labels.clone(), number(webhook, 1)?);
            if let Some(triggered) = webhook.try_get::<Option<i64>, _>(2)? {
                batch.push(&LAST_TRIGGERED, labels.clone(), triggered as f64 / 1000.0);
            }
            batch.push(&FAILURES, labels, number(webhook, 3)?);
        }
        batch.push(&NOT_SHOWN, Labels::none(), active + inactive - webhooks.len() as f64);
        Ok(())
    })
}
