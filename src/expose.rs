//! The HTTP server: `/metrics`, `/-/healthy`, `/-/ready`, `/`.

pub mod encode;
pub mod health;
pub mod negotiate;
pub mod page;
pub mod web;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::sample::globs::Globs;

/// The `[server]` section.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the server listens.
    pub listen: SocketAddr,
    /// TLS and users, in exporter-toolkit's format; re-read when it changes.
    pub web_config_file: Option<PathBuf>,
    /// The most scrapes at once; one more is answered 503.
    pub max_requests: usize,
}

/// The `[expose]` section.
#[derive(Clone, Debug)]
pub struct Exposition {
    /// Name prefixes that are shown as they are; all other stored names get `atlas_` in front.
    pub keep_prefixes: Vec<String>,
    /// The most series shown; known ones stay, new ones beyond it are dropped and counted.
    pub max_series: usize,
    /// Whether samples carry their time.
    pub timestamps: bool,
    /// How long a counter (histogram, summary) is shown after its last value; gauges: max(5 min, 3 × interval).
    pub counters_stale_after: Duration,
    /// Which series are never shown.
    pub hidden: Globs,
}
