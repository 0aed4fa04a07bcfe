//! The digest of a database: one number for all its pages that costs only the changed ones to keep up.
//!
//! It is the sum, modulo 2^128, over all pages but the lock page of the first 16 bytes (big-endian) of BLAKE3 over the page's number (four bytes, big-endian)
//! and its bytes. Sums can be taken apart: whoever knows the old and the new version of the pages that changed knows the new digest. So every restore
//! point has one, and each is checked on the way through a restore. It finds errors; against forgery there is the chain of manifests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What one page adds to the digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageHash(u128);

impl PageHash {
    /// Of page `number` (the first is 1).
    pub fn of(number: u32, page: &[u8]) -> Self {
        // In one piece, so that BLAKE3 takes several of its chunks at once: a number on its own leaves the first one to be filled up and hashed alone.
        let bytes = [number.to_be_bytes().as_slice(), page].concat();
        let mut first = [0; 16];
        first.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        Self(u128::from_be_bytes(first))
    }

    /// Its 16 bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From its 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

/// The digest of all pages. That of an empty database is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(u128);

impl Digest {
    /// With a page more.
    #[must_use]
    pub fn plus(self, page: PageHash) -> Self {
        Self(self.0.wrapping_add(page.0))
    }

    /// With a page less.
    #[must_use]
    pub fn minus(self, page: PageHash) -> Self {
        Self(self.0.wrapping_sub(page.0))
    }

    /// The 64 bits in front, which an increment carries as its WAL's salts.
    pub fn high(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u128::from_str_radix(text, 16) {
            Ok(value) if plain => Ok(Self(value)),
            _ => Err(format!("`{}` is no digest: 32 lower-case hexadecimal digits", text.escape_debug())),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_sum_that_can_be_taken_apart() {
        let (a, b, c) = (PageHash::of(1, b"one"), PageHash::of(2, b"two"), PageHash::of(2, b"new"));
        let both = Digest::default().plus(a).plus(b);
        assert_eq!(both, Digest::default().plus(b).plus(a));
        assert_eq!(both.minus(b).plus(c), Digest::default().plus(a).plus(c));
        assert_ne!(PageHash::of(1, b"one"), PageHash::of(2, b"one"), "a page at another place is another page");
        assert_eq!(PageHash::from_bytes(a.to_bytes()), a);
    }

    #[test]
    fn its_text_reads_back() {
        let digest = Digest::default().plus(PageHash::of(7, &[0; 4096]));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().len(), 32);
        for bad in ["", "0", "+0000000000000000000000000000000", "0000000000000000000000000000000G"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
