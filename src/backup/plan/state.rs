//! Whether a segment can be used: what `backup list` shows, what a plan refuses, what retention may count on.

use super::super::catalog::{Entry, Usable, Ways};

/// What a segment is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its chain is complete, each segment beginning where the one before it ends.
    Restorable,
    /// So it is, but the database was damaged when its full was read; the first words about that.
    Damaged(String),
    /// The segment itself is there, but not all that it rests on; what is wrong.
    Uploaded(String),
    /// The segment itself cannot be used; why.
    Broken(String),
}

impl State {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Restorable => "restorable",
            Self::Damaged(_) => "damaged",
            Self::Uploaded(_) => "uploaded",
            Self::Broken(_) => "broken",
        }
    }

    /// The reason, where there is one.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Restorable => None,
            Self::Damaged(why) | Self::Uploaded(why) | Self::Broken(why) => Some(why),
        }
    }
}

/// What `entry` is good for, by the `ways` along its timeline.
pub fn state(ways: &Ways<'_>, entry: &Entry) -> State {
    match ways.usable(entry.manifest.kind, entry.manifest.to) {
        Usable::Yes => State::Restorable,
        Usable::Damaged(why) => State::Damaged(why),
        Usable::Below(why) => State::Uploaded(why),
        Usable::No(why) => State::Broken(why),
    }
}
