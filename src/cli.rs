//! The commands: what may be typed ([`parse`]), how a command ends ([`Exit`]), and how its answer is printed.
//!
//! Answers go to standard output, everything else to standard error: first a line `error:`, then, where there is something to do about it,
//! a line `hint:`. A reader that closes standard output early (`| head`) ends the command quietly.

pub mod backup;
pub mod check;
pub mod copy;
pub mod default_config;
pub mod export;
pub mod health;
pub mod jobs;
pub mod migrate;
pub mod restore;
mod shown;
pub mod unavailable;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::backup::{Timeline, plan};
use crate::clock::Timestamp;
use crate::config::{self, Loaded, Problems, Sources};
use crate::control::Ask;
use crate::object::Destination;

/// The variable that names the configuration file.
const FILE_VARIABLE: &str = "ATLAS_SIDECAR_CONFIG";

/// What the variables that are keys begin with.
const KEY_PREFIX: &str = "ATLAS_SIDECAR__";

/// How a command ended; the numbers are those of sysexits.h where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// It failed, or what was asked about is not as it should be.
    Failed,
    /// Wrong usage or configuration.
    Usage,
    /// The database, or the destination of backups, is not reachable.
    Unreachable,
    /// Somebody else is at it: try again later.
    TryLater,
}

impl Exit {
    /// The process' exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 64,
            Self::Unreachable => 69,
            Self::TryLater => 75,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A command line that makes sense.
#[derive(Debug)]
pub struct Invocation {
    /// Where the configuration comes from.
    pub sources: Sources,
    /// Whether the answer is printed as JSON.
    pub json: bool,
    /// What to do.
    pub verb: Verb,
}

/// What the sidecar can be told to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verb {
    /// Be the sidecar, until SIGTERM or SIGINT.
    #[default]
    Run,
    /// Print the effective configuration and what is reachable.
    Check,
    /// Print the reference configuration.
    DefaultConfig,
    /// Bring the schema up to date.
    Migrate {
        /// Print only what would be done.
        dry_run: bool,
    },
    /// Print stored history.
    Export(Export),
    /// Copy a SQLite database to PostgreSQL.
    Copy(Copy),
    /// Ask the running sidecar whether it is ready.
    Health,
    /// Look at the jobs, or do something about them.
    Jobs(Ask),
    /// Make backups, or look at them.
    Backup(Backup),
    /// Make a database of backups.
    Restore(Restore),
    /// Something that this version does not have, by its name.
    Unavailable(&'static str),
}

/// What `export` prints.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[group(skip)]
pub struct Export {
    /// First instant: RFC 3339 (`2026-11-22T19:00:00Z`), `now`, or a span before it (`-24h`)
    #[arg(long, value_name = "T", allow_hyphen_values = true, value_parser = moment)]
    pub from: Moment,
    /// First instant that is left out, written in the same ways
    #[arg(long, value_name = "T", allow_hyphen_values = true, value_parser = moment)]
    pub to: Moment,
    /// Series to print, by name: `*` stands for any characters, `?` for one; repeatable [default: all]
    #[arg(long = "metric", value_name = "GLOB")]
    pub metrics: Vec<String>,
    /// How it is printed
    #[arg(long, value_name = "FORMAT")]
    pub format: ExportFormat,
}

/// What `copy` copies.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[group(skip)]
pub struct Copy {
    /// The SQLite file, as `sqlite://data/atlas.db`; it is only read
    #[arg(long, value_name = "URL")]
    pub from: String,
    /// The PostgreSQL database, as `postgres://user@host/atlas`, with tables made by `migrate` and empty [default: `database.url`]
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// Say what would be converted and what cannot be, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Copy only this table; repeatable [default: all that the sidecar knows]
    #[arg(long = "table", value_name = "NAME")]
    pub tables: Vec<String>,
    /// Leave out rows that the target cannot hold, and count them
    #[arg(long)]
    pub skip_bad: bool,
    /// Round numbers and times that have more digits than their columns, and count them
    #[arg(long)]
    pub round: bool,
}

/// What `backup` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backup {
    /// Make a full backup.
    Full {
        /// Also of a database that is empty.
        allow_empty: bool,
    },
    /// Make an incremental backup.
    Incremental,
    /// Print what there is.
    List {
        /// Where, if not where the configuration says.
        destination: Option<Destination>,
    },
    /// Check what there is.
    Verify {
        /// All bytes.
        deep: bool,
        /// Where, if not where the configuration says.
        destination: Option<Destination>,
    },
    /// Let go of what is no longer needed.
    Prune {
        /// Do it, and do not only say what would be done.
        yes: bool,
    },
}

