//! `health`: asks the running sidecar whether it is ready. For container health checks, so it needs no other program.
//!
//! Whether the server speaks TLS is for the web config file to say, which may have changed since the server read it: so plain HTTP is tried
//! first, and TLS where the answer is not HTTP. The certificate is not verified, as nothing is sent that anybody could not know, and a
//! container asks its own loopback address, for which no certificate is made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Exit, Invocation, complain, json_line, load, print};

/// A ready server answers at once; and the answer should be ours, not that of Docker's own timeout (30 s by default).
const LIMIT: Duration = Duration::from_secs(3);

/// A ready answer has some hundred bytes.
const ANSWER_BYTES: u64 = 16 << 10;

/// Asks, prints, and ends with 0 where the answer is 200.
pub async fn run(invocation: &Invocation) -> Exit {
    let loaded = match load(invocation) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let address = reachable(loaded.settings.server.listen);
    let answer = tokio::time::timeout(LIMIT, ask(address)).await;
    let (ready, words) = match answer.unwrap_or_else(|_| Err(format!("no answer in {} s", LIMIT.as_secs()))) {
        Ok((200, words)) => (true, words),
        Ok((status, words)) => (false, format!("status {status}: {words}")),
        Err(why) => (false, why),
    };
    if invocation.json {
        print(&json_line(&serde_json::json!({ "ready": ready, "address": address.to_string(), "answer": words })));
    }
    match (ready, invocation.json) {
        (true, true) => Exit::Done,
        (true, false) => print(&format!("{words}\n")),
        (false, _) => {
            complain(&format!("the sidecar at `{address}` is not ready: {words}"), None);
            Exit::Failed
        }
    }
}

/// The address under which a server that listens on all addresses is asked.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn ask(address: SocketAddr) -> Result<(u16, String), String> {
    let plain = connect(address).await?;
    match exchange(plain, address).await {
        // Our own server tells whoever speaks HTTP on a TLS port so with a 400; others end the connection, with or without an alert.
        Ok((400, _)) | Err(_) => ask_over_tls(address).await,
        Ok(answer) => Ok(answer),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|e| format!("cannot connect: {e}"))
}

async fn ask_over_tls(address: SocketAddr) -> Result<(u16, String), String> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("no TLS: {e}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let name = ServerName::IpAddress(address.ip().into());
    let stream = connect(address).await?;
    let answer = match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => exchange(stream, address).await,
        Err(e) => Err(e),
    };
    answer.or_else(|e| match wants_certificate(&e) {
        true => Ok((200, "listening; it answers only to clients with a certificate".to_owned())),
        false => Err(format!("neither HTTP nor HTTPS is understood: {e}")),
    })
}

fn wants_certificate(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    matches!(
        inner,
        // RFC 8446, section 6.2; rustls, which the server is made of, sends it in TLS 1.2 as well.
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired))
    )
}

/// Status and first line of the body of `/-/ready`.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
) -> std::io::Result<(u16, String)> {
    let request = format!("GET /-/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut bytes = Vec::new();
    let end = stream.take(ANSWER_BYTES).read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes);
    match parsed(&text) {
        Some(answer) => Ok(answer),
        // What ended the connection says more than what it did not say.
        None => Err(end.err().unwrap_or_else(|| std::io::Error::other("the answer is not HTTP"))),
    }
}

fn parsed(text: &str) -> Option<(u16, String)> {
    let status = text.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let line = body.lines().find(|line| !line.trim().is_empty()).unwrap_or("ready");
    Some((status, line.trim().chars().take(200).filter(|c| !c.is_control()).collect()))
}

/// Takes any certificate, but checks that the server holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
