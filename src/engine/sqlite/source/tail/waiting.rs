//! Who else has locks on the log's index: told by the kernel, without taking one. It never tells of those of this process.

use std::fs::File;

use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};

/// `WAL_WRITE_LOCK`, from `UNIX_SHM_BASE` (120) on: held by who writes.
const WRITER: u64 = 120;
/// `WAL_CKPT_LOCK`: held by who makes a checkpoint.
const CHECKPOINT: u64 = 121;
/// `UNIX_SHM_DMS`: shared by all that have the index open.
const OPEN: u64 = 128;

/// Whether somebody's checkpoint keeps writers out: one of the kinds that wait for readers (H9). A passive one holds the first lock only, a writer the second.
pub fn a_checkpoint_waits(index: &File) -> bool {
    is_locked(index, CHECKPOINT, FlockType::ReadLock) && is_locked(index, WRITER, FlockType::ReadLock)
}

/// Whether anybody else has the index open.
pub fn is_open_elsewhere(index: &File) -> bool {
    is_locked(index, OPEN, FlockType::WriteLock)
}

/// Whether somebody else's lock would keep us from one of kind `wanted` on `byte`.
fn is_locked(index: &File, byte: u64, wanted: FlockType) -> bool {
    let wanted = Flock { start: byte, length: 1, pid: None, typ: wanted, offset_type: FlockOffsetType::Set };
    matches!(fcntl_getlk(index, &wanted), Ok(Some(_)))
}
