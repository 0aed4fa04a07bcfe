//! Stored bytes become plain ones again, and are compared with the manifest as they pass.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder;

use super::age::{self, Identity, Opener};
use super::aside::Aside;
use super::{CodecError, damaged, gzip, zstd as frames};
use crate::backup::manifest::{Codec, Object, Sum};

/// How many stored bytes are taken at once.
const READ_BYTES: usize = 1 << 18;

/// Reads `object` from its `stored` bytes. Of an encrypted one, the header is read here, so a wrong identity is known before anything is written.
pub fn decode(
    object: &Object,
    identity: Option<&Identity>,
    stored: Box<dyn Read + Send>,
) -> Result<Decoded, CodecError> {
    open(object, Some(&object.plain.sha256), identity, stored)
}

/// Reads what an object begins with, that was not encrypted, as if it were one of its own: of its plain bytes only the number is known.
pub fn decode_beginning(object: &Object, stored: Box<dyn Read + Send>) -> Result<Decoded, CodecError> {
    open(object, None, None, stored)
}

fn open(
    object: &Object,
    plain: Option<&Sum>,
    identity: Option<&Identity>,
    stored: Box<dyn Read + Send>,
) -> Result<Decoded, CodecError> {
    let wanted = (object.stored.bytes, Some(&object.stored.sha256));
    let stored = Checked::new("stored", wanted, Arriving(stored));
    let opened = if object.encrypted {
        let identity = identity.ok_or(CodecError::NoIdentity)?;
        let opener = age::open(identity, BufReader::with_capacity(READ_BYTES, stored)).map_err(told)?;
        Unsealed::Age(Box::new(opener))
    } else {
        Unsealed::Never(stored)
    };
    let opened = BufReader::with_capacity(READ_BYTES, opened);
    let unpacked = match object.codec {
        Codec::Gzip => Unpacked::Gzip(Box::new(gzip::open(opened))),
        Codec::Zstd => Unpacked::Zstd(Box::new(frames::open(opened).map_err(CodecError::Io)?)),
    };
    Ok(Decoded { plain: Checked::new("plain", (object.plain.bytes, plain), unpacked), failed: false })
}

/// The plain bytes of an object. After an error there is nothing but errors.
pub struct Decoded {
    plain: Checked<Unpacked>,
    failed: bool,
}

impl Decoded {
    /// Whether all of it was read, and was what the manifest says: the plain bytes and the stored ones, each to their end.
    pub fn finish(mut self) -> Result<(), CodecError> {
        if self.read(&mut [0])? > 0 {
            return Err(CodecError::Damaged("it was not read to its end".to_owned()));
        }
        let stored = self.plain.inner.stored();
        if stored.read(&mut [0]).map_err(told)? > 0 {
            return Err(CodecError::Damaged("something follows the stored bytes".to_owned()));
        }
        Ok(())
    }
}

impl Read for Decoded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(damaged("an error came before the end"));
        }
        self.plain.read(buffer).map_err(|error| {
            self.failed = true;
            told(error)
        })
    }
}

/// Smaller bytes made larger.
enum Unpacked {
    Gzip(Box<MultiGzDecoder<BufReader<Unsealed>>>),
    Zstd(Box<Decoder<'static, BufReader<Unsealed>>>),
}

impl Unpacked {
    fn stored(&mut self) -> &mut Checked<Arriving> {
        let unsealed = match self {
            Self::Gzip(decoder) => decoder.get_mut().get_mut(),
            Self::Zstd(decoder) => decoder.get_mut().get_mut(),
        };
        match unsealed {
            Unsealed::Never(stored) => stored,
            Unsealed::Age(opener) => opener.get_mut().get_mut(),
        }
    }
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Encrypted bytes made readable.
enum Unsealed {
    Never(Checked<Arriving>),
    Age(Box<Opener<BufReader<Checked<Arriving>>>>),
}

impl Read for Unsealed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Never(stored) => stored.read(buffer),
            Self::Age(opener) => opener.read(buffer),
        }
    }
}

/// Bytes that must be as many as the manifest says, and those. Their end is an error where they are not.
struct Checked<R> {
    side: &'static str,
    /// How many there must be.
    wanted: u64,
    /// Nothing where the sum is not known.
    sha256: Option<Sum>,
    bytes: u64,
    sum: Aside,
    ended: bool,
    inner: R,
}

impl<R: Read> Checked<R> {
    fn new(side: &'static str, (wanted, sha256): (u64, Option<&Sum>), inner: R) -> Self {
        Self { side, wanted, sha256: sha256.cloned(), bytes: 0, sum: Aside::default(), ended: false, inner }
    }

    fn check_end(&mut self) -> io::Result<()> {
        let (side, wanted) = (self.side, self.wanted);
        if self.bytes != wanted {
            return Err(damaged(format!("the {side} bytes end after {} of {wanted}", self.bytes)));
        }
        if let Some(wanted) = &self.sha256 {
            let sum = std::mem::take(&mut self.sum).sum().map_err(unavailable)?;
            if sum != *wanted {
                return Err(damaged(format!("the {side} bytes have the SHA-256 {sum} and should have {wanted}")));
            }
        }
        self.ended = true;
        Ok(())
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.ended {
            return Ok(0);
        }
        let length = self.inner.read(buffer)?;
        if length == 0 {
            return self.check_end().map(|()| 0);
        }
        self.bytes += length as u64;
        if self.bytes > self.wanted {
            return Err(damaged(format!("there are more {} bytes than {}", self.side, self.wanted)));
        }
        if self.sha256.is_some() {
            self.sum.add(&buffer[..length]).map_err(unavailable)?;
        }
        Ok(length)
    }
}

/// The stored bytes as they come. That they could not be had is told apart from everything that the readers above find wrong with them.
struct Arriving(Box<dyn Read + Send>);

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Unavailable(io::Error);

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unavailable(e)),
                Ok(length) => return Ok(length),
            }
        }
    }
}

/// An error that is no fault of the bytes.
fn unavailable(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Unavailable(error))
}

/// What the readers between say about the bytes (`corrupt deflate stream`, `unexpected end`) is damage.
fn told(error: io::Error) -> io::Error {
    match error.downcast::<Unavailable>() {
        Ok(Unavailable(error)) => error,
        Err(error) if error.get_ref().is_some_and(|inner| inner.is::<CodecError>()) => error,
        Err(error) => damaged(error.to_string()),
    }
}
