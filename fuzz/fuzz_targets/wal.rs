//! Arbitrary bytes as a write-ahead log: no panic, no frame that does not fit; and what is whole is the same when it is written again.

#![no_main]

use atlas_sidecar::engine::sqlite::wal::{FRAME_HEADER_BYTES, HEADER_BYTES, Header, Order, Sums, WalReader, WalWriter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = read(bytes);
    // No chance meets a sum, so that these are put in.
    let mut summed = bytes.to_vec();
    put_sums(&mut summed);
    let Some((header, frames)) = read(&summed) else { return };
    let frame = FRAME_HEADER_BYTES + header.page_size as usize;
    assert_eq!(summed.len(), HEADER_BYTES + frames.len() * frame, "something was left out");
    if header.order == Order::Little {
        let mut writer = WalWriter::new(Vec::new(), header.page_size, header.sequence, header.salts).expect("memory");
        for (number, page, commit) in &frames {
            writer.frame(*number, page, *commit).expect("memory");
        }
        assert!(writer.finish().expect("memory") == summed, "it does not come back");
    }
});

type Frames = Vec<(u32, Vec<u8>, Option<u32>)>;

/// A log that is whole.
fn read(bytes: &[u8]) -> Option<(Header, Frames)> {
    let mut reader = WalReader::new(bytes).ok()?;
    let header = *reader.header();
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().ok()? {
        assert!(frame.number > 0 && frame.commit != Some(0) && frame.page.len() == header.page_size as usize);
        frames.push((frame.number, frame.page.to_vec(), frame.commit));
    }
    assert!(frames.last().is_some_and(|(_, _, commit)| commit.is_some()));
    Some((header, frames))
}

/// Makes the sums and the salts fit, if there is a header with small pages.
fn put_sums(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    // The only version there is; and the smallest pages, so that short inputs hold several.
    bytes[..3].copy_from_slice(&[0x37, 0x7f, 0x06]);
    bytes[3] = 0x82 | bytes[3] & 1;
    bytes[4..12].copy_from_slice(&[0, 0x2d, 0xe2, 0x18, 0, 0, 2, 0]);
    let order = if bytes[3] & 1 == 1 { Order::Big } else { Order::Little };
    let mut sums = Sums::new(order);
    let put = |bytes: &mut [u8], sums: &Sums| {
        for (place, value) in bytes.chunks_exact_mut(4).zip(sums.values()) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    };
    sums.add(&bytes[..24]);
    put(&mut bytes[24..32], &sums);
    let (header, frames) = bytes.split_at_mut(HEADER_BYTES);
    for frame in frames.chunks_exact_mut(FRAME_HEADER_BYTES + 512) {
        frame[8..16].copy_from_slice(&header[16..24]);
        sums.add(&frame[..8]);
        sums.add(&frame[FRAME_HEADER_BYTES..]);
        put(&mut frame[16..24], &sums);
    }
}
