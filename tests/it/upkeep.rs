//! `upkeep` on both engines: when it runs, what it does, and who is not kept waiting meanwhile. The oracles are the engines' own shells.

mod postgres;
mod sqlite;

use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::jobs::back_up::Turn;
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
        quiet_transactions: 6,
        quiet_host_percent: 100_000,
        wear: Wear { unused_percent: 30 },
    }
}

/// A runner with nothing but this job.
struct Desk {
    runner: Runner,
    clock: Clock,
    registry: Registry,
}

impl Desk {
    fn new(log: Arc<dyn RunLog>, upkeep: Arc<dyn Upkeep>, timeout: Duration) -> Self {
        let registry = Registry::new();
        let clock = Clock::by_hand(Timestamp::from_rfc3339("2026-11-22T00:30:00Z").unwrap());
        let me = Me { owner: "me".to_owned(), host: "h".to_owned() };
        let runner = Runner::new(log, me, clock.clone(), &Registry::new());
        let job = Arc::new(DatabaseUpkeep::new(
            vec![upkeep],
            settings(),
            "UTC",
            Turn::default(),
            Metrics::new(&registry).into(),
        ));
        let plan = Plan {
            schedule: Schedule::parse("0 * * * *", "UTC").unwrap(),
            enabled: true,
            timeout,
            catch_up: CatchUp::Skip,
        };
        runner.set_jobs(vec![Planned { job, plan }]);
        Self { runner, clock, registry }
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

    /// Its schedule says so, at `slot`.
    async fn scheduled(&self, slot: &str) -> End {
        let slot = Timestamp::from_rfc3339(slot).unwrap();
        self.clock.set(slot.before(Duration::from_secs(30)));
        self.runner.tick(Beat::Wake).await;
        // Behind its jitter.
        self.clock.set(slot.after(Duration::from_secs(11)));
        self.runner.tick(Beat::Wake).await;
        let since = Instant::now();
        while self.runner.list().await.unwrap()[0].running {
            assert!(since.elapsed() < Duration::from_secs(60), "it runs on");
            // Each look is a transaction, and upkeep counts them.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let run = self.runner.list().await.unwrap().remove(0).standing.last.unwrap();
        assert_eq!(run.slot, slot);
        run.end
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
