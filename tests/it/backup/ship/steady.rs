//! When nothing goes wrong.

use std::time::Duration;

use atlas_sidecar::backup::catalog::Catalog;
use atlas_sidecar::backup::layout::FORMAT;
use atlas_sidecar::backup::ship::Metrics;
use atlas_sidecar::backup::{Kind, Position, Timeline, Want};
use prometheus::Registry;

use super::{Machine, sound};
use crate::support::memory_store::{Fault, MemoryStore};

#[tokio::test]
async fn a_week_of_backups_is_a_chain_with_its_papers() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    let first = machine.must_ship(Want::Changes).await;
    assert_eq!((first.manifest.kind, first.manifest.to), (Kind::Full, Position(1)));
    assert!(first.instead.unwrap().contains("no full on t000001"));
    for day in 2..5 {
        machine.database.write(day, 1);
        let shipped = machine.must_ship(Want::Changes).await;
        assert_eq!((shipped.manifest.kind, shipped.manifest.sent_pages), (Kind::Incremental, 1));
        assert_eq!(shipped.instead, None);
    }
    let idle = machine.must_ship(Want::Changes).await;
    assert_eq!((idle.manifest.object, idle.manifest.sent_pages), (None, 0), "nothing has changed");
    machine.database.resize(25);
    let grown = machine.must_ship(Want::Changes).await;
    assert_eq!((grown.manifest.pages, grown.manifest.sent_pages), (25, 6));
    machine.database.resize(15);
    machine.must_ship(Want::Changes).await;
    let full = machine.must_ship(Want::Full).await;
    assert_eq!((full.manifest.kind, full.manifest.to), (Kind::Full, Position(8)));

    let catalog = sound(&bucket, &[&machine.database]).await;
    assert_eq!((catalog.entries.len(), catalog.claims.len()), (8, 1));
    assert_eq!(catalog.unnamed, []);
    let claim = &catalog.claims[&Timeline(1)];
    assert_eq!((claim.instance.as_str(), claim.parent), ("instance-of-a", None));
    for paper in ["format", "RESTORE.md", "restore.sh", "SHA256SUMS"] {
        assert!(bucket.bytes(paper).is_some(), "{paper}");
    }
    assert!(!machine.state.join("backup/spool/segment").exists());
    assert!(!machine.state.join("backup/spool/pending.json").exists());
}

/// What is larger than a part goes up in parts, which the store checks; and the spool and the parts are bounded.
#[tokio::test]
async fn a_large_database_goes_up_in_parts() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    machine.database.resize(5_000);
    let fault = Fault::none();
    let shipped = machine.shipper(&fault).ship(&machine.cx(), Want::Full).await.unwrap();
    assert!(shipped.stored_bytes() > 2 * 8 * (1 << 20), "{}", shipped.stored_bytes());
    let parts = fault.log.lock().unwrap().iter().filter(|call| call.starts_with("part ")).count();
    assert_eq!(parts, 3);
    machine.database.write_all(0..3_000, 7);
    machine.must_ship(Want::Changes).await;
    sound(&bucket, &[&machine.database]).await;
}

/// H34, H41: marks only grow, whatever the clock does.
#[tokio::test]
async fn a_clock_that_steps_back_makes_no_older_mark() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    let first = machine.ship(Want::Full).await.unwrap().manifest.observed;
    machine.clock.set(first.before(Duration::from_secs(3600)));
    machine.database.write(1, 1);
    assert_eq!(machine.ship(Want::Changes).await.unwrap().manifest.observed, first);
    assert_eq!(machine.ship(Want::Full).await.unwrap().manifest.observed, first);
    machine.clock.set(first.after(Duration::from_secs(1)));
    assert_eq!(machine.ship(Want::Changes).await.unwrap().manifest.observed, first.after(Duration::from_secs(1)));
    sound(&bucket, &[&machine.database]).await;
}

#[tokio::test]
async fn a_source_that_does_not_know_the_tip_ships_a_full() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    machine.must_ship(Want::Full).await;
    machine.database.forget_map();
    let shipped = machine.must_ship(Want::Changes).await;
    assert_eq!((shipped.manifest.kind, shipped.manifest.timeline), (Kind::Full, Timeline(1)));
    assert!(shipped.instead.unwrap().contains("map of pages"));
    assert_eq!(machine.must_ship(Want::Changes).await.manifest.kind, Kind::Incremental);
}

/// A chain whose object somebody has deleted is not added to.
#[tokio::test]
async fn a_broken_chain_is_not_gone_on_from() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    let full = machine.must_ship(Want::Full).await;
    bucket.remove(&full.manifest.object.unwrap().key);
    let shipped = machine.must_ship(Want::Changes).await;
    assert_eq!(shipped.manifest.kind, Kind::Full);
    assert!(shipped.instead.unwrap().contains("is missing"));
}

#[tokio::test]
async fn a_preview_changes_nothing() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    let shipper = machine.shipper(&Fault::none());
    assert!(shipper.preview(Want::Full).await.unwrap().contains("new timeline in memory:bucket"));
    assert_eq!(bucket.keys(), Vec::<String>::new());
    machine.must_ship(Want::Full).await;
    let keys = bucket.keys();
    assert!(shipper.preview(Want::Changes).await.unwrap().starts_with("an increment"));
    assert_eq!(bucket.keys(), keys);
}

/// A newer layout is left alone.
#[tokio::test]
async fn a_newer_format_is_refused() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    bucket.set("format", format!("{{\"format\": {}}}", FORMAT + 1));
    assert!(machine.ship(Want::Full).await.unwrap_err().to_string().contains("use a newer atlas-sidecar"));
    assert_eq!(bucket.keys(), ["format"]);
}

#[tokio::test]
async fn what_is_measured_survives_a_restart() {
    let bucket = MemoryStore::new();
    let machine = Machine::new(&bucket, "a");
    let first = machine.must_ship(Want::Full).await.manifest.observed.seconds();
    machine.database.write(1, 1);
    let second = machine.must_ship(Want::Changes).await.manifest.observed.seconds();
    machine.database.damage(true);
    machine.ship(Want::Full).await.unwrap_err();

    let registry = Registry::new();
    Metrics::new(&registry).know(&Catalog::load(bucket.as_ref()).await.unwrap());
    let value = |name: &str| {
        let name = format!("atlas_sidecar_backup_{name}");
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        family.unwrap_or_else(|| panic!("no {name}")).get_metric()[0].get_gauge().get_value()
    };
    assert_eq!(value("restorable_from_timestamp_seconds"), first);
    assert_eq!(value("restorable_until_timestamp_seconds"), second, "a damaged full is no backup");
    assert_eq!(value("last_full_success_timestamp_seconds"), first);
    assert_eq!(value("last_incremental_success_timestamp_seconds"), second);
    assert_eq!(value("timeline"), 1.0);
}
