//! Where backups go: [`ObjectStore`] is a folder or a bucket, and promises what both can keep.
//!
//! - Objects are written once and never changed. [`ObjectStore::create`] fails where there is one already: it is the commit of whatever it completes.
//!   Some stores ignore the condition without a word (Garage, rclone), so it is tried before anybody relies on it.
//! - What is larger than a few MiB goes up in parts ([`ObjectStore::upload`]): from memory, because bodies that are streamed over plain HTTP are refused by some
//!   stores and kept damaged by one. An upload that is not finished leaves no object.
//! - A download may be taken up again at any byte, and says when the object is another one meanwhile.
//! - Errors are named by what the caller may do next.

pub mod dir;
pub mod patient;
pub mod probe;
pub mod s3;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use prometheus::Registry;

use crate::clock::{Clock, Timestamp};
use crate::task::Pending;

/// How long every part of an upload but the last is: S3 wants 5 MiB at least and has room for 10,000 parts, which makes 80 GB of stored bytes; two or three of them
/// in flight are what a small machine can hold.
pub const PART_BYTES: usize = 8 << 20;

/// The longest note. S3 has room for 2 KB of metadata, names included.
pub const MOST_NOTE_BYTES: usize = 1_900;

/// The longest key. S3 allows 1,024 bytes with the prefix.
const MOST_KEY_BYTES: usize = 512;

/// Where objects are kept, and what it takes to get there.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where.
    pub destination: Destination,
    /// How to talk to a bucket; of no use for a folder.
    pub s3: s3::Settings,
}

/// A folder or a piece of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `file:PATH`
    Dir(PathBuf),
    /// `s3://bucket/prefix`
    S3 {
        /// The bucket; it is not made by us.
        bucket: String,
        /// What all keys begin with, without a `/` at either end; empty for the whole bucket.
        prefix: String,
    },
}

impl Destination {
    /// From `file:PATH` or `s3://bucket/prefix`; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file:") {
            // `file:///srv/x` is what browsers write for `/srv/x`.
            let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
            return match path {
                "" => Err("a folder must follow `file:`".to_owned()),
                path if path.starts_with("//") => Err("`file:` takes a folder of this machine".to_owned()),
                path => Ok(Self::Dir(PathBuf::from(path))),
            };
        }
        let Some(rest) = text.strip_prefix("s3://") else {
            return Err("must be `file:PATH` or `s3://BUCKET/PREFIX`".to_owned());
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        // Not the strict rule of AWS (lower case, 3 to 63 characters): older buckets and other servers have more.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if bucket.is_empty() || !bucket.bytes().all(plain) {
            return Err("a bucket's name has letters, digits, `.`, `_` and `-` only".to_owned());
        }
        if !prefix.is_empty() && ObjectKey::parse(prefix).is_none() {
            return Err("a prefix has words of letters, digits, `.`, `_` and `-`, with `/` between them".to_owned());
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "file:{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Every metric of this module.
pub const METRICS: &[&crate::sample::Desc] = patient::METRICS;

/// The store at `settings.destination`, with patience, its requests counted in `registry`. Nothing is asked of it yet; the error is about the settings.
pub fn open(settings: &Settings, registry: &Registry) -> Result<Arc<dyn ObjectStore>, String> {
    let store = open_bare(settings)?;
    Ok(Arc::new(patient::Patient::new(store, patient::Patience::default(), patient::Metrics::new(registry))))
}

/// The store itself, which fails at the first fault.
pub fn open_bare(settings: &Settings) -> Result<Arc<dyn ObjectStore>, String> {
    Ok(match &settings.destination {
        Destination::Dir(path) => Arc::new(dir::Dir::open(path.clone(), Clock::system())),
        Destination::S3 { bucket, prefix } => Arc::new(s3::S3::open(&settings.s3, bucket, prefix)?),
    })
}

/// The name of an object, below the store's own prefix: words of `A-Z a-z 0-9 . _ -`, with `/` between them.
///
/// Nothing that a store, a shell or a file system could take for something else: some stores answer `//`, `./` or control characters with nonsense.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// `key`, if it is one.
    pub fn parse(key: &str) -> Option<Self> {
        let plain = |word: &str| {
            !word.is_empty()
                && !word.starts_with('.')
                && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        (key.len() <= MOST_KEY_BYTES && key.split('/').all(plain)).then(|| Self(key.to_owned()))
    }

    /// A key that this program made.
    ///
    /// # Panics
    /// Where it is none: our mistake.
    pub fn ours(key: impl AsRef<str>) -> Self {
        let key = key.as_ref();
        Self::parse(key).unwrap_or_else(|| panic!("`{key}` is no key"))
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a listing tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: ObjectKey,
    /// Its length.
    pub bytes: u64,
    /// When it was stored, by the store's clock.
    pub modified: Timestamp,
}

/// A piece of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order of their keys' bytes. Names that are no [`ObjectKey`] are somebody else's and left out.
    pub objects: Vec<Listed>,
    /// Where the next piece begins: to be handed to [`ObjectStore::list`]; nothing where this was the last one.
    pub next: Option<String>,
}

/// An object on its way to us.
pub struct Download {
    /// The length of the whole object, whatever part of it was asked for.
    pub bytes: u64,
    /// Which writing of the object it is: handed to [`ObjectStore::get`] again, it is this one or an error.
    pub version: Option<String>,
    /// What was noted when it was created ([`ObjectStore::create_noted`]).
    pub note: Option<String>,
    /// The bytes.
    pub body: BoxStream<'static, Result<Bytes, ObjectError>>,
}

/// Which bytes of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The first one.
    pub from: u64,
    /// The one behind the last; nothing for the object's end.
    pub to: Option<u64>,
    /// Only of this writing; another one is [`ObjectError::Corrupt`]. So is a part that begins at the object's end or behind it.
    pub version: Option<String>,
}

