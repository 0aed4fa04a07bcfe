//! What only a bucket does.

use std::path::PathBuf;

use atlas_sidecar::object::s3::{Checksum, S3};
use atlas_sidecar::object::{
    self, Destination, ObjectError, PART_BYTES, Part, Settings, get_small, list_all, open_bare,
};
use atlas_sidecar::secret::Secret;
use bytes::Bytes;
use s3s::s3_error;

use super::{key, noise, store_in_parts};
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::S3Server;

fn with(server: &S3Server, change: impl FnOnce(&mut object::s3::Settings)) -> Settings {
    let mut settings = server.settings("p");
    change(&mut settings.s3);
    settings
}

fn denied<T>(result: Result<T, ObjectError>) -> String {
    match result {
        Err(ObjectError::Denied(words)) => {
            assert!(!words.contains("canary"), "{words}");
            words
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn keys_lie_below_the_prefix_or_none() {
    let server = S3Server::start();
    for (prefix, stored) in [("", "a/k"), ("p", "p/a/k"), ("p/q", "p/q/a/k")] {
        let store = open_bare(&server.settings(prefix)).unwrap();
        store.put(&key("a/k"), Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(server.keys(), [stored]);
        assert_eq!(store.place(), format!("s3://backups/{prefix}").trim_end_matches('/'));
        assert_eq!(list_all(&*store, "a").await.unwrap()[0].key, key("a/k"));
        store.delete(&key("a/k")).await.unwrap();
    }
}

/// The server's XML cannot carry a control character; ours asks for URL encoding, but this server does not know that: so without one here.
#[tokio::test]
async fn what_is_no_key_is_left_out() {
    let server = S3Server::start();
    for name in ["p/k", "p/", "p/a b", "p/ü", "p//x", "p/.hidden", "p/a+b", "p/50%25", "q/k"] {
        server.store(name, "x");
    }
    let store = open_bare(&server.settings("p")).unwrap();
    let listed = list_all(&*store, "").await.unwrap();
    assert_eq!(listed.into_iter().map(|object| object.key).collect::<Vec<_>>(), [key("k")]);
}

#[tokio::test]
async fn pages_of_any_size_make_one_listing() {
    let server = S3Server::start();
    server.page(3);
    for i in 0..10 {
        server.store(&format!("p/k{i}"), "x");
    }
    let store = open_bare(&server.settings("p")).unwrap();
    assert_eq!(list_all(&*store, "k").await.unwrap().len(), 10);
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn who_may_not_is_told_what_and_where() {
    let server = S3Server::start();
    let ask = async |settings: &Settings| {
        let store = open_bare(settings).unwrap();
        denied(store.put(&key("k"), Bytes::from_static(b"x")).await);
        denied(store.get(&key("k"), Part::default()).await);
        denied(store.upload(&key("k")).await);
        denied(store.list("", None).await)
    };
    let words = ask(&with(&server, |s3| s3.secret_access_key = Secret::new("another-canary"))).await;
    assert!(words.contains("SignatureDoesNotMatch") && words.contains("s3://backups/p/"), "{words}");
    let words = ask(&with(&server, |s3| s3.access_key_id = "AKIANOBODY".to_owned())).await;
    assert!(words.contains("403"), "{words}");
    let mut settings = server.settings("p");
    settings.destination = Destination::S3 { bucket: "nowhere".to_owned(), prefix: String::new() };
    let words = ask(&settings).await;
    assert!(words.contains("NoSuchBucket") && words.contains("nowhere") && words.contains(&server.endpoint), "{words}");
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_once() {
    let server = S3Server::start();
    let refused = |settings: &Settings| open_bare(settings).map(drop).unwrap_err();
    assert!(refused(&with(&server, |s3| s3.access_key_id = String::new())).contains("access_key_id"));
    assert!(refused(&with(&server, |s3| s3.secret_access_key = Secret::new(""))).contains("secret_access_key"));
    for endpoint in
        ["no address", "localhost:9000", "ftp://h", "https://user:canary@h", "https://h/?x=canary", "https://"]
    {
        let words = refused(&with(&server, |s3| s3.endpoint = Some(endpoint.to_owned())));
        assert!(words.contains("`endpoint`") && !words.contains("canary"), "{words}");
    }
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for path in [scratch.path().join("none"), file("empty", ""), file("bad", bad)] {
        let words = refused(&with(&server, |s3| {
            s3.endpoint = Some("https://127.0.0.1:1".to_owned());
            s3.ca_file = Some(path.clone());
        }));
        assert!(words.contains(path.to_str().unwrap()), "{words}");
    }
}

#[tokio::test]
async fn nobody_there_is_transient() {
    let server = S3Server::start();
    let nobody = format!("http://{}", crate::support::free_address());
    let store = open_bare(&with(&server, |s3| s3.endpoint = Some(nobody))).unwrap();
    let Err(ObjectError::Transient(words)) = store.put(&key("k"), Bytes::new()).await else { panic!() };
    assert!(words.contains("refused") && words.contains("put `s3://backups/p/k`"), "{words}");
}

/// Over TLS, with an authority of their own: trusted when named, refused for good otherwise.
#[tokio::test]
async fn a_private_authority_is_trusted_when_it_is_named() {
    let server = S3Server::start();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let endpoint = tls_in_front_of(&server, &certified);
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("ca.pem");
    std::fs::write(&file, certified.cert.pem()).unwrap();
    let trusting = with(&server, |s3| (s3.endpoint, s3.ca_file) = (Some(endpoint.clone()), Some(file)));
    let store = open_bare(&trusting).unwrap();
    store.put(&key("k"), noise(1_000_000, 1)).await.unwrap();
    assert_eq!(get_small(&*store, &key("k"), 1_000_000).await.unwrap(), noise(1_000_000, 1));
    let distrusting = with(&server, |s3| s3.endpoint = Some(endpoint));
    let words = denied(open_bare(&distrusting).unwrap().put(&key("k"), Bytes::new()).await);
    assert!(words.contains("certificate"), "{words}");
}

/// Ends TLS and passes on; the signature is of the host that the client named.
fn tls_in_front_of(server: &S3Server, certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> String {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let upstream = server.endpoint.strip_prefix("http://").unwrap().to_owned();
    let tasks = atlas_sidecar::task::Tasks::new();
    let spawner = tasks.clone();
    tasks.spawn("tls", async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
            spawner.spawn("tls connection", async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = tokio::net::TcpStream::connect(upstream).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    format!("https://localhost:{port}")
}

#[tokio::test]
async fn checksums_go_along_where_they_are_wanted() {
    let server = S3Server::start();
    let proxy = Proxy::start(&server.endpoint);
    for (checksum, sent) in [(Checksum::Required, false), (Checksum::Supported, true)] {
        let settings = with(&server, |s3| (s3.checksum, s3.endpoint) = (checksum, Some(proxy.endpoint.clone())));
        let store = open_bare(&settings).unwrap();
        let (bytes, before) = (noise(PART_BYTES + 7, 1), proxy.seen().len());
        store.put(&key("small"), noise(1000, 2)).await.unwrap();
        store_in_parts(&*store.upload(&key("large")).await.unwrap(), &bytes).await.unwrap();
        assert_eq!(get_small(&*store, &key("large"), u64::MAX).await.unwrap(), bytes);
        for request in proxy.seen()[before..].iter().filter(|request| request.method == "PUT") {
            let header = |name: &str| request.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
            assert_eq!(header("x-amz-checksum-crc32").is_some(), sent, "{request:?}");
            // From memory, signed as a whole: nothing in chunks, which Garage and Ceph refuse over plain HTTP.
            assert_eq!(header("x-amz-content-sha256").map(str::len), Some(64), "{request:?}");
            assert_eq!((header("content-encoding"), header("transfer-encoding")), (None, None), "{request:?}");
        }
    }
    let store = S3::open(&server.settings("p").s3, "backups", "p").unwrap();
    assert!(store.refuses_damaged(&key("damaged")).await.unwrap());
    assert_eq!(server.bytes("p/damaged"), None);
}

#[tokio::test]
async fn an_upload_that_fails_leaves_no_parts_when_it_is_aborted() {
    let server = S3Server::start();
    let store = open_bare(&server.settings("p")).unwrap();
    let upload = store.upload(&key("large")).await.unwrap();
    upload.part(1, noise(PART_BYTES, 1)).await.unwrap();
    server.fail("UploadPart", 99, || s3_error!(AccessDenied));
    denied(upload.part(2, noise(10, 2)).await);
    server.heal();
    assert_eq!(server.open_uploads(), 1);
    upload.abort().await.unwrap();
    assert_eq!(server.open_uploads(), 0);
    assert!(matches!(upload.part(2, noise(10, 2)).await, Err(ObjectError::Missing(_))));
}

/// The SDK itself: twice, and 429 is one of the things that pass.
#[tokio::test]
async fn the_sdk_tries_twice() {
    let server = S3Server::start();
    let proxy = Proxy::start(&server.endpoint);
    let store = open_bare(&with(&server, |s3| s3.endpoint = Some(proxy.endpoint.clone()))).unwrap();
    for fault in [
        Fault::Answer(503, "SlowDown"),
        Fault::Answer(500, "InternalError"),
        Fault::Answer(429, "TooManyRequests"),
        Fault::Reset,
        Fault::LoseAnswer,
    ] {
        proxy.fail("PUT", 1, fault);
        store.put(&key("k"), noise(1000, 1)).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
    }
    let before = proxy.seen().len();
    proxy.fail("PUT", 99, Fault::Answer(503, "SlowDown"));
    let Err(ObjectError::Transient(words)) = store.put(&key("k"), noise(1000, 1)).await else { panic!() };
    assert!(words.contains("503 SlowDown: injected"), "{words}");
    assert_eq!(proxy.seen().len() - before, 2);
    proxy.fail("PUT", 99, Fault::Answer(403, "AccessDenied"));
    denied(store.put(&key("k"), noise(1000, 1)).await);
    assert_eq!(proxy.seen().len() - before, 3);
}

#[tokio::test]
async fn an_answer_that_is_no_s3_is_corrupt() {
    let server = S3Server::start();
    let proxy = Proxy::start(&server.endpoint);
    let store = open_bare(&with(&server, |s3| s3.endpoint = Some(proxy.endpoint.clone()))).unwrap();
    server.store("p/k", "x");
    proxy.fail("GET", 99, Fault::FlipBit);
    assert!(matches!(store.list("", None).await, Err(ObjectError::Corrupt(_))));
}
