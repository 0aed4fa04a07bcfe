//! What shipping keeps in the state directory: all of it may be lost at the price of a new timeline and a full.
//!
//! ```text
//! backup/owner.json          which timeline is ours, and the newest segment that we committed to it (Held)
//! backup/spool/pending.json  the segment that is on its way: its manifest, as it will be created (Pending)
//! backup/spool/segment       the stored bytes of a pending increment
//! backup/allow-empty         somebody has allowed the next full to be of an empty database
//! ```
//!
//! A file is written beside its place, synced and renamed: it is there as a whole or not at all. The spool's segment is not: it counts only once
//! the pending manifest tells its sum.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::warn;

use super::super::Manifest;
use super::super::claim::Held;
use super::ShipError;
use crate::secret::private_folder;

const OWNER: &str = "owner.json";
const SPOOL: &str = "spool";
const PENDING: &str = "spool/pending.json";
const SEGMENT: &str = "spool/segment";
const ALLOWANCE: &str = "allow-empty";

/// The segment that is on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pending {
    /// Its manifest, as it will be created.
    pub manifest: Manifest,
    /// Whether its bytes are in the spool; otherwise they are in the store already, or there are none.
    pub spooled: bool,
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct State(PathBuf);

impl State {
    pub(super) fn new(state_directory: &Path) -> Self {
        Self(state_directory.join("backup"))
    }

    /// Where the record of the timeline is.
    pub(super) fn owner_file(&self) -> PathBuf {
        self.0.join(OWNER)
    }

    /// Where the bytes of an increment are kept.
    pub(super) fn segment_file(&self) -> PathBuf {
        self.0.join(SEGMENT)
    }

    pub(super) async fn held(&self) -> Result<Option<Held>, ShipError> {
        self.blocking(|state| read(&state.0.join(OWNER))).await
    }

    pub(super) async fn hold(&self, held: &Held) -> Result<(), ShipError> {
        let bytes = json(held);
        self.blocking(move |state| state.write(OWNER, &bytes)).await
    }

    pub(super) async fn pending(&self) -> Result<Option<Pending>, ShipError> {
        self.blocking(|state| read(&state.0.join(PENDING))).await
    }

    pub(super) async fn intend(&self, pending: &Pending) -> Result<(), ShipError> {
        let bytes = json(pending);
        self.blocking(move |state| state.write(PENDING, &bytes)).await
    }

    /// Empties the spool: first what tells of the segment, then the segment.
    pub(super) async fn clear_spool(&self) -> Result<(), ShipError> {
        self.blocking(|state| {
            remove(&state.0.join(PENDING))?;
            remove(&state.0.join(SEGMENT))
        })
        .await
    }

    /// Makes room for a segment in an empty spool.
    pub(super) async fn open_spool(&self) -> Result<tokio::fs::File, ShipError> {
        self.clear_spool().await?;
        let file = self
            .blocking(|state| {
                state.folders()?;
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(state.0.join(SEGMENT))
            })
            .await?;
        Ok(tokio::fs::File::from_std(file))
    }

    /// Bytes in the spool.
    pub(super) async fn spooled_bytes(&self) -> Result<u64, ShipError> {
        self.blocking(|state| match fs::metadata(state.0.join(SEGMENT)) {
            Ok(metadata) => Ok(metadata.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e),
        })
        .await
    }

    /// Allows one full to be of an empty database.
    pub(super) async fn allow_empty(&self) -> Result<(), ShipError> {
        self.blocking(|state| state.write(ALLOWANCE, b"the next full may be of an empty or much smaller database\n"))
            .await
    }

    /// Whether that is allowed; from now on it is not.
    pub(super) async fn take_allowance(&self) -> Result<bool, ShipError> {
        self.blocking(|state| match fs::remove_file(state.0.join(ALLOWANCE)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ShipError> {
        let state = self.clone();
        let done = spawn_blocking(move || work(&state)).await;
        done.map_err(io::Error::other).flatten().map_err(|e| ShipError::State { folder: self.0.clone(), error: e })
    }

    fn folders(&self) -> io::Result<()> {
        private_folder(&self.0)?;
        private_folder(&self.0.join(SPOOL))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.folders()?;
        let file = self.0.join(name);
        let draft = file.with_extension("tmp");
        let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        to.write_all(bytes)?;
        to.sync_all()?;
        fs::rename(&draft, &file)?;
        sync_folder_of(&file)
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("what is kept is JSON")
}

/// A file that cannot be understood is as good as a lost one.
fn read<T: DeserializeOwned>(file: &Path) -> io::Result<Option<T>> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            warn!(file = %file.display(), %error, "a file of the state directory cannot be read and is taken for lost");
            Ok(None)
        }
    }
}

/// Removes a file that may be there, for good.
fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Ok(()) => sync_folder_of(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// What was renamed or removed in a folder survives a crash once the folder is synced.
fn sync_folder_of(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
