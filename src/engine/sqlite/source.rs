//! SQLite as a source of backups: the pages of one commit, all of them or those that changed.
//!
//! ```text
//!   Snapshot ── which commit, and where its pages are ──▶ image ──page by page──▶ Reading ──▶ Outlet ──▶ a full, or a write-ahead log of what changed
//!      │  a read transaction, wal-index                    │ database file          │
//!      │                                                   │ + Overlay (log)        └──hashes──▶ Maps: a draft, which adopt makes the one in use
//!      └── check: integrity, references, rows, in the same transaction
//! ```
//!
//! # What is promised
//!
//! - A full is the database's bytes at a commit, an increment the newest version of every page that is another one than at the state before, as a
//!   write-ahead log that SQLite takes as its own. What is left of the difference to the file itself is the lock page, which is zeros here (`image.rs`).
//! - Nothing is written to the database, no checkpoint is made, nothing is kept from being read or, with a write-ahead log, written
//!   (H7, H8). What it costs is that the log cannot begin anew while a reading lasts. That is bounded: see [`Settings`]. An application that calls
//!   `wal_checkpoint(TRUNCATE)` or `RESTART` meanwhile waits for its busy timeout and keeps its own writers waiting (H9): `PASSIVE` does not.
//! - **With a rollback journal writers wait for as long as a reading takes.** It is the only way to read a file that is written in place; whoever minds has
//!   `PRAGMA journal_mode = WAL` to turn to, which is for the application's owner to decide (H22).
//! - The state is that of a commit which every reader could see (`snapshot.rs`): not of one that the log has and nobody was told of (H1).
//! - What is read is proven to be of one state as far as that goes: the log by its sums up to the commit, its frames by their numbers, the locks by a look at them, the
//!   map by its digest.
//!
//! What follows the commits (`tail.rs`) is built on the same snapshots, maps and outlets.
//!
//! # Another database, or an older one
//!
//! An increment is right for whatever file is there: it is the difference to a state that is in the store. That another file is there (H20), or an older state of it
//! (H19), is told so that the history says so, too. A file that was replaced has another inode or another birth. An older state has a smaller change counter in page 1,
//! which SQLite increments whenever a transaction writes that page. In WAL mode not each does, so the last commits can be lost (a power cut with
//! `synchronous = NORMAL`) without being told apart from a change; then the history has them, and the state after them has them not. That is what happened.

mod check;
mod identity;
mod image;
mod outlet;
mod overlay;
mod page_map;
mod reading;
mod snapshot;
mod spot;
mod tail;
mod wal_index;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::identity::Identity;
use self::outlet::Outlet;
use self::page_map::{About, Maps};
use self::reading::{Done, Reading, change_counter};
use self::snapshot::{Snapshot, State};
use self::tail::Tailing;
use super::{Database, errors};
use crate::backup::{Adopted, Base, Look, Place, Segment, Soundness, Source, SourceError, Tail, Took, Want};
use crate::clock::{Clock, Timestamp};
use crate::engine::Follow;
use crate::task::Pending;

/// What a quick look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// What a log may grow by in any case while the database is checked.
const LEAST_GROWTH: u64 = 1 << 30;

/// What a reading may cost the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How many bytes the write-ahead log may grow by while a full is checked; behind it the check is abandoned, and behind twice as many any reading is. Without it the
    /// larger of 1 GiB and the database's size: as much as the disk would need for a `VACUUM`.
    pub log_growth_max: Option<u64>,
    /// How its commits are followed; nothing where they are not.
    pub follow: Option<Follow>,
}

impl Settings {
    fn most_growth(&self, database: u64) -> u64 {
        let most = self.log_growth_max.unwrap_or(LEAST_GROWTH.max(database));
        // Rather a full that is tried again than commits that are lost to the tail.
        self.follow.map_or(most, |follow| most.min(follow.log_max / 4))
    }
}

/// One database file as a source. There is one of these for a database: it owns the page maps.
pub struct Pages {
    database: Database,
    clock: Clock,
    maps: Maps,
    settings: Settings,
    /// The state that the next increment begins at. Locked by who reads or adopts, until his thread has ended.
    adopted: Arc<Mutex<Option<About>>>,
    /// Whether its commits are followed. Whoever locks both locks this behind the other.
    tailing: Arc<Mutex<Tailing>>,
    /// The SQLite that was warned about.
    warned: AtomicU32,
}

impl Pages {
    /// `database` as a source whose page maps are in `folder`.
    pub fn new(database: Database, clock: Clock, folder: PathBuf, settings: Settings) -> Self {
        let maps = Maps::new(folder);
        let (adopted, tailing) = (Arc::default(), Arc::default());
        Self { database, clock, maps, settings, adopted, tailing, warned: AtomicU32::new(0) }
    }

    fn identity(&self) -> Result<Identity, SourceError> {
        Identity::of(self.database.path())
            .map_err(|e| SourceError::Busy(format!("`{}`: {e}", self.database.path().display())))
    }