/// A folder or a bucket.
pub trait ObjectStore: Send + Sync {
    /// Where it is, for people, without secrets: `s3://bucket/prefix`.
    fn place(&self) -> String;

    /// Stores a small object, whatever was there.
    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>>;

    /// Stores a small object where there is none yet: `Exists` otherwise. After a lost answer it may be our own that exists; the caller compares.
    fn create<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>>;

    /// [`ObjectStore::create`], with a note that comes back with the object, whatever part of it is asked for. Both are there or neither is. Up to [`PART_BYTES`], and
    /// from memory. A key that has a note is never given to [`ObjectStore::put`].
    ///
    /// A note has 1 to [`MOST_NOTE_BYTES`] printable characters of ASCII, and begins and ends with no blank; another one is `Denied`. Some stores drop it without a word
    /// ([`probe::keeps_notes`]).
    fn create_noted<'a>(
        &'a self,
        key: &'a ObjectKey,
        bytes: Bytes,
        note: &'a str,
    ) -> Pending<'a, Result<(), ObjectError>>;

    /// Begins to store an object of any length.
    fn upload<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<Box<dyn Upload>, ObjectError>>;

    /// Fetches an object, or a part of it.
    fn get<'a>(&'a self, key: &'a ObjectKey, part: Part) -> Pending<'a, Result<Download, ObjectError>>;

    /// Some objects whose keys begin with `prefix` (a piece of a key; empty for all), from `from` on, which an earlier piece of the listing gave.
    fn list<'a>(&'a self, prefix: &'a str, from: Option<&'a str>) -> Pending<'a, Result<Page, ObjectError>>;

    /// Removes an object; one that is not there is no error. Some stores say that they did and keep it: a listing tells.
    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<(), ObjectError>>;
}

/// An object on its way to the store. Dropped without [`Upload::finish`], it leaves no object, but perhaps parts that cost money: [`Upload::abort`].
pub trait Upload: Send + Sync {
    /// Stores part `number`, from 1; all but the last have [`PART_BYTES`]. Several may be stored at a time, and one again.
    fn part(&self, number: u32, bytes: Bytes) -> Pending<'_, Result<(), ObjectError>>;

