//! `default-config`: the reference configuration, byte for byte as it was compiled in; with `--json` what it says, without the words.

use super::{Exit, Invocation, complain_of, json_line, print};
use crate::config::{DEFAULT, Sources, load, redacted};

/// Prints it. Files, variables and `--set` have no say here.
pub fn run(invocation: &Invocation) -> Exit {
    if !invocation.json {
        return print(DEFAULT);
    }
    match load(&Sources::default()) {
        Ok(loaded) => print(&json_line(&redacted(&loaded.settings).json())),
        Err(problems) => {
            complain_of(&problems);
            Exit::Failed
        }
    }
}
