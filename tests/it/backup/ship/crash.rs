//! Crashes at every side effect, and answers that are lost (H31).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use atlas_sidecar::backup::{Kind, Position, Want};

use super::{Machine, sound};
use crate::support::memory_store::{Fate, Fault, MemoryStore};

/// A machine that is about to ship: its first full, another one, or an increment.
async fn prepared(bucket: &Arc<MemoryStore>, first: bool) -> Machine {
    let machine = Machine::new(bucket, "a");
    if !first {
        machine.must_ship(Want::Full).await;
        machine.database.write(1, 1);
    }
    machine
}

const SHIPMENTS: [(bool, Want); 3] = [(true, Want::Full), (false, Want::Full), (false, Want::Changes)];

/// After whatever happened: the old or the new state is there, and the next backups succeed on the same timeline.
async fn goes_on(bucket: &Arc<MemoryStore>, machine: &Machine, first: bool, context: &str) {
    let before = usize::from(!first);
    let catalog = sound(bucket, &[&machine.database]).await;
    let committed = catalog.entries.len();
    assert!((before..=before + 1).contains(&committed), "{context}: {committed}");
    machine.database.write(2, 2);
    let shipped = machine.ship(Want::Changes).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(shipped.manifest.digest_after, machine.database.digest(), "{context}");
    let catalog = sound(bucket, &[&machine.database]).await;
    assert_eq!(catalog.claims.len(), 1, "{context}: no timeline was lost");
    // What was pending, if anything, and this one.
    assert!((committed + 1..=committed + 2).contains(&catalog.entries.len()), "{context}");
    assert!(catalog.entries.len() <= before + 2, "{context}: nothing is doubled");
    machine.database.write(3, 3);
    let shipped = machine.ship(Want::Changes).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!((shipped.manifest.kind, shipped.manifest.sent_pages), (Kind::Incremental, 1), "{context}");
    assert!(!machine.state.join("backup/spool/segment").exists(), "{context}");
    sound(bucket, &[&machine.database]).await;
}

#[tokio::test]
async fn a_crash_at_any_side_effect_leaves_the_old_or_the_new_state() {
    for new_store in [MemoryStore::new as fn() -> Arc<MemoryStore>, MemoryStore::ignoring_conditions] {
        for (first, want) in SHIPMENTS {
            let bucket = new_store();
            let machine = prepared(&bucket, first).await;
            let fault = Fault::none();
            machine.shipper(&fault).ship(&machine.cx(), want).await.unwrap();
            let effects = fault.calls();
            assert!(effects > 12, "{:?}", fault.log.lock().unwrap());
            for at in 1..=effects {
                for fate in [Fate::DiesBefore, Fate::DiesAfter] {
                    let bucket = new_store();
                    let machine = prepared(&bucket, first).await;
                    let dies = fate.clone();
                    let fault = Fault::new(move |number, _| if number == at { dies.clone() } else { Fate::Done });
                    let (shipper, cx) = (machine.shipper(&fault), machine.cx());
                    tokio::select! {
                        done = shipper.ship(&cx, want) => panic!("it did not die: {done:?}"),
                        () = fault.reached.notified() => {}
                    }
                    let last = fault.log.lock().unwrap().last().cloned();
                    goes_on(&bucket, &machine, first, &format!("{want:?}, {fate:?} {at}: {last:?}")).await;
                }
            }
        }
    }
}

/// A future that is dropped when it has been polled so often: between any two steps, those on files included.
struct Polled<F> {
    work: Pin<Box<F>>,
    left: usize,
}

impl<F: Future> Future for Polled<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.work.as_mut().poll(cx).map(Some)
    }
}

