//! The folder that folding works in. What a run that was killed left there is gone when the next one begins.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::FoldError;

/// What stays free whatever is folded: the disk is the application's too.
const MARGIN_BYTES: u64 = 64 << 20;

/// The folder, with nothing in it.
pub(super) struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    /// Makes it, where there is room for `bytes`.
    pub(super) fn new(folder: &Path, bytes: u64) -> Result<Self, FoldError> {
        let scratch = Self { folder: folder.to_owned() };
        scratch.emptied().map_err(|error| scratch.failed(error))?;
        let stat = rustix::fs::statvfs(folder).map_err(|e| scratch.failed(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let needed = bytes.saturating_add(MARGIN_BYTES);
        if free < needed {
            return Err(FoldError::NoRoom { folder: folder.to_owned(), free, needed });
        }
        Ok(scratch)
    }

    fn emptied(&self) -> io::Result<()> {
        // Plain pages of the database go there.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// A file in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A new file in it.
    pub(super) fn create(&self, name: &str) -> Result<File, FoldError> {
        let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path(name));
        opened.map_err(|error| self.failed(error))
    }

    pub(super) fn failed(&self, error: io::Error) -> FoldError {
        FoldError::State { folder: self.folder.clone(), error }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is taken away by the next run.
        let _ = self.emptied();
    }
}
