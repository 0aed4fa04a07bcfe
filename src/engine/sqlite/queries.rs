//! `[[scrape.queries]]` on SQLite: the connection is opened read-only, with `query_only` on top, and runs under a deadline that interrupts the statement
//! itself.

pub(super) mod statement;

use std::borrow::Cow;

use sqlx::sqlite::{SqliteRow, SqliteValueRef};
use sqlx::{
    AssertSqlSafe, Column, Connection, Decode, Executor, Row as _, SqlSafeStr, Sqlite, Statement, TypeInfo, ValueRef,
};

use super::Database;
use super::errors::collect_error;
use crate::engine::Query;
use crate::engine::queries::{Asked, Cell, Row, Taking};
use crate::scrape::CollectError;
use crate::task::Pending;

pub use crate::engine::queries::check_query;

impl Asked for Database {
    fn bounded(query: &Query) -> Result<String, String> {
        let one = statement::only_reading(&query.sql)?;
        // The line break ends a comment at the statement's end.
        Ok(format!("SELECT * FROM ({one}\n) LIMIT {}", query.max_rows.saturating_add(1)))
    }

    fn columns<'a>(&'a self, query: &'a Query) -> Pending<'a, Result<Vec<String>, String>> {
        Box::pin(async move {
            let sql = AssertSqlSafe(Self::bounded(query)?).into_sql_str();
            let mut reader = self.read_for_query(query.timeout).await.map_err(|e| e.to_string())?;
            let prepared = (&mut *reader).prepare(sql).await.map_err(|e| e.to_string())?;
            Ok(prepared.columns().iter().map(|column| column.name().to_owned()).collect())
        })
    }

    fn ask<'a>(&'a self, sql: &'a str, mut taking: Taking<'a>) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            let mut reader = self.read_for_query(taking.query().timeout).await.map_err(collect_error)?;
            // Under one snapshot: a table that changes between preparing and running gives the statement other columns than sqlx asked it
            // for, which ends sqlx's worker. Reading the schema first makes this connection notice what changed before.
            let mut snapshot = reader.begin().await.map_err(collect_error)?;
            sqlx::query("SELECT count(*) FROM sqlite_schema").execute(&mut *snapshot).await.map_err(collect_error)?;
            // The statement is not kept: its columns are asked anew each time, for `SELECT *` changes with its table.
            sqlx::query(AssertSqlSafe(sql.to_owned()))
                .persistent(false)
                .try_map(|row: SqliteRow| taking.take(&row).map_err(|e| sqlx::Error::Decode(Box::new(e))))
                .fetch_all(&mut *snapshot)
                .await
                .map(drop)
                .map_err(collect_error)
        })
    }
}

impl Row for SqliteRow {
    fn names(&self) -> Vec<&str> {
        self.columns().iter().map(Column::name).collect()
    }

    fn cell(&self, column: usize) -> Result<Cell<'_>, CollectError> {
        fn decode<'r, T: Decode<'r, Sqlite>>(value: SqliteValueRef<'r>) -> Result<T, CollectError> {
            T::decode(value).map_err(|e| CollectError::Malformed(e.to_string()))
        }
        let value = self.try_get_raw(column).map_err(collect_error)?;
        if value.is_null() {
            return Ok(Cell::Null);
        }
        let kind = value.type_info().name().to_owned();
        Ok(match kind.as_str() {
            "INTEGER" => Cell::Integer(decode(value)?),
            "REAL" => Cell::Real(decode(value)?),
            "TEXT" => Cell::Text(Cow::Borrowed(decode(value)?)),
            _ => Cell::Blob,
        })
    }
}
