//! The restore: the only code that makes a database of a destination. The command and the drills both use it, because a path that is used in disasters only does
//! not work.
//!
//! ```text
//!   plan ─▶ target taken ─▶ objects fetched ──bounded──▶ decoded ─▶ Building ─▶ durable ─▶ named ─▶ folder durable
//!             (private)      (async, the next           (a thread of its own)              (only now is there a file `to`)
//!                             one ahead)
//! ```
//!
//! - The database is made in a private folder beside the target (`target.rs`) and gets its name when it is whole, checked and durable. Whatever fails or is
//!   cancelled takes the folder with it; one that a `kill -9` left is taken away by the next restore to the same target.
//! - Each object's bytes must have the length and the sums of its manifest; each state on the way must have the digest of its manifest. The last of them is
//!   the mark that was planned: a restore reaches it or fails (H33).
//! - A file `to`, or a `-wal`, `-shm` or `-journal` beside it, is refused: SQLite would merge them into the restored database (H39).
//! - Retention may take an object while it is wanted (H32). [`carry_out`] plans once more then, and says so when that fails as well.

pub(in crate::backup) mod fetch;
pub(in crate::backup) mod meter;
mod target;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

pub use meter::Progress;

use super::codec::{self, CodecError, Identity};
use super::layout::manifest_key;
use super::manifest::{Manifest, Object};
use super::plan::{Moment, Plan, PlanError, plan};
use super::{Catalog, Digest, Kind, Place, Rebuild, RebuildError, Timeline};
use crate::clock::Timestamp;
use crate::object::{ObjectError, ObjectStore};
use fetch::{Body, undecoded};
use meter::Meter;
use target::Target;

/// A restore that is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Reached {
    /// The mark.
    pub place: Place,
    /// When its state was seen.
    pub observed: Timestamp,
    /// The digest of the restored database.
    pub digest: Digest,
    /// Where the database is.
    pub to: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Bytes that were fetched.
    pub fetched_bytes: u64,
    /// Segments that were used.
    pub segments: usize,
    /// How long it took.
    pub took: Duration,
}

