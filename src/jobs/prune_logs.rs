//! `log-pruning`: takes old rows out of the tables of `[[retention.tables]]`, and old files out of the directories of `[[retention.files]]`.
//!
//! One list of tables serves access logs and whatever else grows: a rule is a table, a column with a time, an age, and perhaps a condition. Rows go as those
//! of the cache do (see `expire`). Files are dealt with on threads aside, in the order: look at all, decide (`plan`), then act on one after the other,
//! asking between two whether to go on. A file goes only if, when it is its turn, it is still what was decided about:
//!
//! - a regular file with one name, in the directory itself, of a name that the rule's pattern means;
//! - past its age by the time it was last written, which is not in the future;
//! - not the newest of them, not open for writing by anybody we can see, not on another mount, no file of the database.
//!
//! Whose file it is does not matter: logs of one directory belong to several users, and who may unlink there is the directory's matter. Rules do not
//! depend on each other: one that fails lets the others run, and the run fails at its end with all their reasons. A table or directory that is not there
//! is no failure.
//!
//! Several sidecars of one database share the slots of what is in the database. Files are in none: where a sidecar has `[[retention.files]]`, the whole job is its own
//! ([`Job::is_own`]), or the files of one host would be pruned and those of all others never. Its tables it then goes through as well, though another sidecar
//! may: each of two that delete what is past its age finds what the other has left, and one job with one outcome is worth a table read twice.

mod directory;
mod pack;
mod plan;
mod written;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::{GaugeVec, IntCounterVec, Registry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

use self::directory::{Closed, Directory, Seen};
use self::pack::Packed;
use super::expire::{absent, sweep};
use crate::clock::Timestamp;
use crate::sample::globs::Globs;
use crate::sample::{Desc, Kind};
use crate::schedule::{Job, JobContext, JobError, Outcome};
use crate::store::{Expiry, Rule};
use crate::task::Pending;
use crate::telemetry;

pub use self::directory::Guarded;

/// The job's name.
pub const PRUNE_LOGS: &str = "log-pruning";

/// Files that are taken away between two looks at whether to go on: milliseconds.
const AT_ONCE: usize = 64;

/// Names that a dry run tells, and errors that a run tells.
const TOLD: usize = 100;

const ROWS: Desc = Desc {
    name: "atlas_sidecar_retention_table_rows_total",
    kind: Kind::Counter,
    unit: "rows",
    help: "Rows deleted by a rule of [[retention.tables]], by table.",
};
const UNREAD: Desc = Desc {
    name: "atlas_sidecar_retention_table_unreadable_rows",
    kind: Kind::Gauge,
    unit: "rows",
    help: "Rows of a table of [[retention.tables]] that stay for ever, because their time cannot be read; counted by the last run. Find who writes them, or delete them by hand.",
};
const FILES: Desc = Desc {
    name: "atlas_sidecar_retention_files_total",
    kind: Kind::Counter,
    unit: "files",
    help: "Files of [[retention.files]] that were `deleted` or `compressed`, by directory.",
};
const BYTES: Desc = Desc {
    name: "atlas_sidecar_retention_file_bytes_total",
    kind: Kind::Counter,
    unit: "bytes",
    help: "Bytes that were won by deleting files of [[retention.files]] and by compressing them, by directory.",
};
const KEPT: Desc = Desc {
    name: "atlas_sidecar_retention_files_kept",
    kind: Kind::Gauge,
    unit: "files",
    help: "Files past their age that the last run left alone, by directory and reason. `newest` and `open` are logs in use; look at the others: docs/OPERATIONS.md tells what they mean.",
};

/// What this module measures of itself.
pub const METRICS: &[&Desc] = &[&ROWS, &UNREAD, &FILES, &BYTES, &KEPT];

/// The numbers of this job, made once: a job is made anew with each configuration.
pub struct Metrics {
    rows: IntCounterVec,
    unread: GaugeVec,
    files: IntCounterVec,
    bytes: IntCounterVec,
    kept: GaugeVec,
    /// The turn to work on files: a thread that hangs in a dead file system keeps it, so that there is one such thread at most.
    turn: Arc<Semaphore>,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            rows: telemetry::counters(registry, &ROWS, &["table"]),
            unread: telemetry::gauges(registry, &UNREAD, &["table"]),
            files: telemetry::counters(registry, &FILES, &["directory", "action"]),
            bytes: telemetry::counters(registry, &BYTES, &["directory", "action"]),
            kept: telemetry::gauges(registry, &KEPT, &["directory", "reason"]),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

/// One of `[[retention.files]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Where they are; absolute, without `..`. Not what is below it.
    pub directory: PathBuf,
    /// Their names: one pattern.
    pub glob: Globs,
    /// How long one stays after it was last written.
    pub keep: Duration,
    /// After how long it is compressed.
    pub compress_after: Option<Duration>,
}

/// What there is to prune.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `[[retention.tables]]`
    pub tables: Vec<Rule>,
    /// `[[retention.files]]`
    pub files: Vec<Files>,
    /// What no rule reaches.
    pub guarded: Guarded,
}

