//! Shipping, against a store in memory and a database of pages in memory: what is there after crashes, lost answers and other writers.

mod crash;
pub(super) mod pages;
mod refused;
mod steady;
mod turns;
mod writers;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atlas_sidecar::backup::catalog::Catalog;
use atlas_sidecar::backup::claim::Writer;
use atlas_sidecar::backup::codec::Form;
use atlas_sidecar::backup::manifest::{Codec, Sum};
use atlas_sidecar::backup::ship::{Metrics, Parts, Settings, ShipError, Shipped, Shipper};
use atlas_sidecar::backup::{Kind, Source, Want};
use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::object::ObjectStore;
use atlas_sidecar::schedule::JobContext;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use self::pages::{Database, PageSource};
use crate::support::memory_store::{Fault, FaultyStore, MemoryStore};

/// A machine with a database, a state directory and an account at a bucket.
pub(super) struct Machine {
    pub(super) bucket: Arc<MemoryStore>,
    pub(super) database: Arc<Database>,
    pub(super) state: PathBuf,
    pub(super) clock: Clock,
    pub(super) instance: String,
    pub(super) host: String,
    _scratch: Arc<tempfile::TempDir>,
}

impl Machine {
    pub(super) fn new(bucket: &Arc<MemoryStore>, name: &str) -> Self {
        let scratch = Arc::new(tempfile::tempdir().unwrap());
        let clock = Clock::by_hand(Timestamp::from_rfc3339("2026-11-23T02:15:00Z").unwrap());
        Self {
            bucket: Arc::clone(bucket),
            database: Database::new(&clock),
            state: scratch.path().join("state"),
            clock,
            instance: format!("instance-of-{name}"),
            host: format!("host-of-{name}"),
            _scratch: scratch,
        }
    }

    /// The same machine once more, to the byte: its state directory and its database.
    pub(super) fn copied(&self) -> Self {
        let copy = Self::new(&self.bucket, "nobody");
        let from = self.state.join("backup");
        std::fs::create_dir_all(copy.state.join("backup/spool")).unwrap();
        for file in ["owner.json", "spool/pending.json", "spool/segment"] {
            let _ = std::fs::copy(from.join(file), copy.state.join("backup").join(file));
        }
        copy.clock.set(self.clock.now());
        let database = self.database.copied(&copy.clock);
        Self { database, instance: self.instance.clone(), host: self.host.clone(), ..copy }
    }

    fn shipper(&self, fault: &Arc<Fault>) -> Shipper {
        self.shipper_of(Arc::new(self.source(fault)), fault)
    }

    pub(super) fn source(&self, fault: &Arc<Fault>) -> PageSource {
        PageSource { database: Arc::clone(&self.database), fault: Arc::clone(fault) }
    }

    pub(super) fn shipper_of(&self, source: Arc<dyn Source>, fault: &Arc<Fault>) -> Shipper {
        let inner = Arc::clone(&self.bucket);
        let store = Arc::new(FaultyStore { inner, fault: Arc::clone(fault) });
        let codec = Form { codec: Codec::Gzip, recipients: Vec::new() };
        Shipper::new(Parts {
            source,
            store: store as Arc<dyn ObjectStore>,
            settings: Settings {
                state_directory: self.state.clone(),
                form: codec,
                threads: 1,
                claim_wait: Duration::from_millis(1),
            },
            writer: Writer { host: self.host.clone(), instance: self.instance.clone() },
            clock: self.clock.clone(),
            metrics: Arc::new(Metrics::new(&Registry::new())),
        })
    }

    pub(super) fn cx(&self) -> JobContext {
        JobContext::alone(self.clock.clone(), CancellationToken::new(), Duration::from_secs(60))
    }

    /// Ships once, as a process that has just started.
    async fn ship(&self, want: Want) -> Result<Shipped, ShipError> {
        self.shipper(&Fault::none()).ship(&self.cx(), want).await
    }

