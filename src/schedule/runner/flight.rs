//! One run, from the claim to its record.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{LEASE, Reserved, Runner, first_line};
use crate::clock::Timestamp;
use crate::retry::Backoff;
use crate::schedule::{Flow, JobContext, JobError, Outcome};
use crate::store::{End, Ended, Reason, RunId, StoreError};
use crate::task::caught;

/// How often the lease is moved on: three times before it is over.
const RENEW: Duration = Duration::from_secs(15);

/// How much of the lease is left when an owner that cannot move it gives up: time to stop in before somebody else begins.
const MARGIN: Duration = Duration::from_secs(10);

/// How long a job that is asked to stop has until it is dropped.
const GRACE: Duration = Duration::from_secs(5);

/// Between two tries to write down how a run ended.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(2) };

/// After so many tries an end stays unwritten, and the next tick finds an open run of ours. Some ten seconds.
const TRIES: u32 = 8;

/// Runs of a job are forgotten after so long, and beyond so many.
const KEEP: Duration = Duration::from_secs(90 * 24 * 3600);
const KEEP_RUNS: u32 = 1000;

/// A believed time is written down once an hour at most: it is compared with a day.
const BELIEVE_EVERY: Duration = Duration::from_secs(3600);

/// A claim that succeeded.
pub(super) struct Begun {
    pub id: RunId,
    pub slot: Timestamp,
    pub reason: Reason,
    /// Whether somebody has said that the clock is right.
    pub vouched: bool,
}

/// A claimed run.
struct Flight {
    reserved: Reserved,
    begun: Begun,
    began: Instant,
}

impl Flight {
    /// What the job said last about how far it is.
    fn dealt_with(&self) -> u64 {
        match &*self.reserved.flow.borrow() {
            Flow::Running(progress) => progress.done,
            Flow::Over(end) => end.rows,
        }
    }
}

impl Runner {
    /// Lets a claimed run go.
    pub(super) fn fly(&self, reserved: Reserved, begun: Begun) {
        let flight = Flight { reserved, begun, began: Instant::now() };
        self.0.metrics.running(flight.reserved.name, true);
        let runner = self.clone();
        self.0.tasks.spawn("job", async move { runner.run_and_record(flight).await });
    }

    async fn run_and_record(&self, flight: Flight) {
        let name = flight.reserved.name;
        let end = self.run(&flight).await;
        let recorded = self.record(flight.begun.id, &end).await;
        if let Err(e) = &recorded {
            error!(job = name, error = %e, "the end of a run could not be written down");
        }
        tell(&flight, &end);
        if flight.begun.reason != Reason::DryRun {
            self.0.metrics.ended(name, &end);
        }
        if recorded.is_ok() && end.ended != Ended::Cancelled {
            self.tidy(name, end.at).await;
        }
        // Given back first: who hears that it is over may ask for the next one.
        let flow = flight.reserved.flow.clone();
        drop(flight);
        flow.send_replace(Flow::Over(end));
    }

    async fn run(&self, flight: &Flight) -> End {
        let name = flight.reserved.name;
        let place = self.state().places.get(name).map(|p| (std::sync::Arc::clone(&p.job), p.plan.timeout));
        let Some((job, timeout)) = place else {
            return self.end(flight, Ended::Cancelled, Outcome::skipped("the job is not configured any more"));
        };
        // Since the tick that began it, it may have jumped.
        self.watch_clock(|clock| clock.look(self.now(), Instant::now(), None));
        // A dry run shows what would go by this clock, and nothing goes.
        let trusts = flight.begun.vouched || flight.begun.reason == Reason::DryRun;
        let stop = self.0.tasks.stop_token().child_token();
        let cx = JobContext {
            clock: self.0.clock.clone(),
            stop: stop.clone(),
            deadline: flight.began + timeout,
            reason: flight.begun.reason,
            slot: flight.begun.slot,
            vouched: trusts,
            doubt: if trusts { None } else { self.state().clock.doubt() },
            flow: flight.reserved.flow.clone(),
        };
        let mut work = std::pin::pin!(caught(job.run(&cx)));
        let cause = tokio::select! {
            // In this order: a job that has heard already that it should stop does not say why.
            biased;
            () = stop.cancelled() => (Ended::Cancelled, "the sidecar was shutting down"),
            () = tokio::time::sleep_until(cx.deadline) => (Ended::TimedOut, "it took longer than its timeout"),
            () = self.hold(flight.begun.id, name) => (Ended::Cancelled, "its lease was lost"),
            done = &mut work => return self.end_of(flight, done, None),
        };
        stop.cancel();
        match tokio::time::timeout(GRACE, work).await {
            Ok(done) => self.end_of(flight, done, Some(cause)),
            Err(_) => self.end(
                flight,
                cause.0,
                Outcome::done(flight.dealt_with(), format!("{}; it did not stop and was dropped", cause.1)),
            ),
        }
    }

