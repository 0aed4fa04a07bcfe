//! age's own vectors, and what our keys look like.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::ZlibDecoder;

use super::*;
use crate::backup::manifest::Sum;

const SECRET: &str = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
const PUBLIC: &str = "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef";

/// A vector: what is expected, then the file.
struct Vector {
    expect: String,
    payload: Option<String>,
    identity: Identity,
    sealed: Vec<u8>,
}

fn vectors() -> Vec<(PathBuf, Vector)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/age");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let vectors = files.filter(|path| path.extension().is_none());
    vectors.map(|path| (path.clone(), vector(&std::fs::read(path).unwrap()))).collect()
}

fn vector(bytes: &[u8]) -> Vector {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap();
    let (head, body) = (str::from_utf8(&bytes[..end]).unwrap(), &bytes[end + 2..]);
    let all = |name: &str| {
        let named = head.lines().filter_map(|line| line.split_once(": ").filter(|(key, _)| *key == name));
        named.map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
    };
    let mut sealed = body.to_vec();
    if !all("compressed").is_empty() {
        sealed.clear();
        ZlibDecoder::new(body).read_to_end(&mut sealed).unwrap();
    }
    let identities = all("identity");
    let identity = if identities.is_empty() { SECRET.to_owned() } else { identities.join("\n") };
    Vector {
        expect: all("expect").remove(0),
        payload: all("payload").pop(),
        identity: Identity::parse(&identity).unwrap(),
        sealed,
    }
}

#[test]
fn the_vectors_of_age_come_out_as_they_must() {
    let vectors = vectors();
    assert!(vectors.len() > 60, "{}", vectors.len());
    for (path, vector) in vectors {
        let mut plain = Vec::new();
        let opened = open(&vector.identity, vector.sealed.as_slice()).map_err(CodecError::from);
        let outcome = match opened {
            Err(CodecError::WrongIdentity) => "no match",
            // A file that ends before the nonce.
            Err(_) if vector.expect == "payload failure" => "payload failure",
            Err(CodecError::Damaged(why)) if why.contains("file key signed") => "HMAC failure",
            Err(_) => "header failure",
            Ok(mut opener) => match opener.read_to_end(&mut plain) {
                Ok(_) => "success",
                Err(_) => "payload failure",
            },
        };
        assert_eq!(outcome, vector.expect, "{}", path.display());
        // In front of a failure ours gives less than others, which look at what follows a chunk only after it.
        if let Some(payload) = vector.payload.filter(|_| outcome == "success") {
            assert_eq!(Sum::of(&plain).as_str(), payload, "what came out of {}", path.display());
        }
    }
}

#[test]
fn what_is_sealed_is_opened_by_each_of_its_recipients_and_nobody_else() {
    let identities: Vec<Identity> = (1..=3).map(identity).collect();
    let recipients: Vec<Recipient> = identities[..2].iter().flat_map(|identity| identity.recipients()).collect();
    for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000] {
        let plain: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        let (mut sealer, mut sealed) = seal(&recipients).unwrap();
        plain.chunks(70_001).for_each(|piece| sealer.push(piece, &mut sealed));
        sealer.finish(&mut sealed);
        for identity in &identities[..2] {
            let mut back = Vec::new();
            open(identity, sealed.as_slice()).unwrap().read_to_end(&mut back).unwrap();
            assert_eq!(back, plain);
        }
        let stranger = open(&identities[2], sealed.as_slice()).map(drop).map_err(CodecError::from);
        assert!(matches!(stranger, Err(CodecError::WrongIdentity)), "{stranger:?}");
    }
}

/// Its key is `seed`, 32 times.
fn identity(seed: u8) -> Identity {
    let hrp = bech32::Hrp::parse("age-secret-key-").unwrap();
    Identity::parse(&bech32::encode_upper::<bech32::Bech32>(hrp, &[seed; 32]).unwrap()).unwrap()
}

#[test]
fn keys_read_back_and_secrets_are_not_shown() {
    let identity = Identity::parse(&format!("# created: today\n\n{SECRET}\n")).unwrap();
    let recipient = identity.recipients().next().unwrap();
    assert_eq!(Recipient::parse(&recipient.to_string()), Ok(recipient));
    assert_eq!(format!("{identity:?}"), "<secret>");
    assert_eq!(recipient.to_string(), PUBLIC);
    for bad in [
        "",
        "age1",
        &PUBLIC.to_uppercase(),
        &PUBLIC.replace('q', "p"),
        SECRET,
    ] {
        assert!(Recipient::parse(bad).unwrap_err().starts_with("no age recipient"), "{bad}");
    }
    for bad in ["", "# nothing", PUBLIC, &SECRET.to_lowercase(), &SECRET.replace("LM0", "LMQ")] {
        let why = Identity::parse(bad).unwrap_err();
        assert!(why.contains("no `AGE-SECRET-KEY-1…`") && !why.contains("LMQ"), "{bad}: {why}");
    }
    // A point of small order.
    let zero = bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("age").unwrap(), &[0; 32]).unwrap();
    assert!(Recipient::parse(&zero).unwrap_err().contains("nobody can have"));
}

#[test]
fn a_file_that_is_no_identity_is_told_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("identity.txt");
    assert!(Identity::from_file(&file).unwrap_err().contains("identity.txt"));
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    assert_eq!(Identity::from_file(&file).unwrap().recipients().count(), 1);
    std::fs::write(&file, "#".repeat(70_000)).unwrap();
    assert!(Identity::from_file(&file).unwrap_err().contains("longer than"));
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(Identity::from_file(&file).unwrap_err().contains("identity.txt"));
}
