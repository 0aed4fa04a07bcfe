//! The live tail, against a store in memory and a database of pages in memory: what is there after crashes, lost answers, outages and other writers.

mod crash;
mod fenced;
mod full;
mod outage;
mod steady;
mod tape;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use atlas_sidecar::backup::catalog::{Catalog, Entry};
use atlas_sidecar::backup::follow::{Follower, Metrics, Pace, Parts, Settings};
use atlas_sidecar::backup::layout::live_place;
use atlas_sidecar::backup::manifest::{Manifest, Sum};
use atlas_sidecar::backup::{Kind, Place, Position, Source};
use atlas_sidecar::object::ObjectKey;
use atlas_sidecar::retry::Backoff;
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::tape::{Log, Tape};
use super::ship::Machine;
use super::ship::pages::Database;
use crate::support::memory_store::{Fault, MemoryStore};

/// How long anything is waited for.
const LIMIT: Duration = Duration::from_secs(30);

/// A machine whose database is followed.
struct World {
    machine: Machine,
    log: Arc<Log>,
    settings: Settings,
    pace: Pace,
}

/// A process that follows.
struct Process {
    follower: Arc<Follower>,
    registry: Registry,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl World {
    fn new(bucket: &Arc<MemoryStore>, name: &str) -> Self {
        let brief = |millis| Duration::from_millis(millis);
        let interval = Some(brief(10));
        Self {
            machine: Machine::new(bucket, name),
            log: Arc::default(),
            settings: Settings { interval, convert_to_wal: false, log_max: 1 << 30, spool_max: 1 << 30 },
            pace: Pace {
                tend: brief(5),
                heartbeat: Duration::from_secs(3600),
                slow: brief(50),
                again: Backoff { first: brief(2), most: brief(20) },
                rest: Duration::from_secs(3600),
                drain: LIMIT,
            },
        }
    }

    /// The same, to the byte.
    fn copied(&self) -> Self {
        let machine = self.machine.copied();
        let (from, to) = (self.machine.state.join("backup/live"), machine.state.join("backup/live"));
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        Self { machine, log: Arc::default(), settings: self.settings, pace: self.pace }
    }

    fn database(&self) -> &Database {
        &self.machine.database
    }

    fn follower(&self, fault: &Arc<Fault>, registry: &Registry) -> Arc<Follower> {
        let source: Arc<dyn Source> = Arc::new(Tape::new(self.machine.source(fault), &self.log));
        let shipper = Arc::new(self.machine.shipper_of(source, fault));
        let metrics = Arc::new(Metrics::new(registry));
        let (settings, pace) = (self.settings, self.pace);
        Arc::new(Follower::new(Parts { shipper, settings, pace, weave: None, identity_file: None, metrics }))
    }

    /// Starts a process.
    fn start(&self, fault: &Arc<Fault>) -> Process {
        let registry = Registry::new();
        let follower = self.follower(fault, &registry);
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (follower, stop) = (Arc::clone(&follower), stop.clone());
            async move { follower.run(stop).await }
        });
        Process { follower, registry, stop, task }
    }

    /// The first full, as the job makes it.
    async fn first_full(&self) {
        let follower = self.follower(&Fault::none(), &Registry::new());
        follower.full(&self.machine.cx()).await.unwrap();
    }

    /// A process that follows a database with a full.
    async fn begun(&self) -> Process {
        self.first_full().await;
        self.start(&Fault::none())
    }

    fn tick(&self) {
        self.machine.clock.set(self.machine.clock.now().after(Duration::from_secs(1)));
    }

    fn commit(&self, page: usize, byte: u8) {
        self.tick();
        self.database().write(page, byte);
    }

    /// Waits until what is in the database is in the store.
    async fn shipped(&self) {
        let bucket = &self.machine.bucket;
        until("the newest state is in the store", || newest_digest(bucket) == Some(self.database().digest())).await;
    }
}

