//! `tls_server_config`, made into a configuration of rustls.
//!
//! The provider is named here (ring) and not taken from a process-wide default, which a dependency could have set to another. Cipher suites and
//! curves are rustls's: all of its suites are good ones, and a list in a file only ages.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

use super::san;

/// What the section asks for, with its files read.
pub struct Settings {
    /// The chain in PEM, leaf first.
    pub certificates: Vec<u8>,
    /// The leaf's key in PEM.
    pub key: Vec<u8>,
    /// What clients have to show.
    pub clients: Clients,
    /// The authorities of their certificates in PEM.
    pub authorities: Option<Vec<u8>>,
    /// The names one of which a client's certificate has to carry; empty for any.
    pub sans: Vec<String>,
    /// The versions that are spoken.
    pub versions: Vec<&'static SupportedProtocolVersion>,
}

/// `client_auth_type`, with Go's meanings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// `NoClientCert`: nothing.
    Unasked,
    /// `RequestClientCert`: a certificate if they like, not checked.
    Asked,
    /// `RequireAnyClientCert`: any certificate, not checked.
    Any,
    /// `VerifyClientCertIfGiven`: nothing, or a certificate of an authority.
    VerifiedIfGiven,
    /// `RequireAndVerifyClientCert`: a certificate of an authority.
    Verified,
}

/// The words of the file.
pub const CLIENTS: [(&str, Clients); 6] = [
    ("NoClientCert", Clients::Unasked),
    ("RequestClientCert", Clients::Asked),
    ("RequireAnyClientCert", Clients::Any),
    // The toolkit's earlier name for the same.
    ("RequireClientCert", Clients::Any),
    ("VerifyClientCertIfGiven", Clients::VerifiedIfGiven),
    ("RequireAndVerifyClientCert", Clients::Verified),
];

/// The words of `min_version` and `max_version`, oldest first.
pub const VERSIONS: [(&str, &SupportedProtocolVersion); 2] = [("TLS12", &TLS12), ("TLS13", &TLS13)];

/// The configuration for rustls.
pub fn configuration(settings: Settings) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&settings.certificates).map_err(|e| format!("the certificate {e}"))?;
    // Without the parser's words: they may quote a line of what should have been a key.
    let key = PrivateKeyDer::from_pem_slice(&settings.key)
        .map_err(|_| "the key is not a private key in PEM (PKCS #8, PKCS #1 or SEC 1, not encrypted)".to_owned())?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&settings.versions)
        .map_err(|e| e.to_string())?;
    let builder = match verifier(&settings, &provider)? {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|e| format!("certificate and key do not work together: {e}"))?;
    // HTTP/2 is never offered; a client that offers nothing else is told so in the handshake.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if chain.is_empty() => Err("holds no certificate in PEM".to_owned()),
        Ok(chain) => Ok(chain),
        Err(_) => Err("is not valid PEM".to_owned()),
    }
}

fn verifier(
    settings: &Settings,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let chain = match settings.clients {
        Clients::Unasked => return Ok(None),
        Clients::Asked | Clients::Any => None,
        Clients::VerifiedIfGiven | Clients::Verified => {
            Some(authorities(settings.authorities.as_deref().unwrap_or_default(), provider)?)
        }
    };
    Ok(Some(Arc::new(Verifier {
        chain,
        required: matches!(settings.clients, Clients::Any | Clients::Verified),
        sans: settings.sans.clone(),
        provider: provider.clone(),
    })))
}

fn authorities(pem: &[u8], provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(|e| format!("the client CA {e}"))? {
        roots.add(certificate).map_err(|e| format!("the client CA cannot be used: {e}"))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| format!("the client CA cannot be used: {e}"))
}

/// Asks for a client's certificate, checks that its key is there, and the chain and the names where that is wanted.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<dyn ClientCertVerifier>>,
    required: bool,
    sans: Vec<String>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.as_ref().map_or(&[], |chain| chain.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.verify_client_cert(leaf, intermediates, now)?;
        }
        if !self.sans.is_empty() && !san::names(leaf).iter().any(|name| self.sans.contains(name)) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
