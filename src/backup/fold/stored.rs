//! From the scratch folder into the store: encrypted where it must be, read back, and committed.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::super::claim::create_or_same;
use super::super::codec::{CodecError, apart};
use super::super::index::Line;
use super::super::layout::{FORMAT, fold_key};
use super::super::manifest::{self, Codec, Content, Object, Sum};
use super::super::ship::ShipError;
use super::super::ship::carry::{Landing, QUEUED, read_back, read_spool};
use super::super::{Kind, Manifest, Position};
use super::scratch::Scratch;
use super::weaving::{Made, PACKED, joined};
use super::{Fold, FoldError};
use crate::object::{ObjectKey, get_small};

/// The encrypted bytes, in the scratch folder.
const SEALED: &str = "sealed";

/// The bytes that are stored.
pub(super) struct Ready {
    file: PathBuf,
    content: Content,
    /// What is stored up to each mark.
    ends: Vec<Content>,
}

impl Fold<'_> {
    /// The bytes to store: those that were packed, encrypted where there are recipients.
    pub(super) async fn ready(&self, made: &Made, scratch: &Scratch) -> Result<Ready, FoldError> {
        let packed = scratch.path(PACKED);
        if self.form.recipients.is_empty() {
            return Ok(Ready { file: packed, content: made.encoded.stored.clone(), ends: made.ends.clone() });
        }
        let (into, file) = (scratch.create(SEALED)?, scratch.path(SEALED));
        let (recipients, sealed) = (self.form.recipients.clone(), file.clone());
        let ends: Vec<u64> = made.ends.iter().map(|end| end.bytes).collect();
        let work = move || {
            let mut into = BufWriter::with_capacity(1 << 18, into);
            let mut from = File::open(&packed).map_err(CodecError::Io)?;
            let (content, ends) = apart::seal(&recipients, &mut from, &mut into, ends.into_iter())?;
            let into = into.into_inner().map_err(|e| CodecError::Io(e.into_error()))?;
            into.sync_all().map_err(CodecError::Io)?;
            let ends = beginnings(&sealed, &ends).map_err(CodecError::Io)?;
            Ok::<_, FoldError>((content, ends))
        };
        let (content, ends) = joined(spawn_blocking(work).await)?;
        Ok(Ready { file, content, ends })
    }

    /// Stores `made`, whose bytes are `ready`, and commits it. What it is now: where another sidecar was first, its. And the sum of its manifest.
    pub(super) async fn commit(&self, about: &About, made: &Made, ready: &Ready) -> Result<(Manifest, Sum), FoldError> {
        let About { kind, key, .. } = about;
        self.land(key, ready).await?;
        let object = Object {
            key: key.to_string(),
            stored: ready.content.clone(),
            plain: made.encoded.plain.clone(),
            codec: self.form.codec,
            encrypted: !self.form.recipients.is_empty(),
        };
        let index = match kind {
            Kind::Fine => Some(self.store_index(made, ready, key).await?),
            _ => None,
        };
        let manifest = manifest_of(about, made, object, index);
        let fold = fold_key(manifest.place(), *kind);
        let bytes = Bytes::from(manifest.to_bytes());
        let sum = Sum::of(&bytes);
        if create_or_same(self.store.as_ref(), &fold, bytes).await? {
            tell(&manifest, made.marks.len());
            return Ok((manifest, sum));
        }
        let there = get_small(self.store.as_ref(), &fold, manifest::MOST_BYTES).await?;
        let damaged = |why| FoldError::Damaged { place: manifest.place(), why };
        let theirs = Manifest::from_bytes(&there).map_err(|why| damaged(format!("`{fold}`: {why}")))?;
        if theirs.digest_after != manifest.digest_after {
            return Err(damaged(format!("`{fold}` was made by somebody else and leads to another state")));
        }
        warn!(key = %fold, "somebody else has folded the same segments: theirs count");
        Ok((theirs, Sum::of(&there)))
    }

    async fn land(&self, key: &ObjectKey, ready: &Ready) -> Result<(), FoldError> {
        let mut landing = Landing::new(self.store, key);
        let (stored_to, stored) = mpsc::channel(QUEUED);
        let moved = tokio::try_join!(landing.take(stored), read_spool(&ready.file, &ready.content, stored_to));
        let landed = match moved {
            Ok(_) => landing.finish().await,
            Err(e) => Err(e),
        };
        if let Err(e) = landed {
            landing.abort().await;
            return Err(shipped(e));
        }
        read_back(self.store.as_ref(), key, &ready.content).await.map_err(shipped)
    }

    /// Stores the index and reads it back. It is small: some 100 bytes a mark.
    async fn store_index(&self, made: &Made, ready: &Ready, key: &ObjectKey) -> Result<Object, FoldError> {
        let plain = index(made, &ready.ends)?;
        let packed = gzip(&plain).map_err(CodecError::Io)?;
        let object = Object {
            key: index_key(key, self.form.extension()).to_string(),
            stored: content(&packed),
            plain: content(&plain),
            codec: Codec::Gzip,
            encrypted: false,
        };
        let key = ObjectKey::ours(&object.key);
        self.store.put(&key, packed.into()).await?;
        read_back(self.store.as_ref(), &key, &object.stored).await.map_err(shipped)?;
        Ok(object)
    }
}

