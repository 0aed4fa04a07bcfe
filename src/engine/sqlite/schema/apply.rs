//! Doing what a plan says, one transaction after another.
//!
//! Each transaction takes the write lock first and plans anew inside it. So two migrations at once do not do the same thing twice, one that was
//! interrupted goes on where it ended, and there is no state to get wrong: the database is the state. A lock that somebody else holds is
//! waited for; the same step is then decided again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection, Transaction};

use super::inventory;
use super::own::{API_INFRASTRUCTURE, ATLAS, Migration, OWN, SEARCH_ENHANCEMENT};
use super::plan::{Action, Plan, Step, plan};
use super::{Part, Scope, full_text};
use crate::clock::Clock;
use crate::engine::schema::KeySink;
use crate::engine::sqlite::errors::is_busy;
use crate::engine::sqlite::{Database, admin_key};
use crate::engine::{EngineError, FullText};
use crate::retry::Backoff;
use crate::secret::Secret;

/// How long one step waits for the write lock: longer than any application should hold it, shorter than an operator's patience.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two tries for the lock, each of which already waits for the connection's busy timeout.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), most: Duration::from_millis(500) };

/// Rows per transaction of a filling step: so many that the step takes this long, because that is how long the application cannot write (R-13: < 250 ms).
const HOLD: Duration = Duration::from_millis(100);
const ROWS_FIRST: i64 = 64;
const ROWS_MOST: i64 = 4096;

/// Work on one database.
#[derive(Debug)]
pub struct Work<'a> {
    /// The database.
    pub database: &'a Database,
    /// Which part of the schema belongs there.
    pub part: Part,
    /// What may be done.
    pub scope: Scope,
    /// `[[database.full_text]]`.
    pub full_text: &'a [FullText],
    /// Where a new admin key goes.
    pub sink: &'a KeySink,
    /// For the records.
    pub clock: &'a Clock,
    /// See [`PATIENCE`].
    pub patience: Duration,
    rows: i64,
    /// The last rowid that migration 002 has been at. Not kept: an interrupted one looks at all rows again, and finds fewer to change.
    after: Option<i64>,
}

/// What one transaction did.
#[derive(Debug)]
pub enum Stepped {
    /// There was nothing to do; this is the plan that said so, with its notes.
    Nothing(Plan),
    /// Some rows of a filling step.
    Rows,
    /// These steps, described.
    Done {
        /// For people.
        what: Vec<String>,
        /// A new admin key, and where it went.
        key: Option<MadeKey>,
        /// The plan that these steps came from.
        plan: Plan,
    },
}

/// A new admin key after its row has committed.
#[derive(Debug)]
pub enum MadeKey {
    /// To be printed.
    Shown(Secret),
    /// In this file.
    Written(PathBuf),
}

/// What a step inside a transaction came to.
enum Outcome {
    Done,
    Rows,
    Key(Secret),
}

/// Why a try failed.
enum Failure {
    /// Somebody else has the lock: try again.
    Busy(String),
    Broken(EngineError),
}

impl<'a> Work<'a> {
    /// Work with nothing done yet.
    pub fn new(
        database: &'a Database,
        (part, scope): (Part, Scope),
        full_text: &'a [FullText],
        sink: &'a KeySink,
        clock: &'a Clock,
    ) -> Self {
        Self { database, part, scope, full_text, sink, clock, patience: PATIENCE, rows: ROWS_FIRST, after: None }
    }

    /// Does what comes first: one transaction. Whoever stops calling leaves a database that a later call completes.
    pub async fn step(&mut self) -> Result<Stepped, EngineError> {
        let start = Instant::now();
        let mut failures = 0;
        loop {
            match self.attempt().await {
                Ok(stepped) => return Ok(stepped),
                Err(Failure::Broken(error)) => return Err(error),
                Err(Failure::Busy(why)) if start.elapsed() >= self.patience => {
                    let path = self.database.path().display();
                    return Err(EngineError::new(format!("database `{path}` is locked by another process: {why}"))
                        .hint("nothing of this step was done; run the same command again when the other is through"));
                }
                Err(Failure::Busy(_)) => {
                    failures += 1;
                    tokio::time::sleep(BACKOFF.wait(failures, u64::from(std::process::id()))).await;
                }
            }
        }
    }

