//! SQLite: one connection that writes, a few that read, and the rules of a guest in somebody's file.
//!
//! - Every write is a short `BEGIN IMMEDIATE` transaction on the one writer: a deferred one that turns from reading to writing gets
//!   `SQLITE_BUSY_SNAPSHOT` at once, whatever the busy timeout (E-6).
//! - Readers are opened read-only and carry a deadline in SQLite's progress handler: dropping the future of a query does not
//!   stop it (E-5), the handler does.
//! - The journal mode of a file that somebody else made is left alone. One that we make is set to WAL, and so is one in which nothing is written
//!   yet: a first start that was killed leaves such a file.
//! - Where commits are followed (`source/tail.rs`) our connections keep SQLite's own checkpoints after 1,000 pages, as the application's do: these are passive and stop where the follower
//!   is, so that they can do him no harm, and where he is not (no destination, a gap that waits for a full), nothing but they would keep the log short. What changes is
//!   the end: closing leaves the log as it is.
//! - The files of a database are opened by SQLite and in `descriptors.rs`, nowhere else: closing a descriptor of one drops all POSIX locks that this process
//!   holds on it.

pub mod atlas;
mod descriptors;
pub mod errors;
pub mod expiry;
pub mod fold;
mod history;
mod opened;
pub mod queries;
pub mod rebuild;
pub mod roll_up;
pub mod runs;
pub mod samples;
pub mod schema;
pub mod source;
pub mod sources;
pub mod stats;
pub mod table;
pub mod times;
pub mod upkeep;
pub mod wal;

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection, Transaction};

use tracing::warn;

pub use opened::{Databases, Sqlite};

use super::EngineError;

/// How long the writer waits for another writer before the caller sees `Busy` and decides.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long whoever tends the log waits for another writer: he tries again soon, and must not keep others from writing meanwhile (H8).
const TENDING_BUSY_TIMEOUT: Duration = Duration::from_millis(50);

/// KiB, as SQLite wants them told: the pages that a transaction of a chore changes. With SQLite's 2 MB some go to the WAL too early and are read again.
const WRITER_CACHE: &str = "-4096";

/// Rows that wait for whoever reads them: what SQLite reads in some two milliseconds, and with rows of a kilobyte 2 MiB of memory at most.
const ROW_BUFFER: usize = 2_048;

/// Virtual machine steps between two looks at the deadline: some 100 µs of work.
const STEPS_PER_LOOK: i32 = 10_000;

/// One database file.
#[derive(Clone, Debug)]
pub struct Database {
    path: PathBuf,
    /// Whether this process made the file.
    made: bool,
    pools: Arc<Mutex<Pools>>,
    /// Whether the write-ahead log is left as it is when the last connection closes.
    keeps_log: bool,
    /// How often somebody was given leave to write.
    writes: Arc<AtomicU64>,
}

/// The connections to one file.
#[derive(Clone, Debug)]
struct Pools {
    file: FileId,
    writer: SqlitePool,
    readers: SqlitePool,
    /// Apart from the readers, so that a configured query that takes long keeps no collector waiting.
    queries: SqlitePool,
    /// How readers are connected.
    reading: SqliteConnectOptions,
    /// How those are connected that make checkpoints.
    tending: SqliteConnectOptions,
}

/// Device and inode: what a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(u64, u64);

impl FileId {
    /// Asks for attributes only: the file itself is SQLite's to open.
    fn of(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|about| Self(about.dev(), about.ino()))
    }

    /// Of a file that is open.
    fn of_file(file: &std::fs::File) -> io::Result<Self> {
        file.metadata().map(|about| Self(about.dev(), about.ino()))
    }
}

/// The path in `sqlite://PATH` (or `sqlite:PATH`).
pub fn path_of(url: &str) -> Result<PathBuf, EngineError> {
    let rest = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or("");
    if rest.is_empty() || rest.contains('?') || rest.starts_with(":memory:") {
        return Err(EngineError::new(format!("`{}` is not a SQLite file", crate::secret::redacted_url(url)))
            .hint("write `sqlite://` and the path of the file, without parameters: `sqlite://data/atlas.db`"));
    }
    Ok(PathBuf::from(rest))
}

