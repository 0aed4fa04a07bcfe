//! What the tests have, and this needs.
#![allow(dead_code, reason = "the tests use the rest")]

#[path = "../../tests/it/support/s3.rs"]
pub mod s3;

#[path = "../../tests/it/support/programs.rs"]
mod programs;

pub use programs::{free_address, run, wait_for};
