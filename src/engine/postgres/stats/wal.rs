//! The write-ahead log: how fast it is written, how much of it is kept, and whether it is archived.

use super::{View, counter, gauge};
use crate::engine::stats::WAL_BYTES;
use crate::sample::Desc;

pub(super) const VIEWS: &[View] = &[
    View::new(WRITTEN, &[], BYTES_WRITTEN).of_server(),
    View::new(STATS, &[], STAT).of_server().since(14_0000),
    View::new(FILES, &[], FILE).of_server().where_readable(|about| about.sees_wal_files),
    View::new(ARCHIVER, &[], ARCHIVED).of_server(),
];

/// A standby writes none: what it replays is the primary's to tell.
const WRITTEN: &str =
    "SELECT CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_lsn() - '0/0'::pg_lsn)::float8 END";
const BYTES_WRITTEN: &[&Desc] = &[&counter(
    "atlas_database_wal_written_bytes_total",
    "bytes",
    "Write-ahead log written since the server's data was made; rate() is what a disk, a standby and a backup must keep up with",
)];

const STATS: &str =
    "SELECT wal_records::float8, wal_fpi::float8, wal_bytes::float8, wal_buffers_full::float8 FROM pg_stat_wal";
const STAT: &[&Desc] = &[
    &counter("pg_stat_wal_wal_records", "1", "Records of the write-ahead log (PostgreSQL 14)"),
    &counter(
        "pg_stat_wal_wal_fpi",
        "blocks",
        "Whole blocks in the write-ahead log; many of them mean that checkpoints are too frequent (PostgreSQL 14)",
    ),
    &counter(
        "pg_stat_wal_wal_bytes",
        "bytes",
        "Bytes of records and blocks since the statistics began (PostgreSQL 14)",
    ),
    &counter(
        "pg_stat_wal_wal_buffers_full",
        "1",
        "Times that the log was written because wal_buffers was full; growth: raise it (PostgreSQL 14)",
    ),
];

const FILES: &str =
    "SELECT sum(size)::float8, sum(size)::float8, count(*)::float8 FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'";
const FILE: &[&Desc] = &[
    &WAL_BYTES,
    &gauge(
        "pg_wal_size_bytes",
        "bytes",
        "Size of the files of the write-ahead log; absent without the rights of pg_monitor",
    ),
    &gauge("pg_wal_segments", "files", "Files of the write-ahead log; absent without the rights of pg_monitor"),
];

const ARCHIVER: &str = "SELECT archived_count::float8, failed_count::float8, extract(epoch FROM now() - last_archived_time)::float8 FROM pg_stat_archiver";
const ARCHIVED: &[&Desc] = &[
    &counter("pg_stat_archiver_archived_count", "files", "Files of the write-ahead log that archive_command took"),
    &counter(
        "pg_stat_archiver_failed_count",
        "1",
        "Failed calls of archive_command; while they grow, the log does too, until its disk is full",
    ),
    &gauge(
        "pg_stat_archiver_last_archive_age",
        "seconds",
        "Time since archive_command last took a file; absent where it never did",
    ),
];
