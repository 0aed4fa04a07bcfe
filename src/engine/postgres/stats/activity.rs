//! Who does what: sessions by state, the longest transaction, locks and who waits for them.

use super::{View, counter, gauge};
use crate::sample::Desc;

pub(super) const VIEWS: &[View] = &[
    View::new(SESSIONS, &["datname", "state"], SESSION),
    View::new(LOCKS, &["datname", "mode"], LOCK),
    View::new(WAITING, &[], WAIT),
    View::new(BGWRITER_16, &[], BGWRITER_CHECKPOINTS).of_server().before(17_0000),
    View::new(BGWRITER, &[], BGWRITER_WRITES).of_server(),
    View::new(CHECKPOINTER, &[], CHECKPOINTS).of_server().since(17_0000),
];

/// The states of the exporter, each with its 0. A session that this role may not look into has no `backend_type`; where there is one in this database, how many sessions
/// are in a state is not known, and how many are hidden is.
const SESSIONS: &str = "\
    WITH sessions AS MATERIALIZED (SELECT state, backend_type IS NULL AS hidden, extract(epoch FROM now() - xact_start)::float8 AS lasting \
        FROM pg_stat_activity WHERE datname = current_database()), \
    states (state) AS (VALUES ('active'), ('idle'), ('idle in transaction'), ('idle in transaction (aborted)'), ('fastpath function call'), ('disabled')) \
    SELECT current_database()::text, states.state, count(sessions.state)::float8, greatest(max(lasting), 0)::float8 \
        FROM states LEFT JOIN sessions ON sessions.state = states.state WHERE NOT EXISTS (SELECT FROM sessions WHERE hidden) GROUP BY states.state \
    UNION ALL SELECT current_database()::text, 'unknown', count(*)::float8, NULL FROM sessions WHERE hidden HAVING count(*) > 0";
const SESSION: &[&Desc] = &[
    &gauge(
        "pg_stat_activity_count",
        "connections",
        "Sessions of this database by state; those that the role may not look into are `unknown`, and the other states then absent",
    ),
    &gauge(
        "pg_stat_activity_max_tx_duration",
        "seconds",
        "How long the longest transaction of the sessions in a state has been open; one that is idle in transaction for minutes keeps VACUUM from removing anything",
    ),
];

const LOCKS: &str = "\
    WITH modes (mode) AS (VALUES ('accesssharelock'), ('rowsharelock'), ('rowexclusivelock'), ('shareupdateexclusivelock'), ('sharelock'), \
        ('sharerowexclusivelock'), ('exclusivelock'), ('accessexclusivelock'), ('sireadlock')) \
    SELECT datname::text, modes.mode, count(pg_locks.mode)::float8 FROM pg_database CROSS JOIN modes \
        LEFT JOIN pg_locks ON pg_locks.database = pg_database.oid AND lower(pg_locks.mode) = modes.mode \
        WHERE datname = current_database() GROUP BY 1, 2";
const LOCK: &[&Desc] = &[&gauge(
    "pg_locks_count",
    "locks",
    "Locks on objects of this database by mode, held or waited for; accessexclusivelock keeps everybody else from a table",
)];

/// Whose lock it is, is told to everybody. A wait for a row is a wait for its transaction, which belongs to no database: so by session.
const WAITING: &str = "SELECT count(DISTINCT pid)::float8 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()";
const WAIT: &[&Desc] = &[&gauge(
    "atlas_database_lock_waiters",
    "connections",
    "Sessions of this database that wait for a lock; where it stays above 0, pg_blocking_pids() names who they wait for",
)];

const BGWRITER_16: &str = "SELECT checkpoints_timed::float8, checkpoints_req::float8, checkpoint_write_time, checkpoint_sync_time, buffers_checkpoint::float8, \
     buffers_backend::float8, buffers_backend_fsync::float8 FROM pg_stat_bgwriter";
const BGWRITER_CHECKPOINTS: &[&Desc] = &[
    &counter("pg_stat_bgwriter_checkpoints_timed_total", "1", "Checkpoints that were due by time"),
    &counter(
        "pg_stat_bgwriter_checkpoints_req_total",
        "1",
        "Checkpoints that were asked for, mostly because max_wal_size was reached; more of them than of the timed ones: raise it",
    ),
    &counter("pg_stat_bgwriter_checkpoint_write_time_total", "milliseconds", "Time that checkpoints spent writing"),
    &counter(
        "pg_stat_bgwriter_checkpoint_sync_time_total",
        "milliseconds",
        "Time that checkpoints spent in fsync; growth by seconds means a disk that cannot keep up",
    ),
    &counter("pg_stat_bgwriter_buffers_checkpoint_total", "blocks", "Blocks that checkpoints wrote"),
    &counter(
        "pg_stat_bgwriter_buffers_backend_total",
        "blocks",
        "Blocks that sessions wrote themselves; a large share means that shared_buffers is small",
    ),
    &counter(
        "pg_stat_bgwriter_buffers_backend_fsync_total",
        "1",
        "Times that a session had to call fsync itself; should stay 0",
    ),
];

const BGWRITER: &str =
    "SELECT buffers_clean::float8, maxwritten_clean::float8, buffers_alloc::float8 FROM pg_stat_bgwriter";
const BGWRITER_WRITES: &[&Desc] = &[
    &counter("pg_stat_bgwriter_buffers_clean_total", "blocks", "Blocks that the background writer wrote"),
    &counter(
        "pg_stat_bgwriter_maxwritten_clean_total",
        "1",
        "Times that the background writer stopped because it had written enough; growth: raise bgwriter_lru_maxpages",
    ),
    &counter("pg_stat_bgwriter_buffers_alloc_total", "blocks", "Blocks that were allocated in the server's cache"),
];

const CHECKPOINTER: &str = "SELECT num_timed::float8, num_requested::float8, restartpoints_timed::float8, restartpoints_req::float8, restartpoints_done::float8, \
     write_time, sync_time, buffers_written::float8 FROM pg_stat_checkpointer";
const CHECKPOINTS: &[&Desc] = &[
    &counter("pg_stat_checkpointer_num_timed_total", "1", "Checkpoints that were due by time (PostgreSQL 17)"),
    &counter(
        "pg_stat_checkpointer_num_requested_total",
        "1",
        "Checkpoints that were asked for, mostly because max_wal_size was reached (PostgreSQL 17)",
    ),
    &counter(
        "pg_stat_checkpointer_restartpoints_timed_total",
        "1",
        "Restartpoints of a standby that were due by time (PostgreSQL 17)",
    ),
    &counter(
        "pg_stat_checkpointer_restartpoints_req_total",
        "1",
        "Restartpoints of a standby that were asked for (PostgreSQL 17)",
    ),
    &counter(
        "pg_stat_checkpointer_restartpoints_done_total",
        "1",
        "Restartpoints of a standby that were done (PostgreSQL 17)",
    ),
    &counter(
        "pg_stat_checkpointer_write_time_total",
        "milliseconds",
        "Time that checkpoints spent writing (PostgreSQL 17)",
    ),
    &counter(
        "pg_stat_checkpointer_sync_time_total",
        "milliseconds",
        "Time that checkpoints spent in fsync (PostgreSQL 17)",
    ),
    &counter("pg_stat_checkpointer_buffers_written_total", "blocks", "Blocks that checkpoints wrote (PostgreSQL 17)"),
];
