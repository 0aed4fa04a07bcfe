//! The codec of backups against the programs that must read what it writes, and against bytes that were damaged.

mod hostile;
mod stages;
mod tools;

use std::io::{self, Read};
use std::sync::LazyLock;

use atlas_sidecar::backup::codec::{CodecError, Encoded, Form, Identity, Label, decode, encode};
use atlas_sidecar::backup::manifest::{Codec, Content, Object, Sum};
use atlas_sidecar::clock::Timestamp;
use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const MIB: usize = 1 << 20;

/// What `age-keygen` printed once.
const SECRET: &str = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().build().unwrap());

fn identity() -> Identity {
    Identity::parse(SECRET).unwrap()
}

fn form(codec: Codec, encrypted: bool) -> Form {
    Form { codec, recipients: if encrypted { identity().recipients().collect() } else { Vec::new() } }
}

fn label() -> Label {
    Label { name: "atlas.db".to_owned(), at: Timestamp::from_millis(1_795_399_200_250) }
}

/// Encodes pieces that a source sends, and checks the sums that come back.
fn stored(form: &Form, threads: usize, pieces: Vec<Bytes>) -> (Vec<u8>, Encoded) {
    let plain: Vec<u8> = pieces.concat();
    let (source, plain_side) = mpsc::channel(2);
    let (stored_side, mut sink) = mpsc::channel::<Bytes>(2);
    let (encoded, stored) = RUNTIME.block_on(async {
        let send = async move {
            for piece in pieces {
                source.send(piece).await.unwrap();
            }
        };
        let receive = async move {
            let mut stored = Vec::new();
            while let Some(piece) = sink.recv().await {
                assert!(piece.len() < 2 * MIB, "a piece of {} bytes", piece.len());
                stored.extend(piece);
            }
            stored
        };
        let (encoded, (), stored) = tokio::join!(encode(form, label(), threads, plain_side, stored_side), send, receive);
        (encoded.unwrap(), stored)
    });
    assert_eq!(encoded, Encoded { plain: content(&plain), stored: content(&stored) });
    (stored, encoded)
}

fn content(bytes: &[u8]) -> Content {
    Content { bytes: bytes.len() as u64, sha256: Sum::of(bytes) }
}

fn object(form: &Form, plain: Content, stored: Content) -> Object {
    let encrypted = !form.recipients.is_empty();
    Object { key: "k".to_owned(), stored, plain, codec: form.codec, encrypted }
}

/// All that comes out, if it is right to the end.
fn plain(object: &Object, stored: &[u8]) -> Result<Vec<u8>, CodecError> {
    let mut decoded = decode(object, Some(&identity()), Box::new(io::Cursor::new(stored.to_vec())))?;
    let mut plain = Vec::new();
    decoded.read_to_end(&mut plain)?;
    decoded.finish()?;
    Ok(plain)
}

/// Bytes that compress like a database: `seed` makes others.
fn text(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 64);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(format!("{{\"host\":\"db-{}\",\"value\":{}}}\0\0", state >> 61, state >> 40).bytes());
    }
    bytes.truncate(length);
    bytes
}
