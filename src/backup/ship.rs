//! Ships a backup: from the source to a manifest that commits it. [`super`] tells the order of writing; this is who does it and what it is careful about.
//!
//! ```text
//! look ─▶ catalog ─▶ allowed? ─▶ claim ─▶ what was left pending ─▶ adopt the tip ─▶ full or changes?
//!                                                                                     │
//!    full:     source ─▶ encode ─▶ parts into the store ─▶ read back ─▶ pending ──────┤
//!    changes:  source ─▶ encode ─▶ spool, synced ─▶ pending ─▶ store ─▶ read back ────┤
//!                                                                                     ▼
//!                         still ours? ─▶ manifest, by create ─▶ our record ─▶ adopt ─▶ sums
//! ```
//!
//! # What may go wrong
//!
//! - **A crash** at any arrow. What is *pending* is a manifest that was decided on: the next run creates it, if the store's tip is still the one that it
//!   goes on from, or finds that it was created. The bytes of an increment are in the spool, so that they are the same ones; those of a full are in the
//!   store. Before there is something pending there is nothing to take up, and an object that was half written is nobody's.
//! - **Somebody else writes** ([`super::claim`]). Nothing is committed any more from the segment on at which it is seen.
//! - **The wrong database**: where there are backups already, a database that is empty, or has less than a tenth of the newest full's bytes, is more likely
//!   a folder that was not mounted than a tidy owner. Nothing is shipped, and no timeline is claimed, until somebody says that it is right (H30).
//! - **The wrong destination**: one that is empty, and was not when this installation last stored something, is refused in the same way.
//! - **A damaged database** is shipped all the same, for the sake of what is in it, and marked; no increment goes on from it, and the run fails.
//! - **The clock steps back**: a mark is never older than the one before it on its timeline (H34, H41).
//!
//! No number is committed twice; what a crash left under one has another random word in its key. A new timeline leaves one out: the number that its predecessor may be committing at this very moment, having looked for
//! a claim just before there was one.

pub(in crate::backup) mod carry;
pub(in crate::backup) mod commit;
pub(in crate::backup) mod ground;
pub mod metrics;
pub(in crate::backup) mod papers;
pub(in crate::backup) mod segment;
mod state;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use self::ground::Ground;
pub use self::metrics::{METRICS, Metrics};
use self::state::State;
use super::catalog::Catalog;
use super::claim::{self, ClaimError, Writer};
use super::codec::{CodecError, Form};
use super::follow::spool::{Spool, Spooled, on_disk_of};
use super::{Adopted, Look, Manifest, Place, Source, SourceError, Want};
use crate::clock::Clock;
use crate::object::probe::{honours_create, keeps_notes};
use crate::object::{ObjectError, ObjectStore};
use crate::schedule::{JobContext, JobError};

/// Below this part of the newest full's bytes a database is suspicious.
const MUCH_SMALLER: u64 = 10;

/// How segments are shipped.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the record, the spool and the allowance are kept, in a folder of their own.
    pub state_directory: PathBuf,
    /// How bytes are stored.
    pub form: Form,
    /// How many threads make them smaller.
    pub threads: usize,
    /// How long a claim waits for others where the store ignores conditions: [`claim::WAIT`].
    pub claim_wait: Duration,
}

/// What a shipper is made of.
pub struct Parts {
    /// The database.
    pub source: Arc<dyn Source>,
    /// The destination.
    pub store: Arc<dyn ObjectStore>,
    /// How.
    pub settings: Settings,
    /// Who we are.
    pub writer: Writer,
    /// The time.
    pub clock: Clock,
    /// What is measured.
    pub metrics: Arc<Metrics>,
}

/// How long the steps took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Reading the database.
    pub read: Duration,
    /// Checking it.
    pub check: Duration,
    /// Storing: of a full, that is while it is read; of an increment, from the spool.
    pub upload: Duration,
    /// Reading the object back.
    pub read_back: Duration,
}

/// A backup that was committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Shipped {
    /// Its manifest.
    pub manifest: Manifest,
    /// Why it is a full, where an increment was wanted.
    pub instead: Option<String>,
    /// How long it took.
    pub steps: Steps,
}

impl Shipped {
    /// Bytes in the store.
    pub fn stored_bytes(&self) -> u64 {
        self.manifest.object.as_ref().map_or(0, |object| object.stored.bytes)
    }

    /// Bytes of the database that were read into it.
    pub fn plain_bytes(&self) -> u64 {
        self.manifest.object.as_ref().map_or(0, |object| object.plain.bytes)
    }
}

impl fmt::Display for Shipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { manifest, instead, .. } = self;
        write!(f, "{} {}: {} of {} pages", manifest.kind, manifest.place(), manifest.sent_pages, manifest.pages)?;
        write!(f, ", {} bytes stored", self.stored_bytes())?;
        instead.as_ref().map_or(Ok(()), |why| write!(f, "; a full instead of an increment: {why}"))
    }
}

