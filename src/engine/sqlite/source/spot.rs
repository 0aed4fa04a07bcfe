//! A place in the database's own log: which log, how many frames of it, and what these add up to.

use std::fmt;
use std::str::FromStr;

use super::wal_index::Header;

/// A place behind a frame. Two that are equal have the same commits before them: whoever knows the state at one knows it at the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    /// The salts of the log; zeros where there was none, or none that had been written to.
    pub salts: [u32; 2],
    /// Frames up to there.
    pub frames: u32,
    /// The sums of the last of them; zeros where there is none.
    pub sums: [u32; 2],
}

impl Spot {
    /// Behind the last commit.
    pub fn of(commit: &Header) -> Self {
        match commit.frames {
            // The index still has those of the log before then.
            0 => Self::beginning(commit.salts),
            frames => Self { salts: commit.salts, frames, sums: commit.sums },
        }
    }

    /// Where a log begins.
    pub fn beginning(salts: [u32; 2]) -> Self {
        Self { salts, frames: 0, sums: [0, 0] }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { salts: [a, b], frames, sums: [c, d] } = self;
        write!(f, "log {a:08x}{b:08x} frame {frames} sum {c:08x}{d:08x}")
    }
}

impl FromStr for Spot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let spot = || {
            let fields: Vec<&str> = text.split(' ').collect();
            let ["log", salts, "frame", frames, "sum", sums] = fields[..] else { return None };
            let pair = |digits: &str| {
                let both = u64::from_str_radix(digits, 16).ok()?;
                Some([(both >> 32) as u32, both as u32])
            };
            Some(Self { salts: pair(salts)?, frames: frames.parse().ok()?, sums: pair(sums)? })
        };
        // Said again: what reads in two ways is none.
        spot()
            .filter(|spot| spot.to_string() == text)
            .ok_or_else(|| format!("`{}` is no place in a log", text.escape_debug()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_read_back() {
        let spot = Spot { salts: [1, 0xffff_ffff], frames: 7, sums: [0xabc, 2] };
        assert_eq!(spot.to_string().parse(), Ok(spot));
        for bad in ["", "log 1 frame 2 sum 3", "log 0000000000000001 frame 07 sum 0000000000000002"] {
            assert!(bad.parse::<Spot>().is_err(), "{bad}");
        }
    }
}
