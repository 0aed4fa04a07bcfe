//! Doing what a plan says, one transaction after another.
//!
//! Each transaction takes a lock first and plans anew inside it. So two migrations at once do not do the same thing twice, one that was
//! interrupted goes on where it ended, and there is no state to get wrong: the database is the state. A lock that somebody else holds is
//! waited for; the same step is then decided again.

use std::future::Future;
use std::ops::DerefMut;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sqlx::Database;

use super::own::{API_INFRASTRUCTURE, ATLAS, OWN, SEARCH_ENHANCEMENT};
use super::plan::{Action, Dialect, Plan, Step};
use super::{KeySink, Part, Scope, admin_key};
use crate::clock::Clock;
use crate::engine::{EngineError, FullText};
use crate::retry::Backoff;
use crate::secret::Secret;

/// How long one step waits for a lock: longer than any application should hold it, shorter than an operator's patience.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Rows per transaction of a filling step: so many that the step takes this long, because that is how long the application cannot write (R-13: < 250 ms).
const HOLD: Duration = Duration::from_millis(100);
const ROWS_FIRST: i64 = 64;
const ROWS_MOST: i64 = 4096;

/// A database that a schema is brought up to date in: what its engine does in its own way.
pub trait Site: Sync {
    /// How its plans are said.
    type Dialect: Dialect + Send + Sync;
    /// For sqlx.
    type Database: Database;
    /// What is undone when it is dropped.
    type Transaction: DerefMut<Target = <Self::Database as Database>::Connection> + Send;

    /// Between two tries for a lock, each of which already waits for as long as a connection does by itself.
    const BACKOFF: Backoff;

    /// The database, for people.
    fn name(&self) -> String;

    /// Whether this process made it.
    fn made(&self) -> bool;

    /// Begins a transaction that holds the lock of migrations.
    fn begin(&self) -> impl Future<Output = Result<Self::Transaction, Failure>> + Send;

    /// Ends a transaction so that it counts.
    fn commit(&self, transaction: Self::Transaction) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Reads what is there and plans.
    fn plan(
        &self,
        connection: &mut <Self::Database as Database>::Connection,
        asked: Asked<'_>,
    ) -> impl Future<Output = Result<Plan<Self::Dialect>, Failure>> + Send;

