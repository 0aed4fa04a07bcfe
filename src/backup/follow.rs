//! Ships commits as they come: what is committed is in the store a second or so later.
//!
//! ```text
//!            ┌────── capture: each interval ──────┐                ┌── upload: one at a time ──┐
//!   Tail ──plain──▶ codec ──stored──▶ spool, synced ──▶ Tail::keep      spool ──▶ create, with the note: the commit
//!     ▲                                                                  └─ every five minutes: whose timeline is it? a heartbeat
//!     └── tend: each 100 ms, or twice a second while nothing is committed
//! ```
//!
//! # What is promised
//!
//! - **Order.** A segment is stored when the one before it is durable, never sooner, and a segment that was cut is stored as it was cut, whatever happens in between: its
//!   bytes and its note are in the spool before anything asks for them.
//! - **One state.** A full that is made meanwhile is of a state that has a live segment of its own, and is not committed where the two differ (`beside.rs`).
//! - **Nothing is asked of the store in vain.** A database in which nothing is committed costs two requests each five minutes.
//! - **The application comes first.** What is spooled is bounded: when the store does not answer for so long, or the disk is full, the database is let go, and what was
//!   committed meanwhile is shipped later as one difference, a *gap* whose instants cannot be restored, rather than that its log grows without end.
//!
//! # What a crash leaves
//!
//! A segment in the spool that the store does not have, or has: which of the two, a listing tells at the next start. What it does not have goes up first. What was
//! committed since is still in the database's own log, mostly; where it is not, that is a gap.
//!
//! # How fast
//!
//! Each interval is a mark, also while the store does not answer. When it is only slow, the next segment has more in it: many small ones would never be caught up with. So
//! while a few wait, there is twice the time between two cuts that storing one has taken of late. A store that does not answer at all says nothing about that.

mod begin;
mod beside;
mod capture;
mod compact;
mod deliver;
mod metrics;
pub(in crate::backup) mod spool;
mod upload;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::compact::Report;
pub use self::metrics::{METRICS, Metrics};
use super::catalog::Entry;
use super::claim::Held;
use super::fold::Weave;
use super::ship::{ShipError, Shipper};
use super::{Place, Position, SourceError, Tail};
use crate::clock::Timestamp;
use crate::retry::Backoff;
use crate::schedule::JobContext;
use crate::task::caught;

/// Looks at the database's own log from one measurement to the next: nobody scrapes more often than once a second.
const MEASURED: u32 = 10;

/// Segments that may wait before fewer are cut.
const FEW: usize = 3;

/// `[backup.sqlite]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From one segment to the next; nothing where commits are not followed.
    pub interval: Option<Duration>,
    /// Whether a database with a rollback journal is given a write-ahead log.
    pub convert_to_wal: bool,
    /// How long the database's own log may become before it is let go.
    pub log_max: u64,
    /// How much of the state directory's disk live segments may take.
    pub spool_max: u64,
}

/// How often what is done. Not for users: what these would change is the cost, not the result.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between looks at the database's own log.
    pub tend: Duration,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// The longest that storing one segment is taken to take: what is longer was an outage.
    pub slow: Duration,
    /// The waits between tries of the store, and of taking hold of the database again.
    pub again: Backoff,
    /// The wait where only somebody else can change what is the matter.
    pub rest: Duration,
    /// How long the last segment may take at the end.
    pub drain: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            tend: Duration::from_millis(100),
            heartbeat: Duration::from_secs(300),
            slow: Duration::from_secs(2),
            again: Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) },
            rest: Duration::from_secs(300),
            drain: Duration::from_secs(5),
        }
    }
}

/// What a follower is made of.
pub struct Parts {
    /// Who ships fulls and increments.
    pub shipper: Arc<Shipper>,
    /// How commits are followed.
    pub settings: Settings,
    /// How often.
    pub pace: Pace,
    /// How segments are folded; nothing where they are not.
    pub weave: Option<&'static dyn Weave>,
    /// What reads encrypted segments, where that is on this machine.
    pub identity_file: Option<PathBuf>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
}

