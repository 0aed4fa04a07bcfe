//! The hash of each page at a state that is in the store: what the next increment is told by.
//!
//! ```text
//! 0      magic, 8 bytes   u32 version, page size, pages, change counter, timeline   u64 position, inode, born (s)   u32 born (ns)   digest as text
//! 88     where in the database's own log: u32 two salts, frames, two sums; zeros without one   zeros
//! 112    16 bytes of BLAKE3 over the 112 before
//! 128    16 bytes of hash for each page; zeros for the lock page                                     numbers are big-endian
//! ```
//!
//! A map must be exactly the state that the store has. One that lags is no smaller evil than one that is ahead: a page that was A there, B in the map and is A
//! again would be left out (d.5). So a map is written beside the one in use, flushed, and takes its place when the store has the state that it is named after; and it
//! is used only where timeline, position and digest are those of the store's newest state. That its hashes are whole is seen when they have been read: their
//! sum is the digest.
//!
//! It is read and written as a stream: that of 10 GB with pages of 4 KiB has 42 MB.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::identity::Identity;
use super::spot::Spot;
use crate::backup::digest::PageHash;
use crate::backup::{Base, Digest, Place, Position, Timeline};

const MAGIC: &[u8; 8] = b"ATSCPMAP";
/// 2: with the place in the log. A map of the first version is none, and the next backup a full.
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 128;
const SUMMED_BYTES: usize = 112;
/// Where the digest's digits are.
const DIGEST: std::ops::Range<usize> = 56..88;
const HASH_BYTES: usize = 16;
/// Hashes that are read at once where single ones are asked for: 4 KiB.
const HASHES_OF_A_BLOCK: u32 = 256;
/// Bytes that are read or written at once.
const PIECE: usize = 256 << 10;

/// What a map is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The state.
    pub base: Base,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages.
    pub pages: u32,
    /// The change counter in page 1.
    pub changes: u32,
    /// The database file.
    pub identity: Identity,
    /// Where in the database's own log the state is; zeros without one.
    pub spot: Spot,
}

impl About {
    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        for word in [VERSION, self.page_size, self.pages, self.changes, self.base.place.timeline.0] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        for word in [self.base.place.position.0, self.identity.inode, self.identity.born.0] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(&self.identity.born.1.to_be_bytes());
        bytes.extend_from_slice(self.base.digest.to_string().as_bytes());
        let Spot { salts, frames, sums } = self.spot;
        for word in [salts[0], salts[1], frames, sums[0], sums[1]] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.resize(SUMMED_BYTES, 0);
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(&sum.as_bytes()[..HEADER_BYTES - SUMMED_BYTES]);
        let mut whole = [0; HEADER_BYTES];
        whole.copy_from_slice(&bytes);
        whole
    }

    fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let mut from = &bytes[8..];
        let mut next = |length: usize| {
            let (value, rest) = from.split_at(length);
            from = rest;
            let mut whole = [0; 16];
            whole[16 - length..].copy_from_slice(value);
            u128::from_be_bytes(whole)
        };
        let mut word = || next(4) as u32;
        let (version, page_size, pages, changes, timeline) = (word(), word(), word(), word(), word());
        let mut long = || next(8) as u64;
        let (position, inode, born) = (long(), long(), long());
        let nanos = next(4) as u32;
        let digest = std::str::from_utf8(&bytes[DIGEST]).ok()?.parse().ok()?;
        let _digest = (next(16), next(16));
        let mut word = || next(4) as u32;
        let spot = Spot { salts: [word(), word()], frames: word(), sums: [word(), word()] };
        let about = Self {
            base: Base { place: Place { timeline: Timeline(timeline), position: Position(position) }, digest },
            page_size,
            pages,
            changes,
            identity: Identity { inode, born: (born, nanos) },
            spot,
        };
        // All of it is said again and compared: magic, zeros and sum, too.
        (version == VERSION && about.to_bytes() == *bytes).then_some(about)
    }
}

/// The maps of a database in a folder: the one in use, and the one that is written for the state that comes next.
#[derive(Clone, Debug)]
pub struct Maps {
    folder: PathBuf,
}

