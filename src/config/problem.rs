//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong. No field of it ever holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The full key (`scrape.targets[0].url`); none for a file that cannot be read or parsed.
    pub key: Option<String>,
    /// What was given, unless it is secret, absent, or a whole table.
    pub value: Option<String>,
    /// Where it was given: `sidecar.toml:12`, the variable, `--set`, `default`.
    pub origin: Option<String>,
    /// What is wrong with it and what is expected.
    pub message: String,
}

impl Problem {
    pub(super) fn new(key: impl Into<String>, origin: Option<&str>, message: impl Into<String>) -> Self {
        Self { key: Some(key.into()), value: None, origin: origin.map(str::to_owned), message: message.into() }
    }

    pub(super) fn general(message: impl Into<String>) -> Self {
        Self { key: None, value: None, origin: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(key) = &self.key else { return f.write_str(&self.message) };
        write!(f, "`{}`", shown(key))?;
        if let Some(value) = &self.value {
            write!(f, " = `{value}`")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a configuration, at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// `text` on one line of a terminal: control characters escaped, cut where it grows long.
pub(super) fn shown(text: &str) -> String {
    // Longer than any sensible value, short enough to leave the message on the screen.
    const MOST: usize = 100;
    let mut out: String = text.chars().take(MOST).flat_map(escaped).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let (plain, escape) = if c.is_control() { (None, Some(c.escape_default())) } else { (Some(c), None) };
    plain.into_iter().chain(escape.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_on_their_line() {
        assert_eq!(shown("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(shown(&"ä".repeat(200)).chars().count(), 101);
    }
}
