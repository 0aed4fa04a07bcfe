//! `metric-retention`: moves rows of `system_metrics` that are past their age into sealed buckets, and deletes buckets that are past theirs.
//!
//! What stops it says so in `atlas_sidecar_retention_blocked`:
//!
//! - a clock that is doubted (T-5; see `schedule::watch`);
//! - a newest row that is more than a day old: the clock may be wrong, or nobody writes; either way nothing grows;
//! - rows that are to go, and behind the newest of them a gap as long as rows are kept: what a sidecar sees whose clock was in 2036 already when it began,
//!   so that nothing ever jumped. Its own rows are of 2036, and all others' past their age at once. It also sees this after two months in a cellar;
//! - rolling up that has not come as far as rows should go.
//!
//! All but the last are a person's to decide: `jobs run metric-retention --clock-is-right`. A run by hand without that word does no more than one by the
//! schedule.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{GaugeVec, IntCounter, Registry};

use super::roll_up::{NO_TABLE, work};
use crate::clock::Timestamp;
use crate::sample::{Desc, Kind};
use crate::schedule::watch::IF_RIGHT;
use crate::schedule::{Job, JobContext, JobError, Outcome};
use crate::store::{Done, Progress, RollUps, Width};
use crate::task::Pending;
use crate::telemetry;

/// The job's name.
pub const RETAIN: &str = "metric-retention";

/// How old the newest row may be.
const SILENCE: Duration = Duration::from_secs(24 * 3600);

const ROWS: Desc = Desc {
    name: "atlas_sidecar_retention_rows_total",
    kind: Kind::Counter,
    unit: "rows",
    help: "Rows deleted from system_metrics; all of them are counted in buckets.",
};
const LATE: Desc = Desc {
    name: "atlas_sidecar_retention_late_merged_rows_total",
    kind: Kind::Counter,
    unit: "rows",
    help: "Rows among them that came after their bucket's other rows were gone. Many of them: somebody writes old times.",
};
const EXPIRED: Desc = Desc {
    name: "atlas_sidecar_retention_expired_buckets_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Buckets deleted because they were past their own age.",
};
const KEPT: Desc = Desc {
    name: "atlas_sidecar_retention_kept_rows",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows past their age that stay, because no bucket can hold them: their time, value or labels (name, tags) cannot be read. Find who writes them; delete them by hand.",
};
const BLOCKED: Desc = Desc {
    name: "atlas_sidecar_retention_blocked",
    kind: Kind::Gauge,
    unit: "1",
    help: "1 where rows stay beyond their age: `clock` (look at it, then `jobs run metric-retention --clock-is-right`), `roll_up` (see why metric-rollup fails). The table grows.",
};

/// What this module measures of itself.
pub const METRICS: &[&Desc] = &[&ROWS, &LATE, &EXPIRED, &KEPT, &BLOCKED];

/// The numbers of this job, made once: a job is made anew with each configuration.
pub struct Metrics {
    rows: IntCounter,
    late: IntCounter,
    expired: IntCounter,
    kept: GaugeVec,
    blocked: GaugeVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let metrics = Self {
            rows: telemetry::counter(registry, &ROWS),
            late: telemetry::counter(registry, &LATE),
            expired: telemetry::counter(registry, &EXPIRED),
            kept: telemetry::gauges(registry, &KEPT, &["reason"]),
            blocked: telemetry::gauges(registry, &BLOCKED, &["reason"]),
        };
        metrics.blocked(None);
        metrics
    }

    fn blocked(&self, reason: Option<&str>) {
        for known in ["clock", "roll_up"] {
            self.blocked.with_label_values(&[known]).set(f64::from(u8::from(reason == Some(known))));
        }
    }
}

/// How long things are kept: each at least as long as what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Rows.
    pub rows: Duration,
    /// Buckets of five minutes.
    pub five_minutes: Duration,
    /// Buckets of an hour.
    pub hours: Duration,
}

/// Prunes and expires.
pub struct MetricRetention {
    roll_ups: Option<Arc<dyn RollUps>>,
    keep: Keep,
    metrics: Arc<Metrics>,
}

impl MetricRetention {
    /// Keeps what `keep` says.
    pub fn new(roll_ups: Option<Arc<dyn RollUps>>, keep: Keep, metrics: Arc<Metrics>) -> Self {
        Self { roll_ups, keep, metrics }
    }

