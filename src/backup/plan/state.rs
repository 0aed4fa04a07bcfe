//! Whether a segment can be used: what `backup list` shows, what a plan refuses, what retention may count on.

use super::super::catalog::{Catalog, Entry};
use super::super::{Place, Soundness};

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

/// The segments that lead to `place`, the full first, or what is wrong: as [`Catalog::chain`] has them, and each carries the sum of the manifest before it. A
/// manifest that was changed after its successor was written is found here.
pub fn links(catalog: &Catalog, place: Place) -> Result<Vec<&Entry>, String> {
    let chain = catalog.chain(place)?;
    for pair in chain.windows(2) {
        if let [before, after] = pair
            && after.manifest.previous.as_ref() != Some(&before.sha256)
        {
            return Err(format!(
                "the manifest of {} is not the one that {} was written after",
                before.manifest.place(),
                after.manifest.place()
            ));
        }
    }
    Ok(chain)
}

/// What `entry` is good for.
pub fn state(catalog: &Catalog, entry: &Entry) -> State {
    match links(catalog, entry.manifest.place()) {
        Ok(chain) => match chain.first().and_then(|full| full.manifest.soundness.as_ref()) {
            Some(Soundness::Damaged(why)) => State::Damaged(why.clone()),
            _ => State::Restorable,
        },
        Err(why) => {
            // Its own fault, if what it rests on is as it should be.
            let from = entry.manifest.from.map(|position| Place { position, ..entry.manifest.place() });
            let alone = entry.fault().is_some() || from.is_none_or(|from| links(catalog, from).is_ok());
            if alone { State::Broken(why) } else { State::Uploaded(why) }
        }
    }
}
