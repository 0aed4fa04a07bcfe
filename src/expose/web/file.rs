//! The file itself: from YAML to settings that make sense, with an error that names the key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use rustls::SupportedProtocolVersion;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::rate::Limit;
use super::tls::{CLIENTS, Clients, VERSIONS};

/// What the file says.
#[derive(Debug)]
pub struct File {
    /// `tls_server_config`, if TLS is asked for.
    pub tls: Option<Tls>,
    /// `http_server_config.headers`
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `basic_auth_users`: bcrypt hashes by user.
    pub users: BTreeMap<String, String>,
    /// `rate_limit`, where it is on.
    pub rate: Option<Limit>,
}

/// `tls_server_config`
#[derive(Debug)]
pub struct Tls {
    /// `cert` or `cert_file`
    pub certificate: Pem,
    /// `key` or `key_file`
    pub key: Pem,
    /// `client_ca` or `client_ca_file`
    pub authorities: Option<Pem>,
    /// `client_auth_type`
    pub clients: Clients,
    /// `client_allowed_sans`
    pub sans: Vec<String>,
    /// From `min_version` to `max_version`.
    pub versions: Vec<&'static SupportedProtocolVersion>,
}

/// Something in PEM.
pub enum Pem {
    /// In the file itself.
    Inline(String),
    /// In another one.
    File(PathBuf),
}