    async fn attempt(&mut self) -> Result<Stepped, Failure> {
        let path = self.database.path();
        let mut transaction = self.database.write().await.map_err(|e| failure("take the write lock", path, &e))?;
        let held = Instant::now();
        let inventory = inventory::read(&mut transaction).await.map_err(|e| failure("read the schema", path, &e))?;
        let mut plan = plan(&inventory, self.part, self.scope, self.full_text).map_err(Failure::Broken)?;
        if plan.steps.is_empty() {
            return Ok(Stepped::Nothing(plan));
        }
        let steps = match plan.together {
            true => std::mem::take(&mut plan.steps),
            false => vec![plan.steps.remove(0)],
        };
        let (mut key, mut after) = (None, self.after);
        for step in &steps {
            let mut outcome = self.run(&mut transaction, step, &mut after).await?;
            while plan.together && matches!(outcome, Outcome::Rows) {
                outcome = self.run(&mut transaction, step, &mut after).await?;
            }
            match outcome {
                Outcome::Done => {}
                Outcome::Key(secret) => key = Some(secret),
                Outcome::Rows => {
                    transaction.commit().await.map_err(|e| failure(&step.what, path, &e))?;
                    self.after = after;
                    self.rest(held.elapsed()).await;
                    return Ok(Stepped::Rows);
                }
            }
        }
        self.after = None;
        let key = self.commit(transaction, key).await?;
        Ok(Stepped::Done { what: steps.into_iter().map(|s| s.what).collect(), key, plan })
    }

    async fn run(
        &self,
        connection: &mut SqliteConnection,
        step: &Step,
        after: &mut Option<i64>,
    ) -> Result<Outcome, Failure> {
        let result = match &step.action {
            Action::Sql(sql) => execute(connection, sql.clone()).await.map(|()| Outcome::Done),
            Action::Own(migration) => self.own(connection, migration).await.map(|()| Outcome::Done),
            Action::FillFullText(index) => self.fill(connection, index).await,
            Action::FillAccessCount => self.fill_access_count(connection, after).await,
            Action::AdminKey { columns, first } => {
                let left = if *first { self.key_left_behind() } else { None };
                let key = left.map_or_else(admin_key::generate, Ok).map_err(Failure::Broken)?;
                self.insert_key(connection, columns, &key).await.map(|()| Outcome::Key(key))
            }
        };
        result.map_err(|e| failure(&step.what, self.database.path(), &e))
    }

    async fn own(&self, connection: &mut SqliteConnection, migration: &'static Migration) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(migration.sql).execute(&mut *connection).await?;
        self.record(connection, OWN, (migration.version, migration.name), &migration.checksum()).await
    }

    async fn fill(&self, connection: &mut SqliteConnection, index: &full_text::Index) -> Result<Outcome, sqlx::Error> {
        let begun: bool = sqlx::query_scalar(AssertSqlSafe(index.begun_sql())).fetch_one(&mut *connection).await?;
        let sql = AssertSqlSafe(index.fill_sql(begun));
        let copied = sqlx::query(sql).bind(self.rows).execute(&mut *connection).await?.rows_affected();
        if i64::try_from(copied).is_ok_and(|copied| copied >= self.rows) {
            return Ok(Outcome::Rows);
        }
        execute(connection, index.publish_sql()).await?;
        Ok(Outcome::Done)
    }

