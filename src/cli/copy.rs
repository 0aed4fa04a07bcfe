//! `copy`: moves a SQLite database to PostgreSQL, and says what it found and did.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::{Copy, Exit, Invocation, complain, json_line, load, print};
use crate::engine::copy::{CopyError, Progress, Request, Step, TABLES, copy};
use crate::engine::postgres::Postgres;
use crate::engine::sqlite::Sqlite;
use crate::engine::{EngineError, Kind as _};

/// From one line of progress to the next.
const BETWEEN_LINES: Duration = Duration::from_millis(200);

/// Copies what `wanted` names.
pub async fn run(invocation: &Invocation, wanted: &Copy) -> Exit {
    let settings = match load(invocation) {
        Ok(loaded) => loaded.settings,
        Err(exit) => return exit,
    };
    let to = wanted.to.as_ref().unwrap_or(&settings.engine.url);
    let request = Request {
        from: wanted.from.clone(),
        to: to.clone(),
        password: settings.engine.password.clone().filter(|_| Postgres.takes_password(to).is_ok()),
        tables: wanted.tables.clone(),
        dry_run: wanted.dry_run,
        skip_bad: wanted.skip_bad,
        round: wanted.round,
    };
    if let Err((error, hint)) = usable(&request) {
        complain(&error, Some(&hint));
        return Exit::Usage;
    }
    let mut line = Line::new();
    let answer = copy(&request, &mut |progress| line.show(progress)).await;
    line.clear();
    match answer {
        Ok(report) => {
            let text = match invocation.json {
                true => json_line(&serde_json::to_value(&report).unwrap_or_default()),
                false => report.to_string(),
            };
            match print(&text) {
                Exit::Done if report.is_refused() => Exit::Failed,
                exit => exit,
            }
        }
        Err(CopyError::Unreachable(e)) => say(&e, Exit::Unreachable),
        Err(CopyError::Busy(e)) => say(&e, Exit::TryLater),
        Err(CopyError::Failed(e)) => say(&e, Exit::Failed),
    }
}

fn say(error: &EngineError, exit: Exit) -> Exit {
    complain(&error.message, error.hint.as_deref());
    exit
}

/// What is wrong with the usage, and a hint.
fn usable(request: &Request) -> Result<(), (String, String)> {
    if Sqlite.accepts(&request.from).is_err() {
        return Err((
            "`--from` is no SQLite file".to_owned(),
            "write `sqlite://` and the path of the file, without parameters: `--from sqlite://data/atlas.db`"
                .to_owned(),
        ));
    }
    if Sqlite.accepts(&request.to).is_ok() {
        return Err((
            "the target is no PostgreSQL database".to_owned(),
            "give it as `--to postgres://user@host/atlas`, or set `database.url`".to_owned(),
        ));
    }
    Postgres.accepts(&request.to).map_err(|expected| ("`--to` cannot be read".to_owned(), expected))?;
    match request.tables.iter().find(|name| TABLES.iter().all(|table| table.name != *name)) {
        Some(unknown) => {
            let known: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
            Err((format!("`copy` does not copy a table `{unknown}`"), format!("it copies {}", known.join(", "))))
        }
        None => Ok(()),
    }
}

/// A line on a terminal that is written over again and again; nothing anywhere else.
struct Line {
    last: Option<Instant>,
    on: bool,
}

impl Line {
    fn new() -> Self {
        Self { last: None, on: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, progress: Progress<'_>) {
        if !self.on || self.last.is_some_and(|last| last.elapsed() < BETWEEN_LINES) {
            return;
        }
        self.last = Some(Instant::now());
        let step = match progress.step {
            Step::Reading => "reading",
            Step::Copying => "copying",
            Step::Checking => "checking",
        };
        // CSI K clears to the end of the line. Where nobody can be told, nothing is lost.
        let _ = write!(std::io::stderr(), "\r{step} {}: {} rows\x1b[K", progress.table, progress.rows);
    }

    fn clear(&mut self) {
        if self.last.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_url_is_the_password() {
        for (url, takes) in [
            ("postgres://u@h/d", true),
            ("postgres://h/d?x=a:b@c", true),
            ("postgres://u:p@h/d", false),
            ("postgres://u:p@h:5432/d", false),
            ("postgres://h:5432/d", true),
        ] {
            assert_eq!(Postgres.takes_password(url).is_ok(), takes, "{url}");
        }
    }
}
