//! Seeing to it that the log can begin anew, that nobody waits for us, and that the disk does not fill up.
//!
//! Whoever reads a log keeps it from beginning anew, and SQLite's own checkpoints after 1,000 pages come to nothing as long as somebody always does. So we make them: passive ones, which
//! wait for nobody and keep nobody waiting. First without any lock: hold the newest state, bring the log to the file up to there, and where nobody has committed meanwhile, hold the state on slot
//! 0. Where somebody always has, and the log is long, the write lock is held for as long as it takes to bring over the last few frames (H8), which is measured.
//!
//! An application's own `wal_checkpoint(FULL)`, `RESTART` or `TRUNCATE` keeps all writers out and waits for us (H9). Its locks tell, and it is let through: by holding the newest
//! state, and once more when all is in the file. No lock of a second kind is needed for that, as the field's protocol B has one, which keeps such checkpoints from beginning and in return makes
//! the application's recovery after a crash depend on us.

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::SqliteConnection;
use tracing::warn;

use super::super::wal_index::{self, Header};
use super::following::{Following, Handed, commit_of};
use super::waiting;
use crate::backup::SourceError;
use crate::backup::tail::Tended;
use crate::engine::Follow;
use crate::engine::sqlite::wal::{FRAME_HEADER_BYTES, HEADER_BYTES};
use crate::engine::sqlite::{Database, errors};

/// Frames from which on a log is to begin anew: as SQLite's own `wal_autocheckpoint` has it.
const DUE_FRAMES: u32 = 1000;

/// From one checkpoint of ours to the next.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// From how long a log on the write lock is held for a moment.
const LONG: u64 = 16 << 20;

/// For how long an application's checkpoint is looked after in one call.
const LET_THROUGH: Duration = Duration::from_secs(2);

/// From one look at it to the next: SQLite's busy handler looks at such times, too.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What must stay free on the disk, at least, and as a part of it, for a long log to be kept (H11).
const LEAST_FREE: u64 = 64 << 20;
const LEAST_PART: u64 = 20;

/// A log below this is not what fills a disk.
const HARMLESS: u64 = 64 << 20;

/// From one warning to the next of its kind.
const WARN_EVERY: Duration = Duration::from_secs(3600);

/// How many looks in a row must have found commits and nobody who could have made them.
const LONELY_LOOKS: u32 = 50;

/// For how long a state is held for a full that nobody reads.
const FIXED_FOR: Duration = Duration::from_secs(60);

/// What is remembered from one look at the log to the next.
#[derive(Debug, Default)]
pub struct Record {
    checkpointed: Option<Instant>,
    /// For how long writers were kept waiting since the last look.
    held: Duration,
    /// The log that is too long, and since when.
    long: Option<([u32; 2], Instant)>,
    /// Looks in a row that found no header.
    headless: u32,
    warned_of_wait: Option<Instant>,
    warned_of_reader: Option<Instant>,
    /// The frames and our own writes at the last look, and the looks in a row that found others' commits and no others.
    seen: Option<([u32; 2], u32, u64)>,
    lonely: u32,
    /// Since when a state is held for a full.
    fixed_since: Option<Instant>,
}

impl Following {
    /// One look at the log, and what follows from it.
    pub async fn tend(&mut self, database: &Database, follow: &Follow) -> Result<Tended, SourceError> {
        self.hold.require_same_files()?;
        let Some(header) = self.hold.header()? else {
            self.record.headless += 1;
            // Whoever reads next cleans up; an application that is gone does not.
            if self.record.headless > 1 {
                self.hand_over(database).await?;
            }
            return Ok(Tended::default());
        };
        self.record.headless = 0;
        let mut write_lock_held = std::mem::take(&mut self.record.held);
        // A cut is on its way to the disk: what it took must stay where it is until it is kept.
        if self.unkept.is_none() {
            self.follow_log(&header)?;
            if self.a_checkpoint_waits() {
                self.let_through(database).await?;
            } else if self.is_due(&header) {
                write_lock_held += self.checkpoint(database).await?;
            }
        }
        self.look_for_others(database, &header);
        self.forget_fixed().await;
        let header = self.hold.header()?.unwrap_or(header);
        let log_bytes = length(&header);
        let released = too_long(log_bytes, follow.log_max, free_space(database.path()));
        Ok(Tended { log_bytes, pinned: self.record.pinned(&header), write_lock_held, released })
    }

    fn a_checkpoint_waits(&self) -> bool {
        self.hold.pin.state.files.index.as_ref().is_some_and(|index| waiting::a_checkpoint_waits(index))
    }

