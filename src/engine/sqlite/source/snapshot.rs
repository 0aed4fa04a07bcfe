//! A state of the database that stays, and knowing which one it is.
//!
//! A read transaction keeps a state, but SQLite does not say which. The index of the log does: it has one header, which each commit replaces. It is read before
//! the transaction begins and after. Where it has not changed, the transaction's state is that header's, for SQLite looks at the header itself once it has its lock
//! (`walTryBeginRead`), and a header does not come back: it counts commits. Where an application commits so often that no attempt meets a pause, the write lock is
//! held for the moment that it takes (`BEGIN IMMEDIATE`, `ROLLBACK`: nothing is written, H7).
//!
//! # Where the pages of that state are
//!
//! *In the database file alone*, where all frames of the log had been brought there. The number that says so (`nBackfill`) must be read between lock and
//! second look at the header: a checkpointer that knew of later commits leaves out pages that these have again, and counts them all the same. No checkpoint
//! changes the file then. Either the transaction holds slot 0, and whoever writes to the file must have that one; or it holds a mark, and no frame behind the mark may be
//! brought over. That the log may begin anew under slot 0 (H6) is no matter: it is not read.
//!
//! *In the frames of the log up to the header's, and otherwise in the database file.* These frames stay as they are. To write over them the log must begin anew, and
//! for that it must have been brought to the file wholly. Under a mark that may come to pass, but then beginning anew needs the lock of our mark. Under slot 0 it cannot:
//! bringing over needs the lock of slot 0. What a checkpoint writes to the file meanwhile are pages that these frames have, and they are taken from
//! the frames. Frames behind the header's are not looked at, whatever they say (H1, H2).
//!
//! *In the database file, without a log*: with a rollback journal, who reads holds SHARED and nobody writes to the file meanwhile. **Commits of the application
//! wait**, and fail once its busy timeout is over. What a process that was killed left half written is taken back before, by the connection that writes.
//!
//! All of this hangs on locks that any part of this process could lose by closing a file (H4). `/proc/locks` shows them where there is one: that the lock
//! is there when a reading begins and when it has ended is looked at, not assumed.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::{Connection, SqliteConnection};

use super::image;
use super::overlay::Overlay;
use super::wal_index::{self, Header};
use crate::backup::SourceError;
use crate::engine::sqlite::descriptors::Files;
use crate::engine::sqlite::wal::FRAME_HEADER_BYTES;
use crate::engine::sqlite::{Database, FileId, errors};

/// Attempts to meet a pause between two commits. One takes some 200 µs.
const ATTEMPTS: u32 = 20;

/// How long to wait for a state that can be told, with all attempts.
const LIMIT: Duration = Duration::from_secs(10);

/// How often to look for a lock before it is called lost.
const LOOKS: u32 = 20;

/// From one such look to the next.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// The first SQLite in which two that checkpoint at once cannot lose commits, as `sqlite_version_number` (<https://www.sqlite.org/wal.html#walresetbug>, H13).
pub const WITHOUT_RESET_BUG: u32 = 3_051_003;

/// A read transaction and what it reads.
pub struct Snapshot {
    connection: SqliteConnection,
    /// What is read.
    pub state: State,
    shows_locks: bool,
}

/// Which state is read, and from where.
#[derive(Clone, Debug)]
pub struct State {
    /// The files.
    pub files: Files,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the database.
    pub pages: u32,
    /// The last commit in the log; nothing with a rollback journal.
    pub commit: Option<Header>,
    /// Whether pages must be looked for in the log.
    pub in_log: bool,
    /// The version of our SQLite.
    pub engine_version: String,
}