    async fn look_at(&self) -> Result<Look, SourceError> {
        let identity = self.identity()?;
        let mut reader = self.database.read(LOOK_LIMIT).await.map_err(errors::source_error)?;
        // What the sidecar itself puts into an empty database, because it found none where the application's should be, is nothing to back up (H30).
        let (bytes, tables): (i64, i64) = sqlx::query_as(
            "SELECT page_count * page_size, (SELECT count(*) FROM sqlite_schema \
             WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'sidecar\\_%' ESCAPE '\\') \
             FROM pragma_page_count, pragma_page_size",
        )
        .fetch_one(&mut *reader)
        .await
        .map_err(errors::source_error)?;
        Ok(Look { identity: identity.to_string(), bytes: bytes.unsigned_abs(), empty: tables == 0 })
    }

    async fn adopt_state(&self, tip: &Base) -> Result<Adopted, SourceError> {
        let mut adopted = Arc::clone(&self.adopted).lock_owned().await;
        *adopted = None;
        if let Some(about) = self.tailing.lock().await.adopt(&self.maps, tip)? {
            *adopted = about;
            return Ok(Adopted::Known);
        }
        let about = match self.maps.adopt(tip) {
            Ok(Some(about)) => about,
            Ok(None) => return Ok(Adopted::Unknown(format!("there is no page map of {}", tip.place))),
            Err(e) => return Ok(Adopted::Unknown(format!("the page map of {} cannot be read: {e}", tip.place))),
        };
        let identity = self.identity()?;
        if identity != about.identity {
            return Ok(Adopted::Another(format!(
                "`{}` is another file ({identity}) than the one that {} was read of ({})",
                self.database.path().display(),
                tip.place,
                about.identity
            )));
        }
        let snapshot = Snapshot::begin(&self.database).await?;
        let state = snapshot.state.clone();
        let first = blocking(move || state.first_page()).await;
        snapshot.end().await;
        let answer = compare(&about, first??.as_deref());
        if answer == Adopted::Known {
            *adopted = Some(about);
        }
        Ok(answer)
    }

    async fn read_pages(&self, want: Want, place: Place, into: mpsc::Sender<Bytes>) -> Result<Segment, SourceError> {
        if want == Want::Full
            && let Some(fixed) = self.tailing.lock().await.fixed(place)?
        {
            // What follows the commits knows the pages.
            let what = What { want, place, base: None, maps: None };
            return self.read_state(Held::Own(fixed.snapshot), None, what, fixed.observed, into).await;
        }
        let adopted = Arc::clone(&self.adopted).lock_owned().await;
        let base = match (want, adopted.as_ref()) {
            (Want::Full, _) => None,
            (Want::Changes, Some(about)) => Some(about.clone()),
            (Want::Changes, None) => {
                return Err(SourceError::Broken("no state is known that an increment could begin at".to_owned()));
            }
        };
        let what = What { want, place, base, maps: Some(self.maps.clone()) };
        let tailing = Arc::clone(&self.tailing).lock_owned().await;
        if let (Want::Changes, Tailing::Gap(gap)) = (want, &*tailing) {
            // What was committed since it is held is followed.
            let observed = gap.since;
            return self.read_state(Held::Tails(tailing), Some(adopted), what, observed, into).await;
        }
        drop(tailing);
        let identity = self.identity()?;
        let snapshot = Snapshot::begin(&self.database).await?;
        let observed = self.clock.now();
        if identity != self.identity()? {
            return Err(SourceError::Busy("the database file is replaced just now".to_owned()));
        }
        self.read_state(Held::Own(snapshot), Some(adopted), what, observed, into).await
    }

    /// Reads what is held.
    async fn read_state(
        &self,
        held: Held,
        adopted: Option<OwnedMutexGuard<Option<About>>>,
        what: What,
        observed: Timestamp,
        into: mpsc::Sender<Bytes>,
    ) -> Result<Segment, SourceError> {
        let What { want, place, base, maps } = what;
        // The thread ends soon when nobody waits for it any more.
        let stop = CancellationToken::new();
        let _stops = stop.clone().drop_guard();
        let state = held.snapshot()?.state.clone();
        require_readable(&state, base.as_ref())?;
        let since = Instant::now();
        let most_growth = self.settings.most_growth(u64::from(state.pages) * u64::from(state.page_size));
        let reading = Reading { state: state.clone(), identity: self.identity()?, base: base.clone(), place, maps };
        let outlet = Outlet::new(into, stop.clone(), state.clone(), most_growth.saturating_mul(2));
        let (held, adopted, done) = blocking(move || read(held, adopted, reading, outlet)).await?;
        let done = match done {
            Ok(done) => done,
            Err(e) => {
                held.end().await;
                return Err(e);
            }
        };
        let read = since.elapsed();
        self.warn_of(done.written_by);
        let since = Instant::now();
        let checked = match held {
            Held::Own(mut snapshot) => {
                let checked = match want {
                    Want::Full => Some(check::check(&mut snapshot, most_growth, stop).await?),
                    Want::Changes => None,
                };
                snapshot.end().await;
                checked
            }
            Held::Tails(_) => None,
        };
        drop(adopted);
        let took = Took { read, check: if want == Want::Full { since.elapsed() } else { Duration::ZERO } };
        let (soundness, tables) =
            checked.map_or_else(Default::default, |(soundness, tables)| (Some(soundness), tables));
        log(&soundness);
        Ok(Segment {
            observed,
            digest_before: base.map(|about| about.base.digest),
            digest_after: done.about.base.digest,
            page_size: state.page_size,
            pages: state.pages,
            sent_pages: done.sent_pages,
            engine_version: state.engine_version,
            tables,
            soundness,
            took,
        })
    }

