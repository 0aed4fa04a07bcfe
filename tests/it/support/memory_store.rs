//! An object store in memory, and a wrapper that counts what is asked of a store, and lets it go wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::object::{
    Download, Listed, MOST_NOTE_BYTES, ObjectError, ObjectKey, ObjectStore, PART_BYTES, Page, Part, Upload,
};
use atlas_sidecar::task::Pending;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::Notify;

/// Objects listed at once: few, so that listings have several pieces.
const PAGE: usize = 7;

type Objects = Mutex<BTreeMap<String, Object>>;

/// An object: its bytes, when it was stored, and its note.
#[derive(Clone)]
struct Object {
    bytes: Bytes,
    modified: Timestamp,
    note: Option<String>,
}

/// A bucket.
#[derive(Default)]
pub struct MemoryStore {
    objects: Arc<Objects>,
    /// Whether a condition is ignored without a word.
    pub ignores_conditions: AtomicBool,
    /// Whether it answers that it deleted, and keeps what it has.
    pub swallows_deletes: AtomicBool,
    /// The store's own clock: a step further with each object.
    clock: Arc<AtomicUsize>,
}

impl MemoryStore {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn ignoring_conditions() -> Arc<Self> {
        let store = Self::default();
        store.ignores_conditions.store(true, Ordering::SeqCst);
        Arc::new(store)
    }

    pub fn keys(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }

    pub fn bytes(&self, key: &str) -> Option<Bytes> {
        self.objects.lock().unwrap().get(key).map(|object| object.bytes.clone())
    }

    pub fn remove(&self, key: &str) {
        self.objects.lock().unwrap().remove(key);
    }

    /// Sets the store's clock.
    pub fn set_clock(&self, at: Timestamp) {
        self.clock.store(usize::try_from(at.millis()).unwrap(), Ordering::SeqCst);
    }

    pub fn set(&self, key: &str, bytes: impl Into<Bytes>) {
        let object = Object { bytes: bytes.into(), modified: tick(&self.clock), note: None };
        self.objects.lock().unwrap().insert(key.to_owned(), object);
    }

    /// Sets an object with its note.
    pub fn set_noted(&self, key: &str, bytes: impl Into<Bytes>, note: &str) {
        let object = Object { bytes: bytes.into(), modified: tick(&self.clock), note: Some(note.to_owned()) };
        self.objects.lock().unwrap().insert(key.to_owned(), object);
    }

    pub fn note(&self, key: &str) -> Option<String> {
        self.objects.lock().unwrap().get(key).and_then(|object| object.note.clone())
    }

    fn add(&self, key: &ObjectKey, bytes: Bytes, note: Option<String>) -> Result<(), ObjectError> {
        let mut objects = self.objects.lock().unwrap();
        if objects.contains_key(key.as_str()) && !self.ignores_conditions.load(Ordering::SeqCst) {
            return Err(ObjectError::Exists(key.to_string()));
        }
        objects.insert(key.to_string(), Object { bytes, modified: tick(&self.clock), note });
        Ok(())
    }
}

fn tick(clock: &AtomicUsize) -> Timestamp {
    Timestamp::from_millis(clock.fetch_add(1, Ordering::SeqCst) as i64)
}

impl ObjectStore for MemoryStore {
    fn place(&self) -> String {
        "memory:bucket".to_owned()
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        async move {
            assert!(bytes.len() <= PART_BYTES, "`{key}` is not small");
            self.set(key.as_str(), bytes);
            Ok(())
        }
        .boxed()
    }

