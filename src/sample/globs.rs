//! Allow-lists of names: `*` stands for any run of characters, `?` for one; everything else for itself.

/// A list of patterns; a name passes if any of them matches it whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Globs(Vec<String>);

impl Globs {
    /// From patterns.
    pub fn new<S: Into<String>>(patterns: impl IntoIterator<Item = S>) -> Self {
        Self(patterns.into_iter().map(Into::into).collect())
    }

    /// A list that everything passes.
    pub fn all() -> Self {
        Self::new(["*"])
    }

    /// The patterns, as they were written.
    pub fn patterns(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether `name` passes.
    pub fn matches(&self, name: &str) -> bool {
        self.matches_bytes(name.as_bytes())
    }

    /// The same of a name that need not be text, as a file's.
    pub fn matches_bytes(&self, name: &[u8]) -> bool {
        self.0.iter().any(|pattern| matches(pattern.as_bytes(), name))
    }
}

/// Linear in practice: on a mismatch it goes back only to the last `*`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, tried)) => {
                    star = Some((at, tried + 1));
                    p = at + 1;
                    n = tried + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("node_*_bytes", "node_memory_MemFree_bytes", true),
            ("node_*_bytes", "node_memory_MemFree", false),
            ("a*b*c", "a_b_b_c", true),
            ("a*b*c", "a_c_b", false),
            ("node_load?", "node_load1", true),
            ("node_load?", "node_load15", false),
            ("load", "node_load", false),
            ("", "x", false),
        ] {
            assert_eq!(Globs::new([pattern]).matches(name), expected, "{pattern} {name}");
        }
        assert!(!Globs::new(Vec::<String>::new()).matches("x"));
    }
}
