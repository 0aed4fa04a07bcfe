//! A directory of logs, held open: what is done in it is done relative to the open directory, and follows no link.
//!
//! It is reached from `/` one component after the other, none of which may be a link. So nobody who can write somewhere on the way leads us elsewhere,
//! and whoever replaces the directory while we work replaces it for others.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use crate::clock::Timestamp;

/// Files and folders that are never touched, whatever a rule says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// The sidecar's own directory, and all below it.
    pub state_directory: PathBuf,
    /// The database, with the files beside it.
    pub files: Vec<PathBuf>,
}

/// What a file is on its device, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }

    fn of(path: &Path) -> Option<Self> {
        rustix::fs::stat(path).ok().map(|about| Self::new(about.st_dev, about.st_ino))
    }
}

/// A name in the directory, and what it stood for when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub name: OsString,
    pub identity: Identity,
    /// Whether it is a regular file.
    pub regular: bool,
    /// How many names it has.
    pub links: u64,
    pub size: u64,
    pub modified: Timestamp,
}

impl Seen {
    fn new(name: OsString, about: &Stat) -> Self {
        // Whole nanoseconds since 1970, cut to milliseconds.
        let millis = about.st_mtime.saturating_mul(1000).saturating_add(about.st_mtime_nsec as i64 / 1_000_000);
        Self {
            name,
            identity: Identity::new(about.st_dev, about.st_ino),
            regular: FileType::from_raw_mode(about.st_mode) == FileType::RegularFile,
            links: about.st_nlink,
            size: u64::try_from(about.st_size).unwrap_or(0),
            modified: Timestamp::from_millis(millis),
        }
    }
}

/// Why a directory is not worked in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// It does not exist.
    Missing,
    /// It must not be, or cannot be.
    Refused(String),
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    device: u64,
    guarded: Vec<Identity>,
}

impl Directory {
    /// Opens the directory at `path`, which is absolute and without `..`.
    pub(super) fn open(path: &Path, guarded: &Guarded) -> Result<Self, Closed> {
        let refused = |what: &str| Closed::Refused(what.to_owned());
        let states = Identity::of(&guarded.state_directory);
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut fd = rustix::fs::open("/", flags | OFlags::PATH, Mode::empty()).map_err(|e| failed("/".as_ref(), e))?;
        let mut names = 0;
        for component in path.components() {
            match component {
                Component::RootDir => continue,
                Component::Normal(name) => {
                    fd = rustix::fs::openat(&fd, name, flags | OFlags::PATH, Mode::empty())
                        .map_err(|e| not_entered(&fd, name, e))?;
                }
                Component::CurDir | Component::ParentDir | Component::Prefix(_) => {
                    return Err(refused("its path is not absolute, or has `..` in it"));
                }
            }
            names += 1;
            let about = rustix::fs::fstat(&fd).map_err(|e| failed(path, e))?;
            if states == Some(Identity::new(about.st_dev, about.st_ino)) {
                return Err(refused("it is, or lies in, the sidecar's own `state_directory`"));
            }
        }
        if names == 0 {
            return Err(refused("it is the root of the file system"));
        }
        let fd = rustix::fs::openat(&fd, ".", flags | OFlags::RDONLY, Mode::empty()).map_err(|e| failed(path, e))?;
        let about = rustix::fs::fstat(&fd).map_err(|e| failed(path, e))?;
        let itself = Identity::new(about.st_dev, about.st_ino);
        if std::env::home_dir().and_then(|home| Identity::of(&home)) == Some(itself) {
            return Err(refused("it is a home directory"));
        }
        // Sticky or not: what lies there is anybody's, and not logs alone.
        if Mode::from_raw_mode(about.st_mode).contains(Mode::WOTH) {
            return Err(refused("everybody may write to it"));
        }
        let guarded = guarded.files.iter().filter_map(|path| Identity::of(path)).collect();
        Ok(Self { fd, device: about.st_dev, guarded })
    }

