//! The run log's contract, on both engines.

use std::time::Duration;

use atlas_sidecar::clock::Clock;
use atlas_sidecar::store::{Claim, Claimed, End, Ended, MOST_ATTEMPTS, Open, Reason, RunId, RunLog, Standing};

use super::{OnPostgres, OnSqlite, at};

const NIGHTLY: &str = "0 3 * * * UTC";
const LEASE: Duration = Duration::from_secs(45);

fn claim<'a>(slot: &str, owner: &'a str, dead: Option<&'a Open>) -> Claim<'a> {
    let now = at(slot).after(Duration::from_secs(2));
    Claim { job: "j", slot: at(slot), reason: Reason::Schedule, owner, now, lease_until: now.after(LEASE), dead }
}

fn end(ended: Ended, at: atlas_sidecar::clock::Timestamp) -> End {
    End { at, ended, rows: 7, bytes: 9, words: "done, it says: ü'\"".to_owned(), took: Duration::from_millis(1234) }
}

async fn yours(log: &dyn RunLog, claim: Claim<'_>) -> RunId {
    match log.claim(claim).await.unwrap() {
        Claimed::Yours(id) => id,
        other => panic!("{claim:?}: {other:?}"),
    }
}

async fn contract(log: &dyn RunLog) {
    let (first, second) = ("2026-11-22T03:00:00Z", "2026-11-23T03:00:00Z");
    let now = at("2026-11-23T12:00:00Z");
    // What time it is there is the server's affair.
    let standing = async || log.standing("j", NIGHTLY, now).await.map(|all| Standing { server_time: None, ..all });
    assert_eq!(standing().await.unwrap(), Default::default());

    // A schedule, a pause and a believed time are remembered, each by its key.
    log.adopt("j", NIGHTLY, at(first)).await.unwrap();
    log.adopt("j", "0 4 * * * UTC", now).await.unwrap();
    log.adopt("k", NIGHTLY, now).await.unwrap();
    assert_eq!(standing().await.unwrap().since, Some(at(first)));
    log.pause("j", Some(now)).await.unwrap();
    assert_eq!(standing().await.unwrap().paused, Some(now));
    assert_eq!(log.standing("k", NIGHTLY, now).await.unwrap().paused, None);
    log.pause("j", None).await.unwrap();
    log.pause("j", None).await.unwrap();
    assert_eq!(standing().await.unwrap().paused, None);
    assert_eq!(log.believed().await.unwrap(), None);
    log.believe(at(first)).await.unwrap();
    log.believe(now).await.unwrap();
    assert_eq!(log.believed().await.unwrap(), Some(now));

    // One claim has the job, whatever the slot; another job is another matter.
    let id = yours(log, claim(first, "a", None)).await;
    let open = standing().await.unwrap().open.expect("it is open");
    assert_eq!((open.id, open.slot, open.owner.as_str()), (id, at(first), "a"));
    for slot in [first, second] {
        assert_eq!(log.claim(claim(slot, "b", None)).await.unwrap(), Claimed::Held(open.clone()));
    }
    let other = Claim { job: "k", ..claim(first, "b", None) };
    assert!(matches!(log.claim(other).await.unwrap(), Claimed::Yours(_)));

    // A lease that moves saves its owner from being taken for dead.
    assert!(log.renew(id, now).await.unwrap());
    let moved = standing().await.unwrap().open.unwrap();
    assert_eq!(moved.lease_until, now);
    assert_eq!(log.claim(claim(first, "b", Some(&open))).await.unwrap(), Claimed::Held(moved.clone()));

    // The dead one's run is taken over, and the dead one finds that it is.
    let taken = yours(log, claim(first, "b", Some(&moved))).await;
    assert_eq!((taken.row, taken.attempt), (id.row, 2));
    assert!(!log.renew(id, now).await.unwrap());
    let done = end(Ended::Success, now);
    assert!(!log.finish(id, &done).await.unwrap());
    assert!(log.finish(taken, &done).await.unwrap());
    assert!(!log.finish(taken, &done).await.unwrap(), "once");
    let after = standing().await.unwrap();
    assert_eq!((after.open, after.settled, after.last_success), (None, Some(at(first)), Some(now)));
    let last = after.last.unwrap();
    assert_eq!((last.slot, last.reason, &last.end), (at(first), Reason::Schedule, &done));
    assert_eq!(log.claim(claim(first, "a", None)).await.unwrap(), Claimed::Settled);

    // A cancelled slot is begun again, a few times.
    for attempt in 1..=MOST_ATTEMPTS {
        let id = yours(log, claim(second, "a", None)).await;
        assert_eq!(id.attempt, attempt);
        assert!(log.finish(id, &end(Ended::Cancelled, now)).await.unwrap());
        let settled = if attempt < MOST_ATTEMPTS { first } else { second };
        assert_eq!(standing().await.unwrap().settled, Some(at(settled)), "after attempt {attempt}");
    }
    assert_eq!(log.claim(claim(second, "a", None)).await.unwrap(), Claimed::Settled);

    // So is one whose owners die, and then it is lost.
    let third = "2026-11-23T03:30:00Z";
    let mut dead: Option<Open> = None;
    for attempt in 1..=MOST_ATTEMPTS {
        let id = yours(log, claim(third, "a", dead.as_ref())).await;
        assert_eq!(id.attempt, attempt);
        dead = standing().await.unwrap().open;
    }
    assert_eq!(log.claim(claim(third, "a", dead.as_ref())).await.unwrap(), Claimed::Settled);
    let lost = standing().await.unwrap();
    assert_eq!((lost.open, lost.settled), (None, Some(at(third))));
    assert_eq!(lost.last.unwrap().end.ended, Ended::Lost);

    // A manual run of a dead owner is not begun again: its slot is nobody's.
    let manual = Claim { reason: Reason::Manual, ..claim("2026-11-23T03:40:00.001Z", "a", None) };
    yours(log, manual).await;
    let dead = standing().await.unwrap().open;
    let fourth = yours(log, claim("2026-11-23T04:00:00Z", "b", dead.as_ref())).await;
    assert!(log.finish(fourth, &end(Ended::Failed, now)).await.unwrap());
    assert_eq!(standing().await.unwrap().last_success, Some(now), "a failure leaves it");

    // Neither manual runs nor dry ones settle a slot; dry ones are no last run either.
    for (slot, reason) in [("2026-11-23T05:00:00.001Z", Reason::Manual), ("2026-11-23T05:00:01.001Z", Reason::DryRun)] {
        let id = yours(log, Claim { reason, ..claim(slot, "a", None) }).await;
        assert!(log.finish(id, &end(Ended::Success, now.after(LEASE))).await.unwrap());
    }
    let after = standing().await.unwrap();
    assert_eq!(after.settled, Some(at("2026-11-23T04:00:00Z")));
    assert_eq!(after.last.unwrap().reason, Reason::Manual);

    // A miss is noted once, and settles. What a wrong clock left in years to come does not count now (T-5).
    let missed = at("2026-11-23T06:00:00Z");
    assert!(log.miss("j", missed, "3 slots", now).await.unwrap());
    assert!(!log.miss("j", missed, "3 slots", now).await.unwrap());
    assert!(log.miss("j", at("2036-01-01T00:00:00Z"), "100 slots", now).await.unwrap());
    assert_eq!(standing().await.unwrap().settled, Some(missed));

    // Old runs go, but never the last one and the last success.
    let runs = 5;
    for run in 0..runs {
        let slot = at("2026-11-23T07:00:00Z").after(Duration::from_secs(run * 60)).to_rfc3339();
        let id = yours(log, claim(&slot, "a", None)).await;
        assert!(log.finish(id, &end(Ended::Failed, now)).await.unwrap());
    }
    let before = standing().await.unwrap();
    while log.tidy("j", at("2026-11-22T00:00:00Z"), 3).await.unwrap() {}
    assert_eq!(standing().await.unwrap(), before, "three failures and the success");
    while log.tidy("j", at("2030-01-01T00:00:00Z"), 1000).await.unwrap() {}
    let after = standing().await.unwrap();
    assert_eq!((after.last, after.last_success, after.settled), (before.last, before.last_success, before.settled));
    let again = log.claim(claim("2026-11-23T07:00:00Z", "a", None)).await.unwrap();
    assert!(matches!(again, Claimed::Yours(_)), "it is forgotten");
}

