//! Following a database's commits: what the log of it has gained since the last look, as a write-ahead log of its own.
//!
//! ```text
//!  the application ──commits──▶ -wal ──frames up to what the index publishes──▶ cut ──▶ a segment
//!                                 ▲                                              ▲
//!  pin: a read transaction ───────┘ keeps the frames there          memory ──────┘ what was taken out before the log began anew
//!  known: the hash of each page at the segment that was kept last ──▶ digest before and after, without reading the database
//! ```
//!
//! # What is promised
//!
//! - A cut is all that was committed since the segment before it: no commit is left out, none is taken that nobody was told of (H1: `frames.rs`), and what was rolled back is not
//!   looked at (H2).
//! - **There is always a read transaction of ours, and the next one begins before the last one ends** (H5). The log can begin anew only where its frames were captured before: `following.rs` has the rule, and where
//!   it is broken, whatever broke it, the tail is lost in words and begins again with a gap. No salt is guessed, no place is taken for another.
//! - Nothing is written to the database, there are no tables of ours (H7), checkpoints are passive ones (`tending.rs`).
//! - What is known is what was kept: a cut that failed, or whose receiver went away, did not happen.

mod beginning;
mod following;
mod frames;
mod known;
mod tending;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::following::{Fixed, Following, Hold, Made, commit_of, map_error};
use self::known::Known;
use super::outlet::Outlet;
use super::page_map::{About, Maps};
use super::snapshot::{Snapshot, State};
use super::spot::Spot;
use super::wal_index::Header;
use super::{Pages, blocking};
use crate::backup::tail::{Begun, Cut, Kept, Tail, Tended};
use crate::backup::{Base, Place, Segment, SourceError, Took};
use crate::clock::Timestamp;
use crate::task::Pending;

/// Whether a database is followed.
#[derive(Default)]
pub(super) enum Tailing {
    /// No.
    #[default]
    Idle,
    /// It is held, until the difference to it was read.
    Gap(Box<Gap>),
    /// Yes.
    Going(Box<Following>),
}

/// A database that is held at a state to which the difference must be read.
pub(super) struct Gap {
    hold: Hold,
    /// The state that the difference begins at.
    tip: Base,
    /// When the state that it leads to was the newest.
    pub(super) since: Timestamp,
}

impl Tailing {
    async fn end(self) {
        match self {
            Self::Idle => {}
            Self::Gap(gap) => gap.hold.end().await,
            Self::Going(following) => following.end().await,
        }
    }

    fn going(&mut self) -> Result<&mut Following, SourceError> {
        match self {
            Self::Going(following) => Ok(following),
            _ => Err(SourceError::Broken("the database's commits are not followed: begin first".to_owned())),
        }
    }

    /// The state that is held until the difference to it was read.
    pub(super) fn held(&self) -> Result<&Snapshot, SourceError> {
        match self {
            Self::Gap(gap) => Ok(&gap.hold.pin),
            _ => Err(SourceError::Broken("no state is held any more".to_owned())),
        }
    }

    /// Takes the state that was held for a full at `place`; nothing where no commits are followed.
    pub(super) fn fixed(&mut self, place: Place) -> Result<Option<Fixed>, SourceError> {
        let Self::Going(following) = self else { return Ok(None) };
        match following.fixed.take() {
            Some(fixed) if fixed.place == place => Ok(Some(fixed)),
            other => {
                following.fixed = other;
                Err(SourceError::Busy(format!("no state is held for a full at {place}: it must be fixed first")))
            }
        }
    }

