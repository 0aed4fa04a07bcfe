//! `upkeep` on both engines: when it runs, what it does, and who is not kept waiting meanwhile. The oracles are the engines' own shells.

mod postgres;
mod sqlite;

use std::sync::Arc;
use std::time::Duration;

use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::jobs::upkeep::{DatabaseUpkeep, Metrics, Settings};
use atlas_sidecar::schedule::Flow;
use atlas_sidecar::schedule::cron::{CatchUp, Schedule};
use atlas_sidecar::schedule::runner::{Me, Plan, Planned, Runner};
use atlas_sidecar::schedule::trigger::Beat;
use atlas_sidecar::schedule::window::Window;
use atlas_sidecar::store::{End, RunLog, Upkeep, Wear};
use prometheus::Registry;

use crate::support::wait_for;

const NIGHT: &str = "2026-11-22T03:00:00Z";
const DAY: &str = "2026-11-22T12:00:00Z";

/// On a machine that runs tests nothing is quiet but what the test says.
fn settings() -> Settings {
    Settings {
        window: Window::parse("02:00-05:00").unwrap(),
        quiet_transactions: 10,
        quiet_host_percent: 100_000,
        wear: Wear { unused_percent: 30 },
    }
}

/// A runner with nothing but this job.
struct Desk {
    runner: Runner,
    clock: Clock,
    log: Arc<dyn RunLog>,
    registry: Registry,
}

impl Desk {
    fn new(log: Arc<dyn RunLog>, upkeep: Arc<dyn Upkeep>, timeout: Duration) -> Self {
        let registry = Registry::new();
        let clock = Clock::by_hand(Timestamp::from_rfc3339(NIGHT).unwrap());
        let me = Me { owner: "me".to_owned(), host: "h".to_owned() };
        let runner = Runner::new(Arc::clone(&log), me, clock.clone(), &Registry::new());
        let job = Arc::new(DatabaseUpkeep::new(vec![upkeep], settings(), "UTC", Metrics::new(&registry).into()));
        let plan = Plan {
            schedule: Schedule::parse("* * * * *", "UTC").unwrap(),
            enabled: true,
            timeout,
            catch_up: CatchUp::Skip,
        };
        runner.set_jobs(vec![Planned { job, plan }]);
        Self { runner, clock, log, registry }
    }

    /// Somebody asks for it.
    async fn by_hand(&self, dry_run: bool) -> End {
        // Two that are asked for in one millisecond would be one.
        self.clock.set(self.clock.now().after(Duration::from_secs(1)));
        let mut flow = self.runner.run_now("upkeep", dry_run).await.unwrap();
        let over = flow.wait_for(|flow| matches!(flow, Flow::Over(_))).await.unwrap().clone();
        let Flow::Over(end) = over else { panic!("it is over") };
        end
    }

    /// Its schedule says so, at `now`.
    async fn scheduled(&self, now: &str) -> End {
        let now = Timestamp::from_rfc3339(now).unwrap();
        self.clock.set(now.before(Duration::from_secs(30)));
        self.runner.tick(Beat::Wake).await;
        self.clock.set(now);
        for _ in 0..600 {
            // A slot has its jitter; the clock goes on until it is over.
            self.runner.tick(Beat::Wake).await;
            self.clock.set(self.clock.now().after(Duration::from_millis(100)));
            let standing = self.log.standing("upkeep", "* * * * * UTC", now).await.unwrap();
            if let Some(run) = standing.last.filter(|run| run.slot == now) {
                return run.end;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it did not end in a minute")
    }

    /// The value of a counter.
    fn counted(&self, name: &str, labels: &[&str]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        family
            .get_metric()
            .iter()
            .filter(|metric| labels.iter().all(|label| metric.get_label().iter().any(|pair| pair.value() == *label)))
            .map(|metric| metric.get_counter().get_value())
            .sum()
    }
}

/// Polls until `what` gives `true`.
fn until(about: &str, mut what: impl FnMut() -> bool) {
    wait_for(about, Duration::from_secs(30), || what().then_some(()));
}