#[tokio::test]
async fn the_run_log_keeps_its_contract_on_sqlite() {
    let on = OnSqlite::new().await;
    contract(on.log.as_ref()).await;
    assert_eq!(on.log.standing("j", NIGHTLY, at("2026-11-22T03:00:00Z")).await.unwrap().server_time, None);
    assert_eq!(on.sql("SELECT count(*) FROM sidecar_job_runs WHERE job = 'j' AND finished_at IS NOT NULL"), "2");
}

#[tokio::test]
async fn the_run_log_keeps_its_contract_on_postgresql() {
    let on = OnPostgres::new().await;
    contract(on.log.as_ref()).await;
    let said = on.log.standing("j", NIGHTLY, at("2026-11-22T03:00:00Z")).await.unwrap().server_time.unwrap();
    let now = Clock::system().now();
    assert!(now.since(said).max(said.since(now)) < Duration::from_secs(60), "{said}");
    let count =
        on.cluster.psql("one", "SELECT count(*) FROM sidecar_job_runs WHERE job = 'j' AND finished_at IS NOT NULL");
    assert_eq!(count, "2");
}

/// Ten at once, on connections of their own: one has the slot.
async fn a_race(logs: Vec<std::sync::Arc<dyn RunLog>>) {
    let mut claims = tokio::task::JoinSet::new();
    for (at, log) in logs.into_iter().enumerate() {
        claims.spawn(async move { log.claim(claim("2026-11-22T03:00:00Z", &format!("{at}"), None)).await });
    }
    let answers = claims.join_all().await.into_iter().map(Result::unwrap);
    let won = answers.filter(|answer| matches!(answer, Claimed::Yours(_))).count();
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_claims_at_once_one_wins() {
    let on = OnSqlite::new().await;
    let mut logs: Vec<std::sync::Arc<dyn RunLog>> = Vec::new();
    for _ in 0..10 {
        let database = atlas_sidecar::engine::sqlite::Database::open(on.bench.file(), false).await.unwrap();
        logs.push(std::sync::Arc::new(atlas_sidecar::engine::sqlite::runs::Runs::new(database)));
    }
    a_race(logs).await;
    let on = OnPostgres::new().await;
    let url = on.cluster.url("one");
    let mut logs: Vec<std::sync::Arc<dyn RunLog>> = Vec::new();
    for _ in 0..10 {
        let database = atlas_sidecar::engine::postgres::Database::open(&url, None).await.unwrap();
        logs.push(std::sync::Arc::new(atlas_sidecar::engine::postgres::runs::Runs::new(database)));
    }
    a_race(logs).await;
}
