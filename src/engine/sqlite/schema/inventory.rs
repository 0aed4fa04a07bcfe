//! What is in a database file: read once, then reasoned about without it.
//!
//! SQLite compares names without regard to ASCII case, so everything here is looked up in lower case and shown as it was written. Views and
//! virtual tables are read one by one and may fail: a view whose table is gone, or a module that is not loaded here, is the
//! application's affair and must not end a migration.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, SqliteConnection};

use super::names::{filter_of, quoted, shown, shown_list};

/// The tables, views, columns and indexes of a database, and the few facts about rows that a plan needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    /// By lower-case name.
    pub(super) relations: BTreeMap<String, Relation>,
    /// The rows of `sidecar_migrations`.
    pub(super) applied: Vec<Applied>,
    /// What is in `api_keys`.
    pub(super) keys: Keys,
}

/// A table, a view, or something that looks like one.
#[derive(Clone, Debug, PartialEq)]
pub struct Relation {
    /// As it was written.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its columns, without hidden ones; none where they cannot be read.
    pub columns: Vec<Column>,
    /// Its indexes.
    pub indexes: Vec<Index>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary table.
    Table,
    /// A table without rowids.
    WithoutRowid,
    /// A view.
    View,
    /// A virtual table.
    Virtual,
    /// A table that a virtual table keeps for itself.
    Shadow,
}

impl Kind {
    fn of(kind: &str, without_rowid: bool) -> Self {
        match (kind, without_rowid) {
            ("table", false) => Self::Table,
            ("table", true) => Self::WithoutRowid,
            ("view", _) => Self::View,
            ("shadow", _) => Self::Shadow,
            _ => Self::Virtual,
        }
    }

    /// In words, after "is".
    pub fn words(self) -> &'static str {
        match self {
            Self::Table => "a table",
            Self::WithoutRowid => "a table WITHOUT ROWID",
            Self::View => "a view",
            Self::Virtual => "a virtual table",
            Self::Shadow => "part of a virtual table",
        }
    }
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    /// As it was written.
    pub name: String,
    /// Its declared type.
    pub declared: String,
    /// Whether a row needs a value for it: NOT NULL, without a default.
    pub required: bool,
    /// Whether it is part of the primary key.
    pub primary: bool,
    /// Whether it is computed.
    pub generated: bool,
}

/// An index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Index {
    /// As it was written.
    pub name: String,
    /// Its columns; `None` for an expression.
    pub columns: Vec<Option<String>>,
    /// Whether all columns are ascending and compared bytewise.
    pub plain: bool,
    /// Whether it forbids duplicates.
    pub unique: bool,
    /// Whether somebody made it by name, not a constraint of the table.
    pub explicit: bool,
    /// The condition of a partial index, in its canonical form.
    pub filter: Option<String>,
}

/// A row of `sidecar_migrations`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// `own` or `atlas`.
    pub track: String,
    /// Its number.
    pub version: i64,
    /// Of its text, in hex.
    pub checksum: String,
}

/// What is in `api_keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Whether it has rows.
    pub any: bool,
    /// The ids of rows whose hash is no SHA-256, at most [`PLACEHOLDERS_SHOWN`].
    pub placeholders: Vec<String>,
}

/// A table full of them is one finding, not a thousand lines.
pub const PLACEHOLDERS_SHOWN: i64 = 20;

impl Inventory {
    /// Reads what is there. For a consistent picture call it inside a transaction.
    pub async fn read(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let mut inventory = Self::default();
        inventory.read_relations(connection).await?;
        inventory.read_columns(connection).await?;
        inventory.read_indexes(connection).await?;
        inventory.read_applied(connection).await?;
        inventory.read_keys(connection).await?;
        Ok(inventory)
    }

    /// The relation of that name.
    pub fn relation(&self, name: &str) -> Option<&Relation> {
        self.relations.get(&name.to_ascii_lowercase())
    }

