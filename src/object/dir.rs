//! A folder as a store: what is there after a power cut is whole, and what was said to be stored is there.
//!
//! An object's bytes go into a temporary file, which is synced, then gets its name (`rename`, or `link` for [`ObjectStore::create`], which fails where the
//! name is taken), then its folder is synced. Temporary files lie in the folder itself under names that no key can have (`.tmp-…`); what a crash leaves of
//! them is removed by the first writing of a later run, when it is a day old.
//!
//! The note of an object is a file beside it, `.NAME.note`, which is written first and removed last: without its object it says nothing, and the next creation of the object writes over
//! it. A lock on the destination's folder keeps another writer, or one that deletes, from the moment between the two.
//!
//! # A disk that is not there
//!
//! Backups that go to the system's disk because theirs is not mounted fill it, and nobody looks for them there. So the folder is made by the first
//! writing only as long as it was never seen; after that, one that is missing is an error, and so is another one in its place that is empty, which is what
//! the mount point of a lost disk looks like. (Another one with something in it is taken for the same disk, mounted again: network file systems give
//! new numbers to the same folders.)

mod listing;
mod upload;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use tokio::task::spawn_blocking;
use tracing::{debug, info};

use super::{Download, ObjectError, ObjectKey, ObjectStore, Page, Part, Upload, check_note};
use crate::clock::{Clock, Timestamp};
use crate::secret::private_folder;
use crate::task::Pending;

/// What the names of temporary files begin with: no word of a key begins with a dot.
const TEMPORARY: &str = ".tmp-";

/// How old a temporary file is when whoever wrote it is surely gone. Each part that is stored makes it young again.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 3600);

/// How much of a file is read at a time.
const CHUNK: u64 = 1 << 20;

/// A folder.
pub struct Dir(Arc<Folder>);

/// What the work on other threads shares.
struct Folder {
    root: PathBuf,
    clock: Clock,
    /// Device and inode of the folder when it was last taken for ours; nothing before it was ever seen.
    seen: Mutex<Option<(u64, u64)>>,
    swept: AtomicBool,
}

impl Dir {
    /// The folder at `root`, which need not exist yet. Nothing is written.
    pub fn open(root: PathBuf, clock: Clock) -> Self {
        let seen = fs::metadata(&root).ok().map(|about| (about.dev(), about.ino()));
        Self(Arc::new(Folder { root, clock, seen: Mutex::new(seen), swept: AtomicBool::new(false) }))
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let folder = Arc::clone(&self.0);
        joined(spawn_blocking(move || work(&folder)).await)
    }
}

/// A panic on the other thread goes on in this one.
fn joined<T>(result: Result<Result<T, ObjectError>, tokio::task::JoinError>) -> Result<T, ObjectError> {
    result.unwrap_or_else(|e| match e.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(e) => Err(ObjectError::Transient(e.to_string())),
    })
}

impl ObjectStore for Dir {
    fn place(&self) -> String {
        format!("file:{}", self.0.root.display())
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        let key = key.clone();
        Box::pin(self.blocking(move |folder| folder.store(&key, &bytes, Name::Take)))
    }

    fn create<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        let key = key.clone();
        Box::pin(self.blocking(move |folder| folder.store(&key, &bytes, Name::New)))
    }

    fn create_noted<'a>(
        &'a self,
        key: &'a ObjectKey,
        bytes: Bytes,
        note: &'a str,
    ) -> Pending<'a, Result<(), ObjectError>> {
        let (key, note) = (key.clone(), note.to_owned());
        Box::pin(self.blocking(move |folder| folder.store_noted(&key, &bytes, &note)))
    }

    fn upload<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<Box<dyn Upload>, ObjectError>> {
        let (key, shared) = (key.clone(), Arc::clone(&self.0));
        Box::pin(self.blocking(move |_| upload::begin(shared, key)))
    }

    fn get<'a>(&'a self, key: &'a ObjectKey, part: Part) -> Pending<'a, Result<Download, ObjectError>> {
        let key = key.clone();
        Box::pin(self.blocking(move |folder| folder.read(&key, &part)))
    }

    fn list<'a>(&'a self, prefix: &'a str, from: Option<&'a str>) -> Pending<'a, Result<Page, ObjectError>> {
        let (prefix, from) = (prefix.to_owned(), from.map(str::to_owned));
        Box::pin(self.blocking(move |folder| {
            let there = folder.look()?;
            if !there {
                return Ok(Page::default());
            }
            listing::page(&folder.root, &prefix, from.as_deref()).map_err(|e| folder.refused("list", &prefix, &e))
        }))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<(), ObjectError>> {
        let key = key.clone();
        Box::pin(self.blocking(move |folder| folder.remove(&key)))
    }
}

