//! What is loaded in front of a program, so that it ends at a moment between two system calls (`tests/fixtures/c/kill_at.c`).

use std::path::Path;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::scene::fixture;
use crate::support::run;

/// The compiled library.
fn library() -> String {
    static LIBRARY: OnceLock<TempDir> = OnceLock::new();
    let folder = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("kill_at.so");
        run(
            "cc",
            &["-shared", "-fPIC", "-O1", "-o", to.to_str().unwrap(), fixture("c/kill_at.c").to_str().unwrap(), "-ldl"],
        );
        folder
    });
    folder.path().join("kill_at.so").to_str().unwrap().to_owned()
}

/// The environment of a program that ends before the call with this `number` (from 1) that changes a file below `folder`.
pub fn killed_at(folder: &Path, number: u64) -> Vec<(&'static str, String)> {
    vec![
        ("LD_PRELOAD", library()),
        ("KILL_UNDER", folder.canonicalize().unwrap().to_str().unwrap().to_owned()),
        ("KILL_AT", number.to_string()),
    ]
}

/// The environment of an application that ends in the middle of a commit: its pages are in the log, whole, and nobody was told.
pub fn killed_in_commit() -> Vec<(&'static str, String)> {
    vec![("LD_PRELOAD", library()), ("KILL_IN_SYNC_OF", "-wal".to_owned())]
}
