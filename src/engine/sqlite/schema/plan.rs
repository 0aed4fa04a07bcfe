//! A plan in SQLite's words.

use std::borrow::Cow;

use super::full_text;
use super::own;
use crate::engine::schema::inventory::{Column, Inventory, Relation};
use crate::engine::schema::own::Migration;
use crate::engine::schema::plan::{self, Action, Planner};
use crate::engine::schema::{Part, Scope, admin_key, seed};
use crate::engine::{EngineError, FullText};

/// What SQLite says in its own way.
#[derive(Clone, Copy, Debug)]
pub struct Dialect;

/// A plan for a SQLite database.
pub type Plan = plan::Plan<Dialect>;

/// See [`plan::plan`].
pub fn plan(inventory: &Inventory, part: Part, scope: Scope, full_text: &[FullText]) -> Result<Plan, EngineError> {
    plan::plan(&Dialect, inventory, part, scope, full_text)
}

/// A step that SQLite does not have: everything is possible in a transaction.
#[derive(Debug)]
pub enum Never {}

impl plan::Dialect for Dialect {
    type Fill = full_text::Index;
    type Outside = Never;

    const NAME: &'static str = "SQLite";
    const MIGRATIONS: &'static [Migration] = own::MIGRATIONS;

    fn declaration(&self, seed: &'static str) -> Cow<'static, str> {
        seed.into()
    }

    /// `ALTER TABLE ADD COLUMN` takes no default that is the time.
    fn add_column(
        &self,
        table: &str,
        name: &str,
        declaration: &'static str,
        default: Option<&'static str>,
    ) -> (String, Option<&'static str>) {
        (format!("ALTER TABLE {table} ADD COLUMN {name} {declaration}"), default)
    }

    fn create_index(&self, relation: &Relation, index: &'static seed::Index) -> Action<Self> {
        let table = relation.name.to_ascii_lowercase();
        Action::Sql(format!("CREATE INDEX {} ON {}", index.name, index.on(&table)))
    }

    fn unfit(&self, _: &Relation, _: &str) -> Option<String> {
        None
    }

    fn cannot_hold(&self, column: &Column) -> Option<String> {
        let numbers = column.declared.to_ascii_uppercase().contains("INT");
        let is_id = column.name.eq_ignore_ascii_case("id");
        (is_id && numbers).then(|| format!("its column `id` holds numbers, not `{}`", admin_key::ID))
    }

    fn full_text(&self, wanted: &FullText, planner: &mut Planner<'_, Self>) {
        full_text::plan(wanted, planner);
    }

    fn further(&self, _: &mut Planner<'_, Self>, _: Part) {}
}
