//! Full text: `sidecar_fts_<table>`, an FTS5 table with a copy of its own.
//!
//! It has the column `key` and the configured columns, and finds rows by the application's key. It is not tied to the table's rowids: a table
//! whose key is a text has implicit ones, and those change at VACUUM. It has no triggers either: the application's writes must
//! not depend on us. What changes after it was filled is brought in by `upkeep`.
//!
//! It is filled under another name, in the order of the key, some rows per transaction, and renamed when it is complete. So nobody
//! ever searches half an index, and a migration that was interrupted goes on after the last key it copied. Rows without a key are not in it.

use super::plan::Dialect;
use crate::engine::FullText;
use crate::engine::schema::full_text::{described, impossible, name, suitable};
use crate::engine::schema::inventory::{Inventory, Kind, Relation};
use crate::engine::schema::names::{quoted, shown};
use crate::engine::schema::plan::{Action, Planner};

/// How one index is made and filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// The name under which it is filled.
    pub filling: String,
    /// The table that is searched.
    pub table: String,
    /// Key and columns, as the configuration names them.
    key: String,
    columns: Vec<String>,
}

/// What is to be done about one configured index.
#[derive(Debug, PartialEq, Eq)]
pub enum Need {
    /// It is there.
    Nothing,
    /// It is to be made, then filled.
    Make(Index),
    /// It is there in part and to be filled further.
    Fill(Index),
    /// It cannot be had, and why.
    Impossible(String),
}

impl Index {
    fn of(wanted: &FullText, relation: &Relation) -> Self {
        let name = name(&relation.name);
        Self {
            filling: format!("{name}_filling"),
            name,
            table: relation.name.clone(),
            key: wanted.key.clone(),
            columns: wanted.columns.clone(),
        }
    }

    /// For people.
    pub fn shown(&self) -> String {
        described(&self.name, &self.columns, &self.table)
    }

    /// Makes it, empty, under the name for filling, with an index over its keys: FTS5 has none, and `upkeep` asks for each key of the table.
    pub fn create_sql(&self) -> String {
        let filling = quoted(&self.filling);
        let contents = quoted(&format!("{}_content", self.filling));
        format!(
            "CREATE VIRTUAL TABLE {filling} USING fts5(key UNINDEXED, {}); CREATE INDEX {} ON {contents} (c0)",
            self.column_list(),
            quoted(&self.key_index())
        )
    }

    /// The name of the index over its keys. No full-text index and none of FTS5's own tables is called so.
    pub fn key_index(&self) -> String {
        format!("sidecar_key_{}", self.name.trim_start_matches("sidecar_"))
    }

    /// Its name in SQL.
    pub fn quoted(&self) -> String {
        quoted(&self.name)
    }

    /// The name of FTS5's table of contents, whose column `c0` is the key.
    pub fn quoted_contents(&self) -> String {
        quoted(&format!("{}_content", self.name))
    }

    /// The application's table.
    pub fn quoted_table(&self) -> String {
        quoted(&self.table)
    }

    /// The application's key.
    pub fn quoted_key(&self) -> String {
        quoted(&self.key)
    }

    /// The columns that are searched.
    pub fn quoted_columns(&self) -> Vec<String> {
        self.columns.iter().map(|c| quoted(c)).collect()
    }

    /// Copies at most `?1` rows; those after the last key where `resume` says that there is one.
    pub fn fill_sql(&self, resume: bool) -> String {
        let (filling, table, key) = (quoted(&self.filling), quoted(&self.table), quoted(&self.key));
        // Keys are copied in their order, so the newest row of the copy has the largest.
        let after = match resume {
            true => format!("{key} > (SELECT key FROM {filling} ORDER BY rowid DESC LIMIT 1)"),
            false => format!("{key} IS NOT NULL"),
        };
        let columns = self.column_list();
        format!(
            "INSERT INTO {filling} (key, {columns}) SELECT {key}, {columns} FROM {table} WHERE {after} ORDER BY {key} LIMIT ?1"
        )
    }

