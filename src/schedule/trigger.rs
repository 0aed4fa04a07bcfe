//! What wakes the runner: the metronome, and a watchdog for when it falls silent. The only file that knows tokio-cron-scheduler.
//!
//! The metronome is one cron entry in UTC, at the start of every minute, whose closure does nothing but leave a mark. Not one entry per job: what is due
//! is computed anew at each beat, so an entry per job would only say the same in another place, with that crate's zones, which freeze (S-2), and
//! its two readings of a pattern (S-4). No repeated entries, which die for good after a stall (S-6).
//!
//! It tells the time by the wall clock and is silent until that has caught up where it was set back (T-5), and its listeners end for good when they
//! lag (S-7). So the runner does not depend on it: where no beat has come three seconds after the minute, by the monotonic clock, the watchdog
//! gives one. A beat too many does no harm.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;
use tracing::{error, warn};

use super::runner::Runner;
use crate::task::caught;

/// The metronome's pattern, with seconds as that crate wants it.
const EVERY_MINUTE: &str = "0 * * * * *";

const MINUTE: Duration = Duration::from_secs(60);

/// How late a beat may be; the crate's own loop is up to 507 ms late (S-1).
const LATE: Duration = Duration::from_secs(3);

/// What gave a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The metronome.
    Metronome,
    /// The watchdog, because the metronome was silent.
    Watchdog,
    /// Something happened, or comes up before the next minute.
    Wake,
}

impl Beat {
    /// Its word in the metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Metronome => "metronome",
            Self::Watchdog => "watchdog",
            Self::Wake => "wake",
        }
    }
}

/// Ticks `runner` until `stop`, then ends the metronome. Running jobs are the runner's to drain.
pub async fn run(runner: Runner, stop: CancellationToken) {
    let (strike, mut strikes) = mpsc::channel(1);
    // Its own lines are no lines of ours.
    let mut metronome = match metronome(strike).with_subscriber(NoSubscriber::default()).await {
        Ok(metronome) => Some(metronome),
        Err(e) => {
            warn!(error = %e, "the metronome does not start, the watchdog stands in for it");
            None
        }
    };
    let mut beat = Beat::Wake;
    while !stop.is_cancelled() {
        let wake = match caught(runner.tick(beat)).await {
            Ok(wake) => wake,
            Err(panic) => {
                error!(panic, "the scheduler panicked, it goes on");
                MINUTE
            }
        };
        let late = until_late(runner.now().millis());
        beat = tokio::select! {
            () = stop.cancelled() => break,
            Some(()) = strikes.recv() => Beat::Metronome,
            () = tokio::time::sleep(late) => Beat::Watchdog,
            () = tokio::time::sleep(wake) => Beat::Wake,
            () = runner.woken() => Beat::Wake,
        };
    }
    if let Some(metronome) = &mut metronome
        && let Err(e) = metronome.shutdown().with_subscriber(NoSubscriber::default()).await
    {
        warn!(error = %e, "the metronome does not end");
    }
}

/// How long until a beat of the next minute is late.
fn until_late(millis: i64) -> Duration {
    let minute = MINUTE.as_millis() as i64;
    Duration::from_millis((minute - millis.rem_euclid(minute)).unsigned_abs()) + LATE
}

async fn metronome(strike: mpsc::Sender<()>) -> Result<JobScheduler, JobSchedulerError> {
    let mut scheduler = JobScheduler::new().await?;
    scheduler.init().await?;
    let entry = Job::new_async(EVERY_MINUTE, move |_, _| {
        // A mark that is there already says the same.
        let _ = strike.try_send(());
        Box::pin(async {})
    })?;
    scheduler.add(entry).await?;
    scheduler.start().await?;
    Ok(scheduler)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_is_late_three_seconds_after_the_minute() {
        assert_eq!(until_late(0), Duration::from_secs(63));
        assert_eq!(until_late(59_999), Duration::from_millis(3001));
        assert_eq!(until_late(-1), Duration::from_millis(3001));
    }
}
