//! What is not shipped, and how that is said.

use std::time::Duration;

use atlas_sidecar::backup::ship::{ShipError, allow_empty};
use atlas_sidecar::backup::{Kind, Position, SourceError, Want};
use atlas_sidecar::object::ObjectError;
use atlas_sidecar::schedule::JobContext;
use tokio_util::sync::CancellationToken;

use super::{Machine, sound};
use crate::support::memory_store::{Fate, Fault, MemoryStore};

/// H30: a folder that was not mounted looks like an empty database.
#[tokio::test]
async fn an_empty_database_ships_nothing_where_there_are_backups() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    machine.database.empty(true);
    machine.must_ship(Want::Full).await;
    let keys = bucket.keys();
    for want in [Want::Full, Want::Changes] {
        let Err(ShipError::Refused(words)) = machine.ship(want).await else { panic!("not refused") };
        assert!(words.contains("the database is empty") && words.contains("--allow-empty"), "{words}");
    }
    // Neither does another installation, which does not even claim a timeline.
    let stranger = Machine::new(&bucket, "b");
    stranger.database.empty(true);
    assert!(matches!(stranger.ship(Want::Full).await, Err(ShipError::Refused(_))));
    assert_eq!(bucket.keys(), keys);
}

/// H30
#[tokio::test]
async fn a_much_smaller_database_is_shipped_when_it_is_allowed_once() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    machine.must_ship(Want::Full).await;
    machine.database.resize(2);
    machine.must_ship(Want::Full).await;
    machine.database.resize(20);
    machine.must_ship(Want::Full).await;
    machine.database.resize(1);
    assert!(matches!(machine.ship(Want::Changes).await, Err(ShipError::Refused(_))));
    allow_empty(&machine.state).await.unwrap();
    assert!(matches!(machine.ship(Want::Changes).await, Err(ShipError::Refused(_))), "a full was allowed");
    machine.must_ship(Want::Full).await;
    machine.database.empty(true);
    assert!(matches!(machine.ship(Want::Full).await, Err(ShipError::Refused(_))), "once is once");
    sound(&bucket, &[&machine.database]).await;
}

#[tokio::test]
async fn a_damaged_database_is_stored_marked_and_no_success() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    machine.must_ship(Want::Full).await;
    machine.database.damage(true);
    let Err(ShipError::Damaged(words)) = machine.ship(Want::Full).await else { panic!("not damaged") };
    assert!(words.contains("page 3 is torn") && words.contains("integrity_check"), "{words}");
    let catalog = sound(&bucket, &[&machine.database]).await;
    assert_eq!(catalog.entries.len(), 2);
    let tip = catalog.entries.values().next_back().unwrap().manifest.place();
    assert!(catalog.cover(tip.timeline, tip.position).is_ok() && catalog.sound_chain(tip).is_err());
    assert!(matches!(machine.ship(Want::Changes).await, Err(ShipError::Damaged(_))), "no increment goes on from it");
    machine.database.damage(false);
    assert_eq!(machine.must_ship(Want::Changes).await.manifest.kind, Kind::Full);
}

#[tokio::test]
async fn a_destination_that_refuses_writes_says_so() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    let denied = || ObjectError::Denied("memory:bucket: AccessDenied".to_owned());
    for verb in ["create format", "create timelines", "put t0", "create t0"] {
        let fault =
            Fault::new(move |_, what| if what.starts_with(verb) { Fate::Refused(denied()) } else { Fate::Done });
        let e = machine.shipper(&fault).ship(&machine.cx(), Want::Full).await.unwrap_err();
        assert!(matches!(&e, ShipError::Store(ObjectError::Denied(_))), "{e:?}");
        assert_eq!(e.to_string(), "the destination: refused: memory:bucket: AccessDenied");
    }
    machine.must_ship(Want::Full).await;
    sound(&bucket, &[&machine.database]).await;
}

/// A source that fails in the middle must not leave an object that looks whole.
#[tokio::test]
async fn half_a_database_is_not_committed() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    machine.must_ship(Want::Full).await;
    machine.database.write_all(0..10, 9);
    machine.database.fail(Some(SourceError::Busy("somebody holds it".to_owned())));
    for want in [Want::Full, Want::Changes] {
        let e = machine.ship(want).await.unwrap_err();
        assert_eq!(e.to_string(), "the database: somebody holds it");
        assert!(!machine.state.join("backup/spool/segment").exists());
    }
    assert_eq!(machine.catalog().await.unnamed, []);
    machine.database.fail(None);
    assert_eq!(machine.must_ship(Want::Changes).await.manifest.to, Position(2));
    sound(&bucket, &[&machine.database]).await;
}

/// What comes back is not what was stored: nothing is committed.
#[tokio::test]
async fn a_store_that_keeps_other_bytes_is_found_out() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    let (spoilt, name) = (std::sync::Arc::clone(&bucket), "get t000001/0000000001-");
    let fault = Fault::new(move |_, what| {
        if let Some(rest) = what.strip_prefix("get ").filter(|_| what.starts_with(name)) {
            let mut bytes = spoilt.bytes(rest).unwrap().to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            spoilt.set(rest, bytes);
        }
        Fate::Done
    });
    let e = machine.shipper(&fault).ship(&machine.cx(), Want::Full).await.unwrap_err();
    assert!(matches!(&e, ShipError::Store(ObjectError::Corrupt(_))), "{e:?}");
    assert!(machine.catalog().await.entries.is_empty());
    assert_eq!(machine.must_ship(Want::Full).await.manifest.to, Position(1));
    assert_eq!(sound(&bucket, &[&machine.database]).await.unnamed.len(), 1, "what was not committed is nobody's");
}

/// Asked to stop in the middle of an upload, it throws the parts away and ends at once; an increment that is in the spool is finished by the next run.
#[tokio::test]
async fn asked_to_stop_it_ends_cleanly() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    machine.must_ship(Want::Full).await;
    machine.database.resize(5_000);
    for want in [Want::Full, Want::Changes] {
        let fault = Fault::new(|_, what| if what.starts_with("part 2") { Fate::DiesBefore } else { Fate::Done });
        let stop = CancellationToken::new();
        let cx = JobContext::alone(machine.clock.clone(), stop.clone(), Duration::from_secs(60));
        let shipper = machine.shipper(&fault);
        let stopping = async {
            fault.reached.notified().await;
            stop.cancel();
        };
        let (shipped, ()) = tokio::join!(shipper.ship(&cx, want), stopping);
        assert!(matches!(shipped, Err(ShipError::Stopped)), "{shipped:?}");
        assert!(fault.log.lock().unwrap().last().unwrap().starts_with("abort "));
        assert_eq!(machine.state.join("backup/spool/segment").exists(), want == Want::Changes);
    }
    let reads = machine.database.reads();
    let shipped = machine.must_ship(Want::Changes).await.manifest;
    assert_eq!((shipped.to, shipped.sent_pages), (Position(3), 0), "the spooled increment went first");
    assert_eq!(machine.database.reads(), reads + 1);
    sound(&bucket, &[&machine.database]).await;
}
