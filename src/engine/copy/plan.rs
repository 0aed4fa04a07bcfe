//! Which table and column goes where, and what speaks against it: decided from what both sides have, without either.

use super::kind::Kind;
use super::source::{Here, is_table};
use super::target::{Column, Table, Tables};
use crate::engine::schema::inventory::{Kind as RelationKind, Relation};
use crate::engine::schema::names::{quoted, shown};

/// A table that is copied where it is there.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: &'static str,
    /// Which of its rows, in SQL that both engines understand; all of them where there is none.
    pub only: Option<&'static str>,
}

impl Wanted {
    pub(super) const fn table(name: &'static str) -> Self {
        Self { name, only: None }
    }

    /// As a clause behind the table's name.
    pub(super) fn filter(&self) -> String {
        self.only.map(|only| format!(" WHERE {only}")).unwrap_or_default()
    }
}

/// What will be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Tables in the order in which they are copied: what others refer to comes first.
    pub tables: Vec<TablePlan>,
    /// What has to be changed before anything is copied.
    pub problems: Vec<String>,
    /// What somebody should know.
    pub notes: Vec<String>,
    /// Tables of the source that are not copied.
    pub others: Vec<String>,
    /// Tables of the source without rows to copy.
    pub empty: Vec<&'static str>,
}

/// What will be done with a table.
#[derive(Debug)]
pub struct TablePlan {
    /// What was wanted.
    pub wanted: Wanted,
    /// Its name in the source, quoted.
    pub from: String,
    /// The target.
    pub to: Table,
    /// The columns that are copied.
    pub columns: Vec<ColumnPlan>,
    /// Columns of the source without a place in the target: they may hold nothing but NULL. Each with the reason.
    pub homeless: Vec<(String, String)>,
    /// What a row is called by: a column, or SQLite's own number.
    pub key: Option<String>,
    /// Whether it has such numbers.
    pub has_rowid: bool,
    /// Whether the target's made admin key is taken away first.
    pub replaces_made_key: bool,
}

/// What will be done with a column.
#[derive(Debug)]
pub struct ColumnPlan {
    /// Its name in the source.
    pub from: String,
    /// The target.
    pub to: Column,
}

impl Plan {
    /// From what is on both sides.
    pub fn new(wanted: &[Wanted], here: &Here, there: &Tables) -> Self {
        let mut plan = Self::default();
        for wanted in wanted {
            plan.add(wanted, here, there.get(wanted.name));
        }
        plan.order();
        if !wanted.iter().any(|w| here.inventory.relation(w.name).is_some()) {
            plan.problems.push("the source has none of the tables that are copied".to_owned());
        }
        let known = |name: &str| name == "sidecar_migrations" || super::TABLES.iter().any(|t| t.name == name);
        let others = here.inventory.relations.iter().filter(|(name, r)| is_table(r) && !known(name));
        plan.others = others.map(|(_, relation)| relation.name.clone()).collect();
        plan
    }

    fn add(&mut self, wanted: &Wanted, here: &Here, there: Option<&Table>) {
        let Some(relation) = here.inventory.relation(wanted.name) else { return };
        let name = shown(wanted.name);
        if !is_table(relation) {
            self.problems.push(format!("{name} is {} in the source", relation.kind.words()));
            return;
        }
        if !here.filled.contains(&wanted.name) {
            self.empty.push(wanted.name);
            return;
        }
        let Some(there) = there else {
            self.problems.push(format!("the target has no table {name}: `atlas-sidecar migrate` makes it"));
            return;
        };
        let replaces_made_key = there.filled && there.made_key_only;
        let problem = match () {
            () if !there.ordinary => Some("is no table in the target"),
            () if !there.allowed => {
                Some("may not be read and written by this role in the target: copy as the one that owns it")
            }
            () if there.filled && !replaces_made_key => Some(
                "has rows in the target: a copy goes into tables that are empty, made by `migrate` in a new database",
            ),
            () => None,
        };
        if let Some(problem) = problem {
            self.problems.push(format!("{name} {problem}"));
            return;
        }
        if replaces_made_key {
            self.notes.push(
                "the admin key that `migrate` made in the target makes way for the keys of the source; a file `admin-key` with it opens nothing any more".to_owned(),
            );
        }
        let (columns, homeless) = self.columns(relation, there);
        if columns.is_empty() {
            self.problems.push(format!("{name} has no column in the target that it has in the source"));
            return;
        }
        let mut primary = relation.columns.iter().filter(|c| c.primary);
        let key = match (primary.next(), primary.next()) {
            (Some(key), None) => Some(key),
            _ => relation.column("id"),
        };
        self.tables.push(TablePlan {
            wanted: *wanted,
            from: quoted(&relation.name),
            to: there.clone(),
            columns,
            homeless,
            key: key.map(|key| key.name.clone()),
            has_rowid: relation.kind == RelationKind::Table,
            replaces_made_key,
        });
    }

