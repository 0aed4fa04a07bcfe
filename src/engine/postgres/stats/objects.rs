//! Tables and indexes: bytes, unused bytes, and what is done to them.
//!
//! Asking for a size takes the lock of a SELECT, so relations that somebody has for himself, or waits to have, are left out; one that is locked between our looking
//! and our asking costs this run two seconds (`lock_timeout`), not more.
//!
//! Unused bytes are estimated: rows times their average width (both from ANALYZE) against the pages that are there. It is rough: alignment within rows is not
//! counted, so a little of it is there in every table; b-trees that deduplicate come out too good. It is absent where ANALYZE never ran, and where the role may not read
//! a column's statistics, because a row's width is not known then.

use super::{View, counter, gauge};
use crate::engine::stats::{OBJECT_BYTES, OBJECT_UNUSED};
use crate::sample::Desc;

pub(super) const VIEWS: &[View] = &[
    View::new(SIZES, &["object", "table", "kind"], SIZE),
    View::new(TABLES, &["datname", "schemaname", "relname"], TABLE),
];

/// 24 bytes are a page's header and, rounded up, a row's; 4 are a row's pointer, 16 what a page of a b-tree ends with, 8 the header of its entries. Entries and rows
/// are rounded up to 8 bytes.
pub(in crate::engine::postgres) const SIZES: &str = "\
    WITH taken AS MATERIALIZED (SELECT relation FROM pg_locks WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' \
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())), \
    there AS MATERIALIZED (SELECT c.oid, c.relkind, c.reltuples, c.relam, c.reloptions, \
            CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END AS schema, c.relname, coalesce(i.indrelid, c.oid) AS table_oid, i.indkey \
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace LEFT JOIN pg_index AS i ON i.indexrelid = c.oid \
        WHERE c.relkind IN ('r', 'm', 'i') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' \
            AND NOT EXISTS (SELECT FROM taken WHERE relation IN (c.oid, c.reltoastrelid, i.indrelid))), \
    sized AS MATERIALIZED (SELECT *, CASE relkind WHEN 'i' THEN pg_relation_size(oid) ELSE pg_table_size(oid) END AS bytes FROM there), \
    ranked AS MATERIALIZED (SELECT *, row_number() OVER (ORDER BY bytes DESC, schema, relname) <= 100 AS shown FROM sized WHERE bytes IS NOT NULL), \
    widths AS (SELECT r.oid, count(*) AS columns, count(s.avg_width) AS known, sum((1 - s.null_frac) * s.avg_width) AS width \
        FROM ranked AS r JOIN pg_class AS t ON t.oid = r.table_oid JOIN pg_namespace AS n ON n.oid = t.relnamespace \
        JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND (r.indkey IS NULL OR a.attnum = ANY (r.indkey::int2[])) \
        LEFT JOIN pg_stats AS s ON s.schemaname = n.nspname AND s.tablename = t.relname AND s.attname = a.attname AND NOT s.inherited \
        WHERE r.shown GROUP BY r.oid), \
    filled AS (SELECT r.oid, current_setting('block_size')::float8 AS page, r.reltuples AS rows, pg_relation_size(r.oid)::float8 AS main, \
            coalesce((SELECT option_value FROM pg_options_to_table(r.reloptions) WHERE option_name = 'fillfactor')::float8, \
                CASE r.relkind WHEN 'i' THEN 90 ELSE 100 END) / 100 AS fill, \
            CASE r.relkind WHEN 'i' THEN 40 ELSE 24 END AS page_header, \
            8 * ceil(w.width / 8) + CASE r.relkind WHEN 'i' THEN 12 ELSE 28 END AS row \
        FROM ranked AS r JOIN widths AS w USING (oid) \
        WHERE w.known = w.columns AND r.reltuples >= 0 AND (r.reltuples > 0 OR pg_relation_size(r.oid) = 0) \
            AND (r.relkind <> 'i' OR (r.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AND NOT 0 = ANY (r.indkey::int2[])))), \
    unused AS (SELECT oid, greatest(main - page * ceil(rows * row / ((page - page_header) * fill)), 0) AS bytes FROM filled) \
    SELECT CASE WHEN shown THEN r.schema || r.relname ELSE 'other' END, \
        CASE WHEN shown THEN CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || t.relname ELSE 'other' END, \
        CASE WHEN NOT shown THEN 'other' WHEN r.relkind = 'i' THEN 'index' ELSE 'table' END, sum(r.bytes)::float8, sum(u.bytes)::float8 \
    FROM ranked AS r JOIN pg_class AS t ON t.oid = r.table_oid JOIN pg_namespace AS n ON n.oid = t.relnamespace LEFT JOIN unused AS u ON u.oid = r.oid \
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
const SIZE: &[&Desc] = &[&OBJECT_BYTES, &OBJECT_UNUSED];

