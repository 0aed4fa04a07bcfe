//! The index of a fine segment: where in its bytes each of its marks is.
//!
//! A JSON object to a line, in the order of positions, packed as gzip. What a fine segment begins with, up to a mark, is an object of its own: a write-ahead log whose last transaction
//! leads to that mark. So a mark carries the length and the SHA-256 of that beginning, as it is stored, and its plain length.

use serde::{Deserialize, Serialize};

use super::manifest::{Content, Manifest, rfc3339};
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

/// Reads the index of `fine` from its `text`; the error says what is wrong with it. It has a line for each position, in their order.
pub fn parse(fine: &Manifest, text: &str) -> Result<Vec<Line>, String> {
    let lines: Vec<Line> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(|e| format!("no index: {e}"))?;
    let first = fine.from.map_or(1, |from| from.0 + 1);
    if !lines.iter().map(|line| line.position.0).eq(first..=fine.to.0) {
        return Err(format!("an index that does not have a line for each position from {first} to {}", fine.to.0));
    }
    let goes_on = |pair: &[Line]| match pair {
        [one, next] => {
            one.observed <= next.observed
                && one.frames < next.frames
                && one.plain_bytes < next.plain_bytes
                && one.stored.bytes <= next.stored.bytes
        }
        _ => true,
    };
    if !lines.windows(2).all(goes_on) {
        return Err("an index whose lines do not follow one another".to_owned());
    }
    let fits = |last: &Line| {
        last.digest == fine.digest_after
            && last.pages == fine.pages
            && last.frames == fine.sent_pages
            && fine.object.as_ref().is_some_and(|object| last.plain_bytes == object.plain.bytes)
            && fine.object.as_ref().is_some_and(|object| last.stored.bytes <= object.stored.bytes)
    };
    match lines.last() {
        Some(last) if fits(last) => Ok(lines),
        _ => Err("an index of another segment".to_owned()),
    }
}
