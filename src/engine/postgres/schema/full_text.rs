//! Full text: `sidecar_fts_<table>`, a GIN index over an expression of the application's table.
//!
//! The server keeps it up with every write, so there is nothing to fill, no trigger and no column. An index is used by a query that has the same expression:
//!
//! ```sql
//! SELECT id FROM content_metadata
//! WHERE to_tsvector('simple', left(coalesce(title::text, '') || ' ' || coalesce(body::text, ''), 50000)) @@ websearch_to_tsquery('simple', 'two words')
//! ```
//!
//! - `simple` knows no language: words are found as they are written, without regard to case, as FTS5 finds them on SQLite.
//! - The columns come in the configuration's order, joined by a space, each cast to text.
//! - `left(…, 50000)`: a text whose words take more than 1 MiB has no tsvector, and the application's own INSERT would fail by our index. What comes
//!   later in a text is not found.
//!
//! There is neither a view nor a function for it: the application could not change or drop its own columns any more.

use std::collections::BTreeSet;

use super::about::About;
use super::inventory::reached;
use super::plan::{Dialect, create_index, is_text};
use crate::engine::FullText;
use crate::engine::schema::full_text::{described, impossible, name, suitable};
use crate::engine::schema::names::{quoted, shown};
use crate::engine::schema::plan::Planner;

/// The characters of a text that are indexed. Four bytes each, every word twice (a compound and its parts) and with a position: below the limit of
/// 1 MiB for a tsvector.
const CHARACTERS: u32 = 50_000;

/// The longest name, in bytes (NAMEDATALEN); the server cuts longer ones off without an error.
const LONGEST_NAME: usize = 63;

/// Plans what is to be done about one.
pub fn plan(about: &About, wanted: &FullText, planner: &mut Planner<'_, Dialect>) {
    match needed(about, wanted, planner) {
        Ok(false) => {}
        Ok(true) => {
            let index = name(&wanted.table);
            let filled = planner.then.relation(&reached(&wanted.table)).is_some_and(|r| r.filled);
            let on = format!("{} USING gin ({})", quoted(&wanted.table), expression(&wanted.columns));
            let what = format!("create {}", described(&index, &wanted.columns, &wanted.table));
            planner.step(what, Some(&wanted.table), create_index(filled, &quoted(&index), &on));
        }
        Err(why) => planner.note(impossible(wanted, &why)),
    }
}

/// What is indexed of `columns`.
pub fn expression(columns: &[String]) -> String {
    let texts: Vec<String> = columns.iter().map(|c| format!("coalesce({}::text, '')", quoted(c))).collect();
    format!("to_tsvector('simple', left({}, {CHARACTERS}))", texts.join(" || ' ' || "))
}

/// Whether it is to be made; the error is why it cannot be had.
fn needed(about: &About, wanted: &FullText, planner: &Planner<'_, Dialect>) -> Result<bool, String> {
    let Some(relation) = planner.then.relation(&reached(&wanted.table)) else {
        return Err("the table does not exist".into());
    };
    let columns: Vec<String> = wanted.columns.iter().map(|c| reached(c)).collect();
    let as_reached = FullText { table: reached(&wanted.table), key: reached(&wanted.key), columns };
    suitable(&as_reached, relation)?;
    for column in as_reached.columns.iter().filter_map(|c| relation.column(c)) {
        if !is_text(&column.declared) {
            return Err(format!("its column {} is no text, but `{}`", shown(&column.name), column.declared));
        }
    }
    let index = name(&wanted.table);
    if index.len() > LONGEST_NAME {
        return Err(format!("the name {} would be longer than {LONGEST_NAME} bytes", shown(&index)));
    }
    if let Some(taken) = planner.then.relation(&reached(&index)) {
        return Err(format!("the name {} is taken by {}", shown(&index), taken.kind.words()));
    }
    let Some((on, found)) = planner.then.index(&reached(&index)) else { return Ok(true) };
    let same_columns = about.texts.get(&index).is_some_and(|has| *has == BTreeSet::from_iter(wanted.columns.clone()));
    if on.name != relation.name || !same_columns {
        return Err(format!(
            "{} is an index over something else than the configuration's; drop it, and `migrate` makes it anew",
            shown(&index)
        ));
    }
    Ok(found.broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expression_is_the_documented_one() {
        let columns = ["title".to_owned(), "a\"b".to_owned()];
        assert_eq!(
            expression(&columns),
            r#"to_tsvector('simple', left(coalesce("title"::text, '') || ' ' || coalesce("a""b"::text, ''), 50000))"#
        );
    }
}
