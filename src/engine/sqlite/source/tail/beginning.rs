//! Beginning to follow: what is known of the state that the store has, and whether the database's log still has the place that belongs to it.
//!
//! What the pages were at a state is in the page map, which lags: the segments behind it that are kept on this machine are read again, and each must lead to its own digest. Then
//! the database is held, and the place in its log that belongs to the state is looked for. If it is still there, by its salts and by the sums of every frame before it, nothing
//! was missed, however long nobody looked (H18). If not, the difference to the state that is held is read page by page.

use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::following::{Following, Hold, commit_of, map_error};
use super::known::Known;
use super::{Gap, Tailing, frames, tending};
use crate::backup::tail::{Begun, Kept};
use crate::backup::{Adopted, Base, SourceError};
use crate::engine::Follow;
use crate::engine::sqlite::errors;
use crate::engine::sqlite::source::identity::Identity;
use crate::engine::sqlite::source::page_map::{About, Maps};
use crate::engine::sqlite::source::snapshot::{Snapshot, State};
use crate::engine::sqlite::source::spot::Spot;
use crate::engine::sqlite::source::{Pages, blocking, compare, require_readable};

/// What giving a database a log may take: nobody else may be in it.
const CONVERTING: Duration = Duration::from_secs(10);

impl Pages {
    pub(super) async fn begin_tail(&self, tip: &Base, kept: Arc<dyn Kept>) -> Result<Begun, SourceError> {
        let mut adopted = Arc::clone(&self.adopted).lock_owned().await;
        let mut tailing = Arc::clone(&self.tailing).lock_owned().await;
        std::mem::take(&mut *tailing).end().await;
        *adopted = None;
        let Some(follow) = self.settings.follow else {
            return Err(SourceError::Unsupported("the database's commits are not to be followed".to_owned()));
        };
        let identity = self.identity()?;
        let pin = self.pin(&follow).await?;
        let since = self.clock.now();
        if identity != self.identity()? {
            return Err(SourceError::Busy("the database file is replaced just now".to_owned()));
        }
        let (maps, wanted, state) = (self.maps.clone(), *tip, pin.state.clone());
        let remembered = blocking(move || {
            let first = state.first_page()?;
            Ok::<_, SourceError>((remember(&maps, &wanted, identity, &*kept), first))
        })
        .await?;
        let (remembered, first) = match remembered {
            Ok(both) => both,
            Err(e) => {
                pin.end().await;
                return Err(e);
            }
        };
        let known = match remembered {
            Ok(known) if known.about.identity != identity => {
                pin.end().await;
                return Ok(Begun::Another(format!(
                    "`{}` is another file ({identity}) than the one that {} was read of ({})",
                    self.database.path().display(),
                    tip.place,
                    known.about.identity
                )));
            }
            Ok(known) => known,
            Err(why) => {
                pin.end().await;
                return Ok(Begun::Unknown(why));
            }
        };
        match compare(&known.about, first.as_deref()) {
            Adopted::Known => {}
            Adopted::Unknown(why) => {
                pin.end().await;
                return Ok(Begun::Unknown(why));
            }
            Adopted::Another(why) => {
                pin.end().await;
                return Ok(Begun::Another(why));
            }
        }
        let hold = Hold::new(&self.database, pin, identity)?;
        let (going, settled) = blocking(move || go_on(hold, known)).await??;
        if let Some(about) = settled {
            *adopted = Some(about);
        }
        let begun = match &going {
            Found::Place(_) => Begun::Going,
            Found::None(_, why) => Begun::Gap(why.clone()),
        };
        *tailing = match going {
            Found::Place(following) => Tailing::Going(following),
            Found::None(hold, _) => Tailing::Gap(Box::new(Gap { hold: *hold, tip: *tip, since })),
        };
        Ok(begun)
    }

    /// Takes hold of the database, which must have a log.
    async fn pin(&self, follow: &Follow) -> Result<Snapshot, SourceError> {
        let mut pin = Snapshot::begin(&self.database).await?;
        if pin.state.commit.is_none() {
            pin.end().await;
            self.convert(follow).await?;
            pin = Snapshot::begin(&self.database).await?;
        }
        let checked = require_readable(&pin.state, None).and_then(|()| commit_of(&pin.state)).and_then(|commit| {
            match tending::length(&commit) {
                length if length > follow.log_max => Err(SourceError::Busy(format!(
                    "the write-ahead log has {} MiB, and may have {}: its commits are followed when it has begun anew",
                    length >> 20,
                    follow.log_max >> 20
                ))),
                _ => Ok(()),
            }
        });
        match checked {
            Ok(()) => Ok(pin),
            Err(e) => {
                pin.end().await;
                Err(e)
            }
        }
    }

