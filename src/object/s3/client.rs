//! The SDK's client: TLS by ring, our time limits, few retries.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::InterceptorContext;
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction, RetryConfig};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

use super::{Checksum, Settings, attempt};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How often the SDK tries by itself.
const TRIES: u32 = 2;

pub(super) fn client(settings: &Settings) -> Result<Client, String> {
    if settings.access_key_id.is_empty() || settings.secret_access_key.reveal().is_empty() {
        return Err("a bucket needs `access_key_id` and `secret_access_key`".to_owned());
    }
    let credentials = Credentials::new(
        &settings.access_key_id,
        settings.secret_access_key.reveal(),
        None,
        None,
        "the sidecar's configuration",
    );
    let http = http(settings)?;
    let mut config = limits(attempt(0))
        // A fixed one: what a newer one changes is tried out before it is taken.
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .region(Region::new(settings.region.clone()))
        .credentials_provider(credentials)
        .force_path_style(settings.path_style)
        .request_checksum_calculation(match settings.checksum {
            Checksum::Required => RequestChecksumCalculation::WhenRequired,
            Checksum::Supported => RequestChecksumCalculation::WhenSupported,
        })
        // rclone sends the whole object's checksum with a part of it. Manifests know each object's SHA-256 anyway.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::standard().with_max_attempts(TRIES).with_initial_backoff(Duration::from_millis(300)))
        .retry_classifier(TooMany)
        // Downloads are watched by `patient`, which goes on where one stalls instead of ending it.
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().download_enabled(false).grace_period(attempt(0)).build(),
        );
    config.set_endpoint_url(settings.endpoint.clone());
    Ok(Client::from_conf(config.build()))
}

fn http(settings: &Settings) -> Result<SharedHttpClient, String> {
    let client = aws_smithy_http_client::Builder::new();
    if settings.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
        // Without reading the system's certificates, of which there may be none.
        return Ok(client.build_http());
    }
    let mut trust = TrustStore::default();
    if let Some(file) = &settings.ca_file {
        let named = |e: String| format!("`{}`: {e}", file.display());
        let pem = std::fs::read(file).map_err(|e| named(e.to_string()))?;
        certificates(&pem).map_err(named)?;
        trust.add_pem_certificate(pem);
    }
    let tls = TlsContext::builder().with_trust_store(trust).build().map_err(|e| e.to_string())?;
    Ok(client.tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(tls).build_https())
}

/// Whether there are certificates in `pem`, and nothing that is none: the SDK panics on that at the first request.
fn certificates(pem: &[u8]) -> Result<(), String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(()) }
}

/// A configuration, or a change to one, that gives each try `attempt`. The SDK itself waits for ever.
pub(super) fn limits(attempt: Duration) -> Builder {
    Config::builder().timeout_config(
        TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(attempt)
            .operation_timeout(attempt * TRIES + CONNECT)
            .build(),
    )
}

/// 429 means "later", which the SDK does not know.
#[derive(Debug)]
struct TooMany;

impl ClassifyRetry for TooMany {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().map(|answer| answer.status().as_u16()) {
            Some(429) => RetryAction::throttling_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "429 Too Many Requests"
    }
}
