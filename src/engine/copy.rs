//! Moving from SQLite to PostgreSQL: a plan that can be printed, then one transaction.
//!
//! ```text
//! SQLite, one read transaction          plan                        PostgreSQL
//!   tables, columns, has rows? ──▶ which table, which column, ◀── tables, types, rights, empty?
//!                                  into which type
//!   every row, read once ────────▶ what has to be converted, what cannot be
//!                                  ── problems? then nothing is written ──
//!   every row, read again ───────▶ COPY … FROM STDIN ───────────▶ one transaction: locks, rows, then
//!                                  counts, sums, digest   ◀────── the same, asked of the server and of every row read back
//!                                  ── equal? ──────────────────▶ sequences, COMMIT; otherwise ROLLBACK
//! ```
//!
//! - Both readings of the source happen in one transaction, so they see the same rows, whatever an application writes beside it. The source is opened
//!   read-only and is not changed.
//! - A crash, a `kill -9`, a lost connection, or a row that the server refuses leaves the target as it was: all that is written is in one transaction, and the positions of
//!   sequences, which no rollback takes back, are set last. Only an answer to COMMIT that never arrives leaves a question, and the error says so.
//! - The target's tables have to be empty, but for the admin key that `migrate` makes in an empty `api_keys`: it makes way for the source's keys.
//! - Memory is bounded by a few rows, however long the tables are.
//!
//! This is the one module that knows both engines: a copy is between two kinds of database, and nothing else in the program is. It is no part of
//! [`Kind`](super::Kind), whose parts are the same for every kind.

mod apply;
mod decimal;
mod json;
mod kind;
mod plan;
mod report;
mod source;
mod survey;
mod tally;
mod target;
mod time;
mod wire;

use std::time::Duration;

pub use plan::Wanted;
pub use report::{Report, TableReport};

use self::plan::Plan;
use self::source::Source;
use super::postgres::Database;
use super::{EngineError, sqlite};
use crate::secret::Secret;

/// Looking at the target's schema is a matter of milliseconds; this is for a server that hangs.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// What is copied, in the order in which it is told: the seed's tables, what knows the sidecar's own rows among theirs, and the roll-ups. The record of migrations is not: each
/// database has its own.
pub const TABLES: &[Wanted] = &[
    Wanted::table("content_metadata"),
    Wanted::table("processing_queue"),
    Wanted::table("api_keys"),
    Wanted::table("webhooks"),
    Wanted::table("search_cache"),
    Wanted::table("system_metrics"),
    // Other keys are about this database and its jobs.
    Wanted { name: "sidecar_state", only: Some("substr(key, 1, 9) = 'instance/'") },
    Wanted::table("sidecar_metric_meta"),
    // What rows that are gone have come to.
    Wanted::table("sidecar_metrics_series"),
    Wanted::table("sidecar_metrics_rollup"),
];

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// `sqlite://PATH`
    pub from: String,
    /// `postgres://…`
    pub to: String,
    /// The password of `to`, where it is not part of it.
    pub password: Option<Secret>,
    /// Names out of [`TABLES`]; all where it is empty.
    pub tables: Vec<String>,
    /// Say what would be done and write nothing.
    pub dry_run: bool,
    /// Leave out rows that cannot be copied.
    pub skip_bad: bool,
    /// Round what has more digits than its column.
    pub round: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What happens.
    pub step: Step,
    /// To which table.
    pub table: &'a str,
    /// Rows so far.
    pub rows: u64,
}

/// What happens to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its rows are read and tried.
    Reading,
    /// Its rows are sent.
    Copying,
    /// Its rows are read back.
    Checking,
}

/// Rows from one call of the progress function to the next.
const ROWS_PER_CALL: u64 = 1000;

/// Told how far it is, every [`ROWS_PER_CALL`] rows.
type Watch<'a> = &'a mut (dyn FnMut(Progress<'_>) + Send);

/// Why nothing was copied, named by what the caller may do next.
#[derive(Debug)]
pub enum CopyError {
    /// One of the databases cannot be reached.
    Unreachable(EngineError),
    /// Somebody holds a lock: try again later.
    Busy(EngineError),
    /// It cannot be done as things are.
    Failed(EngineError),
}

/// Copies, or says what would be done. What speaks against it is in the report, which then says that nothing was done.
pub async fn copy(request: &Request, watch: Watch<'_>) -> Result<Report, CopyError> {
    let path = sqlite::path_of(&request.from).map_err(CopyError::Unreachable)?;
    let mut source = Source::open(&path).await?;
    let answer = match Database::open(&request.to, request.password.as_ref()).await {
        Ok(target) => {
            let answer = between(&mut source, &target, request, watch).await;
            target.close().await;
            answer
        }
        Err(e) => Err(CopyError::Unreachable(e)),
    };
    source.close().await;
    answer
}

async fn between(
    source: &mut Source,
    target: &Database,
    request: &Request,
    watch: Watch<'_>,
) -> Result<Report, CopyError> {
    let wanted: Vec<Wanted> = TABLES
        .iter()
        .filter(|table| request.tables.is_empty() || request.tables.iter().any(|name| name == table.name))
        .copied()
        .collect();
    let here = source.look(&wanted).await?;
    let there = look(target, &wanted).await?;
    let plan = Plan::new(&wanted, &here, &there);
    let mut report = Report::new(request, source.path(), target.shown(), &plan);
    for (at, table) in plan.tables.iter().enumerate() {
        let findings = survey::survey(source, table, request.round, watch).await?;
        report.found(at, table, findings, request.skip_bad);
    }
    if request.dry_run || report.is_refused() {
        return Ok(report);
    }
    let checked = apply::apply(source, target, &plan, request.round, watch).await?;
    report.checked(checked);
    Ok(report)
}

async fn look(target: &Database, wanted: &[Wanted]) -> Result<target::Tables, CopyError> {
    let failed = |e: sqlx::Error| target::error("cannot read the schema of", target.shown(), &e);
    let mut reader = target.read(LOOK_LIMIT).await.map_err(failed)?;
    target::look(&mut reader, wanted).await.map_err(failed)
}
