//! Keeping `sidecar_fts_<table>` true to the application's table, without a trigger on it.
//!
//! Two passes, some rows at a time, each row found by a reader and changed in a short transaction of its own, which looks at it again:
//!
//! 1. Over the index in the order of its rows: each is compared with the application's row of that key, text by text. One that differs is replaced,
//!    one whose row is gone is deleted.
//! 2. Over the application's table in the order of its key: rows that are not in the index are added.
//!
//! What the application changes behind either pass is the next run's. Nothing is remembered between runs, so nothing can be wrong about it: a
//! crash, a restored file, an application that writes while we are not there leave nothing that the passes would not find.
//!
//! FTS5 finds no row by a column that is not indexed. The second pass needs that for every row of the table, so `migrate` puts an ordinary index over
//! the keys in FTS5's own table of contents, which SQLite keeps as it keeps any other; it goes when the full-text index is dropped.

use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteConnection, TypeInfo, ValueRef};

use super::{HOLD, LEAST_SPACE, LOOK_LIMIT, PIECE_LIMIT, checkpoint, require_space};
use crate::engine::FullText;
use crate::engine::schema::inventory::Inventory;
use crate::engine::schema::names::shown;
use crate::engine::sqlite::Database;
use crate::engine::sqlite::errors::store_error;
use crate::engine::sqlite::schema::full_text::{Index, filled};
use crate::store::{StoreError, Task, Tended, Tending};
use crate::task::Pending;

/// Rows of the first piece, and the bounds of later ones.
const FIRST_ROWS: u32 = 100;
const LEAST_ROWS: u32 = 5;
const MOST_ROWS: u32 = 1000;

/// Pages that one piece of a merge writes.
const MERGE_PAGES: u32 = 64;

/// What is to be done about one index.
pub(super) fn tasks<'a>(database: &'a Database, wanted: &FullText, inventory: &Inventory) -> Vec<Task<'a>> {
    match filled(wanted, inventory) {
        Ok(index) => {
            let about = shown(&index.name);
            let merge = format!("INSERT INTO {0} ({0}, rank) VALUES ('merge', {MERGE_PAGES})", index.quoted());
            vec![
                Task {
                    step: "full_text",
                    about: about.clone(),
                    work: Ok(Box::new(Refresh::new(database, Statements::of(&index)))),
                },
                Task { step: "full_text_merge", about, work: Ok(Box::new(Merge { database, sql: merge })) },
            ]
        }
        Err(why) => vec![Task { step: "full_text", about: format!("of {}", shown(&wanted.table)), work: Err(why) }],
    }
}

/// The statements for one index. In each, `f` is the index and `t` the application's table. The key of `t` is compared in the collation of its column, the
/// way in which the application's unique index finds it; whether something differs, byte by byte.
struct Statements {
    /// The last row of the index among the `?2` after `?1`.
    end: String,
    /// Those after `?1` until `?2` that are not as the table has them.
    stale: String,
    /// Deletes row `?1` if its key is gone, or another row has it by now (a key that was written in other letters).
    delete: String,
    /// Makes row `?1` what the table says.
    update: String,
    /// The `?2`th key after `?1`, and the `?1`th of all.
    next_key: String,
    first_key: String,
    /// Rows that are missing, counted and added: of all keys, until `?2`, after `?1`, between.
    missing: [(String, String); 4],
}