    /// Gives a database with a rollback journal a log, where that is wanted: it is the application's, and it stays so (H22).
    async fn convert(&self, follow: &Follow) -> Result<(), SourceError> {
        let path = self.database.path().display();
        if !follow.convert_to_wal {
            return Err(SourceError::Unsupported(format!(
                "`{path}` has a rollback journal, and commits can be followed in a write-ahead log only: `PRAGMA journal_mode = WAL`, \
                 by its application or once by hand, or `convert_to_wal = true` for the sidecar to do it"
            )));
        }
        let mut writer = self.database.alone(CONVERTING).await.map_err(errors::source_error)?;
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode = WAL")
            .fetch_one(&mut *writer)
            .await
            .map_err(errors::source_error)?;
        match mode == "wal" {
            true => {
                info!(database = %path, "the database has a write-ahead log from now on");
                Ok(())
            }
            false => Err(SourceError::Unsupported(format!("`{path}` stays with journal mode `{mode}`"))),
        }
    }
}

/// What is known about `tip` by a map of it, or by a map of a state before it and the segments between the two that are kept. Why nothing is, for people.
fn remember(maps: &Maps, tip: &Base, identity: Identity, kept: &dyn Kept) -> Result<Known, String> {
    let unread = |e: std::io::Error| format!("what is known about {} cannot be read: {e}", tip.place);
    let mut all = maps.all().map_err(unread)?;
    all.retain(|about| {
        let place = about.base.place;
        place.timeline == tip.place.timeline && (place.position < tip.place.position || about.base == *tip)
    });
    all.sort_by_key(|about| std::cmp::Reverse(about.base.place.position));
    let mut why = format!("there is no page map of {}, or of a state before it", tip.place);
    for about in all {
        match replay(maps, about, tip, identity, kept) {
            Ok(known) => return Ok(known),
            Err(e) => why = e,
        }
    }
    Err(why)
}

/// Goes from the state of a map to `tip`.
fn replay(maps: &Maps, about: About, tip: &Base, identity: Identity, kept: &dyn Kept) -> Result<Known, String> {
    let failed = |e: std::io::Error| format!("what is known about {} cannot be read: {e}", tip.place);
    let mut behind = match about.base == *tip {
        true => Vec::new(),
        false => kept.behind(about.base.place).map_err(failed)?,
    };
    behind.retain(|(manifest, _)| manifest.to <= tip.place.position);
    let end = behind.last().map_or(about.base, |(manifest, _)| manifest.base());
    if end != *tip {
        return Err(format!(
            "the page map is of {}, and the segments from there to {} are not all kept here",
            about.base.place, tip.place
        ));
    }
    maps.adopt(&about.base).map_err(failed)?;
    let mut known = Known::of(maps, about).map_err(failed)?;
    for (manifest, words) in behind {
        let place = manifest.place();
        let plain = kept.plain(place).map_err(|e| format!("{place}: {e}"))?;
        known.replay(&manifest, resumed(&words, identity), plain)?;
    }
    Ok(known)
}

/// The place in the log from the words of a cut of the same file; none, where they are of another one.
fn resumed(words: &str, identity: Identity) -> Spot {
    let spot = words.strip_suffix(&format!(", {identity}")).and_then(|spot| spot.parse().ok());
    spot.unwrap_or_default()
}

/// What came of looking for a place in the log.
enum Found {
    /// It is there.
    Place(Box<Following>),
    /// It is not; why, for people.
    None(Box<Hold>, String),
}

/// Goes on from the place in the log of what is known, where it is still there; otherwise makes the page map of it the one in use, for the difference to be told by.
fn go_on(hold: Hold, known: Known) -> Result<(Found, Option<About>), SourceError> {
    let (hold, mut known, why) = match same_log(&hold.pin.state, known.about.spot) {
        Err(why) => (hold, known, why),
        Ok(()) => {
            let commit = commit_of(&hold.pin.state)?;
            let mut following = Following::new(hold, known);
            // On slot 0 the log may begin anew at any moment: what is behind that place is taken while it is there. What is too much for the memory is for the first cut, and where the log is
            // quicker than that, it says so.
            let taken = if following.hold.pin.state.in_log { Ok(true) } else { following.capture(&commit) };
            match taken {
                Ok(_) => return Ok((Found::Place(Box::new(following)), None)),
                Err(e) => (following.hold, following.known, e.to_string()),
            }
        }
    };
    known.settle().map_err(map_error)?;
    Ok((Found::None(Box::new(hold), why), Some(known.about)))
}

/// Whether the log is still the one that `spot` is in, with the same frames before it: the index says so where nothing was committed since, and otherwise each of them is read.
fn same_log(state: &State, spot: Spot) -> Result<(), String> {
    let commit = commit_of(state).map_err(|e| e.to_string())?;
    if spot.salts == [0, 0] {
        return Err("the place in the write-ahead log is not known".to_owned());
    }
    if spot.salts != commit.salts {
        return Err("the write-ahead log has begun anew meanwhile".to_owned());
    }
    let is_there = match (spot.frames.cmp(&commit.frames), &state.files.log) {
        (std::cmp::Ordering::Equal, _) => Spot::of(&commit) == spot,
        (std::cmp::Ordering::Less, Some(log)) => frames::leads_to(log, spot, commit.page_size).unwrap_or(false),
        _ => false,
    };
    match is_there {
        true => Ok(()),
        false => Err("the write-ahead log does not have what it had".to_owned()),
    }
}
