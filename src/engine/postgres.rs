//! PostgreSQL: short transactions on a few connections, and the rules of a guest on somebody's server.
//!
//! - Every session says who it is (`application_name`), lives in UTC (T-3), and has a `statement_timeout`, a `lock_timeout` and an
//!   `idle_in_transaction_session_timeout`: whatever happens to this process, the server ends what it began.
//! - Reading happens in `READ ONLY` transactions whose `statement_timeout` is the deadline of who reads: dropping the future of a query does not stop it on the server
//!   (E-5), the timeout does.
//! - Sessions are on whichever of the URL's hosts can be written to, and move there by themselves ([`connect`], `session`).
//! - Their settings are startup parameters. A pooler in transaction mode refuses or forgets them, and with them every promise made
//!   here: such a connection is refused with a message that says so.

pub mod address;
pub mod atlas;
mod check;
pub mod connect;
pub mod errors;
pub mod expiry;
mod history;
mod numbers;
mod opened;
pub mod pressure;
pub mod queries;
pub mod roll_up;
pub mod runs;
pub mod samples;
pub mod schema;
mod session;
pub mod sources;
pub mod stats;
pub mod table;
pub mod times;
pub mod upkeep;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;

pub use opened::{Databases, Postgres};
pub use session::{Session, within};

use super::EngineError;
use crate::secret::Secret;
use address::Address;
use connect::{Connector, Home};
use session::Lane;

/// What a transaction that writes may take, seen from here: a statement of it is ended by the server after 30 s. Longer means that there is no server
/// any more.
pub const WRITE_LIMIT: Duration = Duration::from_secs(40);

/// One database, on whichever of its servers can be written to.
#[derive(Clone)]
pub struct Database {
    connector: Arc<Connector>,
    writer: Arc<Lane>,
    readers: Arc<Lane>,
    /// Apart from the readers, so that a configured query that takes long keeps no collector waiting.
    queries: Arc<Lane>,
    /// Apart from the writer: what upkeep does may take an hour, and neither samples nor leases wait for it.
    upkeep: Arc<Lane>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.shown()).finish()
    }
}

impl Database {
    /// Connects to the database of `url`.
    pub async fn open(url: &str, password: Option<&Secret>) -> Result<Self, EngineError> {
        let address: Address = url.parse().map_err(|e| EngineError::new(format!("the database's URL {e}")))?;
        let connector = Arc::new(Connector::new(address, password));
        let lane = |reading, sessions| Lane::new(&connector, reading, sessions);
        let (writer, upkeep) = (lane(false, 1), lane(false, 1));
        let database = Self { writer, readers: lane(true, 2), queries: lane(true, 1), upkeep, connector };
        match database.writer.open().await {
            Ok(()) => Ok(database),
            Err(e) => {
                let why = errors::said(&e);
                let error = EngineError::new(format!("cannot connect to `{}`: {why}", database.shown()));
                // The state of a database that does not exist. `database.create` has no meaning here: who may make one is the server's affair.
                Err(match why.contains("(3D000)") {
                    true => error.hint("`createdb` makes a database; `migrate` and `run` fill an empty one"),
                    false => error,
                })
            }
        }
    }

    /// The URL without its secrets.
    pub fn shown(&self) -> &str {
        self.connector.shown()
    }

    /// Where sessions are now, and whether they are encrypted.
    pub fn home(&self) -> Option<Home> {
        self.connector.home()
    }

    /// Begins a transaction. Keep it short, await nothing foreign in it, and do it [`within`] [`WRITE_LIMIT`].
    pub async fn write(&self) -> Result<Writer, sqlx::Error> {
        self.writer.begin("BEGIN").await.map(Writer)
    }

    /// A session of the writer without a transaction, for a single statement that is one by itself (COPY) or refuses to be in one. It is closed when it is
    /// dropped, unless it was called [`Session::sound`] before.
    pub async fn alone(&self) -> Result<Session, sqlx::Error> {
        self.writer.lend().await
    }

    /// A session beside the writer's without a transaction, for upkeep. Close it: its settings are its own.
    pub async fn aside(&self) -> Result<Session, sqlx::Error> {
        self.upkeep.lend().await
    }

    /// A read-only transaction whose statements are ended by the server once `limit` is over.
    pub async fn read(&self, limit: Duration) -> Result<Reader, sqlx::Error> {
        Reader::of(&self.readers, limit).await
    }

    /// The same for a configured query: these take turns on a connection of their own.
    pub async fn read_for_query(&self, limit: Duration) -> Result<Reader, sqlx::Error> {
        Reader::of(&self.queries, limit).await
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.upkeep.close().await;
        self.queries.close().await;
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// A transaction that writes. Dropped before [`Writer::commit`], it is undone.
pub struct Writer(Session);

impl Writer {
    /// Ends the transaction so that it counts. An error does not say that it does not: the answer may have been lost on its way.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.0.commit().await
    }

    /// Undoes it now, and waits for that.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.0.rollback().await
    }
}

impl Deref for Writer {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Writer {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

/// A read-only transaction with a deadline; it ends, with nothing to undo, when it is dropped.
pub struct Reader(Session);

impl Reader {
    async fn of(lane: &Arc<Lane>, limit: Duration) -> Result<Self, sqlx::Error> {
        let limit = limit.as_millis().max(1);
        lane.begin(&format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {limit}")).await.map(Self)
    }
}

impl Deref for Reader {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}
