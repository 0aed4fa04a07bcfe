//! The run log on SQLite: [`RunLog`] as `store.rs` documents it.
//!
//! A claim is one `BEGIN IMMEDIATE` transaction, with the write lock from the start: two processes that claim at once come one after the other.

use super::Database;
use super::errors::{is_missing_table, store_error};
use crate::clock::Timestamp;
use crate::engine::runs::{
    AboutOpen, AboutSlot, BELIEVED, OpenRow, RunRow, SMALL, SlotRow, TIDY_ROWS, about_open, about_slot, maybe_time,
    open_of, paused_key, run_log, run_of, since_key,
};
use crate::store::{Claim, Claimed, End, MOST_ATTEMPTS, RunId, RunLog, Standing, StoreError};
use crate::task::Pending;

const OPEN: &str =
    "SELECT id, attempt, slot, owner, lease_until FROM sidecar_job_runs WHERE job = ? AND finished_at IS NULL";

const SLOT: &str = "SELECT id, attempt, outcome FROM sidecar_job_runs WHERE job = ? AND slot = ?";

const INSERT: &str = "INSERT INTO sidecar_job_runs (job, slot, reason, owner, started_at, lease_until) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id, attempt";

const RETAKE: &str =
    "UPDATE sidecar_job_runs SET reason = ?3, owner = ?4, started_at = ?5, lease_until = ?6, attempt = attempt + 1,
    finished_at = NULL, outcome = NULL, rows = NULL, bytes = NULL, duration_ms = NULL, words = NULL
    WHERE id = ?1 AND attempt = ?2 RETURNING id, attempt";

const GIVE_UP: &str = "UPDATE sidecar_job_runs SET finished_at = ?, outcome = 'lost', words = 'whoever ran it was gone' WHERE id = ? AND finished_at IS NULL";

const RENEW: &str = "UPDATE sidecar_job_runs SET lease_until = ? WHERE id = ? AND attempt = ? AND finished_at IS NULL";

const FINISH: &str =
    "UPDATE sidecar_job_runs SET finished_at = ?, outcome = ?, rows = ?, bytes = ?, duration_ms = ?, words = ?
    WHERE id = ? AND attempt = ? AND finished_at IS NULL";

const MISS: &str = "INSERT INTO sidecar_job_runs
    (job, slot, reason, owner, started_at, lease_until, finished_at, outcome, rows, bytes, duration_ms, words)
    VALUES (?1, ?2, 'schedule', '', ?3, ?3, ?3, 'missed', 0, 0, 0, ?4) ON CONFLICT (job, slot) DO NOTHING";

const SETTLED: &str =
    "SELECT max(slot) FROM sidecar_job_runs WHERE job = ? AND slot <= ? AND reason IN ('schedule', 'catch-up')
    AND finished_at IS NOT NULL AND (outcome <> 'cancelled' OR attempt >= ?)";

const LAST: &str = "SELECT slot, reason, started_at, finished_at, outcome, coalesce(rows, 0), coalesce(bytes, 0), coalesce(duration_ms, 0), coalesce(words, '')
    FROM sidecar_job_runs WHERE job = ? AND finished_at IS NOT NULL AND reason <> 'dry-run' ORDER BY id DESC LIMIT 1";

const LAST_SUCCESS: &str =
    "SELECT max(finished_at) FROM sidecar_job_runs WHERE job = ? AND outcome = 'success' AND reason <> 'dry-run'";

const TIDY: &str = "DELETE FROM sidecar_job_runs WHERE id IN (
    SELECT id FROM sidecar_job_runs WHERE job = ?1 AND finished_at IS NOT NULL
        AND (started_at < ?2 OR id <= (SELECT id FROM sidecar_job_runs WHERE job = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?3))
        AND id <> (SELECT max(id) FROM sidecar_job_runs WHERE job = ?1)
        AND id <> coalesce((SELECT max(id) FROM sidecar_job_runs WHERE job = ?1 AND outcome = 'success' AND reason <> 'dry-run'), 0)
    ORDER BY id LIMIT ?4)";

/// Its clock is this machine's.
const SERVER_TIME: &str = "SELECT NULL";

const STATE: &str = "SELECT value FROM sidecar_state WHERE key = ?";

const SET_STATE: &str = "INSERT INTO sidecar_state (key, value) VALUES (?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at";

const RESUME: &str = "DELETE FROM sidecar_state WHERE key = ?";

run_log!(sqlx::Sqlite, sqlx::sqlite::SqliteArguments);
