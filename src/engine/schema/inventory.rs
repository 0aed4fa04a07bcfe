//! What is in a database: read once by its engine, then reasoned about without it.
//!
//! Names are looked up in lower case and shown as they were written: SQLite compares them so, and on PostgreSQL a name that nobody quoted is in lower
//! case already. One that has capitals there is kept in its double quotes, as only a text that quotes it reaches it.

use std::collections::BTreeMap;

use super::names::{shown, shown_list};

/// The tables, views, columns and indexes of a database, and the few facts about rows that a plan needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    /// By lower-case name.
    pub relations: BTreeMap<String, Relation>,
    /// The rows of `sidecar_migrations`.
    pub applied: Vec<Applied>,
    /// What is in `api_keys`.
    pub keys: Keys,
    /// Schemas with tables that a name without a schema does not reach (PostgreSQL).
    pub elsewhere: Vec<String>,
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
    /// Whether it may have rows.
    pub filled: bool,
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
    /// A table in parts.
    Partitioned,
    /// A view whose rows are stored.
    Materialized,
    /// A table of another server.
    Foreign,
}

impl Kind {
    /// In words, after "is".
    pub fn words(self) -> &'static str {
        match self {
            Self::Table => "a table",
            Self::WithoutRowid => "a table WITHOUT ROWID",
            Self::View => "a view",
            Self::Virtual => "a virtual table",
            Self::Shadow => "part of a virtual table",
            Self::Partitioned => "a partitioned table",
            Self::Materialized => "a materialized view",
            Self::Foreign => "a foreign table",
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
    /// Whether a build of it was interrupted, so that no query uses it (PostgreSQL).
    pub broken: bool,
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
    /// The relation of that name.
    pub fn relation(&self, name: &str) -> Option<&Relation> {
        self.relations.get(&name.to_ascii_lowercase())
    }

    /// How many relations there are, the engine's own not counted.
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

    /// Whether the database has nothing but the engine's and the sidecar's own tables.
    pub fn is_empty(&self) -> bool {
        self.elsewhere.is_empty() && self.relations.keys().all(|name| name.starts_with("sidecar_"))
    }

    /// The table that has an index of that name, and the index. Names of indexes are unique in a database.
    pub fn index(&self, name: &str) -> Option<(&Relation, &Index)> {
        self.relations
            .values()
            .find_map(|r| r.indexes.iter().find(|i| i.name.eq_ignore_ascii_case(name)).map(|i| (r, i)))
    }

    /// Whether `version` of `track` has been applied.
    pub fn applied(&self, track: &str, version: i64) -> bool {
        self.applied.iter().any(|a| a.track == track && a.version == version)
    }
}

impl Relation {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name))
    }

    /// Whether no two rows have the same value in `column`: it is the primary key, or an index says so.
    pub fn is_unique(&self, column: &str) -> bool {
        let mut primary = self.columns.iter().filter(|c| c.primary);
        let only_key = primary.next().is_some_and(|c| c.name.eq_ignore_ascii_case(column)) && primary.next().is_none();
        only_key || self.indexes.iter().any(|i| i.unique && i.filter.is_none() && i.is_over(&[column]))
    }
}

impl Index {
    /// Whether it is over exactly these columns, in this order.
    pub fn is_over(&self, columns: &[&str]) -> bool {
        self.columns.len() == columns.len()
            && self.columns.iter().zip(columns).all(|(a, b)| a.as_ref().is_some_and(|a| a.eq_ignore_ascii_case(b)))
    }
}
