-- What has been applied to this database. Each database that the sidecar changes keeps its own record, so that one that is
-- restored or exchanged brings the truth about itself along.
--
-- Names are not qualified: the tables go to the first schema of the role's `search_path`.

CREATE TABLE sidecar_migrations (
    track TEXT NOT NULL,        -- 'own': the files beside this one; 'atlas': migrations that the application's specification numbers
    version BIGINT NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,     -- SHA-256 of the file in hex; empty in the track 'atlas'
    applied_at TIMESTAMP(3) NOT NULL,   -- UTC
    applied_by TEXT NOT NULL,   -- the version of the sidecar
    PRIMARY KEY (track, version)
);