    fn create<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        async move { self.add(key, bytes, None) }.boxed()
    }

    fn create_noted<'a>(
        &'a self,
        key: &'a ObjectKey,
        bytes: Bytes,
        note: &'a str,
    ) -> Pending<'a, Result<(), ObjectError>> {
        assert!(note.len() <= MOST_NOTE_BYTES && note.bytes().all(|b| (b' '..=b'~').contains(&b)), "{note}");
        async move { self.add(key, bytes, Some(note.to_owned())) }.boxed()
    }

    fn upload<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<Box<dyn Upload>, ObjectError>> {
        let (objects, clock, parts) = (Arc::clone(&self.objects), Arc::clone(&self.clock), Mutex::default());
        let upload: Box<dyn Upload> = Box::new(MemoryUpload { objects, clock, key: key.to_string(), parts });
        async move { Ok(upload) }.boxed()
    }

    fn get<'a>(&'a self, key: &'a ObjectKey, part: Part) -> Pending<'a, Result<Download, ObjectError>> {
        async move {
            let there = self.objects.lock().unwrap().get(key.as_str()).cloned();
            let Object { bytes, note, .. } = there.ok_or_else(|| ObjectError::Missing(key.to_string()))?;
            let length = bytes.len() as u64;
            let to = part.to.unwrap_or(length).min(length);
            let wanted = bytes.slice(part.from as usize..to as usize);
            let pieces: Vec<_> = wanted.chunks(1 << 20).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            Ok(Download { bytes: length, version: None, note, body: stream::iter(pieces).boxed() })
        }
        .boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, from: Option<&'a str>) -> Pending<'a, Result<Page, ObjectError>> {
        async move {
            let objects = self.objects.lock().unwrap();
            let mut all = objects
                .iter()
                .filter(|(key, _)| key.starts_with(prefix) && from.is_none_or(|from| key.as_str() > from))
                .map(|(key, object)| Listed {
                    key: ObjectKey::ours(key),
                    bytes: object.bytes.len() as u64,
                    modified: object.modified,
                });
            let objects: Vec<Listed> = all.by_ref().take(PAGE).collect();
            let next = all.next().and_then(|_| objects.last().map(|o| o.key.to_string()));
            Ok(Page { objects, next })
        }
        .boxed()
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<(), ObjectError>> {
        async move {
            if !self.swallows_deletes.load(Ordering::SeqCst) {
                self.remove(key.as_str());
            }
            Ok(())
        }
        .boxed()
    }
}

struct MemoryUpload {
    objects: Arc<Objects>,
    clock: Arc<AtomicUsize>,
    key: String,
    parts: Mutex<BTreeMap<u32, Bytes>>,
}

impl Upload for MemoryUpload {
    fn part(&self, number: u32, bytes: Bytes) -> Pending<'_, Result<(), ObjectError>> {
        async move {
            self.parts.lock().unwrap().insert(number, bytes);
            Ok(())
        }
        .boxed()
    }

    fn finish(&self, count: u32) -> Pending<'_, Result<(), ObjectError>> {
        async move {
            let parts = self.parts.lock().unwrap();
            assert_eq!(parts.keys().copied().collect::<Vec<_>>(), (1..=count).collect::<Vec<_>>());
            assert!(parts.iter().all(|(number, bytes)| *number == count || bytes.len() == PART_BYTES));
            let whole: Vec<u8> = parts.values().flatten().copied().collect();
            let object = Object { bytes: whole.into(), modified: tick(&self.clock), note: None };
            self.objects.lock().unwrap().insert(self.key.clone(), object);
            Ok(())
        }
        .boxed()
    }

    fn abort(&self) -> Pending<'_, Result<(), ObjectError>> {
        async move {
            self.parts.lock().unwrap().clear();
            Ok(())
        }
        .boxed()
    }
}

/// What becomes of something that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// It is done.
    Done,
    /// It is refused.
    Refused(ObjectError),
    /// It is done, and the answer is lost.
    Unanswered,
    /// The process dies before it is done.
    DiesBefore,
    /// The process dies after it was done.
    DiesAfter,
    /// It waits until the gate is opened.
    Waits,
}

/// Decides what becomes of the call of a number (from 1), which is `put t000001/…`.
pub type Decide = dyn Fn(usize, &str) -> Fate + Send + Sync;

