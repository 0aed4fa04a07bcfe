//! A file that is written in parts, at their offsets, and gets its name at the end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{Folder, Name, joined, sync};
use crate::object::{ObjectError, ObjectKey, PART_BYTES, Upload};
use crate::task::Pending;

/// An upload to a folder. Dropped, it removes its file.
struct Parts(Arc<Inner>);

struct Inner {
    folder: Arc<Folder>,
    key: ObjectKey,
    file: File,
    temporary: PathBuf,
    /// How long the parts are that are in the file.
    written: Mutex<BTreeMap<u32, usize>>,
    /// How far finishing came.
    stage: Mutex<Stage>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Parts are being written.
    Open,
    /// The file has its name; only its folder has not been synced yet.
    Named,
    /// The file could not be made durable. Asking again would be answered with success although bytes are lost: the kernel tells of a failure once.
    Broken,
}

pub(super) fn begin(folder: Arc<Folder>, key: ObjectKey) -> Result<Box<dyn Upload>, ObjectError> {
    folder.ready()?;
    let (file, temporary) = folder.temporary().map_err(|e| folder.refused("store", key.as_str(), &e))?;
    let (written, stage) = (Mutex::default(), Mutex::new(Stage::Open));
    Ok(Box::new(Parts(Arc::new(Inner { folder, key, file, temporary, written, stage }))))
}

impl Parts {
    async fn blocking(
        &self,
        work: impl FnOnce(&Inner) -> Result<(), ObjectError> + Send + 'static,
    ) -> Result<(), ObjectError> {
        let inner = Arc::clone(&self.0);
        joined(spawn_blocking(move || work(&inner)).await)
    }
}

impl Upload for Parts {
    fn part(&self, number: u32, bytes: Bytes) -> Pending<'_, Result<(), ObjectError>> {
        Box::pin(self.blocking(move |upload| upload.part(number, &bytes)))
    }

    fn finish(&self, parts: u32) -> Pending<'_, Result<(), ObjectError>> {
        Box::pin(self.blocking(move |upload| upload.finish(parts)))
    }

    fn abort(&self) -> Pending<'_, Result<(), ObjectError>> {
        Box::pin(self.blocking(|upload| match fs::remove_file(&upload.temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(upload.refused(&e)),
            _ => Ok(()),
        }))
    }
}

impl Inner {
    fn part(&self, number: u32, bytes: &[u8]) -> Result<(), ObjectError> {
        assert!(number > 0, "parts are numbered from 1");
        let offset = u64::from(number - 1) * PART_BYTES as u64;
        self.file.write_all_at(bytes, offset).map_err(|e| self.refused(&e))?;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(number, bytes.len());
        Ok(())
    }

    fn finish(&self, parts: u32) -> Result<(), ObjectError> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if *stage == Stage::Broken {
            return Err(ObjectError::Corrupt(format!("`{}` was not made durable: begin anew", self.key)));
        }
        if *stage == Stage::Open {
            self.whole(parts)?;
            self.folder.look()?;
            if let Err(e) = self.file.sync_all() {
                *stage = Stage::Broken;
                return Err(ObjectError::Corrupt(format!("`{}` was not made durable: {e}", self.key)));
            }
            // Syncing the folder is part of this; where only that fails, the name is there and another try syncs again.
            let named = self.folder.name(&self.temporary, &self.folder.path(&self.key), Name::Take);
            if named.is_ok() || !self.temporary.exists() {
                *stage = Stage::Named;
            }
            return named.map_err(|e| self.refused(&e));
        }
        let target = self.folder.path(&self.key);
        sync(target.parent().unwrap_or(&self.folder.root)).map_err(|e| self.refused(&e))
    }

    /// Parts 1 to `parts`, all there and of the right length; what is behind them is cut off.
    fn whole(&self, parts: u32) -> Result<(), ObjectError> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        for number in 1..=parts.max(1) {
            match written.get(&number) {
                Some(length) if number == parts || *length == PART_BYTES => bytes += *length as u64,
                Some(length) => {
                    return Err(ObjectError::Corrupt(format!(
                        "part {number} of `{}` has only {length} bytes",
                        self.key
                    )));
                }
                None => return Err(ObjectError::Corrupt(format!("part {number} of `{}` was not stored", self.key))),
            }
        }
        self.file.set_len(bytes).map_err(|e| self.refused(&e))
    }

    fn refused(&self, error: &io::Error) -> ObjectError {
        self.folder.refused("store", self.key.as_str(), error)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Gone already where it got its name.
        let _ = fs::remove_file(&self.temporary);
    }
}
