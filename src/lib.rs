//! atlas-sidecar

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod expose;
pub mod ingest;
pub mod retry;
pub mod sample;
pub mod scrape;
pub mod secret;
pub mod store;
pub mod task;
pub mod telemetry;