/// What is known of a fold before it is made.
pub(super) struct About {
    pub(super) kind: Kind,
    pub(super) from: Position,
    /// Of its object.
    pub(super) key: ObjectKey,
    /// The sum of the manifest of the fold of the same kind that ends where it begins.
    pub(super) previous: Option<Sum>,
}

fn manifest_of(about: &About, made: &Made, object: Object, index: Option<Object>) -> Manifest {
    let last = made.marks.last();
    let first = made.marks.first().filter(|_| about.kind == Kind::Fine);
    Manifest {
        format: FORMAT,
        kind: about.kind,
        from: Some(about.from),
        object: Some(object),
        sent_pages: last.map_or(0, |last| last.woven.frames),
        digest_before: Some(made.digest_before),
        previous: about.previous.clone(),
        soundness: None,
        sidecar_version: env!("CARGO_PKG_VERSION").to_owned(),
        gap_from: None,
        first_observed: first.map(|first| first.observed),
        index,
        ..made.last.clone()
    }
}

/// The index of what was made, as JSON lines.
fn index(made: &Made, ends: &[Content]) -> Result<Vec<u8>, FoldError> {
    let mut plain = Vec::new();
    for (mark, stored) in made.marks.iter().zip(ends) {
        let line = Line {
            position: mark.position,
            observed: mark.observed,
            pages: mark.woven.pages,
            frames: mark.woven.frames,
            plain_bytes: mark.woven.plain_bytes,
            stored: stored.clone(),
            digest: mark.digest,
        };
        let written = serde_json::to_writer(&mut plain, &line).map_err(io::Error::from);
        written.map_err(CodecError::Io)?;
        plain.push(b'\n');
    }
    Ok(plain)
}

/// The key of the index beside the object `key`.
fn index_key(key: &ObjectKey, form: &str) -> ObjectKey {
    let stem = key.as_str().strip_suffix(&format!(".wal.{form}")).unwrap_or(key.as_str());
    ObjectKey::ours(format!("{stem}.index.gz"))
}

fn content(bytes: &[u8]) -> Content {
    Content { bytes: bytes.len() as u64, sha256: Sum::of(bytes) }
}

fn gzip(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(plain)?;
    packed.finish()
}

/// What `file` begins with, up to each of `ends`, which do not go back.
fn beginnings(file: &Path, ends: &[u64]) -> io::Result<Vec<Content>> {
    let mut file = BufReader::with_capacity(1 << 18, File::open(file)?);
    let (mut sum, mut at) = (Sha256::new(), 0);
    ends.iter()
        .map(|end| {
            let wanted = end - at;
            let copied = io::copy(&mut (&mut file).take(wanted), &mut sum)?;
            if copied < wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at = *end;
            Ok(Content { bytes: at, sha256: Sum::from_bytes(sum.clone().finalize().into()) })
        })
        .collect()
}

/// What moving bytes failed with.
fn shipped(error: ShipError) -> FoldError {
    match error {
        ShipError::Store(e) => FoldError::Store(e),
        ShipError::Codec(e) => FoldError::Codec(e),
        ShipError::State { folder, error } => FoldError::State { folder, error },
        ShipError::Stopped => FoldError::Stopped,
        other => FoldError::Unlike(other.to_string()),
    }
}

/// The one line that a fold leaves in the log.
fn tell(manifest: &Manifest, marks: usize) {
    let Manifest { kind, from, sent_pages, observed, .. } = manifest;
    let (plain, stored) = manifest.object.as_ref().map_or((0, 0), |o| (o.plain.bytes, o.stored.bytes));
    let from = from.map_or(0, |from| from.0);
    info!(
        %kind,
        position = %manifest.place(),
        from,
        %observed,
        marks,
        frames = sent_pages,
        plain_bytes = plain,
        stored_bytes = stored,
        "segments folded"
    );
}
