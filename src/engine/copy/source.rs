//! The SQLite side: one connection that only reads, one transaction for everything, and no file left behind.
//!
//! A file in WAL mode cannot be read without its `-wal` and `-shm` beside it; SQLite makes them where they are missing, and a connection that only reads may not take them away again.
//! Whether somebody else uses them by then only SQLite knows, so [`Source::close`] lets SQLite do it: a connection that may write is opened and
//! closed. It finds an empty log, so it changes nothing in the database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::BoxStream;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow, SqliteValueRef};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Decode, Row, Sqlite, SqliteConnection, TypeInfo, ValueRef};

use super::kind::Stored;
use super::plan::Wanted;
use super::{CopyError, EngineError};
use crate::engine::schema::inventory::{Inventory, Kind, Relation};
use crate::engine::schema::names::quoted;
use crate::engine::sqlite::errors;
use crate::engine::sqlite::schema::inventory;

/// How long a writer of the source is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows that SQLite reads ahead. Few, for a row may have megabytes.
const ROWS_AHEAD: usize = 16;

/// The database that is copied from, in its read transaction.
pub struct Source {
    path: PathBuf,
    connection: SqliteConnection,
    had_wal: bool,
}

/// What is in the source.
pub struct Here {
    /// Its schema.
    pub inventory: Inventory,
    /// The wanted tables that have rows.
    pub filled: Vec<&'static str>,
}

impl Source {
    /// Opens the file at `path`, which must be there, and begins the transaction.
    pub async fn open(path: &Path) -> Result<Self, CopyError> {
        if !path.is_file() {
            let error = EngineError::new(format!("there is no file `{}` to copy from", path.display()));
            return Err(CopyError::Unreachable(error));
        }
        let had_wal = wal_of(path).exists();
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(ROWS_AHEAD)
            .pragma("query_only", "ON")
            .disable_statement_logging();
        let begun = async {
            let mut connection = options.connect().await?;
            // The transaction begins to see at its first reading, which is here.
            sqlx::raw_sql("BEGIN; SELECT count(*) FROM sqlite_schema").execute(&mut connection).await?;
            Ok(connection)
        };
        match begun.await {
            Ok(connection) => Ok(Self { path: path.to_owned(), connection, had_wal }),
            Err(e) => {
                tidy(path, had_wal).await;
                Err(match source_error(path, &e) {
                    CopyError::Failed(e) => CopyError::Unreachable(e),
                    other => other,
                })
            }
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it.
    pub async fn look(&mut self, wanted: &[Wanted]) -> Result<Here, CopyError> {
        let path = self.path.clone();
        let failed = |e: sqlx::Error| source_error(&path, &e);
        let inventory = inventory::read(&mut self.connection).await.map_err(failed)?;
        let mut filled = Vec::new();
        for table in wanted {
            let Some(relation) = inventory.relation(table.name).filter(|r| is_table(r)) else { continue };
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {}{})", quoted(&relation.name), table.filter());
            if sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.connection).await.map_err(failed)? {
                filled.push(table.name);
            }
        }
        Ok(Here { inventory, filled })
    }

    /// The rows that `sql` selects.
    pub fn rows(&mut self, sql: String) -> BoxStream<'_, Result<SqliteRow, sqlx::Error>> {
        sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch(&mut self.connection)
    }

    /// What an error of reading means.
    pub fn error(&self, e: &sqlx::Error) -> CopyError {
        source_error(&self.path, e)
    }

    /// Ends the transaction; takes away the files of a log that was not there.
    pub async fn close(self) {
        // Nothing was written: there is nothing to lose where this fails.
        let _ = self.connection.close().await;
        tidy(&self.path, self.had_wal).await;
    }
}

/// Whether rows can be read from it: a table, not a view or something virtual.
pub fn is_table(relation: &Relation) -> bool {
    matches!(relation.kind, Kind::Table | Kind::WithoutRowid)
}

fn wal_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

async fn tidy(path: &Path, had_wal: bool) {
    if had_wal || !wal_of(path).exists() {
        return;
    }
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT).disable_statement_logging();
    if let Ok(mut connection) = options.connect().await {
        // Whoever has not looked at the log does not take it away. Where this fails two empty files stay, which harm nobody.
        let _ = sqlx::query("SELECT count(*) FROM sqlite_schema").execute(&mut connection).await;
        let _ = connection.close().await;
    }
}

/// A transaction that a crash left half-written waits in `-journal` to be rolled back, which would be a change.
const READONLY_ROLLBACK: i32 = 776;

fn source_error(path: &Path, e: &sqlx::Error) -> CopyError {
    let error = EngineError::new(format!("cannot read `{}`: {e}", path.display()));
    match errors::code(e) {
        _ if errors::is_busy(e) => {
            CopyError::Busy(error.hint("another process writes to it: stop the application, then copy"))
        }
        Some(READONLY_ROLLBACK) => CopyError::Failed(error.hint(
            "a crash left a transaction in its journal: start the application once, or read the file with the `sqlite3` shell, and it is rolled back",
        )),
        _ => CopyError::Failed(error.hint(
            "it has to be a SQLite file that is whole, in a folder that this user can write to (for `-wal` and `-shm`)",
        )),
    }
}

/// The value at `at` of `row`, as it is stored.
pub fn stored(row: &SqliteRow, at: usize) -> Result<Stored<'_>, sqlx::Error> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(Stored::Null);
    }
    let kind = value.type_info();
    let kind: &str = kind.name();
    // Read by its storage class: sqlx's own checks go by the declared type.
    Ok(match kind {
        "INTEGER" | "INT4" | "BIGINT" => Stored::Integer(decoded(value)?),
        "REAL" => Stored::Real(decoded(value)?),
        "TEXT" => Stored::Text(decoded(value)?),
        _ => Stored::Blob(decoded(value)?),
    })
}

fn decoded<'r, T: Decode<'r, Sqlite>>(value: SqliteValueRef<'r>) -> Result<T, sqlx::Error> {
    T::decode(value).map_err(sqlx::Error::Decode)
}