impl Settings {
    /// Whether each sidecar prunes for itself: files are its host's.
    pub fn is_own(&self) -> bool {
        !self.files.is_empty()
    }
}

/// Prunes.
pub struct LogPruning {
    expiry: Arc<dyn Expiry>,
    settings: Settings,
    metrics: Arc<Metrics>,
}

impl LogPruning {
    /// By `settings`.
    pub fn new(expiry: Arc<dyn Expiry>, settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self { expiry, settings, metrics }
    }

    async fn prune(&self, cx: &JobContext) -> Result<Outcome, JobError> {
        let Settings { tables, files, .. } = &self.settings;
        if tables.is_empty() && files.is_empty() {
            return Ok(Outcome::skipped("there are no `[[retention.tables]]` and no `[[retention.files]]`"));
        }
        if let Some(doubt) = cx.clock_doubt() {
            return cx.refuse(doubt);
        }
        // Counted anew below: several rules may be about one table or directory.
        if !cx.dry_run() {
            self.metrics.unread.reset();
            self.metrics.kept.reset();
        }
        let mut report = Report::default();
        for rule in tables {
            let swept = self.table(rule, report.rows, cx).await;
            report.add(&format!("`{}`", rule.table), swept)?;
        }
        for rule in files {
            let pruned = self.files(rule, report.rows, cx).await;
            report.add(&format!("`{}`", rule.directory.display()), pruned)?;
        }
        report.outcome()
    }

    async fn table(&self, rule: &Rule, before: u64, cx: &JobContext) -> Result<Outcome, JobError> {
        let (counter, mut counted) = (self.metrics.rows.with_label_values(&[&rule.table]), 0);
        let mut gone = |rows: u64| {
            cx.progress(before + rows, None, "rows");
            if !cx.dry_run() {
                counter.inc_by(rows - std::mem::replace(&mut counted, rows));
            }
        };
        let Some(swept) = sweep(self.expiry.as_ref(), rule, cx, &mut gone).await? else {
            return Ok(Outcome::skipped(absent(rule)));
        };
        if !cx.dry_run() {
            self.metrics.unread.with_label_values(&[&rule.table]).add(swept.unread as f64);
        }
        let verb = if cx.dry_run() { "would be deleted" } else { "deleted" };
        let unread = match swept.unread {
            0 => String::new(),
            rows => format!(", {rows} with unreadable times stay"),
        };
        Ok(Outcome::done(swept.rows, format!("{} rows of `{}` {verb}{unread}", swept.rows, rule.table)))
    }

    async fn files(&self, rule: &Files, rows: u64, cx: &JobContext) -> Result<Outcome, JobError> {
        cx.check()?;
        let turn = Arc::clone(&self.metrics.turn).try_acquire_owned().map_err(|_| {
            JobError::Failed("an earlier run still waits for a file system there, or elsewhere, to answer".to_owned())
        })?;
        let mut aside = Aside { turn: Some(turn), stop: Arc::default() };
        let (wanted, guarded, now) = (rule.clone(), self.settings.guarded.clone(), cx.now());
        let looked = aside.run(cx, move |_| look(&wanted, &guarded, now)).await?;
        let (directory, plan) = match looked {
            Ok(looked) => looked,
            Err(Closed::Missing) => {
                return Ok(Outcome::skipped(format!("there is no `{}`", rule.directory.display())));
            }
            Err(Closed::Refused(why)) => return Err(JobError::Failed(why)),
        };
        let name = rule.directory.display().to_string();
        let mut work = Work { rule, name, cx, metrics: &self.metrics, rows, done: Done::default() };
        if cx.dry_run() {
            return Ok(work.told(&plan));
        }
        work.delete(&mut aside, &directory, &plan.go).await?;
        work.pack(&mut aside, &directory, plan.pack).await?;
        work.done.add_kept(plan.kept);
        work.outcome()
    }
}

