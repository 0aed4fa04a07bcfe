//! The subject alternative names of a certificate: the few bytes of X.509 that `client_allowed_sans` needs.
//!
//! The certificate verifier of rustls matches host names by its own rules; the format asks for an exact match of a DNS name, an address, an
//! e-mail address or a URI, so the names themselves are needed. This walks the DER of a certificate (RFC 5280, 4.1 and
//! 4.2.1.6) to them. Whatever is not as expected gives no names at all, and no name is allowed by nothing.

use std::net::IpAddr;

/// DER of the object identifier 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `extensions [3]` of a certificate.
const EXTENSIONS: u8 = 0xa3;

const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const ADDRESS: u8 = 0x87;

/// The DNS names, e-mail addresses, URIs and addresses of a certificate in DER.
pub fn names(certificate: &[u8]) -> Vec<String> {
    extension(certificate).and_then(general_names).unwrap_or_default()
}

/// The content of the subject alternative names' extension.
fn extension(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (mut fields, _) = expect(SEQUENCE, certificate)?;
    let mut extensions = None;
    while !fields.is_empty() {
        let (tag, content, rest) = element(fields)?;
        if tag == EXTENSIONS {
            extensions = Some(content);
        }
        fields = rest;
    }
    let (mut list, _) = expect(SEQUENCE, extensions?)?;
    while !list.is_empty() {
        let (extension, rest) = expect(SEQUENCE, list)?;
        let (id, value) = expect(OBJECT, extension)?;
        if id == SUBJECT_ALT_NAME {
            // `critical` stands before the value where it is true.
            let value = expect(BOOLEAN, value).map_or(value, |(_, rest)| rest);
            return expect(OCTETS, value).map(|(content, _)| content);
        }
        list = rest;
    }
    None
}

fn general_names(extension: &[u8]) -> Option<Vec<String>> {
    let (mut list, _) = expect(SEQUENCE, extension)?;
    let mut names = Vec::new();
    while !list.is_empty() {
        let (tag, content, rest) = element(list)?;
        match tag {
            EMAIL | DNS | URI => names.push(std::str::from_utf8(content).ok()?.to_owned()),
            ADDRESS => names.push(address(content)?.to_string()),
            _ => {}
        }
        list = rest;
    }
    Some(names)
}

fn address(content: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(content).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(content).map(IpAddr::from)).ok()
}

/// The content of the element at the front, if it has this tag, and what follows it.
fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// Tag, content and rest. Tags here are one byte; lengths have at most four.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], mut rest) = der.split_first_chunk()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let bytes;
        (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f)).filter(|(b, _)| (1..=4).contains(&b.len()))?;
        length = bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(["a.example".to_owned(), "192.0.2.7".to_owned()]).expect("valid");
        params.subject_alt_names.push(SanType::IpAddress("2001:db8::1".parse().expect("valid")));
        params.subject_alt_names.push(SanType::Rfc822Name("who@example.org".try_into().expect("valid")));
        params.subject_alt_names.push(SanType::URI("spiffe://example/x".try_into().expect("valid")));
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn all_four_kinds_are_read() {
        assert_eq!(
            names(&certificate()),
            ["a.example", "192.0.2.7", "2001:db8::1", "who@example.org", "spiffe://example/x"]
        );
        let key = KeyPair::generate().expect("a key");
        let bare = CertificateParams::new(Vec::new()).expect("valid").self_signed(&key).expect("a certificate");
        assert!(names(bare.der()).is_empty());
    }

    #[test]
    fn a_broken_certificate_has_no_names_or_its_own() {
        let whole = certificate();
        let expected = names(&whole);
        for cut in 0..whole.len() {
            assert!(names(&whole[..cut]).is_empty(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 0xff;
            // A bent byte may change a name, but never breaks the walk.
            assert!(names(&bent).len() <= expected.len() + 8);
        }
    }
}
