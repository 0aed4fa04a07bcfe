//! `jobs`: what runs when, one run now, a pause.
//!
//! Where a sidecar runs, it does the work: there is one place where a job runs once at a time. Otherwise this process takes the state directory's lock,
//! and with it the sidecar's place for as long as it takes. Looking at the jobs needs neither: it reads the run log.

use std::sync::Arc;

use prometheus::Registry;
use tokio::sync::watch::Receiver;

use super::migrate::unreachable;
use super::{Exit, Invocation, backup, complain, json_line, load, print};
use crate::backup::claim::Writer;
use crate::clock::Clock;
use crate::config::Settings;
use crate::control::{Answer, Ask, Client, Ending, Failure, JobLine, Lock, LockError};
use crate::engine::ids::Instance;
use crate::engine::{self, Archive, Engine};
use crate::jobs::back_up::Turn;
use crate::jobs::backups::{self, Backups};
use crate::jobs::{self, NAMES, Parts};
use crate::schedule::Flow;
use crate::schedule::runner::{self, Me, Refused, Runner};
use crate::store::{Ended, RunLog};

mod table;
pub(super) mod terminal;

use terminal::Line;

/// Does what `wanted` says.
pub async fn run(invocation: &Invocation, wanted: &Ask) -> Exit {
    let settings = match load(invocation) {
        Ok(loaded) => loaded.settings,
        Err(exit) => return exit,
    };
    if let Ask::Run { job, .. } | Ask::Pause { job, .. } = wanted
        && !NAMES.contains(&job.as_str())
    {
        return unknown(job);
    }
    if let Ask::Run { job, .. } | Ask::Pause { job, .. } = wanted
        && backups::NAMES.contains(&job.as_str())
        && let Some(exit) = backup::refusal(&settings)
    {
        return exit;
    }
    match Client::ask(&settings.state_directory, wanted.clone()).await {
        Ok(client) => follow(client, wanted, invocation.json).await,
        Err(Failure::Nobody) => alone(&settings, wanted, invocation.json).await,
        Err(Failure::Broken(why)) => {
            complain(&format!("cannot talk to the running sidecar: {why}"), None);
            Exit::Failed
        }
    }
}

/// The name was checked already, but a running sidecar may know other ones.
fn unknown(job: &str) -> Exit {
    let known = NAMES.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    complain(&format!("there is no job `{}`", job.escape_debug()), Some(&format!("the jobs are {known}")));
    Exit::Usage
}

/// Prints what the running sidecar answers.
async fn follow(mut client: Client, wanted: &Ask, json: bool) -> Exit {
    let mut line = Line::new(name(wanted));
    loop {
        match client.answer().await {
            Ok(Answer::Progress { done, total, unit }) => line.show(done, total, &unit),
            Ok(Answer::Listed(jobs)) => return list(&jobs, json),
            Ok(Answer::Done) => return changed(wanted, json),
            Ok(Answer::Over(ending)) => {
                drop(line);
                return over(name(wanted), &ending, json);
            }
            Ok(Answer::Refused { code, message }) => {
                drop(line);
                return refused(&code, &message, name(wanted));
            }
            Err(Failure::Nobody) => unreachable!("only connecting finds nobody"),
            Err(Failure::Broken(why)) => {
                drop(line);
                complain(&why, Some("the run may go on; `atlas-sidecar jobs list` tells how it ended"));
                return Exit::Failed;
            }
        }
    }
}

fn name(wanted: &Ask) -> &str {
    match wanted {
        Ask::List => "",
        Ask::Run { job, .. } | Ask::Pause { job, .. } => job,
    }
}

/// Without a sidecar.
async fn alone(settings: &Settings, wanted: &Ask, json: bool) -> Exit {
    if *wanted == Ask::List {
        return match Archive::open(&settings.engine).await {
            Ok(archive) => {
                let listed = listed(settings, archive.runs()).await;
                archive.close().await;
                listed.map_or_else(|exit| exit, |jobs| list(&jobs, json))
            }
            Err(e) => unreachable(&e),
        };
    }
    let _lock = match Lock::take(&settings.state_directory) {
        Ok(lock) => lock,
        Err(LockError::Taken(directory)) => {
            let words =
                format!("the state directory `{}` is in use, by somebody who does not answer", directory.display());
            complain(&words, Some("a sidecar may be starting, or another command is at work: try again"));
            return Exit::TryLater;
        }
        Err(LockError::Failed(why)) => {
            complain(&why, None);
            return Exit::Failed;
        }
    };
    let (clock, registry) = (Clock::system(), Registry::new());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let engine = match Engine::open(&settings.engine, &host, &clock, &registry).await {
        Ok(engine) => engine,
        Err(e) => return unreachable(&e),
    };
    let metrics = jobs::Metrics::new(&registry).into();
    let upkeep = engine.upkeep(&settings.engine);
    let writer = Writer { host: host.clone(), instance: engine.instance().to_string() };
    let source = engine.source(&settings.engine).map(|source| {
        let weave = engine::weave(source.engine());
        (source, weave)
    });
    let backups = match Backups::open(&settings.backup, source, &settings.state_directory, writer, &clock, &registry) {
        Ok(backups) => backups.map(Arc::new),
        Err(why) => {
            complain(&why, None);
            return Exit::Usage;
        }
    };
    let runner = Runner::new(engine.runs(), Me { owner: engine.instance().to_string(), host }, clock, &registry);
    let parts =
        Parts { expiry: engine.expiry(), roll_ups: engine.roll_ups(), upkeep, backups, turn: Turn::default(), metrics };
    runner.set_jobs(jobs::planned(&settings.jobs, &parts));
    let exit = match wanted {
        Ask::List => unreachable!("it needs no lock"),
        Ask::Run { job, dry_run, clock_is_right } => {
            here(&runner, job, runner.run_asked(job, *dry_run, *clock_is_right).await, json).await
        }
        Ask::Pause { job, pause } => match runner.pause(job, *pause).await {
            Ok(()) => changed(wanted, json),
            Err(e) => of_refusal(&e, job),
        },
    };
    engine.close().await;
    exit
}

