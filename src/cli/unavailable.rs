//! `backup`, `restore` and `drill`: they are planned, this version does not have them, and who types one must not believe for a moment that it did something.
//!
//! They fail before the configuration is read, with 1: the words are right, the thing was not done. A script that goes on only after 0 stops. They are not in the
//! list of verbs; whatever stands behind them is taken, so that the answer is this one and not one about an argument.

use super::{Exit, complain};

/// Says that `verb` is not there and what to use meanwhile.
pub fn run(verb: &str) -> Exit {
    complain(
        &format!("`{verb}` is not available: this version makes no backups, neither of SQLite nor of PostgreSQL"),
        Some(
            "meanwhile use `sqlite3 FILE \".backup COPY\"` for SQLite, and `pg_basebackup` or pgBackRest for PostgreSQL",
        ),
    );
    Exit::Failed
}
