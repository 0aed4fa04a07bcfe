//! Backups: from a source to a store, and back.

mod rebuild;
mod restore;
mod ship;
mod verify;