    /// The plan as a reader sees it, without a lock.
    fn glance(&self, asked: Asked<'_>) -> impl Future<Output = Result<Plan<Self::Dialect>, Failure>> + Send;

    /// Runs statements without results.
    fn sql(
        &self,
        connection: &mut <Self::Database as Database>::Connection,
        sql: String,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Migration 002 for the next rows; whether there are more.
    fn fill_access_count(
        &self,
        connection: &mut <Self::Database as Database>::Connection,
        pace: &mut Pace,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// A filling step of this engine's own for the next rows; whether there are more.
    fn fill(
        &self,
        connection: &mut <Self::Database as Database>::Connection,
        fill: &<Self::Dialect as Dialect>::Fill,
        pace: &mut Pace,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// The first step of a plan, outside of a transaction, if under the lock it still is the first one; whether it was.
    fn outside(
        &self,
        step: (&str, &<Self::Dialect as Dialect>::Outside),
        asked: Asked<'_>,
    ) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// What an error in the middle of `what` means.
    fn failure(&self, what: &str, error: &sqlx::Error) -> Failure;
}

/// What a plan is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Which part of the schema belongs there.
    pub part: Part,
    /// What may be done.
    pub scope: Scope,
    /// `[[database.full_text]]`.
    pub full_text: &'a [FullText],
}

/// How far a filling step has come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How much the next transaction does.
    pub rows: i64,
    /// Where migration 002 has been. Not kept: an interrupted one looks at all rows again, and finds fewer to change.
    pub after: Option<i64>,
}

/// Why a try failed.
#[derive(Debug)]
pub enum Failure {
    /// Somebody else has a lock: try again.
    Busy(String),
    /// Trying again would not help.
    Broken(EngineError),
}

impl Failure {
    /// The usual sorting of an error of the database `name` in the middle of `what`.
    pub fn sorted(busy: bool, name: &str, what: &str, error: &str) -> Self {
        match busy {
            true => Self::Busy(format!("{what}: {error}")),
            false => {
                Self::Broken(EngineError::new(format!("database `{name}`: {what}: {error}")).hint(
                    "what was done before is complete and stays; correct the cause and run the same command again",
                ))
            }
        }
    }

    /// The error for somebody who does not try again.
    pub fn told(self, name: &str) -> EngineError {
        match self {
            Self::Broken(error) => error,
            Self::Busy(why) => EngineError::new(format!("database `{name}` is locked by another process: {why}"))
                .hint("nothing of this step was done; run the same command again when the other is through"),
        }
    }
}

/// Work on one database.
#[derive(Debug)]
pub struct Work<'a, S: Site> {
    /// The database.
    pub site: &'a S,
    /// What is wanted there.
    pub asked: Asked<'a>,
    /// Where a new admin key goes.
    pub sink: &'a KeySink,
    /// For the records.
    pub clock: &'a Clock,
    /// See [`PATIENCE`].
    pub patience: Duration,
    pace: Pace,
}

/// What one transaction did.
#[derive(Debug)]
pub enum Stepped<D: Dialect> {
    /// There was nothing to do; this is the plan that said so, with its notes.
    Nothing(Plan<D>),
    /// Some rows of a filling step.
    Rows,
    /// These steps, described.
    Done {
        /// For people.
        what: Vec<String>,
        /// A new admin key, and where it went.
        key: Option<MadeKey>,
        /// The plan that these steps came from.
        plan: Plan<D>,
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

impl<'a, S: Site> Work<'a, S> {
    /// Work with nothing done yet.
    pub fn new(
        site: &'a S,
        (part, scope): (Part, Scope),
        full_text: &'a [FullText],
        sink: &'a KeySink,
        clock: &'a Clock,
    ) -> Self {
        let pace = Pace { rows: ROWS_FIRST, after: None };
        Self { site, asked: Asked { part, scope, full_text }, sink, clock, patience: PATIENCE, pace }
    }

    /// Does what comes first: one transaction. Whoever stops calling leaves a database that a later call completes.
    pub async fn step(&mut self) -> Result<Stepped<S::Dialect>, EngineError> {
        let start = Instant::now();
        let mut failures = 0;
        loop {
            match self.attempt().await {
                Ok(stepped) => return Ok(stepped),
                Err(Failure::Busy(_)) if start.elapsed() < self.patience => {
                    failures += 1;
                    tokio::time::sleep(S::BACKOFF.wait(failures, u64::from(std::process::id()))).await;
                }
                Err(failure) => return Err(failure.told(&self.site.name())),
            }
        }
    }

    async fn attempt(&mut self) -> Result<Stepped<S::Dialect>, Failure> {
        let mut transaction = self.site.begin().await?;
        let held = Instant::now();
        let mut plan = self.site.plan(&mut transaction, self.asked).await?;
        if plan.steps.is_empty() {
            return Ok(Stepped::Nothing(plan));
        }
        if let Some(obstacles) = all_obstacles(&plan.obstacles) {
            return Err(Failure::Broken(obstacles));
        }
        let steps = match plan.together {
            true => std::mem::take(&mut plan.steps),
            false => vec![plan.steps.remove(0)],
        };
        if let [Step { what, action: Action::Outside(step), .. }] = &steps[..] {
            // Without its lock, because this step takes it in another way.
            drop(transaction);
            return Ok(match self.site.outside((what, step), self.asked).await? {
                true => Stepped::Done { what: vec![what.clone()], key: None, plan },
                false => Stepped::Rows,
            });
        }
        let (mut key, mut pace) = (None, self.pace);
        for step in &steps {
            let mut outcome = self.run(&mut transaction, step, &mut pace).await?;
            while plan.together && matches!(outcome, Outcome::Rows) {
                outcome = self.run(&mut transaction, step, &mut pace).await?;
            }
            match outcome {
                Outcome::Done => {}
                Outcome::Key(secret) => key = Some(secret),
                Outcome::Rows => {
                    self.site.commit(transaction).await.map_err(|e| self.site.failure(&step.what, &e))?;
                    self.pace = pace;
                    self.rest(held.elapsed()).await;
                    return Ok(Stepped::Rows);
                }
            }
        }
        self.pace.after = None;
        let key = self.commit(transaction, key).await?;
        Ok(Stepped::Done { what: steps.into_iter().map(|s| s.what).collect(), key, plan })
    }

    async fn run(
        &self,
        connection: &mut <S::Database as Database>::Connection,
        step: &Step<S::Dialect>,
        pace: &mut Pace,
    ) -> Result<Outcome, Failure> {
        let failed = |e| self.site.failure(&step.what, &e);
        let rows = |more| if more { Outcome::Rows } else { Outcome::Done };
        let sql = match &step.action {
            Action::Sql(sql) => sql.clone(),
            Action::Own(migration) => {
                self.site.sql(connection, migration.sql.to_owned()).await.map_err(failed)?;
                self.record_sql(OWN, (migration.version, migration.name), &migration.checksum())
            }
            Action::Fill(fill) => return self.site.fill(connection, fill, pace).await.map(rows).map_err(failed),
            Action::FillAccessCount => {
                if self.site.fill_access_count(connection, pace).await.map_err(failed)? {
                    return Ok(Outcome::Rows);
                }
                self.record_sql(ATLAS, SEARCH_ENHANCEMENT, "")
            }
            Action::AdminKey { columns, first } => {
                let left = if *first { self.key_left_behind() } else { None };
                let key = left.map_or_else(admin_key::generate, Ok).map_err(Failure::Broken)?;
                let insert = admin_key::insert_sql(columns, &key, self.clock.now());
                let record = self.record_sql(ATLAS, API_INFRASTRUCTURE, "");
                self.site.sql(connection, format!("{insert}; {record}")).await.map_err(failed)?;
                return Ok(Outcome::Key(key));
            }
            Action::Outside(_) => unreachable!("a plan that is one transaction has no step outside of it"),
        };
        self.site.sql(connection, sql).await.map_err(failed)?;
        Ok(Outcome::Done)
    }

    /// Everything in it is ours: numbers, names, hex digits, a time.
    fn record_sql(&self, track: &str, (version, name): (i64, &str), checksum: &str) -> String {
        let (now, by) = (self.clock.now().to_sql(), env!("CARGO_PKG_VERSION"));
        // A record may be there already: whoever deletes all keys gets another from the next `migrate`.
        format!(
            "INSERT INTO sidecar_migrations (track, version, name, checksum, applied_at, applied_by)
             VALUES ('{track}', {version}, '{name}', '{checksum}', '{now}', '{by}') ON CONFLICT DO NOTHING"
        )
    }

    fn key_left_behind(&self) -> Option<Secret> {
        match self.sink {
            KeySink::File(directory) => admin_key::left_behind(directory),
            KeySink::Terminal => None,
        }
    }

    /// Commits. A key for a file is on the disk before, and gone again if the commit fails, unless it was there before us.
    async fn commit(&self, transaction: S::Transaction, key: Option<Secret>) -> Result<Option<MadeKey>, Failure> {
        let was_there = key.is_some() && self.key_left_behind().is_some();
        let made = match (key, self.sink) {
            (None, _) => None,
            (Some(key), KeySink::Terminal) => Some(MadeKey::Shown(key)),
            (Some(key), KeySink::File(directory)) => {
                Some(MadeKey::Written(admin_key::place(directory, &key).map_err(Failure::Broken)?))
            }
        };
        if let Err(error) = self.site.commit(transaction).await {
            if let (Some(MadeKey::Written(path)), false) = (&made, was_there) {
                admin_key::withdraw(path);
            }
            return Err(self.site.failure("commit", &error));
        }
        Ok(made)
    }

    /// Fits the rows of the next transaction to the time this one took, and leaves the lock to others for as long again.
    async fn rest(&mut self, held: Duration) {
        if held > HOLD {
            self.pace.rows = (self.pace.rows / 2).max(1);
        } else if held < HOLD / 4 {
            self.pace.rows = (self.pace.rows * 2).min(ROWS_MOST);
        }
        tokio::time::sleep(held.min(HOLD)).await;
    }
}

/// One error of all that stands in the way; nothing where nothing does.
fn all_obstacles(obstacles: &[EngineError]) -> Option<EngineError> {
    let (first, _) = obstacles.split_first()?;
    let join = |parts: Vec<&str>| parts.join("; ");
    let error = EngineError::new(join(obstacles.iter().map(|o| o.message.as_str()).collect()));
    let hints: Vec<&str> = obstacles.iter().filter_map(|o| o.hint.as_deref()).collect();
    Some(if first.hint.is_some() { error.hint(join(hints)) } else { error })
}