/// What `restore` restores.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[group(skip)]
pub struct Restore {
    /// The newest state at or before this instant: RFC 3339 (`2026-11-22T19:00:00Z`) or `latest`
    #[arg(long, value_name = "T", value_parser = wanted_mark)]
    pub at: plan::Moment,
    /// The new file; one that exists is refused
    #[arg(long, value_name = "PATH", required_unless_present = "plan")]
    pub to: Option<PathBuf>,
    /// The line of backups that leads to this timeline [default: the newest]
    #[arg(long, value_name = "N", value_parser = timeline)]
    pub timeline: Option<Timeline>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub plan: bool,
    /// Another destination than `backup.destination`: `file:PATH` or `s3://BUCKET/PREFIX`
    #[arg(long, value_name = "URL", value_parser = Destination::parse)]
    pub destination: Option<Destination>,
}

/// How `export` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// OpenMetrics with timestamps, as `promtool tsdb create-blocks-from openmetrics` reads it
    #[value(name = "openmetrics")]
    OpenMetrics,
    /// Comma-separated values with a head line
    Csv,
}

/// An instant as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// That one.
    At(Timestamp),
    /// So long before now; zero for now itself.
    Ago(Duration),
}

impl Moment {
    /// The instant that is meant where it is `now`.
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(span) => now.before(span),
        }
    }
}

fn moment(text: &str) -> Result<Moment, String> {
    let span = |text: &str| config::parse_duration(text).map(Moment::Ago);
    match text.strip_prefix('-') {
        Some(ago) => span(ago),
        None if text == "now" => Some(Moment::Ago(Duration::ZERO)),
        None => Timestamp::from_rfc3339(text).map(Moment::At),
    }
    .ok_or_else(|| "write `2026-11-22T19:00:00Z`, `now`, or `-24h`".to_owned())
}

fn wanted_mark(text: &str) -> Result<plan::Moment, String> {
    match text {
        "latest" => Ok(plan::Moment::Latest),
        text => Timestamp::from_rfc3339(text)
            .map(plan::Moment::At)
            .ok_or_else(|| "write `2026-11-22T19:00:00Z` or `latest`".to_owned()),
    }
}

/// A timeline by its number, or as listings show it.
fn timeline(text: &str) -> Result<Timeline, String> {
    let number = text.parse().ok().filter(|number| *number > 0).map(Timeline);
    number.or_else(|| Timeline::parse(text)).ok_or_else(|| "write `2` or `t000002`".to_owned())
}

/// Measures an Atlas database and its host, writes both to `system_metrics`, and shows everything to Prometheus.
#[derive(Debug, Parser)]
#[command(
    name = "atlas-sidecar",
    version,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = false,
    after_help = "Exit codes: 0 done, 1 failed, 64 wrong usage or configuration, 69 database or destination unreachable, 75 try again later."
)]
struct Typed {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    verb: Option<TypedVerb>,
}

/// What every verb takes, in front of it or behind it. Not clap's `global`: that forgets a `--set` in front where one is behind.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
struct Shared {
    /// Configuration file [env: ATLAS_SIDECAR_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One key of the configuration, stronger than file and environment (`--set scrape.interval=30s`); repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum TypedVerb {
    /// Run the sidecar until SIGTERM or SIGINT; SIGHUP reads the configuration again (the default)
    Run(Shared),
    /// Load the configuration, print it without secrets, and say what is reachable
    Check(Shared),
    /// Print the reference configuration: every key with its meaning and its default
    DefaultConfig(Shared),
    /// Bring the schema up to date and print what was done
    Migrate {
        /// Print what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        shared: Shared,
    },
    /// Print stored history
    Export {
        #[command(flatten)]
        export: Export,
        #[command(flatten)]
        shared: Shared,
    },
    /// Copy a SQLite database to PostgreSQL: the tables of Atlas, converted, counted and compared, all of it or nothing
    Copy {
        #[command(flatten)]
        copy: Copy,
        #[command(flatten)]
        shared: Shared,
    },
    /// Ask the running sidecar whether it is ready; for container health checks
    ///
    /// Asks `/-/ready` at `server.listen`, over TLS where the web config file says so. The certificate is not verified. A server that wants a
    /// certificate of its clients counts as ready once it asks for one.
    Health(Shared),
    /// Look at the jobs, or do something about them; by way of the running sidecar where there is one
    #[command(subcommand, disable_help_subcommand = true)]
    Jobs(TypedJobs),
    /// Make backups, or look at them
    #[command(subcommand, disable_help_subcommand = true)]
    Backup(TypedBackup),
    /// Make the database of an instant from backups, in a new file
    Restore {
        #[command(flatten)]
        restore: Restore,
        #[command(flatten)]
        shared: Shared,
    },
    #[command(hide = true, disable_help_flag = true)]
    Drill(Rest),
}

