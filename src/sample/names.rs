//! Names as an exposition may carry them: the legacy character set, and Prometheus' escaping schemes for everything else (V-12, V-13).

/// How names beyond `[a-zA-Z_:][a-zA-Z0-9_:]*` are written (Prometheus' escaping schemes, content negotiation of version 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Every foreign character becomes `_`.
    Underscores,
    /// `.` becomes `_dot_`, `_` becomes `__`, any other foreign character `__`.
    Dots,
    /// `U__` in front, foreign characters as `_HEX_`, `_` as `__`.
    Values,
    /// As it is, quoted.
    AllowUtf8,
}
