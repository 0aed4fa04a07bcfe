//! Bringing a database's schema up to date, as a guest in somebody's database: what is the same on every engine.
//!
//! Three steps: read what is there ([`inventory`]), decide what is missing ([`plan`], pure and printable), do it ([`apply`]). Nothing of the
//! application's is ever dropped, rewritten or renamed; what is in the way is left alone and named. Running it again changes nothing.
//!
//! Who may do what:
//!
//! | | database without tables, or made by `run` | beside the application's tables |
//! |---|---|---|
//! | `migrate` | everything | everything that is missing |
//! | `run` | everything | only `sidecar_*`; it says what `migrate` would add |
//!
//! With `database.metrics_url` the samples' table and the `sidecar_*` tables live in the database named there, which is the operator's gift to the
//! sidecar: everything of that part is made there by both. The application's database then gets a `sidecar_` table only from `migrate`: the
//! record of what it did there, and the full-text indexes, which belong beside their text.

pub mod admin_key;
pub mod apply;
pub mod full_text;
pub mod inventory;
pub mod names;
pub mod own;
pub mod plan;
pub mod seed;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use self::apply::{MadeKey, Site, Stepped, Work};
use self::plan::{Action, Dialect, Plan};
use super::{EngineError, FullText, Settings};
use crate::clock::Clock;
use crate::secret::Secret;

/// Which part of the schema belongs in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it: there is one database.
    Whole,
    /// The application's, while the samples go elsewhere.
    Application,
    /// The samples and what the sidecar remembers.
    Metrics,
}

impl Part {
    /// The full-text indexes that belong there.
    pub fn full_text(self, settings: &Settings) -> &[FullText] {
        if self == Self::Metrics { &[] } else { &settings.full_text }
    }
}

/// What may be done to a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything that is missing.
    All,
    /// Everything in a database without tables; beside tables only the sidecar's own.
    Guest,
}

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
}

impl FileReport {
    pub(crate) fn new(database: impl Into<String>) -> Self {
        Self { database: database.into(), ..Self::default() }
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

/// What `run` does at its start with the databases that it has opened. The admin key of a database that it makes goes to the state directory.
pub async fn prepare<S: Site>(
    app: &S,
    metrics: Option<&S>,
    settings: &Settings,
    clock: &Clock,
) -> Result<Report, EngineError> {
    let mut report = Report::new(false);
    let sink = KeySink::File(settings.state_directory.clone());
    if let Some(metrics) = metrics {
        let mut work = Work::new(metrics, (Part::Metrics, Scope::All), &[], &sink, clock);
        complete(&mut work, &mut report).await?;
    }
    let part = if metrics.is_some() { Part::Application } else { Part::Whole };
    let scope = if app.made() { Scope::All } else { Scope::Guest };
    let mut work = Work::new(app, (part, scope), &settings.full_text, &sink, clock);
    complete(&mut work, &mut report).await?;
    Ok(report)
}

/// Steps until nothing is left. A start that finds nothing to do does not ask for a lock.
pub async fn complete<S: Site>(work: &mut Work<'_, S>, report: &mut Report) -> Result<(), EngineError> {
    let mut file = FileReport { made: work.site.made(), ..FileReport::new(work.site.name()) };
    // Where nothing can be read now, the step that follows says why.
    let mut last = work.site.glance(work.asked).await.ok().filter(|plan| plan.steps.is_empty());
    while last.is_none() {
        match work.step().await? {
            Stepped::Nothing(plan) => last = Some(plan),
            Stepped::Rows => {}
            Stepped::Done { what, key, plan } => {
                file.steps.extend(what);
                // The key's step is the last of its plan, so nothing that could fail comes after it, and the key is not lost.
                match key {
                    Some(MadeKey::Shown(key)) => report.admin_key = Some(key),
                    Some(MadeKey::Written(path)) => report.admin_key_file = Some(path),
                    None => {}
                }
                last = Some(plan).filter(|plan| plan.steps.is_empty());
            }
        }
    }
    let plan = last.unwrap_or_default();
    (file.pending, file.notes, file.warnings) = (plan.pending, plan.notes, plan.warnings);
    report.files.push(file);
    Ok(())
}

/// What doing `plan` would report.
pub fn foreseen<D: Dialect>(plan: Plan<D>, mut file: FileReport, sink: &KeySink) -> FileReport {
    let key = plan.steps.iter().find_map(|step| match step.action {
        Action::AdminKey { first, .. } => Some(first),
        _ => None,
    });
    file.steps = plan.steps.into_iter().map(|s| s.what).collect();
    (file.notes, file.warnings) = (plan.notes, plan.warnings);
    file.warnings.extend(plan.obstacles.into_iter().map(|o| o.to_string()));
    if let (Some(first), KeySink::File(directory)) = (key, sink)
        && admin_key::exists(directory)
        && (!first || admin_key::left_behind(directory).is_none())
    {
        file.warnings.push(admin_key::taken(directory).to_string());
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_text_nor_json_nor_debug_holds_the_key() {
        let mut report = Report::new(false);
        report.admin_key = Some(Secret::new("canary"));
        let mut file = FileReport::new("a.db");
        file.steps.push("create table `x`".into());
        file.warnings.push("look".into());
        report.files.push(file);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(report.to_string(), "a.db: 1 done\n  create table `x`\n  warning: look\n");
        assert!(!format!("{report}{report:?}{json}").contains("canary"));
        assert!(json.contains(r#""admin_key_file":null"#), "{json}");
    }
}
