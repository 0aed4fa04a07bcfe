use std::collections::BTreeMap;

use super::super::wal::WalWriter;
use super::super::wal::tests::{WRITING, real};
use super::*;
use crate::backup::manifest::{Codec, Content, Object, Sum};
use crate::backup::{Position, Timeline};
use crate::clock::Timestamp;

/// The largest pages, with which the lock page comes first.
const LARGE: u32 = 65_536;

fn digest(image: &[u8], page_size: u32) -> Digest {
    (1..)
        .zip(image.chunks_exact(page_size as usize))
        .fold(Digest::default(), |digest, (number, page)| digest.plus(PageHash::of(number, page)))
}

/// A manifest of what leads to `position`.
fn manifest(position: u64, page_size: u32, pages: u32, sent_pages: u32, digests: (Option<Digest>, Digest)) -> Manifest {
    let content = Content { bytes: 0, sha256: Sum::of(b"") };
    let (digest_before, digest_after) = digests;
    Manifest {
        format: 1,
        engine: ENGINE.to_owned(),
        database: "atlas.db".to_owned(),
        kind: if digest_before.is_some() { Kind::Incremental } else { Kind::Full },
        timeline: Timeline(1),
        from: digest_before.map(|_| Position(position - 1)),
        to: Position(position),
        observed: Timestamp::from_millis(0),
        object: Some(Object {
            key: "t000001/x".to_owned(),
            stored: content.clone(),
            plain: content,
            codec: Codec::Gzip,
            encrypted: false,
        }),
        page_size,
        pages,
        sent_pages,
        digest_before,
        digest_after,
        previous: None,
        soundness: None,
        tables: BTreeMap::new(),
        engine_version: String::new(),
        sidecar_version: String::new(),
        gap_from: None,
        first_observed: None,
        index: None,
    }
}

/// An image of `pages` pages of 512 bytes that a full may be.
fn image(pages: u8) -> Vec<u8> {
    let mut image: Vec<u8> = (1..=pages).flat_map(|number| [number; 512]).collect();
    image[..16].copy_from_slice(MAGIC);
    image[16..18].copy_from_slice(&512u16.to_be_bytes());
    image
}

fn log(page_size: u32, frames: &[(u32, u8, Option<u32>)]) -> Vec<u8> {
    let mut log = WalWriter::new(Vec::new(), page_size, 0, [1, 2]).unwrap();
    for (number, byte, commit) in frames {
        log.frame(*number, &vec![*byte; page_size as usize], *commit).unwrap();
    }
    log.finish().unwrap()
}

/// What `before` becomes by `log`, if its digest is that of `after`.
fn laid_over(before: &[u8], log: &[u8], sent: u32, after: &[u8], page_size: u32) -> Result<Vec<u8>, RebuildError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let pages = |image: &[u8]| image.len() as u32 / page_size;
    let (first, second) = (digest(before, page_size), digest(after, page_size));
    let mut building = Sqlite.begin(&path)?;
    building.full(&manifest(1, page_size, pages(before), pages(before), (None, first)), &mut &*before)?;
    building.changes(&manifest(2, page_size, pages(after), sent, (Some(first), second)), &mut &*log)?;
    building.finish()?;
    Ok(std::fs::read(path)?)
}

/// A log as SQLite leaves it: several transactions, pages more than once, in the order in which they were written, and behind the end.
#[tokio::test]
async fn a_log_that_sqlite_wrote_is_laid_over_as_sqlite_does() {
    for page_size in [512, 4096, LARGE] {
        let real = real(page_size, WRITING).await;
        let ours = laid_over(&real.before, &real.log, real.frames as u32, &real.after, page_size).unwrap();
        assert!(ours == real.after, "pages of {page_size} bytes");
    }
}

#[test]
fn pages_come_in_any_order_and_several_times() {
    let before = image(4);
    let frames = [(7, 1, None), (2, 9, None), (7, 7, Some(7)), (9, 5, None), (3, 8, None), (2, 6, Some(6))];
    let mut after = before.clone();
    // Nobody writes pages 5 and 6; 7 and 9 are cut off.
    after.resize(6 * 512, 0);
    after[512..1024].fill(6);
    after[1024..1536].fill(8);
    let ours = laid_over(&before, &log(512, &frames), 6, &after, 512).unwrap();
    assert!(ours == after);
}

