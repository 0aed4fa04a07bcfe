-- Who ran which job when. A slot is an instant at which a job's schedule wants it to run; it is claimed here before anything is done.

CREATE TABLE sidecar_job_runs (
    id INTEGER PRIMARY KEY,
    job TEXT NOT NULL,
    slot TEXT NOT NULL,            -- UTC, `YYYY-MM-DD HH:MM:SS.sss`, as all times here; of a run that somebody asked for, when that was
    reason TEXT NOT NULL,          -- schedule, catch-up, manual, dry-run
    owner TEXT NOT NULL,           -- the instance's number
    attempt INTEGER NOT NULL DEFAULT 1,
    started_at TEXT NOT NULL,
    lease_until TEXT NOT NULL,     -- moved on while the run goes on; see src/schedule.rs for what that means
    finished_at TEXT,
    outcome TEXT,                  -- success, skipped, failed, timeout, cancelled, lost, missed
    rows INTEGER,
    bytes INTEGER,
    duration_ms INTEGER,
    words TEXT,                    -- what it did, or what went wrong
    UNIQUE (job, slot)
);

-- A job runs once at a time, whoever runs it.
CREATE UNIQUE INDEX sidecar_job_runs_open ON sidecar_job_runs(job) WHERE finished_at IS NULL;

-- Further keys of sidecar_state:
--   job/<name>/paused              since when somebody has kept the job from running
--   job/<name>/since/<schedule>    since when the job has had that schedule
--   clock/believed                 the last time that nobody had a reason to doubt
