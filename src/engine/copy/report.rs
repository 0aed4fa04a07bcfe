//! What was found, and what was done: for people, or as JSON.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::Request;
use super::apply::Checked;
use super::plan::{Plan, TablePlan};
use super::survey::{Findings, Rows};
use super::tally::ColumnTotals;
use crate::engine::schema::names::{shown, shown_list};

/// The whole of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The file.
    pub from: String,
    /// The database, without secrets.
    pub to: String,
    /// Whether nothing was to be written.
    pub dry_run: bool,
    /// Whether the rows are in the target.
    pub copied: bool,
    /// In the order in which they are copied.
    pub tables: Vec<TableReport>,
    /// What speaks against it.
    pub problems: Vec<String>,
    /// What somebody should know.
    pub notes: Vec<String>,
    /// Tables of the source that are not copied.
    pub not_copied: Vec<String>,
    /// Tables of the source without rows to copy.
    pub empty: Vec<&'static str>,
}

/// A table.
#[derive(Debug, Serialize)]
pub struct TableReport {
    /// Its name.
    pub table: String,
    /// Rows of the source.
    pub rows: u64,
    /// Rows that are left out, because `--skip-bad` was given.
    pub left_out: u64,
    /// Values that are not stored as they were.
    pub conversions: Vec<Conversion>,
    /// Values that cannot be copied.
    pub bad: Vec<BadRows>,
    /// Its columns.
    pub columns: Vec<ColumnReport>,
    /// The digest of what was sent.
    pub digest: Option<String>,
    /// The digest of what was read back.
    pub digest_in_target: Option<String>,
    /// Rows that the target has.
    pub rows_in_target: Option<u64>,
    /// Whether both sides are the same.
    pub equal: Option<bool>,
}

/// Some values of a column that are converted.
#[derive(Debug, Serialize)]
pub struct Conversion {
    /// The column.
    pub column: String,
    /// What is done.
    pub what: &'static str,
    /// To how many values.
    pub values: u64,
}

/// Some rows that cannot be copied.
#[derive(Debug, Serialize)]
pub struct BadRows {
    /// The column.
    pub column: String,
    /// Why.
    pub why: String,
    /// How many.
    pub rows: u64,
    /// The first few, by their keys.
    pub examples: Vec<String>,
}

/// A column.
#[derive(Debug, Serialize)]
pub struct ColumnReport {
    /// Its name in the target.
    pub column: String,
    /// Its type in the target.
    #[serde(rename = "type")]
    pub kind: String,
    /// What was sent.
    pub sent: Option<ColumnTotals>,
    /// What the target says that it has.
    pub in_target: Option<ColumnTotals>,
}

impl Report {
    pub(super) fn new(request: &Request, from: &Path, to: &str, plan: &Plan) -> Self {
        Self {
            from: from.display().to_string(),
            to: to.to_owned(),
            dry_run: request.dry_run,
            copied: false,
            tables: plan.tables.iter().map(TableReport::new).collect(),
            problems: plan.problems.clone(),
            notes: plan.notes.clone(),
            not_copied: plan.others.clone(),
            empty: plan.empty.clone(),
        }
    }

    /// Whether something speaks against copying.
    pub fn is_refused(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Takes what was found in the table at `at`.
    pub(super) fn found(&mut self, at: usize, table: &TablePlan, findings: Findings, skip_bad: bool) {
        let report = &mut self.tables[at];
        let column = |at: usize| table.columns[at].from.clone();
        report.rows = findings.rows;
        report.left_out = if skip_bad { findings.bad_rows } else { 0 };
        let conversions = findings.conversions.into_iter();
        report.conversions =
            conversions.map(|((at, what), values)| Conversion { column: column(at), what, values }).collect();
        let bad = findings.bad.into_iter();
        report.bad = bad.map(|((at, why), rows)| BadRows::new(column(at), why.into_owned(), rows)).collect();
        let name = shown(table.wanted.name);
        if findings.bad_rows > 0 && !skip_bad {
            let (count, rows) = (findings.bad_rows, if findings.bad_rows == 1 { "row" } else { "rows" });
            self.problems.push(format!(
                "{count} {rows} of {name} cannot be copied: correct them, or leave them out with `--skip-bad`"
            ));
        }
        for (at, rows) in findings.homeless {
            let (column, why) = &table.homeless[at];
            self.problems.push(format!(
                "{} of {name} has values in {} rows, and {why} (rows {})",
                shown(column),
                rows.count,
                shown_list(&rows.examples)
            ));
        }
    }

    /// Takes what was sent and what arrived.
    pub(super) fn checked(&mut self, checked: Vec<Checked>) {
        self.copied = checked.iter().all(Checked::is_equal);
        for (report, checked) in self.tables.iter_mut().zip(checked) {
            let equal = checked.is_equal();
            report.equal = Some(equal);
            report.rows_in_target = Some(checked.there.rows);
            report.digest = Some(checked.sent_digest.to_string());
            report.digest_in_target = Some(checked.there_digest.to_string());
            let totals = checked.sent.columns.into_iter().zip(checked.there.columns);
            for (column, (sent, there)) in report.columns.iter_mut().zip(totals) {
                (column.sent, column.in_target) = (Some(sent), Some(there));
            }
            if !equal {
                self.problems.push(format!(
                    "{} is not the same in the target: {}",
                    shown(&report.table),
                    report.difference(checked.sent.rows)
                ));
            }
        }
    }
}

impl BadRows {
    fn new(column: String, why: String, rows: Rows) -> Self {
        Self { column, why, rows: rows.count, examples: rows.examples }
    }
}

impl TableReport {
    fn new(table: &TablePlan) -> Self {
        let column = |to: &super::target::Column| ColumnReport {
            column: to.name.clone(),
            kind: to.declared.clone(),
            sent: None,
            in_target: None,
        };
        Self {
            table: table.wanted.name.to_owned(),
            rows: 0,
            left_out: 0,
            conversions: Vec::new(),
            bad: Vec::new(),
            columns: table.columns.iter().map(|c| column(&c.to)).collect(),
            digest: None,
            digest_in_target: None,
            rows_in_target: None,
            equal: None,
        }
    }

