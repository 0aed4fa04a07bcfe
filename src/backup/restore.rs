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
//! - Retention may take an object while it is wanted (H32), and so may what folds live segments. [`carry_out`] plans once more then, and says so when that fails as well.
//! - An object that is found damaged on the way is done without, where other segments lead to the same mark.

pub(in crate::backup) mod fetch;
pub(in crate::backup) mod meter;
mod target;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

pub use meter::Progress;

use super::codec::{self, CodecError, Decoded, Identity};
use super::layout::manifest_key;
use super::manifest::{Manifest, Object};
use super::plan::{Moment, Plan, PlanError, Step, plan};
use super::{Building, Catalog, Digest, Kind, Place, Rebuild, RebuildError, Timeline};
use crate::clock::Timestamp;
use crate::object::{ObjectError, ObjectKey, ObjectStore};
use fetch::{Incoming, undecoded};
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
    if let (None, Some(sealed)) = (identity, plan.segments.iter().find(|step| step.is_encrypted())) {
        return Err(undecoded(sealed.key().unwrap_or_default(), CodecError::NoIdentity));
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
    let (fetched, built) = tokio::join!(fetch::all(store.as_ref(), &plan.segments, bodies, &mut meter), built);
    // Where the download failed, the builder only noticed that nothing came any more.
    fetched?;
    built.map_err(|e| RestoreError::Broken(e.to_string()))??;
    target.publish()?;
    Ok(Reached {
        place: plan.mark.place,
        observed: plan.mark.observed,
        digest: plan.mark.digest,
        to: to.to_owned(),
        bytes: std::fs::metadata(to).map_or_else(|_| plan.database_bytes(), |file| file.len()),
        fetched_bytes: plan.fetched_bytes(),
        segments: plan.segments.len(),
        took: started.elapsed(),
    })
}

/// What happens on a thread of its own.
struct Work {
    target: Arc<Target>,
    rebuild: &'static dyn Rebuild,
    segments: Vec<Step>,
    identity: Option<Identity>,
    incoming: mpsc::Receiver<Incoming>,
}

impl Work {
    fn build(mut self) -> Result<(), RestoreError> {
        let mut building = self.rebuild.begin(&self.target.file()).map_err(|e| self.target.failed(e))?;
        for step in std::mem::take(&mut self.segments) {
            self.lay(building.as_mut(), step)?;
        }
        building.finish().map_err(|e| match e {
            RebuildError::Io(e) => self.target.failed(e),
            RebuildError::Damaged(why) => RestoreError::Broken(why),
        })
    }

    /// Lays what comes for `step` over what there is.
    fn lay(&mut self, building: &mut dyn Building, step: Step) -> Result<(), RestoreError> {
        let key = step.key().unwrap_or_default().to_owned();
        let undecoded = |error| undecoded(&key, error);
        match step {
            Step::Whole(manifest) if manifest.object.is_none() => {
                // Nothing changed, which has to be true of what there is.
                let key = manifest_key(manifest.place());
                building.changes(&manifest, &mut io::empty()).map_err(|e| self.refused(key.as_str(), e))
            }
            Step::Beginning { fine, manifest } if self.is_sealed(&fine) => {
                let mut plain = self.decoded(&fine, &key)?;
                let beginning = manifest.object.as_ref().map_or(0, |object| object.plain.bytes);
                self.apply(building, &manifest, &mut (&mut plain).take(beginning))?;
                // What is behind it is read as well: the sums are those of the whole.
                io::copy(&mut plain, &mut io::sink()).map_err(|e| undecoded(e.into()))?;
                plain.finish().map_err(undecoded)
            }
            Step::Beginning { manifest, .. } => {
                let object = object_of(&manifest, &key)?;
                let stored = self.next()?;
                let mut plain = codec::decode_beginning(object, stored.into_read()).map_err(undecoded)?;
                self.apply(building, &manifest, &mut plain)?;
                plain.finish().map_err(undecoded)
            }
            Step::Whole(manifest) => {
                let mut plain = self.decoded(&manifest, &key)?;
                self.apply(building, &manifest, &mut plain)?;
                plain.finish().map_err(undecoded)
            }
            Step::Live { .. } => {
                let Incoming::Live(live) = self.next()? else {
                    return Err(RestoreError::Broken("another object came than a live segment".to_owned()));
                };
                let object = object_of(&live.manifest, &key)?;
                let stored = Box::new(io::Cursor::new(live.bytes));
                let mut plain = codec::decode(object, self.identity.as_ref(), stored).map_err(undecoded)?;
                self.apply(building, &live.manifest, &mut plain)?;
                plain.finish().map_err(undecoded)
            }
        }
    }

