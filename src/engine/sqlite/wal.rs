//! The file format of SQLite's write-ahead log, by the byte: <https://www.sqlite.org/fileformat2.html#walformat>, and `wal.c` where that is silent.
//!
//! ```text
//! header, 32 bytes    magic  version  page size  sequence  salt 1  salt 2  sum 1  sum 2          all u32, big-endian
//! frame, 24 bytes     page number  pages after the commit, or 0  salt 1  salt 2  sum 1  sum 2    and then the page
//! ```
//!
//! The sums go on from frame to frame, so that the last one vouches for all before it. They add up words of 32 bits in the byte order that the magic's last bit
//! names (1: big-endian); SQLite reads both everywhere. We write little-endian ones, which is what our machines add up fastest.
//!
//! SQLite takes a log for empty, without a word and with exit code 0, where its header is damaged, and for shorter than it is where a frame is:
//! that is right after a crash, and wrong for a backup. So [`WalReader`] knows no early end: a log is whole, ends with a commit and has nothing
//! behind it, or there is an error. It holds one frame, however long the log is.

use std::io::{self, Read, Write};

/// Bytes of a log's header.
pub const HEADER_BYTES: usize = 32;

/// Bytes of a frame before its page.
pub const FRAME_HEADER_BYTES: usize = 24;

/// The magic whose last bit says in which order sums are added up.
const MAGIC: u32 = 0x377f_0682;

/// The only version of the format there is: that of SQLite 3.7.0.
const VERSION: u32 = 3_007_000;

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Its bytes could not be had.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// They are no whole log; what is wrong.
    #[error("{0}")]
    Damaged(String),
}

/// The order in which sums take bytes for words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first byte weighs least.
    Little,
    /// The first byte weighs most.
    Big,
}

/// The two running sums of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    order: Order,
    values: [u32; 2],
}

impl Sums {
    /// Those that a log begins with.
    pub fn new(order: Order) -> Self {
        Self { order, values: [0, 0] }
    }

    /// Those that a log has somewhere inside it.
    pub fn at(order: Order, values: [u32; 2]) -> Self {
        Self { order, values }
    }

    /// Goes on over `bytes`, a multiple of 8 of them.
    pub fn add(&mut self, bytes: &[u8]) {
        match self.order {
            Order::Little => self.add_words(bytes, u32::from_le_bytes),
            Order::Big => self.add_words(bytes, u32::from_be_bytes),
        }
    }

    fn add_words(&mut self, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) {
        let (pairs, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty(), "sums are added up over pairs of words");
        let [mut first, mut second] = self.values;
        for &[a, b, c, d, e, f, g, h] in pairs {
            first = first.wrapping_add(word([a, b, c, d])).wrapping_add(second);
            second = second.wrapping_add(word([e, f, g, h])).wrapping_add(first);
        }
        self.values = [first, second];
    }

    /// What they are.
    pub fn values(&self) -> [u32; 2] {
        self.values
    }
}

/// A log's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// In which order sums are added up.
    pub order: Order,
    /// Bytes of a page.
    pub page_size: u32,
    /// How many checkpoints there were before; SQLite ignores it.
    pub sequence: u32,
    /// What each frame must repeat.
    pub salts: [u32; 2],
}

impl Header {
    /// Reads one; the error says what is wrong with it.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        let magic = word(bytes, 0);
        let order = match magic {
            MAGIC => Order::Little,
            _ if magic == MAGIC | 1 => Order::Big,
            _ => return Err(format!("it begins with {magic:#010x}, which is no write-ahead log")),
        };
        if word(bytes, 4) != VERSION {
            return Err(format!("a write-ahead log of version {}, not {VERSION}", word(bytes, 4)));
        }
        let page_size = word(bytes, 8);
        if !is_page_size(page_size) {
            return Err(format!("a write-ahead log with pages of {page_size} bytes"));
        }
        let header = Self { order, page_size, sequence: word(bytes, 12), salts: [word(bytes, 16), word(bytes, 20)] };
        if header.sums(bytes).values() != [word(bytes, 24), word(bytes, 28)] {
            return Err("the header of the write-ahead log does not have the sums that it names".to_owned());
        }
        Ok(header)
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let magic = match self.order {
            Order::Little => MAGIC,
            Order::Big => MAGIC | 1,
        };
        let words = [magic, VERSION, self.page_size, self.sequence, self.salts[0], self.salts[1]];
        put_words(&mut bytes, &words);
        let sums = self.sums(&bytes).values();
        put_words(&mut bytes[24..], &sums);
        bytes
    }

    /// The sums that the first frame goes on from; `bytes` are its own.
    pub fn sums(&self, bytes: &[u8; HEADER_BYTES]) -> Sums {
        let mut sums = Sums::new(self.order);
        sums.add(&bytes[..24]);
        sums
    }
}

/// Whether SQLite has pages of that many bytes.
pub fn is_page_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (512..=65_536).contains(&bytes)
}

