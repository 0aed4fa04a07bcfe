-- What the sidecar remembers beside the samples, in the database where the samples are.

-- Keys in use:
--   instance/<12 hex digits>   an instance's number, the last 48 bits of the ids of its rows; the value is JSON about its host
CREATE TABLE sidecar_state (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL,
    updated_at TIMESTAMP(3) NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC')
);

-- The kind and help of a metric, which a row of `system_metrics` has no place for.
CREATE TABLE sidecar_metric_meta (
    name TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    help TEXT NOT NULL,
    updated_at TIMESTAMP(3) NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC')
);
