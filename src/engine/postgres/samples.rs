//! The store of samples on PostgreSQL: [`SampleStore`] as `store.rs` documents it.
//!
//! An append is one COPY, and a COPY is one transaction: all rows or none, in one round trip, and without a prepared statement (benches/README.md has
//! what INSERT from UNNEST takes for the same rows). COPY knows no ON CONFLICT and needs none: the primary key refuses a repeated append, and only
//! then is looked for its ids. If all are there, an earlier try whose answer was lost had written them; if some are, they are taken by other rows.
//! That also holds while the server is still busy with that earlier try: the key makes this one wait for its end, and `lock_timeout` bounds that.
//!
//! Rows that the table cannot hold are found by `Columns` before they are sent. What is left is for the server to refuse (a trigger, a CHECK, another
//! encoding); it says in which line of the COPY. Where it does not (constraints that are checked at the end), the shortest part of the batch that
//! is refused is looked for in transactions that are rolled back.

mod columns;
mod copy;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{PgConnection, Row as _};
use tracing::warn;

use self::columns::Columns;
use super::errors::{copied_row, is_missing_table, is_taken, row_reason, said, store_error};
use super::{Database, WRITE_LIMIT, history, within};
use crate::clock::Timestamp;
use crate::engine::ids::{Instance, Registered, lower_bound};
use crate::engine::samples::{AHEAD, SMALL, check, meta_of, state_of};
use crate::sample::globs::Globs;
use crate::store::{Appended, History, Meta, Row, SampleStore, StoreError, Stored};
use crate::task::Pending;

/// Where the rows go.
const TABLE: &str = "system_metrics";

/// `system_metrics` and `sidecar_metric_meta` of one database.
#[derive(Clone, Debug)]
pub struct Samples {
    database: Database,
    instance: Instance,
    /// As they were when they were read; read again when a row is refused, because somebody may have widened one.
    columns: Arc<Mutex<Option<Columns>>>,
    /// Whether the log says that a trigger takes rows: once is enough.
    trigger_told: Arc<AtomicBool>,
}

impl Samples {
    /// The samples in `database`; `instance` is who counts as "this instance".
    pub fn new(database: Database, instance: Instance) -> Self {
        Self { database, instance, columns: Arc::default(), trigger_told: Arc::default() }
    }

    /// Makes this instance's rows known as ours, now and after its state directory is lost. One that is known already asks for no right to write.
    pub async fn register(&self, host: &str, now: Timestamp) -> Result<(), StoreError> {
        if registered(&self.database).await.map_err(store_error)?.knows(self.instance) {
            return Ok(());
        }
        let mut tx = self.database.write().await.map_err(store_error)?;
        sqlx::query(
            "INSERT INTO sidecar_state (key, value, updated_at) VALUES ($1, $2, $3::timestamp) ON CONFLICT (key) DO NOTHING",
        )
        .bind(self.instance.state_key())
        .bind(state_of(host, now))
        .bind(now.to_sql())
        .execute(&mut *tx)
        .await
        .map_err(store_error)?;
        tx.commit().await.map_err(store_error)
    }

    /// What the table lacks to be used, if it does.
    pub async fn lacks(&self) -> Result<Option<String>, StoreError> {
        let mut reader = self.database.read(SMALL).await.map_err(store_error)?;
        Ok(Columns::read(&mut reader).await.map_err(store_error)?.err())
    }

