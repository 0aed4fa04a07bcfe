-- What `system_metrics` comes to, by five minutes (kept 180 days) and by hours (kept five years).
--
-- A bucket that is sealed holds rows that have been deleted; one that is not mirrors rows that are still there. To read it:
--   SELECT name, tags, datetime(start_ms / 1000, 'unixepoch'), sum / count, increase
--   FROM sidecar_metrics_rollup JOIN sidecar_metrics_series ON id = series WHERE step_secs = 3600 AND name = '…'

-- Names and tags once: in every bucket they would be two thirds of its bytes, and a year has 52 million of them for 500 series.
CREATE TABLE sidecar_metrics_series (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    tags TEXT NOT NULL,         -- canonical JSON: keys sorted, strings
    UNIQUE (name, tags)
);

-- By time first: what is written and deleted together lies together.
CREATE TABLE sidecar_metrics_rollup (
    step_secs INTEGER NOT NULL, -- 300 or 3600
    start_ms INTEGER NOT NULL,  -- milliseconds since 1970, as all times here
    series INTEGER NOT NULL,
    sealed INTEGER NOT NULL,    -- 1: rows that it counts have been deleted
    count INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    first REAL NOT NULL,
    first_ms INTEGER NOT NULL,
    last REAL NOT NULL,
    last_ms INTEGER NOT NULL,
    inside REAL,                -- what a counter grew by from `first` to `last`; NULL for what is no counter
    increase REAL,              -- the same and what it grew by since the bucket before: these add up over any span
    PRIMARY KEY (step_secs, start_ms, series)
) WITHOUT ROWID;

-- A series' buckets, and the one before and behind another.
CREATE INDEX sidecar_metrics_rollup_series ON sidecar_metrics_rollup (series, step_secs, start_ms);