impl Maps {
    /// Those in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn current(&self) -> PathBuf {
        self.folder.join("pages.map")
    }

    fn draft(&self) -> PathBuf {
        self.folder.join("pages.map.new")
    }

    /// Of what follows the commits: a reading may have a draft of its own at the same time.
    fn tails_draft(&self) -> PathBuf {
        self.folder.join("pages.map.tail")
    }

    /// What the map of `tip` is of, which is in use from now on; nothing where there is none. A draft of another state stays: its segment may
    /// be on its way to the store.
    pub fn adopt(&self, tip: &Base) -> io::Result<Option<About>> {
        if let Some(about) = about(&self.current())?.filter(|about| about.base == *tip) {
            return Ok(Some(about));
        }
        let Some(about) = about(&self.draft())?.filter(|about| about.base == *tip) else { return Ok(None) };
        fs::rename(self.draft(), self.current())?;
        File::open(&self.folder)?.sync_all()?;
        Ok(Some(about))
    }

    /// What the maps that there are are of: the one in use, and a draft.
    pub fn all(&self) -> io::Result<Vec<About>> {
        let (current, draft) = (about(&self.current())?, about(&self.draft())?);
        Ok(current.into_iter().chain(draft).collect())
    }

    /// Begins a map that is to take the place of the one in use.
    pub fn successor(&self) -> io::Result<MapWriter> {
        self.writer(&self.tails_draft())
    }

    /// Puts the successor, which must be that of `about`, in the place of the one in use.
    pub fn succeed(&self, about: &About) -> io::Result<HashFile> {
        let hashes = HashFile::open(&self.tails_draft(), about)?;
        fs::rename(self.tails_draft(), self.current())?;
        File::open(&self.folder)?.sync_all()?;
        Ok(hashes)
    }

    /// The map in use, which must still be that of `about`, for single hashes.
    pub fn hashes(&self, about: &About) -> io::Result<HashFile> {
        HashFile::open(&self.current(), about)
    }

    /// The map in use, which must still be that of `about`.
    pub fn open(&self, about: &About) -> io::Result<MapReader> {
        let mut from = BufReader::with_capacity(PIECE, File::open(self.current())?);
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header)?;
        match About::parse(&header) {
            Some(found) if found == *about => Ok(MapReader { from, left: about.pages, sum: Digest::default() }),
            _ => Err(io::Error::other("the page map has been changed by somebody else")),
        }
    }

    /// Throws the map in use away, because it is not what it says.
    pub fn discard(&self) -> io::Result<()> {
        fs::remove_file(self.current())
    }

    /// Begins a draft.
    pub fn draft_map(&self) -> io::Result<MapWriter> {
        self.writer(&self.draft())
    }

    fn writer(&self, path: &Path) -> io::Result<MapWriter> {
        fs::create_dir_all(&self.folder)?;
        let mut into = BufWriter::with_capacity(PIECE, File::create(path)?);
        // No header until it is whole.
        into.write_all(&[0; HEADER_BYTES])?;
        Ok(MapWriter { into })
    }
}

fn about(path: &Path) -> io::Result<Option<About>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut header = [0; HEADER_BYTES];
    match file.read_exact(&mut header) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let length = file.metadata()?.len();
    Ok(About::parse(&header).filter(|about| length == (HEADER_BYTES + HASH_BYTES * about.pages as usize) as u64))
}

/// Gives hashes, in the order of the pages.
pub struct MapReader {
    from: BufReader<File>,
    left: u32,
    sum: Digest,
}

impl MapReader {
    /// The hash of the next page; nothing behind the last one.
    pub fn next_hash(&mut self) -> io::Result<Option<PageHash>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut bytes = [0; HASH_BYTES];
        self.from.read_exact(&mut bytes)?;
        self.left -= 1;
        let hash = PageHash::from_bytes(bytes);
        self.sum = self.sum.plus(hash);
        Ok(Some(hash))
    }

    /// Reads what is left, and gives the digest of all.
    pub fn digest(mut self) -> io::Result<Digest> {
        while self.next_hash()?.is_some() {}
        Ok(self.sum)
    }
}

/// Gives single hashes.
#[derive(Debug)]
pub struct HashFile {
    file: File,
    pages: u32,
    /// The hashes around the one that was asked for last: whoever asks does so in the order of the pages, mostly.
    block: Vec<u8>,
    /// The page that they begin at.
    first: u32,
}

impl HashFile {
    fn open(path: &Path, wanted: &About) -> io::Result<Self> {
        if about(path)?.as_ref() != Some(wanted) {
            return Err(io::Error::other("the page map has been changed by somebody else"));
        }
        Ok(Self { file: File::open(path)?, pages: wanted.pages, block: Vec::new(), first: 1 })
    }