    fn columns(&mut self, here: &Relation, there: &Table) -> (Vec<ColumnPlan>, Vec<(String, String)>) {
        let (mut columns, mut homeless) = (Vec::new(), Vec::new());
        let table = shown(&here.name);
        for column in &here.columns {
            let exact = there.columns.iter().find(|c| c.name == column.name);
            let to = exact.or_else(|| there.columns.iter().find(|c| c.name.eq_ignore_ascii_case(&column.name)));
            match to {
                None => homeless.push((column.name.clone(), "the target has no such column".to_owned())),
                Some(to) if to.generated => {
                    self.notes.push(format!("{} of {table} is computed by the target", shown(&to.name)))
                }
                Some(Column { kind: Kind::Other(kind), .. }) => {
                    homeless.push((
                        column.name.clone(),
                        format!("`copy` does not know its type {} in the target", shown(kind)),
                    ));
                }
                Some(to) => columns.push(ColumnPlan { from: column.name.clone(), to: to.clone() }),
            }
        }
        for to in there.columns.iter().filter(|to| to.not_null && !to.filled && !to.generated) {
            if here.column(&to.name).is_none() {
                self.problems.push(format!(
                    "{} of {table} may not be NULL in the target, and the source has no such column",
                    shown(&to.name)
                ));
            }
        }
        (columns, homeless)
    }

    /// Puts tables behind those that they refer to. In a circle the order stays; then only deferred constraints help, which is the server's to say.
    fn order(&mut self) {
        let mut rest = std::mem::take(&mut self.tables);
        while !rest.is_empty() {
            let waits = |table: &TablePlan| {
                rest.iter().any(|other| table.to.references.iter().any(|name| name == other.wanted.name))
            };
            let next = rest.iter().position(|table| !waits(table)).unwrap_or(0);
            self.tables.push(rest.remove(next));
        }
    }
}

impl TablePlan {
    /// The statement that reads its rows: first what they are called by, then the columns, then those without a place. In SQLite's own order, so that it is
    /// the same each time.
    pub fn select(&self) -> String {
        let name = match (&self.key, self.has_rowid) {
            (Some(key), _) => quoted(key),
            (None, true) => "rowid".to_owned(),
            (None, false) => "NULL".to_owned(),
        };
        let number = if self.has_rowid { "rowid" } else { "NULL" };
        let columns = self.columns.iter().map(|c| &c.from).chain(self.homeless.iter().map(|(name, _)| name));
        let columns: Vec<String> = columns.map(|name| quoted(name)).collect();
        let order = if self.has_rowid { " ORDER BY rowid" } else { "" };
        let columns = columns.join(", ");
        format!("SELECT {name}, {number}, {columns} FROM {}{}{order}", self.from, self.wanted.filter())
    }

    /// The columns' kinds.
    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.columns.iter().map(|column| &column.to.kind)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::TABLES;
    use super::*;
    use crate::engine::schema::inventory::{self, Inventory};

