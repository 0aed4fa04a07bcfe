//! What is in a database: read once from the catalogs, then reasoned about without it.
//!
//! Only what a name without a schema reaches is in it; of two tables of one name the one that is reached. What an extension brought along does not
//! count: a view of `pg_stat_statements` makes no database an application's.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::types::Oid;
use sqlx::{AssertSqlSafe, PgConnection};

use super::filter;
use crate::engine::schema::admin_key;
use crate::engine::schema::inventory::{Applied, Column, Index, Inventory, Kind, PLACEHOLDERS_SHOWN, Relation};

/// Reads what is there. For a consistent picture call it inside a transaction.
pub async fn read(connection: &mut PgConnection) -> Result<Inventory, sqlx::Error> {
    let mut inventory = Inventory::default();
    let reached = read_relations(&mut inventory, connection).await?;
    read_columns(&mut inventory, &reached.keys, connection).await?;
    read_indexes(&mut inventory, &reached.keys, connection).await?;
    inventory.elsewhere = sqlx::query_scalar(ELSEWHERE).fetch_all(&mut *connection).await?;
    read_applied(&mut inventory, &reached.readable, connection).await?;
    read_keys(&mut inventory, &reached.readable, connection).await?;
    Ok(inventory)
}

/// How a name is looked up: as a text reaches it that quotes nothing else.
pub fn reached(name: &str) -> String {
    match name.chars().any(|c| c.is_ascii_uppercase()) {
        true => format!("\"{name}\""),
        false => name.to_owned(),
    }
}

struct Reached {
    /// The relations' keys in the inventory.
    keys: BTreeMap<u32, String>,
    /// The keys of those whose rows this role sees, all of them.
    readable: BTreeSet<String>,
}

/// Schemas that are the server's own, and those of temporary tables.
const RELATIONS: &str = "
    SELECT c.oid, c.relname::text, c.relkind::text, pg_relation_size(c.oid) > 0,
        has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(c.oid)
        AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
        AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";

const ELSEWHERE: &str = "
    SELECT DISTINCT n.nspname::text
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT n.nspname = ANY (current_schemas(false))
        AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
        AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1";

fn kind_of(relkind: &str) -> Kind {
    match relkind {
        "r" => Kind::Table,
        "p" => Kind::Partitioned,
        "m" => Kind::Materialized,
        "f" => Kind::Foreign,
        _ => Kind::View,
    }
}

async fn read_relations(inventory: &mut Inventory, connection: &mut PgConnection) -> Result<Reached, sqlx::Error> {
    let rows: Vec<(Oid, String, String, Option<bool>, bool)> = sqlx::query_as(RELATIONS).fetch_all(connection).await?;
    let mut out = Reached { keys: BTreeMap::new(), readable: BTreeSet::new() };
    for (Oid(oid), name, kind, filled, readable) in rows {
        let name = reached(&name);
        let key = name.to_ascii_lowercase();
        out.keys.insert(oid, key.clone());
        if readable {
            out.readable.insert(key.clone());
        }
        let (kind, filled) = (kind_of(&kind), filled.unwrap_or(true));
        inventory.relations.insert(key, Relation { name, kind, columns: Vec::new(), indexes: Vec::new(), filled });
    }
    Ok(out)
}

/// A type as it is declared; of an enumeration its values, because its name says nothing.
const COLUMNS: &str = "
    SELECT a.attrelid, a.attname::text,
        CASE WHEN t.typtype = 'e'
            THEN 'enum(' || coalesce((SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
                FROM pg_enum WHERE enumtypid = t.oid), '') || ')'
            ELSE format_type(a.atttypid, a.atttypmod) END,
        (a.attnotnull OR t.typnotnull) AND NOT a.atthasdef AND a.attidentity = '' AND t.typdefault IS NULL,
        EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey::int2[])),
        a.attgenerated <> ''
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attrelid, a.attnum";

async fn read_columns(
    inventory: &mut Inventory,
    keys: &BTreeMap<u32, String>,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let rows: Vec<(Oid, String, String, bool, bool, bool)> =
        sqlx::query_as(COLUMNS).bind(oids(keys)).fetch_all(connection).await?;
    for (Oid(oid), name, declared, required, primary, generated) in rows {
        if let Some(relation) = keys.get(&oid).and_then(|key| inventory.relations.get_mut(key)) {
            let name = reached(&name);
            relation.columns.push(Column { name, declared, required, primary, generated });
        }
    }
    Ok(())
}