    fn known_columns(&self) -> Option<Columns> {
        *self.columns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_columns(&self, columns: Option<Columns>) {
        *self.columns.lock().unwrap_or_else(PoisonError::into_inner) = columns;
    }

    /// The columns, if they can hold all `rows`.
    async fn columns_for(&self, connection: &mut PgConnection, rows: &[Row]) -> Result<Columns, StoreError> {
        if let Some(known) = self.known_columns().filter(|known| known.check(rows).is_ok()) {
            return Ok(known);
        }
        match Columns::read(connection).await.map_err(store_error)? {
            Ok(columns) => {
                self.keep_columns(Some(columns));
                columns.check(rows).map(|()| columns)
            }
            // It may be in the middle of the application's own migration; the queue bounds how long that is hoped for.
            Err(missing) => Err(StoreError::Busy(missing)),
        }
    }

    async fn append(&self, rows: &[Row]) -> Result<Appended, StoreError> {
        if rows.is_empty() {
            return Ok(Appended::Now);
        }
        check(rows)?;
        // Left in the middle of a COPY (the future was dropped, the server went away), the session is closed; so is one without a definite answer: it may
        // lead to a standby, and the next one to the server that took over.
        let mut session = self.database.alone().await.map_err(store_error)?;
        let appended = self.append_by(&mut session, rows).await;
        if matches!(appended, Ok(_) | Err(StoreError::Taken | StoreError::Rejected { .. })) {
            session.sound();
        }
        appended
    }

    async fn append_by(&self, connection: &mut PgConnection, rows: &[Row]) -> Result<Appended, StoreError> {
        let columns = self.columns_for(connection, rows).await?;
        let Err(error) = self.send(connection, columns, rows).await else { return Ok(Appended::Now) };
        if is_taken(&error) || row_reason(&error).is_none() {
            return refused(connection, columns, rows, error).await;
        }
        // Somebody may have changed a column since it was read, and then this is not the row's fault.
        self.keep_columns(None);
        let now = self.columns_for(connection, rows).await?;
        if now == columns {
            return refused(connection, columns, rows, error).await;
        }
        match self.send(connection, now, rows).await {
            Ok(()) => Ok(Appended::Now),
            Err(error) => refused(connection, now, rows, error).await,
        }
    }

    /// What a trigger of the application keeps out of the table, or puts into a partition of the old kind, was the application's to decide: the rows have been
    /// handed over.
    async fn send(&self, connection: &mut PgConnection, columns: Columns, rows: &[Row]) -> Result<(), sqlx::Error> {
        let written = copy::rows(connection, columns.value, rows).await?;
        let missing = (rows.len() as u64).saturating_sub(written);
        if missing > 0 && !self.trigger_told.swap(true, Ordering::Relaxed) {
            warn!(
                rows = missing,
                "a trigger on `system_metrics` takes rows instead of the table; they count as written"
            );
        }
        Ok(())
    }
}

/// What it means that the server refused `rows` with `error`.
async fn refused(
    connection: &mut PgConnection,
    columns: Columns,
    rows: &[Row],
    error: sqlx::Error,
) -> Result<Appended, StoreError> {
    if is_taken(&error) {
        match ids_there(connection, rows).await.map_err(store_error)? {
            there if there == rows.len() => return Ok(Appended::Earlier),
            0 if is_distinct(rows) => {}
            _ => return Err(StoreError::Taken),
        }
    }
    let Some(reason) = row_reason(&error) else { return Err(store_error(error)) };
    let row = match copied_row(&error, TABLE) {
        Some(row) => Some(row),
        None => copy::first_refused(connection, columns.value, rows).await.map_err(store_error)?,
    };
    match row {
        Some(row) if row < rows.len() => Err(StoreError::Rejected { row, reason }),
        // Nothing that leaving one out would cure.
        _ => Err(StoreError::Broken(said(&error))),
    }
}

/// How many of the rows' ids are in the table.
async fn ids_there(connection: &mut PgConnection, rows: &[Row]) -> Result<usize, sqlx::Error> {
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM system_metrics WHERE id::text = ANY ($1)")
        .bind(ids)
        .fetch_one(connection)
        .await?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Whether no two of `rows` have one id.
fn is_distinct(rows: &[Row]) -> bool {
    let mut seen = HashSet::new();
    rows.iter().all(|row| seen.insert(row.id.as_str()))
}

/// The instances registered in `database`; none where our tables do not exist.
pub async fn registered(database: &Database) -> Result<Registered, sqlx::Error> {
    let mut reader = database.read(SMALL).await?;
    // Not a range over the keys: which characters stand between two others depends on the database's collation.
    let rows = sqlx::query_scalar::<_, String>(
        "SELECT substr(key, 10) FROM sidecar_state WHERE starts_with(key, 'instance/')",
    )
    .fetch_all(&mut *reader)
    .await;
    match rows {
        Ok(numbers) => Ok(Registered::new(numbers)),
        Err(e) if is_missing_table(&e) => Ok(Registered::default()),
        Err(e) => Err(e),
    }
}

/// All metas in `database`; none where our tables do not exist.
pub async fn metas(database: &Database) -> Result<Vec<Meta>, sqlx::Error> {
    let mut reader = database.read(SMALL).await?;
    let rows = sqlx::query(r#"SELECT name, kind, help FROM sidecar_metric_meta ORDER BY name COLLATE "C""#)
        .fetch_all(&mut *reader)
        .await;
    match rows {
        Ok(rows) => rows.iter().map(|row| Ok(meta_of(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect(),
        Err(e) if is_missing_table(&e) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

impl SampleStore for Samples {
    fn append<'a>(&'a self, rows: &'a [Row]) -> Pending<'a, Result<Appended, StoreError>> {
        Box::pin(async move { within(WRITE_LIMIT, self.append(rows)).await.map_err(store_error).flatten() })
    }

    fn describe<'a>(&'a self, metas: &'a [Meta]) -> Pending<'a, Result<(), StoreError>> {
        Box::pin(
            async move { within(WRITE_LIMIT, describe(&self.database, metas)).await.flatten().map_err(store_error) },
        )
    }

    fn own_rows_since(&self, from: Timestamp) -> Pending<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            within(WRITE_LIMIT, own_rows_since(&self.database, self.instance, from))
                .await
                .flatten()
                .map_err(store_error)
        })
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

/// Replaces what is known. Names go in one order, so that two sidecars do not wait for each other, and once each, the last one counts: a statement
/// may not change one row twice. NUL, which no text of PostgreSQL holds, becomes U+FFFD: what is wrong with one help must not keep back the others.
async fn describe(database: &Database, metas: &[Meta]) -> Result<(), sqlx::Error> {
    if metas.is_empty() {
        return Ok(());
    }
    let text = |text: &str| text.replace('\0', "\u{fffd}");
    let metas: BTreeMap<String, &Meta> = metas.iter().map(|meta| (text(&meta.name), meta)).collect();
    let kinds: Vec<&str> = metas.values().map(|meta| meta.kind.word()).collect();
    let helps: Vec<String> = metas.values().map(|meta| text(&meta.help)).collect();
    let mut tx = database.write().await?;
    sqlx::query(
        "INSERT INTO sidecar_metric_meta (name, kind, help) SELECT name, kind, help \
         FROM unnest($1::text[], $2::text[], $3::text[]) AS new (name, kind, help) \
         ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, help = excluded.help, updated_at = DEFAULT \
         WHERE (sidecar_metric_meta.kind, sidecar_metric_meta.help) <> (excluded.kind, excluded.help)",
    )
    .bind(metas.into_keys().collect::<Vec<_>>())
    .bind(kinds)
    .bind(helps)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// By a range over the primary key, as text: for a VARCHAR somebody else's function could be taken in place of the server's. Collations differ in where they put a hyphen, but ids have theirs in the same places.
async fn own_rows_since(database: &Database, instance: Instance, from: Timestamp) -> Result<u64, sqlx::Error> {
    let mut reader = database.read(SMALL).await?;
    let count = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) FROM system_metrics WHERE id::text >= $1 AND id::text < $2 AND substr(id::text, 25) = $3",
    )
    .bind(lower_bound(from))
    .bind(lower_bound(from.after(AHEAD)))
    .bind(instance.to_string())
    .fetch_one(&mut *reader)
    .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}