    /// Moves the lease on for as long as it can; comes back when it is lost.
    async fn hold(&self, id: RunId, name: &str) {
        let mut moved = Instant::now();
        loop {
            tokio::time::sleep(RENEW).await;
            let left = (LEASE - MARGIN).saturating_sub(moved.elapsed());
            let renewal = self.0.log.renew(id, self.now().after(LEASE));
            match tokio::time::timeout(left.max(Duration::from_secs(1)), renewal).await {
                Ok(Ok(true)) => moved = Instant::now(),
                Ok(Ok(false)) => return warn!(job = name, "somebody else has taken this run over"),
                Ok(Err(e)) => warn!(job = name, error = %e, "the lease of a run could not be moved on"),
                Err(_) => warn!(job = name, "the lease of a run could not be moved on in time"),
            }
            if moved.elapsed() >= LEASE - MARGIN {
                return;
            }
        }
    }

    fn end_of(
        &self,
        flight: &Flight,
        done: Result<Result<Outcome, JobError>, String>,
        cause: Option<(Ended, &str)>,
    ) -> End {
        let unfinished = |words: String| Outcome::done(flight.dealt_with(), words);
        let (ended, outcome) = match (done, cause) {
            (Ok(Ok(outcome)), _) if outcome.skipped => (Ended::Skipped, outcome),
            // Asked to stop, it was done already.
            (Ok(Ok(outcome)), _) => (Ended::Success, outcome),
            (Ok(Err(JobError::Stopped)), Some((ended, why))) => (ended, unfinished(why.to_owned())),
            (Ok(Err(JobError::Failed(why))), Some((Ended::TimedOut, words))) => {
                (Ended::TimedOut, unfinished(format!("{words}: {why}")))
            }
            (Ok(Err(e)), _) => (Ended::Failed, unfinished(e.to_string())),
            (Err(panic), _) => (Ended::Failed, unfinished(format!("it panicked: {panic}"))),
        };
        self.end(flight, ended, outcome)
    }

    fn end(&self, flight: &Flight, ended: Ended, outcome: Outcome) -> End {
        let Outcome { rows, bytes, words, .. } = outcome;
        End { at: self.now(), ended, rows, bytes, words: first_line(&words), took: flight.began.elapsed() }
    }

    /// Writes the end down; nothing where the run was somebody else's by then.
    async fn record(&self, id: RunId, end: &End) -> Result<(), StoreError> {
        let mut failures = 0;
        loop {
            match self.0.log.finish(id, end).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    warn!("the run was somebody else's when it ended");
                    return Ok(());
                }
                Err(e) if failures + 1 >= TRIES => return Err(e),
                Err(_) => failures += 1,
            }
            tokio::time::sleep(BACKOFF.wait(failures, end.at.millis().unsigned_abs())).await;
        }
    }

    /// Forgets old runs, and writes down that the clock was right; nothing of it where that is in doubt. All of it can wait for the next run.
    async fn tidy(&self, name: &str, now: Timestamp) {
        // Whether `now` is a jump ahead that no tick has seen yet.
        self.watch_clock(|clock| clock.look(now, Instant::now(), None));
        let Some(known) = self.known(name).filter(|_| self.state().clock.doubt().is_none()) else { return };
        let tidied = async {
            while self.0.log.tidy(&known, now.before(KEEP), KEEP_RUNS).await? {}
            let believed = self.0.log.believed().await?;
            if believed.is_none_or(|then| now.since(then) > BELIEVE_EVERY || then > now) {
                self.0.log.believe(now).await?;
            }
            Ok::<(), StoreError>(())
        };
        if let Err(e) = tidied.await {
            warn!(job = name, error = %e, "old runs could not be forgotten");
        }
    }
}

/// The one line that a run leaves in the log.
fn tell(flight: &Flight, end: &End) {
    let (job, slot, reason) = (flight.reserved.name, flight.begun.slot, flight.begun.reason.word());
    let End { ended, rows, bytes, words, took, .. } = end;
    let (outcome, took) = (ended.word(), format!("{took:.1?}"));
    match ended {
        Ended::Success | Ended::Skipped => {
            info!(job, %slot, reason, outcome, rows, bytes, took, words, "job ran");
        }
        _ => warn!(job, %slot, reason, outcome, rows, bytes, took, words, "job did not do its work"),
    }
}