    /// Whether any row has been copied.
    pub fn begun_sql(&self) -> String {
        format!("SELECT EXISTS (SELECT 1 FROM {})", quoted(&self.filling))
    }

    /// Gives it its name. A rename checks every view of the database, and one that is broken would fail it; the old way of renaming does
    /// not look at them, and there is no reference to a table that nobody knew.
    pub fn publish_sql(&self) -> String {
        format!(
            "PRAGMA legacy_alter_table = ON; ALTER TABLE {} RENAME TO {}; PRAGMA legacy_alter_table = OFF",
            quoted(&self.filling),
            quoted(&self.name)
        )
    }

    fn column_list(&self) -> String {
        self.quoted_columns().join(", ")
    }

    fn is(&self, relation: &Relation) -> bool {
        let names = || std::iter::once("key").chain(self.columns.iter().map(String::as_str));
        relation.kind == Kind::Virtual
            && relation.columns.len() == names().count()
            && relation.columns.iter().zip(names()).all(|(column, name)| column.name.eq_ignore_ascii_case(name))
    }
}

/// Plans what is to be done about one.
pub fn plan(wanted: &FullText, planner: &mut Planner<'_, Dialect>) {
    match need(wanted, &planner.then) {
        Need::Nothing => {}
        Need::Impossible(why) => planner.note(why),
        Need::Fill(index) => fill(index, planner),
        Need::Make(index) => {
            planner.step(format!("create {}", index.shown()), None, Action::Sql(index.create_sql()));
            planner.then.relations.extend(names_taken(&index));
            fill(index, planner);
        }
    }
}

fn fill(index: Index, planner: &mut Planner<'_, Dialect>) {
    planner.step(format!("fill {}", index.shown()), None, Action::Fill(index));
}

/// The names that an index takes, before and after it is published, so that a later one does not want them.
fn names_taken(index: &Index) -> impl Iterator<Item = (String, Relation)> {
    let names = [index.filling.clone(), index.name.clone()];
    let shadows = SHADOWS.iter().flat_map({
        let names = names.clone();
        move |suffix| names.clone().map(|name| (format!("{name}_{suffix}"), Kind::Shadow))
    });
    names.map(|name| (name, Kind::Virtual)).into_iter().chain(shadows).map(|(name, kind)| {
        let key = name.to_ascii_lowercase();
        (key, Relation { name, kind, columns: Vec::new(), indexes: Vec::new(), filled: false })
    })
}

/// Compares what is wanted with what is there.
pub fn need(wanted: &FullText, inventory: &Inventory) -> Need {
    let impossible = |why: String| Need::Impossible(impossible(wanted, &why));
    let Some(relation) = inventory.relation(&wanted.table) else {
        return impossible("the table does not exist".into());
    };
    if let Err(why) = suitable(wanted, relation) {
        return impossible(why);
    }
    let index = Index::of(wanted, relation);
    if let Some(why) = reserved(wanted, &index) {
        return impossible(why);
    }
    let other = |found: &Relation| {
        impossible(format!(
            "{} is {} with other columns than the configuration's; drop it, and `migrate` makes it anew",
            shown(&found.name),
            found.kind.words()
        ))
    };
    match (inventory.relation(&index.name), inventory.relation(&index.filling)) {
        (Some(found), _) if index.is(found) => Need::Nothing,
        (Some(found), _) => other(found),
        (None, Some(found)) if index.is(found) => Need::Fill(index),
        (None, Some(found)) => other(found),
        (None, None) => match shadow_in_the_way(&index, inventory) {
            Some(name) => impossible(format!("the name {} is taken, and FTS5 needs it", shown(&name))),
            None => Need::Make(index),
        },
    }
}

/// The index, if it is there and whole; otherwise why not.
pub fn filled(wanted: &FullText, inventory: &Inventory) -> Result<Index, String> {
    match need(wanted, inventory) {
        Need::Impossible(why) => return Err(why),
        Need::Make(_) | Need::Fill(_) => return Err("it is not there yet; `atlas-sidecar migrate` makes it".into()),
        Need::Nothing => {}
    }
    let relation = inventory.relation(&wanted.table).ok_or("the table does not exist")?;
    Ok(Index::of(wanted, relation))
}

