//! The built-in collectors over the application's tables, read from PostgreSQL: a file each, one scan of its table each.
//!
//! The tables are the application's, often made by an ORM: ids may be `UUID`, a status an enum, a flag an integer. So everything that becomes a label
//! is cast to text, in whose bytes it is ordered (`COLLATE "C"`), and a condition on a label is one on its text: `status::text` is also
//! how an index on a `VARCHAR` spells it. Times and numbers need columns of such types; where one is not, the collector says so.

pub mod cache;
pub mod content;
pub mod keys;
pub mod queue;
pub mod webhooks;

use std::time::Duration;

use sqlx::PgConnection;

use super::Database;
use super::errors::collect_error;
pub use crate::engine::atlas::Needs;
use crate::engine::schema::names::shown;
use crate::sample::Batch;
use crate::scrape::{CollectError, Collector};
use crate::task::Pending;

/// Reads some tables in a transaction with a deadline and adds what it finds; the time is the batch's.
pub type Read = for<'a> fn(&'a mut PgConnection, &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>>;

/// A collector that is one [`Read`].
pub struct Reading {
    /// Where it reads.
    pub database: Database,
    /// What a statement of it may take: the server ends it after that (E-5).
    pub limit: Duration,
    /// What it reads.
    pub read: Read,
}

impl Collector for Reading {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            let mut reader = self.database.read(self.limit).await.map_err(collect_error)?;
            (self.read)(&mut reader, batch).await.map_err(collect_error)
        })
    }
}

/// Columns and whether their types are times (`D`) or numbers (`N`); a domain has the category of its base type.
const TYPES: &str = "SELECT a.attname::text, t.typcategory::text, format_type(a.atttypid, a.atttypmod) \
     FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
     WHERE a.attrelid = to_regclass($1) AND a.attname = ANY($2) AND NOT a.attisdropped ORDER BY a.attnum";

/// Whether the types of the columns can serve. PostgreSQL itself would say only which function does not exist for which type, not where.
pub(super) async fn fit(connection: &mut PgConnection, needs: &Needs) -> Result<(), sqlx::Error> {
    let columns = [needs.times, needs.numbers].concat();
    let types: Vec<(String, String, String)> =
        sqlx::query_as(TYPES).bind(needs.table).bind(columns).fetch_all(connection).await?;
    for (column, category, declared) in types {
        let (wanted, words) = if needs.times.contains(&column.as_str()) { ("D", "a time") } else { ("N", "a number") };
        if category != wanted {
            let (table, column) = (shown(needs.table), shown(&column));
            let why = format!("column {column} of {table} is of type {}, which is not {words}", shown(&declared));
            return Err(sqlx::Error::Decode(Box::new(CollectError::Malformed(why))));
        }
    }
    Ok(())
}
