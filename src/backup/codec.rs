//! Between the database's bytes and the store's: made smaller, and unreadable for others where that is wanted. Both ways as a stage that knows both sums.
//!
//! ```text
//! encode:  plain ──▶ blocks of 1 MiB ──▶ threads ──▶ in order ──▶ [age] ──▶ stored
//!              └─ length, SHA-256                                        └─ length, SHA-256
//! decode:  stored ──▶ length, SHA-256 ──▶ [age] ──▶ gunzip, unzstd ──▶ length, SHA-256 ──▶ plain
//! ```
//!
//! # What is stored
//!
//! A file that a standard tool reads: `gunzip`, `zstd -d`, with `age -d` in front of it where there are recipients. Smaller first, then encrypted: what is
//! encrypted cannot be made smaller. The length of what is encrypted can be seen, and tells how well it compresses.
//!
//! Each block of a MiB is compressed for itself, as a member of the gzip file or a frame of the zstd file, so any number of threads can work at it, with
//! memory for a block or two each however large the database is. The bytes are the same whatever the number of threads, and however the plain bytes were
//! cut when they came (encrypted ones never are: their keys are random). It costs 1 % of the size.
//!
//! # What is believed
//!
//! Nothing that was stored. Reading ends with an error where the stored bytes or the plain ones are more, fewer or others than the manifest says; where a
//! member, a frame or a chunk is cut off or damaged; where anything trails. Too many plain bytes are an error as soon as there is one too many, so a small object
//! cannot fill a disk. SQLite takes a damaged WAL for an empty one, so what is not noticed here is not noticed at all.
//!
//! What is read before the end has been checked only as far as its own member: who wants to be sure reads to the end and asks [`Decoded::finish`].

pub mod age;
pub(in crate::backup) mod apart;
mod aside;
mod decode;
mod encode;
mod gzip;
mod zstd;

use std::io;

pub use age::{Identity, Recipient};
pub use decode::{Decoded, decode, decode_beginning};
pub use encode::{Piece, encode, encode_members};

use super::manifest::{Codec, Content};
use crate::clock::Timestamp;

/// How many plain bytes are compressed together. Larger blocks gain less than 1 % (gzip looks back 32 KiB) and cost memory.
pub const BLOCK_BYTES: usize = 1 << 20;

/// How bytes are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// How they are made smaller.
    pub codec: Codec,
    /// Who can read them; everybody where it is empty.
    pub recipients: Vec<Recipient>,
}

impl Form {
    /// The end of the names of files that are stored like this.
    pub fn extension(&self) -> &'static str {
        match (self.codec, self.recipients.is_empty()) {
            (Codec::Gzip, true) => "gz",
            (Codec::Gzip, false) => "gz.age",
            (Codec::Zstd, true) => "zst",
            (Codec::Zstd, false) => "zst.age",
        }
    }
}

/// What a gzip file says of itself, for `gunzip -N` and people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The plain file's name: `atlas.db`.
    pub name: String,
    /// When its state was the newest.
    pub at: Timestamp,
}

/// What was encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The bytes that came.
    pub plain: Content,
    /// The bytes that went.
    pub stored: Content,
}

/// Why bytes could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Nobody takes the stored bytes any more, or the program ends.
    #[error("nobody takes the stored bytes any more")]
    Abandoned,
    /// They are encrypted and there is nothing to read them with.
    #[error("it is encrypted, and there is no identity to read it with")]
    NoIdentity,
    /// They are encrypted for others.
    #[error("it is encrypted for others: none of the identities fits")]
    WrongIdentity,
    /// They are not what the manifest says; what is wrong.
    #[error("{0}")]
    Damaged(String),
    /// The stored bytes, or random ones for a key, could not be had.
    #[error(transparent)]
    Io(io::Error),
}

impl CodecError {
    /// As an error of reading; [`CodecError::from`] takes it out again.
    fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// An error of reading from a [`Decoded`], sorted again: what is wrong with the bytes, or why they could not be had.
impl From<io::Error> for CodecError {
    fn from(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::Io)
    }
}

/// Bytes that are not what they should be, as an error of reading.
fn damaged(what: impl Into<String>) -> io::Error {
    CodecError::Damaged(what.into()).into_io()
}