impl Snapshot {
    /// Begins one on a connection of its own. That is read-only: it makes no checkpoint when it commits or closes, whoever else has gone.
    pub async fn begin(database: &Database) -> Result<Self, SourceError> {
        let deadline = Instant::now() + LIMIT;
        let mut connection = match database.apart().await {
            // Its first pragma reads.
            Err(e) if errors::wants_recovery(&e) => {
                recover(database, deadline).await?;
                database.apart().await
            }
            connection => connection,
        }
        .map_err(|e| why_not(database, e))?;
        for _ in 0..ATTEMPTS {
            match attempt(&mut connection, database.path()).await {
                Ok(Some(state)) => return Self::of(connection, state),
                Ok(None) => {}
                Err(e) if errors::wants_recovery(&e) => recover(database, deadline).await?,
                Err(e) => return Err(why_not(database, e)),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        let writer = database.write_within(LIMIT).await.map_err(|e| why_not(database, e))?;
        let state = attempt(&mut connection, database.path()).await.map_err(|e| why_not(database, e))?;
        writer.rollback().await.map_err(|e| why_not(database, e))?;
        match state {
            Some(state) => Self::of(connection, state),
            None => Err(whose_index_is_missing(database.path())),
        }
    }

    /// One on `connection`, which must be one that [`Database::apart`] gave; nothing where no attempt meets a pause between two commits. Writers are never stopped for it.
    pub async fn try_begin(database: &Database, mut connection: SqliteConnection) -> Result<Option<Self>, SourceError> {
        for _ in 0..ATTEMPTS {
            match attempt(&mut connection, database.path()).await {
                Ok(Some(state)) => return Self::of(connection, state).map(Some),
                Ok(None) => {}
                Err(e) => return Err(why_not(database, e)),
            }
        }
        Ok(None)
    }

    fn of(connection: SqliteConnection, state: State) -> Result<Self, SourceError> {
        if version_number(&state.engine_version) < WITHOUT_RESET_BUG {
            let version = &state.engine_version;
            return Err(SourceError::Unsupported(format!(
                "SQLite {version} can lose commits when two make checkpoints: 3.51.3 is needed"
            )));
        }
        let shows_locks = holds_lock(&state.files) == Some(true);
        Ok(Self { connection, state, shows_locks })
    }

    /// The connection that holds it.
    pub fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// An error where the lock that kept the state was lost: what was read may be of several states. This blocks.
    pub fn require_held(&self) -> Result<(), SourceError> {
        match self.shows_locks && is_gone(|| holds_lock(&self.state.files)) {
            true => Err(lost()),
            false => Ok(()),
        }
    }

    /// The same for a state that the database file has wholly: its lock is the one that keeps checkpoints out of the file. Others of this process cannot stand in for
    /// it: SQLite asks the kernel for each lock once for all connections of a process.
    pub fn require_held_in_file(&self) -> Result<(), SourceError> {
        match self.shows_locks && is_gone(|| holds(&self.state.files, SLOT_0)) {
            true => Err(lost()),
            false => Ok(()),
        }
    }

    /// Lets the state go, and gives its connection for another one where it is still good.
    pub async fn give_back(mut self) -> Option<SqliteConnection> {
        sqlx::raw_sql("ROLLBACK").execute(&mut self.connection).await.ok().map(|_| self.connection)
    }

    /// Lets the state go.
    pub async fn end(self) {
        // What cannot be closed is closed with its thread.
        drop(self.connection.close().await);
    }
}

impl State {
    /// The pages in the log that count.
    pub fn overlay(&self) -> Result<Overlay, SourceError> {
        match (&self.commit, &self.files.log) {
            (Some(commit), Some(log)) if self.in_log => Overlay::read(log.clone(), commit),
            _ => Ok(Overlay::default()),
        }
    }

    /// Page 1; nothing where there are no pages. This blocks.
    pub fn first_page(&self) -> Result<Option<Vec<u8>>, SourceError> {
        let (overlay, mut first) = (self.overlay()?, None);
        let one = Self { pages: self.pages.min(1), ..self.clone() };
        image::pages(&one, &overlay, |_, page| {
            first = Some(page.to_vec());
            Ok(())
        })?;
        Ok(first)
    }

    /// How many bytes the log has grown by since: they cannot be used anew as long as the state is kept.
    pub fn grown(&self) -> u64 {
        let (Some(commit), Some(index)) = (&self.commit, &self.files.index) else { return 0 };
        // While one is being written there is none; the next look will see it.
        let Ok(Some(now)) = Header::read(index) else { return 0 };
        let frames = if now.salts == commit.salts { now.frames.saturating_sub(commit.frames) } else { now.frames };
        u64::from(frames) * (u64::from(self.page_size) + FRAME_HEADER_BYTES as u64)
    }
}

/// Begins a transaction; nothing, and none, where it cannot be told which state it has.
async fn attempt(connection: &mut SqliteConnection, path: &Path) -> Result<Option<State>, sqlx::Error> {
    let state = begin(connection, path).await;
    if !matches!(state, Ok(Some(_))) {
        // Where beginning failed there may be none to end.
        drop(sqlx::raw_sql("ROLLBACK").execute(connection).await);
    }
    state
}

async fn begin(connection: &mut SqliteConnection, path: &Path) -> Result<Option<State>, sqlx::Error> {
    let files = Files::of(path)?;
    let header = |files: &Files| match &files.index {
        Some(index) => Header::read(index),
        None => Ok(None),
    };
    let before = header(&files)?;
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    let (pages, page_size, engine_version): (i64, i64, String) = sqlx::query_as(
        "SELECT page_count, page_size, sqlite_version() FROM pragma_page_count, pragma_page_size, (SELECT count(*) FROM sqlite_schema)",
    )
    .fetch_one(&mut *connection)
    .await?;
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
    // In this order: the number is only good for the header that is there afterwards, too.
    let backfilled = match &files.index {
        Some(index) => wal_index::backfilled(index).unwrap_or(0),
        None => 0,
    };
    let after = header(&files)?;
    let is_log = mode == "wal";
    let is_known = !is_log || (before.is_some() && before == after && files.log.is_some());
    if !is_known || FileId::of(path)? != files.id {
        return Ok(None);
    }
    let number = |value: i64| u32::try_from(value).map_err(|e| sqlx::Error::Decode(e.into()));
    let commit = after.filter(|_| is_log);
    Ok(Some(State {
        in_log: commit.is_some_and(|commit| backfilled < commit.frames),
        files,
        page_size: number(page_size)?,
        pages: number(pages)?,
        commit,
        engine_version,
    }))
}

/// Lets the connection that writes take back what a process that was killed left half written: one that only reads may not.
async fn recover(database: &Database, deadline: Instant) -> Result<(), SourceError> {
    let within = deadline.saturating_duration_since(Instant::now());
    let mut writer = database.alone(within).await.map_err(|e| why_not(database, e))?;
    sqlx::query("SELECT count(*) FROM sqlite_schema").execute(&mut *writer).await.map_err(|e| why_not(database, e))?;
    Ok(())
}

fn lost() -> SourceError {
    SourceError::Broken(
        "the lock on the database was lost while it was read: something in this process has opened and closed one of its files".to_owned(),
    )
}

/// Whether no look of several finds the lock. The kernel gives `/proc/locks` in pieces, and leaves lines out when locks come and go between two: beside a busy
/// application one look in some hundred misses what is there.
fn is_gone(holds: impl Fn() -> Option<bool>) -> bool {
    (0..LOOKS).all(|look| {
        if look > 0 {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        holds() == Some(false)
    })
}

/// `WAL_READ_LOCK(0)` to `(4)`: from the third byte behind `UNIX_SHM_BASE` on.
const MARKS: (u64, u64) = (123, 127);

/// The first of them.
const SLOT_0: (u64, u64) = (123, 123);

/// Whether this process holds the lock of a reading: on one of the marks of the log's index, or SHARED on the database. Nothing where it cannot be seen.
fn holds_lock(files: &Files) -> Option<bool> {
    /// `SHARED_FIRST`, and `SHARED_SIZE` of them.
    const SHARED: (u64, u64) = (0x4000_0002, 0x4000_01ff);
    holds(files, if files.index.is_some() { MARKS } else { SHARED })
}

/// Whether this process holds a lock for reading on one of the bytes `wanted`.
///
/// A line of `/proc/locks`: `3: POSIX  ADVISORY  READ  1234 08:01:131 123 123`, with the process, the inode, the first byte and the last. The device is not looked at: on some file
/// systems it is another one than a file's attributes say.
fn holds(files: &Files, wanted: (u64, u64)) -> Option<bool> {
    let (inode, process) = (files.locked().ok()?.to_string(), std::process::id().to_string());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    Some(locks.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "POSIX", _, "READ", holder, place, first, last] = fields[..] else { return false };
        let last = last.parse().unwrap_or(u64::MAX);
        holder == process
            && place.rsplit(':').next() == Some(inode.as_str())
            && first.parse().is_ok_and(|first: u64| first <= wanted.1 && last >= wanted.0)
    }))
}

