//! What `[[database.full_text]]` asks for, as far as it is the same on every engine.

use super::inventory::{Kind, Relation};
use super::names::{shown, shown_list};
use crate::engine::FullText;

/// The name of the index over `table`.
pub fn name(table: &str) -> String {
    format!("sidecar_fts_{table}")
}

/// For people.
pub fn described(name: &str, columns: &[String], table: &str) -> String {
    format!("full-text index {} over {} of {}", shown(name), shown_list(columns), shown(table))
}

/// For people, where it cannot be had.
pub fn impossible(wanted: &FullText, why: &str) -> String {
    format!("full text of {}: {why}", shown(&wanted.table))
}

/// Whether `relation` can be indexed so: an ordinary table, whose rows a key tells apart.
pub fn suitable(wanted: &FullText, relation: &Relation) -> Result<(), String> {
    if !matches!(relation.kind, Kind::Table | Kind::WithoutRowid) {
        return Err(format!("it is {}", relation.kind.words()));
    }
    let named = || std::iter::once(&wanted.key).chain(&wanted.columns);
    let missing: Vec<&String> = named().filter(|c| relation.column(c).is_none()).collect();
    if !missing.is_empty() {
        return Err(format!("it has no {}", shown_list(&missing)));
    }
    if wanted.columns.is_empty() {
        return Err("no columns are named".into());
    }
    if let Some(twice) = twice(&wanted.columns) {
        return Err(format!("{} is named twice", shown(twice)));
    }
    if !relation.is_unique(&wanted.key) {
        return Err(format!("its key {} is not unique: a primary key or a unique index is needed", shown(&wanted.key)));
    }
    Ok(())
}

fn twice(columns: &[String]) -> Option<&String> {
    let mut all = columns.iter().enumerate();
    all.find(|(at, column)| columns[..*at].iter().any(|c| c.eq_ignore_ascii_case(column))).map(|(_, column)| column)
}