impl Job for LogPruning {
    fn name(&self) -> &'static str {
        PRUNE_LOGS
    }

    fn is_own(&self) -> bool {
        self.settings.is_own()
    }

    fn run<'a>(&'a self, cx: &'a JobContext) -> Pending<'a, Result<Outcome, JobError>> {
        Box::pin(self.prune(cx))
    }
}

fn look(rule: &Files, guarded: &Guarded, now: Timestamp) -> Result<(Arc<Directory>, plan::Plan), Closed> {
    let directory = Directory::open(&rule.directory, guarded)?;
    let plan = plan::plan(&directory, rule, now).map_err(|e| Closed::Refused(format!("cannot be read: {e}")))?;
    Ok((Arc::new(directory), plan))
}

/// Work on a thread of its own, one piece after the other. Who drops it tells the piece that runs to stop, and the turn comes back when it has.
struct Aside {
    turn: Option<OwnedSemaphorePermit>,
    stop: Arc<AtomicBool>,
}

impl Aside {
    async fn run<T: Send + 'static>(
        &mut self,
        cx: &JobContext,
        piece: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let (turn, stop) = (self.turn.take(), Arc::clone(&self.stop));
        let mut work = tokio::task::spawn_blocking(move || (piece(&stop), turn));
        let asked = cx.rest(cx.time_left());
        tokio::pin!(asked);
        let ended = tokio::select! {
            ended = &mut work => ended,
            _ = &mut asked => {
                self.stop.store(true, Ordering::Relaxed);
                work.await
            }
        };
        let (done, turn) = ended.map_err(|e| JobError::Failed(format!("the work on files ended: {e}")))?;
        self.turn = turn;
        Ok(done)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What was done in a directory.
#[derive(Default)]
struct Done {
    deleted: u64,
    compressed: u64,
    bytes: u64,
    kept: BTreeMap<&'static str, u64>,
    errors: u64,
    first_error: Option<String>,
}

impl Done {
    fn add_kept(&mut self, kept: BTreeMap<&'static str, u64>) {
        for (reason, files) in kept {
            *self.kept.entry(reason).or_default() += files;
        }
    }
}

/// The work on one directory.
struct Work<'a> {
    rule: &'a Files,
    name: String,
    cx: &'a JobContext,
    metrics: &'a Metrics,
    rows: u64,
    done: Done,
}

