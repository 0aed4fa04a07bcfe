//! Values that must never be printed: [`Secret`] hides them, [`redacted_url`] takes them out of addresses.

use std::fmt;

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

/// `url` without what may be secret in it: the password of its authority and the values of its query.
pub fn redacted_url(url: &str) -> String {
    let (url, query) = match url.split_once('?') {
        Some((url, query)) => (url, Some(query)),
        None => (url, None),
    };
    let mut out = match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            match authority.rsplit_once('@') {
                Some((user, host)) => {
                    let user = user.split_once(':').map_or(user.to_owned(), |(name, _)| format!("{name}:<secret>"));
                    format!("{scheme}://{user}@{host}{path}")
                }
                None => url.to_owned(),
            }
        }
        None => url.to_owned(),
    };
    if let Some(query) = query {
        let parts: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((key, _)) => format!("{key}=<secret>"),
                None => pair.to_owned(),
            })
            .collect();
        out.push('?');
        out.push_str(&parts.join("&"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_passwords_and_query_values() {
        for (url, shown) in [
            ("postgres://u:p@ss@h/db", "postgres://u:<secret>@h/db"),
            ("http://h:1/metrics?token=abc&x", "http://h:1/metrics?token=<secret>&x"),
            ("sqlite://data/atlas.db", "sqlite://data/atlas.db"),
            ("http://u@h", "http://u@h"),
        ] {
            assert_eq!(redacted_url(url), shown);
        }
        assert_eq!(format!("{:?}", Secret::new("canary")), "<secret>");
    }
}
