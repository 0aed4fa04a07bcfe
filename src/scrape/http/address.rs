//! A target's address: what it must be like, and whether it is our own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper::Uri;
use hyper::http::uri::Scheme;

/// Whether `url` can be scraped; otherwise what is wrong with it, without repeating it.
pub fn check_url(url: &str) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|e| format!("not a URL: {e}"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(other) => return Err(format!("scheme `{other}`: must be `http` or `https`")),
        None => return Err("must begin with `http://` or `https://`".to_owned()),
    }
    let authority = uri.authority().map_or("", |a| a.as_str());
    if authority.contains('@') {
        return Err(
            "credentials in the address: put them into the target's own keys, where they are kept secret".to_owned()
        );
    }
    if uri.host().unwrap_or("").is_empty() {
        return Err("no host".to_owned());
    }
    // `http` reads `h:`, `h:x` and `h:70000` as a host without a port.
    let behind_host = authority.strip_prefix(uri.host().unwrap_or("")).unwrap_or("");
    if !behind_host.is_empty() && uri.port_u16().is_none_or(|port| port == 0) {
        // Not repeated: in `http://user:pass/word@host/` it is half of a password.
        return Err("behind the host stands no port from 1 to 65535".to_owned());
    }
    Ok(())
}

/// Whether `url` leads to `listen`, our own server: scraping that would be a loop (E-2).
///
/// Knows addresses, `localhost`, and that an unspecified listen address takes whatever comes to this machine by loopback. Other names are not
/// looked up here; the collector compares the connection's ends once there is one.
pub fn is_own(url: &str, listen: SocketAddr) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    if uri.port_u16().unwrap_or(default) != listen.port() {
        return false;
    }
    let own = listen.ip().to_canonical();
    addresses(uri.host().unwrap_or("")).iter().any(|ip| *ip == own || own.is_unspecified() && ip.is_loopback())
}

/// The addresses that `host` stands for, as far as that is known without asking anybody.
fn addresses(host: &str) -> Vec<IpAddr> {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return loopback.to_vec();
    }
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        // A connection to `0.0.0.0` or `::` goes to loopback.
        Ok(ip) if ip.is_unspecified() => loopback.to_vec(),
        Ok(ip) => vec![ip],
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_without_being_repeated() {
        for good in ["http://h", "https://h:9100/metrics?x=y", "http://[::1]:9100/metrics", "HTTP://127.0.0.1/"] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for (bad, says) in [
            ("", "not a URL"),
            ("h:9100", "must begin with"),
            ("/metrics", "must begin with"),
            ("ftp://h/", "scheme `ftp`"),
            ("http://", "not a URL"),
            ("http://:80/", "no host"),
            ("http://u:canary@h/", "credentials"),
            ("http://canary@h/", "credentials"),
            ("http://h:0/", "no port"),
            ("http://h:/", "no port"),
            ("http://h:70000/", "no port"),
            ("http://a b/canary", "not a URL"),
            ("http://u:can/ary@h/", "no port"),
        ] {
            let error = check_url(bad).expect_err(bad);
            assert!(error.contains(says) && !error.contains("canary"), "{bad}: {error}");
        }
    }

    /// E-2: no scrape of ourselves.
    #[test]
    fn e2_our_own_address_is_known_in_its_many_forms() {
        for (url, listen, own) in [
            ("http://127.0.0.1:9700/metrics", "127.0.0.1:9700", true),
            ("http://127.0.0.1:9701/metrics", "127.0.0.1:9700", false),
            ("http://localhost:9700/metrics", "127.0.0.1:9700", true),
            ("http://LOCALHOST.:9700/metrics", "127.0.0.1:9700", true),
            ("http://localhost:9700/", "[::1]:9700", true),
            ("http://0.0.0.0:9700/", "127.0.0.1:9700", true),
            ("http://[::]:9700/", "[::1]:9700", true),
            ("http://127.0.0.2:9700/", "127.0.0.1:9700", false),
            ("http://127.0.0.2:9700/", "0.0.0.0:9700", true),
            ("http://localhost:9700/", "0.0.0.0:9700", true),
            ("http://0.0.0.0:9700/", "0.0.0.0:9700", true),
            ("http://[::1]:9700/", "0.0.0.0:9700", true),
            ("http://[::1]:9700/", "[::]:9700", true),
            ("http://127.0.0.1:9700/", "[::]:9700", true),
            ("http://[::ffff:127.0.0.1]:9700/", "127.0.0.1:9700", true),
            ("http://10.0.0.1:9700/", "10.0.0.1:9700", true),
            ("http://10.0.0.1:9700/", "0.0.0.0:9700", false),
            ("http://example.org:9700/", "0.0.0.0:9700", false),
            ("http://localhost/", "127.0.0.1:80", true),
            ("https://localhost/", "127.0.0.1:443", true),
            ("https://localhost/", "127.0.0.1:80", false),
            ("not a url", "127.0.0.1:80", false),
        ] {
            assert_eq!(is_own(url, listen.parse().expect("an address")), own, "{url} {listen}");
        }
    }
}
