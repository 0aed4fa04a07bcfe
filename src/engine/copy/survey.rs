//! Every row is tried before any is sent: what has to be converted is counted, what cannot be is named.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;

use super::kind::{Bad, Stored};
use super::plan::TablePlan;
use super::source::{Source, stored};
use super::wire::Line;
use super::{CopyError, Progress, ROWS_PER_CALL, Step, Watch};

/// Rows that are named for each reason; the others are counted.
const EXAMPLES: usize = 5;

/// Characters of a row's key that are shown.
const KEY_SHOWN: usize = 64;

/// What was found in a table.
#[derive(Debug, Default)]
pub struct Findings {
    /// Rows.
    pub rows: u64,
    /// Rows that cannot be copied.
    pub bad_rows: u64,
    /// By column and what is done: how many values.
    pub conversions: BTreeMap<(usize, &'static str), u64>,
    /// By column and reason: the rows.
    pub bad: BTreeMap<(usize, Bad), Rows>,
    /// By column without a place: the rows that have something there.
    pub homeless: BTreeMap<usize, Rows>,
}

/// Some rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// How many.
    pub count: u64,
    /// The first few, by what they are called.
    pub examples: Vec<String>,
}

impl Rows {
    fn add(&mut self, row: &SqliteRow) -> Result<(), sqlx::Error> {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(name(row)?);
        }
        Ok(())
    }
}

/// Tries every row of `table`.
pub async fn survey(
    source: &mut Source,
    table: &TablePlan,
    round: bool,
    watch: Watch<'_>,
) -> Result<Findings, CopyError> {
    let mut findings = Findings::default();
    let failed = {
        let mut rows = source.rows(table.select());
        let mut line = Line::default();
        loop {
            match rows.try_next().await {
                Ok(Some(row)) => {
                    if let Err(e) = findings.take(table, &row, round, &mut line) {
                        break Some(e);
                    }
                }
                Ok(None) => break None,
                Err(e) => break Some(e),
            }
            if findings.rows.is_multiple_of(ROWS_PER_CALL) {
                watch(Progress { step: Step::Reading, table: table.wanted.name, rows: findings.rows });
            }
        }
    };
    match failed {
        Some(e) => Err(source.error(&e)),
        None => Ok(findings),
    }
}

impl Findings {
    fn take(&mut self, table: &TablePlan, row: &SqliteRow, round: bool, line: &mut Line) -> Result<(), sqlx::Error> {
        self.rows += 1;
        let mut bad = false;
        let mut result = Ok(());
        convert(table, row, round, line, |column, converted| match converted {
            Ok(what) => *self.conversions.entry((column, what)).or_default() += 1,
            Err(why) => {
                bad = true;
                if result.is_ok() {
                    result = self.bad.entry((column, why)).or_default().add(row);
                }
            }
        })?;
        result?;
        self.bad_rows += u64::from(bad);
        for at in 0..table.homeless.len() {
            if stored(row, FIRST + table.columns.len() + at)? != Stored::Null {
                self.homeless.entry(at).or_default().add(row)?;
            }
        }
        Ok(())
    }
}

/// Where the columns begin in a row of [`TablePlan::select`].
const FIRST: usize = 2;

/// Makes a line of a row; tells `found` of each conversion and each value that has none. Gives whether the line is whole.
pub fn convert(
    table: &TablePlan,
    row: &SqliteRow,
    round: bool,
    line: &mut Line,
    mut found: impl FnMut(usize, Result<&'static str, Bad>),
) -> Result<bool, sqlx::Error> {
    line.clear();
    let mut whole = true;
    for (at, column) in table.columns.iter().enumerate() {
        let wrote = match stored(row, FIRST + at)? {
            Stored::Null if column.to.not_null => Err("is NULL, which the target does not take".into()),
            Stored::Null => {
                line.push_null();
                Ok(None)
            }
            value => column.to.kind.write(value, round, line.push_text()),
        };
        match wrote {
            Ok(Some(what)) => found(at, Ok(what)),
            Ok(None) => {}
            Err(why) => {
                whole = false;
                found(at, Err(why));
            }
        }
    }
    Ok(whole)
}

/// What a row is called in messages: by its key, or by its number where it has none (V-8).
pub fn name(row: &SqliteRow) -> Result<String, sqlx::Error> {
    let key = match stored(row, 0)? {
        Stored::Null => None,
        Stored::Integer(number) => Some(number.to_string()),
        Stored::Real(number) => Some(number.to_string()),
        Stored::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Stored::Blob(_) => None,
    };
    let number = match stored(row, 1)? {
        Stored::Integer(number) => format!("rowid {number}"),
        _ => "a row without a key".to_owned(),
    };
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    Ok(key.map_or(number, |key| key.chars().take(KEY_SHOWN).map(plain).collect()))
}
