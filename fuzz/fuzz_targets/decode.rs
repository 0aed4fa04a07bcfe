//! Arbitrary bytes as a stored object, with a manifest that says that they are the right ones. Whatever comes out, it is no more than the manifest allows, there is no
//! panic, and it counts as whole only where it is what the manifest says.
#![no_main]

use std::io::{Cursor, Read};
use std::sync::LazyLock;

use atlas_sidecar::backup::codec::{Identity, decode};
use atlas_sidecar::backup::manifest::{Codec, Content, Object, Sum};
use libfuzzer_sys::fuzz_target;

/// As `age-keygen` printed it; the seeds are encrypted for it.
const SECRET: &str = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
/// What the manifest says of the plain bytes.
const PLAIN: &[u8] = b"the plain bytes of a seed\n";

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::parse(SECRET).expect("an identity"));

fuzz_target!(|bytes: &[u8]| {
    let content = |bytes: &[u8]| Content { bytes: bytes.len() as u64, sha256: Sum::of(bytes) };
    for (codec, encrypted) in [(Codec::Gzip, false), (Codec::Zstd, false), (Codec::Gzip, true)] {
        let object = Object { key: "k".to_owned(), stored: content(bytes), plain: content(PLAIN), codec, encrypted };
        let Ok(mut decoded) = decode(&object, Some(&*IDENTITY), Box::new(Cursor::new(bytes.to_vec()))) else { continue };
        let mut plain = Vec::new();
        let read = decoded.read_to_end(&mut plain);
        assert!(plain.len() <= PLAIN.len());
        let whole = decoded.finish().is_ok();
        assert_eq!(whole, read.is_ok());
        assert!(!whole || plain == PLAIN);
    }
});
