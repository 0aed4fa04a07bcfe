//! `verify`: whether what is in a destination can still be restored, without restoring it. Looks, and changes nothing.
//!
//! Always: every manifest can be read, names an object of its own position that has the right length, carries the sum of the manifest before it, and goes on from
//! that one's digest. Besides, of a thirtieth of the objects (by the day, so that a month of daily looks sees them all) every byte is fetched and compared with the
//! stored SHA-256. [`Depth::Deep`] fetches all of them and decodes them too, for the plain SHA-256.
//!
//! Of live segments there may be thousands, each with its manifest as a note: the newest one's and those of a thirtieth are read, with the one before each, and all by a deep look.
//!
//! Neither replaces a restore: that the digests come out is shown by a drill only.
//!
//! What is not a problem but worth a line is a note: objects that no manifest names (a crash left them, retention takes them), places where marks were
//! removed. Nothing that was asked for and could not be looked at counts as good: [`Report::proven`].

mod structure;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::catalog::details::lines;
use super::catalog::{Catalog, Entry, Need};
use super::codec::{self, CodecError, Identity};
use super::layout::{fold_key, format_key, manifest_key};
use super::manifest::{MOST_BYTES, Manifest, Object, Sum};
use super::restore::fetch::{self, Incoming};
use super::restore::meter::Meter;
use super::restore::{Progress, RestoreError};
use super::{Kind, Place, Position};
use crate::clock::Timestamp;
use crate::object::{ObjectError, ObjectKey, ObjectStore, get_small};

/// How many days it takes until each object's bytes were looked at once.
const DAYS: u64 = 30;

/// Notes that are read before it is looked whether the store still answers.
const NOTES_AT_A_TIME: usize = 256;

/// An unnamed object that is younger may be one that is being written.
const YOUNG: Duration = Duration::from_secs(86_400);

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The listing, the manifests, and the bytes of a thirtieth of the objects.
    Plain,
    /// All bytes, decoded.
    Deep,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which object it is about.
    pub object: String,
    /// What about it.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.object, self.what)
    }
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Timelines with marks.
    pub timelines: usize,
    /// Segments: fulls, increments, what was folded, live ones.
    pub segments: usize,
    /// Objects that manifests name.
    pub objects: usize,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Objects whose bytes were fetched and compared.
    pub checked_objects: usize,
    /// Their bytes.
    pub checked_bytes: u64,
    /// What keeps something from being restored, or will.
    pub problems: Vec<Finding>,
    /// What was to be looked at and could not be.
    pub unchecked: Vec<Finding>,
    /// What is worth knowing.
    pub notes: Vec<Finding>,
}

impl Report {
    /// Whether all that was asked for was looked at and is as it should be.
    pub fn proven(&self) -> bool {
        self.problems.is_empty() && self.unchecked.is_empty()
    }
}