/// Follows a database, and does to its backups what has to do with that.
pub struct Follower {
    parts: Parts,
    /// Where cutting goes on, while commits are followed. Who has the lock has the database: cutting, a backup without it, beginning.
    line: tokio::sync::Mutex<Option<Line>>,
    known: Mutex<Known>,
    /// The newest live segment that is in the store.
    durable: watch::Sender<Option<Place>>,
    /// There is something to upload.
    cut: Notify,
    /// There is reason to begin again before its time.
    again: Notify,
    /// Why a full is needed.
    wants_full: watch::Sender<Option<String>>,
}

/// The line of segments that is being cut.
struct Line {
    held: Held,
    conditional: bool,
    /// The newest segment that was spooled.
    tip: Entry,
    /// When it was.
    cut: Option<Instant>,
}

/// What the loops tell each other.
struct Known {
    /// Whether commits are followed now.
    going: bool,
    /// Whether they should be.
    wanted: bool,
    /// Everything that was committed until then was cut.
    looked: Timestamp,
    /// What waits in the spool, with the last look before its first commit.
    waiting: VecDeque<(Place, Timestamp)>,
    /// Since when the present upload is on its way.
    uploading: Option<Instant>,
    /// How long storing a segment takes, of late.
    takes: Duration,
    /// Who else writes.
    fenced: Option<String>,
    /// Why no segment can go on from what the store has, until there is a full that was made without the tail.
    doubt: Option<String>,
}

/// Why commits are not followed any more, or not yet.
#[derive(Debug)]
enum End {
    /// Somebody asked for it.
    Stopped,
    /// It will not work until somebody does something; who, and what.
    Fenced(String),
    /// There must be a full first; why.
    NeedsFull(String),
    /// The database cannot be followed.
    Unsupported(String),
    /// The database was let go; why.
    Lost(String),
    /// It may work later.
    Failed(ShipError),
}

impl From<ShipError> for End {
    fn from(e: ShipError) -> Self {
        match e {
            ShipError::Stopped => Self::Stopped,
            ShipError::Fenced(who) => Self::Fenced(who),
            ShipError::Source(SourceError::Unsupported(why)) => Self::Unsupported(why),
            e => Self::Failed(e),
        }
    }
}

impl Follower {
    /// Made of `parts`; nothing happens yet.
    pub fn new(parts: Parts) -> Self {
        let now = parts.shipper.parts.clock.now();
        let known = Known {
            going: false,
            wanted: false,
            looked: now,
            waiting: VecDeque::new(),
            uploading: None,
            takes: Duration::ZERO,
            fenced: None,
            doubt: None,
        };
        Self {
            parts,
            line: tokio::sync::Mutex::default(),
            known: Mutex::new(known),
            durable: watch::Sender::new(None),
            cut: Notify::new(),
            again: Notify::new(),
            wants_full: watch::Sender::new(None),
        }
    }

    /// Whether commits are to be followed.
    pub fn follows(&self) -> bool {
        self.tail().is_some()
    }

    /// Why a full is needed before commits can be followed: whoever runs backups makes one.
    pub fn wants_full(&self) -> watch::Receiver<Option<String>> {
        self.wants_full.subscribe()
    }

