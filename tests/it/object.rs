//! Stores of objects: one contract, on a folder and on S3 servers of several makers; then what goes wrong with each of them.

mod contract;
mod faults;
mod folder;
mod patience;
mod probe;
mod s3;
mod servers;

use std::sync::Arc;
use std::time::Duration;

use atlas_sidecar::clock::Clock;
use atlas_sidecar::object::dir::Dir;
use atlas_sidecar::object::patient::{Metrics, Patience, Patient};
use atlas_sidecar::object::{ObjectKey, ObjectStore, Settings, Upload, open_bare};
use atlas_sidecar::retry::Backoff;
use bytes::Bytes;
use prometheus::Registry;
use tempfile::TempDir;

use crate::support::s3::S3Server;

/// Something to keep objects in.
trait Stand: Sized {
    /// An empty one.
    async fn fresh() -> Self;

    fn store(&self) -> Arc<dyn ObjectStore>;

    /// Puts objects of one byte under `keys`, somehow.
    async fn fill(&self, keys: &[ObjectKey]) {
        use futures_util::{StreamExt, TryStreamExt, stream};
        let store = self.store();
        let puts = keys.iter().map(|key| store.put(key, Bytes::from_static(b"x")));
        stream::iter(puts).buffer_unordered(16).try_collect::<()>().await.unwrap();
    }
}

struct OnFolder {
    folder: TempDir,
    store: Arc<Dir>,
}

impl Stand for OnFolder {
    async fn fresh() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Dir::open(folder.path().join("backups"), Clock::system()));
        Self { folder, store }
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store) as _
    }

    async fn fill(&self, keys: &[ObjectKey]) {
        for key in keys {
            let path = self.folder.path().join("backups").join(key.as_str());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
    }
}

/// The server in this process, a prefix within its bucket.
struct OnServer {
    _server: S3Server,
    store: Arc<dyn ObjectStore>,
}

impl Stand for OnServer {
    async fn fresh() -> Self {
        let server = S3Server::start();
        // Somebody else's, beside ours.
        server.store("atlas-other/k", "theirs");
        server.store("atlas", "theirs");
        let store = open_bare(&server.settings("atlas")).unwrap();
        Self { _server: server, store }
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

/// Bytes that differ everywhere.
fn noise(length: usize, seed: u32) -> Bytes {
    let mut state = u64::from(seed) + 1;
    let next = || {
        // xorshift64: no two megabytes alike, which is all that is wanted.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect::<Vec<u8>>().into()
}

/// Waits are short and the patience is long: a busy machine changes nothing.
const QUICK: Patience = Patience {
    backoff: Backoff { first: Duration::from_millis(5), most: Duration::from_millis(50) },
    budget: Duration::from_secs(60),
    attempt: Duration::from_secs(60),
    stall: Duration::from_millis(500),
    at_once: 4,
};

fn patient(settings: &Settings, patience: Patience) -> (Patient, Registry) {
    let registry = Registry::new();
    (Patient::new(open_bare(settings).unwrap(), patience, Metrics::new(&registry)), registry)
}

/// Stores `bytes` in parts, all at once.
async fn store_in_parts(upload: &dyn Upload, bytes: &Bytes) -> Result<(), atlas_sidecar::object::ObjectError> {
    let parts: Vec<Bytes> = (0..bytes.len())
        .step_by(atlas_sidecar::object::PART_BYTES)
        .map(|at| bytes.slice(at..bytes.len().min(at + atlas_sidecar::object::PART_BYTES)))
        .collect();
    let stored = parts.iter().zip(1..).map(|(part, number)| upload.part(number, part.clone()));
    futures_util::future::try_join_all(stored).await?;
    upload.finish(parts.len() as u32).await
}