impl Process {
    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task).await.expect("it stops").unwrap();
    }

    /// The process is gone, as after a `kill -9`.
    async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    fn value(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|f| f.name() == name).unwrap_or_else(|| panic!("no {name}"));
        let metric = &family.get_metric()[0];
        metric.get_gauge().get_value() + metric.get_counter().get_value()
    }

    fn age(&self) -> f64 {
        self.value("atlas_sidecar_backup_oldest_unshipped_commit_age_seconds")
    }

    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        until(what, || is(self)).await;
    }
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

/// All that leads somewhere: its place, the manifest and the sum of what commits it. A live segment comes before a full beside it.
fn primaries(bucket: &MemoryStore) -> Vec<(Place, Manifest, Sum)> {
    let mut all = Vec::new();
    for key in bucket.keys() {
        let object = ObjectKey::ours(&key);
        let text = match (live_place(&object), atlas_sidecar::backup::layout::manifest_place(&object)) {
            (Some(_), _) => bucket.note(&key).expect("a live segment has a note").into_bytes(),
            (None, Some(_)) => bucket.bytes(&key).unwrap().to_vec(),
            _ => continue,
        };
        let manifest = Manifest::from_bytes(&text).unwrap();
        all.push((manifest.place(), manifest, Sum::of(&text)));
    }
    all.sort_by_key(|(place, manifest, _)| (*place, manifest.kind == Kind::Full));
    all
}

fn newest_digest(bucket: &MemoryStore) -> Option<atlas_sidecar::backup::Digest> {
    primaries(bucket).last().map(|(_, manifest, _)| manifest.digest_after)
}

fn lives(bucket: &MemoryStore) -> usize {
    primaries(bucket).iter().filter(|(_, manifest, _)| manifest.kind == Kind::Live).count()
}

/// Everything that must hold of a bucket whatever happened: each place is a state that the database had, each is chained to the one before it, none is missing and none is
/// there twice.
fn sound(bucket: &MemoryStore, databases: &[&Database]) {
    let mut before: BTreeMap<u32, (Manifest, Sum, Vec<Vec<u8>>)> = BTreeMap::new();
    for (place, manifest, sum) in primaries(bucket) {
        let plain = manifest.object.as_ref().map_or_else(Vec::new, |object| {
            let stored = bucket.bytes(&object.key).unwrap_or_else(|| panic!("{place}: no `{}`", object.key));
            assert_eq!((stored.len() as u64, Sum::of(&stored)), (object.stored.bytes, object.stored.sha256.clone()));
            let mut plain = Vec::new();
            flate2::read::MultiGzDecoder::new(stored.as_ref()).read_to_end(&mut plain).unwrap();
            plain
        });
        let last = before.remove(&place.timeline.0);
        let pages = match (manifest.kind, &last) {
            (Kind::Full, _) => tape::whole(&plain),
            (_, Some((_, _, pages))) => {
                let mut pages = pages.clone();
                tape::apply(&mut pages, &plain, manifest.pages as usize);
                pages
            }
            (kind, None) => panic!("{place}: a {kind} segment begins the timeline"),
        };
        let had = databases.iter().any(|database| database.had(manifest.digest_after, &pages));
        assert!(had, "{place} is no state that there was");
        if let Some((last, last_sum, last_pages)) = last {
            let beside = manifest.kind == Kind::Full && last.place() == place;
            if beside {
                assert_eq!((last.kind, &last_pages), (Kind::Live, &pages), "{place}");
                assert_eq!(manifest.previous, last.previous, "{place}");
                assert_eq!(manifest.observed, last.observed, "{place}");
                before.insert(place.timeline.0, (last, last_sum, pages));
                continue;
            }
            assert_eq!(manifest.previous, Some(last_sum), "{place}");
            assert!(last.observed <= manifest.observed, "{place}");
            assert_eq!(last.to.next(), manifest.to, "a position is missing before {place}");
            if manifest.kind != Kind::Full {
                assert_eq!((manifest.from, manifest.digest_before), (Some(last.to), Some(last.digest_after)));
            }
        }
        before.insert(place.timeline.0, (manifest, sum, pages));
    }
}

async fn entries(world: &World) -> BTreeMap<Place, Entry> {
    let catalog: Catalog = world.machine.catalog().await;
    assert_eq!(catalog.unreadable, []);
    catalog.entries
}

fn position(number: u64) -> Position {
    Position(number)
}
