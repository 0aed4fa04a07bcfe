//! A database that is followed: what holds it, how far its log was captured, and cutting.

use std::path::PathBuf;
use std::sync::Arc;

use sqlx::SqliteConnection;

use super::super::identity::Identity;
use super::super::outlet::Outlet;
use super::super::page_map::About;
use super::super::reading::{Log, change_counter, written_by};
use super::super::snapshot::{Snapshot, State};
use super::super::spot::Spot;
use super::super::wal_index::Header;
use super::frames::{self, Frames, Memory};
use super::known::{Known, Step};
use super::tending::Record;
use crate::backup::digest::PageHash;
use crate::backup::{Base, Digest, Place, SourceError};
use crate::clock::Timestamp;
use crate::engine::sqlite::descriptors::Files;
use crate::engine::sqlite::wal::lock_page;
use crate::engine::sqlite::{Database, FileId};

/// What may be taken out of the log into memory, so that it can begin anew before the next cut: 4 MiB.
pub const MOST_MEMORY: u64 = 4 << 20;

/// How often the index is read before it is left to the next time: whoever writes it needs a microsecond.
const LOOKS: u32 = 10;

/// What keeps the database as it is.
pub struct Hold {
    /// The read transaction.
    pub pin: Snapshot,
    /// Where its state is in the log, by the log's present name.
    pub pin_at: Spot,
    /// The file.
    pub identity: Identity,
    /// The names of the files, and what they led to.
    named: Vec<(PathBuf, FileId)>,
    /// A connection for the next read transaction.
    pub spare: Option<SqliteConnection>,
    /// Connections for checkpoints, and for the write lock.
    pub helpers: Option<[SqliteConnection; 2]>,
}

impl Hold {
    /// The database by `pin`, which must have a log.
    pub fn new(database: &Database, pin: Snapshot, identity: Identity) -> Result<Self, SourceError> {
        let unseen = |e: std::io::Error| SourceError::Busy(format!("`{}`: {e}", database.path().display()));
        let path = database.path().canonicalize().map_err(unseen)?;
        let (log, index) = files_of(&pin.state)?;
        let mut named = vec![(database.path().to_owned(), pin.state.files.id)];
        for (end, file) in [("-wal", log), ("-shm", index)] {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            named.push((PathBuf::from(name), FileId::of_file(file).map_err(unseen)?));
        }
        let pin_at = commit_of(&pin.state)?;
        Ok(Self { pin_at: Spot::of(&pin_at), pin, identity, named, spare: None, helpers: None })
    }

    /// An error where a name leads to another file, or to none (H20): what is written to the ones that are open is nobody's any more.
    pub fn require_same_files(&self) -> Result<(), SourceError> {
        match self.named.iter().find(|(name, id)| FileId::of(name).ok() != Some(*id)) {
            Some((name, _)) => Err(SourceError::Broken(format!(
                "`{}` was replaced or removed: what the application has committed since is not followed",
                name.display()
            ))),
            None => Ok(()),
        }
    }

    /// The last commit; nothing while one is being written, or until a process that was killed meanwhile is cleaned up after.
    pub fn header(&self) -> Result<Option<Header>, SourceError> {
        let (_, index) = files_of(&self.pin.state)?;
        for _ in 0..LOOKS {
            match Header::read(index) {
                Ok(Some(header)) => return Ok(Some(header)),
                Ok(None) => std::thread::yield_now(),
                Err(e) => return Err(SourceError::Broken(format!("cannot read the log's index: {e}"))),
            }
        }
        Ok(None)
    }

    /// Lets the database go. Those that could make a checkpoint when they close go first.
    pub async fn end(self) {
        use sqlx::Connection;
        for connection in self.helpers.into_iter().flatten().chain(self.spare) {
            drop(connection.close().await);
        }
        self.pin.end().await;
    }
}

/// The log and its index.
fn files_of(state: &State) -> Result<(&Arc<std::fs::File>, &Arc<std::fs::File>), SourceError> {
    match &state.files {
        Files { log: Some(log), index: Some(index), .. } => Ok((log, index)),
        _ => Err(SourceError::Broken("the database has no write-ahead log".to_owned())),
    }
}

/// The commit that a state with a log is of.
pub fn commit_of(state: &State) -> Result<Header, SourceError> {
    state.commit.ok_or_else(|| SourceError::Broken("the database has no write-ahead log any more".to_owned()))
}

/// A database whose commits are followed.
pub struct Following {
    /// What keeps it.
    pub hold: Hold,
    /// The state at the segment that was kept last.
    pub known: Known,
    /// How far the log was captured: by that segment, or into memory.
    pub at: Spot,
    /// What was committed between the two.
    pub memory: Memory,
    /// What was cut and not kept yet.
    pub unkept: Option<Unkept>,
    /// A state that is held for a full.
    pub fixed: Option<Fixed>,
    /// What is remembered from one look at the log to the next.
    pub record: Record,
}

