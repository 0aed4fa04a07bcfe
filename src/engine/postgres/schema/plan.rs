//! A plan in PostgreSQL's words.

use std::borrow::Cow;

use super::about::About;
use super::{full_text, own};
use crate::engine::schema::apply::Asked;
use crate::engine::schema::inventory::{Column, Inventory, Kind, Relation};
use crate::engine::schema::names::shown_list;
use crate::engine::schema::own::Migration;
use crate::engine::schema::plan::{self, Action, Planner};
use crate::engine::schema::{Part, admin_key, seed};
use crate::engine::{EngineError, FullText};

/// What PostgreSQL says in its own way, and what it is like here.
#[derive(Clone, Debug)]
pub struct Dialect {
    /// Server, role and rights.
    pub about: About,
    /// `database.widen_metric_value`.
    pub widen: bool,
}

/// A plan for a PostgreSQL database.
pub type Plan = plan::Plan<Dialect>;

/// See [`plan::plan`]; with what is missing in rights.
pub fn plan(dialect: &Dialect, inventory: &Inventory, asked: Asked<'_>) -> Result<Plan, EngineError> {
    dialect.about.supported()?;
    dialect.about.may_read_record()?;
    let mut plan = plan::plan(dialect, inventory, asked.part, asked.scope, asked.full_text)?;
    dialect.about.judge(inventory, asked.part, &mut plan);
    Ok(plan)
}

/// A step that PostgreSQL does not have: no index of its own has to be filled.
#[derive(Debug)]
pub enum Never {}

/// An index that is built beside the application's writes.
#[derive(Debug)]
pub struct Concurrent {
    /// The index.
    pub name: String,
    /// `CREATE INDEX CONCURRENTLY …`.
    pub sql: String,
}

/// Makes the index `name` `on` something: beside writes where there may be rows, otherwise at once.
pub fn create_index(filled: bool, name: &str, on: &str) -> Action<Dialect> {
    match filled {
        true => Action::Outside(Concurrent {
            name: name.to_owned(),
            sql: format!("CREATE INDEX CONCURRENTLY {name} ON {on}"),
        }),
        false => Action::Sql(format!("CREATE INDEX {name} ON {on}")),
    }
}

/// The time in UTC, whatever the zone of the session that writes the row (T-3).
const NOW_UTC: &str = "DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC')";

impl plan::Dialect for Dialect {
    type Fill = Never;
    type Outside = Concurrent;

    const NAME: &'static str = "PostgreSQL";
    const MIGRATIONS: &'static [Migration] = own::MIGRATIONS;

