//! The server that the tests start, and what it needs of their helpers.
#![allow(dead_code, reason = "the tests use the rest")]

#[path = "../../tests/it/support/postgres.rs"]
pub mod postgres;

#[path = "../../tests/it/support/programs.rs"]
mod programs;

pub use programs::{free_address, run, wait_for};
