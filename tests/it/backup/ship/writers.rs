//! More than one writer (H19, H20, H29).

use std::time::Duration;

use atlas_sidecar::backup::ship::{ShipError, allow_empty};
use atlas_sidecar::backup::{Kind, Position, Timeline, Want};

use super::{Machine, sound};
use crate::support::memory_store::{Fate, Fault, MemoryStore};

#[track_caller]
fn fenced(shipped: Result<atlas_sidecar::backup::ship::Shipped, ShipError>) -> String {
    match shipped {
        Err(ShipError::Fenced(words)) => words,
        other => panic!("not fenced: {other:?}"),
    }
}

/// H29: the one that came last goes on; the other one stops, says who it was, and stays stopped until somebody deletes its record.
#[tokio::test]
async fn of_two_sidecars_on_one_prefix_exactly_one_goes_on() {
    for bucket in [MemoryStore::new(), MemoryStore::ignoring_conditions()] {
        let (a, b) = (Machine::new(&bucket, "a"), Machine::new(&bucket, "b"));
        a.must_ship(Want::Full).await;
        a.must_ship(Want::Changes).await;
        let took_over = b.must_ship(Want::Changes).await.manifest;
        assert_eq!((took_over.timeline, took_over.kind, took_over.to), (Timeline(2), Kind::Full, Position(4)));
        let parent = b.catalog().await.claims[&Timeline(2)].parent.unwrap();
        assert_eq!((parent.place.timeline, parent.place.position), (Timeline(1), Position(2)));
        let (keys, reads) = (bucket.keys(), a.database.reads());
        for _ in 0..2 {
            let words = fenced(a.ship(Want::Changes).await);
            assert!(
                words.contains("`host-of-b` (installation `instance-of-b`) has claimed timeline t000002"),
                "{words}"
            );
            assert!(words.contains("a new installation") && words.contains("owner.json"), "{words}");
        }
        assert_eq!((bucket.keys(), a.database.reads()), (keys, reads), "it stopped before it read or stored anything");
        b.must_ship(Want::Changes).await;
        std::fs::remove_file(a.record()).unwrap();
        assert_eq!(a.must_ship(Want::Full).await.manifest.timeline, Timeline(3), "it was told to go on");
        fenced(b.ship(Want::Full).await);
        sound(&bucket, &[&a.database, &b.database]).await;
    }
}

/// The other one comes while a segment is on its way: it is not committed.
#[tokio::test]
async fn a_claim_during_an_upload_stops_the_commit() {
    for bucket in [MemoryStore::new(), MemoryStore::ignoring_conditions()] {
        for want in [Want::Full, Want::Changes] {
            let (a, b) = (Machine::new(&bucket, "a"), Machine::new(&bucket, "b"));
            let before = a.must_ship(Want::Full).await.manifest.place();
            a.database.write(1, 1);
            let fault = Fault::new(|_, what| if what.starts_with("put t0") { Fate::Waits } else { Fate::Done });
            let (shipper, cx) = (a.shipper(&fault), a.cx());
            let b_comes = async {
                fault.reached.notified().await;
                let shipped = b.must_ship(Want::Full).await;
                fault.gate.notify_one();
                shipped
            };
            let (shipped, others) = tokio::join!(shipper.ship(&cx, want), b_comes);
            assert!(fenced(shipped).contains("host-of-b"));
            let catalog = a.catalog().await;
            assert_eq!(catalog.tip(before.timeline).unwrap().manifest.place(), before);
            assert_eq!(catalog.entries.len() % 2, 0);
            assert!(others.manifest.to > before.position);
            bucket.keys().iter().for_each(|key| bucket.remove(key));
        }
    }
}