/// What a temporary file does about an object that has its name already.
#[derive(Clone, Copy, PartialEq)]
enum Name {
    /// Replaces it.
    Take,
    /// Fails.
    New,
}

impl Folder {
    /// Whether the folder is there, and is the one it was.
    fn look(&self) -> Result<bool, ObjectError> {
        let root = self.root.display();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let about = match fs::metadata(&self.root) {
            Ok(about) if about.is_dir() => about,
            Ok(_) => return Err(ObjectError::Denied(format!("`{root}` is not a folder"))),
            Err(e) if e.kind() == ErrorKind::NotFound => match *seen {
                None => return Ok(false),
                Some(_) => {
                    return Err(ObjectError::Denied(format!("the folder `{root}` is gone: is its disk not mounted?")));
                }
            },
            Err(e) => return Err(self.refused("look at", "", &e)),
        };
        let now = (about.dev(), about.ino());
        if seen.is_some_and(|before| before != now) {
            let empty = fs::read_dir(&self.root).map_err(|e| self.refused("look at", "", &e))?.next().is_none();
            if empty {
                return Err(ObjectError::Denied(format!(
                    "`{root}` is another folder than before, and empty: is its disk not mounted?"
                )));
            }
            info!(folder = %root, "another folder in the destination's place, with something in it: taken for the same disk, mounted again");
        }
        *seen = Some(now);
        Ok(true)
    }

    /// The same before a writing: makes the folder if it was never seen, and removes what crashes left in it.
    fn ready(&self) -> Result<(), ObjectError> {
        if !self.look()? {
            private_folder(&self.root).map_err(|e| self.refused("make", "", &e))?;
            // Its own name must survive a power cut too.
            sync(self.root.parent().unwrap_or(&self.root)).map_err(|e| self.refused("make", "", &e))?;
            self.look()?;
        }
        if !self.swept.swap(true, Ordering::Relaxed)
            && let Err(e) = self.sweep()
        {
            debug!(folder = %self.root.display(), error = %e, "cannot look for what crashes left behind");
        }
        Ok(())
    }