    /// Lets an application's checkpoint through that waits for us.
    async fn let_through(&mut self, database: &Database) -> Result<(), SourceError> {
        if due(&mut self.record.warned_of_wait, WARN_EVERY) {
            warn!(
                "a checkpoint of the application keeps its writers waiting for our read mark, which is moved out of its way: \
                 `PRAGMA wal_checkpoint(PASSIVE)` waits for nobody, and with `PRAGMA busy_timeout = 0` before it no other kind does"
            );
        }
        let until = Instant::now() + LET_THROUGH;
        while Instant::now() < until && self.a_checkpoint_waits() {
            // On slot 0 we are in nobody's way, and what does not fit into memory is for the next cut.
            if matches!(self.hand_over(database).await?, Handed::Anew | Handed::TooMuch) {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn is_due(&self, header: &Header) -> bool {
        let is_free = !self.hold.pin.state.in_log && header.frames == self.hold.pin_at.frames;
        header.frames >= DUE_FRAMES
            && !is_free
            && self.record.checkpointed.is_none_or(|last| last.elapsed() >= CHECKPOINT_EVERY)
    }

    /// A cut was kept: where commits come faster than can be taken into memory between two looks, there is little behind it now or never.
    pub async fn tend_behind_cut(&mut self, database: &Database) -> Result<(), SourceError> {
        let Some(header) = self.hold.header()? else { return Ok(()) };
        self.follow_log(&header)?;
        if length(&header) > LONG && self.fits(&header) {
            let held = self.checkpoint(database).await?;
            self.record.held += held;
        }
        Ok(())
    }

    /// Makes a checkpoint, and says how long writers were kept waiting for it.
    async fn checkpoint(&mut self, database: &Database) -> Result<Duration, SourceError> {
        self.record.checkpointed = Some(Instant::now());
        if self.hand_over(database).await? == Handed::Anew {
            return Ok(Duration::ZERO);
        }
        let mut helpers = match self.hold.helpers.take() {
            Some(helpers) => helpers,
            None => {
                let connect = || async { database.tending().await.map_err(errors::source_error) };
                [connect().await?, connect().await?]
            }
        };
        let held = self.checkpoint_with(database, &mut helpers).await?;
        self.hold.helpers = Some(helpers);
        Ok(held)
    }

    async fn checkpoint_with(
        &mut self,
        database: &Database,
        [writer, checkpointer]: &mut [SqliteConnection; 2],
    ) -> Result<Duration, SourceError> {
        let mark = commit_of(&self.hold.pin.state)?.frames;
        passive(checkpointer).await?;
        let handed = self.hand_over(database).await?;
        let Some(header) = self.hold.header()? else { return Ok(Duration::ZERO) };
        if handed == Handed::Anew || length(&header) <= LONG || self.somebody_reads(mark) || !self.fits(&header) {
            return Ok(Duration::ZERO);
        }
        match sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *writer).await {
            Err(e) if errors::is_busy(&e) => return Ok(Duration::ZERO),
            begun => begun.map_err(errors::source_error)?,
        };
        let since = Instant::now();
        let done = self.under_the_lock(database, checkpointer).await;
        // Where this fails, both connections are closed, and the lock is gone with them.
        sqlx::raw_sql("ROLLBACK").execute(writer).await.map_err(errors::source_error)?;
        let held = since.elapsed();
        done.map(|()| held)
    }

    /// Whether what was not captured yet can be taken into memory.
    fn fits(&self, header: &Header) -> bool {
        header.salts == self.at.salts
            && u64::from(header.frames.saturating_sub(self.at.frames)) * u64::from(header.page_size)
                <= super::following::MOST_MEMORY
    }

    /// Whether the file does not have all that is before `mark`, which a checkpoint of ours was to reach: somebody else reads an older state, and no lock of ours would help.
    fn somebody_reads(&mut self, mark: u32) -> bool {
        let index = self.hold.pin.state.files.index.as_ref();
        let reads = index.is_some_and(|index| wal_index::backfilled(index).is_ok_and(|backfilled| backfilled < mark));
        if reads && due(&mut self.record.warned_of_reader, WARN_EVERY) {
            warn!("the write-ahead log is long, and another reader of the application keeps it from beginning anew");
        }
        reads
    }

    /// Nobody commits meanwhile.
    async fn under_the_lock(
        &mut self,
        database: &Database,
        checkpointer: &mut SqliteConnection,
    ) -> Result<(), SourceError> {
        let Some(header) = self.hold.header()? else { return Ok(()) };
        self.follow_log(&header)?;
        if self.capture(&header)? && self.hand_over(database).await? == Handed::Over {
            passive(checkpointer).await?;
            self.hand_over(database).await?;
        }
        Ok(())
    }

    /// H27: commits of others, and no others. They do not see our locks, and we do not see theirs.
    fn look_for_others(&mut self, database: &Database, header: &Header) {
        let now = (header.salts, header.frames, database.writes());
        let Some(before) = self.record.seen.replace(now) else { return };
        let is_ours = before.2 != now.2;
        if (before.0, before.1) == (now.0, now.1) || is_ours {
            return;
        }
        let index = self.hold.pin.state.files.index.as_ref();
        if index.is_some_and(|index| waiting::is_open_elsewhere(index)) {
            self.record.lonely = 0;
            return;
        }
        self.record.lonely += 1;
        if self.record.lonely == LONELY_LOOKS {
            warn!(
                "commits come, and nobody else has the database open: where the application connects for each of them only, that is well; where its locks do not reach \
                 this process (a network file system, a container of another kernel), backups of it can be wrong"
            );
        }
    }

    /// A state that nobody reads is let go: it keeps the log from beginning anew.
    async fn forget_fixed(&mut self) {
        if self.fixed.is_none() {
            self.record.fixed_since = None;
            return;
        }
        let since = *self.record.fixed_since.get_or_insert_with(Instant::now);
        if since.elapsed() > FIXED_FOR
            && let Some(fixed) = self.fixed.take()
        {
            warn!(place = %fixed.place, "the state was held for a full that nobody reads: it is let go");
            fixed.snapshot.end().await;
        }
    }
}

impl Record {
    /// For how long the log has been long without beginning anew.
    fn pinned(&mut self, header: &Header) -> Duration {
        if length(header) <= LONG {
            self.long = None;
            return Duration::ZERO;
        }
        match self.long {
            Some((salts, since)) if salts == header.salts => since.elapsed(),
            _ => {
                self.long = Some((header.salts, Instant::now()));
                Duration::ZERO
            }
        }
    }
}

/// Brings as much of the log to the file as nobody needs there.
async fn passive(connection: &mut SqliteConnection) -> Result<(), SourceError> {
    let _: (i64, i64, i64) =
        sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(connection).await.map_err(errors::source_error)?;
    Ok(())
}

/// Whether `last` was longer ago than `every`, or never; then it is now.
fn due(last: &mut Option<Instant>, every: Duration) -> bool {
    let is_due = last.is_none_or(|last| last.elapsed() >= every);
    if is_due {
        *last = Some(Instant::now());
    }
    is_due
}

/// Bytes of the log up to `header`.
pub fn length(header: &Header) -> u64 {
    match header.frames {
        0 => 0,
        frames => HEADER_BYTES as u64 + (FRAME_HEADER_BYTES as u64 + u64::from(header.page_size)) * u64::from(frames),
    }
}

/// Bytes that are free where the database is, and all of them.
fn free_space(path: &Path) -> Option<(u64, u64)> {
    let about = rustix::fs::statvfs(path).ok()?;
    Some((about.f_bavail.saturating_mul(about.f_frsize), about.f_blocks.saturating_mul(about.f_frsize)))
}

/// Why a log of that length is not to be kept any longer.
fn too_long(bytes: u64, most: u64, space: Option<(u64, u64)>) -> Option<String> {
    if bytes > most {
        return Some(format!("the write-ahead log has {} MiB, and may have {}", bytes >> 20, most >> 20));
    }
    match space {
        Some((free, all)) if bytes > HARMLESS && free < LEAST_FREE.max(all / LEAST_PART) => Some(format!(
            "{} MiB are free on the database's disk, and its write-ahead log has {}",
            free >> 20,
            bytes >> 20
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h11_a_log_is_let_go_before_the_disk_is_full() {
        const MIB: u64 = 1 << 20;
        let plenty = Some((900 * MIB, 1000 * MIB));
        assert_eq!(too_long(100 * MIB, 1024 * MIB, plenty), None);
        assert!(too_long(1025 * MIB, 1024 * MIB, plenty).is_some());
        assert!(too_long(65 * MIB, 1024 * MIB, Some((63 * MIB, 1000 * MIB))).is_some());
        assert!(too_long(65 * MIB, 1024 * MIB, Some((400 * MIB, 10_000 * MIB))).is_some(), "a twentieth");
        assert_eq!(too_long(63 * MIB, 1024 * MIB, Some((MIB, 1000 * MIB))), None, "it is not the log that fills it");
        assert_eq!(too_long(100 * MIB, 1024 * MIB, None), None);
    }
}