#[derive(Debug, Subcommand)]
enum TypedJobs {
    /// Print each job's schedule, last run and next run
    List(Shared),
    /// Run a job now and wait for its end
    Run {
        /// Its name, as `jobs list` prints it
        #[arg(value_name = "NAME")]
        job: String,
        /// Change nothing; print what would be done
        #[arg(long)]
        dry_run: bool,
        /// The clock is right: delete by it, although it jumped or differs from the database server's
        #[arg(long, conflicts_with = "dry_run")]
        clock_is_right: bool,
        #[command(flatten)]
        shared: Shared,
    },
    /// Keep a job from running by its schedule, over restarts, until `jobs resume`
    Pause {
        /// Its name, as `jobs list` prints it
        #[arg(value_name = "NAME")]
        job: String,
        #[command(flatten)]
        shared: Shared,
    },
    /// Let a paused job run by its schedule again; what came up meanwhile is not caught up
    Resume {
        /// Its name, as `jobs list` prints it
        #[arg(value_name = "NAME")]
        job: String,
        #[command(flatten)]
        shared: Shared,
    },
}

impl TypedJobs {
    fn split(self) -> (Verb, Shared) {
        let (jobs, shared) = match self {
            Self::List(shared) => (Ask::List, shared),
            Self::Run { job, dry_run, clock_is_right, shared } => (Ask::Run { job, dry_run, clock_is_right }, shared),
            Self::Pause { job, shared } => (Ask::Pause { job, pause: true }, shared),
            Self::Resume { job, shared } => (Ask::Pause { job, pause: false }, shared),
        };
        (Verb::Jobs(jobs), shared)
    }
}

#[derive(Debug, Subcommand)]
enum TypedBackup {
    /// Make a full backup now and wait for its end; by way of the running sidecar where there is one
    Full {
        /// Also of a database that is empty or much smaller than the one that was backed up before
        #[arg(long)]
        allow_empty: bool,
        #[command(flatten)]
        shared: Shared,
    },
    /// Back up what changed since the last backup now and wait for the end; by way of the running sidecar where there is one
    Incremental(Shared),
    /// Print what is at the destination, in what state it is, and what can be restored
    List {
        /// Another destination than `backup.destination`: `file:PATH` or `s3://BUCKET/PREFIX`
        #[arg(long, value_name = "URL", value_parser = Destination::parse)]
        destination: Option<Destination>,
        #[command(flatten)]
        shared: Shared,
    },
    /// Check that the backups can be used
    ///
    /// Looks at the listing, the sizes and the chain of manifests, and compares the bytes of a thirtieth of the objects, others each day. Ends with 1 where
    /// something is not as it should be.
    Verify {
        /// Fetch and decode all bytes; encrypted ones need `backup.encryption.identity_file`
        #[arg(long)]
        deep: bool,
        /// Another destination than `backup.destination`: `file:PATH` or `s3://BUCKET/PREFIX`
        #[arg(long, value_name = "URL", value_parser = Destination::parse)]
        destination: Option<Destination>,
        #[command(flatten)]
        shared: Shared,
    },
    /// Say what `backup.window` needs no more
    ///
    /// With `--yes`, what may go is condemned, and goes with the first run at least a day later: of this command or of the job `backup-retention`.
    Prune {
        /// Do it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        shared: Shared,
    },
}