    /// How many relations there are, SQLite's own not counted.
    pub fn len(&self) -> usize {
        self.relations.len()
    }

    /// Whether `table` (or a view of that name) has all of `columns`. The error says what is missing, for a log line.
    pub fn has(&self, table: &str, columns: &[&str]) -> Result<(), String> {
        let Some(relation) = self.relation(table) else {
            return Err(format!("table {} is missing", shown(table)));
        };
        let missing: Vec<&str> = columns.iter().copied().filter(|c| relation.column(c).is_none()).collect();
        match missing.len() {
            0 => Ok(()),
            1 => Err(format!("column {} of {} is missing", shown_list(&missing), shown(&relation.name))),
            _ => Err(format!("columns {} of {} are missing", shown_list(&missing), shown(&relation.name))),
        }
    }

    /// Whether the database has nothing but SQLite's and the sidecar's own tables.
    pub fn is_empty(&self) -> bool {
        self.relations.keys().all(|name| name.starts_with("sidecar_"))
    }

    /// The table that has an index of that name, and the index. Names of indexes are unique in a database.
    pub(super) fn index(&self, name: &str) -> Option<(&Relation, &Index)> {
        self.relations
            .values()
            .find_map(|r| r.indexes.iter().find(|i| i.name.eq_ignore_ascii_case(name)).map(|i| (r, i)))
    }

    /// Whether `version` of `track` has been applied.
    pub(super) fn applied(&self, track: &str, version: i64) -> bool {
        self.applied.iter().any(|a| a.track == track && a.version == version)
    }

    async fn read_relations(&mut self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let rows: Vec<(String, String, bool)> =
            sqlx::query_as("SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main'")
                .fetch_all(&mut *connection)
                .await?;
        for (name, kind, without_rowid) in rows {
            let key = name.to_ascii_lowercase();
            // Names that SQLite keeps for itself.
            if !key.starts_with("sqlite_") {
                let kind = Kind::of(&kind, without_rowid);
                self.relations.insert(key, Relation { name, kind, columns: Vec::new(), indexes: Vec::new() });
            }
        }
        Ok(())
    }

    async fn read_columns(&mut self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        // Only tables here: the pragma fails on a broken view, and with it the whole statement.
        let rows: Vec<ColumnRow> = sqlx::query_as(
            "SELECT l.name, c.name, c.type, c.\"notnull\" AND c.dflt_value IS NULL, c.pk > 0, c.hidden
             FROM pragma_table_list AS l, pragma_table_xinfo(l.name, 'main') AS c
             WHERE l.schema = 'main' AND l.type = 'table' ORDER BY l.name, c.cid",
        )
        .fetch_all(&mut *connection)
        .await?;
        for row in rows {
            if let Some(relation) = self.relations.get_mut(&row.0.to_ascii_lowercase()) {
                relation.columns.extend(column(row));
            }
        }
        for relation in self.relations.values_mut().filter(|r| matches!(r.kind, Kind::View | Kind::Virtual)) {
            let rows: Result<Vec<ColumnRow>, _> =
                sqlx::query_as("SELECT '', name, type, 0, 0, hidden FROM pragma_table_xinfo(?, 'main') ORDER BY cid")
                    .bind(&relation.name)
                    .fetch_all(&mut *connection)
                    .await;
            relation.columns = rows.unwrap_or_default().into_iter().filter_map(column).collect();
        }
        Ok(())
    }

