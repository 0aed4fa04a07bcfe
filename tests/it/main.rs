//! The one integration binary: real parts, scratch folders, free ports.
#![expect(missing_docs, reason = "tests name themselves")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

mod atlas;
mod config;
mod expose;
mod host;
mod schema;
mod store;
mod targets;