    /// Follows the database until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        if !self.follows() {
            return;
        }
        self.known().wanted = true;
        let measure = async {
            loop {
                self.measure();
                tokio::time::sleep(self.parts.pace.tend * MEASURED).await;
            }
        };
        tokio::select! {
            () = self.follow(&stop) => {}
            () = measure => {}
        }
        self.measure();
    }

    async fn follow(&self, stop: &CancellationToken) {
        let mut told = Told::default();
        while !stop.is_cancelled() {
            let began = Instant::now();
            let end = match caught(self.session(stop)).await {
                Ok(end) => end,
                Err(panic) => End::Lost(format!("panicked: {panic}")),
            };
            // Commits were followed meanwhile: what is said next is news.
            if self.known().going {
                (told.words, told.asked) = (None, None);
            }
            self.let_go().await;
            // What went well for so long has nothing to do with how it ended.
            if began.elapsed() > self.parts.pace.again.most {
                told.failures = 0;
            }
            let Some(wait) = self.after(end, &mut told) else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.again.notified() => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Says what there is to say, once, and how long to wait before the next try; nothing where there is to be none.
    fn after(&self, end: End, told: &mut Told) -> Option<Duration> {
        let pace = &self.parts.pace;
        told.failures = told.failures.saturating_add(1);
        let soon = pace.again.wait(told.failures, 0);
        let is_usual = matches!(end, End::NeedsFull(_));
        let (words, wait) = match end {
            End::Stopped => return None,
            End::Fenced(who) => {
                error!(error = who, "commits are not followed any more");
                self.known().fenced = Some(who);
                return None;
            }
            End::NeedsFull(why) => {
                if told.asked.as_ref().is_none_or(|(then, at)| *then != why || at.elapsed() > ASK_AGAIN) {
                    told.asked = Some((why.clone(), Instant::now()));
                    self.wants_full.send_replace(Some(why.clone()));
                }
                (format!("a full is needed first: {why}"), pace.rest)
            }
            End::Unsupported(why) => {
                self.known().wanted = false;
                (format!("unsupported: {why}; increments are made by their schedule instead"), pace.rest)
            }
            End::Lost(why) => (why, soon),
            // The database may be another one by the time of the next look; until then each look costs a listing.
            End::Failed(e @ ShipError::Refused(_)) => (e.to_string(), pace.rest),
            End::Failed(e) => (e.to_string(), soon),
        };
        if told.words.as_ref() != Some(&words) {
            // A first start is no reason to worry anybody.
            match is_usual {
                true => info!(why = words, "commits are not followed yet"),
                false => warn!(why = words, "commits are not followed at present"),
            }
            told.words = Some(words);
        }
        Some(wait)
    }

    /// From taking hold of the database to letting it go.
    async fn session(&self, stop: &CancellationToken) -> End {
        let cx = JobContext::alone(self.parts.shipper.parts.clock.clone(), stop.clone(), BEGIN_LIMIT);
        match self.begin(&cx).await {
            Ok(()) => {}
            Err(end) => return end,
        }
        let mut upload = pin!(self.upload());
        let end = tokio::select! {
            end = self.capture(stop) => end,
            end = &mut upload => end,
        };
        if matches!(end, End::Stopped) {
            let last = async {
                self.last_cut().await;
                self.uploaded().await;
                self.heartbeat().await
            };
            let drained = async {
                tokio::select! {
                    beat = last => beat.map_err(|e| e.to_string()),
                    end = &mut upload => Err(format!("{end:?}")),
                }
            };
            match tokio::time::timeout(self.parts.pace.drain, drained).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => warn!(why, "the last commits wait in the spool for the next start"),
                Err(_) => warn!(
                    "the destination was too slow for the last commits: they wait in the spool for the next start"
                ),
            }
        }
        end
    }

    /// Lets the database go, whatever was held.
    async fn let_go(&self) {
        self.let_go_of(&mut *self.line.lock().await).await;
    }

    async fn let_go_of(&self, line: &mut Option<Line>) {
        let going = std::mem::take(&mut self.known().going);
        *line = None;
        self.parts.metrics.following(false);
        if going && let Some(tail) = self.tail() {
            tail.release().await;
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.parts.shipper.parts.clock.now()
    }

    fn tail(&self) -> Option<&dyn Tail> {
        self.parts.settings.interval.and_then(|_| self.parts.shipper.parts.source.tail())
    }

    /// Tells how far the store is behind.
    fn measure(&self) {
        let now = self.now();
        let age = {
            let known = self.known();
            let unseen = now.since(known.looked);
            match known.waiting.front() {
                Some((_, since)) => now.since(*since),
                // Nothing waits; but when nobody has looked for long, who knows.
                None if known.wanted && (!known.going || unseen > self.unseen()) => unseen,
                None => Duration::ZERO,
            }
        };
        self.parts.metrics.age(age);
    }

    /// How long after a look at the database there may be another one.
    fn unseen(&self) -> Duration {
        self.parts.settings.interval.unwrap_or_default() * 2 + Duration::from_secs(1)
    }
}

/// How long beginning may take: a whole database is read for a gap.
const BEGIN_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// When a full that did not come is asked for again: it may have read a whole database in vain.
const ASK_AGAIN: Duration = Duration::from_secs(3600);

/// What was said already.
#[derive(Default)]
struct Told {
    words: Option<String>,
    asked: Option<(String, Instant)>,
    failures: u32,
}

/// Says that commits are followed, once per beginning.
fn tell_going(tip: Place, waiting: usize, gap: Option<&str>) {
    info!(from = %tip, waiting, gap, "commits are followed");
}

/// The position behind `place`, on its timeline.
fn next(place: Place) -> Place {
    let position: Position = place.position.next();
    Place { position, ..place }
}
