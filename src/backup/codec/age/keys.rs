//! Who can read, and with what.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use tracing::warn;
use x25519_dalek::{PublicKey, StaticSecret};

use super::header::{Stanza, wrong};
use super::{FILE_KEY_BYTES, FileKey, derive};

/// The type of our recipients, as stanzas name it.
const X25519: &str = "X25519";
/// What their stanzas' keys are derived for.
const PURPOSE: &[u8] = b"age-encryption.org/v1/X25519";
/// A stanza type that must be alone: a file that a passphrase opens is by nobody else.
const PASSPHRASE: &str = "scrypt";
/// What recipients and identities begin with, before a `1`.
const PUBLIC: Hrp = Hrp::parse_unchecked("age");
const SECRET: Hrp = Hrp::parse_unchecked("AGE-SECRET-KEY-");
/// The longest identity file: some hundred identities with their comments.
const MOST_FILE_BYTES: u64 = 64 << 10;

/// For whom is encrypted: `age1…`, as `age-keygen` prints it. It is no secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Recipient(PublicKey);

impl Recipient {
    /// From its text; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let what = "no age recipient (`age1…`, as `age-keygen` prints it)";
        let key = PublicKey::from(key_of(text, PUBLIC).map_err(|why| format!("{what}: {why}"))?);
        // With a point of small order, everybody could work out the key.
        let usable = StaticSecret::from([1; 32]).diffie_hellman(&key).was_contributory();
        usable.then_some(Self(key)).ok_or_else(|| format!("{what}: nobody can have this key"))
    }

    /// Wraps `file_key`, with `ephemeral` for a secret that is used once.
    pub(super) fn wrap(&self, file_key: &FileKey, ephemeral: [u8; 32]) -> Stanza {
        let ephemeral = StaticSecret::from(ephemeral);
        let share = PublicKey::from(&ephemeral);
        let shared = ephemeral.diffie_hellman(&self.0);
        let key = wrapping_key(&share, &self.0, shared.as_bytes());
        let mut body = file_key.to_vec();
        let sealed = key.seal_in_place_append_tag(only_once(), Aad::empty(), &mut body);
        sealed.expect("16 bytes can be encrypted");
        Stanza { arguments: vec![X25519.to_owned(), BASE64.encode(share)], body }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bech32::encode::<Bech32>(PUBLIC, self.0.as_bytes()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

impl FromStr for Recipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

/// What reads: one secret key or several, so that old backups can be read when a new key is in use.
#[derive(Clone)]
pub struct Identity(Vec<StaticSecret>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl Identity {
    /// From a file as `age-keygen` writes it. One that everybody can read is warned of, like other files with secrets.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let unreadable = |e: io::Error| format!("cannot read the identity file `{shown}`: {e}");
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        let mut text = String::new();
        file.take(MOST_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MOST_FILE_BYTES {
            return Err(format!("`{shown}` is no identity file: it is longer than {MOST_FILE_BYTES} bytes"));
        }
        let identity = Self::parse(&text).map_err(|why| format!("`{shown}` is no identity file: {why}"))?;
        if about.mode() & 0o004 != 0 {
            warn!(path = %shown, "everybody on this machine can read the identity that decrypts backups; `chmod o-r` it");
        }
        Ok(identity)
    }

    /// From such a file's text: `AGE-SECRET-KEY-1…`, one to a line, between comments. The error shows nothing of it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(number, line)| {
            let key = key_of(line, SECRET).map_err(|_| format!("line {number} is no `AGE-SECRET-KEY-1…`"))?;
            Ok(StaticSecret::from(key))
        });
        let keys = keys.collect::<Result<Vec<_>, String>>()?;
        if keys.is_empty() { Err("there is no `AGE-SECRET-KEY-1…` in it".to_owned()) } else { Ok(Self(keys)) }
    }

    /// For whom must be encrypted so that each of its keys can read it.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient> {
        self.0.iter().map(|secret| Recipient(PublicKey::from(secret)))
    }

    /// The file key, if one of `stanzas` is for one of the keys. A stanza that cannot be what it says is an error, whomever it is for.
    pub(super) fn unwrap(&self, stanzas: &[Stanza]) -> io::Result<Option<FileKey>> {
        let kind = |stanza: &Stanza| stanza.arguments.first().cloned().unwrap_or_default();
        if stanzas.len() > 1 && stanzas.iter().any(|stanza| kind(stanza) == PASSPHRASE) {
            return Err(wrong("a passphrase beside other recipients"));
        }
        let mut found = None;
        for stanza in stanzas.iter().filter(|stanza| kind(stanza) == X25519) {
            let (share, body) = parts(stanza).ok_or_else(|| wrong("an X25519 stanza has another shape"))?;
            for secret in &self.0 {
                let shared = secret.diffie_hellman(&share);
                if !shared.was_contributory() {
                    return Err(wrong("an X25519 share of small order"));
                }
                let key = wrapping_key(&share, &PublicKey::from(secret), shared.as_bytes());
                let mut body = body;
                let opened = key.open_in_place(only_once(), Aad::empty(), &mut body).ok();
                found = found.or(opened.and_then(|key| FileKey::try_from(&*key).ok()));
            }
        }
        Ok(found)
    }
}

/// The share and the wrapped file key. Lengths are checked before anything is decrypted: otherwise a made-up file could be read with several keys.
fn parts(stanza: &Stanza) -> Option<(PublicKey, [u8; FILE_KEY_BYTES + 16])> {
    let [_, share] = stanza.arguments.as_slice() else { return None };
    let share: [u8; 32] = BASE64.decode(share).ok()?.try_into().ok()?;
    Some((PublicKey::from(share), stanza.body.as_slice().try_into().ok()?))
}

fn wrapping_key(share: &PublicKey, recipient: &PublicKey, shared: &[u8]) -> LessSafeKey {
    let salt = [share.to_bytes(), recipient.to_bytes()].concat();
    let key = UnboundKey::new(&CHACHA20_POLY1305, &derive(&salt, shared, PURPOSE)).expect("a key has 32 bytes");
    LessSafeKey::new(key)
}

/// The nonce of a key that encrypts one thing.
fn only_once() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// The 32 bytes of a key's text; what is wrong with it.
fn key_of(text: &str, begins: Hrp) -> Result<[u8; 32], String> {
    let checked = CheckedHrpstring::new::<Bech32>(text).map_err(|e| e.to_string())?;
    // Compared as written: upper case is for secrets.
    let same = text.starts_with(begins.as_str()) && checked.hrp() == begins;
    let bytes: Vec<u8> = checked.byte_iter().collect();
    let key = bytes.try_into().ok().filter(|_| same);
    key.ok_or_else(|| format!("it is not 32 bytes behind `{begins}1`"))
}