/// What was cut off stays away, also where the same log makes the database larger again: as if its transactions had come one by one.
#[test]
fn what_a_transaction_cut_off_is_gone_for_the_next_one() {
    let before = image(4);
    let frames = [(4, 9, Some(4)), (2, 6, Some(2)), (5, 7, Some(5))];
    let mut after = before[..1024].to_vec();
    after[512..].fill(6);
    after.resize(4 * 512, 0);
    after.extend([7; 512]);
    let ours = laid_over(&before, &log(512, &frames), 3, &after, 512).unwrap();
    assert!(ours == after);
}

/// A page that a segment lacks did not change in it, so it may be laid over any state that it goes over.
#[test]
fn a_segment_is_laid_over_any_state_that_it_goes_over() {
    let states: Vec<Vec<u8>> = (0..4_u8)
        .map(|n| {
            let mut state = image(4);
            state[512..1024].fill(n);
            state[512 * usize::from(n).min(3)..][..512].fill(100 + n);
            if n == 0 { image(4) } else { state }
        })
        .collect();
    let digests: Vec<Digest> = states.iter().map(|state| digest(state, 512)).collect();
    let all: Vec<(u32, u8, Option<u32>)> = (2..=4_u32)
        .map(|number| (number, states[3][(number as usize - 1) * 512], (number == 4).then_some(4)))
        .collect();
    let laid = |at: usize, kind: Kind, change: fn(&mut Manifest)| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let mut building = Sqlite.begin(&path).unwrap();
        building.full(&manifest(at as u64 + 1, 512, 4, 4, (None, digests[at])), &mut &*states[at]).unwrap();
        let mut segment = manifest(4, 512, 4, 3, (Some(digests[0]), digests[3]));
        (segment.from, segment.kind) = (Some(Position(1)), kind);
        change(&mut segment);
        building.changes(&segment, &mut &*log(512, &all))?;
        building.finish()?;
        Ok::<_, RebuildError>(std::fs::read(path).unwrap())
    };
    for kind in [Kind::Incremental, Kind::Live, Kind::Fine, Kind::Merged] {
        for at in 0..3 {
            assert!(laid(at, kind, |_| ()).unwrap() == states[3], "{kind} over {at}");
        }
    }
    laid(3, Kind::Fine, |_| ()).unwrap_err();
    laid(0, Kind::Fine, |segment| segment.from = Some(Position(2))).unwrap_err();
    laid(0, Kind::Fine, |segment| segment.digest_before = Some(segment.digest_after)).unwrap_err();
    laid(1, Kind::Fine, |segment| segment.digest_after = Digest::default()).unwrap_err();
    laid(1, Kind::Fine, |segment| segment.timeline = Timeline(2)).unwrap_err();
}

/// More pages than are held back, each of them many times.
#[test]
fn a_log_that_is_larger_than_what_is_held_back() {
    let pages = (HELD_BYTES / 512 + 3_000) as u32;
    let mut before = image(1);
    before.resize(pages as usize * 512, 0);
    let mut writing = WalWriter::new(Vec::new(), 512, 0, [1, 2]).unwrap();
    let mut after = before.clone();
    let mut sent = 0;
    for round in 1..=2_u8 {
        // Backwards, so that nothing is written as it comes.
        for number in (2..=pages).rev() {
            writing.frame(number, &[round; 512], (number == 2).then_some(pages)).unwrap();
            sent += 1;
        }
    }
    after[512..].fill(2);
    let ours = laid_over(&before, &writing.finish().unwrap(), sent, &after, 512).unwrap();
    assert!(ours == after);
}

#[test]
fn shrinking_takes_pages_out_of_the_digest() {
    // More than is read at a time.
    let mut before = image(1);
    before.extend((0..5000).flat_map(|number: u32| [number as u8; 512]));
    let mut after = before[..512 * 3].to_vec();
    after[1024..].fill(77);
    let ours = laid_over(&before, &log(512, &[(3, 77, Some(3))]), 1, &after, 512).unwrap();
    assert!(ours == after);
}