/// A state that is held for a full.
pub struct Fixed {
    /// Which one.
    pub place: Place,
    /// When it was the newest.
    pub observed: Timestamp,
    /// What holds it.
    pub snapshot: Snapshot,
}

/// A segment that was cut.
pub struct Unkept {
    place: Place,
    step: Step,
    at: Spot,
}

/// What a cut made.
pub struct Made {
    /// The state that it leads to.
    pub about: About,
    /// The digest that it begins at.
    pub before: Digest,
    /// Pages that were sent.
    pub sent: u32,
    /// The SQLite that wrote page 1 last, where it is among them.
    pub written_by: Option<u32>,
}

/// How handing over ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// All of the log was captured and is in the database file: the next writer may begin it anew.
    Anew,
    /// The newest state is held now.
    Over,
    /// What was not captured yet is too long for the memory: it is for the next cut to take.
    TooMuch,
    /// Commits come without a pause.
    NoPause,
}

impl Following {
    /// From `known` on, whose place in the log is that of the transaction that holds it, or before it.
    pub fn new(hold: Hold, known: Known) -> Self {
        let at = known.about.spot;
        let (memory, record) = (Memory::default(), Record::default());
        Self { hold, known, at, memory, unkept: None, fixed: None, record }
    }

    /// The log.
    fn log(&self) -> Result<Arc<std::fs::File>, SourceError> {
        files_of(&self.hold.pin.state).map(|(log, _)| Arc::clone(log))
    }

    /// Makes sure that `header` is of the log that was captured, or of one that begins where that one was captured to the end.
    ///
    /// A log begins anew when all of it is in the database file and nobody has a mark in it. A mark of ours forbids it. Slot 0 does not (H6), but it forbids bringing anything to the file: had
    /// there been one commit more behind our state, it would not be there, and the log could not begin anew. So whoever is on slot 0 at a state that was captured
    /// has lost nothing, as long as the lock was there all the time.
    pub fn follow_log(&mut self, header: &Header) -> Result<(), SourceError> {
        if header.salts == self.at.salts {
            let is_behind = header.frames < self.at.frames;
            let is_another = header.frames == self.at.frames && Spot::of(header) != self.at;
            return match is_behind || is_another {
                true => Err(lost(&format!("it leads to {}, and was captured up to {}", Spot::of(header), self.at))),
                false => Ok(()),
            };
        }
        if self.hold.pin.state.in_log || self.hold.pin_at != self.at {
            return Err(lost("it began anew before all of it was captured"));
        }
        self.hold.pin.require_held_in_file()?;
        self.at = Spot::beginning(header.salts);
        self.hold.pin_at = self.at;
        Ok(())
    }

    /// Whether there is something to cut.
    pub fn has_commits(&self, header: &Header) -> bool {
        !self.memory.is_empty() || header.frames > self.at.frames
    }

    /// Takes what was committed up to `header` into memory; not, where it is too much.
    pub fn capture(&mut self, header: &Header) -> Result<bool, SourceError> {
        if header.frames <= self.at.frames {
            return Ok(true);
        }
        let more = u64::from(header.frames - self.at.frames) * u64::from(header.page_size);
        if self.memory.bytes() + more > MOST_MEMORY {
            return Ok(false);
        }
        let log = self.log()?;
        self.memory.add(&log, self.at, header)?;
        self.at = Spot::of(header);
        Ok(true)
    }

    /// Holds the newest state in place of the one that is held. The new transaction begins before the old one ends, and what may be written over afterwards was captured
    /// before: there is no moment at which a commit could be lost (H5).
    pub async fn hand_over(&mut self, database: &Database) -> Result<Handed, SourceError> {
        let connection = match self.hold.spare.take() {
            Some(connection) => connection,
            None => database.apart().await.map_err(crate::engine::sqlite::errors::source_error)?,
        };
        let Some(next) = Snapshot::try_begin(database, connection).await? else { return Ok(Handed::NoPause) };
        let handed = self.hand_to(&next);
        let ended = match handed {
            Ok(Handed::Anew | Handed::Over) => {
                self.hold.pin_at = Spot::of(&commit_of(&next.state)?);
                std::mem::replace(&mut self.hold.pin, next)
            }
            _ => next,
        };
        self.hold.spare = ended.give_back().await;
        handed
    }

    /// Whether `next` can hold the database from now on.
    fn hand_to(&mut self, next: &Snapshot) -> Result<Handed, SourceError> {
        let commit = self.same_files(next)?;
        self.hold.pin.require_held()?;
        // With a mark in the log, nothing of it can be written over: what was not captured stays there.
        match !next.state.in_log && !self.capture(&commit)? {
            true => Ok(Handed::TooMuch),
            false if next.state.in_log => Ok(Handed::Over),
            false => Ok(Handed::Anew),
        }
    }