impl Statements {
    fn of(index: &Index) -> Self {
        let (fts, table, key) = (index.quoted(), index.quoted_table(), index.quoted_key());
        let contents = index.quoted_contents();
        let differs = |column: &str, own: &str| format!("t.{column} COLLATE BINARY IS NOT f.{own}");
        let columns = index.quoted_columns();
        let different: Vec<String> =
            std::iter::once(differs(&key, "key")).chain(columns.iter().map(|column| differs(column, column))).collect();
        let own = columns.join(", ");
        let theirs = columns.iter().map(|column| format!("t.{column}")).collect::<Vec<_>>().join(", ");
        // `+`: the contents have no type, and a column's type would keep their index from being used.
        let missing = |span: &str| {
            let of = format!(
                "FROM {table} AS t WHERE {span} AND NOT EXISTS (SELECT 1 FROM {contents} AS c WHERE c.c0 = +t.{key})"
            );
            (
                format!("SELECT count(*) {of}"),
                format!("INSERT INTO {fts} (key, {own}) SELECT t.{key}, {theirs} {of} ORDER BY t.{key}"),
            )
        };
        Self {
            end: format!("SELECT max(r) FROM (SELECT rowid AS r FROM {fts} WHERE rowid > ?1 ORDER BY rowid LIMIT ?2)"),
            stale: format!(
                "SELECT f.rowid FROM {fts} AS f LEFT JOIN {table} AS t ON t.{key} = f.key \
                 WHERE f.rowid > ?1 AND f.rowid <= ?2 AND (t.{key} IS NULL OR {})",
                different.join(" OR ")
            ),
            delete: format!(
                "DELETE FROM {fts} WHERE rowid = ?1 AND (NOT EXISTS (SELECT 1 FROM {table} AS t WHERE t.{key} = {fts}.key) \
                 OR EXISTS (SELECT 1 FROM {table} AS t CROSS JOIN {contents} AS c ON c.c0 = +t.{key} \
                 WHERE t.{key} = {fts}.key AND c.id <> ?1))"
            ),
            update: format!(
                "UPDATE {fts} SET (key, {own}) = (SELECT t.{key}, {theirs} FROM {table} AS t WHERE t.{key} = {fts}.key) WHERE rowid = ?1"
            ),
            next_key: format!(
                "SELECT t.{key} FROM {table} AS t WHERE t.{key} > ?1 ORDER BY t.{key} LIMIT 1 OFFSET ?2 - 1"
            ),
            first_key: format!(
                "SELECT t.{key} FROM {table} AS t WHERE t.{key} IS NOT NULL ORDER BY t.{key} LIMIT 1 OFFSET ?1 - 1"
            ),
            missing: [
                missing(&format!("t.{key} IS NOT NULL")),
                missing(&format!("t.{key} <= ?2")),
                missing(&format!("t.{key} > ?1")),
                missing(&format!("t.{key} > ?1 AND t.{key} <= ?2")),
            ],
        }
    }
}

/// A key, as it is stored.
#[derive(Clone, Debug)]
enum Key {
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Key {
    fn of(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let kind = row.try_get_raw(0)?.type_info().name().to_owned();
        match kind.as_str() {
            "INTEGER" => row.try_get_unchecked(0).map(Self::Integer),
            "REAL" => row.try_get_unchecked(0).map(Self::Real),
            "BLOB" => row.try_get_unchecked(0).map(Self::Blob),
            _ => row.try_get_unchecked(0).map(Self::Text),
        }
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// Where no key is, nothing asks for one.
fn bound<'q>(query: Query<'q>, key: Option<&Key>) -> Query<'q> {
    match key.cloned() {
        None => query.bind(None::<i64>),
        Some(Key::Integer(key)) => query.bind(key),
        Some(Key::Real(key)) => query.bind(key),
        Some(Key::Text(key)) => query.bind(key),
        Some(Key::Blob(key)) => query.bind(key),
    }
}

/// How far a refresh has come.
enum Pass {
    /// Rows of the index up to this one are as the table has them.
    Stale(i64),
    /// Rows of the table up to this key are in the index.
    Missing(Option<Key>),
    Over,
}

/// Makes one index true.
struct Refresh<'a> {
    database: &'a Database,
    sql: Statements,
    pass: Pass,
    rows: u32,
}

impl<'a> Refresh<'a> {
    fn new(database: &'a Database, sql: Statements) -> Self {
        Self { database, sql, pass: Pass::Stale(i64::MIN), rows: FIRST_ROWS }
    }

    async fn piece(&mut self, within: Duration) -> Result<Option<Tended>, StoreError> {
        let (pass, tended) = match &self.pass {
            Pass::Stale(after) => self.stale(*after, within.min(PIECE_LIMIT)).await.map_err(store_error)?,
            Pass::Missing(after) => self.missing(after.as_ref(), within.min(PIECE_LIMIT)).await.map_err(store_error)?,
            Pass::Over => return Ok(None),
        };
        self.pass = pass;
        if tended.rows > 0 {
            checkpoint(self.database).await?;
            require_space(self.database.path(), LEAST_SPACE)?;
        }
        self.rows = match tended.held {
            held if held > HOLD => (self.rows / 2).max(LEAST_ROWS),
            held if held < HOLD / 2 => (self.rows * 2).min(MOST_ROWS),
            _ => self.rows,
        };
        Ok(Some(tended))
    }