    /// Hands all names to `each` that `wanted` wants, with what they stand for.
    pub(super) fn list(&self, wanted: impl Fn(&[u8]) -> bool, mut each: impl FnMut(Seen)) -> io::Result<()> {
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || !wanted(name) {
                continue;
            }
            match self.look(&OsString::from_vec(name.to_vec())) {
                Ok(seen) => each(seen),
                // It went meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What `name` stands for.
    pub(super) fn look(&self, name: &OsStr) -> io::Result<Seen> {
        let about = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Seen::new(name.to_owned(), &about))
    }

    /// Whether `seen` lies on the directory's own device: no other mount.
    pub(super) fn holds(&self, seen: &Seen) -> bool {
        seen.identity.device == self.device
    }

    /// Whether it is a file that nobody may touch.
    pub(super) fn guards(&self, seen: &Seen) -> bool {
        self.guarded.contains(&seen.identity)
    }

    /// Opens `name` without waiting for anybody, as a FIFO would.
    pub(super) fn open_file(&self, name: &OsStr, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// What an open file is, under `name`.
    pub(super) fn look_into(file: &File, name: &OsStr) -> io::Result<Seen> {
        Ok(Seen::new(name.to_owned(), &rustix::fs::fstat(file)?))
    }

    /// Takes the name away if it still stands for `seen`; `false` if it does not. Between the look and the act lies nothing but the act; whoever
    /// swaps the file in that instant can write to the directory, and so could have taken it away.
    pub(super) fn unlink(&self, seen: &Seen) -> io::Result<bool> {
        match self.look(&seen.name) {
            Ok(now) if now == *seen => {}
            Ok(_) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        }
        rustix::fs::unlinkat(&self.fd, &seen.name, AtFlags::empty())?;
        Ok(true)
    }

    /// Takes away a name that is our own.
    pub(super) fn unlink_own(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Gives `from` the name `to`, if nothing has it.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE)?)
    }

    /// Makes names that were given or taken survive a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Bytes that the file system has left for us.
    pub(super) fn free(&self) -> io::Result<u64> {
        let about = rustix::fs::fstatvfs(&self.fd)?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }
}

/// Why a component of the path was not entered.
fn not_entered(parent: &impl AsFd, name: &OsStr, error: Errno) -> Closed {
    let is_link = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|about| FileType::from_raw_mode(about.st_mode) == FileType::Symlink);
    let name = name.to_string_lossy().escape_debug().to_string();
    match error {
        Errno::NOENT => Closed::Missing,
        _ if is_link => Closed::Refused(format!("`{name}` on its path is a link; write where it leads to")),
        Errno::NOTDIR => Closed::Refused(format!("`{name}` on its path is not a directory")),
        e => failed(name.as_ref(), e),
    }
}

fn failed(path: &Path, error: Errno) -> Closed {
    Closed::Refused(format!("`{}` cannot be opened: {}", path.display(), io::Error::from(error)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn opened() -> (tempfile::TempDir, PathBuf, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("logs");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.log"), "old").unwrap();
        let directory = Directory::open(&path, &Guarded::default()).unwrap();
        (folder, path, directory)
    }

    #[test]
    fn r21_a_directory_that_is_replaced_meanwhile_is_replaced_for_others() {
        let (folder, path, directory) = opened();
        let seen = directory.look("a.log".as_ref()).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("a.log"), "precious").unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(directory.unlink(&seen).unwrap());
        assert!(!folder.path().join("moved/a.log").exists());
        assert_eq!(fs::read_to_string(elsewhere.join("a.log")).unwrap(), "precious");
    }

    #[test]
    fn r21_a_name_that_stands_for_something_else_by_now_stays() {
        let (_folder, path, directory) = opened();
        let seen = directory.look("a.log".as_ref()).unwrap();
        let log = path.join("a.log");
        // Written to, replaced by another file, by a link, by a directory, given another name; gone.
        let changes: [&dyn Fn(); 6] = [
            &|| fs::write(&log, "longer than before").unwrap(),
            &|| {
                fs::write(path.join("b"), "old").unwrap();
                fs::rename(path.join("b"), &log).unwrap();
            },
            &|| {
                fs::remove_file(&log).unwrap();
                symlink("b.log", &log).unwrap();
            },
            &|| {
                fs::remove_file(&log).unwrap();
                fs::create_dir(&log).unwrap();
            },
            &|| {
                fs::remove_dir(&log).unwrap();
                fs::write(&log, "old").unwrap();
                fs::hard_link(&log, path.join("c")).unwrap();
            },
            &|| fs::remove_file(&log).unwrap(),
        ];
        for (at, change) in changes.iter().enumerate() {
            change();
            let there = log.symlink_metadata().is_ok();
            assert!(!directory.unlink(&seen).unwrap(), "{at}");
            assert_eq!(log.symlink_metadata().is_ok(), there, "{at}");
        }
    }

    #[test]
    fn no_name_that_is_taken_is_given() {
        let (_folder, path, directory) = opened();
        fs::write(path.join("a.log.gz"), "taken").unwrap();
        let error = directory.rename("a.log".as_ref(), "a.log.gz".as_ref()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(path.join("a.log.gz")).unwrap(), "taken");
    }
}
