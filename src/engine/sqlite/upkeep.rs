//! Upkeep of a SQLite file: [`Upkeep`] as `store.rs` documents it.
//!
//! - **Statistics**: what `PRAGMA optimize` would analyze, a table at a time. The pragma itself holds the write lock over all of them.
//! - **Full text** (`full_text`): brings in what changed in the application's tables, then merges the index's segments.
//! - **Pages** that lie unused go back to the file system by `incremental_vacuum`, a few at a time: 23,777 pages in one go were 23,777 pages in the
//!   write-ahead log, in pieces of 200 they were 544. It works where `auto_vacuum` is INCREMENTAL. That cannot be turned on without a VACUUM, which
//!   needs the file's size twice and nobody else in it: it is for a person to decide, and never done here.
//!
//! After each piece the write-ahead log is checkpointed, passively: it waits for nobody and keeps nobody waiting. It is never truncated here: who
//! follows the log (a live tail) would lose what he has not read. Where a reader keeps the log from being used anew, the work stops before it has
//! grown by more than `MOST_LOG`.

mod full_text;

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;

use super::Database;
use super::errors::store_error;
use super::opened::look;
use crate::engine::FullText;
use crate::store::{Load, StoreError, Task, Tended, Tending, Upkeep, Wear};
use crate::task::Pending;

/// What a look at the file may take.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// What one piece may take; the write lock is held for less.
const PIECE_LIMIT: Duration = Duration::from_secs(5);

/// How long a piece should hold the write lock; 250 ms is what the application is promised.
const HOLD: Duration = Duration::from_millis(100);

/// From one look at others' commits to the next: 20 in a second can be told apart.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Rows of an index that ANALYZE looks at: between 100 and 1000 is what SQLite recommends (<https://www.sqlite.org/lang_analyze.html>).
const ANALYSIS_LIMIT: u32 = 1000;

/// Pages of a piece, at most and at least.
const MOST_PAGES: u32 = 200;
const LEAST_PAGES: u32 = 10;

/// Bytes of unused pages that are worth no work.
const FEW_BYTES: u64 = 1 << 20;

/// How much of the write-ahead log may wait for readers: half of what it may become.
const MOST_LOG: u64 = 32 << 20;

/// What has to be free on the disk: twice what the write-ahead log may become.
const LEAST_SPACE: u64 = 128 << 20;

/// Looks after one file.
#[derive(Clone, Debug)]
pub struct Keeper {
    database: Database,
    full_text: Vec<FullText>,
}

impl Keeper {
    /// Looks after `database` and the indexes in it that `full_text` asks for.
    pub fn new(database: Database, full_text: Vec<FullText>) -> Self {
        Self { database, full_text }
    }

    async fn planned(&self, wear: Wear) -> Result<Vec<Task<'_>>, StoreError> {
        require_space(self.database.path(), LEAST_SPACE)?;
        let mut tasks = Vec::new();
        tasks.extend(self.statistics().await.map_err(store_error)?);
        if !self.full_text.is_empty() {
            let inventory = look(&self.database).await.map_err(|e| StoreError::Busy(e.to_string()))?;
            for wanted in &self.full_text {
                tasks.extend(full_text::tasks(&self.database, wanted, &inventory));
            }
        }
        tasks.extend(self.unused_pages(wear).await.map_err(store_error)?);
        Ok(tasks)
    }

    /// 0x10000: all tables, also those that this connection has not read; 2: ANALYZE what is worth it; 1: only say so.
    async fn statistics(&self) -> Result<Option<Task<'_>>, sqlx::Error> {
        let mut writer = self.database.alone(LOOK_LIMIT).await?;
        let statements: Vec<String> = sqlx::query_scalar("PRAGMA optimize(0x10003)").fetch_all(&mut *writer).await?;
        Ok((!statements.is_empty()).then(|| Task {
            step: "analyze",
            about: match statements.len() {
                1 => "1 table".to_owned(),
                tables => format!("{tables} tables"),
            },
            work: Ok(Box::new(Analysis { database: &self.database, statements })),
        }))
    }

    async fn unused_pages(&self, wear: Wear) -> Result<Option<Task<'_>>, sqlx::Error> {
        let pages = Pages::of(&self.database).await?;
        if pages.unused_bytes() < FEW_BYTES || pages.unused * 100 < pages.all * wear.unused_percent {
            return Ok(None);
        }
        let work: Result<Box<dyn Tending + '_>, String> = match pages.auto_vacuum {
            2 => Ok(Box::new(Shrinking { database: &self.database, most: MOST_PAGES })),
            // FULL: each commit does it.
            1 => return Ok(None),
            _ => Err("`auto_vacuum` is off. To turn it on, stop who uses the file and run `PRAGMA auto_vacuum = INCREMENTAL; VACUUM;` \
                in `sqlite3`, which needs the file's size twice. New rows fill these pages in any case"
                .to_owned()),
        };
        let about = format!("{} of {} pages that lie unused", pages.unused, pages.all);
        Ok(Some(Task { step: "incremental_vacuum", about, work }))
    }
}

impl Upkeep for Keeper {
    fn database(&self) -> String {
        format!("`{}`", self.database.path().display())
    }

    fn load(&self, span: Duration) -> Pending<'_, Result<Load, StoreError>> {
        Box::pin(async move {
            let transactions = others_commits(&self.database, span).await.map_err(store_error)?;
            Ok(Load { transactions, host_percent: host_percent() })
        })
    }

    fn plan(&self, wear: Wear) -> Pending<'_, Result<Vec<Task<'_>>, StoreError>> {
        Box::pin(self.planned(wear))
    }
}