/// The page with the bytes at 1 GiB, which SQLite locks and never writes: no log has it, and no database ends with it.
pub fn lock_page(page_size: u32) -> u32 {
    (1 << 30) / page_size + 1
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put_words(bytes: &mut [u8], words: &[u32]) {
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

/// Writes a log. What it is written to should take small pieces well.
pub struct WalWriter<W: Write> {
    to: W,
    header: Header,
    sums: Sums,
    committed: bool,
}

impl<W: Write> WalWriter<W> {
    /// Begins a log with pages of `page_size` bytes. SQLite asks nothing of `sequence` and `salts` but that the frames repeat the salts; both are there for
    /// whoever looks at the file.
    ///
    /// # Panics
    /// Where there are no pages of that size.
    pub fn new(mut to: W, page_size: u32, sequence: u32, salts: [u32; 2]) -> io::Result<Self> {
        assert!(is_page_size(page_size), "no page has {page_size} bytes");
        let header = Header { order: Order::Little, page_size, sequence, salts };
        let bytes = header.to_bytes();
        to.write_all(&bytes)?;
        Ok(Self { to, header, sums: header.sums(&bytes), committed: false })
    }

    /// Adds page `number` (the first is 1). `commit` ends a transaction, and says how many pages the database has after it.
    ///
    /// # Panics
    /// Where the page has another size than the log's, or a number is 0.
    pub fn frame(&mut self, number: u32, page: &[u8], commit: Option<u32>) -> io::Result<()> {
        assert!(number > 0 && commit != Some(0), "pages and their numbers count from 1");
        assert_eq!(page.len(), self.header.page_size as usize, "a log has pages of one size");
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let salts = self.header.salts;
        put_words(&mut bytes, &[number, commit.unwrap_or(0), salts[0], salts[1]]);
        self.sums.add(&bytes[..8]);
        self.sums.add(page);
        put_words(&mut bytes[16..], &self.sums.values());
        self.committed = commit.is_some();
        self.to.write_all(&bytes)?;
        self.to.write_all(page)
    }

    /// Hands on what was written, all of it.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// Ends the log, and gives back what it was written to.
    ///
    /// # Panics
    /// Where the last frame ended no transaction: SQLite would take the log without what follows the last one that did.
    pub fn finish(mut self) -> io::Result<W> {
        assert!(self.committed, "a log ends with a commit");
        self.to.flush()?;
        Ok(self.to)
    }
}

/// A frame of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Which page, from 1.
    pub number: u32,
    /// How many pages the database has, where the frame ends a transaction.
    pub commit: Option<u32>,
    /// The page.
    pub page: &'a [u8],
}

/// Reads a log that must be whole.
#[derive(Debug)]
pub struct WalReader<R: Read> {
    from: R,
    header: Header,
    sums: Sums,
    frames: u64,
    committed: Option<u32>,
    /// A frame with its header.
    held: Vec<u8>,
}

impl<R: Read> WalReader<R> {
    /// Reads the header.
    pub fn new(mut from: R) -> Result<Self, WalError> {
        let mut bytes = [0; HEADER_BYTES];
        let came = read_up_to(&mut from, &mut bytes)?;
        if came < HEADER_BYTES {
            return Err(WalError::Damaged(format!("a write-ahead log of {came} bytes: it has no header")));
        }
        let header = Header::parse(&bytes).map_err(WalError::Damaged)?;
        let held = vec![0; FRAME_HEADER_BYTES + header.page_size as usize];
        Ok(Self { from, header, sums: header.sums(&bytes), frames: 0, committed: None, held })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many frames were read.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The sums up to the frame that was read last.
    pub fn sums(&self) -> [u32; 2] {
        self.sums.values()
    }

    /// The next frame; nothing behind the last one, which ended a transaction.
    ///
    /// What a transaction wrote counts when it has ended: whoever must not keep half of one waits for the end, or throws away what it made.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WalError> {
        let came = read_up_to(&mut self.from, &mut self.held)?;
        if came == 0 {
            return match self.committed {
                Some(_) => Ok(None),
                None if self.frames == 0 => Err(WalError::Damaged("the write-ahead log has no frame".to_owned())),
                None => Err(self.damaged("does not end a transaction, and is the last one", self.frames)),
            };
        }
        let at = self.frames + 1;
        if came < self.held.len() {
            return Err(self.damaged(&format!("has {came} bytes instead of {}", self.held.len()), at));
        }
        let (head, page) = self.held.split_at(FRAME_HEADER_BYTES);
        if [word(head, 8), word(head, 12)] != self.header.salts {
            return Err(self.damaged("is of another log: its salts are not the header's", at));
        }
        self.sums.add(&head[..8]);
        self.sums.add(page);
        if [word(head, 16), word(head, 20)] != self.sums.values() {
            return Err(self.damaged("does not have the sums that it names", at));
        }
        let (number, pages) = (word(head, 0), word(head, 4));
        if number == 0 {
            return Err(self.damaged("is of page 0", at));
        }
        self.frames = at;
        self.committed = (pages > 0).then_some(pages);
        Ok(Some(Frame { number, commit: self.committed, page: &self.held[FRAME_HEADER_BYTES..] }))
    }

    fn damaged(&self, what: &str, frame: u64) -> WalError {
        WalError::Damaged(format!("frame {frame} of the write-ahead log {what}"))
    }
}

/// Reads until `into` is full or there is no more, and says how much came.
pub(super) fn read_up_to(from: &mut (impl Read + ?Sized), into: &mut [u8]) -> io::Result<usize> {
    let mut came = 0;
    while came < into.len() {
        match from.read(&mut into[came..]) {
            Ok(0) => break,
            Ok(more) => came += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(came)
}

#[cfg(test)]
pub(super) mod tests;