    fn is_sealed(&self, manifest: &Manifest) -> bool {
        manifest.object.as_ref().is_some_and(|object| object.encrypted)
    }

    fn next(&mut self) -> Result<Incoming, RestoreError> {
        self.incoming.blocking_recv().ok_or_else(|| RestoreError::Broken("no more objects".to_owned()))
    }

    /// The plain bytes of the whole object of `manifest`.
    fn decoded(&mut self, manifest: &Manifest, key: &str) -> Result<Decoded, RestoreError> {
        let stored = self.next()?.into_read();
        let object = object_of(manifest, key)?;
        codec::decode(object, self.identity.as_ref(), stored).map_err(|e| undecoded(key, e))
    }

    fn apply(
        &self,
        building: &mut dyn Building,
        manifest: &Manifest,
        plain: &mut dyn Read,
    ) -> Result<(), RestoreError> {
        let applied = match manifest.kind {
            Kind::Full => building.full(manifest, plain),
            Kind::Incremental | Kind::Live | Kind::Fine | Kind::Merged => building.changes(manifest, plain),
        };
        let key = manifest.object.as_ref().map_or("", |object| object.key.as_str());
        applied.map_err(|e| self.refused(key, e))
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

/// The object of a segment that cannot be without one.
fn object_of<'a>(manifest: &'a Manifest, key: &str) -> Result<&'a Object, RestoreError> {
    let none = || RestoreError::Damaged { key: key.to_owned(), why: "its manifest names no object".to_owned() };
    manifest.object.as_ref().ok_or_else(none)
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

/// How often notes and indexes are read before a plan. Each time the stretch where the mark may be is a sixteenth: eight are more than any has.
const MOST_READINGS: usize = 32;

/// How many damaged objects are done without.
const MOST_SHUNNED: usize = 16;

/// Plans, and reads what has to be read for it.
pub async fn settle(
    catalog: &mut Catalog,
    store: &dyn ObjectStore,
    identity: Option<&Identity>,
    timeline: Option<Timeline>,
    at: Moment,
) -> Result<Plan, OrderError> {
    for _ in 0..MOST_READINGS {
        match plan(catalog, timeline, at) {
            Err(PlanError::Unread(needs)) => catalog.read_details(store, identity, &needs).await?,
            other => return Ok(other?),
        }
    }
    Ok(plan(catalog, timeline, at)?)
}

/// Plans and restores; plans once more where an object was taken meanwhile.
pub async fn carry_out(order: &Order<'_>) -> Result<Reached, OrderError> {
    match attempt(order).await {
        Err(OrderError::Restore(RestoreError::Missing(_)) | OrderError::Store(ObjectError::Missing(_))) => {
            attempt(order).await
        }
        other => other,
    }
}

async fn attempt(order: &Order<'_>) -> Result<Reached, OrderError> {
    let store = order.store.as_ref();
    let mut catalog = Catalog::load(store).await?;
    let mut plan = settle(&mut catalog, store, order.identity, order.timeline, order.at).await?;
    let rebuild = (order.rebuild)(plan.engine()).ok_or_else(|| OrderError::Engine(plan.engine().to_owned()))?;
    for _ in 0..MOST_SHUNNED {
        (order.planned)(&plan);
        let restored = restore(&plan, order.store, rebuild, order.identity, order.to, order.progress).await;
        let Err(RestoreError::Damaged { key, why }) = restored else { return Ok(restored?) };
        if let Some(damaged) = ObjectKey::parse(&key) {
            catalog.shun(damaged, why.clone());
        }
        // Only another way to the same mark will do.
        match settle(&mut catalog, store, order.identity, order.timeline, Moment::At(plan.mark.observed)).await {
            Ok(other) if other.mark == plan.mark && other.segments != plan.segments => {
                plan = Plan { warnings: other.warnings, segments: other.segments, ..plan };
                plan.warnings.push(format!("`{key}` is damaged ({why}): it is done without"));
            }
            _ => return Err(RestoreError::Damaged { key, why }.into()),
        }
    }
    Err(RestoreError::Broken("too many objects are damaged".to_owned()).into())
}