impl Work<'_> {
    /// What would be done.
    fn told(&self, plan: &plan::Plan) -> Outcome {
        for (files, what) in [(&plan.go, "would be deleted"), (&plan.pack, "would be compressed")] {
            for seen in files.iter().take(TOLD) {
                info!(file = ?self.rule.directory.join(&seen.name), bytes = seen.size, modified = %seen.modified, "{what}");
            }
        }
        let bytes = plan.go.iter().map(|seen| seen.size).sum();
        let first = plan.go.first().map(|seen| format!(", first {:?}", seen.name)).unwrap_or_default();
        let words = format!(
            "{} files ({bytes} bytes{first}) of `{}` would be deleted, {} compressed",
            plan.go.len(),
            self.name,
            plan.pack.len()
        );
        Outcome::done(0, words).bytes(bytes)
    }

    async fn delete(&mut self, aside: &mut Aside, directory: &Arc<Directory>, files: &[Seen]) -> Result<(), JobError> {
        for some in files.chunks(AT_ONCE) {
            self.cx.check()?;
            let (directory, some) = (Arc::clone(directory), some.to_vec());
            let gone = aside
                .run(self.cx, move |_| {
                    let unlink = |seen: Seen| {
                        let gone = directory.unlink(&seen);
                        (seen, gone)
                    };
                    some.into_iter().map(unlink).collect::<Vec<_>>()
                })
                .await?;
            for (seen, gone) in gone {
                match gone {
                    Ok(true) => self.won("deleted", seen.size),
                    Ok(false) => *self.done.kept.entry("changed").or_default() += 1,
                    Err(e) => self.failed(&seen, &e),
                }
            }
            self.progress();
        }
        Ok(())
    }

    async fn pack(&mut self, aside: &mut Aside, directory: &Arc<Directory>, files: Vec<Seen>) -> Result<(), JobError> {
        for seen in files {
            self.cx.check()?;
            let directory = Arc::clone(directory);
            let (seen, packed) = aside
                .run(self.cx, move |stop| {
                    let packed = pack::pack(&directory, &seen, stop);
                    (seen, packed)
                })
                .await?;
            match packed {
                Ok(Packed::Smaller(bytes)) => self.won("compressed", bytes),
                Ok(Packed::Kept(reason)) => *self.done.kept.entry(reason).or_default() += 1,
                Ok(Packed::Stopped) => return Err(JobError::Stopped),
                Err(e) => self.failed(&seen, &e),
            }
            self.progress();
        }
        Ok(())
    }

    fn won(&mut self, action: &str, bytes: u64) {
        *(if action == "deleted" { &mut self.done.deleted } else { &mut self.done.compressed }) += 1;
        self.done.bytes += bytes;
        self.metrics.files.with_label_values(&[self.name.as_str(), action]).inc();
        self.metrics.bytes.with_label_values(&[self.name.as_str(), action]).inc_by(bytes);
    }

    fn failed(&mut self, seen: &Seen, error: &io::Error) {
        self.done.errors += 1;
        if self.done.errors <= TOLD as u64 {
            warn!(file = ?self.rule.directory.join(&seen.name), %error, "old file stays");
        }
        self.done.first_error.get_or_insert_with(|| format!("{:?}: {error}", seen.name));
    }

    fn progress(&self) {
        self.cx.progress(self.rows + self.done.deleted + self.done.compressed, None, "rows and files");
    }

    fn outcome(self) -> Result<Outcome, JobError> {
        let Done { deleted, compressed, bytes, kept, errors, first_error } = self.done;
        for (reason, files) in &kept {
            self.metrics.kept.with_label_values(&[self.name.as_str(), reason]).add(*files as f64);
        }
        let mut words = format!("{deleted} files of `{}` deleted, {compressed} compressed", self.name);
        if !kept.is_empty() {
            let reasons: Vec<_> = kept.iter().map(|(reason, files)| format!("{files} {reason}")).collect();
            words += &format!(", left alone: {}", reasons.join(", "));
        }
        match first_error {
            Some(first) => Err(JobError::Failed(format!("{words}; {errors} failed, first {first}"))),
            None => Ok(Outcome::done(0, words).bytes(bytes)),
        }
    }
}

/// What a run's rules came to.
#[derive(Default)]
struct Report {
    rows: u64,
    bytes: u64,
    done: Vec<String>,
    skipped: Vec<String>,
    failed: Vec<String>,
}

impl Report {
    /// Takes a rule's end; an error only where the whole run is to stop.
    fn add(&mut self, what: &str, ended: Result<Outcome, JobError>) -> Result<(), JobError> {
        match ended {
            Ok(outcome) if outcome.skipped => self.skipped.push(outcome.words),
            Ok(outcome) => {
                self.rows += outcome.rows;
                self.bytes += outcome.bytes;
                self.done.push(outcome.words);
            }
            Err(JobError::Failed(why)) => self.failed.push(format!("{what}: {why}")),
            Err(JobError::Stopped) => return Err(JobError::Stopped),
        }
        Ok(())
    }

    fn outcome(self) -> Result<Outcome, JobError> {
        let Self { rows, bytes, done, skipped, failed } = self;
        let none_done = done.is_empty();
        // What went wrong first: the log keeps the beginning of a line.
        let words = failed.iter().chain(&done).chain(&skipped).cloned().collect::<Vec<_>>().join("; ");
        match () {
            () if !failed.is_empty() => Err(JobError::Failed(words)),
            () if none_done => Ok(Outcome::skipped(words)),
            () => Ok(Outcome::done(rows, words).bytes(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rule_that_fails_fails_the_run_with_all_words() {
        let mut report = Report::default();
        report.add("a", Ok(Outcome::done(3, "3 rows"))).expect("goes on");
        report.add("b", Ok(Outcome::skipped("no b"))).expect("goes on");
        report.add("c", Err(JobError::Failed("broken".to_owned()))).expect("goes on");
        let failed = report.outcome().expect_err("failed");
        assert_eq!(failed.to_string(), "c: broken; 3 rows; no b");
        assert!(Report::default().add("d", Err(JobError::Stopped)).is_err());
    }

    #[test]
    fn rules_without_a_table_are_a_skipped_run() {
        let mut report = Report::default();
        report.add("b", Ok(Outcome::skipped("no b"))).expect("goes on");
        assert!(report.outcome().expect("no failure").skipped);
    }
}
