//! HTTP targets in Prometheus text and OpenMetrics.

use std::time::Duration;

use crate::sample::globs::Globs;
use crate::secret::Secret;

/// How a target wants to be asked.
#[derive(Clone, Debug)]
pub enum Auth {
    /// `Authorization: Bearer …`
    Bearer(Secret),
    /// `Authorization: Basic …`
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: Secret,
    },
}

/// One of `[[scrape.targets]]`.
#[derive(Clone, Debug)]
pub struct Target {
    /// The source's name, also the label `source` of every series.
    pub name: String,
    /// `http://…` or `https://…`; may carry secrets, so never printed as it is.
    pub url: String,
    /// From one scrape to the next.
    pub interval: Duration,
    /// What a scrape may take.
    pub timeout: Duration,
    /// Which series (by full name) are taken; the others are as if the target had not sent them.
    pub metrics: Globs,
    /// Which of the taken series are written to the table.
    pub store: Globs,
    /// Credentials.
    pub auth: Option<Auth>,
    /// The most bytes of an answer after decompression.
    pub max_body_bytes: usize,
    /// The most samples of an answer.
    pub max_samples: usize,
}