    async fn stale(&self, after: i64, limit: Duration) -> Result<(Pass, Tended), sqlx::Error> {
        let mut reader = self.database.read(limit).await?;
        let end: Option<i64> = sqlx::query_scalar(AssertSqlSafe(self.sql.end.as_str()))
            .bind(after)
            .bind(self.rows)
            .fetch_one(&mut *reader)
            .await?;
        let Some(end) = end else { return Ok((Pass::Missing(None), Tended::default())) };
        let stale: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(self.sql.stale.as_str()))
            .bind(after)
            .bind(end)
            .fetch_all(&mut *reader)
            .await?;
        drop(reader);
        if stale.is_empty() {
            return Ok((Pass::Stale(end), Tended::default()));
        }
        let mut tx = self.database.write_within(limit).await?;
        let since = Instant::now();
        let mut last = end;
        let mut rows = 0;
        for row in stale {
            let gone = self.run(&self.sql.delete, row, &mut tx).await?;
            if gone == 0 {
                self.run(&self.sql.update, row, &mut tx).await?;
            }
            rows += 1;
            // Texts can be long: what is left is looked at again in the next piece.
            if since.elapsed() > HOLD {
                last = row;
                break;
            }
        }
        tx.commit().await?;
        Ok((Pass::Stale(last), Tended { rows, freed: 0, held: since.elapsed() }))
    }

    async fn run(&self, sql: &str, row: i64, connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
        Ok(sqlx::query(AssertSqlSafe(sql)).bind(row).execute(connection).await?.rows_affected())
    }

    async fn missing(&self, after: Option<&Key>, limit: Duration) -> Result<(Pass, Tended), sqlx::Error> {
        let mut reader = self.database.read(limit).await?;
        let end = match after {
            Some(_) => bound(sqlx::query(AssertSqlSafe(self.sql.next_key.as_str())), after).bind(self.rows),
            None => sqlx::query(AssertSqlSafe(self.sql.first_key.as_str())).bind(self.rows),
        };
        let end = end.fetch_optional(&mut *reader).await?.map(|row| Key::of(&row)).transpose()?;
        let (count, insert) = &self.sql.missing[usize::from(end.is_some()) + 2 * usize::from(after.is_some())];
        let count = bound(bound(sqlx::query(AssertSqlSafe(count.as_str())), after), end.as_ref());
        let missing: i64 = count.fetch_one(&mut *reader).await?.try_get(0)?;
        drop(reader);
        let mut tended = Tended::default();
        if missing > 0 {
            let mut tx = self.database.write_within(limit).await?;
            let since = Instant::now();
            let insert = bound(bound(sqlx::query(AssertSqlSafe(insert.as_str())), after), end.as_ref());
            tended.rows = insert.execute(&mut *tx).await?.rows_affected();
            tx.commit().await?;
            tended.held = since.elapsed();
        }
        Ok((end.map_or(Pass::Over, |end| Pass::Missing(Some(end))), tended))
    }
}

impl Tending for Refresh<'_> {
    fn next(&mut self, within: Duration) -> Pending<'_, Result<Option<Tended>, StoreError>> {
        Box::pin(self.piece(within))
    }
}

/// Merges the segments of an index, as far as FTS5 finds it worth it; a whole `optimize` would write all of it anew each night.
struct Merge<'a> {
    database: &'a Database,
    sql: String,
}

impl Merge<'_> {
    async fn piece(&self, within: Duration) -> Result<Option<Tended>, sqlx::Error> {
        let mut tx = self.database.write_within(within.min(LOOK_LIMIT)).await?;
        let since = Instant::now();
        let before: i64 = sqlx::query_scalar("SELECT total_changes()").fetch_one(&mut *tx).await?;
        sqlx::raw_sql(AssertSqlSafe(self.sql.as_str())).execute(&mut *tx).await?;
        let after: i64 = sqlx::query_scalar("SELECT total_changes()").fetch_one(&mut *tx).await?;
        tx.commit().await?;
        // Less than two: there was nothing to merge (<https://www.sqlite.org/fts5.html>, section 6.8).
        Ok((after - before >= 2).then(|| Tended { held: since.elapsed(), ..Tended::default() }))
    }
}

impl Tending for Merge<'_> {
    fn next(&mut self, within: Duration) -> Pending<'_, Result<Option<Tended>, StoreError>> {
        Box::pin(async move {
            let tended = self.piece(within).await.map_err(store_error)?;
            checkpoint(self.database).await?;
            Ok(tended)
        })
    }
}
