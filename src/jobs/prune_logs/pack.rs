//! Compressing a file that nobody writes any more: `NAME` becomes `NAME.gz`, with the same owner, mode and time.
//!
//! 1. Write `.atlas-sidecar.gz.tmp`, mode 0600, under a lock on it: only one process compresses in a directory, and what a dead one left
//!    behind is written over.
//! 2. Read it back and compare it with `NAME`, byte by byte; give it owner, mode and time; fsync.
//! 3. Rename it to `NAME.gz`, which must not exist; fsync the directory.
//! 4. Unlink `NAME`, if it is still what was read.
//!
//! A crash before 3 leaves `NAME`; one after 3 leaves both, which the next run finds equal, and goes on with 4. A `NAME.gz` that is something
//! else is never touched. Access lists and extended attributes are not carried over.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::{FlockOperation, OFlags};

use super::directory::{Directory, Seen};

/// What is being written.
const TEMPORARY: &str = ".atlas-sidecar.gz.tmp";

/// Bytes between two looks at whether to stop.
const BLOCK: usize = 128 << 10;

/// What became of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packed {
    /// It is compressed now, and this many bytes smaller.
    Smaller(u64),
    /// It stays as it is, because of this.
    Kept(&'static str),
    /// It was to stop.
    Stopped,
}

/// Compresses `seen`.
pub(super) fn pack(directory: &Directory, seen: &Seen, stop: &AtomicBool) -> io::Result<Packed> {
    let mut source = match directory.open_file(&seen.name, OFlags::RDONLY) {
        Ok(source) => source,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Packed::Kept("changed")),
        Err(e) => return Err(e),
    };
    if Directory::look_into(&source, &seen.name)? != *seen {
        return Ok(Packed::Kept("changed"));
    }
    let mut target = seen.name.clone();
    target.push(".gz");
    match directory.look(&target) {
        Ok(there) => return finish_earlier(directory, seen, &mut source, &there, stop),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    // What becomes smaller mostly: the application should not meet a full disk because of us.
    if directory.free()? < seen.size {
        return Ok(Packed::Kept("no_space"));
    }
    let Some(temporary) = Temporary::take(directory)? else { return Ok(Packed::Kept("busy")) };
    temporary.fill(seen, &mut source, &target, stop)
}

/// An earlier run was ended after the rename, if `there` holds what `seen` does.
fn finish_earlier(
    directory: &Directory,
    seen: &Seen,
    source: &mut File,
    there: &Seen,
    stop: &AtomicBool,
) -> io::Result<Packed> {
    if !there.regular || there.links > 1 || there.modified != seen.modified {
        return Ok(Packed::Kept("other_gz"));
    }
    let packed = directory.open_file(&there.name, OFlags::RDONLY)?;
    if Directory::look_into(&packed, &there.name)? != *there {
        return Ok(Packed::Kept("changed"));
    }
    match is_same(source, &packed, stop) {
        Ok(Some(true)) => {}
        Ok(None) => return Ok(Packed::Stopped),
        // No gzip, or a torn one.
        Ok(Some(false)) | Err(_) => return Ok(Packed::Kept("other_gz")),
    }
    packed.sync_all()?;
    directory.sync()?;
    unlink_source(directory, seen, there.size)
}

fn unlink_source(directory: &Directory, seen: &Seen, size: u64) -> io::Result<Packed> {
    match directory.unlink(seen)? {
        true => Ok(Packed::Smaller(seen.size.saturating_sub(size))),
        false => Ok(Packed::Kept("changed")),
    }
}

/// The file that is being written; its name goes when it is dropped, unless it has got another one.
struct Temporary<'d> {
    directory: &'d Directory,
    file: File,
    renamed: bool,
}