impl TypedBackup {
    fn split(self) -> (Verb, Shared) {
        let (backup, shared) = match self {
            Self::Full { allow_empty, shared } => (Backup::Full { allow_empty }, shared),
            Self::Incremental(shared) => (Backup::Incremental, shared),
            Self::List { destination, shared } => (Backup::List { destination }, shared),
            Self::Verify { deep, destination, shared } => (Backup::Verify { deep, destination }, shared),
            Self::Prune { yes, shared } => (Backup::Prune { yes }, shared),
        };
        (Verb::Backup(backup), shared)
    }
}

/// Whatever stands behind a verb that is not available.
#[derive(Debug, Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Reads the process' command line and environment; says what is wrong with them on standard error.
pub fn parse() -> Result<Invocation, Exit> {
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(KEY_PREFIX))?;
        Some((name, value.to_string_lossy().into_owned()))
    });
    // An empty variable is how a compose file says that there is none.
    let file = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    parse_from(std::env::args_os(), file, environment.collect())
}

fn parse_from(
    arguments: impl IntoIterator<Item = OsString>,
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
) -> Result<Invocation, Exit> {
    let typed = Typed::try_parse_from(arguments).map_err(|e| {
        // Nothing can be done where even the complaint cannot be written.
        let _ = e.print();
        match e.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
            _ => Exit::Usage,
        }
    })?;
    let (verb, behind) = typed.verb.map_or_else(Default::default, TypedVerb::split);
    let front = typed.shared;
    let mut overrides = Vec::new();
    for pair in front.set.iter().chain(&behind.set) {
        match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => overrides.push((key.trim().to_owned(), value.to_owned())),
            // Not repeated: it may be a secret that lost its key.
            _ => {
                complain("`--set` takes a key and a value", Some("write `--set scrape.interval=30s`"));
                return Err(Exit::Usage);
            }
        }
    }
    let sources = Sources { file: behind.config.or(front.config).or(file), environment, overrides };
    Ok(Invocation { sources, json: front.json || behind.json, verb })
}

impl TypedVerb {
    fn split(self) -> (Verb, Shared) {
        match self {
            Self::Run(shared) => (Verb::Run, shared),
            Self::Check(shared) => (Verb::Check, shared),
            Self::DefaultConfig(shared) => (Verb::DefaultConfig, shared),
            Self::Migrate { dry_run, shared } => (Verb::Migrate { dry_run }, shared),
            Self::Export { export, shared } => (Verb::Export(export), shared),
            Self::Copy { copy, shared } => (Verb::Copy(copy), shared),
            Self::Health(shared) => (Verb::Health, shared),
            Self::Jobs(jobs) => jobs.split(),
            Self::Backup(backup) => backup.split(),
            Self::Restore { restore, shared } => (Verb::Restore(restore), shared),
            Self::Drill(_) => (Verb::Unavailable("drill"), Shared::default()),
        }
    }
}

/// Loads the configuration; says all that is wrong with it on standard error, and on standard output as well where JSON is wanted.
pub fn load(invocation: &Invocation) -> Result<Loaded, Exit> {
    config::load(&invocation.sources).map_err(|problems| {
        if invocation.json {
            print(&json_line(&serde_json::json!({ "problems": problems })));
        }
        complain_of(&problems);
        Exit::Usage
    })
}

fn complain_of(problems: &Problems) {
    const HINT: &str = "`atlas-sidecar default-config` prints every key with its meaning and its default";
    match problems.0.as_slice() {
        [one] => complain(&one.to_string(), Some(HINT)),
        many => {
            let lines: Vec<String> = many.iter().map(|problem| format!("  {problem}")).collect();
            complain(&format!("{} problems in the configuration:\n{}", many.len(), lines.join("\n")), Some(HINT));
        }
    }
}

/// Writes an error, and what to do about it, to standard error.
pub fn complain(error: &str, hint: Option<&str>) {
    let mut text = format!("error: {error}\n");
    if let Some(hint) = hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // Nothing can be done where even the complaint cannot be written.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes an answer to standard output. A reader that has enough is no failure; a disk that is full is one.
pub fn print(text: &str) -> Exit {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done,
        Err(e) => {
            complain(&format!("cannot write to standard output: {e}"), None);
            Exit::Failed
        }
    }
}

