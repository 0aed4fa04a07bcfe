//! Backups.

mod source;
