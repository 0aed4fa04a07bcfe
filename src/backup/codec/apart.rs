//! The codec's steps for who needs them one at a time: folding reads what it has packed before it is encrypted, member by member.

use std::io::{self, BufRead, Read, Write};

use super::encode::Tally;
use super::{CodecError, Recipient, age, gzip, zstd};
use crate::backup::manifest::{Codec, Content};

/// How much is encrypted at once.
const PIECE_BYTES: usize = 1 << 18;

/// What whole members in `packed` hold; anything else in it, and anything less, is an error.
pub(in crate::backup) fn unpack<'a>(
    codec: Codec,
    packed: impl BufRead + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match codec {
        Codec::Gzip => Box::new(gzip::open(packed)),
        Codec::Zstd => Box::new(zstd::open(packed)?),
    })
}

/// Encrypts `packed` for `recipients`. Tells what was written, and where in it what stood before each of `ends` can be read: with all of the chunk that it ends in.
pub(in crate::backup) fn seal(
    recipients: &[Recipient],
    packed: &mut dyn Read,
    to: &mut dyn Write,
    ends: impl Iterator<Item = u64>,
) -> Result<(Content, Vec<u64>), CodecError> {
    let (mut sealer, mut out) = age::seal(recipients)?;
    let header = out.len() as u64;
    let mut tally = Tally::default();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = match packed.read(&mut piece) {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(CodecError::Io(e)),
        };
        if length == 0 {
            break;
        }
        sealer.push(&piece[..length], &mut out);
        tally.add(&out);
        to.write_all(&out).map_err(CodecError::Io)?;
        out.clear();
    }
    sealer.finish(&mut out);
    tally.add(&out);
    to.write_all(&out).map_err(CodecError::Io)?;
    let sealed = tally.content();
    let ends = ends.map(|end| age::sealed_bytes(header, end).min(sealed.bytes)).collect();
    Ok((sealed, ends))
}