/// FTS5 has columns of its own: `rank`, `rowid`, and one with the table's name; and `key` is ours.
fn reserved(wanted: &FullText, index: &Index) -> Option<String> {
    let taken = ["rank", "rowid", "key", &index.name, &index.filling];
    let column = wanted.columns.iter().find(|column| taken.iter().any(|t| t.eq_ignore_ascii_case(column)))?;
    Some(format!("a column cannot be called {} there", shown(column)))
}

fn shadow_in_the_way(index: &Index, inventory: &Inventory) -> Option<String> {
    [&index.filling, &index.name]
        .iter()
        .flat_map(|name| SHADOWS.iter().map(move |suffix| format!("{name}_{suffix}")))
        .find(|name| inventory.relation(name).is_some())
}

/// What FTS5 appends to a table's name for its own tables (<https://www.sqlite.org/fts5.html>, section 9).
pub const SHADOWS: &[&str] = &["data", "idx", "content", "docsize", "config"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::schema::inventory::Column;

    fn inventory(relations: &[(&str, Kind, &[&str])]) -> Inventory {
        let mut out = Inventory::default();
        for (name, kind, columns) in relations {
            let columns = columns
                .iter()
                .map(|c| Column { name: (*c).into(), primary: *c == "id", ..Column::default() })
                .collect();
            let relation = Relation { name: (*name).into(), kind: *kind, columns, indexes: Vec::new(), filled: true };
            out.relations.insert(name.to_ascii_lowercase(), relation);
        }
        out
    }

    fn wanted(table: &str, key: &str, columns: &[&str]) -> FullText {
        FullText { table: table.into(), key: key.into(), columns: columns.iter().map(|c| (*c).into()).collect() }
    }

    #[test]
    fn it_is_made_then_filled_then_left() {
        let table = ("Notes", Kind::Table, &["id", "body"] as &[&str]);
        let want = wanted("notes", "ID", &["Body"]);
        assert!(matches!(need(&want, &inventory(&[table])), Need::Make(i) if i.name == "sidecar_fts_Notes"));
        let filling = ("sidecar_fts_notes_filling", Kind::Virtual, &["key", "body"] as &[&str]);
        assert!(matches!(need(&want, &inventory(&[table, filling])), Need::Fill(_)));
        let made = ("sidecar_fts_notes", Kind::Virtual, &["key", "body"] as &[&str]);
        assert_eq!(need(&want, &inventory(&[table, made])), Need::Nothing);
    }

    #[test]
    fn what_cannot_be_indexed_is_said() {
        let all = inventory(&[
            ("notes", Kind::Table, &["id", "body", "rank", "n"]),
            ("seen", Kind::View, &["id", "body"]),
            ("sidecar_fts_notes", Kind::Virtual, &["key", "other"]),
            ("clash", Kind::Table, &["id", "body"]),
            ("sidecar_fts_clash_data", Kind::Table, &[]),
        ]);
        for (want, word) in [
            (wanted("nothing", "id", &["body"]), "does not exist"),
            (wanted("seen", "id", &["body"]), "it is a view"),
            (wanted("notes", "id", &["title", "body"]), "it has no `title`"),
            (wanted("notes", "id", &[]), "no columns"),
            (wanted("notes", "n", &["body"]), "not unique"),
            (wanted("notes", "id", &["rank"]), "cannot be called `rank`"),
            (wanted("notes", "id", &["body", "BODY"]), "named twice"),
            (wanted("notes", "id", &["body"]), "other columns"),
            (wanted("clash", "id", &["body"]), "`sidecar_fts_clash_data` is taken"),
        ] {
            assert!(matches!(need(&want, &all), Need::Impossible(why) if why.contains(word)), "{want:?}");
        }
    }
}
