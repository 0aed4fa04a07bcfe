//! What the run logs of all engines have in common: the keys in `sidecar_state`, how a row is read, who may begin a run, and in what order the
//! statements come. The statements are the twins'; they take the same values in the same places, and times as `YYYY-MM-DD HH:MM:SS.sss` in UTC.
//!
//! What a transaction has read may be old when it writes (on PostgreSQL; SQLite's begin with the write lock). So each statement that begins or ends a
//! run says what it takes for granted, and what is unique in the table decides: who changes no row was not the first.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::store::{Claim, End, Ended, MOST_ATTEMPTS, Open, Reason, Run, RunId, StoreError};

/// The key of the last time that nobody had a reason to doubt.
pub const BELIEVED: &str = "clock/believed";

/// What a look at a small table of ours may take.
pub const SMALL: Duration = Duration::from_secs(10);

/// The most rows that one statement forgets.
pub const TIDY_ROWS: i64 = 500;

/// The key of a pause.
pub fn paused_key(job: &str) -> String {
    format!("job/{job}/paused")
}

/// The key of a schedule's beginning.
pub fn since_key(job: &str, schedule: &str) -> String {
    format!("job/{job}/since/{schedule}")
}

/// An open run: id, attempt, slot, owner, lease.
pub type OpenRow = (i64, i64, String, String, String);

/// A finished run: slot, reason, start, end, outcome, rows, bytes, milliseconds, words.
pub type RunRow = (String, String, String, String, String, i64, i64, i64, String);

/// The row of a slot: id, attempt, outcome.
pub type SlotRow = (i64, i64, Option<String>);

/// A time as the engines hand it over, `YYYY-MM-DD HH:MM:SS.sss` in UTC.
pub fn time(text: &str) -> Result<Timestamp, StoreError> {
    Timestamp::from_rfc3339(&format!("{}Z", text.replacen(' ', "T", 1)))
        .ok_or_else(|| StoreError::Broken(format!("`{text}` in the run log is no time")))
}

/// Several at once.
pub fn maybe_time(text: Option<&str>) -> Result<Option<Timestamp>, StoreError> {
    text.map(time).transpose()
}

/// An open run out of its row.
pub fn open_of((row, attempt, slot, owner, lease): OpenRow) -> Result<Open, StoreError> {
    Ok(Open { id: RunId { row, attempt }, slot: time(&slot)?, owner, lease_until: time(&lease)? })
}

/// A finished run out of its row.
pub fn run_of((slot, reason, started, at, ended, rows, bytes, millis, words): RunRow) -> Result<Run, StoreError> {
    let unknown = |word: &str| StoreError::Broken(format!("`{word}` in the run log is no word of this sidecar's"));
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(Run {
        slot: time(&slot)?,
        reason: Reason::of_word(&reason).ok_or_else(|| unknown(&reason))?,
        started: time(&started)?,
        end: End {
            at: time(&at)?,
            ended: Ended::of_word(&ended).ok_or_else(|| unknown(&ended))?,
            rows: count(rows),
            bytes: count(bytes),
            words,
            took: Duration::from_millis(count(millis)),
        },
    })
}

/// What a claim does about the run that it finds open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AboutOpen {
    /// There is none in the way.
    Nothing,
    /// Its owner may well live.
    Held(Open),
    /// It is dead, and it is the claimed slot's: begin it again.
    Retake(RunId),
    /// It is dead and will not be begun again.
    GiveUp(i64),
}

/// What `claim` does about `open`, which is read in the claim's own transaction: it must be just what the caller took for dead.
pub fn about_open(claim: &Claim<'_>, open: Option<Open>) -> AboutOpen {
    match open {
        None => AboutOpen::Nothing,
        Some(open) if claim.dead != Some(&open) => AboutOpen::Held(open),
        Some(open) if open.slot == claim.slot && open.id.attempt < MOST_ATTEMPTS => AboutOpen::Retake(open.id),
        Some(open) => AboutOpen::GiveUp(open.id.row),
    }
}

