//! What was packed is read again, before anybody relies on it.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::super::RebuildError;
use super::super::codec::{CodecError, apart, decode};
use super::super::manifest::{Codec, Content, Object, Sum};
use super::sources::Whole;
use super::weaving::{Made, Mark};
use super::{FoldError, Weave, Woven};

/// Reads the packed `file` and compares each of its transactions with what came from the sources, and each beginning that ends with a mark with what will be told of it.
pub(super) fn prove(weave: &dyn Weave, codec: Codec, made: &Made, file: &Path) -> Result<(), FoldError> {
    let read = match made.ends.is_empty() {
        true => whole(weave, codec, made, file),
        false => members(weave, codec, made, file),
    };
    let expected: Vec<Woven> = made.marks.iter().map(|mark| mark.woven).collect();
    match read {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => {
            let at = found.iter().zip(&expected).take_while(|(found, expected)| found == expected).count();
            let mark = made.marks.get(at).map_or(made.last.to, |mark| mark.position);
            Err(FoldError::Unlike(format!("the transaction that leads to {mark} has other frames")))
        }
        Err(RebuildError::Damaged(why)) => Err(FoldError::Unlike(why)),
        Err(RebuildError::Io(error)) => Err(match CodecError::from(error) {
            CodecError::Damaged(why) => FoldError::Unlike(why),
            other => other.into(),
        }),
    }
}

fn all(weave: &dyn Weave, log: &mut dyn Read) -> Result<Vec<Woven>, RebuildError> {
    let mut found = Vec::new();
    weave.read(log, &mut |woven| found.push(woven))?;
    Ok(found)
}

fn whole(weave: &dyn Weave, codec: Codec, made: &Made, file: &Path) -> Result<Vec<Woven>, RebuildError> {
    let (stored, plain) = (made.encoded.stored.clone(), made.encoded.plain.clone());
    let object = Object { key: String::new(), stored, plain, codec, encrypted: false };
    let decoded = decode(&object, None, Box::new(File::open(file)?)).map_err(io::Error::other)?;
    all(weave, &mut Whole(Some(decoded)))
}

fn members(weave: &dyn Weave, codec: Codec, made: &Made, file: &Path) -> Result<Vec<Woven>, RebuildError> {
    if made.ends.len() != made.marks.len() {
        return Err(RebuildError::Damaged(format!("{} marks have {} ends", made.marks.len(), made.ends.len())));
    }
    let ends = made.ends.iter().zip(&made.marks);
    let mut members = Members {
        file: BufReader::with_capacity(1 << 18, File::open(file)?),
        codec,
        ends,
        current: None,
        left: 0,
        packed: 0,
        plain: 0,
        sum: Sha256::new(),
        all: &made.encoded.stored,
    };
    all(weave, &mut members)
}

/// The plain bytes of a file, each piece up to a mark unpacked by itself, so that no beginning needs what follows it.
struct Members<'a, I> {
    file: BufReader<File>,
    codec: Codec,
    ends: I,
    current: Option<Box<dyn Read + Send>>,
    /// Plain bytes that the current piece must have still.
    left: u64,
    packed: u64,
    plain: u64,
    sum: Sha256,
    all: &'a Content,
}

impl<'a, I: Iterator<Item = (&'a Content, &'a Mark)>> Read for Members<'a, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(current) = &mut self.current {
                let length = current.read(buffer)?;
                self.left =
                    self.left.checked_sub(length as u64).ok_or_else(|| unlike("a piece is longer than told"))?;
                if length > 0 {
                    return Ok(length);
                }
                if self.left > 0 {
                    return Err(unlike("a piece is shorter than told"));
                }
                self.current = None;
            }
            match self.ends.next() {
                Some((end, mark)) => self.open(end, mark)?,
                None => return self.end().map(|()| 0),
            }
        }
    }
}

impl<'a, I: Iterator<Item = (&'a Content, &'a Mark)>> Members<'a, I> {
    /// Takes up the piece before `end`. It fits into memory: it is what one live segment holds, which was sent from memory.
    fn open(&mut self, end: &Content, mark: &Mark) -> io::Result<()> {
        let piece = end.bytes.checked_sub(self.packed).ok_or_else(|| unlike("the ends go back"))?;
        let mut packed = vec![0; usize::try_from(piece).map_err(io::Error::other)?];
        self.file.read_exact(&mut packed)?;
        self.sum.update(&packed);
        if Sum::from_bytes(self.sum.clone().finalize().into()) != end.sha256 {
            return Err(unlike("a beginning has another SHA-256 than told"));
        }
        self.left = mark.woven.plain_bytes - self.plain;
        (self.packed, self.plain) = (end.bytes, mark.woven.plain_bytes);
        self.current = Some(apart::unpack(self.codec, Cursor::new(packed))?);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let sha256 = Sum::from_bytes(self.sum.clone().finalize().into());
        let found = Content { bytes: self.packed, sha256 };
        if found != *self.all || self.file.read(&mut [0])? > 0 {
            return Err(unlike("something stands behind the last mark"));
        }
        Ok(())
    }
}

fn unlike(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, CodecError::Damaged(what.to_owned()))
}