/// Counts side effects and lets them go wrong; not only of a store.
pub struct Fault {
    calls: AtomicUsize,
    decide: Box<Decide>,
    /// Told when the process has died, or waits at the gate.
    pub reached: Notify,
    /// The gate.
    pub gate: Notify,
    pub log: Mutex<Vec<String>>,
}

impl Fault {
    pub fn new(decide: impl Fn(usize, &str) -> Fate + Send + Sync + 'static) -> Arc<Self> {
        let (reached, gate, log) = Default::default();
        Arc::new(Self { calls: AtomicUsize::new(0), decide: Box::new(decide), reached, gate, log })
    }

    pub fn none() -> Arc<Self> {
        Self::new(|_, _| Fate::Done)
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn die(&self) {
        self.reached.notify_one();
        std::future::pending::<()>().await;
    }

    /// Does `work`, or what was decided instead.
    pub async fn pass<T>(
        &self,
        what: String,
        work: impl Future<Output = Result<T, ObjectError>>,
    ) -> Result<T, ObjectError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let fate = (self.decide)(number, &what);
        self.log.lock().unwrap().push(what.clone());
        match fate {
            Fate::Refused(e) => return Err(e),
            Fate::DiesBefore => self.die().await,
            Fate::Waits => {
                self.reached.notify_one();
                self.gate.notified().await;
            }
            _ => {}
        }
        let done = work.await;
        match fate {
            Fate::Unanswered => Err(ObjectError::Transient(format!("no answer to `{what}`"))),
            Fate::DiesAfter => {
                self.die().await;
                done
            }
            _ => done,
        }
    }
}

/// A store whose calls go through a [`Fault`].
pub struct FaultyStore {
    pub inner: Arc<MemoryStore>,
    pub fault: Arc<Fault>,
}

impl ObjectStore for FaultyStore {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        self.fault.pass(format!("put {key}"), self.inner.put(key, bytes)).boxed()
    }

    fn create<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        self.fault.pass(format!("create {key}"), self.inner.create(key, bytes)).boxed()
    }

    fn create_noted<'a>(
        &'a self,
        key: &'a ObjectKey,
        bytes: Bytes,
        note: &'a str,
    ) -> Pending<'a, Result<(), ObjectError>> {
        self.fault.pass(format!("create {key}"), self.inner.create_noted(key, bytes, note)).boxed()
    }

    fn upload<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<Box<dyn Upload>, ObjectError>> {
        async move {
            let upload = self.fault.pass(format!("upload {key}"), self.inner.upload(key)).await?;
            let (fault, key) = (Arc::clone(&self.fault), key.to_string());
            Ok(Box::new(FaultyUpload { upload, fault, key }) as Box<dyn Upload>)
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a ObjectKey, part: Part) -> Pending<'a, Result<Download, ObjectError>> {
        self.fault.pass(format!("get {key}"), self.inner.get(key, part)).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, from: Option<&'a str>) -> Pending<'a, Result<Page, ObjectError>> {
        self.fault.pass(format!("list {prefix}"), self.inner.list(prefix, from)).boxed()
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<(), ObjectError>> {
        self.fault.pass(format!("delete {key}"), self.inner.delete(key)).boxed()
    }
}

struct FaultyUpload {
    upload: Box<dyn Upload>,
    fault: Arc<Fault>,
    key: String,
}

impl Upload for FaultyUpload {
    fn part(&self, number: u32, bytes: Bytes) -> Pending<'_, Result<(), ObjectError>> {
        self.fault.pass(format!("part {number} {}", self.key), self.upload.part(number, bytes)).boxed()
    }

    fn finish(&self, parts: u32) -> Pending<'_, Result<(), ObjectError>> {
        self.fault.pass(format!("finish {}", self.key), self.upload.finish(parts)).boxed()
    }

    fn abort(&self) -> Pending<'_, Result<(), ObjectError>> {
        self.fault.pass(format!("abort {}", self.key), self.upload.abort()).boxed()
    }
}