/// Both are new and want the same timeline at the same moment.
#[tokio::test]
async fn of_two_that_claim_at_once_one_has_it() {
    for ignores in [false, true] {
        let bucket = if ignores { MemoryStore::ignoring_conditions() } else { MemoryStore::new() };
        let (a, b) = (Machine::new(&bucket, "a"), Machine::new(&bucket, "b"));
        // A has seen an empty store, and is slow.
        let fault = Fault::new(|_, what| match what {
            "create timelines/t000001.json" => Fate::Waits,
            what if what.starts_with("put timelines/") => Fate::Waits,
            _ => Fate::Done,
        });
        let (shipper, cx) = (a.shipper(&fault), a.cx());
        let b_comes = async {
            fault.reached.notified().await;
            b.must_ship(Want::Full).await;
            fault.gate.notify_one();
        };
        let (shipped, ()) = tokio::join!(shipper.ship(&cx, Want::Full), b_comes);
        assert!(fenced(shipped).contains("host-of-b"));
        assert!(fenced(a.ship(Want::Full).await).contains("host-of-b"), "it does not try again by itself");
        b.must_ship(Want::Changes).await;
        let catalog = sound(&bucket, &[&b.database]).await;
        assert_eq!((catalog.claims.len(), catalog.entries.len()), (1, 2));
    }
}

/// A copied machine has the record, the name and the database of the first one. Whoever sees first that it is not alone begins a timeline.
#[tokio::test]
async fn a_copy_of_a_machine_is_another_writer() {
    for bucket in [MemoryStore::new(), MemoryStore::ignoring_conditions()] {
        let a = Machine::new(&bucket, "a");
        a.must_ship(Want::Full).await;
        let copy = a.copied();
        a.database.write(1, 1);
        copy.database.write(1, 2);
        assert_eq!(a.must_ship(Want::Changes).await.manifest.timeline, Timeline(1));
        let shipped = copy.must_ship(Want::Changes).await.manifest;
        assert_eq!((shipped.timeline, shipped.kind), (Timeline(2), Kind::Full));
        let reason = &copy.catalog().await.claims[&Timeline(2)].reason;
        assert!(reason.contains("put back, or copied"), "{reason}");
        fenced(a.ship(Want::Changes).await);
        copy.must_ship(Want::Changes).await;
        sound(&bucket, &[&a.database, &copy.database]).await;
    }
}

/// The copy runs its jobs in the same second, and both are at the same number: one manifest counts, and its object is the one that it names.
#[tokio::test]
async fn a_copy_in_the_same_second_is_fenced_by_the_manifest() {
    for want in [Want::Full, Want::Changes] {
        let bucket = MemoryStore::new();
        let a = Machine::new(&bucket, "a");
        a.must_ship(Want::Full).await;
        let copy = a.copied();
        a.database.write(1, 1);
        copy.database.write(1, 2);
        let fault =
            Fault::new(|_, what| if what == "create t000001/0000000002.json" { Fate::Waits } else { Fate::Done });
        let (shipper, cx) = (copy.shipper(&fault), copy.cx());
        let a_comes = async {
            fault.reached.notified().await;
            let shipped = a.ship(want).await.unwrap();
            fault.gate.notify_one();
            shipped
        };
        let (shipped, first) = tokio::join!(shipper.ship(&cx, want), a_comes);
        assert!(fenced(shipped).contains("another segment to t000001/0000000002"));
        let catalog = copy.catalog().await;
        assert_eq!(catalog.entries[&first.manifest.place()].manifest, first.manifest);
        assert_eq!(catalog.unnamed.len(), 1);
        assert_eq!(copy.must_ship(Want::Changes).await.manifest.timeline, Timeline(2));
        fenced(a.ship(Want::Changes).await);
    }
}

/// H19: the machine was put back to what it was days ago, with its state directory.
#[tokio::test]
async fn a_machine_that_was_put_back_begins_a_timeline() {
    let bucket = MemoryStore::new();
    let a = Machine::new(&bucket, "a");
    a.must_ship(Want::Full).await;
    let then = a.copied();
    a.database.write(1, 1);
    let newest = a.must_ship(Want::Changes).await.manifest;
    then.database.write(2, 2);
    let shipped = then.must_ship(Want::Changes).await.manifest;
    assert_eq!((shipped.timeline, shipped.to), (Timeline(2), Position(4)));
    let catalog = sound(&bucket, &[&a.database, &then.database]).await;
    let line: Vec<u64> = catalog.ancestry(Timeline(2)).iter().map(|e| e.manifest.to.0).collect();
    assert_eq!(line, [4, newest.to.0, 1], "what was shipped before stays reachable");
}

