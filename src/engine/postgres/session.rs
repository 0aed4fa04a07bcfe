//! Sessions that are kept for the next one who needs one, few of each kind.
//!
//! Why not sqlx's pool: it connects to one host only, gives `pool timed out` where the server said what is wrong, and tests a returned connection without
//! a limit: a server that vanished without a word would take its place in the pool for a quarter of an hour.
//!
//! - A transaction begins with a question that takes no extra way: whether this is still a server that can be written to. Where the answer is no, late
//!   ([`LOOK_LIMIT`]) or none, the session is closed and another one begun, on whatever host is the right one then.
//! - A transaction that is dropped is rolled back before anybody else gets its session. If that takes long ([`REST_LIMIT`]), because a statement
//!   that nobody waits for any more still runs (E-5), the session is closed; the server ends the statement by its `statement_timeout`.
//! - sqlx sets no keepalive and no time limit on a socket: who waits for an answer must do so [`within`] a limit.

use std::future::Future;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connect::{Connector, Rounds};
use crate::task::Tasks;

/// How long a lane waits for a session that somebody else has.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

/// How long a kept session may take to begin a transaction: it only asks for a word.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// How long a rollback may take.
const REST_LIMIT: Duration = Duration::from_secs(1);

/// How old a session may become: what a server keeps for it (cached plans and catalogs) grows.
const MOST_AGE: Duration = Duration::from_secs(30 * 60);

/// Sessions of one kind.
pub struct Lane {
    connector: Arc<Connector>,
    reading: bool,
    kept: Mutex<Vec<Kept>>,
    free: Arc<Semaphore>,
    resting: Tasks,
    /// Held while a session begins: one at a time.
    rounds: tokio::sync::Mutex<Rounds>,
}

/// A session that nobody has.
struct Kept {
    connection: PgConnection,
    since: Instant,
}

impl Kept {
    async fn close(self) {
        // A server that does not take the farewell notices that we are gone.
        let _ = tokio::time::timeout(REST_LIMIT, self.connection.close()).await;
    }
}

impl Lane {
    /// At most `sessions` at a time.
    pub fn new(connector: &Arc<Connector>, reading: bool, sessions: usize) -> Arc<Self> {
        Arc::new(Self {
            connector: Arc::clone(connector),
            reading,
            kept: Mutex::default(),
            free: Arc::new(Semaphore::new(sessions)),
            resting: Tasks::new(),
            rounds: tokio::sync::Mutex::default(),
        })
    }

    /// Begins a transaction with `begin`, on a kept session or a new one.
    pub async fn begin(self: &Arc<Self>, begin: &str) -> Result<Session, sqlx::Error> {
        self.session(&format!("{begin};"), AtDrop::RollBack).await
    }

    /// A session without a transaction. Dropped before [`Session::sound`], it is closed.
    pub async fn lend(self: &Arc<Self>) -> Result<Session, sqlx::Error> {
        self.session("", AtDrop::Close).await
    }

    async fn session(self: &Arc<Self>, begin: &str, at_drop: AtDrop) -> Result<Session, sqlx::Error> {
        let free = tokio::time::timeout(WAIT_LIMIT, Arc::clone(&self.free).acquire_owned()).await;
        let place = free.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        while let Some(mut kept) = self.take() {
            if kept.since.elapsed() < MOST_AGE && self.begun(&mut kept.connection, begin).await.is_ok() {
                return Ok(Session { held: Some((kept, place)), lane: Arc::clone(self), at_drop });
            }
        }
        let mut kept = self.connect().await?;
        self.begun(&mut kept.connection, begin).await?;
        Ok(Session { held: Some((kept, place)), lane: Arc::clone(self), at_drop })
    }

    /// Connects now, so that what is wrong is known.
    pub async fn open(&self) -> Result<(), sqlx::Error> {
        let kept = self.connect().await?;
        self.keep(kept);
        Ok(())
    }