/// SQLite's number for `3.51.3`.
fn version_number(version: &str) -> u32 {
    version.split('.').map(|part| part.parse().unwrap_or(0)).fold(0, |number, part: u32| number * 1000 + part)
}

/// What an error of SQLite at the beginning means.
fn why_not(database: &Database, error: sqlx::Error) -> SourceError {
    let is_log = |files: &Files| {
        // The version that a reader needs: 2 with a write-ahead log (<https://www.sqlite.org/fileformat2.html#file_format_version_numbers>).
        let mut version = [0];
        files.database.read_exact_at(&mut version, 19).is_ok() && version == [2]
    };
    match Files::of(database.path()) {
        Ok(files) if errors::is_busy(&error) && files.index.is_none() && is_log(&files) => {
            SourceError::Unsupported(format!(
                "another process has `{}` for itself (`PRAGMA locking_mode = EXCLUSIVE`): nobody else can read it",
                database.path().display()
            ))
        }
        _ => errors::source_error(error),
    }
}

fn whose_index_is_missing(path: &Path) -> SourceError {
    match Files::of(path) {
        Ok(files) if files.index.is_none() || files.log.is_none() => SourceError::Broken(format!(
            "`{}` has a write-ahead log, but its file `-wal` or `-shm` is not there: was it removed while the database was in use?",
            path.display()
        )),
        _ => SourceError::Busy(
            "no state of the database could be told from the next: it is replaced or recovered just now".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::backup::Digest;
    use crate::backup::digest::PageHash;

    #[test]
    fn h13_versions_have_sqlites_numbers() {
        assert_eq!(version_number("3.51.3"), WITHOUT_RESET_BUG);
        assert_eq!(version_number("3.7.0"), 3_007_000);
        assert_eq!(version_number("3.x.1"), 3_000_001);
    }

    async fn write(database: &Database, sql: &str) {
        let mut tx = database.write().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    fn digest(state: &State, overlay: &Overlay) -> Digest {
        let mut digest = Digest::default();
        image::pages(state, overlay, |number, page| {
            digest = digest.plus(PageHash::of(number, page));
            Ok(())
        })
        .unwrap();
        digest
    }

    /// A checkpoint that knows of later commits leaves out what these have again and counts it as brought over: whoever believed that number later would take the file
    /// for the state.
    #[tokio::test]
    async fn a_checkpoint_beside_a_reading_does_not_change_what_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("a.db"), true).await.unwrap();
        write(
            &database,
            "CREATE TABLE t (id INTEGER PRIMARY KEY, body); INSERT INTO t VALUES (1, 'first'), (2, 'first')",
        )
        .await;
        let snapshot = Snapshot::begin(&database).await.unwrap();
        let state = snapshot.state.clone();
        assert!(state.in_log);
        let before = digest(&state, &state.overlay().unwrap());
        write(&database, "UPDATE t SET body = 'second'").await;
        let mut writer = database.alone(LIMIT).await.unwrap();
        sqlx::raw_sql("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut *writer).await.unwrap();
        drop(writer);
        let frames = state.commit.unwrap().frames;
        assert_eq!(wal_index::backfilled(state.files.index.as_ref().unwrap()).unwrap(), frames, "all of ours, it says");
        assert_eq!(digest(&state, &state.overlay().unwrap()), before);
        // Proof that it would be seen.
        let mut naive = None;
        let alone = image::pages(&state, &Overlay::default(), |number, page| {
            naive = Some(naive.unwrap_or_else(Digest::default).plus(PageHash::of(number, page)));
            Ok(())
        });
        assert!(alone.is_err() || naive != Some(before), "the file alone is another state, or none");
        snapshot.require_held().unwrap();
        snapshot.end().await;
        database.close().await;
    }

    /// H6: where all of the log is in the file, the log may begin anew under a reading, which does not look at it.
    #[tokio::test]
    async fn h6_the_log_may_begin_anew_under_a_reading_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("a.db"), true).await.unwrap();
        write(&database, "CREATE TABLE t (id INTEGER PRIMARY KEY, body); INSERT INTO t VALUES (1, 'first')").await;
        let mut writer = database.alone(LIMIT).await.unwrap();
        sqlx::raw_sql("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut *writer).await.unwrap();
        drop(writer);
        let snapshot = Snapshot::begin(&database).await.unwrap();
        let state = snapshot.state.clone();
        let before = digest(&state, &state.overlay().unwrap());
        write(&database, "UPDATE t SET body = 'second'").await;
        let now = Header::read(state.files.index.as_ref().unwrap()).unwrap().unwrap();
        assert_ne!(now.salts, state.commit.unwrap().salts, "it has begun anew");
        assert_eq!(digest(&state, &state.overlay().unwrap()), before);
        assert!(state.grown() > 0);
        snapshot.end().await;
        database.close().await;
    }

    /// The pages are those of the transaction, however many commits come while it begins.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_pages_are_those_that_the_transaction_sees() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("a.db"), true).await.unwrap();
        write(&database, "CREATE TABLE t (n INTEGER, body); INSERT INTO t VALUES (0, 'value 00000000')").await;
        let (tasks, busy) = (crate::task::Tasks::new(), database.clone());
        let stop = tasks.stop_token();
        tasks.spawn("application", async move {
            while !stop.is_cancelled() {
                write(&busy, "UPDATE t SET n = n + 1, body = printf('value %08d', n + 1)").await;
            }
        });
        for _ in 0..300 {
            let mut snapshot = Snapshot::begin(&database).await.unwrap();
            let seen: String = sqlx::query_scalar("SELECT body FROM t").fetch_one(snapshot.connection()).await.unwrap();
            let (state, mut last) = (snapshot.state.clone(), Vec::new());
            image::pages(&state, &state.overlay().unwrap(), |_, page| {
                last = page.to_vec();
                Ok(())
            })
            .unwrap();
            assert!(last.windows(seen.len()).any(|bytes| bytes == seen.as_bytes()), "`{seen}` is not in the page");
            snapshot.end().await;
        }
        tasks.stop().await;
        database.close().await;
    }
}
