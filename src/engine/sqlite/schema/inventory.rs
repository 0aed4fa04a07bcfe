//! What is in a database file: read once, then reasoned about without it.
//!
//! SQLite compares names without regard to ASCII case, so everything here is looked up in lower case and shown as it was written. Views and
//! virtual tables are read one by one and may fail: a view whose table is gone, or a module that is not loaded here, is the
//! application's affair and must not end a migration.

use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::engine::schema::admin_key;
use crate::engine::schema::inventory::{Applied, Column, Index, Inventory, Kind, PLACEHOLDERS_SHOWN, Relation};
use crate::engine::schema::names::{filter_of, quoted};

/// Reads what is there. For a consistent picture call it inside a transaction.
pub async fn read(connection: &mut SqliteConnection) -> Result<Inventory, sqlx::Error> {
    let mut inventory = Inventory::default();
    read_relations(&mut inventory, connection).await?;
    read_columns(&mut inventory, connection).await?;
    read_indexes(&mut inventory, connection).await?;
    read_applied(&mut inventory, connection).await?;
    read_keys(&mut inventory, connection).await?;
    Ok(inventory)
}

fn kind_of(kind: &str, without_rowid: bool) -> Kind {
    match (kind, without_rowid) {
        ("table", false) => Kind::Table,
        ("table", true) => Kind::WithoutRowid,
        ("view", _) => Kind::View,
        ("shadow", _) => Kind::Shadow,
        _ => Kind::Virtual,
    }
}

async fn read_relations(inventory: &mut Inventory, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let rows: Vec<(String, String, bool)> =
        sqlx::query_as("SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main'")
            .fetch_all(&mut *connection)
            .await?;
    for (name, kind, without_rowid) in rows {
        let key = name.to_ascii_lowercase();
        // Names that SQLite keeps for itself.
        if !key.starts_with("sqlite_") {
            let kind = kind_of(&kind, without_rowid);
            let relation = Relation { name, kind, columns: Vec::new(), indexes: Vec::new(), filled: true };
            inventory.relations.insert(key, relation);
        }
    }
    Ok(())
}

async fn read_columns(inventory: &mut Inventory, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    // Only tables here: the pragma fails on a broken view, and with it the whole statement.
    let rows: Vec<ColumnRow> = sqlx::query_as(
        "SELECT l.name, c.name, c.type, c.\"notnull\" AND c.dflt_value IS NULL, c.pk > 0, c.hidden
         FROM pragma_table_list AS l, pragma_table_xinfo(l.name, 'main') AS c
         WHERE l.schema = 'main' AND l.type = 'table' ORDER BY l.name, c.cid",
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        if let Some(relation) = inventory.relations.get_mut(&row.0.to_ascii_lowercase()) {
            relation.columns.extend(column(row));
        }
    }
    for relation in inventory.relations.values_mut().filter(|r| matches!(r.kind, Kind::View | Kind::Virtual)) {
        let rows: Result<Vec<ColumnRow>, _> =
            sqlx::query_as("SELECT '', name, type, 0, 0, hidden FROM pragma_table_xinfo(?, 'main') ORDER BY cid")
                .bind(&relation.name)
                .fetch_all(&mut *connection)
                .await;
        relation.columns = rows.unwrap_or_default().into_iter().filter_map(column).collect();
    }
    Ok(())
}

async fn read_indexes(inventory: &mut Inventory, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let rows: Vec<IndexRow> = sqlx::query_as(
        "SELECT l.name, i.name, i.\"unique\", i.origin, s.sql, x.name, x.desc = 0 AND x.coll = 'BINARY'
         FROM pragma_table_list AS l, pragma_index_list(l.name, 'main') AS i, pragma_index_xinfo(i.name, 'main') AS x
         LEFT JOIN main.sqlite_schema AS s ON s.type = 'index' AND s.name = i.name
         WHERE l.schema = 'main' AND l.type = 'table' AND x.key = 1 ORDER BY l.name, i.name, x.seqno",
    )
    .fetch_all(&mut *connection)
    .await?;
    for (table, name, unique, origin, sql, column, plain) in rows {
        let Some(relation) = inventory.relations.get_mut(&table.to_ascii_lowercase()) else { continue };
        if relation.indexes.last().is_none_or(|i| i.name != name) {
            let filter = sql.as_deref().and_then(filter_of);
            let explicit = origin == "c";
            let index = Index { name, plain: true, unique, explicit, filter, ..Index::default() };
            relation.indexes.push(index);
        }
        if let Some(index) = relation.indexes.last_mut() {
            index.columns.push(column);
            index.plain &= plain;
        }
    }
    Ok(())
}

async fn read_applied(inventory: &mut Inventory, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    if inventory.has("sidecar_migrations", &["track", "version", "checksum"]).is_ok() {
        let rows: Vec<(String, i64, String)> =
            sqlx::query_as("SELECT track, version, checksum FROM sidecar_migrations ORDER BY track, version")
                .fetch_all(&mut *connection)
                .await?;
        inventory.applied =
            rows.into_iter().map(|(track, version, checksum)| Applied { track, version, checksum }).collect();
    }
    Ok(())
}

async fn read_keys(inventory: &mut Inventory, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    if inventory.has("api_keys", &["id", "key_hash"]).is_err()
        || !inventory.relation("api_keys").is_some_and(|r| r.kind == Kind::Table)
    {
        return Ok(());
    }
    inventory.keys.any =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM api_keys)").fetch_one(&mut *connection).await?;
    // One that is not in force does no harm, but the seed's own is worth a word wherever it is met.
    let active = if inventory.has("api_keys", &["is_active"]).is_ok() { quoted("is_active") } else { "1".to_owned() };
    let sql = format!(
        "SELECT coalesce(CAST(id AS TEXT), 'NULL') FROM api_keys
         WHERE ({active} OR id = ?1)
           AND (typeof(key_hash) <> 'text' OR length(key_hash) <> 64 OR key_hash GLOB '*[^0-9a-fA-F]*')
         ORDER BY 1 LIMIT ?2"
    );
    inventory.keys.placeholders = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(admin_key::ID)
        .bind(PLACEHOLDERS_SHOWN)
        .fetch_all(&mut *connection)
        .await?;
    Ok(())
}

/// Table, column, type, required, primary, hidden.
type ColumnRow = (String, String, String, bool, bool, i64);
/// Table, index, unique, origin, text, column, ascending and bytewise.
type IndexRow = (String, String, bool, String, Option<String>, Option<String>, bool);

/// `hidden` is 0 for a plain column, 1 for a virtual table's hidden one, 2 and 3 for generated ones (PRAGMA table_xinfo).
fn column((_, name, declared, required, primary, hidden): ColumnRow) -> Option<Column> {
    (hidden != 1).then_some(Column { name, declared, required, primary, generated: hidden > 1 })
}
