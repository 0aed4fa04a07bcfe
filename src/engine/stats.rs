//! What the engines say about themselves under one name: families whose meaning is the same on both, so that one dashboard shows either.
//!
//! Everything else that an engine tells has names of its own (`engine/<engine>/stats`).

use crate::sample::{Desc, Kind};

/// The families that more than one engine shows.
pub const METRICS: &[&Desc] = &[&FILE_BYTES, &WAL_BYTES, &OBJECT_BYTES, &OBJECT_UNUSED];

/// How big the database is.
pub const FILE_BYTES: Desc = Desc {
    name: "atlas_database_file_bytes",
    kind: Kind::Gauge,
    unit: "bytes",
    help: "Size of the database file (PostgreSQL: of all its files); compare it with the free space of its file system",
};
/// How big the write-ahead log is.
pub const WAL_BYTES: Desc = Desc {
    name: "atlas_database_wal_bytes",
    kind: Kind::Gauge,
    unit: "bytes",
    help: "Size of the write-ahead log, 0 if there is none. SQLite: growth beyond some 64 MiB means that a reader keeps it from being checkpointed; \
           PostgreSQL: growth beyond max_wal_size means that a slot or a failing archive_command holds it back",
};
/// How big its tables and indexes are.
pub const OBJECT_BYTES: Desc = Desc {
    name: "atlas_database_object_bytes",
    kind: Kind::Gauge,
    unit: "bytes",
    help: "Bytes of each table and index; the 100 largest, the rest as other. Read once an hour at most (PostgreSQL: every 15 minutes)",
};
/// How much of them is not used.
pub const OBJECT_UNUSED: Desc = Desc {
    name: "atlas_database_object_unused_bytes",
    kind: Kind::Gauge,
    unit: "bytes",
    help: "Unused bytes within the pages of each table and index (PostgreSQL: an estimate from the statistics of ANALYZE, good for large tables); \
           a large share means that VACUUM FULL or REINDEX (SQLite: VACUUM) would make it smaller",
};

/// A database by the name that its series carry as label `database`.
pub type Named<D> = (&'static str, D);
