//! What a destination really does: asked with a few objects of its own, under a name that nothing else has, which are gone afterwards.
//!
//! What servers say of themselves is not to be relied on: some ignore `If-None-Match`, some answer a deletion with success and keep the object, some give the
//! whole object where a part of it was asked for, some drop what was noted about it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::{
    Destination, MOST_NOTE_BYTES, ObjectError, ObjectKey, ObjectStore, PART_BYTES, Part, Settings, get_small, list_all,
    open_bare, s3,
};
use crate::clock::{Clock, Timestamp};

/// How something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Backups work; somebody should know.
    Look,
    /// Backups do not work, or not safely.
    Bad,
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was tried.
    pub name: &'static str,
    /// How it was found.
    pub verdict: Verdict,
    /// What was seen, and what to do about it; no secrets.
    pub words: String,
}

/// A difference of clocks from which on people are told: S3 refuses requests from 15 minutes on, and times of backups are compared by people.
const CLOCKS_APART: Duration = Duration::from_secs(60);

/// A second byte in the second part, and no more.
const LARGE: usize = PART_BYTES + 1;

/// Probes the destination of `settings` once, without patience: what is shown is what it is like now.
pub async fn destination(settings: &Settings, clock: &Clock) -> Vec<Line> {
    let store = match open_bare(settings) {
        Ok(store) => store,
        Err(words) => return vec![Line { name: "settings", verdict: Verdict::Bad, words }],
    };
    let mut lines = probe(store.as_ref(), clock).await;
    if let Destination::S3 { bucket, prefix } = &settings.destination
        && lines.iter().all(|line| line.verdict != Verdict::Bad)
        && let Ok(store) = s3::S3::open(&settings.s3, bucket, prefix)
    {
        lines.push(checksum(&store).await);
    }
    lines
}

/// Probes `store`.
pub async fn probe(store: &dyn ObjectStore, clock: &Clock) -> Vec<Line> {
    let mut probe = Probe { store, clock, keys: Keys::new(), lines: Vec::new() };
    if probe.write().await {
        probe.read().await;
        probe.create().await;
        probe.large().await;
        probe.list().await;
        probe.notes().await;
    }
    probe.delete().await;
    probe.lines
}

/// Whether a second creation of an object fails, as [`ObjectStore::create`] promises. Leaves an object `probe-…` behind where it may not delete.
pub async fn honours_create(store: &dyn ObjectStore) -> Result<bool, ObjectError> {
    let key = Keys::new().key("created");
    let twice = created_twice(store, &key).await;
    removed(store, &key).await;
    twice
}

/// Whether a note comes back with its object, as [`ObjectStore::create_noted`] promises. Leaves an object `probe-…` behind where it may not delete.
pub async fn keeps_notes(store: &dyn ObjectStore) -> Result<bool, ObjectError> {
    let key = Keys::new().key(NOTED);
    let kept = noted(store, &key).await;
    removed(store, &key).await;
    kept
}

async fn removed(store: &dyn ObjectStore, key: &ObjectKey) {
    match store.delete(key).await {
        Ok(()) | Err(ObjectError::Denied(_)) => {}
        // The answer is known; an object that was left behind is no reason not to give it.
        Err(error) => tracing::debug!(key = %key, %error, "cannot remove what was tried"),
    }
}

async fn noted(store: &dyn ObjectStore, key: &ObjectKey) -> Result<bool, ObjectError> {
    // As long as one may be, with all that a manifest may hold: some servers have less room, some know fewer characters.
    let note: String = (b'!'..=b'~').map(char::from).cycle().take(MOST_NOTE_BYTES).collect();
    match store.create_noted(key, Bytes::from_static(b"noted"), &note).await {
        // Our own, of a try whose answer was lost.
        Ok(()) | Err(ObjectError::Exists(_)) => {}
        Err(e) => return Err(e),
    }
    // As notes are read: with a byte of the object.
    let download = store.get(key, Part { from: 0, to: Some(1), version: None }).await?;
    Ok(download.note == Some(note))
}