/// What a claim does about the row of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AboutSlot {
    /// There is none: make it.
    Insert,
    /// It was cancelled: begin it again.
    Retake(RunId),
    /// It is settled.
    Settled,
}

/// What a claim does about `slot`, which nobody runs.
pub fn about_slot(slot: Option<SlotRow>) -> AboutSlot {
    match slot {
        None => AboutSlot::Insert,
        Some((row, attempt, Some(outcome))) if outcome == Ended::Cancelled.word() && attempt < MOST_ATTEMPTS => {
            AboutSlot::Retake(RunId { row, attempt })
        }
        Some(_) => AboutSlot::Settled,
    }
}

/// The run log `Runs` out of the constants in scope, for a twin whose `Database` is sqlx's `$sqlx`. A macro, because the same in generic functions
/// would need a page of bounds on sqlx's traits.
macro_rules! run_log {
    ($sqlx:ty, $arguments:ty) => {
        /// `sidecar_job_runs` of one database.
        #[derive(Clone, Debug)]
        pub struct Runs {
            database: Database,
        }

        impl Runs {
            /// The runs in `database`.
            pub fn new(database: Database) -> Self {
                Self { database }
            }

            async fn standing(&self, job: &str, schedule: &str, now: Timestamp) -> Result<Standing, StoreError> {
                let mut reader = self.database.read(SMALL).await.map_err(store_error)?;
                let open: Option<OpenRow> = match sqlx::query_as(OPEN).bind(job).fetch_optional(&mut *reader).await {
                    // Nobody has run anything here, and nobody has made the tables.
                    Err(e) if is_missing_table(&e) => return Ok(Standing::default()),
                    read => read.map_err(store_error)?,
                };
                let settled: Option<String> = sqlx::query_scalar(SETTLED)
                    .bind(job)
                    .bind(now.to_sql())
                    .bind(MOST_ATTEMPTS)
                    .fetch_one(&mut *reader)
                    .await
                    .map_err(store_error)?;
                let last: Option<RunRow> =
                    sqlx::query_as(LAST).bind(job).fetch_optional(&mut *reader).await.map_err(store_error)?;
                let success: Option<String> =
                    sqlx::query_scalar(LAST_SUCCESS).bind(job).fetch_one(&mut *reader).await.map_err(store_error)?;
                let server_time: Option<String> =
                    sqlx::query_scalar(SERVER_TIME).fetch_one(&mut *reader).await.map_err(store_error)?;
                Ok(Standing {
                    since: maybe_time(state(&mut reader, &since_key(job, schedule)).await?.as_deref())?,
                    settled: maybe_time(settled.as_deref())?,
                    open: open.map(open_of).transpose()?,
                    last: last.map(run_of).transpose()?,
                    last_success: maybe_time(success.as_deref())?,
                    paused: maybe_time(state(&mut reader, &paused_key(job)).await?.as_deref())?,
                    server_time: maybe_time(server_time.as_deref())?,
                })
            }

            async fn claim(&self, claim: Claim<'_>) -> Result<Claimed, StoreError> {
                let mut tx = self.database.write().await.map_err(store_error)?;
                let open: Option<OpenRow> =
                    sqlx::query_as(OPEN).bind(claim.job).fetch_optional(&mut *tx).await.map_err(store_error)?;
                let open = open.map(open_of).transpose()?;
                let mut retaken = None;
                match about_open(&claim, open) {
                    AboutOpen::Held(open) => return Ok(Claimed::Held(open)),
                    AboutOpen::Nothing => {}
                    AboutOpen::Retake(id) => retaken = Some(id),
                    AboutOpen::GiveUp(row) => {
                        let give_up = sqlx::query(GIVE_UP).bind(claim.now.to_sql()).bind(row);
                        give_up.execute(&mut *tx).await.map_err(store_error)?;
                    }
                }
                if retaken.is_none() {
                    let slot: Option<SlotRow> = sqlx::query_as(SLOT)
                        .bind(claim.job)
                        .bind(claim.slot.to_sql())
                        .fetch_optional(&mut *tx)
                        .await
                        .map_err(store_error)?;
                    match about_slot(slot) {
                        AboutSlot::Insert => {}
                        AboutSlot::Retake(id) => retaken = Some(id),
                        AboutSlot::Settled => {
                            tx.commit().await.map_err(store_error)?;
                            return Ok(Claimed::Settled);
                        }
                    }
                }
                let begin = match retaken {
                    Some(id) => sqlx::query_as(RETAKE).bind(id.row).bind(id.attempt),
                    None => sqlx::query_as(INSERT).bind(claim.job).bind(claim.slot.to_sql()),
                };
                let begun: Option<(i64, i64)> = begin
                    .bind(claim.reason.word())
                    .bind(claim.owner)
                    .bind(claim.now.to_sql())
                    .bind(claim.lease_until.to_sql())
                    .fetch_optional(&mut *tx)
                    .await
                    .map_err(store_error)?;
                tx.commit().await.map_err(store_error)?;
                // Nothing begun: somebody else was quicker by a moment.
                Ok(begun.map_or(Claimed::Settled, |(row, attempt)| Claimed::Yours(RunId { row, attempt })))
            }

            async fn set_state(&self, key: &str, value: &str) -> Result<(), StoreError> {
                let mut tx = self.database.write().await.map_err(store_error)?;
                sqlx::query(SET_STATE).bind(key).bind(value).execute(&mut *tx).await.map_err(store_error)?;
                tx.commit().await.map_err(store_error)
            }

            /// Executes a statement in a transaction of its own; tells how many rows it changed.
            async fn write<'q>(&self, statement: sqlx::query::Query<'q, $sqlx, $arguments>) -> Result<u64, StoreError> {
                let mut tx = self.database.write().await.map_err(store_error)?;
                let rows = statement.execute(&mut *tx).await.map_err(store_error)?.rows_affected();
                tx.commit().await.map_err(store_error)?;
                Ok(rows)
            }
        }

        async fn state(
            connection: &mut <$sqlx as sqlx::Database>::Connection,
            key: &str,
        ) -> Result<Option<String>, StoreError> {
            sqlx::query_scalar(STATE).bind(key).fetch_optional(connection).await.map_err(store_error)
        }

        impl RunLog for Runs {
            fn standing<'a>(
                &'a self,
                job: &'a str,
                schedule: &'a str,
                now: Timestamp,
            ) -> Pending<'a, Result<Standing, StoreError>> {
                Box::pin(self.standing(job, schedule, now))
            }

            fn adopt<'a>(
                &'a self,
                job: &'a str,
                schedule: &'a str,
                since: Timestamp,
            ) -> Pending<'a, Result<(), StoreError>> {
                Box::pin(async move { self.set_state(&since_key(job, schedule), &since.to_sql()).await })
            }

            fn claim<'a>(&'a self, claim: Claim<'a>) -> Pending<'a, Result<Claimed, StoreError>> {
                Box::pin(self.claim(claim))
            }

            fn renew(&self, id: RunId, until: Timestamp) -> Pending<'_, Result<bool, StoreError>> {
                Box::pin(async move {
                    let renew = sqlx::query(RENEW).bind(until.to_sql()).bind(id.row).bind(id.attempt);
                    Ok(self.write(renew).await? == 1)
                })
            }

            fn finish<'a>(&'a self, id: RunId, end: &'a End) -> Pending<'a, Result<bool, StoreError>> {
                Box::pin(async move {
                    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                    let finish = sqlx::query(FINISH)
                        .bind(end.at.to_sql())
                        .bind(end.ended.word())
                        .bind(number(end.rows))
                        .bind(number(end.bytes))
                        .bind(i64::try_from(end.took.as_millis()).unwrap_or(i64::MAX))
                        .bind(end.words.as_str())
                        .bind(id.row)
                        .bind(id.attempt);
                    Ok(self.write(finish).await? == 1)
                })
            }

            fn miss<'a>(
                &'a self,
                job: &'a str,
                slot: Timestamp,
                words: &'a str,
                now: Timestamp,
            ) -> Pending<'a, Result<bool, StoreError>> {
                Box::pin(async move {
                    let miss = sqlx::query(MISS).bind(job).bind(slot.to_sql()).bind(now.to_sql()).bind(words);
                    Ok(self.write(miss).await? == 1)
                })
            }

            fn believed(&self) -> Pending<'_, Result<Option<Timestamp>, StoreError>> {
                Box::pin(async move {
                    let mut reader = self.database.read(SMALL).await.map_err(store_error)?;
                    maybe_time(state(&mut reader, BELIEVED).await?.as_deref())
                })
            }

            fn believe(&self, now: Timestamp) -> Pending<'_, Result<(), StoreError>> {
                Box::pin(async move { self.set_state(BELIEVED, &now.to_sql()).await })
            }

            fn pause<'a>(&'a self, job: &'a str, since: Option<Timestamp>) -> Pending<'a, Result<(), StoreError>> {
                Box::pin(async move {
                    match since {
                        Some(since) => self.set_state(&paused_key(job), &since.to_sql()).await,
                        None => {
                            let resume = sqlx::query(RESUME).bind(paused_key(job));
                            self.write(resume).await.map(drop)
                        }
                    }
                })
            }

            fn tidy<'a>(&'a self, job: &'a str, before: Timestamp, keep: u32) -> Pending<'a, Result<bool, StoreError>> {
                Box::pin(async move {
                    let tidy = sqlx::query(TIDY).bind(job).bind(before.to_sql()).bind(i64::from(keep)).bind(TIDY_ROWS);
                    Ok(self.write(tidy).await? >= TIDY_ROWS.unsigned_abs())
                })
            }
        }
    };
}
pub(crate) use run_log;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    fn open(slot: i64, attempt: i64) -> Open {
        let id = RunId { row: 7, attempt };
        Open { id, slot: at(slot), owner: "other".to_owned(), lease_until: at(100) }
    }

    fn claim(slot: i64, dead: Option<&Open>) -> Claim<'_> {
        let (now, lease_until) = (at(99), at(144));
        Claim { job: "j", slot: at(slot), reason: Reason::Schedule, owner: "me", now, lease_until, dead }
    }

    #[test]
    fn only_the_run_that_was_taken_for_dead_is_taken_over() {
        let seen = open(60, 1);
        assert_eq!(about_open(&claim(60, Some(&seen)), None), AboutOpen::Nothing);
        assert_eq!(about_open(&claim(60, None), Some(seen.clone())), AboutOpen::Held(seen.clone()));
        assert_eq!(about_open(&claim(60, Some(&seen)), Some(seen.clone())), AboutOpen::Retake(seen.id));
        assert_eq!(about_open(&claim(61, Some(&seen)), Some(seen.clone())), AboutOpen::GiveUp(7));
        let moved = Open { lease_until: at(101), ..seen.clone() };
        assert_eq!(about_open(&claim(60, Some(&seen)), Some(moved.clone())), AboutOpen::Held(moved));
        let tried = open(60, MOST_ATTEMPTS);
        assert_eq!(about_open(&claim(60, Some(&tried)), Some(tried.clone())), AboutOpen::GiveUp(7));
    }

    #[test]
    fn only_a_cancelled_slot_is_begun_again_and_not_for_ever() {
        let row = |attempt, outcome: &str| Some((7, attempt, Some(outcome.to_owned())));
        assert_eq!(about_slot(None), AboutSlot::Insert);
        assert_eq!(about_slot(row(1, "cancelled")), AboutSlot::Retake(RunId { row: 7, attempt: 1 }));
        assert_eq!(about_slot(row(MOST_ATTEMPTS, "cancelled")), AboutSlot::Settled);
        for ended in Ended::ALL.iter().filter(|e| **e != Ended::Cancelled) {
            assert_eq!(about_slot(row(1, ended.word())), AboutSlot::Settled);
        }
    }

    #[test]
    fn times_read_back() {
        let now = Timestamp::from_rfc3339("2026-11-22T19:00:00.040Z").expect("valid");
        assert_eq!(time(&now.to_sql()).expect("canonical"), now);
        assert!(time("yesterday").is_err());
    }
}