    /// The commit that `other` holds, which must be of the log that is followed.
    pub fn same_files(&mut self, other: &Snapshot) -> Result<Header, SourceError> {
        let commit = commit_of(&other.state)?;
        let ((log, index), (new_log, new_index)) = (files_of(&self.hold.pin.state)?, files_of(&other.state)?);
        if !Arc::ptr_eq(log, new_log) || !Arc::ptr_eq(index, new_index) {
            return Err(lost("the files were replaced"));
        }
        self.follow_log(&commit).map(|()| commit)
    }

    /// Sends what was committed since the segment that was kept last and up to `to`. What is cut is not forgotten before it is kept.
    pub fn cut(&mut self, to: &Header, place: Place, outlet: Outlet) -> Result<Made, SourceError> {
        self.unkept = None;
        let (log, watch) = (self.log()?, outlet.watch());
        let before = self.known.about.base.digest;
        let mut pages = to.pages;
        let found = if to.frames > self.at.frames {
            let mut seen: u32 = 0;
            frames::read(&log, self.at, to, |_, _| {
                seen += 1;
                if seen.is_multiple_of(256) { watch.may_go_on() } else { Ok(()) }
            })?
        } else {
            // An index that was made anew does not know how long the database is, before something is committed.
            pages = self.memory.pages_after.unwrap_or(pages);
            Frames { newest: Vec::new(), least: u32::MAX }
        };
        let wanted = self.wanted(found, pages)?;
        // Of an empty log, the index may not know the size of a page.
        let page_size = self.known.about.page_size;
        let mut sending = Log::new(outlet, page_size, place, before);
        let (mut changes, mut writer) = (self.known.about.changes, None);
        let mut stepping = self.known.step(pages, wanted.len()).map_err(map_error)?;
        let mut page = vec![0; page_size as usize];
        for (number, frame) in wanted {
            match self.memory.pages.get(&number) {
                Some(kept) if frame == IN_MEMORY => page.copy_from_slice(kept),
                _ => frames::page(&log, frame, number, &mut page)?,
            }
            if number == 1 {
                changes = change_counter(&page);
                writer = Some(written_by(&page));
            }
            stepping.page(number, PageHash::of(number, &page)).map_err(map_error)?;
            sending.page(number, &page)?;
        }
        let sent = sending.end(pages)?;
        let at = if to.frames > self.at.frames { Spot::of(to) } else { self.at };
        let step = stepping.end(Base { place, digest: before }, changes, at).map_err(map_error)?;
        let about = step.about.clone();
        self.unkept = Some(Unkept { place, step, at });
        Ok(Made { about, before, sent, written_by: writer })
    }

    /// The pages to send, each with the frame that has it, in order. Every page that the database has grown by must be among them, or whoever takes the segment gets zeros (H26).
    pub(super) fn wanted(&self, found: Frames, pages: u32) -> Result<Vec<(u32, u32)>, SourceError> {
        let mut wanted = found.newest;
        let in_log = wanted.len();
        let older = self.memory.pages.keys();
        let older: Vec<_> = older
            .filter(|page| wanted[..in_log].binary_search_by_key(*page, |(page, _)| *page).is_err())
            .map(|page| (*page, IN_MEMORY))
            .collect();
        wanted.extend(older);
        wanted.sort_unstable();
        wanted.retain(|(page, _)| *page <= pages);
        let least = self.known.about.pages.min(found.least).min(self.memory.least.unwrap_or(u32::MAX));
        let lock_page = lock_page(self.known.about.page_size);
        let grown = wanted.iter().map(|(page, _)| *page).filter(|page| *page > least);
        let due = (least.saturating_add(1)..=pages).filter(|page| *page != lock_page);
        match wanted.is_empty() || !due.eq(grown.filter(|page| *page != lock_page)) {
            true => Err(lost(&format!("it does not have all pages by which the database grew to {pages}"))),
            false => Ok(wanted),
        }
    }

    /// The segment that was cut for `place` is durable.
    pub fn keep(&mut self, place: Place) -> Result<(), SourceError> {
        match self.unkept.take() {
            Some(unkept) if unkept.place == place => {
                self.known.take(unkept.step).map_err(map_error)?;
                self.at = unkept.at;
                self.memory = Memory::default();
                Ok(())
            }
            _ if self.known.about.base.place == place => Ok(()),
            _ => Err(SourceError::Broken(format!("nothing was cut for {place}"))),
        }
    }

    /// Lets the database go.
    pub async fn end(self) {
        if let Some(fixed) = self.fixed {
            fixed.snapshot.end().await;
        }
        self.hold.end().await;
    }
}

/// In place of a frame: the page is in memory.
const IN_MEMORY: u32 = 0;

fn lost(what: &str) -> SourceError {
    SourceError::Broken(format!("the write-ahead log cannot be followed any more: {what}"))
}

/// What is wrong with the map is not better the next time; what the disk says may be.
pub fn map_error(error: std::io::Error) -> SourceError {
    match error.kind() {
        std::io::ErrorKind::Other => SourceError::Broken(format!("the page map: {error}")),
        _ => SourceError::Busy(format!("cannot keep the page map: {error}")),
    }
}
