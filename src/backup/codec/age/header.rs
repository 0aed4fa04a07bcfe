//! The header of an age file: for whom the file key is wrapped, authenticated with the file key.

use std::io::{self, BufRead, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use ring::hmac;

use super::{FileKey, damaged, derive};

const VERSION: &str = "age-encryption.org/v1";
/// A body's lines have 64 columns; the one that is shorter, perhaps empty, is the last.
const COLUMNS: usize = 64;
/// Longer headers are refused: room for hundreds of recipients, and nothing that fills the memory.
const MOST_BYTES: u64 = 64 << 10;

/// The file key, wrapped for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stanza {
    /// The recipient's type, and what it needs to unwrap.
    pub(super) arguments: Vec<String>,
    /// The wrapped key.
    pub(super) body: Vec<u8>,
}

/// A header that was read.
pub(super) struct Header {
    pub(super) stanzas: Vec<Stanza>,
    authenticated: Vec<u8>,
    mac: Vec<u8>,
}

impl Header {
    /// That nobody without the file key wrote or changed it.
    pub(super) fn check(&self, file_key: &FileKey) -> io::Result<()> {
        let valid = hmac::verify(&mac_key(file_key), &self.authenticated, &self.mac);
        valid.map_err(|_| damaged("the age header is not what its file key signed"))
    }
}

pub(super) fn write(stanzas: &[Stanza], file_key: &FileKey) -> Vec<u8> {
    let mut text = format!("{VERSION}\n");
    for Stanza { arguments, body } in stanzas {
        text += &format!("-> {}\n", arguments.join(" "));
        let body = BASE64.encode(body);
        // Where it fills its last line, an empty one follows: split at the end of each full line.
        for line in 0..=body.len() / COLUMNS {
            text += &body[line * COLUMNS..body.len().min((line + 1) * COLUMNS)];
            text += "\n";
        }
    }
    text += "---";
    let mac = hmac::sign(&mac_key(file_key), text.as_bytes());
    text += &format!(" {}\n", BASE64.encode(mac));
    text.into_bytes()
}

pub(super) fn read(sealed: &mut impl BufRead) -> io::Result<Header> {
    let mut lines = Lines { rest: sealed.take(MOST_BYTES), read: Vec::new() };
    if lines.next()? != VERSION {
        return Err(damaged(format!("no age file: it does not begin with `{VERSION}`")));
    }
    let mut stanzas = Vec::new();
    loop {
        let line = lines.next()?;
        if let Some(mac) = line.strip_prefix("--- ") {
            let mac = BASE64.decode(mac).map_err(|_| wrong("its MAC is no base64"))?;
            // All but the space, the MAC and the line's end.
            let covered = lines.read.len() - (line.len() + 1) + "---".len();
            lines.read.truncate(covered);
            return Ok(Header { stanzas, authenticated: lines.read, mac });
        }
        let arguments = line.strip_prefix("-> ").ok_or_else(|| wrong("a line is neither a stanza nor the end"))?;
        let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        if !arguments.iter().all(|a| !a.is_empty() && a.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(wrong("a stanza's argument is no word"));
        }
        stanzas.push(Stanza { arguments, body: body(&mut lines)? });
    }
}

fn body(lines: &mut Lines<impl BufRead>) -> io::Result<Vec<u8>> {
    let mut text = String::new();
    loop {
        let line = lines.next()?;
        text += &line;
        if line.len() > COLUMNS {
            return Err(wrong("a line is too long"));
        }
        if line.len() < COLUMNS {
            return BASE64.decode(text).map_err(|_| wrong("a stanza's body is no base64"));
        }
    }
}

/// The header's lines, and all that was read of it.
struct Lines<R> {
    rest: io::Take<R>,
    read: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> io::Result<String> {
        let start = self.read.len();
        self.rest.read_until(b'\n', &mut self.read)?;
        let line = self.read[start..].strip_suffix(b"\n").ok_or_else(|| wrong("it has no end"))?;
        String::from_utf8(line.to_vec()).map_err(|_| wrong("it is no text"))
    }
}

fn mac_key(file_key: &FileKey) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &derive(&[], file_key, b"header"))
}

/// What is wrong with a header.
pub(super) fn wrong(what: &str) -> io::Error {
    damaged(format!("the age header is damaged: {what}"))
}