/// H20: the file was replaced.
#[tokio::test]
async fn a_replaced_database_begins_a_timeline() {
    let bucket = MemoryStore::new();
    let a = Machine::new(&bucket, "a");
    a.must_ship(Want::Full).await;
    a.database.replace();
    let shipped = a.must_ship(Want::Changes).await;
    assert_eq!((shipped.manifest.timeline, shipped.manifest.kind), (Timeline(2), Kind::Full));
    let claim = a.catalog().await.claims[&Timeline(2)].clone();
    assert_eq!((claim.reason.as_str(), claim.identity.as_str()), ("the file was replaced", "1:3"));
    assert_eq!(a.must_ship(Want::Changes).await.manifest.timeline, Timeline(2));
    sound(&bucket, &[&a.database]).await;
}

/// Losing the state directory costs a timeline and a full.
#[tokio::test]
async fn a_lost_state_directory_begins_a_timeline() {
    let bucket = MemoryStore::new();
    let a = Machine::new(&bucket, "a");
    a.must_ship(Want::Full).await;
    std::fs::remove_dir_all(&a.state).unwrap();
    let shipped = a.must_ship(Want::Changes).await.manifest;
    assert_eq!((shipped.timeline, shipped.kind), (Timeline(2), Kind::Full));
    std::fs::write(a.record(), "{").unwrap();
    assert_eq!(a.must_ship(Want::Changes).await.manifest.timeline, Timeline(3), "a record that nobody can read");
    sound(&bucket, &[&a.database]).await;
}

/// H30: a destination that is empty and was not before is more likely a disk that is not mounted. Where somebody emptied it, numbers go on all the same.
#[tokio::test]
async fn h30_an_emptied_destination_is_refused_and_then_begins_with_a_new_number() {
    let bucket = MemoryStore::new();
    let a = Machine::new(&bucket, "a");
    a.must_ship(Want::Full).await;
    bucket.keys().iter().for_each(|key| bucket.remove(key));
    for want in [Want::Changes, Want::Full] {
        let refused = a.ship(want).await.unwrap_err();
        assert!(refused.to_string().contains("is the disk mounted"), "{refused}");
        assert!(bucket.keys().is_empty(), "{:?}", bucket.keys());
    }
    allow_empty(&a.state).await.unwrap();
    let shipped = a.must_ship(Want::Full).await.manifest;
    assert_eq!((shipped.timeline, shipped.kind), (Timeline(2), Kind::Full));
    assert!(bucket.bytes("format").is_some());
}

/// The owner commits once more at the very moment of the claim: its number is left out.
#[tokio::test]
async fn a_new_timeline_leaves_the_number_out_that_may_be_on_its_way() {
    let bucket = MemoryStore::new();
    let (a, b) = (Machine::new(&bucket, "a"), Machine::new(&bucket, "b"));
    a.must_ship(Want::Full).await;
    // A has looked for claims and is about to create its manifest.
    let fault = Fault::new(|_, what| if what == "create t000001/0000000002.json" { Fate::Waits } else { Fate::Done });
    let (shipper, cx) = (a.shipper(&fault), a.cx());
    let b_comes = async {
        fault.reached.notified().await;
        let shipped = b.must_ship(Want::Full).await;
        fault.gate.notify_one();
        shipped
    };
    let (shipped, others) = tokio::join!(shipper.ship(&cx, Want::Full), b_comes);
    let (ours, theirs) = (shipped.unwrap().manifest.to, others.manifest.to);
    assert!(ours < theirs, "{ours} {theirs}");
    fenced(a.ship(Want::Changes).await);
    sound(&bucket, &[&a.database, &b.database]).await;
    b.clock.set(b.clock.now().after(Duration::from_secs(1)));
    b.must_ship(Want::Changes).await;
}