    async fn read_indexes(&mut self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let rows: Vec<IndexRow> = sqlx::query_as(
            "SELECT l.name, i.name, i.\"unique\", i.origin, s.sql, x.name, x.desc = 0 AND x.coll = 'BINARY'
             FROM pragma_table_list AS l, pragma_index_list(l.name, 'main') AS i, pragma_index_xinfo(i.name, 'main') AS x
             LEFT JOIN main.sqlite_schema AS s ON s.type = 'index' AND s.name = i.name
             WHERE l.schema = 'main' AND l.type = 'table' AND x.key = 1 ORDER BY l.name, i.name, x.seqno",
        )
        .fetch_all(&mut *connection)
        .await?;
        for (table, name, unique, origin, sql, column, plain) in rows {
            let Some(relation) = self.relations.get_mut(&table.to_ascii_lowercase()) else { continue };
            if relation.indexes.last().is_none_or(|i| i.name != name) {
                let filter = sql.as_deref().and_then(filter_of);
                let explicit = origin == "c";
                relation.indexes.push(Index { name, columns: Vec::new(), plain: true, unique, explicit, filter });
            }
            if let Some(index) = relation.indexes.last_mut() {
                index.columns.push(column);
                index.plain &= plain;
            }
        }
        Ok(())
    }

    async fn read_applied(&mut self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if self.has("sidecar_migrations", &["track", "version", "checksum"]).is_ok() {
            let rows: Vec<(String, i64, String)> =
                sqlx::query_as("SELECT track, version, checksum FROM sidecar_migrations ORDER BY track, version")
                    .fetch_all(&mut *connection)
                    .await?;
            self.applied =
                rows.into_iter().map(|(track, version, checksum)| Applied { track, version, checksum }).collect();
        }
        Ok(())
    }

    async fn read_keys(&mut self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if self.has("api_keys", &["id", "key_hash"]).is_err()
            || !self.relation("api_keys").is_some_and(|r| r.kind == Kind::Table)
        {
            return Ok(());
        }
        self.keys.any =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM api_keys)").fetch_one(&mut *connection).await?;
        // One that is not in force does no harm, but the seed's own is worth a word wherever it is met.
        let active = if self.has("api_keys", &["is_active"]).is_ok() { quoted("is_active") } else { "1".to_owned() };
        let sql = format!(
            "SELECT coalesce(CAST(id AS TEXT), 'NULL') FROM api_keys
             WHERE ({active} OR id = ?1)
               AND (typeof(key_hash) <> 'text' OR length(key_hash) <> 64 OR key_hash GLOB '*[^0-9a-fA-F]*')
             ORDER BY 1 LIMIT ?2"
        );
        self.keys.placeholders = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(crate::engine::sqlite::admin_key::ID)
            .bind(PLACEHOLDERS_SHOWN)
            .fetch_all(&mut *connection)
            .await?;
        Ok(())
    }
}

impl Relation {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name))
    }

    /// Whether no two rows have the same value in `column`: it is the primary key, or an index says so.
    pub(super) fn is_unique(&self, column: &str) -> bool {
        let mut primary = self.columns.iter().filter(|c| c.primary);
        let only_key = primary.next().is_some_and(|c| c.name.eq_ignore_ascii_case(column)) && primary.next().is_none();
        only_key || self.indexes.iter().any(|i| i.unique && i.filter.is_none() && i.is_over(&[column]))
    }
}

impl Index {
    /// Whether it is over exactly these columns, in this order.
    pub(super) fn is_over(&self, columns: &[&str]) -> bool {
        self.columns.len() == columns.len()
            && self.columns.iter().zip(columns).all(|(a, b)| a.as_ref().is_some_and(|a| a.eq_ignore_ascii_case(b)))
    }
}

/// Table, column, type, required, primary, hidden.
type ColumnRow = (String, String, String, bool, bool, i64);
/// Table, index, unique, origin, text, column, ascending and bytewise.
type IndexRow = (String, String, bool, String, Option<String>, Option<String>, bool);

/// `hidden` is 0 for a plain column, 1 for a virtual table's hidden one, 2 and 3 for generated ones (PRAGMA table_xinfo).
fn column((_, name, declared, required, primary, hidden): ColumnRow) -> Option<Column> {
    (hidden != 1).then_some(Column { name, declared, required, primary, generated: hidden > 1 })
}