/// Looks at what `catalog` says is in `store`. An error means that the store did not answer: nothing is known then.
pub async fn verify(
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    depth: Depth,
    now: Timestamp,
    identity: Option<&Identity>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Report, ObjectError> {
    let day = u64::try_from(now.millis().div_euclid(86_400_000)).unwrap_or(0);
    let chosen = |place: Place| depth == Depth::Deep || (place.position.0 + day).is_multiple_of(DAYS);
    let mut catalog = catalog.clone();
    let vanished = read_notes(store.as_ref(), &mut catalog, chosen).await?;
    let mut report = structure::look(&catalog, now);
    report.notes.extend(vanished);
    if !catalog.entries.is_empty() {
        look_at_format(store.as_ref(), &mut report).await?;
    }
    let segments = catalog.entries.values().chain(catalog.folds.values()).chain(catalog.notes.values());
    let chosen: Vec<(&Entry, &Object)> = segments
        .filter(|entry| chosen(entry.manifest.place()))
        .flat_map(|entry| {
            // Of the others there is a line already.
            let whole = entry.manifest.object.as_ref().filter(|_| entry.fault().is_none());
            let index = entry.manifest.index.as_ref().filter(|_| entry.index_fault().is_none());
            whole.into_iter().chain(index).map(move |object| (entry, object))
        })
        .collect();
    let mut meter = Meter::new(chosen.iter().map(|(_, object)| object.stored.bytes).sum(), progress);
    for (entry, object) in chosen {
        let how = match (depth, object.encrypted, identity) {
            (Depth::Plain, ..) => How::Stored,
            (Depth::Deep, true, None) => {
                let what = "not checked: no identity to read it with; only the stored bytes were compared".to_owned();
                report.unchecked.push(Finding { object: object.key.clone(), what });
                How::Stored
            }
            (Depth::Deep, ..) if entry.manifest.index.as_ref() == Some(object) => {
                How::Index(entry.manifest.clone().into(), identity.cloned())
            }
            (Depth::Deep, ..) => How::Plain(identity.cloned()),
        };
        match bytes(store, object, how, &mut meter).await {
            Ok(()) => {
                report.checked_objects += 1;
                report.checked_bytes += object.stored.bytes;
            }
            Err(RestoreError::Missing(key)) => gone(store.as_ref(), entry, key, &mut report).await?,
            Err(RestoreError::Fetch { error: error @ ObjectError::Transient(_), .. }) => return Err(error),
            Err(RestoreError::Identity { key, why }) => {
                report.unchecked.push(Finding { object: key, what: format!("not checked: {why}") });
            }
            Err(RestoreError::Damaged { key, why }) => report.problems.push(Finding { object: key, what: why }),
            Err(other) => report.problems.push(Finding { object: object.key.clone(), what: other.to_string() }),
        }
    }
    Ok(report)
}

/// Reads the newest note of each timeline and the `chosen` ones, each with the one before it. Those that were folded and swept meanwhile are told.
async fn read_notes(
    store: &dyn ObjectStore,
    catalog: &mut Catalog,
    chosen: impl Fn(Place) -> bool,
) -> Result<Option<Finding>, ObjectError> {
    let before = |place: Place| Place { position: Position(place.position.0.saturating_sub(1)), ..place };
    let own = catalog.live.keys().copied().filter(|place| chosen(*place));
    let mut needs: BTreeSet<Need> = own.flat_map(|place| [Need::Note(before(place)), Need::Note(place)]).collect();
    needs.extend(catalog.newest_notes());
    for needs in needs.into_iter().collect::<Vec<_>>().chunks(NOTES_AT_A_TIME) {
        match catalog.read_details(store, None, needs).await {
            Ok(()) => {}
            Err(ObjectError::Missing(which)) => {
                let what = format!("live segments were removed meanwhile; not all of their notes were read: {which}");
                return Ok(Some(Finding { object: "live segments".to_owned(), what }));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Without it, an older version would not refuse a newer layout.
async fn look_at_format(store: &dyn ObjectStore, report: &mut Report) -> Result<(), ObjectError> {
    // What stands in it was read with the catalog.
    match get_small(store, &format_key(), MOST_BYTES).await {
        Err(ObjectError::Missing(_)) => {
            let what = "is missing: no program can tell which layout this is".to_owned();
            report.problems.push(Finding { object: format_key().to_string(), what });
            Ok(())
        }
        other => other.map(drop),
    }
}

/// An object that the listing had and the store has no more. With its manifest gone as well, it was retention (H32).
async fn gone(store: &dyn ObjectStore, entry: &Entry, key: String, report: &mut Report) -> Result<(), ObjectError> {
    let manifest = match entry.manifest.kind {
        Kind::Full | Kind::Incremental => manifest_key(entry.manifest.place()),
        kind @ (Kind::Fine | Kind::Merged) => fold_key(entry.manifest.place(), kind),
        Kind::Live => ObjectKey::ours(&key),
    };
    match get_small(store, &manifest, MOST_BYTES).await {
        Err(ObjectError::Missing(_)) => {
            report.notes.push(Finding { object: key, what: "was removed meanwhile, with its manifest".to_owned() });
        }
        Err(e) => return Err(e),
        Ok(_) => report.problems.push(Finding { object: key, what: "is missing, though it is listed".to_owned() }),
    }
    Ok(())
}

/// What the bytes are compared with.
enum How {
    /// The stored sum.
    Stored,
    /// The plain one too.
    Plain(Option<Identity>),
    /// That it is the index of a fine segment.
    Index(Box<Manifest>, Option<Identity>),
}

/// Fetches an object and compares its bytes on a thread of their own.
async fn bytes(
    store: &Arc<dyn ObjectStore>,
    object: &Object,
    how: How,
    meter: &mut Meter<'_>,
) -> Result<(), RestoreError> {
    let (bodies, mut incoming) = mpsc::channel::<Incoming>(1);
    let wanted = object.clone();
    let compared = tokio::task::spawn_blocking(move || match incoming.blocking_recv() {
        Some(body) => compare(&wanted, body.into_read(), &how),
        None => Ok(()),
    });
    let (fetched, compared) = tokio::join!(fetch::object(store.as_ref(), object, bodies, meter), compared);
    fetched?;
    compared.map_err(|e| RestoreError::Broken(e.to_string()))?.map_err(|e| fetch::undecoded(&object.key, e))
}

fn compare(object: &Object, mut body: Box<dyn Read + Send>, how: &How) -> Result<(), CodecError> {
    if let How::Plain(identity) = how {
        let mut plain = codec::decode(object, identity.as_ref(), body)?;
        io::copy(&mut plain, &mut io::sink())?;
        return plain.finish();
    }
    if let How::Index(fine, identity) = how {
        let mut stored = Vec::new();
        body.read_to_end(&mut stored).map_err(CodecError::Io)?;
        return lines(fine, object, stored.into(), identity.as_ref()).map(drop).map_err(CodecError::Damaged);
    }
    let (mut sum, mut piece) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        match body.read(&mut piece).map_err(CodecError::Io)? {
            0 => break,
            length => sum.update(&piece[..length]),
        }
    }
    match Sum::from_bytes(sum.finalize().into()) == object.stored.sha256 {
        true => Ok(()),
        false => Err(CodecError::Damaged("its bytes are not those that were stored".to_owned())),
    }
}
