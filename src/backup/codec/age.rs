//! age (<https://age-encryption.org/v1>): what is written needs only public recipients, so a stolen sidecar cannot read old backups.
//!
//! The format is a public standard with several programs that read it; `age -d -i identity.txt` is all that a restore by hand needs. Of it there is here what backups
//! need: X25519 recipients (`age1…`), binary files. Stanzas of other recipients that `age` or `rage` may have added are passed over.
//!
//! Not by the `age` crate: 0.12 brings 80 crates more, among them translations, P-256, ML-KEM, a pre-release of `kem`, and twenty second versions of what is in
//! the tree already. All that is hard in it is done by libraries: ChaCha20-Poly1305, HKDF and HMAC by ring, which TLS uses too, the curve by x25519-dalek, the keys' text by
//! bech32. What is left is the order of fields, and that is held against age's own vectors (`tests/fixtures/age`) and against the `age` program in both
//! directions.
//!
//! ```text
//! age-encryption.org/v1                            [header]
//! -> X25519 <share>                                for each recipient: the file key, wrapped
//! <wrapped file key>
//! --- <HMAC of all that stands above>
//! <16 random bytes>                                with the file key, the key of what follows
//! <64 KiB encrypted and authenticated> …           [stream] numbered, the last one marked
//! ```

mod header;
mod keys;
mod stream;

use std::io::{self, BufRead};

use ring::hkdf;

pub use keys::{Identity, Recipient};
pub(super) use stream::{Opener, Sealer};

use super::{CodecError, damaged};

/// The length of a file key.
const FILE_KEY_BYTES: usize = 16;
/// The length of what the stream's key is made of, beside the file key.
const NONCE_BYTES: usize = 16;

/// Random bytes that are the key to one file.
type FileKey = [u8; FILE_KEY_BYTES];

/// Begins a file for `recipients`: what encrypts it, and what stands in front of what that gives.
pub(super) fn seal(recipients: &[Recipient]) -> Result<(Sealer, Vec<u8>), CodecError> {
    let file_key: FileKey = random()?;
    let stanzas = recipients.iter().map(|recipient| Ok(recipient.wrap(&file_key, random()?)));
    let mut begun = header::write(&stanzas.collect::<Result<Vec<_>, CodecError>>()?, &file_key);
    let nonce: [u8; NONCE_BYTES] = random()?;
    begun.extend(nonce);
    Ok((Sealer::new(&derive(&nonce, &file_key, b"payload")), begun))
}

/// How many bytes of a file, whose header and nonce are `header` bytes long, hold its first `plain` ones: whole chunks.
pub(super) fn sealed_bytes(header: u64, plain: u64) -> u64 {
    header + plain.div_ceil(stream::CHUNK_BYTES as u64) * stream::SEALED_BYTES as u64
}

/// Reads the header of `sealed` and gives what reads the rest.
pub(super) fn open<R: BufRead>(identity: &Identity, mut sealed: R) -> io::Result<Opener<R>> {
    let header = header::read(&mut sealed)?;
    let file_key = identity.unwrap(&header.stanzas)?.ok_or_else(|| CodecError::WrongIdentity.into_io())?;
    header.check(&file_key)?;
    let mut nonce = [0; NONCE_BYTES];
    sealed.read_exact(&mut nonce)?;
    Ok(Opener::new(&derive(&nonce, &file_key, b"payload"), sealed))
}

/// HKDF-SHA-256 to 32 bytes.
fn derive(salt: &[u8], secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let filled = extracted.expand(&[purpose], hkdf::HKDF_SHA256).and_then(|expanded| expanded.fill(&mut key));
    filled.expect("HKDF gives 32 bytes");
    key
}

fn random<const N: usize>() -> Result<[u8; N], CodecError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| CodecError::Io(io::Error::other(format!("no random bytes: {e}"))))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