    async fn retain(&self, cx: &JobContext) -> Result<Outcome, JobError> {
        let Some(roll_ups) = self.roll_ups.as_deref() else { return Ok(Outcome::skipped(NO_TABLE)) };
        let now = cx.now();
        let Some(progress) = roll_ups.progress(now).await? else { return Ok(Outcome::skipped(NO_TABLE)) };
        let before = Width::Hour.floor(now.before(self.keep.rows));
        if let Some(doubt) = self.doubt(roll_ups, cx, progress, before, now).await? {
            self.metrics.blocked(Some("clock"));
            return cx.refuse(&doubt);
        }
        if cx.dry_run() {
            let rows = roll_ups.due(before).await?;
            return Ok(Outcome::done(rows, format!("{rows} rows before {before} would be moved into buckets")));
        }
        let outcome = self.prune_and_expire(roll_ups, cx, before, now).await?;
        // What lies below the watermark has gone; what lies behind it stays.
        if progress.watermark.is_none_or(|watermark| watermark < before) {
            self.metrics.blocked(Some("roll_up"));
            return Err(JobError::Failed(format!(
                "rows before {before} should go, and rolling up has come to {}; see `metric-rollup`",
                progress.watermark.map_or("nothing".to_owned(), |at| at.to_string())
            )));
        }
        self.metrics.blocked(None);
        Ok(outcome)
    }

    /// Why the time is not believed.
    async fn doubt(
        &self,
        roll_ups: &dyn RollUps,
        cx: &JobContext,
        progress: Progress,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<Option<String>, JobError> {
        if cx.trusts_clock() {
            return Ok(None);
        }
        if let Some(doubt) = cx.clock_doubt() {
            return Ok(Some(doubt.to_owned()));
        }
        if let Some(silence) = silence(progress, now) {
            return Ok(Some(format!("{silence}; {IF_RIGHT}")));
        }
        let newest_at = async |at| Ok::<_, JobError>(roll_ups.progress(at).await?.and_then(|progress| progress.newest));
        // One hour's rows are there at most where all is well, and the newest of them has others right behind it.
        let Some(last) = newest_at(before).await? else { return Ok(None) };
        let gap = newest_at(last.after(self.keep.rows)).await? == Some(last);
        Ok(gap.then(|| {
            format!(
                "rows until {last} would go, and there are none for as long as rows are kept behind them; {IF_RIGHT}"
            )
        }))
    }

    async fn prune_and_expire(
        &self,
        roll_ups: &dyn RollUps,
        cx: &JobContext,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<Outcome, JobError> {
        let (mut rows, mut expired) = (0, 0);
        let mut pruned = |done: Done| {
            rows += done.rows;
            self.metrics.rows.inc_by(done.rows);
            self.metrics.late.inc_by(done.late_rows);
            rows
        };
        work(roll_ups.prune(before), cx, &mut pruned).await?;
        for (width, keep) in [(Width::FiveMinutes, self.keep.five_minutes), (Width::Hour, self.keep.hours)] {
            let mut gone = |done: Done| {
                expired += done.rows;
                self.metrics.expired.inc_by(done.rows);
                rows + expired
            };
            work(roll_ups.expire(width, before.min(now.before(keep))), cx, &mut gone).await?;
        }
        let kept = roll_ups.kept(before).await?;
        for (reason, rows) in [("time", kept.times), ("value", kept.values), ("labels", kept.labels)] {
            self.metrics.kept.with_label_values(&[reason]).set(rows as f64);
        }
        Ok(Outcome::done(rows, format!("{rows} rows moved into buckets, {expired} buckets deleted")))
    }
}

/// Why the time is not believed by what the table says.
fn silence(progress: Progress, now: Timestamp) -> Option<String> {
    let newest = progress.newest?;
    (now.since(newest) > SILENCE).then(|| format!("it is said to be {now}, and the newest row is of {newest}"))
}

impl Job for MetricRetention {
    fn name(&self) -> &'static str {
        RETAIN
    }

    fn run<'a>(&'a self, cx: &'a JobContext) -> Pending<'a, Result<Outcome, JobError>> {
        Box::pin(self.retain(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t5_a_newest_row_of_more_than_a_day_ago_is_a_reason_to_doubt() {
        let at = |text| Timestamp::from_rfc3339(text).expect("valid");
        let progress = |newest| Progress { watermark: None, newest };
        let newest = at("2026-11-22T10:00:00Z");
        assert_eq!(silence(progress(Some(newest)), at("2026-11-23T10:00:00Z")), None);
        assert!(silence(progress(Some(newest)), at("2036-11-22T10:00:00Z")).is_some());
        assert_eq!(
            silence(progress(Some(newest)), at("2026-11-22T09:00:00Z")),
            None,
            "it steps back: things look younger"
        );
        assert_eq!(silence(progress(None), newest), None, "nothing to delete");
    }
}