/// Why nothing was restored. There is no file then.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is a file already.
    #[error("`{}` exists: a restore goes to a new path only", .0.display())]
    Exists(PathBuf),
    /// There is a file that SQLite would merge into the database.
    #[error("`{}` exists: it would be taken for a part of the restored database", .0.display())]
    Stray(PathBuf),
    /// Somebody else is restoring to the same path.
    #[error("another restore to `{}` is at work", .0.display())]
    Busy(PathBuf),
    /// There is too little room.
    #[error("{free} bytes are free in `{}`, the restore needs {needed}", folder.display())]
    Room {
        /// Where.
        folder: PathBuf,
        /// Bytes that are wanted.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// An object cannot be read without an identity, or with this one.
    #[error("`{key}` cannot be read: {why}")]
    Identity {
        /// Which one.
        key: String,
        /// What is missing.
        why: String,
    },
    /// An object is gone; retention may have taken it since the plan was made.
    #[error("`{0}` is not there any more")]
    Missing(String),
    /// An object cannot be fetched.
    #[error("cannot fetch `{key}`: {error}")]
    Fetch {
        /// Which one.
        key: String,
        /// What the store says.
        error: ObjectError,
    },
    /// What was fetched is not what its manifest says.
    #[error("`{key}` cannot be used: {why}")]
    Damaged {
        /// Which object.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file system does not do its part.
    #[error("cannot restore to `{}`: {error}", path.display())]
    Io {
        /// The target.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
    /// The thread that builds ended without a word.
    #[error("the restore broke off: {0}")]
    Broken(String),
}

/// Makes the database of `plan` in the new file `to`. Dropping the future cancels: nothing remains.
pub async fn restore(
    plan: &Plan,
    store: &Arc<dyn ObjectStore>,
    rebuild: &'static dyn Rebuild,
    identity: Option<&Identity>,
    to: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Reached, RestoreError> {
    let started = Instant::now();
    if let (None, Some(object)) = (identity, objects(plan).find(|object| object.encrypted)) {
        return Err(undecoded(&object.key, CodecError::NoIdentity));
    }
    let target = Arc::new(Target::take(to)?);
    let _swept = target.swept();
    target.room(plan.room_bytes())?;

    let (bodies, incoming) = mpsc::channel(1);
    let work = Work {
        target: Arc::clone(&target),
        rebuild,
        segments: plan.segments.clone(),
        identity: identity.cloned(),
        incoming,
    };
    let built = tokio::task::spawn_blocking(move || work.build());
    let mut meter = Meter::new(plan.fetched_bytes(), progress);
    let (fetched, built) = tokio::join!(fetch::all(store.as_ref(), objects(plan), bodies, &mut meter), built);
    // Where the download failed, the builder only noticed that nothing came any more.
    fetched?;
    built.map_err(|e| RestoreError::Broken(e.to_string()))??;
    target.publish()?;
    Ok(Reached {
        place: plan.mark.place,
        observed: plan.mark.observed,
        digest: plan.mark.digest,
        to: to.to_owned(),
        bytes: plan.database_bytes(),
        fetched_bytes: plan.fetched_bytes(),
        segments: plan.segments.len(),
        took: started.elapsed(),
    })
}

fn objects(plan: &Plan) -> impl Iterator<Item = &Object> {
    plan.segments.iter().filter_map(|manifest| manifest.object.as_ref())
}

/// What happens on a thread of its own.
struct Work {
    target: Arc<Target>,
    rebuild: &'static dyn Rebuild,
    segments: Vec<Manifest>,
    identity: Option<Identity>,
    incoming: mpsc::Receiver<Body>,
}

impl Work {
    fn build(mut self) -> Result<(), RestoreError> {
        let mut building = self.rebuild.begin(&self.target.file()).map_err(|e| self.target.failed(e))?;
        for manifest in &self.segments {
            let Some(object) = &manifest.object else {
                // Nothing changed, which has to be true of what there is.
                let key = manifest_key(manifest.place());
                building.changes(manifest, &mut io::empty()).map_err(|e| self.refused(key.as_str(), e))?;
                continue;
            };
            let body =
                self.incoming.blocking_recv().ok_or_else(|| RestoreError::Broken("no more objects".to_owned()))?;
            let undecoded = |error| undecoded(&object.key, error);
            let mut plain = codec::decode(object, self.identity.as_ref(), Box::new(body)).map_err(undecoded)?;
            match manifest.kind {
                Kind::Full => building.full(manifest, &mut plain),
                _ => building.changes(manifest, &mut plain),
            }
            .map_err(|e| self.refused(&object.key, e))?;
            plain.finish().map_err(undecoded)?;
        }
        building.finish().map_err(|e| match e {
            RebuildError::Io(e) => self.target.failed(e),
            RebuildError::Damaged(why) => RestoreError::Broken(why),
        })
    }

    fn refused(&self, key: &str, error: RebuildError) -> RestoreError {
        let damaged = |why| RestoreError::Damaged { key: key.to_owned(), why };
        match error {
            RebuildError::Damaged(why) => damaged(why),
            // The target's disk knows no such kinds: this was the reading side.
            RebuildError::Io(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                damaged(e.to_string())
            }
            RebuildError::Io(e) => self.target.failed(e),
        }
    }
}

/// A restore from a destination, from the first look at it.
pub struct Order<'a> {
    /// The destination.
    pub store: &'a Arc<dyn ObjectStore>,
    /// Which line of backups; the newest where nothing is said.
    pub timeline: Option<Timeline>,
    /// Which mark.
    pub at: Moment,
    /// What rebuilds databases of an engine, by its name.
    pub rebuild: fn(&str) -> Option<&'static dyn Rebuild>,
    /// What reads encrypted objects.
    pub identity: Option<&'a Identity>,
    /// Where to.
    pub to: &'a Path,
    /// Is told each plan before it is carried out.
    pub planned: &'a (dyn Fn(&Plan) + Sync),
    /// Is told how far it is.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The destination cannot be looked at.
    #[error(transparent)]
    Store(#[from] ObjectError),
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The backup is one of an engine that this version cannot rebuild.
    #[error("it is a backup of `{0}`, which this version cannot restore")]
    Engine(String),
    /// The plan could not be carried out.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// Plans and restores; plans once more where an object was taken meanwhile.
pub async fn carry_out(order: &Order<'_>) -> Result<Reached, OrderError> {
    match attempt(order).await {
        Err(OrderError::Restore(RestoreError::Missing(_))) => attempt(order).await,
        other => other,
    }
}

async fn attempt(order: &Order<'_>) -> Result<Reached, OrderError> {
    let catalog = Catalog::load(order.store.as_ref()).await?;
    let plan = plan(&catalog, order.timeline, order.at)?;
    let rebuild = (order.rebuild)(plan.engine()).ok_or_else(|| OrderError::Engine(plan.engine().to_owned()))?;
    (order.planned)(&plan);
    Ok(restore(&plan, order.store, rebuild, order.identity, order.to, order.progress).await?)
}