/// How many commits of others are seen in a second. `data_version` changes when another connection has committed; asked of the connection that writes, it is
/// none of ours.
async fn others_commits(database: &Database, span: Duration) -> Result<f64, sqlx::Error> {
    let begin = Instant::now();
    let (mut last, mut changes) = (data_version(database).await?, 0.0);
    while begin.elapsed() < span {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = data_version(database).await?;
        if now != last {
            (last, changes) = (now, changes + 1.0);
        }
    }
    Ok(changes / begin.elapsed().as_secs_f64())
}

async fn data_version(database: &Database) -> Result<i64, sqlx::Error> {
    let mut writer = database.alone(LOOK_LIMIT).await?;
    sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut *writer).await
}

/// The load of the last minute against the processors of the host; both are the host's in a container, too.
fn host_percent() -> Option<f64> {
    let load: f64 = std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()?;
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let processors = stat
        .lines()
        .filter(|line| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
        .count();
    (processors > 0).then(|| load / processors as f64 * 100.0)
}

/// Refuses where less than `least` bytes are free beside the file.
fn require_space(file: &Path, least: u64) -> Result<(), StoreError> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Where it cannot be asked, SQLite will tell.
    let Ok(about) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    match free < least {
        true => Err(StoreError::Full(format!(
            "{} MiB are free in `{}`, and upkeep wants {}",
            free >> 20,
            folder.display(),
            least >> 20
        ))),
        false => Ok(()),
    }
}

/// The pages of a file.
struct Pages {
    all: u64,
    unused: u64,
    size: u64,
    auto_vacuum: i64,
}

impl Pages {
    async fn of(database: &Database) -> Result<Self, sqlx::Error> {
        let mut reader = database.read(LOOK_LIMIT).await?;
        let (all, unused, size, auto_vacuum): (i64, i64, i64, i64) = sqlx::query_as(
            "SELECT page_count, freelist_count, page_size, auto_vacuum \
             FROM pragma_page_count, pragma_freelist_count, pragma_page_size, pragma_auto_vacuum",
        )
        .fetch_one(&mut *reader)
        .await?;
        Ok(Self { all: all.unsigned_abs(), unused: unused.unsigned_abs(), size: size.unsigned_abs(), auto_vacuum })
    }

    fn unused_bytes(&self) -> u64 {
        self.unused * self.size
    }
}

/// Brings what is in the write-ahead log into the file as far as readers let it, and refuses to go on where they let it not.
async fn checkpoint(database: &Database) -> Result<(), StoreError> {
    let mut writer = database.alone(PIECE_LIMIT).await.map_err(store_error)?;
    let (_, frames, done): (i64, i64, i64) =
        sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(&mut *writer).await.map_err(store_error)?;
    let size: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut *writer).await.map_err(store_error)?;
    let waiting = (frames - done).max(0).unsigned_abs() * size.unsigned_abs();
    match waiting > MOST_LOG {
        true => Err(StoreError::Busy(format!(
            "a reader keeps {} MiB of the write-ahead log from being used anew",
            waiting >> 20
        ))),
        false => Ok(()),
    }
}

/// Runs ANALYZE, a table at a time.
struct Analysis<'a> {
    database: &'a Database,
    statements: Vec<String>,
}

impl Analysis<'_> {
    async fn table(&self, statement: &str, within: Duration) -> Result<Tended, sqlx::Error> {
        let mut tx = self.database.write_within(within.min(PIECE_LIMIT)).await?;
        let since = Instant::now();
        sqlx::raw_sql(AssertSqlSafe(format!("PRAGMA analysis_limit = {ANALYSIS_LIMIT}"))).execute(&mut *tx).await?;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(Tended { held: since.elapsed(), ..Tended::default() })
    }
}

impl Tending for Analysis<'_> {
    fn next(&mut self, within: Duration) -> Pending<'_, Result<Option<Tended>, StoreError>> {
        Box::pin(async move {
            let Some(statement) = self.statements.last().cloned() else { return Ok(None) };
            let tended = self.table(&statement, within).await.map_err(store_error)?;
            self.statements.pop();
            Ok(Some(tended))
        })
    }
}

/// Gives unused pages back.
struct Shrinking<'a> {
    database: &'a Database,
    most: u32,
}

impl Shrinking<'_> {
    async fn piece(&mut self, within: Duration) -> Result<Option<Tended>, StoreError> {
        checkpoint(self.database).await?;
        require_space(self.database.path(), LEAST_SPACE)?;
        let tended = self.shrink(within.min(PIECE_LIMIT)).await.map_err(store_error)?;
        if tended.freed == 0 {
            return Ok(None);
        }
        self.most = match tended.held {
            held if held > HOLD => (self.most / 2).max(LEAST_PAGES),
            held if held < HOLD / 2 => (self.most * 2).min(MOST_PAGES),
            _ => self.most,
        };
        Ok(Some(tended))
    }

    async fn shrink(&self, limit: Duration) -> Result<Tended, sqlx::Error> {
        let mut tx = self.database.write_within(limit).await?;
        let since = Instant::now();
        let (before, size): (i64, i64) =
            sqlx::query_as("SELECT page_count, page_size FROM pragma_page_count, pragma_page_size")
                .fetch_one(&mut *tx)
                .await?;
        // Each row that is asked for is a page that goes: all of them have to be asked for.
        sqlx::query(AssertSqlSafe(format!("PRAGMA incremental_vacuum({})", self.most))).fetch_all(&mut *tx).await?;
        let after: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(Tended {
            rows: 0,
            freed: (before - after).max(0).unsigned_abs() * size.unsigned_abs(),
            held: since.elapsed(),
        })
    }
}

impl Tending for Shrinking<'_> {
    fn next(&mut self, within: Duration) -> Pending<'_, Result<Option<Tended>, StoreError>> {
        Box::pin(self.piece(within))
    }
}