    /// Makes the object of the parts up to number `parts` (at least 1). Whatever had the key before is replaced.
    fn finish(&self, parts: u32) -> Pending<'_, Result<(), ObjectError>>;

    /// Throws the parts away.
    fn abort(&self) -> Pending<'_, Result<(), ObjectError>>;
}

/// Why a store did not do what it was asked; the words name the place and the store's own answer, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// There is no such object.
    #[error("there is no such object: {0}")]
    Missing(String),
    /// There is one already.
    #[error("there is such an object already: {0}")]
    Exists(String),
    /// We may not; somebody has to change rights, credentials or the configuration.
    #[error("refused: {0}")]
    Denied(String),
    /// It may work later.
    #[error("{0}")]
    Transient(String),
    /// What came is not what was stored, or no answer that makes sense.
    #[error("{0}")]
    Corrupt(String),
}

/// Refuses what is no note. They travel as a field of a header, which carries nothing but ASCII everywhere and has no blanks at its ends.
fn check_note(note: &str) -> Result<(), ObjectError> {
    let printable = note.bytes().all(|b| (b' '..=b'~').contains(&b));
    let whole = !note.is_empty() && note.len() <= MOST_NOTE_BYTES && note.trim_matches(' ').len() == note.len();
    match printable && whole {
        true => Ok(()),
        false => Err(ObjectError::Denied(format!(
            "a note of {} bytes: it must have 1 to {MOST_NOTE_BYTES} printable characters of ASCII, and no blank at its ends",
            note.len()
        ))),
    }
}

/// All objects whose keys begin with `prefix`.
pub async fn list_all(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<Listed>, ObjectError> {
    let (mut all, mut from) = (Vec::new(), None);
    loop {
        let page = store.list(prefix, from.as_deref()).await?;
        all.extend(page.objects);
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(all),
        }
    }
}

/// A small object, whole; one of more than `most` bytes is `Corrupt`.
pub async fn get_small(store: &dyn ObjectStore, key: &ObjectKey, most: u64) -> Result<Bytes, ObjectError> {
    use futures_util::TryStreamExt;

    let download = store.get(key, Part::default()).await?;
    if download.bytes > most {
        return Err(ObjectError::Corrupt(format!(
            "`{key}` has {} bytes, more than the {most} expected",
            download.bytes
        )));
    }
    let length = download.bytes;
    let whole = download
        .body
        .try_fold(Vec::new(), |mut whole, chunk| async move {
            whole.extend_from_slice(&chunk);
            Ok(whole)
        })
        .await?;
    if whole.len() as u64 != length {
        return Err(ObjectError::Corrupt(format!("`{key}` has {length} bytes, {} came", whole.len())));
    }
    Ok(whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_read_back() {
        for (text, shown) in [
            ("file:data/backups", "file:data/backups"),
            ("file:/srv/backups", "file:/srv/backups"),
            ("file:///srv/backups", "file:/srv/backups"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://my.bucket/atlas/a", "s3://my.bucket/atlas/a"),
            ("s3://bucket/atlas/", "s3://bucket/atlas"),
        ] {
            let destination = Destination::parse(text).unwrap();
            assert_eq!(destination.to_string(), shown);
            assert_eq!(Destination::parse(shown), Ok(destination));
        }
        for bad in [
            "",
            "file:",
            "file://host/x",
            "/srv",
            "s3:bucket",
            "s3://",
            "s3:///x",
            "s3://b/../x",
            "s3://b//x",
            "s3://k:s@b/x",
            "S3://b",
        ] {
            assert!(Destination::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_plain_words() {
        for good in ["format", "t000001/0000000001.json", "a/b-c_D.9"] {
            assert_eq!(ObjectKey::parse(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(MOST_KEY_BYTES + 1);
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", ".hidden", "a b", "ü", "a\nb", "a\\b", long.as_str()] {
            assert!(ObjectKey::parse(bad).is_none(), "{bad:?}");
        }
    }
}