/// Plain: a b-tree in ascending order, with its type's usual comparison and the column's collation.
const INDEXES: &str = "
    SELECT i.indrelid, c.relname::text, i.indisunique, i.indisvalid AND i.indisready AND i.indislive,
        NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')),
        am.amname = 'btree' AND NOT EXISTS (
            SELECT FROM unnest(i.indoption::int2[], i.indclass::oid[], i.indcollation::oid[], i.indkey::int2[])
                WITH ORDINALITY AS x (sorted, class, sorting, attnum, at)
            LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = x.attnum
            WHERE x.at <= i.indnkeyatts AND (x.sorted <> 0 OR x.sorting <> coalesce(a.attcollation, x.sorting)
                OR NOT EXISTS (SELECT FROM pg_opclass AS o WHERE o.oid = x.class AND o.opcdefault))),
        pg_get_expr(i.indpred, i.indrelid),
        ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS x (attnum, at)
            LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = x.attnum AND x.attnum <> 0
            WHERE x.at <= i.indnkeyatts ORDER BY x.at)
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS am ON am.oid = c.relam
    WHERE i.indrelid = ANY ($1)
    ORDER BY i.indrelid, c.relname";

/// Table, index, unique, whole, explicit, plain, condition, columns.
type IndexRow = (Oid, String, bool, bool, bool, bool, Option<String>, Vec<Option<String>>);

async fn read_indexes(
    inventory: &mut Inventory,
    keys: &BTreeMap<u32, String>,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let rows: Vec<IndexRow> = sqlx::query_as(INDEXES).bind(oids(keys)).fetch_all(connection).await?;
    for (Oid(oid), name, unique, whole, explicit, plain, filter, columns) in rows {
        if let Some(relation) = keys.get(&oid).and_then(|key| inventory.relations.get_mut(key)) {
            let columns = columns.into_iter().map(|c| c.as_deref().map(reached)).collect();
            let filter = filter.as_deref().map(filter::canonical);
            let name = reached(&name);
            relation.indexes.push(Index { name, columns, plain, unique, explicit, filter, broken: !whole });
        }
    }
    Ok(())
}

fn oids(keys: &BTreeMap<u32, String>) -> Vec<Oid> {
    keys.keys().map(|oid| Oid(*oid)).collect()
}

async fn read_applied(
    inventory: &mut Inventory,
    readable: &BTreeSet<String>,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let table = "sidecar_migrations";
    if readable.contains(table) && inventory.has(table, &["track", "version", "checksum"]).is_ok() {
        let rows: Vec<(String, i64, String)> = sqlx::query_as(
            "SELECT track::text, version::bigint, checksum::text FROM sidecar_migrations ORDER BY track, version",
        )
        .fetch_all(connection)
        .await?;
        inventory.applied =
            rows.into_iter().map(|(track, version, checksum)| Applied { track, version, checksum }).collect();
    }
    Ok(())
}

async fn read_keys(
    inventory: &mut Inventory,
    readable: &BTreeSet<String>,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    if inventory.has("api_keys", &["id", "key_hash"]).is_err()
        || !inventory.relation("api_keys").is_some_and(|r| r.kind == Kind::Table)
    {
        return Ok(());
    }
    if !readable.contains("api_keys") {
        // Where rows cannot be seen there may be some; a second admin key is not what anybody wants.
        inventory.keys.any = true;
        return Ok(());
    }
    inventory.keys.any = sqlx::query_scalar("SELECT EXISTS (SELECT FROM api_keys)").fetch_one(&mut *connection).await?;
    // One that is not in force does no harm, but the seed's own is worth a word wherever it is met. As text, because it may be a number.
    let active = if inventory.has("api_keys", &["is_active"]).is_ok() { "is_active::text" } else { "'true'" };
    let sql = format!(
        "SELECT coalesce(id::text, 'NULL') FROM api_keys
         WHERE ({active} IN ('true', '1') OR id::text = $1)
             AND (key_hash IS NULL OR key_hash::text !~ '^[0-9a-fA-F]{{64}}$')
         ORDER BY 1 LIMIT $2"
    );
    inventory.keys.placeholders = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(admin_key::ID)
        .bind(PLACEHOLDERS_SHOWN)
        .fetch_all(&mut *connection)
        .await?;
    Ok(())
}