    /// Closes all sessions; nobody gets one any more.
    pub async fn close(&self) {
        self.free.close();
        self.resting.stop().await;
        while let Some(kept) = self.take() {
            kept.close().await;
        }
    }

    /// Begins; an error where the server is the wrong one by now.
    async fn begun(&self, connection: &mut PgConnection, begin: &str) -> Result<(), sqlx::Error> {
        let question = match self.reading {
            true => "pg_is_in_recovery()",
            // Also where the database was made read-only by its owner.
            false => "current_setting('transaction_read_only') = 'on'",
        };
        // One message, one way: the last statement answers.
        let text = AssertSqlSafe(format!("{begin} SELECT {question}"));
        let rows = within(LOOK_LIMIT, sqlx::raw_sql(text).fetch_all(connection)).await.flatten()?;
        match rows.last().ok_or(sqlx::Error::RowNotFound)?.try_get(0)? {
            false => Ok(()),
            true => Err(sqlx::Error::Io(io::Error::new(
                io::ErrorKind::ReadOnlyFilesystem,
                "the server takes no writes any more",
            ))),
        }
    }

    async fn connect(&self) -> Result<Kept, sqlx::Error> {
        let connection = self.connector.connect(self.reading, &mut *self.rounds.lock().await).await?;
        Ok(Kept { connection, since: Instant::now() })
    }

    fn take(&self) -> Option<Kept> {
        self.lock().pop()
    }

    fn keep(&self, kept: Kept) {
        if !self.free.is_closed() {
            self.lock().push(kept);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session, for somebody alone.
pub struct Session {
    held: Option<(Kept, OwnedSemaphorePermit)>,
    lane: Arc<Lane>,
    at_drop: AtDrop,
}

/// What becomes of a session that is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtDrop {
    /// It is in a transaction, which is to be undone.
    RollBack,
    /// Nothing is under way: the next one may have it.
    Keep,
    /// Answers may be under way that the next one would take for its own.
    Close,
}

impl Session {
    /// Ends the transaction so that it counts.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        // COMMIT of a transaction in which a statement failed is a ROLLBACK that looks like a success; a statement in front of it is refused there.
        sqlx::raw_sql("SELECT; COMMIT").execute(&mut *self).await?;
        self.sound();
        Ok(())
    }

    /// Undoes the transaction.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("ROLLBACK").execute(&mut *self).await?;
        self.sound();
        Ok(())
    }

    /// Ends the session, and with it its settings and its locks.
    pub async fn close(mut self) {
        if let Some((kept, place)) = self.held.take() {
            kept.close().await;
            drop(place);
        }
    }

    /// Nothing is under way: no transaction, and no answer.
    pub fn sound(&mut self) {
        self.at_drop = AtDrop::Keep;
    }
}

impl Deref for Session {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.held.as_ref().expect("a session is held until it is dropped").0.connection
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.held.as_mut().expect("a session is held until it is dropped").0.connection
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some((mut kept, place)) = self.held.take() else { return };
        let lane = Arc::clone(&self.lane);
        match self.at_drop {
            AtDrop::Keep => return lane.keep(kept),
            // At the end of the process there may be nobody left to wait for an answer; the closed socket tells the server the same.
            AtDrop::RollBack if tokio::runtime::Handle::try_current().is_ok() => {}
            AtDrop::RollBack | AtDrop::Close => return,
        }
        self.lane.resting.spawn("rollback", async move {
            let undone = within(REST_LIMIT, sqlx::raw_sql("ROLLBACK").execute(&mut kept.connection)).await;
            if undone.flatten().is_ok() {
                lane.keep(kept);
            }
            drop(place);
        });
    }
}

/// Waits for `what`, but not for longer than `limit`: the server may be gone without a word, and its own limits with it. What was going on is left
/// behind in its session, which is closed.
pub async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(limit, what).await.map_err(|_| {
        let why = format!("no answer from the server in {limit:?}");
        sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, why))
    })
}
