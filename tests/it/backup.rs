//! Backups.

mod rebuild;
mod source;
