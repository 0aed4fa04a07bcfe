//! The state directory: who has it, and how to talk to them.
//!
//! A sidecar holds `lock` in its state directory for as long as it lives; the kernel gives it back whatever ends it. Beside it lies `control.sock`, by
//! which commands reach the sidecar that runs. A command that finds the directory free takes the lock and does the work itself, so there is never
//! more than one process at work for an installation.
//!
//! # The protocol
//!
//! Lines of JSON. The client sends one [`Request`]; the sidecar answers with [`Answer`]s, the last of which is `listed`, `done`, `over` or `refused`.
//! Both carry `version`; a sidecar that does not know a request's version refuses it. The socket has mode 0600 in a directory of mode 0700, and the kernel tells who is
//! at the other end: the sidecar's own user and root may ask, nobody else. A client that goes away ends nothing: a run goes on, its end is in the run log.

mod client;
mod server;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

pub use client::{Client, Failure};
pub use server::Server;

use crate::clock::Timestamp;
use crate::schedule::Progress;
use crate::schedule::runner::Listed;
use crate::secret::private_folder;
use crate::store::{End, Run};

/// The version of requests and answers.
pub const VERSION: u32 = 1;

/// The socket's name in the state directory.
const SOCKET: &str = "control.sock";

/// Why the state directory cannot be had.
#[derive(Debug)]
pub enum LockError {
    /// Somebody else has it.
    Taken(PathBuf),
    /// It cannot be made or locked.
    Failed(String),
}

/// The state directory's lock; given back when it is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "holding it open is holding the lock")] File);

impl Lock {
    /// Makes `directory` (mode 0700) and takes its lock.
    pub fn take(directory: &Path) -> Result<Self, LockError> {
        let failed = |what: &str, e: io::Error| {
            LockError::Failed(format!("cannot {what} `{}` (`state_directory`): {e}", directory.display()))
        };
        private_folder(directory).map_err(|e| failed("make", e))?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))
            .map_err(|e| failed("lock", e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Taken(directory.to_owned())),
            Err(e) => Err(failed("lock", e.into())),
        }
    }
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`]
    pub version: u32,
    /// What to do.
    pub ask: Ask,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Tell about all jobs.
    List,
    /// Run a job now.
    Run {
        /// Its name.
        job: String,
        /// Whether nothing may be changed.
        dry_run: bool,
        /// Whether the clock is right, whatever there is to doubt.
        #[serde(default)]
        clock_is_right: bool,
    },
    /// Keep a job from running, or let it.
    Pause {
        /// Its name.
        job: String,
        /// `false` lets it run again.
        pause: bool,
    },
}

/// What the sidecar answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// All jobs.
    Listed(Vec<JobLine>),
    /// How far a run is.
    Progress {
        /// What was dealt with.
        done: u64,
        /// Of how much, where that is known.
        total: Option<u64>,
        /// What is counted.
        unit: String,
    },
    /// How a run ended.
    Over(Ending),
    /// It was done.
    Done,
    /// It was not done.
    Refused {
        /// What kind of refusal: `unknown`, `running`, `ending`, `log`, `request`.
        code: String,
        /// Why.
        message: String,
    },
}

/// An answer as it goes over the socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reply {
    version: u32,
    answer: Answer,
}

/// The end of a run, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// `success`, `skipped`, `failed`, `timeout`, `cancelled`, `lost`, `missed`
    pub outcome: String,
    /// RFC 3339
    pub at: String,
    /// Rows it dealt with.
    pub rows: u64,
    /// Bytes it dealt with.
    pub bytes: u64,
    /// What it took.
    pub duration_seconds: f64,
    /// What it did, or what went wrong.
    pub words: String,
}

impl From<&End> for Ending {
    fn from(end: &End) -> Self {
        Self {
            outcome: end.ended.word().to_owned(),
            at: end.at.to_rfc3339(),
            rows: end.rows,
            bytes: end.bytes,
            duration_seconds: end.took.as_secs_f64(),
            words: end.words.clone(),
        }
    }
}

/// A job as `jobs list` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobLine {
    /// Its name.
    pub job: String,
    /// Its pattern.
    pub schedule: String,
    /// Its zone.
    pub timezone: String,
    /// Whether its schedule counts.
    pub enabled: bool,
    /// Since when somebody has kept it from running.
    pub paused_since: Option<String>,
    /// Whether it runs, here or in another sidecar.
    pub running: bool,
    /// Its next slot.
    pub next: Option<String>,
    /// Its last run: when it began.
    pub last: Option<String>,
    /// Why that began: `schedule`, `catch-up`, `manual`.
    pub last_reason: Option<String>,
    /// How that ended.
    pub last_end: Option<Ending>,
    /// When it last was a success.
    pub last_success: Option<String>,
}

impl From<&Listed> for JobLine {
    fn from(listed: &Listed) -> Self {
        let text = |at: Option<Timestamp>| at.map(Timestamp::to_rfc3339);
        let last: Option<&Run> = listed.standing.last.as_ref();
        Self {
            job: listed.name.to_owned(),
            schedule: listed.plan.schedule.pattern().to_owned(),
            timezone: listed.plan.schedule.zone().to_owned(),
            enabled: listed.plan.enabled,
            paused_since: text(listed.standing.paused),
            running: listed.running,
            next: text(listed.next),
            last: text(last.map(|run| run.started)),
            last_reason: last.map(|run| run.reason.word().to_owned()),
            last_end: last.map(|run| Ending::from(&run.end)),
            last_success: text(listed.standing.last_success),
        }
    }
}

impl From<Progress> for Answer {
    fn from(Progress { done, total, unit }: Progress) -> Self {
        Self::Progress { done, total, unit: unit.to_owned() }
    }
}
