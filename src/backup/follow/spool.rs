//! Live segments on this machine: those that wait to be stored, and those that nobody has folded yet.
//!
//! ```text
//! backup/live/t000001-0000000123.segment   the stored bytes, and behind them, on a line of its own, what tells of them (Words)
//! backup/live/t000001-0000000123.wal       where what is stored is encrypted: the plain bytes, for whoever has to read them again
//! ```
//!
//! A segment is there once its last line is: it tells how many bytes stand before it and their sum. So a file is written under its own name and synced once, and no
//! folder is: a file that was made and synced survives a crash with its name on ext4, XFS and Btrfs. A tmp file, a rename and a folder would be three waits for
//! the application's disk in each second. Where a file system loses the name all the same, the installation does not know its own segment again in the store and begins a timeline:
//! time is lost, nothing else.
//!
//! The plain bytes are not synced: whoever reads them compares their sum, and can do without.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::super::catalog::Entry;
use super::super::codec::decode;
use super::super::manifest::Sum;
use super::super::tail::Kept;
use super::super::{Manifest, Place, Position, Timeline};
use crate::secret::private_folder;

/// The longest last line: a note of 2 KB, or a manifest, and a few words.
const MOST_WORDS: u64 = 64 << 10;

/// What a file takes on a disk is a multiple of this, on most file systems.
const BLOCK: u64 = 4096;

/// What is known of a spooled segment besides its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::backup) struct Words {
    /// Its note, or its manifest: the very bytes that commit it, whatever version of us wrote them.
    pub text: String,
    /// Where in the database's own log it ends.
    pub resume: String,
    /// The last look at the database before its first commit: since then something waits.
    pub since: i64,
}

/// A spooled segment.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::backup) struct Spooled {
    /// What it is.
    pub entry: Entry,
    /// What was written down about it.
    pub words: Words,
}

/// The folder, and what is in it.
pub(in crate::backup) struct Spool {
    folder: PathBuf,
    slots: Mutex<BTreeMap<Place, u64>>,
}

