//! What a client may ask for: content negotiation, compression, filters, timeout.

use crate::sample::names::Scheme;

/// The syntaxes that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Syntax {
    /// `text/plain; version=0.0.4`
    Text004,
    /// `text/plain; version=1.0.0`
    Text100,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics100,
}

/// What the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Format {
    /// The syntax.
    pub syntax: Syntax,
    /// How foreign names are written; text 0.0.4 always has [`Scheme::Underscores`].
    pub escaping: Scheme,
}

/// `collect[]` and `exclude[]`: names of sources. Both empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these sources.
    pub collect: Vec<String>,
    /// All but these.
    pub exclude: Vec<String>,
}
