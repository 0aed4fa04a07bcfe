//! What is fetched and laid over what there is, a step of a plan.

use super::super::catalog::{Catalog, Entry, Piece};
use super::super::index::Line;
use super::super::manifest::{Content, Manifest, Object, Sum};
use super::super::{Kind, Place};
use crate::object::ObjectKey;

/// A step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A segment.
    Whole(Box<Manifest>),
    /// What a fine segment begins with, up to a mark in it.
    Beginning {
        /// The fine segment.
        fine: Box<Manifest>,
        /// That of the beginning, as if it were an object of its own. Nobody knows the sum of its plain bytes.
        manifest: Box<Manifest>,
    },
    /// A live segment. Its manifest comes with it.
    Live {
        /// Where it leads to.
        place: Place,
        /// Its key.
        key: ObjectKey,
        /// How long it is.
        bytes: u64,
        /// Its manifest, where that was read.
        manifest: Option<Box<Manifest>>,
    },
}

impl Step {
    pub(super) fn of(catalog: &Catalog, piece: Piece<'_>) -> Self {
        match piece {
            Piece::Whole(entry) => Self::Whole(Box::new(entry.manifest.clone())),
            Piece::Beginning(fine, line) => {
                Self::Beginning { fine: Box::new(fine.manifest.clone()), manifest: Box::new(beginning(fine, line)) }
            }
            Piece::Live(place, listed) => Self::Live {
                place,
                key: listed.key.clone(),
                bytes: listed.bytes,
                manifest: catalog.notes.get(&place).map(|entry| Box::new(entry.manifest.clone())),
            },
        }
    }

    /// Its manifest, where that is known.
    pub fn manifest(&self) -> Option<&Manifest> {
        match self {
            Self::Whole(manifest) | Self::Beginning { manifest, .. } => Some(manifest),
            Self::Live { manifest, .. } => manifest.as_deref(),
        }
    }

    /// What kind of segment.
    pub fn kind(&self) -> Kind {
        self.manifest().map_or(Kind::Live, |manifest| manifest.kind)
    }

    /// Where it leads to.
    pub fn place(&self) -> Place {
        match self {
            Self::Whole(manifest) | Self::Beginning { manifest, .. } => manifest.place(),
            Self::Live { place, .. } => *place,
        }
    }

    /// The key of its object, where it has one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Whole(manifest) | Self::Beginning { manifest, .. } => {
                manifest.object.as_ref().map(|o| o.key.as_str())
            }
            Self::Live { key, .. } => Some(key.as_str()),
        }
    }

    /// Bytes to fetch. The beginning of an encrypted object cannot be read alone.
    pub fn fetched_bytes(&self) -> u64 {
        let stored = |manifest: &Manifest| manifest.object.as_ref().map_or(0, |object| object.stored.bytes);
        match self {
            Self::Beginning { fine, .. } if self.is_encrypted() => stored(fine),
            Self::Whole(manifest) | Self::Beginning { manifest, .. } => stored(manifest),
            Self::Live { bytes, .. } => *bytes,
        }
    }

    /// Whether it takes an identity to read it.
    pub fn is_encrypted(&self) -> bool {
        match self {
            Self::Whole(manifest) | Self::Beginning { manifest, .. } => {
                manifest.object.as_ref().is_some_and(|object| object.encrypted)
            }
            // As `codec::Form` names it.
            Self::Live { key, .. } => key.as_str().ends_with(".age"),
        }
    }
}

/// The manifest of what `fine` begins with, up to the mark of `line`.
fn beginning(fine: &Entry, line: &Line) -> Manifest {
    let whole = &fine.manifest;
    let plain = Content { bytes: line.plain_bytes, sha256: Sum::of(b"") };
    let object = whole.object.as_ref().map(|object| Object { stored: line.stored.clone(), plain, ..object.clone() });
    Manifest {
        to: line.position,
        observed: line.observed,
        object,
        pages: line.pages,
        sent_pages: line.frames,
        digest_after: line.digest,
        index: None,
        ..whole.clone()
    }
}
