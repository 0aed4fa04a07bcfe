//! Asking a target: one client for all of them, the request, and what may be wrong before there is a body.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::client::legacy::{Client as Pooled, Error as PooledError};
use hyper_util::rt::TokioExecutor;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tracing::warn;

use crate::secret::redacted_url;

use super::{Auth, CollectError, Target};

/// What Prometheus 3 sends by default, less the protobuf that we do not read.
const WANTED: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                      application/openmetrics-text;version=0.0.1;q=0.5,\
                      text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                      text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

/// The most bytes that are buffered of a connection, and so of an answer's head (hyper's default is about 400 KiB).
const BUFFER_BYTES: usize = 64 * 1024;

/// What all targets are asked with, http and https. Cheap to clone.
#[derive(Clone)]
pub struct Client(Pooled<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl Client {
    /// A client that trusts what this machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` are heeded).
    pub fn new() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (_, unusable) = roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let error = found.errors.first().map(ToString::to_string);
            warn!(unusable, error, "this machine trusts no certificate authority, so `https` targets will be refused");
        }
        Self::trusting(roots)
    }

    /// A client that trusts `roots` and nothing else.
    pub fn trusting(roots: RootCertStore) -> Self {
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows the default TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // The caller's timeout ends a scrape; this ends a connection attempt that the pool may carry on without it.
        tcp.set_connect_timeout(Some(Duration::from_secs(10)));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        Self(
            Pooled::builder(TokioExecutor::new())
                // No connection is kept. Many servers close idle ones after a minute, which is also how often we ask: a request that meets the
                // close is reset and must not look like a failed target. A new connection costs less than that doubt.
                .pool_max_idle_per_host(0)
                .http1_max_buf_size(BUFFER_BYTES)
                .build(connector),
        )
    }

    pub(super) async fn ask(&self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, CollectError> {
        self.0.request(request).await.map_err(|e| refused(&e))
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

/// The request that every scrape of `target` sends. An error names no secret.
pub(super) fn request(target: &Target) -> Result<Request<Empty<Bytes>>, String> {
    super::check_url(&target.url)?;
    let mut request = Request::get(target.url.as_str())
        .header(ACCEPT, WANTED)
        .header(ACCEPT_ENCODING, "gzip")
        .header(USER_AGENT, concat!("atlas-sidecar/", env!("CARGO_PKG_VERSION")))
        .header("X-Prometheus-Scrape-Timeout-Seconds", target.timeout.as_secs_f64().to_string())
        .body(Empty::new())
        .map_err(|e| e.to_string())?;
    if let Some(auth) = &target.auth {
        let value = match auth {
            Auth::Bearer(token) => format!("Bearer {}", token.reveal()),
            Auth::Basic { username, password } => {
                format!("Basic {}", base64(format!("{username}:{}", password.reveal()).as_bytes()))
            }
        };
        let mut value =
            HeaderValue::try_from(value).map_err(|_| "the bearer token cannot stand in a header".to_owned())?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

/// RFC 4648, with padding. Twelve lines instead of one more dependency.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let six = (bits >> (18 - 6 * at)) as usize & 63;
            out.push(if at <= chunk.len() { char::from(ALPHABET[six]) } else { '=' });
        }
    }
    out
}

/// Whether `answer` came from our own server: both ends of the connection are this machine, and the port is ours (E-2).
pub(super) fn is_from<B>(answer: &Response<B>, listen: SocketAddr) -> bool {
    let Some(ends) = answer.extensions().get::<HttpInfo>() else { return false };
    let (remote, local) = (ends.remote_addr(), ends.local_addr());
    let (there, here, own) = (remote.ip().to_canonical(), local.ip().to_canonical(), listen.ip().to_canonical());
    let same_machine = there == here || there.is_loopback();
    remote.port() == listen.port() && same_machine && (own.is_unspecified() || own == there)
}

/// Only 200 is an answer. Redirects are not followed: the place they lead to was not configured, and credentials would go there.
pub(super) fn check_status<B>(answer: &Response<B>) -> Result<(), String> {
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(());
    }
    let location = answer.headers().get(LOCATION).filter(|_| status.is_redirection());
    Err(match location.map(|v| redacted_url(&String::from_utf8_lossy(v.as_bytes()))) {
        Some(to) => {
            // 200 characters: enough for an address, not for a flood of the log.
            let to: String = to.chars().take(200).collect();
            format!("answered {status}, a redirect to `{to}`; redirects are not followed, configure the final address")
        }
        None if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            format!("answered {status}; the target wants other credentials")
        }
        None => format!("answered {status}"),
    })
}

/// What a failed request means, with all its causes.
fn refused(error: &PooledError) -> CollectError {
    let causes: Vec<&(dyn Error + 'static)> = causes(error).collect();
    if causes.iter().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut)) {
        return CollectError::Timeout;
    }
    match causes.iter().find_map(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => CollectError::Unreachable(bad_certificate(why)),
        Some(other) => CollectError::Unreachable(format!("TLS failed: {other}")),
        // The first one only says that the client failed.
        None => CollectError::Unreachable(words(&causes[1.min(causes.len() - 1)..])),
    }
}

fn bad_certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "its certificate is not from an authority that this machine trusts (`SSL_CERT_FILE` names further ones)"
                .to_owned()
        }
        other => format!("its certificate is refused: {other}"),
    }
}

/// `error` and what caused it. An `io::Error` hides its cause from `source`, so that is looked into as well.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inside.map(|e| e as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

/// The causes in one line; a cause that repeats the one before is left out.
fn words(causes: &[&(dyn Error + 'static)]) -> String {
    let mut words: Vec<String> = causes.iter().map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::globs::Globs;
    use crate::secret::Secret;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("\u{ff}?>", "w78/Pg==")]
        {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    fn target(url: &str, auth: Auth) -> Target {
        Target {
            name: "t".to_owned(),
            url: url.to_owned(),
            shown: String::new(),
            interval: Duration::from_secs(60),
            timeout: Duration::from_millis(9_500),
            metrics: Globs::all(),
            store: Globs::all(),
            auth: Some(auth),
            max_body_bytes: 1,
            max_samples: 1,
        }
    }

    /// E-11: neither an error nor a `Debug` of the request shows a secret.
    #[test]
    fn e11_a_request_hides_its_credentials() {
        let basic = Auth::Basic { username: "u".to_owned(), password: Secret::new("canary") };
        let request = super::request(&target("http://h/metrics", basic)).expect("a request");
        assert_eq!(request.headers()[AUTHORIZATION], "Basic dTpjYW5hcnk=");
        assert_eq!(request.headers()["x-prometheus-scrape-timeout-seconds"], "9.5");
        assert!(!format!("{request:?}").contains("dTpjYW5hcnk="));
        let error = super::request(&target("http://h/", Auth::Bearer(Secret::new("canary\n")))).expect_err("refused");
        assert!(!error.contains("canary"), "{error}");
    }

    #[test]
    fn redirects_are_named_without_their_secrets() {
        let answer = Response::builder().status(302).header(LOCATION, "http://u:canary@h/x?token=canary").body(());
        let error = check_status(&answer.expect("an answer")).expect_err("refused");
        assert!(error.contains("302 Found") && error.contains("not followed") && !error.contains("canary"), "{error}");
    }
}
