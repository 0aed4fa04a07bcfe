//! `migrate`: brings the schema up to date and says what it did.

use std::io::IsTerminal;

use super::{Exit, Invocation, complain, json_line, load, print};
use crate::clock::Clock;
use crate::engine::schema::{KeySink, MigrateOptions};
use crate::engine::{self, EngineError};

/// A new admin key is shown on a terminal, once; anywhere else (a log, a pipe, JSON) it goes to a file.
pub async fn run(invocation: &Invocation, dry_run: bool) -> Exit {
    let settings = match load(invocation) {
        Ok(loaded) => loaded.settings,
        Err(exit) => return exit,
    };
    let key_sink = match std::io::stdout().is_terminal() && !invocation.json {
        true => KeySink::Terminal,
        false => KeySink::File(settings.state_directory.clone()),
    };
    match engine::migrate(&settings.engine, MigrateOptions { dry_run, key_sink }, &Clock::system()).await {
        Ok(report) => {
            let text = match invocation.json {
                true => json_line(&serde_json::to_value(&report).unwrap_or_default()),
                false => report.to_string(),
            };
            match (print(&text), &report.admin_key) {
                (Exit::Done, Some(key)) => print(&format!(
                    "\nThe admin key, shown this once; only its hash is stored:\n\n    {}\n",
                    key.reveal()
                )),
                (exit, _) => exit,
            }
        }
        Err(e) => unreachable(&e),
    }
}

/// Says what is wrong with the database.
pub fn unreachable(error: &EngineError) -> Exit {
    complain(&error.message, error.hint.as_deref());
    Exit::Unreachable
}
