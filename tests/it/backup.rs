//! Backups.

mod rebuild;