impl Spool {
    pub fn new(state_directory: &Path) -> Self {
        Self { folder: state_directory.join("backup/live"), slots: Mutex::default() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of the segment that leads to `place`.
    pub fn file(&self, place: Place) -> PathBuf {
        self.folder.join(format!("{}-{}.segment", place.timeline, place.position))
    }

    fn plain_file(&self, place: Place) -> PathBuf {
        self.file(place).with_extension("wal")
    }

    /// Looks what is in the folder.
    pub fn load(&self) -> io::Result<()> {
        let mut slots = BTreeMap::new();
        let files = match fs::read_dir(&self.folder) {
            Ok(files) => files,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.slots().clear();
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        for file in files {
            let file = file?;
            if let Some(place) = file.file_name().to_str().and_then(place_of) {
                *slots.entry(place).or_default() += on_disk(file.metadata()?.len());
            }
        }
        *self.slots() = slots;
        Ok(())
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<Place, u64>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there of `timeline` behind `position`.
    pub fn behind(&self, timeline: Timeline, position: Position) -> Vec<Place> {
        let from = Place { timeline, position: position.next() };
        self.slots().range(from..).map(|(place, _)| *place).take_while(|place| place.timeline == timeline).collect()
    }

    /// What is there of `place`'s timeline up to it.
    pub fn up_to(&self, place: Place) -> Vec<Place> {
        self.slots().range(..=place).map(|(at, _)| *at).filter(|at| at.timeline == place.timeline).collect()
    }

    /// All that is there.
    pub fn all(&self) -> Vec<Place> {
        self.slots().keys().copied().collect()
    }

    /// How much it takes of the disk.
    pub fn bytes(&self) -> u64 {
        self.slots().values().sum()
    }

    /// The segment that leads to `place`; nothing where there is none that was written to its end.
    pub fn get(&self, place: Place) -> io::Result<Option<Spooled>> {
        let mut file = match File::open(self.file(place)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let length = file.metadata()?.len();
        let end = length.min(MOST_WORDS);
        file.seek(SeekFrom::Start(length - end))?;
        let mut last = Vec::new();
        file.take(end).read_to_end(&mut last)?;
        Ok(told(&last, length).filter(|spooled| spooled.entry.manifest.place() == place))
    }

    /// The stored bytes of a segment.
    pub fn stored(&self, spooled: &Spooled) -> io::Result<Bytes> {
        let Some(object) = &spooled.entry.manifest.object else { return Ok(Bytes::new()) };
        let mut bytes = vec![0; usize::try_from(object.stored.bytes).map_err(io::Error::other)?];
        File::open(self.file(spooled.entry.manifest.place()))?.read_exact_at(&mut bytes, 0)?;
        match Sum::of(&bytes) == object.stored.sha256 {
            true => Ok(bytes.into()),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "a spooled segment is not as it was written")),
        }
    }

    /// Begins a segment.
    pub fn draft(&self, place: Place, plain: bool) -> io::Result<Draft> {
        private_folder(self.folder.parent().unwrap_or(&self.folder))?;
        private_folder(&self.folder)?;
        let open = |file: &Path| OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
        let plain = if plain { Some(open(&self.plain_file(place))?) } else { None };
        Ok(Draft { place, stored: open(&self.file(place))?, plain })
    }

    /// Throws away what is there of a segment.
    pub fn remove(&self, place: Place) -> io::Result<()> {
        self.slots().remove(&place);
        for file in [self.file(place), self.plain_file(place)] {
            match fs::remove_file(file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Throws away `old` ones, which the store has, but for the newest of them: it may be the newest in the store, while those behind it wait, and by it we know our own
    /// segment there again.
    pub fn sweep(&self, old: &[Place]) -> io::Result<u64> {
        let newest = old.iter().max();
        let mut swept = 0;
        for place in old.iter().filter(|place| Some(*place) != newest) {
            self.remove(*place)?;
            swept += 1;
        }
        Ok(swept)
    }
}

/// `work` where waiting for a disk keeps nobody else waiting.
pub(in crate::backup) async fn on_disk_of<T: Send + 'static>(
    spool: &Arc<Spool>,
    work: impl FnOnce(&Spool) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let spool = Arc::clone(spool);
    spawn_blocking(move || work(&spool)).await.map_err(io::Error::other).flatten()
}

fn on_disk(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

fn place_of(name: &str) -> Option<Place> {
    let name = name.strip_suffix(".segment").or_else(|| name.strip_suffix(".wal"))?;
    let (timeline, position) = name.split_once('-')?;
    Some(Place { timeline: Timeline::parse(timeline)?, position: Position::parse(position)? })
}

/// The segment that the end of a file of `length` bytes tells of.
fn told(end: &[u8], length: u64) -> Option<Spooled> {
    let line = end.strip_suffix(b"\n")?;
    let line = &line[line.iter().rposition(|b| *b == b'\n')? + 1..];
    let words: Words = serde_json::from_slice(line).ok()?;
    let manifest = Manifest::from_bytes(words.text.as_bytes()).ok()?;
    let stored = manifest.object.as_ref()?.stored.bytes;
    let whole = stored + line.len() as u64 + 2 == length;
    let entry = Entry::committed(manifest, Sum::of(words.text.as_bytes()));
    whole.then_some(Spooled { entry, words })
}

/// A segment that is being written.
pub(in crate::backup) struct Draft {
    place: Place,
    stored: File,
    plain: Option<File>,
}

impl Draft {
    /// Adds stored bytes.
    pub fn add(&mut self, stored: &[u8]) -> io::Result<()> {
        self.stored.write_all(stored)
    }

    /// Another handle on the file for plain bytes, where they are kept.
    pub fn plain(&self) -> io::Result<Option<File>> {
        self.plain.as_ref().map(File::try_clone).transpose()
    }

    /// Writes down what it is: from now on it is there.
    pub fn finish(mut self, spool: &Spool, words: &Words) -> io::Result<()> {
        let mut line = vec![b'\n'];
        serde_json::to_writer(&mut line, words).map_err(io::Error::other)?;
        line.push(b'\n');
        self.stored.write_all(&line)?;
        self.stored.sync_all()?;
        let plain = self.plain.map_or(Ok(0), |plain| plain.metadata().map(|m| m.len()))?;
        let bytes = on_disk(self.stored.metadata()?.len()) + on_disk(plain);
        spool.slots().insert(self.place, bytes);
        Ok(())
    }
}

impl Kept for Spool {
    fn behind(&self, place: Place) -> io::Result<Vec<(Manifest, String)>> {
        let mut row = Vec::new();
        let mut at = place.position;
        for place in self.behind(place.timeline, place.position) {
            if place.position != at.next() {
                break;
            }
            let Some(spooled) = self.get(place)? else { break };
            row.push((spooled.entry.manifest, spooled.words.resume));
            at = place.position;
        }
        Ok(row)
    }

    fn plain(&self, place: Place) -> io::Result<Box<dyn Read + Send>> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{place} is not kept here"));
        let spooled = self.get(place)?.ok_or_else(missing)?;
        let object = spooled.entry.manifest.object.ok_or_else(missing)?;
        if object.encrypted {
            return Ok(Box::new(File::open(self.plain_file(place))?.take(object.plain.bytes)));
        }
        let stored = File::open(self.file(place))?.take(object.stored.bytes);
        Ok(Box::new(decode(&object, None, Box::new(stored)).map_err(io::Error::other)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Kind;
    use super::super::super::manifest::Content;
    use super::super::super::manifest::tests::manifest;
    use super::*;
    use crate::clock::Timestamp;

    fn spooled(spool: &Spool, position: u64, bytes: &[u8]) -> Place {
        let mut live = manifest(1, position, Kind::Live, Timestamp::from_millis(0));
        let object = live.object.as_mut().unwrap();
        object.stored = Content { bytes: bytes.len() as u64, sha256: Sum::of(bytes) };
        let words = Words { text: live.to_note(), resume: "here\n\"".to_owned(), since: 7 };
        let mut draft = spool.draft(live.place(), false).unwrap();
        draft.add(bytes).unwrap();
        draft.finish(spool, &words).unwrap();
        live.place()
    }

    #[test]
    fn a_segment_is_there_once_its_last_line_is() {
        let scratch = tempfile::tempdir().unwrap();
        let spool = Spool::new(scratch.path());
        spool.load().unwrap();
        let place = spooled(&spool, 2, b"some\nbytes\n");
        let there = spool.get(place).unwrap().unwrap();
        assert_eq!((there.words.since, there.words.resume.as_str()), (7, "here\n\""));
        assert_eq!(spool.stored(&there).unwrap().as_ref(), b"some\nbytes\n");
        let whole = fs::read(spool.file(place)).unwrap();
        for length in 0..whole.len() {
            fs::write(spool.file(place), &whole[..length]).unwrap();
            assert_eq!(spool.get(place).unwrap(), None, "{length} bytes of it");
        }
        let mut torn = whole.clone();
        torn[3] ^= 1;
        fs::write(spool.file(place), torn).unwrap();
        let there = spool.get(place).unwrap().unwrap();
        assert!(spool.stored(&there).is_err(), "a bit was flipped");
    }

    #[test]
    fn the_newest_segment_that_the_store_has_is_never_swept() {
        let scratch = tempfile::tempdir().unwrap();
        let spool = Spool::new(scratch.path());
        let places: Vec<Place> = (2..6).map(|position| spooled(&spool, position, b"x")).collect();
        assert_eq!(Kept::behind(&spool, places[0]).unwrap().len(), 3);
        // The two behind these wait.
        assert_eq!(spool.sweep(&places[..2]).unwrap(), 1);
        assert_eq!(spool.all(), places[1..]);
        assert_eq!(spool.sweep(&places[1..]).unwrap(), 2);
        assert_eq!(spool.all(), [places[3]]);
        let again = Spool::new(scratch.path());
        again.load().unwrap();
        assert_eq!((again.all(), again.bytes()), (vec![places[3]], BLOCK));
        spooled(&spool, 8, b"x");
        assert_eq!(Kept::behind(&spool, places[3]).unwrap(), [], "one is missing");
    }
}
