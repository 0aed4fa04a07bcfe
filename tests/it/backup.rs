//! Backups: from a source to a store, and back.

mod end_to_end;
mod fold;
mod follow;
mod prune;
mod rebuild;
mod restore;
mod ship;
mod source;
mod tail;
mod verify;