    /// Where both sides differ, with both numbers.
    fn difference(&self, sent: u64) -> String {
        let mut found = Vec::new();
        if let Some(there) = self.rows_in_target.filter(|there| *there != sent) {
            found.push(format!("{sent} rows were sent, {there} are there"));
        }
        for column in &self.columns {
            let (Some(sent), Some(there)) = (&column.sent, &column.in_target) else { continue };
            let name = shown(&column.column);
            if sent.present != there.present {
                found.push(format!("{name} had {} values, now {}", sent.present, there.present));
            }
            if let (Some(sent), Some(there)) = (&sent.sum, &there.sum)
                && sent != there
            {
                found.push(format!("the sum of {name} was {sent}, now {there}"));
            }
        }
        if found.is_empty() {
            let digest = |digest: &Option<String>| digest.clone().unwrap_or_default();
            found.push(format!("the digest was {}, now {}", digest(&self.digest), digest(&self.digest_in_target)));
        }
        found.join("; ")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match (self.copied, self.is_refused(), self.dry_run) {
            (true, _, _) => "copied and found equal",
            (false, true, true) => "cannot be copied as it is",
            (false, true, false) => "nothing was copied",
            (false, false, _) => "would be copied",
        };
        writeln!(f, "`{}` to `{}`: {done}", self.from, self.to)?;
        for table in &self.tables {
            write!(f, "{table}")?;
        }
        for (label, lines) in [("note: ", &self.notes), ("problem: ", &self.problems)] {
            for line in lines {
                writeln!(f, "{label}{line}")?;
            }
        }
        if !self.empty.is_empty() {
            writeln!(f, "without rows: {}", shown_list(&self.empty))?;
        }
        match self.not_copied.is_empty() {
            true => Ok(()),
            false => writeln!(f, "not copied, the application's own: {}", shown_list(&self.not_copied)),
        }
    }
}

impl fmt::Display for TableReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} rows", self.table, self.rows)?;
        if self.left_out > 0 {
            write!(f, ", {} left out", self.left_out)?;
        }
        match (self.equal, &self.digest) {
            (Some(true), Some(digest)) => writeln!(f, ", equal, digest {}", &digest[..16])?,
            (Some(_), _) => writeln!(f, ", NOT equal")?,
            (None, _) => writeln!(f)?,
        }
        for column in self.columns.iter().filter(|c| c.sent.is_some()) {
            let Some(sent) = &column.sent else { continue };
            write!(f, "  {:<24} {:>12} values", column.column, sent.present)?;
            match &sent.sum {
                Some(sum) => writeln!(f, ", sum {sum}")?,
                None => writeln!(f)?,
            }
        }
        for conversion in &self.conversions {
            writeln!(f, "  {}: {}, {} values", conversion.column, conversion.what, conversion.values)?;
        }
        for bad in &self.bad {
            let more = if bad.rows as usize > bad.examples.len() { ", …" } else { "" };
            writeln!(
                f,
                "  {} {}: {} rows ({}{more})",
                shown(&bad.column),
                bad.why,
                bad.rows,
                shown_list(&bad.examples)
            )?;
        }
        Ok(())
    }
}