async fn created_twice(store: &dyn ObjectStore, key: &ObjectKey) -> Result<bool, ObjectError> {
    for bytes in ["first", "second"] {
        match store.create(key, Bytes::from_static(bytes.as_bytes())).await {
            Ok(()) => {}
            // Of the first one too: it was tried again after its answer was lost, and nobody else knows the name.
            Err(ObjectError::Exists(_)) => return Ok(true),
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// The names of one probe.
struct Keys(String);

impl Keys {
    fn new() -> Self {
        let mut random = [0; 8];
        // Without random numbers, two probes at once may disturb each other, and no more.
        let _ = getrandom::fill(&mut random);
        Self(format!("probe-{:016x}", u64::from_le_bytes(random)))
    }

    fn key(&self, name: &str) -> ObjectKey {
        ObjectKey::ours(format!("{}/{name}", self.0))
    }
}

/// The names of what must have been stored when it is listed.
const NAMES: [&str; 3] = ["created", "large", "small"];

/// The name of what has a note.
const NOTED: &str = "noted";

/// What the small object holds.
const SMALL: &[u8] = b"What is written here is read back, whole and in part.\n";

struct Probe<'a> {
    store: &'a dyn ObjectStore,
    clock: &'a Clock,
    keys: Keys,
    lines: Vec<Line>,
}

impl Probe<'_> {
    fn line(&mut self, name: &'static str, verdict: Verdict, words: impl Into<String>) {
        self.lines.push(Line { name, verdict, words: words.into() });
    }

    /// A line of what must work.
    fn must<T>(&mut self, name: &'static str, result: Result<T, ObjectError>, good: impl FnOnce(&T) -> String) {
        match result {
            Ok(value) => self.line(name, Verdict::Good, good(&value)),
            Err(e) => self.line(name, Verdict::Bad, e.to_string()),
        }
    }

    async fn write(&mut self) -> bool {
        let put = self.store.put(&self.keys.key("small"), Bytes::from_static(SMALL)).await;
        let stored = put.is_ok();
        let place = self.store.place();
        self.must("write", put, |()| format!("`{place}` takes objects"));
        stored
    }

    async fn read(&mut self) {
        let key = self.keys.key("small");
        let whole = get_small(self.store, &key, 4096).await.and_then(|read| same(&read, SMALL));
        self.must("read", whole, |()| "what was stored came back".to_owned());
        let part = self.part(&key).await;
        self.must("read a part", part, |()| "a download that breaks can go on where it did".to_owned());
    }

    async fn part(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        let version = self.store.get(key, Part::default()).await?.version;
        if version.is_none() {
            return Err(ObjectError::Corrupt("downloads have no version: one that breaks cannot go on".to_owned()));
        }
        let part = self.store.get(key, Part { from: 5, to: Some(20), version }).await?;
        if part.bytes != SMALL.len() as u64 {
            return Err(ObjectError::Corrupt(format!("a part says that the object has {} bytes", part.bytes)));
        }
        same(&collected(part.body).await?, &SMALL[5..20])
    }

    async fn create(&mut self) {
        let (verdict, words) = match created_twice(self.store, &self.keys.key("created")).await {
            Ok(true) => (Verdict::Good, "refused the second time: two sidecars are kept apart by it".to_owned()),
            Ok(false) => (
                Verdict::Look,
                "the condition is ignored (`If-None-Match: *`): two sidecars are kept apart by listing, which is slower to notice".to_owned(),
            ),
            Err(e) => (Verdict::Bad, e.to_string()),
        };
        self.line("create twice", verdict, words);
    }

    async fn notes(&mut self) {
        let lost = |why: &str| {
            let what = "the live tail of a database cannot be kept there (`backup.sqlite.interval = \"\"`), backups by the schedule can";
            (Verdict::Look, format!("{why}: {what}"))
        };
        let (verdict, words) = match noted(self.store, &self.keys.key(NOTED)).await {
            Ok(true) => (Verdict::Good, "what is noted about an object comes back with it".to_owned()),
            Ok(false) => lost("what is noted about an object (`x-amz-meta-…`) is dropped"),
            Err(e) => lost(&e.to_string()),
        };
        self.line("notes", verdict, words);
    }

    async fn large(&mut self) {
        let key = self.keys.key("large");
        let stored = self.in_parts(&key).await;
        self.must("large object", stored, |()| format!("{LARGE} bytes in 2 parts came back"));
    }

    async fn in_parts(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        // Not the same everywhere, so that parts that were mixed up are noticed.
        let bytes: Bytes = (0..LARGE as u64).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8).collect();
        let upload = self.store.upload(key).await?;
        let stored = async {
            upload.part(1, bytes.slice(..PART_BYTES)).await?;
            upload.part(2, bytes.slice(PART_BYTES..)).await?;
            upload.finish(2).await
        };
        if let Err(e) = stored.await {
            let _ = upload.abort().await;
            return Err(e);
        }
        same(&get_small(self.store, key, LARGE as u64).await?, &bytes)
    }

    async fn list(&mut self) {
        let listed = list_all(self.store, &format!("{}/", self.keys.0)).await;
        let modified = match &listed {
            Ok(listed) => {
                listed.iter().find(|object| object.key == self.keys.key("small")).map(|object| object.modified)
            }
            Err(_) => None,
        };
        let found = listed.and_then(|listed| {
            let expected: Vec<_> = NAMES.map(|name| self.keys.key(name)).into();
            let found: Vec<_> = listed.into_iter().map(|object| object.key).collect();
            match found == expected {
                true => Ok(()),
                false => Err(ObjectError::Corrupt(format!("{} objects are listed of {}", found.len(), NAMES.len()))),
            }
        });
        self.must("list", found, |()| "what was stored is listed, in order".to_owned());
        if let Some(modified) = modified {
            self.clocks(modified);
        }
    }

    fn clocks(&mut self, theirs: Timestamp) {
        let ours = self.clock.now();
        let apart = ours.since(theirs).max(theirs.since(ours));
        let (verdict, words) = match apart > CLOCKS_APART {
            true => (Verdict::Look, format!("{} s apart: set the clock that is wrong", apart.as_secs())),
            false => (Verdict::Good, format!("less than {} s apart", CLOCKS_APART.as_secs())),
        };
        self.line("clocks", verdict, words);
    }

    async fn delete(&mut self) {
        let mut refused = None;
        for name in NAMES.into_iter().chain([NOTED]) {
            refused = self.store.delete(&self.keys.key(name)).await.err().or(refused);
        }
        // Nothing was stored: there is nothing to say.
        if self.lines.iter().any(|line| line.name == "write" && line.verdict == Verdict::Bad) {
            return;
        }
        let prefix = format!("{}/", self.keys.0);
        let left = list_all(self.store, &prefix).await.map(|left| left.len());
        let (verdict, words) = match (refused, left) {
            (None, Ok(0)) => (Verdict::Good, "what was stored is gone".to_owned()),
            (None, Ok(left)) => (
                Verdict::Look,
                format!(
                    "deletions are answered with success, and {left} objects under `{prefix}` are still there: old backups will stay"
                ),
            ),
            (Some(ObjectError::Denied(words)), _) => (
                Verdict::Look,
                format!(
                    "not allowed: old backups will stay, and so does `{prefix}`; have the bucket's own rules remove them ({words})"
                ),
            ),
            (Some(e), _) | (None, Err(e)) => (Verdict::Bad, e.to_string()),
        };
        self.line("delete", verdict, words);
    }
}

async fn checksum(store: &s3::S3) -> Line {
    let key = Keys::new().key("damaged");
    let (verdict, words) = match store.refuses_damaged(&key).await {
        Ok(true) => (Verdict::Good, "a body with a wrong checksum is refused".to_owned()),
        Ok(false) => {
            let _ = store.delete(&key).await;
            (
                Verdict::Look,
                "a body with a wrong CRC32 is taken: `checksum = \"supported\"` buys nothing here".to_owned(),
            )
        }
        Err(e) => (Verdict::Look, e.to_string()),
    };
    Line { name: "checksum", verdict, words }
}

async fn collected(
    body: futures_util::stream::BoxStream<'static, Result<Bytes, ObjectError>>,
) -> Result<Vec<u8>, ObjectError> {
    let join = |mut all: Vec<u8>, chunk: Bytes| async move {
        all.extend_from_slice(&chunk);
        Ok(all)
    };
    body.try_fold(Vec::new(), join).await
}

fn same(read: &[u8], stored: &[u8]) -> Result<(), ObjectError> {
    match read == stored {
        true => Ok(()),
        false => Err(ObjectError::Corrupt(format!("{} other bytes came back than were stored", read.len()))),
    }
}
