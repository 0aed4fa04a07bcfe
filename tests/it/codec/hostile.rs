//! Bytes that somebody or something damaged. SQLite takes a damaged WAL for an empty one: what is not noticed here is not noticed at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

/// An object with what it was made from.
struct Stored {
    form: Form,
    plain: Vec<u8>,
    file: Vec<u8>,
}

impl Stored {
    fn new(codec: Codec, encrypted: bool, plain: Vec<u8>) -> Self {
        let form = form(codec, encrypted);
        let file = stored(&form, 2, vec![plain.clone().into()]).0;
        Self { form, plain, file }
    }

    /// Reads `file` in the place of what was stored: as the manifest has it, and with a manifest whose sum of the stored bytes was made to fit.
    fn refuses(&self, file: &[u8]) -> Result<(), TestCaseError> {
        for sums_fit in [false, true] {
            let stored = content(if sums_fit { file } else { &self.file });
            let object = object(&self.form, content(&self.plain), stored);
            let read = plain(&object, file);
            prop_assert!(
                matches!(read, Err(CodecError::Damaged(_) | CodecError::WrongIdentity)),
                "sums that fit: {sums_fit}; read: {:?}",
                read.map(|plain| plain.len())
            );
        }
        Ok(())
    }
}

/// Each form, of some members.
static STORED: LazyLock<Vec<Stored>> = LazyLock::new(|| {
    let forms = [(Codec::Gzip, false), (Codec::Zstd, false), (Codec::Gzip, true), (Codec::Zstd, true)];
    forms.map(|(codec, encrypted)| Stored::new(codec, encrypted, text(2 * MIB + 500, 11))).into()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_flipped_bit_is_found(which in 0..4_usize, at: prop::sample::Index, bit in 0..8_u32) {
        let stored = &STORED[which];
        let mut file = stored.file.clone();
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        // Of a gzip header, the time, the name, XFL and OS are nobody's business; the manifest's sum covers them.
        if stored.form.codec == Codec::Gzip && stored.form.recipients.is_empty() && at < 20 {
            let object = object(&stored.form, content(&stored.plain), content(&stored.file));
            prop_assert!(plain(&object, &file).is_err());
        } else if let Err(error) = stored.refuses(&file) {
            // A bit in the header of a later member may be one of those, too: then what comes out must be what went in.
            let object = object(&stored.form, content(&stored.plain), content(&file));
            prop_assert!(plain(&object, &file).is_ok_and(|back| back == stored.plain), "{error}");
        }
    }

    #[test]
    fn a_truncated_file_is_found(which in 0..4_usize, at: prop::sample::Index) {
        let stored = &STORED[which];
        stored.refuses(&stored.file[..at.index(stored.file.len())])?;
    }

    #[test]
    fn whatever_trails_is_found(which in 0..4_usize, tail in prop::collection::vec(any::<u8>(), 1..100), zeros: bool) {
        let stored = &STORED[which];
        let tail = if zeros { vec![0; tail.len()] } else { tail };
        stored.refuses(&[stored.file.as_slice(), &tail].concat())?;
    }

    #[test]
    fn no_bytes_make_it_panic(codec in prop_oneof![Just(Codec::Gzip), Just(Codec::Zstd)], encrypted: bool,
        begins in prop::sample::select(vec![&b""[..], b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"age-encryption.org/v1\n-> X25519 "]),
        noise in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let file = [begins, &noise].concat();
        let object = object(&form(codec, encrypted), content(b"something"), content(&file));
        prop_assert!(plain(&object, &file).is_err());
    }
}

#[test]
fn a_file_cut_between_two_members_is_found() {
    let ends: [&[u8]; 2] = [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\x03", b"\x28\xb5\x2f\xfd"];
    for (stored, begins) in STORED.iter().zip(ends) {
        let cuts: Vec<usize> = (1..stored.file.len()).filter(|at| stored.file[*at..].starts_with(begins)).collect();
        assert_eq!(cuts.len(), 2, "three members have two ends between them");
        for cut in cuts.into_iter().flat_map(|cut| [cut - 1, cut, cut + 1]) {
            stored.refuses(&stored.file[..cut]).unwrap();
        }
        // Nor may one be left out, or come twice.
        let first = (1..stored.file.len()).find(|at| stored.file[*at..].starts_with(begins)).unwrap();
        stored.refuses(&stored.file[first..]).unwrap();
        stored.refuses(&[&stored.file[..first], &stored.file].concat()).unwrap();
    }
}

/// Counts what is taken of it.
struct Counted(io::Cursor<Vec<u8>>, Arc<AtomicU64>);

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.read(buffer)?;
        self.1.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

#[test]
fn a_bomb_ends_with_the_first_byte_too_many() {
    for (codec, encrypted) in [(Codec::Gzip, false), (Codec::Zstd, false), (Codec::Zstd, true)] {
        let form = form(codec, encrypted);
        let zeros = Bytes::from(vec![0; 8 * MIB]);
        let (file, encoded) = stored(&form, 2, vec![zeros; 16]);
        let little = content(&vec![0; MIB]);
        let object = object(&form, little, encoded.stored);
        let taken = Arc::new(AtomicU64::new(0));
        let from = Counted(io::Cursor::new(file.clone()), taken.clone());
        let mut decoded = decode(&object, Some(&identity()), Box::new(from)).unwrap();
        let mut out = Vec::new();
        let ended = decoded.read_to_end(&mut out).unwrap_err();
        assert!(ended.to_string().contains("more plain bytes than 1048576"), "{ended}");
        assert!(out.len() <= MIB, "{codec:?}: {} bytes came out", out.len());
        assert!(decoded.finish().is_err());
    }
    // A frame that would have the reader keep 128 MiB: its window descriptor says 2^27.
    let frame = b"\x28\xb5\x2f\xfd\x00\x88\x01\x00\x00";
    let object = object(&form(Codec::Zstd, false), content(b""), content(frame));
    assert!(plain(&object, frame).unwrap_err().to_string().contains("memory"));
}

#[test]
fn the_wrong_identity_and_none_are_told_apart() {
    let stored = &STORED[2];
    let object = object(&stored.form, content(&stored.plain), content(&stored.file));
    let from = || Box::new(io::Cursor::new(stored.file.clone()));
    let other = Identity::parse(run_keygen().trim()).unwrap();
    assert!(matches!(decode(&object, None, from()), Err(CodecError::NoIdentity)));
    assert!(matches!(decode(&object, Some(&other), from()), Err(CodecError::WrongIdentity)));
    let both = Identity::parse(&format!("{}\n{SECRET}", run_keygen())).unwrap();
    assert!(decode(&object, Some(&both), from()).is_ok(), "one of several is enough");
}

fn run_keygen() -> String {
    crate::support::run("age-keygen", &[])
}

/// Gives some bytes, then no more.
struct Breaks(io::Cursor<Vec<u8>>);

impl Read for Breaks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::new(io::ErrorKind::TimedOut, "the store hangs")),
            length => Ok(length),
        }
    }
}

#[test]
fn a_store_that_breaks_is_no_damage() {
    for stored in STORED.iter() {
        let object = object(&stored.form, content(&stored.plain), content(&stored.file));
        let from = Breaks(io::Cursor::new(stored.file[..stored.file.len() / 2].to_vec()));
        let mut decoded = decode(&object, Some(&identity()), Box::new(from)).unwrap();
        let error = io::copy(&mut decoded, &mut io::sink()).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::TimedOut, "the store hangs"));
        assert!(decoded.read(&mut [0]).is_err(), "after an error there are only errors");
        assert!(decoded.finish().is_err());
    }
}

#[test]
fn what_was_not_read_to_its_end_is_not_finished() {
    for stored in STORED.iter() {
        let object = object(&stored.form, content(&stored.plain), content(&stored.file));
        let mut decoded = decode(&object, Some(&identity()), Box::new(io::Cursor::new(stored.file.clone()))).unwrap();
        decoded.read_exact(&mut vec![0; stored.plain.len() - 1]).unwrap();
        assert!(decoded.finish().unwrap_err().to_string().contains("not read to its end"));
    }
}