/// Crashes between steps that no store sees: writing the record, the spool, what is pending.
#[test]
fn a_crash_between_any_two_steps_leaves_the_old_or_the_new_state() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (first, want) in SHIPMENTS {
        for polls in 1.. {
            let bucket = MemoryStore::new();
            let machine = runtime().block_on(prepared(&bucket, first));
            let (shipper, cx) = (machine.shipper(&Fault::none()), machine.cx());
            // The runtime goes with the process: when it is gone, so is what still wrote a file.
            let ended = runtime().block_on(Polled { work: Box::pin(shipper.ship(&cx, want)), left: polls });
            if let Some(shipped) = ended {
                shipped.unwrap();
                assert!(polls > 10, "{polls}");
                break;
            }
            runtime().block_on(goes_on(&bucket, &machine, first, &format!("{want:?} after {polls} polls")));
        }
    }
}

/// Whatever is asked, it is done and the answer is lost: either the backup notices, or the next one does.
#[tokio::test]
async fn a_lost_answer_is_no_second_backup() {
    for (first, want) in SHIPMENTS {
        let bucket = MemoryStore::new();
        let machine = prepared(&bucket, first).await;
        let fault = Fault::none();
        machine.shipper(&fault).ship(&machine.cx(), want).await.unwrap();
        for at in 1..=fault.calls() {
            let bucket = MemoryStore::new();
            let machine = prepared(&bucket, first).await;
            let fault = Fault::new(move |number, _| if number == at { Fate::Unanswered } else { Fate::Done });
            let shipped = machine.shipper(&fault).ship(&machine.cx(), want).await;
            let call = fault.log.lock().unwrap()[at - 1].clone();
            // What is committed is looked for; the probe is the store's own, and patient where it is not tested.
            if call.starts_with("create ") && !call.contains("probe-") {
                assert!(shipped.is_ok(), "{call}: {shipped:?}");
            }
            if shipped.is_err() {
                goes_on(&bucket, &machine, first, &format!("{want:?} {call}")).await;
            } else {
                let catalog = sound(&bucket, &[&machine.database]).await;
                assert_eq!(catalog.entries.len(), usize::from(!first) + 1);
            }
        }
    }
}

/// A retry stores identical bytes under the identical key.
#[tokio::test]
async fn a_spooled_increment_is_stored_again_to_the_byte() {
    let bucket = MemoryStore::new();
    let machine = prepared(&bucket, false).await;
    let fault = Fault::new(|_, what| if what.starts_with("create t0") { Fate::DiesBefore } else { Fate::Done });
    let (shipper, cx) = (machine.shipper(&fault), machine.cx());
    tokio::select! {
        _ = shipper.ship(&cx, Want::Changes) => panic!("it did not die"),
        () = fault.reached.notified() => {}
    }
    let key = bucket.keys().into_iter().find(|key| key.contains("incremental")).unwrap();
    let stored = bucket.bytes(&key).unwrap();
    assert_eq!(std::fs::read(machine.state.join("backup/spool/segment")).unwrap(), stored);
    bucket.remove(&key);
    machine.ship(Want::Changes).await.unwrap();
    assert_eq!(bucket.bytes(&key).unwrap(), stored);
    let catalog = sound(&bucket, &[&machine.database]).await;
    assert_eq!(catalog.entries.keys().map(|p| p.position).collect::<Vec<_>>(), [1, 2, 3].map(Position));
}

/// A spool that somebody damaged is thrown away, not stored.
#[tokio::test]
async fn a_damaged_spool_is_cut_anew() {
    let bucket = MemoryStore::new();
    let machine = prepared(&bucket, false).await;
    let fault = Fault::new(|_, what| if what.starts_with("put t0") { Fate::DiesBefore } else { Fate::Done });
    let (shipper, cx) = (machine.shipper(&fault), machine.cx());
    tokio::select! {
        _ = shipper.ship(&cx, Want::Changes) => panic!("it did not die"),
        () = fault.reached.notified() => {}
    }
    std::fs::write(machine.state.join("backup/spool/segment"), "something else").unwrap();
    let shipped = machine.ship(Want::Changes).await.unwrap();
    assert_eq!((shipped.manifest.kind, shipped.manifest.to), (Kind::Incremental, Position(2)));
    sound(&bucket, &[&machine.database]).await;
}
