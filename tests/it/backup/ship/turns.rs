//! Backups and upkeep at one database, through the scheduler: they take turns.

use std::sync::Arc;
use std::time::Duration;

use atlas_sidecar::backup::Want;
use atlas_sidecar::backup::follow::{self, Follower};
use atlas_sidecar::engine::sqlite::runs::Runs;
use atlas_sidecar::jobs::back_up::{BackUp, FULL, Turn};
use atlas_sidecar::jobs::upkeep::{self, DatabaseUpkeep, UPKEEP};
use atlas_sidecar::schedule::cron::{CatchUp, Schedule};
use atlas_sidecar::schedule::runner::{Me, Plan, Planned, Runner};
use atlas_sidecar::schedule::window::Window;
use atlas_sidecar::schedule::{Flow, Job};
use atlas_sidecar::store::{End, Ended, Wear};
use prometheus::Registry;
use tokio::sync::watch;

use super::{Machine, sound};
use crate::store::{Bench, SCHEMA};
use crate::support::memory_store::{Fate, Fault, MemoryStore};

const RUNS: &str = include_str!("../../../../migrations/sqlite/0003_job_runs.sql");

async fn over(mut flow: watch::Receiver<Flow>) -> End {
    match flow.wait_for(|flow| matches!(flow, Flow::Over(_))).await.unwrap().clone() {
        Flow::Over(end) => end,
        Flow::Running(_) => unreachable!(),
    }
}

/// Upkeep rewrites what a backup reads: it does not begin while one runs, and a backup waits for it to end.
#[tokio::test]
async fn upkeep_is_put_off_while_a_backup_runs_and_a_backup_waits_for_its_turn() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    let fault = Fault::new(|_, what| match what.starts_with("create t000001/") {
        true => Fate::Waits,
        false => Fate::Done,
    });
    let bench = Bench::with(&format!("{SCHEMA}{RUNS}")).await;
    let (registry, turn) = (Registry::new(), Turn::default());
    let me = Me { owner: "a".to_owned(), host: "h".to_owned() };
    let runner = Runner::new(Arc::new(Runs::new(bench.database.clone())), me, machine.clock.clone(), &registry);
    let settings = upkeep::Settings {
        window: Window::parse("00:00-23:59").unwrap(),
        quiet_transactions: 10,
        quiet_host_percent: 70,
        wear: Wear { unused_percent: 30 },
    };
    let metrics = Arc::new(upkeep::Metrics::new(&registry));
    let follower = Follower::new(follow::Parts {
        shipper: Arc::new(machine.shipper(&fault)),
        settings: follow::Settings { interval: None, convert_to_wal: false, log_max: 0, spool_max: 0 },
        pace: follow::Pace::default(),
        weave: None,
        identity_file: None,
        metrics: Arc::new(follow::Metrics::new(&registry)),
    });
    let jobs: [Arc<dyn Job>; 2] = [
        Arc::new(BackUp::full(Arc::new(follower), turn.clone())),
        Arc::new(DatabaseUpkeep::new(Vec::new(), settings, "UTC", turn.clone(), metrics)),
    ];
    let plan = Plan {
        schedule: Schedule::parse("15 1 * * SUN", "UTC").unwrap(),
        enabled: true,
        timeout: Duration::from_secs(600),
        catch_up: CatchUp::RunOnce,
    };
    runner.set_jobs(jobs.map(|job| Planned { job, plan: plan.clone() }).into());

    let full = runner.run_now(FULL, false).await.unwrap();
    fault.reached.notified().await;
    let end = over(runner.run_now(UPKEEP, false).await.unwrap()).await;
    assert_eq!((end.ended, end.words.as_str()), (Ended::Skipped, "a backup is running"));
    fault.gate.notify_one();
    assert_eq!(over(full).await.ended, Ended::Success);
    let end = over(runner.run_now(UPKEEP, false).await.unwrap()).await;
    assert_eq!(end.ended, Ended::Success, "{end:?}");

    // As upkeep has it while it works.
    let working = turn.try_take().unwrap();
    let asked = fault.calls();
    let full = runner.run_now(FULL, false).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(fault.calls(), asked, "nothing is asked of the store yet");
    drop(working);
    fault.reached.notified().await;
    fault.gate.notify_one();
    assert_eq!(over(full).await.ended, Ended::Success);
    let catalog = sound(&bucket, &[&machine.database]).await;
    assert_eq!(catalog.entries.len(), 2);
    assert!(machine.ship(Want::Changes).await.is_ok());
}
