//! The PostgreSQL side, as far as it is looked at: tables, columns and their types, rights, and whether they are empty.

use std::collections::BTreeMap;

use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::kind::Kind;
use super::plan::Wanted;
use super::{CopyError, EngineError};
use crate::engine::postgres::errors;
use crate::engine::schema::admin_key;
use crate::engine::schema::names::quoted;

/// The wanted tables that are there, by name.
pub type Tables = BTreeMap<&'static str, Table>;

/// A table of the target.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Its schema and its name, quoted.
    pub sql: String,
    /// Whether it is a table that COPY writes to.
    pub ordinary: bool,
    /// Whether this role may read and insert.
    pub allowed: bool,
    /// Whether it has (wanted) rows.
    pub filled: bool,
    /// Whether its only row is the admin key that `migrate` makes, never used.
    pub made_key_only: bool,
    /// Its columns.
    pub columns: Vec<Column>,
    /// The wanted tables that its foreign keys lead to.
    pub references: Vec<String>,
}

/// A column of the target.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as the server prints it.
    pub declared: String,
    /// What it holds.
    pub kind: Kind,
    /// Whether it takes no NULL.
    pub not_null: bool,
    /// Whether it is filled where a row says nothing.
    pub filled: bool,
    /// Whether the server computes it.
    pub generated: bool,
    /// The sequence that its numbers come from, as SQL.
    pub sequence: Option<String>,
}

const TABLE: &str =
    "SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS sql, c.relkind IN ('r', 'p') AS ordinary,
       has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AS allowed,
       ARRAY(SELECT r.relname::text FROM pg_constraint f JOIN pg_class r ON r.oid = f.confrelid
             WHERE f.conrelid = c.oid AND f.contype = 'f' AND f.confrelid <> c.oid) AS refers
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(quote_ident($1))";

/// A domain is what it is made of; its own rules are the server's to check. A sequence belongs to a column (identity, serial) or only stands in its default.
const COLUMNS: &str = "SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS declared,
       b.typname::text AS base, b.typtype = 'e' AS label, CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END AS modifier,
       a.attnotnull OR t.typnotnull AS not_null, a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL AS filled,
       a.attgenerated <> '' AS generated,
       coalesce(pg_get_serial_sequence($2, a.attname),
                (SELECT s.oid::regclass::text FROM pg_attrdef d
                 JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass
                 JOIN pg_class s ON s.oid = p.refobjid AND s.relkind = 'S'
                 WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum LIMIT 1)) AS sequence
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// Through JSON, because a table of the application's own may lack any of these columns.
const MADE_KEY: &str = "coalesce((SELECT count(*) = 1 AND bool_and(row ->> 'id' = $1 AND row ->> 'name' = $2 AND row ->> 'key_hash' ~ '^[0-9a-f]{64}$'
       AND row ->> 'last_used_at' IS NULL) FROM (SELECT to_jsonb(k) AS row FROM";

/// Reads what is there.
pub async fn look(connection: &mut PgConnection, wanted: &[Wanted]) -> Result<Tables, sqlx::Error> {
    let mut tables = Tables::new();
    for wanted in wanted {
        let Some(row) = sqlx::query(TABLE).bind(wanted.name).fetch_optional(&mut *connection).await? else { continue };
        let mut table = Table {
            sql: row.try_get("sql")?,
            ordinary: row.try_get("ordinary")?,
            allowed: row.try_get("allowed")?,
            references: row.try_get("refers")?,
            ..Table::default()
        };
        let oid: sqlx::postgres::types::Oid = row.try_get("oid")?;
        for row in sqlx::query(COLUMNS).bind(oid).bind(&table.sql).fetch_all(&mut *connection).await? {
            table.columns.push(column(&row)?);
        }
        if table.allowed {
            table.filled = is_filled(connection, &table, wanted).await?;
        }
        if table.filled && wanted.name == "api_keys" {
            let sql = format!("SELECT {MADE_KEY} {} AS k LIMIT 2) AS keys), false)", table.sql);
            let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(admin_key::ID).bind(admin_key::NAME);
            table.made_key_only = query.fetch_one(&mut *connection).await?;
        }
        tables.insert(wanted.name, table);
    }
    Ok(tables)
}

/// Whether it has wanted rows.
pub async fn is_filled(connection: &mut PgConnection, table: &Table, wanted: &Wanted) -> Result<bool, sqlx::Error> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {}{})", table.sql, wanted.filter());
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await
}

fn column(row: &sqlx::postgres::PgRow) -> Result<Column, sqlx::Error> {
    let declared: String = row.try_get("declared")?;
    let kind = match row.try_get("label")? {
        true => Kind::Label,
        false => kind(row.try_get("base")?, row.try_get("modifier")?, &declared),
    };
    Ok(Column {
        name: row.try_get("name")?,
        declared,
        kind,
        not_null: row.try_get("not_null")?,
        filled: row.try_get("filled")?,
        generated: row.try_get("generated")?,
        sequence: row.try_get("sequence")?,
    })
}

