//! What both engines' stores of samples hold to: which rows are refused before the database sees them, and what our small tables say.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::sample::Kind;
use crate::store::{Meta, Row, StoreError};

/// The specification's `VARCHAR(255)`, in characters. SQLite itself does not hold anybody to it (V-9).
const NAME_CHARACTERS: usize = 255;

/// What a look at our own small tables may take.
pub(super) const SMALL: Duration = Duration::from_secs(10);

/// How far ahead of a time own ids are looked for: counts rows whose clock ran ahead, leaves out most foreign random ids.
pub(super) const AHEAD: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What `ingest` has seen to already; a row that slipped through must not become NULL or NaN (V-3) or infinite (V-4) in the table.
pub(super) fn check(rows: &[Row]) -> Result<(), StoreError> {
    for (row, Row { name, value, .. }) in rows.iter().enumerate() {
        if !value.is_finite() {
            return Err(StoreError::Rejected { row, reason: "not_finite" });
        }
        if is_longer(name, NAME_CHARACTERS) {
            return Err(StoreError::Rejected { row, reason: "name_too_long" });
        }
    }
    Ok(())
}

/// Whether `text` has more than `most` characters. Bytes first: nearly every text is shorter even so.
pub(super) fn is_longer(text: &str, most: usize) -> bool {
    text.len() > most && text.chars().count() > most
}

/// What is kept of a metric's name. A word of somebody else's is no kind that we know.
pub(super) fn meta_of(name: String, kind: &str, help: String) -> Meta {
    let kind = [Kind::Counter, Kind::Gauge, Kind::Histogram, Kind::Summary].into_iter().find(|k| k.word() == kind);
    Meta { name, kind: kind.unwrap_or(Kind::Unknown), help }
}

/// What `sidecar_state` says of an instance: JSON for people.
pub(super) fn state_of(host: &str, now: Timestamp) -> String {
    serde_json::json!({ "host": host, "first_seen": now.to_rfc3339() }).to_string()
}
