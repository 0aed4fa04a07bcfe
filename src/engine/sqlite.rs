//! SQLite: one connection that writes, a few that read, and the rules of a guest in somebody's file.
//!
//! - Every write is a short `BEGIN IMMEDIATE` transaction on the one writer: a deferred one that turns from reading to writing gets
//!   `SQLITE_BUSY_SNAPSHOT` at once, whatever the busy timeout (E-6).
//! - Readers are opened read-only and carry a deadline in SQLite's progress handler: dropping the future of a query does not
//!   stop it (E-5), the handler does.
//! - The journal mode of a file that somebody else made is left alone. One that we make is set to WAL, and so is one in which nothing is written
//!   yet: a first start that was killed leaves such a file.
//! - The database file is never opened by anything but SQLite: closing a descriptor of it drops all POSIX locks that this process holds on it.

pub mod admin_key;
pub mod atlas;
pub mod errors;
mod history;
mod opened;
pub mod queries;
pub mod samples;
pub mod schema;
pub mod sources;
pub mod stats;
pub mod table;
pub mod times;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Sqlite, SqliteConnection, Transaction};

pub use opened::{Opened, check, history};

use super::EngineError;

/// How long the writer waits for another writer before the caller sees `Busy` and decides.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Virtual machine steps between two looks at the deadline: some 100 µs of work.
const STEPS_PER_LOOK: i32 = 10_000;

/// One database file.
#[derive(Clone, Debug)]
pub struct Database {
    path: PathBuf,
    /// Whether this process made the file.
    made: bool,
    writer: SqlitePool,
    readers: SqlitePool,
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
        if made {
            if !create {
                return Err(EngineError::new(format!("database `{}` does not exist", path.display()))
                    .hint("correct `database.url`, or set `database.create = true` if a new one is wanted there"));
            }
            if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder).map_err(|e| cannot("make the folder of", &e))?;
            }
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(false)
            // An insert of 500 rows is no log line; what fails is logged by who asked.
            .disable_statement_logging();
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            // SQLite ends a transaction by itself on some errors (a full disk, I/O); sqlx then still counts it as open and would refuse
            // every later one. Such a connection is closed, the pool opens another. The ping waits for a rollback under way.
            .after_release(|connection, _| {
                Box::pin(async move { connection.ping().await.map(|()| !connection.is_in_transaction()) })
            })
            .connect_with(options.clone().create_if_missing(made))
            .await
            .map_err(|e| cannot("open", &e))?;
        // A first read tells a file that is no database, or one that cannot be read, before anything is promised.
        sqlx::query("SELECT count(*) FROM sqlite_schema").execute(&writer).await.map_err(|e| cannot("read", &e))?;
        let pages: i64 =
            sqlx::query_scalar("PRAGMA page_count").fetch_one(&writer).await.map_err(|e| cannot("read", &e))?;
        if create && pages == 0 {
            sqlx::query("PRAGMA journal_mode = WAL").execute(&writer).await.map_err(|e| cannot("open", &e))?;
        }
        let readers = SqlitePoolOptions::new()
            .max_connections(2)
            .min_connections(0)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(
                options
                    .read_only(true)
                    .pragma("query_only", "ON")
                    // KiB: two readers with SQLite's default of 2 MB each would be a fifth of our memory.
                    .pragma("cache_size", "-512"),
            );
        Ok(Self { path: path.to_owned(), made, writer, readers })
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
    pub async fn write(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    /// A read-only connection whose statements are interrupted once `limit` is over.
    pub async fn read(&self, limit: Duration) -> Result<Reader, sqlx::Error> {
        let deadline = Instant::now() + limit;
        let mut connection = self.readers.acquire().await?;
        // Set anew at each acquire, so the expired handler of the last user never meets this one.
        connection.lock_handle().await?.set_progress_handler(STEPS_PER_LOOK, move || Instant::now() < deadline);
        Ok(Reader(connection))
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// A read-only connection with a deadline.
pub struct Reader(PoolConnection<Sqlite>);

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
