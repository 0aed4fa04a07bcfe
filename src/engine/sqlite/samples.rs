//! The store of samples on SQLite: [`SampleStore`] as `store.rs` documents it.
//!
//! An append is one `BEGIN IMMEDIATE` transaction of statements with 500 rows each: one text, so one prepared statement, and 2,500
//! of SQLite's 32,766 variables. `ON CONFLICT(id) DO NOTHING` makes a repeated append harmless: if all rows were new they are written,
//! if none was, an earlier try whose answer was lost had written them; anything between means that ids are taken by other
//! rows, and nothing is written.

use std::io;
use std::sync::{Arc, LazyLock};

use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, AssertSqlSafe, Row as _, Sqlite, SqliteConnection, Transaction};

use super::errors::{is_constraint, is_missing_table, store_error};
use super::{Database, history};
use crate::clock::Timestamp;
use crate::engine::ids::{Instance, Registered, STATE_PREFIX, lower_bound};
use crate::engine::samples::{AHEAD, SMALL, check, meta_of, state_of};
use crate::sample::globs::Globs;
use crate::store::{Appended, History, Meta, Row, SampleStore, StoreError, Stored};
use crate::task::Pending;

/// Rows of one statement.
const CHUNK: usize = 500;

/// The insert of [`CHUNK`] rows: the one text that is prepared and kept.
static INSERT: LazyLock<String> = LazyLock::new(|| insert_of(CHUNK));

fn insert_of(rows: usize) -> String {
    let values = vec!["(?,?,?,?,?)"; rows].join(",");
    format!(
        "INSERT INTO system_metrics (id, metric_name, metric_value, tags, recorded_at) VALUES {values} \
         ON CONFLICT(id) DO NOTHING"
    )
}

/// `system_metrics` and `sidecar_metric_meta` of one database.
#[derive(Clone, Debug)]
pub struct Samples {
    database: Database,
    instance: Instance,
}

impl Samples {
    /// The samples in `database`; `instance` is who counts as "this instance".
    pub fn new(database: Database, instance: Instance) -> Self {
        Self { database, instance }
    }

    /// Makes this instance's rows known as ours, now and after its state directory is lost. One that is known already asks for no write lock:
    /// an application at a long transaction must not keep a restarted sidecar away.
    pub async fn register(&self, host: &str, now: Timestamp) -> Result<(), StoreError> {
        if registered(&self.database).await.map_err(store_error)?.knows(self.instance) {
            return Ok(());
        }
        let mut tx = self.database.write().await.map_err(store_error)?;
        sqlx::query("INSERT INTO sidecar_state (key, value, updated_at) VALUES (?, ?, ?) ON CONFLICT(key) DO NOTHING")
            .bind(self.instance.state_key())
            .bind(state_of(host, now))
            .bind(now.to_sql())
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
        tx.commit().await.map_err(store_error)
    }
}

/// The instances registered in `database`; none where our tables do not exist.
pub async fn registered(database: &Database) -> Result<Registered, sqlx::Error> {
    let mut reader = database.read(SMALL).await?;
    // `0` is the character behind `/`.
    let rows = sqlx::query_scalar::<_, String>(
        "SELECT CAST(substr(key, 10) AS TEXT) FROM sidecar_state WHERE key >= 'instance/' AND key < 'instance0'",
    )
    .fetch_all(&mut *reader)
    .await;
    debug_assert_eq!(STATE_PREFIX.len() + 1, 10, "SQL counts characters from one");
    match rows {
        Ok(numbers) => Ok(Registered::new(numbers)),
        Err(e) if is_missing_table(&e) => Ok(Registered::default()),
        Err(e) => Err(e),
    }
}