    /// Ships, and a day goes by.
    async fn must_ship(&self, want: Want) -> Shipped {
        let shipped = self.ship(want).await.unwrap();
        self.clock.set(self.clock.now().after(Duration::from_secs(86_400)));
        shipped
    }

    pub(super) async fn catalog(&self) -> Catalog {
        Catalog::load(self.bucket.as_ref()).await.unwrap()
    }

    pub(super) fn record(&self) -> PathBuf {
        self.state.join("backup/owner.json")
    }
}

/// Everything that must hold of a bucket whatever happened: each segment restores to the state that its manifest tells, which is one that the database
/// had; marks do not go back; the manifests are chained; no number is used twice.
async fn sound(bucket: &MemoryStore, databases: &[&Database]) -> Catalog {
    let catalog = Catalog::load(bucket).await.unwrap();
    assert_eq!(catalog.unreadable, []);
    for (place, entry) in &catalog.entries {
        let chain = catalog.cover(place.timeline, place.position).unwrap();
        let pages =
            restored(bucket, &chain.iter().map(|piece| &catalog.entries[&piece.place()].manifest).collect::<Vec<_>>());
        assert!(databases.iter().any(|d| d.had(entry.manifest.digest_after, &pages)), "{place} is no state there was");
        let before = catalog.entries.range(..place).next_back().filter(|(p, _)| p.timeline == place.timeline);
        match before {
            Some((_, before)) => {
                assert_eq!(entry.manifest.previous.as_ref(), Some(&before.sha256), "{place}");
                assert!(before.manifest.observed <= entry.manifest.observed, "{place}");
            }
            None => {
                assert_eq!(entry.manifest.kind, Kind::Full, "{place}");
                let parent = catalog.claims[&place.timeline].parent;
                let parent = parent.map(|parent| catalog.entries[&parent.place].sha256.clone());
                assert_eq!(entry.manifest.previous, parent, "{place}");
            }
        }
    }
    let numbers: BTreeSet<u64> = catalog.entries.keys().map(|place| place.position.0).collect();
    assert_eq!(numbers.len(), catalog.entries.len(), "a number is used twice");
    let objects: Vec<_> = catalog.entries.values().filter_map(|entry| entry.manifest.object.as_ref()).collect();
    let keys: BTreeSet<_> = objects.iter().map(|object| &object.key).collect();
    assert_eq!(keys.len(), objects.len(), "an object is named twice");
    sums_hold(bucket);
    catalog
}

/// `SHA256SUMS` names what is there; it may lie behind, but not lie.
fn sums_hold(bucket: &MemoryStore) {
    let Some(sums) = bucket.bytes("SHA256SUMS") else { return };
    for line in std::str::from_utf8(&sums).unwrap().lines() {
        let (sum, key) = line.split_once("  ").unwrap();
        assert_eq!(Sum::of(&bucket.bytes(key).unwrap()).as_str(), sum, "{key}");
    }
}

/// The pages that a chain of segments gives.
fn restored(bucket: &MemoryStore, chain: &[&atlas_sidecar::backup::Manifest]) -> Vec<Vec<u8>> {
    let mut pages = Vec::new();
    for manifest in chain {
        let plain = manifest.object.as_ref().map_or_else(Vec::new, |object| {
            let stored = bucket.bytes(&object.key).unwrap();
            assert_eq!((stored.len() as u64, Sum::of(&stored)), (object.stored.bytes, object.stored.sha256.clone()));
            let mut plain = Vec::new();
            flate2::read::MultiGzDecoder::new(stored.as_ref()).read_to_end(&mut plain).unwrap();
            assert_eq!((plain.len() as u64, Sum::of(&plain)), (object.plain.bytes, object.plain.sha256.clone()));
            plain
        });
        match manifest.kind {
            Kind::Full => pages = pages::pages_of(&plain),
            _ => pages::apply(&mut pages, &plain, manifest.pages as usize),
        }
    }
    pages
}
