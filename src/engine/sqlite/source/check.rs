//! Whether a state is sound, as SQLite sees it, and how many rows it has.
//!
//! What is called damage is what SQLite finds wrong with the file. Rows that break a rule of their table (`CHECK`, `NOT NULL`, the types of a STRICT table) or that refer to rows which
//! do not exist are the application's: they are as good in the backup as in the database, so they are logged, and the database is sound.
//!
//! The checks run in the transaction whose pages were sent, and keep the log from being used anew as long as they run; a bound on its growth ends them. Without a log it
//! is the writers that wait, and the bound is a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, SqliteConnection};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::snapshot::{Snapshot, State};
use crate::backup::{Soundness, SourceError};
use crate::engine::sqlite::errors;

/// Virtual machine steps between two looks at the bounds: some 100 µs of work.
const STEPS_PER_LOOK: i32 = 10_000;

/// How long writers may wait for a check where there is no log. Below the five seconds that many drivers have for a busy timeout.
const WITHOUT_LOG: Duration = Duration::from_secs(2);

/// Findings that are told in the log, and the letters of one in a manifest.
const MOST_FINDINGS: usize = 20;
const MOST_WORDS: usize = 300;

/// Checks what `snapshot` reads. The log may grow by `most_growth` bytes meanwhile.
pub async fn check(
    snapshot: &mut Snapshot,
    most_growth: u64,
    stop: CancellationToken,
) -> Result<(Soundness, BTreeMap<String, u64>), SourceError> {
    let state = snapshot.state.clone();
    let deadline = Instant::now() + WITHOUT_LOG;
    let in_time = {
        let (state, stop) = (state.clone(), stop.clone());
        move || match state.commit {
            _ if stop.is_cancelled() => false,
            Some(_) => state.grown() <= most_growth,
            None => Instant::now() < deadline,
        }
    };
    if !in_time() {
        return Ok((Soundness::Unchecked(too_long(&state)), BTreeMap::new()));
    }
    let connection = snapshot.connection();
    let mut handle = connection.lock_handle().await.map_err(errors::source_error)?;
    handle.set_progress_handler(STEPS_PER_LOOK, in_time);
    drop(handle);
    let checked = all(connection).await;
    connection.lock_handle().await.map_err(errors::source_error)?.remove_progress_handler();
    let error = match checked {
        Ok((None, tables)) => return Ok((Soundness::Sound, tables)),
        Ok((Some(damage), _)) => return Ok((Soundness::Damaged(damage), BTreeMap::new())),
        Err(e) => e,
    };
    let soundness = match error {
        e if errors::is_corrupt(&e) => Soundness::Damaged(e.to_string()),
        e if errors::is_interrupt(&e) => Soundness::Unchecked(too_long(&state)),
        // A collation or a module that only the application has, say.
        e => Soundness::Unchecked(e.to_string()),
    };
    Ok((soundness, BTreeMap::new()))
}

fn too_long(state: &State) -> String {
    match state.commit {
        Some(_) => format!("the write-ahead log grew by {} KiB meanwhile", state.grown() >> 10),
        None => "without a write-ahead log, writers would have waited too long for it".to_owned(),
    }
}

/// What is damaged, or how many rows the tables have.
async fn all(connection: &mut SqliteConnection) -> Result<(Option<String>, BTreeMap<String, u64>), sqlx::Error> {
    let findings: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut *connection).await?;
    let (rules, damage): (Vec<_>, Vec<_>) =
        findings.into_iter().filter(|finding| finding != "ok").partition(|finding| breaks_a_rule(finding));
    if let Some(first) = damage.first() {
        return Ok((Some(first.chars().take(MOST_WORDS).collect()), BTreeMap::new()));
    }
    for finding in rules.iter().take(MOST_FINDINGS) {
        warn!(finding, "rows break a rule of their table; they are backed up as they are");
    }
    references(connection).await?;
    Ok((None, rows(connection).await?))
}

/// The rest of what `PRAGMA integrity_check` says is about the file (`pragma.c`).
fn breaks_a_rule(finding: &str) -> bool {
    finding.starts_with("NULL value in ")
        || finding.starts_with("CHECK constraint failed in ")
        || finding.starts_with("NUMERIC value in ")
        || finding.starts_with("TEXT value in ")
        || (finding.starts_with("non-") && finding.contains(" value in "))
}

async fn references(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let broken = sqlx::query_as::<_, (String, i64)>(
        "SELECT \"table\", count(*) FROM pragma_foreign_key_check GROUP BY 1 ORDER BY 1",
    )
    .fetch_all(connection)
    .await;
    match broken {
        Ok(tables) => {
            for (table, rows) in tables.iter().take(MOST_FINDINGS) {
                warn!(table, rows, "rows refer to rows that do not exist; they are backed up as they are");
            }
            Ok(())
        }
        Err(e) if errors::is_interrupt(&e) || errors::is_corrupt(&e) => Err(e),
        // A reference to a table or an index that does not exist is as legal as it is useless.
        Err(e) => {
            warn!(error = %e, "references between rows cannot be checked");
            Ok(())
        }
    }
}

/// Of ordinary tables: what a virtual one has is in others.
async fn rows(connection: &mut SqliteConnection) -> Result<BTreeMap<String, u64>, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut tables = BTreeMap::new();
    for name in names {
        let count = format!("SELECT count(*) FROM main.\"{}\"", name.replace('"', "\"\""));
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut *connection).await?;
        tables.insert(name, rows.unsigned_abs());
    }
    Ok(tables)
}
