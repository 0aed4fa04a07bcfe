//! PostgreSQL: short transactions on a few connections, and the rules of a guest on somebody's server.
//!
//! - Every session says who it is (`application_name`), lives in UTC (T-3), and has a `statement_timeout`, a `lock_timeout` and an
//!   `idle_in_transaction_session_timeout`: whatever happens to this process, the server ends what it began.
//! - Reading happens in `READ ONLY` transactions whose `statement_timeout` is the deadline of who reads: dropping the future of a query does not stop it on the server
//!   (E-5), the timeout does.
//! - Those settings are startup parameters of the session. A pooler in transaction mode refuses or forgets them, and with them every promise made
//!   here: such a connection is refused with a message that says so.

pub mod errors;
pub mod expiry;
mod opened;
pub mod roll_up;
pub mod runs;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, Transaction};

pub use opened::{Databases, Postgres};

use super::EngineError;
use crate::secret::{Secret, redacted_url};

/// How the sidecar is named in `pg_stat_activity`.
const APPLICATION: &str = "atlas-sidecar";

/// What a statement of ours may take where nobody set a shorter limit.
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);

/// How long a statement waits for a lock that somebody else holds.
const LOCK_LIMIT: Duration = Duration::from_secs(2);

/// How long the server keeps a transaction of ours in which nothing happens: a sidecar that hangs must not hold back VACUUM.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// How long the pools wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// One database on a server.
#[derive(Clone)]
pub struct Database {
    shown: Arc<str>,
    writer: PgPool,
    readers: PgPool,
    /// Apart from the readers, so that a configured query that takes long keeps no collector waiting.
    queries: PgPool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.shown).finish()
    }
}

impl Database {
    /// Connects to the database of `url`.
    pub async fn open(url: &str, password: Option<&Secret>) -> Result<Self, EngineError> {
        let shown: Arc<str> = redacted_url(url).into();
        let cannot = |e: &dyn fmt::Display| EngineError::new(format!("cannot connect to `{shown}`: {e}"));
        let mut options = PgConnectOptions::from_str(url).map_err(|e| cannot(&e))?;
        if let Some(password) = password {
            options = options.password(password.reveal());
        }
        let limit = |limit: Duration| limit.as_millis().to_string();
        let options = options.application_name(APPLICATION).disable_statement_logging().options([
            ("TimeZone", "UTC".to_owned()),
            ("statement_timeout", limit(STATEMENT_LIMIT)),
            ("lock_timeout", limit(LOCK_LIMIT)),
            ("idle_in_transaction_session_timeout", limit(IDLE_LIMIT)),
        ]);
        let pool = |connections| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(CONNECT_LIMIT)
                // Waiting for a connection is bounded by each source's timeout and told by its health, not by sqlx's log.
                .acquire_slow_threshold(Duration::from_secs(3600))
        };
        let reading = options.clone().options([("default_transaction_read_only", "on")]);
        Ok(Self {
            writer: pool(1).connect_with(options).await.map_err(|e| cannot(&e))?,
            readers: pool(2).connect_lazy_with(reading.clone()),
            queries: pool(1).connect_lazy_with(reading),
            shown,
        })
    }

    /// The URL without its secrets.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Begins a transaction. Keep it short, await nothing foreign in it.
    pub async fn write(&self) -> Result<Transaction<'static, sqlx::Postgres>, sqlx::Error> {
        self.writer.begin().await
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
        self.queries.close().await;
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// A read-only transaction with a deadline; it ends, with nothing to undo, when it is dropped.
pub struct Reader(Transaction<'static, sqlx::Postgres>);

impl Reader {
    async fn of(pool: &PgPool, limit: Duration) -> Result<Self, sqlx::Error> {
        let mut transaction = pool.begin_with("BEGIN READ ONLY").await?;
        let set = format!("SET LOCAL statement_timeout = {}", limit.as_millis().max(1));
        sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut *transaction).await?;
        Ok(Self(transaction))
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
