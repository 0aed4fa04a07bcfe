//! Who reads the write-ahead log, how far behind, and what is kept for whom.
//!
//! Standbys that have name and address in common are shown as the worst of them.

use super::{View, gauge};
use crate::sample::Desc;

pub(super) const VIEWS: &[View] = &[
    View::new(STANDBYS, &["application_name", "client_addr", "state"], STANDBY)
        .of_server()
        .where_readable(|about| about.sees_sessions),
    View::new(LAGS, &["application_name", "client_addr", "stage"], LAG)
        .of_server()
        .where_readable(|about| about.sees_sessions),
    View::new(SLOTS, &["slot_name"], SLOT).of_server(),
    View::new(SLOT_WAL, &["slot_name", "slot_type"], SAFE_WAL).of_server(),
    View::new(SLOT_STATUS, &["slot_name", "slot_type", "wal_status"], STATUS).of_server(),
];

const STANDBYS: &str = "\
    SELECT application_name, host(client_addr), state, max(current - '0/0'::pg_lsn)::float8, max(current - replay_lsn)::float8 FROM pg_stat_replication, \
        (SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn() END AS current) AS position \
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 LIMIT 100";
const STANDBY: &[&Desc] = &[
    &gauge(
        "pg_stat_replication_pg_current_wal_lsn_bytes",
        "bytes",
        "Where the primary's write-ahead log ends, as bytes from its start",
    ),
    &gauge(
        "pg_stat_replication_pg_wal_lsn_diff",
        "bytes",
        "Write-ahead log that a standby has not applied; growth means that it does not keep up. Absent for those that apply none",
    ),
];

const LAGS: &str = "\
    SELECT application_name, host(client_addr), stage, max(extract(epoch FROM lag))::float8 FROM pg_stat_replication, \
        LATERAL (VALUES ('write', write_lag), ('flush', flush_lag), ('replay', replay_lag)) AS lags (stage, lag) \
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 LIMIT 300";
const LAG: &[&Desc] = &[&gauge(
    "atlas_database_standby_lag_seconds",
    "seconds",
    "How long recent write-ahead log took to be written, flushed and applied by a standby; with synchronous_commit, what a commit waits. Absent while nothing is written",
)];

const SLOTS: &str = "SELECT slot_name::text, active::int4::float8, CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn() - restart_lsn END::float8 \
     FROM pg_replication_slots ORDER BY 1 LIMIT 100";
const SLOT: &[&Desc] = &[
    &gauge("pg_replication_slots_active", "1", "1 while somebody reads from the slot"),
    &gauge(
        "pg_replication_slots_pg_wal_lsn_diff",
        "bytes",
        "Write-ahead log that is kept for the slot; one that nobody reads from makes it grow until the disk is full: drop it or set max_slot_wal_keep_size",
    ),
];

const SLOT_WAL: &str =
    "SELECT slot_name::text, slot_type, safe_wal_size::float8 FROM pg_replication_slots ORDER BY 1 LIMIT 100";
const SAFE_WAL: &[&Desc] = &[&gauge(
    "pg_replication_slot_safe_wal_size_bytes",
    "bytes",
    "Write-ahead log that may still be written before the slot is in danger of losing its place; absent where max_slot_wal_keep_size is not set",
)];

const SLOT_STATUS: &str = "SELECT slot_name::text, slot_type, wal_status, 1::float8 FROM pg_replication_slots WHERE wal_status IS NOT NULL ORDER BY 1 LIMIT 100";
const STATUS: &[&Desc] = &[&gauge(
    "pg_replication_slot_wal_status",
    "1",
    "1, with whether the log that the slot needs is there as label: reserved, extended, unreserved (about to be removed) or lost",
)];
