//! Which file a database is.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// The inode and when it was made: `cp`, `mv` and a restore change both or either. The device is not part of it: its number is given at boot, and a
/// restart of the machine is no other database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The inode.
    pub inode: u64,
    /// Seconds since 1970 and nanoseconds; zeros where the file system does not know.
    pub born: (u64, u32),
}

impl Identity {
    /// Of the file at `path`, by its attributes.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let about = statx(CWD, path, AtFlags::empty(), StatxFlags::INO | StatxFlags::BTIME)?;
        let knows_birth = about.stx_mask & StatxFlags::BTIME.bits() != 0;
        let born = match knows_birth {
            true => (about.stx_btime.tv_sec.cast_unsigned(), about.stx_btime.tv_nsec),
            false => (0, 0),
        };
        Ok(Self { inode: about.stx_ino, born })
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "inode {} of {}.{:09}", self.inode, self.born.0, self.born.1)
    }
}
