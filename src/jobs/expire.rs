//! `cache-expiry`: takes rows out of `search_cache` whose `expires_at` is over, or that are older than `retention.cache`.
//!
//! In steps, each a transaction of its own that keeps writers out for a tenth of a second where it can: how many rows a step looks at follows from how
//! long the one before held the lock. Between two that held it, the application has at least as long for itself. What a crash leaves is a
//! table from which fewer rows were taken.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::schedule::{Job, JobContext, JobError, Outcome};
use crate::store::{Aged, Cursor, Expired, Expiry, Rule, Step, StoreError};
use crate::task::Pending;

/// The job's name.
pub const CACHE: &str = "cache-expiry";

/// How long a step should hold the write lock; 250 ms is what the application is promised.
const HOLD: Duration = Duration::from_millis(100);

/// Rows of the first step, and the bounds of later ones.
const FIRST: u32 = 500;
const LEAST: u32 = 10;
const MOST: u32 = 5000;

/// What one step may take, reading included.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// How often a step is tried while somebody else holds the database.
const TRIES: u32 = 5;

/// Takes expired rows out of the search cache.
pub struct CacheExpiry {
    expiry: Arc<dyn Expiry>,
    rule: Rule,
}

impl CacheExpiry {
    /// A row is kept for `keep` at most.
    pub fn new(expiry: Arc<dyn Expiry>, keep: Duration) -> Self {
        let aged = |column: &str, keep| Aged { column: column.to_owned(), keep };
        let ages = vec![aged("expires_at", Duration::ZERO), aged("created_at", keep)];
        Self { expiry, rule: Rule { table: "search_cache".to_owned(), ages, only: None } }
    }

    /// Which rows go.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }
}

impl Job for CacheExpiry {
    fn name(&self) -> &'static str {
        CACHE
    }

    fn run<'a>(&'a self, cx: &'a JobContext) -> Pending<'a, Result<Outcome, JobError>> {
        Box::pin(expire(self.expiry.as_ref(), &self.rule, cx))
    }
}

/// Takes what is over by `rule` out of its table.
async fn expire(expiry: &dyn Expiry, rule: &Rule, cx: &JobContext) -> Result<Outcome, JobError> {
    if let Some(doubt) = cx.clock_doubt() {
        return cx.refuse(doubt);
    }
    let Some(Swept { rows, .. }) = sweep(expiry, rule, cx, &mut |rows| cx.progress(rows, None, "rows")).await? else {
        return Ok(Outcome::skipped(absent(rule)));
    };
    let verb = if cx.dry_run() { "would be deleted" } else { "deleted" };
    Ok(Outcome::done(rows, format!("{rows} rows of `{}` {verb}", rule.table)))
}

/// What a sweep through a table came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// Rows that went, or would go.
    pub rows: u64,
    /// Rows that stay whatever their age, because it cannot be read.
    pub unread: u64,
}

/// Goes once through the table of `rule`; nothing where there is none. The clock is believed.
pub(super) async fn sweep(
    expiry: &dyn Expiry,
    rule: &Rule,
    cx: &JobContext,
    gone: &mut (dyn FnMut(u64) + Send),
) -> Result<Option<Swept>, JobError> {
    // One time for all steps: what expires meanwhile is the next run's.
    let now = cx.now();
    let (mut from, mut limit, mut swept) = (Cursor::default(), FIRST, Swept::default());
    loop {
        cx.check()?;
        let within = cx.time_left().min(STEP_LIMIT);
        let step = Step { from, limit, within, dry_run: cx.dry_run() };
        let Some((looked_at, expired)) = patiently(expiry, rule, now, step, cx).await? else { return Ok(None) };
        swept.rows += expired.rows;
        swept.unread += expired.unread;
        gone(swept.rows);
        let Some(next) = expired.next else { return Ok(Some(swept)) };
        from = next;
        limit = next_limit(looked_at, expired.held);
        if !expired.held.is_zero() {
            cx.rest(expired.held).await?;
        }
    }
}

/// Why a rule had nothing to go through.
pub(super) fn absent(rule: &Rule) -> String {
    format!("there is no `{}` with {}", rule.table, columns(rule))
}

/// A step, tried again while somebody else is at the database; and how many rows it looked at. Each try looks at half as many: what ended the one before
/// may have been its own limit, where each row costs the application's triggers.
async fn patiently(
    expiry: &dyn Expiry,
    rule: &Rule,
    now: Timestamp,
    mut step: Step,
    cx: &JobContext,
) -> Result<Option<(u32, Expired)>, JobError> {
    let mut failures = 0;
    loop {
        match expiry.expire(rule, now, step).await {
            Err(StoreError::Busy(_)) if failures + 1 < TRIES => failures += 1,
            done => return Ok(done?.map(|expired| (step.limit, expired))),
        }
        step.limit = (step.limit / 2).max(LEAST);
        cx.rest(Duration::from_millis(200) * failures).await?;
    }
}

/// How many rows the next step looks at.
fn next_limit(limit: u32, held: Duration) -> u32 {
    let next = match held {
        held if held > HOLD => limit / 2,
        held if held < HOLD / 2 => limit.saturating_mul(2),
        _ => limit,
    };
    next.clamp(LEAST, MOST)
}

fn columns(rule: &Rule) -> String {
    rule.ages.iter().map(|aged| format!("`{}`", aged.column)).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_how_long_the_lock_was_held() {
        let ms = Duration::from_millis;
        assert_eq!(next_limit(500, ms(0)), 1000);
        assert_eq!(next_limit(500, ms(60)), 500);
        assert_eq!(next_limit(500, ms(101)), 250);
        assert_eq!(next_limit(MOST, ms(0)), MOST);
        assert_eq!(next_limit(LEAST, ms(900)), LEAST);
    }
}
