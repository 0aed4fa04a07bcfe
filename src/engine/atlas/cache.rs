//! `cache`: how big the search cache is, and how much of it is of no use any more.

use super::{Needs, push_all};
use crate::sample::{Batch, Desc, Kind};

/// What it reads.
pub const NEEDS: Needs = Needs {
    table: "search_cache",
    columns: &["query_text", "results", "expires_at"],
    times: &["expires_at"],
    numbers: &[],
    rowid: false,
};

/// The families of this collector.
pub const METRICS: &[&Desc] = &[&ROWS, &EXPIRED, &BYTES, &UNREADABLE];

const ROWS: Desc = Desc {
    name: "atlas_cache_rows",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows of search_cache, expired ones included",
};
const EXPIRED: Desc = Desc {
    name: "atlas_cache_expired_rows",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows of search_cache whose expires_at has passed; a number that keeps growing means that nobody cleans up",
};
const BYTES: Desc = Desc {
    name: "atlas_cache_bytes",
    kind: Kind::Gauge,
    unit: "bytes",
    help: "Bytes of query_text and results in search_cache; what the cache costs in the database, indexes aside (PostgreSQL: as stored, where long \
           results are compressed)",
};
const UNREADABLE: Desc = Desc {
    name: "atlas_cache_unreadable_times",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows of search_cache whose expires_at cannot be read; they are never taken for expired",
};

/// What was read.
pub struct Cache {
    /// Rows.
    pub rows: f64,
    /// Those whose time has passed.
    pub expired: f64,
    /// What they hold.
    pub bytes: f64,
    /// Those whose time cannot be read.
    pub unreadable: f64,
}

impl Cache {
    /// Adds its samples.
    pub fn show(&self, batch: &mut Batch) {
        let Self { rows, expired, bytes, unreadable } = *self;
        push_all(batch, [(&ROWS, rows), (&EXPIRED, expired), (&BYTES, bytes), (&UNREADABLE, unreadable)]);
    }
}
