//! The index of a fine segment: where in its bytes each of its marks is.
//!
//! A JSON object to a line, in the order of positions, packed as gzip. What a fine segment begins with, up to a mark, is an object of its own: a write-ahead log whose last transaction
//! leads to that mark. So a mark carries the length and the SHA-256 of that beginning, as it is stored, and its plain length.

use serde::{Deserialize, Serialize};

use super::manifest::{Content, rfc3339};
use super::{Digest, Position};
use crate::clock::Timestamp;

/// A mark in a fine segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The position.
    pub position: Position,
    /// When its state was the newest.
    #[serde(with = "rfc3339")]
    pub observed: Timestamp,
    /// Pages of the database.
    pub pages: u32,
    /// Frames of the log up to there.
    pub frames: u32,
    /// Plain bytes up to there.
    pub plain_bytes: u64,
    /// What is stored up to there. Of an encrypted segment only the length counts, and that roughly: its beginning alone cannot be decrypted.
    pub stored: Content,
    /// The digest of the database there.
    pub digest: Digest,
}