async fn listed(settings: &Settings, log: Arc<dyn RunLog>) -> Result<Vec<JobLine>, Exit> {
    let now = Clock::system().now();
    let mut lines = Vec::with_capacity(settings.jobs.plans.len());
    let owner = Instance::load(&settings.state_directory).map(|instance| instance.to_string()).unwrap_or_default();
    let there = |name: &str| settings.makes_backups() || !backups::NAMES.contains(&name);
    for (name, plan) in settings.jobs.plans.iter().filter(|(name, _)| there(name)) {
        let known = settings.jobs.known_as(name, &owner);
        let listed = runner::look(log.as_ref(), name, &known, plan, now).await;
        lines.push(JobLine::from(&listed.map_err(|e| {
            complain(&format!("the run log cannot be read: {e}"), None);
            Exit::Unreachable
        })?));
    }
    Ok(lines)
}

/// Follows a run in this process. The first Ctrl-C asks it to stop, and its end is recorded.
async fn here(runner: &Runner, job: &str, begun: Result<Receiver<Flow>, Refused>, json: bool) -> Exit {
    let mut flow = match begun {
        Ok(flow) => flow,
        Err(e) => return of_refusal(&e, job),
    };
    let mut line = Line::new(job);
    loop {
        let now = flow.borrow_and_update().clone();
        match now {
            Flow::Running(progress) => line.show(progress.done, progress.total, progress.unit),
            Flow::Over(end) => {
                drop(line);
                return over(job, &Ending::from(&end), json);
            }
        }
        tokio::select! {
            changed = flow.changed() => if changed.is_err() {
                complain("the run ended without a word", None);
                return Exit::Failed;
            },
            _ = tokio::signal::ctrl_c() => runner.drain().await,
        }
    }
}

fn of_refusal(refusal: &Refused, job: &str) -> Exit {
    let code = match refusal {
        Refused::Unknown => "unknown",
        Refused::Running(_) => "running",
        Refused::Ending => "ending",
        Refused::Log(_) => "log",
    };
    refused(code, &refusal.to_string(), job)
}

fn refused(code: &str, message: &str, job: &str) -> Exit {
    let (exit, hint) = match code {
        "running" => (Exit::TryLater, Some("wait for its end; `atlas-sidecar jobs list` shows it")),
        "ending" => (Exit::TryLater, None),
        "log" => (Exit::Unreachable, None),
        "unknown" => (Exit::Usage, Some("the running sidecar is of another version, or its configuration is")),
        _ => (Exit::Failed, None),
    };
    complain(&if job.is_empty() { message.to_owned() } else { format!("`{job}`: {message}") }, hint);
    exit
}

fn list(jobs: &[JobLine], json: bool) -> Exit {
    match json {
        true => print(&json_line(&serde_json::json!({ "jobs": jobs }))),
        false => print(&table::of(jobs)),
    }
}

fn changed(wanted: &Ask, json: bool) -> Exit {
    let Ask::Pause { job, pause } = wanted else { return Exit::Done };
    match json {
        true => print(&json_line(&serde_json::json!({ "job": job, "paused": pause }))),
        false => print(&format!("{job}: {}\n", if *pause { "paused" } else { "not paused" })),
    }
}

/// Prints how a run ended; only a success, or a job that had a reason to do nothing, is 0.
fn over(job: &str, ending: &Ending, json: bool) -> Exit {
    let good = [Ended::Success, Ended::Skipped].iter().any(|ended| ended.word() == ending.outcome);
    if json {
        print(&json_line(&serde_json::json!({ "job": job, "run": ending })));
    } else if good {
        print(&format!("{job}: {} in {:.1} s: {}\n", ending.outcome, ending.duration_seconds, ending.words));
    }
    if good {
        return Exit::Done;
    }
    complain(&format!("`{job}`: {} after {:.1} s: {}", ending.outcome, ending.duration_seconds, ending.words), None);
    Exit::Failed
}
