//! `metric-rollup`: mirrors what has come into `system_metrics` in buckets of five minutes and of hours.
//!
//! It is what pruning waits for: rows beyond its watermark are not deleted. A run whose clock is doubted does nothing, so that the watermark
//! stays where a believed clock has set it.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Gauge, IntCounter, Registry};

use crate::clock::Timestamp;
use crate::sample::{Desc, Kind};
use crate::schedule::{Job, JobContext, JobError, Outcome};
use crate::store::{Chore, Done, RollUps, StoreError};
use crate::task::Pending;
use crate::telemetry;

/// The job's name.
pub const ROLL_UP: &str = "metric-rollup";

/// Why a database without the tables is left alone.
pub(super) const NO_TABLE: &str = "there is no `system_metrics`, or the sidecar's tables are missing beside it";

/// How often a piece is tried while somebody else holds the database.
const TRIES: u32 = 5;

/// The least rest between two transactions that others had to wait for.
const REST: Duration = Duration::from_millis(5);

const ROWS: Desc = Desc {
    name: "atlas_sidecar_rollup_rows_total",
    kind: Kind::Counter,
    unit: "rows",
    help: "Rows of system_metrics read into buckets; a bucket that a late row comes for is read again.",
};
const BUCKETS: Desc = Desc {
    name: "atlas_sidecar_rollup_buckets_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Buckets of five minutes and of hours that were written because they were new or other than before.",
};
const BAD: Desc = Desc {
    name: "atlas_sidecar_rollup_bad_rows_total",
    kind: Kind::Counter,
    unit: "rows",
    help: "Rows met, each time they are met, that are in no bucket because their value is no finite number or their name or tags cannot be read.",
};
const WATERMARK: Desc = Desc {
    name: "atlas_sidecar_rollup_watermark_timestamp_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "All rows before it have been rolled up. Where it stands still, metric-rollup fails, and nothing behind it is deleted.",
};

/// What this module measures of itself.
pub const METRICS: &[&Desc] = &[&ROWS, &BUCKETS, &BAD, &WATERMARK];

/// The numbers of this job, made once: a job is made anew with each configuration.
pub struct Metrics {
    rows: IntCounter,
    buckets: IntCounter,
    bad: IntCounter,
    watermark: Gauge,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            rows: telemetry::counter(registry, &ROWS),
            buckets: telemetry::counter(registry, &BUCKETS),
            bad: telemetry::counter(registry, &BAD),
            watermark: telemetry::gauge(registry, &WATERMARK),
        }
    }
}

/// Rolls up.
pub struct MetricRollUp {
    roll_ups: Option<Arc<dyn RollUps>>,
    keep: Duration,
    metrics: Arc<Metrics>,
}

impl MetricRollUp {
    /// Buckets of five minutes are kept for `keep`: older rows are left to pruning, which counts them as well.
    pub fn new(roll_ups: Option<Arc<dyn RollUps>>, keep: Duration, metrics: Arc<Metrics>) -> Self {
        Self { roll_ups, keep, metrics }
    }

    async fn roll_up(&self, cx: &JobContext) -> Result<Outcome, JobError> {
        let Some(roll_ups) = &self.roll_ups else { return Ok(Outcome::skipped(NO_TABLE)) };
        if let Some(doubt) = cx.clock_doubt() {
            return cx.refuse(doubt);
        }
        let now = cx.now();
        let Some(progress) = roll_ups.progress(now).await? else { return Ok(Outcome::skipped(NO_TABLE)) };
        if cx.dry_run() {
            return Ok(Outcome::done(
                0,
                format!("rows until {now} would be rolled up; {}", reached(progress.watermark)),
            ));
        }
        let (mut rows, mut buckets) = (0, 0);
        let mut each = |done: Done| {
            rows += done.rows;
            buckets += done.buckets;
            self.metrics.rows.inc_by(done.rows);
            self.metrics.buckets.inc_by(done.buckets);
            self.metrics.bad.inc_by(done.bad_rows);
            rows
        };
        work(roll_ups.roll_up(now.before(self.keep), now), cx, &mut each).await?;
        if let Some(progress) = roll_ups.progress(now).await? {
            self.metrics.watermark.set(progress.watermark.map_or(0.0, Timestamp::seconds));
        }
        Ok(Outcome::done(rows, format!("{rows} rows read, {buckets} buckets written")))
    }
}

fn reached(watermark: Option<Timestamp>) -> String {
    watermark.map_or("none have been".to_owned(), |at| format!("those before {at} have been"))
}

impl Job for MetricRollUp {
    fn name(&self) -> &'static str {
        ROLL_UP
    }

    fn run<'a>(&'a self, cx: &'a JobContext) -> Pending<'a, Result<Outcome, JobError>> {
        Box::pin(self.roll_up(cx))
    }
}

/// Does all of `chore`, tells `each` what a piece did and the run how far it is (what `each` gives), and gives others their turn between pieces.
pub(super) async fn work(
    mut chore: Box<dyn Chore + '_>,
    cx: &JobContext,
    each: &mut (dyn FnMut(Done) -> u64 + Send),
) -> Result<(), JobError> {
    let mut failures = 0;
    loop {
        cx.check()?;
        match chore.next().await {
            Ok(Some(done)) => {
                failures = 0;
                cx.progress(each(done), None, "rows");
                // Half of what they waited: who tries again every now and then, as SQLite's busy handler does, then finds it free.
                cx.rest(REST.max(done.held / 2)).await?;
            }
            Ok(None) => return Ok(()),
            Err(StoreError::Busy(_)) if failures + 1 < TRIES => {
                failures += 1;
                cx.rest(Duration::from_millis(200) * failures).await?;
            }
            Err(e) => return Err(e.into()),
        }
    }
}