impl<'d> Temporary<'d> {
    /// Makes it, or takes one over whose owner is gone; nothing where somebody is at work with it, or it is not ours.
    fn take(directory: &'d Directory) -> io::Result<Option<Self>> {
        let name = OsStr::new(TEMPORARY);
        let file = directory.open_file(name, OFlags::RDWR | OFlags::CREATE)?;
        let about = file.metadata()?;
        let ours = about.is_file() && about.nlink() == 1 && about.uid() == rustix::process::geteuid().as_raw();
        if !ours || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // Whoever had it may have renamed it before we got the lock: then it is a `NAME.gz`.
        match directory.look(name) {
            Ok(seen) if seen == Directory::look_into(&file, name)? => {}
            Ok(_) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        }
        let made = Self { directory, file, renamed: false };
        made.file.set_permissions(Permissions::from_mode(0o600))?;
        made.file.set_len(0)?;
        Ok(Some(made))
    }

    fn fill(mut self, seen: &Seen, source: &mut File, target: &OsString, stop: &AtomicBool) -> io::Result<Packed> {
        let mut encoder = GzEncoder::new(&self.file, Compression::default());
        if !copy(source, &mut encoder, stop)? {
            return Ok(Packed::Stopped);
        }
        encoder.finish()?;
        match is_same(source, &self.file, stop)? {
            Some(true) => {}
            Some(false) => return Ok(Packed::Kept("changed")),
            None => return Ok(Packed::Stopped),
        }
        if Directory::look_into(source, &seen.name)? != *seen {
            return Ok(Packed::Kept("changed"));
        }
        if !self.dress(source)? {
            return Ok(Packed::Kept("owner"));
        }
        let size = self.file.metadata()?.len();
        match self.directory.rename(OsStr::new(TEMPORARY), target) {
            Ok(()) => self.renamed = true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Packed::Kept("other_gz")),
            Err(e) => return Err(e),
        }
        self.directory.sync()?;
        unlink_source(self.directory, seen, size)
    }

    /// Owner, mode and time of `source`; `false` where the owner cannot be given: whoever read the log might not be able to any more.
    fn dress(&self, source: &File) -> io::Result<bool> {
        let (wanted, have) = (source.metadata()?, self.file.metadata()?);
        if (wanted.uid(), wanted.gid()) != (have.uid(), have.gid())
            && std::os::unix::fs::fchown(&self.file, Some(wanted.uid()), Some(wanted.gid())).is_err()
        {
            return Ok(false);
        }
        self.file.set_permissions(Permissions::from_mode(wanted.mode() & 0o777))?;
        self.file.set_modified(wanted.modified()?)?;
        self.file.sync_all()?;
        Ok(true)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // What stays is written over by the next one.
            let _ = self.directory.unlink_own(OsStr::new(TEMPORARY));
        }
    }
}

/// Copies all; `false` where it was to stop.
fn copy(source: &mut File, to: &mut impl Write, stop: &AtomicBool) -> io::Result<bool> {
    let mut block = vec![0; BLOCK];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match source.read(&mut block)? {
            0 => return Ok(true),
            count => to.write_all(&block[..count])?,
        }
    }
}

/// Whether `packed` decompresses to what `source` holds; nothing where it was to stop.
fn is_same(source: &mut File, packed: &File, stop: &AtomicBool) -> io::Result<Option<bool>> {
    source.rewind()?;
    let mut compressed = packed;
    compressed.rewind()?;
    let mut packed = BufReader::with_capacity(BLOCK, MultiGzDecoder::new(BufReader::with_capacity(BLOCK, packed)));
    let mut source = BufReader::with_capacity(BLOCK, source);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        use io::BufRead;
        let (ours, theirs) = (source.fill_buf()?, packed.fill_buf()?);
        let count = ours.len().min(theirs.len());
        if count == 0 {
            return Ok(Some(ours.len() == theirs.len()));
        }
        if ours[..count] != theirs[..count] {
            return Ok(Some(false));
        }
        source.consume(count);
        packed.consume(count);
    }
}