impl Database {
    /// Opens the file at `path`; makes it, and the folder it is in, where `create` says so.
    pub async fn open(path: &Path, create: bool) -> Result<Self, EngineError> {
        let cannot = |what: &str, e: &dyn std::fmt::Display| {
            EngineError::new(format!("cannot {what} database `{}`: {e}", path.display()))
        };
        let made = !path.exists();
        if !made {
            warn_of_owner(path);
        }
        if made {
            if !create {
                return Err(EngineError::new(format!("database `{}` does not exist", path.display()))
                    .hint("correct `database.url`, or set `database.create = true` if a new one is wanted there"));
            }
            if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder).map_err(|e| cannot("make the folder of", &e))?;
            }
        }
        let pools = Pools::open(path, made).await.map_err(|e| cannot("open", &e))?;
        // A first read tells a file that is no database, or one that cannot be read, before anything is promised.
        sqlx::query("SELECT count(*) FROM sqlite_schema")
            .execute(&pools.writer)
            .await
            .map_err(|e| cannot("read", &e))?;
        let pages: i64 =
            sqlx::query_scalar("PRAGMA page_count").fetch_one(&pools.writer).await.map_err(|e| cannot("read", &e))?;
        if create && pages == 0 {
            sqlx::raw_sql("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
                .execute(&pools.writer)
                .await
                .map_err(|e| cannot("open", &e))?;
        }
        let pools = Arc::new(Mutex::new(pools));
        Ok(Self { path: path.to_owned(), made, pools, keeps_log: false, writes: Arc::default() })
    }

    /// The same, whose write-ahead log stays as it is when we close and nobody else is there: whoever follows it goes on from there.
    #[must_use]
    pub fn keeping_log(mut self, keeps: bool) -> Self {
        self.keeps_log = keeps;
        self
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this process made the file.
    pub fn made(&self) -> bool {
        self.made
    }

    /// Begins a transaction that holds the write lock from its start. Keep it short, await nothing foreign in it.
    pub async fn write(&self) -> Result<Transaction<'static, sqlx::Sqlite>, sqlx::Error> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.pools().await?.writer.begin_with("BEGIN IMMEDIATE").await
    }

    /// How often somebody of us was given leave to write.
    fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// The same with a deadline: a statement that runs when `limit` is over is interrupted, and the transaction is rolled back when it is dropped.
    pub async fn write_within(&self, limit: Duration) -> Result<Transaction<'static, sqlx::Sqlite>, sqlx::Error> {
        let deadline = Instant::now() + limit;
        let mut transaction = self.write().await?;
        transaction.lock_handle().await?.set_progress_handler(STEPS_PER_LOOK, move || Instant::now() < deadline);
        Ok(transaction)
    }

    /// The connection that writes, without a transaction, for what refuses to be in one. Its statements are interrupted once `limit` is over.
    pub async fn alone(&self, limit: Duration) -> Result<PoolConnection<sqlx::Sqlite>, sqlx::Error> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + limit;
        let mut connection = self.pools().await?.writer.acquire().await?;
        connection.lock_handle().await?.set_progress_handler(STEPS_PER_LOOK, move || Instant::now() < deadline);
        Ok(connection)
    }

    /// A read-only connection whose statements are interrupted once `limit` is over.
    pub async fn read(&self, limit: Duration) -> Result<Reader, sqlx::Error> {
        Reader::of(&self.pools().await?.readers, limit).await
    }

    /// The same for a configured query: these take turns on a connection of their own.
    pub async fn read_for_query(&self, limit: Duration) -> Result<Reader, sqlx::Error> {
        Reader::of(&self.pools().await?.queries, limit).await
    }

    /// A read-only connection that is nobody else's, for what takes long. Others find out in `pools` that the file was replaced; who has this one does it himself.
    async fn apart(&self) -> Result<SqliteConnection, sqlx::Error> {
        self.pools().await?.reading.connect().await
    }

    /// A connection that is nobody else's, for checkpoints and for holding the write lock for a moment: it waits for a moment only, and makes none by itself.
    async fn tending(&self) -> Result<SqliteConnection, sqlx::Error> {
        self.pools().await?.tending.connect().await
    }

    /// Closes all connections.
    ///
    /// The last one to close makes a checkpoint and removes the log, wherever it can: one that only reads cannot lock the file for that. So where the log is to stay,
    /// such a one is open until those that write have gone.
    pub async fn close(&self) {
        let pools = self.lock().clone();
        let last = if self.keeps_log { self.apart().await.ok() } else { None };
        if self.keeps_log {
            pools.writer.close().await;
        }
        pools.queries.close().await;
        pools.readers.close().await;
        pools.writer.close().await;
        if let Some(last) = last {
            // What cannot be closed is closed with its thread.
            drop(last.close().await);
        }
    }

    /// The connections to the file that is at the path now. A file that was replaced (restored by hand, say) lives on for whoever has it open:
    /// what we wrote there would be acknowledged and never seen again.
    async fn pools(&self) -> Result<Pools, sqlx::Error> {
        let there = FileId::of(&self.path)?;
        let held = self.lock().clone();
        if held.file == there {
            return Ok(held);
        }
        let opened = Pools::open(&self.path, false).await?;
        let mut pools = self.lock();
        if pools.file != opened.file {
            warn!(database = %self.path.display(), "the database file was replaced, the new one is opened");
            *pools = opened;
        }
        Ok(pools.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pools {
    async fn open(path: &Path, create: bool) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(false)
            .row_buffer_size(ROW_BUFFER)
            // An insert of 500 rows is no log line; what fails is logged by who asked.
            .disable_statement_logging();
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .idle_timeout(None)
                .max_lifetime(None)
                // Waiting for a connection is bounded by each source's timeout and told by its health, not by sqlx's log.
                .acquire_slow_threshold(Duration::from_secs(3600))
        };
        let writer = pool(1)
            // NORMAL can lose the last commits in a power cut, but keeps the file whole, in WAL mode only. A guest takes no such risk with others' files.
            .after_connect(|connection, _| {
                Box::pin(async move {
                    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
                    if mode != "wal" {
                        sqlx::query("PRAGMA synchronous = FULL").execute(connection).await?;
                    }
                    Ok(())
                })
            })
            // SQLite ends a transaction by itself on some errors (a full disk, I/O); sqlx then still counts it as open and would refuse
            // every later one. Such a connection is closed, the pool opens another. The ping waits for a rollback under way.
            .after_release(|connection, _| {
                Box::pin(async move {
                    // A deadline is its transaction's, not the next one's.
                    connection.lock_handle().await?.remove_progress_handler();
                    connection.ping().await.map(|()| !connection.is_in_transaction())
                })
            })
            .connect_with(options.clone().create_if_missing(create).pragma("cache_size", WRITER_CACHE))
            .await?;
        let tending = options.clone().busy_timeout(TENDING_BUSY_TIMEOUT).pragma("wal_autocheckpoint", "0");
        let reading = options
            .read_only(true)
            .pragma("query_only", "ON")
            // KiB: readers with SQLite's default of 2 MB each would be a fifth of our memory.
            .pragma("cache_size", "-512");
        Ok(Self {
            file: FileId::of(path)?,
            writer,
            readers: pool(2).connect_lazy_with(reading.clone()),
            queries: pool(1).connect_lazy_with(reading.clone()),
            reading,
            tending,
        })
    }
}