    /// Once for each version: an application below 3.51.3 can lose commits of its own when two of its connections make checkpoints (H13).
    fn warn_of(&self, written_by: u32) {
        // Fixed in these releases of older branches, too.
        let is_fixed =
            matches!(written_by, 3_044_006..3_045_000 | 3_050_007..3_051_000 | snapshot::WITHOUT_RESET_BUG..);
        if written_by > 0 && !is_fixed && self.warned.swap(written_by, Ordering::Relaxed) != written_by {
            let (major, minor, patch) = (written_by / 1_000_000, written_by / 1000 % 1000, written_by % 1000);
            warn!(
                version = format!("{major}.{minor}.{patch}"),
                "the application's SQLite can lose commits when two connections make checkpoints; 3.51.3 cannot"
            );
        }
    }
}

impl Source for Pages {
    fn engine(&self) -> &'static str {
        "sqlite"
    }

    fn database(&self) -> String {
        let name = self.database.path().file_name();
        name.map_or_else(|| "database".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    fn look(&self) -> Pending<'_, Result<Look, SourceError>> {
        Box::pin(self.look_at())
    }

    fn adopt<'a>(&'a self, tip: &'a Base) -> Pending<'a, Result<Adopted, SourceError>> {
        Box::pin(self.adopt_state(tip))
    }

    fn read(&self, want: Want, place: Place, into: mpsc::Sender<Bytes>) -> Pending<'_, Result<Segment, SourceError>> {
        Box::pin(self.read_pages(want, place, into))
    }

    fn tail(&self) -> Option<&dyn Tail> {
        self.settings.follow.map(|_| self as &dyn Tail)
    }
}

/// What is to be read, and where to.
struct What {
    want: Want,
    place: Place,
    base: Option<About>,
    maps: Option<Maps>,
}

/// What holds the state that is read: a transaction for it alone, or that of what follows the commits, which begins there.
enum Held {
    Own(Snapshot),
    Tails(OwnedMutexGuard<Tailing>),
}

impl Held {
    fn snapshot(&self) -> Result<&Snapshot, SourceError> {
        match self {
            Self::Own(snapshot) => Ok(snapshot),
            Self::Tails(tailing) => tailing.held(),
        }
    }

    async fn end(self) {
        match self {
            Self::Own(snapshot) => snapshot.end().await,
            // Held on, for another try.
            Self::Tails(_) => {}
        }
    }
}

/// What a thread works with, and gives back: the transaction lasts, and nobody else reads, until the thread has ended, whoever has gone away meanwhile.
type Worked = (Held, Option<OwnedMutexGuard<Option<About>>>, Result<Done, SourceError>);

fn read(held: Held, adopted: Option<OwnedMutexGuard<Option<About>>>, reading: Reading, outlet: Outlet) -> Worked {
    let done = reading.run(outlet).and_then(|done| held.snapshot()?.require_held().map(|()| done));
    (held, adopted, done)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SourceError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| SourceError::Broken(format!("reading the database ended: {e}")))
}

/// Whether the state, by its page size and first page, can be one that came after that of the map.
fn compare(about: &About, first: Option<&[u8]>) -> Adopted {
    let place = about.base.place;
    let Some(first) = first else { return Adopted::Another(format!("the database is empty, and {place} was not")) };
    if first.len() != about.page_size as usize {
        let (now, then) = (first.len(), about.page_size);
        return Adopted::Unknown(format!("pages have {now} bytes now, and had {then} at {place}"));
    }
    let now = change_counter(first);
    // The counter goes round.
    match now.wrapping_sub(about.changes).cast_signed() < 0 {
        true => Adopted::Another(format!(
            "the database is older than {place}: its change counter is {now}, and was {} there",
            about.changes
        )),
        false => Adopted::Known,
    }
}

fn require_readable(state: &State, base: Option<&About>) -> Result<(), SourceError> {
    if state.pages == 0 {
        return Err(SourceError::Unsupported("there is nothing in the database, not even a table".to_owned()));
    }
    match base {
        Some(base) if base.page_size != state.page_size => {
            let (now, then) = (state.page_size, base.page_size);
            Err(SourceError::Broken(format!(
                "pages have {now} bytes now, and had {then}: the next segment must be a full"
            )))
        }
        _ => Ok(()),
    }
}

fn log(soundness: &Option<Soundness>) {
    match soundness {
        Some(Soundness::Unchecked(why)) => info!(why, "the database was not checked to the end"),
        Some(Soundness::Damaged(what)) => warn!(what, "the database is damaged"),
        Some(Soundness::Sound) | None => {}
    }
}