    /// Removes temporary files of writers that are gone.
    fn sweep(&self) -> io::Result<()> {
        let before = self.clock.now().before(LEFT_BEHIND);
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                continue;
            }
            // Another sidecar may be sweeping too.
            let Ok(about) = entry.metadata() else { continue };
            if about.is_file() && modified(&about) < before && fs::remove_file(entry.path()).is_ok() {
                info!(file = %entry.path().display(), "removed what an unfinished backup left behind");
            }
        }
        Ok(())
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// A new temporary file, which only we may read.
    fn temporary(&self) -> io::Result<(File, PathBuf)> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let path = self.root.join(format!("{TEMPORARY}{:016x}", u64::from_le_bytes(random)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((file, path))
    }

    fn store_noted(&self, key: &ObjectKey, bytes: &[u8], note: &str) -> Result<(), ObjectError> {
        check_note(note)?;
        self.ready()?;
        let stored = || {
            let _alone = self.alone()?;
            // A link that leads nowhere is there, too.
            if fs::symlink_metadata(self.path(key)).is_ok() {
                // Perhaps our own, of a try that failed at the next step: what the caller finds must be durable.
                return self.path(key).parent().map_or(Ok(()), sync).and(Err(ErrorKind::AlreadyExists.into()));
            }
            self.write(note.as_bytes(), &self.note_path(key), Name::Take)?;
            self.write(bytes, &self.path(key), Name::New)
        };
        stored().map_err(|e| self.refused("store", key.as_str(), &e))
    }

    /// Keeps others from objects with notes, until it is dropped.
    fn alone(&self) -> io::Result<Flock> {
        Flock::lock(File::open(&self.root)?)
    }

    /// Where the note of `key` is: no key names it.
    fn note_path(&self, key: &ObjectKey) -> PathBuf {
        let mut path = self.path(key);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        path.set_file_name(format!(".{name}.note"));
        path
    }

    /// A whole small object.
    fn store(&self, key: &ObjectKey, bytes: &[u8], how: Name) -> Result<(), ObjectError> {
        self.ready()?;
        self.write(bytes, &self.path(key), how).map_err(|e| self.refused("store", key.as_str(), &e))
    }

    /// Writes the file `target`, durably.
    fn write(&self, bytes: &[u8], target: &Path, how: Name) -> io::Result<()> {
        let (mut file, path) = self.temporary()?;
        let named = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| self.name(&path, target, how));
        if named.is_err() || how == Name::New {
            // Gone already where it was renamed; what cannot be removed is swept one day.
            let _ = fs::remove_file(&path);
        }
        named
    }

    /// Gives the finished file at `path` the name `target`, durably.
    fn name(&self, path: &Path, target: &Path, how: Name) -> io::Result<()> {
        let parent = target.parent().unwrap_or(&self.root);
        // A deletion may remove the folder between these steps, because it was empty: then again, a few times.
        for _ in 0..5 {
            let named = self.folders(parent).and_then(|()| match how {
                Name::Take => fs::rename(path, target),
                Name::New => link(path, target),
            });
            match named {
                Err(e) if e.kind() == ErrorKind::NotFound && path.exists() => {}
                // It may be our own, of a try that failed at the next step: what the caller finds must be durable.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => return sync(parent).and(Err(e)),
                named => return named.and_then(|()| sync(parent)),
            }
        }
        Err(io::Error::new(ErrorKind::ResourceBusy, "its folder is removed again and again"))
    }

    /// Makes the folders down to `folder`, durably. Never the destination itself.
    fn folders(&self, folder: &Path) -> io::Result<()> {
        if folder == self.root || folder.is_dir() {
            return Ok(());
        }
        let above = folder.parent().unwrap_or(&self.root);
        self.folders(above)?;
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
            _ => sync(above),
        }
    }

    fn read(&self, key: &ObjectKey, part: &Part) -> Result<Download, ObjectError> {
        if !self.look()? {
            return Err(ObjectError::Missing(format!("`{key}` in `{}`, which does not exist", self.root.display())));
        }
        let refused = |e: io::Error| match e.kind() {
            ErrorKind::NotFound => ObjectError::Missing(format!("`{key}` in `{}`", self.root.display())),
            _ => self.refused("read", key.as_str(), &e),
        };
        let file = File::open(self.path(key)).map_err(refused)?;
        let about = file.metadata().map_err(refused)?;
        if !about.is_file() {
            return Err(ObjectError::Missing(format!("`{key}` in `{}`: it is not a file", self.root.display())));
        }
        let version = format!("{:x}-{:x}-{:x}.{:x}", about.ino(), about.len(), about.mtime(), about.mtime_nsec());
        if part.version.as_ref().is_some_and(|wanted| *wanted != version) {
            return Err(ObjectError::Corrupt(format!("`{key}` in `{}` was replaced meanwhile", self.root.display())));
        }
        let bytes = about.len();
        let to = part.to.unwrap_or(bytes).min(bytes);
        if part.from >= to && part.from > 0 {
            return Err(ObjectError::Corrupt(format!("`{key}` has {bytes} bytes, none at {}", part.from)));
        }
        let place = format!("`{key}` in `{}`", self.root.display());
        let note = match fs::read_to_string(self.note_path(key)) {
            Ok(note) => Some(note),
            // Removed since the file was opened, after its object: then that one is gone, too.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                fs::metadata(self.path(key)).map_err(refused)?;
                None
            }
            Err(e) => return Err(refused(e)),
        };
        Ok(Download { bytes, version: Some(version), note, body: Box::pin(body(file, place, part.from, to)) })
    }

    fn remove(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        if !self.look()? {
            return Ok(());
        }
        let path = self.path(key);
        let mut folder = path.parent().unwrap_or(&self.root);
        let refused = |e: io::Error| self.refused("delete", key.as_str(), &e);
        {
            let _alone = self.alone().map_err(refused)?;
            match fs::remove_file(&path).and_then(|()| sync(folder)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(refused(e)),
                _ => {}
            }
            // What cannot be removed says nothing without its object.
            let _ = fs::remove_file(self.note_path(key));
        }
        // A bucket has no folders: the last object takes its own with it.
        while folder != self.root && fs::remove_dir(folder).is_ok() {
            folder = folder.parent().unwrap_or(&self.root);
        }
        Ok(())
    }

    /// The error for what the system answered.
    fn refused(&self, what: &str, key: &str, error: &io::Error) -> ObjectError {
        let place = match key {
            "" => format!("`{}`", self.root.display()),
            key => format!("`{key}` in `{}`", self.root.display()),
        };
        named(&format!("cannot {what} {place}"), &place, error)
    }
}

