//! What the index of a write-ahead log (the `-shm` file) says: how much of the log has been committed, and for all to see.
//!
//! ```text
//! 0    header      version  unused  changes  u8 is set up, u8 sums' order, u16 page size  frames  pages  2 sums of the last frame  2 salts  2 sums of this
//! 48   the same again
//! 96   frames that the database file has                                                          all u32, in the machine's own order
//! ```
//!
//! (`WalIndexHdr` and `WalCkptInfo` in SQLite's `wal.c`, <https://www.sqlite.org/walformat.html#the_wal_index_file_format>.) Whoever commits writes the second copy, then the first: a header
//! whose copies are equal and that has the sums that it names is one that a commit has finished. The log alone cannot tell: a process that is killed while
//! it flushes a commit leaves it there, whole and valid, and the next writer puts another one over it (H1).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::engine::sqlite::wal::{Order, Sums, is_page_size};

const HEADER_BYTES: usize = 48;
const BACKFILLED_AT: u64 = 96;
const VERSION: u32 = 3_007_000;

/// What was committed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Grows with each commit.
    pub changes: u32,
    /// Bytes of a page.
    pub page_size: u32,
    /// Frames of the log that are committed.
    pub frames: u32,
    /// Pages of the database.
    pub pages: u32,
    /// The sums of the last frame.
    pub sums: [u32; 2],
    /// The salts of the log, as it has them.
    pub salts: [u32; 2],
}

impl Header {
    /// The one in `index`; nothing while there is none, or one is being written.
    pub fn read(index: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; 2 * HEADER_BYTES];
        match index.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(Self::parse(&bytes)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn parse(bytes: &[u8; 2 * HEADER_BYTES]) -> Option<Self> {
        let (first, second) = bytes.split_at(HEADER_BYTES);
        let word = |at: usize| u32::from_ne_bytes([first[at], first[at + 1], first[at + 2], first[at + 3]]);
        let own = if cfg!(target_endian = "big") { Order::Big } else { Order::Little };
        let mut sums = Sums::new(own);
        sums.add(&first[..40]);
        let is_set_up = first[12] != 0;
        if first != second || !is_set_up || word(0) != VERSION || sums.values() != [word(40), word(44)] {
            return None;
        }
        // 65536 does not fit: its 1 is put where the smallest bit is (`walFramePgsz`).
        let size = u32::from(u16::from_ne_bytes([first[14], first[15]]));
        let page_size = (size & 0xfe00) + ((size & 1) << 16);
        let frames = word(16);
        // Of an empty log, it may not be known yet.
        (frames == 0 || is_page_size(page_size)).then(|| Self {
            changes: word(8),
            page_size,
            frames,
            pages: word(20),
            sums: [word(24), word(28)],
            // These are kept as bytes of the log.
            salts: [word(32).to_be(), word(36).to_be()],
        })
    }
}

/// How many frames of the log the database file has.
pub fn backfilled(index: &File) -> io::Result<u32> {
    let mut bytes = [0; 4];
    index.read_exact_at(&mut bytes, BACKFILLED_AT)?;
    Ok(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What SQLite wrote: the index of a log of which 5 frames are committed, with pages of `page_size`.
    fn index(page_size: u32) -> (tempfile::TempDir, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bytes = runtime.block_on(async {
            use sqlx::{AssertSqlSafe, Connection};
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
            let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
            let sql = format!(
                "PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL; CREATE TABLE a (b); INSERT INTO a VALUES (1)"
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
            // Its locks are lost by it, and nobody else is there.
            std::fs::read(folder.path().join("a.db-shm")).unwrap()
        });
        (folder, bytes)
    }

    fn parse(bytes: &[u8]) -> Option<Header> {
        Header::parse(bytes[..96].try_into().unwrap())
    }

    #[test]
    fn what_sqlite_wrote_is_read() {
        for page_size in [512, 4096, 32_768, 65_536] {
            let (folder, bytes) = index(page_size);
            let header = parse(&bytes).unwrap();
            assert_eq!((header.page_size, header.pages), (page_size, 2), "{header:?}");
            assert!(header.frames >= 3, "{header:?}");
            let file = File::open(folder.path().join("a.db")).unwrap();
            assert_eq!(Header::read(&file).unwrap(), None, "another file is no index");
        }
    }

    #[test]
    fn h1_a_header_that_is_being_written_is_none() {
        let (_folder, bytes) = index(4096);
        for at in 0..96 {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            assert_eq!(parse(&torn), None, "byte {at} is another in one of the copies");
            if at < 48 {
                torn[at + 48] ^= 1;
                assert_eq!(parse(&torn), None, "byte {at} is another in both copies");
            }
        }
        assert_eq!(parse(&[0; 96]), None);
        let short = tempfile::tempfile().unwrap();
        assert_eq!(Header::read(&short).unwrap(), None);
    }
}