/// `modifier` is what stands in parentheses behind a type, as its own input function packs it; -1 where nothing does.
fn kind(base: &str, modifier: i32, declared: &str) -> Kind {
    // varchar, char and numeric add the four bytes of a length in front (VARHDRSZ).
    let length = usize::try_from(modifier - 4).ok();
    match base {
        "bool" => Kind::Bool,
        "int2" => Kind::Integer { least: i16::MIN.into(), most: i16::MAX.into() },
        "int4" => Kind::Integer { least: i32::MIN.into(), most: i32::MAX.into() },
        "int8" => Kind::Integer { least: i64::MIN, most: i64::MAX },
        "numeric" => Kind::Numeric(length.map(|packed| {
            // The scale has 11 bits with a sign, the precision stands above it (numeric.c, make_numeric_typmod).
            let scale = ((packed & 0x7ff) ^ 0x400) as i64 - 0x400;
            (((packed >> 16) & 0xffff) as i64, scale)
        })),
        "float4" => Kind::Float4,
        "float8" => Kind::Float8,
        "text" | "citext" => Kind::Text(None),
        "varchar" => Kind::Text(length),
        "bpchar" => Kind::Padded(length),
        "timestamp" => Kind::Timestamp { digits: u32::try_from(modifier).unwrap_or(6), zone: false },
        "timestamptz" => Kind::Timestamp { digits: u32::try_from(modifier).unwrap_or(6), zone: true },
        "date" => Kind::Date,
        // A precision would round.
        "time" if modifier < 0 => Kind::Time,
        "json" => Kind::Json,
        "jsonb" => Kind::Jsonb,
        "uuid" => Kind::Uuid,
        "bytea" => Kind::Bytea,
        _ => Kind::Other(declared.to_owned()),
    }
}

/// What to do where the target refuses a row.
pub const NOTHING: &str = "nothing was copied; correct the row or the constraint, then copy again";

/// A list of columns in SQL.
pub fn list<'a>(columns: impl IntoIterator<Item = &'a str>) -> String {
    columns.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// What an error of the server means. Of its words only the message is repeated: detail and context quote rows, which may hold secrets. A foreign key's detail quotes the
/// key that leads nowhere, and nothing else says which it is.
pub fn error(doing: &str, what: &str, e: &sqlx::Error) -> CopyError {
    let error = |why: &str| EngineError::new(format!("{doing} `{what}`: {why}"));
    let Some(server) = server(e) else {
        return match e {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut => {
                CopyError::Unreachable(error(&format!("the connection to the server is lost: {}", errors::said(e))))
            }
            _ => CopyError::Failed(error(&e.to_string())),
        };
    };
    match errors::state(e).as_deref() {
        Some("55P03") => CopyError::Busy(
            error("somebody else holds a lock on it").hint("stop what works with the target, then copy"),
        ),
        Some("42501") => CopyError::Failed(error(server.message()).hint("copy as the role that owns the tables")),
        Some("23503") => {
            let detail = server.detail().unwrap_or_default();
            CopyError::Failed(error(&format!("{}. {detail}", server.message())).hint(NOTHING))
        }
        // Class 57P: the server shuts down, or has ended this session.
        Some(code) if code.starts_with("57P") => CopyError::Unreachable(error(server.message())),
        _ => CopyError::Failed(error(&format!("{} (SQLSTATE {})", server.message(), server.code()))),
    }
}

/// The server's own error.
pub fn server(e: &sqlx::Error) -> Option<&PgDatabaseError> {
    e.as_database_error()?.try_downcast_ref::<PgDatabaseError>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Modifiers as PostgreSQL 15 shows them in `pg_attribute.atttypmod`.
    #[test]
    fn modifiers_are_unpacked() {
        assert_eq!(kind("numeric", 983_048, ""), Kind::Numeric(Some((15, 4))));
        assert_eq!(kind("numeric", 329_734, ""), Kind::Numeric(Some((5, 2))));
        assert_eq!(kind("numeric", 133_122, ""), Kind::Numeric(Some((2, -2))));
        assert_eq!(kind("numeric", -1, ""), Kind::Numeric(None));
        assert_eq!(kind("varchar", 40, ""), Kind::Text(Some(36)));
        assert_eq!(kind("varchar", -1, ""), Kind::Text(None));
        assert_eq!(kind("timestamp", 3, ""), Kind::Timestamp { digits: 3, zone: false });
        assert_eq!(kind("interval", -1, "interval"), Kind::Other("interval".into()));
    }
}
