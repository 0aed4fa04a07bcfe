//! The run log on PostgreSQL: [`RunLog`] as `store.rs` documents it.
//!
//! Sessions live in UTC, so a text without zone is a time in UTC to `::timestamptz`.

use super::Database;
use super::errors::{is_missing_table, store_error};
use crate::clock::Timestamp;
use crate::engine::runs::{
    AboutOpen, AboutSlot, BELIEVED, OpenRow, RunRow, SMALL, SlotRow, TIDY_ROWS, about_open, about_slot, maybe_time,
    open_of, paused_key, run_log, run_of, since_key,
};
use crate::store::{Claim, Claimed, End, MOST_ATTEMPTS, RunId, RunLog, Standing, StoreError};
use crate::task::Pending;

/// The text of a column with a time.
macro_rules! text {
    ($column:literal) => {
        concat!("to_char(", $column, " AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')")
    };
}

const OPEN: &str = concat!(
    "SELECT id, attempt, ",
    text!("slot"),
    ", owner, ",
    text!("lease_until"),
    " FROM sidecar_job_runs WHERE job = $1 AND finished_at IS NULL"
);

const SLOT: &str = "SELECT id, attempt, outcome FROM sidecar_job_runs WHERE job = $1 AND slot = $2::timestamptz";

const INSERT: &str = "INSERT INTO sidecar_job_runs (job, slot, reason, owner, started_at, lease_until)
    VALUES ($1, $2::timestamptz, $3, $4, $5::timestamptz, $6::timestamptz) ON CONFLICT DO NOTHING RETURNING id, attempt";

const RETAKE: &str = "UPDATE sidecar_job_runs SET reason = $3, owner = $4, started_at = $5::timestamptz, lease_until = $6::timestamptz,
    attempt = attempt + 1, finished_at = NULL, outcome = NULL, rows = NULL, bytes = NULL, duration_ms = NULL, words = NULL
    WHERE id = $1 AND attempt = $2 RETURNING id, attempt";

const GIVE_UP: &str = "UPDATE sidecar_job_runs SET finished_at = $1::timestamptz, outcome = 'lost', words = 'whoever ran it was gone' WHERE id = $2 AND finished_at IS NULL";

const RENEW: &str =
    "UPDATE sidecar_job_runs SET lease_until = $1::timestamptz WHERE id = $2 AND attempt = $3 AND finished_at IS NULL";

const FINISH: &str = "UPDATE sidecar_job_runs SET finished_at = $1::timestamptz, outcome = $2, rows = $3, bytes = $4, duration_ms = $5, words = $6
    WHERE id = $7 AND attempt = $8 AND finished_at IS NULL";

const MISS: &str = "INSERT INTO sidecar_job_runs
    (job, slot, reason, owner, started_at, lease_until, finished_at, outcome, rows, bytes, duration_ms, words)
    VALUES ($1, $2::timestamptz, 'schedule', '', $3::timestamptz, $3::timestamptz, $3::timestamptz, 'missed', 0, 0, 0, $4)
    ON CONFLICT (job, slot) DO NOTHING";

const SETTLED: &str = concat!(
    "SELECT ",
    text!("max(slot)"),
    " FROM sidecar_job_runs WHERE job = $1 AND slot <= $2::timestamptz AND reason IN ('schedule', 'catch-up')
    AND finished_at IS NOT NULL AND (outcome <> 'cancelled' OR attempt >= $3)"
);

const LAST: &str = concat!(
    "SELECT ",
    text!("slot"),
    ", reason, ",
    text!("started_at"),
    ", ",
    text!("finished_at"),
    ", outcome,
    coalesce(rows, 0), coalesce(bytes, 0), coalesce(duration_ms, 0), coalesce(words, '')
    FROM sidecar_job_runs WHERE job = $1 AND finished_at IS NOT NULL AND reason <> 'dry-run' ORDER BY id DESC LIMIT 1"
);

const LAST_SUCCESS: &str = concat!(
    "SELECT ",
    text!("max(finished_at)"),
    " FROM sidecar_job_runs WHERE job = $1 AND outcome = 'success' AND reason <> 'dry-run'"
);

const TIDY: &str = "DELETE FROM sidecar_job_runs WHERE id IN (
    SELECT id FROM sidecar_job_runs WHERE job = $1 AND finished_at IS NOT NULL
        AND (started_at < $2::timestamptz OR id <= (SELECT id FROM sidecar_job_runs WHERE job = $1 ORDER BY id DESC LIMIT 1 OFFSET $3))
        AND id <> (SELECT max(id) FROM sidecar_job_runs WHERE job = $1)
        AND id <> coalesce((SELECT max(id) FROM sidecar_job_runs WHERE job = $1 AND outcome = 'success' AND reason <> 'dry-run'), 0)
    ORDER BY id LIMIT $4)";

const SERVER_TIME: &str = concat!("SELECT ", text!("clock_timestamp()"));

const STATE: &str = "SELECT value FROM sidecar_state WHERE key = $1";

const SET_STATE: &str = "INSERT INTO sidecar_state (key, value) VALUES ($1, $2)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = DEFAULT";

const RESUME: &str = "DELETE FROM sidecar_state WHERE key = $1";

run_log!(sqlx::Postgres, sqlx::postgres::PgArguments);