// By hand: an inline one may be a key.
impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("<inline>"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    tls_server_config: Option<RawTls>,
    http_server_config: Option<RawHttp>,
    basic_auth_users: Option<BTreeMap<String, String>>,
    rate_limit: Option<RawRate>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawTls {
    cert: Option<String>,
    cert_file: Option<String>,
    key: Option<String>,
    key_file: Option<String>,
    client_auth_type: Option<String>,
    client_ca: Option<String>,
    client_ca_file: Option<String>,
    client_allowed_sans: Option<Vec<String>>,
    min_version: Option<String>,
    max_version: Option<String>,
    cipher_suites: Option<IgnoredAny>,
    curve_preferences: Option<IgnoredAny>,
    prefer_server_cipher_suites: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawHttp {
    /// Without effect, since HTTP/1.1 is what is spoken; read for the sake of files that other exporters share.
    #[serde(rename = "http2")]
    _http2: Option<bool>,
    headers: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawRate {
    interval: Option<String>,
    burst: Option<u32>,
}

/// The response headers that the format allows, and their values where only some are (exporter-toolkit, `web/handler.go`).
const HEADERS: [(&str, &[&str]); 5] = [
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

/// Reads `text`; relative paths in it start at `folder`.
pub fn parse(text: &str, folder: &Path) -> Result<File, String> {
    // Never with a piece of the source in the error: the line beside the mistake may be a key.
    let options = serde_saphyr::options! { with_snippet: false };
    let raw = match text.trim().is_empty() {
        true => Raw::default(),
        false => serde_saphyr::from_str_with_options::<Option<Raw>>(text, options)
            .map_err(|e| e.render_with_formatter(&serde_saphyr::UserMessageFormatter))?
            .unwrap_or_default(),
    };
    Ok(File {
        tls: raw.tls_server_config.map(|tls| tls_of(tls, folder)).transpose()?.flatten(),
        headers: headers_of(raw.http_server_config.and_then(|http| http.headers).unwrap_or_default())?,
        users: raw.basic_auth_users.unwrap_or_default(),
        rate: raw.rate_limit.map(rate_of).transpose()?.flatten(),
    })
}

fn tls_of(raw: RawTls, folder: &Path) -> Result<Option<Tls>, String> {
    let chosen = [
        ("cipher_suites", raw.cipher_suites.is_some()),
        ("curve_preferences", raw.curve_preferences.is_some()),
        ("prefer_server_cipher_suites", raw.prefer_server_cipher_suites.is_some()),
    ];
    if let Some((key, _)) = chosen.iter().find(|(_, given)| *given) {
        return Err(format!(
            "`tls_server_config.{key}` cannot be set: rustls chooses, and offers good ones only; remove it"
        ));
    }
    let certificate = pem("cert", raw.cert, raw.cert_file, folder)?;
    let key = pem("key", raw.key, raw.key_file, folder)?;
    let authorities = pem("client_ca", raw.client_ca, raw.client_ca_file, folder)?;
    let clients = clients(raw.client_auth_type.as_deref())?;
    let versions = versions(raw.min_version.as_deref(), raw.max_version.as_deref())?;
    let sans = raw.client_allowed_sans.unwrap_or_default();
    if certificate.is_none() && key.is_none() && authorities.is_none() && clients.is_none() && sans.is_empty() {
        // As the toolkit does: a section that names none of these asks for no TLS.
        return Ok(None);
    }
    let clients = clients.unwrap_or(Clients::Unasked);
    check_clients(clients, authorities.is_some(), &sans)?;
    Ok(Some(Tls {
        certificate: certificate.ok_or("`tls_server_config` needs `cert_file` or `cert`")?,
        key: key.ok_or("`tls_server_config` needs `key_file` or `key`")?,
        authorities,
        clients,
        sans,
        versions,
    }))
}

fn pem(key: &str, inline: Option<String>, file: Option<String>, folder: &Path) -> Result<Option<Pem>, String> {
    let given = |text: Option<String>| text.filter(|t| !t.is_empty());
    match (given(inline), given(file)) {
        (Some(_), Some(_)) => Err(format!("`tls_server_config`: give `{key}` or `{key}_file`, not both")),
        (Some(text), None) => Ok(Some(Pem::Inline(text))),
        (None, Some(path)) => Ok(Some(Pem::File(folder.join(path)))),
        (None, None) => Ok(None),
    }
}

fn clients(word: Option<&str>) -> Result<Option<Clients>, String> {
    let Some(word) = word.filter(|w| !w.is_empty()) else { return Ok(None) };
    match CLIENTS.iter().find(|(name, _)| *name == word) {
        Some((_, clients)) => Ok(Some(*clients)),
        None => {
            Err(format!("`tls_server_config.client_auth_type`: `{word}` is none of {}", words(CLIENTS.map(|(n, _)| n))))
        }
    }
}

/// Combinations that would look like a check and be none.
fn check_clients(clients: Clients, authorities: bool, sans: &[String]) -> Result<(), String> {
    let verifies = matches!(clients, Clients::VerifiedIfGiven | Clients::Verified);
    if verifies && !authorities {
        return Err("`tls_server_config`: this `client_auth_type` needs `client_ca_file` or `client_ca`".to_owned());
    }
    if authorities && clients == Clients::Unasked {
        return Err("`tls_server_config`: a client CA is given, but no `client_auth_type` that uses it".to_owned());
    }
    if !sans.is_empty() && !matches!(clients, Clients::Any | Clients::Verified) {
        return Err(
            "`tls_server_config.client_allowed_sans` needs `client_auth_type` `RequireAndVerifyClientCert` or \
                    `RequireAnyClientCert`: with the others a client may come without a certificate"
                .to_owned(),
        );
    }
    Ok(())
}

fn versions(min: Option<&str>, max: Option<&str>) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let place = |key: &str, word: Option<&str>, default| match word.filter(|w| !w.is_empty()) {
        None => Ok(default),
        Some(word) => VERSIONS.iter().position(|(name, _)| *name == word).ok_or_else(|| {
            let why = if matches!(word, "TLS10" | "TLS11") { "; rustls has no older ones" } else { "" };
            format!("`tls_server_config.{key}`: `{word}` is none of {}{why}", words(VERSIONS.map(|(n, _)| n)))
        }),
    };
    let (min, max) = (place("min_version", min, 0)?, place("max_version", max, VERSIONS.len() - 1)?);
    let between = VERSIONS.get(min..=max).filter(|v| !v.is_empty());
    let between = between.ok_or("`tls_server_config`: `min_version` is above `max_version`")?;
    Ok(between.iter().map(|(_, version)| *version).collect())
}

fn headers_of(raw: BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers = Vec::new();
    // The format says: unset if blank.
    for (name, value) in raw.into_iter().filter(|(_, value)| !value.is_empty()) {
        let Some((_, values)) = HEADERS.iter().find(|(allowed, _)| *allowed == name) else {
            let allowed = words(HEADERS.map(|(n, _)| n));
            return Err(format!("`http_server_config.headers`: `{name}` cannot be set; only {allowed}"));
        };
        if !values.is_empty() && !values.contains(&value.as_str()) {
            return Err(format!(
                "`http_server_config.headers.{name}`: `{value}` is none of {}",
                words(values.iter().copied())
            ));
        }
        let invalid = |_| format!("`http_server_config.headers.{name}` holds a character that no header may have");
        let value = HeaderValue::from_str(&value).map_err(invalid)?;
        headers.push((HeaderName::try_from(name.as_str()).map_err(|e| e.to_string())?, value));
    }
    Ok(headers)
}

fn rate_of(raw: RawRate) -> Result<Option<Limit>, String> {
    let text = raw.interval.unwrap_or_else(|| "0".to_owned());
    let interval = go_duration(text.trim()).ok_or_else(|| {
        format!("`rate_limit.interval`: `{text}` is not a duration of at most a day like `100ms`, `1s`, `1m30s`")
    })?;
    match (interval.is_zero(), raw.burst.unwrap_or(0)) {
        (true, _) => Ok(None),
        (false, 0) => Err("`rate_limit.burst` has to be at least 1, or every request is refused".to_owned()),
        (false, burst) => Ok(Some(Limit { interval, burst })),
    }
}

/// Go's way to write a duration, up to a day: numbers with units, without spaces; `0` needs none.
fn go_duration(mut text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    loop {
        let number = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let rest = &text[number..];
        let (unit, factor) =
            UNITS.iter().filter(|(unit, _)| rest.starts_with(unit)).max_by_key(|(unit, _)| unit.len())?;
        seconds += text[..number].parse::<f64>().ok()? * factor;
        text = &rest[unit.len()..];
        if text.is_empty() {
            break;
        }
    }
    (seconds <= 86_400.0).then(|| Duration::from_secs_f64(seconds))
}

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (text, millis) in
            [("0", 0), ("0s", 0), ("1s", 1_000), ("100ms", 100), ("1m30s", 90_000), ("1.5h", 5_400_000), ("2500us", 2)]
        {
            assert_eq!(go_duration(text).map(|d| d.as_millis()), Some(millis), "{text}");
        }
        for text in ["", "1", "s", "-1s", "1 s", "1d", "1s2", "25h", "1..2s", "9e9s"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}