/// The largest by what the catalog last knew of their size, which takes no lock.
const TABLES: &str = "\
    SELECT current_database()::text, schemaname::text, s.relname::text, seq_scan::float8, seq_tup_read::float8, idx_scan::float8, idx_tup_fetch::float8, \
        n_tup_ins::float8, n_tup_upd::float8, n_tup_del::float8, n_tup_hot_upd::float8, n_live_tup::float8, n_dead_tup::float8, n_mod_since_analyze::float8, \
        extract(epoch FROM last_vacuum)::float8, extract(epoch FROM last_autovacuum)::float8, extract(epoch FROM last_analyze)::float8, \
        extract(epoch FROM last_autoanalyze)::float8, age(c.relfrozenxid)::float8 \
    FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = relid WHERE c.relpersistence <> 't' ORDER BY c.relpages DESC, 2, 3 LIMIT 100";
const TABLE: &[&Desc] = &[
    &counter(
        "pg_stat_user_tables_seq_scan",
        "1",
        "Scans of the whole table; many on a large table mean that an index is missing",
    ),
    &counter("pg_stat_user_tables_seq_tup_read", "rows", "Live rows that scans of the whole table read"),
    &counter("pg_stat_user_tables_idx_scan", "1", "Scans by one of the table's indexes; absent where it has none"),
    &counter("pg_stat_user_tables_idx_tup_fetch", "rows", "Live rows that scans by an index fetched"),
    &counter("pg_stat_user_tables_n_tup_ins", "rows", "Rows that were inserted"),
    &counter("pg_stat_user_tables_n_tup_upd", "rows", "Rows that were updated"),
    &counter("pg_stat_user_tables_n_tup_del", "rows", "Rows that were deleted"),
    &counter(
        "pg_stat_user_tables_n_tup_hot_upd",
        "rows",
        "Rows whose update needed no new entry in an index; a small share of n_tup_upd: lower the table's fillfactor",
    ),
    &gauge("pg_stat_user_tables_n_live_tup", "rows", "Estimated live rows"),
    &gauge(
        "pg_stat_user_tables_n_dead_tup",
        "rows",
        "Estimated dead rows; far more than a fifth of the live ones mean that autovacuum does not get through",
    ),
    &gauge(
        "pg_stat_user_tables_n_mod_since_analyze",
        "rows",
        "Rows that changed since the planner's statistics were made",
    ),
    &gauge(
        "pg_stat_user_tables_last_vacuum",
        "seconds",
        "When somebody last vacuumed the table; absent where nobody did",
    ),
    &gauge(
        "pg_stat_user_tables_last_autovacuum",
        "seconds",
        "When autovacuum last vacuumed the table; absent where it never did",
    ),
    &gauge(
        "pg_stat_user_tables_last_analyze",
        "seconds",
        "When somebody last analyzed the table; absent where nobody did",
    ),
    &gauge(
        "pg_stat_user_tables_last_autoanalyze",
        "seconds",
        "When autovacuum last analyzed the table; absent where it never did",
    ),
    &gauge(
        "atlas_database_table_xid_age",
        "transactions",
        "Transactions since the oldest one in the table that is not frozen; the table that holds atlas_database_oldest_xid_age up",
    ),
];