    /// The hash of page `number`; nothing behind the last one.
    pub fn hash(&mut self, number: u32) -> io::Result<Option<PageHash>> {
        if number == 0 || number > self.pages {
            return Ok(None);
        }
        let known = self.first..self.first + (self.block.len() / HASH_BYTES) as u32;
        if !known.contains(&number) {
            let first = number - (number - 1) % HASHES_OF_A_BLOCK;
            let count = HASHES_OF_A_BLOCK.min(self.pages - first + 1);
            self.block.clear();
            self.block.resize(HASH_BYTES * count as usize, 0);
            let at = HEADER_BYTES + HASH_BYTES * (first - 1) as usize;
            self.file.read_exact_at(&mut self.block, at as u64).inspect_err(|_| self.block.clear())?;
            self.first = first;
        }
        let at = HASH_BYTES * (number - self.first) as usize;
        let mut bytes = [0; HASH_BYTES];
        bytes.copy_from_slice(&self.block[at..at + HASH_BYTES]);
        Ok(Some(PageHash::from_bytes(bytes)))
    }
}

/// Takes hashes, in the order of the pages.
pub struct MapWriter {
    into: BufWriter<File>,
}

impl MapWriter {
    /// Adds the hash of the next page.
    pub fn push(&mut self, hash: PageHash) -> io::Result<()> {
        self.into.write_all(&hash.to_bytes())
    }

    /// Makes it durable, and only then a map.
    pub fn finish(mut self, about: &About) -> io::Result<()> {
        self.into.flush()?;
        let mut file = self.into.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&about.to_bytes())?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about_of(position: u64, hashes: &[PageHash]) -> About {
        let digest = hashes.iter().fold(Digest::default(), |digest, hash| digest.plus(*hash));
        About {
            base: Base { place: Place { timeline: Timeline(3), position: Position(position) }, digest },
            page_size: 65_536,
            pages: hashes.len() as u32,
            changes: 7,
            identity: Identity { inode: u64::MAX, born: (1_800_000_000, 999_999_999) },
            spot: Spot { salts: [1, 2], frames: 3, sums: [4, u32::MAX] },
        }
    }

    fn draft(maps: &Maps, about: &About, hashes: &[PageHash]) {
        let mut map = maps.draft_map().unwrap();
        hashes.iter().for_each(|hash| map.push(*hash).unwrap());
        map.finish(about).unwrap();
    }

    #[test]
    fn a_map_is_used_only_for_the_state_that_it_is_of() {
        let folder = tempfile::tempdir().unwrap();
        let maps = Maps::new(folder.path().join("backup"));
        let hashes = [PageHash::of(1, b"a"), PageHash::of(2, b"b")];
        let (first, second) = (about_of(1, &hashes), about_of(2, &hashes[..1]));
        assert_eq!(maps.adopt(&first.base).unwrap(), None, "there is none");
        draft(&maps, &first, &hashes);
        assert_eq!(maps.adopt(&second.base).unwrap(), None, "a draft of another state");
        assert_eq!(maps.adopt(&first.base).unwrap().as_ref(), Some(&first), "and it is still there");
        let mut map = maps.open(&first).unwrap();
        assert_eq!(map.next_hash().unwrap(), Some(hashes[0]));
        assert_eq!(map.digest().unwrap(), first.base.digest);
        draft(&maps, &second, &hashes[..1]);
        assert_eq!(maps.adopt(&first.base).unwrap().as_ref(), Some(&first), "the draft changes nothing");
        assert_eq!(maps.adopt(&second.base).unwrap().as_ref(), Some(&second));
        assert_eq!(maps.adopt(&first.base).unwrap(), None);
        let other = Base { digest: first.base.digest, ..second.base };
        assert_eq!(maps.adopt(&other).unwrap(), None, "the place alone is not enough");
    }

    #[test]
    fn what_is_not_whole_is_no_map() {
        let folder = tempfile::tempdir().unwrap();
        let maps = Maps::new(folder.path().to_owned());
        let hashes = [PageHash::of(1, b"a")];
        let about = about_of(1, &hashes);
        let mut unfinished = maps.draft_map().unwrap();
        unfinished.push(hashes[0]).unwrap();
        drop(unfinished);
        assert_eq!(maps.adopt(&about.base).unwrap(), None, "without a header");
        draft(&maps, &about, &hashes);
        let whole = fs::read(maps.draft()).unwrap();
        for at in 0..HEADER_BYTES {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(maps.draft(), &bytes).unwrap();
            assert_eq!(maps.adopt(&about.base).unwrap(), None, "byte {at} is another");
        }
        fs::write(maps.draft(), &whole[..whole.len() - 1]).unwrap();
        assert_eq!(maps.adopt(&about.base).unwrap(), None, "a byte is missing");
        fs::write(maps.draft(), &whole).unwrap();
        assert!(maps.adopt(&about.base).unwrap().is_some());
    }
}