/// H26: over the lock page and back, in a file with a hole in place of the first GiB. What is there stays out of it: the digest is followed from any value.
#[test]
fn the_lock_page_is_a_hole_and_in_no_digest() {
    let lock = lock_page(LARGE);
    assert_eq!(lock, 16_385);
    let folder = tempfile::tempdir().unwrap();
    let mut open = OpenOptions::new();
    let file = open.read(true).write(true).create_new(true).open(folder.path().join("a.db")).unwrap();
    let length = |pages: u32| u64::from(pages) * u64::from(LARGE);
    file.set_len(length(lock - 2)).unwrap();
    let start = Digest::default().plus(PageHash::of(1, b"any"));
    let place = Place { timeline: Timeline(1), position: Position(1) };
    let database = Database { place, page_size: LARGE, pages: lock - 2, digest: start };
    let mut building = Rebuilding { file, database: Some(database) };

    let page = |byte| vec![byte; LARGE as usize];
    let grown = start
        .plus(PageHash::of(lock - 1, &page(1)))
        .plus(PageHash::of(lock + 1, &page(2)))
        .plus(PageHash::of(lock + 2, &page(3)));
    let frames = log(LARGE, &[(lock - 1, 1, None), (lock + 1, 2, None), (lock + 2, 3, Some(lock + 2))]);
    building.changes(&manifest(2, LARGE, lock + 2, 3, (Some(start), grown)), &mut frames.as_slice()).unwrap();
    assert_eq!(building.file.metadata().unwrap().len(), length(lock + 2));
    let mut held = vec![9; 4 * LARGE as usize];
    building.file.read_exact_at(&mut held, length(lock - 2)).unwrap();
    assert!(held == [page(1), page(0), page(2), page(3)].concat());

    // And back to before it, with pages of the hole.
    let shrunk = start.minus(PageHash::of(lock - 2, &page(0)));
    let changed = shrunk.minus(PageHash::of(1, &page(0))).plus(PageHash::of(1, &page(4)));
    let frames = log(LARGE, &[(1, 4, Some(lock - 3))]);
    building.changes(&manifest(3, LARGE, lock - 3, 1, (Some(grown), changed)), &mut frames.as_slice()).unwrap();
    assert_eq!(building.file.metadata().unwrap().len(), length(lock - 3));

    let frames = log(LARGE, &[(lock, 4, Some(lock))]);
    let said = building.changes(&manifest(4, LARGE, lock, 3, (Some(changed), changed)), &mut frames.as_slice());
    assert!(said.unwrap_err().to_string().contains("writes the lock page"));
}

#[test]
fn the_lock_page_of_a_full_is_in_no_digest() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::create_new(folder.path().join("a.db")).unwrap();
    let lock = lock_page(LARGE);
    let mut laid = LaidDown { file: &file, page_size: LARGE, next: lock - 1, digest: Digest::default() };
    let (pieces, waiting) = sync_channel(1);
    let page = |byte| vec![byte; LARGE as usize];
    pieces.send([page(1), page(0), page(2)].concat()).unwrap();
    drop(pieces);
    laid.all(&waiting, drop).unwrap();
    let expected = Digest::default().plus(PageHash::of(lock - 1, &page(1))).plus(PageHash::of(lock + 1, &page(2)));
    assert_eq!(laid.digest, expected);
}

/// What is read fails, or what is written: the error is that one, and nobody waits for ever.
#[test]
fn an_error_of_either_side_of_a_full_ends_it() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no gzip"));
            }
            let length = into.len().min(self.0);
            into[..length].copy_from_slice(&image(255)[..length]);
            self.0 -= length;
            Ok(length)
        }
    }
    let pages = 20_000;
    let wanted = manifest(1, 512, pages, pages, (None, Digest::default()));
    let folder = tempfile::tempdir().unwrap();
    let mut building = Sqlite.begin(&folder.path().join("a.db")).unwrap();
    let said = building.full(&wanted, &mut Failing(512 * 255)).unwrap_err();
    assert!(matches!(&said, RebuildError::Io(e) if e.to_string() == "no gzip"), "{said:?}");

    let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let mut building = Rebuilding { file: full, database: None };
    let plain = [image(255), vec![0; 512 * (pages as usize - 255)]].concat();
    let said = building.full(&wanted, &mut plain.as_slice()).unwrap_err();
    assert!(matches!(&said, RebuildError::Io(e) if e.kind() == io::ErrorKind::StorageFull), "{said:?}");
}
