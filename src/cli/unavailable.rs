//! What is planned and not in this version: drills, and backups of PostgreSQL. Who types one of them must not believe for a moment that it did something.
//!
//! They fail with 1: the words are right, the thing was not done. A script that goes on only after 0 stops. `drill` is not in the list of verbs and fails before the
//! configuration is read; whatever stands behind it is taken, so that the answer is this one and not one about an argument.

use super::{Exit, complain};

/// Says that `verb` is not there and what to use meanwhile.
pub fn run(verb: &str) -> Exit {
    complain(
        &format!("`{verb}` is not available: this version makes no drills"),
        Some(
            "meanwhile restore to a new file now and then, and look at it: `atlas-sidecar restore --at latest --to PATH`",
        ),
    );
    Exit::Failed
}

/// Says that `verb` is not there for PostgreSQL.
pub fn on_postgres(verb: &str) -> Exit {
    complain(
        &format!("`{verb}` is not available: this version makes no backups of PostgreSQL"),
        Some("meanwhile use `pg_basebackup` or pgBackRest"),
    );
    Exit::Failed
}
