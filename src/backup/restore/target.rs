//! Where a restore goes: `FOLDER/NAME` that is to be, made in the private folder `FOLDER/.NAME.restoring`.
//!
//! Whoever restores holds a lock in that folder. A folder whose lock nobody holds was left by a restore that was killed; the next one to the same target takes it
//! over, with nothing of what was in it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::RestoreError;

/// Files that belong to a SQLite database by their names.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Room beyond the database itself: for the file system's own tables, and so that the disk is not full afterwards.
const MARGIN_BYTES: u64 = 16 << 20;

/// A target that this process has to itself.
pub(super) struct Target {
    to: PathBuf,
    folder: PathBuf,
    /// The private folder.
    private: PathBuf,
    /// Open for as long as the target is ours.
    lock: File,
}

/// Takes the private folder away when it is dropped.
pub(super) struct Swept(Arc<Target>);

impl Drop for Swept {
    fn drop(&mut self) {
        self.0.sweep();
    }
}

impl Target {
    /// Refuses what is there already; takes the private folder, empty.
    pub(super) fn take(to: &Path) -> Result<Self, RestoreError> {
        let failed = |error| RestoreError::Io { path: to.to_owned(), error };
        vacant(to)?;
        let (Some(name), Some(folder)) = (to.file_name(), to.parent()) else {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "that is no file's name")));
        };
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() };
        let mut private = std::ffi::OsString::from(".");
        private.push(name);
        private.push(".restoring");
        let private = folder.join(private);
        let lock = locked(&private).map_err(failed)?.ok_or_else(|| RestoreError::Busy(to.to_owned()))?;
        let target = Self { to: to.to_owned(), folder, private, lock };
        target.empty().map_err(failed)?;
        Ok(target)
    }

    /// The file that the database is made in.
    pub(super) fn file(&self) -> PathBuf {
        self.private.join("database")
    }

    /// Whether `bytes` fit.
    pub(super) fn room(&self, bytes: u64) -> Result<(), RestoreError> {
        let stat = rustix::fs::statvfs(&self.folder).map_err(|e| self.failed(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let needed = bytes.saturating_add(MARGIN_BYTES);
        if free < needed {
            return Err(RestoreError::Room { folder: self.folder.clone(), needed, free });
        }
        Ok(())
    }

    /// Gives the database its name; it is complete and durable.
    pub(super) fn publish(&self) -> Result<(), RestoreError> {
        let file = self.file();
        vacant(&self.to)?;
        let durable = || {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            File::open(&file)?.sync_all()
        };
        durable().map_err(|e| self.failed(e))?;
        match name(&file, &self.to) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(RestoreError::Exists(self.to.clone())),
            Err(e) => return Err(self.failed(e)),
        }
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(|e| self.failed(e))
    }

    /// An error of the file system, with the target's name.
    pub(super) fn failed(&self, error: io::Error) -> RestoreError {
        RestoreError::Io { path: self.to.clone(), error }
    }

    /// Takes the private folder away when the result is dropped, whoever else still has the target: a builder's thread ends later than a future.
    pub(super) fn swept(self: &Arc<Self>) -> Swept {
        Swept(Arc::clone(self))
    }

    /// Takes the private folder away, if it is still ours.
    fn sweep(&self) {
        if is_open_at(&self.lock, &self.private.join(LOCK)) {
            // What stays is for the next restore to take away.
            let _ = fs::remove_dir_all(&self.private);
        }
    }

    /// Removes what a restore left that was killed.
    fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.private)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                _ if entry.file_name() == LOCK => {}
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.sweep();
    }
}

/// The lock's name in the private folder.
const LOCK: &str = "lock";

/// Makes the private folder, or finds it, and takes its lock; nothing where somebody has it.
fn locked(private: &Path) -> io::Result<Option<File>> {
    match fs::DirBuilder::new().mode(0o700).create(private) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let found = fs::symlink_metadata(private)?;
    // In a folder that others may write to, a name may have been put there to be followed.
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        let words = format!("`{}` is not a folder of ours", private.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
    }
    fs::set_permissions(private, fs::Permissions::from_mode(0o700))?;
    let path = private.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Whoever had it took the folder away in between.
        Ok(()) if !is_open_at(&file, &path) => Ok(None),
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether `file` is what `path` names.
fn is_open_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

/// Refuses a target that is there, or that has something beside it (H39).
fn vacant(to: &Path) -> Result<(), RestoreError> {
    let there = |path: &Path| match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(RestoreError::Io { path: path.to_owned(), error }),
    };
    if there(to)? {
        return Err(RestoreError::Exists(to.to_owned()));
    }
    for end in BESIDE {
        let mut beside = to.as_os_str().to_owned();
        beside.push(end);
        let beside = PathBuf::from(beside);
        if there(&beside)? {
            return Err(RestoreError::Stray(beside));
        }
    }
    Ok(())
}

/// Renames without replacing; where the file system cannot (`EINVAL`: NFS, some FUSE ones), by a second name and the end of the first.
fn name(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(from, to).and_then(|()| fs::remove_file(from)),
        other => other.map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h39_what_is_there_is_refused_also_beside_it() {
        let scratch = tempfile::tempdir().unwrap();
        let to = scratch.path().join("new.db");
        for beside in BESIDE {
            let stray = scratch.path().join(format!("new.db{beside}"));
            fs::write(&stray, "").unwrap();
            assert!(matches!(Target::take(&to), Err(RestoreError::Stray(path)) if path == stray));
            fs::remove_file(&stray).unwrap();
        }
        std::os::unix::fs::symlink("nowhere", &to).unwrap();
        assert!(matches!(Target::take(&to), Err(RestoreError::Exists(_))), "a dangling link is a file too");
        fs::remove_file(&to).unwrap();
        drop(Target::take(&to).unwrap());
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn one_restore_at_a_time_and_what_a_killed_one_left_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let to = scratch.path().join("new.db");
        let private = scratch.path().join(".new.db.restoring");
        fs::create_dir(&private).unwrap();
        fs::write(private.join("database"), "half").unwrap();
        let target = Target::take(&to).unwrap();
        assert!(!target.file().exists());
        assert_eq!(fs::metadata(&private).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(Target::take(&to), Err(RestoreError::Busy(_))));
        fs::write(target.file(), "whole").unwrap();
        target.publish().unwrap();
        drop(target);
        assert_eq!(fs::read(&to).unwrap(), b"whole");
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o600);
        assert!(!private.exists());
    }

    #[test]
    fn a_target_that_appeared_meanwhile_is_not_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let to = scratch.path().join("new.db");
        let target = Target::take(&to).unwrap();
        fs::write(target.file(), "whole").unwrap();
        fs::write(&to, "somebody's").unwrap();
        assert!(matches!(target.publish(), Err(RestoreError::Exists(_))));
        assert_eq!(name(&target.file(), &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"somebody's");
    }

    #[test]
    fn a_disk_that_is_too_small_is_known_before() {
        let scratch = tempfile::tempdir().unwrap();
        let target = Target::take(&scratch.path().join("new.db")).unwrap();
        target.room(1).unwrap();
        assert!(matches!(target.room(u64::MAX / 2), Err(RestoreError::Room { .. })));
    }
}
