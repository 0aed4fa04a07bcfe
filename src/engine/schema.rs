//! What bringing a schema up to date is asked and what it answers; the same words for every engine.

pub mod inventory;
pub mod names;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Checked;
use crate::secret::Secret;

/// Where a new admin key goes. It is stored as a hash only, so this is the one time it can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySink {
    /// Into [`Report::admin_key`], for the caller to print once.
    Terminal,
    /// Into the file `admin-key` (mode 0600) of this directory, which is made (0700) where it is missing.
    File(PathBuf),
}

/// How to migrate.
#[derive(Clone, Debug)]
pub struct MigrateOptions {
    /// Say what would be done and write nothing, not even a file.
    pub dry_run: bool,
    /// Where a new admin key goes.
    pub key_sink: KeySink,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether [`FileReport::steps`] are what would be done.
    pub dry_run: bool,
    /// One per database, in the order in which they were worked on.
    pub files: Vec<FileReport>,
    /// Where a new admin key was written.
    pub admin_key_file: Option<PathBuf>,
    /// A new admin key that was asked for with [`KeySink::Terminal`]. Neither the text nor the JSON of the report holds it: the caller prints
    /// it, once, after everything else.
    #[serde(skip)]
    pub admin_key: Option<Secret>,
}

/// What concerns one database.
#[derive(Debug, Default, Serialize)]
pub struct FileReport {
    /// The database.
    pub database: String,
    /// Whether the file did not exist before.
    pub made: bool,
    /// What was done, in order.
    pub steps: Vec<String>,
    /// What `run` does not do beside the application's tables, and `migrate` would.
    pub pending: Vec<String>,
    /// What was left alone and why.
    pub notes: Vec<String>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

impl Report {
    pub(crate) fn new(dry_run: bool) -> Self {
        Self { dry_run, files: Vec::new(), admin_key_file: None, admin_key: None }
    }

    /// Whether no database had anything to be done.
    pub fn unchanged(&self) -> bool {
        self.files.iter().all(|f| f.steps.is_empty())
    }

    /// What `check` says of `database`: `about`, and how much of a dry run's steps concern it.
    pub(crate) fn checked(&self, database: &str, about: String) -> Checked {
        match self.files.iter().find(|file| file.database == database).map_or(0, |file| file.steps.len()) {
            0 => Checked::Good(about),
            n => Checked::Look(format!("{about}; `migrate --dry-run` names {n} things that are missing in its schema")),
        }
    }
}

impl FileReport {
    pub(crate) fn new(path: &Path) -> Self {
        Self { database: path.display().to_string(), ..Self::default() }
    }

    fn headline(&self, dry_run: bool) -> String {
        let made = match (self.made, dry_run) {
            (true, true) => " (would be made)",
            (true, false) => " (made)",
            (false, _) => "",
        };
        let state = match (self.steps.len(), dry_run) {
            (0, _) if self.pending.is_empty() => "up to date".to_owned(),
            (0, _) => "as it was".to_owned(),
            (n, true) => format!("{n} to do"),
            (n, false) => format!("{n} done"),
        };
        format!("{}{made}: {state}", self.database)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            writeln!(f, "{}", file.headline(self.dry_run))?;
            let sections = [
                ("", &file.steps),
                ("not without `migrate`: ", &file.pending),
                ("left alone: ", &file.notes),
                ("warning: ", &file.warnings),
            ];
            for (label, lines) in sections {
                for line in lines {
                    writeln!(f, "  {label}{line}")?;
                }
            }
        }
        match &self.admin_key_file {
            Some(path) => writeln!(f, "the admin key is in `{}`", path.display()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_text_nor_json_nor_debug_holds_the_key() {
        let mut report = Report::new(false);
        report.admin_key = Some(Secret::new("canary"));
        let mut file = FileReport::new(Path::new("a.db"));
        file.steps.push("create table `x`".into());
        file.warnings.push("look".into());
        report.files.push(file);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(report.to_string(), "a.db: 1 done\n  create table `x`\n  warning: look\n");
        assert!(!format!("{report}{report:?}{json}").contains("canary"));
        assert!(json.contains(r#""admin_key_file":null"#), "{json}");
    }
}