    fn here(tables: &[(&'static str, &[&str])]) -> Here {
        let relations = tables.iter().map(|(name, columns)| {
            let column = |name: &&str| inventory::Column {
                name: (*name).to_owned(),
                primary: *name == "id",
                ..Default::default()
            };
            let columns = columns.iter().map(column).collect();
            let kind = if name.starts_with("v_") { RelationKind::View } else { RelationKind::Table };
            (
                (*name).to_owned(),
                Relation { name: (*name).to_owned(), kind, columns, indexes: Vec::new(), filled: true },
            )
        });
        let relations: BTreeMap<_, _> = relations.collect();
        Here { inventory: Inventory { relations, ..Default::default() }, filled: tables.iter().map(|t| t.0).collect() }
    }

    fn column(name: &str, kind: Kind) -> Column {
        Column {
            name: name.to_owned(),
            declared: String::new(),
            kind,
            not_null: false,
            filled: false,
            generated: false,
            sequence: None,
        }
    }

    fn there(name: &str) -> Table {
        let columns = vec![column("id", Kind::Text(None))];
        Table { sql: name.to_owned(), ordinary: true, allowed: true, columns, ..Table::default() }
    }

    #[test]
    fn every_table_of_the_seed_is_wanted() {
        for table in crate::engine::schema::seed::TABLES {
            assert!(TABLES.iter().any(|wanted| wanted.name == table.name), "{}", table.name);
        }
    }

    #[test]
    fn what_is_referred_to_comes_first() {
        let mut queue = there("content_metadata");
        // The other way round than in the list.
        queue.references = vec!["processing_queue".to_owned(), "users".to_owned()];
        let both = Tables::from([("content_metadata", queue), ("processing_queue", there("processing_queue"))]);
        let here = here(&[("content_metadata", &["id"]), ("processing_queue", &["id"]), ("users", &["id"])]);
        let plan = Plan::new(TABLES, &here, &both);
        let order: Vec<_> = plan.tables.iter().map(|t| t.wanted.name).collect();
        assert_eq!(order, ["processing_queue", "content_metadata"]);
        assert_eq!((plan.problems, plan.others), (vec![], vec!["users".to_owned()]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let mut keys = there("api_keys");
        keys.columns.push(column("address", Kind::Other("inet".into())));
        keys.columns.push(Column { not_null: true, ..column("owner", Kind::Text(None)) });
        keys.columns.push(Column { not_null: true, filled: true, ..column("made", Kind::Date) });
        let mut filled = there("webhooks");
        filled.filled = true;
        let tables = Tables::from([("api_keys", keys), ("webhooks", filled)]);
        let here = here(&[
            ("api_keys", &["ID", "address", "extra"]),
            ("webhooks", &["id"]),
            ("search_cache", &["id"]),
            ("sidecar_migrations", &["id"]),
        ]);
        let plan = Plan::new(TABLES, &here, &tables);
        let homeless: Vec<_> = plan.tables[0].homeless.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(homeless, ["address", "extra"]);
        assert_eq!(plan.tables[0].columns[0].from, "ID");
        assert_eq!(plan.problems.len(), 3, "{:?}", plan.problems);
        for (problem, word) in plan.problems.iter().zip(["`owner`", "`webhooks` has rows", "`search_cache`"]) {
            assert!(problem.contains(word), "{problem}");
        }
        assert!(plan.others.is_empty());
    }

    #[test]
    fn a_made_key_makes_way() {
        let mut keys = there("api_keys");
        (keys.filled, keys.made_key_only) = (true, true);
        let tables = Tables::from([("api_keys", keys)]);
        let plan = Plan::new(TABLES, &here(&[("api_keys", &["id"])]), &tables);
        assert!(plan.tables[0].replaces_made_key && plan.problems.is_empty());
        // Where the source has no key, the target's stays.
        let mut empty = here(&[("api_keys", &["id"])]);
        empty.filled.clear();
        let plan = Plan::new(TABLES, &empty, &tables);
        assert!(plan.tables.is_empty() && plan.problems.is_empty());
    }
}
