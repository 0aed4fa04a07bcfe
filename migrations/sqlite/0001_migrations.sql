-- What has been applied to this file. Each file that the sidecar changes keeps its own record, so that a database that is
-- restored or exchanged brings the truth about itself along.
--
-- No STRICT tables in these files: a SQLite older than 3.37 (Debian 11, RHEL 9) that meets one refuses the whole database,
-- and it may be the application that uses it.

CREATE TABLE sidecar_migrations (
    track TEXT NOT NULL,        -- 'own': the files beside this one; 'atlas': migrations that the application's specification numbers
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,     -- SHA-256 of the file in hex; empty in the track 'atlas'
    applied_at TEXT NOT NULL,   -- UTC, `YYYY-MM-DD HH:MM:SS.sss`
    applied_by TEXT NOT NULL,   -- the version of the sidecar
    PRIMARY KEY (track, version)
);