    async fn fill_access_count(
        &self,
        connection: &mut SqliteConnection,
        after: &mut Option<i64>,
    ) -> Result<Outcome, sqlx::Error> {
        // By rowid, because no index finds the NULLs. A VACUUM on the way may move rowids of the application's table, and a row then keep its NULL: it is
        // what a row gets that the application writes without a count, so whoever reads the column has to expect it anyway.
        let window = "SELECT max(r) FROM (SELECT _rowid_ AS r FROM content_metadata
                      WHERE ?1 IS NULL OR _rowid_ > ?1 ORDER BY _rowid_ LIMIT ?2)";
        let last: Option<i64> =
            sqlx::query_scalar(window).bind(*after).bind(self.rows).fetch_one(&mut *connection).await?;
        if let Some(last) = last {
            let update = "UPDATE content_metadata SET access_count = 0
                          WHERE access_count IS NULL AND _rowid_ <= ?2 AND (?1 IS NULL OR _rowid_ > ?1)";
            sqlx::query(update).bind(*after).bind(last).execute(&mut *connection).await?;
            *after = Some(last);
            return Ok(Outcome::Rows);
        }
        self.record(connection, ATLAS, SEARCH_ENHANCEMENT, "").await?;
        Ok(Outcome::Done)
    }

    fn key_left_behind(&self) -> Option<Secret> {
        match self.sink {
            KeySink::File(directory) => admin_key::left_behind(directory),
            KeySink::Terminal => None,
        }
    }

    async fn insert_key(
        &self,
        connection: &mut SqliteConnection,
        columns: &[&str],
        key: &Secret,
    ) -> Result<(), sqlx::Error> {
        // Every value is given: the defaults of a table that an ORM made are often in the ORM only. The time is cut to seconds, as
        // CURRENT_TIMESTAMP writes it.
        let now = self.clock.now().to_sql();
        let now = now.split('.').next().unwrap_or_default();
        let hash = admin_key::hash(key);
        let marks = vec!["?"; columns.len()].join(", ");
        let sql = format!("INSERT INTO api_keys ({}) VALUES ({marks})", columns.join(", "));
        let mut insert = sqlx::query(AssertSqlSafe(sql));
        for column in columns {
            insert = match *column {
                "id" => insert.bind(admin_key::ID),
                "name" => insert.bind(admin_key::NAME),
                "key_hash" => insert.bind(&hash),
                "permissions" => insert.bind(admin_key::PERMISSIONS),
                "created_at" => insert.bind(now),
                // The seed's default.
                "rate_limit_per_hour" => insert.bind(1000),
                "is_active" => insert.bind(true),
                other => unreachable!("`{other}` is none of plan::KEY_COLUMNS"),
            };
        }
        insert.execute(&mut *connection).await?;
        self.record(connection, ATLAS, API_INFRASTRUCTURE, "").await
    }

    async fn record(
        &self,
        connection: &mut SqliteConnection,
        track: &str,
        (version, name): (i64, &str),
        checksum: &str,
    ) -> Result<(), sqlx::Error> {
        // A record may be there already: whoever deletes all keys gets another from the next `migrate`.
        sqlx::query(
            "INSERT INTO sidecar_migrations (track, version, name, checksum, applied_at, applied_by)
             VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(track)
        .bind(version)
        .bind(name)
        .bind(checksum)
        .bind(self.clock.now().to_sql())
        .bind(env!("CARGO_PKG_VERSION"))
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Commits. A key for a file is on the disk before, and gone again if the commit fails, unless it was there before us.
    async fn commit(
        &self,
        transaction: Transaction<'static, Sqlite>,
        key: Option<Secret>,
    ) -> Result<Option<MadeKey>, Failure> {
        let was_there = key.is_some() && self.key_left_behind().is_some();
        let made = match (key, self.sink) {
            (None, _) => None,
            (Some(key), KeySink::Terminal) => Some(MadeKey::Shown(key)),
            (Some(key), KeySink::File(directory)) => {
                Some(MadeKey::Written(admin_key::place(directory, &key).map_err(Failure::Broken)?))
            }
        };
        if let Err(error) = transaction.commit().await {
            if let (Some(MadeKey::Written(path)), false) = (&made, was_there) {
                admin_key::withdraw(path);
            }
            return Err(failure("commit", self.database.path(), &error));
        }
        Ok(made)
    }

    /// Fits the rows of the next transaction to the time this one took, and leaves the lock to others for as long again.
    async fn rest(&mut self, held: Duration) {
        if held > HOLD {
            self.rows = (self.rows / 2).max(1);
        } else if held < HOLD / 4 {
            self.rows = (self.rows * 2).min(ROWS_MOST);
        }
        tokio::time::sleep(held.min(HOLD)).await;
    }
}

async fn execute(connection: &mut SqliteConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ())
}

fn failure(what: &str, path: &std::path::Path, error: &sqlx::Error) -> Failure {
    match is_busy(error) {
        true => Failure::Busy(format!("{what}: {error}")),
        false => Failure::Broken(
            EngineError::new(format!("database `{}`: {what}: {error}", path.display()))
                .hint("what was done before is complete and stays; correct the cause and run the same command again"),
        ),
    }
}