    /// What `tip` means to a database that is held; nothing where that is for others to find out.
    pub(super) fn adopt(&mut self, maps: &Maps, tip: &Base) -> Result<Option<Option<About>>, SourceError> {
        match std::mem::take(self) {
            Self::Going(following) => {
                let kept = following.known.about.base.place;
                let is_behind = tip.place.timeline == kept.timeline && tip.place.position <= kept.position;
                *self = Self::Going(following);
                // A full beside the tail.
                Ok(is_behind.then_some(None))
            }
            Self::Gap(gap) if *tip == gap.tip => {
                let about = maps.adopt(tip).map_err(map_error)?;
                *self = Self::Gap(gap);
                Ok(about.map(Some))
            }
            Self::Gap(gap) => {
                let held = Spot::of(&commit_of(&gap.hold.pin.state)?);
                match maps.adopt(tip).map_err(map_error)? {
                    Some(about) if about.spot == held && about.identity == gap.hold.identity => {
                        let known = Known::of(maps, about).map_err(map_error)?;
                        *self = Self::Going(Box::new(Following::new(gap.hold, known)));
                        Ok(Some(None))
                    }
                    _ => {
                        *self = Self::Gap(gap);
                        Ok(None)
                    }
                }
            }
            Self::Idle => Ok(None),
        }
    }
}

impl Pages {
    async fn cut_commits(&self, place: Place, into: mpsc::Sender<Bytes>) -> Result<Option<Cut>, SourceError> {
        let mut tailing = Arc::clone(&self.tailing).lock_owned().await;
        let looked = tailing.going().and_then(|following| {
            following.hold.require_same_files()?;
            let Some(header) = following.hold.header()? else { return Ok(None) };
            // Everything in it was committed before now, and nothing before now is missing.
            let observed = self.clock.now();
            following.follow_log(&header)?;
            Ok(following.has_commits(&header).then_some((header, observed)))
        });
        match looked {
            Ok(None) => Ok(None),
            Ok(Some((header, observed))) => self.cut_up_to(tailing, header, observed, place, into).await.map(Some),
            Err(e) => Err(lose(&mut tailing, e).await),
        }
    }

    /// Cuts on a thread of its own, which has the tail to itself until it has ended, whoever has gone away meanwhile.
    async fn cut_up_to(
        &self,
        mut tailing: OwnedMutexGuard<Tailing>,
        header: Header,
        observed: Timestamp,
        place: Place,
        into: mpsc::Sender<Bytes>,
    ) -> Result<Cut, SourceError> {
        let stop = CancellationToken::new();
        let _stops = stop.clone().drop_guard();
        let since = Instant::now();
        let state = tailing.going()?.hold.pin.state.clone();
        // What the log may grow by meanwhile is for `tend` to say.
        let outlet = Outlet::new(into, stop, state.clone(), u64::MAX);
        let (mut tailing, made) = blocking(move || {
            let made = tailing.going().and_then(|following| following.cut(&header, place, outlet));
            (tailing, made)
        })
        .await?;
        match made {
            Ok(made) => {
                self.warn_of(made.written_by.unwrap_or(0));
                Ok(cut_of(made, &state, observed, since.elapsed()))
            }
            Err(e) => Err(lose(&mut tailing, e).await),
        }
    }

    async fn fix_state(&self, place: Place, into: mpsc::Sender<Bytes>) -> Result<Cut, SourceError> {
        let mut tailing = Arc::clone(&self.tailing).lock_owned().await;
        let following = tailing.going()?;
        if let Some(before) = following.fixed.take() {
            before.snapshot.end().await;
        }
        let snapshot = Snapshot::begin(&self.database).await?;
        let observed = self.clock.now();
        let fixed = match following.hold.require_same_files().and_then(|()| following.same_files(&snapshot)) {
            Ok(header) => header,
            Err(e) => {
                snapshot.end().await;
                return Err(lose(&mut tailing, e).await);
            }
        };
        if !following.has_commits(&fixed) {
            let state = snapshot.state.clone();
            if let Some(page) = blocking(move || state.first_page()).await?? {
                following.memory.repeat(page.into_boxed_slice(), snapshot.state.pages);
            }
        }
        following.fixed = Some(Fixed { place, observed, snapshot });
        self.cut_up_to(tailing, fixed, observed, place, into).await
    }