/// JSON for people and programs: indented, with its line end.
pub fn json_line(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, Exit> {
        let words = std::iter::once("atlas-sidecar").chain(line.split_whitespace()).map(OsString::from);
        parse_from(words, Some("from-env.toml".into()), Vec::new())
    }

    #[test]
    fn flags_count_in_front_of_the_verb_and_behind_it() {
        let both = parsed("--set a=1 --config x.toml check --set b=2=3 --json").unwrap();
        assert_eq!(both.verb, Verb::Check);
        assert!(both.json);
        assert_eq!(both.sources.file, Some("x.toml".into()));
        let pairs = [("a", "1"), ("b", "2=3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(both.sources.overrides, pairs);
        let none = parsed("").unwrap();
        assert_eq!((none.verb, none.sources.file), (Verb::Run, Some("from-env.toml".into())));
    }

    #[test]
    fn moments_are_read_in_three_ways() {
        let now = Timestamp::from_rfc3339("2026-11-22T19:00:00Z").unwrap();
        let line = "export --from -24h --to now --metric node_* --metric up --format openmetrics";
        let Ok(Invocation { verb: Verb::Export(export), .. }) = parsed(line) else { panic!("not an export") };
        assert_eq!(export.from.resolve(now).to_rfc3339(), "2026-11-21T19:00:00.000Z");
        assert_eq!(export.to.resolve(now), now);
        assert_eq!(export.metrics, ["node_*", "up"]);
        assert_eq!(moment("2026-11-22T20:00:00+01:00"), Ok(Moment::At(now)));
        for bad in ["24h", "", "-", "yesterday", "2026-11-22", "-5 parsecs"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_available_is_told_whatever_stands_behind_it_and_is_not_in_the_list() {
        for line in ["drill", "drill --random --json", "--config x.toml drill --help"] {
            assert_eq!(parsed(line).map(|i| i.verb), Ok(Verb::Unavailable("drill")), "{line}");
        }
        let help = <Typed as clap::CommandFactory>::command().render_long_help().to_string();
        assert!(!help.contains("drill"), "{help}");
    }

    #[test]
    fn backups_are_asked_for_as_the_interface_says() {
        let verb = |line: &str| parsed(line).map(|i| i.verb);
        assert_eq!(verb("backup full --allow-empty --json"), Ok(Verb::Backup(Backup::Full { allow_empty: true })));
        assert_eq!(verb("backup incremental"), Ok(Verb::Backup(Backup::Incremental)));
        let destination = Some(Destination::Dir("/b".into()));
        let deep = Backup::Verify { deep: true, destination: destination.clone() };
        assert_eq!(verb("backup verify --deep --destination file:/b"), Ok(Verb::Backup(deep)));
        let restore =
            Restore { at: plan::Moment::Latest, to: Some("/x".into()), timeline: None, plan: false, destination };
        assert_eq!(verb("restore --at latest --to /x --destination file:/b"), Ok(Verb::Restore(restore.clone())));
        let at = plan::Moment::At(Timestamp::from_millis(0));
        let planned = Restore { at, to: None, timeline: Some(Timeline(7)), plan: true, destination: None };
        for number in ["7", "t000007"] {
            let line = format!("restore --at 1970-01-01T01:00:00+01:00 --plan --timeline {number}");
            assert_eq!(parsed(&line).map(|i| i.verb), Ok(Verb::Restore(planned.clone())));
        }
    }

    #[test]
    fn wrong_usage_is_64_and_help_is_0() {
        for (line, exit) in [
            ("--help", Exit::Done),
            ("--version", Exit::Done),
            ("export --help", Exit::Done),
            ("frobnicate", Exit::Usage),
            ("--frobnicate", Exit::Usage),
            ("export --from now", Exit::Usage),
            ("export --from now --to now --format xml", Exit::Usage),
            ("copy --to postgres://h/d", Exit::Usage),
            ("backup", Exit::Usage),
            ("backup full --frobnicate", Exit::Usage),
            ("restore --at latest", Exit::Usage),
            ("restore --at yesterday --to x", Exit::Usage),
            ("restore --at latest --to x --timeline 0", Exit::Usage),
            ("restore --at latest --to x --destination gopher:x", Exit::Usage),
            ("restore --help", Exit::Done),
            ("--set key", Exit::Usage),
            ("--set =value", Exit::Usage),
        ] {
            assert_eq!(parsed(line).map(|i| i.verb), Err(exit), "{line}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_interface() {
        let all = [Exit::Done, Exit::Failed, Exit::Usage, Exit::Unreachable, Exit::TryLater];
        assert_eq!(all.map(Exit::code), [0, 1, 64, 69, 75]);
    }
}