/// Why nothing was committed, or why what was committed is no success.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
    /// Somebody else writes to the destination; who, and what to do.
    #[error("{0}")]
    Fenced(String),
    /// It looks like the wrong database.
    #[error("{0}")]
    Refused(String),
    /// It is stored, and its database is damaged.
    #[error("{0}")]
    Damaged(String),
    /// Something is not as it must be.
    #[error("{0}")]
    Failed(String),
    /// The destination.
    #[error("the destination: {0}")]
    Store(#[from] ObjectError),
    /// The database.
    #[error("the database: {0}")]
    Source(#[from] SourceError),
    /// Making the bytes smaller, or secret.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The state directory.
    #[error("`{}`: {error}", folder.display())]
    State {
        /// Which folder or file.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl From<JobError> for ShipError {
    fn from(_: JobError) -> Self {
        Self::Stopped
    }
}

/// What is known for as long as the process lives.
#[derive(Default)]
pub(in crate::backup) struct Memory {
    conditional: Option<bool>,
    notes: Option<bool>,
    guided: bool,
}

/// Ships backups, one at a time.
pub struct Shipper {
    pub(in crate::backup) parts: Parts,
    pub(in crate::backup) spool: Arc<Spool>,
    state: State,
    memory: Mutex<Memory>,
}

/// Allows the next full to be of an empty or much smaller database, once.
pub async fn allow_empty(state_directory: &Path) -> Result<(), ShipError> {
    State::new(state_directory).allow_empty().await
}

impl Shipper {
    /// Made of `parts`; nothing happens yet.
    pub fn new(parts: Parts) -> Self {
        let state = State::new(&parts.settings.state_directory);
        let spool = Arc::new(Spool::new(&parts.settings.state_directory));
        Self { parts, spool, state, memory: Mutex::default() }
    }

    /// Ships what is wanted; a full where changes are wanted and the store has no state that the source knows.
    pub async fn ship(&self, cx: &JobContext, want: Want) -> Result<Shipped, ShipError> {
        let mut memory = self.alone(cx).await?;
        let shipped = self.ship_alone(cx, want, &mut memory).await;
        self.tell_spool().await;
        shipped
    }

    /// Waits until nobody else ships.
    pub(in crate::backup) async fn alone(&self, cx: &JobContext) -> Result<MutexGuard<'_, Memory>, ShipError> {
        tokio::select! {
            memory = self.memory.lock() => Ok(memory),
            () = stopped(cx) => Err(ShipError::Stopped),
        }
    }

    /// Tells how much waits on this machine.
    pub(in crate::backup) async fn tell_spool(&self) {
        let spooled = self.state.spooled_bytes().await;
        self.parts.metrics.spool(spooled.unwrap_or_default() + self.spool.bytes());
    }

    /// Says what would be shipped, and changes nothing.
    pub async fn preview(&self, want: Want) -> Result<String, ShipError> {
        let _alone = self.memory.lock().await;
        let look = self.parts.source.look().await?;
        let catalog = Catalog::load(self.parts.store.as_ref()).await?;
        self.suspicion(&catalog, &look).await?;
        let held = self.state.held().await?;
        let place = self.parts.store.place();
        let kind = match want {
            Want::Full => "a full",
            Want::Changes => "an increment, or a full where the store has no state that is known here,",
        };
        match claim::standing(held, &catalog, &place) {
            claim::Standing::Taken(taken) => Err(self.fenced(&taken.to_string())),
            claim::Standing::None(why) => Ok(format!("a full would be shipped to a new timeline in {place}: {why}")),
            _ => Ok(format!("{kind} would be shipped to {place}, of a database of {} bytes", look.bytes)),
        }
    }

    /// Reads the catalog for what is measured, so that a restart does not forget how old the backups are.
    pub async fn measure(&self) -> Result<Catalog, ShipError> {
        let catalog = Catalog::load(self.parts.store.as_ref()).await?;
        self.parts.metrics.know(&catalog);
        self.tell_spool().await;
        Ok(catalog)
    }

    async fn ship_alone(&self, cx: &JobContext, want: Want, memory: &mut Memory) -> Result<Shipped, ShipError> {
        let (mut ground, look) = self.ground(cx, memory, want == Want::Full).await?;
        let unknown = match self.adopt_tip(&ground).await? {
            Adopted::Known => None,
            Adopted::Unknown(why) => Some(why),
            Adopted::Another(why) => {
                ground = self.begin_timeline(cx, ground.catalog, &look, why.clone(), ground.conditional).await?;
                Some(why)
            }
        };
        cx.check()?;
        match (want, unknown) {
            (Want::Full, _) => self.ship_full(cx, &mut ground, None).await,
            (Want::Changes, Some(why)) => self.ship_full(cx, &mut ground, Some(why)).await,
            (Want::Changes, None) => self.ship_changes(cx, &mut ground, None).await,
        }
    }

    /// Looks at the database and at the store, and finds where the next segment may begin. A full may be of an empty database where somebody has allowed that.
    pub(in crate::backup) async fn ground(
        &self,
        cx: &JobContext,
        memory: &mut Memory,
        full: bool,
    ) -> Result<(Ground, Look), ShipError> {
        let Parts { source, store, metrics, .. } = &self.parts;
        let look = source.look().await?;
        self.on_spool(Spool::load).await?;
        let catalog = Catalog::load(store.as_ref()).await?;
        metrics.know(&catalog);
        let allowed = full && self.state.take_allowance().await?;
        if !allowed {
            self.suspicion(&catalog, &look).await?;
        }
        cx.check()?;
        let conditional = self.conditional(memory).await?;
        papers::keep_format(store.as_ref()).await?;
        let mut ground = self.stand(cx, catalog, &look, conditional).await?;
        self.finish_pending(cx, &mut ground).await?;
        if !memory.guided {
            papers::keep_guide(store.as_ref()).await?;
            memory.guided = true;
        }
        cx.check()?;
        Ok((ground, look))
    }

    /// `work` on the spool of live segments.
    pub(in crate::backup) async fn on_spool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Spool) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ShipError> {
        let done = on_disk_of(&self.spool, work).await;
        done.map_err(|error| ShipError::State { folder: self.spool.folder().to_owned(), error })
    }

    /// What is remembered of our timeline.
    pub(in crate::backup) async fn held(&self) -> Result<Option<claim::Held>, ShipError> {
        self.state.held().await
    }

    pub(in crate::backup) async fn spooled(&self, place: Place) -> Result<Option<Spooled>, ShipError> {
        self.on_spool(move |spool| spool.get(place)).await
    }

    /// What speaks against shipping this database to that destination, until somebody says that it is right.
    async fn suspicion(&self, catalog: &Catalog, look: &Look) -> Result<(), ShipError> {
        suspicion(catalog, look)?;
        let place = self.parts.store.place();
        let written = self.state.held().await?.filter(|held| held.destination == place).and_then(|held| held.tip);
        match written {
            Some(tip) if catalog.is_empty() => Err(ShipError::Refused(format!(
                "there is nothing in {place}, where this installation has stored {}: nothing is shipped\nhint: is the disk mounted, is the prefix right? Where it is to begin anew, run `atlas-sidecar backup full --allow-empty` once",
                tip.place
            ))),
            _ => Ok(()),
        }
    }

    async fn conditional(&self, memory: &mut Memory) -> Result<bool, ShipError> {
        if let Some(known) = memory.conditional {
            return Ok(known);
        }
        let store = self.parts.store.as_ref();
        let conditional = honours_create(store).await?;
        if !conditional {
            let destination = store.place();
            tracing::warn!(
                destination,
                "the store ignores conditions: who may write is found out by waiting and listing"
            );
        }
        memory.conditional = Some(conditional);
        Ok(conditional)
    }

    /// Whether live segments can be kept there: some servers drop what is noted about an object.
    pub(in crate::backup) async fn keeps_notes(&self, memory: &mut Memory) -> Result<bool, ShipError> {
        let kept = match memory.notes {
            Some(kept) => kept,
            None => keeps_notes(self.parts.store.as_ref()).await?,
        };
        memory.notes = Some(kept);
        Ok(kept)
    }

    pub(in crate::backup) fn fenced(&self, who: &str) -> ShipError {
        ShipError::Fenced(format!(
            "nothing is shipped any more: {who}\nhint: if this installation is to go on instead, delete `{}`: it then begins a timeline of its own",
            self.state.owner_file().display()
        ))
    }

    pub(in crate::backup) fn of_claim(&self, e: ClaimError) -> ShipError {
        match e {
            ClaimError::Taken(taken) => self.fenced(&taken.to_string()),
            ClaimError::Lost(key) => ShipError::Failed(format!(
                "the claim `{key}` was taken out of {}; the next run begins a new timeline",
                self.parts.store.place()
            )),
            ClaimError::Store(e) => e.into(),
            ClaimError::Stopped => ShipError::Stopped,
        }
    }
}

/// Refuses a database that looks like the wrong one.
fn suspicion(catalog: &Catalog, look: &Look) -> Result<(), ShipError> {
    let newest_full = catalog.entries.values().rev().find_map(|entry| match &entry.manifest {
        Manifest { kind: super::Kind::Full, object: Some(object), .. } => Some(object.plain.bytes),
        _ => None,
    });
    let why = match newest_full {
        _ if catalog.entries.is_empty() => return Ok(()),
        _ if look.empty => "the database is empty".to_owned(),
        Some(bytes) if look.bytes < bytes / MUCH_SMALLER => {
            format!("the database has {} bytes, the newest full has {bytes}", look.bytes)
        }
        _ => return Ok(()),
    };
    Err(ShipError::Refused(format!(
        "{why}, and there are backups of another one at the destination: nothing is shipped\nhint: if this is the right database, run `atlas-sidecar backup full --allow-empty` once"
    )))
}

/// Comes back when the run is asked to stop.
pub(in crate::backup) async fn stopped(cx: &JobContext) {
    // As long as a wait may be; nobody is woken by it.
    while cx.rest(Duration::from_secs(3600)).await.is_ok() {}
}