    async fn tend_log(&self) -> Result<Tended, SourceError> {
        // Somebody cuts, begins or reads a difference: the log is being looked after.
        let Ok(mut tailing) = Arc::clone(&self.tailing).try_lock_owned() else { return Ok(Tended::default()) };
        let Some(follow) = self.settings.follow else { return Ok(Tended::default()) };
        let tended = match &mut *tailing {
            Tailing::Idle => Ok(Tended::default()),
            Tailing::Gap(gap) => gap.hold.require_same_files().map(|()| Tended::default()),
            Tailing::Going(following) => following.tend(&self.database, &follow).await,
        };
        match tended {
            Ok(tended) => {
                if tended.released.is_some() {
                    std::mem::take(&mut *tailing).end().await;
                }
                Ok(tended)
            }
            Err(e) => Err(lose(&mut tailing, e).await),
        }
    }
}

impl Tail for Pages {
    fn begin<'a>(&'a self, tip: &'a Base, kept: Arc<dyn Kept>) -> Pending<'a, Result<Begun, SourceError>> {
        Box::pin(self.begin_tail(tip, kept))
    }

    fn cut(&self, place: Place, into: mpsc::Sender<Bytes>) -> Pending<'_, Result<Option<Cut>, SourceError>> {
        Box::pin(self.cut_commits(place, into))
    }

    fn keep(&self, place: Place) -> Pending<'_, Result<(), SourceError>> {
        Box::pin(async move {
            let mut tailing = Arc::clone(&self.tailing).lock_owned().await;
            let (mut tailing, kept) = blocking(move || {
                let kept = tailing.going().and_then(|following| following.keep(place));
                (tailing, kept)
            })
            .await?;
            if let Err(e) = kept {
                return Err(lose(&mut tailing, e).await);
            }
            // The segment is kept, whatever becomes of this.
            if let Err(e) = tailing.going()?.tend_behind_cut(&self.database).await {
                debug!(error = %e, "no checkpoint behind a cut");
            }
            Ok(())
        })
    }

    fn fix(&self, place: Place, into: mpsc::Sender<Bytes>) -> Pending<'_, Result<Cut, SourceError>> {
        Box::pin(self.fix_state(place, into))
    }

    fn settle(&self) -> Pending<'_, Result<(), SourceError>> {
        Box::pin(async move {
            let mut tailing = Arc::clone(&self.tailing).lock_owned().await;
            blocking(move || tailing.going()?.known.settle().map_err(map_error)).await?
        })
    }

    fn tend(&self) -> Pending<'_, Result<Tended, SourceError>> {
        Box::pin(self.tend_log())
    }

    fn release(&self) -> Pending<'_, ()> {
        Box::pin(async move {
            let mut tailing = Arc::clone(&self.tailing).lock_owned().await;
            std::mem::take(&mut *tailing).end().await;
        })
    }
}

/// What is broken is let go: nothing is gained by holding it, and it begins again.
async fn lose(tailing: &mut Tailing, error: SourceError) -> SourceError {
    if matches!(error, SourceError::Broken(_)) {
        std::mem::take(tailing).end().await;
    }
    error
}

/// What was cut, in the words of the port.
fn cut_of(made: Made, state: &State, observed: Timestamp, read: Duration) -> Cut {
    let about = made.about;
    Cut {
        resume: format!("{}, {}", about.spot, about.identity),
        segment: Segment {
            observed,
            digest_before: Some(made.before),
            digest_after: about.base.digest,
            page_size: about.page_size,
            pages: about.pages,
            sent_pages: made.sent,
            engine_version: state.engine_version.clone(),
            tables: std::collections::BTreeMap::new(),
            soundness: None,
            took: Took { read, check: Duration::ZERO },
        },
    }
}

#[cfg(test)]
mod tests;
