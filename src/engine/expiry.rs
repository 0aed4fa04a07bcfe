//! Taking old rows out of a table: what is the same on every engine. The twins write the statements and read the errors.

use super::schema::names::shown;
use crate::clock::Timestamp;
use crate::store::{Expired, Expiry, Rule, Step, StoreError};
use crate::task::Pending;

/// Why a step did not work.
#[derive(Debug)]
pub enum Failure {
    /// A table or a column is missing: the engine's words.
    Absent(String),
    /// The table's rows have nothing to take them by.
    Unfit,
    /// Something else.
    Failed(StoreError),
}

/// An engine that takes old rows out.
pub trait Steps: Send + Sync {
    /// One step, as [`Expiry::expire`] describes it.
    fn step<'a>(&'a self, rule: &'a Rule, now: Timestamp, step: Step) -> Pending<'a, Result<Expired, Failure>>;
}

impl<E: Steps> Expiry for E {
    fn expire<'a>(
        &'a self,
        rule: &'a Rule,
        now: Timestamp,
        step: Step,
    ) -> Pending<'a, Result<Option<Expired>, StoreError>> {
        Box::pin(async move {
            match self.step(rule, now, step).await {
                Ok(expired) => Ok(Some(expired)),
                Err(Failure::Failed(e)) => Err(e),
                Err(Failure::Unfit) => {
                    let table = shown(&rule.table);
                    Err(StoreError::Broken(format!("{table} is no ordinary table with numbered rows; a view, maybe")))
                }
                Err(Failure::Absent(_)) if rule.only.is_none() => Ok(None),
                Err(Failure::Absent(why)) => {
                    // A condition with a misspelt column would otherwise look like a table that is not there.
                    let bare = Rule { only: None, ..rule.clone() };
                    let look = Step { limit: 1, dry_run: true, ..step };
                    match self.step(&bare, now, look).await {
                        Ok(_) => Err(StoreError::Broken(format!("`where` of {}: {why}", shown(&rule.table)))),
                        Err(_) => Ok(None),
                    }
                }
            }
        })
    }
}
