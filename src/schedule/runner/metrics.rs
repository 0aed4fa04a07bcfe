//! What the scheduler measures of itself and of each job. Last success, duration and pauses come back from the run log after a restart.

use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGauge, Registry};

use crate::clock::Timestamp;
use crate::sample::{Desc, Kind};
use crate::schedule::trigger::Beat;
use crate::store::{End, Ended, Standing};
use crate::telemetry;

const TICK: Desc = Desc {
    name: "atlas_sidecar_scheduler_last_tick_timestamp_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "When the scheduler last looked what is due; more than two minutes ago means that no job runs any more.",
};
const TICKS: Desc = Desc {
    name: "atlas_sidecar_scheduler_ticks_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Looks at what is due, by what caused them; a growing `watchdog` means that the metronome is silent, as after a clock that was set back.",
};
const DOUBT: Desc = Desc {
    name: "atlas_sidecar_clock_doubtful",
    kind: Kind::Gauge,
    unit: "1",
    help: "1 while the clock is not believed: it jumped ahead by more than a day, or is as far ahead of the database server's. Nothing is deleted by age. Put it right, or say that it is (`jobs run NAME --clock-is-right`).",
};
const SUCCESS: Desc = Desc {
    name: "atlas_sidecar_job_last_success_timestamp_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "When the job last did its work, over restarts; alert where this is older than a few of its intervals.",
};
const FAILED: Desc = Desc {
    name: "atlas_sidecar_job_last_run_failed",
    kind: Kind::Gauge,
    unit: "1",
    help: "1 if the job's last run failed, took too long or was lost with its sidecar, over restarts; the next run that ends well makes it 0. See `jobs list` and the log for why.",
};
const DURATION: Desc = Desc {
    name: "atlas_sidecar_job_last_duration_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "What the last run took; compare it with the job's timeout.",
};
const RUNNING: Desc = Desc {
    name: "atlas_sidecar_job_running",
    kind: Kind::Gauge,
    unit: "1",
    help: "1 while the job runs in this sidecar.",
};
const NEXT: Desc = Desc {
    name: "atlas_sidecar_job_next_run_timestamp_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "When the schedule wants the next run; absent while the job is paused or not enabled.",
};
const PAUSED: Desc = Desc {
    name: "atlas_sidecar_job_paused",
    kind: Kind::Gauge,
    unit: "1",
    help: "1 while somebody keeps the job from running (`jobs pause`); `jobs resume` ends it.",
};
const MISSED: Desc = Desc {
    name: "atlas_sidecar_job_missed_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Slots without a run of their own, because nobody was there or the run before took too long; counted up to 100 at a time.",
};
const RUNS: Desc = Desc {
    name: "atlas_sidecar_job_runs_total",
    kind: Kind::Counter,
    unit: "1",
    help: "Runs by how they ended; `failed` and `timeout` say to look at the log.",
};
const ROWS: Desc = Desc {
    name: "atlas_sidecar_job_rows_total",
    kind: Kind::Counter,
    unit: "rows",
    help: "Rows that the job's runs dealt with.",
};

/// What this module measures of itself.
pub const METRICS: &[&Desc] =
    &[&TICK, &TICKS, &DOUBT, &SUCCESS, &FAILED, &DURATION, &RUNNING, &NEXT, &PAUSED, &MISSED, &RUNS, &ROWS];

pub(super) struct Metrics {
    tick: Gauge,
    ticks: IntCounterVec,
    doubt: IntGauge,
    success: GaugeVec,
    failed: GaugeVec,
    duration: GaugeVec,
    running: GaugeVec,
    next: GaugeVec,
    paused: GaugeVec,
    missed: IntCounterVec,
    runs: IntCounterVec,
    rows: IntCounterVec,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauges = |desc| telemetry::gauges(registry, desc, &["job"]);
        Self {
            tick: telemetry::gauge(registry, &TICK),
            ticks: telemetry::counters(registry, &TICKS, &["cause"]),
            doubt: telemetry::int_gauge(registry, &DOUBT),
            success: gauges(&SUCCESS),
            failed: gauges(&FAILED),
            duration: gauges(&DURATION),
            running: gauges(&RUNNING),
            next: gauges(&NEXT),
            paused: gauges(&PAUSED),
            missed: telemetry::counters(registry, &MISSED, &["job"]),
            runs: telemetry::counters(registry, &RUNS, &["job", "outcome"]),
            rows: telemetry::counters(registry, &ROWS, &["job"]),
        }
    }

    pub(super) fn tick(&self, beat: Beat, now: Timestamp) {
        self.tick.set(now.seconds());
        self.ticks.with_label_values(&[beat.word()]).inc();
    }

    pub(super) fn doubt(&self, doubt: bool) {
        self.doubt.set(i64::from(doubt));
    }

    pub(super) fn running(&self, job: &str, running: bool) {
        self.running.with_label_values(&[job]).set(f64::from(u8::from(running)));
    }

    pub(super) fn missed(&self, job: &str, slots: usize) {
        self.missed.with_label_values(&[job]).inc_by(slots as u64);
    }

    /// What the log knows, which another sidecar may have written.
    pub(super) fn standing(&self, job: &str, standing: &Standing) {
        if let Some(success) = standing.last_success {
            self.success.with_label_values(&[job]).set(success.seconds());
        }
        if let Some(last) = &standing.last {
            self.duration.with_label_values(&[job]).set(last.end.took.as_secs_f64());
            self.how(job, last.end.ended);
        }
        self.paused(job, standing.paused.is_some());
        // There from the start, so that the first one is an increase.
        self.missed(job, 0);
        self.rows.with_label_values(&[job]).inc_by(0);
        for ended in [Ended::Success, Ended::Failed, Ended::TimedOut] {
            self.runs.with_label_values(&[job, ended.word()]).inc_by(0);
        }
    }

    pub(super) fn next(&self, job: &str, next: Option<Timestamp>) {
        match next {
            Some(next) => self.next.with_label_values(&[job]).set(next.seconds()),
            // Absent already is as good.
            None => drop(self.next.remove_label_values(&[job])),
        }
    }

    pub(super) fn paused(&self, job: &str, paused: bool) {
        self.paused.with_label_values(&[job]).set(f64::from(u8::from(paused)));
        if paused {
            self.next(job, None);
        }
    }

    pub(super) fn ended(&self, job: &str, end: &End) {
        self.runs.with_label_values(&[job, end.ended.word()]).inc();
        self.rows.with_label_values(&[job]).inc_by(end.rows);
        self.duration.with_label_values(&[job]).set(end.took.as_secs_f64());
        self.how(job, end.ended);
        if end.ended == Ended::Success {
            self.success.with_label_values(&[job]).set(end.at.seconds());
        }
    }

    fn how(&self, job: &str, ended: Ended) {
        let failed = match ended {
            Ended::Success | Ended::Skipped => 0.0,
            Ended::Failed | Ended::TimedOut | Ended::Lost => 1.0,
            // Not the job's doing: what the run before came to still holds.
            Ended::Cancelled | Ended::Missed => return,
        };
        self.failed.with_label_values(&[job]).set(failed);
    }

    /// Of a job that is not configured any more.
    pub(super) fn forget(&self, job: &str) {
        for gauges in [&self.success, &self.failed, &self.duration, &self.running, &self.next, &self.paused] {
            // Absent already is as good.
            let _ = gauges.remove_label_values(&[job]);
        }
    }
}