    fn declaration(&self, seed: &'static str) -> Cow<'static, str> {
        match seed.strip_suffix(seed::NOW) {
            Some(column) => format!("{column}{NOW_UTC}").into(),
            None => seed.into(),
        }
    }

    /// A default that is the time is set after the column is there: only new rows get it.
    fn add_column(
        &self,
        table: &str,
        name: &str,
        declaration: &'static str,
        default: Option<&'static str>,
    ) -> (String, Option<&'static str>) {
        let add = format!("ALTER TABLE {table} ADD COLUMN {name} {declaration}");
        let sql = match default {
            Some(_) => format!("{add}; ALTER TABLE {table} ALTER COLUMN {name} SET {NOW_UTC}"),
            None => add,
        };
        (sql, None)
    }

    /// Where rows come in the order of a column, ranges of pages are enough: a thousandth of a b-tree's size. `autosummarize`, because ranges
    /// that nobody has summarized are read in every search.
    fn create_index(&self, relation: &Relation, index: &'static seed::Index) -> Action<Self> {
        let on = index.on(&relation.name);
        let on = match index.in_order {
            true => format!("{} USING brin ({}) WITH (autosummarize = on)", relation.name, index.columns.join(", ")),
            false => on,
        };
        create_index(relation.filled, index.name, &on)
    }

    fn unfit(&self, relation: &Relation, filter: &str) -> Option<String> {
        // Our two filters: a column alone, or compared with a text.
        let mut words = filter.split(" = ");
        let column = relation.column(words.next()?)?;
        let fits = match words.next() {
            Some(value) => is_text(&column.declared) || is_enum_with(&column.declared, value),
            None => column.declared.eq_ignore_ascii_case("boolean"),
        };
        (!fits).then(|| format!("its condition `{filter}` does not fit a column that is `{}`", column.declared))
    }

    fn cannot_hold(&self, column: &Column) -> Option<String> {
        let declared = &column.declared.to_ascii_lowercase()[..];
        let fits = match column.name.as_str() {
            "id" => is_text_of(declared, admin_key::ID.len()),
            "name" => is_text_of(declared, admin_key::NAME.len()),
            // A SHA-256 in hex.
            "key_hash" => is_text_of(declared, 64),
            "permissions" => matches!(declared, "json" | "jsonb") || is_text_of(declared, admin_key::PERMISSIONS.len()),
            "rate_limit_per_hour" => matches!(declared, "smallint" | "integer" | "bigint" | "numeric"),
            "created_at" => declared.starts_with("timestamp"),
            "is_active" => declared == "boolean",
            _ => true,
        };
        (!fits).then(|| format!("its column `{}` is `{declared}`", column.name))
    }

    fn full_text(&self, wanted: &FullText, planner: &mut Planner<'_, Self>) {
        full_text::plan(&self.about, wanted, planner);
    }

    fn further(&self, planner: &mut Planner<'_, Self>, part: Part) {
        if part != Part::Application {
            self.metric_value(planner);
        }
    }
}

impl Dialect {
    /// V-1, V-5: `DECIMAL(15,4)` ends below 93.1 GiB in bytes, and cuts 0.00004 to 0.
    fn metric_value(&self, planner: &mut Planner<'_, Self>) {
        let table = planner.then.relation(seed::SYSTEM_METRICS).filter(|r| r.kind == Kind::Table);
        let Some(column) = table.and_then(|r| r.column("metric_value")) else { return };
        let declared = column.declared.clone();
        let target = "`system_metrics`.`metric_value`";
        let Some(limits) = limits(&declared) else { return };
        let warning = match (declared.starts_with("numeric("), self.widen, &self.about.blocking[..]) {
            (true, true, []) => {
                let sql = "ALTER TABLE system_metrics ALTER COLUMN metric_value TYPE NUMERIC";
                let what = format!("change the type of {target} from `{declared}` to `numeric`");
                return planner.step(what, Some(seed::SYSTEM_METRICS), Action::Sql(sql.into()));
            }
            (true, true, blocking) => format!(
                "{target} stays `{declared}`, because it is used by {}: drop what uses it, run `migrate`, and make it again",
                shown_list(blocking)
            ),
            (true, false, _) => format!(
                "{target} is `{declared}`: it {limits}; `migrate` changes that where `database.widen_metric_value = true`"
            ),
            (false, ..) => format!(
                "{target} is `{declared}`: it {limits}; `migrate` does not change that, because every row would be rewritten"
            ),
        };
        planner.plan.warnings.push(warning);
    }
}

/// What a type cannot hold of a 64-bit float; nothing where it can.
fn limits(declared: &str) -> Option<String> {
    const LEFT_OUT: &str = "samples that it cannot hold are left out and counted";
    match declared {
        "smallint" | "integer" | "bigint" => Some(format!("holds whole numbers only; {LEFT_OUT}")),
        "real" => Some("keeps six digits of a value".to_owned()),
        _ => {
            let (precision, scale) = declared.strip_prefix("numeric(")?.strip_suffix(')')?.split_once(',')?;
            let (precision, scale): (i32, i32) = (precision.parse().ok()?, scale.trim().parse().ok()?);
            let digits = precision - scale;
            Some(format!("holds values below 1e{digits} only and rounds to {scale} digits after the point; {LEFT_OUT}"))
        }
    }
}

/// Whether a column of that type is text.
pub fn is_text(declared: &str) -> bool {
    is_text_of(declared, 0)
}

/// Whether it is text of at least `length` characters. The server's name of a type, or the seed's of a column that is about to be made.
fn is_text_of(declared: &str, length: usize) -> bool {
    let declared = declared.to_ascii_lowercase();
    let (name, most) = match declared.split_once('(') {
        Some((name, rest)) => (name, rest.trim_end_matches(')').parse().unwrap_or(0)),
        None => (&declared[..], usize::MAX),
    };
    matches!(name, "text" | "character varying" | "varchar" | "character" | "citext") && most >= length
}

fn is_enum_with(declared: &str, value: &str) -> bool {
    declared.strip_prefix("enum(").is_some_and(|values| values.trim_end_matches(')').split(", ").any(|v| v == value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_judged_by_what_they_hold() {
        assert_eq!(limits("numeric"), None);
        assert_eq!(limits("double precision"), None);
        assert!(limits("numeric(15,4)").is_some_and(|l| l.contains("below 1e11") && l.contains("4 digits")));
        assert!(limits("integer").is_some());
        assert!(is_text_of("character varying(36)", 13) && !is_text_of("character varying(8)", 13));
        assert!(is_text("text") && !is_text("uuid") && !is_text("integer"));
        assert!(is_enum_with("enum('done', 'pending')", "'pending'") && !is_enum_with("enum('PENDING')", "'pending'"));
    }
}
