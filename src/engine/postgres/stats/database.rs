//! The database as a whole: its size and age, transactions, the buffer cache, and the settings that other numbers are compared with.

use super::{View, counter, gauge};
use crate::engine::stats::FILE_BYTES;
use crate::sample::{Desc, Kind};

pub(super) const VIEWS: &[View] = &[
    View::new(STATIC, &["version", "short_version"], VERSION).of_server(),
    View::new(SETTINGS, &[], SETTING).of_server(),
    View::new(SIZE, &[], BYTES),
    View::new(NAMED_SIZE, &["datname"], NAMED_BYTES),
    View::new(AGES, &[], AGE),
    View::new(STATS, &["datid", "datname"], STAT),
];

/// The exporter writes versions with three parts.
const STATIC: &str = "SELECT version(), concat_ws('.', n / 10000, n % 10000, 0), 1::float8 \
     FROM (SELECT current_setting('server_version_num')::int4 AS n) AS version";
const VERSION: &[&Desc] =
    &[&Desc { name: "pg_static", kind: Kind::Unknown, unit: "1", help: "1, with the server's version as labels" }];

const SETTINGS: &str = "SELECT current_setting('max_connections')::float8, \
     current_setting('superuser_reserved_connections')::float8, current_setting('autovacuum_freeze_max_age')::float8, \
     current_setting('max_replication_slots')::float8, current_setting('max_wal_senders')::float8, \
     pg_size_bytes(current_setting('shared_buffers'))::float8, pg_size_bytes(current_setting('max_wal_size'))::float8";
const SETTING: &[&Desc] = &[
    &gauge(
        "pg_settings_max_connections",
        "connections",
        "The most connections; compare with the sum of pg_stat_activity_count",
    ),
    &gauge(
        "pg_settings_superuser_reserved_connections",
        "connections",
        "Connections of max_connections that only superusers get",
    ),
    &gauge(
        "pg_settings_autovacuum_freeze_max_age",
        "transactions",
        "The age at which autovacuum freezes rows whatever it costs; compare with atlas_database_oldest_xid_age",
    ),
    &gauge("pg_settings_max_replication_slots", "slots", "The most replication slots; a backup needs one"),
    &gauge(
        "pg_settings_max_wal_senders",
        "connections",
        "The most connections that stream the write-ahead log; a backup needs two",
    ),
    &gauge(
        "pg_settings_shared_buffers_bytes",
        "bytes",
        "Size of the server's own cache; pg_stat_database_blks_hit against blks_read tells whether it is large enough",
    ),
    &gauge(
        "pg_settings_max_wal_size_bytes",
        "bytes",
        "Write-ahead log between two checkpoints at most; checkpoints_req that keep growing mean that it is too small",
    ),
];

const SIZE: &str = "SELECT pg_database_size(current_database())::float8";
const BYTES: &[&Desc] = &[&FILE_BYTES];

const NAMED_SIZE: &str = "SELECT current_database()::text, pg_database_size(current_database())::float8";
const NAMED_BYTES: &[&Desc] = &[&gauge("pg_database_size_bytes", "bytes", "Disk space used by the database")];

const AGES: &str = "SELECT age(datfrozenxid)::float8, mxid_age(datminmxid)::float8 FROM pg_database WHERE datname = current_database()";
const AGE: &[&Desc] = &[
    &gauge(
        "atlas_database_oldest_xid_age",
        "transactions",
        "Transactions since the oldest one that is not frozen; the server stops taking writes some 2,100,000,000 after it. Far above autovacuum_freeze_max_age means \
         that autovacuum does not get through",
    ),
    &gauge(
        "atlas_database_oldest_multixact_age",
        "transactions",
        "The same for groups of transactions that lock a row together",
    ),
];

const STATS: &str = "SELECT datid::text, datname::text, numbackends::float8, xact_commit::float8, xact_rollback::float8, blks_read::float8, blks_hit::float8, \
     tup_returned::float8, tup_fetched::float8, tup_inserted::float8, tup_updated::float8, tup_deleted::float8, conflicts::float8, temp_files::float8, \
     temp_bytes::float8, deadlocks::float8, checksum_failures::float8, blk_read_time::float8, blk_write_time::float8 \
     FROM pg_stat_database WHERE datname = current_database()";
const STAT: &[&Desc] = &[
    &gauge(
        "pg_stat_database_numbackends",
        "connections",
        "Connections to the database now; many more than usual mean that the application leaks them or waits",
    ),
    &counter("pg_stat_database_xact_commit", "transactions", "Transactions that were committed; rate() is the load"),
    &counter(
        "pg_stat_database_xact_rollback",
        "transactions",
        "Transactions that were rolled back; a growing share of all means errors in the application",
    ),
    &counter("pg_stat_database_blks_read", "blocks", "Blocks that were read from outside of the server's cache"),
    &counter(
        "pg_stat_database_blks_hit",
        "blocks",
        "Blocks that were found in the server's cache; blks_hit / (blks_hit + blks_read) is its hit ratio",
    ),
    &counter(
        "pg_stat_database_tup_returned",
        "rows",
        "Live rows that scans met; far more than tup_fetched means that indexes are missing",
    ),
    &counter("pg_stat_database_tup_fetched", "rows", "Live rows that index scans fetched"),
    &counter("pg_stat_database_tup_inserted", "rows", "Rows that were inserted"),
    &counter("pg_stat_database_tup_updated", "rows", "Rows that were updated"),
    &counter("pg_stat_database_tup_deleted", "rows", "Rows that were deleted"),
    &counter(
        "pg_stat_database_conflicts",
        "queries",
        "Queries that were cancelled because of recovery; only on standbys",
    ),
    &counter(
        "pg_stat_database_temp_files",
        "files",
        "Temporary files that queries wrote; growth means that work_mem is too small for them",
    ),
    &counter("pg_stat_database_temp_bytes", "bytes", "Bytes of temporary files"),
    &counter("pg_stat_database_deadlocks", "1", "Deadlocks; each is an error that the application saw"),
    &counter(
        "pg_stat_database_checksum_failures",
        "blocks",
        "Blocks whose checksum was wrong; absent where checksums are off. Anything above 0 means a failing disk or memory: restore",
    ),
    &counter(
        "pg_stat_database_blk_read_time",
        "milliseconds",
        "Time spent reading blocks; 0 unless track_io_timing is on",
    ),
    &counter(
        "pg_stat_database_blk_write_time",
        "milliseconds",
        "Time spent writing blocks; 0 unless track_io_timing is on",
    ),
];