/// What the caller may do next about a system's error.
fn named(words: &str, place: &str, error: &io::Error) -> ObjectError {
    use ErrorKind::{
        AlreadyExists, InvalidFilename, IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem,
    };
    match error.kind() {
        AlreadyExists => ObjectError::Exists(place.to_owned()),
        PermissionDenied | ReadOnlyFilesystem | NotADirectory | IsADirectory | InvalidFilename => {
            ObjectError::Denied(format!("{words}: {error}"))
        }
        // A full disk too: retention, or somebody, may make room. And a folder that vanished while we wrote to it.
        _ => ObjectError::Transient(format!("{words}: {error}")),
    }
}

/// A second name for `path`, which fails with `AlreadyExists` where it is taken.
fn link(path: &Path, target: &Path) -> io::Result<()> {
    match fs::hard_link(path, target) {
        // NFS: the answer to a link that was made may be lost, and the question asked again (open(2), O_EXCL).
        Err(e) if e.kind() == ErrorKind::AlreadyExists && fs::metadata(path)?.nlink() == 2 => Ok(()),
        // FAT and some network file systems have no links; most of them can rename without replacing.
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            renameat_with(CWD, path, CWD, target, RenameFlags::NOREPLACE).map_err(io::Error::from)
        }
        linked => linked,
    }
}

/// A lock on an open file, until it is dropped.
struct Flock(File);

impl Flock {
    fn lock(file: File) -> io::Result<Self> {
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(Self(file))
    }
}

impl Drop for Flock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Makes the names in `folder` durable.
fn sync(folder: &Path) -> io::Result<()> {
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

fn modified(about: &fs::Metadata) -> Timestamp {
    let since = about.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Timestamp::from_millis(0).after(since)
}

/// The bytes of `file` from `at` to `to`, a chunk at a time.
fn body(file: File, place: String, at: u64, to: u64) -> impl stream::Stream<Item = Result<Bytes, ObjectError>> {
    let shared = Arc::new((file, place));
    stream::try_unfold(at, move |at| {
        let shared = Arc::clone(&shared);
        async move {
            if at >= to {
                return Ok(None);
            }
            let chunk = joined(spawn_blocking(move || chunk(&shared.0, &shared.1, at, to)).await)?;
            let next = at + chunk.len() as u64;
            Ok(Some((chunk, next)))
        }
    })
}

fn chunk(file: &File, place: &str, at: u64, to: u64) -> Result<Bytes, ObjectError> {
    let mut buffer = vec![0; usize::try_from(CHUNK.min(to - at)).unwrap_or(0)];
    match file.read_exact_at(&mut buffer, at) {
        Ok(()) => Ok(buffer.into()),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
            Err(ObjectError::Corrupt(format!("{place} became shorter while it was read")))
        }
        Err(e) => Err(named(&format!("cannot read {place}"), place, &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_becomes_what_to_do_next() {
        use rustix::io::Errno;
        let error = |errno: Errno| named("cannot store `k` in `/d`", "`k` in `/d`", &io::Error::from(errno));
        assert!(matches!(error(Errno::NOSPC), ObjectError::Transient(words) if words.contains("No space left")));
        for errno in [Errno::DQUOT, Errno::FBIG, Errno::IO, Errno::STALE, Errno::NOTCONN, Errno::MFILE, Errno::NOENT] {
            assert!(matches!(error(errno), ObjectError::Transient(_)), "{errno}");
        }
        for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS, Errno::NOTDIR, Errno::ISDIR, Errno::NAMETOOLONG] {
            assert!(matches!(error(errno), ObjectError::Denied(_)), "{errno}");
        }
        assert_eq!(error(Errno::EXIST), ObjectError::Exists("`k` in `/d`".to_owned()));
    }
}