/// All metas in `database`; none where our tables do not exist.
pub async fn metas(database: &Database) -> Result<Vec<Meta>, sqlx::Error> {
    let mut reader = database.read(SMALL).await?;
    let rows =
        sqlx::query("SELECT name, kind, help FROM sidecar_metric_meta ORDER BY name").fetch_all(&mut *reader).await;
    match rows {
        Ok(rows) => rows.iter().map(|row| Ok(meta_of(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect(),
        Err(e) if is_missing_table(&e) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

impl SampleStore for Samples {
    fn append<'a>(&'a self, rows: &'a [Row]) -> Pending<'a, Result<Appended, StoreError>> {
        Box::pin(append(&self.database, rows))
    }

    fn describe<'a>(&'a self, metas: &'a [Meta]) -> Pending<'a, Result<(), StoreError>> {
        Box::pin(async move { describe(&self.database, metas).await.map_err(store_error) })
    }

    fn own_rows_since(&self, from: Timestamp) -> Pending<'_, Result<u64, StoreError>> {
        Box::pin(async move { own_rows_since(&self.database, self.instance, from).await.map_err(store_error) })
    }

    fn metas(&self) -> Pending<'_, Result<Vec<Meta>, StoreError>> {
        Box::pin(async move { metas(&self.database).await.map_err(store_error) })
    }

    fn history<'a>(
        &'a self,
        from: Timestamp,
        to: Timestamp,
        names: &'a Globs,
        each: &'a mut (dyn FnMut(Stored) -> io::Result<()> + Send),
    ) -> Pending<'a, Result<History, StoreError>> {
        Box::pin(async move { history::read(&self.database, from, to, names, each).await })
    }
}

async fn append(database: &Database, rows: &[Row]) -> Result<Appended, StoreError> {
    if rows.is_empty() {
        return Ok(Appended::Now);
    }
    check(rows)?;
    let mut tx = database.write().await.map_err(store_error)?;
    let mut written = 0;
    for (index, chunk) in rows.chunks(CHUNK).enumerate() {
        match insert(&mut tx, chunk).await {
            Ok(count) => written += count,
            Err(e) if is_constraint(&e) => {
                let row = refused_row(&mut tx, chunk).await.map_err(store_error)?;
                roll_back(tx).await;
                return match row {
                    Some(row) => Err(StoreError::Rejected { row: index * CHUNK + row, reason: "constraint" }),
                    // The rows pass one by one, so they break a rule only together: nothing that leaving one out would cure.
                    None => Err(StoreError::Broken(e.to_string())),
                };
            }
            Err(e) => {
                roll_back(tx).await;
                return Err(store_error(e));
            }
        }
    }
    if written == rows.len() as u64 {
        tx.commit().await.map_err(store_error)?;
        return Ok(Appended::Now);
    }
    roll_back(tx).await;
    if written == 0 { Ok(Appended::Earlier) } else { Err(StoreError::Taken) }
}

/// Ends `tx` before the next user of the writer begins. A failure leaves nothing written either, and the pool replaces a
/// connection whose transaction it cannot end.
async fn roll_back(tx: Transaction<'_, Sqlite>) {
    if let Err(e) = tx.rollback().await {
        tracing::debug!(error = %e, "rollback failed");
    }
}

async fn insert(connection: &mut SqliteConnection, rows: &[Row]) -> Result<u64, sqlx::Error> {
    let arguments = arguments_of(rows).map_err(sqlx::Error::Encode)?;
    let done = if rows.len() == CHUNK {
        sqlx::query_with(INSERT.as_str(), arguments).execute(connection).await?
    } else {
        // The last rows of a batch: any number, so a text that is not worth keeping.
        sqlx::query_with(AssertSqlSafe(insert_of(rows.len())), arguments).persistent(false).execute(connection).await?
    };
    Ok(done.rows_affected())
}

/// The rows' values in the order of [`insert_of`]. Arguments go to another thread, so they own their texts: one allocation each as
/// `Arc<str>`, and none where a row repeats the time or the name of the row before, as rows of one scrape do.
fn arguments_of(rows: &[Row]) -> Result<SqliteArguments, BoxDynError> {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(rows.len() * 5, 0);
    let Some(first) = rows.first() else { return Ok(arguments) };
    let (mut name, mut at) = (Arc::<str>::from(first.name.as_str()), first.at);
    let mut time = Arc::<str>::from(at.to_sql());
    for row in rows {
        if *row.name != *name {
            name = row.name.as_str().into();
        }
        if row.at != at {
            at = row.at;
            time = at.to_sql().into();
        }
        arguments.add(Arc::<str>::from(row.id.as_str()))?;
        arguments.add(Arc::clone(&name))?;
        arguments.add(row.value)?;
        arguments.add(Arc::<str>::from(row.tags.as_str()))?;
        arguments.add(Arc::clone(&time))?;
    }
    Ok(arguments)
}

/// Which of `rows` breaks a rule of the table: tries them one by one in the transaction that is going to be rolled back.
async fn refused_row(connection: &mut SqliteConnection, rows: &[Row]) -> Result<Option<usize>, sqlx::Error> {
    for (index, row) in rows.iter().enumerate() {
        match insert(connection, std::slice::from_ref(row)).await {
            Ok(_) => {}
            Err(e) if is_constraint(&e) => return Ok(Some(index)),
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

async fn describe(database: &Database, metas: &[Meta]) -> Result<(), sqlx::Error> {
    if metas.is_empty() {
        return Ok(());
    }
    let mut tx = database.write().await?;
    for meta in metas {
        sqlx::query(
            "INSERT INTO sidecar_metric_meta (name, kind, help, updated_at) \
             VALUES (?, ?, ?, strftime('%Y-%m-%d %H:%M:%f', 'now')) \
             ON CONFLICT(name) DO UPDATE SET kind = excluded.kind, help = excluded.help, updated_at = excluded.updated_at \
             WHERE kind <> excluded.kind OR help <> excluded.help",
        )
        .bind(meta.name.as_str())
        .bind(meta.kind.word())
        .bind(meta.help.as_str())
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await
}

async fn own_rows_since(database: &Database, instance: Instance, from: Timestamp) -> Result<u64, sqlx::Error> {
    let mut reader = database.read(SMALL).await?;
    let count = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) FROM system_metrics WHERE id >= ? AND id < ? AND substr(id, 25) = ?",
    )
    .bind(lower_bound(from))
    .bind(lower_bound(from.after(AHEAD)))
    .bind(instance.to_string())
    .fetch_one(&mut *reader)
    .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}
