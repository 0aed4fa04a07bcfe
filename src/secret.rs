//! Values that must never be printed: [`Secret`] hides them, [`redacted_url`] takes them out of addresses.

use std::fmt;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// A value that no `Debug`, log line or printed configuration shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself: only where it leaves for its destination.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Makes `folder` for the owner alone (0700) where it is missing. Only the last folder is private: what lies beside it, the database mostly, others
/// must reach.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    if let Some(above) = folder.parent() {
        std::fs::create_dir_all(above)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if !folder.is_dir() => Err(e),
        _ => Ok(()),
    }
}

/// `url` without what may be secret in it: the password of its authority, its query's values and its fragment.
///
/// Also of a URL that is none: a password may hold any of `/?#@` where it should have been escaped. So where an `@` stands behind one of
/// them and what is in front is no plain host, everything up to the last `@` is hidden: better too much than a part of a password.
pub fn redacted_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (&url[..scheme.len() + 3], rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if let Some((user, host)) = authority.rsplit_once('@') {
        let user = user.split_once(':').map_or(user.to_owned(), |(name, _)| format!("{name}:{HIDDEN}"));
        return match path.rsplit_once('@') {
            Some((_, sloppy)) => format!("{scheme}{HIDDEN}@{}", redacted_tail(sloppy)),
            None => format!("{scheme}{user}@{host}{}", redacted_tail(path)),
        };
    }
    match path.rsplit_once('@') {
        Some((_, sloppy)) if !is_host(authority) => format!("{scheme}{HIDDEN}@{}", redacted_tail(sloppy)),
        // `user:password` without a host: what stands in a port's place is none.
        _ if !is_host(authority) && authority.contains(':') => {
            let name = authority.split(':').next().unwrap_or_default();
            format!("{scheme}{name}:{HIDDEN}{}", redacted_tail(path))
        }
        _ => format!("{scheme}{authority}{}", redacted_tail(path)),
    }
}

/// What stands in the place of a secret.
const HIDDEN: &str = "<secret>";

/// Path, query and fragment without values.
fn redacted_tail(tail: &str) -> String {
    let (tail, fragment) = tail.split_once('#').map_or((tail, ""), |(tail, _)| (tail, "#<secret>"));
    let Some((path, query)) = tail.split_once('?') else { return format!("{tail}{fragment}") };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((key, _)) => format!("{key}={HIDDEN}"),
            // `?4f2a…`: a token without a name.
            None => HIDDEN.to_owned(),
        })
        .collect();
    format!("{path}?{}{fragment}", pairs.join("&"))
}

/// A host with an optional port, or nothing (`sqlite:///path`).
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    port.bytes().all(|b| b.is_ascii_digit())
        && (host.starts_with('[') || !host.contains(':'))
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.[]:".contains(&b))
}

/// Scheme, host and port of `url`, for an address that is secret as a whole.
pub fn origin_of(url: &str) -> String {
    let shown = redacted_url(url);
    let Some((scheme, rest)) = shown.split_once("://") else { return "<secret>".to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_folder_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("data/state");
        private_folder(&folder).unwrap();
        private_folder(&folder).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_ne!(mode(folder.parent().unwrap()), 0o700);
    }

    #[test]
    fn of_a_secret_address_only_the_origin_is_shown() {
        for (url, shown) in [
            ("https://h:9100/canary/metrics?token=canary", "https://h:9100"),
            ("http://h?canary", "http://h"),
            ("canary", "<secret>"),
        ] {
            assert_eq!(origin_of(url), shown);
        }
    }

    #[test]
    fn urls_lose_passwords_and_query_values() {
        for (url, shown) in [
            ("postgres://u:p@ss@h/db", "postgres://u:<secret>@h/db"),
            ("http://h:1/metrics?token=abc&x", "http://h:1/metrics?token=<secret>&<secret>"),
            ("http://h/metrics#key=abc", "http://h/metrics#<secret>"),
            ("sqlite:///srv/a@b/atlas.db", "sqlite:///srv/a@b/atlas.db"),
            ("http://[::1]:9100/a@b", "http://[::1]:9100/a@b"),
            ("https://u:p/a?s#s@h/m?x=y", "https://<secret>@h/m?x=<secret>"),
            ("https://u:p@a/ss@h/m", "https://<secret>@h/m"),
            ("u:pass@h", "u:<secret>@h"),
            ("postgres://u:pass", "postgres://u:<secret>"),
            ("postgres://u:pass:1/db", "postgres://u:<secret>/db"),
            ("postgres://h:5432/db", "postgres://h:5432/db"),
            ("sqlite://data/atlas.db", "sqlite://data/atlas.db"),
            ("http://u@h", "http://u@h"),
        ] {
            assert_eq!(redacted_url(url), shown);
        }
        assert_eq!(format!("{:?}", Secret::new("canary")), "<secret>");
    }
}
