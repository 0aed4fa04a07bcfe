//! What the built-in collectors over the application's tables show: the families, and how what was read becomes samples. The twins read.
//!
//! Labels that the data decides are bounded to the hundred most frequent values, the rest is counted as `other`; and no secret, hash or URL ever is
//! a label. How much and how often something is read is the twins' business: SQLite's planner likes several small statements, PostgreSQL gets one
//! scan per table.

pub mod cache;
pub mod content;
pub mod keys;
pub mod queue;
pub mod webhooks;

use crate::engine::schema::inventory::{Inventory, Kind};
use crate::sample::{Batch, Desc, Labels};

/// What a collector cannot do without.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// The table.
    pub table: &'static str,
    /// Its columns that are read.
    pub columns: &'static [&'static str],
    /// Those of them that hold times. SQLite's columns hold anything, so there each value is looked at; PostgreSQL's have a type.
    pub times: &'static [&'static str],
    /// Those of them that hold numbers.
    pub numbers: &'static [&'static str],
    /// Whether its rows are told apart by where they are (`rowid`, `ctid`), which those of a view or a table WITHOUT ROWID are not.
    pub rowid: bool,
}

impl Needs {
    /// What of it is missing, in words; `None` if nothing is.
    pub fn missing(&self, inventory: &Inventory) -> Option<String> {
        let Some(relation) = inventory.relation(self.table) else {
            return Some(format!("there is no table `{}`", self.table));
        };
        let missing: Vec<String> =
            self.columns.iter().filter(|c| relation.column(c).is_none()).map(|c| format!("`{c}`")).collect();
        if !missing.is_empty() {
            return Some(format!("table `{}` has no column {}", self.table, missing.join(", ")));
        }
        let followed = !self.rowid || relation.kind == Kind::Table;
        (!followed).then(|| format!("table `{}` has no rowid to follow it by", self.table))
    }
}

/// All families of these collectors.
pub fn metrics() -> impl Iterator<Item = &'static Desc> {
    [queue::METRICS, cache::METRICS, content::METRICS, keys::METRICS, webhooks::METRICS].into_iter().flatten().copied()
}

/// One sample without labels for each of `values`.
fn push_all<const N: usize>(batch: &mut Batch, values: [(&'static Desc, f64); N]) {
    for (desc, value) in values {
        batch.push(desc, Labels::none(), value);
    }
}

/// Rows by whether they are active.
fn push_active(batch: &mut Batch, desc: &'static Desc, active: f64, inactive: f64) {
    batch.push(desc, Labels::none().with("active", "true"), active);
    batch.push(desc, Labels::none().with("active", "false"), inactive);
}

/// `is_active` as writers of booleans leave it, a condition that both engines read alike: 1, TRUE or the words; NULL is not active.
macro_rules! active {
    () => {
        "(coalesce(lower(CAST(is_active AS TEXT)), '') IN ('1', 'true', 't', 'yes'))"
    };
}
pub(in crate::engine) use active;