/// The first who opens a database with a write-ahead log makes the files beside it, and they are his (but for root, who gives them to the database's owner): an application of another
/// user may then read only, or not at all (H28).
fn warn_of_owner(path: &Path) {
    let Ok(about) = std::fs::metadata(path) else { return };
    let mut index = path.canonicalize().unwrap_or_else(|_| path.to_owned()).into_os_string();
    index.push("-shm");
    let user = rustix::process::geteuid().as_raw();
    if makes_files_of_another(about.uid(), user, Path::new(&index).exists()) {
        warn!(
            database = %path.display(),
            owner = about.uid(),
            user,
            "the files beside the database will belong to this user, who is not its owner: run the sidecar as the application's user, or start the application first"
        );
    }
}

fn makes_files_of_another(owner: u32, user: u32, are_there: bool) -> bool {
    const ROOT: u32 = 0;
    !are_there && user != ROOT && user != owner
}

/// A read-only connection with a deadline.
pub struct Reader(PoolConnection<sqlx::Sqlite>);

impl Reader {
    async fn of(pool: &SqlitePool, limit: Duration) -> Result<Self, sqlx::Error> {
        let deadline = Instant::now() + limit;
        let mut connection = pool.acquire().await?;
        // Set anew at each acquire, so the expired handler of the last user never meets this one.
        connection.lock_handle().await?.set_progress_handler(STEPS_PER_LOOK, move || Instant::now() < deadline);
        Ok(Self(connection))
    }
}

impl Deref for Reader {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.0
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h28_files_of_another_user_are_told() {
        assert!(makes_files_of_another(1000, 1001, false));
        assert!(!makes_files_of_another(1000, 1001, true), "they are there");
        assert!(!makes_files_of_another(1000, 1000, false), "they are the owner's");
        assert!(!makes_files_of_another(1000, 0, false), "root gives them to the owner");
    }
}
